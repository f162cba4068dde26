"""Points of a curve that a fit can use."""

from __future__ import annotations

import numpy as np

from pipeline.kernels.noise import FEWEST_VALUES, local_scatter
from pipeline.messages import BadFrameError, Curve, WaxsCurve


def usable_points(
    curve: Curve | WaxsCurve,
    window: np.ndarray,
    q_range_per_nm: tuple[float, float],
    least: int,
    stream: str,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Intensity (n,), sigma (n,) in a window, and whether the errors are guesses.

    A curve that came without errors has those of its own scatter. Points that are no use have the
    intensity 0 and an infinite sigma.

    Parameters
    ----------
    curve
        As it was reduced.
    window
        Indices of its bins in the window (n,).
    q_range_per_nm, least, stream
        For the message: ends of the window, points that a fit needs, name of the stream.

    Raises
    ------
    BadFrameError
        If fewer than ``least`` points can be used.
    """
    intensity = np.array(curve.intensity[window], dtype=float)
    sigma = np.array(curve.sigma[window], dtype=float)
    finite = np.isfinite(intensity)
    good = finite & np.isfinite(sigma) & (sigma > 0)
    estimated = bool(not good.any() and np.count_nonzero(finite) >= FEWEST_VALUES)
    if estimated:
        sigma = local_scatter(intensity)
        good = finite & np.isfinite(sigma) & (sigma > 0)
    if np.count_nonzero(good) < least:
        low, high = q_range_per_nm
        raise BadFrameError(
            f"{stream} frame {curve.frame}: {np.count_nonzero(good)} points with finite intensity "
            f"and sigma > 0 between {low} and {high} 1/nm, a fit needs {least}: check mask and "
            "q_min_per_nm, q_max_per_nm"
        )
    intensity[~good] = 0.0
    sigma[~good] = np.inf
    return intensity, sigma, estimated or curve.sigma_estimated
