"""What can be wrong with a geometry whose numbers are all in bounds."""

from __future__ import annotations

import math

import numpy as np

from pipeline.kernels.detector_geometry import rotation
from pipeline.reduce.geometry.geometry import Geometry, GeometryError
from pipeline.reduce.geometry.pixels import corner_grid_m, corner_positions

# Photons that meet the whole detector flatter than this come from numbers in wrong units (a beam
# centre in pixels taken as metres): no detector counts them.
_FLATTEST_DEG = 1.0


def check_on_detector(geometry: Geometry, shape: tuple[int, int]) -> str | None:
    """A note where the direct beam misses the detector.

    That is legal, as wide-angle detectors stand beside the beam; but it is also what a wrong beam
    centre looks like, so whoever runs the beamline should read it once.

    Parameters
    ----------
    geometry
        Of the detector.
    shape
        Rows and columns of a frame.

    Returns
    -------
    note
        Where the beam is, and the range of q that is left; None if it is on the detector.

    Raises
    ------
    GeometryError
        If photons would meet the whole detector at a grazing angle below 1 degree: no geometry,
        but numbers in wrong units. Or if the frames have another shape.
    """
    position1_m, position2_m = corner_grid_m(geometry, shape)
    nearest_m = math.hypot(
        _outside(geometry.poni1_m, float(position1_m.min()), float(position1_m.max())),
        _outside(geometry.poni2_m, float(position2_m.min()), float(position2_m.max())),
    )
    if math.atan2(geometry.distance_m, nearest_m) < math.radians(_FLATTEST_DEG):
        raise GeometryError(
            f"geometry: expected the point of normal incidence near the detector, got it "
            f"{nearest_m:g} m off at a distance of {geometry.distance_m:g} m: are the numbers in "
            "metres?"
        )
    turn = rotation(geometry.rot1_rad, geometry.rot2_rad, geometry.rot3_rad)
    where = "never meets its plane"
    if turn[2, 2] > 0.0:
        beam1_m = geometry.poni1_m + geometry.distance_m * turn[2, 0] / turn[2, 2]
        beam2_m = geometry.poni2_m + geometry.distance_m * turn[2, 1] / turn[2, 2]
        off1_m = _outside(beam1_m, float(position1_m.min()), float(position1_m.max()))
        off2_m = _outside(beam2_m, float(position2_m.min()), float(position2_m.max()))
        if off1_m == 0.0 and off2_m == 0.0:
            return None
        where = (
            f"is {abs(off1_m) / geometry.pixel1_m:.0f} rows and "
            f"{abs(off2_m) / geometry.pixel2_m:.0f} columns off"
        )
    q_per_nm = corner_positions(geometry, shape)[0]
    return (
        f"the direct beam misses the detector: it {where}; q is from {np.min(q_per_nm):.4g} to "
        f"{np.max(q_per_nm):.4g} 1/nm"
    )


def _outside(value: float, low: float, high: float) -> float:
    """How far a value is from an interval."""
    return max(low - value, 0.0, value - high)
