"""Which lattice the lines of one structure factor are of: the evidence of each, and its cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config.lattice import LatticeAnalysis
from pipeline.kernels.indexing import propose, unrelated, weigh
from pipeline.kernels.lattices import (
    DENSEST,
    Lattice,
    cell_volume_nm3,
    fcc_with_hcp,
    lattices,
    shortest_vector,
)
from pipeline.messages import FormFactor, Line, StructureFactor

MOST_LINES = 16
"""Lines that are indexed, the strongest: further ones are weak and many."""
LEAD = 6
"""Lines from which cells are made: three of the lowest six are the lattice's own and low."""
CELLS = 6
"""Proposals of each lattice that are refined and weighed."""
LIMITS = 256
"""Points of the grid of the least area that is found."""
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of hcp in a mixture, each as probable as the others."""
BY_CHANCE = 0.7
"""Ratio of the geometric law of how many lines there are without a lattice: 2.3 on average."""
GAUSSIAN_AREA = math.sqrt(math.pi / (4.0 * math.log(2.0)))
"""Area of a Gaussian over height x fwhm."""
GAUSSIAN_SQUARE = math.sqrt(math.pi / (8.0 * math.log(2.0)))
"""Integral of its square over height^2 x fwhm."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Where lines are found, and how well.

    ``merge_per_nm`` is the width of lines, nearer than which two are one. ``limits`` (LIMITS,) is
    ln of the least area that is found, on an even grid over the window.
    """

    low_per_nm: float
    high_per_nm: float
    merge_per_nm: float
    limits: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class LinesIn:
    """Lines by rising q, as arrays: places with all errors, ln of areas with relative errors."""

    lines: tuple[Line, ...]
    q_per_nm: np.ndarray
    error_per_nm: np.ndarray
    log_area: np.ndarray
    area_error: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One lattice with its best cell: edges (3,) with the covariance of their logarithms (3, 3).

    ``indexed_q_per_nm`` is where each line (n,) should be, NaN for unexplained ones. ``predicted``
    counts reflections up to the last of them. ``probability`` is that of the lattice, all its cells
    together. ``share`` is of hcp in a mixture.
    """

    lattice: Lattice
    edges_nm: tuple[float, float, float]
    log_covariance: np.ndarray
    indexed_q_per_nm: np.ndarray
    lines_absent: int
    predicted: int
    log_evidence: float
    probability: float = math.nan
    share: float = math.nan


def lines_in(lines: Sequence[Line], settings: LatticeAnalysis) -> LinesIn:
    """The lines that can be indexed: with a place, an error and an area; the strongest ones."""
    kept = [
        line
        for line in lines
        if line.q_per_nm > 0 and math.isfinite(line.q_per_nm_err) and line.area > 0
    ]
    kept = sorted(kept, key=lambda line: -line.sigmas)[:MOST_LINES]
    kept.sort(key=lambda line: line.q_per_nm)
    q = np.array([line.q_per_nm for line in kept])
    own = np.array([line.q_per_nm_err for line in kept])
    width = np.nan_to_num([line.fwhm_per_nm for line in kept])
    area = np.array([line.area for line in kept])
    with np.errstate(invalid="ignore"):
        relative = np.array([line.area_err for line in kept]) / area
    return LinesIn(
        lines=tuple(kept),
        q_per_nm=q,
        error_per_nm=np.sqrt(
            own**2 + (settings.position_floor * q) ** 2 + (settings.width_share * width) ** 2
        ),
        log_area=np.log(area),
        area_error=np.clip(np.nan_to_num(relative, nan=1.0), 0.0, 1.0),
    )


def window_of(
    structure: StructureFactor, lines: LinesIn, settings: LatticeAnalysis
) -> Window | None:
    """The range of S(q) and the least area that is found along it; None where there is no S(q)."""
    usable = np.isfinite(structure.structure_factor) & (structure.sigma > 0)
    if np.count_nonzero(usable) < 2 or not lines.lines:
        return None
    q, sigma = structure.q_per_nm[usable], structure.sigma[usable]
    step = float(np.median(np.diff(structure.q_per_nm)))
    widths = [line.fwhm_per_nm for line in lines.lines if line.fwhm_per_nm > 0]
    width = max(float(np.median(widths)) if widths else 0.0, 2.0 * step)
    height = sigma / math.sqrt(GAUSSIAN_SQUARE * width / step)
    # What the finder's own errors say over this: it also has a slope to fit, and more.
    factors = [
        line.height / line.sigmas / float(np.interp(line.q_per_nm, q, height))
        for line in lines.lines
        if line.sigmas > 0 and line.height > 0
    ]
    factor = max(float(np.median(factors)) if factors else 1.0, 1.0)
    height = np.maximum(settings.line_sigma * factor * height, settings.least_height)
    grid = np.linspace(q[0], q[-1], LIMITS)
    limits = np.log(np.interp(grid, q, height) * GAUSSIAN_AREA * width)
    # Between points far apart nothing is found.
    after = np.clip(np.searchsorted(q, grid), 1, q.size - 1)
    limits[q[after] - q[after - 1] > max(width, 2.0 * step)] = math.inf
    return Window(float(q[0]), float(q[-1]), width, limits)


