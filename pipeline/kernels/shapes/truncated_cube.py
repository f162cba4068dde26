"""Cube without its corners, averaged over orientations; the size is the cube's edge L.

Model
-----
Each corner is cut by a plane normal to its diagonal, ``truncation`` t of half an edge away from
it along the three edges: t = 0 is the cube, 2 - sqrt 2 has regular octagons, 1 is the
cuboctahedron. The amplitude is the sum over its 24 vertices of ``pipeline.kernels.polyhedron``.

========== ====== ======= =======================================================
parameter  unit   bounds  meaning
========== ====== ======= =======================================================
size       nm     > 0     L, between opposite faces of the cube
truncation 1      0 to 1  share of the edges that is cut off; default 2 - sqrt 2
========== ====== ======= =======================================================

V = (1 - t^3/6) L^3, S = (6 - (3 - sqrt 3) t^2) L^2.
Range of validity: orientations at random, sharp edges. 1e-10 of <F^2> up to q L = 256; Porod's
law beyond. A value of the truncation costs a table (0.1 s or more): it is chosen, not fitted.
Source: of the amplitude, Brion, Ann. sci. Ecole norm. sup. 1988, 21, 653.

Reference values: L = 8 nm, t = 2 - sqrt 2 at q = 0.5, 1.5, 4.0 1/nm: <F^2> = 60129.1088537,
257.80638702, 2.48415329232 nm^6.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from pipeline.kernels.polyhedron import (
    AverageTable,
    Cones,
    average_table,
    cubic_orbit,
    table_end,
    tabulated_averages,
)
from pipeline.kernels.shapes.card import Parameter, ShapeCard


def cones(truncation: float) -> Cones:
    """Of the body of size 1."""
    vertex = (0.5, 0.5, 0.5 * (1.0 - truncation))
    return cubic_orbit(vertex, [[(0, 0, -1), (0, -1, 1), (-1, 0, 1)]])


@lru_cache(maxsize=8)
def _table(truncation: float, x_last: float) -> AverageTable:
    surface = 6.0 - (3.0 - math.sqrt(3.0)) * truncation**2
    volume = unit_volume({"truncation": truncation})
    return average_table(cones(truncation), volume, surface, x_last)


def averages(
    q_per_nm: np.ndarray, size_nm: np.ndarray, parameters: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """<F^2> in nm^6 and <F> in nm^3, both (k, n)."""
    table = _table(parameters["truncation"], table_end(q_per_nm, size_nm))
    return tabulated_averages(q_per_nm, size_nm, table)


def unit_volume(parameters: Mapping[str, float]) -> float:
    """1 - t^3/6."""
    return 1.0 - parameters["truncation"] ** 3 / 6.0


CARD = ShapeCard(
    name="truncated_cube",
    size="distance of opposite faces of the cube",
    source="Brion, Ann. sci. Ecole norm. sup. 1988, 21, 653",
    averages=averages,
    unit_volume=unit_volume,
    parameters=(
        Parameter(
            "truncation",
            "1",
            2.0 - math.sqrt(2.0),
            (0.0, 1.0),
            "share of the edges that is cut off",
        ),
    ),
)
