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
from pipeline.fit.form_factor import Form, FormFactors, Sizes
from pipeline.fit.form_factor import warm_up as warm_up_form_factor
from pipeline.fit.lines import Found, LineSearch
from pipeline.fit.lines import warm_up as warm_up_lines
from pipeline.fit.order_row import instrument_fwhms
from pipeline.messages import Curve, JudgedCurve, Peak, Result, RunStart
from pipeline.messages.lines import FormFactor, OrderedCurve, OrderLines, StructureFactor

MIN_POINTS = 24
"""Fewer than about twice the number of nuisances say nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """All that depends on the q axis, its usable part and the settings alone."""

    q_axis: np.ndarray
    resolution: np.ndarray
    usable: np.ndarray
    """Points with a model (n,), of which the form factor is taken."""
    sought: np.ndarray
    """Which of the usable ones lie where order is sought."""
    sizes: Sizes
    search: LineSearch
    bends: np.ndarray
    """Slow factors of the form factor where order is sought (k, m)."""


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
    explain. Heights are in units of S. Places are those of maxima of S: the mean over orientations
    divides a reflection by q^2, which moves it down by 0.36 fwhm^2 / q (0.13 % for domains of
    300 nm at 0.35 1/nm).

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
        self._form_factors = FormFactors(settings, assembly, fit, sample)
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
            or not np.array_equal(plan.resolution, curve.q_resolution_per_nm, equal_nan=True)
        ):
            plan = self._plan = self._make_plan(curve, usable)
        return plan

    def _make_plan(self, curve: Curve, usable: np.ndarray) -> _Plan:
        settings, assembly = self.settings, self.assembly
        q = np.ascontiguousarray(curve.q_per_nm[usable], dtype=float)
        sought = q <= assembly.q_max_per_nm
        near = q[sought]
        # As in the search of series: a factor that bends faster is order.
        lowest = 2 * math.pi / assembly.spacing_range_nm[1]
        degree = int(np.clip(round((near[-1] - near[0]) / lowest), 2, 8))
        return _Plan(
            q_axis=curve.q_per_nm,
            resolution=curve.q_resolution_per_nm,
            usable=usable,
            sought=sought,
            sizes=self._form_factors.sizes(q),
            search=LineSearch(
                near,
                instrument_fwhms(curve, near, assembly),
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

    def _form_and_lines(self, message: JudgedCurve, plan: _Plan) -> tuple[Form, Found]:
        """The form factor that serves, and the lines over it."""
        factors, z = self._form_factors, message.peak.order_z
        if self.settings.diameter_nm is not None:
            form = factors.modelled(message, plan.sizes, plan.usable, "the config gives it")
            return form, self._lines(message, plan, form)
        if z >= self.assembly.report_sigma:
            reason = f"order at {z:.1f} sigma: spheres and peaks fitted together"
            form = factors.modelled(message, plan.sizes, plan.usable, reason)
            return form, self._lines(message, plan, form)
        form = factors.fitted(message, plan.sizes, plan.usable)
        found = self._lines(message, plan, form)
        if self._begins(found):
            reason = f"{len(found.lines)} lines: spheres and peaks fitted together"
            bent = factors.modelled(message, plan.sizes, plan.usable, reason)
            again = self._lines(message, plan, bent)
            if self._begins(again):
                return bent, again
        return form, replace(found, lines=())

    def _begins(self, found: Found) -> bool:
        """Whether one of the lines can be the first of an order: of a spacing that is sought.

        Spheres that are none leave lines at the minima of the form factor, without a first one.
        """
        shortest, longest = self.assembly.spacing_range_nm
        return any(
            2 * math.pi / longest <= line.q_per_nm <= 2 * math.pi / shortest for line in found.lines
        )

    def _lines(self, message: JudgedCurve, plan: _Plan, form: Form) -> Found:
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

    def _results(
        self, message: JudgedCurve, plan: _Plan, form: Form, found: Found
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
        # In pairs: three factors at once take four times as long.
        known = np.einsum("in,in->n", slopes, np.einsum("ij,jn->in", form.covariance, slopes))
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
        diameter_err = math.sqrt(max(form.covariance[0, 0], 0.0))
        surface, surface_err = _between_surfaces(message.peak, form.diameter_nm, diameter_err)
        row = FormFactor(
            frame=frame,
            time_s=time_s,
            diameter_nm=form.diameter_nm,
            diameter_nm_err=diameter_err,
            sigma_nm=form.sigma_nm,
            sigma_nm_err=math.sqrt(max(form.covariance[1, 1], 0.0)),
            reduced_chi2=form.reduced_chi2,
            choice=form.choice,
            reason=form.reason,
            surface_nm=surface,
            surface_nm_err=surface_err,
        )
        return _together(message, factor, row, found)


def _between_surfaces(
    peak: Peak, diameter_nm: float, diameter_nm_err: float
) -> tuple[float, float]:
    """Distance of the surfaces of neighbouring sheets, and its error; NaN without a stack."""
    if peak.order_kind != "stack":
        return math.nan, math.nan
    return peak.spacing_nm - diameter_nm, math.hypot(peak.spacing_nm_err, diameter_nm_err)


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
    warm_up_form_factor()
