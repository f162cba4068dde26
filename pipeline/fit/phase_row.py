"""The row of a frame's phases out of their fit."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np

from pipeline.config.phases import PhasesAnalysis
from pipeline.fit.phase_problem import PhasePlan
from pipeline.fit.phase_search import Chosen, PhaseFit, Points
from pipeline.kernels.powder import SEARCHED, STRAIN, WIDTH, line_place
from pipeline.kernels.powder_fit import fit_covariance
from pipeline.kernels.residual_tests import describes, residual_verdict
from pipeline.messages import Line, Phase, PhasesRow, WaxsCurve, WaxsPhases
from pipeline.messages.waxs import MOST_PHASES

DETERMINED = 0.5
"""Share of what is known of an edge beforehand below which its error has to come."""
AMORPHOUS_SIGMA = 4.0
"""Errors of its amount from which something amorphous is told from the background."""
SLOTS = tuple(Phase(name="") for _ in range(MOST_PHASES))


class Errors:
    """Covariance of a fit's amplitudes and of what was searched."""

    def __init__(self, plan: PhasePlan, points: Points, fit: PhaseFit, noise: float) -> None:
        self.amplitudes = fit.amplitudes
        size = fit.amplitudes.size
        most = size + SEARCHED * fit.present.size
        covariance = np.zeros((most, most))
        owners = np.zeros((SEARCHED * fit.present.size, 2), np.int64)
        searched = fit_covariance(
            plan.powder, fit.present, fit.columns, fit.amplitudes, points.weight, fit.at,
            covariance, owners,
        )  # fmt: skip
        if searched < 0:
            covariance[:] = math.nan
        covariance *= noise**2
        self.covariance = covariance[:size, :size]
        self._variances = {
            (int(p), int(which)): float(covariance[size + i, size + i])
            for i, (p, which) in enumerate(owners[: max(searched, 0)])
        }

    def of(self, p: int, which: int) -> float:
        """Standard error of one searched number; NaN if it sits on a bound."""
        variance = self._variances.get((p, which), 0.0)
        return math.sqrt(variance) if variance > 0.0 else math.nan

    def sum(self, parts: np.ndarray) -> tuple[float, float]:
        """``parts`` (k,) times the amplitudes, and its error."""
        value = float(np.sum(parts * self.amplitudes))
        return value, _root(float(np.sum(parts * (self.covariance * parts).sum(axis=1))))

    def share(self, part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
        """The sum of ``part`` over that of ``whole``, and its error."""
        total, _ = self.sum(whole)
        if not total > 0.0:
            return math.nan, math.nan
        value = float(np.sum(part * self.amplitudes)) / total
        return value, self.sum((part - value * whole) / total)[1]


def make_row(
    settings: PhasesAnalysis,
    plan: PhasePlan,
    points: Points,
    curve: WaxsCurve,
    chosen: Chosen,
    lines: tuple[Line, ...],
) -> PhasesRow:
    """The row of one frame."""
    fit = chosen.fit
    errors = Errors(plan, points, fit, chosen.noise)
    parts, volume = _parts(plan, fit)
    kind = "volume" if volume else "scattering"
    crystals = parts[:-1].sum(axis=0)
    whole = crystals + parts[-1]
    unexplained = _unexplained(plan, chosen, lines)
    crystalline = bool(fit.present.any())
    amount, amount_err = errors.sum(parts[-1])
    state = "none"
    if crystalline:
        state = "crystalline"
    elif unexplained:
        state = "unindexed"
    elif amount > AMORPHOUS_SIGMA * amount_err:
        state = "amorphous"
    fraction = fraction_err = content = content_err = math.nan
    if crystalline:
        fraction, fraction_err = errors.share(crystals, whole)
        if volume and curve.absolute:
            content, content_err = errors.sum(crystals)
    elif state == "amorphous":
        fraction = 0.0
    slots = list(SLOTS)
    for p, lines_of in enumerate(plan.reflections):
        slots[p] = Phase(name=lines_of.name, probability=float(chosen.probability[p]))
        if fit.present[p]:
            share = errors.share(parts[p], crystals)
            slots[p] = _phase(settings, plan, chosen, errors, p, share)
    columns = {
        f"phase_{number}_{name}": value
        for number, slot in enumerate(slots, 1)
        for name, value in asdict(slot).items()
    }
    chi2, described, misfit = _verdict(settings, plan, points, curve, chosen)
    strongest = max(unexplained, key=lambda line: line.sigmas, default=None)
    return WaxsPhases(
        frame=curve.frame,
        time_s=curve.time_s,
        state=state,
        phases=int(fit.present.sum()),
        crystalline_z=chosen.crystalline_z,
        crystalline_fraction=fraction,
        crystalline_fraction_err=fraction_err,
        fraction_kind=kind if state in ("crystalline", "amorphous") else "",
        crystal_volume_fraction=content,
        crystal_volume_fraction_err=content_err,
        confounded=",".join(plan.reflections[p].name for p in chosen.confounded),
        reduced_chi2=chi2,
        describes=described,
        misfit_relative=misfit,
        unexplained_lines=len(unexplained),
        unexplained_q_per_nm=strongest.q_per_nm if strongest is not None else math.nan,
        **columns,
    )


def _parts(plan: PhasePlan, fit: PhaseFit) -> tuple[np.ndarray, bool]:
    """What each amplitude counts for in each phase (phases + 1, k), the amorphous last.

    In volume, if all amplitudes that are not zero are volume fractions; else in q^2 I.
    """
    many = plan.nuisances.shape[0]
    powder = plan.powder
    parts = np.zeros((fit.present.size + 1, fit.amplitudes.size))
    mixed = bool((plan.amorphous & ~plan.volumes & (fit.amplitudes[:many] > 0.0)).any())
    volume = not mixed and not any(np.array(plan.free)[fit.present])
    parts[-1, :many] = plan.amorphous * (1.0 if volume else plan.content)
    place = many
    for p in np.flatnonzero(fit.present).tolist():
        own = slice(int(powder.first_column[p]), int(powder.first_column[p + 1]))
        count = own.stop - own.start
        parts[p, place : place + count] = 1.0 if volume else plan.strengths[own]
        place += count
    return parts, volume


def _phase(
    settings: PhasesAnalysis,
    plan: PhasePlan,
    chosen: Chosen,
    errors: Errors,
    p: int,
    share: tuple[float, float],
) -> Phase:
    """One phase that is present."""
    at, lines = chosen.fit.at[p].tolist(), plan.reflections[p]
    edges: list[float] = []
    for edge, tie in zip(lines.edges_nm, plan.powder.ties[p].tolist(), strict=True):
        err = errors.of(p, tie)
        known = err < DETERMINED * settings.cell_tolerance
        value = edge * math.exp(at[tie])
        edges += [value, value * err] if known else [math.nan, math.nan]
    full = settings.scherrer_k * 2.0 * math.pi
    width_err = errors.of(p, WIDTH)
    # A width that is less than two errors from none says only that crystals are large.
    seen = at[WIDTH] > 2.0 * width_err
    size = full / at[WIDTH] if seen else math.nan
    strain_err = errors.of(p, STRAIN) if settings.strain else math.nan
    return Phase(
        name=lines.name,
        present=1,
        probability=float(chosen.probability[p]),
        fraction=share[0],
        fraction_err=share[1],
        a_nm=edges[0],
        a_nm_err=edges[1],
        b_nm=edges[2],
        b_nm_err=edges[3],
        c_nm=edges[4],
        c_nm_err=edges[5],
        size_nm=size,
        size_nm_err=size * width_err / at[WIDTH] if seen else math.nan,
        strain=at[STRAIN] if strain_err > 0.0 else math.nan,
        strain_err=strain_err,
    )


def _unexplained(plan: PhasePlan, chosen: Chosen, lines: tuple[Line, ...]) -> list[Line]:
    """Lines further than half their width from every line of the phases present."""
    fit, powder = chosen.fit, plan.powder
    present = np.flatnonzero(fit.present).tolist()
    places = np.array(
        [
            line_place(powder, line, p, fit.at)[0]
            for p in present
            for line in range(int(powder.first_line[p]), int(powder.first_line[p + 1]))
        ]
    )
    instrument = float(np.median(powder.instrument_per_nm))
    own = max((math.hypot(fit.at[p, WIDTH], instrument) for p in present), default=0.0)
    found = []
    for line in lines:
        width = own if math.isnan(line.fwhm_per_nm) else max(own, line.fwhm_per_nm)
        doubt = 0.0 if math.isnan(line.q_per_nm_err) else 3.0 * line.q_per_nm_err
        if not (np.abs(places - line.q_per_nm) <= 0.5 * width + doubt).any():
            found.append(line)
    return found


def _verdict(
    settings: PhasesAnalysis, plan: PhasePlan, points: Points, curve: WaxsCurve, chosen: Chosen
) -> tuple[float, int, float]:
    """Reduced chi-square, whether the model describes the curve, and the relative misfit."""
    fit = chosen.fit
    used = np.flatnonzero(points.weight)
    residual = np.ascontiguousarray(fit.residual_w[used])
    parameters = int(np.count_nonzero(fit.amplitudes[: plan.nuisances.shape[0]])) + fit.parameters
    verdict = residual_verdict(
        residual, points.whitened[used] - residual, parameters, settings.residual_stride
    )
    known = not (points.estimated or curve.sigma_estimated)
    good = describes(verdict, settings.describes_probability, settings.tolerated_misfit, known)
    return float(verdict.chi2_reduced), int(good), float(verdict.misfit_relative)


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan
