"""Geometry in the fields of a NeXus file, as the text of a PONI file."""

from __future__ import annotations

import json
from collections.abc import Sequence

import h5py
import numpy as np

from pipeline.replay.recording import ReplayError

#: h c in keV Angstrom (CODATA 2018, exact to the digits given).
KEV_ANGSTROM = 12.398419843

_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "nm": 1e-9}
_ANGSTROMS = {"angstrom": 1.0, "a": 1.0, "å": 1.0, "nm": 10.0, "m": 1e10, "pm": 1e-2}
_KEV = {"kev": 1.0, "ev": 1e-3, "mev": 1e3}
_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def find(places: Sequence[h5py.Group], *names: str) -> h5py.Dataset | None:
    """The first dataset of one of ``names`` in one of ``places``, names first."""
    for name in names:
        for place in places:
            node = place.get(name)
            if isinstance(node, h5py.Dataset) and node.size:
                return node
    return None


def scalar(node: h5py.Dataset | None) -> float | None:
    """The first value of a numeric dataset; None if there is none or it is not finite."""
    if node is None or node.dtype.kind not in "iuf":
        return None
    value = float(np.ravel(node[()])[0])
    return value if np.isfinite(value) else None


def seconds_per_unit(node: h5py.Dataset) -> float:
    """Seconds in the unit of a dataset; NeXus means seconds where no unit is given."""
    return _factor(node, _SECONDS, 1.0)


def poni_text(entry: h5py.Group, detector: h5py.Group | None) -> tuple[str | None, list[str]]:
    """PONI text from NXdetector, NXbeam and NXmonochromator.

    The detector is taken as not tilted: the fields for tilts are used differently by every writer.
    Lengths without a unit are metres as in NeXus, except that a pixel larger than 1 mm does not
    exist, so such a file counts in millimetres. A beam centre without a unit is in pixels, a
    wavelength in Angstrom, an energy in keV if below 1000 and in eV if not.

    Parameters
    ----------
    entry, detector
        NXentry and NXdetector.

    Returns
    -------
    text
        A PONI file, version 2, or None.
    missing
        Names of the facts that the file does not have.
    """
    places = [] if detector is None else [detector]
    quantities = {
        "x_pixel_size": _quantity(places, "x_pixel_size"),
        "y_pixel_size": _quantity(places, "y_pixel_size"),
        "distance": _quantity(places, "detector_distance", "distance"),
        "beam_center_x": _quantity(places, "beam_center_x"),
        "beam_center_y": _quantity(places, "beam_center_y"),
    }
    wavelength_m = _wavelength_m(entry)
    known = {name: quantity for name, quantity in quantities.items() if quantity is not None}
    if wavelength_m is None or len(known) < len(quantities):
        missing = [name for name in quantities if name not in known]
        return None, missing + ["wavelength"] * (wavelength_m is None)

    bare = 1.0 if known["x_pixel_size"][0] <= 1e-3 else 1e-3

    def metres(name: str, units: dict[str, float], bare: float) -> float:
        value, node = known[name]
        return value * _factor(node, units, bare)

    size_x = metres("x_pixel_size", _METRES, bare)
    size_y = metres("y_pixel_size", _METRES, bare)
    distance_m = metres("distance", _METRES, bare)
    if not (1e-6 <= size_x <= 1e-3 and 1e-6 <= size_y <= 1e-3 and 1e-3 < distance_m < 100):
        raise ReplayError(
            f"{entry.file.filename}: geometry: expected pixels of 1 um to 1 mm at 1 mm to 100 m, "
            f"got {size_x:g} m x {size_y:g} m at {distance_m:g} m: give replay.poni_file"
        )
    poni_1 = metres("beam_center_y", _METRES | {"pixel": size_y}, size_y)
    poni_2 = metres("beam_center_x", _METRES | {"pixel": size_x}, size_x)
    return format_poni(distance_m, poni_1, poni_2, size_y, size_x, wavelength_m), []


def _quantity(places: Sequence[h5py.Group], *names: str) -> tuple[float, h5py.Dataset] | None:
    node = find(places, *names)
    value = scalar(node)
    return None if node is None or value is None else (value, node)


def format_poni(
    distance_m: float,
    poni1_m: float,
    poni2_m: float,
    pixel1_m: float,
    pixel2_m: float,
    wavelength_m: float,
) -> str:
    """Text of a PONI file, version 2, of a detector that is not tilted (1 = rows, 2 = columns)."""
    config = json.dumps({"pixel1": pixel1_m, "pixel2": pixel2_m})
    return "\n".join(
        [
            "# Geometry in the metadata of the recording; tilts are not taken from there.",
            "poni_version: 2",
            "Detector: Detector",
            f"Detector_config: {config}",
            f"Distance: {distance_m!r}",
            f"Poni1: {poni1_m!r}",
            f"Poni2: {poni2_m!r}",
            "Rot1: 0.0",
            "Rot2: 0.0",
            "Rot3: 0.0",
            f"Wavelength: {wavelength_m!r}",
            "",
        ]
    )


def _wavelength_m(entry: h5py.Group) -> float | None:
    groups = [
        group
        for name in (
            "instrument/beam",
            "instrument/monochromator",
            "sample/beam",
            "instrument/detector/detectorSpecific",
        )
        if isinstance(group := entry.get(name), h5py.Group)
    ]
    node = find(groups, "incident_wavelength", "wavelength")
    wavelength = scalar(node)
    if wavelength and node is not None:
        wavelength *= _factor(node, _ANGSTROMS, 1.0)
    node = find(groups, "incident_energy", "energy", "photon_energy")
    energy = scalar(node)
    if energy and node is not None:
        energy *= _factor(node, _KEV, 1.0 if energy < 1000 else 1e-3)
    # 1 % is far above the rounding of either and far below a harmonic or a mistaken unit.
    if wavelength and energy and abs(wavelength * energy / KEV_ANGSTROM - 1) > 0.01:
        raise ReplayError(
            f"{entry.file.filename}: wavelength {wavelength:g} A and energy {energy:g} keV "
            "contradict each other: give replay.poni_file"
        )
    if wavelength:
        return wavelength * 1e-10
    return KEV_ANGSTROM / energy * 1e-10 if energy else None


def _factor(node: h5py.Dataset, units: dict[str, float], bare: float) -> float:
    unit = node.attrs.get("units", "")
    text = unit.decode() if isinstance(unit, bytes) else str(unit)
    text = text.strip().strip("'\"").lower()
    if not text:
        return bare
    for name in (text, text.rstrip("s")):
        if name in units:
            return units[name]
    raise ReplayError(
        f"{node.file.filename}:{node.name}: expected a unit of {', '.join(units)}, got {text!r}"
    )
