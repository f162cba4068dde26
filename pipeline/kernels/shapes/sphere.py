"""Sphere; the size is the diameter D.

Model
-----
With x = q D/2, F(q) = 4 pi (sin x - x cos x)/q^3 in nm^3 (volume in it), the same in all
orientations: <F> = F and <F^2> = F^2.

========== ====== ======= =========================================
parameter  unit   bounds  meaning
========== ====== ======= =========================================
size       nm     > 0     diameter
========== ====== ======= =========================================

Range of validity: uniform density, no multiple scattering. Exact at all q.
Source: Rayleigh, Proc. R. Soc. A 1911, 84, 25. Gaussian diameters are closed:
``pipeline.kernels.sphere``.

Reference values: D = 8 nm at q = 0.5, 1.5, 4.0 1/nm: <F^2> = 30654.3488448, 505.835055134,
8.71457738089 nm^6; volume 268.082573106 nm^3.
"""

import math
from collections.abc import Mapping

import numpy as np
from numba import njit

from pipeline.kernels.shapes.card import ShapeCard

SERIES_BELOW = 0.4
"""Where x is smaller, six terms of the power series are used instead of sin x - x cos x.

Largest relative error of F within 10 % of the value, against exact fractions:

===========  ======  ======  ======  ======  ======
x            0.1     0.3     0.5     0.7     1.0
===========  ======  ======  ======  ======  ======
closed form  4e-14   7e-15   2e-15   9e-16   4e-16
series       0       1e-16   3e-14   1e-12   1e-10
===========  ======  ======  ======  ======  ======
"""


@njit(cache=True, nogil=True)
def sphere_shape(x):
    """3 (sin x - x cos x)/x^3, 1 at x = 0."""
    if x < SERIES_BELOW:
        s = x * x
        return 1.0 - s / 10 * (1 - s / 28 * (1 - s / 54 * (1 - s / 88 * (1 - s / 130))))
    return 3.0 * (math.sin(x) - x * math.cos(x)) / (x * x * x)


@njit(cache=True, nogil=True)
def sphere_amplitudes(q_per_nm, diameter_nm, out):
    """F in nm^3 of spheres of ``diameter_nm`` (k,) at ``q_per_nm`` (n,), into ``out`` (k, n)."""
    for k in range(diameter_nm.size):
        radius = 0.5 * diameter_nm[k]
        volume = 4.0 / 3.0 * math.pi * radius**3
        for i in range(q_per_nm.size):
            out[k, i] = volume * sphere_shape(q_per_nm[i] * radius)


def averages(
    q_per_nm: np.ndarray, size_nm: np.ndarray, parameters: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """<F^2> in nm^6 and <F> in nm^3, both (k, n)."""
    mean = np.empty((size_nm.size, q_per_nm.size))
    sphere_amplitudes(q_per_nm, size_nm, mean)
    return mean * mean, mean


def unit_volume(parameters: Mapping[str, float]) -> float:
    """pi/6."""
    return math.pi / 6


CARD = ShapeCard(
    name="sphere",
    size="diameter",
    source="Rayleigh, Proc. R. Soc. A 1911, 84, 25",
    averages=averages,
    unit_volume=unit_volume,
)
