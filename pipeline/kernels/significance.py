"""Significance of the highest of many correlated scores."""

import math
from collections.abc import Sequence

from scipy.special import log_ndtr, ndtri_exp

LOWEST = -8.0
"""What double precision can tell of a probability near 1."""
RARE = 6.0
"""Scores above are so rare that probabilities add: what is left out is below 1e-7 of them."""


def scan_log_probability(
    highest: float,
    lengths: Sequence[float],
    others_below: float = 1.0,
    all_below: float | None = None,
) -> float:
    """Logarithm of the probability that pure noise gives several scans a higher highest score.

    With F the probability that all scans are below u at one place, and N the expected number of
    places at which the highest of them passes u upwards, it is 1 - F exp(-N / F): excursions are
    rare events among the places that are below u (Cramer & Leadbetter, Stationary and Related
    Stochastic Processes, 1967, chapter 12).

    Parameters
    ----------
    highest
        u: highest score over all scans, each score standard normal on its own.
    lengths
        Length in radians of each scan's path of unit templates (see ``pipeline.kernels.order``).
    others_below
        Probability that the other scans are below u where one passes it; 1 is the bound of scans
        that are never above u together.
    all_below
        F; by default that of independent scans.

    Returns
    -------
    float
        NaN without a score.
    """
    if not math.isfinite(highest):
        return math.nan
    log_single = float(log_ndtr(-highest)) + math.log(len(lengths))
    log_path = -0.5 * highest**2 + math.log(max(sum(lengths), 1e-300) / (2.0 * math.pi))
    log_others = math.log(max(others_below, 1e-300))
    if highest > RARE:
        high, low = max(log_single, log_path), min(log_single, log_path)
        return high + math.log1p(math.exp(low - high)) + log_others
    log_all = len(lengths) * float(log_ndtr(highest))
    if all_below is not None:
        log_all = math.log(max(all_below, 1e-300))
    log_below = log_all - math.exp(min(log_path + log_others - log_all, 700.0))
    return math.log(max(-math.expm1(log_below), 1e-300))


def scan_significance(
    highest: float,
    lengths: Sequence[float],
    others_below: float = 1.0,
    all_below: float | None = None,
) -> float:
    """Standard deviations that the highest score of several scans is worth after look-elsewhere.

    It is z with P(N(0,1) > z) = P(the highest score of pure noise is higher); arguments as in
    `scan_log_probability`.
    """
    return significance(scan_log_probability(highest, lengths, others_below, all_below))


def significance(log_probability: float) -> float:
    """z with P(N(0,1) > z) = exp(log_probability), at least LOWEST; NaN from NaN."""
    if math.isnan(log_probability):
        return math.nan
    return max(LOWEST, float(-ndtri_exp(min(log_probability, -1e-300))))
