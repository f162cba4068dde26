"""Wavelengths to photon energies.

E = h c / wavelength in vacuum. Absorbance at a wavelength is the absorbance at its energy: it is a
ratio of two lights on the same pixel, in which the Jacobian dE/dwavelength cancels (emission per
interval, which is no ratio, would need it).

Air
---
Refractive index of dry air, 15 degrees C, 101325 Pa, 450 ppm CO2 (Ciddor, Appl. Opt. 35, 1566,
1996, eq. 1), with the vacuum wavenumber s in 1/um:

    n - 1 = 0.05792105 / (238.0185 - s^2) + 0.00167917 / (57.362 - s^2)

Range of validity: 230 to 1690 nm, where Edlen's form (Metrologia 2, 71, 1966) differs by 1e-8; by
3e-7 at 200 nm, which is 2 ueV. At 25 degrees C n - 1 is smaller by 3.4 %, which is 0.02 meV at 2.5
eV: no weather is asked for.

=================  ==============  ==============
line               air, nm         vacuum, nm
=================  ==============  ==============
86Kr               605.6125        605.7802
114Cd              643.8470        644.0248
198Hg              546.0753        546.2271
=================  ==============  ==============
"""

from __future__ import annotations

import numpy as np

HC_EV_NM = 1239.841984
"""Energy in eV times vacuum wavelength in nm: h c / e, exact in the SI to the digits given."""

AIR_RANGE_NM = (200.0, 1700.0)
"""Where `air_to_vacuum_nm` holds."""


def air_to_vacuum_nm(wavelength_nm: np.ndarray) -> np.ndarray:
    """Vacuum wavelengths (n,) of wavelengths in standard air (n,), both nm."""
    vacuum_nm = wavelength_nm
    # n depends on the vacuum wavelength, by 1e-8 where the air's is taken: the second round is
    # exact to 1e-12.
    for _ in range(2):
        wavenumber2 = (1000.0 / vacuum_nm) ** 2
        index = 1.0 + 0.05792105 / (238.0185 - wavenumber2) + 0.00167917 / (57.362 - wavenumber2)
        vacuum_nm = wavelength_nm * index
    return vacuum_nm


def photon_energy_ev(wavelength_nm: np.ndarray, in_air: bool) -> np.ndarray:
    """Photon energies (n,), eV, of wavelengths (n,), nm, in air or in vacuum.

    In air, energies outside `AIR_RANGE_NM` are NaN.
    """
    if not in_air:
        return HC_EV_NM / wavelength_nm
    low, high = AIR_RANGE_NM
    known = (wavelength_nm >= low) & (wavelength_nm <= high)
    energy_ev = np.full(len(wavelength_nm), np.nan)
    energy_ev[known] = HC_EV_NM / air_to_vacuum_nm(wavelength_nm[known])
    return energy_ev
