"""The sizing curve that a config names, its range of validity and its own error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.config.exciton import ExcitonFit
from pipeline.kernels import sizing

# Half a step of the numerical slope: a diameter is smooth over far more than 0.1 meV.
_STEP_EV = 1e-4


@dataclass(frozen=True, slots=True)
class Size:
    """A diameter with its error by the energy's and by the curve's; ``flag`` says why there is
    none."""

    diameter_nm: float = math.nan
    err_nm: float = math.nan
    systematic_nm: float = math.nan
    flag: str = ""


class SizingCurve:
    """From the energy of the first exciton to a diameter."""

    def __init__(self, settings: ExcitonFit) -> None:
        self._settings = settings
        self.name = "two_band (fallback)" if settings.sizing == "two_band" else str(settings.sizing)
        table = sorted(settings.sizing_table_ev_nm)
        self._table_ev = np.array([energy for energy, _ in table])
        self._table_nm = np.array([diameter for _, diameter in table])
        self._range_ev = self._validity_ev()
        self._relative = settings.sizing_relative_uncertainty
        if self._relative is None and settings.sizing == "yu_2003_cdse":
            self._relative = sizing.YU_2003_CDSE_RELATIVE

    def size(self, energy_ev: float, energy_err_ev: float) -> Size:
        """Diameter of an exciton's energy; NaN without an exciton, flagged outside the range."""
        if self._settings.sizing == "none" or not math.isfinite(energy_ev):
            return Size()
        low, high = self._range_ev
        diameter = self.diameter_nm(energy_ev)
        if not math.isfinite(diameter):
            return Size(flag=f"outside {low:.4g} to {high:.4g} eV")
        # One-sided where the other side leaves the table.
        upper, lower = (
            value if math.isfinite(value) else diameter
            for value in (
                self._diameter_nm(energy_ev + _STEP_EV),
                self._diameter_nm(energy_ev - _STEP_EV),
            )
        )
        steps = (upper != diameter) + (lower != diameter)
        slope = abs(upper - lower) / (max(steps, 1) * _STEP_EV)
        return Size(diameter, slope * energy_err_ev, self._systematic_nm(diameter))

    def diameter_nm(self, energy_ev: float) -> float:
        """Diameter alone; NaN outside the curve's range."""
        low, high = self._range_ev
        known = self._settings.sizing != "none" and low <= energy_ev <= high
        return self._diameter_nm(energy_ev) if known else math.nan

    def _systematic_nm(self, diameter_nm: float) -> float:
        if self._settings.sizing_uncertainty_nm is not None:
            return self._settings.sizing_uncertainty_nm
        return math.nan if self._relative is None else self._relative * diameter_nm

    def _validity_ev(self) -> tuple[float, float]:
        settings = self._settings
        if settings.sizing_range_ev is not None:
            return settings.sizing_range_ev
        nm = settings.sizing_range_nm
        if nm is None and settings.sizing == "yu_2003_cdse":
            nm = sizing.YU_2003_CDSE_RANGE_NM
        if nm is not None:
            return sizing.HC_EV_NM / nm[1], sizing.HC_EV_NM / nm[0]
        if settings.sizing == "table":
            return float(self._table_ev[0]), float(self._table_ev[-1])
        return sizing.TWO_BAND_RANGE_EV

    def _diameter_nm(self, energy_ev: float) -> float:
        settings = self._settings
        if settings.sizing == "table":
            return sizing.table_diameter_nm(energy_ev, self._table_ev, self._table_nm)
        if settings.sizing == "polynomial_nm":
            return sizing.polynomial_diameter_nm(energy_ev, settings.sizing_coefficients)
        if settings.sizing == "yu_2003_cdse":
            return sizing.polynomial_diameter_nm(energy_ev, sizing.YU_2003_CDSE)
        return sizing.two_band_diameter_nm(
            energy_ev, settings.band_gap_ev, settings.confinement_ev_nm2, settings.coulomb_ev_nm
        )
