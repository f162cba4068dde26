"""The row of a fit: numbers with units, errors and intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.population_problem import Plan
from pipeline.kernels.population_errors import derive, fill_covariance, strongest_correlation
from pipeline.kernels.population_fit import search
from pipeline.kernels.posterior import (
    DIAMETERS,
    REACH,
    RELATIVE_SIGMAS,
    fill_posterior,
    grid_axis,
    intervals,
)
from pipeline.kernels.residual_tests import describes
from pipeline.kernels.units import PER_CM_IN_PER_NM, UM_PER_NM3
from pipeline.messages import Curve, Populations

if TYPE_CHECKING:
    from pipeline.fit.populations import Chosen, Points

CONFOUNDED = 0.98
"""Correlation of two parameters beyond which the curve hardly tells them apart: the error of one
is five times what it would be if the other were known."""
FISHER_NUMBER, FISHER_SIZE, FISHER_WIDTH = 0.05, 0.03, 0.1
"""Relative standard errors of number, diameter and sigma up to which intervals are taken from
them."""
FISHER_BOUND = 3.0
"""Standard errors that s/D has to be away from its bounds for the same."""


class RowMaker:
    """Makes rows of one run's fits.

    Parameters
    ----------
    settings, sample
        As of the stage.
    priors
        What the fit was told beforehand, as text.
    """

    def __init__(self, settings: PopulationsFit, sample: Sample, priors: str) -> None:
        self._settings = settings
        self._priors = priors
        self._per_particle = PER_CM_IN_PER_NM * sample.contrast_per_nm2**2
        self._millimolar = UM_PER_NM3 * 1e-3 / sample.formula_volume_nm3
        limiting = sample.limiting_concentration_mm
        self._yield_per_volume = math.nan if limiting is None else self._millimolar / limiting

    def make(
        self, curve: Curve, plan: Plan, points: Points, chosen: Chosen, background: np.ndarray
    ) -> Populations:
        """The columns, with the errors of the derived ones from the full covariance."""
        settings, problem = self._settings, plan.problem
        names = _parameter_names(plan)
        size = len(plan.names)
        scale = max(chosen.reduced_chi2, 1.0)
        described = describes(
            chosen.verdict,
            settings.describes_probability,
            settings.tolerated_misfit,
            not points.estimated,
        )
        covariance = np.empty((len(names), len(names)))
        fill_covariance(problem, chosen.amplitudes, chosen.at, chosen.weight, covariance)
        covariance *= scale if described else math.nan
        derived = derive(
            problem, plan.volumes, self._per_particle, chosen.amplitudes, chosen.at, covariance
        )
        correlation, first, second = strongest_correlation(covariance)
        there = (chosen.amplitudes[-2:] > 0).tolist()
        mean = np.where(there, chosen.at[:, 0], math.nan)
        sigma = mean * chosen.at[:, 1]
        errors = np.sqrt(np.diag(covariance))[size:].reshape(2, 2)
        errors[~np.array(there)] = math.nan
        number, fraction = derived.values[:, 0], derived.values[:, 1]
        number_err, fraction_err = derived.errors[:, 0], derived.errors[:, 1]
        spans, kind = np.full((4, 2), math.nan), ""
        if there[1] and described:
            values = np.array([mean[1], sigma[1], number[1], fraction[1]])
            own = np.array([errors[1, 0], errors[1, 1], number_err[1], fraction_err[1]])
            spans, kind = self._intervals(plan, points, chosen, values, own, scale)
        um = UM_PER_NM3 if curve.absolute else math.nan
        millimolar = self._millimolar if curve.absolute else math.nan
        per_volume = self._yield_per_volume if curve.absolute else math.nan
        amplitude = dict(zip(plan.names, chosen.amplitudes.tolist(), strict=True))
        total, invariant = _integrals(curve, background)
        return Populations(
            frame=curve.frame,
            time_s=curve.time_s,
            nc_diameter_nm=float(mean[1]),
            nc_diameter_nm_err=float(errors[1, 0]),
            nc_diameter_nm_lo=float(spans[0, 0]),
            nc_diameter_nm_hi=float(spans[0, 1]),
            nc_sigma_nm=float(sigma[1]),
            nc_sigma_nm_err=float(errors[1, 1]),
            nc_sigma_nm_lo=float(spans[1, 0]),
            nc_sigma_nm_hi=float(spans[1, 1]),
            nc_concentration_um=float(number[1] * um),
            nc_concentration_um_err=float(number_err[1] * um),
            nc_concentration_um_lo=float(spans[2, 0] * um),
            nc_concentration_um_hi=float(spans[2, 1] * um),
            nc_volume_fraction=float(fraction[1]),
            nc_volume_fraction_err=float(fraction_err[1]),
            agglomerate_diameter_nm=float(mean[0]),
            agglomerate_diameter_nm_err=float(errors[0, 0]),
            agglomerate_sigma_nm=float(sigma[0]),
            agglomerate_sigma_nm_err=float(errors[0, 1]),
            agglomerate_concentration_um=float(number[0] * um),
            agglomerate_concentration_um_err=float(number_err[0] * um),
            agglomerate_volume_fraction=float(fraction[0]),
            agglomerate_volume_fraction_err=float(fraction_err[0]),
            yield_fraction=float(fraction[1] * per_volume),
            yield_fraction_err=float(fraction_err[1] * per_volume),
            yield_fraction_lo=float(spans[3, 0] * per_volume),
            yield_fraction_hi=float(spans[3, 1] * per_volume),
            solute_volume_fraction=derived.solute,
            solute_volume_fraction_err=derived.solute_err,
            solute_mm=derived.solute * millimolar,
            solute_mm_err=derived.solute_err * millimolar,
            background=amplitude.get("flat", 0.0) or math.nan,
            powerlaw_amplitude=amplitude.get("powerlaw", 0.0) or math.nan,
            instrument_scale=amplitude.get("instrument", 0.0) or math.nan,
            reduced_chi2=chosen.reduced_chi2,
            residuals_p=chosen.verdict.p_combined,
            misfit_relative=chosen.verdict.misfit_relative,
            describes=bool(described),
            populations=sum(there),
            interval=kind,
            largest_correlation=correlation if correlation != 0.0 else math.nan,
            confounded=f"{names[first]}, {names[second]}" if abs(correlation) > CONFOUNDED else "",
            priors=self._priors,
            sigma_estimated=points.estimated,
            total_intensity=total,
            invariant=invariant,
        )

    def _intervals(
        self,
        plan: Plan,
        points: Points,
        chosen: Chosen,
        values: np.ndarray,
        errors: np.ndarray,
        scale: float,
    ) -> tuple[np.ndarray, str]:
        """Ends of the intervals of diameter, sigma, number and volume (4, 2), and their kind."""
        probability = self._settings.interval_probability
        relative = errors / values
        low, high = plan.problem.lower[1], plan.problem.upper[1]
        share, share_err = chosen.at[1, 1], relative[1] * chosen.at[1, 1]
        inside = low[1] + FISHER_BOUND * share_err < share < high[1] - FISHER_BOUND * share_err
        known = np.all(np.isfinite(relative))
        held = low[0] == high[0] or self._settings.nc_sigma_nm is not None
        small = np.all(relative[:3] < (FISHER_SIZE, FISHER_WIDTH, FISHER_NUMBER))
        if held or (known and inside and small):
            reach = _normal_quantile(0.5 * (1 + probability)) * errors
            return np.stack([values - reach, values + reach], axis=1), "fisher"
        diameters, relatives = self._grid(plan, points, chosen, errors, scale)
        shape = (diameters.size, relatives.size)
        logs, number, spread = np.empty(shape), np.empty(shape), np.empty(shape)
        fill_posterior(
            plan.problem, points.intensity, chosen.weight, chosen.amplitudes, chosen.at, scale,
            diameters, relatives, logs, number, spread,
        )  # fmt: skip
        ends = intervals(
            plan.problem, plan.volumes[1], self._per_particle, diameters, relatives, logs,
            number, spread, probability,
        )  # fmt: skip
        return ends, "posterior"

    @staticmethod
    def _grid(
        plan: Plan, points: Points, chosen: Chosen, errors: np.ndarray, scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places of diameter and s/D that hold the likelihood."""
        problem, starts = plan.problem, plan.starts
        maps = np.empty((2, starts.diameters_nm.size, starts.relative_sigmas.size))
        search(
            problem, starts, points.intensity * chosen.weight, chosen.weight,
            problem.fixed * chosen.weight, maps,
        )  # fmt: skip
        seen = maps[chosen.model - 2]
        rows, columns = np.nonzero(seen < seen.min() + REACH**2 * scale)
        mean, relative = chosen.at[1]
        low, high = problem.lower[1], problem.upper[1]
        return (
            grid_axis(
                mean, errors[0], low[0], high[0], starts.diameters_nm[rows.min()],
                starts.diameters_nm[rows.max()], DIAMETERS,
            ),
            grid_axis(
                relative, errors[1] / mean, low[1], high[1], starts.relative_sigmas[columns.min()],
                starts.relative_sigmas[columns.max()], RELATIVE_SIGMAS,
            ),
        )  # fmt: skip


def _parameter_names(plan: Plan) -> tuple[str, ...]:
    """Columns of the parameters, in the order of the covariance."""
    amplitudes = {
        "agglomerates": "agglomerate_concentration_um",
        "crystals": "nc_concentration_um",
        "flat": "background",
        "powerlaw": "powerlaw_amplitude",
        "instrument": "instrument_scale",
    }
    return (
        *(amplitudes[name] for name in plan.names),
        "agglomerate_diameter_nm",
        "agglomerate_sigma_nm",
        "nc_diameter_nm",
        "nc_sigma_nm",
    )


def _normal_quantile(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(level)


def _integrals(curve: Curve, background: np.ndarray) -> tuple[float, float]:
    """Integrals of I dq and of q^2 (I - background) dq over the window, by trapezoids.

    The first knows no model; the second is the scattering invariant, cut off at the window.
    """
    good = np.isfinite(curve.intensity) & np.isfinite(background)
    q, intensity = curve.q_per_nm[good], curve.intensity[good]
    total = np.trapezoid(intensity, q)
    return float(total), float(np.trapezoid(q**2 * (intensity - background[good]), q))
