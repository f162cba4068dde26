"""Size distribution without a model of its shape: a regularised inversion that is never negative.

The intensity is linear in the volumes x_j of the bins and in the backgrounds b: I = K x + B b. With
whitened columns everything about the data stands in one Gram matrix. Volumes are x = exp(f), so
they are positive by themselves, and what is held smooth is f, the logarithm of the density: the
third differences of f are penalised (Silverman, Ann. Statist. 10 (1982) 795). Data that say
nothing are then answered by the smoothest curve that any population can have, a lognormal of
free place, width and amount, and every departure from it (a second population, a tail, an edge)
has to be paid for by chi-square::

    J(f, b) = 1/2 |y_w - K_w exp(f) - B_w b|^2 + alpha/2 |D3 f|^2

alpha is the one that makes the data most probable (MacKay, Neural Comput. 4 (1992) 415; for SAXS
Hansen, J. Appl. Cryst. 33 (2000) 1415), with the Gaussian approximation of the posterior,

    ln P(y | alpha) = -J + (n - 3)/2 ln alpha - 1/2 ln det H + const.

On the simulated growth of Cs-DOPA (nine frames of 0.5 to 300 s, 5e11 photons/s, 64 bins) it errs by
a total variation of 0.04 on average and 0.07 at worst. Volumes themselves held smooth in their
second differences by NNLS, alpha chosen in the same way, err by 0.07 and 0.14: one strength cannot
suit the top of a peak and the empty bins beside it.

Minimum by Gauss-Newton in f (the penalty is exact, so H = X G X + alpha D3' D3), with a line
search. All sums run in a fixed order.

Conventions: ``gram`` (m, m) and ``moment`` (m,) are of the whitened columns, n bins first, then
the backgrounds, of which those marked in ``non_negative`` may not fall below zero. ``state`` (m,)
holds f, then b.
"""

import numpy as np
from numba import njit

from pipeline.kernels.amplitudes import solve_amplitudes
from pipeline.kernels.linear import dot

ORDER = 3
RIDGE = 1e-6
"""Added to the diagonal of H at the bins: without particles nothing else holds the level of f. It
means a prior standard deviation of 1000 in ln(volume)."""
LARGEST_RISE = 1.5
"""Of f in one step, at bins that matter: exp is linear no further."""
MATTERS = 1e-4
"""Share of the volume above which a bin matters for that."""
SHORTEST = 1e-6
"""Share of a step at which the line search gives up: the minimum is met to rounding."""
FORGOTTEN = 80.0
MAX_STEPS = 60
CONVERGED = 0.01
"""Fall of J in one step that ends the iteration; the evidence is compared by units of 1."""
EVIDENT = 0.1
"""Gain in ln evidence for which it is worth going on."""


@njit(cache=True, nogil=True)
def products(columns, weight, intensity, gram, moment):
    """Whitened Gram matrix and moments; returns y_w^T y_w.

    Four points at a time, so that each row of ``gram`` is fetched a quarter as often.

    Parameters
    ----------
    columns
        (n q, m).
    weight, intensity
        (n q,); weight 0 = point not used.
    gram, moment
        (m, m) and (m,), overwritten.
    """
    n, m = columns.shape
    gram[:] = 0.0
    moment[:] = 0.0
    rows = np.zeros((4, m))
    total = 0.0
    for first in range(0, n, 4):
        for r in range(4):
            i = first + r
            w = weight[i] if i < n else 0.0
            if w == 0.0:
                rows[r] = 0.0
                continue
            value = w * intensity[i]
            total += value * value
            for k in range(m):
                rows[r, k] = w * columns[i, k]
                moment[k] += value * rows[r, k]
        for j in range(m):
            a, b, c, d = rows[0, j], rows[1, j], rows[2, j], rows[3, j]
            for k in range(j, m):
                gram[j, k] += a * rows[0, k] + b * rows[1, k] + c * rows[2, k] + d * rows[3, k]
    for j in range(m):
        for k in range(j):
            gram[j, k] = gram[k, j]
    return total


@njit(cache=True, nogil=True)
def cholesky(matrix):
    """Upper factor U of U^T U, in place (the lower triangle stays); returns ln det.

    A pivot that rounding made smaller than 1e-14 of its own diagonal is taken as that.
    """
    m = matrix.shape[0]
    before = np.diag(matrix).copy()
    log_det = 0.0
    for k in range(m):
        pivot = max(matrix[k, k], 1e-14 * before[k], 1e-300)
        log_det += np.log(pivot)
        root = np.sqrt(pivot)
        matrix[k, k] = root
        for j in range(k + 1, m):
            matrix[k, j] /= root
        for i in range(k + 1, m):
            factor = matrix[k, i]
            for j in range(i, m):
                matrix[i, j] -= factor * matrix[k, j]
    return log_det


