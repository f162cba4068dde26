"""Counts of the simulated fibre spectrometer.

counts = dark + lamp x 10^(-A), in electrons with shot noise, plus read noise, rounded as the
converter does. The lamp is set for the exposure, so its counts do not depend on how long that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detectors.sample import Synthesis
from detectors.simulation.artefacts import disturbance
from pipeline.config.acquisition import Artefact, SimulatedSpectrometer

EV_NM = 1239.841984

DARK_COUNTS = 900.0
DARK_PATTERN_COUNTS = 12.0
"""Level of the converter, and how much pixels differ in it."""

REFERENCE_AVERAGES = 400
"""Spectra in the mean that makes dark and reference: a twentieth of one spectrum's noise."""

HALOGEN_K = 2950.0
DEUTERIUM_LINES_NM = ((486.0, 0.05), (656.1, 0.25))
"""Balmer lines with their heights relative to the brightest continuum."""
LINE_SIGMA_NM = 0.8

BUBBLE_LOSS = 0.3
"""Share of the light that a bubble's surface turns away when it fills the path."""


class SpectrometerRenderer:
    """Renders spectra of a synthesis.

    A spectrum depends on the seed and its number alone, not on those before.

    Parameters
    ----------
    settings
        The spectrometer.
    synthesis
        What is in the vial.
    artefacts
        What goes wrong.
    seed
        Of the noise.
    """

    def __init__(
        self,
        settings: SimulatedSpectrometer,
        synthesis: Synthesis,
        artefacts: Sequence[Artefact] = (),
        seed: int = 1,
    ) -> None:
        self.settings = settings
        self.synthesis = synthesis
        self.artefacts = tuple(artefacts)
        self.seed = seed
        self.saturation = float(settings.saturation_counts)
        self.reference_frames = REFERENCE_AVERAGES
        self.wavelength_nm = np.linspace(*settings.wavelength_range_nm, settings.pixels)
        self._energy_ev = EV_NM / self.wavelength_nm
        self.lamp_counts = settings.full_scale_counts * _lamp(self.wavelength_nm)
        # Entropy [seed, frame, 1] is a spectrum's; see below.
        generator = np.random.default_rng([seed, 0, 3])
        pattern = generator.standard_normal(settings.pixels)
        self._dark = DARK_COUNTS + DARK_PATTERN_COUNTS * pattern
        read = settings.read_noise_counts / math.sqrt(REFERENCE_AVERAGES)
        self.dark = self._dark + read * generator.standard_normal(settings.pixels)
        shot = generator.poisson(self.lamp_counts * REFERENCE_AVERAGES) / REFERENCE_AVERAGES
        self.reference = self._dark + shot + read * generator.standard_normal(settings.pixels)
        for array in (self.wavelength_nm, self.lamp_counts, self.dark, self.reference):
            array.flags.writeable = False

    def render(self, frame: int, time_s: float, exposure_s: float) -> np.ndarray | None:
        """Counts (n,), uint32, of an exposure that ended at ``time_s``, or None if it was lost."""
        disturbed = disturbance(self.artefacts, "absorbance", time_s, exposure_s)
        if disturbed.dropped:
            return None
        # The third number keeps these random numbers apart from the image's of the same frame.
        generator = np.random.default_rng([self.seed, frame, 1])
        absorbance = self.synthesis.absorbance(self._energy_ev, time_s - 0.5 * exposure_s)
        absorbance *= 1.0 - disturbed.bubble
        light = self.lamp_counts * 10.0**-absorbance * (1.0 - BUBBLE_LOSS * disturbed.bubble)
        counts = self._dark + disturbed.gain * generator.poisson(light)
        counts += self.settings.read_noise_counts * generator.standard_normal(counts.size)
        return np.clip(np.rint(counts), 0, self.saturation).astype(np.uint32)


def _lamp(wavelength_nm: np.ndarray) -> np.ndarray:
    """Spectrum of a deuterium-halogen lamp times fibre, grating and sensor; 1 at its brightest.

    Photons of a 2950 K black body, deuterium's continuum (an exponential towards the red) with
    two Balmer lines, and an efficiency that peaks at 480 nm.
    """
    x = 1.4388e7 / (wavelength_nm * HALOGEN_K)
    halogen = wavelength_nm**-4.0 / np.expm1(x)
    halogen /= 650.0**-4.0 / math.expm1(1.4388e7 / (650.0 * HALOGEN_K))
    continuum = 0.9 * np.exp(-(wavelength_nm - 280.0) / 120.0)
    efficiency = np.exp(-0.5 * ((wavelength_nm - 480.0) / 130.0) ** 2)
    spectrum = (halogen + continuum) * efficiency
    spectrum /= spectrum.max()
    for line_nm, height in DEUTERIUM_LINES_NM:
        spectrum += height * np.exp(-0.5 * ((wavelength_nm - line_nm) / LINE_SIGMA_NM) ** 2)
    return spectrum / spectrum.max()
