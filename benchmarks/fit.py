"""Time of the fits: two populations beside the rivals, then exciton and order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks import fit_rivals
from benchmarks.sequences import FLAT_PER_CM, Q_PER_NM, counted
from detectors.sample import Synthesis
from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.exciton import ExcitonFit
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.assembly import AnalyseAssembly
from pipeline.fit.exciton import FitExciton
from pipeline.fit.populations import FitPopulations
from pipeline.messages import FittedCurve, Spectrum

TIMES_S = (60.0, 90.0, 120.0, 180.0, 240.0)


def spectra(synthesis: Synthesis) -> list[Spectrum]:
    """Absorbance over the range of the fit with a noise of 1e-3."""
    rng = np.random.default_rng(6)
    energy_ev = np.linspace(1.9, 4.3, 700)
    sigma = np.full(energy_ev.size, 1e-3)
    return [
        Spectrum(
            frame=frame,
            time_s=time_s,
            energy_ev=energy_ev,
            absorbance=synthesis.absorbance(energy_ev, time_s) + rng.normal(0, sigma),
            sigma=sigma,
        )
        for frame, time_s in enumerate(TIMES_S)
    ]


def ordered_curves(sample: Sample) -> list[FittedCurve]:
    """Fitted curves of the assembly at 100 C."""
    synthesis, rng = Synthesis("assembly_100c"), np.random.default_rng(5)
    stage = FitPopulations(PopulationsFit(), sample)
    curves = [
        counted(synthesis.intensity_per_cm(Q_PER_NM, time_s) + FLAT_PER_CM, rng, frame=frame)
        for frame, time_s in enumerate(TIMES_S)
    ]
    results = [result for curve in curves for result in stage.process(curve)]
    return [result for result in results if isinstance(result, FittedCurve)]


def take_turns(methods: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each in seconds; one after the other, so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, call in methods.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values)) for name, values in times.items()}


def main(frames: int = 30, run: int = 600, rounds: int = 25, with_dream: bool = False) -> None:
    """Print the tables."""
    fit_rivals.main(frames, run, with_dream)
    sample = Sample()
    assembly, exciton = AnalyseAssembly(AssemblyAnalysis(), sample), FitExciton(ExcitonFit())
    for stage in (assembly, exciton):
        stage.warm_up()
    fitted, measured = ordered_curves(sample), spectra(Synthesis("cs_dopa"))
    methods: dict[str, Callable[[], object]] = {
        "exciton, one spectrum": lambda: [list(exciton.process(s)) for s in measured],
        "order, one curve": lambda: [list(assembly.process(f)) for f in fitted],
    }
    for name, seconds in take_turns(methods, rounds).items():
        print(f"{name:42}{1e3 * seconds / len(TIMES_S):8.2f} ms")


if __name__ == "__main__":
    main()
