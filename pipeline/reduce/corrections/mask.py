"""Static mask: pixels that are never used.

A mask is an image that is not 0 where a pixel is unusable. The detector's own, a mask file's, the
pixels outside of the sectors, and those without a usable flat field or dark are put together
(`pipeline.reduce.inputs`). Pixels that are invalid in one frame only are no static mask: they are
found while the frame is read (`pipeline.kernels.integration.load_counts`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.reduce.corrections.images import read_image


def read_mask(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """Mask of a detector.

    Parameters
    ----------
    path
        As for `pipeline.reduce.corrections.images.read_image`.
    shape
        Rows and columns of a frame.

    Returns
    -------
    masked
        (rows, columns) bool, True = unusable; a pixel without a finite value is.

    Raises
    ------
    InputError
        If the file cannot be used.
    """
    return read_image(path, shape, "a mask") != 0.0


def unusable_pixels(
    shape: tuple[int, int], masked: np.ndarray | None, *images: np.ndarray | None
) -> np.ndarray:
    """Pixels that are never used: those of a mask, and those that an image has no value of.

    Parameters
    ----------
    shape
        Rows and columns of a frame.
    masked
        (rows, columns) bool; None = none.
    images
        Flat field and dark, (rows, columns) or None; not finite = unusable.

    Returns
    -------
    unusable
        (rows, columns) bool, a new array.
    """
    unusable = np.zeros(shape, np.bool_) if masked is None else masked.copy()
    for image in images:
        if image is not None:
            unusable |= ~np.isfinite(image)
    return unusable
