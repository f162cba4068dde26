"""Solid angle of a pixel, relative to one at the point of normal incidence.

cos^3 a with the angle of incidence a: one cosine for the slant at which the pixel is seen, two for
its larger distance. Exact for a pixel that is small against its distance (1e-6 for 100 um at
100 mm). A pixel that is larger than the others sees more, in the ratio of the areas: uneven
detectors are corrected for that unless a flat field is given, which has it in it.

Source: geometry. Validated against pyFAI, and against the solid angle of a rectangle in closed
form.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def relative_solid_angle(cosine: float) -> float:
    """Of a small pixel.

    Parameters
    ----------
    cosine
        Of the angle of incidence.
    """
    return cosine * cosine * cosine
