"""Which phases a curve needs: greedy, by the Bayesian information criterion, with alternatives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.fit.phase_problem import PhasePlan
from pipeline.kernels.order import noise_level, orthonormal, project_out
from pipeline.kernels.powder import SEARCHED, WIDTH
from pipeline.kernels.powder_fit import (
    columns_of,
    fill_jacobian,
    fit_covariance,
    fit_phases,
    scan_columns,
)
from pipeline.kernels.significance import scan_significance

RIVAL = 0.25
"""Share of a phase's gain in chi-square from which another is tried in its place."""
TOLD_APART = 0.05
"""Probability of a rival in a phase's place below which the two are told apart."""
SIMPLER = 6.0
"""Fall of the criterion below which a further phase is not reported: 20 to 1."""
NEEDLESS = 6
"""Further free heights by which a rival cannot win where only noise is left: they cost 6 ln(n), 39
for 600 points, and noise pays 6 +- 3.5 for them."""
SEEN = 4.0
"""Standard errors of a free height from which its line is seen."""
LEAST_SHOWN = 1 / 3
"""Share of its lines that a phase with free heights has to show: among many lines some are always
near to what another phase, or none, has made. Oriented grains show every second or third."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """A curve in the window; weight is 1/sigma, 0 where a point is no use."""

    intensity: np.ndarray
    weight: np.ndarray
    estimated: bool

    @property
    def whitened(self) -> np.ndarray:
        return self.intensity * self.weight


@dataclass(frozen=True, slots=True, eq=False)
class PhaseFit:
    """The fit of one set of phases at its minimum; see `pipeline.kernels.powder_fit.fit_phases`."""

    present: np.ndarray
    at: np.ndarray
    amplitudes: np.ndarray
    chi2: float
    columns: np.ndarray
    residual_w: np.ndarray
    parameters: int
    """Of the phases alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Gains:
    """What each phase would add to a fit, by its templates.

    ``gain`` (phases,) is the fall of the criterion that is to be expected, ``start`` (phases, 5)
    where; ``best`` and ``lengths`` are the highest score of all and the lengths of all paths, for
    its significance.
    """

    gain: np.ndarray
    start: np.ndarray
    best: float
    lengths: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The best set of phases, what else was fitted, and how sure that is."""

    fit: PhaseFit
    crystalline_z: float
    noise: float
    """Scatter over what sigma says, at least 1, in all errors."""
    probability: np.ndarray
    confounded: tuple[int, ...]


def fit_set(plan: PhasePlan, points: Points, present: np.ndarray, at: np.ndarray) -> PhaseFit:
    """Fit one set of phases from ``at``."""
    powder = plan.powder
    many = plan.nuisances.shape[0]
    own = np.diff(powder.first_column)
    amplitudes = np.zeros(many + int(own[present].sum()))
    at = at.copy()
    chi2, columns, residual = fit_phases(
        powder, present, np.ascontiguousarray(plan.nuisances * points.weight), plan.non_negative,
        points.whitened, points.weight, at, amplitudes,
    )  # fmt: skip
    searched = powder.searched[present]
    return PhaseFit(
        present=present.copy(),
        at=at,
        amplitudes=amplitudes,
        chi2=float(chi2),
        columns=columns,
        residual_w=residual,
        parameters=int(np.count_nonzero(amplitudes[many:]) + np.count_nonzero(searched)),
    )


def measure_gains(plan: PhasePlan, points: Points, fit: PhaseFit) -> Gains:
    """Scores of all phases' templates on what ``fit`` leaves."""
    powder = plan.powder
    phases = len(plan.reflections)
    lines = np.empty((SEARCHED * phases, points.weight.size))
    starts, _ = columns_of(powder, fit.present, plan.nuisances.shape[0])
    count = fill_jacobian(
        powder, fit.present, starts, fit.at, points.weight, fit.amplitudes, lines,
        np.empty((SEARCHED * phases, 2), np.int64),
    )  # fmt: skip
    columns = np.vstack([fit.columns, lines[:count]])
    basis = np.empty_like(columns)
    basis = basis[: orthonormal(columns, basis)]
    residual = project_out(points.whitened, basis)
    best, lengths = -math.inf, []
    gain, start = np.zeros(phases), fit.at.copy()
    each_costs = math.log(points.weight.size)
    for each in plan.scans:
        p, columns = each.phase, each.templates.shape[0]
        if fit.present[p] or columns == 0:
            continue
        scores, own = np.empty((columns, each.stretches.size)), np.empty(columns)
        scan_columns(residual, points.weight, basis, each.templates, each.supports, scores, own)
        best = max(best, float(scores.max()))
        lengths += own.tolist()
        # Of a phase with free heights the gains of its lines add up, each less what it costs.
        above = np.maximum(scores, 0.0)
        worth = (above**2 - each_costs * (above > 1.0)).sum(axis=0)
        j = int(np.argmax(worth))
        if worth[j] > gain[p]:
            gain[p] = worth[j]
            start[p, :WIDTH] = each.stretches[j]
            start[p, WIDTH] = each.width_per_nm
    return Gains(gain=gain, start=start, best=best, lengths=lengths)


