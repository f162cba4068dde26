"""Stage: what a fitted curve still holds of order among the particles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.sample import Sample
from pipeline.fit.order_row import Fitted, Verdict, Whitened, absent, describe, likeliest
from pipeline.fit.order_templates import SERIES, SINGLE, STACK, Paths, paths
from pipeline.kernels.order import (
    fill_series,
    fill_shift,
    noise_level,
    orthonormal,
    overlap,
    project_out,
    scan,
)
from pipeline.kernels.significance import scan_log_probability, significance
from pipeline.kernels.sphere import mean_square_amplitude, mean_volume
from pipeline.messages import Curve, FittedCurve, JudgedCurve, Peak, Populations, Result, RunStart

MIN_POINTS = 24
"""Fewer than about twice the number of nuisances say nothing."""
SIMPLER = 6.0
"""Fall of chi-square by a lattice over a stack below which order is called a stack: 20 to 1. With
peaks just above the noise the best of all series is that of chance."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """All that depends on the q axis, its usable part and the settings alone."""

    q_axis: np.ndarray
    usable: np.ndarray
    q_per_nm: np.ndarray
    series: Paths
    singles: Paths
    degree: int


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """Highest score of each of m scans: ``tops`` (m,) are the templates' rows."""

    paths: Paths
    highest: np.ndarray
    tops: np.ndarray
    lengths: np.ndarray

    def best(self, kind: str = "") -> int:
        """The scan with the highest score, of one kind of series or of all."""
        among = [n for n, (series, _) in enumerate(self.paths.kinds) if kind in ("", series.kind)]
        return max(among, key=lambda n: self.highest[n])


