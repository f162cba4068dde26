"""What is a further line of a curve, and what is none: scores, levels, neighbours, halves.

See ``pipeline.kernels.lines`` for the whole and ``pipeline.kernels.line_profiles`` for the arrays.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.line_profiles import first_from
from pipeline.kernels.line_refinement import is_pressed
from pipeline.kernels.linear import dot

SEPARATE = 0.4
"""Distance of two lines over the mean of their widths, at least. Two equal Gaussians show two
maxima from 0.85 on; below 0.4 their sum differs from a single one by 1 % of its height."""
SATELLITE = 0.1
"""Height of a line within 1.5 widths of a higher one, over its height, at least: in between a
Gaussian and a Lorentzian of the same width lies up to a tenth of the height."""
FOOT = 1.5
HIGHER = 2.0
SPLIT_WIDTH = 1.5
"""Two are sought in a line that is so many least widths wide."""
LEAST_FRESH = 1e-3
"""A template that keeps less than this of its square beside the lines that there are is one."""


@njit(cache=True, nogil=True)
def roughness(residual_w):
    """Scatter (n,) from one point to the next: median size of second differences, over 1.65 for
    normal deviates (0.6745 sqrt 6)."""
    second = np.empty(residual_w.size - 2)
    for i in range(second.size):
        second[i] = abs(residual_w[i] - 2.0 * residual_w[i + 1] + residual_w[i + 2])
    return np.median(second) / (0.6745 * np.sqrt(6.0))


@njit(cache=True, nogil=True)
def score_level(false_alarm, length, paths):
    """Score that noise exceeds anywhere with probability ``false_alarm``, by Rice's bound.

    Parameters
    ----------
    false_alarm
        Between 0 and 1.
    length
        Sum over the paths of the unit templates, in radians.
    paths
        How many of them there are.
    """
    low, high = 0.0, 40.0
    bound = -math.log1p(-false_alarm)
    for _ in range(60):
        middle = 0.5 * (low + high)
        expected = paths * 0.5 * math.erfc(middle / math.sqrt(2.0))
        expected += length / (2.0 * math.pi) * math.exp(-0.5 * middle * middle)
        if expected > bound:
            low = middle
        else:
            high = middle
    return high


@njit(cache=True, nogil=True)
def _factorise(rows, at, bounds, heights, count, members, factor):
    """Rows of the lines made orthonormal, in their Gram matrix alone; how many there are.

    ``members`` (3 m,) are the rows that take part, ``factor`` (3 m, 3 m) the lower triangle of the
    Cholesky factor with the reciprocals of its diagonal. Widths at a bound do not take part.
    """
    size = 0
    for a in range(3 * count):
        j = a // 3
        if heights[j] == 0.0:
            continue
        if a % 3 == 2 and is_pressed(at, bounds, j, 1, -1.0):
            continue
        for i in range(size + 1):
            row = members[i] if i < size else a
            value = rows.gram[a, row]
            for k in range(i):
                value -= factor[size, k] * factor[i, k]
            if i < size:
                factor[size, i] = value * factor[i, i]
            elif value > 1e-10 * rows.gram[a, a]:
                factor[size, size] = 1.0 / math.sqrt(value)
                members[size] = a
                size += 1
    return size


@njit(cache=True, nogil=True)
def _fresh(grid, values_w, shares, left, j, rows, members, factor, size, products):
    """Square of what the lines leave of template ``j``; ``products`` (3 m,) is overwritten."""
    low, high = grid.supports[j, 0], grid.supports[j, 1]
    shift = grid.places[j] - low
    rest = left[j]
    for i in range(size):
        a = members[i]
        value = -dot(shares[j], rows.shares[a])
        start, stop = max(low, rows.supports[a // 3, 0]), min(high, rows.supports[a // 3, 1])
        if stop > start:
            value += dot(values_w[shift + start : shift + stop], rows.lines_w[a, start:stop])
        for k in range(i):
            value -= factor[i, k] * products[k]
        products[i] = value * factor[i, i]
        rest -= products[i] * products[i]
    return rest


@njit(cache=True, nogil=True)
def _meets(rows, heights, count, low, high):
    """Whether points ``low`` to ``high`` (not in) hold a part of a line."""
    for j in range(count):
        if heights[j] > 0.0 and rows.supports[j, 0] < high and rows.supports[j, 1] > low:
            return True
    return False


@njit(cache=True, nogil=True)
def best_further(
    grid, values_w, shares, left, dead, residual_w, least_height, noise, rows, at, bounds, heights,
    count,
):  # fmt: skip
    """The most significant template beside the ``count`` lines that there are, and its score.

    Where a template meets none of them, what varies slowly hardly brings them together, and only
    that is taken from it. Where it does, one that gains nothing by itself is passed over.

    Parameters
    ----------
    grid, values_w, shares, left
        See ``whiten_templates``.
    dead
        Templates that are left out (j,).
    residual_w
        Whitened data (n,) without the lines that there are.
    least_height, noise
        What a height has to exceed, and by what errors are wider than sigma.
    rows, at, bounds, heights, count
        See ``pipeline.kernels.line_refinement``.
    """
    factor, products = np.empty((3 * count, 3 * count)), np.empty(3 * count)
    members = np.empty(3 * count, np.int64)
    size = _factorise(rows, at, bounds, heights, count, members, factor)
    best, highest = -1, 0.0
    for j in range(left.size):
        if dead[j] or left[j] == 0.0:
            continue
        low, high = grid.supports[j, 0], grid.supports[j, 1]
        place = grid.places[j]
        overlap = dot(values_w[place : place + high - low], residual_w[low:high])
        if overlap <= 0.0:
            continue
        rest = left[j]
        if _meets(rows, heights, count, low, high):
            if overlap * overlap < left[j] * noise * noise:
                continue
            rest = _fresh(grid, values_w, shares, left, j, rows, members, factor, size, products)
            if rest < LEAST_FRESH * left[j]:
                continue
        norm = math.sqrt(rest)
        score = (overlap / norm - least_height * norm) / noise
        if score > highest:
            best, highest = j, score
    return best, highest


@njit(cache=True, nogil=True)
def misplaced(at, heights, count):
    """Which line is within the width or at the foot of a higher one; -1 if none is."""
    for i in range(count):
        for j in range(count):
            if i == j or heights[i] > heights[j] or (heights[i] == heights[j] and i < j):
                continue
            distance = abs(at[i, 0] - at[j, 0])
            mean = 0.5 * (at[i, 1] + at[j, 1])
            if distance < SEPARATE * mean:
                return i
            if distance < FOOT * at[j, 1] and heights[i] < SATELLITE * heights[j]:
                return i
    return -1


@njit(cache=True, nogil=True)
def half_seen(q_per_nm, basis, rows, heights, place_per_nm, residual_w, j):
    """Lesser height that the two halves of line ``j`` ask for alone, over the line's."""
    low, high = rows.supports[j, 0], rows.supports[j, 1]
    middle = min(max(first_from(q_per_nm, place_per_nm), low), high)
    line = rows.lines_w[3 * j]
    if middle - low < 2 or high - middle < 2:
        return 0.0
    first = np.zeros(basis.shape[0])
    second = np.zeros(basis.shape[0])
    for b in range(basis.shape[0]):
        first[b] = dot(line[low:middle], basis[b, low:middle])
        second[b] = dot(line[middle:high], basis[b, middle:high])
    aa = dot(line[low:middle], line[low:middle]) - dot(first, first)
    bb = dot(line[middle:high], line[middle:high]) - dot(second, second)
    ab = -dot(first, second)
    det = aa * bb - ab * ab
    if not det > 1e-10 * aa * bb:
        return 0.0
    # What the residual asks for beyond the line's height.
    a = dot(line[low:middle], residual_w[low:middle])
    b = dot(line[middle:high], residual_w[middle:high])
    more_a, more_b = (bb * a - ab * b) / det, (aa * b - ab * a) / det
    return 1.0 + min(more_a, more_b) / heights[j]


