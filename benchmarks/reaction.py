"""How often the errors of rates hold the truth, and what phases are named.

Simulated curves with counting noise (5e11 photons/s for 0.5 s), our fits, and the reaction's rows
from them. The truth is the derivative of the simulated synthesis at the time that a rate gives.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from detectors.sample.synthesis import SampleState, Synthesis
from pipeline.config.populations import PopulationsFit
from pipeline.config.reaction import ReactionAnalysis
from pipeline.config.sample import Sample
from pipeline.fit.populations import FitPopulations, warm_up
from pipeline.messages import Curve, ReactionGrowth
from pipeline.reaction.growth import SAXS, JoinedGrowth

Q_PER_NM = np.linspace(0.2, 3.8, 400)
# Flux x exposure x transmission x thickness x solid angle of a ring of one bin.
PHOTONS_CM = 5e11 * 0.5 * 0.8 * 0.1 * 1.74e-4 * Q_PER_NM * (Q_PER_NM[1] - Q_PER_NM[0])
UNTIL_S = (0.0, 3.2, 6.2, 12.2, 20.0, 30.0, 60.0)
STEP_S = 0.02

Quantity = Callable[[SampleState], float]
RATES: dict[str, tuple[str, Quantity]] = {
    "growth_rate_nm_per_s": ("rate_time_s", lambda s: s.nc_diameter_nm),
    "focusing_rate_nm_per_s": ("rate_time_s", lambda s: s.nc_sigma_nm),
    "relative_focusing_rate_per_s": ("rate_time_s", lambda s: s.nc_sigma_nm / s.nc_diameter_nm),
    "nucleation_rate_um_per_s": ("nucleation_time_s", lambda s: s.nc_concentration_um),
    "crystallisation_rate_per_s": ("crystallisation_time_s", lambda s: s.yield_fraction),
}
"""By column: the column of its time, and what it is the rate of."""


def fitted(synthesis: Synthesis, sample: Sample, until_s: float, seed: int) -> list[dict]:
    """Rows of ``saxs/populations`` at 2 Hz."""
    stage, rng = FitPopulations(PopulationsFit(), sample), np.random.default_rng(seed)
    rows = []
    for frame in range(int(2 * until_s)):
        time_s = 0.5 * (frame + 1)
        counts = rng.poisson(synthesis.intensity_per_cm(Q_PER_NM, time_s) * PHOTONS_CM)
        curve = Curve(
            frame=frame,
            time_s=time_s,
            q_per_nm=Q_PER_NM,
            intensity=counts / PHOTONS_CM,
            sigma=np.sqrt(np.maximum(counts, 1)) / PHOTONS_CM,
            absolute=True,
        )
        rows.append(dataclasses.asdict(stage.process(curve)[0]))
    return rows


def main(recipe: str = "cs_dopa", runs: int = 12) -> None:
    """Print the tables for one recipe."""
    synthesis = Synthesis(recipe)
    sample = Sample(limiting_concentration_mm=synthesis.limiting_concentration_mm)
    warm_up()
    made: list[ReactionGrowth] = []
    spent_s = 0.0
    for seed in range(runs):
        rows = fitted(synthesis, sample, UNTIL_S[-1], seed)
        stream = JoinedGrowth(ReactionAnalysis(), sample, [SAXS])
        began = time.perf_counter()
        outcomes = [outcome for row in rows for outcome in stream.take(SAXS, row)]
        spent_s += time.perf_counter() - began
        made += [r for o in outcomes for r in o.results if isinstance(r, ReactionGrowth)]
    print(f"{recipe}, {runs} runs; {1e3 * spent_s / len(made):.2f} ms a frame")
    print(
        f"{'rate':30} {'frames at':>12} {'n':>5} {'error':>9} {'rmse':>9} {'bias':>9} covered pull"
    )
    for name in RATES:
        for first_s, last_s in pairwise(UNTIL_S):
            _print_coverage(name, synthesis, [r for r in made if first_s < r.time_s <= last_s])
    for first_s, last_s in pairwise(UNTIL_S):
        named = Counter(row.phase for row in made if first_s < row.time_s <= last_s)
        print(f"phases at {first_s:4.1f} to {last_s:4.1f} s: {dict(named.most_common())}")


def _print_coverage(name: str, synthesis: Synthesis, rows: list[ReactionGrowth]) -> None:
    when, quantity = RATES[name]
    off, errors = [], []
    for row in rows:
        time_s, rate, error = (getattr(row, n) for n in (when, name, f"{name}_err"))
        if not math.isfinite(rate):
            continue
        after, before = (quantity(synthesis.state(time_s + s)) for s in (STEP_S, -STEP_S))
        off.append(rate - (after - before) / (2 * STEP_S))
        errors.append(error)
    if not off:
        return
    pulls = np.array(off) / np.array(errors)
    span = f"{rows[0].time_s:.1f}-{max(r.time_s for r in rows):.1f} s"
    print(
        f"{name:30} {span:>12} {len(off):5} {np.median(errors):9.2g} "
        f"{np.sqrt(np.mean(np.square(off))):9.2g} {np.mean(off):9.2g} "
        f"{100 * np.mean(np.abs(pulls) < 1.96):6.1f}% {np.mean(pulls):5.2f}"
    )
