"""Any detector that writes one HDF5 file while it runs, e.g. areaDetector's HDF5 plugin (SWMR)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the filters that detectors compress with)
import numpy as np

from detectors.devices.flyer import Flight, FrameFlyer
from pipeline.messages import ImageFrame, StreamStart, frozen_array

log = logging.getLogger(__name__)

# areaDetector stamps frames in seconds since 1990-01-01 UTC.
_EPICS_EPOCH_UNIX_NS = 631_152_000 * 10**9
# A file at NFS or GPFS pace: looking more often finds nothing new.
_POLL_S = 0.05


class FileFollower(FrameFlyer):
    """Publishes the frames of a file that an unmodified areaDetector is writing.

    Configure the IOC as always (HDF5 plugin, SWMR mode on, one frame a chunk, flush after each
    frame); this only reads. The run waits for the file, and ends when the config's duration is
    over, or when no frame has come for ``idle_s``.

    Parameters
    ----------
    path
        The file, as this machine sees it.
    exposure_s
        Of one frame.
    dataset
        The frames, (n, rows, columns), unsigned integers.
    number_dataset
        The IOC's counter of frames; without it the place in the file counts.
    stamp_dataset
        Seconds since 1990 of each frame's end; without it the time is when the frame was seen.
    poni_file
        Geometry as PONI text, version 2.
    mask_file
        Unusable pixels (.npy), non-zero = unusable.
    saturation_counts
        Counts at which a pixel is unusable; the largest of the type if 0.
    absolute_scale, thickness_cm, transmission
        For the normalisation; 0 = unknown.
    open_timeout_s
        How long to wait for the file.
    idle_s
        Silence that means the end.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "saxs",
        stream: str = "saxs",
        path: str,
        exposure_s: float,
        dataset: str = "/entry/data/data",
        number_dataset: str = "/entry/instrument/NDAttributes/NDArrayUniqueId",
        stamp_dataset: str = "/entry/instrument/NDAttributes/NDArrayTimeStamp",
        poni_file: str = "",
        mask_file: str = "",
        saturation_counts: int = 0,
        absolute_scale: float = 0.0,
        thickness_cm: float = 0.0,
        transmission: float = 1.0,
        open_timeout_s: float = 600.0,
        idle_s: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, stream=stream, **kwargs)
        self._path = Path(path)
        self._datasets = (dataset, number_dataset, stamp_dataset)
        self._exposure_s = exposure_s
        self._mask_file = mask_file
        self._saturation_counts = saturation_counts
        self._transmission = transmission
        self._open_timeout_s = open_timeout_s
        self._idle_s = idle_s
        self._metadata: dict[str, Any] = {"source": path, "exposure_s": exposure_s}
        if poni_file:
            self._metadata["poni"] = Path(poni_file).read_text(encoding="utf-8")
        for key, value in (("absolute_scale", absolute_scale), ("thickness_cm", thickness_cm)):
            if value:
                self._metadata[key] = value
        self._file: h5py.File | None = None

    def open_stream(self, flight: Flight) -> StreamStart:
        """Wait for the file and read the shape of its frames."""
        self._file = self._await_file(flight)
        data = self._dataset(self._datasets[0])
        assert data is not None
        if data.ndim != 3 or data.dtype.kind != "u":
            raise ValueError(
                f"{self._path}: expected {self._datasets[0]} of shape (n, rows, columns) and an "
                f"unsigned type, got {data.shape} {data.dtype.str}"
            )
        shape = data.shape[1:]
        arrays = {}
        if self._mask_file:
            mask = frozen_array(np.load(self._mask_file, allow_pickle=False) != 0, np.uint8)
            if mask.shape != shape:
                raise ValueError(f"{self._mask_file}: expected shape {shape}, got {mask.shape}")
            arrays["pixel_mask"] = mask
        dtype = data.dtype.newbyteorder("<")
        saturation = self._saturation_counts or int(np.iinfo(dtype).max)
        return StreamStart(
            stream=self.stream,
            run=flight.run,
            kind="image",
            shape=shape,
            dtype=dtype.str,
            arrays=arrays,
            metadata={**self._metadata, "saturation": saturation},
        )

    def frames(self, flight: Flight) -> Iterator[ImageFrame]:
        """Frames in the order of the file, as they are flushed."""
        data, numbers, stamps = (self._dataset(name) for name in self._datasets)
        assert data is not None
        dtype = data.dtype.newbyteorder("<")
        duration_ns = round(flight.duration_s * 1e9)
        index, first_number, last_seen_ns = 0, 0, 0
        while not flight.clock.stopped and flight.clock.now_ns() < duration_ns:
            available = min(_refreshed_length(each) for each in (data, numbers, stamps) if each)
            if index == available:
                if flight.clock.now_ns() - last_seen_ns > self._idle_s * 1e9:
                    log.info("%s: no frame for %g s, ended", self.stream, self._idle_s)
                    return
                flight.clock.wait_until(flight.clock.now_ns() + round(_POLL_S * 1e9))
                continue
            last_seen_ns = flight.clock.now_ns()
            number = index if numbers is None else int(numbers[index])
            if index == 0:
                first_number = number
            if stamps is None:
                time_ns = last_seen_ns
            else:
                unix_ns = round(float(stamps[index]) * 1e9) + _EPICS_EPOCH_UNIX_NS
                time_ns = unix_ns - flight.clock.zero_unix_ns
            yield ImageFrame(
                stream=self.stream,
                frame=number - first_number,
                time_ns=time_ns,
                exposure_s=self._exposure_s,
                image=frozen_array(data[index], dtype),
                transmission=self._transmission,
            )
            index += 1

    def close_stream(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _await_file(self, flight: Flight) -> h5py.File:
        deadline = time.monotonic() + self._open_timeout_s
        missing = "no such file"
        while time.monotonic() < deadline:
            if flight.clock.stopped:
                raise RuntimeError(f"{flight.clock.reason} while waiting for {self._path}")
            try:
                file = h5py.File(self._path, "r", swmr=True, libver="latest")
            except OSError as error:
                # Absent, or not yet in SWMR mode: the writer is still creating it.
                missing = str(error)
            else:
                if self._datasets[0] in file:
                    return file
                missing = f"no dataset {self._datasets[0]}"
                file.close()
            time.sleep(_POLL_S)
        raise TimeoutError(
            f"{self._path}: expected a SWMR file with {self._datasets[0]} within "
            f"{self._open_timeout_s:g} s, got: {missing}"
        )

    def _dataset(self, name: str) -> h5py.Dataset | None:
        """A dataset, or None where the file has none of that name."""
        assert self._file is not None
        found = self._file.get(name)
        return found if isinstance(found, h5py.Dataset) else None


def _refreshed_length(dataset: h5py.Dataset) -> int:
    dataset.id.refresh()
    return dataset.shape[0]
