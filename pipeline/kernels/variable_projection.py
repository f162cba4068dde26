"""Fit of up to two free populations beside fixed columns, by variable projection.

The intensity is linear in its amplitudes: I = sum a_j C_j + sum b_p <F^2>_p(D_p, s_p/D_p). For any
sizes the best amplitudes follow from one whitened Gram matrix, so only the sizes are searched, two
numbers a population. Starts come from an exhaustive table of (D, s/D) for the crystals: an
amplitude at zero has no gradient, so single starts fail there.

Method: Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973) 413, with Kaufman's reduced Jacobian
(BIT 15 (1975) 49) inside Levenberg-Marquardt.

Conventions of all functions here: ``weight`` is 1/sigma (0 = point not used); columns and
intensities named ``..._w`` have been multiplied with it; columns are in the order of fixed ones,
then populations (agglomerates before crystals); sizes ``at`` are (populations, 2): mean in nm and
s/D; ``banned`` are columns to do without, as bits.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels.amplitudes import solve_amplitudes, solve_subset
from pipeline.kernels.averages import fill_average
from pipeline.kernels.linear import dot

MAX_STEPS = 60
"""Of Levenberg-Marquardt: a stop for one that wanders along a bound. It converges in 3 to 12 steps,
so one that needs more comes from a start that loses anyway."""
CONVERGED = 1e-5
"""Fall of chi-square that the next step promises, below which there is none: 0.003 standard errors
from the minimum at most."""
MOST_DAMPING = 1e9
"""Beyond this a step is lost in rounding."""


class Problem(NamedTuple):
    """What does not change from frame to frame."""

    kinds: np.ndarray
    """Code of each population's distribution of sizes (p,)."""
    nodes: np.ndarray
    """Sizes of the tables' rows (k,), nm."""
    steps: np.ndarray
    """Widths that the rows stand for (k,), nm."""
    q_max: float
    """Largest q of the tables, 1/nm."""
    tables: np.ndarray
    """|F|^2 of each population at each size (p, k, n), nm^6."""
    fixed: np.ndarray
    """Curves of which only the amplitude is fitted (m, n)."""
    non_negative: np.ndarray
    """Whether each amplitude must not be negative (m + p,)."""
    lower: np.ndarray
    """Least mean in nm and s/D of each population (p, 2)."""
    upper: np.ndarray
    """Greatest (p, 2); equal to ``lower``: held."""
    held: np.ndarray
    """Whether mean and s/D are both held (p,)."""
    held_curves: np.ndarray
    """<F^2> of populations that are held (p, n), nm^6."""
    prior_nm: np.ndarray
    """Expected mean and standard deviation of the sizes, nm (p, 2)."""
    prior_weight: np.ndarray
    """One over the standard deviations of these expectations, 1/nm; 0 = nothing is known (p, 2)."""


@njit(cache=True, nogil=True)
def prior_penalty(problem, p, mean, relative):
    """What the expectations on one population add to chi-square."""
    first = (mean - problem.prior_nm[p, 0]) * problem.prior_weight[p, 0]
    second = (relative * mean - problem.prior_nm[p, 1]) * problem.prior_weight[p, 1]
    return first * first + second * second


@njit(cache=True, nogil=True)
def fill_fixed(intensity_w, fixed_w, gram, moment):
    """Gram matrix and moments of the fixed columns, into the upper left of ``gram``."""
    for i in range(fixed_w.shape[0]):
        moment[i] = dot(fixed_w[i], intensity_w)
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = dot(fixed_w[i], fixed_w[j])


@njit(cache=True, nogil=True)
def fill_curve(problem, p, at, weights, out):
    """<F^2> of population ``p`` at ``at`` and its derivatives (3, n); how many rows were filled.

    A population that is held has one curve and no derivatives.
    """
    if problem.held[p]:
        out[0] = problem.held_curves[p]
        return 1
    fill_average(
        problem.kinds[p], problem.nodes, problem.steps, problem.q_max, problem.tables[p],
        at[0], at[1], weights, out,
    )  # fmt: skip
    return 3


