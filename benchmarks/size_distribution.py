"""Size distribution of no assumed shape: against McSAS3, in time and in error.

python -m benchmarks.size_distribution

McSAS3 runs in an interpreter of its own, one repetition and one of our frames by turns:

    python -m venv /tmp/mcsas && /tmp/mcsas/bin/pip install mcsas3
    NUCLEATE_MCSAS_PYTHON=/tmp/mcsas/bin/python python -m benchmarks size_distribution

Without it only our own numbers are shown. Both see the same curves of the simulated growth of
Cs-DOPA, rendered by `detectors.sample` with the counting noise of 5e11 photons/s in 0.5 s, and the
same range of diameters. McSAS3 is run as it comes: 300 contributions, curves rebinned to 100
points with at least 1 % of error, until chi-square is 1 or 100000 steps are done; ten repetitions
make its result.

The error is the total variation 1/2 sum |p - p_true| over bins of the volume, each normalised to
1. The truth holds the agglomerates as well, as long as there are any.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType

import numpy as np

from detectors.sample.scattering import CONTRAST_PER_NM2
from detectors.sample.synthesis import AGGLOMERATE_DIAMETER_NM, AGGLOMERATE_SIGMA_NM, Synthesis
from pipeline.config.sample import Sample
from pipeline.config.size_distribution import SizeInversion
from pipeline.fit.size_distribution import InvertSizes
from pipeline.kernels.size_kernel import bin_edges_nm
from pipeline.messages import Curve, SizeDistribution

TIMES_S = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0, 20.0, 30.0, 60.0, 150.0, 300.0)
MCSAS_TIMES_S = (0.5, 3.0, 12.0, 60.0)
REPETITIONS = 10
Q_PER_NM = np.linspace(0.2, 6.0, 500)
FLUX_PER_S = 5e11
PYTHON = "NUCLEATE_MCSAS_PYTHON"
INSTALL = f"""McSAS3 is not measured: {PYTHON} names no interpreter that has it. To have one:
   python -m venv /tmp/mcsas && /tmp/mcsas/bin/pip install mcsas3
   {PYTHON}=/tmp/mcsas/bin/python python -m benchmarks size_distribution"""


def counted(truth_per_cm: np.ndarray, rng: np.random.Generator, time_s: float) -> Curve:
    """A curve of 0.5 s with the noise of counting: a path of 1 mm, 37.5 keV (k = 190/nm)."""
    solid_angle = 2 * np.pi * Q_PER_NM * (Q_PER_NM[1] - Q_PER_NM[0]) / 190.0**2
    gain = 1 / (FLUX_PER_S * 0.5 * 0.1 * solid_angle)
    counts = rng.poisson(truth_per_cm / gain)
    return Curve(
        frame=0,
        time_s=time_s,
        q_per_nm=Q_PER_NM,
        intensity=counts * gain,
        sigma=np.sqrt(counts) * gain,
        absolute=True,
    )


def true_volumes(synthesis: Synthesis, time_s: float, edges_nm: np.ndarray) -> np.ndarray:
    """Share of the particles' volume in each bin, from the Gaussians that were rendered."""
    state = synthesis.state(time_s)
    fine = np.linspace(edges_nm[0], edges_nm[-1], 40 * edges_nm.size)
    density = np.zeros_like(fine)
    for number, mean, sigma in (
        (state.nc_concentration_um, state.nc_diameter_nm, state.nc_sigma_nm),
        (state.agglomerate_concentration_um, AGGLOMERATE_DIAMETER_NM, AGGLOMERATE_SIGMA_NM),
    ):
        if number > 0.0 and math.isfinite(mean):
            density += number / sigma * np.exp(-0.5 * ((fine - mean) / sigma) ** 2) * fine**3
    steps = 0.5 * (density[1:] + density[:-1]) * np.diff(fine)
    cumulated = np.interp(edges_nm, fine, np.concatenate([[0.0], np.cumsum(steps)]))
    return np.diff(cumulated) / cumulated[-1]


def total_variation(volumes: np.ndarray, truth: np.ndarray) -> float:
    """Half the sum of the differences, ``volumes`` normalised here."""
    return 0.5 * float(np.sum(np.abs(volumes / np.sum(volumes) - truth)))


