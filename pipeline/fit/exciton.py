"""First exciton of each absorbance spectrum: energy, width, strength, size and amount."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.config.exciton import ExcitonFit
from pipeline.config.sample import Sample
from pipeline.fit.amount import AmountOfCrystals
from pipeline.kernels import exciton as kernel
from pipeline.kernels.absorption import absorbance_at
from pipeline.kernels.agglomerate_band import fit_band
from pipeline.kernels.exciton_model import CONSTANT, FIRST, SCATTER, TWO
from pipeline.kernels.exciton_search import lowest_peak
from pipeline.kernels.exciton_transitions import higher_transitions
from pipeline.messages import BadFrameError, Exciton, RunStart, Spectrum
from pipeline.sizing_curve import SizingCurve

# A sixth of the narrowest fwhm: binning widens such a peak by 0.6 % and a wider one by less, and
# that is taken out again.
BINS_PER_FWHM = 6.0
# What the model's continuum may move, as shares of the fwhm, one standard error. Simulated Cs-DOPA,
# whose continuum and higher transitions are other ones: E1 +0.15 to +0.6 meV and fwhm +0.3 to
# +1.2 meV of 135 between 10 and 200 s, twice that at 300 s, where the second transition is 2.5
# standard deviations away; nothing before. Nearer than that it is one peak: reduced chi-square
# 17 and 9 meV off at 11.6 nm.
ENERGY_BY_MODEL, FWHM_BY_MODEL = 0.005, 0.01


@dataclass(frozen=True, slots=True)
class Binned:
    """A spectrum made ready: ascending and binned; ``known`` if errors are not its own scatter."""

    energy: np.ndarray
    absorbance: np.ndarray
    sigma: np.ndarray
    known: bool
    pixels_ev: np.ndarray
    bin_ev: float

    def variance(self, energy_ev: float) -> float:
        """Of the pixels' energies in a bin at an energy, eV^2."""
        stop = min(max(int(np.searchsorted(self.pixels_ev, energy_ev)), 1), self.pixels_ev.size - 1)
        pixel = float(self.pixels_ev[stop] - self.pixels_ev[stop - 1])
        return max(self.bin_ev**2 - pixel**2, 0.0) / 12.0

    @property
    def lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.energy, self.absorbance, self.sigma


@dataclass(frozen=True, slots=True)
class PeakFit:
    """A fitted lowest peak: numbers of `pipeline.kernels.exciton_search.lowest_peak`."""

    found: bool
    p: np.ndarray
    amplitudes: np.ndarray
    covariance: np.ndarray
    scale: float

    def error(self, index: int) -> float:
        return math.sqrt(self.covariance[index, index]) if self.found else math.nan

    def scatter(self, energy_ev: float) -> tuple[float, float]:
        """Constant and scattering at an energy, and the variance; 0 without a fit."""
        if not self.found:
            return 0.0, 0.0
        rise = (energy_ev / 3.0) ** 4
        i, j = TWO + CONSTANT, TWO + SCATTER
        c = self.covariance
        value = self.amplitudes[CONSTANT] + rise * self.amplitudes[SCATTER]
        return float(value), float(c[i, i] + 2.0 * rise * c[i, j] + rise**2 * c[j, j])


@dataclass(frozen=True, slots=True)
class Band:
    """The agglomerates' band: height, place and standard deviation, and its share of the
    absorbance there."""

    height: float = math.nan
    height_err: float = math.nan
    place_ev: float = math.nan
    width_ev: float = math.nan
    share: float = math.nan
    share_err: float = math.nan


