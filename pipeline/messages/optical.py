"""What a spectrum says of the particles."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages.results import RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Exciton(RowResult):
    """First exciton of one spectrum. ``size_curve`` says which sizing curve made the diameter."""

    NODE = "absorbance/exciton"

    exciton_ev: float
    exciton_ev_err: float
    fwhm_mev: float
    fwhm_mev_err: float
    amplitude: float
    amplitude_err: float
    diameter_nm: float
    diameter_nm_err: float
    agglomerate_band: float
    agglomerate_band_err: float
    reduced_chi2: float
    size_curve: str
