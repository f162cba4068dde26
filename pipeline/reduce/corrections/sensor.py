"""A sensor of finite thickness: photons that it lets through, and its parallax.

**Efficiency**, relative to normal incidence: (1 - exp(-mu t / cos a)) / (1 - exp(-mu t)), as a
slanting photon has t / cos a of the layer to cross. mu is the total attenuation coefficient at the
photons' energy: what is scattered in the layer counts as stopped, which is 3 % of the attenuation
of silicon at 12 keV and 8 % at 20 keV.

**Parallax**: such a photon is stopped farther out than it enters, on the mean by
`pipeline.kernels.detector_geometry.stopped_at`. A pixel is taken to be where its photons enter,
`entered_at`: nearer to the point of normal incidence, along the line to it.

Bounds: a flat layer; photons that leave it at its side, or the spread of charge, are not in it.

Source: Beer and Lambert; coefficients from Elam, Ravel & Sieber, Radiat. Phys. Chem. 63 (2002) 121,
by the package xraydb. Validated against pyFAI's parallax for the same mu. (pyFAI 2026.9 itself
interpolates its table linearly between 10 and 15 keV, and its mu of silicon at 12 keV is 23 %
higher.)
"""

from __future__ import annotations

import math
from functools import lru_cache

from numba import njit

from pipeline.config.reduce import Sensor
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import HC_EV_NM, Geometry

# Densities in g/cm3 of what sensors are made of, at room temperature (CRC Handbook of Chemistry and
# Physics; CZT with a tenth of zinc; amorphous selenium).
_DENSITY_G_PER_CM3 = {
    "Si": 2.329,
    "Ge": 5.323,
    "GaAs": 5.318,
    "CdTe": 5.85,
    "Cd0.9Zn0.1Te": 5.78,
    "Se": 4.28,
    "CsI": 4.51,
    "Gd2O2S": 7.32,
}
# Range of the tables of Elam et al.
_TABLE_EV = (100.0, 800e3)

_FORMULA = {"CZT": "Cd0.9Zn0.1Te", "CdZnTe": "Cd0.9Zn0.1Te"}


@njit(cache=True, nogil=True)
def relative_efficiency(secant: float, absorbance: float) -> float:
    """Share of photons that are stopped over that at normal incidence.

    Parameters
    ----------
    secant
        1 / cos a of the angle of incidence.
    absorbance
        mu t of the layer, natural logarithm, above 0.
    """
    return math.expm1(-absorbance * secant) / math.expm1(-absorbance)


@lru_cache(maxsize=32)
def attenuation_per_m(
    material: str, wavelength_nm: float, density_g_per_cm3: float | None = None
) -> float:
    """Linear attenuation coefficient of a material.

    Parameters
    ----------
    material
        Chemical formula; ``CZT`` has a tenth of zinc.
    wavelength_nm
        Of the photons.
    density_g_per_cm3
        From a table if None.

    Raises
    ------
    InputError
        If xraydb is not installed, the formula or its density is not known, or the energy is not
        in the table.
    """
    try:
        import xraydb
    except ImportError as error:
        raise InputError(
            f"sensor: expected the package xraydb, for the attenuation of {material}, got none: "
            "pip install nucleate[sensor]"
        ) from error
    formula = _FORMULA.get(material, material)
    energy_ev = HC_EV_NM / wavelength_nm
    density = density_g_per_cm3 or _DENSITY_G_PER_CM3.get(formula)
    if not _TABLE_EV[0] <= energy_ev <= _TABLE_EV[1]:
        raise InputError(
            f"sensor: expected photons of {_TABLE_EV[0]:g} to {_TABLE_EV[1]:g} eV, got "
            f"{energy_ev:g} eV"
        )
    try:
        elements = xraydb.chemparse(formula)
    except ValueError as error:
        got = f"{material} ({' '.join(str(error).split())})"
        raise InputError(f"sensor: expected a chemical formula, got {got}") from None
    if density is None and len(elements) == 1:
        density = float(xraydb.atomic_density(next(iter(elements))))
    if density is None:
        raise InputError(
            f"sensor: expected a density for {material}, got none: set sensor.density_g_per_cm3"
        )
    per_cm = float(xraydb.material_mu(formula, energy_ev, density=density, kind="total"))
    return per_cm * 100.0


def parallax_layer(geometry: Geometry, sensor: Sensor | None) -> tuple[float, float]:
    """Layer whose parallax is to be taken out of the positions of pixels.

    Parameters
    ----------
    geometry
        May bring a sensor of its own, for which it was calibrated.
    sensor
        Of the settings; counts if its ``parallax`` is set.

    Returns
    -------
    mu_per_m, thickness_m
        Attenuation coefficient and thickness; (0, 0) = no parallax. Without a thickness in a PONI
        file, infinite.

    Raises
    ------
    InputError
        If both ask for it, or the coefficient is not known.
    """
    asked = sensor is not None and sensor.parallax
    if geometry.parallax is not None:
        if asked:
            raise InputError(
                "sensor: expected parallax in the settings or in the PONI file, got both: leave "
                "sensor.parallax out, the PONI file was calibrated with it"
            )
        layer = geometry.parallax
        return attenuation_per_m(layer.material, geometry.wavelength_nm), layer.thickness_m
    if sensor is None or not asked:
        return 0.0, 0.0
    mu_per_m = attenuation_per_m(sensor.material, geometry.wavelength_nm, sensor.density_g_per_cm3)
    return mu_per_m, sensor.thickness_um * 1e-6


def efficiency_absorbance(geometry: Geometry, sensor: Sensor | None) -> float:
    """mu t of the sensor whose efficiency is to be corrected; 0 = none."""
    if sensor is None or not sensor.efficiency:
        return 0.0
    mu_per_m = attenuation_per_m(sensor.material, geometry.wavelength_nm, sensor.density_g_per_cm3)
    return mu_per_m * sensor.thickness_um * 1e-6
