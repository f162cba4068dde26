"""The fit of two populations beside what fitting packages do with the same curves.

All take turns on one thread on frames of the simulated Cs-DOPA synthesis (5e11 photons/s, 0.5 s,
500 q points, rendered by sasmodels), once cold, from one start far from every answer, and once
warm, from their own answer to the frame before. Models, kernels and data are set up before the
clock starts. All know the true standard errors. ``nucleate`` is the same fit and the covariance, by
the kernels of its stage; ``nucleate, whole stage`` takes its standard errors from the counts,
refits with those of its model, fits all four models to decide how many populations there are, tests
the residuals, gives errors and intervals, and writes the row.

A wrong minimum lies more than 4 in chi-square above the best of 50 random starts of scipy's fit.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from benchmarks.closed_form import (
    CONTRAST_PER_NM2,
    LEAST_AMPLITUDES,
    LOWER,
    UPPER,
    WRONG_CHI2,
    ClosedFormFit,
    Minimum,
    best_of_random,
    spheres,
)
from benchmarks.sequences import (
    AGGLOMERATES_NM,
    PER_CUBIC_ANGSTROM_PER_UM,
    Q_PER_NM,
    SLD_CRYSTAL,
    SLD_HEXANE,
    gain_per_cm,
    mean_volume_nm3,
    sequence,
)
from detectors.sample import Synthesis
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.population_problem import Plan, make_plan
from pipeline.fit.populations import FitPopulations
from pipeline.kernels.population_errors import fill_covariance
from pipeline.kernels.population_fit import BOTH, empty_fits, fit_alone, fit_frame
from pipeline.kernels.units import PER_CM_IN_PER_NM, UM_PER_NM3
from pipeline.messages import Curve, FittedCurve, Populations

FAR_START = np.array([10.0, 1.5, 1.0, 0.01, 1e-6, 5.0])
"""D, s (nm), crystals (uM), flat, q^-4, agglomerates (uM); the answers are 4.2 to 7.4 nm."""
RANDOM_STARTS = 50
# sasmodels' own 35 points over 3 standard deviations are 0.7 to 2 % off; these are good to 4e-7.
POINTS, SIGMAS = 80, 8
OWN, STAGE = "nucleate", "nucleate, whole stage"
INSTALL = "pip install 'nucleate[bench]' brings the packages that are missing"
SETTINGS = PopulationsFit(q_min_per_nm=0.15, q_max_per_nm=6.0)

Solve = Callable[[np.ndarray], np.ndarray]
"""From start to answer, both as FAR_START."""


@dataclass(slots=True)
class Score:
    """Of one method: seconds and excess of chi-square over the best, frame by frame."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"cold": [], "warm": []})
    excess: dict[str, list[float]] = field(default_factory=lambda: {"cold": [], "warm": []})

    def median_ms(self, kind: str) -> float:
        """Per frame."""
        return 1e3 * float(np.median(self.seconds[kind]))

    def wrong(self, kind: str) -> int:
        """Frames that ended in a wrong minimum."""
        return int(np.sum(np.array(self.excess[kind]) > WRONG_CHI2))


@cache
def _own_stage(warm: bool) -> FitPopulations:
    stage = FitPopulations(SETTINGS, Sample())
    stage.warm_up()
    return stage


def own_kernel_fit(curve: Curve, warm: bool) -> tuple[Populations, FittedCurve]:
    """One frame by nucleate; cold forgets the frames before, warm goes on from the last warm one.

    Cold and warm have a stage each, so that frames in order can be fitted both ways in turn.
    """
    stage = _own_stage(warm)
    forget = getattr(stage, "forget", None)
    if not warm and forget is not None:
        forget()
    populations, fitted = stage.process(curve)
    assert isinstance(populations, Populations)
    assert isinstance(fitted, FittedCurve)
    return populations, fitted


@cache
def _plan() -> Plan:
    return make_plan(SETTINGS, Q_PER_NM, np.empty(0), None)