@njit(cache=True, nogil=True)
def fill_population(problem, p, at, intensity_w, weight, fixed_w, rows, weights, gram, moment):
    """Whitened curve and derivatives of population ``p`` at ``at``, and their products.

    ``rows`` is (p, 3, n): value, by the mean at constant s/D, by s/D. Products of the value stand
    at m + p, those of the derivatives at m + P + 2 p and the next, P populations in all; rows of
    derivatives of a population that is held stay as they are (zero).
    """
    fixed, many = fixed_w.shape[0], rows.shape[0]
    own = rows[p]
    used = fill_curve(problem, p, at, weights, own)
    for r in range(used):
        for k in range(weight.size):
            own[r, k] *= weight[k]
    for r in range(used):
        here = fixed + p if r == 0 else fixed + many + 2 * p + r - 1
        moment[here] = dot(own[r], intensity_w)
        for j in range(fixed):
            gram[here, j] = gram[j, here] = dot(own[r], fixed_w[j])
        for other in range(many):
            for s in range(1 if problem.held[other] else 3):
                there = fixed + other if s == 0 else fixed + many + 2 * other + s - 1
                if other != p or s <= r:
                    gram[here, there] = gram[there, here] = dot(own[r], rows[other, s])


@njit(cache=True, nogil=True)
def reduced_system(problem, gram, moment, amplitudes, at, normal, gradient):
    """Normal matrix (2 P, 2 P) and gradient of all sizes, amplitudes projected out; priors in.

    Rows of populations without amplitude are zero. False if the columns cannot be told apart.
    """
    size = amplitudes.size
    many = at.shape[0]
    members = np.empty(size, np.int64)
    count = 0
    for j in range(size):
        if amplitudes[j] != 0.0:
            members[count] = j
            count += 1
    projected = np.zeros((2 * many, size))
    normal[:] = 0.0
    gradient[:] = 0.0
    for a in range(2 * many):
        factor = amplitudes[size - many + a // 2]
        if factor == 0.0 or problem.held[a // 2]:
            continue
        row = size + a
        value = moment[row]
        for j in range(count):
            value -= gram[row, members[j]] * amplitudes[members[j]]
        gradient[a] = value * factor
        if not solve_subset(gram, gram[row], members, count, projected[a]):
            return False
    for a in range(2 * many):
        for b in range(2 * many):
            factor = amplitudes[size - many + a // 2] * amplitudes[size - many + b // 2]
            if factor == 0.0 or problem.held[a // 2] or problem.held[b // 2]:
                continue
            value = gram[size + a, size + b]
            for j in range(count):
                value -= gram[size + a, members[j]] * projected[b, j]
            normal[a, b] = value * factor
    for p in range(many):
        if amplitudes[size - many + p] != 0.0 and not problem.held[p]:
            _add_prior(problem, p, at[p], normal, gradient)
    return True


@njit(cache=True, nogil=True)
def _add_prior(problem, p, at, normal, gradient):
    """What is expected of one population, as two more residuals."""
    mean, relative = at[0], at[1]
    w0, w1 = problem.prior_weight[p, 0] ** 2, problem.prior_weight[p, 1] ** 2
    off0 = problem.prior_nm[p, 0] - mean
    off1 = problem.prior_nm[p, 1] - relative * mean
    i, j = 2 * p, 2 * p + 1
    gradient[i] += w0 * off0 + w1 * off1 * relative
    gradient[j] += w1 * off1 * mean
    normal[i, i] += w0 + w1 * relative * relative
    normal[i, j] += w1 * relative * mean
    normal[j, i] += w1 * relative * mean
    normal[j, j] += w1 * mean * mean


@njit(cache=True, nogil=True)
def _damped_step(normal, gradient, damping, at, lower, upper, step):
    """Levenberg-Marquardt step inside a box, what fall of chi-square it promises, if it was cut.

    Parameters that press on a bound stay there; what is held or without amplitude does not move.
    """
    size = gradient.size
    members = np.empty(size, np.int64)
    count = 0
    for a in range(size):
        p, c = a // 2, a % 2
        step[p, c] = 0.0
        if normal[a, a] <= 0.0 or lower[p, c] == upper[p, c]:
            continue
        if at[p, c] <= lower[p, c] and gradient[a] < 0.0:
            continue
        if at[p, c] >= upper[p, c] and gradient[a] > 0.0:
            continue
        members[count] = a
        count += 1
    if count == 0:
        return 0.0, False
    damped = normal.copy()
    for a in range(size):
        damped[a, a] *= 1.0 + damping
    solution = np.empty(count)
    if not solve_subset(damped, gradient, members, count, solution):
        return 0.0, False
    cut = False
    for i in range(count):
        p, c = members[i] // 2, members[i] % 2
        place = at[p, c] + solution[i]
        cut |= place < lower[p, c] or place > upper[p, c]
        step[p, c] = min(max(place, lower[p, c]), upper[p, c]) - at[p, c]
    promised = 0.0
    for a in range(size):
        own = step[a // 2, a % 2]
        promised += 2.0 * own * gradient[a]
        for b in range(size):
            promised -= own * normal[a, b] * step[b // 2, b % 2]
    return promised, cut


@njit(cache=True, nogil=True)
def refine(problem, intensity_w, weight, fixed_w, banned, at, amplitudes):
    """Levenberg-Marquardt over the sizes from ``at``, amplitudes projected out.

    Parameters
    ----------
    problem
        See `Problem`.
    intensity_w, weight, fixed_w
        (n,), (n,), (m, n); see the conventions of the module.
    banned
        Columns to do without, as bits.
    at
        Start (p, 2), overwritten by the minimum.
    amplitudes
        (m + p,), overwritten.

    Returns
    -------
    float
        Chi-square at the minimum, priors included.
    bool
        Whether it converged.
    """
    many, fixed = at.shape[0], fixed_w.shape[0]
    size = fixed + many
    width = size + 2 * many
    gram, moment = np.zeros((width, width)), np.zeros(width)
    trial_gram, trial_moment = np.zeros((width, width)), np.zeros(width)
    rows = np.zeros((many, 3, weight.size))
    weights = np.empty((3, problem.nodes.size))
    normal, gradient = np.empty((2 * many, 2 * many)), np.empty(2 * many)
    step, trial_at, trial = np.zeros((many, 2)), np.empty((many, 2)), np.empty(size)
    fill_fixed(intensity_w, fixed_w, gram, moment)
    total = dot(intensity_w, intensity_w)
    for p in range(many):
        if not (banned >> (fixed + p)) & 1:
            fill_population(
                problem, p, at[p], intensity_w, weight, fixed_w, rows, weights, gram, moment
            )
    chi2 = total - solve_amplitudes(
        gram[:size, :size], moment[:size], problem.non_negative, banned, amplitudes
    )
    chi2 += _penalties(problem, banned, fixed, at)
    damping = 1e-4
    for _ in range(MAX_STEPS):
        if not reduced_system(problem, gram, moment, amplitudes, at, normal, gradient):
            return chi2, False
        promised, cut = _damped_step(
            normal, gradient, damping, at, problem.lower, problem.upper, step
        )
        if promised < CONVERGED:
            if not cut or damping > MOST_DAMPING:
                return chi2, True
            # A step of which the box has cut off a part may lead uphill: a shorter one does not.
            damping = max(damping, 1e-4) * 10.0
            continue
        trial_gram[:], trial_moment[:] = gram, moment
        for p in range(many):
            trial_at[p, 0], trial_at[p, 1] = at[p, 0] + step[p, 0], at[p, 1] + step[p, 1]
            if step[p, 0] != 0.0 or step[p, 1] != 0.0:
                fill_population(
                    problem, p, trial_at[p], intensity_w, weight, fixed_w, rows, weights,
                    trial_gram, trial_moment,
                )  # fmt: skip
        trial_chi2 = total - solve_amplitudes(
            trial_gram[:size, :size], trial_moment[:size], problem.non_negative, banned, trial
        )
        trial_chi2 += _penalties(problem, banned, fixed, trial_at)
        if trial_chi2 < chi2:
            chi2 = trial_chi2
            at[:] = trial_at
            amplitudes[:] = trial
            gram, trial_gram = trial_gram, gram
            moment, trial_moment = trial_moment, moment
            damping = max(damping * 0.1, 1e-9)
        else:
            damping = max(damping, 1e-4) * 10.0
            if damping > MOST_DAMPING:
                return chi2, True
            if many > 1:
                # Rows of the refused trial must not meet those of the next.
                for p in range(many):
                    if step[p, 0] != 0.0 or step[p, 1] != 0.0:
                        fill_population(
                            problem, p, at[p], intensity_w, weight, fixed_w, rows, weights,
                            gram, moment,
                        )  # fmt: skip
    return chi2, False


@njit(cache=True, nogil=True)
def _penalties(problem, banned, fixed, at):
    total = 0.0
    for p in range(at.shape[0]):
        if not (banned >> (fixed + p)) & 1:
            total += prior_penalty(problem, p, at[p, 0], at[p, 1])
    return total
