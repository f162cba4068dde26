"""Absorbance of the particles.

Transition energies: two-band (Kane) effective mass with a Coulomb term,
E_k = sqrt(Eg^2 + 2 Eg a_k C / d^2) - b / d, with C = 11.94 eV nm^2, Eg = 2.36 eV, b = 0.71 eV nm
and a_k = 1, 2.046, 3.365, 4 for the four lowest transitions of a sphere. It is an
effective-mass curve, not the calibration of the paper.

Absorption per volume: four Gaussians that broaden upwards on a smoothed step at the fourth,
scaled by the intrinsic absorption coefficient of CsPbBr3 at 335 nm, 1.98e5 1/cm (Maes et al.,
J. Phys. Chem. Lett. 2018, 9, 3093; other routes give 30 % less). Agglomerates have one band at
3.87 eV.
"""

from __future__ import annotations

import math

import numpy as np

BAND_GAP_EV = 2.36
CONFINEMENT_EV_NM2 = 11.94
COULOMB_EV_NM = 0.71
LEVELS = (1.0, 2.046, 3.365, 4.0)
"""Confinement of the transitions relative to the first (squares of Bessel zeros; the last is the
step's)."""
WIDTHS = (1.0, 1.15, 1.3, 1.4)
"""Their widths relative to the first: higher states live shorter."""
AREAS_EV = (0.035, 0.032, 0.030, 0.030)
"""Gaussian areas, relative to the coefficient at 335 nm; a first peak of 135 meV is then 0.24 of
the absorbance at 335 nm."""

COEFFICIENT_PER_CM = 1.98e5
CONTINUUM = 0.75
CONTINUUM_WIDTH_EV = 0.25
REFERENCE_EV = 3.70
"""335 nm."""

AGGLOMERATE_EV = 3.87
AGGLOMERATE_FWHM_EV = 0.35
AGGLOMERATE_HEIGHT = 0.8

SCATTER = 0.003
"""Turbidity at 3 eV, lambda^-4, of the crystals at full yield."""
SCATTER_MM = 1.58

SIGMA_PER_FWHM = 1.0 / math.sqrt(8.0 * math.log(2.0))


def transition_ev(diameter_nm: float, level: float = 1.0) -> float:
    """Energy of a transition of a particle."""
    confinement = level * CONFINEMENT_EV_NM2 / diameter_nm**2
    return math.sqrt(BAND_GAP_EV**2 + 2.0 * BAND_GAP_EV * confinement) - COULOMB_EV_NM / diameter_nm


def transition_slope_ev_per_nm(diameter_nm: float) -> float:
    """Change of the first transition's energy with the diameter (negative)."""
    step = 1e-3
    upper, lower = transition_ev(diameter_nm + step), transition_ev(diameter_nm - step)
    return (upper - lower) / (2.0 * step)


def crystal_shape(energy_ev: np.ndarray, diameter_nm: float, fwhm_ev: float) -> np.ndarray:
    """Absorption of crystals relative to :data:`COEFFICIENT_PER_CM`, (n,)."""
    shape = np.zeros_like(energy_ev)
    for level, width, area in zip(LEVELS, WIDTHS, AREAS_EV, strict=True):
        sigma = SIGMA_PER_FWHM * fwhm_ev * width
        z = (energy_ev - transition_ev(diameter_nm, level)) / sigma
        shape += area / (sigma * math.sqrt(2.0 * math.pi)) * np.exp(-0.5 * z**2)
    edge = transition_ev(diameter_nm, LEVELS[-1])
    step = 0.5 * (1.0 + np.tanh((energy_ev - edge) / CONTINUUM_WIDTH_EV))
    return shape + CONTINUUM * step * (energy_ev / REFERENCE_EV) ** 2


def agglomerate_shape(energy_ev: np.ndarray) -> np.ndarray:
    """Absorption of agglomerates relative to :data:`COEFFICIENT_PER_CM`, (n,)."""
    z = (energy_ev - AGGLOMERATE_EV) / (SIGMA_PER_FWHM * AGGLOMERATE_FWHM_EV)
    return AGGLOMERATE_HEIGHT * np.exp(-0.5 * z**2)


def decadic(volume_fraction: float, path_cm: float) -> float:
    """Absorbance at relative absorption 1."""
    return COEFFICIENT_PER_CM * volume_fraction * path_cm / math.log(10.0)


def turbidity(energy_ev: np.ndarray, crystal_mm: float, diameter_nm: float) -> np.ndarray:
    """Apparent absorbance by scattering, (n,): grows with volume and lambda^-4."""
    size = (diameter_nm / 7.4) ** 3
    return SCATTER * (crystal_mm / SCATTER_MM) * size * (energy_ev / 3.0) ** 4