def _kernels(fit: ClosedFormFit) -> Solve:
    """The same fit by the stage's kernels: a search where nothing is known, and the covariance."""
    plan, problem = _plan(), _plan().problem
    intensity = fit.data_w / fit.weight
    size = len(plan.names)
    per_um = PER_CM_IN_PER_NM * CONTRAST_PER_NM2**2 / UM_PER_NM3
    covariance = np.empty((size + 4, size + 4))
    at, amplitudes = np.empty((2, 2)), np.empty(size)

    def solve(start: np.ndarray) -> np.ndarray:
        if start is FAR_START:
            fit_alone(problem, plan.starts, intensity, fit.weight, True, at, amplitudes)
        else:
            at[0] = plan.starts.agglomerates
            at[1] = start[0], start[1] / start[0]
            fit_alone(problem, plan.starts, intensity, fit.weight, False, at, amplitudes)
        fill_covariance(problem, amplitudes, at, fit.weight, covariance)
        diameter, relative = at[1]
        powerlaw, flat, agglomerates, crystals = amplitudes
        return np.array(
            [
                diameter,
                relative * diameter,
                crystals / per_um,
                flat,
                powerlaw,
                agglomerates / per_um,
            ]
        )

    return solve


def chi2_excess(fit: ClosedFormFit, best: Minimum, row: Populations, model: np.ndarray) -> float:
    """How far nucleate's answer is above the best one of the model that it chose.

    Populations that it calls absent are left out of the reference too, unless leaving them out
    costs more than its criterion allows: then they were missed, and the full model's best counts.
    """
    excess = fit.chi2(model) - best.chi2
    crystals = bool(np.isfinite(row.nc_diameter_nm))
    agglomerates = bool(np.isfinite(row.agglomerate_concentration_um))
    allowed = SETTINGS.presence_sigma**2
    if excess <= WRONG_CHI2 or (crystals and agglomerates):
        return excess
    if not crystals:
        # Three parameters more than the amplitude's one; see SEARCH_PENALTY of the stage.
        return excess if excess > allowed + 14 + WRONG_CHI2 else 0.0
    if excess > allowed + WRONG_CHI2:
        return excess
    single = ClosedFormFit(fit.q, fit.data_w / fit.weight, 1 / fit.weight, agglomerates=False)
    return fit.chi2(model) - best_of_random(single, RANDOM_STARTS).chi2


def _scipy(fit: ClosedFormFit) -> Solve:
    return lambda start: _parameters(fit.least_squares(start))


def _projection(fit: ClosedFormFit) -> Solve:
    def solve(start: np.ndarray) -> np.ndarray:
        # Where crystals are held at zero nothing leads away: this one chooses among ten starts.
        known = start[2] > LEAST_AMPLITUDES[0] and start is not FAR_START
        return _parameters(fit.variable_projection((start[0], start[1]) if known else fit.scan()))

    return solve


def _lmfit(fit: ClosedFormFit) -> Solve:
    import lmfit

    names = ("diameter", "sigma", "crystals", "flat", "powerlaw", "agglomerates")

    def solve(start: np.ndarray) -> np.ndarray:
        parameters = lmfit.Parameters()
        for name, value, low, high in zip(names, start, LOWER, UPPER, strict=True):
            parameters.add(name, value=value, min=low, max=high)
        done = lmfit.minimize(
            lambda p: fit.residuals(np.array([p[name].value for name in names])), parameters
        )
        return np.array([done.params[name].value for name in names])

    return solve


def _sum_parameters(x: np.ndarray) -> dict[str, float]:
    """Parameters of sasmodels' sphere + sphere + power law that vary, from ours."""
    per_um = 1e3 * PER_CUBIC_ANGSTROM_PER_UM
    return {
        "A_radius": 5 * x[0],
        "A_radius_pd": x[1] / x[0],
        "A_scale": x[2] * per_um * mean_volume_nm3(x[0], x[1]),
        "background": x[3],
        "C_scale": 1e-4 * x[4],
        "B_scale": x[5] * per_um * mean_volume_nm3(*AGGLOMERATES_NM),
    }


