"""From absorbance to amounts: Beer and Lambert with an intrinsic absorption coefficient.

The intrinsic coefficient mu_i (1/cm) is the absorption coefficient of a dilute dispersion over the
volume fraction of particles in it, so that

    volume fraction = A(E) ln 10 / (mu_i L)

with A the decadic absorbance of the particles at the photon energy E and L the path. The local
field (the particle's refractive index against the solvent's) is inside mu_i: a measured one holds
for the solvent and the shape that it was measured with, one computed from bulk n and k is the
Maxwell-Garnett value of a sphere. Where mu_i is the same for all sizes (high photon energies) no
size enters the volume fraction; a number of particles takes the size to the third power.
"""

import math

import numpy as np
from numba import njit

AVOGADRO = 6.02214076e23
CM3_PER_NM3 = 1e-21
# Half the stretch over which a line is laid to read off an absorbance: a third of the width of
# the narrowest feature, and of a continuum's curvature it takes 1e-3 of the absorbance.
HALF_STRETCH_EV = 0.03


@njit(cache=True, nogil=True)
def absorbance_at(energy, absorbance, sigma, at_ev):
    """Absorbance at an energy by a line through the points near it, and its variance.

    Parameters
    ----------
    energy, absorbance, sigma
        (n,), as from `pipeline.kernels.exciton.bin_spectrum`.
    at_ev
        Where it is wanted.

    Returns
    -------
    value, variance
        NaN where there are no points on both sides within `HALF_STRETCH_EV`.
    """
    s0 = s1 = s2 = t0 = t1 = 0.0
    below = above = False
    for i in range(energy.size):
        x = energy[i] - at_ev
        if abs(x) > HALF_STRETCH_EV:
            continue
        below, above = below or x <= 0.0, above or x >= 0.0
        w = 1.0 / (sigma[i] * sigma[i])
        s0, s1, s2 = s0 + w, s1 + w * x, s2 + w * x * x
        t0, t1 = t0 + w * absorbance[i], t1 + w * x * absorbance[i]
    determinant = s0 * s2 - s1 * s1
    if not (below and above and determinant > 1e-9 * s0 * s2):
        return np.nan, np.nan
    return (s2 * t0 - s1 * t1) / determinant, s2 / determinant


def volume_fraction(absorbance, coefficient_per_cm, path_cm):
    """Volume fraction of absorbers of a decadic absorbance."""
    return absorbance * math.log(10.0) / (coefficient_per_cm * path_cm)


def particles_um(fraction, volume_nm3):
    """Particles of a volume, micromolar: 1 uM is 1e-6 x N_A / 1000 cm^3."""
    return fraction / (volume_nm3 * CM3_PER_NM3) * 1e3 / AVOGADRO * 1e6


def particle_volume_nm3(diameter_nm, shape):
    """Volume of a ``sphere`` of a diameter or of a ``cube`` of an edge, nm^3."""
    return diameter_nm**3 * (math.pi / 6.0 if shape == "sphere" else 1.0)
