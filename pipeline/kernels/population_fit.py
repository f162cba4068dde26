"""One curve, every model that it may need: background alone, with agglomerates, with crystals.

All models of a frame are fitted with the same weights, those of the fullest model, so that their
chi-squares compare. See ``pipeline.kernels.variable_projection`` for conventions.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels.amplitudes import solve_amplitudes
from pipeline.kernels.averages import fill_average
from pipeline.kernels.linear import dot
from pipeline.kernels.variable_projection import Problem, fill_curve, fill_fixed, refine
from pipeline.kernels.weights import counting_gain, counting_weight, running_mean

REWEIGHTED = 2
"""Passes in which sigma is taken from the model; at 2000 to 20000 counts a bin the second moves D
by 0.0006 standard errors at most, a third by 0.0005."""
WARM_REWEIGHTED = 1
"""The same where the first weights are those of the frame before."""
STARTS_REFINED = 3
DECIDED = 400.0
"""Fall of chi-square by the crystals above which their minimum is the only one nearby, so that the
frame before is start enough."""
HIGH_CHI2 = 1.3
"""Reduced chi-square over that of the frame before (or over 1) that calls for a new search."""
BOTH = 3
"""Index of the fullest model: bit 0 is agglomerates, bit 1 crystals."""


class Starts(NamedTuple):
    """Where crystals are sought when nothing is known of them."""

    diameters_nm: np.ndarray
    relative_sigmas: np.ndarray
    table: np.ndarray
    """<F^2> at each (diameters, relative sigmas, n), nm^6."""
    agglomerates: np.ndarray
    """Start of the agglomerates: mean in nm and s/D (2,)."""


class Fits(NamedTuple):
    """Of the four models: what ``fit_frame`` fills."""

    chi2: np.ndarray
    """(4,), infinite for a model that was not asked for."""
    amplitudes: np.ndarray
    """(4, m + 2)."""
    at: np.ndarray
    """(4, 2, 2): mean in nm and s/D of agglomerates and crystals."""
    weight: np.ndarray
    """(n,): 1/sigma that all were fitted with."""


def empty_fits(fixed: int, points: int) -> Fits:
    """Room for the fits of one frame."""
    return Fits(np.full(4, np.inf), np.zeros((4, fixed + 2)), np.zeros((4, 2, 2)), np.zeros(points))


def make_starts(
    problem: Problem,
    diameters_nm: np.ndarray,
    relative_sigmas: np.ndarray,
    agglomerates: np.ndarray,
) -> Starts:
    """The table of starts out of the crystals' own table."""
    points = problem.tables.shape[2]
    table = np.empty((diameters_nm.size, relative_sigmas.size, points))
    weights, out = np.empty((3, problem.nodes.size)), np.empty((3, points))
    for i, diameter in enumerate(diameters_nm):
        for j, relative in enumerate(relative_sigmas):
            fill_average(
                problem.kinds[1], problem.nodes, problem.steps, problem.q_max, problem.tables[1],
                diameter, relative, weights, out,
            )  # fmt: skip
            table[i, j] = out[0]
    return Starts(diameters_nm, relative_sigmas, table, agglomerates)


@njit(cache=True, nogil=True)
def banned_columns(model, fixed):
    """Columns that a model does without, as bits."""
    return (3 - model) << fixed


@njit(cache=True, nogil=True)
def fill_model(problem, amplitudes, at, out):
    """Intensity (n,) of a fit."""
    fixed = problem.fixed.shape[0]
    out[:] = 0.0
    for j in range(fixed):
        for k in range(out.size):
            out[k] += amplitudes[j] * problem.fixed[j, k]
    weights = np.empty((3, problem.nodes.size))
    curve = np.empty((3, out.size))
    for p in range(at.shape[0]):
        if amplitudes[fixed + p] != 0.0:
            fill_curve(problem, p, at[p], weights, curve)
            for k in range(out.size):
                out[k] += amplitudes[fixed + p] * curve[0, k]


