"""One frame's counts to what the pixels of a ring are compared by: signal per weight, and variance.

    value = (n - d) / w        variance = var(n)

of a pixel with n photons, dark counts d and weight w (solid angle, polarisation, flat: all that a
count is to be divided by). Without dead time n is the count m itself and var(n) = max(m, 1), as in
`pipeline.kernels.integration`. The dark's own noise is the same in every frame and is not in the
variance; that is also what pyFAI's compiled engines do.

Dead time (tau of one pixel, in an exposure t, a = m tau / t, y = n tau / t):

    ===============  ===============  ===========  ========================
    pixel            expected count   photons      variance of the count
    ===============  ===============  ===========  ========================
    non-paralyzable  m = n / (1 + y)  a / (1 - a)  m (1 - a)^2
    paralyzable      m = n exp(-y)    y exp(-y)=a  m (1 - 2 a)
    ===============  ===============  ===========  ========================

A pixel with dead time counts more evenly than Poisson's law says (D. F. Yu and J. A. Fessler, Phys.
Med. Biol. 2000, 45, 2043, for t much longer than tau). var(n) is that variance times (dn/dm)^2. A
paralyzable pixel counts the same at a low and at a high rate; the low one is taken. From a = 1
(non-paralyzable) or 1/e (paralyzable) on there is no solution, and the pixel is invalid.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

HIGHEST_PARALYZABLE = math.exp(-1.0)

# Below, four terms of the series y = a + a^2 + 3/2 a^3 + 8/3 a^4 + 125/24 a^5 + ... suffice: the
# fifth is 5e-8 of the first at a = 0.01, a step of float32. Above, it is where Newton's steps
# begin.
_SERIES_BELOW = 0.01


# Without Python's check for a division by 0 (weights are checked here) the loop uses vectors.
@njit(cache=True, nogil=True, error_model="numpy")
def prepare_pixels(
    image: np.ndarray,
    valid_below: float,
    weights: np.ndarray,
    dark: np.ndarray,
    dead_share: float,
    paralyzable: bool,
    prepared: np.ndarray,
) -> int:
    """Values and variances of all pixels of a frame.

    Parameters
    ----------
    image
        (pixels,) flat counts, any real type.
    valid_below
        Valid is what is >= 0 and below this. NaN fails both comparisons.
    weights
        (pixels,) float32; a pixel whose weight is not above 0 is not used.
    dark
        (pixels,) float32 counts in the same exposure, subtracted after the correction for dead
        time; (0,) = none.
    dead_share
        Dead time of a pixel over the exposure; 0 = none.
    paralyzable
        Whether a photon that is not counted makes the pixel busy anew.
    prepared
        (pixels, 1 or 2) float32, filled on return: value, and variance of the signal if there is
        room for it. The value of pixels that are not used is NaN.

    Returns
    -------
    invalid
        How many pixels are not valid or beyond what the dead time allows.
    """
    invalid = 0
    has_dark = len(dark) > 0
    has_variance = prepared.shape[1] > 1
    for k in range(len(image)):
        count = np.float64(image[k])
        valid = (count >= 0.0) & (count < valid_below)
        variance = max(count, 1.0)
        if dead_share > 0.0 and valid:
            count, variance = undo_dead_time(count, dead_share, paralyzable)
            valid = count == count
        invalid += not valid
        if has_dark:
            count -= dark[k]
        valid &= weights[k] > 0.0
        prepared[k, 0] = count / weights[k] if valid else np.nan
        if has_variance:
            prepared[k, 1] = variance
    return invalid


@njit(cache=True, nogil=True)
def undo_dead_time(count: float, dead_share: float, paralyzable: bool) -> tuple[float, float]:
    """Photons that came to a pixel, and their variance.

    Parameters
    ----------
    count
        What the pixel counted, from 0.
    dead_share
        Dead time over the exposure, above 0.
    paralyzable
        Whether a photon that is not counted makes the pixel busy anew.

    Returns
    -------
    photons, variance
        NaN for a count that no rate gives.
    """
    a = count * dead_share
    least = max(count, 1.0)
    if not paralyzable:
        if a >= 1.0:
            return np.nan, np.nan
        live = 1.0 - a
        # (dn/dm)^2 = live^-4, variance of the count = m live^2.
        return count / live, least / (live * live)
    if a >= HIGHEST_PARALYZABLE:
        return np.nan, np.nan
    # growth = exp(y) = y / a
    growth = 1.0 + a * (1.0 + a * (1.5 + a * (8.0 / 3.0)))
    y = a * growth
    if a > _SERIES_BELOW:
        # From below, Newton's steps on the concave y - a exp(y) never pass the lower root. They
        # halve the distance at worst (next to a = 1/e), so 40 reach the last digit of float32. A
        # step leaves about its own square over 2 (1 - y).
        for _ in range(40):
            rise = a * math.exp(y)
            step = (rise - y) / (1.0 - rise)
            y += step
            if step < 1e-5 * (1.0 - y):
                break
        growth = y / a
    slope = growth / (1.0 - y)
    return count * growth, least * (1.0 - 2.0 * a) * slope * slope
