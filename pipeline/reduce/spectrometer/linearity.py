"""Counts that are not proportional to light.

Vendors give a polynomial P of the counts above dark x, and light = x / P(x): lowest power first, P
near 1 (Ocean Optics, OOINLCorrect; seabreeze reads the coefficients from the spectrometer's memory
as ``nonlinearity_coefficients``). The dark must be subtracted before, or P is taken at the wrong
place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.polynomial import polynomial

# Places at which the response is looked at when a stream begins.
_PLACES = 1000


def linearise(
    above_dark: np.ndarray, coefficients: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a linear detector and their slope against the recorded counts, (n,) each.

    Below the dark, where the vendor measured nothing, the polynomial keeps its value at 0, so that
    noise stays symmetric there.

    Parameters
    ----------
    above_dark
        (n,) counts above dark.
    coefficients
        Of the polynomial, lowest power first; none = a linear detector.
    """
    if not coefficients:
        return above_dark, np.ones_like(above_dark)
    x = np.maximum(above_dark, 0.0)
    share = polynomial.polyval(x, coefficients)
    change = polynomial.polyval(x, polynomial.polyder(coefficients))
    return above_dark / share, (share - x * change) / share**2


def check_response(coefficients: Sequence[float], highest_counts: float) -> None:
    """See that more light gives more counts, up to a count.

    Raises
    ------
    ValueError
        If the polynomial is not above 0, or the response turns round.
    """
    x = np.linspace(0.0, highest_counts, _PLACES)
    share = polynomial.polyval(x, coefficients)
    # The slope of x / P(x) has the sign of P - x P'.
    rise = share - x * polynomial.polyval(x, polynomial.polyder(coefficients))
    bad = ~((share > 0.0) & (rise > 0.0))
    if bad.any():
        raise ValueError(
            "nonlinearity_coefficients: expected light that rises with the counts up to "
            f"{highest_counts:.5g} above dark, got a fall at {x[np.argmax(bad)]:.5g}: lowest power "
            "first, near 1?"
        )
