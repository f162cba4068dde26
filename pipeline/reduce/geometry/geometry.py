"""The geometry of a flat detector, in the convention of pyFAI's PONI files."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.reduce.errors import InputError

# h c in eV nm (CODATA 2018: exact constants, 10 digits).
HC_EV_NM = 1239.841984


class GeometryError(InputError):
    """A geometry that cannot be used. The text says expected, got, and which key of which file."""


@dataclass(frozen=True, slots=True)
class SensorLayer:
    """The layer that stops the photons, where a geometry was calibrated for its parallax.

    Attributes
    ----------
    material
        Chemical formula.
    thickness_m
        Of the layer; infinite = no photon passes it.
    """

    material: str
    thickness_m: float = math.inf


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a flat detector stands, in the convention of pyFAI's PONI files.

    Attributes
    ----------
    distance_m
        Sample to the point of normal incidence (PONI).
    poni1_m, poni2_m
        That point from the outer corner of pixel (0, 0), along axis 1 (from row to row) and 2.
    rot1_rad, rot2_rad, rot3_rad
        Rotations, see `pipeline.kernels.detector_geometry`.
    wavelength_nm
        Of the photons.
    pixel1_m, pixel2_m
        Pixel size along axis 1 (slow, rows) and 2 (fast, columns); of most pixels, if uneven.
    orientation
        1 to 4, as in PONI 2.1: 3 = the array runs along both axes, 1 = against both, 2 = against
        axis 1, 4 = against axis 2.
    shape
        Rows and columns, where the file tells.
    parallax
        Sensor whose parallax is part of this geometry (PONI version 3); None = none.
    corners_m
        (rows + 1, columns + 1, 2) corners of uneven pixels along axes 1 and 2, read-only; None =
        all pixels have the same size. Not compared.
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
    parallax: SensorLayer | None = None
    corners_m: np.ndarray | None = field(default=None, compare=False, repr=False)

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
        if self.corners_m is not None and self.orientation != 3:
            raise GeometryError(
                f"expected orientation 3 for a detector of uneven pixels, got {self.orientation}"
            )

    @property
    def flip(self) -> tuple[bool, bool]:
        """Whether the array runs against axis 1 and axis 2."""
        return self.orientation in (1, 2), self.orientation in (1, 4)

    def to_poni(self) -> str:
        """Text of a PONI file, version 2.1, or 3 with parallax, which `parse_poni` and pyFAI read.

        Raises
        ------
        GeometryError
            If the pixels are uneven: a PONI file names a detector then, and cannot hold it.
        """
        if self.corners_m is not None:
            raise GeometryError(
                "expected even pixels, to be written as PONI text, got uneven ones: give every "
                "consumer the PONI file"
            )
        config: dict[str, Any] = {"pixel1": self.pixel1_m, "pixel2": self.pixel2_m}
        if self.shape is not None:
            config["max_shape"] = list(self.shape)
        config["orientation"] = self.orientation
        if self.parallax is not None:
            sensor: dict[str, Any] = {"material": self.parallax.material}
            if math.isfinite(self.parallax.thickness_m):
                sensor["thickness"] = self.parallax.thickness_m
            config["sensor"] = sensor
        version = "2.1" if self.parallax is None else "3"
        return (
            "# 1 is the slow axis (rows), 2 the fast one (columns); metres and radians\n"
            f"poni_version: {version}\n"
            "Detector: Detector\n"
            f"Detector_config: {json.dumps(config)}\n"
            f"Distance: {self.distance_m!r}\n"
            f"Poni1: {self.poni1_m!r}\n"
            f"Poni2: {self.poni2_m!r}\n"
            f"Rot1: {self.rot1_rad!r}\n"
            f"Rot2: {self.rot2_rad!r}\n"
            f"Rot3: {self.rot3_rad!r}\n"
            f"Wavelength: {self.wavelength_nm * 1e-9!r}\n"
            + ("" if self.parallax is None else "Parallax: True\n")
        )
