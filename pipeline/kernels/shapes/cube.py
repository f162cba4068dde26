"""Cube, averaged over orientations; the size is the edge L.

Model
-----
In a direction u the amplitude is F = L^3 product over x, y, z of sin(q L u_i/2)/(q L u_i/2),
volume in it; here as the sum over vertices of ``pipeline.kernels.polyhedron``, which is the same
and is averaged and tabulated there.

========== ====== ======= =========================================
parameter  unit   bounds  meaning
========== ====== ======= =========================================
size       nm     > 0     edge
========== ====== ======= =========================================

Range of validity: orientations at random, sharp edges. 1e-10 of <F^2> up to q L = 256; Porod's
law beyond. The edge of a sphere of the same volume's diameter D is 0.806 D.
Source: Mittelbach and Porod, Acta Phys. Austriaca 1961, 14, 185.

Reference values: L = 8 nm at q = 0.5, 1.5, 4.0 1/nm: <F^2> = 60608.489482, 249.288727123,
2.21557448615 nm^6.
"""

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


def cones() -> Cones:
    """Of the body of size 1."""
    return cubic_orbit((0.5, 0.5, 0.5), [[(-1, 0, 0), (0, -1, 0), (0, 0, -1)]], turns=1)


@cache
def _table(x_last: float) -> AverageTable:
    return average_table(cones(), 1.0, 6.0, x_last)


def averages(
    q_per_nm: np.ndarray, size_nm: np.ndarray, parameters: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """<F^2> in nm^6 and <F> in nm^3, both (k, n)."""
    table = _table(table_end(q_per_nm, size_nm))
    return tabulated_averages(q_per_nm, size_nm, table)


def unit_volume(parameters: Mapping[str, float]) -> float:
    """1: the edge cubed."""
    return 1.0


CARD = ShapeCard(
    name="cube",
    size="edge",
    source="Mittelbach and Porod, Acta Phys. Austriaca 1961, 14, 185",
    averages=averages,
    unit_volume=unit_volume,
)
