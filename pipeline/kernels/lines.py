"""Lines of a curve over what varies slowly: how many, where, how high and how wide.

The search is greedy. The most significant further line is added to those that there are, all are
refined together, and so on until none is significant. A further line is judged by its efficient
score: what is left of it after what varies slowly, and after heights, places and widths of the
lines that there are, so that a line that is merely misplaced or too narrow does not call for a
second one, and two that overlap are told apart where the curve demands it. The level is that which
noise exceeds anywhere in the window with the given probability: Rice's bound, as in
``pipeline.kernels.order``; refining places and widths between those that are tried adds little to
it, what it adds is measured in the tests.

Where residuals scatter more than sigma says, or neighbours go together, all levels and errors are
wider by that much.

What is no line: a feature that cannot be placed with its upper half inside of the window, or that
falls to one side only (an upturn or a shadow at the beamstop). It stays in the fit, so that the
lines do not take it up, and is not reported. Nor is a second line within the same width as a first
(`SEPARATE`), nor a weak one at the foot of a strong one (`SATELLITE`): real profiles are not quite
Gaussian, and differ there.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels.amplitudes import solve_subset
from pipeline.kernels.line_profiles import (
    Grid,
    fill_residual,
    make_rows,
    whiten_templates,
)
from pipeline.kernels.line_refinement import fill_covariance, is_pressed, refine
from pipeline.kernels.linear import dot
from pipeline.kernels.order import noise_level, project_out

LINE, EDGE = 1, 2
"""Kinds: a line; a feature of the window's end or without a second flank."""
ENOUGH = 1e-3
"""Fall of chi-square that ends a refinement: 0.03 standard errors from the minimum."""
STEPS = 25
SEPARATE = 0.4
"""Distance of two lines over the mean of their widths, at least. Two equal Gaussians show two
maxima from 0.85 on; below 0.4 their sum differs from a single one by 1 % of its height."""
SATELLITE = 0.1
"""Height of a line within 1.5 widths of a higher one, over its height, at least: in between a
Gaussian and a Lorentzian of the same width lies up to a tenth of the height."""
FOOT = 1.5
LEAST_FRESH = 1e-3
"""A template that keeps less than this of its square beside the lines that there are is one."""
HALF_SEEN = 0.3
"""Height that each half of a line asks for alone, over the line's, at least."""


class Search(NamedTuple):
    """What does not change from frame to frame."""

    grid: Grid
    least_fwhm_per_nm: np.ndarray
    """Narrowest width that a line may have at each q: the instrument's (n,)."""
    widest_per_nm: float
    low_per_nm: float
    high_per_nm: float
    least_height: float
    """A line must be significantly higher than this, in units of the scale."""
    false_alarm: float
    """Probability that noise alone gives a line anywhere."""
    most: int
    """Most lines, features of the window's ends among them."""


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
    low, high = grid.supports[j]
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
def _best_further(grid, values_w, shares, left, dead, residual_w, least_height, noise, lines):
    """The most significant template beside the lines that there are, and its score."""
    rows, members, factor, size = lines
    products = np.empty(members.size)
    best, highest = -1, 0.0
    for j in range(left.size):
        if dead[j] or left[j] == 0.0:
            continue
        low, high = grid.supports[j]
        place = grid.places[j]
        overlap = dot(values_w[place : place + high - low], residual_w[low:high])
        if overlap <= 0.0:
            continue
        rest = left[j]
        if size > 0:
            rest = _fresh(grid, values_w, shares, left, j, rows, members, factor, size, products)
            if rest < LEAST_FRESH * left[j]:
                continue
        norm = math.sqrt(rest)
        score = (overlap / norm - least_height * norm) / noise
        if score > highest:
            best, highest = j, score
    return best, highest


@njit(cache=True, nogil=True)
def _misplaced(at, heights, count):
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
def _vanished(heights, count):
    """The first line without a height; -1 if all have one."""
    for j in range(count):
        if heights[j] == 0.0:
            return j
    return -1


