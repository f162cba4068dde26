"""Fit of one free population of spheres beside fixed columns, by variable projection.

The intensity is linear in its amplitudes: I = a_0 C_0 + ... + a_m-1 C_m-1 + a_m <F^2>(D, s). For
any (D, s) the best amplitudes follow from one whitened Gram matrix, so only two parameters are
searched. Starts come from an exhaustive table of (D, s/D): an amplitude at zero has no gradient,
so single starts fail there; and no frame depends on the frame before it.

Method: Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973) 413, with Kaufman's reduced Jacobian
(BIT 15 (1975) 49) inside Levenberg-Marquardt.

Conventions of all functions here: ``weight`` is 1/sigma (0 = point not used), columns and
intensities named ``..._w`` have been multiplied with it, and the free column is the last one.
"""

import numpy as np
from numba import njit

from pipeline.kernels.linear import dot
from pipeline.kernels.sphere import mean_square_amplitude

SINGULAR = 1e-13
"""A pivot of the unit-diagonal Gram matrix below this is rounding: the columns are one."""
MAX_STEPS = 60
"""Of Levenberg-Marquardt: a stop for one that wanders along a bound. It converges quadratically,
so one that needs more comes from a start that loses anyway."""
CONVERGED = 1e-8
"""Relative fall of chi-square that ends the refinement."""


@njit(cache=True, nogil=True)
def _solve_subset(gram, moment, members, count, solution):
    """Least squares on the columns ``members[:count]``; False if they are collinear.

    Cholesky of the Gram matrix scaled to unit diagonal, because columns differ by 1e8.
    """
    factor = np.empty((count, count))
    half = np.empty(count)
    for i in range(count):
        norm_i = np.sqrt(gram[members[i], members[i]])
        if norm_i == 0.0:
            return False
        for j in range(i + 1):
            norm_j = np.sqrt(gram[members[j], members[j]])
            value = gram[members[i], members[j]] / (norm_i * norm_j)
            for k in range(j):
                value -= factor[i, k] * factor[j, k]
            if i == j:
                if value < SINGULAR:
                    return False
                factor[i, i] = np.sqrt(value)
            else:
                factor[i, j] = value / factor[j, j]
        value = moment[members[i]] / norm_i
        for k in range(i):
            value -= factor[i, k] * half[k]
        half[i] = value / factor[i, i]
    for i in range(count - 1, -1, -1):
        value = half[i]
        for k in range(i + 1, count):
            value -= factor[k, i] * solution[k]
        solution[i] = value / factor[i, i]
    for i in range(count):
        solution[i] /= np.sqrt(gram[members[i], members[i]])
    return True


