"""What bins of spheres scatter: the matrix of a size inversion, made once per q axis.

Bins are evenly spaced in ln D, and the volume of a bin is spread evenly over its ln D. A volume
fraction v in the bin scatters v drho^2 <F^2/V>, F = 4 pi (sin qR - qR cos qR) / q^3 in nm^3,
averaged over the bin by Gauss-Legendre quadrature and over the q that a point sees by equal steps
of a Gaussian.
"""

from __future__ import annotations

import math

import numpy as np

SMEARING_REACH = 4.0
SMEARING_NODES = 13
"""Equal steps of 2/3 standard deviation to +-4. The trapezoid aliases at a phase of 3 pi per
standard deviation; F^2 turns by q D, so dq D up to 5 is exact to 1e-4, and there all oscillations
are gone (exp(-12))."""
SERIES_BELOW = 0.03
"""Below this qR, 1 - x^2/10 + x^4/280 is exact to 1e-13 and the closed form loses 1e-13."""


def bin_edges_nm(diameter_range_nm: tuple[float, float], bins: int) -> np.ndarray:
    """Edges (bins + 1,) evenly spaced in ln D."""
    return np.geomspace(*diameter_range_nm, bins + 1)


def bin_mean(edges_nm: np.ndarray, power: int) -> np.ndarray:
    """Mean of D^power over each bin (n,), D spread evenly in ln D, in nm^power; power not 0."""
    return np.diff(edges_nm**power) / (power * np.diff(np.log(edges_nm)))


def smeared_q(q_per_nm: np.ndarray, resolution_per_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scattering vectors (k, n) that the points of a curve see, and their weights (k, 1), sum 1.

    Parameters
    ----------
    q_per_nm
        (n,), positive.
    resolution_per_nm
        Standard deviation of each, (n,) or empty = sharp. What is not finite counts as sharp.
    """
    if not resolution_per_nm.size or not np.any(resolution_per_nm > 0):
        return q_per_nm[None, :], np.ones((1, 1))
    steps = np.linspace(-SMEARING_REACH, SMEARING_REACH, SMEARING_NODES)
    weights = np.exp(-0.5 * steps**2)
    width = np.where(resolution_per_nm > 0, resolution_per_nm, 0.0)
    seen = np.abs(q_per_nm + steps[:, None] * width)
    return seen, (weights / weights.sum())[:, None]


def sphere_matrix(
    q_per_nm: np.ndarray, edges_nm: np.ndarray, resolution_per_nm: np.ndarray
) -> np.ndarray:
    """<F^2/V> of each bin at each q, (n q, n bins), in nm^3.

    Parameters
    ----------
    q_per_nm
        (n q,), positive.
    edges_nm
        (n bins + 1,), ascending.
    resolution_per_nm
        As in `smeared_q`.

    Notes
    -----
    F^2 turns by q dD over a bin of width dD; Gauss-Legendre of k nodes is exact to 1e-10 for a
    phase of k, so k follows from the widest bin at the largest q.
    """
    seen, q_weights = smeared_q(q_per_nm, resolution_per_nm)
    widest = float(np.max(np.diff(edges_nm)))
    nodes, weights = np.polynomial.legendre.leggauss(4 + math.ceil(0.7 * seen.max() * widest))
    out = np.zeros((q_per_nm.size, edges_nm.size - 1))
    for node, weight in zip(0.5 * (nodes + 1.0), 0.5 * weights, strict=True):
        diameters = edges_nm[:-1] ** (1.0 - node) * edges_nm[1:] ** node
        volumes = math.pi / 6.0 * diameters**3
        for q, share in zip(seen, q_weights[:, 0], strict=True):
            out += weight * share * volumes * _shape(0.5 * q[:, None] * diameters) ** 2
    return out


def _shape(x: np.ndarray) -> np.ndarray:
    """3 (sin x - x cos x) / x^3."""
    small = x < SERIES_BELOW
    safe = np.where(small, 1.0, x)
    closed = 3.0 * (np.sin(safe) - safe * np.cos(safe)) / safe**3
    return np.where(small, 1.0 - x**2 / 10.0 + x**4 / 280.0, closed)


def background_columns(
    q_per_nm: np.ndarray, powerlaw_exponent: float | None, flat: bool
) -> np.ndarray:
    """Columns (n q, k) of a power law and of a constant, in this order, as far as asked for.

    They are not smeared: both are descriptions of what is not spheres, not models of it.
    """
    columns = []
    if powerlaw_exponent is not None:
        columns.append(q_per_nm**-powerlaw_exponent)
    if flat:
        columns.append(np.ones_like(q_per_nm))
    return np.array(columns).reshape(len(columns), q_per_nm.size).T
