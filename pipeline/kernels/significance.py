"""Significance of the highest of many correlated scores."""

import math
from collections.abc import Sequence

from scipy.special import log_ndtr, ndtri_exp

LOWEST = -8.0
"""What double precision can tell of a probability near 1."""


def scan_significance(highest: float, lengths: Sequence[float]) -> float:
    """Standard deviations that the highest score of several scans is worth after look-elsewhere.

    Parameters
    ----------
    highest
        Highest score over all scans, each score standard normal on its own.
    lengths
        Length in radians of each scan's path of unit templates (see ``pipeline.kernels.order``).

    Returns
    -------
    float
        z with P(N(0,1) > z) = P(the highest score of pure noise is higher). The bound on the
        expected number of exceedances is turned into a probability as for rare independent
        events, 1 - exp(-bound), which keeps it below 1 for low scores.
    """
    if not math.isfinite(highest):
        return math.nan
    # Upcrossings count only above 0; below, the bound would fall again as the score falls.
    level = max(highest, 0.0)
    log_single = float(log_ndtr(-highest)) + math.log(len(lengths))
    log_path = -0.5 * level**2 + math.log(max(sum(lengths), 1e-300) / (2.0 * math.pi))
    high, low = max(log_single, log_path), min(log_single, log_path)
    log_bound = high + math.log1p(math.exp(low - high))
    # log(1 - exp(-bound)): the bound itself where it is small.
    log_p = log_bound if log_bound < -20.0 else math.log(-math.expm1(-math.exp(log_bound)))
    return max(LOWEST, float(-ndtri_exp(min(log_p, -1e-300))))