@njit(cache=True, nogil=True)
def solve_amplitudes(gram, moment, non_negative, banned, amplitudes):
    """Best amplitudes of which some must not be negative.

    Every set of columns is tried, the full one first: with at most 5 columns that is cheaper
    than an active-set method, and the best feasible one is the constrained minimum.

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
    members = np.empty(size, np.int64)
    solution = np.empty(size)
    amplitudes[:] = 0.0
    best = 0.0
    for left_out in range(1 << size):
        if left_out & banned != banned:
            continue
        count = 0
        for j in range(size):
            if not (left_out >> j) & 1:
                members[count] = j
                count += 1
        if count == 0 or not _solve_subset(gram, moment, members, count, solution):
            continue
        fall = 0.0
        feasible = True
        for i in range(count):
            if non_negative[members[i]] and solution[i] < 0.0:
                feasible = False
            fall += solution[i] * moment[members[i]]
        if feasible and fall > best:
            best = fall
            amplitudes[:] = 0.0
            for i in range(count):
                amplitudes[members[i]] = solution[i]
            if left_out == banned:
                break
    return best


@njit(cache=True, nogil=True)
def fill_table(q_per_nm, diameters_nm, relative_sigmas, table):
    """<F^2> on a grid of starts, into ``table`` (diameters, relative sigmas, n)."""
    work = np.empty((3, q_per_nm.size))
    for i in range(diameters_nm.size):
        for j in range(relative_sigmas.size):
            diameter = diameters_nm[i]
            mean_square_amplitude(q_per_nm, diameter, relative_sigmas[j] * diameter, work)
            table[i, j] = work[0]


@njit(cache=True, nogil=True)
def _fixed_products(intensity_w, fixed_w, gram, moment):
    """Gram matrix and moments of the fixed columns, into the upper left of ``gram``."""
    for i in range(fixed_w.shape[0]):
        moment[i] = dot(fixed_w[i], intensity_w)
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = dot(fixed_w[i], fixed_w[j])


@njit(cache=True, nogil=True)
def fit_fixed(intensity_w, fixed_w, non_negative, banned, amplitudes):
    """Chi-square and amplitudes (m,) of the fixed columns alone, without a free population."""
    size = fixed_w.shape[0]
    gram = np.empty((size, size))
    moment = np.empty(size)
    _fixed_products(intensity_w, fixed_w, gram, moment)
    total = dot(intensity_w, intensity_w)
    return total - solve_amplitudes(gram, moment, non_negative, banned, amplitudes)


@njit(cache=True, nogil=True)
def search(intensity_w, weight, fixed_w, non_negative, banned, table, chi2):
    """Chi-square at every start of ``table``, for several models at once.

    Parameters
    ----------
    intensity_w, weight, fixed_w, non_negative
        See the conventions of the module; ``non_negative`` is (m + 1,), the free column last.
    banned
        (models,) integers: columns that a model does without, as bits.
    table
        From ``fill_table``: (diameters, relative sigmas, n).
    chi2
        (models, diameters, relative sigmas), overwritten.
    """
    size = fixed_w.shape[0] + 1
    gram = np.empty((size, size))
    moment = np.empty(size)
    amplitudes = np.empty(size)
    _fixed_products(intensity_w, fixed_w, gram, moment)
    total = dot(intensity_w, intensity_w)
    free_w = np.empty(weight.size)
    last = size - 1
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            for k in range(weight.size):
                free_w[k] = table[i, j, k] * weight[k]
            moment[last] = dot(free_w, intensity_w)
            gram[last, last] = dot(free_w, free_w)
            for k in range(last):
                gram[k, last] = gram[last, k] = dot(fixed_w[k], free_w)
            for model in range(banned.size):
                chi2[model, i, j] = total - solve_amplitudes(
                    gram, moment, non_negative, banned[model], amplitudes
                )


@njit(cache=True, nogil=True)
def _products(q_per_nm, intensity_w, weight, fixed_w, diameter, relative, work, gram, moment):
    """Gram matrix and moments of fixed columns, free column and its two derivatives.

    The derivatives are by the diameter at constant s/D, and by s/D.
    """
    fixed = fixed_w.shape[0]
    mean_square_amplitude(q_per_nm, diameter, relative * diameter, work)
    for k in range(weight.size):
        by_sigma = work[2, k] * weight[k]
        work[0, k] *= weight[k]
        work[1, k] = work[1, k] * weight[k] + relative * by_sigma
        work[2, k] = diameter * by_sigma
    for i in range(3):
        moment[fixed + i] = dot(work[i], intensity_w)
        for j in range(fixed):
            value = dot(work[i], fixed_w[j])
            gram[fixed + i, j] = gram[j, fixed + i] = value
        for j in range(i + 1):
            value = dot(work[i], work[j])
            gram[fixed + i, fixed + j] = gram[fixed + j, fixed + i] = value


@njit(cache=True, nogil=True)
def _reduced_system(gram, moment, amplitudes, normal, gradient):
    """Normal matrix (2, 2) and gradient (2,) of diameter and s/D, amplitudes projected out."""
    size = amplitudes.size
    free = amplitudes[size - 1]
    members = np.empty(size, np.int64)
    count = 0
    for j in range(size):
        if amplitudes[j] != 0.0:
            members[count] = j
            count += 1
    projected = np.empty((2, size))
    for p in range(2):
        row = size + p
        gradient[p] = moment[row]
        for j in range(count):
            gradient[p] -= gram[row, members[j]] * amplitudes[members[j]]
        gradient[p] *= free
        if not _solve_subset(gram, gram[row], members, count, projected[p]):
            return False
    for p in range(2):
        for r in range(2):
            value = gram[size + p, size + r]
            for j in range(count):
                value -= gram[size + p, members[j]] * projected[r, j]
            normal[p, r] = value * free * free
    return True


@njit(cache=True, nogil=True)
def _damped_step(normal, gradient, damping, at, lower, upper, step):
    """Levenberg-Marquardt step inside a box; parameters that press on a bound stay there."""
    held0 = (at[0] <= lower[0] and gradient[0] < 0.0) or (at[0] >= upper[0] and gradient[0] > 0.0)
    held1 = (at[1] <= lower[1] and gradient[1] < 0.0) or (at[1] >= upper[1] and gradient[1] > 0.0)
    h00 = normal[0, 0] * (1.0 + damping)
    h11 = normal[1, 1] * (1.0 + damping)
    h01 = normal[0, 1]
    step[:] = 0.0
    if held0 and held1:
        return
    if held0:
        step[1] = gradient[1] / h11
    elif held1:
        step[0] = gradient[0] / h00
    else:
        determinant = h00 * h11 - h01 * h01
        step[0] = (h11 * gradient[0] - h01 * gradient[1]) / determinant
        step[1] = (h00 * gradient[1] - h01 * gradient[0]) / determinant
    for p in range(2):
        step[p] = min(max(at[p] + step[p], lower[p]), upper[p]) - at[p]


@njit(cache=True, nogil=True)
def refine(
    q_per_nm, intensity_w, weight, fixed_w, non_negative, banned, lower, upper, at, amplitudes
):
    """Levenberg-Marquardt over (diameter, s/D) from ``at``, amplitudes projected out.

    Parameters
    ----------
    q_per_nm, intensity_w, weight
        (n,) arrays, see the conventions of the module.
    fixed_w
        Whitened fixed columns (m, n).
    non_negative
        (m + 1,) booleans, the free column last.
    banned
        Columns to do without, as bits.
    lower, upper
        Bounds of (diameter in nm, s/D).
    at
        Start (2,), overwritten by the minimum.
    amplitudes
        (m + 1,), overwritten.

    Returns
    -------
    float
        Chi-square at the minimum.
    """
    size = fixed_w.shape[0] + 1
    gram, trial_gram = np.empty((size + 2, size + 2)), np.empty((size + 2, size + 2))
    moment, trial_moment = np.empty(size + 2), np.empty(size + 2)
    work = np.empty((3, q_per_nm.size))
    normal, gradient, step = np.empty((2, 2)), np.empty(2), np.empty(2)
    trial = np.empty(size)
    _fixed_products(intensity_w, fixed_w, gram, moment)
    _fixed_products(intensity_w, fixed_w, trial_gram, trial_moment)
    total = dot(intensity_w, intensity_w)
    _products(q_per_nm, intensity_w, weight, fixed_w, at[0], at[1], work, gram, moment)
    chi2 = total - solve_amplitudes(
        gram[:size, :size], moment[:size], non_negative, banned, amplitudes
    )
    damping = 1e-3
    for _ in range(MAX_STEPS):
        if amplitudes[size - 1] == 0.0:
            break
        if not _reduced_system(gram, moment, amplitudes, normal, gradient):
            break
        _damped_step(normal, gradient, damping, at, lower, upper, step)
        if not (abs(step[0]) > 1e-12 or abs(step[1]) > 1e-12):
            break
        _products(
            q_per_nm,
            intensity_w,
            weight,
            fixed_w,
            at[0] + step[0],
            at[1] + step[1],
            work,
            trial_gram,
            trial_moment,
        )
        trial_chi2 = total - solve_amplitudes(
            trial_gram[:size, :size], trial_moment[:size], non_negative, banned, trial
        )
        if trial_chi2 < chi2:
            fall = chi2 - trial_chi2
            chi2 = trial_chi2
            at += step
            amplitudes[:] = trial
            gram, trial_gram = trial_gram, gram
            moment, trial_moment = trial_moment, moment
            damping = max(damping * 0.1, 1e-9)
            if fall < CONVERGED * chi2:
                break
        else:
            damping *= 10.0
            if damping > 1e9:
                break
    return chi2


@njit(cache=True, nogil=True)
def fit_free(
    q_per_nm,
    intensity_w,
    weight,
    fixed_w,
    non_negative,
    banned,
    diameters_nm,
    relative_sigmas,
    chi2_map,
    starts,
    best_at,
    best_amplitudes,
):
    """Refine the ``starts`` best minima of one model's map from ``search``; keep the best.

    Returns chi-square; the minimum goes into ``best_at`` (diameter, s/D) and ``best_amplitudes``.
    ``chi2_map`` is used up. Bounds are the ends of ``diameters_nm`` and ``relative_sigmas``.
    """
    rows, columns = diameters_nm.size, relative_sigmas.size
    lower = np.array([diameters_nm[0], relative_sigmas[0]])
    upper = np.array([diameters_nm[-1], relative_sigmas[-1]])
    at, amplitudes = np.empty(2), np.empty(best_amplitudes.size)
    best = np.inf
    for _ in range(starts):
        low = np.inf
        row = column = -1
        for i in range(rows):
            for j in range(columns):
                if chi2_map[i, j] < low:
                    low, row, column = chi2_map[i, j], i, j
        if row < 0:
            break
        at[0], at[1] = diameters_nm[row], relative_sigmas[column]
        # Its neighbours lie in the same valley: they are no other minimum.
        for i in range(max(row - 2, 0), min(row + 3, rows)):
            for j in range(max(column - 1, 0), min(column + 2, columns)):
                chi2_map[i, j] = np.inf
        value = refine(
            q_per_nm,
            intensity_w,
            weight,
            fixed_w,
            non_negative,
            banned,
            lower,
            upper,
            at,
            amplitudes,
        )
        if value < best:
            best = value
            best_at[:] = at
            best_amplitudes[:] = amplitudes
    return best


@njit(cache=True, nogil=True)
def information(q_per_nm, weight, fixed_w, at, amplitudes, matrix):
    """Fisher information (m + 3, m + 3) of amplitudes, diameter (nm) and sigma (nm)."""
    fixed = fixed_w.shape[0]
    work = np.empty((3, q_per_nm.size))
    mean_square_amplitude(q_per_nm, at[0], at[0] * at[1], work)
    for i in range(3):
        factor = 1.0 if i == 0 else amplitudes[fixed]
        for k in range(weight.size):
            work[i, k] *= weight[k] * factor
        for j in range(fixed):
            matrix[fixed + i, j] = matrix[j, fixed + i] = dot(work[i], fixed_w[j])
        for j in range(i + 1):
            value = dot(work[i], work[j])
            matrix[fixed + i, fixed + j] = matrix[fixed + j, fixed + i] = value
    for i in range(fixed):
        for j in range(i + 1):
            matrix[i, j] = matrix[j, i] = dot(fixed_w[i], fixed_w[j])
