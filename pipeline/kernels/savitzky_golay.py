"""Second derivatives of unevenly spaced lines by local cubics, as operators made once."""

import math

import numpy as np
from numba import njit

# A cubic has four coefficients; two more points, so that one outlier does not make the curvature.
FEWEST_POINTS = 6
# Points must reach this share of the window to both sides: beyond the last point a cubic swings.
LEAST_REACH = 0.6


@njit(cache=True, nogil=True)
def curvature_operators(x, usable, centres, half_width):
    """Weights that make the second derivative at each centre out of the values about it.

    The second derivative of the least-squares cubic in a window (Savitzky and Golay, Anal. Chem.
    1964, 36, 1627), for points that need not be evenly spaced: with polynomials p(k+1) =
    (u - a(k)) p(k) - b(k) p(k-1) that are orthogonal on the window's points (Forsythe, J. SIAM
    1957, 5, 74), the operator is t [2 p2 / |p2|^2 - 2 (a0 + a1 + a2) p3 / |p3|^2].

    Points count by t = 1 - u^2, u from -1 to 1 in the window, and not by their errors: so the
    result is linear in the values (a mean of results is the result of the mean), and continuous
    as the window moves. With t = 1 each pixel that enters at the rim, where the operator is
    largest, makes a step that splits flat minima in two.

    Parameters
    ----------
    x
        (n,) ascending, e.g. energies in eV.
    usable
        (n,) bool; other points are left out.
    centres
        (m,) ascending.
    half_width
        Of the window, in the unit of x.

    Returns
    -------
    first
        (m,) index of the first point in each window.
    count
        (m,) points that each window spans; 0 where the second derivative is not known (fewer than
        six usable points, or none in the outer 0.4 of one side).
    weights
        (m, w), in 1 / unit^2 of x; zeros beyond ``count`` and at unusable points.
    """
    m, n = centres.size, x.size
    first = np.zeros(m, np.int64)
    count = np.zeros(m, np.int64)
    low = high = widest = 0
    for c in range(m):
        while low < n and x[low] < centres[c] - half_width:
            low += 1
        while high < n and x[high] <= centres[c] + half_width:
            high += 1
        first[c], count[c] = low, high - low
        widest = max(widest, high - low)
    weights = np.zeros((m, widest))
    u = np.empty(widest)
    taper = np.empty(widest)
    p = np.empty((4, widest))
    for c in range(m):
        points = 0
        left = right = 0.0
        for i in range(count[c]):
            u[i] = (x[first[c] + i] - centres[c]) / half_width
            taper[i] = p[0, i] = 0.0
            if usable[first[c] + i]:
                # Rounding may put u beyond 1.
                taper[i], p[0, i] = max(0.0, 1.0 - u[i] * u[i]), 1.0
                points += 1
                left, right = min(left, u[i]), max(right, u[i])
        if points < FEWEST_POINTS or left > -LEAST_REACH or right < LEAST_REACH:
            count[c] = 0
            continue
        size = 0.0
        for i in range(count[c]):
            size += taper[i]
        previous = 1.0
        shift = 0.0
        for k in range(3):
            moment = 0.0
            for i in range(count[c]):
                moment += taper[i] * u[i] * p[k, i] * p[k, i]
            a = moment / size
            b = size / previous if k > 0 else 0.0
            shift += a
            previous = size
            size = 0.0
            for i in range(count[c]):
                p[k + 1, i] = (u[i] - a) * p[k, i] - (b * p[k - 1, i] if k > 0 else 0.0)
                size += taper[i] * p[k + 1, i] * p[k + 1, i]
            scale = 0.0
            if k == 1:
                scale = 2.0 / size
            elif k == 2:
                scale = -2.0 * shift / size
            scale /= half_width * half_width
            for i in range(count[c]):
                weights[c, i] += scale * taper[i] * p[k + 1, i]
    return first, count, weights