def timed(stage: InvertSizes, curve: Curve) -> tuple[tuple[float, float], SizeDistribution]:
    """Seconds (clock, CPU) of one curve, and its distribution."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    found, _ = stage.process(curve)
    taken = time.perf_counter() - begin, time.process_time() - begin_cpu
    assert isinstance(found, SizeDistribution)
    return taken, found


class McSas:
    """The worker process; None of its repetitions is run before it is asked for."""

    def __init__(self, python: str, curves: list[Curve], settings: SizeInversion) -> None:
        worker = Path(__file__).with_name("mcsas_worker.py")
        self._process = subprocess.Popen(
            [python, str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        low, high = settings.diameter_range_nm
        lines = [[c.q_per_nm.tolist(), c.intensity.tolist(), c.sigma.tolist()] for c in curves]
        self._ask({"curves": lines, "radius_range_nm": [low / 2, high / 2]})

    def __enter__(self) -> McSas:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _ask(self, question: object):
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"McSAS3 ended with {self._process.wait()} and no answer")
        return json.loads(answer)

    def repetition(self, number: int) -> tuple[tuple[float, float], int, np.ndarray]:
        """Seconds (clock, CPU), steps, and diameters (300,) in nm of parts of equal volume."""
        answer = self._ask(number)
        sizes = 2.0 * np.array(answer["radii_nm"])
        return (answer["seconds"], answer["cpu_s"]), answer["steps"], sizes


def own_table(stage: InvertSizes, synthesis: Synthesis, frames: int) -> None:
    """Error, time and coverage of our own, of many frames at each time."""
    settings = stage.settings
    edges = bin_edges_nm(settings.diameter_range_nm, settings.bins)
    rng = np.random.default_rng(1)
    print(f"{frames} frames at each time; cover: of the bins with more than 0.5 % of the volume,")
    print("how many hold the truth within 1 and 2 standard errors")
    print(
        f"{'time, s':>8} {'TV mean':>8} {'worst':>7} {'ms p50':>7} {'p99':>6} {'CPU ms':>7}"
        f" {'cover':>12}"
    )
    every = []
    for time_s in TIMES_S:
        truth = true_volumes(synthesis, time_s, edges)
        intensity = synthesis.intensity_per_cm(Q_PER_NM, time_s)
        errors, seconds, cpu_s, pulls = [], [], [], []
        for _ in range(frames):
            curve = counted(intensity, rng, time_s)
            taken, found = timed(stage, curve)
            seconds.append(taken[0])
            cpu_s.append(taken[1])
            volumes = found.volume_per_nm * found.bin_width_nm
            errors.append(total_variation(volumes, truth))
            many = truth > 0.005
            share = volumes[many] / np.sum(volumes)
            err = (found.volume_per_nm_err * found.bin_width_nm)[many] / np.sum(volumes)
            pulls.append(np.abs(share - truth[many]) / err)
        pull = np.concatenate(pulls)
        p50, p99 = 1e3 * np.percentile(seconds, [50, 99])
        print(
            f"{time_s:8.1f} {np.mean(errors):8.3f} {np.max(errors):7.3f} {p50:7.2f} {p99:6.2f}"
            f" {1e3 * np.median(cpu_s):7.2f} {np.mean(pull < 1):6.2f}{np.mean(pull < 2):6.2f}"
        )
        every.append(errors)
    print(f"{'all':>8} {np.mean(every):8.3f} {np.max(every):7.3f}")


def versus(stage: InvertSizes, synthesis: Synthesis, python: str, repetitions: int) -> None:
    """Both on the same curves, by turns."""
    fine = bin_edges_nm(stage.settings.diameter_range_nm, stage.settings.bins)
    rng = np.random.default_rng(2)
    curves = [counted(synthesis.intensity_per_cm(Q_PER_NM, t), rng, t) for t in MCSAS_TIMES_S]
    print(f"{'':8} {'total variation, bins of 4 %':>30} {'bins of 8 %':>20}")
    print(
        f"{'time, s':>8} {'nucleate':>9} {'McSAS3':>8} {'1 rep':>8} {'nucleate':>12} {'McSAS3':>8}"
    )
    own_s, mcsas_s, table = [], [], []
    with McSas(python, curves, stage.settings) as mcsas:
        for number, curve in enumerate(curves):
            diameters, row, steps = [], [], []
            taken, found = timed(stage, curve)
            for _ in range(repetitions):
                taken, found = timed(stage, curve)
                own_s.append(taken)
                taken, count, sizes = mcsas.repetition(number)
                mcsas_s.append(taken)
                steps.append(count)
                diameters.append(sizes)
            for edges in (fine, fine[::2]):
                truth = true_volumes(synthesis, curve.time_s, edges)
                cumulated = np.concatenate([[0], np.cumsum(found.volume_per_nm * np.diff(fine))])
                own = np.diff(np.interp(edges, fine, cumulated))
                each = [np.histogram(sizes, edges)[0].astype(float) for sizes in diameters]
                row.append(total_variation(own, truth))
                row.append(total_variation(np.sum(each, axis=0), truth))
                row.append(float(np.mean([total_variation(one, truth) for one in each])))
            table.append(row)
            print(
                f"{curve.time_s:8.1f} {row[0]:9.3f} {row[1]:8.3f} {row[2]:8.3f}"
                f" {row[3]:12.3f} {row[4]:8.3f} {np.median(steps):10.0f}",
                flush=True,
            )
    mean = np.mean(table, axis=0)
    print(
        f"{'mean':>8} {mean[0]:9.3f} {mean[1]:8.3f} {mean[2]:8.3f} {mean[3]:12.3f} {mean[4]:8.3f}"
    )
    own, rival = np.median(own_s, axis=0), np.median(mcsas_s, axis=0)
    print(f"median of {len(own_s)} by turns: {'nucleate, ms':>14} {'McSAS3, s':>11} {'times':>8}")
    for name, one, other in zip(("clock", "CPU"), own, rival, strict=True):
        for count in (1, repetitions):
            label = f"{name}, {count} of its repetitions"
            print(f"{label:28} {1e3 * one:12.2f} {count * other:11.2f} {count * other / one:8.0f}")


def main(frames: int = 40, repetitions: int = REPETITIONS) -> None:
    """Print both tables."""
    synthesis = Synthesis("cs_dopa")
    stage = InvertSizes(SizeInversion(), Sample(contrast_per_nm2=CONTRAST_PER_NM2))
    stage.warm_up()
    own_table(stage, synthesis, frames)
    python = os.environ.get(PYTHON)
    if python is None:
        print(INSTALL)
    else:
        versus(stage, synthesis, python, repetitions)


if __name__ == "__main__":
    main()
