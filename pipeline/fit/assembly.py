"""Stage: what a fitted curve still holds of order among the particles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.sample import Sample
from pipeline.kernels.order import (
    fill_series,
    noise_level,
    orthonormal,
    project_out,
    scan,
    series_score,
    sharpen,
)
from pipeline.kernels.significance import scan_significance
from pipeline.kernels.sphere import mean_square_amplitude, mean_volume
from pipeline.messages import Curve, FittedCurve, JudgedCurve, Peak, Populations, Result, RunStart

STEP_IN_FWHM = 0.35
"""Step of the scans at the highest peak: the best template loses 4 % of the score at most."""
MIN_POINTS = 24
"""Fewer than about twice the number of nuisances say nothing."""
SIMPLER = 6.0
"""Fall of chi-square by a lattice over a stack below which order is called a stack: 20 to 1. With
peaks just above the noise the best of all series is that of chance."""
PEAKS = 3
"""Peaks that have columns of their own."""


@dataclass(frozen=True, slots=True)
class Series:
    """Places of a structure's peaks relative to its first, and their strengths.

    Strengths are multiplicity / q^2 (powder) of each line, the first being 1.
    """

    kind: str
    ratios: tuple[float, ...]
    strengths: tuple[float, ...]


def _cubic(kind: str, lines: tuple[tuple[int, int], ...]) -> Series:
    """Lines of a cubic cell as (h^2 + k^2 + l^2, multiplicity)."""
    first, many = lines[0]
    return Series(
        kind,
        tuple(math.sqrt(square / first) for square, _ in lines),
        tuple(number / many * first / square for square, number in lines),
    )


# hcp with c/a = sqrt(8/3): 1/d^2 = 4/3 (h^2 + hk + k^2)/a^2 + l^2/c^2, |structure factor|^2 1, 4,
# 3 for the three parities of (h + 2k mod 3, l); relative to 100.
_HCP = ((1.0, 6 * 1), (9 / 8, 2 * 4), (41 / 32, 12 * 3), (17 / 8, 12 * 1), (3.0, 6 * 4),
        (113 / 32, 12 * 3), (33 / 8, 12 * 4))  # fmt: skip
SERIES = (
    # Stacked sheets: paracrystalline disorder damps the higher orders.
    Series("stack", (1.0, 2.0, 3.0), (1.0, 0.7, 0.5)),
    _cubic("fcc", ((3, 8), (4, 6), (8, 12), (11, 24), (12, 8))),
    _cubic("bcc", ((2, 12), (4, 6), (6, 24), (8, 12), (10, 24))),
    Series(
        "hcp",
        tuple(math.sqrt(square) for square, _ in _HCP),
        tuple(number / 6 / square for square, number in _HCP),
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """Templates (j, n) of one series at one width, along the first peak's place."""

    series: Series
    fwhm_per_nm: float
    first_per_nm: np.ndarray
    templates: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """All that depends on the q axis, its usable part and the settings alone."""

    q_axis: np.ndarray
    usable: np.ndarray
    q_per_nm: np.ndarray
    scans: tuple[_Scan, ...]
    singles: tuple[_Scan, ...]
    degree: int


@dataclass(frozen=True, slots=True, eq=False)
class _Whitened:
    """One frame, ready for matched filters; see ``pipeline.kernels.order``."""

    residual: np.ndarray
    scale: np.ndarray
    basis: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Score:
    """Best template of a scan: its score, its first peak's place; the length of the scan."""

    scan: _Scan
    score: float
    first_per_nm: float
    length: float


def _scan_of(q: np.ndarray, series: Series, fwhm: float, lowest: float, highest: float) -> _Scan:
    """Templates so dense that no peak moves by more than STEP_IN_FWHM from one to the next."""
    # A step multiplies all places, so the highest peak inside the window moves most.
    step = STEP_IN_FWHM * fwhm / min(q[-1], max(series.ratios) * highest)
    count = 2 + math.ceil(math.log(highest / lowest) / step)
    first = np.geomspace(lowest, highest, count)
    templates = np.empty((count, q.size))
    ratios, strengths = np.array(series.ratios), np.array(series.strengths)
    for place, out in zip(first, templates, strict=True):
        fill_series(q, place, fwhm, ratios, strengths, out)
    return _Scan(series, fwhm, first, templates)


