"""The few facts that NeXus and Stream V2 want of a PONI file; the integration reads it itself."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the detector stands. None = the text does not say.

    The beam centre is where the direct beam meets the detector plane, in pixels from the corner of
    the first pixel; for a tilted detector that is not the point of normal incidence.
    """

    distance_m: float | None = None
    pixel_x_m: float | None = None
    pixel_y_m: float | None = None
    beam_center_x: float | None = None
    beam_center_y: float | None = None
    wavelength_m: float | None = None


def parse_poni(text: str) -> Geometry:
    """Geometry of a PONI text (version 1 or 2); what is missing or unreadable stays None."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and not line.lstrip().startswith("#"):
            fields[key.strip().lower()] = value.strip()

    distance, wavelength = _number(fields, "distance"), _number(fields, "wavelength")
    pixel_y, pixel_x = _pixels(fields)
    poni_y, poni_x = _number(fields, "poni1"), _number(fields, "poni2")
    center_x = center_y = None
    if (
        distance is not None
        and pixel_y is not None
        and pixel_x is not None
        and poni_y is not None
        and poni_x is not None
    ):
        rot_1, rot_2 = _number(fields, "rot1") or 0.0, _number(fields, "rot2") or 0.0
        # The beam in the detector's frame is (sin r2, -cos r2 sin r1, cos r1 cos r2).
        center_y = (poni_y + distance * math.tan(rot_2) / math.cos(rot_1)) / pixel_y
        center_x = (poni_x - distance * math.tan(rot_1)) / pixel_x
    return Geometry(distance, pixel_x, pixel_y, center_x, center_y, wavelength)


def _number(fields: dict[str, str], key: str) -> float | None:
    try:
        value = float(fields[key])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _pixels(fields: dict[str, str]) -> tuple[float | None, float | None]:
    """Pixel sizes (y, x) in metres, of version 2 (``Detector_config``) or version 1."""
    try:
        config = json.loads(fields.get("detector_config", "{}"))
    except json.JSONDecodeError:
        config = {}
    sizes = []
    for axis in ("1", "2"):
        value = config.get(f"pixel{axis}") if isinstance(config, dict) else None
        if not isinstance(value, int | float):
            value = _number(fields, f"pixelsize{axis}")
        sizes.append(float(value) if value is not None and value > 0 else None)
    return sizes[0], sizes[1]
