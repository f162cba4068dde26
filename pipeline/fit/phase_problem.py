"""What of the search of phases depends on the q axis and the settings alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.config.phases import Halo, PhasesAnalysis
from pipeline.fit.lines import LineSearch
from pipeline.fit.reflections import Reflections
from pipeline.kernels.order import FOUR_LN2, supports_of
from pipeline.kernels.powder import SEARCHED, WIDTH, Powder, fill_patterns

FWHM_PER_SIGMA = math.sqrt(8.0 * math.log(2.0))
SIZE_STEP = 1.6
"""Ratio of the sizes that are tried: the best loses 3 % of the score at most."""
STRETCH_STEP = 0.5
"""Steps of the cells that are tried, in full widths at the middle of the pattern."""
STRETCHES = 2.0
"""Standard deviations of the cell on which it is tried."""
BOUND = 3.0
"""Standard deviations of the cell at which the fit stops."""
FINEST_STEPS = 1.5
"""Width in steps of q below which one size looks like the next."""
MOST_STRETCHES = 16
"""On either side: beyond, narrow lines are met by the fit's own steps from the nearest."""
WIDEST_STRAIN = 0.05
RESOLVED = 0.7
"""Width over the mean distance of lines up to which a phase is sought whose lines have free
heights: wider ones merge into a curve of any shape. Cs4PbBr6 is found from 10 nm on."""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """Patterns of the columns of a phase at one size, along the stretch of its cell.

    ``templates`` is (columns, stretches, n), ``supports`` (columns, stretches, 2) where each is
    not zero.
    """

    phase: int
    width_per_nm: float
    stretches: np.ndarray
    templates: np.ndarray
    supports: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class PhasePlan:
    """All that does not change from frame to frame; n points in the window.

    ``nuisances`` (m, n) are the background's columns, then halos, then what is amorphous, of which
    ``non_negative`` (m,) may not be negative and ``amorphous`` (m,) are the sample's. ``content``
    (m,) is what one unit of an amorphous amplitude scatters, q^2 I over the window, as
    ``strengths`` (columns of all phases,) for those.
    """

    q_axis: np.ndarray
    resolution: np.ndarray
    window: np.ndarray
    q_per_nm: np.ndarray
    reflections: tuple[Reflections, ...]
    free: tuple[bool, ...]
    powder: Powder
    nuisances: np.ndarray
    non_negative: np.ndarray
    amorphous: np.ndarray
    volumes: np.ndarray
    """Whether an amorphous amplitude is a volume fraction (m,)."""
    content: np.ndarray
    strengths: np.ndarray
    scans: tuple[Scan, ...]
    lines: LineSearch

    def fits(self, q_per_nm: np.ndarray, resolution: np.ndarray) -> bool:
        """Whether a curve is on this axis."""
        return np.array_equal(q_per_nm, self.q_axis) and np.array_equal(
            resolution, self.resolution, equal_nan=True
        )


def window_of(settings: PhasesAnalysis, q_axis: np.ndarray) -> np.ndarray:
    """Indices of the bins that are fitted (n,)."""
    return np.flatnonzero((q_axis >= settings.q_min_per_nm) & (q_axis <= settings.q_max_per_nm))


def make_plan(
    settings: PhasesAnalysis,
    reflections: tuple[Reflections, ...],
    q_axis: np.ndarray,
    resolution: np.ndarray,
    background: tuple[np.ndarray, np.ndarray] | None,
) -> PhasePlan:
    """Prepare for curves on ``q_axis``, some points of which are in the window.

    ``background`` is q and intensity of a measured one.
    """
    window = window_of(settings, q_axis)
    q = np.ascontiguousarray(q_axis[window], dtype=float)
    instrument = _instrument(settings, q, resolution[window] if resolution.size else resolution)
    free = tuple(
        not lines.has_atoms or phase.intensities == "free"
        for lines, phase in zip(reflections, settings.phases, strict=True)
    )
    powder, strengths = _powder(settings, reflections, free, q, instrument)
    middle = 2.0 * (q - q[0]) / (q[-1] - q[0]) - 1.0
    rows = list(np.polynomial.chebyshev.chebvander(middle, settings.background_degree).T)
    free_rows = len(rows)
    if background is not None:
        rows.append(np.interp(q, *background))
    rows += [_halo(q, halo) for halo in settings.halos]
    others = len(rows)
    rows += [_halo(q, halo) for halo in settings.amorphous_halos]
    content = [float(np.sum(row * q**2 * np.gradient(q))) for row in rows]
    volumes = [False] * len(rows)
    if settings.amorphous_of is not None:
        number = [phase.name for phase in settings.phases].index(settings.amorphous_of)
        if not reflections[number].has_atoms:
            raise ValueError(f"amorphous_of: {settings.amorphous_of} has no atoms")
        rows.append(_amorphous(settings, reflections[number], q, instrument))
        content.append(_within(reflections[number], q))
        volumes.append(True)
    nuisances = np.array(rows).reshape(len(rows), q.size)
    return PhasePlan(
        q_axis=q_axis,
        resolution=resolution,
        window=window,
        q_per_nm=q,
        reflections=reflections,
        free=free,
        powder=powder,
        nuisances=nuisances,
        non_negative=np.arange(len(rows)) >= free_rows,
        amorphous=np.arange(len(rows)) >= others,
        volumes=np.array(volumes, dtype=bool),
        content=np.array(content, dtype=float),
        strengths=strengths,
        scans=_scans(settings, powder, q),
        lines=_line_search(settings, q, instrument),
    )


