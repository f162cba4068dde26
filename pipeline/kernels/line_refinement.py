"""All lines of a curve together: places and widths by least squares, heights never negative.

Heights are linear and follow from the rest, and what varies slowly is projected out, so only
places and widths are searched: variable projection with Kaufman's Jacobian inside
Levenberg-Marquardt, as in ``pipeline.kernels.variable_projection``; here by Ruhe and Wedin's form,
a joint step of which the linear part is thrown away (SIAM Rev. 22 (1980) 318).

``at`` (m, 2) are place and full width in 1/nm, ``bounds`` (m, 4) least and greatest width and the
ends of the window that the whole upper half of a line has to lie in.
"""

import numpy as np
from numba import njit

from pipeline.kernels.amplitudes import solve_subset
from pipeline.kernels.line_profiles import copy_lines, fill_moved

MOST_DAMPING = 1e7
"""Beyond this a step is lost in rounding."""
FURTHEST = 0.5
"""A step moves a line by so many of its widths, and its width by that share of it, at most."""


@njit(cache=True, nogil=True)
def solve_heights(rows, count, heights):
    """Best non-negative heights into ``heights`` (m,); by how much chi-square falls.

    The most negative is set to 0 until none is. Lines overlap little, so that this is the
    constrained minimum but for pairs that are nearly one, of which one is given up.
    """
    members = np.empty(count, np.int64)
    solution = np.empty(count)
    left = count
    for j in range(count):
        members[j] = 3 * j
        heights[j] = 0.0
    while left > 0:
        if solve_subset(rows.gram, rows.moment, members, left, solution):
            worst = 0
            for i in range(1, left):
                if solution[i] < solution[worst]:
                    worst = i
            if solution[worst] >= 0.0:
                break
        else:
            worst = left - 1
        for i in range(worst, left - 1):
            members[i] = members[i + 1]
        left -= 1
    fall = 0.0
    for i in range(left):
        heights[members[i] // 3] = solution[i]
        fall += solution[i] * rows.moment[members[i]]
    return fall


@njit(cache=True, nogil=True)
def is_pressed(at, bounds, j, axis, gradient):
    """Whether a place (axis 0) or width (1) is at a bound that ``gradient`` pushes it against."""
    place, width = at[j, 0], at[j, 1]
    least, greatest = bounds[j, 0], bounds[j, 1]
    if axis == 0:
        least, greatest = bounds[j, 2] + 0.5 * width, bounds[j, 3] - 0.5 * width
    value = place if axis == 0 else width
    slack = 1e-6 * width
    return (value <= least + slack and gradient < 0.0) or (
        value >= greatest - slack and gradient > 0.0
    )


@njit(cache=True, nogil=True)
def fill_normal(rows, at, bounds, heights, moves, count, normal, gradient, members):
    """Normal matrix and gradient of heights, places and widths; how many of them are free.

    ``members`` (3 m,) gets the free ones: those of lines with a height that press on no bound.
    ``normal`` (3 m, 3 m) is filled for these alone, ``gradient`` (3 m,) for all. Of lines that do
    not move (``moves`` is False) only the height is free.
    """
    free = 0
    for a in range(3 * count):
        height = heights[a // 3]
        factor = 1.0 if a % 3 == 0 else height
        value = rows.moment[a]
        for j in range(count):
            value -= rows.gram[a, 3 * j] * heights[j]
        gradient[a] = value * factor
        if height > 0.0 and not (
            a % 3 > 0
            and (not moves[a // 3] or is_pressed(at, bounds, a // 3, a % 3 - 1, gradient[a]))
        ):
            members[free] = a
            free += 1
    for i in range(free):
        a = members[i]
        factor = 1.0 if a % 3 == 0 else heights[a // 3]
        for k in range(i + 1):
            b = members[k]
            other = 1.0 if b % 3 == 0 else heights[b // 3]
            normal[a, b] = normal[b, a] = rows.gram[a, b] * factor * other
    return free


@njit(cache=True, nogil=True)
def height_error(rows, at, bounds, heights, count, j):
    """Error of the height of line ``j`` at its place and width, all other lines free."""
    size = 3 * count
    members, unit, solution = np.empty(size, np.int64), np.zeros(size), np.empty(size)
    free = 1
    members[0] = 3 * j
    for a in range(size):
        i = a // 3
        if i == j or heights[i] == 0.0 or (a % 3 == 2 and is_pressed(at, bounds, i, 1, -1.0)):
            continue
        members[free] = a
        free += 1
    unit[3 * j] = 1.0
    if not solve_subset(rows.gram, unit, members, free, solution):
        return np.inf
    return np.sqrt(solution[0])


@njit(cache=True, nogil=True)
def height_errors(rows, at, bounds, heights, count):
    """`height_error` of each line (m,)."""
    errors = np.empty(count)
    for j in range(count):
        errors[j] = height_error(rows, at, bounds, heights, count, j)
    return errors


@njit(cache=True, nogil=True)
def _move(at, bounds, count, step, trial):
    """``at`` moved by ``step`` (3 m,), not too far and into its bounds."""
    for j in range(count):
        place, width = at[j, 0], at[j, 1]
        furthest = FURTHEST * width
        wider = width + min(max(step[3 * j + 2], -furthest), furthest)
        trial[j, 1] = min(max(wider, bounds[j, 0]), bounds[j, 1])
        moved = place + min(max(step[3 * j + 1], -furthest), furthest)
        half = 0.5 * trial[j, 1]
        trial[j, 0] = min(max(moved, bounds[j, 2] + half), bounds[j, 3] - half)


@njit(cache=True, nogil=True)
def refine(
    q_per_nm, data_w, scale_w, basis, bounds, moves, count, steps, enough, at, heights, rows, spare
):
    """Minimise chi-square over places and widths of the first ``count`` lines.

    Parameters
    ----------
    q_per_nm, data_w, scale_w, basis
        See ``pipeline.kernels.line_profiles``; ``data_w`` is projected already.
    bounds
        (m, 4), see the module.
    moves
        Which lines' places and widths are searched (m,); rows of others are taken to be filled.
    steps
        Most steps that are tried.
    enough
        Fall of chi-square that the next step promises, below which there is none.
    at, heights
        Start (m, 2), overwritten by the minimum; (m,), overwritten.
    rows, spare
        Overwritten; ``rows`` are those of the minimum.

    Returns
    -------
    float
        By how much the lines let chi-square fall.
    """
    size = 3 * count
    normal, damped, gradient = np.empty((size, size)), np.empty((size, size)), np.empty(size)
    members, solution, step = np.empty(size, np.int64), np.empty(size), np.empty(size)
    trial, trial_heights = np.empty((count, 2)), np.empty(count)
    fill_moved(q_per_nm, data_w, scale_w, basis, at, moves, count, rows)
    copy_lines(rows, spare, ~moves, count)
    fall = solve_heights(rows, count, heights)
    damping = 1e-3
    # The two take turns: after an odd number of good steps the minimum is in the second.
    best, other, swapped = rows, spare, False
    fresh = True
    free = 0
    for _ in range(steps):
        if fresh:
            free = fill_normal(best, at, bounds, heights, moves, count, normal, gradient, members)
            fresh = False
        for a in range(size):
            step[a] = 0.0
        for i in range(free):
            a = members[i]
            for k in range(free):
                damped[a, members[k]] = normal[a, members[k]]
            if a % 3 > 0:
                damped[a, a] *= 1.0 + damping
        if not solve_subset(damped, gradient, members, free, solution):
            damping = max(damping, 1e-4) * 10.0
            if damping > MOST_DAMPING:
                break
            continue
        promised = 0.0
        for i in range(free):
            step[members[i]] = solution[i]
            promised += solution[i] * gradient[members[i]]
        if promised < enough:
            break
        _move(at, bounds, count, step, trial)
        fill_moved(q_per_nm, data_w, scale_w, basis, trial, moves, count, other)
        trial_fall = solve_heights(other, count, trial_heights)
        if trial_fall > fall:
            fall = trial_fall
            damping = max(damping * 0.1, 1e-8)
            for j in range(count):
                at[j, 0], at[j, 1] = trial[j, 0], trial[j, 1]
                heights[j] = trial_heights[j]
            best, other, swapped = other, best, not swapped
            fresh = True
        else:
            damping = max(damping, 1e-4) * 10.0
            if damping > MOST_DAMPING:
                break
    if swapped:
        copy_lines(spare, rows, moves, count)
    return fall


@njit(cache=True, nogil=True)
def fill_covariance(rows, at, bounds, heights, count, covariance):
    """Covariance of height, place and width of each line (3 m, 3 m), what is pressed being NaN.

    Data are taken to have errors of 1. What varies slowly and the other lines are free.
    """
    size = 3 * count
    normal, gradient = np.empty((size, size)), np.empty(size)
    members, unit, solution = np.empty(size, np.int64), np.empty(size), np.empty(size)
    moves = np.ones(count, np.bool_)
    free = fill_normal(rows, at, bounds, heights, moves, count, normal, gradient, members)
    for a in range(size):
        for b in range(size):
            covariance[a, b] = np.nan
    for i in range(free):
        for a in range(size):
            unit[a] = 0.0
        unit[members[i]] = 1.0
        if not solve_subset(normal, unit, members, free, solution):
            return False
        for j in range(free):
            covariance[members[i], members[j]] = solution[j]
    return True
