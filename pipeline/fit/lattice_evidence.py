"""Which lattice the lines of one structure factor are of: the evidence of each, and its cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from pipeline.config.lattice import LatticeAnalysis
from pipeline.kernels.cell_refinement import GATE
from pipeline.kernels.cell_search import propose
from pipeline.kernels.indexing import unrelated, weigh_all
from pipeline.kernels.lattices import DENSEST, Lattice, fcc_with_hcp, lattices
from pipeline.messages import FormFactor, Line, StructureFactor

MOST_LINES = 14
"""Lines that are indexed, the lowest in q: further up they are weak, many and blends."""
NEAREST = 0.75
"""Cells are tried whose neighbours are nearer than the core's diameter by this factor."""
SHEETS = 1.5
"""How much nearer than neighbours sheets may be: close-packed ones are at 0.82."""
ANYWHERE_NM = (2.0, 60.0)
"""Distances of neighbours that are tried where the core is not known."""
LEAD = 5
"""Lines from which cells are made: three of the lowest six are the lattice's own and low."""
CELLS = (4, 6, 8)
"""Proposals that are refined and weighed, by the number of free edges."""
CELLS_OF_MIXTURE = 2
"""Likewise of fcc with hcp, which is weighed for every share."""
LIMITS = 256
"""Points of the grid of the least area that is found."""
SHARES = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Of hcp in a mixture, each as probable as the others."""
BY_CHANCE = 0.85
"""Ratio of the geometric law of how many lines there are without a lattice: 5.7 on average."""
WIDTH_SCATTER = 0.4
"""Of ln(fwhm) of a lattice's lines: strain and faults make some half as wide again."""
DIFFUSE_SCATTER = 1.0
"""Likewise of other lines: halos, feet of strong lines, residues of the form factor."""
DIFFUSE = -2.0
"""Log odds by its width below which a line is diffuse."""
AT_ITS_PLACE = 2.5
"""Standard errors by which a line that proves a second phase may be off."""
WELL_PLACED = 0.006
"""Share of q that such a line's error may be: lines of the two phases are 5 % apart and more, and
a line that may lie in half the gap proves nothing."""
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
    """Lines by rising q, as arrays: places with all errors, ln of areas with relative errors.

    ``width_per_nm`` is 0 where it is not resolved. ``width_gain`` is ln of the odds by their widths
    that they are of a lattice and not diffuse.
    Further lines, from ``end_per_nm`` on, are left out.
    """

    lines: tuple[Line, ...]
    q_per_nm: np.ndarray
    error_per_nm: np.ndarray
    log_area: np.ndarray
    area_error: np.ndarray
    width_per_nm: np.ndarray
    width_gain: np.ndarray
    end_per_nm: float


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One lattice with its best cell: ``squares`` u, v, w (3,) and their covariance (3, 3).

    ``indexed_q_per_nm`` is where each line (n,) should be, NaN for unexplained ones. ``predicted``
    counts reflections up to the last of them. ``log_evidence`` is that of the lattice, all its
    cells together. ``share`` is of hcp in a mixture.
    """

    lattice: Lattice
    squares: np.ndarray
    covariance: np.ndarray
    indexed_q_per_nm: np.ndarray
    lines_absent: int
    predicted: int
    log_evidence: float
    share: float = math.nan


def lines_in(lines: Sequence[Line], settings: LatticeAnalysis) -> LinesIn:
    """The lines that can be indexed: with a place, an error and an area; the lowest ones."""
    kept = [
        line
        for line in lines
        if 0 <= line.q_per_nm_err < line.q_per_nm < math.inf and 0 < line.area < math.inf
    ]
    kept.sort(key=lambda line: line.q_per_nm)
    end = math.inf
    if len(kept) > MOST_LINES:
        end = 0.5 * (kept[MOST_LINES - 1].q_per_nm + kept[MOST_LINES].q_per_nm)
        kept = kept[:MOST_LINES]
    q = np.array([line.q_per_nm for line in kept])
    own = np.array([line.q_per_nm_err for line in kept])
    width = np.array([line.fwhm_per_nm if is_resolved(line) else 0.0 for line in kept])
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
        width_per_nm=width,
        width_gain=_width_gain(kept, width),
        end_per_nm=end,
    )


def is_resolved(line: Line) -> bool:
    """Whether a line has a width of its own, with an error."""
    width, error = line.fwhm_per_nm, line.fwhm_per_nm_err
    return 0 < width < line.q_per_nm < math.inf and 0 <= error < math.inf


def _width_gain(lines: Sequence[Line], width: np.ndarray) -> np.ndarray:
    """Of widths, lognormal about their median: narrow for lines of a lattice, wide for others."""
    gain = np.zeros(len(lines))
    known = width > 0
    if np.count_nonzero(known) > 2:
        error = np.array([line.fwhm_per_nm_err for line in lines])
        relative = np.minimum(error[known] / width[known], 1.0)
        off = np.log(width[known] / median(width[known].tolist()))
        own, other = np.hypot(WIDTH_SCATTER, relative), np.hypot(DIFFUSE_SCATTER, relative)
        # Against it only: noise is found with templates of one width, too.
        gain[known] = 0.5 * (off / other) ** 2 - 0.5 * (off / own) ** 2
    return gain


def window_of(
    structure: StructureFactor, lines: LinesIn, settings: LatticeAnalysis
) -> Window | None:
    """The range of S(q) and the least area that is found along it; None where there is no S(q)."""
    usable = np.isfinite(structure.structure_factor) & np.isfinite(structure.sigma)
    usable &= structure.sigma > 0
    usable &= structure.q_per_nm <= lines.end_per_nm
    if np.count_nonzero(usable) < 2 or not lines.lines:
        return None
    q, sigma = structure.q_per_nm[usable], structure.sigma[usable]
    step = float(median(np.diff(q).tolist()))
    widths = [width for width in lines.width_per_nm.tolist() if width > 0]
    width = max(median(widths) if widths else 0.0, 2.0 * step)
    height = sigma / math.sqrt(GAUSSIAN_SQUARE * width / step)
    # What the finder's own errors say over this: it also has a slope to fit, and more.
    factors = [
        line.height / line.sigmas / own
        for line, own in zip(lines.lines, np.interp(lines.q_per_nm, q, height), strict=True)
        if 0 < line.sigmas < math.inf and 0 < line.height < math.inf
    ]
    factor = max(float(median(factors)) if factors else 1.0, 1.0)
    height = np.maximum(settings.line_sigma * factor * height, settings.least_height)
    grid = np.linspace(q[0], q[-1], LIMITS)
    limits = np.log(np.interp(grid, q, height) * GAUSSIAN_AREA * width)
    # Between points far apart nothing is found.
    after = np.clip(np.searchsorted(q, grid), 1, q.size - 1)
    limits[q[after] - q[after - 1] > max(width, 2.0 * step)] = math.inf
    return Window(float(q[0]), float(q[-1]), width, limits)


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """All of a frame that does not depend on the lattice.

    In 1/nm^2, (n,) along the lines: Q, its errors, and the widths of the lines; ``merge`` are these
    in 1/nm. ``gain`` is what a line that is met promises. ``distances_nm`` bounds those of
    neighbours, and ``core`` is what the kernels ask of the cores' room.
    """

    lines: LinesIn
    window: Window
    square: np.ndarray
    error: np.ndarray
    merge_square: np.ndarray
    merge: np.ndarray
    gain: np.ndarray
    distances_nm: tuple[float, float]
    core: tuple[float, ...]


def candidates(
    lines: LinesIn, window: Window, core: FormFactor, settings: LatticeAnalysis
) -> tuple[list[Cell], list[float], float]:
    """Every lattice that indexes lines with its best cell, its probability, and that of none.

    All lattices are as probable as each other before, and all together as none, but for those whose
    cores do not fit.
    """
    frame = _frame(lines, window, core, settings)
    mixed, fcc, hcp = fcc_with_hcp()
    shares = np.array(SHARES)[:, None]
    found = [
        _best(lattice, lattice.weight[None], CELLS[lattice.free - 1], frame, settings)
        for lattice in lattices()
    ]
    weights = (1.0 - shares) * fcc + shares * hcp
    mixture = _best(mixed, weights, CELLS_OF_MIXTURE, frame, settings)
    # Unless each has a line that the other has not, there is one of them only.
    if mixture is not None and all(own_lines(mixture, lines)):
        found.append(mixture)
    cells = [cell for cell in found if cell is not None]
    # None is as probable as all of them together.
    log_none = unrelated(len(lines.lines), BY_CHANCE) + math.log(len(lattices()) + 1)
    top = max([log_none, *(cell.log_evidence for cell in cells)])
    none = math.exp(log_none - top)
    odds = [math.exp(cell.log_evidence - top) for cell in cells]
    total = none + sum(odds)
    return cells, [odd / total for odd in odds], none / total


def certain(cell: Cell, lines: LinesIn) -> Cell:
    """The cell with its covariance widened where lines are further off than their errors say."""
    z2 = float(np.nansum(((lines.q_per_nm - cell.indexed_q_per_nm) / lines.error_per_nm) ** 2))
    spare = int(np.count_nonzero(np.isfinite(cell.indexed_q_per_nm))) - cell.lattice.free
    return replace(cell, covariance=max(1.0, z2 / spare) * cell.covariance)


def own_lines(
    mixture: Cell, lines: LinesIn
) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Lines of fcc alone, and of hcp alone, with the weight of their reflections in their phase.

    Diffuse ones and those that are a little off are of neither: the feet of strong lines lie where
    the other phase's are.
    """
    lattice, *weights = fcc_with_hcp()
    places = 2.0 * math.pi * np.sqrt(lattice.forms[:, 0] * mixture.squares[0])
    own: tuple[list[tuple[int, float]], list[tuple[int, float]]] = ([], [])
    off = np.abs(lines.q_per_nm - mixture.indexed_q_per_nm)
    sharp = (off < AT_ITS_PLACE * lines.error_per_nm) & (lines.width_gain > DIFFUSE)
    sharp &= lines.error_per_nm < WELL_PLACED * lines.q_per_nm
    for line in np.flatnonzero(sharp).tolist():
        q = mixture.indexed_q_per_nm[line]
        near = np.abs(places - q) < 1e-3 * q
        of_each = [float(weight[near].sum()) for weight in weights]
        if (of_each[0] > 0) != (of_each[1] > 0):
            phase = 0 if of_each[0] > 0 else 1
            own[phase].append((line, of_each[phase]))
    return own


