"""Geometry and pixels in NeXus files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.messages import frozen_array
from pipeline.reduce.geometry.detectors import Pixels
from pipeline.reduce.geometry.geometry import HC_EV_NM, Geometry, GeometryError, SensorLayer

_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "micron": 1e-6}
_NANOMETRES = {"nm": 1.0, "angstrom": 0.1, "a": 0.1, "å": 0.1, "m": 1e9, "pm": 1e-3}
_EV = {"ev": 1.0, "kev": 1e3}

# Corners that neighbouring pixels share may differ by rounding: they are stored as float32, which
# is 3e-8 m at 0.5 m, so a thousandth of a small pixel.
_SHARED_WITHIN_PIXELS = 2e-3


def read_nexus(path: Path) -> Geometry:
    """Geometry in a NeXus file's first NXdetector and its NXbeam or NXmonochromator.

    Read are ``distance`` (or ``detector_distance``), ``beam_center_x`` and ``beam_center_y``,
    ``x_pixel_size`` and ``y_pixel_size``; ``incident_wavelength``, ``wavelength``,
    ``incident_energy`` or ``energy``. Each must name its unit, except the beam centre, which is in
    pixels if it does not. The detector stands upright: tilts, which every writer of NeXus stores
    differently, are for a PONI file.

    Raises
    ------
    GeometryError
        If a field is missing or has no known unit.
    """
    with _open(path) as file:
        detector = _group(file, "NXdetector")
        if detector is None:
            raise GeometryError(f"{path}: expected a group of class NXdetector, got none")
        size_x = _quantity(path, detector, ("x_pixel_size",), _METRES)
        size_y = _quantity(path, detector, ("y_pixel_size",), _METRES)
        distance_m = _quantity(path, detector, ("distance", "detector_distance"), _METRES)
        pixels_x = _METRES | {"pixel": size_x, "pixels": size_x, "": size_x}
        pixels_y = _METRES | {"pixel": size_y, "pixels": size_y, "": size_y}
        poni1_m = _quantity(path, detector, ("beam_center_y",), pixels_y)
        poni2_m = _quantity(path, detector, ("beam_center_x",), pixels_x)
        wavelength_nm = _wavelength_nm(path, file, detector)
    try:
        return Geometry(
            distance_m=distance_m,
            poni1_m=poni1_m,
            poni2_m=poni2_m,
            wavelength_nm=wavelength_nm,
            pixel1_m=size_y,
            pixel2_m=size_x,
        )
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from None


def read_detector(path: Path) -> Pixels:
    """Pixels in a NeXus file that pyFAI saved (a ``NexusDetector``).

    Where it holds the corners of each pixel, these count, and its orientation is already in them.

    Parameters
    ----------
    path
        Of the file.

    Raises
    ------
    GeometryError
        If it has no detector, or one whose pixels are not a flat grid.
    """
    if not path.is_file():
        raise GeometryError(f"{path}: expected the detector's NeXus file, got no such file")
    with _open(path) as file:
        detector = _group(file, "NXdetector")
        if detector is None or "pixel_size" not in detector:
            raise GeometryError(f"{path}: expected an NXdetector with pixel_size, got none")
        size1_m, size2_m = _numbers(detector, "pixel_size", 2)
        corners = _array(detector, "pixel_corners") if "pixel_corners" in detector else None
        shape = None
        if "max_shape" in detector:
            rows, columns = _numbers(detector, "max_shape", 2)
            shape = int(rows), int(columns)
        if "binning" in detector and np.any(_array(detector, "binning") != 1):
            raise GeometryError(f"{path}: expected a detector without binning, got a binned one")
        orientation = None
        if corners is None and "orientation" in detector:
            orientation = int(_numbers(detector, "orientation", 1)[0])
        sensor = _sensor(detector)
    if corners is None:
        return Pixels(size1_m, size2_m, shape, None, sensor, orientation)
    grid = _corner_grid(path, corners, min(size1_m, size2_m))
    shape = grid.shape[0] - 1, grid.shape[1] - 1
    return Pixels(size1_m, size2_m, shape, frozen_array(grid), sensor)


def _sensor(detector: h5py.Group) -> SensorLayer | None:
    if "sensor_material" not in detector:
        return None
    material = np.ravel(_array(detector, "sensor_material"))[0]
    material = material.decode() if isinstance(material, bytes) else str(material)
    if "sensor_thickness" not in detector:
        return SensorLayer(material)
    return SensorLayer(material, _numbers(detector, "sensor_thickness", 1)[0])


def _corner_grid(path: Path, corners: np.ndarray, pixel_m: float) -> np.ndarray:
    """(rows + 1, columns + 1, 2) out of each pixel's corners (rows, columns, 4, z y x)."""
    if corners.dtype.kind not in "iuf" or corners.ndim != 4 or corners.shape[2:] != (4, 3):
        raise GeometryError(
            f"{path}: expected numbers in pixel_corners of (rows, columns, 4, 3), got "
            f"{corners.shape} {corners.dtype}"
        )
    if not np.isfinite(corners).all():
        raise GeometryError(f"{path}: expected finite pixel_corners, got others")
    tolerance_m = _SHARED_WITHIN_PIXELS * pixel_m
    if np.abs(corners[..., 0]).max() > tolerance_m:
        raise GeometryError(f"{path}: expected a flat detector, got pixel_corners out of a plane")
    flat = corners[..., 1:].astype(np.float64)
    rows, columns = flat.shape[:2]
    grid = np.empty((rows + 1, columns + 1, 2))
    # The four corners of a pixel run around it: (i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1).
    grid[:-1, :-1] = flat[:, :, 0]
    grid[-1, :-1] = flat[-1, :, 1]
    grid[-1, -1] = flat[-1, -1, 2]
    grid[:-1, -1] = flat[:, -1, 3]
    for corner, (i, j) in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
        shared = grid[i : rows + i, j : columns + j]
        off_m = float(np.abs(shared - flat[:, :, corner]).max())
        if off_m > tolerance_m:
            raise GeometryError(
                f"{path}: expected pixels without gaps between them, got gaps of {off_m * 1e6:.3g} "
                "um: reduce its frames with pyFAI and send curves"
            )
    return grid


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise GeometryError(f"{path}: expected a NeXus file (HDF5), got {error}") from None


