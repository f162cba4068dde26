"""Resolution of q: how far from a bin's q the photons in it were scattered.

Variances of independent causes add. For a photon scattered by 2theta towards the azimuth chi, which
meets the detector at a distance s from the sample, q = 4 pi / wavelength sin(theta) changes by
dq/d2theta = 2 pi / wavelength cos(theta), and 2theta by e . d / s when the place at which it meets
the detector, or its sample, moves by d (e is the unit vector of rising 2theta, across the photon's
way). With that:

==============  ===========================================================================
pixel           even over the pixel's sides a, b: (g_a^2 a^2 + g_b^2 b^2) / 12, where g is the
                gradient of q on the detector. Twice: the photon fell somewhere in the pixel, and
                its count is split over the bins as if it were anywhere in the pixel.
bin             even over its width w: w^2 / 12
beam            normal, of the given sizes across the beam. The profile on the detector is taken
                as the sample's, so it counts less at large angles as a sample seen aslant does.
wavelength      (q spread)^2
thickness       even over the sample's thickness t along the beam: (dq/d2theta sin(2theta) t / s)^2
                / 12
==============  ===========================================================================

All but the bin and the wavelength depend on the azimuth if the detector is tilted, its pixels or
the beam not round: the mean over azimuths is given, over those that meet the detector if its shape
is known.

Bounds: first order, so causes are to be small against q; the form is that of a standard deviation,
not of a shape. Not in it: the spread of depths in a thick sensor.

Source: J. S. Pedersen, D. Posselt & K. Mortensen, J. Appl. Cryst. 23 (1990) 321, whose causes these
are, for photons and any tilt. Validated by tracing photons.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.config.reduce import AreaReduction
from pipeline.kernels.detector_geometry import rotation
from pipeline.reduce.geometry import Geometry, corner_grid_m

# The mean over azimuths is that of a smooth periodic function, which few points give exactly; more
# are for detectors on which only a part of the ring lies.
_AZIMUTHS = 180


def q_resolution(
    geometry: Geometry,
    q_per_nm: np.ndarray,
    bin_width_per_nm: np.ndarray | float,
    settings: AreaReduction,
    thickness_cm: float | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Standard deviation of q in each bin.

    Parameters
    ----------
    geometry
        Of the detector.
    q_per_nm
        (bins,) centres of bins.
    bin_width_per_nm
        (bins,) or one number.
    settings
        For ``beam_size_um`` (along rows' direction, axis 2, and columns' direction, axis 1) and
        ``wavelength_spread``.
    thickness_cm
        Of the sample along the beam; None = thin.
    shape
        Rows and columns of the detector; None = that of the geometry, or endless.

    Returns
    -------
    dq_per_nm
        (bins,); NaN where q is beyond back-scattering, or no photon meets the detector's plane.
    """
    q_per_nm = np.asarray(q_per_nm, np.float64)
    with np.errstate(invalid="ignore"):
        theta = np.arcsin(q_per_nm * geometry.wavelength_nm / (4.0 * math.pi))[:, None]
    chi = (np.arange(_AZIMUTHS) + 0.5) * (2.0 * math.pi / _AZIMUTHS) - math.pi
    sin2, cos2 = np.sin(2.0 * theta), np.cos(2.0 * theta)
    photon = np.stack(np.broadcast_arrays(sin2 * np.sin(chi), sin2 * np.cos(chi), cos2))
    rising = np.stack(np.broadcast_arrays(cos2 * np.sin(chi), cos2 * np.cos(chi), -sin2))
    turn = rotation(geometry.rot1_rad, geometry.rot2_rad, geometry.rot3_rad)
    facing = np.tensordot(turn[:, 2], photon, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        path_m = np.where(facing > 0.0, geometry.distance_m / facing, np.nan)
    along1, along2 = (np.tensordot(turn[:, axis], rising, 1) for axis in (0, 1))
    beam2_m, beam1_m = (size_um * 1e-6 for size_um in settings.beam_size_um)
    thickness_m = 0.0 if thickness_cm is None else thickness_cm * 1e-2
    moved_m2 = (
        2.0 / 12.0 * ((along1 * geometry.pixel1_m) ** 2 + (along2 * geometry.pixel2_m) ** 2)
        + (rising[0] * beam1_m) ** 2
        + (rising[1] * beam2_m) ** 2
        + (rising[2] * thickness_m) ** 2 / 12.0
    )
    slope_per_nm = 2.0 * math.pi / geometry.wavelength_nm * np.cos(theta)
    around = moved_m2 * (slope_per_nm / path_m) ** 2
    met = np.isfinite(around)
    shape = geometry.shape if shape is None else shape
    if shape is not None:
        on_it = met & _on_detector(geometry, shape, np.tensordot(turn.T, photon, 1) * path_m)
        # A bin of which no ring's point was tried lies in a corner: all of the ring, then.
        met = np.where(on_it.any(axis=1, keepdims=True), on_it, met)
    counted = met.sum(axis=1)
    total = np.where(met, around, 0.0).sum(axis=1)
    mean = np.divide(total, counted, out=np.full(len(q_per_nm), np.nan), where=counted > 0)
    return np.sqrt(
        mean
        + np.asarray(bin_width_per_nm, np.float64) ** 2 / 12.0
        + (q_per_nm * settings.wavelength_spread) ** 2
    )


def _on_detector(geometry: Geometry, shape: tuple[int, int], place_m: np.ndarray) -> np.ndarray:
    """Whether places (3, ...) in detector coordinates from the sample lie on the detector."""
    inside = np.ones(place_m.shape[1:], np.bool_)
    ponis_m = (geometry.poni1_m, geometry.poni2_m)
    for place, poni_m, corners_m in zip(
        place_m, ponis_m, corner_grid_m(geometry, shape), strict=False
    ):
        with np.errstate(invalid="ignore"):
            inside &= (place + poni_m >= corners_m.min()) & (place + poni_m <= corners_m.max())
    return inside
