"""Cells refined on powder lines: which reflections a line is, and least squares."""

import math

import numpy as np
from numba import njit

from pipeline.kernels.linear import inverse3

GATE = 4.0
"""A line further from a reflection than so many standard deviations is not of it."""
MOST_PREDICTED = 128
"""Reflections in a window beyond which a cell is not weighed: lines are no longer told apart."""
HALF_MERGED = 0.6
"""Reflections of one line are within so many widths of it: two Gaussians of equal height have one
maximum up to 0.85 widths between them, three up to more."""
BLEND = 0.3
"""Error of the place of reflections that are one, in units of their extent: with areas that scatter
by half about their weights, the centre of weight of two moves by so much."""


@njit(cache=True, nogil=True)
def allowed(cell, free, least, most, ascending):
    """Whether u, v, w are positive, in the lattice's range and the permutation that stands."""
    for j in range(free):
        if not cell[j] > 0.0:
            return False
    for j in range(1, free):
        ratio = cell[0] / cell[j]
        if ratio < least[j - 1] or ratio > most[j - 1]:
            return False
    return not (ascending == 3 and cell[1] < cell[2])


@njit(cache=True, nogil=True)
def predict(cell, forms, weight, window, q, row):
    """Reflections inside the window, by rising q.

    Parameters
    ----------
    cell
        u, v, w (3,).
    window
        (lowest, highest) q.
    q, row
        Overwritten (MOST_PREDICTED,): places, and rows of ``forms``.

    Returns
    -------
    int
        How many; -1 if there are too many.
    """
    scale = 4.0 * math.pi * math.pi
    low, high = window[0] ** 2 / scale, window[1] ** 2 / scale
    count = 0
    for r in range(forms.shape[0]):
        at = cell[0] * forms[r, 0] + cell[1] * forms[r, 1] + cell[2] * forms[r, 2]
        if weight[r] <= 0.0 or at < low or at > high:
            continue
        if count == MOST_PREDICTED:
            return -1
        i = count
        while i > 0 and q[i - 1] > at:
            q[i] = q[i - 1]
            row[i] = row[i - 1]
            i -= 1
        q[i] = at
        row[i] = r
        count += 1
    for i in range(count):
        q[i] = 2.0 * math.pi * math.sqrt(q[i])
    return count


@njit(cache=True, nogil=True)
def _gather(line, line_q, reach, count, q, row, weight, forms, of_reflection, meant, form):
    """One line's reflections within ``reach`` as one, at their centre of weight."""
    mass, first, second = 0.0, 0.0, 0.0
    form[line] = 0.0
    for r in range(count):
        if of_reflection[r] != line:
            continue
        off = q[r] - line_q[line]
        if abs(off) > reach:
            of_reflection[r] = -1
            continue
        w = weight[row[r]]
        mass += w
        first += w * off
        second += w * off * off
        for j in range(3):
            form[line, j] += w * forms[row[r], j]
    meant[line, 0] = mass
    if mass > 0.0:
        for j in range(3):
            form[line, j] /= mass
        meant[line, 1] = line_q[line] + first / mass
        meant[line, 2] = math.sqrt(max(second / mass - (first / mass) ** 2, 0.0))


@njit(cache=True, nogil=True)
def assign(line_q, line_error, merge, count, q, row, weight, forms, of_reflection, meant, form):
    """Reflections to their nearest lines, where they are within its width or error.

    Parameters
    ----------
    line_q, line_error, merge
        Lines (n,), and the widths within which reflections are one line (n,).
    count, q, row, weight, forms
        As ``predict`` has them.
    of_reflection
        Overwritten (count,): line of each reflection, -1 without.
    meant, form
        Overwritten: (n, 3) with the sum of the weights of each line's reflections, 0 without, their
        centre and their extent (standard deviation); (n, 3) with their mean form.
    """
    i = 0
    for r in range(count):
        while i + 1 < line_q.size and abs(line_q[i + 1] - q[r]) < abs(line_q[i] - q[r]):
            i += 1
        of_reflection[r] = i
    for i in range(line_q.size):
        reach = max(HALF_MERGED * merge[i], GATE * line_error[i])
        _gather(i, line_q, reach, count, q, row, weight, forms, of_reflection, meant, form)
        if meant[i, 0] == 0.0:
            continue
        error = math.hypot(line_error[i], BLEND * meant[i, 2])
        if abs(meant[i, 1] - line_q[i]) > GATE * error:
            # Not a blend of them all: of those at its place, perhaps.
            reach = GATE * line_error[i]
            _gather(i, line_q, reach, count, q, row, weight, forms, of_reflection, meant, form)


@njit(cache=True, nogil=True)
def least_squares(line_q, line_error, meant, form, free, cell, covariance):
    """Weighted least squares of u, v, w on the indexed lines; False where they do not settle it."""
    normal, right = np.zeros((3, 3)), np.zeros(3)
    scale = 1.0 / (4.0 * math.pi * math.pi)
    for i in range(line_q.size):
        if meant[i, 0] == 0.0:
            continue
        error = 2.0 * line_q[i] * scale * math.hypot(line_error[i], BLEND * meant[i, 2])
        w = 1.0 / (error * error)
        for j in range(free):
            right[j] += w * form[i, j] * line_q[i] * line_q[i] * scale
            for k in range(free):
                normal[j, k] += w * form[i, j] * form[i, k]
    for j in range(free, 3):
        normal[j, j] = 1.0
    if not inverse3(normal, covariance):
        return False
    for j in range(free, 3):
        covariance[j, j] = 0.0
    for j in range(free):
        cell[j] = 0.0
        for k in range(free):
            cell[j] += covariance[j, k] * right[k]
        if not cell[j] > 0.0:
            return False
    return True
