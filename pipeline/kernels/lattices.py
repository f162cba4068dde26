"""Reflections of the lattices that equal particles form, as tables.

Every cell here has axes that are orthogonal or hexagonal, so that

    Q = (q / 2 pi)^2 = u c_1 + v c_2 + w c_3,   (u, v, w) = (1/a^2, 1/b^2, 1/c^2)

is linear in what is sought, with integers (thirds, if hexagonal) c of the reflection. Reflections
with the same c coincide whatever the cell is; they are one row here. Its weight is the sum of
|F|^2 / k^2 over them, k particles in the cell, F = sum exp(2 pi i h r): then the powder's

    Z(q) = 2 pi^2 n / q^2  sum weight * profile(q - q_hkl)

holds for every lattice alike with the particles' number density n.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

HIGHEST = 8
"""Indices go so far: fcc needs 6 and hcp 7 at three times the q of its first line."""
LOW = 6
"""Likewise where cells are proposed, for which the lowest lines matter."""
MOST_ANISOTROPIC = 2.0
"""Largest ratio of two edges of a cell. Spheroidal particles with ligands stay below 1.5, and
body-centred tetragonal reaches fcc at 1.41."""
HCP_FREEDOM = 0.04
"""Share by which c/a of hcp may differ from its ideal value. Colloids stay within 2 %."""
HCP_IDEAL = math.sqrt(8.0 / 3.0)
DENSEST = math.pi / math.sqrt(18.0)
"""Packing fraction of equal spheres, at most (Hales, Ann. Math. 162 (2005) 1065)."""
FIRST = 5
"""A seed's reflections are among so many first ones of some cell: two of them may be too weak."""

Basis = tuple[tuple[float, float, float], ...]

_CORNER = ((0.0, 0.0, 0.0),)
_BODY = (*_CORNER, (0.5, 0.5, 0.5))
_BASE = (*_CORNER, (0.5, 0.5, 0.0))
_FACES = (*_BASE, (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))
_HEXAGONAL = (*_CORNER, (1 / 3, 2 / 3, 0.5))

LIKENESSES = {
    "tetragonal_p": ((0, 1, 1.0),),
    # bcc, and fcc at c/a = sqrt(2).
    "tetragonal_i": ((0, 1, 1.0), (0, 1, 2.0)),
    "orthorhombic_p": ((0, 1, 1.0), (1, 2, 1.0)),
    # The last: a = b sqrt(3) is hexagonal.
    "orthorhombic_c": ((0, 1, 1.0), (0, 1, 3.0)),
    "orthorhombic_i": ((0, 1, 1.0), (1, 2, 1.0)),
    "orthorhombic_f": ((0, 1, 1.0), (1, 2, 1.0)),
}
"""Where a cell is one of higher symmetry, by column."""


class Lattice(NamedTuple):
    """One kind of lattice.

    ``forms`` (r, 3) are the c of its reflections and ``weight`` (r,) their weights; the first
    ``low`` of them go up to LOW. ``free``
    parameters of (u, v, w) are free. ``seeds`` (s, free) are sets of low rows which settle them,
    ``inverses`` (s, free, free) solve them. ``least`` and ``most`` (2,) bound u/v and u/w
    (where free), and ``ascending`` edges exclude a cell's permutations: 3 all, 2 a and b, 1 none.
    ``shape_volume`` is the volume of the logarithms of the ratios of edges that these leave.
    ``edges`` says which of u, v, w each of a, b, c comes from. A neighbour's squared distance is
    steps_1 / u + steps_2 / v + steps_3 / w with one row of ``steps`` (m, 3), and ``unit_volume`` is
    the volume per particle over a b c; 0 in a stack, whose sheets have no known inside.
    A row (i, j, ratio) of ``likenesses`` (d, 3) says that the cell has a higher symmetry where the
    i-th of u, v, w is ``ratio`` times the j-th.
    """

    name: str
    column: str
    free: int
    forms: np.ndarray
    weight: np.ndarray
    low: int
    seeds: np.ndarray
    inverses: np.ndarray
    least: np.ndarray
    most: np.ndarray
    ascending: int
    shape_volume: float
    edges: tuple[int, int, int]
    steps: np.ndarray
    unit_volume: float
    likenesses: np.ndarray


Form = Callable[[np.ndarray], list[np.ndarray]]
"""From h, k, l (3, n) to as many forms (n,) as edges are free."""


