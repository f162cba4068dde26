"""What an inversion leaves open: covariance, parameters that are settled, what could stand unseen.

At the most probable densities of `pipeline.kernels.inversion`, whose conventions hold here too.
"""

import numpy as np
from numba import njit

from pipeline.kernels.inversion import ORDER, add_penalty, cholesky, curvature
from pipeline.kernels.linear import dot


@njit(cache=True, nogil=True)
def covariance(gram, alpha, bins, held, amplitudes, out):
    """Inverse of H into ``out`` (m, m): of f and the backgrounds; zero for those that are held."""
    m = amplitudes.size
    matrix = np.empty((m, m))
    curvature(gram, alpha, bins, held, amplitudes, matrix)
    cholesky(matrix)
    # Rows of the inverse factor, then its product with itself.
    inverse = np.zeros((m, m))
    for k in range(m):
        inverse[k, k] = 1.0 / matrix[k, k]
        for i in range(k):
            factor = matrix[i, k]
            for j in range(i + 1):
                inverse[k, j] -= factor * inverse[i, j]
        for j in range(k):
            inverse[k, j] /= matrix[k, k]
    out[:] = 0.0
    for k in range(m):
        for i in range(k + 1):
            factor = inverse[k, i]
            for j in range(i + 1):
                out[i, j] += factor * inverse[k, j]
    for i in range(m):
        for j in range(i):
            out[j, i] = out[i, j]
    for j in range(bins, m):
        if held[j - bins]:
            out[j, :] = 0.0
            out[:, j] = 0.0


@njit(cache=True, nogil=True)
def effective_parameters(spread, alpha, bins, held):
    """How many parameters the data settle: all that are free, less alpha tr(C D3^T D3)."""
    penalty = np.zeros((bins, bins))
    add_penalty(penalty, alpha, bins)
    total = float(bins)
    for j in range(held.size):
        if not held[j]:
            total += 1.0
    for i in range(bins):
        for j in range(max(0, i - ORDER), min(bins, i + ORDER + 1)):
            total -= spread[i, j] * penalty[i, j]
    return total


@njit(cache=True, nogil=True)
def unseen(gram, spread, bins, amplitudes, shapes, out):
    """Standard error of the amount of one more population, whatever its place, into ``out``.

    Its amount enters linearly beside all that was fitted, so it may be about zero: what the
    logarithm cannot say of an empty bin. 1/sqrt(g_ee - g_eX C g_Xe), with e the population's
    share in each bin, X the derivatives by the state and C their covariance.

    Parameters
    ----------
    gram, spread, amplitudes
        (m, m), covariance (m, m) and (m,).
    shapes
        (k, bins), the volume of each population that is tried, over the bins.
    out
        (k,), overwritten.
    """
    m = amplitudes.size
    seen = np.empty(m)
    for p in range(shapes.shape[0]):
        own = 0.0
        for i in range(m):
            product = dot(gram[i, :bins], shapes[p])
            if i < bins:
                own += shapes[p, i] * product
                product *= amplitudes[i]
            seen[i] = product
        information = own
        for i in range(m):
            information -= seen[i] * dot(spread[i], seen)
        # Rounding may leave less than nothing of a column that is a mixture of the others.
        out[p] = 1.0 / np.sqrt(max(information, 1e-12 * own, 1e-300))
