"""Amplitudes of fixed curves by least squares, some of which must not be negative.

All from the Gram matrix of the columns, so a fit of a thousand points costs no more than one of
ten once the products are formed. Columns differ by 1e8, so matrices are scaled to unit diagonal.
"""

import numpy as np
from numba import njit

SINGULAR = 1e-13
"""A pivot of the unit-diagonal Gram matrix below this is rounding: the columns are one."""
NO_GAIN = 1e-6
"""A column that would rise by less than this many standard errors stays at zero."""


@njit(cache=True, nogil=True)
def _solve_scaled(scaled, moment, members, count, factor, solution):
    """Cholesky on the columns ``members[:count]`` of a unit-diagonal matrix; False if singular."""
    for i in range(count):
        row = members[i]
        for j in range(i + 1):
            value = scaled[row, members[j]]
            for k in range(j):
                value -= factor[i, k] * factor[j, k]
            if i != j:
                factor[i, j] = value * factor[j, j]
            elif value < SINGULAR:
                return False
            else:
                # The reciprocal: it only ever divides.
                factor[i, i] = 1.0 / np.sqrt(value)
        value = moment[row]
        for k in range(i):
            value -= factor[i, k] * solution[k]
        solution[i] = value * factor[i, i]
    for i in range(count - 1, -1, -1):
        value = solution[i]
        for k in range(i + 1, count):
            value -= factor[k, i] * solution[k]
        solution[i] = value * factor[i, i]
    return True


@njit(cache=True, nogil=True)
def solve_subset(gram, moment, members, count, solution):
    """Least squares on the columns ``members[:count]``; False if they are collinear.

    Parameters
    ----------
    gram, moment
        C^T C (k, k) and C^T y (k,).
    members, count
        Columns that take part.
    solution
        At least (count,), overwritten in the order of ``members``.
    """
    norms = np.empty(count)
    scaled = np.empty((count, count))
    right = np.empty(count)
    order = np.arange(count)
    for i in range(count):
        norms[i] = np.sqrt(gram[members[i], members[i]])
        if norms[i] == 0.0:
            return False
    for i in range(count):
        right[i] = moment[members[i]] / norms[i]
        for j in range(count):
            scaled[i, j] = gram[members[i], members[j]] / (norms[i] * norms[j])
    if not _solve_scaled(scaled, right, order, count, np.empty((count, count)), solution):
        return False
    for i in range(count):
        solution[i] /= norms[i]
    return True


@njit(cache=True, nogil=True)
def invert_subset(gram, members, count, out):
    """Inverse of the columns ``members[:count]`` of a Gram matrix, into ``out`` (k, k).

    0 in all other rows and columns; False, with NaN in those, if they are collinear.
    """
    out[:] = 0.0
    unit, column = np.zeros(gram.shape[0]), np.empty(gram.shape[0])
    for j in range(count):
        unit[members[j]] = 1.0
        known = solve_subset(gram, unit, members, count, column)
        unit[members[j]] = 0.0
        if not known:
            for a in range(count):
                for b in range(count):
                    out[members[a], members[b]] = np.nan
            return False
        for i in range(count):
            out[members[i], members[j]] = column[i]
    return True