def _from_sum(p: dict[str, float]) -> np.ndarray:
    per_um = 1e3 * PER_CUBIC_ANGSTROM_PER_UM
    diameter = p["A_radius"] / 5
    sigma = diameter * p["A_radius_pd"]
    return np.array(
        [
            diameter,
            sigma,
            p["A_scale"] / per_um / mean_volume_nm3(diameter, sigma),
            p["background"],
            1e4 * p["C_scale"],
            p["B_scale"] / per_um / mean_volume_nm3(*AGGLOMERATES_NM),
        ]
    )


def _fixed_of_sum() -> dict[str, float]:
    fixed: dict[str, float] = {"scale": 1.0, "C_power": 4.0}
    for part in "AB":
        fixed |= {
            f"{part}_sld": SLD_CRYSTAL,
            f"{part}_sld_solvent": SLD_HEXANE,
            f"{part}_radius_pd_n": POINTS,
            f"{part}_radius_pd_nsigma": SIGMAS,
        }
    diameter, sigma = AGGLOMERATES_NM
    return fixed | {"B_radius": 5 * diameter, "B_radius_pd": sigma / diameter}


@cache
def _sum_model() -> Any:
    from sasmodels.core import load_model

    return load_model("sphere+sphere+power_law", dtype="double", platform="dll")


def _sasmodels(fit: ClosedFormFit) -> Solve:
    from sasmodels.direct_model import call_kernel

    kernel, fixed = _sum_model().make_kernel([0.1 * fit.q]), _fixed_of_sum()
    names = tuple(_sum_parameters(FAR_START))
    lower = np.array([10.0, 0.01, 0.0, -np.inf, 0.0, 0.0])
    upper = np.array([100.0, 0.5, 1.0, np.inf, 1.0, 1.0])

    def residual(values: np.ndarray) -> np.ndarray:
        given = fixed | dict(zip(names, values, strict=True))
        return call_kernel(kernel, given) * fit.weight - fit.data_w

    def solve(start: np.ndarray) -> np.ndarray:
        at = np.array(list(_sum_parameters(start).values()))
        done = least_squares(residual, at, bounds=(lower, upper), method="trf", x_scale="jac")
        return _from_sum(dict(zip(names, done.x, strict=True)))

    return solve


def _bumps(fit: ClosedFormFit, method: str = "lm", **options: Any) -> Solve:
    from bumps.fitters import fit as bumps_fit
    from bumps.names import FitProblem
    from sasmodels.bumps_model import Experiment, Model
    from sasmodels.data import Data1D

    data = Data1D(x=0.1 * fit.q, y=fit.data_w / fit.weight, dy=1 / fit.weight)
    model = Model(_sum_model(), **_fixed_of_sum(), **_sum_parameters(FAR_START))
    ranges = {
        "A_radius": (10.0, 100.0),
        "A_radius_pd": (0.01, 0.5),
        "A_scale": (0.0, 0.01),
        "background": (-0.1, 0.5),
        "C_scale": (0.0, 1e-8),
        "B_scale": (0.0, 0.01),
    }
    for name, limits in ranges.items():
        getattr(model, name).range(*limits)
    problem = FitProblem(Experiment(data=data, model=model))

    def solve(start: np.ndarray) -> np.ndarray:
        for name, value in _sum_parameters(start).items():
            getattr(model, name).value = value
        problem.model_update()
        done = bumps_fit(problem, method=method, verbose=False, **options)
        problem.setp(done.x)
        return _from_sum({name: getattr(model, name).value for name in ranges})

    return solve


