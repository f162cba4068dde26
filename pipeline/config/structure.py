"""How the structure factor and its lines are taken out of a curve."""

from pydantic import Field

from pipeline.config.base import Section


class StructureAnalysis(Section):
    """Structure factor of each frame, the form factor that it rests on, and its lines."""

    diameter_nm: float | None = Field(default=None, gt=0)
    """Mean diameter of the form factor. None = from each frame, so that peaks do not bend it."""
    sigma_nm: float | None = Field(default=None, ge=0)
    """Standard deviation of the diameters, given together with ``diameter_nm``."""
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
