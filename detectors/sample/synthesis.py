"""The synthesis as the two detectors and the tests see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from detectors.sample import assembly, crystal, optics, scattering
from detectors.sample.kinetics import Growth, Trajectory, magic_growth, solve
from detectors.sample.recipes import FORMULA_VOLUME_NM3, RECIPES, Kinetics, MagicSteps, Recipe

AGGLOMERATE_DIAMETER_NM = 3.0
AGGLOMERATE_SIGMA_NM = 0.3

PER_NM3_PER_MM = 1e3 * scattering.PER_NM3_PER_UM
"""Formula units per nm^3 at 1 mM."""

FEWEST_UM = 1e-6
"""Below this there are no nanocrystals to speak of: their size is NaN."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SampleState:
    """The truth at one moment. What does not exist is NaN (a size) or 0 (an amount).

    Diameters are number means and standard deviations in nm, concentrations in uM of particles or
    mM of Cs.
    """

    time_s: float
    phase: str
    """Last of the synthesis' ``onsets_s`` that has passed."""

    nc_diameter_nm: float
    nc_sigma_nm: float
    nc_concentration_um: float
    nc_volume_fraction: float
    diameters_nm: np.ndarray
    """Quadrature nodes of the nanocrystals' size distribution, (n,)."""
    concentrations_um: np.ndarray
    """Concentration that each node stands for, (n,), sum ``nc_concentration_um``."""

    agglomerate_diameter_nm: float
    agglomerate_sigma_nm: float
    agglomerate_concentration_um: float

    precursor_mm: float
    pool_mm: float
    """Cs in agglomerates, or in a dissolved pool where nothing scatters."""
    crystal_mm: float
    yield_fraction: float
    """Crystallised share of the limiting species."""

    spacing_nm: float
    """Of the sheets."""
    stacked_share: float
    """Share of the particles that are in stacks (or, later, lattices)."""
    lattice_share: float
    """Share of those that are registered in three dimensions."""
    domain_nm: float
    cell_nm: tuple[float, float, float]
    """Edges a, b, c of the lattice; a is the sheets' spacing."""

    optical_diameter_nm: float
    """What the absorbance's sizing curve gives at this time of *its* run."""
    exciton_ev: float
    exciton_fwhm_mev: float

    @property
    def total_mm(self) -> float:
        """All Cs that takes part."""
        return self.precursor_mm + self.pool_mm + self.crystal_mm