def _instrument(settings: PhasesAnalysis, q: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    """Full width of the instrument (n,); bins without pixels, whose resolution is NaN, have that of
    their neighbours."""
    known = np.isfinite(resolution)
    if not known.any():
        return np.full(q.size, settings.instrument_fwhm_per_nm)
    return FWHM_PER_SIGMA * np.interp(q, q[known], resolution[known])


def _line_search(settings: PhasesAnalysis, q: np.ndarray, instrument: np.ndarray) -> LineSearch:
    smallest, largest = settings.size_range_nm
    full = settings.scherrer_k * 2.0 * math.pi
    return LineSearch(
        q,
        instrument,
        tuple(full / size for size in _sizes(smallest, largest)[::2]),
        false_alarm=settings.line_false_alarm,
        widest_per_nm=1.2 * full / smallest,
        least_height=settings.least_line_height,
        most=settings.most_lines,
    )


def _sizes(smallest: float, largest: float) -> list[float]:
    count = max(2, 1 + math.ceil(math.log(largest / smallest) / math.log(SIZE_STEP)))
    return np.geomspace(smallest, largest, count).tolist()


def _halo(q: np.ndarray, halo: Halo) -> np.ndarray:
    return np.exp(-FOUR_LN2 * ((q - halo.q_per_nm) / halo.fwhm_per_nm) ** 2)


def _within(lines: Reflections, q: np.ndarray) -> float:
    """What a unit of volume scatters, q^2 I, by the lines that stand in the window."""
    inside = (lines.q_per_nm >= q[0]) & (lines.q_per_nm <= q[-1])
    return float(lines.strength[inside].sum())


def _groups(lines: Reflections, near_per_nm: float) -> np.ndarray:
    """Number of the group of each line (n,); a gap above ``near_per_nm`` begins a new one."""
    groups, first, number = [], -math.inf, -1
    for q in lines.q_per_nm.tolist():
        if q - first > near_per_nm:
            first, number = q, number + 1
        groups.append(number)
    return np.array(groups, dtype=np.int64)


def _powder(
    settings: PhasesAnalysis,
    reflections: tuple[Reflections, ...],
    free: tuple[bool, ...],
    q: np.ndarray,
    instrument: np.ndarray,
) -> tuple[Powder, np.ndarray]:
    """The problem of all phases, and what a unit of each column scatters."""
    smallest, largest = settings.size_range_nm
    full = settings.scherrer_k * 2.0 * math.pi
    typical = full / math.sqrt(smallest * largest)
    near = 0.5 * math.hypot(typical, float(np.median(instrument)))
    quadratic, strength, column, strengths = [], [], [], []
    first_line, first_column = [0], [0]
    many = len(reflections)
    gaps: dict[int, float] = {}
    ties, searched = np.zeros((many, 3), np.int64), np.zeros((many, SEARCHED), np.bool_)
    for p, (lines, phase) in enumerate(zip(reflections, settings.phases, strict=True)):
        kept = np.ones(lines.q_per_nm.size, bool)
        if free[p]:
            # A line outside of the window has no height of its own that could be told.
            last = min(settings.free_q_max_per_nm, settings.q_max_per_nm)
            kept = (lines.q_per_nm >= q[0]) & (lines.q_per_nm <= last)
        groups, own = np.zeros(int(kept.sum()), np.int64), lines.strength[kept]
        if free[p]:
            groups = _groups(lines, near)[kept]
            groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
            own = lines.multiplicity[kept]
            own = own / np.bincount(groups, own)[groups]
            if groups.max(initial=0) > 0:
                gaps[p] = float(np.ptp(lines.q_per_nm[kept])) / int(groups.max())
            strengths += [1.0] * (int(groups.max(initial=-1)) + 1)
        else:
            strengths.append(_within(lines, q))
        quadratic.append(lines.quadratic[kept])
        strength.append(own)
        column.append(groups + first_column[-1])
        first_line.append(first_line[-1] + own.size)
        first_column.append(len(strengths))
        ties[p] = (0, 0, 0) if phase.cell == "isotropic" else lines.ties
        searched[p, np.unique(ties[p])] = True
        searched[p, WIDTH] = True
        searched[p, SEARCHED - 1] = settings.strain
    lower, upper = np.zeros((many, SEARCHED)), np.zeros((many, SEARCHED))
    lower[:, :WIDTH] = -BOUND * settings.cell_tolerance
    upper[:, :WIDTH] = BOUND * settings.cell_tolerance
    lower[:, WIDTH], upper[:, WIDTH] = full / largest, full / smallest
    for p, gap in gaps.items():
        upper[p, WIDTH] = max(min(upper[p, WIDTH], RESOLVED * gap), lower[p, WIDTH])
    upper[:, SEARCHED - 1] = WIDEST_STRAIN
    powder = Powder(
        q_per_nm=q,
        instrument_per_nm=instrument,
        quadratic=np.concatenate([np.empty((0, 6)), *quadratic]),
        strength=np.concatenate([np.empty(0), *strength]),
        column=np.concatenate([np.empty(0, np.int64), *column]),
        first_line=np.array(first_line),
        first_column=np.array(first_column),
        ties=ties,
        searched=searched,
        lower=lower,
        upper=upper,
        edge_sd=settings.cell_tolerance,
        lorentz_share=settings.lorentz_share,
    )
    return powder, np.array(strengths, dtype=float)


def _amorphous(
    settings: PhasesAnalysis, lines: Reflections, q: np.ndarray, instrument: np.ndarray
) -> np.ndarray:
    """The phase's own pattern at the length over which an agglomerate is ordered (n,)."""
    count = lines.q_per_nm.size
    powder = Powder(
        q_per_nm=q,
        instrument_per_nm=instrument,
        quadratic=np.ascontiguousarray(lines.quadratic),
        strength=np.ascontiguousarray(lines.strength),
        column=np.zeros(count, np.int64),
        first_line=np.array([0, count]),
        first_column=np.array([0, 1]),
        ties=np.zeros((1, 3), np.int64),
        searched=np.zeros((1, SEARCHED), np.bool_),
        lower=np.zeros((1, SEARCHED)),
        upper=np.zeros((1, SEARCHED)),
        edge_sd=1.0,
        lorentz_share=0.0,
    )
    at = np.zeros((1, SEARCHED))
    at[0, WIDTH] = settings.scherrer_k * 2.0 * math.pi / settings.amorphous_order_nm
    out = np.empty((1, q.size))
    fill_patterns(powder, 0, at, np.ones(q.size), out)
    return out[0]


def _scans(settings: PhasesAnalysis, powder: Powder, q: np.ndarray) -> tuple[Scan, ...]:
    """Templates of all phases, sizes and stretches."""
    scans: list[Scan] = []
    ones = np.ones(q.size)
    reach = STRETCHES * settings.cell_tolerance
    middle = 0.5 * (max(float(q[0]), 1e-6) + min(float(q[-1]), settings.free_q_max_per_nm))
    fine = FINEST_STEPS * float(np.median(np.diff(q)))
    for p in range(len(settings.phases)):
        columns = int(powder.first_column[p + 1] - powder.first_column[p])
        for size in _sizes(*settings.size_range_nm):
            width = settings.scherrer_k * 2.0 * math.pi / size
            if width > 1.001 * powder.upper[p, WIDTH]:
                continue
            seen = math.hypot(width, float(np.median(powder.instrument_per_nm)))
            if seen < fine and any(each.phase == p for each in scans):
                continue
            side = min(MOST_STRETCHES, math.ceil(reach * middle / (STRETCH_STEP * seen)))
            stretches = np.linspace(-reach, reach, 2 * side + 1)
            templates = np.empty((columns, stretches.size, q.size))
            at = np.zeros((len(settings.phases), SEARCHED))
            at[p, WIDTH] = width
            for j, stretch in enumerate(stretches):
                at[p, :WIDTH] = stretch
                out = np.empty((columns, q.size))
                fill_patterns(powder, p, at, ones, out)
                templates[:, j] = out
            supports = np.empty((columns, stretches.size, 2), np.int64)
            for column, limits in zip(templates, supports, strict=True):
                supports_of(column, limits)
            scans.append(Scan(p, width, stretches, templates, supports))
    return tuple(scans)
