"""What a curve says of the particles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.messages.results import Curve, Result, RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Populations(RowResult):
    """Two populations of particles plus background. NaN = not in the data, never a guess.

    Sizes are number means and standard deviations in nm. Without an absolute scale the
    concentrations and the yield are NaN, and the volumes are in arbitrary units.

    ``_err`` are standard errors from the full covariance, widened by the root of the reduced
    chi-square where that is above 1. ``_lo`` and ``_hi`` are the ends of a central interval (95 %
    unless set otherwise): ``interval`` says whether from the standard error (``fisher``) or, where
    that does not hold, from the likelihood over all sizes (``posterior``).

    ``describes`` tells whether the model describes the curve: by the order of its residuals
    (``residuals_p``: the probability of so much by chance) and the size of the misfit
    (``misfit_relative``, of the signal, noise subtracted), and where errors are known by
    chi-square. Where it does not, sizes and amounts
    have no errors and no intervals: nothing is known of them but that they fit best.

    ``solute`` is what is in crystals and agglomerates together, as volume and in mM of formula
    units. ``confounded`` names the two parameters that the curve can least tell apart, where their
    correlation is beyond 0.98; ``largest_correlation`` is theirs in any case. ``priors`` is what
    the fit was told beforehand. ``sigma_estimated``: the curve came without errors and got them
    from its own scatter. ``total_intensity`` is the integral of I dq, ``invariant`` that of
    q^2 (I - background) dq, both over the window.
    """

    NODE = "saxs/populations"

    nc_diameter_nm: float
    nc_diameter_nm_err: float
    nc_diameter_nm_lo: float
    nc_diameter_nm_hi: float
    nc_sigma_nm: float
    nc_sigma_nm_err: float
    nc_sigma_nm_lo: float
    nc_sigma_nm_hi: float
    nc_concentration_um: float
    nc_concentration_um_err: float
    nc_concentration_um_lo: float
    nc_concentration_um_hi: float
    nc_volume_fraction: float
    nc_volume_fraction_err: float
    agglomerate_diameter_nm: float
    agglomerate_diameter_nm_err: float
    agglomerate_sigma_nm: float
    agglomerate_sigma_nm_err: float
    agglomerate_concentration_um: float
    agglomerate_concentration_um_err: float
    agglomerate_volume_fraction: float
    agglomerate_volume_fraction_err: float
    yield_fraction: float
    yield_fraction_err: float
    yield_fraction_lo: float
    yield_fraction_hi: float
    solute_volume_fraction: float
    solute_volume_fraction_err: float
    solute_mm: float
    solute_mm_err: float
    background: float
    powerlaw_amplitude: float
    instrument_scale: float
    reduced_chi2: float
    residuals_p: float
    misfit_relative: float
    describes: bool
    populations: int
    interval: str
    largest_correlation: float
    confounded: str
    priors: str
    sigma_estimated: bool
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
