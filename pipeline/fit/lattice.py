"""Stage: which lattice the lines of a structure factor are of, and how large its domains are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np

from pipeline.config.lattice import LatticeAnalysis
from pipeline.fit.lattice_evidence import (
    Cell,
    LinesIn,
    candidates,
    certain,
    cube_nm3,
    is_resolved,
    lines_in,
    own_lines,
    window_of,
)
from pipeline.kernels.cell_refinement import GATE
from pipeline.kernels.cell_room import nearest_neighbour, volume_per_particle
from pipeline.kernels.lattices import DENSEST, HCP_IDEAL, fcc_with_hcp, lattices
from pipeline.messages import (
    FormFactor,
    LatticeRow,
    Line,
    OrderedCurve,
    Peak,
    Result,
    RunStart,
)

CANNOT_TELL = "cannot tell"
LEAST_FOR_STRAIN = 3
"""Lines that a straight line of widths against q needs to be more than itself."""
LEAST_WIDTH_ERROR = 1e-3
"""Share of a width that its error is at least: no profile is known better."""
USUAL_SCATTER = 0.5
"""Of ln(area) of a phase's lines about their law."""
WITHIN = 2.0
"""Standard errors by which cores may overlap and still be said to have room."""


class IndexLattice:
    """The lattice of one frame: every kind weighed against every other and against none.

    Lines of S(q) are indexed on stacks, sc, bcc, fcc, hcp, mixtures of the last two, and tetragonal
    and orthorhombic cells of all centrings. Each kind's evidence (``pipeline.kernels.indexing``)
    and what it asks of the cores' room make its probability. One is claimed from the config's level
    on. Each frame is judged on its own.

    Parameters
    ----------
    settings
        Level, errors beyond those of the lines, room.
    """

    name: ClassVar[str] = "lattice"
    consumes: ClassVar[tuple[type, ...]] = (OrderedCurve,)
    produces: ClassVar[tuple[type[Result], ...]] = (LatticeRow,)

    def __init__(self, settings: LatticeAnalysis) -> None:
        self.settings = settings

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        warm_up()

    def reset(self, start: RunStart, /) -> None:
        """Nothing is remembered."""

    def process(self, message: OrderedCurve, /) -> Iterable[Result]:
        """One row; without lines there is nothing to index, and it is empty."""
        columns = _nothing() | _domains(message.lines, self.settings)
        lines = lines_in(message.lines, self.settings)
        window = window_of(message.structure, lines, self.settings)
        if window is not None:
            found = candidates(lines, window, message.form_factor, self.settings)
            columns |= _told(*found, lines, message.form_factor, self.settings)
            if columns["lattice"] == CANNOT_TELL and _flat(lines, message.judged.peak):
                columns["lattice"] = ""
        return (LatticeRow(frame=message.frame, time_s=message.time_s, **columns),)


def _nothing() -> dict[str, Any]:
    """Columns of a frame without lines."""
    kinds = {"str": "", "int": 0, "bool": False, "float": math.nan}
    return {
        each.name: kinds[str(each.type)]
        for each in fields(LatticeRow)
        if each.name not in ("frame", "time_s")
    }


def _flat(lines: LinesIn, peak: Peak) -> bool:
    """Whether nothing speaks of three dimensions: no order, or all lines are a stack's."""
    if peak.order_kind != "stack":
        return peak.order_kind == ""
    first = 2.0 * math.pi / peak.spacing_nm
    order = np.maximum(np.round(lines.q_per_nm / first), 1.0)
    # A comb is broad and shared by a few lines' errors: half its width is near.
    near = GATE * lines.error_per_nm + 0.5 * peak.peak_fwhm_per_nm
    return bool(np.all(np.abs(lines.q_per_nm - order * first) < near))


def _told(
    found: Sequence[Cell],
    probabilities: Sequence[float],
    none: float,
    lines: LinesIn,
    core: FormFactor,
    settings: LatticeAnalysis,
) -> dict[str, Any]:
    """Columns of the verdict, and of the most probable lattice."""
    columns: dict[str, Any] = {
        f"p_{lattice.column}": 0.0 for lattice in (*lattices(), fcc_with_hcp()[0])
    }
    columns |= {
        f"p_{cell.lattice.column}": probability
        for cell, probability in zip(found, probabilities, strict=True)
    }
    columns |= {"p_none": none, "lattice": CANNOT_TELL, "lines_unexplained": len(lines.lines)}
    highest = max(probabilities, default=0.0)
    if highest < none:
        return columns | {"probability": none}
    best = certain(found[probabilities.index(highest)], lines)
    name = best.lattice.name
    if highest >= settings.level:
        columns["lattice"] = "" if name == "stack" else name
        # What is of no lattice, a halo or a foot, has no domain.
        seen = np.isfinite(best.indexed_q_per_nm)
        columns |= _domains([lines.lines[i] for i in np.flatnonzero(seen)], settings)
    columns |= {"candidate": name, "probability": highest}
    return columns | _edges(best) | _fit(best, lines) | _space(best, core) | _share(best, lines)


