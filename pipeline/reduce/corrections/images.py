"""Images of a detector's size in files: flat fields, darks."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from pipeline.reduce.errors import InputError


def read_image(path: str | Path, shape: tuple[int, int], what: str) -> np.ndarray:
    """An image of one value per pixel.

    Parameters
    ----------
    path
        ``.npy``; ``.h5``, ``.hdf``, ``.hdf5``, ``.nxs`` with one 2-D dataset; anything else is
        read by fabio (extra ``images``).
    shape
        Rows and columns that it must have.
    what
        What it is, for an error: ``a flat field``.

    Returns
    -------
    image
        (rows, columns), float64.

    Raises
    ------
    InputError
        If the file is not there, cannot be read, or has another shape or no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected {what}, got no such file")
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            image = read_npy(path, what)
        elif suffix in (".h5", ".hdf", ".hdf5", ".nxs"):
            image = _from_hdf5(path, what)
        else:
            image = _from_fabio(path, what)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected {what}, got {error}") from None
    if image.shape != shape:
        raise InputError(f"{path}: expected {what} of {shape}, as the frames, got {image.shape}")
    if image.dtype.kind not in "biuf":
        raise InputError(f"{path}: expected {what} of real numbers, got {image.dtype}")
    return np.ascontiguousarray(image, np.float64)


def read_npy(path: Path, what: str) -> np.ndarray:
    """An array of numpy's.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        array = np.load(path, allow_pickle=False)
    # For a damaged header numpy raises whatever the parsers of Python do (ValueError, EOFError,
    # TokenError, SyntaxError, TypeError), and MemoryError for a shape that is none.
    except Exception as error:
        raise InputError(f"{path}: expected {what}, got {_told(error)}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: expected {what}, got an archive of several arrays")
    return array


def _told(error: Exception) -> str:
    """An error of other people's code in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _from_hdf5(path: Path, what: str) -> np.ndarray:
    found: list[h5py.Dataset] = []

    def visit(_: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim == 2:
            found.append(node)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
        if len(found) != 1:
            names = ", ".join(str(node.name) for node in found) or "none"
            raise InputError(f"{path}: expected one 2-D dataset, {what}, got {names}")
        return np.asarray(found[0][()])


def _from_fabio(path: Path, what: str) -> np.ndarray:
    try:
        import fabio
    except ImportError as error:
        raise InputError(
            f"{path}: expected {what} as .npy or .h5, got {path.suffix}: for other images install "
            "fabio (pip install nucleate[images])"
        ) from error
    try:
        with fabio.open(str(path)) as image:
            return np.array(image.data)
    # Its parsers raise whatever they trip over in a file that is cut off: AttributeError, KeyError,
    # zlib.error and others.
    except Exception as error:
        raise InputError(f"{path}: expected {what}, got {_told(error)}") from error
