"""Polyhedra with the symmetry of the cube: averages over orientations, tabulated once.

Amplitude
---------
Brion's theorem: the integral of exp(i q u.r) over a convex body is a sum over its vertices v,
each of whose edge cones is split into cones of three edges e::

    F(q u) = sum over cones |det(e1, e2, e3)| exp(i q u.v) / [i q^3 (u.e1) (u.e2) (u.e3)]

It is exact. A body with a centre of symmetry keeps sin(q u.v) alone, so that for a direction u
only these sines depend on q. Source: Brion, Ann. sci. Ecole norm. sup. 1988, 21, 653; the same
sum as by faces and edges in Wuttke, J. Appl. Cryst. 2021, 54, 580.

The zeros of u.e lie on the mirror planes of the cube for all bodies here, hence on the border of
the domain of directions averaged over, u ~ (1, a, b) with 0 <= b <= a <= 1, where
d(direction) = da db/(1 + a^2 + b^2)^(3/2). Gauss-Legendre nodes in a and b/a stay inside.

Table
-----
For one size F depends on x = q size alone. <F^2>/V^2 and <F>/V are kept as Chebyshev series
over blocks of x, of x^2 in the first block because both are even.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.polynomial.legendre import leggauss

BLOCK = 8.0
"""Length of a block in x = q size."""

TERMS = 20
"""Chebyshev terms in a block. Largest relative error of <F^2> that they leave:

======================  ======  ======  ======
terms                   16      20      24
======================  ======  ======  ======
cube                    6e-8    6e-11   1e-13
rhombicuboctahedron     4e-8    7e-12   1e-13
======================  ======  ======  ======
"""

X_LAST = 256.0
"""Where the longest table ends. Beyond, <F^2> is Porod's 2 pi S/q^4 and <F> is zero.

Parallel faces keep <F^2> undulating about that law as 1 - cos(q size) for a cube, at any q; sizes
that spread by 3 % have averaged that away at x = 256 (exp(-(256 * 0.03)^2/2) = 1e-13).
"""

ORDER_AT_ZERO, ORDER_PER_PHASE = 16, 0.55
"""Nodes in each of two angles: 16 + 0.55 x r, r the largest radius of the body of size 1.

Largest relative error of <F^2> over the 3 before x, for a cube (r = 0.87), against 0.8 x r nodes
and at least 40:

=========  ======  ======  ======  ======  ======  ======
x          8       16      32      64      128     256
=========  ======  ======  ======  ======  ======  ======
16 + 0.45  2e-14   1e-14   3e-11   6e-9    5e-7    4e-7
16 + 0.55  2e-14   2e-14   3e-13   3e-11   3e-11   4e-12
12 + 0.60  9e-14   6e-13   3e-11   2e-11   2e-12   2e-13
=========  ======  ======  ======  ======  ======  ======

At small x the sum over vertices cancels: it errs by 1e-12 at 0.2 and 1e-11 at 0.05. The table
asks for nothing below 0.31.
"""


@dataclass(frozen=True)
class Cones:
    """Edge cones of half of a body's vertices, those that no inversion relates; size 1.

    ``vertices`` (v, 3); ``edges`` (v, c, 3, 3), three edges of each of the c cones of a vertex, of
    any length.
    """

    vertices: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class AverageTable:
    """<F^2>/V^2 and <F>/V over x: Chebyshev coefficients (blocks, TERMS); V and S at size 1."""

    squared: np.ndarray
    mean: np.ndarray
    volume: float
    surface: float


def cubic_orbit(vertex: tuple[float, float, float], cones: list, turns: int = 3) -> Cones:
    """Images of a vertex and its cones by ``turns`` rotations about (111) and changes of sign.

    That is every vertex once where two of its coordinates are equal; with one turn, where all
    three are.
    """
    corner, edges = np.array(vertex, float), np.array(cones, float)
    corners, fans = [], []
    for turn in range(turns):
        for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, 1)):
            corners.append(np.roll(corner, turn) * signs)
            fans.append(np.roll(edges, turn, axis=-1) * signs)
    return Cones(np.array(corners), np.array(fans))


def directions(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (order^2, 3) within one 48th of the sphere, and weights that add up to 1."""
    nodes, weights = leggauss(order)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    a, t = np.meshgrid(nodes, nodes, indexing="ij")
    b = a * t
    length = np.sqrt(1.0 + a * a + b * b)
    units = np.stack([np.ones_like(a), a, b], axis=-1) / length[..., None]
    area = np.outer(weights, weights) * a / length**3
    return units.reshape(-1, 3), area.ravel() * (48.0 / (4.0 * math.pi))


