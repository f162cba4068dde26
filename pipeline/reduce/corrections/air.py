"""Absorption in the gas before the detector, relative to the point of normal incidence.

exp(-mu path (1 / cos a - 1)): the gas is a layer along the detector, of thickness ``path``, and a
photon that comes in at the angle a has 1 / cos a of it to cross. Exact where all of the flight path
is gas, or where the flight tube's window stands parallel to the detector.

Source: Beer and Lambert. Reference value: air of 0.36 1/m over 0.5 m at 45 degrees lets
exp(-0.18 (sqrt(2) - 1)) = 0.92816 through.
"""

from __future__ import annotations

import math

from numba import njit


@njit(cache=True, nogil=True)
def relative_air(secant: float, absorbance: float) -> float:
    """Transmission of the gas.

    Parameters
    ----------
    secant
        1 / cos a of the angle of incidence.
    absorbance
        mu path, natural logarithm, to the point of normal incidence.
    """
    return math.exp(-absorbance * (secant - 1.0))