def edges_nm(cell: Cell) -> tuple[float, float, float]:
    """a, b, c."""
    a, b, c = (1.0 / math.sqrt(cell.squares[parameter]) for parameter in cell.lattice.edges)
    return a, b, c


def _edges(cell: Cell) -> dict[str, Any]:
    """Edges with errors, d ln(edge) = -du / (2 u). A stack has one."""
    columns: dict[str, Any] = {}
    relative = np.sqrt(np.diag(cell.covariance))[: cell.lattice.free] / 2.0
    for letter, edge, which in zip("abc", edges_nm(cell), cell.lattice.edges, strict=True):
        if letter == "a" or cell.lattice.name != "stack":
            error = float(relative[which]) / float(cell.squares[which])
            columns |= {f"{letter}_nm": edge, f"{letter}_nm_err": edge * error}
    if cell.lattice.free == 2:
        u, w = cell.squares[:2].tolist()
        c = cell.covariance
        variance = c[0, 0] / u**2 + c[1, 1] / w**2 - 2.0 * c[0, 1] / (u * w)
        ratio = math.sqrt(u / w)
        error = 0.5 * ratio * math.sqrt(max(float(variance), 0.0))
        columns |= {"c_over_a": ratio, "c_over_a_err": error}
    if cell.lattice.name == "hcp":
        columns["c_over_a_ideal"] = HCP_IDEAL
    return columns


def _fit(cell: Cell, lines: LinesIn) -> dict[str, Any]:
    """How many lines are indexed, and de Wolff's figure."""
    indexed = np.isfinite(cell.indexed_q_per_nm)
    square, meant = lines.q_per_nm[indexed] ** 2, cell.indexed_q_per_nm[indexed] ** 2
    off = float(np.mean(np.abs(square - meant)))
    return {
        "merit": float(square[-1]) / (2.0 * off * cell.predicted) if off > 0 else math.nan,
        "lines_indexed": int(indexed.sum()),
        "lines_unexplained": int((~indexed).sum()),
        "lines_absent": cell.lines_absent,
    }


def _space(cell: Cell, core: FormFactor) -> dict[str, Any]:
    """Neighbours and packing against the core."""
    lattice = cell.lattice
    nearest, error = nearest_neighbour(cell.squares, cell.covariance, lattice.steps, lattice.free)
    gap = nearest - core.diameter_nm
    gap_error = math.hypot(error, float(np.nan_to_num(core.diameter_nm_err)))
    filled = filled_error = math.nan
    if lattice.unit_volume > 0 and core.diameter_nm > 0:
        volume, relative = volume_per_particle(
            cell.squares, cell.covariance, lattice.unit_volume, lattice.free
        )
        filled = math.pi / 6.0 * cube_nm3(core) / volume
        of_core = 3.0 * float(np.nan_to_num(core.diameter_nm_err)) / core.diameter_nm
        filled_error = filled * math.hypot(relative, of_core)
    columns: dict[str, Any] = {
        "nearest_nm": nearest, "nearest_nm_err": error, "gap_nm": gap,
        "gap_nm_err": gap_error if math.isfinite(gap) else math.nan,
        "packing": filled, "packing_err": filled_error,
    }  # fmt: skip
    if not math.isfinite(gap):
        return columns | {"consistent_reason": "the core's diameter is not known"}
    if gap < -WITHIN * gap_error:
        reason = f"cores of {core.diameter_nm:.2f} nm overlap by {-gap:.2f} nm"
    elif filled - WITHIN * filled_error > DENSEST:
        reason = f"spheres fill {DENSEST:.2f} at most, these {filled:.2f}"
    else:
        reason = f"{gap:.2f} nm between cores"
        return columns | {"consistent": True, "consistent_reason": reason}
    return columns | {"consistent_reason": reason}


