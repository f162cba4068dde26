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
from pipeline.reduce.files import InputError
from pipeline.reduce.geometry import HC_EV_NM

# Light counts as such above this many standard errors of its pixel ...
_LIGHT_SIGMA = 5.0
# ... and with less of it than in this fraction of the pixels, the lamp or the shutter is off. Noise
# alone is above in 3e-7 of the pixels, a strongly absorbing sample leaves its transparent side.
_LEAST_LIT_FRACTION = 0.05


class ReduceAbsorbance:
    """Decadic absorbance with its error from each spectrum, against rising photon energy.

    From counts: A = -log10(S / R), with S = (I - dark) / exposure and R the same of the reference.
    Its variance is ln(10)^-2 (var S / S^2 + var R / R^2), with shot noise (gain times signal) and
    read noise of spectrum, dark and reference. The reference's share is the same in all spectra.

    NaN means that the pixel says nothing: it was saturated (in spectrum or reference), its light
    was not above the dark, or its value was not a finite number.

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
        self._saturation = math.inf
        self._dark = np.empty(0)
        self._reference = np.empty(0)
        self._reference_variance = np.empty(0)
        self._dark_variance = 0.0
        self._reference_exposure_s: float | None = None

    def reset(self, start: RunStart, /) -> None:
        """Prepare for a stream: energies, dark and reference.

        Raises
        ------
        InputError
            If wavelengths, dark or reference are missing or do not fit.
        """
        stream = start.stream
        if stream.kind not in ("counts", "absorbance"):
            raise InputError(
                f"{stream.stream}: expected a stream of counts or absorbance, got {stream.kind}"
            )
        wavelength_nm = self._line(stream, "wavelength_nm")
        if not (np.isfinite(wavelength_nm).all() and (wavelength_nm > 0).all()):
            raise InputError(f"{stream.stream}: expected wavelengths above 0 nm, got others")
        energy_ev = HC_EV_NM / wavelength_nm
        low, high = self.settings.energy_min_ev, self.settings.energy_max_ev
        order = np.argsort(energy_ev, kind="stable")
        order = order[(energy_ev[order] >= low) & (energy_ev[order] <= high)]
        if len(order) < FEWEST_VALUES:
            raise InputError(
                f"{stream.stream}: expected at least {FEWEST_VALUES} pixels in {low:g} to {high:g} "
                f"eV, got {len(order)} of {energy_ev.min():.4g} to {energy_ev.max():.4g} eV"
            )
        if (np.diff(energy_ev[order]) <= 0).any():
            raise InputError(f"{stream.stream}: expected different wavelengths, got one twice")
        self._order = order
        self._energy_ev = frozen_array(energy_ev[order])
        if stream.kind == "counts":
            self._prepare_reference(stream)
        else:
            # Compiled now, not on the first frame.
            local_scatter(np.zeros(FEWEST_VALUES))
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
        values = message.values[self._order].astype(np.float64)
        if self._stream.kind == "counts":
            absorbance, sigma = self._absorbance(values, message.exposure_s, where)
        else:
            absorbance, sigma = _hand_on(values, where)
        yield Spectrum(
            frame=message.frame,
            time_s=message.time_s,
            energy_ev=self._energy_ev,
            absorbance=frozen_array(absorbance),
            sigma=frozen_array(sigma),
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

    def _prepare_reference(self, stream: StreamStart) -> None:
        settings, metadata = self.settings, stream.metadata
        saturation = settings.saturation_counts or metadata.get("saturation")
        self._saturation = float(saturation) if saturation else math.inf
        averaged = int(metadata.get("reference_frames") or settings.reference_frames)
        read_variance = settings.read_noise_counts**2
        self._dark = self._line(stream, "dark")[self._order]
        self._dark_variance = read_variance / averaged
        raw = self._line(stream, "reference")[self._order]
        reference = raw - self._dark
        usable = np.isfinite(reference) & (reference > 0.0) & (raw < self._saturation)
        if not usable.any():
            raise InputError(f"{stream.stream}: expected a reference above the dark, got none")
        reference[~usable] = np.nan
        shot = settings.counts_per_electron * reference
        # The dark is subtracted from both, its noise counted in both: too much by a hair.
        self._reference = reference
        self._reference_variance = (shot + read_variance) / averaged + self._dark_variance
        exposure_s = metadata.get("reference_exposure_s")
        self._reference_exposure_s = float(exposure_s) if exposure_s else None

    def _absorbance(
        self, counts: np.ndarray, exposure_s: float, where: str
    ) -> tuple[np.ndarray, np.ndarray]:
        settings = self.settings
        if not (math.isfinite(exposure_s) and exposure_s > 0.0):
            raise BadFrameError(f"{where}: expected an exposure above 0 s, got {exposure_s:g}")
        saturated = counts >= self._saturation
        signal = counts - self._dark
        variance = (
            settings.counts_per_electron * np.maximum(signal, 0.0)
            + settings.read_noise_counts**2
            + self._dark_variance
        )
        lit = signal > _LIGHT_SIGMA * np.sqrt(variance)
        if lit.mean() < _LEAST_LIT_FRACTION:
            raise BadFrameError(
                f"{where}: no light: expected counts above the dark in at least "
                f"{_LEAST_LIT_FRACTION:.0%} of the pixels, got {lit.mean():.1%}"
            )
        signal[saturated | ~(signal > 0.0)] = np.nan
        if np.isnan(signal).all():
            raise BadFrameError(
                f"{where}: expected counts below {self._saturation:g}, got all pixels saturated"
            )
        longer = 1.0
        if self._reference_exposure_s is not None:
            longer = exposure_s / self._reference_exposure_s
        absorbance = -np.log10(signal / (longer * self._reference))
        relative = variance / signal**2 + self._reference_variance / self._reference**2
        sigma = np.sqrt(relative) / math.log(10.0)
        return absorbance, sigma


def _hand_on(values: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
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
    return values, np.full(values.size, np.median(local))
