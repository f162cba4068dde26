"""Absorption of scattered photons in a flat sample that stands across the beam.

A photon that is scattered by 2theta at depth x has x to go before and (t - x) / cos 2theta after.
The mean over x of both transmissions, divided by the T = exp(-mu t) of photons that go straight
on, is with y = -ln T (1 / cos 2theta - 1)::

    (1 - exp(-y)) / y                      forwards, 2theta < 90 degrees

and for photons that leave through the face by which they came, z = -ln T (1 + 1 / |cos 2theta|)::

    (1 - exp(-z)) / (z T)                  backwards

Bounds: 0 < T < 1; once scattered photons only. At 90 degrees the photon stays in an endless slab.

Source: A. Brulet, D. Lairez, A. Lapp & J.-P. Cotton, J. Appl. Cryst. 40 (2007) 165; S. R. Kline,
ibid. 39 (2006) 895 (as in the reduction at NIST). Reference value: T = 0.5 at 60 degrees,
y = ln 2, (1 - 0.5) / 0.693147 = 0.721348.
"""

from __future__ import annotations

import math

from numba import njit

# No cosine of a pixel's centre is nearer to 90 degrees than this, and none divides by 0.
_SMALLEST_COSINE = 1e-9


@njit(cache=True, nogil=True)
def relative_slab(cosine: float, absorbance: float) -> float:
    """Transmission of scattered photons over that of those that are not.

    Parameters
    ----------
    cosine
        Of the angle of scattering, 2theta.
    absorbance
        -ln T, above 0.
    """
    if cosine < 0.0:
        z = absorbance * (1.0 - 1.0 / min(cosine, -_SMALLEST_COSINE))
        return -math.expm1(-z) / z * math.exp(absorbance)
    y = absorbance * (1.0 / max(cosine, _SMALLEST_COSINE) - 1.0)
    if y == 0.0:
        return 1.0
    return -math.expm1(-y) / y