def _share(cell: Cell, lines: LinesIn) -> dict[str, Any]:
    """Share of hcp in a mixture, from the areas of lines that one of both alone has.

    Each gives ln K of its phase, area = K share weight / q^2, with the error of its area and the
    scatter of all; the logit of the share is the difference of the two means.
    """
    if cell.lattice.name != "fcc+hcp":
        return {}
    logs: list[float] = []
    variance = 0.0
    for phase in own_lines(cell, lines):
        values = [
            float(lines.log_area[line])
            + 2.0 * math.log(cell.indexed_q_per_nm[line])
            - math.log(weight)
            for line, weight in phase
        ]
        # Fewer than three lines do not show their own scatter: half a factor is usual.
        scatter = float(np.std(values, ddof=1)) if len(values) > 2 else USUAL_SCATTER
        errors = lines.area_error[[line for line, _ in phase]]
        variance += (scatter**2 + float(np.mean(errors**2))) / len(values)
        logs.append(float(np.mean(values)))
    share = 1.0 / (1.0 + math.exp(logs[0] - logs[1]))
    return {"hcp_share": share, "hcp_share_err": share * (1.0 - share) * math.sqrt(variance)}


def _domains(lines: Sequence[Line], settings: LatticeAnalysis) -> dict[str, Any]:
    """Size of the domains from the first line that is resolved; strain from the widths of all."""
    resolved = [line for line in lines if is_resolved(line)]
    if not resolved:
        return {}
    first = min(resolved, key=lambda line: line.q_per_nm)
    domain = 2.0 * math.pi / first.fwhm_per_nm
    error = domain * first.fwhm_per_nm_err / first.fwhm_per_nm
    columns = {
        "domain_nm": domain, "domain_nm_err": error,
        "scherrer_nm": settings.scherrer_k * domain,
        "scherrer_nm_err": settings.scherrer_k * error,
    }  # fmt: skip
    return columns | _williamson_hall(resolved)


def _williamson_hall(lines: Sequence[Line]) -> dict[str, Any]:
    """Straight line fwhm = 2 pi / domain + 2 microstrain q, weighted; errors by its own misfit."""
    if len(lines) < LEAST_FOR_STRAIN:
        return {}
    q = np.array([line.q_per_nm for line in lines])
    fwhm = np.array([line.fwhm_per_nm for line in lines])
    error = np.array([line.fwhm_per_nm_err for line in lines])
    weight = np.maximum(error, LEAST_WIDTH_ERROR * fwhm) ** -2.0
    mean_q, mean = np.average(q, weights=weight), np.average(fwhm, weights=weight)
    lever = float(np.sum(weight * (q - mean_q) ** 2))
    if not lever > 0:
        return {}
    slope = float(np.sum(weight * (q - mean_q) * (fwhm - mean))) / lever
    start = float(mean - slope * mean_q)
    misfit = float(np.sum(weight * (fwhm - start - slope * q) ** 2)) / (len(lines) - 2)
    excess = max(1.0, misfit)
    slope_error = math.sqrt(excess / lever)
    start_error = math.sqrt(excess * (1.0 / float(np.sum(weight)) + mean_q**2 / lever))
    columns = {"microstrain": 0.5 * slope, "microstrain_err": 0.5 * slope_error}
    if start > 0:
        domain = 2.0 * math.pi / start
        columns |= {"hall_domain_nm": domain, "hall_domain_nm_err": domain * start_error / start}
    return columns


def warm_up() -> None:
    """Compile (or load from disk) every kernel of this stage, by indexing one primitive cubic."""
    from pipeline.messages import StructureFactor

    settings = LatticeAnalysis()
    q = np.linspace(0.2, 1.6, 200)
    flat = np.full(q.size, 0.02)
    structure = StructureFactor(
        frame=0, time_s=0.0, q_per_nm=q, structure_factor=flat, sigma=flat, form_factor=flat
    )
    core = FormFactor(
        frame=0, time_s=0.0, diameter_nm=11.0, diameter_nm_err=0.1, sigma_nm=1.0,
        sigma_nm_err=0.1, reduced_chi2=1.0, choice="", reason="",
    )  # fmt: skip
    found = [
        Line(0.4 * math.sqrt(n), 1e-3, 1.0, 0.05, 0.03, 3e-3, 0.03 / n, 2e-3, 20.0)
        for n in (1, 2, 3, 4)
    ]
    lines = lines_in(found, settings)
    window = window_of(structure, lines, settings)
    if window is not None:
        _told(*candidates(lines, window, core, settings), lines, core, settings)
