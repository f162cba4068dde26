"""Sizing curves: from the energy of the first exciton to a diameter in nm."""

import math

import numpy as np
from numba import njit

HC_EV_NM = 1239.84198

# Below 1 nm there is no crystal. Above 30 nm the Coulomb term outweighs the confinement and the
# energy rises again (at 33 nm with the parameters of CsPbBr3): no unique diameter.
SMALLEST_NM, LARGEST_NM = 1.0, 30.0

YU_2003_CDSE = (41.57, -0.4277, 1.6242e-3, -2.6575e-6, 1.6122e-9)
"""CdSe, diameter in nm by powers of the first exciton's wavelength in nm, lowest first.

Yu, Qu, Guo and Peng, Chem. Mater. 2003, 15, 2854, doi 10.1021/cm034081k: a fit to diameters by
electron microscopy (the smallest by diffraction); 2.562 nm at 520 nm, 4.583 nm at 600 nm.
"""

YU_2003_CDSE_RANGE_NM = (450.0, 650.0)
"""Wavelengths, 1.95 to 7.76 nm. The paper warns of extrapolation beyond the sizes of its figure
and gives the range in no numbers; this is where a second, independent calibration holds (Jasieniak
et al., J. Phys. Chem. C 2009, 113, 19468: 2 to 8 nm)."""

YU_2003_CDSE_RELATIVE = 0.054
"""Greatest difference of that calibration from this one in the range, relative (at 535 nm)."""

TWO_BAND_RANGE_EV = (2.362, 3.40)
"""CsPbBr3, 16 to 2.7 nm: up to the largest crystals that a size was published for (Krieg et al.,
ACS Cent. Sci. 2021, 7, 135: 3.5 to 16 nm) and down to less than five unit cells."""


@njit(cache=True, nogil=True)
def two_band_energy_ev(diameter_nm, band_gap_ev, confinement_ev_nm2, coulomb_ev_nm):
    """Two-band (Kane) effective-mass energy of the first exciton.

    E(d) = sqrt(Eg^2 + 2 Eg c / d^2) - b / d

    For CsPbBr3 Eg = 2.36 eV, c = 11.94 eV nm^2, b = 0.71 eV nm: 2.891 eV at 3.8 nm, 2.465 eV at
    7.6 nm. Not the calibration of any published growth run: a fallback.
    """
    confinement = confinement_ev_nm2 / diameter_nm**2
    return math.sqrt(band_gap_ev**2 + 2.0 * band_gap_ev * confinement) - coulomb_ev_nm / diameter_nm


@njit(cache=True, nogil=True)
def two_band_diameter_nm(energy_ev, band_gap_ev, confinement_ev_nm2, coulomb_ev_nm):
    """Inverse of `two_band_energy_ev` between 1 and 30 nm by bisection; NaN outside."""
    low, high = SMALLEST_NM, LARGEST_NM
    at_low = two_band_energy_ev(low, band_gap_ev, confinement_ev_nm2, coulomb_ev_nm)
    at_high = two_band_energy_ev(high, band_gap_ev, confinement_ev_nm2, coulomb_ev_nm)
    if not at_high <= energy_ev <= at_low:
        return np.nan
    # 29 nm / 2^50 is below the spacing of doubles.
    for _ in range(50):
        middle = 0.5 * (low + high)
        if two_band_energy_ev(middle, band_gap_ev, confinement_ev_nm2, coulomb_ev_nm) > energy_ev:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def polynomial_diameter_nm(energy_ev, coefficients):
    """Diameter as a polynomial in the wavelength in nm, lowest power first."""
    wavelength_nm = HC_EV_NM / energy_ev
    diameter = 0.0
    for coefficient in reversed(coefficients):
        diameter = diameter * wavelength_nm + coefficient
    return diameter


def table_diameter_nm(energy_ev, energies_ev, diameters_nm):
    """Linear interpolation in a table of ascending energies; NaN outside, never extrapolated."""
    return float(np.interp(energy_ev, energies_ev, diameters_nm, left=np.nan, right=np.nan))