def choose_phases(plan: PhasePlan, points: Points, report_sigma: float) -> Chosen:
    """The set of phases that explains a curve best for its number of parameters.

    From none, the phase that promises most is added while the criterion, chi-square over what
    the larger set leaves plus the number of parameters times ln(n), falls. Each phase of the set
    is then exchanged for others that gained as much in its place, and left out. Probabilities are
    of these sets, exp(-criterion/2) each.
    """
    phases = len(plan.reflections)
    empty = fit_set(plan, points, np.zeros(phases, bool), plan.powder.lower)
    first = measure_gains(plan, points, empty) if phases else None
    tried = [empty]
    fit = _grow(plan, points, empty, first, tried) if first is not None else empty
    fit, unseen = _prune(plan, points, fit, tried)
    noise = _noise(fit, points)
    z = scan_significance(first.best / noise, first.lengths) if first is not None else math.nan
    if not z >= report_sigma:
        return Chosen(empty, z, _noise(empty, points), np.zeros(phases), ())
    fit, swaps = _exchange(plan, points, fit, first, ~unseen, tried)
    costs = np.array([_cost(each, fit, points) for each in tried])
    weights = np.exp(-0.5 * (costs - costs.min()))
    sets = np.array([each.present for each in tried])
    probability = np.array([weights[sets[:, p]].sum() / weights.sum() for p in range(phases)])
    own = _cost(fit, fit, points)
    confounded: set[int] = set()
    for p, other, swap in swaps:
        further = _cost(swap, fit, points) - own
        if further < 2.0 * math.log(1.0 / TOLD_APART - 1.0):
            confounded |= {p, other}
    return Chosen(fit, z, _noise(fit, points), probability, tuple(sorted(confounded)))


def _grow(
    plan: PhasePlan, points: Points, fit: PhaseFit, gains: Gains, tried: list[PhaseFit]
) -> PhaseFit:
    """Phases added one by one, the most promising first."""
    hopeful = ~fit.present
    while True:
        promise = np.where(hopeful & ~fit.present, gains.gain, 0.0)
        p = int(np.argmax(promise))
        if not promise[p] > SIMPLER:
            return fit
        further = _with(plan, points, fit, gains, p)
        hopeful[p] = False
        if not _is_shown(plan, points, further, p):
            continue
        tried.append(further)
        if _cost(further, further, points) < _cost(fit, further, points) - SIMPLER:
            fit = further
            gains = measure_gains(plan, points, fit)


def _prune(
    plan: PhasePlan, points: Points, fit: PhaseFit, tried: list[PhaseFit]
) -> tuple[PhaseFit, np.ndarray]:
    """The set without what those added later make needless; which phases are not seen in it."""
    unseen = np.zeros(fit.present.size, bool)
    for p in np.flatnonzero(fit.present).tolist():
        # What seemed enough of its lines before there were others.
        if not _is_shown(plan, points, fit, p):
            unseen[p] = True
            fit = fit_set(plan, points, fit.present & ~unseen, fit.at)
            tried[:] = [each for each in tried if not each.present[p]]
            tried.append(fit)
    while np.count_nonzero(fit.present) > 1:
        poorer: list[PhaseFit] = []
        for p in np.flatnonzero(fit.present).tolist():
            present = fit.present.copy()
            present[p] = False
            poorer.append(fit_set(plan, points, present, fit.at))
        tried += poorer
        best = min(poorer, key=lambda each: _cost(each, fit, points))
        if not _cost(best, fit, points) <= _cost(fit, fit, points) + SIMPLER:
            break
        fit = best
    return fit, unseen