def _cubic(hkl: np.ndarray) -> list[np.ndarray]:
    return [np.sum(hkl**2, axis=0)]


def _tetragonal(hkl: np.ndarray) -> list[np.ndarray]:
    return [hkl[0] ** 2 + hkl[1] ** 2, hkl[2] ** 2]


def _orthorhombic(hkl: np.ndarray) -> list[np.ndarray]:
    return list(hkl**2)


def _hexagonal(hkl: np.ndarray) -> list[np.ndarray]:
    return [4.0 / 3.0 * (hkl[0] ** 2 + hkl[0] * hkl[1] + hkl[1] ** 2), hkl[2] ** 2]


def _stacked(hkl: np.ndarray) -> list[np.ndarray]:
    # Sheets without order within them have reflections along their normal only.
    return [np.where((hkl[0] == 0) & (hkl[1] == 0), hkl[2] ** 2, 0)]


def reflections(form: Form, basis: Basis) -> tuple[np.ndarray, np.ndarray]:
    """Forms (r, 3) and weights (r,) of all that is not extinct, by rising sum of the form."""
    index = np.arange(-HIGHEST, HIGHEST + 1)
    hkl = np.stack(np.meshgrid(index, index, index, indexing="ij")).reshape(3, -1)
    amplitude = np.exp(2j * np.pi * (np.array(basis) @ hkl)).sum(axis=0)
    square = np.abs(amplitude) ** 2 / len(basis) ** 2
    forms = np.zeros((hkl.shape[1], 3))
    for column, values in enumerate(form(hkl)):
        forms[:, column] = values
    total = forms.sum(axis=1)
    # Whole shells only: further out some reflections of equal Q are missing.
    kept = (square > 1e-9) & (total > 0) & (total <= HIGHEST**2)
    rows, where = np.unique(np.round(forms[kept], 9), axis=0, return_inverse=True)
    weight = np.bincount(where.ravel(), square[kept])
    order = np.argsort(rows.sum(axis=1), kind="stable")
    return rows[order], weight[order]