def _parameters(minimum: Minimum) -> np.ndarray:
    return np.array([minimum.diameter_nm, minimum.sigma_nm, *minimum.amplitudes])


@dataclass(frozen=True, slots=True)
class Rival:
    """Another way to the same fit, the packages it needs, and how much slower it has to be."""

    name: str
    make: Callable[[ClosedFormFit], Solve]
    packages: tuple[str, ...]
    target: int | None


RIVALS = (
    Rival(OWN, _kernels, (), None),
    Rival("sasmodels (80 points, 8 sigma), scipy", _sasmodels, ("sasmodels",), 500),
    Rival("sasmodels (80 points, 8 sigma), bumps LM", _bumps, ("sasmodels", "bumps"), 500),
    Rival("closed form, lmfit", _lmfit, ("lmfit",), None),
    Rival("closed form, scipy, analytic Jacobian", _scipy, (), 30),
    Rival("closed form, numpy variable projection", _projection, (), 10),
)


def _installed() -> Iterator[Rival]:
    for rival in RIVALS:
        absent = [name for name in rival.packages if importlib.util.find_spec(name) is None]
        if absent:
            print(f"{rival.name}: left out, no {', '.join(absent)} here; {INSTALL}")
        else:
            yield rival


def _model(fit: ClosedFormFit, x: np.ndarray) -> np.ndarray:
    return x[2] * spheres(fit.q, x[0], x[1])[0] + x[3:] @ fit.fixed


def compare(times_s: np.ndarray, rivals: list[Rival]) -> dict[str, Score]:
    """Score of nucleate, under its name, and of each rival."""
    scores = {name: Score() for name in (*(rival.name for rival in rivals), STAGE)}
    last: dict[str, np.ndarray] = {}
    seen = False
    frames = sequence(Synthesis("cs_dopa"), times_s, np.random.default_rng(7))
    for there, curve in frames:
        sigma = np.sqrt(there.intensity * gain_per_cm())
        fit = ClosedFormFit(Q_PER_NM, curve.intensity, sigma)
        best = best_of_random(fit, RANDOM_STARTS, by_scipy=True)
        # The first frame has none before it: its cold answer is what the second goes on from.
        kinds = ("cold", "warm") if seen else ("cold",)
        if not seen:
            own_kernel_fit(curve, warm=True)
        for kind in kinds:
            begin = time.perf_counter()
            row, fitted = own_kernel_fit(curve, kind == "warm")
            scores[STAGE].seconds[kind].append(time.perf_counter() - begin)
            scores[STAGE].excess[kind].append(chi2_excess(fit, best, row, fitted.model))
        for rival in rivals:
            solve, score, answer = rival.make(fit), scores[rival.name], FAR_START
            for kind in kinds:
                start = FAR_START if kind == "cold" else _inside(last[rival.name])
                begin = time.perf_counter()
                answer = solve(start)
                score.seconds[kind].append(time.perf_counter() - begin)
                score.excess[kind].append(fit.chi2(_model(fit, answer)) - best.chi2)
            last[rival.name] = answer
        seen = True
    return scores


def _inside(x: np.ndarray) -> np.ndarray:
    """An answer as a start: off its bounds by a little, or it has no slope (and scipy refuses)."""
    size = np.clip(x[:2], LOWER[:2] * 1.001, UPPER[:2] * 0.999)
    return np.concatenate((size, np.maximum(x[2:], LEAST_AMPLITUDES)))


def own_times_s(frames: int) -> np.ndarray:
    """Seconds of each warm frame of a run at 2 Hz, 1 s after the injection and on."""
    seconds = []
    run = sequence(Synthesis("cs_dopa"), 1.0 + 0.5 * np.arange(frames), np.random.default_rng(11))
    for _, curve in run:
        begin = time.perf_counter()
        own_kernel_fit(curve, warm=True)
        seconds.append(time.perf_counter() - begin)
    return np.array(seconds)


