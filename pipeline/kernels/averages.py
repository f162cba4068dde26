"""Averages over sizes out of a table of monodisperse curves.

A run's table holds |F|^2 of one shape, averaged over orientations, at sizes D = a sinh u on an
even grid of u (``size_nodes``), each curve smeared once with the resolution of q. The mean over a
distribution of sizes is then a weighted sum of rows, whatever the shape; of 400 rows 30 to 140
matter. On such a grid the rule of trapezoids is spectrally exact for a smooth distribution, so a
wide one needs only every second or fourth row (``choose_stride``). Largest relative error of <F^2>
of spheres, q to 6 1/nm, against the closed form of ``pipeline.kernels.sphere``, and rows used:

=====  ============  ============  ============  ============
s/D    D = 2         D = 4         D = 8         D = 20
=====  ============  ============  ============  ============
0.03   9e-11 (28)    2e-11 (33)    3e-11 (35)    1e-11 (35)
0.06   3e-12 (29)    6e-12 (34)    9e-12 (36)    8e-12 (73)
0.10   9e-13 (49)    2e-13 (62)    1e-12 (67)    7e-13 (140)
0.15   8e-13 (37)    9e-12 (50)    1e-12 (128)   9e-13 (329)
0.20   6e-11 (40)    4e-10 (54)    8e-10 (134)   9e-10 (342)
0.30   3e-6 (45)     5e-6 (59)     5e-6 (145)    5e-6 (362)
=====  ============  ============  ============  ============

From 0.2 on the difference is the tail below D = 0, which the closed form carries on and sizes do
not have.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.distributions import fill_weights

NODE_STEP = 0.0125
"""Of u between rows, D = a sinh u; see the table above."""
SINH_SHARE = 0.7
"""The grid is even in D below this share of the smallest mean, and in ln D above."""
REACH_SIGMA = 7.5
"""The last row lies so many standard deviations above the largest mean."""
LARGEST_STRIDE = 8
"""Rows are taken one in so many at most."""
UPPER_SIGMA = 4.0
"""The step is judged so many standard deviations above the mean, where it is wider."""


def size_nodes(
    lowest_nm: float, highest_nm: float, relative_sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the table's rows (k,), nm, and the widths (k,), nm, that they stand for.

    Parameters
    ----------
    lowest_nm, highest_nm
        Bounds of the mean size.
    relative_sigma
        Largest standard deviation over mean.
    """
    scale = SINH_SHARE * lowest_nm
    last = highest_nm * (1.0 + REACH_SIGMA * relative_sigma)
    u = NODE_STEP * (0.5 + np.arange(1 + math.ceil(math.asinh(last / scale) / NODE_STEP)))
    nodes = scale * np.sinh(u)
    return nodes, NODE_STEP * np.hypot(nodes, scale)


@njit(cache=True, nogil=True)
def choose_stride(nodes, steps, q_max, mean, sigma):
    """Which part of the rows is enough: 1, 2, 4 or 8.

    A grid of step h takes cos(q D) for a slower one unless h < 2 pi/q. What is left over is
    damped by the distribution's width, exp(-(2 pi/h - q)^2 s^2/2): 1e-11 where the bracket is 7/s.
    """
    widest = 2.0 * math.pi / (q_max + 7.0 / sigma)
    at = min(np.searchsorted(nodes, mean + UPPER_SIGMA * sigma), nodes.size - 1)
    stride = 1
    while stride < LARGEST_STRIDE and 2 * stride * steps[at] <= widest:
        stride *= 2
    return stride


@njit(cache=True, nogil=True)
def fill_average(kind, nodes, steps, q_max, table, mean, relative, weights, out):
    """<F^2> over a distribution, and its derivatives at constant s/D and by s/D.

    Parameters
    ----------
    kind
        Code of the distribution, see ``pipeline.kernels.distributions``.
    nodes, steps
        Sizes of the rows (k,), nm, from ``size_nodes``, and NODE_STEP times them.
    q_max
        Largest q of the table, 1/nm.
    table
        |F|^2 at each size (k, n), nm^6.
    mean
        Number mean of the sizes, nm.
    relative
        Their standard deviation over mean.
    weights
        Room for (3, k).
    out
        (3, n), overwritten: <F^2> in nm^6, d/dD at constant s/D in nm^5, d/d(s/D) in nm^6.
    """
    sigma = relative * mean
    stride = choose_stride(nodes, steps, q_max, mean, sigma)
    first, stop = fill_weights(kind, nodes[::stride], steps[::stride], mean, sigma, weights)
    for k in range(first, stop):
        by_mean, by_sigma = weights[1, k], weights[2, k]
        weights[0, k] *= stride
        weights[1, k] = stride * (by_mean + relative * by_sigma)
        weights[2, k] = stride * mean * by_sigma
    out[:] = 0.0
    value, slope, spread = out[0], out[1], out[2]
    k = first
    # Four rows at once: one pass over the output for four of the table.
    while k + 4 <= stop:
        a0, a1, a2, a3 = weights[0, k], weights[0, k + 1], weights[0, k + 2], weights[0, k + 3]
        b0, b1, b2, b3 = weights[1, k], weights[1, k + 1], weights[1, k + 2], weights[1, k + 3]
        c0, c1, c2, c3 = weights[2, k], weights[2, k + 1], weights[2, k + 2], weights[2, k + 3]
        row0, row1 = table[stride * k], table[stride * (k + 1)]
        row2, row3 = table[stride * (k + 2)], table[stride * (k + 3)]
        for i in range(value.size):
            t0, t1, t2, t3 = row0[i], row1[i], row2[i], row3[i]
            value[i] += (a0 * t0 + a1 * t1) + (a2 * t2 + a3 * t3)
            slope[i] += (b0 * t0 + b1 * t1) + (b2 * t2 + b3 * t3)
            spread[i] += (c0 * t0 + c1 * t1) + (c2 * t2 + c3 * t3)
        k += 4
    while k < stop:
        row = table[stride * k]
        for i in range(value.size):
            value[i] += weights[0, k] * row[i]
            slope[i] += weights[1, k] * row[i]
            spread[i] += weights[2, k] * row[i]
        k += 1


@njit(cache=True, nogil=True)
def mean_of(kind, nodes, steps, q_max, values, mean, relative, weights):
    """Mean of a quantity that is known at every size, and its two derivatives.

    As ``fill_average`` for one number per size, e.g. a volume: (value, d/dD at constant s/D,
    d/d(s/D)).
    """
    sigma = relative * mean
    stride = choose_stride(nodes, steps, q_max, mean, sigma)
    first, stop = fill_weights(kind, nodes[::stride], steps[::stride], mean, sigma, weights)
    total = slope = spread = 0.0
    for k in range(first, stop):
        value = stride * values[stride * k]
        total += weights[0, k] * value
        slope += (weights[1, k] + relative * weights[2, k]) * value
        spread += mean * weights[2, k] * value
    return total, slope, spread