class AnalyseAssembly:
    """Order in one curve: series of peaks at an unknown spacing, against the fitted spheres.

    ``order_z`` is the significance of the best of all series (stacked sheets 1:2:3, fcc, bcc,
    hcp) at any spacing and width, after look-elsewhere: about standard normal without order.
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
            return _judged(message, _absent(message))
        plan = self._plan_for(message.curve, usable)
        frame = self._whiten(message, plan)
        scores = [_score(each, frame, self.settings.least_height) for each in plan.scans]
        order_z, best = _best(scores)
        stack = _best([each for each in scores if each.scan.series.kind == "stack"])[1]
        lattice_z = self._lattice(plan, frame, stack)
        if not order_z >= self.settings.report_sigma:
            return _judged(message, _absent(message, order_z, lattice_z))
        if best.score**2 - stack.score**2 < SIMPLER:
            best = stack
        return _judged(message, self._describe(message, plan, frame, (order_z, lattice_z), best))

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
        single = Series("single", (1.0,), (1.0,))
        # The factor may bend about once per first-order spacing: faster than that is order.
        degree = int(np.clip(round((q[-1] - q[0]) / lowest), 2, 8))
        return _Plan(
            q_axis=q_axis,
            usable=usable,
            q_per_nm=q,
            scans=tuple(
                _scan_of(q, series, fwhm, lowest, highest)
                for series in SERIES
                for fwhm in settings.peak_fwhm_per_nm
            ),
            singles=tuple(
                _scan_of(q, single, fwhm, max(lowest, q[0]), q[-1])
                for fwhm in settings.peak_fwhm_per_nm
            ),
            degree=degree,
        )

    def _whiten(self, fitted: FittedCurve, plan: _Plan) -> _Whitened:
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
        # The projection takes its rank of the residuals' freedom away.
        free = math.sqrt(max(1.0 - len(basis) / q.size, 0.1))
        noise = max(1.0, noise_level(residual) / free)
        return _Whitened(residual / noise, spheres[0] * weight / noise, basis)

    def _lattice(self, plan: _Plan, frame: _Whitened, stack: _Score) -> float:
        """Significance of the best single peak beyond the best stack."""
        ratios, place = stack.scan.series.ratios, stack.first_per_nm
        widths = [factor * stack.scan.fwhm_per_nm for factor in (0.5, 1.0, 2.0, 4.0)]
        lines = np.zeros((len(ratios) * len(widths) * 2, plan.q_per_nm.size))
        row = 0
        one = np.ones(1)
        for ratio in ratios:
            for width in widths:
                # Each line in several widths, and its shift: a peak's own shape is not a lattice.
                fill_series(plan.q_per_nm, place * ratio, width, one, one, lines[row])
                lines[row + 1] = np.gradient(lines[row], plan.q_per_nm)
                row += 2
        columns = np.vstack([frame.basis, lines * frame.scale])
        basis = np.empty_like(columns)
        basis = basis[: orthonormal(columns, basis)]
        beyond = _Whitened(project_out(frame.residual, basis), frame.scale, basis)
        height = self.settings.least_height
        return _best([_score(each, beyond, height) for each in plan.singles])[0]

    def _describe(
        self,
        message: FittedCurve,
        plan: _Plan,
        frame: _Whitened,
        z: tuple[float, float],
        best: _Score,
    ) -> Peak:
        """Spacing, width and the heights of the first peaks of the best series."""
        q, series = plan.q_per_nm, best.scan.series
        place, width = best.first_per_nm, best.scan.fwhm_per_nm
        ratios, strengths = np.array(series.ratios), np.array(series.strengths)
        shortest, longest = self.settings.spacing_range_nm
        narrowest = max(float(np.median(np.diff(q))), 1e-6)
        at = np.array([place, width])
        sharpen(
            q, frame.residual, frame.scale, frame.basis, ratios, strengths,
            (max(place - width, 2 * math.pi / longest), min(place + width, 2 * math.pi / shortest)),
            (narrowest, 4 * self.settings.peak_fwhm_per_nm[-1]), at,
        )  # fmt: skip
        first, fwhm = at.tolist()
        spacing = 2 * math.pi / first
        error = self._place_error(plan, frame, series, first, fwhm)
        heights, places = [math.nan] * PEAKS, [math.nan] * PEAKS
        line, one = np.empty(q.size), np.ones(1)
        for number, ratio in enumerate(series.ratios[:PEAKS]):
            if q[0] <= first * ratio <= q[-1]:
                fill_series(q, first * ratio, fwhm, one, one, line)
                places[number] = first * ratio
                heights[number] = series_score(frame.residual, frame.scale, frame.basis, line)[1]
        own = fwhm**2 - self.settings.instrument_fwhm_per_nm**2
        return Peak(
            frame=message.frame,
            time_s=message.time_s,
            order_z=z[0],
            lattice_z=z[1],
            order_kind=series.kind,
            spacing_nm=spacing,
            spacing_nm_err=error * spacing / first,
            peak_1_q_per_nm=places[0],
            peak_2_q_per_nm=places[1],
            peak_3_q_per_nm=places[2],
            peak_1_height=heights[0],
            peak_2_height=heights[1],
            peak_3_height=heights[2],
            peak_fwhm_per_nm=fwhm,
            domain_nm=2 * math.pi / math.sqrt(own) if own > 0 else math.nan,
        )

    @staticmethod
    def _place_error(
        plan: _Plan, frame: _Whitened, series: Series, first: float, fwhm: float
    ) -> float:
        """Standard error of the first peak's place: curvature of score^2/2, the log-likelihood."""
        ratios, strengths = np.array(series.ratios), np.array(series.strengths)
        line = np.empty(plan.q_per_nm.size)
        step = 0.05 * fwhm
        values = []
        for shift in (-step, 0.0, step):
            fill_series(plan.q_per_nm, first + shift, fwhm, ratios, strengths, line)
            score = series_score(frame.residual, frame.scale, frame.basis, line)[0]
            values.append(0.5 * score**2)
        curvature = (2 * values[1] - values[0] - values[2]) / step**2
        return 1 / math.sqrt(curvature) if curvature > 0 else math.nan


