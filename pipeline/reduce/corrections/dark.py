"""Dark: counts of a frame without beam.

Subtracted pixel by pixel, before any division. It is not scaled: it is to have been taken with the
frames' exposure. Its own noise is the same in every frame, and is not in sigma: average enough
darks for it not to show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.reduce.corrections.images import read_image
from pipeline.reduce.errors import InputError


def read_dark(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """Dark frame of a detector.

    Parameters
    ----------
    path
        As for `pipeline.reduce.corrections.images.read_image`.
    shape
        Rows and columns of a frame.

    Returns
    -------
    dark
        (rows, columns), float64; NaN where the pixel is unusable.

    Raises
    ------
    InputError
        If the file cannot be used, or no pixel of it has a finite value.
    """
    dark = read_image(path, shape, "a dark frame")
    if not np.isfinite(dark).any():
        raise InputError(f"{path}: expected a dark frame with finite values, got none")
    dark[~np.isfinite(dark)] = np.nan
    return dark
