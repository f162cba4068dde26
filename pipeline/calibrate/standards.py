"""What standards of absolute intensity scatter, in 1/cm (per steradian).

Glassy carbon
    NIST Standard Reference Material 3600: Certificate of Analysis (2016), Table 1; A. J. Allen,
    F. Zhang, R. J. Kline, W. F. Guthrie and J. Ilavsky, J. Appl. Cryst. 50 (2017) 462-474.
    Certified for X-rays of any energy at q = 0.008 to 0.25 1/A. The combined standard uncertainty
    is 2.5795 % at each q (expanded 6.25 %, coverage factor 2.423): one of the scale, common to all
    q.

Water
    The limit of small q is rho_e^2 r_e^2 k T kappa_T. Its value at 20 C, 0.01632 1/cm, is that of
    D. Orthaber, A. Bergmann and O. Glatter, J. Appl. Cryst. 33 (2000) 218-225; the dependence on
    temperature is that of the formula, with density and isothermal compressibility of G. S. Kell,
    J. Chem. Eng. Data 20 (1975) 97-105, 0 to 60 C here. With the CODATA constants and Kell's values
    the formula gives 0.01642 at 20 C, 0.6 % more, which is taken as the standard error. Structure
    makes the curve rise at larger q: up to 3 1/nm it is taken as flat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from pipeline.reduce.errors import InputError

_WATER_20C_PER_CM = 0.01632
_WATER_RELATIVE_ERROR = 0.006
_WATER_Q_PER_NM = (1.0, 3.0)
_CARBON_RELATIVE_ERROR = 0.025795

# Kell's rational functions of degrees Celsius: lowest power first, and the denominator's slope.
# Compressibility in 1/(million bar).
_DENSITY_KG_PER_M3 = (
    (999.83952, 16.945176, -7.9870401e-3, -46.170461e-6, 105.56302e-9, -280.54253e-12),
    16.87985e-3,
)
_COMPRESSIBILITY_PER_MEGABAR = (
    (50.88496, 0.6163813, 1.459187e-3, 20.08438e-6, -58.47727e-9, 410.4110e-12),
    19.67348e-3,
)

# q in 1/A, differential cross section per volume in 1/cm.
# fmt: off
_CARBON = np.array(
    [
        [0.00827568, 34.933380], [0.0088845, 34.427156], [0.00954735, 34.042170],
        [0.010269, 33.698553], [0.0110578, 33.352529], [0.0119183, 33.027533],
        [0.0128611, 32.665045], [0.0138934, 32.306665], [0.0150251, 31.970485],
        [0.0162685, 31.559099], [0.0176365, 31.183763], [0.0191432, 30.861805],
        [0.0208051, 30.514300], [0.0226422, 30.084982], [0.024675, 29.690414],
        [0.0269289, 29.249965], [0.0294317, 28.889970], [0.0322156, 28.449341],
        [0.0353181, 28.065980], [0.0387827, 27.704965], [0.0426588, 27.331304],
        [0.0470039, 26.974065], [0.0518858, 26.676952], [0.0573814, 26.401158],
        [0.0635829, 26.177427], [0.0705962, 25.904683], [0.0785484, 25.528734],
        [0.0875863, 24.917743], [0.0978854, 23.946472], [0.109655, 22.472101],
        [0.114312, 21.777228], [0.118395, 21.112938], [0.122624, 20.401110],
        [0.123142, 20.287060], [0.127004, 19.685107], [0.13154, 18.909809],
        [0.136239, 18.089242], [0.138643, 17.679572], [0.141105, 17.264117],
        [0.146145, 16.372848], [0.151365, 15.458350], [0.156513, 14.587700],
        [0.156771, 14.563071], [0.162371, 13.616671], [0.16817, 12.668549],
        [0.174177, 11.752287], [0.177181, 11.311460], [0.180398, 10.862157],
        [0.186841, 9.961979], [0.193515, 9.116906], [0.200427, 8.325578],
        [0.201165, 8.224897], [0.207586, 7.541931], [0.215, 6.854391],
        [0.222679, 6.216070], [0.229095, 5.715911], [0.230633, 5.582366],
        [0.238871, 4.999113], [0.247402, 4.463604],
    ]
)
# fmt: on


@dataclass(frozen=True)
class Standard:
    """What a standard scatters.

    Attributes
    ----------
    name
        For people.
    q_range_per_nm
        Where that is known.
    per_cm
        From q in 1/nm to 1/cm.
    relative_error
        Standard error of all values together, over the value.
    flat
        Whether it is the same at all q.
    """

    name: str
    q_range_per_nm: tuple[float, float]
    per_cm: Callable[[np.ndarray], np.ndarray]
    relative_error: float
    flat: bool = False


def glassy_carbon() -> Standard:
    """NIST SRM 3600; between its values by monotonic cubics of ln I over ln q."""
    log_curve = PchipInterpolator(np.log(10.0 * _CARBON[:, 0]), np.log(_CARBON[:, 1]))
    return Standard(
        "glassy carbon, NIST SRM 3600",
        (float(10.0 * _CARBON[0, 0]), float(10.0 * _CARBON[-1, 0])),
        lambda q_per_nm: np.exp(log_curve(np.log(q_per_nm))),
        _CARBON_RELATIVE_ERROR,
    )


def water(temperature_c: float = 20.0) -> Standard:
    """Liquid water.

    Raises
    ------
    InputError
        If the temperature is not in 0 to 60 C.
    """
    if not 0.0 <= temperature_c <= 60.0:
        raise InputError(f"temperature: expected 0 to 60 C, got {temperature_c:g}")
    value = _WATER_20C_PER_CM * _relative_fluctuation(temperature_c) / _relative_fluctuation(20.0)
    return Standard(
        f"water at {temperature_c:g} C",
        _WATER_Q_PER_NM,
        lambda q_per_nm: np.full(np.shape(q_per_nm), value),
        _WATER_RELATIVE_ERROR,
        flat=True,
    )


def _relative_fluctuation(temperature_c: float) -> float:
    """Density^2 * temperature * compressibility."""
    density = _kell(_DENSITY_KG_PER_M3, temperature_c)
    return (
        density**2 * (temperature_c + 273.15) * _kell(_COMPRESSIBILITY_PER_MEGABAR, temperature_c)
    )


def _kell(function: tuple[tuple[float, ...], float], temperature_c: float) -> float:
    coefficients, slope = function
    above = sum(value * temperature_c**power for power, value in enumerate(coefficients))
    return above / (1.0 + slope * temperature_c)
