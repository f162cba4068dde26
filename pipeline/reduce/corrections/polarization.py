"""Scattering of a polarised beam, relative to that of one whose field is across the scattering.

1 - sin^2 2theta (1 + f cos 2chi) / 2, where chi is the azimuth from axis 2 (horizontal) and f the
degree of polarisation along it: +1 = all horizontal, 0 = none, -1 = all vertical.

Source: R. Kahn, R. Fourme, A. Gadet et al., J. Appl. Cryst. 15 (1982) 330. Validated against
pyFAI.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def relative_polarization(y_m: float, x_m: float, path2_m2: float, factor: float) -> float:
    """Of the scattering towards one place.

    Parameters
    ----------
    y_m, x_m
        Of the place along axes 1 and 2 of the laboratory, across the beam.
    path2_m2
        Square of its distance from the sample.
    factor
        f, -1 to 1.
    """
    # sin^2 2theta cos 2chi = (x^2 - y^2) / d^2, so no angle is ever taken.
    return 1.0 - 0.5 * (x_m * x_m + y_m * y_m + factor * (x_m * x_m - y_m * y_m)) / path2_m2
