"""The paper's superlattice and crystals beside what the pipeline says of simulated frames.

The run at 100 C and the wide-angle detector of configs/assembly_100c.yaml and cs_dopa_waxs.yaml, as
in `benchmarks.paper`. Onsets are those of the detector's alerts over the frames around them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from benchmarks.paper import Figure, Run, print_figures, say
from pipeline.detect.order import Superlattice
from pipeline.messages import FormFactor, Peak, Result
from pipeline.messages.alerts import Alert
from pipeline.messages.lattice import LatticeRow
from pipeline.messages.waxs import Phase, PhasesRow, phases_of

LAST_S = 1100.0
FIRST_ORDERED_S = np.arange(92.0, 101.1, 1.0)
"""The first ten seconds in which order is plain: the paper's first curve with peaks."""


def of_kind(results: Iterable[Result], kind: type[Any]) -> Any:
    """The result of a class; a frame of these runs has one of each."""
    return next(result for result in results if isinstance(result, kind))


def as_row(result: Any) -> dict[str, Any]:
    """What a detector reads of a stored row."""
    return {field.name: getattr(result, field.name) for field in fields(result)}


def onsets(run: Run, between_s: Sequence[tuple[float, float]]) -> list[Alert]:
    """Alerts of order over stretches of frames, in order of time."""
    detector = Superlattice(run.config.detect)
    alerts: list[Alert] = []
    times_s = np.concatenate([np.arange(begin, end + 0.1, 0.5) for begin, end in between_s])
    for _, results in run.results("saxs", times_s):
        alerts += detector.update(as_row(of_kind(results, Peak)))
    return alerts


def onset_figure(what: str, paper: float, kind: str, alerts: Sequence[Alert]) -> Figure:
    """When an alert says that it began; half its interval is the error."""
    found = [alert for alert in alerts if alert.kind == kind]
    if not found:
        return Figure(what, paper, 1, math.nan, math.nan, paper)
    alert = found[0]
    error = 0.5 * (alert.onset_hi_s - alert.onset_lo_s)
    return Figure(what, paper, 1, alert.onset_s, error, paper)


def assembly() -> tuple[list[Figure], LatticeRow, list[Alert]]:
    """Order in one dimension, then in three; the last frame's row and the alerts."""
    run = Run("assembly_100c")
    alerts = onsets(run, ((75.0, 120.0), (280.0, 345.0)))
    times_s = (90.0, *FIRST_ORDERED_S, 300.0, LAST_S)
    results = dict(run.results("saxs", times_s))
    first = [of_kind(results[time_s], Peak) for time_s in FIRST_ORDERED_S]
    begin, closed, end = (
        run.state("saxs", time_s) for time_s in (FIRST_ORDERED_S.mean(), 300.0, LAST_S)
    )
    grown = of_kind(results[90.0], FormFactor)
    diameter = run.state("saxs", 90.0).nc_diameter_nm
    stacked, core = (of_kind(results[300.0], kind) for kind in (Peak, FormFactor))
    lattice = of_kind(results[LAST_S], LatticeRow)
    spacing, spacing_err = weighted([(p.spacing_nm, p.spacing_nm_err) for p in first])
    figures = [
        Figure(
            "diameter (nm), 90 s", 11.6, 0.1, grown.diameter_nm, grown.diameter_nm_err, diameter
        ),
        onset_figure("order in 1-D (s)", 90, "superlattice_1d", alerts),
    ]
    for order, paper in enumerate((0.39, 0.80, 1.20), 1):
        said = 2 * math.pi * order / spacing
        figures.append(
            Figure(
                f"   peak {order} (1/nm), 92 to 101 s",
                paper,
                0.01,
                said,
                said * spacing_err / spacing,
                2 * math.pi * order / begin.spacing_nm,
            )
        )
    figures += [
        Figure("   spacing (nm), 92 to 101 s", 16.0, 0.1, spacing, spacing_err, begin.spacing_nm),
        Figure(
            "   spacing (nm), 300 s",
            14.8,
            0.1,
            stacked.spacing_nm,
            stacked.spacing_nm_err,
            closed.spacing_nm,
        ),
        Figure(
            "   between surfaces (nm), 300 s",
            3.2,
            0.1,
            core.surface_nm,
            core.surface_nm_err,
            closed.spacing_nm - closed.nc_diameter_nm,
        ),
        onset_figure("order in 3-D (s)", 300, "superlattice_3d", alerts),
    ]
    for name, paper, simulated in zip("abc", (14.6, 16.0, 17.8), end.cell_nm, strict=True):
        said, error = (getattr(lattice, f"{name}_nm{suffix}") for suffix in ("", "_err"))
        figures.append(Figure(f"   {name} (nm), last frame", paper, 0.1, said, error, simulated))
    figures.append(
        Figure(
            "   domain (nm), 2 pi / fwhm",
            300,
            100,
            lattice.domain_nm,
            lattice.domain_nm_err,
            end.domain_nm,
        )
    )
    return figures, lattice, alerts


def weighted(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Weighted mean of values with errors, and its error; NaN are left out."""
    kept = np.array([pair for pair in values if np.isfinite(pair).all()])
    if not kept.size:
        return math.nan, math.nan
    weights = kept[:, 1] ** -2.0
    return float(weights @ kept[:, 0] / weights.sum()), float(weights.sum() ** -0.5)


def waxs() -> tuple[list[Figure], PhasesRow, Phase, float]:
    """The cell of the last frame, the row of the first, the phase found, the true size."""
    run = Run("cs_dopa_waxs", recipe="cs_dopa")
    results = dict(run.results("waxs", (0.5, 300.0)))
    first, last = (of_kind(results[time_s], PhasesRow) for time_s in (0.5, 300.0))
    found = max(phases_of(as_row(last)), key=lambda phase: (phase.present, phase.probability))
    paper = {"a": 0.8207, "b": 0.8255, "c": 1.1759}
    cell = asdict(found)
    figures = [
        Figure(f"{name} (nm)", value, 1e-4, cell[f"{name}_nm"], cell[f"{name}_nm_err"], value)
        for name, value in paper.items()
    ]
    return figures, first, found, run.state("waxs", 300.0).nc_diameter_nm


def main() -> None:
    """Print the tables."""
    figures, lattice, alerts = assembly()
    print_figures("Cs-DOPA at 100 C, SAXS", figures)
    say(
        "lattice of the last frame",
        "face-centred orthorhombic (see decision 0008: simulated as primitive)",
        f"{lattice.lattice or 'none'}, probability {lattice.probability:.3f}, "
        f"M {lattice.merit:.0f}, packing {lattice.packing:.2f}, gap {lattice.gap_nm:.2f} nm",
    )
    for alert in alerts:
        say("alert", f"{alert.kind}, told at {alert.time_s:g} s", alert.message)
    figures, first, found, size = waxs()
    print_figures("Cs-DOPA, WAXS, 300 s", figures)
    say("first frame, 0.5 s", "amorphous", first.state)
    say(
        "phase at 300 s",
        "CsPbBr3, Pbnm",
        f"{found.name}, probability {found.probability:.3f}, crystallites "
        f"{found.size_nm:.2f} +- {found.size_nm_err:.2f} nm (mean diameter {size:.2f} nm)",
    )


if __name__ == "__main__":
    main()
