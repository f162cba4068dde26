"""Spheres whose diameters are Gaussian: averages over sizes in closed form.

Model
-----
A sphere of radius R scatters with the amplitude (volume included, contrast left out)
F(q, R) = 4 pi (sin qR - qR cos qR) / q^3, in nm^3. The number-weighted average of F^2 over
diameters from N(D, s^2) is an integral of polynomials times cosines against a Gaussian, hence
closed: with mu = D/2, tau = s/2, E = exp(-2 q^2 tau^2), c + i w = E exp(2 i q mu),
b = 2 q tau^2::

    <F^2> = 8 pi^2/q^6 {1 + q^2 (mu^2 + tau^2) - c - 2 q (mu w + b c)
                        + q^2 [(mu^2 + tau^2 - b^2) c - 2 mu b w]}
    <F>   = 4 pi/q^3 exp(-q^2 tau^2/2) [(1 + q^2 tau^2) sin(q mu) - q mu cos(q mu)]

The intensity of N particles per nm^3 of contrast drho (1/nm^2) is N drho^2 <F^2> in 1/nm.

========== ====== ======================= =========================================
parameter  unit   bounds                  meaning
========== ====== ======================= =========================================
q          1/nm   > 0                     scattering vector
diameter   nm     > 0                     mean of the number-weighted distribution
sigma      nm     0 to 0.5 diameter       its standard deviation
========== ====== ======================= =========================================

Range of validity: the Gaussian reaches below D = 0, where F^2 is even. For s/D up to 0.25 that
tail is 3e-5 of the number and 2e-10 of the forward intensity, at 0.5 it is 2.3 % and 3e-5.
Source of the amplitude: Rayleigh 1911; of the test values: sasmodels 1.1 (``sphere``,
401 points, 8 sigma).

Reference values: <F^2> of D = 8 nm, s = 0.8 nm at q = 0.5, 1.5, 4.0 1/nm stand in the tests.
"""

import math

import numpy as np
from numba import njit

SERIES_BELOW = 0.6
"""Where q (R + 3 tau) is smaller, the power series is used instead of the closed form.

The closed form subtracts numbers of order 1 to leave (2/9) (qR)^6; the series stops at order
``2 * SERIES_LAST`` and errs where the tail of the distribution reaches large qR. Largest relative
error of <F^2> over s/D = 0, 0.1, 0.3, 0.5 and D = 2 to 20 nm (against exact fractions):

=============  ========  ========  ========  ========  ========
q (R + 3 tau)  0.1       0.3       0.6       1.0       1.5
=============  ========  ========  ========  ========  ========
closed form    9e-9      1e-11     3e-13     2e-14     3e-15
series         4e-16     7e-16     6e-16     2e-12     2e-9
=============  ========  ========  ========  ========  ========
"""
SERIES_LAST = 10


def _series_coefficients() -> np.ndarray:
    """Coefficients of x^(2m) in (sin x - x cos x)^2, m = 3 to SERIES_LAST."""
    return np.array(
        [
            (-4.0) ** m
            * (
                -0.5 / math.factorial(2 * m)
                + 0.5 / math.factorial(2 * m - 1)
                - 0.125 / math.factorial(2 * m - 2)
            )
            for m in range(3, SERIES_LAST + 1)
        ]
    )


_SERIES = _series_coefficients()


@njit(cache=True, nogil=True)
def _series_point(q, mu, tau):
    """<F^2>, d/dmu and d/dtau at one small q, from the moments of x = q R."""
    x, t = q * mu, q * tau
    # Moments of a Gaussian: M_n = x M_(n-1) + (n - 1) t^2 M_(n-2); derivatives n M_(n-1), and
    # n (n - 1) t M_(n-2).
    older, newer = 1.0, x
    total = slope_x = slope_t = 0.0
    for n in range(2, 2 * SERIES_LAST + 1):
        moment = x * newer + (n - 1) * t * t * older
        if n >= 6 and n % 2 == 0:
            weight = _SERIES[n // 2 - 3]
            total += weight * moment
            slope_x += weight * n * newer
            slope_t += weight * n * (n - 1) * t * older
        older, newer = newer, moment
    scale = 16.0 * math.pi**2 / q**6
    return scale * total, scale * q * slope_x, scale * q * slope_t


@njit(cache=True, nogil=True)
def mean_square_amplitude(q_per_nm, diameter_nm, sigma_nm, out):
    """<F^2> of spheres with Gaussian diameters and its two derivatives, into ``out``.

    Parameters
    ----------
    q_per_nm
        Scattering vectors (n,), positive.
    diameter_nm, sigma_nm
        Mean and standard deviation of the diameters, number-weighted.
    out
        (3, n), overwritten: <F^2> in nm^6, d<F^2>/dD and d<F^2>/ds in nm^5.
    """
    mu, tau = 0.5 * diameter_nm, 0.5 * sigma_nm
    for i in range(q_per_nm.size):
        q = q_per_nm[i]
        if q * (mu + 3.0 * tau) < SERIES_BELOW:
            value, by_mu, by_tau = _series_point(q, mu, tau)
            out[0, i] = value
            out[1, i] = 0.5 * by_mu
            out[2, i] = 0.5 * by_tau
            continue
        q2 = q * q
        b = 2.0 * q * tau * tau
        damping = math.exp(-2.0 * q2 * tau * tau)
        c = damping * math.cos(2.0 * q * mu)
        w = damping * math.sin(2.0 * q * mu)
        spread = mu * mu + tau * tau - b * b
        turned = spread * c - 2.0 * mu * b * w
        head = 8.0 * math.pi**2 / (q2 * q2)
        out[0, i] = (head / q2) * (
            1.0 + q2 * (mu * mu + tau * tau) - c - 2.0 * q * (mu * w + b * c) + q2 * turned
        )
        out[1, i] = (head / q) * (
            q * mu - q * (mu * c - b * w) - q2 * (spread * w + 2.0 * mu * b * c)
        )
        out[2, i] = head * tau * (1.0 - c - 2.0 * q2 * turned)


@njit(cache=True, nogil=True)
def mean_amplitude(q_per_nm, diameter_nm, sigma_nm, out):
    """<F> of spheres with Gaussian diameters in nm^3, into ``out`` (n,).

    With ``mean_square_amplitude`` it gives beta = <F>^2/<F^2>, which says how much of the
    scattering can interfere between particles. Below q D/2 = 0.02 the volume's series is used: the
    difference there leaves (q mu)^3/3 of terms of order q mu, so 1e-16/(0.02)^2 = 3e-13.
    """
    mu, tau = 0.5 * diameter_nm, 0.5 * sigma_nm
    for i in range(q_per_nm.size):
        q = q_per_nm[i]
        x, t = q * mu, q * tau
        if x + 3.0 * t < 0.02:
            third = mu**3 + 3.0 * mu * tau**2
            fifth = mu**5 + 10.0 * mu**3 * tau**2 + 15.0 * mu * tau**4
            out[i] = 4.0 * math.pi * (third / 3.0 - q * q * fifth / 30.0)
        else:
            out[i] = (
                4.0
                * math.pi
                / q**3
                * math.exp(-0.5 * t * t)
                * ((1.0 + t * t) * math.sin(x) - x * math.cos(x))
            )


@njit(cache=True, nogil=True)
def mean_volume(diameter_nm, sigma_nm):
    """<V> in nm^3: pi/6 (D^3 + 3 D s^2)."""
    return math.pi / 6.0 * (diameter_nm**3 + 3.0 * diameter_nm * sigma_nm**2)
