"""Time of one fit, and of the forms of it that can be had elsewhere.

All methods take turns on the same simulated curves, on one thread. The rivals fit one population
and a flat background from a start at the truth, which is less than the stage does: it searches
its starts, fits up to two populations and two backgrounds, reweights and gives the covariance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy.optimize import least_squares

from detectors.sample.synthesis import Synthesis
from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.exciton import ExcitonFit
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.assembly import AnalyseAssembly
from pipeline.fit.exciton import FitExciton
from pipeline.fit.populations import UM_PER_NM3, FitPopulations
from pipeline.kernels.sphere import mean_square_amplitude
from pipeline.messages import Curve, FittedCurve, Populations, Result, Spectrum

T = TypeVar("T", bound=Result)

Q_PER_NM = np.linspace(0.15, 6.0, 500)
# At 60 s the agglomerates are gone, so that one population is the whole truth.
TIMES_S = (60.0, 90.0, 120.0, 180.0, 240.0)
CONTRAST_PER_NM2 = 27.44e-4
FLAT_PER_CM = 0.03
# sasmodels' own 35 points over 3 standard deviations are 0.7 to 2 % off; these are good to 4e-7.
SASMODELS_POINTS, SASMODELS_SIGMAS = 80, 8
PER_CM_IN_PER_NM = 1e7


def curves(synthesis: Synthesis) -> list[Curve]:
    """Frames of 5e11 photons/s for 0.5 s through 1 mm at 37.5 keV, with their Poisson noise."""
    rng = np.random.default_rng(5)
    # 2 pi q dq/k^2 is the solid angle of a ring; k = 190/nm at 37.5 keV.
    solid_angle = 2 * np.pi * Q_PER_NM * (Q_PER_NM[1] - Q_PER_NM[0]) / 190.0**2
    gain = 1 / (2.5e11 * 0.1 * solid_angle)
    made = []
    for frame, time_s in enumerate(TIMES_S):
        truth = synthesis.intensity_per_cm(Q_PER_NM, time_s) + FLAT_PER_CM
        counts = rng.poisson(truth / gain)
        made.append(
            Curve(
                frame=frame,
                time_s=time_s,
                q_per_nm=Q_PER_NM,
                intensity=counts * gain,
                sigma=np.sqrt(np.maximum(counts, 1)) * gain,
                absolute=True,
            )
        )
    return made


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


def closed_form_fit(curve: Curve, start: Sequence[float]) -> np.ndarray:
    """The closed form under scipy: diameter, sigma, concentration in uM, flat background."""
    out = np.empty((3, curve.q_per_nm.size))
    # nm^6 by particles in uM to 1/cm.
    scale = CONTRAST_PER_NM2**2 / UM_PER_NM3 * PER_CM_IN_PER_NM

    def residual(x: np.ndarray) -> np.ndarray:
        mean_square_amplitude(curve.q_per_nm, x[0], x[1], out)
        return (curve.intensity - x[2] * scale * out[0] - x[3]) / curve.sigma

    return least_squares(residual, start, x_scale=start, method="trf").x


def sasmodels_fit(curve: Curve) -> Callable[[Sequence[float]], np.ndarray]:
    """The same model out of sasmodels, compiled for this processor."""
    from sasmodels.core import load_model
    from sasmodels.direct_model import call_kernel

    q_per_angstrom = 0.1 * curve.q_per_nm
    kernel = load_model("sphere", dtype="double", platform="dll").make_kernel([q_per_angstrom])
    # Volume fraction per micromolar and nm^3 of particle.
    fraction = 1 / UM_PER_NM3

    def residual(x: np.ndarray) -> np.ndarray:
        diameter, sigma, concentration, flat = x
        volume = np.pi / 6 * (diameter**3 + 3 * diameter * sigma**2)
        values = call_kernel(
            kernel,
            {
                "scale": concentration * fraction * volume,
                "background": flat,
                "sld": 33.88,
                "sld_solvent": 6.44,
                "radius": 5 * diameter,
                "radius_pd": sigma / diameter,
                "radius_pd_n": SASMODELS_POINTS,
                "radius_pd_nsigma": SASMODELS_SIGMAS,
            },
        )
        return (curve.intensity - values) / curve.sigma

    return lambda start: least_squares(residual, start, x_scale=start, method="trf").x


def take_turns(methods: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each in seconds; one after the other, so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, call in methods.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(values)) for name, values in times.items()}


def main(rounds: int = 25) -> None:
    """Print the tables."""
    synthesis = Synthesis("cs_dopa")
    sample = Sample(
        contrast_per_nm2=CONTRAST_PER_NM2,
        limiting_concentration_mm=synthesis.limiting_concentration_mm,
    )
    populations = FitPopulations(PopulationsFit(), sample)
    assembly = AnalyseAssembly(AssemblyAnalysis(), sample)
    exciton = FitExciton(ExcitonFit())
    for stage in (populations, assembly, exciton):
        stage.warm_up()
    _populations(curves(synthesis), synthesis, populations, rounds)
    ordered = curves(Synthesis("assembly_100c"))
    fitted = [_only(FittedCurve, populations.process(curve)) for curve in ordered]
    measured = spectra(synthesis)
    methods: dict[str, Callable[[], object]] = {
        "exciton, one spectrum": lambda: [list(exciton.process(s)) for s in measured],
        "order, one curve": lambda: [list(assembly.process(f)) for f in fitted],
    }
    for name, seconds in take_turns(methods, rounds).items():
        print(f"{name:44} {1e3 * seconds / len(TIMES_S):9.2f}")


def _populations(
    measured: list[Curve], synthesis: Synthesis, stage: FitPopulations, rounds: int
) -> None:
    states = [synthesis.state(time_s) for time_s in TIMES_S]
    starts = [(s.nc_diameter_nm, s.nc_sigma_nm, s.nc_concentration_um, FLAT_PER_CM) for s in states]
    rivals = [sasmodels_fit(curve) for curve in measured]
    pairs = list(zip(measured, starts, strict=True))
    methods: dict[str, Callable[[], list]] = {
        "nucleate: search, two populations, errors": lambda: [
            list(stage.process(curve)) for curve in measured
        ],
        "closed form, scipy, one population": lambda: [
            closed_form_fit(curve, start) for curve, start in pairs
        ],
        f"sasmodels ({SASMODELS_POINTS} points), scipy, one": lambda: [
            fit(start) for fit, start in zip(rivals, starts, strict=True)
        ],
    }
    results = {name: call() for name, call in methods.items()}
    own, closed, rival = results.values()
    diameters = [
        [_only(Populations, rows).nc_diameter_nm for rows in own],
        [x[0] for x in closed],
        [x[0] for x in rival],
    ]
    seconds = take_turns(methods, rounds)
    first = next(iter(seconds.values()))
    print(
        f"{'fit of a curve of 500 points, median of ' + str(rounds):44} {'ms':>9} {'times':>7}  D"
    )
    for (name, value), sizes in zip(seconds.items(), diameters, strict=True):
        shown = " ".join(f"{size:.3f}" for size in sizes)
        print(f"{name:44} {1e3 * value / len(measured):9.2f} {value / first:7.1f}  {shown} nm")
    truth = " ".join(f"{state.nc_diameter_nm:.3f}" for state in states)
    print(f"{'true mean diameter':44} {'':17}  {truth} nm")


def _only(kind: type[T], results: Iterable[Result]) -> T:
    return next(result for result in results if isinstance(result, kind))


if __name__ == "__main__":
    main()