@njit(cache=True, nogil=True)
def _remove(at, bounds, j, count):
    """The first ``count`` lines without line ``j``."""
    for i in range(j, count - 1):
        at[i] = at[i + 1]
        bounds[i] = bounds[i + 1]


@njit(cache=True, nogil=True)
def _half_seen(q_per_nm, basis, rows, heights, place_per_nm, residual_w, j):
    """Lesser height that the two halves of line ``j`` ask for alone, over the line's."""
    low, high = rows.supports[j]
    middle = min(max(np.searchsorted(q_per_nm, place_per_nm), low), high)
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
def height_error(rows, at, bounds, heights, count, j):
    """Error of the height of line ``j`` at its place and width, all other lines free."""
    members, unit, solution = (
        np.empty(3 * count, np.int64),
        np.zeros(3 * count),
        np.empty(3 * count),
    )
    size = 1
    members[0] = 3 * j
    for a in range(3 * count):
        i = a // 3
        if i == j or heights[i] == 0.0:
            continue
        if a % 3 == 2 and is_pressed(at, bounds, i, 1, -1.0):
            continue
        members[size] = a
        size += 1
    unit[3 * j] = 1.0
    if not solve_subset(rows.gram, unit, members, size, solution):
        return np.inf
    return math.sqrt(solution[0])


@njit(cache=True, nogil=True)
def _noise(residual_w, rank, count):
    """Scatter of the residuals over what sigma says, at least 1."""
    free = math.sqrt(max(1.0 - (rank + 3.0 * count) / residual_w.size, 0.1))
    return max(1.0, noise_level(residual_w) / free)


@njit(cache=True, nogil=True)
def find_lines(search, data_w, scale_w, basis, at, heights, sigmas, kinds, covariance):
    """Find all lines of one curve.

    Parameters
    ----------
    search
        See `Search`.
    data_w, scale_w
        Whitened curve and what a line multiplies (n,).
    basis
        Orthonormal whitened nuisances (k, n), from ``pipeline.kernels.order.orthonormal``.
    at
        (most, 2), place and full width as seen, 1/nm, overwritten, by rising place.
    heights, sigmas, kinds
        (most,), overwritten: in units of the scale; over the error if nothing were there; `LINE`
        or `EDGE`.
    covariance
        (3 most, 3 most) of height, place and width of each, overwritten; NaN for a place or a width
        that a bound holds.

    Returns
    -------
    count : int
        Lines and edges.
    noise : float
        Scatter over what sigma says, at least 1; the errors are wider by it.
    level : float
        Score that a line needed.
    """
    grid = search.grid
    q = grid.q_per_nm
    most, points, rank = search.most, q.size, basis.shape[0]
    rows, spare = make_rows(most, points, rank), make_rows(most, points, rank)
    bounds = np.empty((most, 4))
    values_w, left = np.empty(grid.values.size), np.empty(grid.centres_per_nm.size)
    shares = np.empty((left.size, rank))
    length = whiten_templates(grid, scale_w, basis, values_w, shares, left)
    level = score_level(search.false_alarm, length, max(np.count_nonzero(grid.begins), 1))
    data = project_out(data_w, basis)
    residual = data.copy()
    members, factor = np.empty(3 * most, np.int64), np.empty((3 * most, 3 * most))
    dead = np.zeros(left.size, np.bool_)
    before_at = at.copy()
    count, fall = 0, 0.0
    noise = _noise(residual, rank, count)
    for _ in range(3 * most):
        if count == most:
            break
        size = _factorise(rows, at, bounds, heights, count, members, factor)
        j, score = _best_further(
            grid, values_w, shares, left, dead, residual, search.least_height, noise,
            (rows, members, factor, size),
        )  # fmt: skip
        if j < 0 or score < level:
            break
        before_at[:] = at
        before = count
        at[count, 0], at[count, 1] = grid.centres_per_nm[j], grid.fwhm_per_nm[j]
        _bound(search, at, bounds, count)
        count += 1
        fall_now = refine(
            q, data, scale_w, basis, bounds, count, STEPS, ENOUGH, at, heights, rows, spare
        )
        gone = _vanished(heights, count)
        if gone >= 0 and gone < before:
            _remove(at, bounds, gone, count)
            count -= 1
            fall_now = refine(
                q, data, scale_w, basis, bounds, count, STEPS, ENOUGH, at, heights, rows, spare
            )
            gone = _vanished(heights, count)
        gain = math.sqrt(max(fall_now - fall, 0.0)) / noise
        if gone >= 0 or gain < level or _misplaced(at, heights, count) >= 0:
            # As it was, and nothing more from around here.
            at[:] = before_at
            count = before
            for i in range(count):
                _bound(search, at, bounds, i)
            for i in range(left.size):
                reach = 0.5 * max(grid.fwhm_per_nm[i], grid.fwhm_per_nm[j])
                if abs(grid.centres_per_nm[i] - grid.centres_per_nm[j]) < reach:
                    dead[i] = True
            fall_now = refine(
                q, data, scale_w, basis, bounds, count, 0, ENOUGH, at, heights, rows, spare
            )
        fall = fall_now
        fill_residual(data, basis, rows, heights, count, residual)
        noise = _noise(residual, rank, count)
    count = _prune(
        search, data, scale_w, basis, bounds, level, count, at, heights, sigmas, rows, spare,
        residual,
    )  # fmt: skip
    _sort(at, bounds, count)
    refine(q, data, scale_w, basis, bounds, count, STEPS, 1e-5, at, heights, rows, spare)
    fill_residual(data, basis, rows, heights, count, residual)
    noise = _noise(residual, rank, count)
    fill_covariance(rows, at, bounds, heights, count, covariance)
    for a in range(3 * count):
        for b in range(3 * count):
            covariance[a, b] *= noise * noise
    for j in range(count):
        sigmas[j] = heights[j] / (height_error(rows, at, bounds, heights, count, j) * noise)
        inside = not (
            is_pressed(at, bounds, j, 0, -1.0)
            or is_pressed(at, bounds, j, 0, 1.0)
            or at[j, 1] >= search.widest_per_nm * (1.0 - 1e-6)
        )
        seen = _half_seen(q, basis, rows, heights, at[j, 0], residual, j) >= HALF_SEEN
        kinds[j] = LINE if inside and seen else EDGE
    return count, noise, level


