"""What a fit of populations needs of a run: curves of all sizes, fixed curves, bounds, starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.config.populations import Expected, PopulationsFit
from pipeline.kernels import shapes
from pipeline.kernels.averages import fill_average, size_nodes
from pipeline.kernels.distributions import CODES, GAUSSIAN
from pipeline.kernels.population_fit import Starts, make_starts
from pipeline.kernels.variable_projection import Problem

DIAMETER_STEP = 1.06
"""Ratio of neighbouring start diameters. Minima of chi-square are no closer than the period of
the oscillations that the data resolve, some 10 % of D. Of 300 simulated frames none ended more
than 1e-5 in chi-square above a table of 1.02, 14 widths and 12 refined starts."""
RELATIVE_SIGMA_STARTS = 6
SMEARED_SIGMA, SMEARED_POINTS = 3.5, 15
"""Resolution is a mean over so many even places of q out to so many standard deviations: cos(q D)
is smeared to 5e-4 of its size where a bin sees a third of a period (dq D = 1), better below."""
HELD_RELATIVE = 1e-6
"""Standard deviation of a held sigma over itself, where the diameter is free."""
EXPECTED_SD = 5.0
"""Bounds of what is expected, in standard deviations about the mean."""
SMALLEST_SHARE = 0.3
"""Bound of an agglomerate's size, over its expected mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All that depends on the q axis and the settings alone."""

    q_axis: np.ndarray
    resolution: np.ndarray
    window: np.ndarray
    names: tuple[str, ...]
    """Of the amplitudes: fixed curves, then ``agglomerates`` and ``crystals``."""
    problem: Problem
    starts: Starts
    asked: np.ndarray
    """Which of the four models may be (4,)."""
    volumes: np.ndarray
    """Of a particle at each size of the tables (2, k), nm^3."""

    def fits(self, q_axis: np.ndarray, resolution: np.ndarray) -> bool:
        """Whether it is for these axes."""
        return (self.q_axis is q_axis or np.array_equal(self.q_axis, q_axis)) and (
            self.resolution is resolution or np.array_equal(self.resolution, resolution)
        )


def make_plan(
    settings: PopulationsFit,
    q_axis: np.ndarray,
    resolution: np.ndarray,
    instrument: tuple[np.ndarray, np.ndarray] | None,
) -> Plan:
    """Tables for one q axis.

    Parameters
    ----------
    settings
        Of the fit.
    q_axis
        (n,), 1/nm.
    resolution
        Standard deviation of q in each bin (n,), 1/nm, or empty.
    instrument
        q in 1/nm and intensity of the curve whose height is fitted, or None.
    """
    window = (q_axis >= settings.q_min_per_nm) & (q_axis <= settings.q_max_per_nm) & (q_axis > 0)
    q = np.ascontiguousarray(q_axis[window], dtype=float)
    dq = _resolution(settings, q_axis, resolution)[window]
    fixed = _fixed_curves(settings, q, dq, instrument)
    lower, upper, prior, weight = _bounds(settings)
    nodes, steps = size_nodes(float(lower[:, 0].min()), float(upper[1, 0]), float(upper[1, 1]))
    crystal, agglomerate = shapes.load(settings.shape), shapes.load("sphere")
    tables = np.empty((2, nodes.size, q.size))
    for table, card, parameters in (
        (tables[0], agglomerate, {}),
        (tables[1], crystal, settings.shape_parameters),
    ):
        table[:] = smear(lambda at, c=card, p=parameters: c.amplitudes(at, nodes, p)[0], q, dq)
    held = np.all(lower == upper, axis=1)
    held_curves = np.zeros((2, q.size))
    weights, out = np.empty((3, nodes.size)), np.empty((3, q.size))
    kinds = np.array([GAUSSIAN, CODES[settings.distribution]])
    q_max = float(q[-1]) if q.size else 0.0
    for p in np.flatnonzero(held):
        mean, relative = lower[p]
        fill_average(kinds[p], nodes, steps, q_max, tables[p], mean, relative, weights, out)
        held_curves[p] = out[0]
    problem = Problem(
        kinds=kinds,
        nodes=nodes,
        steps=steps,
        q_max=q_max,
        tables=tables,
        fixed=np.array(list(fixed.values())).reshape(len(fixed), q.size),
        non_negative=np.array([name != "flat" for name in fixed] + [True, True]),
        lower=lower,
        upper=upper,
        held=held,
        held_curves=held_curves,
        prior_nm=prior,
        prior_weight=weight,
    )
    low, high = settings.nc_diameter_range_nm
    count = 2 + math.ceil(math.log(high / low) / math.log(DIAMETER_STEP))
    diameters = _log_grid(low, high, count)
    if lower[1, 0] == upper[1, 0]:
        diameters = lower[1, :1].copy()
    relatives = _log_grid(*settings.nc_relative_sigma_range, RELATIVE_SIGMA_STARTS)
    return Plan(
        q_axis=q_axis,
        resolution=resolution,
        window=window,
        names=(*fixed, "agglomerates", "crystals"),
        problem=problem,
        starts=make_starts(problem, diameters, relatives, _agglomerate_start(settings)),
        asked=np.array([True, settings.agglomerates, True, settings.agglomerates]),
        volumes=np.stack(
            [
                agglomerate.volume_nm3(nodes, {}),
                crystal.volume_nm3(nodes, settings.shape_parameters),
            ]
        ),
    )


