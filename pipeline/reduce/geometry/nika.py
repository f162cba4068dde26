"""Geometry in the parameters of Nika, the SAXS reduction in Igor Pro by J. Ilavsky.

(J. Appl. Cryst. 45 (2012) 324.) Names are Nika's own, or those of the metadata that the USAXS
instrument at APS writes, with or without its prefix (``pin_ccd_``, ``waxs_ccd_``):

===================  ==================  =====================================================
SampleToCCDDistance  distance            sample to detector along the direct beam, mm
BeamCenterX, Y       center_x_pixel, _y  direct beam on the detector, in pixels: whole numbers
                                         are centres of pixels
PixelSizeX, Y        pixel_size_x, _y    size of a pixel, mm
HorizontalTilt       tilt_x              degrees
VerticalTilt         tilt_y              degrees
Wavelength           wavelength          Angstrom; or XrayEnergy, keV
X                                        ``rows`` or ``columns``: what Nika's X counts
===================  ==================  =====================================================

One a line, ``name = value`` or ``name: value``, in any case; what comes after # is a comment.

Igor takes the first index of an array as X. That is the row of images from HDF5 and NeXus files
(X = rows), and the column of TIFF, EDF and other images (X = columns). The parameters do not say
which it was, so the file must.

The tilts are the components of one rotation vector in the detector's plane: the pixel at (x, y)
from the beam's centre lies at R (x, y, 0) from it, where R turns by hypot(horizontal, vertical)
about the axis (vertical, horizontal, 0). So a positive horizontal tilt brings the detector nearer
along +x, a positive vertical one takes it away along +y: a tilt as in Fit2D.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from pipeline.reduce.geometry.fit2d import from_beam_centre, read_entries
from pipeline.reduce.geometry.geometry import HC_EV_NM, Geometry, GeometryError
from pipeline.reduce.geometry.poni import number

_OTHER_NAMES = {
    "distance": "sampletoccddistance",
    "sampletodetectordistance": "sampletoccddistance",
    "center_x_pixel": "beamcenterx",
    "center_y_pixel": "beamcentery",
    "pixel_size_x": "pixelsizex",
    "pixel_size_y": "pixelsizey",
    "tilt_x": "horizontaltilt",
    "tilt_y": "verticaltilt",
}


def parse_nika(text: str, source: str = "Nika parameters") -> Geometry:
    """Geometry in the text of Nika parameters.

    Parameters
    ----------
    text
        See the module.
    source
        What to call it in an error.

    Raises
    ------
    GeometryError
        If a parameter is missing or not a number. Tilts are 0 if absent.
    """
    entries = {}
    for name, value in read_entries(text).items():
        name = re.sub(r"^(pin|waxs|saxs)_ccd_", "", name)
        entries[_OTHER_NAMES.get(name, name)] = value
    first = entries.get("x", "").lower()
    if first not in ("rows", "columns"):
        raise GeometryError(
            f"{source}: expected X = rows (Nika read the image from HDF5 or NeXus) or X = columns "
            f"(from TIFF, EDF and others), got {first or 'nothing'}"
        )

    def pair(name: str) -> tuple[float, float]:
        """Along axes 1 and 2."""
        x, y = number(entries, name + "x", source), number(entries, name + "y", source)
        return (x, y) if first == "rows" else (y, x)

    centre = pair("beamcenter")
    pixel_mm = pair("pixelsize")
    horizontal_rad = _tilt_rad(entries, "horizontaltilt", source)
    vertical_rad = _tilt_rad(entries, "verticaltilt", source)
    away = (-horizontal_rad, vertical_rad) if first == "rows" else (vertical_rad, -horizontal_rad)
    return from_beam_centre(
        source,
        direct_distance_m=number(entries, "sampletoccddistance", source) * 1e-3,
        centre_m=((centre[0] + 0.5) * pixel_mm[0] * 1e-3, (centre[1] + 0.5) * pixel_mm[1] * 1e-3),
        tilt_rad=math.hypot(horizontal_rad, vertical_rad),
        towards_rad=math.atan2(away[0], away[1]),
        pixel_m=(pixel_mm[0] * 1e-3, pixel_mm[1] * 1e-3),
        wavelength_nm=_wavelength_nm(entries, source),
    )


def _tilt_rad(entries: Mapping[str, str], key: str, source: str) -> float:
    return math.radians(number(entries, key, source)) if key in entries else 0.0


def _wavelength_nm(entries: Mapping[str, str], source: str) -> float:
    if "wavelength" in entries or "xrayenergy" not in entries:
        return number(entries, "wavelength", source) * 0.1
    energy_kev = number(entries, "xrayenergy", source)
    if not energy_kev > 0.0:
        raise GeometryError(f"{source}: expected XrayEnergy above 0 keV, got {energy_kev:g}")
    return HC_EV_NM / (energy_kev * 1e3)
