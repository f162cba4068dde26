"""Stage: a curve becomes two populations of spheres, with errors and a verdict on each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.kernels.sphere import mean_square_amplitude, mean_volume
from pipeline.kernels.variable_projection import (
    fill_table,
    fit_fixed,
    fit_free,
    information,
    refine,
    search,
)
from pipeline.kernels.weights import counting_gain, counting_weight, running_mean
from pipeline.messages import BadFrameError, Curve, FittedCurve, Populations, Result, RunStart

AVOGADRO_PER_MOL = 6.02214076e23
UM_PER_NM3 = 1e24 / AVOGADRO_PER_MOL * 1e6
"""Micromolar in one particle per nm^3."""
PER_CM_IN_PER_NM = 1e7
"""1/nm is this many 1/cm."""
DIAMETER_STEP = 1.06
"""Ratio of neighbouring start diameters. Minima of chi-square are no closer than the period of
the oscillations that the data resolve, some 10 % of D. Of 300 simulated frames none ended more
than 1e-5 in chi-square above a table of 1.02, 14 widths and 12 refined starts."""
RELATIVE_SIGMA_STARTS = 6
STARTS_REFINED = 4
SEARCH_PENALTY = 14.0
"""Added to presence_sigma^2 for the nanocrystals, whose diameter and width are searched. It is
also what agglomerates are favoured by where either population would do alone: chi-square of two
more parameters exceeds 14 in 0.09 % of frames (with 8, one in 60 took agglomerates for crystals).
"""
REWEIGHTED = 2
"""Passes in which sigma is taken from the model; at 2000 to 20000 counts a bin the second moves D
by 0.0006 standard errors at most, a third by 0.0005."""
CONDITION_LIMIT = 1e13
"""Of the unit-diagonal information matrix; beyond, double precision has no digit left."""
MIN_POINTS = 12
"""Twice the number of parameters of the full model."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """All that depends on the q axis and the settings alone."""

    q_axis: np.ndarray
    window: np.ndarray
    q_per_nm: np.ndarray
    names: tuple[str, ...]
    columns: np.ndarray
    non_negative: np.ndarray
    diameters_nm: np.ndarray
    relative_sigmas: np.ndarray
    table: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """One model at its minimum; ``at`` is (diameter in nm, s/D), without crystals None."""

    chi2: float
    amplitudes: np.ndarray
    at: np.ndarray | None


def _log_grid(bounds: tuple[float, float], count: int) -> np.ndarray:
    grid = np.geomspace(bounds[0], bounds[1], count)
    grid[0], grid[-1] = bounds
    return grid


def _spheres(q_per_nm: np.ndarray, diameter_nm: float, sigma_nm: float) -> np.ndarray:
    out = np.empty((3, q_per_nm.size))
    mean_square_amplitude(q_per_nm, diameter_nm, sigma_nm, out)
    return out[0]


class FitPopulations:
    """Fits each curve on its own: no frame depends on another, so a replay repeats the numbers.

    Model: I(q) = N_nc <F^2>(D, s) + N_agg <F^2>(fixed) + A q^-n + flat, both N and A not negative.
    A population that the curve does not need is NaN. Standard errors come from the full
    covariance, widened by the root of the reduced chi-square where that is above 1.

    Parameters
    ----------
    settings
        Window, bounds, fixed shape of the agglomerates.
    sample
        Contrast, volume of a formula unit, limiting species.
    """

    name: ClassVar[str] = "populations"
    consumes: ClassVar[tuple[type, ...]] = (Curve,)
    produces: ClassVar[tuple[type[Result], ...]] = (Populations, FittedCurve)

    def __init__(self, settings: PopulationsFit, sample: Sample) -> None:
        self.settings = settings
        self.sample = sample
        self._per_particle = PER_CM_IN_PER_NM * sample.contrast_per_nm2**2
        self._plan: _Plan | None = None

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        warm_up()

    def reset(self, start: RunStart, /) -> None:
        """A new run may have another q axis."""
        self._plan = None

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
        intensity, sigma = self._usable(message, plan)
        fits, weight = self._fit_models(plan, intensity, sigma)
        fit, reduced = self._select(plan, fits, int(np.count_nonzero(weight)))
        populations = self._row(message, plan, fit, weight, reduced)
        model, background = self._evaluate(plan, fit)
        fitted = FittedCurve(
            frame=message.frame,
            time_s=message.time_s,
            curve=message,
            populations=populations,
            model=model,
            background=background,
        )
        return populations, fitted

    def _plan_for(self, curve: Curve) -> _Plan:
        plan = self._plan
        if plan is None or not (
            plan.q_axis is curve.q_per_nm or np.array_equal(plan.q_axis, curve.q_per_nm)
        ):
            plan = self._plan = self._make_plan(curve.q_per_nm)
        return plan

    def _make_plan(self, q_axis: np.ndarray) -> _Plan:
        settings = self.settings
        window = (q_axis >= settings.q_min_per_nm) & (q_axis <= settings.q_max_per_nm)
        window &= q_axis > 0
        q = np.ascontiguousarray(q_axis[window], dtype=float)
        columns = {}
        if settings.agglomerates:
            columns["agglomerates"] = _spheres(
                q, settings.agglomerate_diameter_nm, settings.agglomerate_sigma_nm
            )
        if settings.powerlaw_exponent is not None:
            columns["powerlaw"] = q**-settings.powerlaw_exponent
        if settings.flat_background:
            columns["flat"] = np.ones_like(q)
        lowest, highest = settings.nc_diameter_range_nm
        diameters = _log_grid(
            settings.nc_diameter_range_nm,
            2 + math.ceil(math.log(highest / lowest) / math.log(DIAMETER_STEP)),
        )
        relative = _log_grid(settings.nc_relative_sigma_range, RELATIVE_SIGMA_STARTS)
        table = np.empty((diameters.size, relative.size, q.size))
        fill_table(q, diameters, relative, table)
        return _Plan(
            q_axis=q_axis,
            window=window,
            q_per_nm=q,
            names=(*columns, "crystals"),
            columns=np.array(list(columns.values())).reshape(len(columns), q.size),
            non_negative=np.array([name != "flat" for name in (*columns, "crystals")]),
            diameters_nm=diameters,
            relative_sigmas=relative,
            table=table,
        )

    def _usable(self, curve: Curve, plan: _Plan) -> tuple[np.ndarray, np.ndarray]:
        """Intensity and sigma in the window; sigma is infinite where a point is no use."""
        intensity = np.array(curve.intensity[plan.window], dtype=float)
        sigma = np.array(curve.sigma[plan.window], dtype=float)
        good = np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0)
        if np.count_nonzero(good) < MIN_POINTS:
            raise BadFrameError(
                f"saxs frame {curve.frame}: {np.count_nonzero(good)} points with finite intensity "
                f"and sigma > 0 between {self.settings.q_min_per_nm} and "
                f"{self.settings.q_max_per_nm} 1/nm, a fit needs {MIN_POINTS}: check mask and "
                "q_min_per_nm, q_max_per_nm"
            )
        intensity[~good] = 0.0
        sigma[~good] = np.inf
        return intensity, sigma

    def _fit_models(
        self, plan: _Plan, intensity: np.ndarray, sigma: np.ndarray
    ) -> tuple[list[_Fit], np.ndarray]:
        """Fit every model with the same weights, those of the fullest one."""
        if self.settings.weights == "measured":
            weight = 1.0 / sigma
            return self._fit_all(plan, intensity, weight, None), weight
        gain = counting_gain(intensity, sigma)
        weight = counting_weight(gain, running_mean(intensity, sigma))
        fits = self._fit_all(plan, intensity, weight, None)
        for _ in range(REWEIGHTED):
            weight = counting_weight(gain, self._intensity(plan, fits[-1]))
            fits = self._fit_all(plan, intensity, weight, fits)
        return fits, weight

    def _models(self, plan: _Plan) -> tuple[int, ...]:
        """Columns that each model does without, as bits: with crystals, least first."""
        return (1, 0) if "agglomerates" in plan.names else (0,)

    def _fit_all(
        self,
        plan: _Plan,
        intensity: np.ndarray,
        weight: np.ndarray,
        before: list[_Fit] | None,
    ) -> list[_Fit]:
        """Models without crystals, then those with, each from fewer to more columns."""
        q, scaled, fixed_w = plan.q_per_nm, intensity * weight, plan.columns * weight
        banned = np.array(self._models(plan))
        fits = []
        for out in banned:
            amplitudes = np.empty(len(plan.names) - 1)
            chi2 = fit_fixed(scaled, fixed_w, plan.non_negative[:-1], out, amplitudes)
            fits.append(_Fit(chi2, np.append(amplitudes, 0.0), None))
        shape = (plan.diameters_nm.size, plan.relative_sigmas.size)
        maps = np.empty((banned.size, *shape))
        if before is None:
            search(scaled, weight, fixed_w, plan.non_negative, banned, plan.table, maps)
        for number, out in enumerate(banned):
            at, amplitudes = np.empty(2), np.zeros(len(plan.names))
            if before is None:
                chi2 = fit_free(
                    q, scaled, weight, fixed_w, plan.non_negative, out,
                    plan.diameters_nm, plan.relative_sigmas, maps[number],
                    STARTS_REFINED, at, amplitudes,
                )  # fmt: skip
            else:
                start = before[banned.size + number].at
                assert start is not None
                at[:] = start
                lower = np.array([plan.diameters_nm[0], plan.relative_sigmas[0]])
                upper = np.array([plan.diameters_nm[-1], plan.relative_sigmas[-1]])
                chi2 = refine(
                    q, scaled, weight, fixed_w, plan.non_negative, out, lower, upper,
                    at, amplitudes,
                )  # fmt: skip
            fits.append(_Fit(chi2, amplitudes, at))
        return fits

    def _select(self, plan: _Plan, fits: list[_Fit], points: int) -> tuple[_Fit, float]:
        """The model that the curve needs, and its reduced chi-square.

        Costs are chi-square over what chi-square per degree of freedom the fullest model leaves
        (if above 1: a model that never fits must not be helped by a second population), plus the
        penalty of each population.
        """
        full = fits[-1]
        scale = max(1.0, full.chi2 / max(points - len(plan.names) - 2, 1))
        single = self.settings.presence_sigma**2
        best, lowest = fits[0], math.inf
        for fit in fits:
            crystals = fit.amplitudes[-1] > 0
            agglomerates = plan.names[0] == "agglomerates" and fit.amplitudes[0] > 0
            if fit.at is not None and (not crystals or self._at_edge(plan, fit.at[0])):
                continue
            cost = fit.chi2 / scale + single * agglomerates + (single + SEARCH_PENALTY) * crystals
            if cost < lowest:
                best, lowest = fit, cost
        parameters = np.count_nonzero(best.amplitudes) + (0 if best.at is None else 2)
        return best, best.chi2 / max(points - parameters, 1)

    @staticmethod
    def _at_edge(plan: _Plan, diameter_nm: float) -> bool:
        """A diameter at its bound was not found but cut off: no population."""
        return bool(
            diameter_nm <= plan.diameters_nm[0] * 1.001
            or diameter_nm >= plan.diameters_nm[-1] * 0.999
        )

    def _intensity(self, plan: _Plan, fit: _Fit) -> np.ndarray:
        """Model in the window."""
        model = fit.amplitudes[:-1] @ plan.columns
        if fit.at is not None and fit.amplitudes[-1] > 0:
            spheres = _spheres(plan.q_per_nm, fit.at[0], fit.at[0] * fit.at[1])
            model = model + fit.amplitudes[-1] * spheres
        return model

    def _evaluate(self, plan: _Plan, fit: _Fit) -> tuple[np.ndarray, np.ndarray]:
        """Model and background on the whole axis, NaN outside the window."""
        model = np.full(plan.q_axis.size, np.nan)
        background = np.full(plan.q_axis.size, np.nan)
        model[plan.window] = self._intensity(plan, fit)
        keep = np.array([name in ("powerlaw", "flat") for name in plan.names[:-1]], dtype=bool)
        background[plan.window] = (fit.amplitudes[:-1] * keep) @ plan.columns
        return model, background

    def _covariance(self, plan: _Plan, fit: _Fit, weight: np.ndarray) -> np.ndarray:
        """Covariance (m + 3, m + 3) of amplitudes, D and s; NaN for what is not in the model."""
        size = len(plan.names) + 2
        matrix = np.empty((size, size))
        at = np.ones(2) if fit.at is None else fit.at
        information(plan.q_per_nm, weight, plan.columns * weight, at, fit.amplitudes, matrix)
        covariance = np.full((size, size), np.nan)
        active = np.append(fit.amplitudes != 0, [fit.at is not None] * 2)
        chosen = np.ix_(active, active)
        norm = np.sqrt(np.diag(matrix)[active])
        if np.all(norm > 0):
            scaled = matrix[chosen] / np.outer(norm, norm)
            # Columns that cannot be told apart have no finite standard error.
            if np.linalg.cond(scaled) < CONDITION_LIMIT:
                covariance[chosen] = np.linalg.inv(scaled) / np.outer(norm, norm)
        return covariance

    def _row(
        self, curve: Curve, plan: _Plan, fit: _Fit, weight: np.ndarray, reduced: float
    ) -> Populations:
        """The columns, with the errors of the derived ones from the full covariance."""
        covariance = self._covariance(plan, fit, weight) * max(reduced, 1.0)
        amplitude = {
            name: value if value != 0 else math.nan
            for name, value in zip(plan.names, fit.amplitudes.tolist(), strict=True)
        }
        crystals = fit.at is not None
        diameter, relative = (math.nan,) * 2 if fit.at is None else fit.at.tolist()
        sigma = diameter * relative
        number = amplitude["crystals"] / self._per_particle
        volume = number * mean_volume(diameter, sigma)
        by_diameter = number * math.pi / 2.0 * (diameter**2 + sigma**2)
        by_sigma = number * math.pi * diameter * sigma
        gradient = np.array([volume / amplitude["crystals"], by_diameter, by_sigma])
        volume_err = math.sqrt(gradient @ covariance[-3:, -3:] @ gradient)
        number_err, diameter_err, sigma_err = np.sqrt(np.diag(covariance)[-3:])
        number_err /= self._per_particle
        agglomerates = amplitude.get("agglomerates", math.nan) / self._per_particle
        agglomerates_err = math.nan
        if agglomerates > 0:
            agglomerates_err = math.sqrt(covariance[0, 0]) / self._per_particle
        there = agglomerates > 0
        one_volume = mean_volume(
            self.settings.agglomerate_diameter_nm, self.settings.agglomerate_sigma_nm
        )
        micromolar = UM_PER_NM3 if curve.absolute else math.nan
        per_volume = self._yield_per_volume() if curve.absolute else math.nan
        _, background = self._evaluate(plan, fit)
        total, invariant = _integrals(curve, background)
        return Populations(
            frame=curve.frame,
            time_s=curve.time_s,
            nc_diameter_nm=float(diameter),
            nc_diameter_nm_err=float(diameter_err),
            nc_sigma_nm=float(sigma),
            nc_sigma_nm_err=float(sigma_err),
            nc_concentration_um=number * micromolar,
            nc_concentration_um_err=float(number_err * micromolar),
            nc_volume_fraction=float(volume),
            nc_volume_fraction_err=volume_err,
            agglomerate_diameter_nm=self.settings.agglomerate_diameter_nm if there else math.nan,
            agglomerate_diameter_nm_err=0.0 if there else math.nan,
            agglomerate_concentration_um=agglomerates * micromolar,
            agglomerate_concentration_um_err=agglomerates_err * micromolar,
            agglomerate_volume_fraction=agglomerates * one_volume,
            agglomerate_volume_fraction_err=agglomerates_err * one_volume,
            yield_fraction=float(volume * per_volume),
            yield_fraction_err=volume_err * per_volume,
            background=amplitude.get("flat", math.nan),
            powerlaw_amplitude=amplitude.get("powerlaw", math.nan),
            reduced_chi2=reduced,
            populations=int(crystals) + int(there),
            total_intensity=total,
            invariant=invariant,
        )

    def _yield_per_volume(self) -> float:
        """Yield per unit of volume fraction; NaN if the limiting concentration is not known."""
        limiting = self.sample.limiting_concentration_mm
        if limiting is None:
            return math.nan
        millimolar = UM_PER_NM3 * 1e-3 / self.sample.formula_volume_nm3
        return millimolar / limiting


def _integrals(curve: Curve, background: np.ndarray) -> tuple[float, float]:
    """Integrals of I dq and of q^2 (I - background) dq over the window, by trapezoids.

    The first knows no model; the second is the scattering invariant, cut off at the window.
    """
    good = np.isfinite(curve.intensity) & np.isfinite(background)
    q, intensity = curve.q_per_nm[good], curve.intensity[good]
    total = np.trapezoid(intensity, q)
    return float(total), float(np.trapezoid(q**2 * (intensity - background[good]), q))


def warm_up() -> None:
    """Compile (or load from disk) every kernel of this stage, by fitting one small curve."""
    q = np.linspace(0.3, 5.0, 60)
    intensity = _spheres(q, 6.0, 0.6) + 1.0
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
        FitPopulations(settings, Sample()).process(curve)
