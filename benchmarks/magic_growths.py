"""Simulated absorbance runs for discrete sizes: the ladder, and smooth growths that have none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from detectors.sample import optics
from detectors.simulation.spectrometer import SpectrometerRenderer
from pipeline.config.acquisition import SimulatedDevices
from pipeline.config.loader import load_config
from pipeline.config.run import RunConfig
from pipeline.fit.curvature import FindMinima
from pipeline.messages import (
    MagicHistogram,
    MagicLadder,
    MagicPlateaus,
    MagicTracks,
    Minima,
    RunStart,
    Spectrum,
    SpectrumFrame,
    StreamStart,
)
from pipeline.reaction.magic import MagicSizes
from pipeline.reduce.absorbance import ReduceAbsorbance
from pipeline.sizing_curve import SizingCurve

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "cs_oleate_dilute.yaml"

State = tuple[MagicTracks, MagicLadder, MagicPlateaus, MagicHistogram]
"""What one row makes."""


class Vial(Protocol):
    """What the spectrometer looks through."""

    def absorbance(self, energy_ev: np.ndarray, time_s: float) -> np.ndarray: ...


class SmoothGrowth:
    """Crystals that grow through all sizes, drawn at random by a number.

    A diameter of 2.3 to 4.5 nm grows by 1.5 to 6 nm: by a power of time, by its logarithm,
    exponentially towards an end, or steadily. Every other growth has one bump of its rate: a rush
    (up to nine times) or a pause (down to a twentieth). Sizes have a standard deviation of 0 to
    12 %, which broadens peaks of 70 to 200 meV, and the first is 0.05 to 0.6 high in the end.
    """

    def __init__(self, number: int, duration_s: float) -> None:
        draw = np.random.default_rng([number, 7])
        # Finer than any spectrometer here; the midpoint rule of a smooth rate.
        self._time_s = np.linspace(0.0, duration_s, 4001)
        share = np.maximum(self._time_s / duration_s, 1e-4)
        shape = number % 4
        if shape == 0:
            rate = share ** (draw.uniform(0.2, 0.8) - 1.0)
        elif shape == 1:
            rate = 1.0 / (share + draw.uniform(0.005, 0.05))
        elif shape == 2:
            rate = np.exp(-share / draw.uniform(0.1, 0.5))
        else:
            rate = np.ones_like(share)
        if number // 4 % 2:
            height = draw.choice([draw.uniform(1.0, 8.0), draw.uniform(-0.95, -0.5)])
            at, width = draw.uniform(0.1, 0.8), draw.uniform(0.03, 0.15)
            rate *= 1.0 + height * np.exp(-0.5 * ((share - at) / width) ** 2)
        grown = np.concatenate(([0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]))))
        self._diameter_nm = draw.uniform(2.3, 4.5) + draw.uniform(1.5, 6.0) * grown / grown[-1]
        self._spread = draw.uniform(0.0, 0.12)
        self._fwhm_ev = draw.uniform(0.07, 0.2)
        last = float(self._diameter_nm[-1])
        peak = optics.crystal_shape(
            np.array([optics.transition_ev(last)]), last, self._width_ev(last)
        )
        self._strength = draw.uniform(0.05, 0.6) / float(peak[0])

    def diameter_nm(self, time_s: float) -> float:
        """Mean diameter at a time."""
        return float(np.interp(time_s, self._time_s, self._diameter_nm))

    def absorbance(self, energy_ev: np.ndarray, time_s: float) -> np.ndarray:
        """Decadic absorbance (n,)."""
        diameter = self.diameter_nm(time_s)
        return self._strength * optics.crystal_shape(energy_ev, diameter, self._width_ev(diameter))

    def _width_ev(self, diameter_nm: float) -> float:
        """Peaks' fwhm: their own with that by the spread of sizes, as the synthesis adds them."""
        slope = optics.transition_slope_ev_per_nm(diameter_nm)
        spread = slope * self._spread * diameter_nm / optics.SIGMA_PER_FWHM
        return float(np.hypot(self._fwhm_ev, spread))


def config() -> RunConfig:
    """That of the dilute Cs-oleate run."""
    return load_config(CONFIG)


def spectra(vial: Vial, settings: RunConfig, count: int, seed: int) -> Iterator[Spectrum]:
    """Spectra of the run's spectrometer with its noise, as the reduction makes them."""
    devices = settings.acquisition.devices
    assert isinstance(devices, SimulatedDevices)
    assert devices.absorbance is not None
    # The renderer asks of a synthesis nothing but its absorbance.
    renderer = SpectrometerRenderer(devices.absorbance, vial, seed=seed)  # pyright: ignore
    stream = StreamStart(
        stream="absorbance",
        run="growth",
        kind="counts",
        shape=(devices.absorbance.pixels,),
        dtype="<u4",
        arrays={
            "wavelength_nm": renderer.wavelength_nm,
            "dark": renderer.dark,
            "reference": renderer.reference,
        },
        metadata={
            "saturation": renderer.saturation,
            "reference_frames": renderer.reference_frames,
        },
    )
    reduction = ReduceAbsorbance(settings.absorbance.reduce)
    reduction.reset(RunStart(run="growth", stream=stream))
    exposure_s = 1.0 / devices.absorbance.rate_hz
    for frame in range(count):
        time_ns = round((frame + 1) * exposure_s * 1e9)
        values = renderer.render(frame, 1e-9 * time_ns, exposure_s)
        assert values is not None
        yield from reduction.process(
            SpectrumFrame("absorbance", frame, time_ns, exposure_s, values)
        )


def rows(found: Iterator[Spectrum], settings: RunConfig) -> Iterator[dict]:
    """The table of minima of spectra."""
    assert settings.absorbance.magic is not None
    stage = FindMinima(settings.absorbance.magic)
    for spectrum in found:
        for result in stage.process(spectrum):
            if isinstance(result, Minima):
                yield asdict(result)


def magic_sizes(settings: RunConfig) -> MagicSizes:
    """The run-level part, compiled and at its beginning."""
    assert settings.absorbance.magic is not None
    assert settings.absorbance.fit is not None
    magic = MagicSizes(settings.absorbance.magic, SizingCurve(settings.absorbance.fit).diameter_nm)
    magic.warm_up()
    return magic


def states(table: Iterator[dict], magic: MagicSizes) -> list[State]:
    """What the run-level part says after each row."""
    magic.reset({})
    return [tuple(magic.process(row)) for row in table]  # pyright: ignore
