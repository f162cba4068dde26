"""Computing time of the stages of order, and of phases in WAXS, beside their goals.

Curves are those of configs/assembly_100c.yaml at 1000 bins, the recorded superlattice of
configs/pd_superlattice.yaml where NUCLEATE_DATA has it, and wide-angle curves of
configs/cs_dopa_waxs.yaml. Each round takes one frame of every case, so that a busy moment is shared
by all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from benchmarks.phases import Detector
from benchmarks.recordings import PD_SERIES, REPOSITORY, data_folder
from benchmarks.sequences import FLAT_PER_CM, counted
from detectors.sample import RECIPES, Synthesis
from pipeline.cli.analyse import stages_for
from pipeline.config import RunConfig
from pipeline.config.loader import load_config
from pipeline.messages import CurveFrame, FittedCurve, Result, RunStart, Stage
from pipeline.reduce.saxs import ReduceSaxs
from pipeline.replay import open_recording
from pipeline.runner.chain import StageChain

ORDER = ("assembly", "structure", "lattice")
GOAL_MS = {"order": 5.0, "waxs": 10.0}
WAXS_TIMES_S = (1.0, 3.0, 10.0, 60.0, 200.0)


@dataclass(eq=False)
class Timed:
    """Stages of one case, the messages that enter the first, and the seconds of each frame."""

    label: str
    stages: Sequence[Stage]
    messages: Sequence[Result]
    goal_ms: float
    cpu_s: list[list[float]] = field(default_factory=list)
    wall_s: list[list[float]] = field(default_factory=list)

    def take(self, number: int) -> None:
        """Run one message through the stages."""
        passed: list[Result] = [self.messages[number % len(self.messages)]]
        cpu, wall = [time.thread_time()], [time.perf_counter()]
        for stage in self.stages:
            passed = [
                result
                for message in passed
                if isinstance(message, stage.consumes)
                for result in stage.process(message)
            ]
            cpu.append(time.thread_time())
            wall.append(time.perf_counter())
        self.cpu_s.append([after - before for before, after in pairwise(cpu)])
        self.wall_s.append([after - before for before, after in pairwise(wall)])

    def rows(self) -> Iterator[str]:
        """One line of each stage, and of their sum where there are several."""
        cpu, wall = 1e3 * np.array(self.cpu_s), 1e3 * np.array(self.wall_s)
        parts = [(stage.name, cpu[:, s], wall[:, s]) for s, stage in enumerate(self.stages)]
        if len(parts) > 1:
            parts.append(("sum", cpu.sum(axis=1), wall.sum(axis=1)))
        for name, *both in parts:
            times = "  ".join(
                "".join(f"{value:8.2f}" for value in np.percentile(of_one, [50, 90, 99]))
                for of_one in both
            )
            goal = f"   {self.goal_ms:.0f}" if name == parts[-1][0] else ""
            yield f"{self.label:28}{name:10}{times}{goal}"


def simulated(frames: int) -> Iterator[Timed]:
    """The assembly at 100 C, with and without order."""
    config = load_config(REPOSITORY / "configs" / "assembly_100c.yaml")
    recipe = RECIPES[config.acquisition.devices.recipe]  # pyright: ignore[reportAttributeAccessIssue]
    q, rng = np.linspace(0.15, 6.0, config.saxs.reduce.bins), np.random.default_rng(17)
    cases = {
        "without order, 60 s": 60.0,
        "stack, 120 s": 120.0,
        "stack, 295 s": 295.0,
        "lattice, 600 s": 600.0,
        "lattice, 1100 s": 1100.0,
    }
    for label, time_s in cases.items():
        truth = Synthesis(recipe).intensity_per_cm(q, time_s) + FLAT_PER_CM
        curves = (
            counted(truth, rng, q_per_nm=q, frame=frame, time_s=time_s) for frame in range(frames)
        )
        yield Timed(label, order_stages(config), fitted(config, curves), GOAL_MS["order"])


def order_stages(config: RunConfig) -> list[Stage]:
    """The stages of order of a config."""
    return [stage for stage in stages_for("saxs", config) if stage.name in ORDER]


def fitted(config: RunConfig, curves: Iterable[Result]) -> list[Result]:
    """Curves after the fit of populations."""
    fit = next(stage for stage in stages_for("saxs", config) if stage.name == "populations")
    results = (result for curve in curves for result in fit.process(curve))
    return [result for result in results if isinstance(result, FittedCurve)]


def recorded() -> Iterator[Timed]:
    """The palladium superlattice, all frames."""
    folder = data_folder() / PD_SERIES["pd_superlattice"]
    if not folder.is_dir():
        print(f"left out: no {folder.name} at {data_folder()}; set NUCLEATE_DATA to its folder")
        return
    config = load_config(REPOSITORY / "configs" / "pd_superlattice.yaml")
    source = open_recording(folder, config.replay).streams["saxs"]
    reduction = ReduceSaxs(config.saxs.reduce)
    reduction.reset(RunStart(run=config.name, stream=source.start))
    frames = (frame for frame in source.frames() if isinstance(frame, CurveFrame))
    curves = fitted(config, (curve for frame in frames for curve in reduction.process(frame)))
    yield Timed("recorded Pd superlattice", order_stages(config), curves, GOAL_MS["order"])


def wide_angle() -> Iterator[Timed]:
    """Phases of the simulated Cs-DOPA run."""
    config = load_config(REPOSITORY / "configs" / "cs_dopa_waxs.yaml")
    detector = Detector(config, Synthesis("cs_dopa"))
    curves = [detector.curve(round(2 * time_s), time_s) for time_s in WAXS_TIMES_S]
    phases = [stage for stage in stages_for("waxs", config) if stage.name == "phases"]
    yield Timed("WAXS, 1 to 200 s", phases, curves, GOAL_MS["waxs"])


def main(rounds: int = 200, frames: int = 20) -> None:
    """Print the table."""
    cases = [*simulated(frames), *recorded(), *wide_angle()]
    for case in cases:
        StageChain(case.stages).warm_up()
        # The plan of a q axis is made once, on its first curve.
        case.take(0)
        case.cpu_s.clear()
        case.wall_s.clear()
    for number in range(rounds):
        for case in cases:
            case.take(number)
    print(f"\ntime per frame in ms, {rounds} interleaved rounds; goals are for the sum's median")
    heads = (f"{f'{kind} p50':>8}{'p90':>8}{'p99':>8}" for kind in ("CPU", "wall"))
    print(f"{'':38}" + "  ".join(heads) + "   goal")
    for case in cases:
        for row in case.rows():
            print(row, flush=True)


if __name__ == "__main__":
    main()