class AnalyseAssembly:
    """Order in one curve: series of peaks at an unknown spacing, against the fitted spheres.

    ``order_z`` is the significance of the best of all series (stacked sheets 1:2:3, fcc, bcc,
    hcp) at any spacing and width, after look-elsewhere: about standard normal without order; and
    ``order_p`` the probability that it stands for, of so much without order.
    ``lattice_z`` is that of the best single peak which the stack 1:2:3 at its best spacing, with
    free heights, does not account for. Each frame is judged on its own.

    The form factor cannot swallow the peaks, nor a wrong one imitate them: the derivatives of the
    spheres' scattering by number, D and s, a factor that is a polynomial in q, and the background
    are projected out of residuals and templates alike. Errors that are too small, and neighbouring
    points that go together, are seen in the residuals and widen them.

    Parameters
    ----------
    settings
        Spacings, widths, window.
    sample
        Contrast, to give the fitted spheres back their intensity.
    """

    name: ClassVar[str] = "assembly"
    consumes: ClassVar[tuple[type, ...]] = (FittedCurve,)
    produces: ClassVar[tuple[type[Result], ...]] = (Peak,)

    def __init__(self, settings: AssemblyAnalysis, sample: Sample) -> None:
        self.settings = settings
        self.sample = sample
        self._plan: _Plan | None = None

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        warm_up()

    def reset(self, start: RunStart, /) -> None:
        """A new run may have another q axis."""
        self._plan = None

    def process(self, message: FittedCurve, /) -> Iterable[Result]:
        """Judge one frame; without crystals there is nothing to order and all columns are NaN."""
        populations = message.populations
        usable = self._usable(message)
        if not math.isfinite(populations.nc_diameter_nm) or np.count_nonzero(usable) < MIN_POINTS:
            return _judged(message, absent(message, Verdict()))
        plan = self._plan_for(message.curve, usable)
        frame = self._whiten(message, plan)
        scores = self._scan(plan.series, frame)
        order_p, order_z = _look_elsewhere(scores, frame)
        best, stack = scores.best(), scores.best(STACK.kind)
        verdict = Verdict(order_p, order_z, self._lattice(plan, frame, scores, stack))
        if not order_z >= self.settings.report_sigma:
            return _judged(message, absent(message, verdict))
        found = self._likeliest(plan, frame, scores, best)
        if best != stack:
            # On their grids, two series that fit alike differ by up to 8 % of chi-square.
            simple = self._likeliest(plan, frame, scores, stack)
            if found.score**2 - simple.score**2 < SIMPLER:
                found = simple
        return _judged(message, describe(message, frame, verdict, found, self.settings))

    def _likeliest(self, plan: _Plan, frame: Whitened, scores: _Scores, number: int) -> Fitted:
        series, fwhm = plan.series.kinds[number]
        start = (float(plan.series.first_per_nm[scores.tops[number]]), fwhm)
        return likeliest(frame, series, start, self.settings)

    def _usable(self, fitted: FittedCurve) -> np.ndarray:
        curve = fitted.curve
        usable = np.isfinite(curve.intensity) & np.isfinite(fitted.model) & (curve.sigma > 0)
        return usable & (curve.q_per_nm <= self.settings.q_max_per_nm)

    def _plan_for(self, curve: Curve, usable: np.ndarray) -> _Plan:
        plan = self._plan
        if (
            plan is None
            or not np.array_equal(plan.usable, usable)
            or not np.array_equal(plan.q_axis, curve.q_per_nm)
        ):
            plan = self._plan = self._make_plan(curve.q_per_nm, usable)
        return plan

    def _make_plan(self, q_axis: np.ndarray, usable: np.ndarray) -> _Plan:
        settings = self.settings
        q = np.ascontiguousarray(q_axis[usable], dtype=float)
        shortest, longest = settings.spacing_range_nm
        lowest, highest = 2 * math.pi / longest, 2 * math.pi / shortest
        widths = settings.peak_fwhm_per_nm
        return _Plan(
            q_axis=q_axis,
            usable=usable,
            q_per_nm=q,
            series=paths(q, SERIES, widths, lowest, highest),
            singles=paths(q, (SINGLE,), widths, max(lowest, q[0]), q[-1]),
            # The factor may bend about once per first-order spacing: faster than that is order.
            degree=int(np.clip(round((q[-1] - q[0]) / lowest), 2, 8)),
        )

    def _whiten(self, fitted: FittedCurve, plan: _Plan) -> Whitened:
        curve, populations = fitted.curve, fitted.populations
        q, usable = plan.q_per_nm, plan.usable
        spheres = np.empty((3, q.size))
        diameter, sigma = populations.nc_diameter_nm, populations.nc_sigma_nm
        mean_square_amplitude(q, diameter, sigma, spheres)
        # Volumes keep their meaning without an absolute scale too, where numbers are NaN.
        number = populations.nc_volume_fraction / mean_volume(diameter, sigma)
        spheres *= 1e7 * self.sample.contrast_per_nm2**2 * number
        model, background = fitted.model[usable], fitted.background[usable]
        bends = np.polynomial.chebyshev.chebvander(
            2 * (q - q[0]) / (q[-1] - q[0]) - 1, plan.degree
        ).T
        nuisances = np.vstack(
            [
                bends * spheres[0],
                spheres[1:],
                model - background - spheres[0],
                background,
                np.ones_like(q),
            ]
        )
        weight = 1.0 / curve.sigma[usable]
        nuisances = np.ascontiguousarray(nuisances * weight)
        basis = np.empty_like(nuisances)
        basis = basis[: orthonormal(nuisances, basis)]
        residual = project_out((curve.intensity[usable] - model) * weight, basis)
        noise = _noise(fitted, residual, len(basis))
        return Whitened(q, residual / noise, spheres[0] * weight / noise, basis)

    def _scan(self, paths: Paths, frame: Whitened) -> _Scores:
        """The best template of each scan."""
        count = len(paths.kinds)
        highest, lengths = np.empty(count), np.empty(count)
        tops = np.empty(count, dtype=np.int64)
        scores = np.empty(len(paths.templates))
        for n in range(count):
            here = slice(paths.starts[n], paths.starts[n + 1])
            lengths[n] = scan(
                frame.residual, frame.scale, frame.basis, paths.templates[here],
                paths.supports[here], self.settings.least_height, scores[here],
            )  # fmt: skip
            tops[n] = paths.starts[n] + np.argmax(scores[here])
            highest[n] = scores[tops[n]]
        return _Scores(paths, highest, tops, lengths)

    def _lattice(self, plan: _Plan, frame: Whitened, scores: _Scores, stack: int) -> float:
        """Significance of the best single peak beyond the best stack."""
        fwhm = plan.series.kinds[stack][1]
        place = plan.series.first_per_nm[scores.tops[stack]]
        widths = [factor * fwhm for factor in (0.5, 1.0, 2.0, 4.0)]
        lines = np.zeros((len(STACK.ratios) * len(widths) * 2, plan.q_per_nm.size))
        row = 0
        one = np.ones(1)
        for ratio in STACK.ratios:
            for width in widths:
                # Each line in several widths, and its shift: a peak's own shape is not a lattice.
                fill_series(plan.q_per_nm, place * ratio, width, one, one, lines[row])
                fill_shift(plan.q_per_nm, place * ratio, width, lines[row + 1])
                row += 2
        columns = np.vstack([frame.basis, lines * frame.scale])
        basis = np.empty_like(columns)
        basis = basis[: orthonormal(columns, basis)]
        residual = project_out(frame.residual, basis)
        beyond = Whitened(plan.q_per_nm, residual, frame.scale, basis)
        return _look_elsewhere(self._scan(plan.singles, beyond), beyond)[1]


