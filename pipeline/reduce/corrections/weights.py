"""What the count of each pixel is divided by as long as a geometry lasts."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pipeline.config.reduce import AreaReduction
from pipeline.kernels.detector_geometry import (
    incidence_nodes,
    look_up,
    parallax_table,
    rotation,
)
from pipeline.reduce.corrections.air import relative_air
from pipeline.reduce.corrections.polarization import relative_polarization
from pipeline.reduce.corrections.sensor import (
    efficiency_absorbance,
    parallax_layer,
    relative_efficiency,
)
from pipeline.reduce.corrections.slab import relative_slab
from pipeline.reduce.corrections.solid_angle import relative_solid_angle
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry, corner_grid_m


def static_weights(
    geometry: Geometry,
    shape: tuple[int, int],
    settings: AreaReduction,
    flat: np.ndarray | None = None,
) -> np.ndarray:
    """Product of all corrections that do not change from frame to frame.

    Parameters
    ----------
    geometry
        Of the detector.
    shape
        Rows and columns of a frame.
    settings
        Which corrections are wanted.
    flat
        (rows, columns) sensitivity of each pixel, NaN = unusable; None = all the same.

    Returns
    -------
    weights
        (rows, columns), float64; NaN where the flat field has no value: mask these pixels.

    Raises
    ------
    InputError
        If the shapes differ, or a sensor's attenuation is not known.
    """
    if flat is not None and flat.shape != shape:
        raise InputError(f"flat field: expected {shape}, as the frames, got {flat.shape}")
    position1_m, position2_m = corner_grid_m(geometry, shape)
    air = settings.air
    air_absorbance = 0.0
    if air is not None:
        path_m = geometry.distance_m if air.path_m is None else air.path_m
        air_absorbance = air.attenuation_per_m * path_m
    slab = settings.slab_transmission
    factor = settings.polarization_factor
    # Pixels of one size see relative solid angles as they are; a flat field has the sizes in it.
    sized = geometry.corners_m is not None and flat is None and settings.solid_angle
    weights = weigh_pixels(
        position1_m,
        position2_m,
        geometry.distance_m,
        (geometry.poni1_m, geometry.poni2_m),
        rotation(geometry.rot1_rad, geometry.rot2_rad, geometry.rot3_rad),
        parallax_layer(geometry, settings.sensor),
        settings.solid_angle,
        geometry.pixel1_m * geometry.pixel2_m if sized else 0.0,
        math.nan if factor is None else factor,
        efficiency_absorbance(geometry, settings.sensor),
        air_absorbance,
        0.0 if slab is None else -math.log(slab),
    )
    return weights if flat is None else np.multiply(weights, flat, out=weights)


@njit(cache=True, nogil=True)
def weigh_pixels(
    position1_m: np.ndarray,
    position2_m: np.ndarray,
    distance_m: float,
    poni_m: tuple[float, float],
    turn: np.ndarray,
    layer: tuple[float, float],
    solid_angle: bool,
    pixel_m2: float,
    polarization_factor: float,
    sensor_absorbance: float,
    air_absorbance: float,
    slab_absorbance: float,
) -> np.ndarray:
    """Product of the corrections at each pixel's centre.

    Parameters
    ----------
    position1_m, position2_m
        (rows + 1, columns + 1) corners of pixels along axes 1 and 2.
    distance_m, poni_m, turn, layer
        As for `pipeline.kernels.detector_geometry.grid_q_chi`.
    solid_angle
        Whether it is corrected for.
    pixel_m2
        Area of a pixel of relative area 1; 0 = all have the same.
    polarization_factor
        NaN = not corrected.
    sensor_absorbance, air_absorbance, slab_absorbance
        Natural logarithms at normal incidence; 0 = not corrected.

    Returns
    -------
    weights
        (rows, columns), float64.
    """
    rows, columns = position1_m.shape[0] - 1, position1_m.shape[1] - 1
    weights = np.ones((rows, columns))
    polarized = not math.isnan(polarization_factor)
    layered = sensor_absorbance > 0.0 or air_absorbance > 0.0
    layers = _layers(sensor_absorbance, air_absorbance)
    parallax = parallax_table(distance_m, layer[0], layer[1])
    for i in range(rows):
        for j in range(columns):
            p1, p2 = 0.0, 0.0
            for k, m in ((i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)):
                p1 += 0.25 * position1_m[k, m]
                p2 += 0.25 * position2_m[k, m]
            p1 -= poni_m[0]
            p2 -= poni_m[1]
            path2 = p1 * p1 + p2 * p2 + distance_m * distance_m
            cos2 = distance_m * distance_m / path2
            weight = 1.0
            if solid_angle:
                weight *= relative_solid_angle(math.sqrt(cos2))
            if pixel_m2 > 0.0:
                weight *= _area(position1_m, position2_m, i, j) / pixel_m2
            if layered:
                weight *= look_up(layers, 1.0 - cos2)
            if polarized or slab_absorbance > 0.0:
                if layer[0] > 0.0:
                    nearer = look_up(parallax, 1.0 - cos2)
                    p1 *= nearer
                    p2 *= nearer
                    path2 = p1 * p1 + p2 * p2 + distance_m * distance_m
                y = turn[0, 0] * p1 + turn[0, 1] * p2 + turn[0, 2] * distance_m
                x = turn[1, 0] * p1 + turn[1, 1] * p2 + turn[1, 2] * distance_m
                z = turn[2, 0] * p1 + turn[2, 1] * p2 + turn[2, 2] * distance_m
                if polarized:
                    weight *= relative_polarization(y, x, path2, polarization_factor)
                if slab_absorbance > 0.0:
                    weight *= relative_slab(z / math.sqrt(path2), slab_absorbance)
            weights[i, j] = weight
    return weights


@njit(cache=True, nogil=True)
def _layers(sensor_absorbance: float, air_absorbance: float) -> np.ndarray:
    """Sensor times gas, over `incidence_nodes`."""
    nodes = incidence_nodes()
    table = np.ones(nodes.size)
    for node in range(nodes.size):
        secant = 1.0 / math.sqrt(1.0 - nodes[node]) if nodes[node] < 1.0 else math.inf
        if sensor_absorbance > 0.0:
            table[node] *= relative_efficiency(secant, sensor_absorbance)
        if air_absorbance > 0.0:
            table[node] *= relative_air(secant, air_absorbance)
    return table


@njit(cache=True, nogil=True)
def _area(position1_m: np.ndarray, position2_m: np.ndarray, i: int, j: int) -> float:
    """Area in m2 of a pixel with four corners: half the product of its diagonals."""
    down1 = position1_m[i + 1, j + 1] - position1_m[i, j]
    down2 = position2_m[i + 1, j + 1] - position2_m[i, j]
    up1 = position1_m[i, j + 1] - position1_m[i + 1, j]
    up2 = position2_m[i, j + 1] - position2_m[i + 1, j]
    return 0.5 * abs(down1 * up2 - down2 * up1)
