"""Where the corners of a detector's pixels lie: on the detector, and in q and azimuth."""

from __future__ import annotations

import numpy as np

from pipeline.kernels.detector_geometry import grid_q_chi, rotation
from pipeline.reduce.geometry.geometry import Geometry, GeometryError


def check_shape(geometry: Geometry, shape: tuple[int, int]) -> None:
    """Raise `GeometryError` if a geometry tells of frames of another shape."""
    if geometry.shape is not None and geometry.shape != shape:
        raise GeometryError(f"geometry: expected frames of {geometry.shape}, got {shape}")


def corner_grid_m(geometry: Geometry, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Corners of all pixels on the detector.

    Parameters
    ----------
    geometry
        Of the detector.
    shape
        Rows and columns of a frame.

    Returns
    -------
    position1_m, position2_m
        (rows + 1, columns + 1), read-only, along axes 1 and 2 from the outer corner of pixel
        (0, 0); of even pixels, views of one column and one row.

    Raises
    ------
    GeometryError
        If the geometry is that of frames of another shape.
    """
    check_shape(geometry, shape)
    if geometry.corners_m is not None:
        if geometry.corners_m.shape[:2] != (shape[0] + 1, shape[1] + 1):
            raise GeometryError(
                f"geometry: expected corners of {shape} pixels, got {geometry.corners_m.shape}"
            )
        return geometry.corners_m[..., 0], geometry.corners_m[..., 1]
    index1, index2 = (np.arange(length + 1) for length in shape)
    against1, against2 = geometry.flip
    edges1 = (index1[::-1] if against1 else index1) * geometry.pixel1_m
    edges2 = (index2[::-1] if against2 else index2) * geometry.pixel2_m
    corners = (shape[0] + 1, shape[1] + 1)
    return np.broadcast_to(edges1[:, None], corners), np.broadcast_to(edges2, corners)


def corner_positions(
    geometry: Geometry, shape: tuple[int, int], layer: tuple[float, float] = (0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray]:
    """q and azimuth of the corners of all pixels, even or not.

    Parameters
    ----------
    geometry
        Of the detector.
    shape
        Rows and columns of a frame.
    layer
        Attenuation coefficient in 1/m and thickness in m of the sensor whose parallax is taken
        out (`pipeline.reduce.corrections.sensor.parallax_layer`); (0, 0) = none.

    Returns
    -------
    q_per_nm, chi_rad
        (rows + 1, columns + 1), float32: see `pipeline.kernels.detector_geometry.grid_q_chi`.

    Raises
    ------
    GeometryError
        If the geometry is that of frames of another shape.
    """
    position1_m, position2_m = corner_grid_m(geometry, shape)
    return grid_q_chi(
        position1_m,
        position2_m,
        geometry.distance_m,
        (geometry.poni1_m, geometry.poni2_m),
        rotation(geometry.rot1_rad, geometry.rot2_rad, geometry.rot3_rad),
        geometry.wavelength_nm,
        layer,
    )