def _noise(fitted: FittedCurve, residual_w: np.ndarray, rank: int) -> float:
    """By how much the noise exceeds the errors, at least 1.

    All of the fitted curve tells it: the window alone has some 270 points, whose estimate is good
    to 7 %, and a score of 4 would be worth between 3.7 and 4.3. Where the window's own residuals
    (whose freedom the projection has taken by its ``rank``) exceed that by more than two of their
    errors, they count, less those.
    """
    curve = fitted.curve
    known = np.isfinite(curve.intensity) & np.isfinite(fitted.model) & (curve.sigma > 0)
    everywhere = noise_level((curve.intensity - fitted.model)[known] / curve.sigma[known])
    free = math.sqrt(max(1.0 - rank / residual_w.size, 0.1))
    inside = noise_level(residual_w) / free * (1.0 - 2.0 / math.sqrt(residual_w.size))
    return max(1.0, everywhere, inside)


def _look_elsewhere(scores: _Scores, frame: Whitened) -> tuple[float, float]:
    """Probability that noise scores higher anywhere in these scans, and the same as z."""
    highest = float(scores.highest.max())
    paths = scores.paths
    others, together = overlap(
        highest, frame.scale, frame.basis, paths.templates, scores.tops, paths.partners,
        scores.lengths,
    )  # fmt: skip
    log_p = scan_log_probability(highest, scores.lengths.tolist(), others, together)
    return math.exp(log_p), significance(log_p)


def _judged(fitted: FittedCurve, peak: Peak) -> tuple[Result, ...]:
    """What is stored, and what stages that follow take up."""
    return peak, JudgedCurve(frame=peak.frame, time_s=peak.time_s, fitted=fitted, peak=peak)


def warm_up() -> None:
    """Compile (or load from disk) every kernel of this stage, by judging one ordered curve."""
    q = np.linspace(0.2, 1.6, 120)
    spheres = np.empty((3, q.size))
    mean_square_amplitude(q, 11.6, 1.0, spheres)
    contrast = 1e7 * Sample().contrast_per_nm2 ** 2
    model = 1e-7 * contrast * spheres[0]
    peak = np.empty(q.size)
    fill_series(q, 0.4, 0.05, np.array([1.0, 2.0]), np.ones(2), peak)
    sigma = 0.01 * model
    curve = Curve(
        frame=0, time_s=0.0, q_per_nm=q, intensity=model * (1 + peak), sigma=sigma, absolute=False
    )
    row = dict.fromkeys((each.name for each in fields(Populations)), math.nan)
    row.update(nc_diameter_nm=11.6, nc_sigma_nm=1.0, nc_volume_fraction=1e-7 * mean_volume(11.6, 1))
    fitted = FittedCurve(
        frame=0,
        time_s=0.0,
        curve=curve,
        populations=Populations(**row),  # pyright: ignore[reportArgumentType]
        model=model,
        background=np.zeros(q.size),
    )
    AnalyseAssembly(AssemblyAnalysis(), Sample()).process(fitted)