def _judged(fitted: FittedCurve, peak: Peak) -> tuple[Result, ...]:
    """What is stored, and what stages that follow take up."""
    return peak, JudgedCurve(frame=peak.frame, time_s=peak.time_s, fitted=fitted, peak=peak)


def _score(scan_: _Scan, frame: _Whitened, least_height: float) -> _Score:
    """Best template of one scan."""
    scores = np.empty(len(scan_.templates))
    length = scan(frame.residual, frame.scale, frame.basis, scan_.templates, least_height, scores)
    top = int(np.argmax(scores))
    return _Score(scan_, float(scores[top]), float(scan_.first_per_nm[top]), length)


def _best(scores: list[_Score]) -> tuple[float, _Score]:
    """The best of several scans, and what its score is worth after look-elsewhere."""
    best = max(scores, key=lambda each: each.score)
    return scan_significance(best.score, [each.length for each in scores]), best


def _absent(message: FittedCurve, order_z: float = math.nan, lattice_z: float = math.nan) -> Peak:
    """A row without a spacing."""
    absent = dict.fromkeys(
        (
            "spacing_nm", "spacing_nm_err", "peak_1_q_per_nm", "peak_2_q_per_nm",
            "peak_3_q_per_nm", "peak_1_height", "peak_2_height", "peak_3_height",
            "peak_fwhm_per_nm", "domain_nm",
        ),
        math.nan,
    )  # fmt: skip
    return Peak(
        frame=message.frame,
        time_s=message.time_s,
        order_z=order_z,
        lattice_z=lattice_z,
        order_kind="",
        **absent,
    )


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
