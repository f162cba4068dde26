"""How discrete sizes are sought in the absorbance."""

from typing import Self

from pydantic import Field, model_validator

from pipeline.config.base import Section


class MagicAnalysis(Section):
    """Minima of the second derivative, their sizes over time, and the ladder they may climb."""

    energy_range_ev: tuple[float, float] = (2.2, 3.6)
    """Where the second derivative is taken."""
    energy_step_mev: float = Field(default=5.0, ge=0.5, le=50)
    """Step of its axis."""
    half_width_mev: float = Field(default=60.0, ge=5, le=500)
    """Half of the window in which a cubic follows the spectrum (tapered: it smooths like an even
    window of 45). About 0.7 of the peaks' fwhm: wider merges neighbours, narrower is noisy."""
    least_sigma: float = Field(default=5.0, ge=3, le=50)
    """Standard errors below zero from which a minimum counts."""
    dominant_share: float = Field(default=0.6, gt=0, le=1)
    """The size of a moment is that of the lowest minimum at least this share as deep as the
    deepest: second transitions of a smaller size may coincide and be deeper, by no more."""
    unit_cell_nm: float = Field(default=0.58, gt=0)
    """Expected distance of two sizes: edge of the (pseudo-cubic) unit cell."""
    unit_cell_tolerance: float = Field(default=0.05, gt=0, le=0.2)
    """Share of it that the found one may differ by."""
    size_range_nm: tuple[float, float] = (1.2, 12.0)
    """Sizes beyond are left out."""
    histogram_width_nm: float = Field(default=0.05, gt=0)
    """Standard deviation of the Gaussian that each spectrum's size adds to the histogram."""
    histogram_step_cells: float = Field(default=0.02, gt=0, le=0.5)
    """Step of the histogram's axis."""
    least_spectra: float = Field(default=3.0, ge=2)
    """Spectra that a size must have lasted."""
    valley: float = Field(default=0.3, gt=0, lt=1)
    """Two sizes are two where the histogram between them falls below this share of the lower,
    and by more than counting noise."""
    false_alarms: float = Field(default=1e-3, gt=0, lt=0.5)
    """Probability that a run whose sizes have nothing to do with a unit cell shows a ladder."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in ("energy_range_ev", "size_range_nm"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name}: expected 0 < first < second, got {low}, {high}")
        width = self.energy_range_ev[1] - self.energy_range_ev[0]
        if width < 4e-3 * self.half_width_mev:
            raise ValueError(
                "energy_range_ev: expected at least two windows of half_width_mev, got "
                f"{width:g} eV and {self.half_width_mev:g} meV"
            )
        if self.half_width_mev < 2 * self.energy_step_mev:
            raise ValueError(
                "energy_step_mev: expected at most half of half_width_mev, got "
                f"{self.energy_step_mev:g} and {self.half_width_mev:g}"
            )
        if self.histogram_step_cells * self.unit_cell_nm > 0.5 * self.histogram_width_nm:
            raise ValueError(
                "histogram_step_cells: expected at most half of histogram_width_nm, got "
                f"{self.histogram_step_cells * self.unit_cell_nm:.3g} nm"
            )
        if self.size_range_nm[1] < 4 * self.unit_cell_nm:
            raise ValueError(
                "size_range_nm: expected room for at least four unit cells, got up to "
                f"{self.size_range_nm[1]:g} nm"
            )
        return self
