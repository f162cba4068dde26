"""Flat field: the sensitivity of each pixel.

Counts are divided by it. It is not scaled: an image of counts under even illumination is to be
divided by its mean beforehand, or the absolute scale changes. A pixel of 0, below 0 or without a
finite value is unusable. Where pixels are uneven, a flat field holds their areas too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.reduce.corrections.images import read_image
from pipeline.reduce.errors import InputError


def read_flat(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """Flat field of a detector.

    Parameters
    ----------
    path
        As for `pipeline.reduce.corrections.images.read_image`.
    shape
        Rows and columns of a frame.

    Returns
    -------
    flat
        (rows, columns), float64; NaN where the pixel is unusable.

    Raises
    ------
    InputError
        If the file cannot be used, or no pixel of it is usable.
    """
    flat = read_image(path, shape, "a flat field")
    usable = np.isfinite(flat) & (flat > 0.0)
    if not usable.any():
        raise InputError(f"{path}: expected a flat field with values above 0, got none")
    flat[~usable] = np.nan
    return flat