def cube_nm3(core: FormFactor) -> float:
    """<D^3> of normal diameters: D^3 + 3 D s^2."""
    sigma = core.sigma_nm if math.isfinite(core.sigma_nm) else 0.0
    return core.diameter_nm**3 + 3.0 * core.diameter_nm * sigma**2


def _frame(lines: LinesIn, window: Window, core: FormFactor, settings: LatticeAnalysis) -> _Frame:
    per_q = 2.0 * lines.q_per_nm / (4.0 * math.pi**2)
    width = window.high_per_nm - window.low_per_nm
    # What is broader than others may be a blend of all below it.
    merge = np.maximum(window.merge_per_nm, lines.width_per_nm)
    distances, limits = ANYWHERE_NM, (0.0,) * 7
    if core.diameter_nm > 0:
        diameter = core.diameter_nm
        error = core.diameter_nm_err if math.isfinite(core.diameter_nm_err) else 0.0
        error = max(error, 1e-3 * diameter)
        near = 1.0 - settings.overlap_tolerance
        furthest = diameter + settings.largest_gap_nm
        # Overlap is tried, and pays.
        distances = NEAREST * diameter, furthest
        limits = (
            near * diameter, furthest, error, cube_nm3(core), 3.0 * error / diameter,
            DENSEST / near**3, settings.overlap_prior,
        )  # fmt: skip
    return _Frame(
        lines=lines,
        window=window,
        square=lines.q_per_nm**2 / (4.0 * math.pi**2),
        error=per_q * lines.error_per_nm,
        merge=merge,
        merge_square=per_q * np.maximum(GATE * lines.error_per_nm, merge),
        gain=np.log(width / (math.sqrt(2.0 * math.pi) * lines.error_per_nm)),
        distances_nm=distances,
        core=limits,
    )


