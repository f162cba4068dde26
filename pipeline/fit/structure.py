"""Stage: structure factor of a judged curve, the form factor that it rests on, and its lines."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from scipy.special import ndtr

from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.config.structure import StructureAnalysis
from pipeline.fit.lines import Found, LineSearch
from pipeline.fit.lines import warm_up as warm_up_lines
from pipeline.kernels.ordered_form import (
    HOLE,
    fill_hole,
    refine_sizes,
    search_sizes,
)
from pipeline.kernels.sphere import mean_square_amplitude, mean_volume
from pipeline.messages import Curve, JudgedCurve, Result, RunStart
from pipeline.messages.lines import FormFactor, OrderedCurve, OrderLines, StructureFactor

MIN_POINTS = 24
"""Fewer than about twice the number of nuisances say nothing."""
DIAMETER_STEP = 1.04
"""Ratio of neighbouring diameters of the table: a minimum of the form factor moves by a quarter of
the distance between two over the first four."""
RELATIVE_SIGMAS = (0.03, 0.06, 0.1, 0.16)
TABLE_POINTS = 125
"""At most so many points of the curve are used with the table; refinement uses all."""
LEAST_OVER_SPACING, GREATEST_OVER_SPACING = 0.4, 1.25
"""Diameters over 2 pi / q of the first peak: cores of particles that touch through ligands. In fcc,
the densest, neighbours are 1.22 spacings apart."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """All that depends on the q axis, its usable part and the settings alone."""

    q_axis: np.ndarray
    usable: np.ndarray
    """Points with a model (n,), of which the form factor is taken."""
    sought: np.ndarray
    """Which of the usable ones lie where order is sought."""
    q_per_nm: np.ndarray
    stride: int
    sizes: np.ndarray
    """D and s of the table (j, 2), nm."""
    table: np.ndarray
    """<F^2>/D^6 of each at every ``stride``-th point."""
    search: LineSearch
    bends: np.ndarray
    """Slow factors of the form factor where order is sought (k, m)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """A form factor on the usable points, in the curve's units, and how well it is known."""

    diameter_nm: float
    sigma_nm: float
    curve: np.ndarray
    slopes: np.ndarray
    """By D and by s (2, n), for one particle density."""
    background: np.ndarray
    parameters: np.ndarray
    """Slopes of the model by its parameters, D and s first (m, n)."""
    covariance: np.ndarray
    """Of those (m, m)."""
    reduced_chi2: float
    choice: str
    reason: str


