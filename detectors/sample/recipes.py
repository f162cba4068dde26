"""The four syntheses, as numbers.

The equations are in :mod:`detectors.sample.kinetics`, :mod:`~detectors.sample.assembly` and
:mod:`~detectors.sample.optics`; here stand their parameters, fitted until the solved run shows the
sizes, concentrations and times of Montanarella et al., Nano Lett. 2023, 23, 667
(doi 10.1021/acs.nanolett.2c04532). They are one set that does so; they are not unique.

The concentration of the limiting species is *effective*: the published particle numbers, sizes
and yields do not add up with the published 4 to 7 mM of Cs, and a simulation must conserve mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FORMULA_VOLUME_NM3 = 0.19916
"""Volume of one CsPbBr3 in the crystal (Pbnm, 0.8207 x 0.8255 x 1.1759 nm, Z = 4)."""

UNIT_CELL_NM = 0.58
"""Pseudo-cubic cell edge of CsPbBr3 as the magic sizes count it; the crystal's is 0.584."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinetics:
    """Parameters of the population balance; amounts of Cs in mM, particles in uM, nm, s."""

    precursor_mm: float
    """Cs that takes part: injected precursor."""
    precursor_life_s: float
    """Time constant of precursor becoming agglomerates."""
    nucleation_rate: float
    """k in J = k (A - A_c)^order, uM/s with A in mM."""
    nucleation_order: float
    nucleation_threshold_mm: float
    """A_c: no nuclei below."""
    nucleation_begin_s: float
    nucleation_end_s: float
    nucleus_diameter_nm: float
    nucleus_sigma_nm: float
    nucleus_smallest_nm: float
    release_mm_per_s: float
    """Monomer from agglomerates at saturation, k in k A / (A + K)."""
    release_half_mm: float
    """K of release and of loss."""
    growth_nm2_per_s: float
    """B in dd/dt = B / d^p (u - 1/d); nm^(2+p)/s."""
    growth_exponent: Literal[0, 1]
    """p: 0 = limited by the surface's reaction, 1 = by diffusion."""
    loss_per_s: float
    """Size-selective loss while there are agglomerates."""
    loss_after_per_s: float
    """The same, always: Ostwald ripening beyond that of growth."""
    loss_selectivity: float
    """g in exp(-g (d / mean - 1)): how much faster the smaller go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MagicSteps:
    """Growth in whole unit cells; all particles jump together."""

    precursor_mm: float
    first_cells: int
    """Edge of the first nanocrystals in unit cells."""
    jumps_s: tuple[float, ...]
    """When the size goes up by one cell."""
    jump_width: float
    """Width of a jump in ln(time). Above 0.1 the sizes smear into each other."""
    burst_life_s: float
    """Time constant of nucleation."""
    first_share: float
    """Share of the final mass right after the burst."""
    supply_life_s: float
    """Time constant of the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Order of the particles: sheets at a distance L(t) first, a lattice later.

    The published last frame is a "face-centred orthorhombic" cell of 14.6, 16.0, 17.8 nm. Read
    literally it contradicts the same text: its nearest neighbours would be 10.8 nm apart, less than
    the cores' 11.6 nm, and 0.39 nm^-1, the strongest early peak, would be forbidden. Taken as
    distances from particle to particle, a *primitive* cell, the numbers agree: neighbours 14.6 nm
    (3.0 nm between surfaces; 3.2 at 14.8 is published), packing fraction 0.20, and the orders of
    the one-dimensional comb split into h00, 0k0 and 00l, as observed. That is the default. ``F``
    plays the literal cell.
    """

    begin_1d_s: float
    begin_3d_s: float
    first_spacing_nm: float
    last_spacing_nm: float
    spacing_life_s: float
    stacked_share: float
    """Share of particles in stacks in the end."""
    stacking_life_s: float
    lattice_life_s: float
    first_domain_nm: float
    last_domain_nm: float
    domain_life_s: float
    cell_b_nm: float
    cell_c_nm: float
    """In-plane distances within a sheet; a is the distance of sheets, L(t)."""
    centring: Literal["P", "F"] = "P"
    """``P`` or ``F``."""
    sheet_disorder_nm: float = 0.5
    """Standard deviation of the distance of neighbouring sheets (accumulates along the stack)."""
    debye_waller_nm2: float = 0.75
    """k of the Debye-Waller factor exp(-k q^2): 0.87 nm of displacement."""
    instrument_fwhm_per_nm: float = 0.004
    """Beam, pixel and wavelength together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optics:
    """What the spectrometer sees of the particles."""

    pace: float
    """Clock of the absorbance run over that of the SAXS run (they were separate syntheses)."""
    size_slope: float
    size_offset_nm: float
    """Optical diameter = slope x diameter + offset: the published sizing curve is for cubes and
    the first peak is broad, so absorbance said 3.8 nm where SAXS said 4.4."""
    size_excess_nm: float
    """It exceeds the diameter by this at most."""
    fwhm_mev: float
    """Of the first exciton once growth is under way."""
    fwhm_early_mev: float
    """What the first particles have on top."""
    fwhm_early_life_s: float
    path_cm: float
    agglomerates_absorb: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One synthesis."""

    name: str
    limiting_concentration_mm: float
    """Effective concentration of Cs, on which the yield is counted."""
    growth: Kinetics | MagicSteps
    optics: Optics
    assembly: Assembly | None = None
    agglomerates_scatter: bool = True


CS_DOPA = Recipe(
    name="cs_dopa",
    # 1.58 mM end as crystals, the published yield is 61 %.
    limiting_concentration_mm=2.583,
    growth=Kinetics(
        precursor_mm=1.58,
        precursor_life_s=0.05,
        nucleation_rate=5.127,
        nucleation_order=1.2,
        nucleation_threshold_mm=0.376,
        nucleation_begin_s=0.45,
        nucleation_end_s=15.0,
        nucleus_diameter_nm=4.058,
        nucleus_sigma_nm=1.157,
        nucleus_smallest_nm=2.0,
        release_mm_per_s=0.02525,
        release_half_mm=0.0539,
        growth_nm2_per_s=0.4805,
        growth_exponent=1,
        loss_per_s=0.06449,
        loss_after_per_s=9.739e-4,
        loss_selectivity=1.29,
    ),
    # Through 3.8 nm for the first crystals (4.13 in number) and 7.6 nm at the plateau (7.40).
    optics=Optics(
        pace=1.5,
        size_slope=1.162,
        size_offset_nm=-1.0,
        size_excess_nm=0.2,
        fwhm_mev=134.0,
        fwhm_early_mev=206.0,
        fwhm_early_life_s=1.6,
        path_cm=0.1,
    ),
)

CS_OLEATE = Recipe(
    name="cs_oleate",
    # 3.465 mM end as crystals; the published final yield is a quarter of the 61 % of Cs-DOPA.
    limiting_concentration_mm=22.72,
    growth=Kinetics(
        precursor_mm=3.465,
        precursor_life_s=0.02,
        nucleation_rate=35.63,
        nucleation_order=2.0,
        nucleation_threshold_mm=0.0,
        nucleation_begin_s=0.0,
        nucleation_end_s=0.25,
        nucleus_diameter_nm=3.279,
        nucleus_sigma_nm=0.489,
        nucleus_smallest_nm=1.5,
        release_mm_per_s=0.06955,
        release_half_mm=0.0015,
        growth_nm2_per_s=0.0238,
        growth_exponent=0,
        loss_per_s=0.02675,
        loss_after_per_s=2.02e-3,
        loss_selectivity=0.5,
    ),
    optics=Optics(
        pace=1.0,
        size_slope=1.0,
        size_offset_nm=0.0,
        size_excess_nm=0.0,
        fwhm_mev=200.0,
        fwhm_early_mev=0.0,
        fwhm_early_life_s=1.0,
        path_cm=0.05,
        agglomerates_absorb=False,
    ),
    # No free agglomerates were seen at 2 s: the reservoir is a dissolved pool.
    agglomerates_scatter=False,
)

CS_OLEATE_DILUTE = Recipe(
    name="cs_oleate_dilute",
    # 0.09 mM is published as the deficient species; the same share of it counts as for Cs-OA.
    limiting_concentration_mm=0.59,
    growth=MagicSteps(
        precursor_mm=0.09,
        first_cells=5,
        # A constant ratio of 1.7 = nine jump widths, so that a size stays long enough to be seen.
        jumps_s=(0.8, 1.36, 2.31, 3.93, 6.68, 11.4, 19.3),
        jump_width=0.06,
        burst_life_s=0.05,
        first_share=0.76,
        supply_life_s=5.0,
    ),
    optics=Optics(
        pace=1.0,
        size_slope=1.0,
        size_offset_nm=0.0,
        size_excess_nm=0.0,
        fwhm_mev=85.0,
        fwhm_early_mev=0.0,
        fwhm_early_life_s=1.0,
        path_cm=1.0,
        agglomerates_absorb=False,
    ),
    agglomerates_scatter=False,
)

ASSEMBLY_100C = Recipe(
    name="assembly_100c",
    limiting_concentration_mm=2.583,
    growth=Kinetics(
        precursor_mm=1.58,
        precursor_life_s=0.05,
        nucleation_rate=0.0913,
        nucleation_order=2.6,
        nucleation_threshold_mm=0.0,
        nucleation_begin_s=0.0,
        nucleation_end_s=8.0,
        nucleus_diameter_nm=5.40,
        nucleus_sigma_nm=1.39,
        nucleus_smallest_nm=2.0,
        release_mm_per_s=0.0127,
        release_half_mm=0.0258,
        growth_nm2_per_s=0.507,
        growth_exponent=1,
        loss_per_s=0.0105,
        loss_after_per_s=9.5e-5,
        loss_selectivity=6.77,
    ),
    optics=Optics(
        pace=1.0,
        size_slope=1.0,
        size_offset_nm=0.0,
        size_excess_nm=0.0,
        fwhm_mev=134.0,
        fwhm_early_mev=206.0,
        fwhm_early_life_s=3.0,
        path_cm=0.1,
    ),
    # The spacing is 16.0 nm at 90 s and 14.8 at 300 s.
    assembly=Assembly(
        begin_1d_s=90.0,
        begin_3d_s=300.0,
        first_spacing_nm=16.0,
        last_spacing_nm=14.6,
        spacing_life_s=107.9,
        stacked_share=0.55,
        stacking_life_s=80.0,
        lattice_life_s=150.0,
        first_domain_nm=120.0,
        last_domain_nm=300.0,
        domain_life_s=200.0,
        cell_b_nm=16.0,
        cell_c_nm=17.8,
    ),
)

RECIPES = {r.name: r for r in (CS_DOPA, CS_OLEATE, CS_OLEATE_DILUTE, ASSEMBLY_100C)}