@njit(cache=True, nogil=True)
def solve_amplitudes(gram, moment, non_negative, banned, amplitudes):
    """Best amplitudes of which some must not be negative.

    Sets of columns are tried, the full one first: with at most 6 columns that is cheaper than an
    active-set method, and the best feasible one is the constrained minimum.

    Parameters
    ----------
    gram, moment
        C^T C (k, k) and C^T y (k,) of the whitened columns.
    non_negative
        (k,) booleans.
    banned
        Bit j set = column j is left out in any case.
    amplitudes
        (k,), overwritten; 0 for a column that is left out.

    Returns
    -------
    float
        How much chi-square falls below y^T y.
    """
    size = moment.size
    members, norms = np.empty(size, np.int64), np.empty(size)
    scaled, factor = np.empty((size, size)), np.empty((size, size))
    right, solution = np.empty(size), np.empty(size)
    for i in range(size):
        amplitudes[i] = 0.0
        norms[i] = np.sqrt(gram[i, i])
        if norms[i] == 0.0:
            banned |= 1 << i
            norms[i] = 1.0
        right[i] = moment[i] / norms[i]
        for j in range(i + 1):
            scaled[i, j] = scaled[j, i] = gram[i, j] / (norms[i] * norms[j])
    best = 0.0
    for left_out in range(1 << size):
        if left_out & banned != banned:
            continue
        count = 0
        for j in range(size):
            if not (left_out >> j) & 1:
                members[count] = j
                count += 1
        if count == 0 or not _solve_scaled(scaled, right, members, count, factor, solution):
            continue
        fall = 0.0
        feasible = True
        for i in range(count):
            if non_negative[members[i]] and solution[i] < 0.0:
                feasible = False
            fall += solution[i] * right[members[i]]
        if feasible and fall > best:
            best = fall
            amplitudes[:] = 0.0
            for i in range(count):
                amplitudes[members[i]] = solution[i] / norms[members[i]]
            if left_out == banned:
                break
    return best


@njit(cache=True, nogil=True)
def solve_active_set(gram, moment, non_negative, amplitudes):
    """Best amplitudes of many columns, of which some must not be negative.

    Active sets (Lawson and Hanson, Solving Least Squares Problems, 1974, ch. 23), begun with the
    columns that ``amplitudes`` has above zero, and all that may be negative.

    Parameters
    ----------
    gram, moment
        C^T C (k, k) and C^T y (k,) of the whitened columns.
    non_negative
        (k,) booleans.
    amplitudes
        (k,), the start; overwritten, 0 for a column that is left out.

    Returns
    -------
    float
        How much chi-square falls below y^T y.
    """
    size = moment.size
    taken = np.zeros(size, np.bool_)
    refused = np.zeros(size, np.bool_)
    members, solution = np.empty(size, np.int64), np.empty(size)
    for j in range(size):
        refused[j] = not gram[j, j] > 0.0
        taken[j] = not refused[j] and (not non_negative[j] or amplitudes[j] > 0.0)
        amplitudes[j] = max(amplitudes[j], 0.0) if taken[j] and non_negative[j] else 0.0
    last = -1
    for _ in range(3 * size):
        # Inner loop: solve, and step back to where the first amplitude meets zero.
        while True:
            count = 0
            for j in range(size):
                if taken[j]:
                    members[count] = j
                    count += 1
            if count == 0:
                break
            if not solve_subset(gram, moment, members, count, solution):
                # Collinear: the newest (or last) column that may go, goes for good.
                gone = last
                if gone < 0 or not taken[gone]:
                    gone = members[count - 1]
                taken[gone], refused[gone], amplitudes[gone] = False, True, 0.0
                continue
            step, first = 1.0, -1
            for i in range(count):
                j = members[i]
                if non_negative[j] and solution[i] <= 0.0:
                    share = amplitudes[j] / (amplitudes[j] - solution[i] + 1e-300)
                    if first < 0 or share < step:
                        step, first = share, j
            for i in range(count):
                j = members[i]
                if first < 0 or not non_negative[j]:
                    amplitudes[j] = solution[i]
                else:
                    amplitudes[j] += step * (solution[i] - amplitudes[j])
            if first < 0:
                break
            taken[first], amplitudes[first] = False, 0.0
        best, last = 0.0, -1
        for j in range(size):
            if taken[j] or refused[j]:
                continue
            slope = moment[j]
            for i in range(count):
                slope -= gram[j, members[i]] * amplitudes[members[i]]
            # In standard errors, so that columns of any size compare.
            slope /= np.sqrt(gram[j, j])
            if slope > max(best, NO_GAIN):
                best, last = slope, j
        if last < 0:
            break
        taken[last] = True
    fall = 0.0
    for j in range(size):
        fall += amplitudes[j] * moment[j]
    return fall
