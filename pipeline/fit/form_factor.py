"""Form factor of a judged curve: of its fit, or of spheres that its peaks cannot bend."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.config.structure import StructureAnalysis
from pipeline.kernels.ordered_form import (
    HOLE,
    fill_gram,
    fill_hole,
    invert,
    refine_sizes,
    search_sizes,
)
from pipeline.kernels.sphere import mean_square_amplitude, mean_volume
from pipeline.kernels.units import PER_CM_IN_PER_NM
from pipeline.messages import JudgedCurve

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
class Form:
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


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """Spheres of all sizes on one q axis."""

    q_per_nm: np.ndarray
    stride: int
    sizes: np.ndarray
    """D and s of the table (j, 2), nm."""
    table: np.ndarray
    """<F^2>/D^6 of each at every ``stride``-th point."""


class FormFactors:
    """Form factors of one run.

    Parameters
    ----------
    settings, assembly, fit, sample
        As of the stage.
    """

    def __init__(
        self,
        settings: StructureAnalysis,
        assembly: AssemblyAnalysis,
        fit: PopulationsFit,
        sample: Sample,
    ) -> None:
        self._settings = settings
        self._longest_nm = max(assembly.spacing_range_nm)
        self._fit = fit
        self._per_particle = PER_CM_IN_PER_NM * sample.contrast_per_nm2**2

    def sizes(self, q_per_nm: np.ndarray) -> Sizes:
        """The table for one q axis (n,)."""
        low, high = self._fit.nc_diameter_range_nm
        count = 2 + math.ceil(math.log(high / low) / math.log(DIAMETER_STEP))
        diameters = np.geomspace(low, high, count)
        sizes = np.array([(d, share * d) for d in diameters for share in RELATIVE_SIGMAS])
        stride = max(1, math.ceil(q_per_nm.size / TABLE_POINTS))
        coarse = np.ascontiguousarray(q_per_nm[::stride])
        table, curves = np.empty((len(sizes), coarse.size)), np.empty((3, coarse.size))
        for (diameter, sigma), row in zip(sizes, table, strict=True):
            mean_square_amplitude(coarse, diameter, sigma, curves)
            row[:] = curves[0] / diameter**6
        return Sizes(q_per_nm, stride, sizes, table)

    def fitted(self, message: JudgedCurve, sizes: Sizes, usable: np.ndarray) -> Form:
        """The form factor of the fit of populations, with the covariance of its spheres."""
        fitted, populations = message.fitted, message.fitted.populations
        diameter, sigma = populations.nc_diameter_nm, populations.nc_sigma_nm
        q = sizes.q_per_nm
        background = fitted.background[usable]
        if populations.agglomerate_volume_fraction > 0:
            agglomerates = self._spheres(
                q,
                populations.agglomerate_diameter_nm,
                populations.agglomerate_sigma_nm,
                populations.agglomerate_volume_fraction,
            )
            background = background + agglomerates[0]
        curve = fitted.model[usable] - background
        spheres = self._spheres(q, diameter, sigma, populations.nc_volume_fraction)
        parameters = np.vstack([spheres[1:], curve, self._added(message, usable)])
        data, error = fitted.curve.intensity[usable], fitted.curve.sigma[usable]
        off = (data - fitted.model[usable]) / error
        chi2 = float(np.sum(off**2)) / max(q.size - len(parameters), 1)
        gram, covariance = np.empty((2, len(parameters), len(parameters)))
        fill_gram(np.ascontiguousarray(parameters / error), gram)
        invert(gram, covariance)
        return Form(
            diameter_nm=diameter,
            sigma_nm=sigma,
            curve=curve,
            slopes=spheres[1:],
            background=background,
            parameters=parameters,
            covariance=covariance * max(chi2, 1.0),
            reduced_chi2=populations.reduced_chi2,
            choice="fitted",
            reason=f"no order: {message.peak.order_z:.1f} sigma",
        )

    def _spheres(self, q: np.ndarray, diameter: float, sigma: float, fraction: float) -> np.ndarray:
        """Intensity of spheres and its slopes by D and s (3, n)."""
        spheres = np.empty((3, q.size))
        mean_square_amplitude(q, diameter, sigma, spheres)
        number = fraction / mean_volume(diameter, sigma)
        return self._per_particle * number * spheres

    @staticmethod
    def _added(message: JudgedCurve, usable: np.ndarray) -> np.ndarray:
        """What is added to the particles with free amplitudes: background, and a flat one."""
        background = message.fitted.background[usable]
        flat = np.ones((1, background.size))
        if np.ptp(background) <= 1e-9 * np.max(np.abs(background)):
            return flat
        return np.vstack([background / np.max(np.abs(background)), flat])

    def modelled(self, message: JudgedCurve, sizes: Sizes, usable: np.ndarray, reason: str) -> Form:
        """Spheres fitted under the peaks; of the size that the config gives, or of any."""
        q, curve = sizes.q_per_nm, message.fitted.curve
        data = np.ascontiguousarray(curve.intensity[usable], dtype=float)
        sigma = np.hypot(curve.sigma[usable], self._settings.model_error * np.abs(data))
        weight = 1 / sigma
        spacing = message.peak.spacing_nm
        first = 2 * math.pi / (spacing if math.isfinite(spacing) else self._longest_nm)
        hole = np.empty((HOLE.size, q.size))
        fill_hole(q, first, hole)
        added = self._added(message, usable)
        diameter, width = self._settings.diameter_nm, self._settings.sigma_nm
        free = diameter is None or width is None
        if diameter is None or width is None:
            diameter, width = self._start(sizes, hole, added, data, weight, spacing)
        at = np.array([diameter, width])
        slopes = 2 if free else 0
        size = slopes + 1 + HOLE.size + len(added)
        amplitudes, gram, factor = np.zeros(size), np.empty((size, size)), np.empty(q.size)
        low, high = self._fit.nc_diameter_range_nm
        bounds = np.array([low, high, *self._fit.nc_relative_sigma_range])
        scale = at[0] ** 6
        loss = refine_sizes(
            q, hole, added, data, weight, bounds, free, at, amplitudes, gram, factor
        )
        if not (math.isfinite(loss) and amplitudes[slopes] > 0.0):
            fitted = self.fitted(message, sizes, usable)
            return replace(fitted, reason=f"{reason}; no spheres are left so")
        spheres = np.empty((3, q.size))
        mean_square_amplitude(q, at[0], at[1], spheres)
        spheres *= amplitudes[slopes] / scale
        background = np.sum(amplitudes[slopes + 1 + HOLE.size :, None] * added, axis=0)
        parameters = np.vstack([spheres[1:], spheres[0], added])
        chi2 = loss / max(q.size - size, 1)
        known = np.empty_like(gram)
        invert(gram, known)
        known *= max(chi2, 1.0)
        return Form(
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
        sizes: Sizes,
        hole: np.ndarray,
        added: np.ndarray,
        data: np.ndarray,
        weight: np.ndarray,
        spacing: float,
    ) -> tuple[float, float]:
        """The best size of the table: every other diameter first, then those beside the best."""
        every = slice(None, None, sizes.stride)
        chosen = np.ones(len(sizes.sizes), bool)
        if math.isfinite(spacing):
            over = sizes.sizes[:, 0] / spacing
            near = (over >= LEAST_OVER_SPACING) & (over <= GREATEST_OVER_SPACING)
            chosen = near if near.any() else chosen
        hole, added, data, weight = (
            np.ascontiguousarray(lines[..., every]) for lines in (hole, added, data, weight)
        )
        number = np.arange(len(chosen)) // len(RELATIVE_SIGMAS)
        first = number[np.argmax(chosen)]
        losses = np.full(len(chosen), math.inf)
        rows = np.flatnonzero(chosen & ((number - first) % 2 == 0))
        for _ in range(2):
            found = np.empty(rows.size)
            search_sizes(sizes.table[rows], hole, added, data, weight, found)
            losses[rows] = found
            rows = np.flatnonzero(chosen & (np.abs(number - number[np.argmin(losses)]) == 1))
        diameter, sigma = sizes.sizes[int(np.argmin(losses))].tolist()
        return diameter, sigma


def warm_up() -> None:
    """Compile (or load from disk) every kernel of the form factor."""
    q = np.linspace(0.2, 3.0, 60)
    curves = np.empty((3, q.size))
    mean_square_amplitude(q, 8.0, 0.6, curves)
    data, weight = curves[0] / 8.0**6 + 1e-4, np.full(q.size, 1e3)
    hole, added = np.empty((HOLE.size, q.size)), np.ones((1, q.size))
    fill_hole(q, 0.6, hole)
    search_sizes(curves[:1] / 8.0**6, hole, added, data, weight, np.empty(1))
    size = 4 + HOLE.size
    gram = np.empty((size, size))
    refine_sizes(
        q, hole, added, data, weight, np.array([2.0, 12.0, 0.02, 0.5]), True, np.array([8.0, 0.6]),
        np.zeros(size), gram, np.empty(q.size),
    )  # fmt: skip
    fill_gram(curves, gram[:3, :3].copy())
    invert(gram, np.empty_like(gram))
