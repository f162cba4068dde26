"""Masks and backgrounds from files, read once when a run begins."""

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


def read_background(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q in 1/nm, intensity and sigma of a background curve.

    Parameters
    ----------
    path
        Text of three columns; lines that begin with # are passed over.

    Raises
    ------
    InputError
        If it has not three columns of finite numbers with rising q.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a background curve, got no such file")
    try:
        table = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path}: expected columns q, I, sigma, got {error}") from None
    if table.ndim != 2 or table.shape[1] != 3 or len(table) < 2:
        raise InputError(f"{path}: expected rows of q, I, sigma, got a table of {table.shape}")
    q_per_nm, intensity, sigma = table.T
    if not np.isfinite(table).all() or (np.diff(q_per_nm) <= 0).any() or (sigma < 0).any():
        raise InputError(f"{path}: expected finite numbers, rising q and sigma >= 0, got others")
    return q_per_nm, intensity, sigma


def interpolate_background(
    q_per_nm: np.ndarray, background: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Background and its variance at other q, linearly; NaN outside its range.

    Neighbouring points are taken as independent, so the variance at a fraction f between two is
    (1 - f)^2 s0^2 + f^2 s1^2.
    """
    q, intensity, sigma = background
    right = np.clip(np.searchsorted(q, q_per_nm, side="right"), 1, len(q) - 1)
    f = (q_per_nm - q[right - 1]) / (q[right] - q[right - 1])
    outside = (q_per_nm < q[0]) | (q_per_nm > q[-1])
    value = (1.0 - f) * intensity[right - 1] + f * intensity[right]
    variance = ((1.0 - f) * sigma[right - 1]) ** 2 + (f * sigma[right]) ** 2
    value[outside] = np.nan
    variance[outside] = np.nan
    return value, variance
