"""What a curve says of the particles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.messages.results import Curve, Result, RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Populations(RowResult):
    """Two populations of spheres plus background. NaN = not in the data, never a guess.

    Diameters are number means and standard deviations in nm. Without an absolute scale the
    concentrations and the yield are NaN, and the volumes are in arbitrary units.
    """

    NODE = "saxs/populations"

    nc_diameter_nm: float
    nc_diameter_nm_err: float
    nc_sigma_nm: float
    nc_sigma_nm_err: float
    nc_concentration_um: float
    nc_concentration_um_err: float
    nc_volume_fraction: float
    nc_volume_fraction_err: float
    agglomerate_diameter_nm: float
    agglomerate_diameter_nm_err: float
    agglomerate_concentration_um: float
    agglomerate_concentration_um_err: float
    agglomerate_volume_fraction: float
    agglomerate_volume_fraction_err: float
    yield_fraction: float
    yield_fraction_err: float
    background: float
    powerlaw_amplitude: float
    reduced_chi2: float
    populations: int
    total_intensity: float
    invariant: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FittedCurve(Result):
    """A curve with its fit, for stages that follow; not stored as such.

    ``model`` and ``background`` are in the curve's units at its q.
    """

    curve: Curve
    populations: Populations
    model: np.ndarray
    background: np.ndarray
