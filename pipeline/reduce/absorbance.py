"""Stage: spectrometer counts, or absorbance that somebody reduced before, to A(E)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from pipeline.config.reduce import AbsorbanceReduction
from pipeline.kernels.noise import FEWEST_VALUES, local_scatter
from pipeline.messages import (
    BadFrameError,
    Result,
    RunStart,
    Spectrum,
    SpectrumFrame,
    StreamStart,
    frozen_array,
)
from pipeline.reduce.errors import InputError
from pipeline.reduce.spectrometer.covered import covered_mask
from pipeline.reduce.spectrometer.energy_grid import EnergyGrid
from pipeline.reduce.spectrometer.light import Light, Spectrometer
from pipeline.reduce.spectrometer.ratio import Errors, absorbance_of, independent
from pipeline.reduce.spectrometer.wavelength import AIR_RANGE_NM, photon_energy_ev

# Light counts as such above this many standard errors of its pixel ...
_LIGHT_SIGMA = 5.0
# ... and with less of it than in this fraction of the pixels, the lamp or the shutter is off. Noise
# alone is above in 3e-7 of the pixels, a strongly absorbing sample leaves its transparent side.
_LEAST_LIT_FRACTION = 0.05
# Settings that say something of counts, and nothing of absorbance that was reduced before.
_OF_COUNTS = (
    "covered_pixels",
    "transparent_ev",
    "nonlinearity_coefficients",
    "stray_light_fraction",
)


class ReduceAbsorbance:
    """Decadic absorbance with its error from each spectrum, against rising photon energy.

    From counts: A = -log10(S / R), with S = (I - dark) / exposure and R the same of the reference
    (of the same exposure, if the stream names no ``reference_exposure_s``). By config, each with
    its error: drift of the dark, the detector's non-linearity, stray light, drift of the lamp, and
    the average over an even grid of energies: a module of `pipeline.reduce.spectrometer` each.

    Sigma is the standard error of A by shot noise (gain times signal) and read noise of spectrum,
    dark and reference, by offset and lamp drift, and by what is not known of stray light. Shot
    noise of the dark current is part of the read noise. The reference's share, and what is not
    known of stray light, is the same in all spectra.

    NaN means that the pixel says nothing: it was saturated or beside such a pixel (in spectrum or
    reference), it had not enough light above the dark, it absorbed more than ``max_absorbance``,
    or its value was not a finite number. Limits look at each spectrum's own counts: of a pixel
    that is near one, the values that noise moves inside stay.

    Absorbance that is already reduced is handed on, with one error for all its pixels: the median
    of their scatter about a smooth line (`pipeline.kernels.noise.local_scatter`).

    A spectrum depends on settings, start and frame only, so a record of counts must bring its
    reference: no first spectrum of the stream is remembered.

    Parameters
    ----------
    settings
        Section ``absorbance.reduce`` of a config.
    """

    name: ClassVar[str] = "reduce_absorbance"
    consumes: ClassVar[tuple[type, ...]] = (SpectrumFrame,)
    produces: ClassVar[tuple[type[Result], ...]] = (Spectrum,)

    def __init__(self, settings: AbsorbanceReduction) -> None:
        self.settings = settings
        self._stream: StreamStart | None = None
        self._order = np.empty(0, np.intp)
        self._energy_ev = np.empty(0)
        self._grid: EnergyGrid | None = None
        self._spectrometer: Spectrometer | None = None
        self._reference: Light | None = None
        self._reference_usable = np.empty(0, bool)
        self._window: np.ndarray | None = None
        self._reference_exposure_s: float | None = None

    def reset(self, start: RunStart, /) -> None:
        """Prepare for a stream: energies, dark and reference.

        Raises
        ------
        InputError
            If wavelengths, dark or reference are missing or do not fit, or settings do not fit
            them.
        """
        stream = start.stream
        if stream.kind not in ("counts", "absorbance"):
            raise InputError(
                f"{stream.stream}: expected a stream of counts or absorbance, got {stream.kind}"
            )
        self._stream = None
        energy_ev = self._energies(stream)
        try:
            if stream.kind == "absorbance":
                self._prepare_absorbance()
            covered = covered_mask(self.settings.covered_pixels, len(energy_ev))
            self._order = self._order_of(energy_ev, covered, stream)
            self._energy_ev = frozen_array(energy_ev[self._order])
            self._grid = None
            if self.settings.energy_step_ev is not None:
                self._grid = EnergyGrid(self._energy_ev, self.settings.energy_step_ev)
                self._energy_ev = frozen_array(self._grid.energy_ev)
            if stream.kind == "counts":
                self._prepare_counts(stream, energy_ev)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{stream.stream}: {error}") from None
        self._stream = stream

    def process(self, message: SpectrumFrame, /) -> Iterable[Spectrum]:
        """The absorbance of one spectrum.

        Raises
        ------
        BadFrameError
            If there was no light, or the frame does not fit its stream.
        """
        if self._stream is None:
            raise RuntimeError("reduce_absorbance: reset comes before the first frame")
        where = f"{message.stream} frame {message.frame}"
        expected = tuple(self._stream.shape)
        if message.values.shape != expected:
            raise BadFrameError(
                f"{where}: expected {expected[0]} values, got an array of {message.values.shape}"
            )
        values = message.values.astype(np.float64)
        if self._stream.kind == "counts":
            absorbance, errors = self._absorbance(values, message.exposure_s, where)
        else:
            absorbance, errors = _hand_on(values[self._order], where)
        if self._grid is None:
            sigma = errors.sigma()
        else:
            absorbance, sigma = self._grid.average(absorbance, errors)
        if np.isnan(absorbance).all():
            raise BadFrameError(
                f"{where}: expected pixels with light below saturation, in spectrum and reference "
                "alike, got none: are low_light_sigma and max_absorbance too strict?"
            )
        yield Spectrum(
            frame=message.frame,
            time_s=message.time_s,
            energy_ev=self._energy_ev,
            absorbance=frozen_array(absorbance),
            sigma=frozen_array(sigma),
            sigma_estimated=self._stream.kind != "counts",
        )

    def _line(self, stream: StreamStart, name: str) -> np.ndarray:
        """A constant array of the stream, or its metadata where it is not among the arrays."""
        values = stream.arrays.get(name, stream.metadata.get(name))
        if values is None or np.shape(values) != tuple(stream.shape):
            got = "nothing" if values is None else f"an array of {np.shape(values)}"
            hint = ": set replay.reference_column for a record" if name == "reference" else ""
            raise InputError(
                f"{stream.stream}: expected {name} of {stream.shape[0]} pixels, got {got}{hint}"
            )
        return np.asarray(values, np.float64)

    def _energies(self, stream: StreamStart) -> np.ndarray:
        """Photon energy (n,) of each pixel; NaN where the air's refraction is not known."""
        wavelength_nm = self._line(stream, "wavelength_nm")
        if not (np.isfinite(wavelength_nm).all() and (wavelength_nm > 0).all()):
            raise InputError(f"{stream.stream}: expected wavelengths above 0 nm, got others")
        energy_ev = photon_energy_ev(wavelength_nm, self.settings.wavelengths_in_air)
        if np.isnan(energy_ev).all():
            low, high = AIR_RANGE_NM
            raise InputError(
                f"{stream.stream}: wavelengths_in_air: expected wavelengths from {low:g} to "
                f"{high:g} nm, got {wavelength_nm.min():.4g} to {wavelength_nm.max():.4g} nm"
            )
        return energy_ev

    def _order_of(
        self, energy_ev: np.ndarray, covered: np.ndarray, stream: StreamStart
    ) -> np.ndarray:
        """Pixels that are stored, by rising energy."""
        low, high = self.settings.energy_min_ev, self.settings.energy_max_ev
        order = np.argsort(energy_ev, kind="stable")
        order = order[(energy_ev[order] >= low) & (energy_ev[order] <= high) & ~covered[order]]
        if len(order) < FEWEST_VALUES:
            raise InputError(
                f"{stream.stream}: expected at least {FEWEST_VALUES} pixels in {low:g} to {high:g} "
                f"eV, got {len(order)} of {np.nanmin(energy_ev):.4g} to "
                f"{np.nanmax(energy_ev):.4g} eV"
            )
        if (np.diff(energy_ev[order]) <= 0).any():
            raise InputError(f"{stream.stream}: expected different wavelengths, got one twice")
        return order

    def _prepare_absorbance(self) -> None:
        given = [key for key in _OF_COUNTS if getattr(self.settings, key)]
        if given:
            raise ValueError(
                f"{given[0]}: expected counts to correct, got absorbance that is reduced already: "
                "leave it out"
            )
        self._spectrometer = self._reference = None
        # Compiled now, not on the first frame.
        local_scatter(np.zeros(FEWEST_VALUES))

    def _prepare_counts(self, stream: StreamStart, energy_ev: np.ndarray) -> None:
        settings, metadata = self.settings, stream.metadata
        saturation = settings.saturation_counts or metadata.get("saturation")
        averaged = int(metadata.get("reference_frames") or settings.reference_frames)
        dark, counts = self._line(stream, "dark"), self._line(stream, "reference")
        spectrometer = Spectrometer(
            settings, dark, float(saturation) if saturation else math.inf, averaged
        )
        reference = spectrometer.reference(counts)
        self._spectrometer, self._reference = spectrometer, reference
        self._reference_usable = self._enough(reference)
        if not self._reference_usable[self._order].any():
            raise ValueError("expected a reference above the dark, got none")
        self._window = None
        if settings.transparent_ev is not None:
            low, high = settings.transparent_ev
            window = (energy_ev >= low) & (energy_ev <= high) & ~spectrometer.covered
            if (window & reference.usable).sum() < FEWEST_VALUES:
                raise ValueError(
                    f"transparent_ev: expected at least {FEWEST_VALUES} usable pixels of the "
                    f"reference in {low:g} to {high:g} eV, got "
                    f"{int((window & reference.usable).sum())} of a spectrum of "
                    f"{np.nanmin(energy_ev):.4g} to {np.nanmax(energy_ev):.4g} eV"
                )
            self._window = window
        exposure_s = metadata.get("reference_exposure_s")
        self._reference_exposure_s = float(exposure_s) if exposure_s else None

    def _enough(self, light: Light) -> np.ndarray:
        """Pixels (n,) with enough light to speak of."""
        assert self._spectrometer is not None
        least = self.settings.low_light_sigma * np.sqrt(self._spectrometer.variance(light))
        return light.usable & (light.signal > 0.0) & (light.signal >= least)

    def _absorbance(
        self, counts: np.ndarray, exposure_s: float, where: str
    ) -> tuple[np.ndarray, Errors]:
        assert self._spectrometer is not None
        assert self._reference is not None
        # Without the reference's exposure both are taken as equal, and records need none.
        exposures = 1.0
        if self._reference_exposure_s is not None:
            if not (math.isfinite(exposure_s) and exposure_s > 0.0):
                raise BadFrameError(f"{where}: expected an exposure above 0 s, got {exposure_s:g}")
            exposures = exposure_s / self._reference_exposure_s
        try:
            light = self._spectrometer.light(counts)
            usable = self._usable(light, where)
            absorbance, errors = absorbance_of(
                self._spectrometer,
                light,
                self._reference,
                usable & self._reference_usable,
                exposures,
                self._window,
            )
        except BadFrameError:
            raise
        except ValueError as error:
            raise BadFrameError(f"{where}: {error}") from None
        absorbance, errors = absorbance[self._order], errors.take(self._order)
        if self.settings.max_absorbance is not None:
            too_much = absorbance > self.settings.max_absorbance
            absorbance[too_much] = errors.own[too_much] = np.nan
        return absorbance, errors

    def _usable(self, light: Light, where: str) -> np.ndarray:
        """Pixels (n,) with enough light; raises if the lamp is off or all are saturated."""
        assert self._spectrometer is not None
        noise = np.sqrt(self._spectrometer.variance(light)[self._order])
        lit = light.signal[self._order] > _LIGHT_SIGMA * noise
        if lit.mean() < _LEAST_LIT_FRACTION:
            raise BadFrameError(
                f"{where}: no light: expected counts above the dark in at least "
                f"{_LEAST_LIT_FRACTION:.0%} of the pixels, got {lit.mean():.1%}"
            )
        if not (light.usable & (light.signal > 0.0))[self._order].any():
            raise BadFrameError(
                f"{where}: expected counts below {self._spectrometer.saturation_counts:g}, got all "
                "pixels saturated"
            )
        return self._enough(light)


def _hand_on(values: np.ndarray, where: str) -> tuple[np.ndarray, Errors]:
    """Absorbance that is already reduced, with an error from its own scatter."""
    values[~np.isfinite(values)] = np.nan
    finite = int(np.isfinite(values).sum())
    if finite < FEWEST_VALUES:
        raise BadFrameError(
            f"{where}: expected at least {FEWEST_VALUES} finite values, got {finite}"
        )
    local = local_scatter(values)
    # Where a coarse digitisation repeats a value the scatter is zero, which is no error.
    local = local[local > 0.0]
    if not local.size:
        raise BadFrameError(f"{where}: expected a spectrum, got a line of equal values")
    # One error for the whole spectrum: the local estimates scatter by a fifth themselves and would
    # weight a fit by chance. On recorded CdSe they drew the first exciton off by up to 6 nm.
    return values, independent(np.full(values.size, np.median(local)) ** 2)
