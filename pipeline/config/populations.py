"""How curves become sizes and concentrations."""

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
