"""Rhombicuboctahedron, averaged over orientations; the size is between opposite square faces.

Model
-----
A cube of edge L whose edges and corners are cut so that 6 + 12 squares and 8 triangles of one
edge a = L/(1 + sqrt 2) are left: the quasi-sphere of CsPbBr3 in Nano Lett. 2023, 23, 667. The
amplitude is the sum over its 24 vertices of ``pipeline.kernels.polyhedron``, exact in each
direction; the four edges that meet in a vertex make two cones.

========== ====== ======= =========================================
parameter  unit   bounds  meaning
========== ====== ======= =========================================
size       nm     > 0     L, between opposite faces of the cube
========== ====== ======= =========================================

V = (12 + 10 sqrt 2)/3 a^3 = 0.6193 L^3, S = (18 + 2 sqrt 3) a^2. The sphere of the same volume
has D = 1.0575 L.
Range of validity: orientations at random, sharp edges. 1e-10 of <F^2> up to q L = 256; Porod's
law beyond.
Source: of the amplitude, Brion, Ann. sci. Ecole norm. sup. 1988, 21, 653.

Reference values: L = 8 nm at q = 0.5, 1.5, 4.0 1/nm: <F^2> = 38285.07172, 527.321375309,
1.65905101376 nm^6.
"""

import math
from collections.abc import Mapping
from functools import cache

import numpy as np

from pipeline.kernels.polyhedron import (
    AverageTable,
    Cones,
    average_table,
    cubic_orbit,
    table_end,
    tabulated_averages,
)
from pipeline.kernels.shapes.card import ShapeCard

EDGE = 1.0 / (1.0 + math.sqrt(2.0))
"""Of the body of size 1."""


def cones() -> Cones:
    """Of the body of size 1."""
    half = 0.5 * EDGE
    along_x, along_y, to_x, to_y = (-1, 0, 0), (0, -1, 0), (1, 0, -1), (0, 1, -1)
    # In the order around the vertex: along x, along y, to x, to y.
    return cubic_orbit((half, half, 0.5), [[along_x, along_y, to_x], [along_x, to_x, to_y]])


@cache
def _table(x_last: float) -> AverageTable:
    surface = (18.0 + 2.0 * math.sqrt(3.0)) * EDGE**2
    return average_table(cones(), unit_volume({}), surface, x_last)


def averages(
    q_per_nm: np.ndarray, size_nm: np.ndarray, parameters: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """<F^2> in nm^6 and <F> in nm^3, both (k, n)."""
    table = _table(table_end(q_per_nm, size_nm))
    return tabulated_averages(q_per_nm, size_nm, table)


def unit_volume(parameters: Mapping[str, float]) -> float:
    """(12 + 10 sqrt 2)/3 a^3 at L = 1."""
    return (12.0 + 10.0 * math.sqrt(2.0)) / 3.0 * EDGE**3


CARD = ShapeCard(
    name="rhombicuboctahedron",
    size="distance of opposite square faces of the cube",
    source="Brion, Ann. sci. Ecole norm. sup. 1988, 21, 653",
    averages=averages,
    unit_volume=unit_volume,
)
