"""Porod's law in the tail of a curve: surface and background.

    I = K q^-4 + B                             q Rg > 6                      (Porod 1951)

The form factor's waves would give K 15 % too small (spheres of 10 % width) if points were weighted
by their noise, since the first wave counts most: so the wave counts as noise, and the weight rises
over its first period. What is left of it raises chi-square, and the errors with it (by the root of
the reduced chi-square, if that is above 1).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pipeline.kernels.linear import inverse3

FEWEST_POINTS = 12
LEAST_START = 4.0
"""q Rg where Porod's law may begin at the earliest: just beyond the first minimum of a sphere."""
SPAN = 1.4
"""Last q over first, at least: one cannot tell K q^-4 from B in less."""
WAVE = 0.7
"""Root mean square of the form factor's wave over Porod's law, for spheres of one size."""
WAVE_PERIOD = 2.43
"""q Rg of its period pi/R, for spheres: R = 1.29 Rg."""
EXPONENT_SIGMA = 3.0
"""Errors that K has to be above 0 to have an exponent."""
WALKS = 12
"""Steps of Gauss and Newton, which have converged after 5 mostly."""


@njit(cache=True, nogil=True)
def porod_begin(q, radius, start):
    """First point of Porod's range: at q Rg = ``start``, or earlier to leave a `SPAN`.

    Without a radius (NaN) it is the last part of the curve. ``q.size`` if there is no such range.
    """
    n = q.size
    if n < FEWEST_POINTS or not q[-1] / SPAN > q[0]:
        return n
    begin = q[-1] / SPAN
    if radius > 0.0:
        if begin * radius < LEAST_START:
            return n
        begin = min(begin, start / radius)
    first = int(np.searchsorted(q, begin))
    return first if n - first >= FEWEST_POINTS else n


@njit(cache=True, nogil=True)
def _wave_variance(q, variance, k, rise, out):
    """Variance of what may differ from Porod's law at each point: noise and the form factor's wave.

    The wave is as large as the law itself at first. Weighted so, its periods count alike; and since
    the weight rises over the first of them (``rise``, 1/nm), no phase is preferred.
    """
    for i in range(q.size):
        start = (q[i] - q[0] + 0.5 * (q[1] - q[0])) / rise
        taper = 0.5 - 0.5 * math.cos(math.pi * start) if start < 1.0 else 1.0
        out[i] = (variance[i] + (WAVE * k * q[i] ** -4) ** 2) / taper


@njit(cache=True, nogil=True)
def _law(q, intensity, weight_variance, flat, gradient):
    """K and B of I = K q^-4 + B, B = 0 unless ``flat``; ``gradient`` (2, n) by the intensities."""
    n = q.size
    xx = x1 = one = xy = y1 = 0.0
    for i in range(n):
        x, w = q[i] ** -4, 1.0 / weight_variance[i]
        xx += w * x * x
        x1 += w * x
        one += w
        xy += w * x * intensity[i]
        y1 += w * intensity[i]
    if not flat:
        x1, one, y1 = 0.0, 1.0, 0.0
    det = xx * one - x1 * x1
    if not det > 1e-12 * xx * one:
        return math.nan, math.nan
    for i in range(n):
        x, w = q[i] ** -4, 1.0 / weight_variance[i]
        gradient[0, i] = w * (one * x - x1) / det
        gradient[1, i] = w * (xx - x1 * x) / det if flat else 0.0
    return (one * xy - x1 * y1) / det, (xx * y1 - x1 * xy) / det


@njit(cache=True, nogil=True)
def _exponent(q, intensity, variance, weight_variance, flat, k, b):
    """n of A (q/q0)^-n + B and its variance by noise of ``variance``; NaN unless it converges."""
    start = q[0]
    a, n = k * start**-4, 4.0
    matrix, right, row = np.empty((3, 3)), np.empty(3), np.empty(3)
    inverse = np.empty((3, 3))
    for _ in range(WALKS):
        matrix[:] = 0.0
        right[:] = 0.0
        matrix[2, 2] = 0.0 if flat else 1.0
        for i in range(q.size):
            row[0] = (q[i] / start) ** -n
            row[1] = -a * row[0] * math.log(q[i] / start)
            row[2] = 1.0 if flat else 0.0
            off = (intensity[i] - a * row[0] - b) / weight_variance[i]
            for j in range(3):
                right[j] += row[j] * off
                for m in range(3):
                    matrix[j, m] += row[j] * row[m] / weight_variance[i]
        if not inverse3(matrix, inverse):
            return math.nan, math.nan
        a += inverse[0, 0] * right[0] + inverse[0, 1] * right[1] + inverse[0, 2] * right[2]
        step = inverse[1, 0] * right[0] + inverse[1, 1] * right[1] + inverse[1, 2] * right[2]
        b += inverse[2, 0] * right[0] + inverse[2, 1] * right[1] + inverse[2, 2] * right[2]
        n += step
        if not 0.5 < n < 12.0 or not a > 0.0:
            return math.nan, math.nan
        if abs(step) < 1e-5:
            n_var = 0.0
            for i in range(q.size):
                law = (q[i] / start) ** -n
                by = inverse[1, 0] * law - inverse[1, 1] * a * law * math.log(q[i] / start)
                by += inverse[1, 2] if flat else 0.0
                n_var += (by / weight_variance[i]) ** 2 * variance[i]
            return n, n_var
    return math.nan, math.nan


@njit(cache=True, nogil=True)
def porod_fit(q, intensity, variance, radius, flat, gradient):
    """Porod's law through all the points given.

    ``gradient`` (2, n) becomes the derivative of K and B by the intensities. Returns K, B, their
    variances, the exponent, its variance, and the factor by which chi-square widens the noise.
    """
    n = q.size
    rise = WAVE_PERIOD / radius if radius > 0.0 else 0.25 * (q[-1] - q[0])
    weighing = variance.copy()
    k = b = 0.0
    # The wave is taken from the law, which it moves: a third pass changes K by its errors' 1e-3.
    for _ in range(3):
        _wave_variance(q, variance, k, rise, weighing)
        k, b = _law(q, intensity, weighing, flat, gradient)
    k_var = b_var = chi2 = 0.0
    for i in range(n):
        k_var += gradient[0, i] ** 2 * variance[i]
        b_var += gradient[1, i] ** 2 * variance[i]
        chi2 += (intensity[i] - k * q[i] ** -4 - b) ** 2 / variance[i]
    widened = max(chi2 / (n - 2), 1.0)
    power = power_var = math.nan
    if k > EXPONENT_SIGMA * math.sqrt(k_var * widened):
        power, power_var = _exponent(q, intensity, variance, weighing, flat, k, b)
    return k, b, k_var * widened, b_var * widened, power, power_var * widened, widened
