"""Amplitudes of fixed curves by least squares, some of which must not be negative.

All from the Gram matrix of the columns, so a fit of a thousand points costs no more than one of
ten once the products are formed. Columns differ by 1e8, so matrices are scaled to unit diagonal.
"""

import numpy as np
from numba import njit

SINGULAR = 1e-13
"""A pivot of the unit-diagonal Gram matrix below this is rounding: the columns are one."""


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