def _array(group: h5py.Group, name: str) -> np.ndarray:
    node = group[name]
    if not isinstance(node, h5py.Dataset) or node.size == 0:
        raise GeometryError(f"{group.file.filename}: expected values in {group.name}/{name}")
    try:
        return np.asarray(node[()])
    except OSError as error:
        raise GeometryError(
            f"{group.file.filename}: expected values in {node.name}, got {error}"
        ) from None


def _numbers(group: h5py.Group, name: str, count: int) -> list[float]:
    """The first values of a dataset, finite."""
    values = np.ravel(_array(group, name))[:count]
    numbers = values.astype(np.float64) if values.dtype.kind in "iuf" else np.empty(0)
    if numbers.size < count or not np.isfinite(numbers).all():
        raise GeometryError(
            f"{group.file.filename}: expected {count} finite "
            f"number{'s' if count > 1 else ''} in {group.name}/{name}, got {values.tolist()}"
        )
    return numbers.tolist()


def _group(file: h5py.File, nexus_class: str) -> h5py.Group | None:
    found: list[h5py.Group] = []

    def visit(_: str, node: Any) -> None:
        if isinstance(node, h5py.Group) and not found:
            label = node.attrs.get("NX_class", "")
            if (label.decode() if isinstance(label, bytes) else label) == nexus_class:
                found.append(node)

    file.visititems(visit)
    return found[0] if found else None


def _wavelength_nm(path: Path, file: h5py.File, detector: h5py.Group) -> float:
    places = [_group(file, "NXbeam"), _group(file, "NXmonochromator"), detector]
    for place in places:
        for names, units in (
            (("incident_wavelength", "wavelength"), _NANOMETRES),
            (("incident_energy", "energy"), _EV),
        ):
            if place is not None and any(name in place for name in names):
                value = _quantity(path, place, names, units)
                if not value > 0.0:
                    raise GeometryError(
                        f"{path}: expected {' or '.join(names)} above 0, got {value:g}"
                    )
                return value if units is _NANOMETRES else HC_EV_NM / value
    raise GeometryError(
        f"{path}: expected a wavelength or an energy in NXbeam or NXmonochromator, got neither"
    )


def _quantity(
    path: Path, group: h5py.Group, names: tuple[str, ...], units: Mapping[str, float]
) -> float:
    node = next((group[name] for name in names if name in group), None)
    if not isinstance(node, h5py.Dataset) or node.size == 0:
        raise GeometryError(f"{path}: expected {group.name}/{names[0]}, got nothing")
    unit = node.attrs.get("units", "")
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    if unit.strip().lower() not in units:
        expected = ", ".join(key for key in units if key)
        raise GeometryError(f"{path}: expected units {expected} for {node.name}, got {unit!r}")
    found = np.ravel(_array(group, str(node.name)))[0]
    try:
        # Text may hold a number; of a complex one, numpy would drop a part.
        value = math.nan if node.dtype.kind == "c" else float(found)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise GeometryError(f"{path}: expected a number in {node.name}, got {found}")
    return value * units[unit.strip().lower()]
