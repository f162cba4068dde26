"""How much of the limiting species is where, from one row of ``saxs/populations``."""

from __future__ import annotations

import math

from pipeline.messages.rows import Row, number
from pipeline.reaction.rates import value_of, weighted_mean

BASELINE_ROWS = 4
"""Rows that the first amount is the mean of."""


def mean_volume_nm3(diameter_nm: float, sigma_nm: float) -> float:
    """Mean volume of spheres of normal diameters."""
    return math.pi / 6 * diameter_nm * (diameter_nm * diameter_nm + 3 * sigma_nm * sigma_nm)


def crystals_mm(row: Row, formula_volume_nm3: float) -> tuple[float, float]:
    """Formula units in crystals, mM, and their error; NaN without an absolute scale."""
    volume = mean_volume_nm3(number(row, "nc_diameter_nm"), number(row, "nc_sigma_nm"))
    amount = 1e-3 * number(row, "nc_concentration_um") * volume / formula_volume_nm3
    # The error of the volume fraction: those of number and sizes go against each other.
    fraction, error = value_of(row, "nc_volume_fraction")
    return amount, (amount * error / fraction if fraction > 0 else math.nan)


def number_of_crystals(row: Row) -> tuple[float, float]:
    """Their concentration in uM; without an absolute scale in arbitrary units."""
    count, error = value_of(row, "nc_concentration_um")
    if count > 0:
        return count, error
    volume, volume_err = value_of(row, "nc_volume_fraction")
    (diameter, diameter_err), sigma = value_of(row, "nc_diameter_nm"), number(row, "nc_sigma_nm")
    if not (volume > 0 and diameter > 0 and sigma > 0):
        return math.nan, math.nan
    count = volume / mean_volume_nm3(diameter, sigma)
    return count, count * math.hypot(volume_err / volume, 3 * diameter_err / diameter)


class Balance:
    """What became of the solute since the first frames.

    Parameters
    ----------
    limiting_mm
        Concentration of the limiting species; None = not known.
    """

    def __init__(self, limiting_mm: float | None) -> None:
        self._limiting_mm = math.nan if limiting_mm is None else limiting_mm
        self._first: list[tuple[float, float]] = []

    def of(self, row: Row) -> dict[str, float]:
        """Columns of the balance."""
        amount, error = value_of(row, "solute_mm")
        change = change_err = math.nan
        if len(self._first) == BASELINE_ROWS:
            values, errors = zip(*self._first, strict=True)
            first, first_err = weighted_mean(values, errors)
            change, change_err = amount - first, math.hypot(error, first_err)
        elif math.isfinite(amount):
            self._first.append((amount, error))
        return {
            "solute_mm": amount,
            "solute_mm_err": error,
            "solute_change_mm": change,
            "solute_change_mm_err": change_err,
            "unaccounted_mm": self._limiting_mm - amount,
            "unaccounted_mm_err": error if math.isfinite(self._limiting_mm) else math.nan,
        }
