"""Simulated sequences of curves that share no form factor with the fit: sasmodels renders them.

What is there at a time (sizes, widths, concentrations) is that of `detectors.sample.Synthesis`; the
intensity is sasmodels' sphere, Gaussian in the diameter, 401 points over 8 standard deviations,
plus the solvent's flat scattering; counts are Poisson. Cramer-Rao bounds are of the same
intensities, by numerical derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from detectors.sample import Synthesis
from detectors.sample.synthesis import SampleState
from pipeline.messages import Curve

Q_PER_NM = np.linspace(0.15, 6.0, 500)
FLAT_PER_CM = 0.03
EXPOSURE_S = 0.5
THICKNESS_CM = 0.1
K_PER_NM = 190.0
"""2 pi over the wavelength at 37.5 keV."""
SLD_CRYSTAL, SLD_HEXANE = 33.885, 6.445
"""In 1e-6/A^2; their difference is the contrast of the configs, 27.44e-4 1/nm^2."""
PER_CUBIC_ANGSTROM_PER_UM = 6.02214076e-10
FORMULA_VOLUME_NM3 = 0.19916
AGGLOMERATES_NM = (3.0, 0.3)
POINTS, SIGMAS = 401, 8

REGIONS: dict[str, tuple[float, ...]] = {
    "< 1 s": (0.6, 0.75, 0.9),
    "1-3 s": tuple(np.arange(1.0, 3.1, 0.5)),
    "3.5-6 s": tuple(np.arange(3.5, 6.1, 0.5)),
    "6.5-12 s": tuple(np.arange(6.5, 12.1, 0.5)),
    "12.5-20 s": tuple(np.arange(12.5, 20.1, 0.5)),
    "phase IV": (32, 36, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300),
}
"""Times of the regions for which SCIENCE.md tabulates the bound; the last is ripening."""


def gain_per_cm(q_per_nm: np.ndarray = Q_PER_NM, flux_per_s: float = 5e11) -> np.ndarray:
    """Intensity that one photon in a ring stands for, (n,): 0.5 s, 1 mm, 37.5 keV, even in q."""
    # A ring is 2 pi q dq/k^2 of solid angle.
    solid_angle = 2 * np.pi * q_per_nm * (q_per_nm[1] - q_per_nm[0]) / K_PER_NM**2
    return 1 / (flux_per_s * EXPOSURE_S * THICKNESS_CM * solid_angle)


def counted(
    truth: np.ndarray,
    rng: np.random.Generator,
    *,
    q_per_nm: np.ndarray = Q_PER_NM,
    flux_per_s: float = 5e11,
    frame: int = 0,
    time_s: float | None = None,
) -> Curve:
    """A curve of Poisson counts whose mean is ``truth`` (n,) in 1/cm; sigma is that of counts."""
    gain = gain_per_cm(q_per_nm, flux_per_s)
    counts = rng.poisson(truth / gain)
    return Curve(
        frame=frame,
        time_s=EXPOSURE_S * frame if time_s is None else time_s,
        q_per_nm=q_per_nm,
        intensity=counts * gain,
        sigma=np.sqrt(counts) * gain,
        absolute=True,
    )


@lru_cache(maxsize=4)
def _sphere(q_bytes: bytes) -> Any:
    try:
        from sasmodels.core import load_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "sequences are rendered by sasmodels: pip install 'nucleate[bench]' brings it"
        ) from error

    q_per_angstrom = 0.1 * np.frombuffer(q_bytes)
    return load_model("sphere", dtype="double", platform="dll").make_kernel([q_per_angstrom])


@lru_cache(maxsize=4096)
def _spheres(q_bytes: bytes, diameter_nm: float, sigma_nm: float) -> np.ndarray:
    from sasmodels.direct_model import call_Fq

    # By <F^2> itself: a scale by volume fraction would bring in the volume of a cut distribution.
    _, squared, *_ = call_Fq(
        _sphere(q_bytes),
        {
            "sld": SLD_CRYSTAL,
            "sld_solvent": SLD_HEXANE,
            "radius": 5 * diameter_nm,
            "radius_pd": sigma_nm / diameter_nm,
            "radius_pd_n": POINTS,
            "radius_pd_nsigma": SIGMAS,
        },
    )
    intensity = PER_CUBIC_ANGSTROM_PER_UM * np.array(squared)
    intensity.flags.writeable = False
    return intensity


def spheres_per_cm(q_per_nm: np.ndarray, diameter_nm: float, sigma_nm: float) -> np.ndarray:
    """Intensity (n,) of 1 uM of spheres in 1/cm, as sasmodels has it; kept once computed."""
    return _spheres(q_per_nm.tobytes(), float(diameter_nm), float(sigma_nm))


def mean_volume_nm3(diameter_nm: float, sigma_nm: float) -> float:
    """<V> of Gaussian diameters."""
    return math.pi / 6 * (diameter_nm**3 + 3 * diameter_nm * sigma_nm**2)


def _slopes(q_per_nm: np.ndarray, diameter_nm: float, sigma_nm: float) -> list[np.ndarray]:
    """Derivatives of `spheres_per_cm` by diameter and by width.

    Central differences: their error is (step / period)^2 / 6 = 1e-7, with a period of 1 nm.
    """
    step = 1e-3
    return [
        (
            spheres_per_cm(q_per_nm, diameter_nm + by_diameter, sigma_nm + by_sigma)
            - spheres_per_cm(q_per_nm, diameter_nm - by_diameter, sigma_nm - by_sigma)
        )
        / (2 * step)
        for by_diameter, by_sigma in ((step, 0.0), (0.0, step))
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What is in the vial at a time, and its intensity (n,) in 1/cm on ``q_per_nm``."""

    state: SampleState
    limiting_mm: float
    q_per_nm: np.ndarray
    intensity: np.ndarray

    @property
    def truth(self) -> dict[str, float]:
        """Columns of `Populations` by name. The yield is that of what was rendered, a Gaussian."""
        state = self.state
        per_um = mean_volume_nm3(state.nc_diameter_nm, state.nc_sigma_nm) / FORMULA_VOLUME_NM3
        return {
            "nc_diameter_nm": state.nc_diameter_nm,
            "nc_sigma_nm": state.nc_sigma_nm,
            "nc_concentration_um": state.nc_concentration_um,
            "yield_fraction": 1e-3 * state.nc_concentration_um * per_um / self.limiting_mm,
        }

    def bound(
        self, flux_per_s: float, agglomerates: bool = True, shape_known: bool = True
    ) -> dict[str, float]:
        """Cramer-Rao bound of the standard error of each value of ``truth``.

        Free are D, s, N, the agglomerates' number (if not ``shape_known``, their diameter and
        width too), a q^-4 and a flat background. That numbers cannot be negative is left out of
        account, so where agglomerates are nearly gone a fit that knows it does better than this.
        """
        q, state = self.q_per_nm, self.state
        diameter, sigma = state.nc_diameter_nm, state.nc_sigma_nm
        number = state.nc_concentration_um
        slopes = [number * slope for slope in _slopes(q, diameter, sigma)]
        slopes += [spheres_per_cm(q, diameter, sigma), q**-4.0, np.ones_like(q)]
        if agglomerates:
            slopes.append(spheres_per_cm(q, *AGGLOMERATES_NM))
        if agglomerates and not shape_known:
            there = state.agglomerate_concentration_um
            slopes += [there * slope for slope in _slopes(q, *AGGLOMERATES_NM)]
        # Poisson: each point tells (dI)^2 / (gain I).
        scaled = np.array(slopes) / np.sqrt(gain_per_cm(q, flux_per_s) * self.intensity)
        norm = np.sqrt(np.sum(scaled**2, axis=1))
        scaled /= norm[:, None]
        covariance = np.linalg.inv(scaled @ scaled.T) / np.outer(norm, norm)
        names = ("nc_diameter_nm", "nc_sigma_nm", "nc_concentration_um")
        bound = dict(zip(names, np.sqrt(np.diag(covariance)[:3]).tolist(), strict=True))
        amount = self.truth["yield_fraction"]
        volume = mean_volume_nm3(diameter, sigma)
        gradient = np.zeros(len(slopes))
        gradient[0] = amount * math.pi / 2 * (diameter**2 + sigma**2) / volume
        gradient[1] = amount * math.pi * diameter * sigma / volume
        gradient[2] = amount / number
        return bound | {"yield_fraction": math.sqrt(gradient @ covariance @ gradient)}


