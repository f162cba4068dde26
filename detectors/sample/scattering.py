"""Small-angle scattering of polydisperse spheres, by quadrature over the diameter.

On purpose unlike the closed form with which curves are usually fitted: a simulation that shared it
could not show its errors.

Intensity in 1/cm = 1e7 n drho^2 <F^2>, n in 1/nm^3, drho in 1/nm^2, F in nm^3;
F = V 3 (sin x - x cos x) / x^3, x = q d / 2 (Rayleigh 1911).
"""

from __future__ import annotations

import math

import numpy as np

AVOGADRO_PER_MOL = 6.02214076e23
PER_NM3_PER_UM = 1e-6 * AVOGADRO_PER_MOL / 1e24
"""Particles per nm^3 at 1 uM."""

CONTRAST_PER_NM2 = 27.44e-4
"""CsPbBr3 (4.83 g/cm3) in hexane at 37.5 keV, f' included. Agglomerates are given the same."""

HEXANE_PER_CM = 0.029
"""Flat scattering of the solvent: density fluctuations."""

NODES = 25
REACH = 5.5
"""Quadrature over the diameter: 25 equal steps to +-5.5 sigma. Trapezoids alias at
q = 2 pi / step = 13.7 / sigma; at q sigma = 7 (6 nm^-1, 1.16 nm) that is exp(-22). The tails
cut off weigh 1e-5 of the forward scattering at sigma / d = 0.25, 1e-7 at 0.1."""


def gaussian_nodes(diameter_nm: float, sigma_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """Diameters (n,) and weights (n,), sum 1, of a normal distribution cut at zero."""
    z = np.linspace(-REACH, REACH, NODES)
    diameters = diameter_nm + sigma_nm * z
    positive = diameters > 0.0
    weights = np.exp(-0.5 * z[positive] ** 2)
    return diameters[positive], weights / weights.sum()


def amplitude_nm3(q_per_nm: np.ndarray, diameter_nm: np.ndarray) -> np.ndarray:
    """Form-factor amplitude of spheres, (n diameters, n q)."""
    x = 0.5 * diameter_nm[:, None] * q_per_nm[None, :]
    # Below 1e-3 cancellation costs more than the next term of the series (1e-14).
    small = x < 1e-3
    safe = np.where(small, 1.0, x)
    shape = 3.0 * (np.sin(safe) - safe * np.cos(safe)) / safe**3
    shape = np.where(small, 1.0 - 0.1 * x**2, shape)
    return (math.pi / 6.0) * diameter_nm[:, None] ** 3 * shape


def moments(
    q_per_nm: np.ndarray, diameter_nm: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums of F^2 and of F over sizes: (n q) in nm^6 and nm^3."""
    amplitude = amplitude_nm3(q_per_nm, diameter_nm)
    mean = weight @ amplitude
    np.square(amplitude, out=amplitude)
    return weight @ amplitude, mean


def per_cm(concentration_um: float, squared_nm6: np.ndarray) -> np.ndarray:
    """Intensity in 1/cm of particles with the given <F^2>."""
    return 1e7 * concentration_um * PER_NM3_PER_UM * CONTRAST_PER_NM2**2 * squared_nm6