@njit(cache=True, nogil=True)
def _solve(factor, right):
    """x of U^T U x = right, in place."""
    m = right.size
    for i in range(m):
        right[i] /= factor[i, i]
        for j in range(i + 1, m):
            right[j] -= factor[i, j] * right[i]
    for i in range(m - 1, -1, -1):
        right[i] = (right[i] - dot(factor[i, i + 1 :], right[i + 1 :])) / factor[i, i]


@njit(cache=True, nogil=True)
def add_penalty(matrix, alpha, bins):
    """Add alpha D3^T D3 to the part of the bins."""
    stencil = np.array([-1.0, 3.0, -3.0, 1.0])
    for first in range(bins - ORDER):
        for i in range(ORDER + 1):
            for j in range(ORDER + 1):
                matrix[first + i, first + j] += alpha * stencil[i] * stencil[j]


@njit(cache=True, nogil=True)
def _penalty_gradient(state, alpha, bins, gradient):
    """Add alpha D3^T D3 f to the gradient; returns alpha/2 |D3 f|^2."""
    total = 0.0
    for i in range(bins - ORDER):
        third = state[i + 3] - 3.0 * (state[i + 2] - state[i + 1]) - state[i]
        total += third * third
        gradient[i] -= alpha * third
        gradient[i + 1] += 3.0 * alpha * third
        gradient[i + 2] -= 3.0 * alpha * third
        gradient[i + 3] += alpha * third
    return 0.5 * alpha * total


@njit(cache=True, nogil=True)
def amplitudes_of(state, bins, amplitudes):
    """Volumes and backgrounds (m,) of a state, into ``amplitudes``.

    Volumes below exp(-FORGOTTEN) of the largest are zero: they matter to no sum, and as denormal
    numbers they would make all arithmetic ten times slower.
    """
    lowest = np.max(state[:bins]) - FORGOTTEN
    for j in range(bins):
        amplitudes[j] = np.exp(state[j]) if state[j] > lowest else 0.0
    amplitudes[bins:] = state[bins:]


@njit(cache=True, nogil=True)
def _objective(gram, moment, square, alpha, bins, state, amplitudes, slope, gradient):
    """J at a state; fills amplitudes, slope = G a - c, and the gradient by the state."""
    amplitudes_of(state, bins, amplitudes)
    value = square
    for j in range(state.size):
        product = dot(gram[j], amplitudes)
        value += amplitudes[j] * (product - 2.0 * moment[j])
        slope[j] = product - moment[j]
        gradient[j] = slope[j] * (amplitudes[j] if j < bins else 1.0)
    return 0.5 * value + _penalty_gradient(state, alpha, bins, gradient)


@njit(cache=True, nogil=True)
def curvature(gram, alpha, bins, held, amplitudes, matrix):
    """H = X G X + alpha D3^T D3 (m, m); a background in ``held`` is taken out."""
    m = amplitudes.size
    for i in range(m):
        left = amplitudes[i] if i < bins else 1.0
        for j in range(m):
            matrix[i, j] = left * gram[i, j] * (amplitudes[j] if j < bins else 1.0)
    add_penalty(matrix, alpha, bins)
    for j in range(bins):
        matrix[j, j] += RIDGE
    for j in range(bins, m):
        if held[j - bins]:
            matrix[j, :] = 0.0
            matrix[:, j] = 0.0
            matrix[j, j] = 1.0