class Synthesis:
    """One simulated synthesis, t = 0 at the injection.

    The size distribution of the solved population balance enters the scattering with its number,
    mean and standard deviation as a *Gaussian* in the diameter, as published sizes are meant. Its
    own skewness (below 0.5) would move the mean volume by less than 0.4 %.

    Parameters
    ----------
    recipe
        Name of one of the recipes, or a recipe.
    """

    def __init__(self, recipe: str | Recipe) -> None:
        if isinstance(recipe, str):
            if recipe not in RECIPES:
                raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}")
            recipe = RECIPES[recipe]
        self.recipe = recipe
        growth = recipe.growth
        self._trajectory: Trajectory | None = None
        if isinstance(growth, Kinetics):
            self._trajectory = solve(growth)
        self.onsets_s: Mapping[str, float] = MappingProxyType(self._onsets())
        weights = scattering.gaussian_nodes(AGGLOMERATE_DIAMETER_NM, AGGLOMERATE_SIGMA_NM)
        self._agglomerates = weights
        volume = math.pi / 6.0 * float(weights[1] @ weights[0] ** 3)
        self._agglomerate_um_per_mm = 1e3 * FORMULA_VOLUME_NM3 / volume
        self._agglomerate_curves: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    @property
    def limiting_concentration_mm(self) -> float:
        """Effective concentration of the species that the yield counts."""
        return self.recipe.limiting_concentration_mm

    def state(self, time_s: float) -> SampleState:
        """The truth at a time."""
        growth, diameters, concentrations = self._growth(time_s)
        exists = growth.number_um > FEWEST_UM
        order = assembly.order(self.recipe.assembly, time_s)
        optical, _, _ = self._growth(self.recipe.optics.pace * time_s)
        visible = optical.number_um > FEWEST_UM
        seen = self._optical_diameter(optical.diameter_nm)
        scatters = self.recipe.agglomerates_scatter
        return SampleState(
            time_s=time_s,
            phase=max((t, name) for name, t in self.onsets_s.items() if t <= max(time_s, 0.0))[1],
            nc_diameter_nm=growth.diameter_nm if exists else math.nan,
            nc_sigma_nm=growth.sigma_nm if exists else math.nan,
            nc_concentration_um=growth.number_um,
            nc_volume_fraction=_volume_fraction(growth.crystal_mm),
            diameters_nm=diameters,
            concentrations_um=concentrations,
            agglomerate_diameter_nm=AGGLOMERATE_DIAMETER_NM if scatters else math.nan,
            agglomerate_sigma_nm=AGGLOMERATE_SIGMA_NM if scatters else math.nan,
            agglomerate_concentration_um=self._agglomerates_um(growth),
            precursor_mm=growth.precursor_mm,
            pool_mm=growth.pool_mm,
            crystal_mm=growth.crystal_mm,
            yield_fraction=growth.crystal_mm / self.limiting_concentration_mm,
            spacing_nm=order.spacing_nm,
            stacked_share=order.stacked_share,
            lattice_share=order.lattice_share,
            domain_nm=order.domain_nm,
            cell_nm=order.cell_nm,
            optical_diameter_nm=seen if visible else math.nan,
            exciton_ev=optics.transition_ev(seen) if visible else math.nan,
            exciton_fwhm_mev=self._fwhm_mev(time_s, optical) if visible else math.nan,
        )

    def intensity_per_cm(self, q_per_nm: np.ndarray, time_s: float) -> np.ndarray:
        """Scattering cross-section per volume of the vial's content, (n,), 1/cm.

        Parameters
        ----------
        q_per_nm
            Momentum transfer (n,), 1/nm, positive.
        time_s
            Since the injection.
        """
        q = np.asarray(q_per_nm, dtype=float)
        growth, diameters, concentrations = self._growth(time_s)
        intensity = np.full(q.shape, scattering.HEXANE_PER_CM)
        agglomerates = self._agglomerates_um(growth)
        if agglomerates > 0.0:
            intensity += scattering.per_cm(agglomerates, self._agglomerate_squared(q))
        if growth.number_um > FEWEST_UM:
            number = growth.number_um
            squared, mean = scattering.moments(q, diameters, concentrations / number)
            order = assembly.order(self.recipe.assembly, time_s)
            if self.recipe.assembly is not None and order.stacked_share > 0.0:
                s = assembly.structure_factor(self.recipe.assembly, order, q)
                squared = squared + mean**2 * (s - 1.0)
            intensity += scattering.per_cm(number, squared)
        return intensity

    def wide_angle_per_cm(self, q_per_nm: np.ndarray, time_s: float) -> np.ndarray:
        """The same at wide angles: with the crystals' reflections and the solvent's halo, (n,).

        Parameters
        ----------
        q_per_nm
            Momentum transfer (n,), 1/nm, ascending and positive.
        time_s
            Since the injection.
        """
        q = np.asarray(q_per_nm, dtype=float)
        intensity = scattering.HEXANE_PER_CM + crystal.solvent_per_cm(q)
        small = np.searchsorted(q, crystal.SMALL_ANGLE_END_PER_NM)
        intensity[:small] += self.intensity_per_cm(q[:small], time_s) - scattering.HEXANE_PER_CM
        growth, diameters, concentrations = self._growth(time_s)
        if self.recipe.agglomerates_scatter:
            amorphous = _volume_fraction(growth.pool_mm)
            intensity += crystal.powder_per_cm(q, amorphous, crystal.AGGLOMERATE_ORDER_NM)
        if growth.number_um > FEWEST_UM:
            volumes = concentrations * diameters**3
            size_nm = float(volumes @ diameters / volumes.sum())
            intensity += crystal.powder_per_cm(q, _volume_fraction(growth.crystal_mm), size_nm)
        return intensity

    def absorbance(self, energy_ev: np.ndarray, time_s: float) -> np.ndarray:
        """Decadic absorbance of the probe's path, (n,).

        Parameters
        ----------
        energy_ev
            Photon energy (n,), eV.
        time_s
            Since the injection of the absorbance run, which has a pace of its own.
        """
        energy = np.asarray(energy_ev, dtype=float)
        seen = self.recipe.optics
        growth, diameters, concentrations = self._growth(seen.pace * time_s)
        absorbance = np.zeros_like(energy)
        if seen.agglomerates_absorb:
            strength = optics.decadic(_volume_fraction(growth.pool_mm), seen.path_cm)
            absorbance += strength * optics.agglomerate_shape(energy)
        if growth.number_um <= FEWEST_UM:
            return absorbance
        strength = optics.decadic(_volume_fraction(growth.crystal_mm), seen.path_cm)
        fwhm_ev = 1e-3 * self._fwhm_mev(time_s, growth)
        if isinstance(self.recipe.growth, MagicSteps):
            # Few sizes, each with a peak of its own, by its share of the volume.
            volume = concentrations * diameters**3
            sizes = zip(diameters, volume / volume.sum(), strict=True)
        else:
            sizes = [(growth.diameter_nm, 1.0)]
        for diameter, share in sizes:
            if share > 1e-6:
                optical = self._optical_diameter(float(diameter))
                absorbance += strength * share * optics.crystal_shape(energy, optical, fwhm_ev)
        return absorbance + optics.turbidity(energy, growth.crystal_mm, growth.diameter_nm)

    def _growth(self, time_s: float) -> tuple[Growth, np.ndarray, np.ndarray]:
        """Sums, diameters (n,) and their concentrations in uM (n,)."""
        if self._trajectory is None:
            assert isinstance(self.recipe.growth, MagicSteps)
            return magic_growth(self.recipe.growth, time_s)
        growth = self._trajectory.at(time_s)
        diameters, weights = scattering.gaussian_nodes(growth.diameter_nm, growth.sigma_nm)
        return growth, diameters, growth.number_um * weights

    def _onsets(self) -> dict[str, float]:
        """Names of the phases with their beginnings, from the solved run itself."""
        growth, trajectory = self.recipe.growth, self._trajectory
        if isinstance(growth, MagicSteps):
            # Nucleation is over by 95 %.
            return {"burst": 0.0, "magic": 3.0 * growth.burst_life_s}
        assert trajectory is not None
        if self.recipe.assembly is not None:
            ordered = self.recipe.assembly
            return {
                "growth": 0.0,
                "order_1d": ordered.begin_1d_s,
                "order_3d": ordered.begin_3d_s,
            }
        if not self.recipe.agglomerates_scatter:
            return {
                "burst": 0.0,
                "growth": growth.nucleation_end_s,
                "ripening": trajectory.time_of_empty_pool(),
            }
        return {
            "I": 0.0,
            "II": growth.nucleation_begin_s,
            "III": trajectory.time_of_most_particles(),
            "IV": trajectory.time_of_least_sigma(),
        }

    def _agglomerates_um(self, growth: Growth) -> float:
        if not self.recipe.agglomerates_scatter:
            return 0.0
        return growth.pool_mm * self._agglomerate_um_per_mm

    def _agglomerate_squared(self, q: np.ndarray) -> np.ndarray:
        """<F^2> of agglomerates; their shape never changes, so those of two grids are kept."""
        kept = self._agglomerate_curves
        for grid, curve in kept:
            if np.array_equal(grid, q):
                return curve
        curve = scattering.moments(q, *self._agglomerates)[0]
        self._agglomerate_curves = ((q.copy(), curve), *kept[:1])
        return curve

    def _optical_diameter(self, diameter_nm: float) -> float:
        seen = self.recipe.optics
        linear = seen.size_slope * diameter_nm + seen.size_offset_nm
        return min(linear, diameter_nm + seen.size_excess_nm)

    def _fwhm_mev(self, time_s: float, growth: Growth) -> float:
        """First exciton's fwhm at a time of the absorbance run.

        The published width stays at 135 meV while SAXS sees sigma fall, so the optical width is
        not that of the sizes; only what ripening adds beyond the narrowest moment broadens it.
        """
        seen = self.recipe.optics
        early = seen.fwhm_early_mev * math.exp(-max(time_s - 0.3, 0.0) / seen.fwhm_early_life_s)
        width = seen.fwhm_mev + early
        if self._trajectory is None:
            return width
        ripe = self._trajectory.time_of_least_sigma()
        if seen.pace * time_s > ripe:
            added = max(growth.sigma_nm**2 - self._trajectory.at(ripe).sigma_nm ** 2, 0.0)
            slope = optics.transition_slope_ev_per_nm(self._optical_diameter(growth.diameter_nm))
            width = math.sqrt(width**2 + added * (1e3 * slope / optics.SIGMA_PER_FWHM) ** 2)
        return width


def _volume_fraction(amount_mm: float) -> float:
    return amount_mm * PER_NM3_PER_MM * FORMULA_VOLUME_NM3
