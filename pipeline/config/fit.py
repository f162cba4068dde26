"""How curves and spectra become sizes, concentrations and order."""

from typing import Literal, Self

from pydantic import Field, model_validator

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
    """A population is absent unless the curve needs it: leaving it out has to raise chi-square
    (in units of the reduced chi-square, if that is above 1) by more than this squared, plus a
    penalty for the parameters that are searched with it."""
    weights: Literal["model", "measured"] = "model"
    """``model``: sigma is that of counting, so it is taken from the model instead of from the
    counts, which would pull the fit below them. ``measured``: sigma as it comes, for curves with
    a background subtracted or with a sigma that was estimated."""
    powerlaw_exponent: float | None = Field(default=4.0, gt=0)
    """Of a background A q^-n; absent = none."""
    flat_background: bool = True
    """Whether a constant is fitted. It may be negative: backgrounds get over-subtracted."""


class AssemblyAnalysis(Section):
    """Search for order: stacks (1:2:3) and lattices (fcc, bcc, hcp) at an unknown spacing."""

    spacing_range_nm: tuple[float, float] = (12.0, 20.0)
    """Spacings that are tried: 2 pi / q of the first peak, for all kinds of order."""
    peak_fwhm_per_nm: tuple[float, ...] = Field(default=(0.03, 0.08), min_length=1)
    """Full widths at half maximum of the peaks that are tried, ascending."""
    least_height: float = Field(default=0.0, ge=0)
    """Height of a peak of S(q) over 1 below which it is no order: ``order_z`` says by how much a
    height exceeds this. Real particles are no perfect spheres and leave a few hundredths."""
    report_sigma: float = Field(default=4.0, gt=0)
    """Spacing, peaks and domain are given where order_z is at least this."""
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
    agglomerate_fwhm_mev: float = Field(default=300.0, gt=0)
    """Full width at half maximum of the agglomerates' band, held fixed."""
    window_fwhm: float = Field(default=2.2, ge=1.0, le=4.0)
    """What is fitted ends this many full widths above the peak. The window should hold the second
    transition, not the third: too narrow and the continuum is free, too wide and it misfits."""
    presence_sigma: float = Field(default=5.0, gt=0)
    """A peak whose amplitude is below this many standard errors is absent."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in ("energy_range_ev", "fwhm_range_mev"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name}: expected 0 < first < second, got {low}, {high}")
        if self.sizing == "table":
            energies = [energy for energy, _ in self.sizing_table_ev_nm]
            if len(energies) < 2 or len(set(energies)) < len(energies):
                raise ValueError(
                    "sizing 'table' needs sizing_table_ev_nm: two or more pairs of energy (eV) "
                    f"and diameter (nm), each energy once; got {len(energies)} pairs"
                )
        if self.sizing == "polynomial_nm" and not self.sizing_coefficients:
            raise ValueError(
                "sizing 'polynomial_nm' needs sizing_coefficients, lowest power first; got none"
            )
        return self
