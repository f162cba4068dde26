"""Recorded superlattices and crystals against what their experimenters, or others, found in them.

Curves go through the stages and detectors of configs/pd_superlattice.yaml, pd_growth.yaml and
facs_heat.yaml as a replay takes them, without sockets.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper_order import as_row
from benchmarks.recordings import PD_SERIES, REPOSITORY, data_folder
from pipeline.cli.analyse import stages_for
from pipeline.config import RunConfig
from pipeline.config.loader import load_config
from pipeline.detect.registry import detectors_for
from pipeline.messages import FormFactor, LinesRow, Peak, Result, RunStart, lines_of
from pipeline.messages.alerts import Alert
from pipeline.messages.lattice import LatticeRow
from pipeline.messages.waxs import PhasesRow, phases_of
from pipeline.replay import open_recording
from pipeline.runner.chain import StageChain

HEATED = "perovskite_waxs_FACs15_heat"
NM_PER_ANGSTROM = 0.1
WATCHED_PER_NM = {"0.84 1/A": 8.4, "0.90 1/A": 9.0, "0.99 1/A": 9.95}
"""Lines of the film: one that goes, one that comes, one that stays."""
NEAR_PER_NM = 0.15


def analysed(
    config: RunConfig, stream: str, folder: Path
) -> tuple[list[tuple[Result, ...]], list[Alert]]:
    """All results of a recording, frame by frame, and the alerts that its rows raise."""
    source = open_recording(folder, config.replay).streams[stream]
    chain = StageChain(stages_for(stream, config))
    chain.warm_up()
    chain.reset(RunStart(run=config.name, stream=source.start))
    detectors = detectors_for(config.detect, wide_angle=stream == "waxs")
    frames, alerts = [], []
    for frame in source.frames():
        results = chain.process(frame).results
        frames.append(results)
        for result in results:
            for detector in detectors:
                if detector.node == type(result).NODE:
                    alerts += detector.update(as_row(result))
    return frames, alerts


def of_kind(frames: Sequence[tuple[Result, ...]], kind: type[Any]) -> Iterator[Any]:
    """The result of a class in each frame; None where there is none."""
    for results in frames:
        yield next((result for result in results if isinstance(result, kind)), None)


@dataclass(frozen=True, slots=True)
class Compared:
    """One frame of ours beside the experts' fit."""

    time_s: float
    expert: str
    expert_a_nm: float
    expert_radius_nm: float
    peak: Peak | None
    lattice: LatticeRow | None
    form: FormFactor | None

    @property
    def cell_ratio(self) -> float:
        """Our lattice parameter over the experts', of the same kind of lattice; NaN otherwise."""
        if self.lattice is None or not math.isfinite(self.expert_a_nm):
            return math.nan
        kinds = {"fcc": ("fcc", "fcc+hcp"), "hcp": ("hcp",)}[self.expert]
        return self.lattice.a_nm / self.expert_a_nm if self.lattice.candidate in kinds else math.nan


def palladium(name: str) -> tuple[list[Compared], list[Alert]]:
    """A Pd series beside its experts' fits."""
    folder = data_folder() / PD_SERIES[name]
    frames, alerts = analysed(load_config(REPOSITORY / "configs" / f"{name}.yaml"), "saxs", folder)
    with (folder / "frames_index.csv").open(newline="") as file:
        experts = list(csv.DictReader(file))
    kinds = (of_kind(frames, kind) for kind in (Peak, LatticeRow, FormFactor))
    compared = []
    for expert, peak, lattice, form in zip(experts, *kinds, strict=True):
        names = {"F_cubic": "fcc", "hcp": "hcp"}
        seen = next((kind for name, kind in names.items() if name in expert["expert_class"]), "")
        a = expert.get("expert_lattice_a_A") or "nan"
        radius = expert["expert_diffuse_sphere_r_A"] or "nan"
        compared.append(
            Compared(
                float(expert["t_s"]),
                seen,
                NM_PER_ANGSTROM * float(a),
                NM_PER_ANGSTROM * float(radius),
                peak,
                lattice,
                form,
            )
        )
    return compared, alerts


def print_palladium(name: str) -> None:
    """Order, lattice and alerts of one series."""
    compared, alerts = palladium(name)
    ordered = [c for c in compared if c.expert]
    plain = [c for c in compared if not c.expert]
    print(f"{name}: {len(compared)} frames, {len(ordered)} with a lattice by the experts")
    for label, chosen in (("with a lattice", ordered), ("without", plain)):
        if not chosen:
            continue
        reported = sum(c.peak is not None and math.isfinite(c.peak.spacing_nm) for c in chosen)
        named = sum(
            c.lattice is not None and c.lattice.lattice not in ("", "cannot tell") for c in chosen
        )
        print(
            f"  {label:16}{len(chosen):5} frames: order in {reported}, a lattice named in {named}"
        )
    for kind in ("fcc", "hcp"):
        ratios = np.array([c.cell_ratio for c in ordered if c.expert == kind])
        if not ratios.size:
            continue
        seen = np.isfinite(ratios)
        near = np.abs(ratios[seen] - 1) <= 0.01
        median = np.median(ratios[seen]) if seen.any() else math.nan
        print(
            f"  experts say {kind}:  {ratios.size} frames, ours the same kind in {seen.sum()}; a "
            f"over theirs {median:.4f} (median), within 1 % in {near.sum()}, "
            f"worst {np.max(np.abs(ratios[seen] - 1), initial=0):.3f}"
        )
    radii = np.array(
        [0.5 * c.form.diameter_nm / c.expert_radius_nm for c in ordered if c.form is not None]
    )
    if radii.size:
        print(f"  radius of the form factor over theirs, with a lattice: {np.nanmedian(radii):.3f}")
    print_alerts(alerts)


def print_alerts(alerts: Sequence[Alert]) -> None:
    """One line each."""
    for alert in alerts:
        print(
            f"  ALERT {alert.kind:18} told {alert.time_s:7.1f} s, began {alert.onset_s:7.1f} "
            f"({alert.onset_lo_s:.1f} to {alert.onset_hi_s:.1f}): {alert.message}"
        )


def print_heated_film() -> None:
    """Lines and phases of the film, frame by frame, and the alerts."""
    config = load_config(REPOSITORY / "configs" / "facs_heat.yaml")
    frames, alerts = analysed(config, "waxs", data_folder() / HEATED)
    print(f"{HEATED}: height of the line over its error, frame by frame")
    rows = [r for r in of_kind(frames, LinesRow) if r is not None]
    for label, q in WATCHED_PER_NM.items():
        heights = []
        for row in rows:
            near = [e for e in lines_of(as_row(row)) if abs(e.q_per_nm - q) < NEAR_PER_NM]
            heights.append(f"{max((e.sigmas for e in near), default=0.0):.0f}")
        print(f"  {label}: {' '.join(heights)}")
    for number, row in enumerate(of_kind(frames, PhasesRow)):
        if row is not None and number % 5 in (0, 4):
            present = [phase.name for phase in phases_of(as_row(row)) if phase.present]
            print(f"  frame {number:2}: {row.state}, {', '.join(present) or 'no phase'}")
    print_alerts(alerts)


def main() -> None:
    """Print the tables."""
    if not data_folder().is_dir():
        print(f"left out: no recordings at {data_folder()}; set NUCLEATE_DATA to their folder")
        return
    for name in PD_SERIES:
        print_palladium(name)
    print_heated_film()


if __name__ == "__main__":
    main()