def all_models_s(frames: int, cold: bool) -> np.ndarray:
    """Seconds of the fits of all models of each frame, reweighted, of the same run."""
    plan = _plan()
    fits = empty_fits(plan.problem.fixed.shape[0], Q_PER_NM.size)
    seconds, before = [], 1.0
    run = sequence(Synthesis("cs_dopa"), 1.0 + 0.5 * np.arange(frames), np.random.default_rng(11))
    for number, (_, curve) in enumerate(run):
        first = number % SETTINGS.search_every == 0
        begin = time.perf_counter()
        fit_frame(
            plan.problem, plan.starts, plan.asked, curve.intensity, curve.sigma, True,
            cold or first, before, fits,
        )  # fmt: skip
        seconds.append(time.perf_counter() - begin)
        before = float(fits.chi2[BOTH]) / (Q_PER_NM.size - 6)
    return np.array(seconds)


def print_table(scores: dict[str, Score], rivals: list[Rival]) -> None:
    """Times, how many times nucleate's, and wrong minima."""
    own, frames = scores[OWN], len(scores[OWN].seconds["cold"])
    title = f"median of {frames} frames"
    print(f"{title:42}{'ms a frame':>17}{'times nucleate':>19}{'wrong minima':>17}")
    print(f"{'':42}{'cold':>8} {'warm':>8}{'cold':>8} {'warm':>7} {'':10}{'cold':>4} {'warm':>4}")
    targets = {rival.name: rival.target for rival in rivals}
    for name, score in scores.items():
        cold, warm = score.median_ms("cold"), score.median_ms("warm")
        ratios = (cold / own.median_ms("cold"), warm / own.median_ms("warm"))
        target = targets.get(name)
        goal = "" if target is None else f">= {target}"
        print(
            f"{name:42}{cold:8.2f} {warm:8.2f}{ratios[0]:8.0f} {ratios[1]:7.0f} {goal:10}"
            f"{score.wrong('cold'):4} {score.wrong('warm'):4}"
        )


def dream() -> None:
    """One frame by bumps DREAM, 1e4 samples after a burn of 100 generations."""
    ((there, curve),) = sequence(Synthesis("cs_dopa"), (10.0,), np.random.default_rng(7))
    fit = ClosedFormFit(Q_PER_NM, curve.intensity, np.sqrt(there.intensity * gain_per_cm()))
    solve = _bumps(fit, "dream", samples=10_000, burn=100)
    begin = time.perf_counter()
    solve(FAR_START)
    print(f"{'sasmodels, bumps DREAM, one frame':42}{1e3 * (time.perf_counter() - begin):8.0f} ms")


def main(frames: int = 30, run: int = 600, with_dream: bool = False) -> None:
    """Print the tables."""
    rivals = list(_installed())
    for rival in rivals:
        # Libraries are loaded and sasmodels' C is compiled before anything is timed.
        warm = ClosedFormFit(Q_PER_NM, np.ones_like(Q_PER_NM), np.ones_like(Q_PER_NM))
        rival.make(warm)(FAR_START)
    compare(np.array([1.0]), [])
    scores = compare(1.0 + np.arange(frames), rivals)
    print_table(scores, rivals)
    ms = 1e3 * own_times_s(run)
    fits, cold = 1e3 * all_models_s(run, cold=False), 1e3 * all_models_s(min(run, 100), cold=True)
    print(
        f"{STAGE}, a run of {run} frames at 2 Hz: median {np.median(ms):.2f} ms, "
        f"p99 {np.percentile(ms, 99):.2f} ms\n"
        f"of these, fits of all models: median {np.median(fits):.2f} ms (goal 0.25), "
        f"p99 {np.percentile(fits, 99):.2f} ms (goal 3)\n"
        f"all models, cold: median {np.median(cold):.2f} ms (goal 1.5)"
    )
    if with_dream and importlib.util.find_spec("bumps") is not None:
        dream()


if __name__ == "__main__":
    main()
