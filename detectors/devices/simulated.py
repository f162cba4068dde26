"""The detectors that look on a simulated synthesis."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from detectors.devices.clocked import ClockedFlyer
from detectors.devices.flyer import Flight
from pipeline.messages import ImageFrame, SpectrumFrame, StreamStart, frozen_array


class Exposed(Protocol):
    """What an area detector's renderer gives for one exposure."""

    @property
    def image(self) -> np.ndarray:
        """Counts (ny, nx), unsigned."""
        ...

    @property
    def monitor(self) -> float:
        """Mean incident flux over the nominal one."""
        ...

    @property
    def transmission(self) -> float:
        """Of the sample."""
        ...


class ImageRenderer(Protocol):
    """Makes counts; knows nothing of clocks, files and sockets."""

    poni: str
    pixel_mask: np.ndarray
    absolute_scale: float
    saturation: int
    dtype: Any

    def render(self, frame: int, time_s: float, exposure_s: float, /) -> Exposed | None:
        """Counts at a time of the synthesis; None if the detector loses the frame."""
        ...


class SpectrumRenderer(Protocol):
    """Makes counts of a spectrometer."""

    wavelength_nm: np.ndarray
    dark: np.ndarray
    reference: np.ndarray
    reference_frames: int

    @property
    def saturation(self) -> float:
        """Largest count."""
        ...

    def render(self, frame: int, time_s: float, exposure_s: float, /) -> np.ndarray | None:
        """Counts at a time of the synthesis; None if the spectrometer loses the spectrum."""
        ...


class SimulatedAreaDetector(ClockedFlyer):
    """Area detector that renders counts.

    Times are the scheduled ones, so that a run with the same seed is the same run.

    Parameters
    ----------
    renderer
        Makes the images.
    thickness_cm
        Path through the sample, passed on for the normalisation.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "saxs",
        stream: str = "saxs",
        renderer: ImageRenderer,
        rate_hz: float,
        thickness_cm: float,
        start_s: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            prefix, name=name, stream=stream, rate_hz=rate_hz, start_s=start_s, **kwargs
        )
        self._renderer = renderer
        self._thickness_cm = thickness_cm

    def open_stream(self, flight: Flight) -> StreamStart:
        """Geometry, mask and scale of the simulated detector."""
        mask = frozen_array(self._renderer.pixel_mask)
        return StreamStart(
            stream=self.stream,
            run=flight.run,
            kind="image",
            shape=mask.shape,
            dtype=np.dtype(self._renderer.dtype).str,
            arrays={"pixel_mask": mask},
            metadata={
                "source": "simulated area detector",
                "poni": self._renderer.poni,
                "absolute_scale": float(self._renderer.absolute_scale),
                "thickness_cm": self._thickness_cm,
                "saturation": int(self._renderer.saturation),
                "exposure_s": self.exposure_s,
                "rate_hz": self.rate_hz,
            },
        )

    def expose(self, frame: int, time_ns: int) -> ImageFrame | None:
        """Render one image."""
        exposed = self._renderer.render(frame, time_ns * 1e-9, self.exposure_s)
        if exposed is None:
            return None
        return ImageFrame(
            stream=self.stream,
            frame=frame,
            time_ns=time_ns,
            exposure_s=self.exposure_s,
            image=frozen_array(exposed.image),
            monitor=float(exposed.monitor),
            transmission=float(exposed.transmission),
        )


class SimulatedFibreSpectrometer(ClockedFlyer):
    """Fibre spectrometer that renders counts, with the dark and the reference taken before."""

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "absorbance",
        stream: str = "absorbance",
        renderer: SpectrumRenderer,
        rate_hz: float,
        start_s: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            prefix, name=name, stream=stream, rate_hz=rate_hz, start_s=start_s, **kwargs
        )
        self._renderer = renderer

    def open_stream(self, flight: Flight) -> StreamStart:
        """Wavelengths, dark and reference."""
        wavelength_nm = frozen_array(self._renderer.wavelength_nm, np.float64)
        return StreamStart(
            stream=self.stream,
            run=flight.run,
            kind="counts",
            shape=wavelength_nm.shape,
            dtype="<u4",
            arrays={
                "wavelength_nm": wavelength_nm,
                "dark": frozen_array(self._renderer.dark, np.float64),
                "reference": frozen_array(self._renderer.reference, np.float64),
            },
            metadata={
                "source": "simulated fibre spectrometer",
                "reference_frames": self._renderer.reference_frames,
                "saturation": float(self._renderer.saturation),
                "exposure_s": self.exposure_s,
                "rate_hz": self.rate_hz,
            },
        )

    def expose(self, frame: int, time_ns: int) -> SpectrumFrame | None:
        """Render one spectrum."""
        counts = self._renderer.render(frame, time_ns * 1e-9, self.exposure_s)
        if counts is None:
            return None
        return SpectrumFrame(
            stream=self.stream,
            frame=frame,
            time_ns=time_ns,
            exposure_s=self.exposure_s,
            values=frozen_array(counts, "<u4"),
        )
