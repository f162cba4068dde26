"""Counts of the simulated area detectors.

Mean counts of a pixel:

    flux x monitor x transmission x exposure x thickness x solid angle x polarisation
        x [I(q, t) + background(q)]

at the middle of the exposure, then Poisson noise. So a reduction gets back
I + background = absolute_scale x counts / (relative solid angle x polarisation x monitor x
transmission x exposure_s x thickness_cm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from detectors.sample import Synthesis
from detectors.simulation.artefacts import disturbance
from detectors.simulation.geometry import Geometry, polarisation
from detectors.simulation.noise import counting_noise
from pipeline.config.acquisition import Artefact, SimulatedSaxs

POLARISATION_FACTOR = 0.99
"""Of an undulator's beam."""

MODULE = (195, 487)
GAP = (17, 7)
"""Pixels of a module and between modules, rows and columns (those of a PILATUS)."""

DEAD_SHARE = 5e-4
HOT_SHARE = 2e-4
HOT_COUNTS_PER_S = (1e3, 1e5)
"""A hot pixel counts this fast by itself."""

MASK_GAP, MASK_DEAD, MASK_HOT, MASK_BEAMSTOP = 1, 2, 8, 32
"""Bits of the pixel mask: the first three as DECTRIS assigns them (hot = over-responding)."""

ARM_WIDTH_M = 6e-4
MASK_MARGIN_M = 1.5e-4
"""The mask covers so much beyond the beamstop's shadow, for its penumbra."""

Q_STEP_PER_NM = 0.0025
Q_STEP_ORDERED_PER_NM = 0.001
"""Steps of the I(q) that pixels interpolate (linearly, error step^2 / 8 I''): 1e-4 of I for
particles below 16 nm; with order, 2e-3 at the tip of the sharpest peak (fwhm 0.021 1/nm)."""
Q_STEP_WIDE_PER_NM = 0.01
"""The same at wide angles: 4e-4 at the tip of a reflection of crystals of 16 nm (fwhm 0.43)."""

BUBBLE_POROD = 2e-4
"""Scattering of a bubble's surface that fills the path: A q^-4, 1/cm nm^-4."""


class Exposure(NamedTuple):
    """One frame: the image (ny, nx), unsigned, and what the counters said."""

    image: np.ndarray
    monitor: float
    """Mean incident flux over the nominal one."""
    transmission: float


