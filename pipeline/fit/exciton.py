"""First exciton of each absorbance spectrum: energy, width, amplitude and size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.config.exciton import ExcitonFit
from pipeline.kernels import exciton as kernel
from pipeline.kernels import sizing
from pipeline.messages import BadFrameError, Exciton, RunStart, Spectrum

# A sixth of the narrowest fwhm: binning widens such a peak by 0.6 % and a wider one by less.
BINS_PER_FWHM = 6.0
# Window, start and error scale follow the fit this often; a fourth pass moves E1 by less than a
# tenth of its error.
PASSES = 3
# Curvature this many errors below zero is a candidate. Nothing is lost by being generous: the
# fitted amplitude decides.
CURVATURE_SIGMA = 3.0
# Where the second transition is first sought, in standard deviations of the first: the fit has a
# minimum with it near and one with it far.
GAP_STARTS = (3.0, 4.5)
# Places that are tried, from the lowest energy up.
MAX_STARTS = 3
# A minimum of curvature that stands for less than this share of the tallest peak's height is a
# ripple of the baseline (interference in the cell, a lamp line), not the first exciton.
LOWEST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class PeakFit:
    """A fitted lowest peak; widths are full widths at half maximum."""

    energy_ev: float
    energy_err_ev: float
    fwhm_ev: float
    fwhm_err_ev: float
    amplitude: float
    amplitude_err: float
    reduced_chi2: float

    @property
    def significance(self) -> float:
        return self.amplitude / self.amplitude_err


class FitExciton:
    """Stage: `Spectrum` to `Exciton`, each spectrum by itself.

    The lowest peak is found by minima of the second derivative at three smoothing lengths; from
    each, `pipeline.kernels.exciton.fit_lowest_peak` fits peak and continuum. Errors are standard
    errors, multiplied by the root of the reduced chi-square where that is above one, so that a
    spectrum that the model cannot follow does not look better than it is. A spectrum without
    errors gets them from the scatter of the fit, and its ``reduced_chi2`` is NaN.
    """

    name: ClassVar[str] = "exciton"
    consumes: ClassVar[tuple[type, ...]] = (Spectrum,)
    produces: ClassVar[tuple[type, ...]] = (Exciton,)

    def __init__(self, settings: ExcitonFit) -> None:
        self._settings = settings
        low, high = settings.fwhm_range_mev
        self._fwhm_range_ev = (low * 1e-3, high * 1e-3)
        self._scales_ev = np.geomspace(low * 1.2e-3, high * 0.7e-3, 3)
        table = sorted(settings.sizing_table_ev_nm)
        self._table_ev = np.array([energy for energy, _ in table])
        self._table_nm = np.array([diameter for _, diameter in table])

    def reset(self, start: RunStart, /) -> None:
        """Nothing is kept from spectrum to spectrum."""

    def warm_up(self) -> None:
        """Compile (or load from the cache) every kernel, before the first frame."""
        energy = np.linspace(1.8, 4.4, 400)
        peak = np.exp(-0.5 * ((energy - np.mean(self._settings.energy_range_ev)) / 0.06) ** 2)
        spectrum = Spectrum(
            frame=0, time_s=0.0, energy_ev=energy, absorbance=peak, sigma=np.full(400, 1e-3)
        )
        list(self.process(spectrum))

    def process(self, message: Spectrum, /) -> Iterable[Exciton]:
        """The spectrum's row; numbers are NaN where there is no exciton."""
        energy, absorbance, sigma, known = self._prepare(message)
        best = self._lowest_peak(energy, absorbance, sigma, known)
        band, band_err = self._agglomerates(energy, absorbance, sigma, known)
        diameter, diameter_err, curve = self._size(best)
        yield Exciton(
            frame=message.frame,
            time_s=message.time_s,
            exciton_ev=best.energy_ev,
            exciton_ev_err=best.energy_err_ev,
            fwhm_mev=best.fwhm_ev * 1e3,
            fwhm_mev_err=best.fwhm_err_ev * 1e3,
            amplitude=best.amplitude,
            amplitude_err=best.amplitude_err,
            diameter_nm=diameter,
            diameter_nm_err=diameter_err,
            agglomerate_band=band,
            agglomerate_band_err=band_err,
            reduced_chi2=best.reduced_chi2,
            size_curve=curve,
        )

    def _prepare(self, message: Spectrum) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
        """Ascending, binned, with errors; and whether the errors came with the spectrum."""
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
        known = bool(np.any(np.isfinite(sigma)))
        if not known:
            sigma = np.full(energy.size, _scatter(absorbance))
        width = self._fwhm_range_ev[0] / BINS_PER_FWHM
        binned = kernel.bin_spectrum(
            np.ascontiguousarray(energy),
            np.ascontiguousarray(absorbance),
            np.ascontiguousarray(sigma),
            width,
        )
        return *binned, known

    def _lowest_peak(
        self, energy: np.ndarray, absorbance: np.ndarray, sigma: np.ndarray, known: bool
    ) -> PeakFit:
        for start_ev, start_fwhm in self._starts(energy, absorbance, sigma):
            fit = self._fit(energy, absorbance, sigma, start_ev, start_fwhm, known)
            if fit is not None and fit.significance > self._settings.presence_sigma:
                return fit
        return NO_PEAK

    def _starts(
        self, energy: np.ndarray, absorbance: np.ndarray, sigma: np.ndarray
    ) -> list[tuple[float, float]]:
        """Energies and fwhm of the lowest significant minima of curvature, one for each place.

        A matched width gives the most significant minimum, so of minima at one place found at
        several scales the most significant one stands for all.
        """
        low, high = self._settings.energy_range_ev
        found = []
        for fwhm in self._scales_ev:
            centres = np.arange(low, high, fwhm / 8)
            second, error = kernel.curvature(energy, absorbance, sigma, centres, 0.6 * fwhm)
            z = second / error
            minima = [
                i
                for i in range(1, centres.size - 1)
                if z[i] < -CURVATURE_SIGMA
                and second[i] <= second[i - 1]
                and second[i] < second[i + 1]
            ]
            # A Gaussian of height h and standard deviation w has a curvature of -h / w^2.
            square = (fwhm / kernel.FWHM_PER_SIGMA) ** 2
            found += [
                (float(z[i]), float(centres[i]), float(fwhm), -float(second[i]) * square)
                for i in minima[:2]
            ]
        tallest = max((height for *_, height in found), default=0.0)
        starts: list[tuple[float, float]] = []
        for _, centre, fwhm, height in sorted(found):
            if height > LOWEST_SHARE * tallest and all(
                abs(centre - other) > 0.5 * max(fwhm, width) for other, width in starts
            ):
                starts.append((centre, fwhm))
        return sorted(starts)[:MAX_STARTS]

    def _fit(
        self,
        energy: np.ndarray,
        absorbance: np.ndarray,
        sigma: np.ndarray,
        start_ev: float,
        start_fwhm: float,
        known: bool,
    ) -> PeakFit | None:
        """Fit in a window that follows the peak; None where it fails or ends at a bound."""
        low, high = self._settings.energy_range_ev
        narrow, wide = self._fwhm_range_ev
        k = kernel.FWHM_PER_SIGMA
        lower = np.array([low, narrow / k, kernel.GAP_MIN, kernel.RATIO_MIN])
        upper = np.array([high, wide / k, kernel.GAP_MAX, kernel.RATIO_MAX])
        at = (start_ev, start_fwhm / k)
        trials = [np.array([*at, gap, kernel.RATIO_PRIOR]) for gap in GAP_STARTS]
        p = trials[0]
        band_ev, band_sigma = self._band()
        scale = inflation = 1.0
        for _ in range(PASSES):
            edge = p[0] + self._settings.window_fwhm * k * p[1]
            stop = int(np.searchsorted(energy, edge))
            freedom = stop - kernel.NONLINEAR - kernel.COLUMNS
            if freedom < 1:
                return None
            reached = edge > band_ev - 3.0 * band_sigma
            results = [
                kernel.fit_lowest_peak(
                    energy[:stop],
                    absorbance[:stop],
                    sigma[:stop] * inflation,
                    trial,
                    lower,
                    upper,
                    band_ev if reached else np.nan,
                    band_sigma,
                )
                for trial in trials
            ]
            p, amplitudes, covariance, chi2 = min(results, key=lambda result: result[3])
            trials = [p]
            # Misfit counts as noise, so that the weak priors keep their weight against it.
            scale = chi2 * inflation**2 / freedom
            inflation = float(np.sqrt(max(1.0, scale) if known else scale))
        margin = 1e-6
        inside = np.all(p[:2] > lower[:2] + margin) and np.all(p[:2] < upper[:2] - margin)
        if not (inside and np.all(np.isfinite(covariance)) and amplitudes[2] > 0):
            return None
        errors = np.sqrt(np.diag(covariance))
        return PeakFit(
            energy_ev=float(p[0]),
            energy_err_ev=float(errors[0]),
            fwhm_ev=float(p[1] * k),
            fwhm_err_ev=float(errors[1] * k),
            amplitude=float(amplitudes[2]),
            amplitude_err=float(errors[kernel.NONLINEAR + 2]),
            reduced_chi2=float(scale) if known else float("nan"),
        )

    def _band(self) -> tuple[float, float]:
        """Centre and standard deviation of the agglomerates' band, NaN if it is not sought."""
        centre = self._settings.agglomerate_band_ev
        sigma = self._settings.agglomerate_fwhm_mev * 1e-3 / kernel.FWHM_PER_SIGMA
        return (float("nan") if centre is None else centre), sigma

    def _agglomerates(
        self, energy: np.ndarray, absorbance: np.ndarray, sigma: np.ndarray, known: bool
    ) -> tuple[float, float]:
        centre, width = self._band()
        if np.isnan(centre):
            return float("nan"), float("nan")
        height, error, chi2, points = kernel.band_amplitude(
            energy, absorbance, sigma, centre, width
        )
        if np.isnan(height):
            return float("nan"), float("nan")
        scale = chi2 / (points - 5)
        return height, error * np.sqrt(max(1.0, scale) if known else scale)

    def _size(self, fit: PeakFit) -> tuple[float, float, str]:
        """Diameter, its error from the energy's alone, and the name of the curve."""
        step = 1e-4
        diameter = self._diameter_nm(fit.energy_ev)
        slope = self._diameter_nm(fit.energy_ev + step) - self._diameter_nm(fit.energy_ev - step)
        name = self._settings.sizing
        label = "two_band (fallback)" if name == "two_band" else name
        return diameter, abs(slope) / (2 * step) * fit.energy_err_ev, label

    def _diameter_nm(self, energy_ev: float) -> float:
        settings = self._settings
        if settings.sizing == "none" or not np.isfinite(energy_ev):
            return float("nan")
        if settings.sizing == "table":
            return sizing.table_diameter_nm(energy_ev, self._table_ev, self._table_nm)
        if settings.sizing == "polynomial_nm":
            return sizing.polynomial_diameter_nm(energy_ev, settings.sizing_coefficients)
        return sizing.two_band_diameter_nm(
            energy_ev, settings.band_gap_ev, settings.confinement_ev_nm2, settings.coulomb_ev_nm
        )


NO_PEAK = PeakFit(*[float("nan")] * 7)


def _scatter(absorbance: np.ndarray) -> float:
    """Noise of a pixel from third differences, robustly; they cancel any parabola.

    A third difference of white noise has a variance of 20 (1 + 9 + 9 + 1).
    """
    values = absorbance[np.isfinite(absorbance)]
    third = np.diff(values, 3)
    if third.size == 0:
        return 1.0
    # Median absolute deviation to standard deviation; a floor of 1e-6 for noiseless records.
    return max(float(np.median(np.abs(third))) * 1.4826 / np.sqrt(20.0), 1e-6)
