"""Optically black pixels, which follow the dark's drift.

Level and dark current of a line sensor change with its temperature, by the same amount in all
pixels. Pixels that no light reaches see that amount alone: their mean over the dark, subtracted
from all pixels, leaves no drift, and adds the error of that mean to all pixels alike.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# The reference may stand above its dark in covered pixels by drift, a few per cent of the lamp at
# most; by more than this share of the lamp's mean, it is light that they see.
_MOST_LIGHT = 0.1


def covered_mask(ranges: Iterable[tuple[int, int]], pixels: int) -> np.ndarray:
    """(pixels,), True = covered.

    Parameters
    ----------
    ranges
        First and last pixel of each range, from 0.
    pixels
        Of the detector.

    Raises
    ------
    ValueError
        If a range ends behind the last pixel, or nothing but covered pixels is left.
    """
    mask = np.zeros(pixels, bool)
    for first, last in ranges:
        if last >= pixels:
            raise ValueError(
                f"covered_pixels: expected pixels from 0 to {pixels - 1}, got {first} to {last}"
            )
        mask[first : last + 1] = True
    if mask.all():
        raise ValueError(f"covered_pixels: expected pixels with light too, got all {pixels}")
    return mask


def offset(above_dark: np.ndarray, covered: np.ndarray, unusable: np.ndarray) -> tuple[float, int]:
    """Mean of the covered pixels above the dark, and how many they are.

    The mean, not the median: its variance is smaller by a third, and sigma counts on it. Pixels
    that are unusable are left out.

    Raises
    ------
    ValueError
        If none is left.
    """
    dark = covered & ~unusable & np.isfinite(above_dark)
    number = int(dark.sum())
    if not number:
        raise ValueError("covered_pixels: expected finite counts below saturation, got none")
    return float(above_dark[dark].mean()), number


def check_covered(above_dark: np.ndarray, covered: np.ndarray) -> None:
    """See that the lamp does not reach the covered pixels.

    Parameters
    ----------
    above_dark
        (n,) counts of the reference above the dark; what is not finite is left out.
    covered
        (n,), True = covered.

    Raises
    ------
    ValueError
        If their mean is more than a tenth of the other pixels' mean.
    """
    finite = np.isfinite(above_dark)
    if not ((finite & covered).any() and (finite & ~covered).any()):
        return
    seen = float(above_dark[finite & covered].mean())
    light = float(above_dark[finite & ~covered].mean())
    if abs(seen) > _MOST_LIGHT * abs(light):
        raise ValueError(
            f"covered_pixels: expected none of the lamp's light (reference {light:.4g} above dark "
            f"in the other pixels), got {seen:.4g}: do they count from 0, in the stream's order?"
        )
