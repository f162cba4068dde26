"""Absorbance of two lights, and its error with all that pixels share.

A = -log10(S / (r R)) with the light S through the sample, R through the reference, and the ratio r
of their exposures. With a transparent window W, where the sample absorbs nothing, r follows from
the spectrum itself, r = sum_W S / sum_W R, and the lamp's drift with it. Of all estimates of r the
ratio of sums is the one that noise does not draw to one side, and the best one for shot noise.

Errors are carried in the first order: noise moves -ln S by -dS / S. That is short by a second
order: at S of k standard errors the mean of A is too high by 1 / (2 k) of its error, so by 0.05 at
k = 10. Low light is better masked than corrected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.reduce.spectrometer.light import Light, Spectrometer

_LN10 = math.log(10.0)


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Variance of n values in parts, so that their average can be given an error too.

    Value i has the noise e_i + w + sum_m c_mi z_m: its own, one of the lamp's drift that all share
    and that is part of the e_i of the window, and some that all share with a factor c.

    Attributes
    ----------
    own
        (n,) variance of e_i.
    drift
        (n,) covariance of e_i and w, twice, and the variance of w.
    shared
        (m, n) factors c of independent numbers z of unit variance.
    """

    own: np.ndarray
    drift: np.ndarray
    shared: np.ndarray

    def sigma(self) -> np.ndarray:
        """Standard errors (n,)."""
        variance = self.own + self.drift + (self.shared**2).sum(axis=0)
        return np.sqrt(np.maximum(variance, 0.0))

    def take(self, places: np.ndarray) -> Errors:
        """Of some of the values, in that order."""
        return Errors(self.own[places], self.drift[places], self.shared[:, places])


def independent(variance: np.ndarray) -> Errors:
    """Errors (n,) of values that share nothing."""
    return Errors(variance, np.zeros_like(variance), np.zeros((0, len(variance))))


def absorbance_of(
    spectrometer: Spectrometer,
    spectrum: Light,
    reference: Light,
    usable: np.ndarray,
    exposures: float,
    window: np.ndarray | None,
) -> tuple[np.ndarray, Errors]:
    """Decadic absorbance (n,) and its errors; NaN in both where a pixel says nothing.

    Parameters
    ----------
    spectrometer
        That recorded both.
    spectrum, reference
        Lights.
    usable
        (n,), True where both have light.
    exposures
        Exposure of the spectrum over that of the reference.
    window
        (n,), True where the sample is transparent; None = the lamp does not drift.

    Raises
    ------
    ValueError
        If there is no light in the window.
    """
    signal = np.where(usable, spectrum.signal, np.nan)
    lamp = np.where(usable, reference.signal, np.nan)
    sides = (_Side(spectrum, signal), _Side(reference, lamp))
    absorbance = -np.log10(signal / (exposures * lamp))
    if window is not None:
        for side in sides:
            side.set_window(window & spectrum.usable & reference.usable)
        absorbance += math.log10(sides[0].total / (exposures * sides[1].total))
    return absorbance, _errors(spectrometer, *sides)


class _Side:
    """Relative changes of the light of a spectrum or of the reference, by what it depends on."""

    def __init__(self, light: Light, signal: np.ndarray) -> None:
        pixels = len(signal)
        self.light = light
        self.relative = light.slope / signal
        self.offset = light.offset_slope / signal
        self.even = 1.0 / signal
        self.window = np.zeros(pixels)
        self.total = 1.0

    def set_window(self, window: np.ndarray) -> None:
        """Refer everything to the light in the window."""
        light = self.light
        self.total = float(light.signal[window].sum())
        variance = float((light.slope[window] ** 2 * light.pixel_variance[window]).sum())
        # Three standard errors: a lamp that is off would give a ratio of noise.
        if not self.total > 3.0 * math.sqrt(variance):
            raise ValueError(
                "transparent_ev: expected light in these energies, got "
                f"{self.total:.4g} counts of {int(window.sum())} pixels above dark"
            )
        self.window = np.where(window, light.slope / self.total, 0.0)
        self.offset = self.offset - float(light.offset_slope[window].sum()) / self.total
        self.even = self.even - float(window.sum()) / self.total


def _errors(spectrometer: Spectrometer, spectrum: _Side, reference: _Side) -> Errors:
    """Variances of ln R - ln S, over ln(10)^2.

    The dark is subtracted from both, so its noise counts with the difference of its two effects.
    """
    own = np.zeros(len(spectrum.even))
    drift = np.zeros(len(spectrum.even))
    differences = (
        (spectrum.light.pixel_variance, spectrum.relative, spectrum.window),
        (reference.light.pixel_variance, reference.relative, reference.window),
        (
            np.full(len(own), spectrometer.dark_variance),
            spectrum.relative - reference.relative,
            spectrum.window - reference.window,
        ),
    )
    for variance, relative, window in differences:
        own += variance * relative**2
        if window.any():
            inside = window != 0.0
            drift -= 2.0 * np.where(inside, variance * relative * window, 0.0)
            drift += float((variance[inside] * window[inside] ** 2).sum())
    shared = []
    for side in (spectrum, reference):
        if side.light.offset_variance:
            shared.append(math.sqrt(side.light.offset_variance) * side.offset)
        if side.light.stray_variance:
            shared.append(math.sqrt(side.light.stray_variance) * side.even)
    if spectrum.light.offset_pixels:
        dark = math.sqrt(spectrometer.dark_variance / spectrum.light.offset_pixels)
        shared.append(dark * (spectrum.offset - reference.offset))
    stray = [spectrometer.stray_err(side.light) * side.even for side in (spectrum, reference)]
    if any(part.any() for part in stray):
        shared.append(stray[0] - stray[1])
    factors = np.array(shared).reshape(len(shared), len(own))
    return Errors(own / _LN10**2, drift / _LN10**2, factors / _LN10)
