"""How order among the particles is sought."""

from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from pipeline.config.base import Section


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
    """Full width of a peak by the instrument alone, beyond what the curve's own resolution of q
    holds: both are taken out of the peaks' width in quadrature. A domain of 300 nm is a width of
    0.021 1/nm; with 0.008 of the instrument left in it would read 280 nm."""
    sheet_area_nm2: float | None = Field(default=None, gt=0)
    """Area per particle within a sheet, for the share of particles in stacks, which is as good as
    this. Absent = the square of the spacing."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not 0 < self.spacing_range_nm[0] < self.spacing_range_nm[1]:
            raise ValueError(
                f"spacing_range_nm: expected 0 < first < second, got {self.spacing_range_nm}"
            )
        widths = self.peak_fwhm_per_nm
        if not widths[0] > 0 or any(b <= a for a, b in pairwise(widths)):
            raise ValueError(f"peak_fwhm_per_nm: expected ascending from above 0, got {widths}")
        return self
