"""Stage: a curve becomes two populations of particles, with errors and a verdict on each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.population_problem import Plan, make_plan, priors_text
from pipeline.fit.population_row import RowMaker
from pipeline.fit.usable import usable_points
from pipeline.kernels.population_fit import BOTH, Fits, empty_fits, fill_model, fit_frame
from pipeline.kernels.residual_tests import ResidualVerdict, residual_verdict
from pipeline.kernels.variable_projection import prior_penalty
from pipeline.messages import Curve, FittedCurve, Populations, Result, RunStart

SEARCH_PENALTY = 14.0
"""Added to presence_sigma^2 for the nanocrystals, whose diameter and width are searched. It is
also what agglomerates are favoured by where either population would do alone: chi-square of two
more parameters exceeds 14 in 0.09 % of frames (with 8, one in 60 took agglomerates for crystals).
"""
MIN_POINTS = 12
"""Twice the number of parameters of the full model."""
EDGE = 1e-3
"""A diameter so near its bound, relatively, was not found but cut off: no population."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """What of a curve is fitted; sigma is infinite where a point is no use."""

    intensity: np.ndarray
    sigma: np.ndarray
    estimated: bool
    """Whether sigma is from the curve's own scatter."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The model that a curve needs, at its minimum."""

    model: int
    """Bit 0 is agglomerates, bit 1 crystals."""
    amplitudes: np.ndarray
    at: np.ndarray
    weight: np.ndarray
    parameters: int
    reduced_chi2: float
    curve: np.ndarray
    """Model in the window (n,)."""
    verdict: ResidualVerdict


