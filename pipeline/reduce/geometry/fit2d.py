"""Geometry in the parameters of Fit2D.

Fit2D gives the point where the direct beam meets the detector, the way to it along the beam, and
one tilt: the detector is turned about an axis in its plane that passes through that point. The
tilt's direction is the one in which the detector runs away from the sample (A. P. Hammersley,
FIT2D reference manual, ESRF; names of the parameters as in pyFAI's ``getFit2D``):

=================  ======================================================================
directDist         sample to detector along the direct beam, mm
centerX, centerY   direct beam on the detector along columns and rows, in pixels, from the
                   outer corner of pixel (0, 0)
tilt               of the detector, degrees
tiltPlanRotation   direction of the tilt, degrees from axis 2 towards axis 1
pixelX, pixelY     size of a pixel along columns and rows, micrometres
wavelength         Angstrom
=================  ======================================================================

One a line, ``name = value`` or ``name: value``, in any case; what comes after # is a comment.
"""

from __future__ import annotations

import math
import re

import numpy as np

from pipeline.reduce.geometry.geometry import Geometry, GeometryError
from pipeline.reduce.geometry.poni import number

_KEYS = ("directdist", "centerx", "centery", "pixelx", "pixely", "wavelength")


def parse_fit2d(text: str, source: str = "Fit2D parameters") -> Geometry:
    """Geometry in the text of Fit2D parameters.

    Parameters
    ----------
    text
        See the module.
    source
        What to call it in an error.

    Raises
    ------
    GeometryError
        If a parameter is missing or not a number. The tilt is 0 if absent.
    """
    entries = read_entries(text)
    values = {key: number(entries, key, source) for key in _KEYS}
    tilt_deg = number(entries, "tilt", source) if "tilt" in entries else 0.0
    towards_deg = 0.0
    if "tiltplanrotation" in entries:
        towards_deg = number(entries, "tiltplanrotation", source)
    elif tilt_deg != 0.0:
        raise GeometryError(f"{source}: expected tiltPlanRotation beside a tilt, got nothing")
    pixel1_m, pixel2_m = values["pixely"] * 1e-6, values["pixelx"] * 1e-6
    return from_beam_centre(
        source,
        direct_distance_m=values["directdist"] * 1e-3,
        centre_m=(values["centery"] * pixel1_m, values["centerx"] * pixel2_m),
        tilt_rad=math.radians(tilt_deg),
        towards_rad=math.radians(towards_deg),
        pixel_m=(pixel1_m, pixel2_m),
        wavelength_nm=values["wavelength"] * 0.1,
    )


def read_entries(text: str) -> dict[str, str]:
    """Names, in lower case, and values of lines ``name = value`` or ``name: value``."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"\s*([^=:#]+?)\s*[=:]\s*([^#]*)", line)
        if match:
            entries[match[1].lower()] = match[2].strip()
    return entries


def from_beam_centre(
    source: str,
    *,
    direct_distance_m: float,
    centre_m: tuple[float, float],
    tilt_rad: float,
    towards_rad: float,
    pixel_m: tuple[float, float],
    wavelength_nm: float,
) -> Geometry:
    """Geometry of a detector that is tilted about the point where the direct beam meets it.

    The turn M that takes detector coordinates to the laboratory is the one by the tilt about an
    axis in the plane; rot1 to rot3 are its angles in the order of
    `pipeline.kernels.detector_geometry.rotation`. A point u from the centre lies at
    direct_distance e3 + M u, so the point of normal incidence is at -direct_distance M^T e3.

    Parameters
    ----------
    source
        What to call it in an error.
    direct_distance_m
        Sample to detector along the direct beam.
    centre_m
        Direct beam on the detector along axes 1 and 2, from the outer corner of pixel (0, 0).
    tilt_rad, towards_rad
        Tilt, and the direction in which the detector runs away from the sample, from axis 2
        towards axis 1.
    pixel_m
        Size of a pixel along axes 1 and 2.
    wavelength_nm
        Of the photons.

    Raises
    ------
    GeometryError
        If the detector does not face the sample, or a value is out of bounds.
    """
    if not abs(tilt_rad) < 0.5 * math.pi:
        raise GeometryError(
            f"{source}: expected a tilt below 90 degrees, got {math.degrees(tilt_rad):g}"
        )
    along = np.array([math.sin(towards_rad), math.cos(towards_rad), 0.0])
    beam = np.array([0.0, 0.0, 1.0])
    # M turns ``along`` towards the beam and the beam away from it, and leaves the axis.
    turned = math.cos(tilt_rad) * along + math.sin(tilt_rad) * beam
    normal = math.cos(tilt_rad) * beam - math.sin(tilt_rad) * along
    across = np.array([along[1], -along[0], 0.0])
    turn = np.outer(turned, along) + np.outer(normal, beam) + np.outer(across, across)
    to_poni_m = direct_distance_m * turn[2]
    try:
        return Geometry(
            distance_m=float(to_poni_m[2]),
            poni1_m=float(centre_m[0] - to_poni_m[0]),
            poni2_m=float(centre_m[1] - to_poni_m[1]),
            rot1_rad=math.atan2(-turn[2, 1], turn[2, 2]),
            rot2_rad=math.asin(max(-1.0, min(1.0, turn[2, 0]))),
            rot3_rad=math.atan2(turn[1, 0], turn[0, 0]),
            wavelength_nm=wavelength_nm,
            pixel1_m=pixel_m[0],
            pixel2_m=pixel_m[1],
        )
    except GeometryError as error:
        raise GeometryError(f"{source}: {error}") from None