@njit(cache=True, nogil=True)
def minimise(gram, moment, square, alpha, bins, non_negative, state, held):
    """Find the minimum of J from ``state``, which is overwritten.

    Parameters
    ----------
    gram, moment, square
        Of the whitened columns; square is y_w^T y_w.
    alpha
        Strength of the penalty.
    bins
        How many of the columns are bins.
    non_negative
        (m - bins,) booleans, of the backgrounds.
    state
        (m,) start, overwritten by the minimum.
    held
        (m - bins,) booleans, overwritten: backgrounds that stand at zero.

    Returns
    -------
    tuple
        J, ln det H and the number of steps.
    """
    m = state.size
    matrix = np.empty((m, m))
    amplitudes, slope, gradient = np.empty(m), np.empty(m), np.empty(m)
    other = np.empty(m)
    other_amplitudes, other_slope, other_gradient = np.empty(m), np.empty(m), np.empty(m)
    step = np.empty(m)
    value = _objective(gram, moment, square, alpha, bins, state, amplitudes, slope, gradient)
    taken = 0
    for _ in range(MAX_STEPS):
        taken += 1
        for j in range(bins, m):
            held[j - bins] = non_negative[j - bins] and state[j] <= 0.0 and slope[j] >= 0.0
        curvature(gram, alpha, bins, held, amplitudes, matrix)
        cholesky(matrix)
        for j in range(m):
            step[j] = 0.0 if j >= bins and held[j - bins] else -gradient[j]
        _solve(matrix, step)
        length = 1.0
        least = MATTERS * np.sum(amplitudes[:bins])
        for j in range(bins):
            if amplitudes[j] > least and length * step[j] > LARGEST_RISE:
                length = LARGEST_RISE / step[j]
        expected = -dot(gradient, step)
        before = value
        while True:
            for j in range(m):
                other[j] = state[j] + length * step[j]
                if j >= bins and non_negative[j - bins] and other[j] < 0.0:
                    other[j] = 0.0
            value = _objective(
                gram, moment, square, alpha, bins, other,
                other_amplitudes, other_slope, other_gradient,
            )  # fmt: skip
            # Not a number where exp overflowed: then the step is too long as well.
            if value <= before - 1e-4 * length * expected or length < SHORTEST:
                break
            length *= 0.4
        if not value <= before:
            value = before
            break
        state[:] = other
        amplitudes[:] = other_amplitudes
        slope[:] = other_slope
        gradient[:] = other_gradient
        if before - value < CONVERGED:
            break
    for j in range(bins, m):
        held[j - bins] = non_negative[j - bins] and state[j] <= 0.0 and slope[j] >= 0.0
    curvature(gram, alpha, bins, held, amplitudes, matrix)
    return value, cholesky(matrix), taken


@njit(cache=True, nogil=True)
def start(gram, moment, square, bins, non_negative, state):
    """State of an even density and backgrounds that fit best, into ``state``."""
    m = state.size
    extra = m - bins
    small, right = np.empty((1 + extra, 1 + extra)), np.empty(1 + extra)
    small[0, 0] = np.sum(gram[:bins, :bins])
    right[0] = np.sum(moment[:bins])
    positive = np.ones(1 + extra, np.bool_)
    for j in range(extra):
        small[0, 1 + j] = small[1 + j, 0] = np.sum(gram[bins + j, :bins])
        small[1 + j, 1:] = gram[bins + j, bins:]
        right[1 + j] = moment[bins + j]
        positive[1 + j] = non_negative[j]
    fitted = np.empty(1 + extra)
    solve_amplitudes(small, right, positive, 0, fitted)
    # An amount of zero has no logarithm: a hundredth of all intensity instead.
    level = fitted[0] if fitted[0] > 0.0 else 0.01 * np.sqrt(square / small[0, 0])
    state[:bins] = np.log(level)
    state[bins:] = fitted[1:]


@njit(cache=True, nogil=True)
def most_probable(gram, moment, square, bins, non_negative, log_alpha, step, bounds, state, held):
    """Climb the evidence in steps of ln alpha, each minimum started from the best one so far.

    Parameters
    ----------
    log_alpha, step
        Where to begin, and the step; 0 = stay.
    bounds
        Lowest and highest ln alpha.
    state, held
        Start, overwritten by the best; see `minimise`.

    Returns
    -------
    tuple
        Best ln alpha, J there, its ln evidence, and all steps taken.
    """
    best_alpha, best_value, best_evidence, steps = log_alpha, 0.0, -np.inf, 0
    trial, trial_held = np.empty_like(state), np.empty_like(held)
    begun = state.copy()
    for direction in (0, -1, 1):
        if (direction != 0 and step == 0.0) or (direction == 1 and best_alpha < log_alpha):
            break
        place = log_alpha + direction * step
        while bounds[0] <= place <= bounds[1]:
            trial[:] = state if best_evidence > -np.inf else begun
            value, log_det, taken = minimise(
                gram, moment, square, np.exp(place), bins, non_negative, trial, trial_held
            )
            steps += taken
            evidence = -value + 0.5 * (bins - ORDER) * place - 0.5 * log_det
            if not evidence > best_evidence + (EVIDENT if direction else 0.0):
                break
            best_alpha, best_value, best_evidence = place, value, evidence
            state[:] = trial
            held[:] = trial_held
            if direction == 0:
                break
            place += direction * step
    return best_alpha, best_value, best_evidence, steps


@njit(cache=True, nogil=True)
def model_of(columns, amplitudes, model):
    """Intensity (n q,) of amplitudes (m,), into ``model``."""
    for i in range(model.size):
        model[i] = dot(columns[i], amplitudes)