class FitStructure:
    """Structure factor, form factor and lines of each frame, on its own.

    S(q) = (I - background) / form factor. Without order the form factor is that of the fit of
    populations. A fit of plain spheres under a lattice is bent by its peaks, so with order the
    form factor is fitted together with them (see ``pipeline.kernels.ordered_form``), beginning
    from a table of all sizes. A config may give it. No frame is remembered: the form factor of the
    moment before order set in would make each frame hang on all before it.

    The error of S holds that of the counts and, point by point, that of the form factor and of the
    background from their covariance; points go together through the latter.

    Lines are sought on the scattering of the particles, with a slowly varying factor, the
    derivatives of the form factor and the background left free: a line is what these cannot
    explain. Heights are in units of S.

    Parameters
    ----------
    settings, assembly
        How, and where order is sought.
    fit
        Window and bounds of the fit of populations.
    sample
        Contrast, to give the fitted spheres back their intensity.
    """

    name: ClassVar[str] = "structure"
    consumes: ClassVar[tuple[type, ...]] = (JudgedCurve,)
    produces: ClassVar[tuple[type[Result], ...]] = (
        StructureFactor,
        FormFactor,
        OrderLines,
        OrderedCurve,
    )

    def __init__(
        self,
        settings: StructureAnalysis,
        assembly: AssemblyAnalysis,
        fit: PopulationsFit,
        sample: Sample,
    ) -> None:
        self.settings = settings
        self.assembly = assembly
        self.fit = fit
        self.sample = sample
        self._plan: _Plan | None = None

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        warm_up()

    def reset(self, start: RunStart, /) -> None:
        """A new run may have another q axis."""
        self._plan = None

    def process(self, message: JudgedCurve, /) -> Iterable[Result]:
        """Structure factor and lines of one frame; without crystals there are none."""
        fitted = message.fitted
        usable = _usable(message)
        sought = usable & (fitted.curve.q_per_nm <= self.assembly.q_max_per_nm)
        crystals = math.isfinite(fitted.populations.nc_diameter_nm)
        if not crystals or np.count_nonzero(sought) < MIN_POINTS:
            return _absent(message)
        plan = self._plan_for(fitted.curve, usable)
        form, found = self._form_and_lines(message, plan)
        return self._results(message, plan, form, found)

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
        settings, assembly = self.settings, self.assembly
        q = np.ascontiguousarray(q_axis[usable], dtype=float)
        sought = q <= assembly.q_max_per_nm
        near = q[sought]
        low, high = self.fit.nc_diameter_range_nm
        diameters = np.geomspace(
            low, high, 2 + math.ceil(math.log(high / low) / math.log(DIAMETER_STEP))
        )
        sizes = np.array([(d, share * d) for d in diameters for share in RELATIVE_SIGMAS])
        stride = max(1, math.ceil(q.size / TABLE_POINTS))
        coarse = np.ascontiguousarray(q[::stride])
        table, curves = np.empty((len(sizes), coarse.size)), np.empty((3, coarse.size))
        for (diameter, sigma), row in zip(sizes, table, strict=True):
            mean_square_amplitude(coarse, diameter, sigma, curves)
            row[:] = curves[0] / diameter**6
        # As in the search of series: a factor that bends faster is order.
        lowest = 2 * math.pi / assembly.spacing_range_nm[1]
        degree = int(np.clip(round((near[-1] - near[0]) / lowest), 2, 8))
        return _Plan(
            q_axis=q_axis,
            usable=usable,
            sought=sought,
            q_per_nm=q,
            stride=stride,
            sizes=sizes,
            table=table,
            search=LineSearch(
                near,
                assembly.instrument_fwhm_per_nm,
                assembly.peak_fwhm_per_nm,
                false_alarm=float(ndtr(-settings.line_sigma)),
                widest_per_nm=settings.widest_fwhm_per_nm,
                least_height=assembly.least_height,
                most=settings.most_lines,
            ),
            bends=np.polynomial.chebyshev.chebvander(
                2 * (near - near[0]) / (near[-1] - near[0]) - 1, degree
            ).T,
        )

    def _form_and_lines(self, message: JudgedCurve, plan: _Plan) -> tuple[_Form, Found]:
        """The form factor that serves, and the lines over it."""
        settings, peak = self.settings, message.peak
        if settings.diameter_nm is not None:
            size = (settings.diameter_nm, settings.sigma_nm or 0.0)
            form = self._modelled(message, plan, size, "the config gives it")
            return form, self._lines(message, plan, form)
        if peak.order_z >= self.assembly.report_sigma:
            reason = f"order at {peak.order_z:.1f} sigma: spheres and peaks fitted together"
            form = self._modelled(message, plan, None, reason)
            return form, self._lines(message, plan, form)
        form = self._fitted(message, plan)
        found = self._lines(message, plan, form)
        if not self._begins(found):
            return form, replace(found, lines=())
        reason = f"{len(found.lines)} lines over the fitted spheres: fitted together with peaks"
        bent = self._modelled(message, plan, None, reason)
        again = self._lines(message, plan, bent)
        return (bent, again) if self._begins(again) else (form, replace(found, lines=()))

    def _begins(self, found: Found) -> bool:
        """Whether one of the lines can be the first of an order: of a spacing that is sought.

        Spheres that are none leave lines at the minima of the form factor, without a first one.
        """
        shortest, longest = self.assembly.spacing_range_nm
        return any(
            2 * math.pi / longest <= line.q_per_nm <= 2 * math.pi / shortest for line in found.lines
        )

    def _lines(self, message: JudgedCurve, plan: _Plan, form: _Form) -> Found:
        """Lines over a form factor."""
        sought = plan.sought
        curve = message.fitted.curve
        data = curve.intensity[plan.usable][sought]
        sigma = np.hypot(
            curve.sigma[plan.usable][sought], self.settings.profile_error * np.abs(data)
        )
        spheres, background = form.curve[sought], form.background[sought]
        nuisances = np.vstack(
            [plan.bends * spheres, form.slopes[:, sought], background, np.ones(data.size)]
        )
        return plan.search.find(data - background - spheres, sigma, spheres, nuisances)

    def _fitted(self, message: JudgedCurve, plan: _Plan) -> _Form:
        """The form factor of the fit of populations, with the covariance of its spheres."""
        fitted, populations = message.fitted, message.fitted.populations
        diameter, sigma = populations.nc_diameter_nm, populations.nc_sigma_nm
        q, usable = plan.q_per_nm, plan.usable
        background = fitted.background[usable]
        if populations.agglomerate_volume_fraction > 0:
            background = (
                background
                + self._spheres(
                    q,
                    populations.agglomerate_diameter_nm,
                    populations.agglomerate_sigma_nm,
                    populations.agglomerate_volume_fraction,
                )[0]
            )
        curve = fitted.model[usable] - background
        spheres = self._spheres(q, diameter, sigma, populations.nc_volume_fraction)
        parameters = np.vstack([spheres[1:], curve, self._added(message, plan)])
        data, error = fitted.curve.intensity[usable], fitted.curve.sigma[usable]
        off = (data - fitted.model[usable]) / error
        chi2 = float(off @ off) / max(q.size - len(parameters), 1)
        scaled = parameters / error
        return _Form(
            diameter_nm=diameter,
            sigma_nm=sigma,
            curve=curve,
            slopes=spheres[1:],
            background=background,
            parameters=parameters,
            covariance=np.linalg.pinv(scaled @ scaled.T) * max(chi2, 1.0),
            reduced_chi2=populations.reduced_chi2,
            choice="fitted",
            reason=f"no order: {message.peak.order_z:.1f} sigma",
        )

    def _spheres(self, q: np.ndarray, diameter: float, sigma: float, fraction: float) -> np.ndarray:
        """Intensity of spheres and its slopes by D and s (3, n)."""
        spheres = np.empty((3, q.size))
        mean_square_amplitude(q, diameter, sigma, spheres)
        number = fraction / mean_volume(diameter, sigma)
        return 1e7 * self.sample.contrast_per_nm2**2 * number * spheres

    @staticmethod
    def _added(message: JudgedCurve, plan: _Plan) -> np.ndarray:
        """What is added to the particles with free amplitudes: background, and a flat one."""
        background = message.fitted.background[plan.usable]
        flat = np.ones((1, plan.q_per_nm.size))
        if np.ptp(background) <= 1e-9 * np.max(np.abs(background)):
            return flat
        return np.vstack([background / np.max(np.abs(background)), flat])

    def _modelled(
        self, message: JudgedCurve, plan: _Plan, given: tuple[float, float] | None, reason: str
    ) -> _Form:
        """Spheres fitted under the peaks; of a size that is ``given``, or of any."""
        q, curve = plan.q_per_nm, message.fitted.curve
        data = np.ascontiguousarray(curve.intensity[plan.usable], dtype=float)
        sigma = np.hypot(curve.sigma[plan.usable], self.settings.model_error * np.abs(data))
        weight = 1 / sigma
        spacing = message.peak.spacing_nm
        first = (
            2
            * math.pi
            / (spacing if math.isfinite(spacing) else max(self.assembly.spacing_range_nm))
        )
        hole = np.empty((HOLE.size, q.size))
        fill_hole(q, first, hole)
        added = self._added(message, plan)
        free = given is None
        at = np.array(given or self._start(plan, hole, added, data, weight, spacing))
        slopes = 2 if free else 0
        size = slopes + 1 + HOLE.size + len(added)
        amplitudes, gram, factor = np.zeros(size), np.empty((size, size)), np.empty(q.size)
        low, high = self.fit.nc_diameter_range_nm
        bounds = np.array([low, high, *self.fit.nc_relative_sigma_range])
        scale = at[0] ** 6
        loss = refine_sizes(
            q, hole, added, data, weight, bounds, free, at, amplitudes, gram, factor
        )
        spheres = np.empty((3, q.size))
        mean_square_amplitude(q, at[0], at[1], spheres)
        spheres *= amplitudes[slopes] / scale
        background = amplitudes[slopes + 1 + HOLE.size :] @ added
        parameters = np.vstack([spheres[1:], spheres[0], added])
        chi2 = loss / max(q.size - size, 1)
        known = np.linalg.pinv(gram, hermitian=True) * max(chi2, 1.0)
        return _Form(
            diameter_nm=float(at[0]),
            sigma_nm=float(at[1]),
            curve=spheres[0],
            slopes=spheres[1:],
            background=background,
            parameters=parameters,
            covariance=self._in_sizes(known, amplitudes, slopes),
            reduced_chi2=float(chi2),
            choice="modelled" if free else "given",
            reason=reason,
        )

    @staticmethod
    def _in_sizes(known: np.ndarray, amplitudes: np.ndarray, slopes: int) -> np.ndarray:
        """Covariance of D, s, relative amplitude and what is added, the hole being free."""
        amplitude = amplitudes[slopes]
        others = known.shape[0] - slopes - 1 - HOLE.size
        kept = [*range(slopes + 1), *range(known.shape[0] - others, known.shape[0])]
        unit = np.array([1 / amplitude] * (slopes + 1) + [1.0] * others)
        covariance = np.zeros((3 + others, 3 + others))
        covariance[2 - slopes :, 2 - slopes :] = known[np.ix_(kept, kept)] * np.outer(unit, unit)
        return covariance

    def _start(
        self,
        plan: _Plan,
        hole: np.ndarray,
        added: np.ndarray,
        data: np.ndarray,
        weight: np.ndarray,
        spacing: float,
    ) -> tuple[float, float]:
        """The best size of the table."""
        every = slice(None, None, plan.stride)
        chosen = np.ones(len(plan.sizes), bool)
        if math.isfinite(spacing):
            over = plan.sizes[:, 0] / spacing
            near = (over >= LEAST_OVER_SPACING) & (over <= GREATEST_OVER_SPACING)
            chosen = near if near.any() else chosen
        losses = np.empty(np.count_nonzero(chosen))
        search_sizes(
            plan.table[chosen],
            np.ascontiguousarray(hole[:, every]),
            np.ascontiguousarray(added[:, every]),
            np.ascontiguousarray(data[every]),
            np.ascontiguousarray(weight[every]),
            losses,
        )
        diameter, sigma = plan.sizes[chosen][int(np.argmin(losses))].tolist()
        return diameter, sigma

    def _results(
        self, message: JudgedCurve, plan: _Plan, form: _Form, found: Found
    ) -> tuple[Result, ...]:
        frame, time_s = message.frame, message.time_s
        curve = message.fitted.curve
        sought = np.flatnonzero(plan.usable)[plan.sought]
        near = form.curve[plan.sought]
        signal = curve.intensity[sought] - form.background[plan.sought]
        structure = signal / near
        # Slopes of S by the parameters of the form factor, and by those of the background.
        slopes = form.parameters[:, plan.sought] / near
        slopes[:3] *= structure
        known = np.einsum("in,ij,jn->n", slopes, form.covariance, slopes)
        lines = np.full((3, curve.q_per_nm.size), math.nan)
        lines[0, sought] = structure
        lines[1, sought] = np.sqrt((curve.sigma[sought] / near) ** 2 + np.maximum(known, 0.0))
        lines[2, sought] = near
        factor = StructureFactor(
            frame=frame,
            time_s=time_s,
            q_per_nm=curve.q_per_nm,
            structure_factor=lines[0],
            sigma=lines[1],
            form_factor=lines[2],
        )
        row = FormFactor(
            frame=frame,
            time_s=time_s,
            diameter_nm=form.diameter_nm,
            diameter_nm_err=math.sqrt(max(form.covariance[0, 0], 0.0)),
            sigma_nm=form.sigma_nm,
            sigma_nm_err=math.sqrt(max(form.covariance[1, 1], 0.0)),
            reduced_chi2=form.reduced_chi2,
            choice=form.choice,
            reason=form.reason,
        )
        return _together(message, factor, row, found)


