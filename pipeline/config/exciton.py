"""How spectra become sizes."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Section


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