@njit(cache=True, nogil=True)
def apply_operators(first, count, weights, values, sigma):
    """Second derivative and its standard error at each centre, NaN where it is not known.

    Parameters
    ----------
    first, count, weights
        From `curvature_operators`.
    values, sigma
        (n,), the errors of different points independent; unusable ones are not read.

    Returns
    -------
    second, error
        (m,)
    """
    m = first.size
    second = np.full(m, np.nan)
    error = np.full(m, np.nan)
    for c in range(m):
        if count[c] == 0:
            continue
        total = variance = 0.0
        for i in range(count[c]):
            w = weights[c, i]
            if w != 0.0:
                total += w * values[first[c] + i]
                variance += (w * sigma[first[c] + i]) ** 2
        second[c], error[c] = total, math.sqrt(variance)
    return second, error


@njit(cache=True, nogil=True)
def difference_error(first, count, weights, sigma, low, high):
    """Standard error of the second derivative at centre ``high`` less that at ``low``.

    Windows overlap, so the two errors are not independent.
    """
    variance = 0.0
    begin = min(first[low], first[high])
    end = max(first[low] + count[low], first[high] + count[high])
    for i in range(begin, end):
        w = 0.0
        if first[high] <= i < first[high] + count[high]:
            w += weights[high, i - first[high]]
        if first[low] <= i < first[low] + count[low]:
            w -= weights[low, i - first[low]]
        if w != 0.0:
            variance += (w * sigma[i]) ** 2
    return math.sqrt(variance)


# Two minima are two where the second derivative between them rises by so many standard errors
# above the shallower. On one broad peak noise alone makes several minima.
SADDLE_SIGMA = 3.0


@njit(cache=True, nogil=True)
def _parted_minima(first, count, weights, sigma, second, error, reach, least_sigma):
    """Indices (k,) of significant minima with significant saddles between them."""
    found = np.empty(second.size, np.int64)
    k = 0
    for c in range(reach, second.size - reach):
        # False for NaN.
        if not (error[c] > 0.0 and -second[c] >= least_sigma * error[c]):
            continue
        lowest = True
        for i in range(1, reach + 1):
            if not (second[c] < second[c - i] and second[c] <= second[c + i]):
                lowest = False
                break
        if not lowest:
            continue
        if k > 0:
            before = found[k - 1]
            saddle = before
            for i in range(before, c):
                # A gap in the spectrum parts as well.
                if not second[i] <= second[saddle]:
                    saddle = i
            shallower = c if second[c] > second[before] else before
            rise = second[saddle] - second[shallower]
            spread = difference_error(first, count, weights, sigma, shallower, saddle)
            if rise < SADDLE_SIGMA * spread:
                found[k - 1] = c + before - shallower
                continue
        found[k] = c
        k += 1
    return found[:k]


@njit(cache=True, nogil=True)
def significant_minima(centres, first, count, weights, values, sigma, reach, least_sigma, most):
    """Second derivative with its error, and its deepest significant minima by rising centre.

    A minimum is the lowest within ``reach`` centres, and placed by the parabola through it and
    the two that are so far away: nearer ones differ by little but noise. Its error is that of
    the parabola's slope, errors of overlapping windows taken as they are correlated.

    Parameters
    ----------
    centres
        (m,) evenly spaced.
    first, count, weights, values, sigma
        As for `apply_operators`.
    reach
        In centres, at least 1.
    least_sigma
        Standard errors below zero from which a minimum counts.
    most
        Number of minima that are kept.

    Returns
    -------
    second, error
        (m,)
    minima
        (most, 4): place, its standard error, depth (positive), depth over its error; NaN where
        there are fewer.
    """
    second, error = apply_operators(first, count, weights, values, sigma)
    places = _parted_minima(first, count, weights, sigma, second, error, reach, least_sigma)
    minima = np.full((most, 4), np.nan)
    span = reach * (centres[1] - centres[0])
    kept = 0
    for c in places:
        deeper = 0
        for other in places:
            deeper += second[other] < second[c]
        if deeper >= most or kept == most:
            continue
        bent = second[c - reach] - 2.0 * second[c] + second[c + reach]
        slope = 0.5 * (second[c + reach] - second[c - reach])
        depth = -second[c] + 0.5 * slope * slope / bent
        spread = 0.5 * difference_error(first, count, weights, sigma, c - reach, c + reach)
        minima[kept, 0] = centres[c] - span * slope / bent
        minima[kept, 1] = span * spread / bent
        minima[kept, 2] = depth
        minima[kept, 3] = depth / error[c]
        kept += 1
    return second, error, minima