@njit(cache=True, nogil=True)
def _bound(search, at, bounds, j):
    """Bounds of line ``j`` from where it is."""
    place = min(np.searchsorted(search.grid.q_per_nm, at[j, 0]), search.least_fwhm_per_nm.size - 1)
    bounds[j, 0] = search.least_fwhm_per_nm[place]
    bounds[j, 1] = search.widest_per_nm
    bounds[j, 2], bounds[j, 3] = search.low_per_nm, search.high_per_nm


@njit(cache=True, nogil=True)
def _prune(
    search, data, scale_w, basis, bounds, level, count, at, heights, sigmas, rows, spare, residual
):
    """Take away, one by one, lines that those found later have made superfluous; how many stay."""
    while count > 0:
        fill_residual(data, basis, rows, heights, count, residual)
        noise = _noise(residual, basis.shape[0], count)
        worst, lowest = -1, level
        for j in range(count):
            error = height_error(rows, at, bounds, heights, count, j)
            score = (heights[j] - search.least_height) / (error * noise)
            if score < lowest:
                worst, lowest = j, score
        if worst < 0:
            worst = _misplaced(at, heights, count)
        if worst < 0:
            break
        _remove(at, bounds, worst, count)
        count -= 1
        refine(
            search.grid.q_per_nm, data, scale_w, basis, bounds, count, STEPS, ENOUGH, at, heights,
            rows, spare,
        )  # fmt: skip
    return count


@njit(cache=True, nogil=True)
def _sort(at, bounds, count):
    """By rising place."""
    for i in range(1, count):
        for j in range(i, 0, -1):
            if at[j, 0] >= at[j - 1, 0]:
                break
            for c in range(2):
                at[j, c], at[j - 1, c] = at[j - 1, c], at[j, c]
            for c in range(4):
                bounds[j, c], bounds[j - 1, c] = bounds[j - 1, c], bounds[j, c]
