"""Where a pixel of a flat, tilted detector lies: q, azimuth, solid angle, polarisation.

Axes and rotations are those of pyFAI's PONI geometry: axis 1 is the slow one (rows), axis 2 the
fast one (columns), axis 3 points along the beam. The detector plane stands ``distance_m`` behind
the sample; its point of normal incidence (PONI) is (``poni1_m``, ``poni2_m``) from the outer corner
of pixel (0, 0). The plane is then turned about the sample by rot1 about axis 1, rot2 about axis 2
and rot3 about the beam; rot1 and rot2 turn left-handed, rot3 right-handed.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def rotation(rot1_rad: float, rot2_rad: float, rot3_rad: float) -> np.ndarray:
    """Matrix (3, 3) that takes detector coordinates (axis 1, axis 2, beam) to the laboratory.

    Parameters
    ----------
    rot1_rad, rot2_rad, rot3_rad
        Rotations of a PONI file.
    """
    c1, s1 = math.cos(rot1_rad), math.sin(rot1_rad)
    c2, s2 = math.cos(rot2_rad), math.sin(rot2_rad)
    c3, s3 = math.cos(rot3_rad), math.sin(rot3_rad)
    about_1 = np.array([[1.0, 0.0, 0.0], [0.0, c1, s1], [0.0, -s1, c1]])
    about_2 = np.array([[c2, 0.0, -s2], [0.0, 1.0, 0.0], [s2, 0.0, c2]])
    about_3 = np.array([[c3, -s3, 0.0], [s3, c3, 0.0], [0.0, 0.0, 1.0]])
    turn = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            for k in range(3):
                for m in range(3):
                    turn[i, j] += about_3[i, k] * about_2[k, m] * about_1[m, j]
    return turn


@njit(cache=True, nogil=True)
def stopped_at(tangent: float, mu_per_m: float, thickness_m: float) -> float:
    """How far from where a slanting photon enters a layer it is stopped, along the layer, in m.

    The mean over the depths z in the layer at which it may be stopped, whose density is
    mu' exp(-mu' z) with mu' = mu / cos a: sin a / mu (1 - (x + 1) exp(-x)) / (1 - exp(-x)),
    x = mu' thickness.

    Parameters
    ----------
    tangent
        tan a of the angle of incidence.
    mu_per_m
        Linear attenuation coefficient of the layer, above 0.
    thickness_m
        Of the layer; may be infinite.
    """
    secant = math.sqrt(1.0 + tangent * tangent)
    x = mu_per_m * thickness_m * secant
    length_m = tangent / secant / mu_per_m
    # exp(-40) is below the last digit of 1, and (x + 1) exp(-x) of an infinite x is no number.
    if x > 40.0:
        return length_m
    stopped = -math.expm1(-x)
    return length_m * (stopped - x * math.exp(-x)) / stopped


@njit(cache=True, nogil=True)
def entered_at(radius_m: float, distance_m: float, mu_per_m: float, thickness_m: float) -> float:
    """Distance from the point of normal incidence at which a photon enters the layer, in m.

    The solution r of r + stopped_at(r / distance) = radius, by iteration: what is added changes
    with r by at most the thickness over the distance, so each round gains that factor.

    Parameters
    ----------
    radius_m
        Distance from the point of normal incidence at which it is stopped.
    distance_m
        Sample to that point.
    mu_per_m, thickness_m
        As for `stopped_at`.
    """
    entered = radius_m
    for _ in range(50):
        last = entered
        entered = radius_m - stopped_at(last / distance_m, mu_per_m, thickness_m)
        # A millionth of a pixel.
        if abs(entered - last) < 1e-11:
            break
    return max(entered, 0.0)


# Nodes of a table over sin^2 a, 0 to 1, that is read linearly. Its error is the second derivative
# times 1 / (8 nodes^2) = 3e-11: below 1e-9 of what is tabulated here to 60 degrees, 3e-8 to 80.
_NODES = 1 << 16


@njit(cache=True, nogil=True)
def incidence_nodes() -> np.ndarray:
    """sin^2 of the angles of incidence at which a table for `look_up` has its values."""
    return np.arange(_NODES + 1) / _NODES


@njit(cache=True, nogil=True)
def look_up(table: np.ndarray, sin2: float) -> float:
    """Value of a table over `incidence_nodes`, between its nodes linearly.

    Parameters
    ----------
    table
        (nodes + 1,).
    sin2
        sin^2 of the angle of incidence, 0 to 1.
    """
    place = sin2 * _NODES
    node = min(int(place), _NODES - 1)
    return table[node] + (place - node) * (table[node + 1] - table[node])


@njit(cache=True, nogil=True)
def parallax_table(distance_m: float, mu_per_m: float, thickness_m: float) -> np.ndarray:
    """By what the distance from the point of normal incidence shrinks, over `incidence_nodes`.

    The pixels' angle of incidence is that without parallax.

    Parameters
    ----------
    distance_m, mu_per_m, thickness_m
        As for `entered_at`. A mu of 0 gives 1 everywhere.
    """
    table = np.ones(_NODES + 1)
    if mu_per_m > 0.0:
        for node in range(1, _NODES):
            sin2 = node / _NODES
            radius_m = distance_m * math.sqrt(sin2 / (1.0 - sin2))
            table[node] = entered_at(radius_m, distance_m, mu_per_m, thickness_m) / radius_m
        table[0] = table[1]
    return table


@njit(cache=True, nogil=True)
def grid_q_chi(
    position1_m: np.ndarray,
    position2_m: np.ndarray,
    distance_m: float,
    poni_m: tuple[float, float],
    turn: np.ndarray,
    wavelength_nm: float,
    layer: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """q and azimuth of points of the detector: corners of pixels, or their middles.

    Parameters
    ----------
    position1_m, position2_m
        (rows, columns) along axes 1 and 2, from the outer corner of pixel (0, 0).
    distance_m, poni_m
        Sample to the point of normal incidence, and that point's place on the detector.
    turn
        (3, 3), see `rotation`.
    wavelength_nm
        Of the photons.
    layer
        Attenuation coefficient in 1/m and thickness in m of the sensor whose parallax is to be
        taken out; (0, 0) = none.

    Returns
    -------
    q_per_nm, chi_rad
        (rows, columns). q = 4 pi / wavelength sin(theta), written with
        sin(theta) = r / sqrt(2 d (d + z)), which keeps all digits at small angles, where
        1 - cos(2 theta) does not. chi = atan2(axis 1, axis 2), from -pi to pi. Both float32: see
        `pipeline.kernels.pixel_splitting`.
    """
    rows, columns = position1_m.shape
    q_per_nm = np.empty((rows, columns), np.float32)
    chi_rad = np.empty((rows, columns), np.float32)
    scale = 4.0 * math.pi / wavelength_nm
    table = parallax_table(distance_m, layer[0], layer[1])
    for i in range(rows):
        for j in range(columns):
            p1 = position1_m[i, j] - poni_m[0]
            p2 = position2_m[i, j] - poni_m[1]
            if layer[0] > 0.0:
                radius2 = p1 * p1 + p2 * p2
                nearer = look_up(table, radius2 / (radius2 + distance_m * distance_m))
                p1 *= nearer
                p2 *= nearer
            y = turn[0, 0] * p1 + turn[0, 1] * p2 + turn[0, 2] * distance_m
            x = turn[1, 0] * p1 + turn[1, 1] * p2 + turn[1, 2] * distance_m
            z = turn[2, 0] * p1 + turn[2, 1] * p2 + turn[2, 2] * distance_m
            r2 = x * x + y * y
            d = math.sqrt(r2 + z * z)
            q_per_nm[i, j] = scale * math.sqrt(r2 / (2.0 * d * (d + z)))
            chi_rad[i, j] = math.atan2(y, x)
    return q_per_nm, chi_rad
