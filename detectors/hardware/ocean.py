"""Ocean spectrometers, over the package seabreeze.

    python -m detectors.hardware.ocean FILE --integration-s 0.1 [--spectra 20] [--serial NUMBER]

saves the mean of some spectra as ``FILE`` (.npy): once with the lamp shuttered for ``dark_file``,
once through the solvent for ``reference_file``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detectors.devices.flyer import Flight, FrameFlyer
from pipeline.messages import SpectrumFrame, StreamStart, frozen_array


def open_spectrometer(serial: str, backend: str) -> Any:
    """A seabreeze ``Spectrometer``.

    Raises
    ------
    ImportError
        If seabreeze is not installed; the text says what to do.
    OSError
        If no such spectrometer is attached.
    """
    try:
        import seabreeze  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "an Ocean spectrometer needs the package seabreeze, got none: pip install seabreeze"
        ) from error
    seabreeze.use(backend)
    from seabreeze.spectrometers import Spectrometer  # pyright: ignore[reportMissingImports]

    try:
        return Spectrometer.from_serial_number(serial or None)
    except Exception as error:  # seabreeze's own errors share no base but this one
        raise OSError(
            f"expected an Ocean spectrometer {serial or '(any)'}, got: {error}"
        ) from error


class OceanSpectrometer(FrameFlyer):
    """Reads an Ocean spectrometer on the run's absolute clock.

    A spectrum's time is when its reading returned. A period that is shorter than the integration
    makes every spectrum follow the one before at once; none is skipped.

    Parameters
    ----------
    dark_file, reference_file
        Counts with the lamp shuttered, and through the solvent (.npy, one value a pixel), taken
        with the same integration time.
    rate_hz
        Spectra a second.
    integration_s
        Of one spectrum.
    serial
        Of the spectrometer; the first that is found if absent.
    backend
        ``cseabreeze`` or ``pyseabreeze``.
    saturation_counts
        Counts at which a pixel is unusable; the spectrometer's own maximum if 0.
    start_s
        Seconds between the injection and the run's zero.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "absorbance",
        stream: str = "absorbance",
        dark_file: str,
        reference_file: str,
        rate_hz: float = 1 / 0.15,
        integration_s: float = 0.1,
        serial: str = "",
        backend: str = "cseabreeze",
        saturation_counts: float = 0.0,
        start_s: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, stream=stream, **kwargs)
        self._files = {"dark": Path(dark_file), "reference": Path(reference_file)}
        self._period_ns = round(1e9 / rate_hz)
        self._rate_hz = rate_hz
        self._integration_s = integration_s
        self._start_ns = round(start_s * 1e9)
        self._device = open_spectrometer(serial, backend)
        self._device.integration_time_micros(round(integration_s * 1e6))
        self._saturation = saturation_counts or float(self._device.max_intensity)

    def open_stream(self, flight: Flight) -> StreamStart:
        """Wavelengths of the spectrometer, dark and reference of the files."""
        wavelength_nm = frozen_array(self._device.wavelengths(), np.float64)
        arrays = {"wavelength_nm": wavelength_nm}
        for key, path in self._files.items():
            counts = frozen_array(np.load(path, allow_pickle=False), np.float64)
            if counts.shape != wavelength_nm.shape:
                raise ValueError(
                    f"{path}: expected {key} counts of shape {wavelength_nm.shape} as the "
                    f"spectrometer has, got {counts.shape}: take it again"
                )
            arrays[key] = counts
        return StreamStart(
            stream=self.stream,
            run=flight.run,
            kind="counts",
            shape=wavelength_nm.shape,
            dtype="<f8",
            arrays=arrays,
            metadata={
                "source": f"{self._device.model} {self._device.serial_number}",
                "saturation": self._saturation,
                "exposure_s": self._integration_s,
                "rate_hz": self._rate_hz,
            },
        )

    def frames(self, flight: Flight) -> Iterator[SpectrumFrame]:
        """Spectra, each begun at its due time."""
        for number in range(round(flight.duration_s * 1e9) // self._period_ns):
            if not flight.clock.wait_until(number * self._period_ns):
                return
            counts = frozen_array(self._device.intensities(), np.float64)
            yield SpectrumFrame(
                stream=self.stream,
                frame=number,
                time_ns=flight.clock.now_ns() + self._start_ns,
                exposure_s=self._integration_s,
                values=counts,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Save a dark or a reference; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m detectors.hardware.ocean", description="Save a dark or a reference."
    )
    parser.add_argument("file", type=Path, help="to write, .npy")
    parser.add_argument("--integration-s", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--spectra", type=int, default=20, help="to average (default 20)")
    parser.add_argument("--serial", default="", help="of the spectrometer (default: the first)")
    parser.add_argument("--backend", default="cseabreeze", help="of seabreeze")
    options = parser.parse_args(arguments)
    try:
        device = open_spectrometer(options.serial, options.backend)
    except (ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    device.integration_time_micros(round(options.integration_s * 1e6))
    np.save(options.file, np.mean([device.intensities() for _ in range(options.spectra)], axis=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
