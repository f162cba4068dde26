"""Where the pixels of a tilted flat detector are, in the conventions of a PONI file.

Axis 1 is a row's direction of counting (up), 2 a column's (horizontal), 3 the beam. The point of
normal incidence (PONI) is the foot of the perpendicular from the sample to the detector's plane.
The detector, at first perpendicular to the beam, is turned by rot1 about axis 1 (left-handed), rot2
about axis 2 (left-handed) and rot3 about axis 3 (right-handed), in this order
(Kieffer and Ashiotis, pyFAI; Kieffer et al., J. Synchrotron Rad. 2020, 27, 558).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np

PLANCK_LIGHT_KEV_NM = 1.239841984


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A flat detector in a beam. Lengths in m, angles in rad, as in a PONI file."""

    shape: tuple[int, int]
    pixel_m: float
    distance_m: float
    poni1_m: float
    poni2_m: float
    rot1: float
    rot2: float
    rot3: float = 0.0
    energy_kev: float

    @classmethod
    def around_beam(
        cls,
        *,
        shape: tuple[int, int],
        pixel_m: float,
        distance_m: float,
        tilt_rad: tuple[float, float],
        energy_kev: float,
        beam_pixel: tuple[float, float],
    ) -> Geometry:
        """The detector whose pixel ``beam_pixel`` (row, column) is hit by the direct beam."""
        rotation = _rotation(*tilt_rad, 0.0)
        # The beam (0, 0, 1) in the detector's own axes, stretched to the plane.
        beam = rotation.T @ np.array([0.0, 0.0, 1.0])
        beam *= distance_m / beam[2]
        return cls(
            shape=shape,
            pixel_m=pixel_m,
            distance_m=distance_m,
            poni1_m=float((beam_pixel[0] + 0.5) * pixel_m - beam[0]),
            poni2_m=float((beam_pixel[1] + 0.5) * pixel_m - beam[1]),
            rot1=tilt_rad[0],
            rot2=tilt_rad[1],
            energy_kev=energy_kev,
        )

    @property
    def wavelength_nm(self) -> float:
        return PLANCK_LIGHT_KEV_NM / self.energy_kev

    @property
    def normal_solid_angle_sr(self) -> float:
        """Of a pixel at the point of normal incidence."""
        return (self.pixel_m / self.distance_m) ** 2

    def poni(self) -> str:
        """Text of a PONI file, version 2."""
        config = {
            "pixel1": self.pixel_m,
            "pixel2": self.pixel_m,
            "max_shape": list(self.shape),
        }
        return (
            "# Geometry of the simulated area detector\n"
            "poni_version: 2\n"
            "Detector: Detector\n"
            f"Detector_config: {json.dumps(config)}\n"
            f"Distance: {self.distance_m!r}\n"
            f"Poni1: {self.poni1_m!r}\n"
            f"Poni2: {self.poni2_m!r}\n"
            f"Rot1: {self.rot1!r}\n"
            f"Rot2: {self.rot2!r}\n"
            f"Rot3: {self.rot3!r}\n"
            f"Wavelength: {self.wavelength_nm * 1e-9!r}\n"
        )

    def pixels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scattering angle 2 theta (rad), azimuth (rad, 0 along axis 2) and relative solid angle.

        Each is (ny, nx), at the centres of pixels. The solid angle is relative to that at the
        point of normal incidence: cos^3 of the incidence angle.
        """
        p1 = (np.arange(self.shape[0]) + 0.5)[:, None] * self.pixel_m - self.poni1_m
        p2 = (np.arange(self.shape[1]) + 0.5)[None, :] * self.pixel_m - self.poni2_m
        r = _rotation(self.rot1, self.rot2, self.rot3)
        x1, x2, x3 = (r[i, 0] * p1 + r[i, 1] * p2 + r[i, 2] * self.distance_m for i in range(3))
        two_theta = np.arctan2(np.hypot(x1, x2), x3)
        azimuth = np.arctan2(x1, x2)
        cosine = self.distance_m / np.sqrt(p1**2 + p2**2 + self.distance_m**2)
        return two_theta, azimuth, cosine**3

    def q_per_nm(self, two_theta: np.ndarray) -> np.ndarray:
        """Momentum transfer 4 pi / lambda sin(theta), 1/nm."""
        return 4.0 * math.pi / self.wavelength_nm * np.sin(0.5 * two_theta)


def polarisation(two_theta: np.ndarray, azimuth: np.ndarray, factor: float) -> np.ndarray:
    """Share of the scattering that a polarised beam sends there; 1 on the axis.

    ``factor`` is the degree of polarisation: 1 = all horizontal, 0 = none, -1 = all vertical.
    """
    cosine2 = np.cos(two_theta) ** 2
    return 0.5 * (1.0 + cosine2 - factor * np.cos(2.0 * azimuth) * (1.0 - cosine2))


def _rotation(rot1: float, rot2: float, rot3: float) -> np.ndarray:
    c1, c2, c3 = math.cos(rot1), math.cos(rot2), math.cos(rot3)
    s1, s2, s3 = math.sin(rot1), math.sin(rot2), math.sin(rot3)
    first = np.array([[1.0, 0.0, 0.0], [0.0, c1, s1], [0.0, -s1, c1]])
    second = np.array([[c2, 0.0, -s2], [0.0, 1.0, 0.0], [s2, 0.0, c2]])
    third = np.array([[c3, -s3, 0.0], [s3, c3, 0.0], [0.0, 0.0, 1.0]])
    return third @ second @ first