@njit(cache=True, nogil=True)
def search(problem, starts, intensity_w, weight, fixed_w, chi2):
    """Chi-square of crystals without and with agglomerates at every start: (2, D, s/D)."""
    fixed = fixed_w.shape[0]
    size = fixed + 2
    gram, moment = np.zeros((size, size)), np.zeros(size)
    amplitudes = np.empty(size)
    fill_fixed(intensity_w, fixed_w, gram, moment)
    total = dot(intensity_w, intensity_w)
    weights, curve = np.empty((3, problem.nodes.size)), np.empty((3, weight.size))
    fill_curve(problem, 0, starts.agglomerates, weights, curve)
    small_w, free_w = curve[0], curve[1]
    for k in range(weight.size):
        small_w[k] *= weight[k]
    moment[fixed] = dot(small_w, intensity_w)
    gram[fixed, fixed] = dot(small_w, small_w)
    for j in range(fixed):
        gram[fixed, j] = gram[j, fixed] = dot(small_w, fixed_w[j])
    last = fixed + 1
    for i in range(starts.diameters_nm.size):
        for j in range(starts.relative_sigmas.size):
            row = starts.table[i, j]
            for k in range(weight.size):
                free_w[k] = row[k] * weight[k]
            moment[last] = dot(free_w, intensity_w)
            gram[last, last] = dot(free_w, free_w)
            for k in range(fixed):
                gram[last, k] = gram[k, last] = dot(free_w, fixed_w[k])
            gram[last, fixed] = gram[fixed, last] = dot(free_w, small_w)
            for model in range(2):
                banned = banned_columns(2 + model, fixed)
                chi2[model, i, j] = total - solve_amplitudes(
                    gram, moment, problem.non_negative, banned, amplitudes
                )


@njit(cache=True, nogil=True)
def _refine_best(problem, starts, intensity_w, weight, fixed_w, model, chi2_map, at, amplitudes):
    """Refine the best minima of a map from ``search`` and keep the best; uses up the map."""
    rows, columns = chi2_map.shape
    banned = banned_columns(model, fixed_w.shape[0])
    trial_at, trial = np.empty((2, 2)), np.empty(amplitudes.size)
    best = np.inf
    for _ in range(STARTS_REFINED):
        low, row, column = np.inf, -1, -1
        for i in range(rows):
            for j in range(columns):
                if chi2_map[i, j] < low:
                    low, row, column = chi2_map[i, j], i, j
        if row < 0:
            break
        trial_at[0] = starts.agglomerates
        trial_at[1, 0] = starts.diameters_nm[row]
        trial_at[1, 1] = starts.relative_sigmas[column]
        # Its neighbours lie in the same valley: they are no other minimum.
        for i in range(max(row - 2, 0), min(row + 3, rows)):
            for j in range(max(column - 1, 0), min(column + 2, columns)):
                chi2_map[i, j] = np.inf
        value, _ = refine(problem, intensity_w, weight, fixed_w, banned, trial_at, trial)
        if value < best:
            best = value
            at[:] = trial_at
            amplitudes[:] = trial
    return best


@njit(cache=True, nogil=True)
def _search_models(problem, starts, asked, intensity_w, weight, fixed_w, fits):
    """Models with crystals from a search of their starts."""
    maps = np.empty((2, starts.diameters_nm.size, starts.relative_sigmas.size))
    search(problem, starts, intensity_w, weight, fixed_w, maps)
    for model in range(2, 4):
        if asked[model]:
            fits.chi2[model] = _refine_best(
                problem, starts, intensity_w, weight, fixed_w, model, maps[model - 2],
                fits.at[model], fits.amplitudes[model],
            )  # fmt: skip


@njit(cache=True, nogil=True)
def fit_alone(problem, starts, intensity, weight, cold, at, amplitudes):
    """The fullest model at given weights: from a search if ``cold``, else from ``at``.

    Returns chi-square; ``at`` (2, 2) and ``amplitudes`` (m + 2,) are overwritten.
    """
    intensity_w, fixed_w = intensity * weight, problem.fixed * weight
    if not cold:
        return refine(problem, intensity_w, weight, fixed_w, 0, at, amplitudes)[0]
    maps = np.empty((2, starts.diameters_nm.size, starts.relative_sigmas.size))
    search(problem, starts, intensity_w, weight, fixed_w, maps)
    return _refine_best(
        problem, starts, intensity_w, weight, fixed_w, BOTH, maps[1], at, amplitudes
    )


@njit(cache=True, nogil=True)
def _refine_model(problem, intensity_w, weight, fixed_w, model, fits):
    """One model from what ``fits`` holds of it; whether it converged."""
    banned = banned_columns(model, fixed_w.shape[0])
    fits.chi2[model], converged = refine(
        problem, intensity_w, weight, fixed_w, banned, fits.at[model], fits.amplitudes[model]
    )
    return converged


