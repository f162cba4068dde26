"""How spectra become sizes and amounts."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Section


class IntrinsicAbsorption(Section):
    """What turns the crystals' absorbance into an amount.

    The coefficient holds the local field: give one that was measured in a solvent of about the
    same refractive index and on particles of about the same shape.
    """

    coefficient_per_cm: float = Field(gt=0)
    """Absorption coefficient of the dispersion over the volume fraction of particles, 1/cm."""
    energy_ev: float = Field(gt=0)
    """Photon energy at which it holds."""
    relative_uncertainty: float = Field(ge=0, lt=1)
    """One standard error of the coefficient, relative: the same in all spectra."""
    path_cm: float = Field(gt=0)
    """Path of the light through the sample."""
    source: str = Field(min_length=1)
    """Where the coefficient is from."""
    shape: Literal["sphere", "cube"] = "sphere"
    """Of a particle, from its size to its volume; a cube's size is its edge."""


class ExcitonFit(Section):
    """First exciton of an absorbance spectrum."""

    energy_range_ev: tuple[float, float] = (2.2, 3.6)
    """Where the first exciton is sought."""
    fwhm_range_mev: tuple[float, float] = (60.0, 450.0)
    """Bounds of its full width at half maximum."""
    sizing: Literal["two_band", "yu_2003_cdse", "table", "polynomial_nm", "none"] = "two_band"
    """Sizing curve: ``two_band`` (effective mass; a fallback, marked as such in each result),
    ``yu_2003_cdse`` (CdSe, Yu et al., Chem. Mater. 2003, 15, 2854), ``table`` of energies and
    diameters, ``polynomial_nm`` (diameter in nm as a polynomial in the peak's wavelength in nm),
    or ``none``."""
    sizing_source: str = ""
    """Where the curve is from; needed for ``table`` and ``polynomial_nm``."""
    sizing_table_ev_nm: tuple[tuple[float, float], ...] = ()
    """For ``table``: pairs of energy in eV and diameter in nm."""
    sizing_coefficients: tuple[float, ...] = ()
    """For ``polynomial_nm``: coefficients, lowest power first."""
    sizing_range_ev: tuple[float, float] | None = None
    """Energies of the exciton for which the curve holds. A peak outside has no diameter, and
    ``size_flag`` says so. Absent = what is known of the curve: 2.362 to 3.40 eV of ``two_band``,
    the table's own range, 450 to 650 nm of ``yu_2003_cdse``; ``polynomial_nm`` needs one."""
    sizing_range_nm: tuple[float, float] | None = None
    """The same as wavelengths of the peak, instead of ``sizing_range_ev``."""
    sizing_relative_uncertainty: float | None = Field(default=None, ge=0, lt=1)
    """The curve's own standard error, relative to the diameter: the same in all spectra, so it is
    kept apart from the errors of the fit. Absent and no ``sizing_uncertainty_nm`` = not stated,
    which ``yu_2003_cdse`` has as 0.054."""
    sizing_uncertainty_nm: float | None = Field(default=None, ge=0)
    """The same as a length, instead of ``sizing_relative_uncertainty``."""
    band_gap_ev: float = Field(default=2.36, gt=0)
    """Eg of the two-band curve."""
    confinement_ev_nm2: float = Field(default=11.94, gt=0)
    """Ec d^2 of the two-band curve."""
    coulomb_ev_nm: float = Field(default=0.71, ge=0)
    """Coulomb term times d of the two-band curve."""
    intrinsic_absorption: IntrinsicAbsorption | None = None
    """Absent = no concentrations."""
    agglomerate_band_ev: float | None = 3.87
    """Energy of the agglomerates' band; absent = not sought."""
    agglomerate_band_sd_ev: float = Field(default=0.015, gt=0)
    """How well that is known, one standard error (published: 3.85 to 3.9 eV)."""
    agglomerate_fwhm_mev: float = Field(default=300.0, gt=0)
    """Full width at half maximum of the agglomerates' band."""
    agglomerate_fwhm_sd_mev: float = Field(default=50.0, gt=0)
    """How well that is known, one standard error."""
    window_fwhm: float = Field(default=2.2, ge=1.0, le=4.0)
    """What is fitted ends this many full widths above the peak. The window should hold the second
    transition, not the third: too narrow and the continuum is free, too wide and it misfits."""
    presence_sigma: float = Field(default=5.0, gt=0)
    """A peak whose amplitude is below this many standard errors is absent."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in ("energy_range_ev", "fwhm_range_mev", "sizing_range_ev", "sizing_range_nm"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] < pair[1]:
                raise ValueError(f"{name}: expected 0 < first < second, got {pair[0]}, {pair[1]}")
        for one, other in (
            ("sizing_range_ev", "sizing_range_nm"),
            ("sizing_relative_uncertainty", "sizing_uncertainty_nm"),
        ):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"expected {one} or {other}, got both")
        self._check_curve()
        return self

    def _check_curve(self) -> None:
        if self.sizing == "table":
            energies = [energy for energy, _ in self.sizing_table_ev_nm]
            if len(energies) < 2 or len(set(energies)) < len(energies):
                raise ValueError(
                    "sizing 'table' needs sizing_table_ev_nm: two or more pairs of energy (eV) "
                    f"and diameter (nm), each energy once; got {len(energies)} pairs"
                )
        if self.sizing == "polynomial_nm":
            if not self.sizing_coefficients:
                raise ValueError(
                    "sizing 'polynomial_nm' needs sizing_coefficients, lowest power first; got none"
                )
            if self.sizing_range_ev is None and self.sizing_range_nm is None:
                raise ValueError(
                    "sizing 'polynomial_nm' needs sizing_range_ev or sizing_range_nm, for which it "
                    "holds; got neither"
                )
        if self.sizing == "two_band":
            names = ("band_gap_ev", "confinement_ev_nm2", "coulomb_ev_nm")
            fields = type(self).model_fields
            own = [name for name in names if getattr(self, name) != fields[name].default]
            if own and self.sizing_range_ev is None and self.sizing_range_nm is None:
                raise ValueError(
                    f"sizing 'two_band' with another {own[0]} needs sizing_range_ev or "
                    "sizing_range_nm, for which it holds; got neither"
                )
        if self.sizing in ("table", "polynomial_nm") and not self.sizing_source.strip():
            raise ValueError(f"sizing {self.sizing!r} needs sizing_source: where it is from")
