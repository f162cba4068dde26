"""What the bins of a curve are even in: q or 2 theta, or the logarithm of either."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.messages import frozen_array
from pipeline.reduce.errors import InputError

# The outermost corner must lie inside the last bin, not on its edge; pyFAI widens by one step of
# float32, so we do.
_JUST_ABOVE = 1.0 + 2.0**-23

# Corners this far below a logarithmic axis (q = 0 is infinitely far) all look alike to the first
# bin, since shares are normalised to what lies on the axis.
_FAR_BELOW = 0.5


@dataclass(frozen=True)
class Binning:
    """Even bins on an axis that rises with q.

    Attributes
    ----------
    bins
        How many.
    axis, spacing
        As ``bin_axis`` and ``bin_spacing`` of `pipeline.config.reduce.AreaReduction`.
    low, width
        Lower edge of the first bin and width of each, in units of the axis: q in 1/nm or 2 theta in
        rad, or the natural logarithm of these.
    wavelength_nm
        Between q and 2 theta.
    """

    bins: int
    axis: Literal["q", "two_theta"]
    spacing: Literal["linear", "logarithmic"]
    low: float
    width: float
    wavelength_nm: float

    @classmethod
    def between(
        cls,
        q_range_per_nm: tuple[float, float],
        bins: int,
        axis: Literal["q", "two_theta"],
        spacing: Literal["linear", "logarithmic"],
        wavelength_nm: float,
    ) -> Binning:
        """Bins over a range of q, which they hold to its upper end."""
        if spacing == "logarithmic" and q_range_per_nm[0] <= 0.0:
            raise InputError(
                "q_min_per_nm: expected above 0 for logarithmic bins, got "
                f"{q_range_per_nm[0]:g}: set it"
            )
        unit = cls(bins, axis, spacing, 0.0, 1.0, wavelength_nm)
        low, high = (float(v) for v in unit._on_axis(np.array(q_range_per_nm)))
        upper = high + abs(high) * (_JUST_ABOVE - 1.0)
        return cls(bins, axis, spacing, low, (upper - low) / bins, wavelength_nm)

    @property
    def centres_per_nm(self) -> np.ndarray:
        """(bins,) q in the middle of each bin (the geometric middle of logarithmic ones)."""
        return frozen_array(self._to_q(self.low + self.width * (np.arange(self.bins) + 0.5)))

    @property
    def edges_per_nm(self) -> np.ndarray:
        """(bins + 1,) q of the edges."""
        return frozen_array(self._to_q(self.low + self.width * np.arange(self.bins + 1)))

    def corners(self, q_per_nm: np.ndarray) -> np.ndarray:
        """The axis at pixels' corners, float32 of the same shape."""
        if self.axis == "q" and self.spacing == "linear":
            return q_per_nm
        values = self._on_axis(q_per_nm)
        if self.spacing == "logarithmic":
            np.maximum(values, self.low - _FAR_BELOW, out=values)
        return values.astype(np.float32)

    def _on_axis(self, q_per_nm: np.ndarray) -> np.ndarray:
        values = q_per_nm.astype(np.float64)
        if self.axis == "two_theta":
            sine = values * (self.wavelength_nm / (4.0 * math.pi))
            values = 2.0 * np.arcsin(np.minimum(sine, 1.0))
        if self.spacing == "logarithmic":
            with np.errstate(divide="ignore"):
                values = np.log(values)
        return values

    def _to_q(self, values: np.ndarray) -> np.ndarray:
        if self.spacing == "logarithmic":
            values = np.exp(values)
        if self.axis == "two_theta":
            values = 4.0 * math.pi / self.wavelength_nm * np.sin(0.5 * values)
        return values


def usable_range(q_corner: np.ndarray, masked: np.ndarray) -> tuple[float, float]:
    """Smallest and largest q in 1/nm at the corners of pixels that are not masked."""
    usable = np.zeros(q_corner.shape, np.bool_)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            usable[rows, columns] |= ~masked
    inside = q_corner[usable]
    return float(inside.min()), float(inside.max())


def chosen_range(
    reach_per_nm: tuple[float, float], wanted_per_nm: tuple[float | None, float | None]
) -> tuple[float, float]:
    """Range of q of the bins: what is wanted, and for the rest what the usable pixels see.

    Raises
    ------
    InputError
        If no usable pixel sees any of it.
    """
    low = reach_per_nm[0] if wanted_per_nm[0] is None else wanted_per_nm[0]
    high = reach_per_nm[1] if wanted_per_nm[1] is None else wanted_per_nm[1]
    if low >= high or low >= reach_per_nm[1] or high <= reach_per_nm[0]:
        raise InputError(
            f"q range: expected a part of {reach_per_nm[0]:.6g} to {reach_per_nm[1]:.6g} 1/nm, "
            f"which the usable pixels see, got {low:g} to {high:g}"
        )
    return low, high
