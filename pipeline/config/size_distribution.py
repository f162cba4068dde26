"""How curves become size distributions."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Section


class SizeInversion(Section):
    """Volume of spheres against their diameter, of no given shape, on a background."""

    q_min_per_nm: float = Field(default=0.2, ge=0)
    """Left edge of what is used."""
    q_max_per_nm: float = Field(default=6.0, gt=0)
    """Right edge of what is used. Particles below pi / q_max are not seen."""
    diameter_range_nm: tuple[float, float] = (1.5, 20.0)
    """Ends of the diameters. Bins are evenly spaced in the logarithm. Nothing can be larger, so
    leave room: what is larger is forced into the last bins."""
    bins: int = Field(default=64, ge=16, le=160)
    """How many. The time goes with their cube. A population should be no narrower than two bins:
    by default a bin is 4 % of its diameter."""
    weights: Literal["model", "measured"] = "model"
    """``model``: sigma is that of counting, so it is taken from the model instead of from the
    counts, which would pull the fit below them. ``measured``: sigma as it comes, for curves with
    a background subtracted. A curve that has no sigma gets one from its own scatter."""
    powerlaw_exponent: float | None = Field(default=4.0, gt=0)
    """Of a background A q^-n; absent = none."""
    flat_background: bool = True
    """Whether a constant is fitted. It may be negative: backgrounds get over-subtracted."""
    presence_sigma: float = Field(default=4.0, gt=0)
    """There are no particles unless leaving them all out raises chi-square (in units of the
    reduced chi-square, if that is above 1) by more than this squared, plus the number of
    parameters that the data settle."""

    describes_probability: float = Field(default=1e-3, gt=0, lt=0.5)
    """As of the fit of populations: what order of the residuals says that spheres of no sizes
    describe the curve."""
    tolerated_misfit: float = Field(default=0.0175, ge=0, lt=1)
    """Likewise, the misfit that is let pass."""
    residual_stride: int = Field(default=2, ge=1, le=10)
    """Likewise, one residual in so many is tested."""

    @model_validator(mode="after")
    def _diameters_ascend(self) -> Self:
        lowest, highest = self.diameter_range_nm
        if not 0.0 < lowest < highest:
            raise ValueError(
                f"diameter_range_nm: expected 0 < lowest < highest, got {lowest:g}, {highest:g}"
            )
        return self
