"""When something changed, from how well each moment explains the frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def moment_of_change(
    likelihood: np.ndarray, edges_s: Sequence[float], coverage: float
) -> tuple[float, float, float]:
    """Median and ends of the central interval of the posterior over the moments of a change.

    Parameters
    ----------
    likelihood
        Of the frames if the change came between two edges, (n,), up to a factor.
    edges_s
        The n + 1 edges in s.
    coverage
        Of the interval.
    """
    cumulative = np.concatenate(([0.0], np.cumsum(likelihood / likelihood.sum())))
    tail = 0.5 * (1.0 - coverage)
    lo, middle, hi = np.interp([tail, 0.5, 1.0 - tail], cumulative, edges_s)
    return float(middle), float(lo), float(hi)
