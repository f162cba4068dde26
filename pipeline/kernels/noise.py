"""The noise of a smooth line, from the line itself."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Each value is compared with the cubic through its four neighbours, weights (-1, 4, 4, -1) / 6:
# exact for a cubic, so a smooth line leaves nothing. Independent noise of variance s^2 leaves
# s^2 (1 + (1 + 16 + 16 + 1) / 36).
_RESIDUAL_VARIANCE = 1.0 + 34.0 / 36.0

# The median of |x| of normally distributed x is this many standard deviations.
_MEDIAN_OF_ABSOLUTE = 0.6744897501960817

# Values on either side that are looked at: 51 in all make an estimate good to 23 % (neighbouring
# residuals share values), and are few enough to follow noise that changes along the line.
_HALF_WINDOW = 25

# A window of equal values (a clipped or padded line) has no scatter: it gets this fraction of the
# typical one, so that a weight never becomes infinite.
_FLOOR = 0.01

# Fewest values that an estimate is made of.
FEWEST_VALUES = 10


@njit(cache=True, nogil=True)
def local_scatter(values: np.ndarray) -> np.ndarray:
    """Standard deviation of the noise at each value of a line that is smooth without it.

    The median over a window of the residuals from a local cubic, so that a few sharp features
    (Bragg peaks, zingers) do not raise it. The abscissa may be any smooth function of the index.
    Noise that is correlated between neighbours (a smoothed record) is underestimated.

    Parameters
    ----------
    values
        (n,), n >= `FEWEST_VALUES`; values that are not finite are passed over.

    Returns
    -------
    sigma
        (n,), NaN where the value is not finite; 0 everywhere if all values are equal; NaN
        everywhere if fewer than `FEWEST_VALUES` are finite.
    """
    sigma = np.full(len(values), np.nan)
    places = np.flatnonzero(np.isfinite(values))
    n = len(places)
    if n < FEWEST_VALUES:
        return sigma
    residuals = np.empty(n - 4)
    for k in range(2, n - 2):
        near = values[places[k - 1]] + values[places[k + 1]]
        far = values[places[k - 2]] + values[places[k + 2]]
        residuals[k - 2] = abs(values[places[k]] - (4.0 * near - far) / 6.0)
    scale = 1.0 / (_MEDIAN_OF_ABSOLUTE * math.sqrt(_RESIDUAL_VARIANCE))
    floor = _FLOOR * scale * np.mean(residuals)
    for k in range(n):
        # At the ends the window stays as wide and stands still.
        start = min(max(k - 2 - _HALF_WINDOW, 0), max(n - 4 - 2 * _HALF_WINDOW - 1, 0))
        window = residuals[start : start + 2 * _HALF_WINDOW + 1]
        sigma[places[k]] = max(scale * np.median(window), floor)
    return sigma
