"""Gaussian sizes.

Density
-------
p(D) = exp(-u^2/2)/(s sqrt(2 pi)), u = (D - m)/s, per nm. It is not normalised again over D > 0:
the part below zero is left out, so that averages equal the closed form of
``pipeline.kernels.sphere`` but for that tail: at s/m = 0.25, 3e-5 of the number and 2e-10 of
the forward intensity.

========== ====== ============== =======================================
parameter  unit   bounds         meaning
========== ====== ============== =======================================
mean       nm     > 0            m, of the whole Gaussian
sigma      nm     0.002 to 0.5 m s, of the whole Gaussian
========== ====== ============== =======================================

Moments: M_n = m M_(n-1) + (n - 1) s^2 M_(n-2); <D^3> = m^3 + 3 m s^2.

Reference values: m = 8 nm, s = 0.8 nm: p(8) = 0.498677850501791, p(9) = 0.228311356736277 1/nm,
<D^3> = 527.36 nm^3.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.distributions.card import SUPPORT, DistributionCard
from pipeline.kernels.distributions.codes import GAUSSIAN


@njit(cache=True, nogil=True)
def fill(nodes_nm, steps_nm, mean_nm, sigma_nm, out):
    """Weights of sizes and their derivatives; see ``pipeline.kernels.distributions``."""
    # The mode of D^6 p(D); from there on it falls at least as fast as the Gaussian itself.
    mode = 0.5 * (mean_nm + math.sqrt(mean_nm * mean_nm + 24.0 * sigma_nm * sigma_nm))
    first = np.searchsorted(nodes_nm, mean_nm - SUPPORT * sigma_nm)
    stop = np.searchsorted(nodes_nm, mode + SUPPORT * sigma_nm)
    out[:] = 0.0
    height = 1.0 / (sigma_nm * math.sqrt(2.0 * math.pi))
    for k in range(first, stop):
        u = (nodes_nm[k] - mean_nm) / sigma_nm
        weight = height * math.exp(-0.5 * u * u) * steps_nm[k]
        out[0, k] = weight
        out[1, k] = weight * u / sigma_nm
        out[2, k] = weight * (u * u - 1.0) / sigma_nm
    return first, stop


@njit(cache=True, nogil=True)
def moment(order, mean_nm, sigma_nm):
    """<D^order> in nm^order and its derivatives by mean and sigma, of the whole Gaussian."""
    variance = sigma_nm * sigma_nm
    oldest, older, newer = 0.0, 0.0, 1.0
    for n in range(1, order + 1):
        oldest, older, newer = older, newer, mean_nm * newer + (n - 1) * variance * older
    return newer, order * older, order * (order - 1) * sigma_nm * oldest


CARD = DistributionCard(
    name="gaussian",
    code=GAUSSIAN,
    density="exp(-(D - m)^2/(2 s^2))/(s sqrt(2 pi))",
    relative_sigma_bounds=(0.002, 0.5),
    source="Gauss 1809; left at D > 0 without normalising again",
    fill=fill,
    moment=moment,
)