def _usable(message: JudgedCurve) -> np.ndarray:
    """Points of the curve that a model was fitted to."""
    curve, model = message.fitted.curve, message.fitted.model
    return np.isfinite(curve.intensity) & np.isfinite(model) & (curve.sigma > 0)


def _together(
    message: JudgedCurve, structure: StructureFactor, form: FormFactor, found: Found | None
) -> tuple[Result, ...]:
    """What is stored, and what stages that follow take up."""
    lines = () if found is None else found.lines
    rows = OrderLines.of(message.frame, message.time_s, lines)
    ordered = OrderedCurve(
        frame=message.frame,
        time_s=message.time_s,
        judged=message,
        structure=structure,
        form_factor=form,
        lines=lines,
    )
    return structure, form, rows, ordered


def _absent(message: JudgedCurve) -> tuple[Result, ...]:
    """Results of a frame without crystals."""
    q = message.fitted.curve.q_per_nm
    nothing = np.full(q.size, math.nan)
    structure = StructureFactor(
        frame=message.frame,
        time_s=message.time_s,
        q_per_nm=q,
        structure_factor=nothing,
        sigma=nothing,
        form_factor=nothing,
    )
    form = FormFactor(
        frame=message.frame,
        time_s=message.time_s,
        diameter_nm=math.nan,
        diameter_nm_err=math.nan,
        sigma_nm=math.nan,
        sigma_nm_err=math.nan,
        reduced_chi2=math.nan,
        choice="",
        reason="no crystals, or too few points where order is sought",
    )
    return _together(message, structure, form, None)


def warm_up() -> None:
    """Compile (or load from disk) every kernel of this stage."""
    warm_up_lines()
    q = np.linspace(0.2, 3.0, 60)
    curves = np.empty((3, q.size))
    mean_square_amplitude(q, 8.0, 0.6, curves)
    data, weight = curves[0] / 8.0**6 + 1e-4, np.full(q.size, 1e3)
    hole, added = np.empty((HOLE.size, q.size)), np.ones((1, q.size))
    fill_hole(q, 0.6, hole)
    search_sizes(curves[:1] / 8.0**6, hole, added, data, weight, np.empty(1))
    size = 4 + HOLE.size
    refine_sizes(
        q, hole, added, data, weight, np.array([2.0, 12.0, 0.02, 0.5]), True, np.array([8.0, 0.6]),
        np.zeros(size), np.empty((size, size)), np.empty(q.size),
    )  # fmt: skip