class FitExciton:
    """Stage: `Spectrum` to `Exciton`, each spectrum by itself.

    The lowest peak is found by minima of the second derivative at three smoothing lengths; from
    each, `pipeline.kernels.exciton_search.lowest_peak` fits peak and continuum. Errors are standard
    errors, multiplied by the root of the reduced chi-square where that is above one, so that a
    spectrum that the model cannot follow does not look better than it is. A spectrum without
    errors gets them from its own scatter, and its ``reduced_chi2`` is NaN. Pixels that are not
    finite, and those of a detector at its end (one value, the greatest, five times in a row), are
    left out.

    Parameters
    ----------
    settings
        Section ``absorbance.fit`` of a config.
    sample
        Section ``sample``, for the volume of a formula unit; without it ``formula_units_mm`` is
        NaN.
    """

    name: ClassVar[str] = "exciton"
    consumes: ClassVar[tuple[type, ...]] = (Spectrum,)
    produces: ClassVar[tuple[type, ...]] = (Exciton,)

    def __init__(self, settings: ExcitonFit, sample: Sample | None = None) -> None:
        self._settings = settings
        low, high = settings.fwhm_range_mev
        self._fwhm_range_ev = (low * 1e-3, high * 1e-3)
        self._scales_ev = np.geomspace(low * 1.2e-3, high * 0.7e-3, 3)
        centre = settings.agglomerate_band_ev
        self._band = (
            math.nan if centre is None else centre,
            settings.agglomerate_fwhm_mev * 1e-3 / kernel.FWHM_PER_SIGMA,
        )
        self._curve = SizingCurve(settings)
        self._amount = AmountOfCrystals(
            settings.intrinsic_absorption, None if sample is None else sample.formula_volume_nm3
        )

    def reset(self, start: RunStart, /) -> None:
        """Nothing is kept from spectrum to spectrum."""

    def warm_up(self) -> None:
        """Compile (or load from the cache) every kernel, before the first frame."""
        energy = np.linspace(1.8, 4.4, 400)
        width = 0.04 * (self._settings.energy_range_ev[1] - self._settings.energy_range_ev[0])
        first = np.mean(self._settings.energy_range_ev)
        peaks = sum(
            np.exp(-0.5 * ((energy - first - 3.5 * k * width) / width) ** 2) for k in (0, 1, 2)
        )
        for sigma in (1e-3, math.nan):
            spectrum = Spectrum(
                frame=0,
                time_s=0.0,
                energy_ev=energy,
                absorbance=np.asarray(peaks),
                sigma=np.full(400, sigma),
            )
            list(self.process(spectrum))

    def process(self, message: Spectrum, /) -> Iterable[Exciton]:
        """The spectrum's row; numbers are NaN where there is no exciton."""
        spectrum = self._prepare(message)
        fit = self._lowest_peak(spectrum)
        (second, third), (second_err, third_err) = self._higher(spectrum, fit)
        band = self._agglomerates(spectrum, fit)
        size = self._curve.size(float(fit.p[0]), fit.error(0))
        absorbed, variance = self._crystal_absorbance(spectrum, fit, band)
        amount = self._amount.of(absorbed, variance, size)
        k = 1e3 * kernel.FWHM_PER_SIGMA
        yield Exciton(
            frame=message.frame,
            time_s=message.time_s,
            exciton_ev=float(fit.p[0]),
            exciton_ev_err=fit.error(0),
            exciton_ev_systematic=float(fit.p[1]) * kernel.FWHM_PER_SIGMA * ENERGY_BY_MODEL,
            fwhm_mev=float(fit.p[1]) * k,
            fwhm_mev_err=fit.error(1) * k,
            fwhm_mev_systematic=float(fit.p[1]) * k * FWHM_BY_MODEL,
            amplitude=float(fit.amplitudes[FIRST]),
            amplitude_err=fit.error(TWO + FIRST),
            transition_2_ev=float(second),
            transition_2_ev_err=float(second_err),
            transition_3_ev=float(third),
            transition_3_ev_err=float(third_err),
            diameter_nm=size.diameter_nm,
            diameter_nm_err=size.err_nm,
            diameter_nm_systematic=size.systematic_nm,
            size_curve=self._curve.name,
            size_flag=size.flag,
            agglomerate_band=band.height,
            agglomerate_band_err=band.height_err,
            agglomerate_share=band.share,
            agglomerate_share_err=band.share_err,
            crystal_absorbance=absorbed,
            crystal_absorbance_err=math.sqrt(variance),
            volume_fraction=amount.volume_fraction.value,
            volume_fraction_err=amount.volume_fraction.err,
            volume_fraction_systematic=amount.volume_fraction.systematic,
            concentration_um=amount.concentration_um.value,
            concentration_um_err=amount.concentration_um.err,
            concentration_um_systematic=amount.concentration_um.systematic,
            formula_units_mm=amount.formula_units_mm.value,
            formula_units_mm_err=amount.formula_units_mm.err,
            formula_units_mm_systematic=amount.formula_units_mm.systematic,
            reduced_chi2=fit.scale if spectrum.known else math.nan,
            sigma_estimated=not spectrum.known,
        )

    def _prepare(self, message: Spectrum) -> Binned:
        energy = np.asarray(message.energy_ev, dtype=float)
        absorbance = np.asarray(message.absorbance, dtype=float)
        sigma = np.asarray(message.sigma, dtype=float)
        if not energy.size == absorbance.size == sigma.size:
            raise BadFrameError(
                f"absorbance frame {message.frame}: expected energy_ev, absorbance and sigma of "
                f"one length, got {energy.size}, {absorbance.size} and {sigma.size}"
            )
        if energy.size > 1 and energy[0] > energy[-1]:
            energy, absorbance, sigma = energy[::-1], absorbance[::-1], sigma[::-1]
        if not np.all(np.diff(energy) > 0):
            raise BadFrameError(
                f"absorbance frame {message.frame}: expected energies that rise or fall throughout,"
                " got a step back or a repeated value: check the wavelength axis"
            )
        absorbance = kernel.without_clipped(np.ascontiguousarray(absorbance))
        known = bool(np.any(np.isfinite(sigma) & (sigma > 0.0)))
        if not known:
            sigma = np.full(energy.size, kernel.pixel_scatter(absorbance))
        width = self._fwhm_range_ev[0] / BINS_PER_FWHM
        binned = kernel.bin_spectrum(
            np.ascontiguousarray(energy), absorbance, np.ascontiguousarray(sigma), width
        )
        return Binned(*binned, known and not message.sigma_estimated, energy, width)

    def _lowest_peak(self, spectrum: Binned) -> PeakFit:
        found, p, amplitudes, covariance, scale, _ = lowest_peak(
            *spectrum.lines,
            spectrum.known,
            self._scales_ev,
            self._settings.energy_range_ev,
            self._fwhm_range_ev,
            self._settings.window_fwhm,
            self._settings.presence_sigma,
            self._band,
        )
        if found:
            # A bin's mean is that of a peak widened by the bin's own variance, and as much lower.
            width = math.sqrt(p[1] ** 2 - spectrum.variance(float(p[0])))
            amplitudes[FIRST] *= p[1] / width
            p[1] = width
        return PeakFit(found, p, amplitudes, covariance, float(scale))

    def _higher(self, spectrum: Binned, fit: PeakFit) -> tuple[np.ndarray, np.ndarray]:
        if not fit.found:
            return np.full(2, math.nan), np.full(2, math.nan)
        return higher_transitions(
            *spectrum.lines,
            spectrum.known,
            fit.p,
            fit.amplitudes[FIRST],
            fit.scale,
            self._settings.presence_sigma,
            self._band,
        )

    def _agglomerates(self, spectrum: Binned, fit: PeakFit) -> Band:
        """Height of the band on a local continuum, and its share of what is not scattering."""
        centre, width = self._band
        if math.isnan(centre):
            return Band()
        uncertain = (
            self._settings.agglomerate_band_sd_ev,
            self._settings.agglomerate_fwhm_sd_mev * 1e-3 / kernel.FWHM_PER_SIGMA,
        )
        height, error, place, spread = fit_band(
            *spectrum.lines, spectrum.known, (centre, uncertain[0], width, uncertain[1])
        )
        if math.isnan(height):
            return Band()
        total, total_variance = absorbance_at(*spectrum.lines, centre)
        scatter, scatter_variance = fit.scatter(centre)
        total, total_err = total - scatter, math.sqrt(total_variance + scatter_variance)
        # A share of what is hardly there says nothing.
        if not total > self._settings.presence_sigma * total_err:
            return Band(height, error, place, spread)
        share = height / total
        share_err = math.hypot(error, share * total_err) / total
        return Band(height, error, place, spread, share, share_err)

    def _crystal_absorbance(
        self, spectrum: Binned, fit: PeakFit, band: Band
    ) -> tuple[float, float]:
        """Absorbance at the coefficient's energy less scattering and band, and its variance."""
        at_ev = self._amount.energy_ev
        if not fit.found or math.isnan(at_ev):
            return math.nan, math.nan
        value, variance = absorbance_at(*spectrum.lines, at_ev)
        scatter, scatter_variance = fit.scatter(at_ev)
        value, variance = value - scatter, variance + scatter_variance
        if not math.isnan(band.height):
            x = (at_ev - band.place_ev) / band.width_ev
            share = math.exp(-0.5 * x * x)
            value -= share * band.height
            variance += (share * band.height_err) ** 2
        return value, variance