@njit(cache=True, nogil=True)
def orientation_averages(x, units, weights, vertices, edges, squared, mean):
    """<F^2> and <F> of the body of size 1 at ``x`` (m,), positive, into ``squared`` and ``mean``.

    Arguments after ``x`` are those of ``directions`` and ``Cones``.
    """
    squared[:] = 0.0
    mean[:] = 0.0
    count = vertices.shape[0]
    phase, factor = np.empty(count), np.empty(count)
    for d in range(units.shape[0]):
        u0, u1, u2 = units[d, 0], units[d, 1], units[d, 2]
        for v in range(count):
            phase[v] = u0 * vertices[v, 0] + u1 * vertices[v, 1] + u2 * vertices[v, 2]
            factor[v] = 0.0
            for c in range(edges.shape[1]):
                e = edges[v, c]
                volume = (
                    e[0, 0] * (e[1, 1] * e[2, 2] - e[1, 2] * e[2, 1])
                    - e[0, 1] * (e[1, 0] * e[2, 2] - e[1, 2] * e[2, 0])
                    + e[0, 2] * (e[1, 0] * e[2, 1] - e[1, 1] * e[2, 0])
                )
                product = 1.0
                for j in range(3):
                    product *= u0 * e[j, 0] + u1 * e[j, 1] + u2 * e[j, 2]
                factor[v] += 2.0 * abs(volume) / product
        for i in range(x.size):
            total = 0.0
            for v in range(count):
                total += factor[v] * math.sin(x[i] * phase[v])
            total /= x[i] ** 3
            squared[i] += weights[d] * total * total
            mean[i] += weights[d] * total


@njit(cache=True, nogil=True)
def read_table(x, block, squared_series, mean_series, porod, squared, mean):
    """<F^2>/V^2 and <F>/V at ``x`` (m,), into ``squared`` and ``mean``, by Clenshaw's sum."""
    blocks, terms = squared_series.shape
    for i in range(x.size):
        position = x[i] / block
        if not position < blocks:
            squared[i] = porod / x[i] ** 4
            mean[i] = 0.0
            continue
        row = int(position)
        t = 2.0 * position * position - 1.0 if row == 0 else 2.0 * (position - row) - 1.0
        s1 = s2 = m1 = m2 = 0.0
        for k in range(terms - 1, 0, -1):
            s1, s2 = squared_series[row, k] + 2.0 * t * s1 - s2, s1
            m1, m2 = mean_series[row, k] + 2.0 * t * m1 - m2, m1
        squared[i] = squared_series[row, 0] + t * s1 - s2
        mean[i] = mean_series[row, 0] + t * m1 - m2


def table_end(q_per_nm: np.ndarray, size_nm: np.ndarray) -> float:
    """End of the shortest table for these sizes at these q: 64, 128 or X_LAST.

    Making one takes a time as its end cubed. Blocks that two tables share are equal bit by bit.
    """
    largest = np.max(size_nm) * np.max(q_per_nm)
    return next((end for end in (64.0, 128.0) if largest < end), X_LAST)


def average_table(cones: Cones, volume: float, surface: float, x_last: float) -> AverageTable:
    """Tabulate a body of size 1 up to ``x_last``: 0.2 s to 128, 0.7 s to 256, for 24 vertices."""
    blocks = round(x_last / BLOCK)
    angle = np.pi * (np.arange(TERMS) + 0.5) / TERMS
    transform = np.cos(np.outer(np.arange(TERMS), angle)) * (2.0 / TERMS)
    transform[0] *= 0.5
    radius = np.sqrt((cones.vertices**2).sum(axis=1).max())
    values = np.empty((2, TERMS))
    series = np.empty((2, blocks, TERMS))
    for row in range(blocks):
        end = (row + 1) * BLOCK
        t = 0.5 * (np.cos(angle) + 1.0)
        x = BLOCK * np.sqrt(t) if row == 0 else BLOCK * (row + t)
        units, weights = directions(ORDER_AT_ZERO + int(ORDER_PER_PHASE * radius * end))
        orientation_averages(x, units, weights, cones.vertices, cones.edges, values[0], values[1])
        values[0] /= volume**2
        values[1] /= volume
        series[:, row] = (transform * values[:, None, :]).sum(axis=2)
    return AverageTable(series[0], series[1], volume, surface)


def tabulated_averages(
    q_per_nm: np.ndarray, size_nm: np.ndarray, table: AverageTable
) -> tuple[np.ndarray, np.ndarray]:
    """<F^2> in nm^6 and <F> in nm^3, both (k, n), of sizes (k,) at q (n,)."""
    x = np.multiply.outer(size_nm, q_per_nm)
    squared, mean = np.empty(x.shape), np.empty(x.shape)
    porod = 2.0 * math.pi * table.surface / table.volume**2
    read_table(x.ravel(), BLOCK, table.squared, table.mean, porod, squared.ravel(), mean.ravel())
    volume = (table.volume * size_nm**3)[:, None]
    return squared * volume**2, mean * volume