def candidates(
    lines: LinesIn, window: Window, core: FormFactor, settings: LatticeAnalysis
) -> tuple[list[Cell], float]:
    """Every lattice that indexes lines, with its best cell, and the probability of none.

    All lattices are as probable as each other before, and as none, but for those whose cores do
    not fit.
    """
    found: list[Cell] = []
    for lattice in lattices():
        if best := _best(_cells(lattice, lines, window, core, settings)):
            found.append(best)
    mixed, fcc, hcp = fcc_with_hcp()
    of_mixture: list[Cell] = []
    cells = _proposals(mixed, lines, window)
    for share in SHARES:
        weight = (1.0 - share) * fcc + share * hcp
        of_mixture += [
            each
            for cell in cells
            if (each := _weighed(mixed, weight, cell, lines, window, core, settings, share))
        ]
    if best := _best(of_mixture, len(SHARES)):
        found.append(best)
    log_none = unrelated(len(lines.lines), BY_CHANCE)
    top = max([log_none, *(cell.log_evidence for cell in found)])
    none = math.exp(log_none - top)
    odds = [math.exp(cell.log_evidence - top) for cell in found]
    total = none + sum(odds)
    settled = [
        replace(cell, probability=odd / total) for cell, odd in zip(found, odds, strict=True)
    ]
    return settled, none / total


def _best(cells: list[Cell], chances: int = 1) -> Cell | None:
    """The best cell of a lattice with the evidence of all different ones, a mean over chances."""
    if not cells:
        return None
    different: list[Cell] = []
    for cell in sorted(cells, key=lambda each: -each.log_evidence):
        if all(
            cell.share != other.share
            or max(abs(math.log(a / b)) for a, b in zip(cell.edges_nm, other.edges_nm, strict=True))
            > 1e-4
            for other in different
        ):
            different.append(cell)
    best = different[0]
    total = sum(math.exp(cell.log_evidence - best.log_evidence) for cell in different) / chances
    return replace(best, log_evidence=best.log_evidence + math.log(total))


def _proposals(lattice: Lattice, lines: LinesIn, window: Window) -> list[np.ndarray]:
    scale = 1.0 / (4.0 * math.pi**2)
    cells, scores = np.zeros((CELLS, 3)), np.empty(CELLS)
    width = window.high_per_nm - window.low_per_nm
    gain = np.log(width / (math.sqrt(2.0 * math.pi) * lines.error_per_nm))
    propose(
        lines.q_per_nm**2 * scale,
        2.0 * lines.q_per_nm * lines.error_per_nm * scale,
        gain,
        LEAD,
        (window.low_per_nm**2 * scale, window.high_per_nm**2 * scale),
        lattice.forms, lattice.seeds, lattice.inverses, lattice.least, lattice.most,
        lattice.ascending, cells, scores,
    )  # fmt: skip
    return [cell for cell, score in zip(cells, scores, strict=True) if score > -math.inf]


def _cells(
    lattice: Lattice, lines: LinesIn, window: Window, core: FormFactor, settings: LatticeAnalysis
) -> list[Cell]:
    found = (
        _weighed(lattice, lattice.weight, cell, lines, window, core, settings)
        for cell in _proposals(lattice, lines, window)
    )
    return [cell for cell in found if cell is not None]