def _is_shown(plan: PhasePlan, points: Points, fit: PhaseFit, p: int) -> bool:
    """Whether a phase with free heights shows enough of its lines to be it."""
    if not plan.free[p]:
        return True
    own = np.diff(plan.powder.first_column)
    first = plan.nuisances.shape[0] + int(own[:p][fit.present[:p]].sum())
    columns = slice(first, first + int(own[p]))
    most = fit.amplitudes.size + SEARCHED * fit.present.size
    covariance = np.zeros((most, most))
    searched = fit_covariance(
        plan.powder, fit.present, fit.columns, fit.amplitudes, points.weight, fit.at, covariance,
        np.empty((SEARCHED * fit.present.size, 2), np.int64),
    )  # fmt: skip
    if searched < 0:
        return False
    errors = _noise(fit, points) * np.sqrt(np.diag(covariance)[columns])
    return bool(np.mean(fit.amplitudes[columns] > SEEN * errors) >= LEAST_SHOWN)


def _with(plan: PhasePlan, points: Points, fit: PhaseFit, gains: Gains, p: int) -> PhaseFit:
    present, at = fit.present.copy(), fit.at.copy()
    present[p], at[p] = True, gains.start[p]
    return fit_set(plan, points, present, at)


def _exchange(
    plan: PhasePlan,
    points: Points,
    fit: PhaseFit,
    first: Gains | None,
    hopeful: np.ndarray,
    tried: list[PhaseFit],
) -> tuple[PhaseFit, list[tuple[int, int, PhaseFit]]]:
    """The set or one of its exchanges, whichever is reported; all exchanges."""
    assert first is not None
    swaps: list[tuple[int, int, PhaseFit]] = []
    columns = np.diff(plan.powder.first_column)
    noise_only = _leaves_noise(fit, points)
    for p in np.flatnonzero(fit.present).tolist():
        without = fit.present.copy()
        without[p] = False
        for other in np.flatnonzero(hopeful & ~fit.present).tolist():
            if noise_only and columns[other] >= columns[p] + NEEDLESS:
                continue
            if first.gain[other] > RIVAL * first.gain[p] > 0.0:
                present, at = without.copy(), fit.at.copy()
                present[other], at[other] = True, first.start[other]
                swap = fit_set(plan, points, present, at)
                if _is_shown(plan, points, swap, other):
                    tried.append(swap)
                    swaps.append((p, other, swap))
    likely = [fit, *(swap for _, _, swap in swaps)]
    costs = [_cost(each, fit, points) for each in likely]
    # exp(-margin/2) to 1 are the odds of a rival that is just told apart.
    margin = 2.0 * math.log(1.0 / TOLD_APART - 1.0)
    kept = [each for each, cost in zip(likely, costs, strict=True) if cost <= min(costs) + margin]
    best = min(kept, key=lambda each: np.flatnonzero(each.present).tolist())
    # The exchange that is reported has that which it replaces for a rival.
    return best, [(p, other, fit if swap is best else swap) for p, other, swap in swaps]


def _leaves_noise(fit: PhaseFit, points: Points) -> bool:
    """Whether chi-square is within three of its standard deviations of what noise has."""
    n = int(np.count_nonzero(points.weight))
    freedom = max(n - fit.parameters - fit.columns.shape[0], 1)
    return bool(fit.chi2 < freedom + 3.0 * math.sqrt(2.0 * freedom))


def _cost(fit: PhaseFit, fullest: PhaseFit, points: Points) -> float:
    """Bayesian information criterion, with chi-square in units of what ``fullest`` leaves."""
    n = int(np.count_nonzero(points.weight))
    freedom = max(n - fullest.parameters - fullest.columns.shape[0], 1)
    scale = max(1.0, fullest.chi2 / freedom)
    return fit.chi2 / scale + fit.parameters * math.log(n)


def _noise(fit: PhaseFit, points: Points) -> float:
    used = points.weight > 0.0
    n = int(np.count_nonzero(used))
    freedom = math.sqrt(max(1.0 - (fit.columns.shape[0] + fit.parameters) / n, 0.1))
    return max(1.0, noise_level(np.ascontiguousarray(fit.residual_w[used])) / freedom)