def _best(
    lattice: Lattice, weights: np.ndarray, most: int, frame: _Frame, settings: LatticeAnalysis
) -> Cell | None:
    """The best cell of a lattice, with the evidence of all cells and of all ``weights`` (s, r)."""
    lines, window = frame.lines, frame.window
    if len(lines.lines) <= lattice.free:
        return None
    edges = window.low_per_nm, window.high_per_nm
    low, high = frame.distances_nm
    cells, promise = np.zeros((len(weights), most, 3)), np.empty(most)
    propose(
        frame.square, frame.error, frame.merge_square, frame.gain, LEAD,
        (edges[0] ** 2 / (4.0 * math.pi**2), edges[1] ** 2 / (4.0 * math.pi**2)),
        (low if lattice.unit_volume > 0 else low / SHEETS, high), lattice.forms[: lattice.low],
        lattice.seeds, lattice.inverses, lattice.least, lattice.most, lattice.ascending,
        lattice.steps, cells[0], promise,
    )  # fmt: skip
    if promise[0] == -math.inf:
        return None
    cells[1:] = cells[0]
    shape = cells.shape[:2]
    covariances, indexed = np.zeros((*shape, 3, 3)), np.empty((*shape, len(lines.lines)))
    counts, evidence = np.zeros((*shape, 4), dtype=np.int64), np.empty(shape)
    weigh_all(
        lines.q_per_nm, lines.error_per_nm, lines.log_area, lines.area_error, lines.width_gain,
        window.limits,
        edges, frame.merge, settings.area_scatter, settings.unexplained_ratio,
        lattice.free, lattice.forms, weights, lattice.least, lattice.most, lattice.ascending,
        lattice.steps, lattice.unit_volume, lattice.likenesses, frame.core, cells,
        covariances, indexed, counts, evidence,
    )  # fmt: skip
    s, t = divmod(int(evidence.argmax()), most)
    top = float(evidence[s, t])
    if top == -math.inf:
        return None
    total = sum(math.exp(each - top) for each in evidence.ravel().tolist()) / len(weights)
    prior = math.log(math.log(high / low) * lattice.shape_volume)
    return Cell(
        lattice=lattice,
        squares=cells[s, t],
        covariance=covariances[s, t],
        indexed_q_per_nm=indexed[s, t],
        lines_absent=int(counts[s, t, 2]),
        predicted=int(counts[s, t, 3]),
        log_evidence=top + math.log(total) - prior,
        share=SHARES[s] if len(weights) > 1 else math.nan,
    )
