"""Order sought in noise: false alarms of the comb, detection beside rivals, delays, and time.

Curves are those of the simulated assembly at 100 C, counted, fitted and judged as in a run. Without
order the same synthesis grows on without assembly.

The rivals get the same fit's S(q): the highest point over its noise ("5 sigma" where its threshold
is not set by noise), and the highest prominence of `scipy.signal.find_peaks` on S(q) smoothed over
11 points. They have no false-alarm probability of their own: their thresholds are the quantiles of
the very frames without order that the table is made of. The comb's are its own ``order_p``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.signal import find_peaks, savgol_filter

from benchmarks import order_speed
from benchmarks.sequences import FLAT_PER_CM, counted, gain_per_cm
from detectors.sample import Synthesis
from detectors.sample.recipes import RECIPES, Recipe
from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.detect import Detection
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.detect.order import ShiftWatch, Superlattice
from pipeline.fit.assembly import AnalyseAssembly
from pipeline.fit.populations import FitPopulations
from pipeline.messages import Curve, FittedCurve, Peak

Q_PER_NM = np.linspace(0.15, 5.3, 1000)
ONSET_1D_S, ONSET_3D_S = 90.0, 300.0
LEVELS = (1e-1, 1e-2, 1e-3)
ASSEMBLY = RECIPES["assembly_100c"]
UNORDERED = dataclasses.replace(ASSEMBLY, assembly=None)
AFTER_ONSET_S = {5e9: (5.0, 20.0, 60.0), 5e10: (2.0, 5.0, 10.0, 20.0), 5e11: (1.0, 2.0, 4.0, 8.0)}


@dataclass(frozen=True)
class Case:
    """Frames without order: a synthesis at a time, its flux, and what is wrong with its errors."""

    recipe: Recipe
    time_s: float
    flux_per_s: float = 5e11
    errors: float = 1.0
    correlation: float = 0.0


CASES = {
    "11.7 nm, 6 %, 5e9 photons/s": Case(UNORDERED, 120.0, 5e9),
    "11.7 nm, 6 %, 5e10": Case(UNORDERED, 120.0, 5e10),
    "11.7 nm, 6 %, 5e11": Case(UNORDERED, 120.0),
    "errors 5 % too small": Case(UNORDERED, 120.0, errors=0.95),
    "neighbours correlated by 0.145": Case(UNORDERED, 120.0, correlation=0.145),
    "7.5 nm, 9 %": Case(RECIPES["cs_dopa"], 60.0),
    "4.3 nm, 12 %": Case(RECIPES["cs_oleate"], 60.0),
}


def curves(case: Case, frames: int, seed: int) -> Iterator[Curve]:
    """Counted curves of a case."""
    rng = np.random.default_rng(seed)
    truth = Synthesis(case.recipe).intensity_per_cm(Q_PER_NM, case.time_s) + FLAT_PER_CM
    for frame in range(frames):
        curve = counted(truth, rng, q_per_nm=Q_PER_NM, flux_per_s=case.flux_per_s, frame=frame)
        intensity, sigma = curve.intensity, curve.sigma
        if case.correlation:
            # x_i + t x_(i-1) has the correlation t / (1 + t^2).
            rho = case.correlation
            share = (1 - np.sqrt(1 - 4 * rho**2)) / (2 * rho)
            noise = rng.normal(size=truth.size + 1)
            noise = (noise[1:] + share * noise[:-1]) / np.sqrt(1 + share**2)
            sigma = np.sqrt(truth * gain_per_cm(Q_PER_NM, case.flux_per_s))
            intensity = truth + sigma * noise
        yield dataclasses.replace(curve, intensity=intensity, sigma=case.errors * sigma)


def judged(frames: Iterator[Curve]) -> Iterator[tuple[FittedCurve, Peak]]:
    """Fit and row of each curve."""
    fit, comb = (
        FitPopulations(PopulationsFit(), Sample()),
        AnalyseAssembly(AssemblyAnalysis(), Sample()),
    )
    for curve in frames:
        (fitted,) = (r for r in fit.process(curve) if isinstance(r, FittedCurve))
        peak, _ = comb.process(fitted)
        assert isinstance(peak, Peak)
        yield fitted, peak


def rivals(fitted: FittedCurve) -> tuple[float, float]:
    """Highest point of S(q) over its noise, and highest prominence of smoothed S(q)."""
    q = fitted.curve.q_per_nm
    settings = AssemblyAnalysis()
    window = (q >= 2 * np.pi / settings.spacing_range_nm[1]) & (q <= settings.q_max_per_nm)
    form = (fitted.model - fitted.background)[window]
    excess = (fitted.curve.intensity - fitted.model)[window] / form
    sigma = fitted.curve.sigma[window] / form
    usable = np.isfinite(excess) & (sigma > 0)
    excess, sigma = excess[usable], sigma[usable]
    # In units of noise: where S is badly known its prominences would be highest.
    smooth = savgol_filter(excess / sigma, 11, 2)
    _, found = find_peaks(smooth, prominence=0.0)
    return float(np.max(excess / sigma)), float(np.max(found["prominences"], initial=0.0))


def false_alarms(frames: int) -> None:
    """Rates of order_p below the levels, over those levels."""
    print(f"false alarms of the comb over what is promised, {frames} frames each (1 = exact)")
    print(
        f"{'':34}" + "".join(f"{level:9.0e}" for level in LEVELS) + "   z: mean  std    max"
        "   8 h of them: highest statistic, alarms above 172800"
    )  # fmt: skip
    for name, case in CASES.items():
        few = frames // 4 if case.flux_per_s < 1e10 else frames
        rows = [peak for _, peak in judged(curves(case, few, seed=11))]
        p, z = (np.array([getattr(row, name) for row in rows]) for name in ("order_p", "order_z"))
        rates = "".join(f"{np.mean(p < level) / level:9.2f}" for level in LEVELS)
        print(
            f"{name:34}{rates}   {z.mean():7.2f} {z.std():5.2f} {z.max():6.2f}"
            f"   {highest_statistic(z, 57_600):.0f}",
            flush=True,
        )
    print(f"(one standard error at 1e-3: {1 / np.sqrt(1e-3 * frames):.2f})")


def highest_statistic(z: np.ndarray, frames: int) -> float:
    """Of the detector over so many frames, drawn out of those judged."""
    watch, highest = ShiftWatch(0.9), 0.0
    for frame, value in enumerate(np.random.default_rng(15).choice(z, frames)):
        watch.update(frame, 0.5 * frame, float(value))
        highest = max(highest, watch.statistic)
    return highest


def detection(frames: int, nulls: int) -> None:
    """Probability of detection in one frame, at false-alarm probabilities."""
    print(f"\ndetection in one frame, {frames} frames each; false-alarm probability")
    heads = "".join(f"{f'{level:.0e}':>8}" for level in LEVELS)
    names = ("comb", "highest point", "find_peaks")
    print(f"{'photons/s, after onset':24}" + "".join(f"| {name:22}" for name in names))
    print(f"{'':24}" + f"| {heads[2:]}" * 3 + "|  5 sigma rule")
    for flux, times in AFTER_ONSET_S.items():
        few = nulls // 4 if flux < 1e10 else nulls
        null = Case(UNORDERED, 100.0, flux)
        null_scores = np.array([rivals(f) for f, _ in judged(curves(null, few, seed=12))])
        thresholds = np.quantile(null_scores, [1 - level for level in LEVELS], axis=0)
        for after in times:
            case = Case(ASSEMBLY, ONSET_1D_S + after, flux)
            both = [(p.order_p, rivals(f)) for f, p in judged(curves(case, frames, seed=13))]
            p = np.array([one for one, _ in both])
            scores = np.array([other for _, other in both])
            shares = [np.mean(p < level) for level in LEVELS]
            line = "".join(f"{share:7.2f}" for share in shares) + "  "
            for k in range(2):
                shares = [np.mean(scores[:, k] > threshold) for threshold in thresholds[:, k]]
                line += "| " + "".join(f"{share:7.2f}" for share in shares) + " "
            five = np.mean(scores[:, 0] > 5), np.mean(null_scores[:, 0] > 5)
            label = f"{flux:.0e}, {after:g} s"
            print(f"{label:24}| {line}|  {five[0]:.2f}, false {five[1]:.3f}", flush=True)


def delays(runs: int) -> None:
    """Frames from the published onsets to the alerts, at 2 Hz."""
    print(f"\nalerts of order at 100 C, 5e11 photons/s, 2 Hz: frames after the onset, {runs} runs")
    synthesis = Synthesis(ASSEMBLY)
    found: dict[str, list[float]] = {}
    early = 0
    for seed in range(runs):
        rng = np.random.default_rng(100 + seed)
        detector = Superlattice(Detection())
        times = [*np.arange(60, 130, 0.5), *np.arange(270, 330, 0.5)]
        frames = (
            counted(
                synthesis.intensity_per_cm(Q_PER_NM, at) + FLAT_PER_CM, rng,
                q_per_nm=Q_PER_NM, frame=frame, time_s=float(at),
            )
            for frame, at in enumerate(times)
        )  # fmt: skip
        for _, peak in judged(frames):
            row = {name: getattr(peak, name) for name in type(peak).__slots__}
            row |= {"frame": peak.frame, "time_s": peak.time_s}
            for alert in detector.update(row):
                onset = ONSET_3D_S if alert.kind == "superlattice_3d" else ONSET_1D_S
                early += alert.time_s < onset
                found.setdefault(alert.kind, []).append((alert.time_s - onset) / 0.5)
    for kind, frames_after in found.items():
        print(f"{kind:20} {len(frames_after)} of {runs}: {sorted(frames_after)}")
    print(f"before the onset: {early}")


def main(
    frames: int = 6000, detected: int = 300, nulls: int = 4000, runs: int = 8, rounds: int = 200
) -> None:
    """Print the tables."""
    AnalyseAssembly(AssemblyAnalysis(), Sample()).warm_up()
    order_speed.main(rounds)
    false_alarms(frames)
    detection(detected, nulls)
    delays(runs)


if __name__ == "__main__":
    main()
