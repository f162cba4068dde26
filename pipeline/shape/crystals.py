"""The curve of the crystals alone: a measured one less what its fit ascribes to other things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.population_problem import smear
from pipeline.kernels.noise import FEWEST_VALUES, local_scatter
from pipeline.kernels.sphere import mean_square_amplitude, mean_volume
from pipeline.kernels.units import PER_CM_IN_PER_NM
from pipeline.shape.retrieve import CrystalCurve, ShapeError

SEEN = 3.0
"""Standard errors of the mean of `NEIGHBOURS` points below which nothing is seen any more."""
NEIGHBOURS = 15


def alone(
    q_per_nm: np.ndarray,
    intensity: np.ndarray,
    row: Mapping[str, Any],
    settings: PopulationsFit,
    sample: Sample,
    q_resolution_per_nm: np.ndarray,
    instrument: tuple[np.ndarray, np.ndarray] | None,
) -> np.ndarray:
    """A curve (n,) less flat background, power law, instrument and agglomerates of its fit.

    Parameters
    ----------
    q_per_nm, intensity, q_resolution_per_nm
        The curve (n,), positive q; resolution 0 where it is exact.
    row
        Of ``saxs/populations``.
    settings, sample
        What the fit was made with.
    instrument
        q and intensity of the curve whose height was fitted, or None.
    """
    rest = np.array(intensity, dtype=float)
    if np.isfinite(flat := float(row["background"])):
        rest -= flat
    amplitude, exponent = float(row["powerlaw_amplitude"]), settings.powerlaw_exponent
    if np.isfinite(amplitude) and exponent is not None:
        rest -= amplitude * smear(lambda at: at**-exponent, q_per_nm, q_resolution_per_nm)
    if np.isfinite(scale := float(row["instrument_scale"])) and instrument is not None:
        rest -= scale * np.interp(q_per_nm, *instrument)
    fraction = float(row["agglomerate_volume_fraction"])
    if np.isfinite(fraction) and fraction > 0:
        size, sigma = float(row["agglomerate_diameter_nm"]), float(row["agglomerate_sigma_nm"])

        def spheres(at: np.ndarray) -> np.ndarray:
            out = np.empty((3, at.size))
            mean_square_amplitude(np.ascontiguousarray(at), size, sigma, out)
            return out[0]

        number = fraction / mean_volume(size, sigma)
        per_particle = PER_CM_IN_PER_NM * sample.contrast_per_nm2**2
        rest -= number * per_particle * smear(spheres, q_per_nm, q_resolution_per_nm)
    return rest


def average(
    q_per_nm: np.ndarray,
    curves: Sequence[np.ndarray],
    sigmas: Sequence[np.ndarray],
    q_resolution_per_nm: np.ndarray,
    window: np.ndarray,
) -> CrystalCurve:
    """Mean of curves of crystals, as far as anything is seen of them.

    Parameters
    ----------
    q_per_nm, q_resolution_per_nm
        (n,), 1/nm.
    curves, sigmas
        Of each frame (n,).
    window
        Which points the fit used (n,).

    Raises
    ------
    ShapeError
        If no point has a value.
    """
    mean = np.mean(curves, axis=0)
    sigma = np.sqrt(np.sum(np.square(sigmas), axis=0)) / len(curves)
    there = window & np.isfinite(mean) & (q_per_nm > 0)
    if not np.any(there & np.isfinite(sigma) & (sigma > 0)) and there.sum() >= FEWEST_VALUES:
        # A curve that came without errors has those of its own scatter.
        sigma = np.full(mean.size, np.nan)
        sigma[there] = local_scatter(mean[there])
    good = there & np.isfinite(sigma) & (sigma > 0)
    if not good.any():
        raise ShapeError("expected points with an intensity and an error, got none")
    q, mean, sigma = q_per_nm[good], mean[good], sigma[good]
    kernel = np.ones(min(NEIGHBOURS, q.size)) / np.sqrt(min(NEIGHBOURS, q.size))
    seen = np.convolve(mean / sigma, kernel, mode="same") > SEEN
    if not seen.any():
        raise ShapeError("the crystals are not seen above the noise at any q")
    stop = int(np.flatnonzero(seen)[-1]) + 1
    return CrystalCurve(q[:stop], mean[:stop], sigma[:stop], q_resolution_per_nm[good][:stop])
