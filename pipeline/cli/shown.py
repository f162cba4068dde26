"""What is shown of a table's row to a person: each number with what is known of its error."""

from __future__ import annotations

import math
from typing import Any

REACTION = "reaction/growth"
ORDER, FORM, LATTICE = "assembly/peaks", "assembly/form_factor", "assembly/lattice"
CRYSTALS = "waxs/phases"
SHOWN = {
    "saxs/populations": (
        ("diameter", "nc_diameter_nm", "nm", 2),
        ("sigma", "nc_sigma_nm", "nm", 2),
        ("concentration", "nc_concentration_um", "µM", 2),
        ("agglomerates", "agglomerate_concentration_um", "µM", 1),
        ("yield", "yield_fraction", "", 3),
        ("reduced chi²", "reduced_chi2", "", 2),
    ),
    "absorbance/exciton": (
        ("exciton", "exciton_ev", "eV", 3),
        ("fwhm", "fwhm_mev", "meV", 0),
        ("optical size", "diameter_nm", "nm", 2),
    ),
    REACTION: (
        ("growth", "growth_rate_nm_per_s", "nm/s", 3),
        ("dσ/dt", "focusing_rate_nm_per_s", "nm/s", 3),
        ("net nucleation", "nucleation_rate_um_per_s", "µM/s", 3),
        ("optical growth", "optical_growth_rate_nm_per_s", "nm/s", 3),
        ("SAXS less optical size", "agreement_window_z", "standard errors", 1),
        ("unaccounted for", "unaccounted_mm", "mM", 2),
    ),
    ORDER: (("spacing", "spacing_nm", "nm", 2),),
    FORM: (
        ("diameter under order", "diameter_nm", "nm", 2),
        ("between surfaces", "surface_nm", "nm", 2),
    ),
    LATTICE: (
        ("a", "a_nm", "nm", 2),
        ("b", "b_nm", "nm", 2),
        ("c", "c_nm", "nm", 2),
        ("domain", "domain_nm", "nm", 0),
    ),
    CRYSTALS: (
        ("crystalline", "crystalline_fraction", "", 2),
        ("significance", "crystalline_z", "standard deviations", 1),
    ),
}
"""By table: label, column, unit and decimals of what is shown of its newest row."""


def ordered(
    peak: dict[str, Any] | None, form: dict[str, Any] | None, lattice: dict[str, Any] | None
) -> list[tuple[str, str]]:
    """What is known of order: its significance at least, the rest where it is seen."""
    if peak is None or math.isnan(_number(peak, "order_z")):
        return []
    said = [("order", f"{peak['order_kind'] or 'none seen'} ({peak['order_z']:.1f} σ)")]
    said += present(peak, ORDER)
    if form is not None and form.get("choice") == "modelled":
        said += present(form, FORM)
    if lattice is not None and lattice.get("lattice"):
        probable = f"{lattice['candidate'] or 'of none'} {lattice['probability']:.2f}"
        said += [("lattice", f"{lattice['lattice']} ({probable})"), *present(lattice, LATTICE)]
        if not lattice["consistent"] and lattice["consistent_reason"]:
            said.append(
                ("note (lattice)", f"if {lattice['candidate']}: {lattice['consistent_reason']}")
            )
    return said


def crystals(row: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What a wide-angle curve says: state, shares, and each phase with its crystallites."""
    if row is None or not row.get("state"):
        return []
    said = [("crystals", str(row["state"])), *present(row, CRYSTALS)]
    number = 1
    while row.get(name := f"phase_{number}_name"):
        if row[f"phase_{number}_present"]:
            known = [
                ("probability", measured(row, f"phase_{number}_probability", "", 2)),
                ("crystallites", measured(row, f"phase_{number}_size_nm", "nm", 1)),
            ]
            told = ", ".join(f"{what} {value}" for what, value in known if value != "-")
            said.append((str(row[name]), told or "present"))
        number += 1
    if row.get("confounded"):
        said.append(("note (crystals)", f"cannot be told apart: {row['confounded']}"))
    return said


def present(row: dict[str, Any], node: str) -> list[tuple[str, str]]:
    """What is shown of a table's row, without what it does not know."""
    shown = [(label, measured(row, *column)) for label, *column in SHOWN[node]]
    return [(label, value) for label, value in shown if value != "-"]


def measured(row: dict[str, Any] | None, name: str, unit: str, digits: int = 2) -> str:
    """A value with its standard error and unit; a dash where there is none.

    Where there is an error, it has two significant figures and the value as many decimals. Where
    the row says that its intervals are no multiples of it, the interval stands in its place; where
    the fit does not describe the data, that is said instead.
    """
    value = _number(row, name)
    if row is None or math.isnan(value):
        return "-"
    if row.get("describes") is False and f"{name}_err" in row:
        return f"{value:.{digits}f} {unit}".rstrip() + " (not described)"
    low, high = _number(row, f"{name}_lo"), _number(row, f"{name}_hi")
    if row.get("interval") == "posterior" and high > low:
        digits = _decimals(0.5 * (high - low), 1)
        return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}) {unit}".rstrip()
    error = _number(row, f"{name}_err")
    if not error > 0:
        return f"{value:.{digits}f} {unit}".rstrip()
    digits = _decimals(error, 2)
    text = f"{value:.{digits}f} ± {error:.{digits}f} {unit}".rstrip()
    systematic = _number(row, f"{name}_systematic")
    if not systematic > error:
        return text
    return f"{text} (systematic ± {systematic:.{_decimals(systematic, 2)}f})"


def _number(row: dict[str, Any] | None, name: str) -> float:
    value = None if row is None else row.get(name)
    return math.nan if value is None else float(value)


def _decimals(error: float, figures: int) -> int:
    """Decimals that show so many significant figures of an error, 5 at most."""
    return min(max(figures - 1 - math.floor(math.log10(error)), 0), 5)


def doubts(row: dict[str, Any] | None) -> str:
    """Why a fit's numbers are not to be relied on, or are missing; empty where nothing is said."""
    if row is None:
        return ""
    said = []
    if row.get("describes") is False:
        misfit = _number(row, "misfit_relative")
        share = "" if math.isnan(misfit) else f" (misfit {100 * misfit:.2g} %)"
        said.append(f"fit does not describe the curve{share}")
    if row.get("size_flag"):
        said.append(f"no optical size: {row['size_flag']}")
    return "; ".join(said)
