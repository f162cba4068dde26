"""Geometry in PONI files, the format of pyFAI."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.reduce.geometry.detectors import Pixels, named_pixels, named_shape
from pipeline.reduce.geometry.geometry import Geometry, GeometryError, SensorLayer
from pipeline.reduce.geometry.nexus import read_detector

_VERSIONS = ("1", "1.0", "2", "2.0", "2.1", "3", "3.0")


def parse_poni(text: str, source: str = "PONI text", folder: Path | None = None) -> Geometry:
    """Geometry in the text of a PONI file, versions 1, 2, 2.1 and 3.

    A file to which calibrations were appended counts by its last entries, as in pyFAI. A detector
    that is a NeXus file of pyFAI's (``NexusDetector``) is read; one with a spline file is refused.

    Parameters
    ----------
    text
        Of the file.
    source
        What to call it in an error.
    folder
        Where a detector's file is looked for if its name is relative; None = working directory.

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
    if version not in _VERSIONS:
        raise GeometryError(f"{source}: expected poni_version 1, 2, 2.1 or 3, got {version}")
    config = _detector_config(entries, version, source)
    keys = ("distance", "poni1", "poni2", "rot1", "rot2", "rot3", "wavelength")
    numbers = {key: number(entries, key, source) for key in keys}
    pixels = _pixels(entries.get("detector", "Detector"), config, source, folder)
    orientation = _orientation(config, pixels, source)
    parallax = _parallax(entries, config, pixels, source)
    try:
        return Geometry(
            distance_m=numbers["distance"],
            poni1_m=numbers["poni1"],
            poni2_m=numbers["poni2"],
            rot1_rad=numbers["rot1"],
            rot2_rad=numbers["rot2"],
            rot3_rad=numbers["rot3"],
            wavelength_nm=numbers["wavelength"] * 1e9,
            pixel1_m=pixels.pixel1_m,
            pixel2_m=pixels.pixel2_m,
            orientation=orientation,
            shape=pixels.shape,
            parallax=parallax,
            corners_m=pixels.corners_m,
        )
    except GeometryError as error:
        raise GeometryError(f"{source}: {error}") from None


def number(entries: Mapping[str, Any], key: str, source: str) -> float:
    """A number among entries, or one line that names key and source."""
    value = entries.get(key)
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (OverflowError, TypeError, ValueError):
        got = "nothing" if value is None else repr(value)
        raise GeometryError(f"{source}: expected a number for {key}, got {got}") from None


def _detector_config(entries: Mapping[str, str], version: str, source: str) -> dict[str, Any]:
    if version.startswith("1"):
        config: dict[str, Any] = {
            key.replace("size", ""): entries[key]
            for key in ("pixelsize1", "pixelsize2")
            if key in entries
        }
        if entries.get("splinefile", "none").lower() != "none":
            config["splineFile"] = entries["splinefile"]
        return config
    try:
        config = json.loads(entries.get("detector_config", "{}"))
    except json.JSONDecodeError as error:
        raise GeometryError(f"{source}: expected JSON for detector_config, got {error}") from None
    if not isinstance(config, dict):
        raise GeometryError(f"{source}: expected an object for detector_config, got {config}")
    return config


def _pixels(name: str, config: dict[str, Any], source: str, folder: Path | None) -> Pixels:
    if config.get("splineFile"):
        raise GeometryError(
            f"{source}: expected a detector without distortion, got splineFile "
            f"{config['splineFile']}: save it with pyFAI as a NexusDetector and name that file"
        )
    if (path := _detector_file(config, source, folder)) is not None:
        return read_detector(path)
    shape = _pair(config, "max_shape", source) or named_shape(name)
    if config.get("pixel1") is None:
        sizes_m = None
    else:
        sizes_m = number(config, "pixel1", source), number(config, "pixel2", source)
    try:
        return named_pixels(name, sizes_m, shape, _pair(config, "module_size", source))
    except GeometryError as error:
        raise GeometryError(f"{source}: {error}") from None


def _detector_file(config: Mapping[str, Any], source: str, folder: Path | None) -> Path | None:
    name = config.get("filename")
    if not name:
        return None
    if not isinstance(name, str):
        raise GeometryError(f"{source}: expected text for filename, got {name!r}")
    return Path(name) if folder is None else folder / name


def _orientation(config: Mapping[str, Any], pixels: Pixels, source: str) -> int:
    if not config.get("orientation"):
        return 3 if pixels.orientation is None else pixels.orientation
    value = number(config, "orientation", source)
    if value not in (1.0, 2.0, 3.0, 4.0):
        raise GeometryError(f"{source}: expected orientation 1 to 4, got {value:g}")
    return int(value)


def _pair(config: Mapping[str, Any], key: str, source: str) -> tuple[int, int] | None:
    """Rows and columns, above 0; None where nothing is given."""
    value = config.get(key)
    if value is None:
        return None
    try:
        rows, columns = (int(length) for length in value)
    except (OverflowError, TypeError, ValueError):
        rows, columns = 0, 0
    if isinstance(value, str) or min(rows, columns) < 1:
        raise GeometryError(f"{source}: expected rows and columns for {key}, got {value!r}")
    return rows, columns


def _parallax(
    entries: Mapping[str, str], config: Mapping[str, Any], pixels: Pixels, source: str
) -> SensorLayer | None:
    if entries.get("parallax", "false").lower() in ("false", "none", ""):
        return None
    sensor = config.get("sensor")
    if sensor is None and pixels.sensor is not None:
        return pixels.sensor
    if not isinstance(sensor, dict) or not isinstance(sensor.get("material"), str):
        raise GeometryError(
            f"{source}: expected a sensor with its material in detector_config, as Parallax is "
            f"{entries['parallax']}, got {sensor}"
        )
    if sensor.get("thickness") is None:
        return SensorLayer(sensor["material"])
    thickness_m = number(sensor, "thickness", source)
    if not (math.isfinite(thickness_m) and thickness_m > 0.0):
        raise GeometryError(f"{source}: expected a sensor's thickness above 0, got {thickness_m:g}")
    return SensorLayer(sensor["material"], thickness_m)
