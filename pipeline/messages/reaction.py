"""What SAXS and absorbance say together of the reaction."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages.results import RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReactionGrowth(RowResult):
    """The reaction at one frame of SAXS (of absorbance, where there is no SAXS). NaN = not known.

    Sizes are those of the frame: diameters of SAXS are number means, optical ones come from the
    sizing curve; optical values are means over the ``spectra`` that were taken during the frame's
    exposure (0 = interpolated between the neighbours). ``agreement_z`` is the diameter by SAXS less
    the optical one over the errors that ``agreement_errors`` names; ``agreement_window_z`` the same
    for the mean difference over the window, whose systematic error does not average out.

    Rates are slopes over the window that ends with the frame, shortened where a straight line does
    not describe it. They belong to an earlier time, about the middle of the window: growth and
    focusing to ``rate_time_s``, the others to times of their own. ``rate_window_s`` and
    ``rate_rows`` are those of the growth rate.
    ``nucleation_rate_um_per_s`` is the net rate: births less losses, which numbers alone cannot
    tell apart. Focusing is negative, broadening positive.

    Amounts are in formula units, mM. ``solute_mm`` is crystals and agglomerates together,
    ``solute_change_mm`` its change since the first frames that had it, ``unaccounted_mm`` what is
    missing to the limiting concentration.

    ``phase`` describes (agglomerates, nucleation, growth with focusing, broadening or neither,
    ripening, unknown), ``phase_probability`` says how likely that is. It raises no alert: those
    are for `pipeline.detect`.
    """

    NODE = "reaction/growth"

    saxs_diameter_nm: float
    saxs_diameter_nm_err: float
    optical_diameter_nm: float
    optical_diameter_nm_err: float
    optical_diameter_nm_systematic: float
    exciton_ev: float
    exciton_ev_err: float
    fwhm_mev: float
    fwhm_mev_err: float
    spectra: int
    agreement_z: float
    agreement_window_z: float
    agreement_errors: str
    rate_time_s: float
    rate_window_s: float
    rate_rows: int
    growth_rate_nm_per_s: float
    growth_rate_nm_per_s_err: float
    focusing_rate_nm_per_s: float
    focusing_rate_nm_per_s_err: float
    relative_focusing_rate_per_s: float
    relative_focusing_rate_per_s_err: float
    nucleation_time_s: float
    nucleation_rate_um_per_s: float
    nucleation_rate_um_per_s_err: float
    crystallisation_time_s: float
    crystallisation_rate_per_s: float
    crystallisation_rate_per_s_err: float
    optical_time_s: float
    optical_growth_rate_nm_per_s: float
    optical_growth_rate_nm_per_s_err: float
    exciton_rate_mev_per_s: float
    exciton_rate_mev_per_s_err: float
    fwhm_rate_mev_per_s: float
    fwhm_rate_mev_per_s_err: float
    crystals_mm: float
    crystals_mm_err: float
    solute_mm: float
    solute_mm_err: float
    solute_change_mm: float
    solute_change_mm_err: float
    unaccounted_mm: float
    unaccounted_mm_err: float
    phase: str
    phase_probability: float
