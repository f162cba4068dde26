"""How curves and spectra become sizes, concentrations and order."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Section


class PopulationsFit(Section):
    """Two populations of spheres on a background."""

    q_min_per_nm: float = Field(default=0.2, ge=0)
    """Left edge of what is fitted."""
    q_max_per_nm: float = Field(default=6.0, gt=0)
    """Right edge of what is fitted."""
    nc_diameter_range_nm: tuple[float, float] = (2.0, 20.0)
    """Bounds of the nanocrystals' mean diameter."""
    nc_relative_sigma_range: tuple[float, float] = (0.03, 0.5)
    """Bounds of their standard deviation over mean."""
    agglomerates: bool = True
    """Whether a population of agglomerates may be there at all."""
    agglomerate_diameter_nm: float = Field(default=3.0, gt=0)
    """Their mean diameter, held fixed (known from the first frames)."""
    agglomerate_sigma_nm: float = Field(default=0.3, gt=0)
    """Their standard deviation, held fixed."""
    presence_sigma: float = Field(default=4.0, gt=0)
    """A population whose amplitude is below this many standard errors is absent."""
    powerlaw_exponent: float | None = Field(default=4.0, gt=0)
    """Of a background A q^-n; absent = none."""
    flat_background: bool = True
    """Whether a constant is fitted."""


class AssemblyAnalysis(Section):
    """Search for order: a comb 1:2:3 at an unknown spacing."""

    spacing_range_nm: tuple[float, float] = (12.0, 20.0)
    """Spacings that are tried."""
    q_max_per_nm: float = Field(default=1.6, gt=0)
    """Order is sought below."""
    instrument_fwhm_per_nm: float = Field(default=0.004, ge=0)
    """Width of the instrument, taken out of the peaks' width in quadrature."""


class ExcitonFit(Section):
    """First exciton of an absorbance spectrum."""

    energy_range_ev: tuple[float, float] = (2.2, 3.6)
    """Where the first exciton is sought."""
    fwhm_range_mev: tuple[float, float] = (60.0, 450.0)
    """Bounds of its full width at half maximum."""
    sizing: Literal["two_band", "table", "polynomial_nm", "none"] = "two_band"
    """Sizing curve: ``two_band`` (effective mass; a fallback, marked as such in each result),
    ``table`` of energies and diameters, ``polynomial_nm`` (diameter in nm as a polynomial in the
    peak's wavelength in nm), or ``none``."""
    sizing_table_ev_nm: tuple[tuple[float, float], ...] = ()
    """For ``table``: pairs of energy in eV and diameter in nm."""
    sizing_coefficients: tuple[float, ...] = ()
    """For ``polynomial_nm``: coefficients, lowest power first."""
    band_gap_ev: float = Field(default=2.36, gt=0)
    """Eg of the two-band curve."""
    confinement_ev_nm2: float = Field(default=11.94, gt=0)
    """Ec d^2 of the two-band curve."""
    coulomb_ev_nm: float = Field(default=0.71, ge=0)
    """Coulomb term times d of the two-band curve."""
    agglomerate_band_ev: float | None = 3.87
    """Energy of the agglomerates' band; absent = not sought."""