def _seeds(
    forms: np.ndarray, free: int, cells: list[tuple[float, float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Sets of rows that are independent and among the first ones of some cell; their inverses."""
    found: set[tuple[int, ...]] = set()
    for edges in cells:
        square = forms @ (1.0 / np.square(edges))
        first = np.argsort(square, kind="stable")[:FIRST]
        found.update(itertools.combinations(first.tolist(), free))
    seeds, inverses = [], []
    for rows in sorted(found):
        matrix = forms[list(rows), :free]
        if abs(np.linalg.det(matrix)) > 1e-6:
            seeds.append(rows)
            inverses.append(np.linalg.inv(matrix))
    return np.array(seeds, dtype=np.int64), np.array(inverses)


def _lattice(
    name: str,
    column: str,
    tables: tuple[np.ndarray, np.ndarray],
    basis: Basis,
    free: int,
    ascending: int = 1,
    ratio: tuple[float, float] = (1.0, 1.0),
) -> Lattice:
    """A kind of lattice; ``ratio`` bounds c/a of cells with two free edges."""
    r = MOST_ANISOTROPIC
    grid = np.geomspace(1.0, r, 16)
    least, most, volume = np.ones(2), np.ones(2), 1.0
    cells = [(1.0, 1.0, 1.0)]
    if free == 2:
        least[:], most[:] = ratio[0] ** 2, ratio[1] ** 2
        cells = [(1.0, c, 1.0) for c in np.geomspace(*ratio, 31)]
        volume = math.log(ratio[1] / ratio[0])
    elif free == 3:
        most[:] = r * r
        cells = [(1.0, b, c) for b in grid for c in grid if c >= b]
        volume = 0.5 * math.log(r) ** 2
        if ascending == 2:
            least[1] = 1.0 / (r * r)
            cells = [(1.0, b, c) for b in grid for c in (*grid, *1.0 / grid[1:])]
            volume = 2.0 * math.log(r) ** 2
    forms, weight = tables
    seeds, inverses = _seeds(forms, free, cells)
    low = int(np.count_nonzero(forms.sum(axis=1) <= LOW**2))
    edges = {1: (0, 0, 0), 2: (0, 0, 1), 3: (0, 1, 2)}[free]
    unit = 0.0 if name == "stack" else (math.sqrt(0.75) if name == "hcp" else 1.0) / len(basis)
    return Lattice(
        name, column, free, forms, weight, low, seeds, inverses, least, most, ascending, volume,
        edges, _steps(name, basis, edges), unit,
        np.array(LIKENESSES.get(column, ())).reshape(-1, 3),
    )  # fmt: skip


def _steps(name: str, basis: Basis, edges: tuple[int, int, int]) -> np.ndarray:
    """Squared distances from the first particle (all are alike) as forms of the free edges."""
    if name == "stack":
        return np.array([[1.0, 0.0, 0.0]])
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=3)), dtype=float)
    x, y, z = (steps[:, None, :] + np.array(basis)[None, :, :]).reshape(-1, 3).T
    along = np.stack([x * x, y * y, z * z], axis=1)
    if name == "hcp":
        # a and b enclose 120 degrees.
        along = np.stack([x * x + y * y - x * y, 0 * x, z * z], axis=1)
    forms = np.zeros_like(along)
    for edge, parameter in enumerate(edges):
        forms[:, parameter] += along[:, edge]
    rows = np.unique(np.round(forms, 9), axis=0)
    # Only what can be nearest in some cell: no other step is shorter along every edge.
    rows = rows[rows.sum(axis=1) > 0]
    nearer = [np.any(np.all(rows <= row, axis=1) & np.any(rows < row, axis=1)) for row in rows]
    return rows[~np.array(nearer)]


@functools.cache
def lattices() -> tuple[Lattice, ...]:
    """All kinds of lattice that are told from each other, a stack of sheets first."""
    square = (1.0 / MOST_ANISOTROPIC, MOST_ANISOTROPIC)
    hexagonal = (HCP_IDEAL * (1.0 - HCP_FREEDOM), HCP_IDEAL * (1.0 + HCP_FREEDOM))
    forms, weight = reflections(_stacked, _CORNER)
    kinds = [_lattice("stack", "stack", (forms, weight), _CORNER, 1)]
    for name, basis in (("sc", _CORNER), ("bcc", _BODY), ("fcc", _FACES)):
        kinds.append(_lattice(name, name, reflections(_cubic, basis), basis, 1))
    tables = reflections(_hexagonal, _HEXAGONAL)
    kinds.append(_lattice("hcp", "hcp", tables, _HEXAGONAL, 2, ratio=hexagonal))
    for centring, letter, basis in (("primitive", "p", _CORNER), ("body-centred", "i", _BODY)):
        name = f"{centring} tetragonal"
        tables = reflections(_tetragonal, basis)
        kinds.append(_lattice(name, f"tetragonal_{letter}", tables, basis, 2, ratio=square))
    for centring, letter, basis in (
        ("primitive", "p", _CORNER),
        ("base-centred", "c", _BASE),
        ("body-centred", "i", _BODY),
        ("face-centred", "f", _FACES),
    ):
        name = f"{centring} orthorhombic"
        tables = reflections(_orthorhombic, basis)
        ascending = 2 if letter == "c" else 3
        kinds.append(_lattice(name, f"orthorhombic_{letter}", tables, basis, 3, ascending))
    return tuple(kinds)


@functools.cache
def fcc_with_hcp() -> tuple[Lattice, np.ndarray, np.ndarray]:
    """Close-packed layers of both stackings: the lattice, and each one's weights (r,).

    Both have the same layers at the same distance, so fcc's edge a is free alone: hcp's is
    a / sqrt(2), at the ideal c/a. Its forms come in units of fcc's.
    """
    cubic, in_cubic = reflections(_cubic, _FACES)
    hexagonal, in_hexagonal = reflections(_hexagonal, _HEXAGONAL)
    # 1/a_hcp^2 = 2 / a^2 and 1/c^2 = 3/4 / a^2.
    along = np.round(2.0 * hexagonal[:, 0] + 0.75 * hexagonal[:, 1], 9)
    # hcp's table is whole as far as its l is: 0.75 * 8^2.
    near = along <= 0.75 * HIGHEST**2
    both = np.concatenate([cubic[:, 0], along[near]])
    squares, where = np.unique(both, return_inverse=True)
    fcc = np.bincount(where[: len(cubic)], in_cubic, squares.size)
    hcp = np.bincount(where[len(cubic) :], in_hexagonal[near], squares.size)
    kept = squares <= 0.75 * HIGHEST**2
    forms = np.stack([squares[kept], 0 * squares[kept], 0 * squares[kept]], axis=1)
    lattice = _lattice("fcc+hcp", "fcc_hcp", (forms, fcc[kept] + hcp[kept]), _FACES, 1)
    return lattice, fcc[kept], hcp[kept]
