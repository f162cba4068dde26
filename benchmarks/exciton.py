"""Time of the exciton's stage, and of least squares of the same model by others.

All take turns on the same simulated spectra (700 points, noise 1e-3), on one thread. The rivals
fit one window from a start at the truth and give peak, width and errors; the stage searches its
starts, follows the window, fits higher transitions and the agglomerates' band, and makes size and
amount of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import curve_fit, least_squares
from scipy.special import erf

from benchmarks.fit import spectra, take_turns
from detectors.sample.synthesis import Synthesis
from pipeline.config.exciton import ExcitonFit, IntrinsicAbsorption
from pipeline.config.sample import Sample
from pipeline.fit.exciton import FitExciton
from pipeline.messages import Spectrum

FWHM_PER_SIGMA = math.sqrt(8.0 * math.log(2.0))
NAMES = ("e1", "w1", "gap", "ratio", "a0", "a1", "first", "second", "step", "ramp")


def model(energy, e1, w1, gap, ratio, a0, a1, first, second, step, ramp):
    """Scattering, two Gaussians and a smoothed step with a slope: the stage's model, by numpy."""
    w2 = ratio * w1
    e2 = e1 + gap * w1
    x = (energy - e2 - 0.5 * gap * w1) / w2
    s = 0.5 * (1.0 + erf(x / math.sqrt(2.0)))
    r = x * s + np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    total = a0 + a1 * (energy / 3.0) ** 4 + step * s + ramp * r
    total += first * np.exp(-0.5 * ((energy - e1) / w1) ** 2)
    return total + second * np.exp(-0.5 * ((energy - e2) / w2) ** 2)


def windows(measured: list[Spectrum], synthesis: Synthesis) -> list[tuple]:
    """(energy, absorbance, sigma, start) of each spectrum, up to 2.2 fwhm above the true peak."""
    made = []
    for spectrum in measured:
        truth = synthesis.state(spectrum.time_s)
        fwhm = 1e-3 * truth.exciton_fwhm_mev
        use = spectrum.energy_ev < truth.exciton_ev + 2.2 * fwhm
        height = float(np.max(spectrum.absorbance[use]))
        start = (truth.exciton_ev, fwhm / FWHM_PER_SIGMA, 3.2, 1.2, 0, 0, *(0.5 * height,) * 3, 0)
        made.append((spectrum.energy_ev[use], spectrum.absorbance[use], spectrum.sigma[use], start))
    return made


def by_curve_fit(window: tuple) -> float:
    """First exciton, eV, by MINPACK with a numerical Jacobian."""
    energy, absorbance, sigma, start = window
    return curve_fit(model, energy, absorbance, p0=start, sigma=sigma, maxfev=4000)[0][0]


def by_least_squares(window: tuple) -> float:
    """The same by scipy's trust region with bounds on gap and ratio."""
    energy, absorbance, sigma, start = window
    low, high = np.full(len(NAMES), -np.inf), np.full(len(NAMES), np.inf)
    low[2:4], high[2:4] = (2.4, 1.0), (8.0, 2.5)
    return least_squares(
        lambda x: (model(energy, *x) - absorbance) / sigma,
        start,
        bounds=(low, high),
        x_scale="jac",
    ).x[0]


def by_lmfit(window: tuple) -> float:
    """The same by lmfit, its own Levenberg-Marquardt with bounds."""
    import lmfit

    energy, absorbance, sigma, start = window
    fit = lmfit.Model(model)
    parameters = fit.make_params(**dict(zip(NAMES, start, strict=True)))
    parameters["gap"].set(min=2.4, max=8.0)
    parameters["ratio"].set(min=1.0, max=2.5)
    return fit.fit(absorbance, parameters, energy=energy, weights=1 / sigma).params["e1"].value


def main(rounds: int = 25) -> None:
    """Print the table."""
    synthesis = Synthesis("cs_dopa")
    absorption = IntrinsicAbsorption(
        coefficient_per_cm=1.98e5,
        energy_ev=3.70,
        relative_uncertainty=0.3,
        path_cm=0.1,
        source="Maes et al., J. Phys. Chem. Lett. 2018, 9, 3093",
    )
    stage = FitExciton(ExcitonFit(intrinsic_absorption=absorption), Sample())
    stage.warm_up()
    measured = spectra(synthesis)
    cut = windows(measured, synthesis)
    methods: dict[str, Callable[[], list[float]]] = {
        "nucleate: the whole stage": lambda: [
            row.exciton_ev for spectrum in measured for row in stage.process(spectrum)
        ],
        "scipy curve_fit, peak alone": lambda: [by_curve_fit(window) for window in cut],
        "scipy least_squares, peak alone": lambda: [by_least_squares(window) for window in cut],
    }
    try:
        import lmfit  # noqa: F401
    except ImportError:
        print("lmfit is not installed: left out")
    else:
        methods["lmfit, peak alone"] = lambda: [by_lmfit(window) for window in cut]
    energies = {name: call() for name, call in methods.items()}
    seconds = take_turns(methods, rounds)
    own = next(iter(seconds.values()))
    head = f"exciton of {measured[0].energy_ev.size} points, median of {rounds}"
    print(f"{head:44} {'ms':>9} {'times':>7}  off the truth, meV")
    truth = np.array([synthesis.state(spectrum.time_s).exciton_ev for spectrum in measured])
    for name, value in seconds.items():
        off = " ".join(f"{x:+6.1f}" for x in 1e3 * (np.array(energies[name]) - truth))
        print(f"{name:44} {1e3 * value / len(measured):9.2f} {value / own:7.1f}  {off}")


if __name__ == "__main__":
    main()
