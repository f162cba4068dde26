"""Distributions of sizes: weights on a grid, with derivatives.

Mean and sigma are always the number mean and the standard deviation of the size in nm, whatever
the family. ``fill_weights`` gives what a sum over a grid of sizes needs; the sum is in
``pipeline.kernels.averages``.

On a grid that is even in ln D a size stands for ``h D``, not for the difference of its neighbours:
that is ``D sinh(h)``, 4e-5 too much at h = 1.5 %. The rule of trapezoids converges faster than
any power of h there. Largest relative error of <F^2> of spheres against Gaussian diameters in
closed form, over q D from 1 to the value given. Its cosines must be resolved too, so that the
error is about exp(-(2 pi/h - q D)^2 (s/m)^2/2), and 1e-9 is kept up to h = 2 pi/(q D + 6.4 m/s):

===== ====== ======= ======= ======= ======= =======
q D   s/m    1.0 %   1.25 %  1.5 %   2.0 %   3.0 %
===== ====== ======= ======= ======= ======= =======
60    0.02   4e-12   2e-12   3e-11   6e-6    2e-2
60    0.03   2e-12   2e-12   1e-12   4e-12   8e-5
60    0.05   5e-13   5e-13   7e-13   5e-13   4e-10
120   0.02   4e-12   2e-12   3e-8    5e-4    2e-1
120   0.03   2e-12   2e-12   1e-12   2e-7    3e-2
120   0.05   5e-13   5e-13   6e-13   5e-13   4e-4
120   0.1    2e-14   2e-14   2e-14   3e-14   1e-5
240   0.03   2e-12   9e-12   4e-6    1e-1    1
240   0.05   5e-13   5e-13   5e-10   1e-2    9e-1
===== ====== ======= ======= ======= ======= =======

So 1.5 % (400 sizes over a factor of 400) does for s/m from 0.03 up to q D = 120. At s/m = 0.2 the
tail below D = 0, which the closed form has and these weights have not, is 2e-9 at any step.
"""

from numba import njit

from pipeline.kernels.distributions import gaussian, lognormal, schulz
from pipeline.kernels.distributions.card import DistributionCard
from pipeline.kernels.distributions.codes import GAUSSIAN, LOGNORMAL, SCHULZ

CARDS: dict[str, DistributionCard] = {
    card.name: card for card in (gaussian.CARD, lognormal.CARD, schulz.CARD)
}
"""By the name that a config gives."""

CODES: dict[str, int] = {name: card.code for name, card in CARDS.items()}

_fill_gaussian, _fill_lognormal, _fill_schulz = gaussian.fill, lognormal.fill, schulz.fill
_moment_gaussian, _moment_lognormal = gaussian.moment, lognormal.moment
_moment_schulz = schulz.moment


@njit(cache=True, nogil=True)
def fill_weights(kind, nodes_nm, steps_nm, mean_nm, sigma_nm, out):
    """Weights p(D) dD of sizes and their derivatives, into ``out``.

    Parameters
    ----------
    kind
        GAUSSIAN, LOGNORMAL or SCHULZ.
    nodes_nm, steps_nm
        Sizes (k,), rising, and the width that each stands for.
    mean_nm, sigma_nm
        Number mean and standard deviation, both positive.
    out
        (3, k), overwritten: the weight, d weight/d mean and d weight/d sigma in 1/nm.

    Returns
    -------
    first, stop
        All weights before ``first`` and from ``stop`` on are zero.
    """
    if kind == LOGNORMAL:
        return _fill_lognormal(nodes_nm, steps_nm, mean_nm, sigma_nm, out)
    if kind == SCHULZ:
        return _fill_schulz(nodes_nm, steps_nm, mean_nm, sigma_nm, out)
    return _fill_gaussian(nodes_nm, steps_nm, mean_nm, sigma_nm, out)


@njit(cache=True, nogil=True)
def moment(kind, order, mean_nm, sigma_nm):
    """<D^order> in nm^order, and its derivatives by mean and sigma."""
    if kind == LOGNORMAL:
        return _moment_lognormal(order, mean_nm, sigma_nm)
    if kind == SCHULZ:
        return _moment_schulz(order, mean_nm, sigma_nm)
    return _moment_gaussian(order, mean_nm, sigma_nm)


@njit(cache=True, nogil=True)
def mean_cube(kind, mean_nm, sigma_nm):
    """<D^3> in nm^3 and its derivatives: a shape's volume at 1 nm times it is the mean volume."""
    return moment(kind, 3, mean_nm, sigma_nm)


__all__ = [
    "CARDS",
    "CODES",
    "GAUSSIAN",
    "LOGNORMAL",
    "SCHULZ",
    "fill_weights",
    "mean_cube",
    "moment",
]
