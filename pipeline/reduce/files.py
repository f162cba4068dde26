"""Masks from files, read once when a run begins."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


class InputError(ValueError):
    """A file or a start message that cannot be used. Says expected, got, and which."""


def read_mask(path: str | Path, shape: tuple[int, ...]) -> np.ndarray:
    """Mask of a detector, True = unusable.

    Parameters
    ----------
    path
        ``.npy``; ``.h5``, ``.hdf``, ``.hdf5``, ``.nxs`` with one 2-D dataset; anything else is
        read by fabio (extra ``images``).
    shape
        Rows and columns that it must have.

    Raises
    ------
    InputError
        If the file is not there, cannot be read, or has another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a mask, got no such file")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        mask = np.load(path, allow_pickle=False)
    elif suffix in (".h5", ".hdf", ".hdf5", ".nxs"):
        mask = _read_hdf5_mask(path)
    else:
        mask = _read_image(path)
    if mask.shape != shape:
        raise InputError(f"{path}: expected a mask of {shape}, as the frames, got {mask.shape}")
    return mask != 0


def _read_hdf5_mask(path: Path) -> np.ndarray:
    found: list[h5py.Dataset] = []
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda _, node: (
                found.append(node) if isinstance(node, h5py.Dataset) and node.ndim == 2 else None
            )
        )
        if len(found) != 1:
            names = ", ".join(str(node.name) for node in found) or "none"
            raise InputError(f"{path}: expected one 2-D dataset, the mask, got {names}")
        return found[0][()]


def _read_image(path: Path) -> np.ndarray:
    try:
        import fabio
    except ImportError as error:
        raise InputError(
            f"{path}: expected .npy or .h5, got {path.suffix}: for other images install fabio "
            "(pip install nucleate[images])"
        ) from error
    with fabio.open(path) as image:
        return np.asarray(image.data)


# Last, as that module takes InputError from this one.
from pipeline.reduce.corrections.background import (  # noqa: E402
    interpolate_background as interpolate_background,
)
from pipeline.reduce.corrections.background import (  # noqa: E402
    read_background as read_background,
)