@njit(cache=True, nogil=True)
def is_maximum(q_per_nm, data_w, scale_w, noise, place_per_nm, fwhm_per_nm):
    """Whether data over scale are higher at a line than a width away on either side.

    Means over half a width are compared; the middle has to be higher by `HIGHER` standard errors
    than both. What has no points on a side is none.
    """
    means, squares = np.zeros(3), np.zeros(3)
    for side in range(3):
        centre = place_per_nm + (side - 1) * fwhm_per_nm
        low = first_from(q_per_nm, centre - 0.25 * fwhm_per_nm)
        high = first_from(q_per_nm, centre + 0.25 * fwhm_per_nm)
        weight = 0.0
        for i in range(low, high):
            weight += scale_w[i] * scale_w[i]
            means[side] += scale_w[i] * data_w[i]
        if weight == 0.0:
            return False
        means[side] /= weight
        squares[side] = noise * noise / weight
    for side in (0, 2):
        if means[1] - means[side] < HIGHER * np.sqrt(squares[1] + squares[side]):
            return False
    return True


@njit(cache=True, nogil=True)
def widest_misfit(rows, at, bounds, whole, residual_w, noise, least_gain, count):
    """The widest line over which so much is left that two could be better than it; -1 if none is.

    Two cannot let chi-square fall by more than what is over noise within a width of the line.
    """
    best = -1
    for j in range(count):
        if whole[j] or at[j, 1] <= SPLIT_WIDTH * bounds[j, 0]:
            continue
        low, high = rows.supports[j, 0], rows.supports[j, 1]
        reach = (high - low) // 4
        left = residual_w[low + reach : high - reach]
        over = dot(left, left) - left.size * noise * noise
        if over >= least_gain * least_gain and (best < 0 or at[j, 1] > at[best, 1]):
            best = j
    return best
