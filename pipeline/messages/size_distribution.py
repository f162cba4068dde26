"""What a curve says of sizes when no shape of their distribution is assumed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.messages.results import ArrayResult, RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SizeDistribution(ArrayResult):
    """Densities of spheres along their diameter, one population or many.

    ``number_per_nm`` in uM/nm and ``volume_per_nm`` (volume fraction per nm) on an absolute scale,
    otherwise both arbitrary. Errors are one standard error, upwards, given that the logarithm of
    the density is smooth. ``unseen_per_nm`` does not rest on that: it is the standard error of
    the volume at the top of one more population, of 10 % relative width, at that diameter. Where
    the data are blind it is large, whatever the density says. Of a frame without particles the
    densities are 0.

    Densities are means over bins; multiplied by ``bin_width_nm`` they are amounts.
    """

    NODE = "saxs/size_distribution"
    AXIS_NODE = "saxs/size_axis"
    AXIS = "diameter_nm"
    LINES = (
        "number_per_nm",
        "number_per_nm_err",
        "volume_per_nm",
        "volume_per_nm_err",
        "unseen_per_nm",
    )
    CONSTANTS = (("bin_width_nm", "saxs/size_bin_width"),)

    diameter_nm: np.ndarray
    bin_width_nm: np.ndarray
    number_per_nm: np.ndarray
    number_per_nm_err: np.ndarray
    volume_per_nm: np.ndarray
    volume_per_nm_err: np.ndarray
    unseen_per_nm: np.ndarray
    absolute: bool


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SizeMoments(RowResult):
    """Sums over a `SizeDistribution`. NaN = not in the data.

    Means and standard deviations of the diameters in nm. Those by number, and ``number_um``
    itself, count particles above ``number_from_nm`` = pi / q_max only: smaller ones hardly
    scatter, and any number of them could be there. Errors hold if the logarithm of the density is
    smooth; ``number_unseen_um`` is the standard error of the number of one more population of
    10 % relative width, where it hides best. ``reduced_chi2`` is over the points less
    ``parameters``, the number of parameters that the data settle; ``log10_alpha`` the strength of
    the smoothing that they chose. ``describes`` is false where spheres of no sizes whatever leave
    residuals that hang together (see `Populations`; ``misfit_relative``
    says how large the misfit is): the densities are then of no particles, and have no errors.
    ``sigma_estimated`` says that the curve had no errors, so they are from its own scatter.
    """

    NODE = "saxs/size_moments"

    volume_mean_nm: float
    volume_mean_nm_err: float
    volume_sigma_nm: float
    volume_sigma_nm_err: float
    number_mean_nm: float
    number_mean_nm_err: float
    number_sigma_nm: float
    number_sigma_nm_err: float
    number_from_nm: float
    volume_fraction: float
    volume_fraction_err: float
    number_um: float
    number_um_err: float
    number_unseen_um: float
    background: float
    background_err: float
    powerlaw_amplitude: float
    powerlaw_amplitude_err: float
    reduced_chi2: float
    residual_noise: float
    parameters: float
    log10_alpha: float
    present: bool
    describes: bool
    misfit_relative: float
    sigma_estimated: bool