@njit(cache=True, nogil=True)
def _refine_others(problem, asked, full, intensity, weight, fits):
    """The lesser models, at the weights of the fullest."""
    intensity_w, fixed_w = intensity * weight, problem.fixed * weight
    fixed = problem.fixed.shape[0]
    for model in range(full):
        if not asked[model]:
            continue
        if model < 2:
            _refine_model(problem, intensity_w, weight, fixed_w, model, fits)
            continue
        # Crystals alone: as in the fullest model, or where they were sought or seen before.
        own = fits.at[model].copy()
        fits.at[model] = fits.at[full]
        if fits.amplitudes[full, fixed] == 0.0:
            fits.chi2[model] = fits.chi2[full]
            fits.amplitudes[model] = fits.amplitudes[full]
            continue
        _refine_model(problem, intensity_w, weight, fixed_w, model, fits)
        if fits.chi2[model] - fits.chi2[full] > DECIDED * fits.chi2[full] / weight.size:
            continue
        amplitudes = np.empty(fixed + 2)
        banned = banned_columns(model, fixed)
        chi2, _ = refine(problem, intensity_w, weight, fixed_w, banned, own, amplitudes)
        if chi2 < fits.chi2[model]:
            fits.chi2[model] = chi2
            fits.at[model] = own
            fits.amplitudes[model] = amplitudes


@njit(cache=True, nogil=True)
def _may_stay(fits, full, converged, points, before):
    """Whether a fit that began at the frame before may be kept without a search."""
    freedom = max(points - fits.amplitudes.shape[1] - 2, 1)
    most = HIGH_CHI2 * max(before, 1.0 + 3.0 * np.sqrt(2.0 / freedom)) * freedom
    fall = fits.chi2[full - 2] - fits.chi2[full]
    return converged and fits.chi2[full] < most and fall > DECIDED * max(before, 1.0)


@njit(cache=True, nogil=True)
def fit_frame(problem, starts, asked, intensity, sigma, from_model, cold, before, fits):
    """Fit one curve with every model that is asked for.

    Sigma of counting is first taken from a running mean or from the model of the frame before,
    then from the fullest model itself. The models are compared at the last weights.

    Parameters
    ----------
    problem, starts
        See their classes.
    asked
        Which of the four models are wanted (4,): bit 0 of the index is agglomerates, bit 1
        crystals.
    intensity, sigma
        (n,), sigma infinite where a point is of no use.
    from_model
        Whether sigma is that of counting, hence to be taken from the model.
    cold
        Whether ``fits`` holds nothing of a frame before.
    before
        Reduced chi-square of the frame before.
    fits
        Overwritten; the start, if not ``cold``.

    Returns
    -------
    bool
        Whether the starts had to be searched.
    """
    full = BOTH if asked[BOTH] else 2
    gain = counting_gain(intensity, sigma)
    weight = np.zeros(sigma.size)
    model = np.empty(sigma.size)
    passes = REWEIGHTED if from_model else 0
    searched = cold
    if not cold:
        if from_model:
            fill_model(problem, fits.amplitudes[full], fits.at[full], model)
            weight[:] = counting_weight(gain, model)
        else:
            weight[:] = 1.0 / sigma
        points = np.count_nonzero(weight)
        fixed_w = problem.fixed * weight
        converged = _refine_model(problem, intensity * weight, weight, fixed_w, full, fits)
        _refine_model(problem, intensity * weight, weight, fixed_w, full - 2, fits)
        searched = not _may_stay(fits, full, converged, points, before)
        passes = min(passes, WARM_REWEIGHTED)
    if searched:
        weight[:] = 1.0 / sigma
        passes = 0
        if from_model:
            weight[:] = counting_weight(gain, running_mean(intensity, sigma))
            passes = REWEIGHTED
        for each in range(4):
            fits.at[each, 0] = starts.agglomerates
            fits.at[each, 1] = problem.lower[1]
        fixed_w = problem.fixed * weight
        _search_models(problem, starts, asked, intensity * weight, weight, fixed_w, fits)
    for _ in range(passes):
        fill_model(problem, fits.amplitudes[full], fits.at[full], model)
        weight[:] = counting_weight(gain, model)
        fixed_w = problem.fixed * weight
        _refine_model(problem, intensity * weight, weight, fixed_w, full, fits)
    _refine_others(problem, asked, full, intensity, weight, fits)
    fits.weight[:] = weight
    return searched
