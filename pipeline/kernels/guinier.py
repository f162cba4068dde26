"""Guinier's law: radius of gyration and forward scattering of a curve, and where they can be had.

    ln I = ln I0 - q^2 Rg^2/3 - c q^4          q Rg < 1.3                    (Guinier 1939)

The range is found by a scan over its first and last points: those with q Rg below the limit whose
points lie on a line (chi-square per point below 2, or within 1 % of I), and among them those with
the smallest error of Rg. The curvature c is fitted with a prior, 0 +- 0.012 Rg^4: it is 0.0079 for
spheres of one size, 0.0057 at a width of 10 %, below -0.004 at 30 %. Without it Rg would be 2 % too
large at q Rg = 1.3, with c free its error four times as large.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pipeline.kernels.linear import inverse3

FEWEST_POINTS = 6
LARGEST_ERROR = 0.2
"""Relative, of the slope Rg^2/3: a line that is known worse has no radius."""
CURVATURE = 0.012
LATEST_START = 0.9
"""q Rg of the first point, at most. A power law q^-n has q Rg = sqrt(3 n/2) everywhere, so only
those flatter than q^-0.54 have such a range."""
SKIPPED = 2.0
"""Where a range may begin, over the first q: a shadow or an upturn may be passed over, but a line
somewhere in the tail is not Guinier's."""
TOLERATED_CHI2 = 2.0
TOLERATED_RMS = 0.01
WALKS = 12
"""Steps of Gauss and Newton, which have converged after 5 mostly."""


@njit(cache=True, nogil=True)
def guinier_range(q, intensity, variance, limit):
    """First and last + 1 point of Guinier's range, and its Rg; (-1, -1, NaN) if there is none.

    Lines of ln I over q^2 by sums from the left, so that any range costs the same.
    """
    n = q.size
    sums = np.zeros((n + 1, 7))
    for i in range(n):
        sums[i + 1] = sums[i]
        if intensity[i] > 0.0:
            u, y = q[i] ** 2, math.log(intensity[i])
            w = intensity[i] ** 2 / variance[i]
            sums[i + 1, 0] += w
            sums[i + 1, 1] += w * u
            sums[i + 1, 2] += w * u * u
            sums[i + 1, 3] += w * y
            sums[i + 1, 4] += w * u * y
            sums[i + 1, 5] += w * y * y
            sums[i + 1, 6] += 1.0
    best_first, best_last, best_radius, lowest = -1, -1, math.nan, LARGEST_ERROR
    first = 0
    while first < n - FEWEST_POINTS and q[first] <= SKIPPED * q[0]:
        points = FEWEST_POINTS
        while first + points <= n:
            last = first + points
            points += max(1, points // 8)
            s = sums[last] - sums[first]
            det = s[0] * s[2] - s[1] ** 2
            if s[6] < FEWEST_POINTS or not det > 1e-12 * s[0] * s[2]:
                continue
            slope = (s[1] * s[3] - s[0] * s[4]) / det
            if not slope > 0.0:
                continue
            radius = math.sqrt(3.0 * slope)
            if q[first] * radius > LATEST_START or q[last - 1] * radius > limit:
                continue
            top = (s[2] * s[3] - s[1] * s[4]) / det
            chi2 = max(s[5] - top * s[3] + slope * s[4], 0.0) / (s[6] - 2.0)
            if chi2 > TOLERATED_CHI2 and chi2 * s[6] > TOLERATED_RMS**2 * s[0]:
                continue
            error = math.sqrt(s[0] / det * max(chi2, 1.0)) / slope
            if error < lowest:
                best_first, best_last, best_radius, lowest = first, last, radius, error
        first += max(1, first // 4)
    return best_first, best_last, best_radius


@njit(cache=True, nogil=True)
def guinier_fit(q, intensity, variance, radius, gradient):
    """Fit of exp(a - b u - c u^2), u = q^2, to all the points given.

    ``gradient`` (2, n) becomes the derivative of a and b by the intensities. Returns a, b, their
    variances, and the factor by which chi-square widens the noise (NaN throughout, with a gradient
    of 0, if there is no fit).
    """
    n = q.size
    b = radius**2 / 3.0
    prior = 1.0 / (CURVATURE * radius**4) ** 2
    top = 0.0
    for i in range(n):
        top = max(top, intensity[i] * math.exp(b * q[i] ** 2))
    a, c = math.log(top), 0.0
    chi2 = math.nan
    inverse = np.empty((3, 3))
    matrix, right = np.empty((3, 3)), np.empty(3)
    row = np.empty(3)
    for _ in range(WALKS):
        matrix[:] = 0.0
        right[:] = 0.0
        matrix[2, 2], right[2] = prior, -prior * c
        chi2 = 0.0
        for i in range(n):
            u = q[i] ** 2
            exponent = a - b * u - c * u * u
            if not abs(exponent) < 300.0:
                return math.nan, math.nan, math.nan, math.nan, math.nan
            model = math.exp(exponent)
            row[0], row[1], row[2] = model, -model * u, -model * u * u
            off = (intensity[i] - model) / variance[i]
            chi2 += (intensity[i] - model) * off
            for j in range(3):
                right[j] += row[j] * off
                for k in range(3):
                    matrix[j, k] += row[j] * row[k] / variance[i]
        if not inverse3(matrix, inverse):
            return math.nan, math.nan, math.nan, math.nan, math.nan
        a += inverse[0, 0] * right[0] + inverse[0, 1] * right[1] + inverse[0, 2] * right[2]
        step = inverse[1, 0] * right[0] + inverse[1, 1] * right[1] + inverse[1, 2] * right[2]
        b += step
        c += inverse[2, 0] * right[0] + inverse[2, 1] * right[1] + inverse[2, 2] * right[2]
        if abs(step) < 1e-9 * abs(b):
            break
    for i in range(n):
        u = q[i] ** 2
        model = math.exp(a - b * u - c * u * u) / variance[i]
        for j in range(2):
            gradient[j, i] = model * (inverse[j, 0] - u * inverse[j, 1] - u * u * inverse[j, 2])
    widened = max(chi2 / max(n - 2, 1), 1.0)
    return a, b, inverse[0, 0] * widened, inverse[1, 1] * widened, widened


@njit(cache=True, nogil=True)
def guinier_moment(b, q):
    """Integral of q^2 exp(-b q^2) from 0 to q."""
    x = b * q * q
    if x < 0.05:
        # The closed form cancels: 1e-12 of its terms is left at 0.05, where the series is 1e-9.
        series = 1.0 / 3.0 - x / 5.0 + x**2 / 14.0 - x**3 / 54.0 + x**4 / 264.0
        return q**3 * series
    root = math.sqrt(b)
    closed = math.sqrt(math.pi) * math.erf(root * q) / (4.0 * b * root)
    return closed - q * math.exp(-x) / (2.0 * b)
