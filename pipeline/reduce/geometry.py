"""Geometry of a flat detector: read from a PONI or a NeXus file, written as a PONI file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.reduce.files import InputError

# h c in eV nm (CODATA 2018: exact constants, 10 digits).
HC_EV_NM = 1239.841984

# Pixel sizes in micrometres of detectors that PONI files name instead of giving a size. The first
# that matches counts; module gaps of these detectors are whole pixels, so the pixels are even.
_NAMED_PIXELS_UM = (
    (r"pilatus", 172.0),
    (r"eiger", 75.0),
    (r"jungfrau(1m|4m|8m)?$", 75.0),
    (r"lambda", 55.0),
    (r"maxipix|timepix", 55.0),
    (r"perkin", 200.0),
    (r"dexela", 75.0),
)


class GeometryError(InputError):
    """A geometry that cannot be used. The text says expected, got, and which key of which file."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a flat detector stands, in the convention of pyFAI's PONI files.

    Attributes
    ----------
    distance_m
        Sample to the point of normal incidence (PONI).
    poni1_m, poni2_m
        That point from the outer corner of pixel (0, 0), along rows' and columns' direction.
    rot1_rad, rot2_rad, rot3_rad
        Rotations, see `pipeline.kernels.detector_geometry`.
    wavelength_nm
        Of the photons.
    pixel1_m, pixel2_m
        Pixel size along axis 1 (slow, rows) and 2 (fast, columns).
    orientation
        1 to 4, as in PONI 2.1: 3 = the array runs along both axes, 1 = against both, 2 = against
        axis 1, 4 = against axis 2.
    shape
        Rows and columns, where the file tells.
    """

    distance_m: float
    poni1_m: float
    poni2_m: float
    wavelength_nm: float
    pixel1_m: float
    pixel2_m: float
    rot1_rad: float = 0.0
    rot2_rad: float = 0.0
    rot3_rad: float = 0.0
    orientation: int = 3
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        bounds = {
            "distance_m": (1e-3, 1e3),
            "wavelength_nm": (1e-4, 100.0),
            "pixel1_m": (1e-7, 1e-1),
            "pixel2_m": (1e-7, 1e-1),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise GeometryError(f"expected {name} in {low:g} to {high:g}, got {value:g}")
        for name in ("poni1_m", "poni2_m", "rot1_rad", "rot2_rad", "rot3_rad"):
            if not math.isfinite(getattr(self, name)):
                raise GeometryError(f"expected a number for {name}, got nothing finite")
        if self.orientation not in (1, 2, 3, 4):
            raise GeometryError(f"expected orientation 1 to 4, got {self.orientation}")

    @property
    def flip(self) -> tuple[bool, bool]:
        """Whether the array runs against axis 1 and axis 2."""
        return self.orientation in (1, 2), self.orientation in (1, 4)

    def to_poni(self) -> str:
        """Text of a PONI file, version 2.1, which `parse_poni` and pyFAI read."""
        config: dict[str, Any] = {"pixel1": self.pixel1_m, "pixel2": self.pixel2_m}
        if self.shape is not None:
            config["max_shape"] = list(self.shape)
        config["orientation"] = self.orientation
        return (
            "# 1 is the slow axis (rows), 2 the fast one (columns); metres and radians\n"
            "poni_version: 2.1\n"
            "Detector: Detector\n"
            f"Detector_config: {json.dumps(config)}\n"
            f"Distance: {self.distance_m!r}\n"
            f"Poni1: {self.poni1_m!r}\n"
            f"Poni2: {self.poni2_m!r}\n"
            f"Rot1: {self.rot1_rad!r}\n"
            f"Rot2: {self.rot2_rad!r}\n"
            f"Rot3: {self.rot3_rad!r}\n"
            f"Wavelength: {self.wavelength_nm * 1e-9!r}\n"
        )


def parse_poni(text: str, source: str = "PONI text") -> Geometry:
    """Geometry in the text of a PONI file, versions 1, 2, 2.1, and 3 without parallax.

    A file to which calibrations were appended counts by its last entries, as in pyFAI.

    Parameters
    ----------
    text
        Of the file.
    source
        What to call it in an error.

    Raises
    ------
    GeometryError
        If a key is missing or not a number, or the version or the detector is not known.
    """
    entries: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and not line.lstrip().startswith("#"):
            entries[key.strip().lower()] = value.strip()
    version = entries.get("poni_version", "1")
    if version not in ("1", "1.0", "2", "2.0", "2.1", "3", "3.0"):
        raise GeometryError(f"{source}: expected poni_version 1, 2, 2.1 or 3, got {version}")
    if entries.get("parallax", "false").lower() not in ("false", "none", ""):
        raise GeometryError(
            f"{source}: expected Parallax: False, got {entries['parallax']}: calibrate without it"
        )
    pixel1_m, pixel2_m, orientation, shape = _poni_detector(entries, version, source)
    keys = ("distance", "poni1", "poni2", "rot1", "rot2", "rot3", "wavelength")
    numbers = {key: _number(entries, key, source) for key in keys}
    try:
        return Geometry(
            distance_m=numbers["distance"],
            poni1_m=numbers["poni1"],
            poni2_m=numbers["poni2"],
            rot1_rad=numbers["rot1"],
            rot2_rad=numbers["rot2"],
            rot3_rad=numbers["rot3"],
            wavelength_nm=numbers["wavelength"] * 1e9,
            pixel1_m=pixel1_m,
            pixel2_m=pixel2_m,
            orientation=orientation,
            shape=shape,
        )
    except GeometryError as error:
        raise GeometryError(f"{source}: {error}") from None


def _number(entries: Mapping[str, Any], key: str, source: str) -> float:
    value = entries.get(key)
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        got = "nothing" if value is None else repr(value)
        raise GeometryError(f"{source}: expected a number for {key}, got {got}") from None


def _poni_detector(
    entries: Mapping[str, str], version: str, source: str
) -> tuple[float, float, int, tuple[int, int] | None]:
    """Pixel sizes in m, orientation and shape."""
    if version.startswith("1"):
        config: Any = {k: v for k, v in entries.items() if k in ("pixelsize1", "pixelsize2")}
        config = {k.replace("size", ""): v for k, v in config.items()}
    else:
        try:
            config = json.loads(entries.get("detector_config", "{}"))
        except json.JSONDecodeError as error:
            raise GeometryError(
                f"{source}: expected JSON for detector_config, got {error}"
            ) from None
        if not isinstance(config, dict):
            raise GeometryError(f"{source}: expected an object for detector_config, got {config}")
    name = entries.get("detector", "Detector")
    for key in ("splineFile", "filename"):
        if config.get(key):
            raise GeometryError(
                f"{source}: expected even pixels, got a detector with {key} {config[key]}"
            )
    if config.get("pixel1") is not None:
        pixel1_m = _number(config, "pixel1", source)
        pixel2_m = _number(config, "pixel2", source)
    else:
        pixel1_m = pixel2_m = _named_pixel_m(name, source)
    shape = config.get("max_shape")
    orientation = int(config.get("orientation") or 3)
    return pixel1_m, pixel2_m, orientation, None if shape is None else (shape[0], shape[1])


def _named_pixel_m(name: str, source: str) -> float:
    for pattern, size_um in _NAMED_PIXELS_UM:
        if re.match(pattern, name.lower()):
            return round(size_um * 1e-6, 9)
    raise GeometryError(
        f"{source}: expected a detector of known pixel size, got {name}: give pixel1 and pixel2 in "
        "Detector_config"
    )


_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "micron": 1e-6}
_NANOMETRES = {"nm": 1.0, "angstrom": 0.1, "a": 0.1, "å": 0.1, "m": 1e9, "pm": 1e-3}
_EV = {"ev": 1.0, "kev": 1e3}


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
    with h5py.File(path, "r") as file:
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
    return float(np.ravel(node[()])[0]) * units[unit.strip().lower()]


def read_geometry(path: str | Path) -> Geometry:
    """Geometry from a file: NeXus (``.h5``, ``.hdf``, ``.hdf5``, ``.nxs``), PONI otherwise.

    Raises
    ------
    GeometryError
        If the file is not there or does not hold a geometry.
    """
    path = Path(path)
    if not path.is_file():
        raise GeometryError(f"{path}: expected a PONI or NeXus file, got no such file")
    if path.suffix.lower() in (".h5", ".hdf", ".hdf5", ".nxs"):
        return read_nexus(path)
    return parse_poni(path.read_text(encoding="utf-8"), str(path))