class FitPopulations:
    """Fits each curve with up to two populations.

    Model: I(q) = N_nc <F^2>(D, s) + N_agg <F^2>_agg + A q^-n + flat (+ an instrument's curve), N
    and A not negative, smeared with the resolution of q. A population that the curve does not need
    is NaN.

    A frame is fitted from the frame before, and every ``search_every`` frames from a search of
    all sizes, so that it depends on the frames since then and on nothing else: whoever begins
    there gets the same numbers, to the last bit.

    Parameters
    ----------
    settings
        Window, bounds, shape, what is known beforehand.
    sample
        Contrast, volume of a formula unit, limiting species.
    instrument
        q in 1/nm (rising) and intensity of the curve whose height is fitted, if any.

    Raises
    ------
    ValueError
        If the shape, or one of its parameters, is not known.
    """

    name: ClassVar[str] = "populations"
    consumes: ClassVar[tuple[type, ...]] = (Curve,)
    produces: ClassVar[tuple[type[Result], ...]] = (Populations, FittedCurve)

    def __init__(
        self,
        settings: PopulationsFit,
        sample: Sample,
        instrument: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.settings = settings
        self.sample = sample
        self._instrument = instrument
        self._rows = RowMaker(settings, sample, priors_text(settings))
        self._plan: Plan | None = None
        self._fits: Fits | None = None
        self._before = (-1, 1.0)

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        warm_up()

    def reset(self, start: RunStart, /) -> None:
        """A new run may have another q axis."""
        self._plan = None
        self.forget()

    def forget(self) -> None:
        """Fit the next frame from a search."""
        self._fits = None

    def first_needed(self, frame: int) -> int:
        """The last frame up to ``frame`` that is fitted from a search."""
        return frame - frame % self.settings.search_every

    def process(self, message: Curve, /) -> Iterable[Result]:
        """Fit one curve.

        Returns
        -------
        tuple
            The row and the fitted curve.

        Raises
        ------
        BadFrameError
            If too few points can be used.
        """
        plan = self._plan_for(message)
        points = self._usable(message, plan)
        fits = self._fit(message.frame, plan, points)
        chosen = self._choose(plan, points, fits)
        model, background = self._curves(plan, chosen)
        populations = self._rows.make(message, plan, points, chosen, background)
        fitted = FittedCurve(
            frame=message.frame,
            time_s=message.time_s,
            curve=message,
            populations=populations,
            model=model,
            background=background,
        )
        return populations, fitted

    def _plan_for(self, curve: Curve) -> Plan:
        plan = self._plan
        if plan is None or not plan.fits(curve.q_per_nm, curve.q_resolution_per_nm):
            self.forget()
            plan = self._plan = make_plan(
                self.settings, curve.q_per_nm, curve.q_resolution_per_nm, self._instrument
            )
        return plan

    def _usable(self, curve: Curve, plan: Plan) -> Points:
        """Points in the window."""
        ends = self.settings.q_min_per_nm, self.settings.q_max_per_nm
        return Points(*usable_points(curve, plan.window, ends, MIN_POINTS, "saxs"))

    def _fit(self, frame: int, plan: Plan, points: Points) -> Fits:
        """Fit every model with the same weights, those of the fullest one."""
        last, reduced = self._before
        cold = self._fits is None or self.first_needed(frame) != self.first_needed(last)
        if self._fits is None:
            self._fits = empty_fits(plan.problem.fixed.shape[0], points.sigma.size)
        fits = self._fits
        fit_frame(
            plan.problem, plan.starts, plan.asked, points.intensity, points.sigma,
            self.settings.weights == "model" and not points.estimated, cold, reduced, fits,
        )  # fmt: skip
        full = fits.chi2[BOTH if plan.asked[BOTH] else 2]
        freedom = max(np.count_nonzero(fits.weight) - fits.amplitudes.shape[1] - 2, 1)
        self._before = (frame, float(full) / freedom)
        return fits

    def _choose(self, plan: Plan, points: Points, fits: Fits) -> Chosen:
        """The model that the curve needs.

        Costs are chi-square over what chi-square per degree of freedom the fullest model leaves
        (if above 1: a model that never fits must not be helped by a second population), plus the
        penalty of each population.
        """
        _, reduced = self._before
        scale = max(1.0, reduced)
        single = self.settings.presence_sigma**2
        best, lowest = 0, math.inf
        for model in np.flatnonzero(plan.asked).tolist():
            agglomerates, crystals = (fits.amplitudes[model, -2:] > 0).tolist()
            if model >= 2 and (not crystals or self._at_edge(plan, fits.at[model, 1, 0])):
                continue
            cost = fits.chi2[model] / scale
            cost += single * agglomerates + (single + SEARCH_PENALTY) * crystals
            if cost < lowest:
                best, lowest = model, cost
        amplitudes, at = fits.amplitudes[best].copy(), fits.at[best].copy()
        free = (plan.problem.lower < plan.problem.upper) & (amplitudes[-2:, None] > 0)
        parameters = int(np.count_nonzero(amplitudes) + np.count_nonzero(free))
        curve = np.empty(points.sigma.size)
        fill_model(plan.problem, amplitudes, at, curve)
        used = np.flatnonzero(fits.weight)
        weight = fits.weight[used]
        residual = (points.intensity[used] - curve[used]) * weight
        verdict = residual_verdict(
            residual, curve[used] * weight, parameters, self.settings.residual_stride
        )
        chi2 = fits.chi2[best] - sum(
            prior_penalty(plan.problem, p, at[p, 0], at[p, 1]) for p in range(2) if best >> p & 1
        )
        return Chosen(
            model=best,
            amplitudes=amplitudes,
            at=at,
            weight=fits.weight.copy(),
            parameters=parameters,
            reduced_chi2=float(chi2) / max(used.size - parameters, 1),
            curve=curve,
            verdict=verdict,
        )

    @staticmethod
    def _at_edge(plan: Plan, diameter_nm: float) -> bool:
        low, high = plan.problem.lower[1, 0], plan.problem.upper[1, 0]
        cut = diameter_nm <= low * (1 + EDGE) or diameter_nm >= high * (1 - EDGE)
        return bool(low < high and cut)

    @staticmethod
    def _curves(plan: Plan, chosen: Chosen) -> tuple[np.ndarray, np.ndarray]:
        """Model and background on the whole axis, NaN outside the window."""
        model = np.full(plan.q_axis.size, np.nan)
        background = np.full(plan.q_axis.size, np.nan)
        model[plan.window] = chosen.curve
        background[plan.window] = chosen.amplitudes[:-2] @ plan.problem.fixed
        return model, background


def warm_up() -> None:
    """Compile (or load from disk) every kernel of this stage, by fitting one small curve."""
    q = np.linspace(0.3, 5.0, 60)
    intensity = 1e3 / (1 + (q * 2.0) ** 4) + 1.0
    curve = Curve(
        frame=0,
        time_s=0.0,
        q_per_nm=q,
        intensity=intensity,
        sigma=np.sqrt(intensity),
        absolute=False,
    )
    for weights in ("model", "measured"):
        settings = PopulationsFit(q_min_per_nm=0.3, q_max_per_nm=5.0, weights=weights)
        stage = FitPopulations(settings, Sample())
        stage.process(curve)
        stage.process(curve)
