"""Sums over a size distribution, with the errors that follow from the covariance of its bins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.kernels.size_kernel import bin_mean


@dataclass(frozen=True, slots=True)
class Sums:
    """Total, mean and standard deviation of amounts over diameters, with standard errors."""

    total: float
    total_err: float
    mean: float
    mean_err: float
    sigma: float
    sigma_err: float

    @classmethod
    def of(cls, amounts: np.ndarray, spread: np.ndarray, edges: np.ndarray) -> Sums:
        """Of amounts (n,) in bins, whose logarithms have the covariance ``spread`` (n, n)."""
        total = float(np.sum(amounts))
        if not total > 0.0:
            return cls(*(math.nan,) * 6)
        share = amounts / total
        first, second = bin_mean(edges, 1), bin_mean(edges, 2)
        mean = float(np.sum(share * first))
        sigma = math.sqrt(float(np.sum(share * second)) - mean**2)
        by_mean = share * (first - mean)
        by_sigma = share * (second - 2.0 * mean * first + mean**2 - sigma**2) / (2.0 * sigma)
        return cls(
            total=total,
            total_err=total * _error(share, spread),
            mean=mean,
            mean_err=_error(by_mean, spread),
            sigma=sigma,
            sigma_err=_error(by_sigma, spread),
        )


def _error(gradient: np.ndarray, spread: np.ndarray) -> float:
    return math.sqrt(float(np.sum(gradient[:, None] * spread * gradient)))


def number_per_volume(edges_nm: np.ndarray) -> np.ndarray:
    """Particles per nm^3 of their volume, mean of each bin (n,)."""
    return bin_mean(edges_nm, -3) * 6.0 / math.pi
