"""What a run's start document tells about the curves, in the words of the files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.export.curves import CurveSet


@dataclass(frozen=True, slots=True)
class Facts:
    """None where the run does not say. ``name``, ``sample`` and ``software`` are single lines."""

    name: str
    description: str
    sample: str | None
    wavelength_m: float | None
    distance_m: float | None
    pixel_m: tuple[float, float] | None
    thickness_cm: float | None
    software: str
    config_sha256: str | None
    config_text: str | None
    reduced_at: str | None
    geometry: str | None

    @classmethod
    def of(cls, curves: CurveSet) -> Facts:
        """Gather the facts of a run for one of its streams."""
        start = curves.start
        geometry = (start.get("geometry") or {}).get(curves.stream)
        poni = _poni_values(geometry) if geometry else {}
        config = start.get("config") or {}
        settings = (config.get(curves.stream) or {}).get("reduce") or {}
        sample = (start.get("sample") or config.get("sample") or {}).get("system")
        versions = start.get("software") or {}
        time_s = start.get("time")
        at = None if time_s is None else datetime.fromtimestamp(float(time_s), UTC)
        return cls(
            name=one_line(start.get("run_name") or start.get("name") or curves.run),
            description=str(start.get("description") or ""),
            sample=None if sample is None else one_line(sample),
            wavelength_m=_number(poni.get("wavelength")),
            distance_m=_beam_length_m(poni),
            pixel_m=_pixel_m(poni),
            thickness_cm=settings.get("thickness_cm"),
            software=", ".join(f"{name} {version}" for name, version in versions.items()),
            config_sha256=start.get("config_sha256"),
            config_text=start.get("config_text"),
            reduced_at=None if at is None else at.isoformat(timespec="seconds"),
            geometry=geometry,
        )


def one_line(text: Any) -> str:
    """A text without line breaks."""
    return " ".join(str(text).split())


def _poni_values(text: str) -> Mapping[str, str]:
    """Values of a PONI file by key in lower case; empty for the name of another kind of file."""
    pairs = re.findall(r"^\s*(\w+)\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    return {key.lower(): value for key, value in pairs}


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _beam_length_m(poni: Mapping[str, str]) -> float | None:
    """Sample to detector along the beam.

    A PONI file has the distance along the detector's normal; the beam makes the angles rot1 and
    rot2 with it.
    """
    distance = _number(poni.get("distance"))
    if distance is None:
        return None
    tilt = math.cos(float(poni.get("rot1", 0))) * math.cos(float(poni.get("rot2", 0)))
    return distance / tilt if tilt > 0 else None


def _pixel_m(poni: Mapping[str, str]) -> tuple[float, float] | None:
    """Height and width of a pixel; None for a detector that is only named."""
    config = json.loads(poni.get("detector_config", "{}"))
    height = poni.get("pixelsize1") or config.get("pixel1")
    width = poni.get("pixelsize2") or config.get("pixel2")
    return (float(height), float(width)) if height and width else None
