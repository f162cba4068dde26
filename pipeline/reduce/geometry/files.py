"""Geometry from a file, whatever its format."""

from __future__ import annotations

from pathlib import Path

from pipeline.reduce.geometry.fit2d import parse_fit2d
from pipeline.reduce.geometry.geometry import Geometry, GeometryError
from pipeline.reduce.geometry.nexus import read_nexus
from pipeline.reduce.geometry.nika import parse_nika
from pipeline.reduce.geometry.poni import parse_poni


def read_geometry(path: str | Path) -> Geometry:
    """Geometry from a file.

    NeXus (``.h5``, ``.hdf``, ``.hdf5``, ``.nxs``), Nika (``.dat``) or Fit2D (``.fit2d``)
    parameters, PONI otherwise.

    Raises
    ------
    GeometryError
        If the file is not there or does not hold a geometry.
    """
    path = Path(path)
    if not path.is_file():
        raise GeometryError(f"{path}: expected a PONI or NeXus file, got no such file")
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf", ".hdf5", ".nxs"):
        return read_nexus(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GeometryError(f"{path}: expected text, got {error}") from None
    if suffix == ".dat":
        return parse_nika(text, str(path))
    if suffix == ".fit2d":
        return parse_fit2d(text, str(path))
    return parse_poni(text, str(path), path.parent)
