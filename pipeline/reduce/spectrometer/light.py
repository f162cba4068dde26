"""Recorded counts to light, with the derivatives and variances that an error is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config.reduce import AbsorbanceReduction
from pipeline.reduce.spectrometer import covered, linearity, saturation, stray_light


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """Light on every pixel, in counts of a linear detector without dark and stray light.

    Attributes
    ----------
    signal
        (n,) counts; whatever was recorded where ``usable`` is not.
    slope
        (n,) derivative of the signal against the pixel's recorded counts.
    pixel_variance
        (n,) variance of the recorded counts, without the dark's.
    offset_slope
        (n,) derivative of the signal against the covered pixels' mean, times -1.
    offset_variance
        Of that mean, without the dark's.
    offset_pixels
        How many pixels it is the mean of; 0 = none is subtracted.
    mean
        Of the light before stray light was taken out.
    stray_variance
        Of the stray light, by the noise of that mean.
    usable
        (n,), False = saturated or not finite.
    """

    signal: np.ndarray
    slope: np.ndarray
    pixel_variance: np.ndarray
    offset_slope: np.ndarray
    offset_variance: float
    offset_pixels: int
    mean: float
    stray_variance: float
    usable: np.ndarray


class Spectrometer:
    """What is known of a spectrometer while a stream lasts.

    Parameters
    ----------
    settings
        Section ``absorbance.reduce`` of a config.
    dark
        (n,) counts without light.
    saturation_counts
        Of a full pixel; infinite = never.
    averaged
        How many spectra dark and reference are the mean of.

    Raises
    ------
    ValueError
        If settings do not fit the detector.
    """

    def __init__(
        self,
        settings: AbsorbanceReduction,
        dark: np.ndarray,
        saturation_counts: float,
        averaged: int,
    ) -> None:
        self.saturation_counts = saturation_counts
        self.covered = covered.covered_mask(settings.covered_pixels, len(dark))
        self.averaged = averaged
        self._settings = settings
        self._dark = dark
        self._read_variance = settings.read_noise_counts**2
        self.dark_variance = self._read_variance / averaged
        self._share = stray_light.stray_share(settings.stray_light_fraction)
        self._share_err = settings.stray_light_fraction_err * stray_light.stray_share_slope(
            settings.stray_light_fraction
        )

    def reference(self, counts: np.ndarray) -> Light:
        """Light of the reference, and a look at whether settings fit it.

        Raises
        ------
        ValueError
            If covered pixels see the lamp, or the detector's response turns round.
        """
        light = self.light(counts, self.averaged)
        above_dark = counts - self._dark
        if self.covered.any():
            covered.check_covered(above_dark, self.covered)
        finite = above_dark[np.isfinite(above_dark)]
        if self._settings.nonlinearity_coefficients and finite.size:
            highest = min(self.saturation_counts - float(np.nanmin(self._dark)), finite.max())
            linearity.check_response(self._settings.nonlinearity_coefficients, float(highest))
        return light

    def light(self, counts: np.ndarray, averaged: int = 1) -> Light:
        """Light of recorded counts.

        Parameters
        ----------
        counts
            (n,), in the detector's order.
        averaged
            How many spectra they are the mean of.

        Raises
        ------
        ValueError
            If the covered pixels say nothing.
        """
        settings = self._settings
        unusable = saturation.unusable_pixels(
            counts, self.saturation_counts, settings.saturation_spread_pixels
        )
        above_dark = np.where(np.isfinite(counts), counts, np.nan) - self._dark
        read_variance = self._read_variance / averaged
        offset_pixels = 0
        if self.covered.any():
            drift, offset_pixels = covered.offset(above_dark, self.covered, unusable)
            above_dark = above_dark - drift
        signal, slope = linearity.linearise(above_dark, settings.nonlinearity_coefficients)
        shot = settings.counts_per_electron * np.maximum(signal, 0.0) / averaged
        # Shot noise is that of the light, and stray light's is part of it: taken before it goes.
        pixel_variance = shot / slope**2 + read_variance
        lit = ~self.covered & np.isfinite(signal)
        mean = float(signal[lit].mean()) if lit.any() else 0.0
        offset_slope, stray_variance = slope, 0.0
        if self._share:
            signal = signal - self._share * mean
            # A pixel is a part in n of the mean: its covariance with it, 2 share / n of its
            # variance (1e-6 for a share of 1e-3), is left out.
            noise = float((slope[lit] ** 2 * pixel_variance[lit]).sum()) / lit.sum() ** 2
            stray_variance = self._share**2 * noise
            offset_slope = slope - self._share * float(slope[lit].mean())
        return Light(
            signal=signal,
            slope=slope,
            pixel_variance=pixel_variance,
            offset_slope=offset_slope,
            offset_variance=read_variance / offset_pixels if offset_pixels else 0.0,
            offset_pixels=offset_pixels,
            mean=mean,
            stray_variance=stray_variance,
            usable=~unusable & np.isfinite(self._dark),
        )

    def variance(self, light: Light) -> np.ndarray:
        """Variance (n,) of the light of each pixel, with the dark's and the stray light's."""
        own = light.slope**2 * (light.pixel_variance + self.dark_variance)
        stray = light.stray_variance + self.stray_err(light) ** 2
        if not light.offset_pixels:
            return own + stray
        dark = self.dark_variance / light.offset_pixels
        return own + light.offset_slope**2 * (light.offset_variance + dark) + stray

    def stray_err(self, light: Light) -> float:
        """Standard error of the stray light, by that of its fraction."""
        return self._share_err * light.mean