def _weighed(
    lattice: Lattice,
    weight: np.ndarray,
    proposal: np.ndarray,
    lines: LinesIn,
    window: Window,
    core: FormFactor,
    settings: LatticeAnalysis,
    share: float = math.nan,
) -> Cell | None:
    """A proposed cell refined; None where the lines do not settle it or it leaves its range."""
    count = len(lines.lines)
    cell, covariance = proposal.copy(), np.zeros((3, 3))
    of_line, indexed = np.empty(count, dtype=np.int64), np.empty(count)
    counts = np.zeros(4, dtype=np.int64)
    log_evidence = weigh(
        lines.q_per_nm, lines.error_per_nm, lines.log_area, lines.area_error, window.limits,
        (window.low_per_nm, window.high_per_nm), window.merge_per_nm, settings.area_scatter,
        settings.unexplained_ratio, lattice.free, lattice.forms, weight, cell, covariance,
        of_line, indexed, counts,
    )  # fmt: skip
    if not log_evidence > -math.inf:
        return None
    free = lattice.free
    scale_volume = math.log(window.high_per_nm / window.low_per_nm)
    log_evidence -= math.log(scale_volume * lattice.shape_volume)
    # d ln(edge) = -du / (2 u), and cells that have fewer free edges repeat them.
    where = {1: (0, 0, 0), 2: (0, 0, 1), 3: (0, 1, 2)}[free]
    jacobian = np.zeros((3, 3))
    for edge, parameter in enumerate(where):
        jacobian[edge, parameter] = -0.5 / cell[parameter]
    z2 = ((lines.q_per_nm - indexed) / lines.error_per_nm) ** 2
    spare = int(counts[0]) - free
    # Lines further off than their errors say make the cell less certain, not more.
    excess = max(1.0, float(np.nansum(z2)) / spare) if spare > 0 else 1.0
    a, b, c = (1.0 / math.sqrt(cell[parameter]) for parameter in where)
    found = Cell(
        lattice=lattice,
        edges_nm=(a, b, c),
        log_covariance=excess * np.einsum("ij,jk,lk->il", jacobian, covariance, jacobian),
        indexed_q_per_nm=indexed,
        lines_absent=int(counts[2]),
        predicted=int(counts[3]),
        log_evidence=log_evidence,
        share=share,
    )
    return replace(found, log_evidence=log_evidence + math.log(_room(found, core, settings)))


def nearest_nm(cell: Cell) -> tuple[float, float]:
    """Distance of nearest neighbours (of sheets, in a stack) and its error."""
    if cell.lattice.name == "stack":
        return cell.edges_nm[0], cell.edges_nm[0] * math.sqrt(cell.log_covariance[0, 0])
    x, y, z = shortest_vector(cell.lattice, cell.edges_nm)
    squares = np.array([x * x, y * y, z * z])
    if cell.lattice.name == "hcp":
        squares = np.array([x * x + y * y, 0.0, z * z])
    distance = math.sqrt(float(squares.sum()))
    share = squares / distance
    variance = float(np.einsum("i,ij,j->", share, cell.log_covariance, share))
    return distance, math.sqrt(max(variance, 0.0))


def packing(cell: Cell, core: FormFactor) -> tuple[float, float]:
    """Share of the volume that spheres with the core's sizes fill, and its error; NaN in a stack.

    <D^3> = D^3 + 3 D s^2 of normal diameters.
    """
    if cell.lattice.name == "stack" or not core.diameter_nm > 0:
        return math.nan, math.nan
    diameter, sigma = core.diameter_nm, float(np.nan_to_num(core.sigma_nm))
    volume = cell_volume_nm3(cell.lattice, cell.edges_nm) / len(cell.lattice.basis)
    filled = math.pi / 6.0 * (diameter**3 + 3.0 * diameter * sigma**2) / volume
    of_core = 3.0 * float(np.nan_to_num(core.diameter_nm_err)) / diameter
    return filled, filled * math.sqrt(of_core**2 + float(np.sum(cell.log_covariance)))


def _room(cell: Cell, core: FormFactor, settings: LatticeAnalysis) -> float:
    """Weight of a cell before its lines are seen: less than 1 where its cores would overlap."""
    if not core.diameter_nm > 0:
        return 1.0
    nearest, error = nearest_nm(cell)
    of_core = max(float(np.nan_to_num(core.diameter_nm_err)), 1e-3 * core.diameter_nm)
    least = (1.0 - settings.overlap_tolerance) * core.diameter_nm
    fits = 0.5 * math.erfc((least - nearest) / (math.hypot(error, of_core) * math.sqrt(2.0)))
    filled, filled_error = packing(cell, core)
    if filled > 0:
        most = DENSEST / (1.0 - settings.overlap_tolerance) ** 3
        spare = (most - filled) / max(filled_error, 1e-3 * filled)
        fits = min(fits, 0.5 * math.erfc(-spare / math.sqrt(2.0)))
    return settings.overlap_prior + (1.0 - settings.overlap_prior) * fits
