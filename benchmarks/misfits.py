"""How often the residuals tell that a fit of spheres does not describe a curve, and by how much.

Curves are rendered with sasmodels. Noise is that of counting, correlated between neighbouring bins
as in our integration. The first two rows are true models: what they have are false alarms.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.populations import FitPopulations
from pipeline.kernels.residual_tests import ResidualVerdict, residual_verdict
from pipeline.kernels.weights import counting_gain, counting_weight
from pipeline.messages import Curve, FittedCurve, Populations

Q_PER_NM = np.linspace(0.2, 5.4, 456)
BACKGROUND_PER_CM = 0.03 + 1e-4 * Q_PER_NM**-4
NEIGHBOUR_CORRELATION = 0.145
"""Of bins 0.0114 1/nm wide, of 1024 x 1024 pixels of 75 um at 1.9 m, measured over 200 frames."""
STRIDE = 2
FLUXES_PER_S = (5e9, 5e10, 5e11)
SLD = {"sld": 33.88, "sld_solvent": 6.445}
"""Of CsPbBr3 and hexane, 1e-6 1/A^2."""
VOLUME_FRACTION = 1e-3


def rendered(name: str, **parameters: float | str) -> np.ndarray:
    """Intensity in 1/cm of a sasmodels model on `Q_PER_NM`; its lengths are in Angstrom."""
    from sasmodels.core import load_model
    from sasmodels.direct_model import call_kernel

    kernel = load_model(name, dtype="double", platform="dll").make_kernel([Q_PER_NM / 10])
    return call_kernel(kernel, {"scale": VOLUME_FRACTION, "background": 0.0, **parameters})


def _width(name: str, relative: float, points: int = 80) -> dict[str, float]:
    # 25 equal steps to 5.5 sigma are good to 1e-6 at these widths.
    return {name + "_pd": relative, name + "_pd_n": points, name + "_pd_nsigma": 5.5}


def spheres(diameter_nm: float, relative: float, scale: float = VOLUME_FRACTION) -> np.ndarray:
    """Polydisperse spheres, 1/cm."""
    return rendered(
        "sphere", **SLD, radius=5 * diameter_nm, scale=scale, **_width("radius", relative)
    )


def hard_spheres(volume_fraction: float) -> np.ndarray:
    """A liquid of hard spheres of 7.4 nm (Percus and Yevick), scaled to the dilute one."""
    return rendered(
        "sphere@hardsphere",
        **SLD,
        radius=37.0,
        volfraction=volume_fraction,
        scale=VOLUME_FRACTION / volume_fraction,
        **_width("radius", 0.1),
    )


def cubes(edge_nm: float, relative: float) -> np.ndarray:
    """Freely turning cubes, 1/cm."""
    return rendered(
        "rectangular_prism",
        **SLD,
        length_a=10 * edge_nm,
        b2a_ratio=1.0,
        c2a_ratio=1.0,
        **_width("length_a", relative, 25),
    )


def core_shell(shell_nm: float) -> np.ndarray:
    """Cores of 7.4 nm with a ligand shell of 8.5e-6 1/A^2."""
    return rendered(
        "core_shell_sphere",
        radius=37.0,
        thickness=10 * shell_nm,
        sld_core=33.88,
        sld_shell=8.5,
        sld_solvent=SLD["sld_solvent"],
        **_width("radius", 0.1),
    )


def smeared(curve: np.ndarray, sigma_per_nm: float) -> np.ndarray:
    """A curve as a beam of this width in q sees it."""
    kernel = np.exp(-0.5 * ((Q_PER_NM[:, None] - Q_PER_NM) / sigma_per_nm) ** 2)
    return (kernel / kernel.sum(axis=1, keepdims=True)) @ curve


CASES: dict[str, Callable[[], np.ndarray]] = {
    "spheres 7.4 nm, 10 %": lambda: spheres(7.4, 0.1),
    "the same and agglomerates": lambda: spheres(7.4, 0.1) + spheres(3.0, 0.1, 5e-4),
    "cubes 6 nm, 10 %": lambda: cubes(6.0, 0.1),
    "hard spheres, 5 % by volume": lambda: hard_spheres(0.05),
    "hard spheres, 10 %": lambda: hard_spheres(0.1),
    "hard spheres, 40 %": lambda: hard_spheres(0.4),
    "core and shell, 1.2 nm": lambda: core_shell(1.2),
    "spheres of 6 and 9 nm, 8 %": lambda: spheres(6, 0.08, 5e-4) + spheres(9, 0.08, 5e-4),
    "powder, q^-3.2": lambda: 0.5 * Q_PER_NM**-3.2,
    "powder, 1/(1 + 9 q^2)^1.25": lambda: 20 / (1 + 9 * Q_PER_NM**2) ** 1.25,
    "spheres 8 nm, 6 %, dq 0.04": lambda: smeared(spheres(8.0, 0.06), 0.04),
}


def measured(truth: np.ndarray, flux_per_s: float, rng: np.random.Generator) -> Curve:
    """A curve with its noise: 0.5 s through 1 mm at 37.5 keV."""
    solid_angle = 2 * np.pi * Q_PER_NM * (Q_PER_NM[1] - Q_PER_NM[0]) / 190.0**2
    gain = 1 / (flux_per_s * 0.5 * 0.1 * solid_angle)
    # x_i + t x_(i-1) has the correlation t / (1 + t^2).
    rho = NEIGHBOUR_CORRELATION
    share = (1 - np.sqrt(1 - 4 * rho**2)) / (2 * rho)
    noise = rng.normal(size=truth.size + 1)
    noise = (noise[1:] + share * noise[:-1]) / np.sqrt(1 + share**2)
    intensity = truth + np.sqrt(truth * gain) * noise
    return Curve(
        frame=0,
        time_s=0.0,
        q_per_nm=Q_PER_NM,
        intensity=intensity,
        sigma=np.sqrt(np.maximum(intensity, gain) * gain),
        absolute=True,
    )


def fitted_parameters(row: Populations) -> int:
    """How many numbers the fit has found."""
    amplitudes = (
        row.nc_volume_fraction,
        row.agglomerate_volume_fraction,
        row.background,
        row.powerlaw_amplitude,
    )
    return int(np.isfinite(amplitudes).sum()) + 2 * bool(np.isfinite(row.nc_diameter_nm))


def judge(row: Populations, fitted: FittedCurve, weights: str = "model") -> ResidualVerdict:
    """What the residuals of a fit say, with sigma as the fit has taken it."""
    curve = fitted.curve
    used = np.isfinite(fitted.model) & np.isfinite(curve.intensity) & (curve.sigma > 0)
    intensity, sigma, model = curve.intensity[used], curve.sigma[used], fitted.model[used]
    weight = 1 / sigma
    if weights == "model":
        weight = counting_weight(counting_gain(intensity, sigma), model)
    signal = (model - fitted.background[used]) * weight
    return residual_verdict((intensity - model) * weight, signal, fitted_parameters(row), STRIDE)


def verdicts(
    truth: np.ndarray, flux_per_s: float, frames: int, seed: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts (frames, 7) and fitted diameters in nm (frames,)."""
    fit = FitPopulations(PopulationsFit(), Sample())
    rng = np.random.default_rng(seed)
    out, diameters = [], []
    for _ in range(frames):
        row, fitted = fit.process(measured(truth, flux_per_s, rng))
        out.append(judge(row, fitted))
        diameters.append(row.nc_diameter_nm)
    return np.array(out), np.array(diameters)


def main(frames: int = 50) -> None:
    """Print the table."""
    print(f"frames of {frames} with p < 0.001, per cent; relative misfit of the signal")
    print(
        f"{'':30} {'photons/s':>9} {'longest':>8} {'runs':>5} {'smooth':>7} {'all':>5} "
        f"{'misfit %':>9} {'chi2':>8} {'D nm':>6}"
    )
    for name, render in CASES.items():
        truth = render() + BACKGROUND_PER_CM
        for flux in FLUXES_PER_S:
            values, diameters = verdicts(truth, flux, frames)
            longest, runs, smooth, together = 100 * np.mean(values[:, :4] < 1e-3, axis=0)
            known = diameters[np.isfinite(diameters)]
            print(
                f"{name:30} {flux:9.0e} {longest:8.0f} {runs:5.0f} {smooth:7.0f} {together:5.0f} "
                f"{100 * np.mean(values[:, 4]):9.2f} {np.mean(values[:, 6]):8.2f} "
                f"{known.mean() if known.size else np.nan:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
