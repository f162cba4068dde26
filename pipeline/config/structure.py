"""How the structure factor and its lines are taken out of a curve."""

from typing import Self

from pydantic import Field, model_validator

from pipeline.config.base import Section


class StructureAnalysis(Section):
    """Structure factor of each frame, the form factor that it rests on, and its lines."""

    diameter_nm: float | None = Field(default=None, gt=0)
    """Mean diameter of the form factor. None = from each frame, so that peaks do not bend it."""
    sigma_nm: float | None = Field(default=None, ge=0)
    """Standard deviation of the diameters; given together with ``diameter_nm`` or not at all."""
    model_error: float = Field(default=0.1, ge=0, lt=1)
    """What the spheres under the peaks leave out, as a share of the intensity; beside the error of
    the counts, in the fit of the form factor while there is order."""
    profile_error: float = Field(default=0.0, ge=0, lt=1)
    """How far lines are from Gaussians, as a share of the intensity; beside the error of the
    counts, in the search of lines. Real ones have broader feet: a few hundredths."""
    line_sigma: float = Field(default=4.0, gt=1)
    """Significance of a line that noise does not reach anywhere in the window, in standard
    deviations after look-elsewhere: 4 is once in 30 000 curves."""
    widest_fwhm_per_nm: float = Field(default=0.25, gt=0)
    """Greatest full width of a line."""
    most_lines: int = Field(default=12, ge=1, le=30)
    """More are not sought; the strongest 10 are stored."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.diameter_nm is None) != (self.sigma_nm is None):
            raise ValueError(
                "expected diameter_nm and sigma_nm, or neither; got "
                f"{self.diameter_nm} and {self.sigma_nm}"
            )
        return self
