"""What a curve says without a model: Guinier's radius, Porod's law, the invariant.

    Q = integral of q^2 (I - B) dq             0 to infinity

Below the data, Q has Guinier's law (see `pipeline.kernels.guinier`); beyond the beginning of
Porod's range, Porod's (`pipeline.kernels.porod`). All are linear in the intensities or nearly so:
errors go through one gradient by the intensities, with the correlation of all parts.

Spheres of diameter D have Rg^2 = 3/20 <D^8>/<D^6>; K = 2 pi drho^2 S/V; Q = 2 pi^2 drho^2
phi (1 - phi).

Weights come from the mean variance of 11 points, so that a point that counted few does not weigh
more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels.guinier import LARGEST_ERROR, guinier_fit, guinier_moment, guinier_range
from pipeline.kernels.porod import porod_begin, porod_fit
from pipeline.kernels.weights import running_mean


class ModelFree(NamedTuple):
    """Results of one curve, in its units; NaN = not in the data.

    Attributes
    ----------
    radius_nm, radius_nm_err, forward, forward_err
        Guinier's radius and I(0), background subtracted.
    guinier_first, guinier_last
        q of the first and last point of Guinier's range.
    porod, porod_err, background, background_err
        K in 1/cm nm^-4 and B.
    porod_first
        q where Porod's range begins.
    exponent, exponent_err
        n of A q^-n + B in Porod's range.
    invariant, invariant_err
        Q in 1/cm nm^-3.
    share_below, share_beyond
        Of Q, that of Guinier's and of Porod's law.
    forward_covariance, porod_covariance
        Of I(0) with Q and of K with Q.
    """

    radius_nm: float
    radius_nm_err: float
    forward: float
    forward_err: float
    guinier_first: float
    guinier_last: float
    porod: float
    porod_err: float
    background: float
    background_err: float
    porod_first: float
    exponent: float
    exponent_err: float
    invariant: float
    invariant_err: float
    share_below: float
    share_beyond: float
    forward_covariance: float
    porod_covariance: float


@njit(cache=True, nogil=True)
def _trapezoid(q, intensity, background, last, weights):
    """Integral of q^2 (I - B) up to the point ``last``; ``weights`` (n,) that intensities have."""
    total = 0.0
    for i in range(last + 1):
        left = q[i] - q[i - 1] if i > 0 else 0.0
        right = q[i + 1] - q[i] if i < last else 0.0
        weights[i] = 0.5 * (left + right) * q[i] ** 2
        total += weights[i] * (intensity[i] - background)
    return total


@njit(cache=True, nogil=True)
def _invariant(q, intensity, variance, tail, guinier, by_guinier, porod, by_porod):
    """Q, its variance, its parts below and beyond the data, its covariance with I0 and with K.

    ``guinier`` is (ln I0, Rg^2/3), ``porod`` (K, B); ``by_guinier`` and ``by_porod`` (2, n) are
    their derivatives by the intensities.
    """
    (a, slope), (k, b) = guinier, porod
    forward = math.exp(a)
    by_q = np.zeros(q.size)
    total = _trapezoid(q, intensity, b, tail, by_q)
    of_background = by_q.sum()
    low = forward * guinier_moment(slope, q[0])
    # Its derivative by the slope, from steps of 1e-4: good to 1e-7.
    rise = guinier_moment(slope * 1.0001, q[0]) - guinier_moment(slope * 0.9999, q[0])
    rise *= forward / (0.0002 * slope)
    beyond = k / q[tail]
    variance_q = with_forward = with_k = 0.0
    for i in range(q.size):
        by_q[i] += low * by_guinier[0, i] + rise * by_guinier[1, i]
        by_q[i] += by_porod[0, i] / q[tail] - of_background * by_porod[1, i]
        variance_q += by_q[i] ** 2 * variance[i]
        with_forward += forward * by_guinier[0, i] * by_q[i] * variance[i]
        with_k += by_porod[0, i] * by_q[i] * variance[i]
    return total + low + beyond, variance_q, low, beyond, with_forward, with_k


@njit(cache=True, nogil=True)
def model_free(q, intensity, sigma, flat, guinier_limit, porod_start):
    """Guinier's radius, Porod's constant and the invariant of one curve.

    Parameters
    ----------
    q, intensity, sigma
        (n,), q rising and above 0, all finite, sigma above 0.
    flat
        Whether there is a constant background.
    guinier_limit
        Largest q Rg of Guinier's range.
    porod_start
        q Rg where Porod's begins.

    Returns
    -------
    ModelFree
    """
    n, nan = q.size, math.nan
    variance = running_mean(sigma**2, sigma)
    widened = variance.copy()
    first, last, radius = guinier_range(q, intensity, variance, guinier_limit)
    by_guinier, by_porod = np.zeros((2, n)), np.zeros((2, n))
    k = b = k_var = b_var = power = power_var = begin = nan
    tail = porod_begin(q, radius, porod_start)
    if tail < n:
        k, b, k_var, b_var, power, power_var, factor = porod_fit(
            q[tail:], intensity[tail:], variance[tail:], radius, flat, by_porod[:, tail:]
        )
        widened[tail:] *= factor
        begin = q[tail]
    a = slope = a_var = slope_var = radius = nan
    signal = intensity - b if math.isfinite(b) else intensity
    if first >= 0:
        # Once more without the background, which bends the line at its end.
        first, last, radius = guinier_range(q, signal, variance, guinier_limit)
    if first >= 0:
        a, slope, a_var, slope_var, factor = guinier_fit(
            q[first:last], signal[first:last], variance[first:last], radius,
            by_guinier[:, first:last],
        )  # fmt: skip
        widened[first:last] *= factor
    known = slope > 0.0 and math.sqrt(slope_var) < 2.0 * LARGEST_ERROR * slope
    total = total_var = low = beyond = with_forward = with_k = nan
    if known and math.isfinite(k) and tail > 0:
        total, total_var, low, beyond, with_forward, with_k = _invariant(
            q, intensity, widened, tail, (a, slope), by_guinier, (k, b), by_porod
        )
    return ModelFree(
        math.sqrt(3.0 * slope) if known else nan,
        math.sqrt(0.75 * slope_var / slope) if known else nan,
        math.exp(a) if known else nan,
        math.exp(a) * math.sqrt(a_var) if known else nan,
        q[first] if known else nan,
        q[last - 1] if known else nan,
        k,
        math.sqrt(k_var),
        b if flat else nan,
        math.sqrt(b_var) if flat else nan,
        begin,
        power,
        math.sqrt(power_var),
        total,
        math.sqrt(total_var),
        low / total,
        beyond / total,
        with_forward,
        with_k,
    )