class AreaRenderer:
    """Renders frames of a synthesis.

    A frame depends on the seed and its number alone, not on the frames before.

    Parameters
    ----------
    settings
        The detector and the beam.
    synthesis
        What is in the vial.
    artefacts
        What goes wrong.
    seed
        Of the noise and of the bad pixels.
    stream
        Which of the area detectors this is.
    """

    def __init__(
        self,
        settings: SimulatedSaxs,
        synthesis: Synthesis,
        artefacts: Sequence[Artefact] = (),
        seed: int = 1,
        stream: Literal["saxs", "waxs"] = "saxs",
    ) -> None:
        self.settings = settings
        self.stream: Literal["saxs", "waxs"] = stream
        self.synthesis = synthesis
        self.artefacts = tuple(artefacts)
        self.seed = seed
        self.dtype = np.dtype(settings.dtype)
        self.saturation = int(np.iinfo(self.dtype).max) - 1
        ny, nx = settings.shape
        self.geometry = Geometry.around_beam(
            shape=settings.shape,
            pixel_m=settings.pixel_size_um * 1e-6,
            distance_m=settings.distance_m,
            tilt_rad=(math.radians(settings.tilt_deg[0]), math.radians(settings.tilt_deg[1])),
            energy_kev=settings.energy_kev,
            beam_pixel=(settings.beam_at[0] * ny, settings.beam_at[1] * nx),
        )
        self.poni = self.geometry.poni()
        self.absolute_scale = 1.0 / (settings.flux_per_s * self.geometry.normal_solid_angle_sr)
        # Entropy [seed, frame] is a frame's; a third number keeps this apart from all of them.
        generator = np.random.default_rng([seed, 0, 2 if stream == "saxs" else 5])
        self.pixel_mask = _pixel_mask(settings, generator)
        self.pixel_mask.flags.writeable = False
        self._hot_at = np.flatnonzero(self.pixel_mask & MASK_HOT)
        low, high = HOT_COUNTS_PER_S
        self._hot_per_s = low * (high / low) ** generator.random(self._hot_at.size)
        self._prepare_pixels()

    def background_curve(self, q_per_nm: np.ndarray) -> np.ndarray:
        """Scattering of capillary and beamline, 1/cm, which a reduction may subtract."""
        q = np.asarray(q_per_nm, dtype=float)
        return self.settings.background_flat_per_cm + self.settings.background_porod * q**-4

    def render(self, frame: int, time_s: float, exposure_s: float) -> Exposure | None:
        """The frame of an exposure that ended at ``time_s``, or None if it was lost."""
        disturbed = disturbance(self.artefacts, self.stream, time_s, exposure_s)
        if disturbed.dropped:
            return None
        settings = self.settings
        generator = np.random.default_rng([self.seed, frame])
        flux = max(1.0 + settings.monitor_noise * generator.standard_normal(), 0.0)
        if self.stream == "waxs":
            # Both detectors see the flux of one beam, and photons of their own.
            generator = np.random.default_rng([self.seed, frame, 4])
        monitor = flux * disturbed.beam
        # The counter after the sample sees the shutter and the missing liquid alike.
        transmission = settings.transmission ** (1.0 - disturbed.bubble) * disturbed.shutter
        image = self._without_photons(exposure_s)
        dose = monitor * transmission * exposure_s * disturbed.gain
        if dose > 0.0:
            curve = (1.0 - disturbed.bubble) * self._sample_per_cm(time_s - 0.5 * exposure_s)
            curve += self.background_curve(self._q)
            curve += disturbed.bubble * BUBBLE_POROD * self._q**-4
            counts = counting_noise(self._means(dose * curve), generator)
            image.reshape(-1)[self._pixel] = self._digitised(counts)
        return Exposure(image, float(monitor), float(transmission))

    def _sample_per_cm(self, time_s: float) -> np.ndarray:
        if self.stream == "waxs":
            return self.synthesis.wide_angle_per_cm(self._q, time_s)
        return self.synthesis.intensity_per_cm(self._q, time_s)

    def _q_step_per_nm(self) -> float:
        if self.stream == "waxs":
            return Q_STEP_WIDE_PER_NM
        ordered = self.synthesis.recipe.assembly is not None
        return Q_STEP_ORDERED_PER_NM if ordered else Q_STEP_PER_NM

    def _prepare_pixels(self) -> None:
        """What does not change from frame to frame, for usable pixels in the order of q.

        That order makes neighbours alike, so that look-ups stay in the cache and the noise is
        drawn block by block.
        """
        settings = self.settings
        two_theta, azimuth, solid_angle = self.geometry.pixels()
        step = self._q_step_per_nm()
        usable = np.flatnonzero(self.pixel_mask == 0)
        position = self.geometry.q_per_nm(two_theta).reshape(-1)[usable] / step
        # A q of zero has no background, and the beamstop covers it anyway.
        first = max(math.floor(position.min()), 1)
        self._q = step * np.arange(first, math.ceil(position.max()) + 2)
        position = np.clip(position - first, 0.0, self._q.size - 2.0)
        # Steps of q, as 16-bit integers, are sorted by radix: ten times as fast as q itself.
        ascending = np.argsort(position.astype(np.uint16), kind="stable")
        position = position[ascending]
        self._pixel = usable[ascending]
        self._below = position.astype(np.intp)
        self._weight = (position - self._below).astype(np.float32)
        efficiency = solid_angle * polarisation(two_theta, azimuth, POLARISATION_FACTOR)
        self._factor = (
            efficiency.reshape(-1)[self._pixel] * settings.thickness_cm / self.absolute_scale
        ).astype(np.float32)

    def _means(self, curve: np.ndarray) -> np.ndarray:
        """Mean counts of the usable pixels for a curve on the grid of q."""
        values = curve.astype(np.float32)
        slope = np.append(np.diff(values), np.float32(0.0))
        means = slope[self._below]
        means *= self._weight
        means += values[self._below]
        means *= self._factor
        return means

    def _digitised(self, counts: np.ndarray) -> np.ndarray:
        """Counts (n,) as the detector's integers, saturated."""
        saturated = counts >= self.saturation
        if not saturated.any():
            return counts.astype(self.dtype)
        values = np.where(saturated, np.float32(0.0), counts).astype(self.dtype)
        values[saturated] = self.saturation
        return values

    def _without_photons(self, exposure_s: float) -> np.ndarray:
        image = np.zeros(self.settings.shape, self.dtype)
        image[(self.pixel_mask & MASK_GAP) != 0] = np.iinfo(self.dtype).max
        hot = np.minimum(self._hot_per_s * exposure_s, self.saturation)
        image.reshape(-1)[self._hot_at] = hot.astype(self.dtype)
        return image


def _pixel_mask(settings: SimulatedSaxs, generator: np.random.Generator) -> np.ndarray:
    """Bits of what is wrong with each pixel, (ny, nx) uint8; 0 = usable."""
    ny, nx = settings.shape
    rows, columns = np.arange(ny), np.arange(nx)
    mask = np.zeros((ny, nx), np.uint8)
    lot = generator.random((ny, nx))
    mask[lot < DEAD_SHARE] = MASK_DEAD
    mask[lot > 1.0 - HOT_SHARE] = MASK_HOT
    if settings.beamstop_radius_mm > 0.0:
        pixel_m = settings.pixel_size_um * 1e-6
        below = (rows - settings.beam_at[0] * ny)[:, None] * pixel_m
        beside = (columns - settings.beam_at[1] * nx)[None, :] * pixel_m
        radius = settings.beamstop_radius_mm * 1e-3 + MASK_MARGIN_M
        stop = np.hypot(below, beside) < radius
        arm = (below > 0.0) & (np.abs(beside) < 0.5 * ARM_WIDTH_M + MASK_MARGIN_M)
        mask[stop | arm] = MASK_BEAMSTOP
    mask[rows % (MODULE[0] + GAP[0]) >= MODULE[0], :] = MASK_GAP
    mask[:, columns % (MODULE[1] + GAP[1]) >= MODULE[1]] = MASK_GAP
    return mask