def moment(synthesis: Synthesis, time_s: float, q_per_nm: np.ndarray = Q_PER_NM) -> Moment:
    """The sample at a time, rendered by sasmodels."""
    state = synthesis.state(time_s)
    intensity = np.full(q_per_nm.size, FLAT_PER_CM)
    if np.isfinite(state.nc_diameter_nm):
        shape = spheres_per_cm(q_per_nm, state.nc_diameter_nm, state.nc_sigma_nm)
        intensity = intensity + state.nc_concentration_um * shape
    if state.agglomerate_concentration_um > 0:
        shape = spheres_per_cm(q_per_nm, *AGGLOMERATES_NM)
        intensity = intensity + state.agglomerate_concentration_um * shape
    return Moment(state, synthesis.limiting_concentration_mm, q_per_nm, intensity)


def sequence(
    synthesis: Synthesis,
    times_s: Sequence[float],
    rng: np.random.Generator,
    flux_per_s: float = 5e11,
    q_per_nm: np.ndarray = Q_PER_NM,
) -> Iterator[tuple[Moment, Curve]]:
    """Frames in order of time, each with what is true of it."""
    for frame, time_s in enumerate(times_s):
        there = moment(synthesis, time_s, q_per_nm)
        yield (
            there,
            counted(
                there.intensity,
                rng,
                q_per_nm=q_per_nm,
                flux_per_s=flux_per_s,
                frame=frame,
                time_s=time_s,
            ),
        )
