"""From the energy of a transition to a diameter, by the sizing curve of the config."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pipeline.config.exciton import ExcitonFit
from pipeline.kernels import sizing


def sizing_curve(settings: ExcitonFit) -> Callable[[float], float]:
    """Energy in eV to diameter in nm, NaN outside of the curve's range.

    Parameters
    ----------
    settings
        Section ``absorbance.fit`` of a config.
    """
    if settings.sizing == "none":
        return lambda energy_ev: math.nan
    if settings.sizing == "table":
        table = np.array(sorted(settings.sizing_table_ev_nm))
        energies, diameters = table[:, 0].copy(), table[:, 1].copy()
        return lambda energy_ev: sizing.table_diameter_nm(energy_ev, energies, diameters)
    if settings.sizing == "polynomial_nm":
        coefficients = settings.sizing_coefficients
        return lambda energy_ev: sizing.polynomial_diameter_nm(energy_ev, coefficients)
    constants = (settings.band_gap_ev, settings.confinement_ev_nm2, settings.coulomb_ev_nm)
    return lambda energy_ev: sizing.two_band_diameter_nm(energy_ev, *constants)
