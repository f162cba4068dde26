"""Pixels whose count says nothing."""

from __future__ import annotations

import numpy as np


def unusable_pixels(counts: np.ndarray, saturation_counts: float, spread: int) -> np.ndarray:
    """Pixels that are saturated, beside such a pixel, or not a finite number.

    The charge that a full pixel cannot hold goes to its neighbours along the line (blooming): they
    count too much while they are still below saturation.

    Parameters
    ----------
    counts
        (n,), in the detector's order.
    saturation_counts
        Counts at which a pixel is full; infinite = never.
    spread
        How many pixels on either side of a saturated one are unusable.

    Returns
    -------
    mask
        (n,), True = unusable.
    """
    full = counts >= saturation_counts
    mask = full.copy()
    if spread and full.any():
        # A full pixel raises a step `spread` before it and ends it as far behind.
        places = np.flatnonzero(full)
        steps = np.zeros(len(counts) + 1, np.intp)
        np.add.at(steps, np.maximum(places - spread, 0), 1)
        np.add.at(steps, np.minimum(places + spread + 1, len(counts)), -1)
        mask = np.cumsum(steps)[:-1] > 0
    return mask | ~np.isfinite(counts)