def smear(
    curve: Callable[[np.ndarray], np.ndarray], q_per_nm: np.ndarray, dq_per_nm: np.ndarray
) -> np.ndarray:
    """A curve (..., n) as seen with a Gaussian resolution of q.

    Parameters
    ----------
    curve
        Values (..., n) at positive q (n,).
    q_per_nm
        (n,), 1/nm.
    dq_per_nm
        Standard deviation of q (n,), 1/nm; 0 = exact.
    """
    if not np.any(dq_per_nm > 0):
        return curve(q_per_nm)
    places = np.linspace(-SMEARED_SIGMA, SMEARED_SIGMA, SMEARED_POINTS)
    weights = np.exp(-0.5 * places**2)
    total = 0.0
    for place, weight in zip(places, weights / weights.sum(), strict=True):
        # A quarter of q stands for what would be beyond the beam.
        total = total + weight * curve(np.maximum(q_per_nm + place * dq_per_nm, 0.25 * q_per_nm))
    return np.asarray(total)


def priors_text(settings: PopulationsFit) -> str:
    """What the fit was told beforehand, for the stored result."""
    told = {
        "nc_diameter_nm": settings.nc_diameter_nm,
        "nc_sigma_nm": settings.nc_sigma_nm,
    }
    if settings.agglomerates:
        told["agglomerate_diameter_nm"] = settings.agglomerate_diameter_nm
        told["agglomerate_sigma_nm"] = settings.agglomerate_sigma_nm
    parts = []
    for name, value in told.items():
        if isinstance(value, Expected):
            parts.append(f"{name} {value.mean:g} +- {value.sd:g}")
        elif value is not None:
            parts.append(f"{name} {value:g} held")
    return "; ".join(parts)


def _resolution(settings: PopulationsFit, q_axis: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    if not settings.smearing:
        return np.zeros(q_axis.size)
    if settings.q_resolution_per_nm is not None:
        return np.full(q_axis.size, settings.q_resolution_per_nm)
    if not resolution.size:
        return np.zeros(q_axis.size)
    return np.where(np.isfinite(resolution), resolution, 0.0)


def _fixed_curves(
    settings: PopulationsFit,
    q: np.ndarray,
    dq: np.ndarray,
    instrument: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    curves = {}
    if instrument is not None:
        curves["instrument"] = np.interp(q, *instrument)
    exponent = settings.powerlaw_exponent
    if exponent is not None:
        curves["powerlaw"] = smear(lambda at: at**-exponent, q, dq)
    if settings.flat_background:
        curves["flat"] = np.ones_like(q)
    return curves


def _agglomerate_start(settings: PopulationsFit) -> np.ndarray:
    diameter = _mean(settings.agglomerate_diameter_nm)
    return np.array([diameter, _mean(settings.agglomerate_sigma_nm) / diameter])


def _mean(value: float | Expected) -> float:
    return value.mean if isinstance(value, Expected) else value


def _bounds(settings: PopulationsFit) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Least and greatest (D, s/D) of both populations, what is expected (nm), 1/sd of that."""
    start = _agglomerate_start(settings)
    lower, upper = np.empty((2, 2)), np.empty((2, 2))
    prior, weight = np.zeros((2, 2)), np.zeros((2, 2))
    lower[0] = upper[0] = start
    if isinstance(expected := settings.agglomerate_diameter_nm, Expected):
        lower[0, 0] = max(expected.mean - EXPECTED_SD * expected.sd, SMALLEST_SHARE * expected.mean)
        upper[0, 0] = expected.mean + EXPECTED_SD * expected.sd
        prior[0, 0], weight[0, 0] = expected.mean, 1 / expected.sd
    if isinstance(expected := settings.agglomerate_sigma_nm, Expected):
        most = (expected.mean + EXPECTED_SD * expected.sd) / lower[0, 0]
        lower[0, 1], upper[0, 1] = SMALLEST_SHARE * start[1], min(most, 0.5)
        prior[0, 1], weight[0, 1] = expected.mean, 1 / expected.sd
    (lower[1, 0], upper[1, 0]) = settings.nc_diameter_range_nm
    (lower[1, 1], upper[1, 1]) = settings.nc_relative_sigma_range
    match settings.nc_diameter_nm:
        case Expected(mean=mean, sd=sd):
            prior[1, 0], weight[1, 0] = mean, 1 / sd
        case float(held):
            lower[1, 0] = upper[1, 0] = held
    match settings.nc_sigma_nm:
        case Expected(mean=mean, sd=sd):
            prior[1, 1], weight[1, 1] = mean, 1 / sd
        case float(held):
            prior[1, 1], weight[1, 1] = held, 1 / (HELD_RELATIVE * held)
    return lower, upper, prior, weight


def _log_grid(low: float, high: float, count: int) -> np.ndarray:
    grid = np.geomspace(low, high, count)
    grid[0], grid[-1] = low, high
    return grid
