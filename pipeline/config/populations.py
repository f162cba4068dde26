"""How curves become sizes and concentrations."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Section


class Expected(Section):
    """What is known of a number before it is measured, as a normal distribution."""

    mean: float = Field(gt=0)
    """What it is expected to be, in the unit of its key."""
    sd: float = Field(gt=0)
    """Standard deviation of that."""


class PopulationsFit(Section):
    """Two populations of particles on a background."""

    q_min_per_nm: float = Field(default=0.2, ge=0)
    """Left edge of what is fitted."""
    q_max_per_nm: float = Field(default=6.0, gt=0)
    """Right edge of what is fitted."""
    shape: str = "sphere"
    """Shape of the nanocrystals, one of the cards in ``pipeline/kernels/shapes``."""
    shape_parameters: dict[str, float] = Field(default_factory=dict)
    """What the shape has beside its size, e.g. the thickness of a shell; see its card."""
    distribution: Literal["gaussian", "lognormal", "schulz"] = "gaussian"
    """Of the nanocrystals' sizes, by number."""
    nc_diameter_range_nm: tuple[float, float] = (2.0, 20.0)
    """Bounds of the nanocrystals' mean size."""
    nc_relative_sigma_range: tuple[float, float] = (0.03, 0.5)
    """Bounds of their standard deviation over mean."""
    nc_diameter_nm: float | Expected | None = None
    """Mean size of the nanocrystals where it is known: a number holds it, ``{mean, sd}`` says what
    is expected, absent = free within its bounds."""
    nc_sigma_nm: float | Expected | None = None
    """Likewise, their standard deviation."""
    agglomerates: bool = True
    """Whether a population of agglomerates (spheres, Gaussian) may be there at all."""
    agglomerate_diameter_nm: float | Expected = 3.0
    """Their mean diameter: a number holds it (known from the first frames), ``{mean, sd}`` says
    what is expected and lets the curve decide."""
    agglomerate_sigma_nm: float | Expected = 0.3
    """Likewise, their standard deviation. Held while the diameter is not, it is held as a share
    of it."""
    presence_sigma: float = Field(default=4.0, gt=0)
    """A population is absent unless the curve needs it: leaving it out has to raise chi-square
    (in units of the reduced chi-square, if that is above 1) by more than this squared, plus a
    penalty for the parameters that are searched with it."""
    weights: Literal["model", "measured"] = "model"
    """``model``: sigma is that of counting, so it is taken from the model instead of from the
    counts, which would pull the fit below them. ``measured``: sigma as it comes, for curves with
    a background subtracted. A curve without sigma gets one from its own scatter."""
    powerlaw_exponent: float | None = Field(default=4.0, gt=0)
    """Of a background A q^-n; absent = none."""
    flat_background: bool = True
    """Whether a constant is fitted. It may be negative: backgrounds get over-subtracted."""
    instrument_file: str | None = None
    """Curve of the instrument or the empty cell, whose height is fitted with the rest: NXcanSAS,
    or text of q, I, sigma as ``nucleate export`` writes it (q in 1/nm if it does not say)."""
    smearing: bool = True
    """Whether the model is smeared with the resolution of q that the reduction gives."""
    q_resolution_per_nm: float | None = Field(default=None, ge=0)
    """Standard deviation of q, for curves that come without; absent = not smeared."""
    search_every: int = Field(default=20, ge=1, le=100)
    """Frames whose number this divides are fitted from a search of all sizes, those between from
    the frame before. So a frame depends on those since the last search and on none before it."""
    interval_probability: float = Field(default=0.95, gt=0.5, lt=1)
    """Of the intervals from ``_lo`` to ``_hi``."""

    describes_probability: float = Field(default=1e-3, gt=0, lt=0.5)
    """Order in the residuals that a true model shows less often than this says that the model does
    not describe the curve."""
    tolerated_misfit: float = Field(default=0.0175, ge=0, lt=1)
    """... unless the misfit is smaller than this share of the signal: with counts enough every
    model is seen to be none. Spheres of palladium are described within 0.3 to 1.5 %."""
    residual_stride: int = Field(default=2, ge=1, le=10)
    """One residual in so many is tested: neighbouring bins share pixels. 1 for curves whose
    points are independent, 3 where pixels are larger than bins."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in ("nc_diameter_range_nm", "nc_relative_sigma_range"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name}: expected 0 < first < second, got {low}, {high}")
        if self.q_min_per_nm >= self.q_max_per_nm:
            raise ValueError(
                f"q_min_per_nm: expected less than q_max_per_nm, got {self.q_min_per_nm} and "
                f"{self.q_max_per_nm}"
            )
        low, high = self.nc_diameter_range_nm
        held = self.nc_diameter_nm
        middle = held.mean if isinstance(held, Expected) else held
        if middle is not None and not low <= middle <= high:
            raise ValueError(
                f"nc_diameter_nm: expected within nc_diameter_range_nm, {low} to {high}, got "
                f"{middle}"
            )
        return self
