"""A detector as bluesky sees it: an ophyd flyer that publishes frames and emits only references.

Pixels go to the recording and to the bus. The documents carry where they are in the recording
(StreamResource) and how many are there (StreamDatum), and say so only of frames that are flushed.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from event_model import compose_stream_resource
from ophyd import Device
from ophyd.status import DeviceStatus

from detectors.devices.clock import RunClock
from pipeline.bus import FramePublisher
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints
from pipeline.messages import Frame, StreamEnd, StreamStart

log = logging.getLogger(__name__)

# Where the recording (pipeline.bus) keeps them.
_DETECTOR = "/entry/instrument/detector"
# Tiled's clients fetch block by block. Above 1 MB the request itself no longer counts, and 512
# rows are a chunk of the recording's own scalars.
_BLOCK_BYTES = 1_000_000
_BLOCK_ROWS = 512


@dataclass(frozen=True, slots=True)
class Flight:
    """What every flyer of a run is prepared with.

    Attributes
    ----------
    run
        Identifier of the run on the bus and in Tiled.
    recording_dir
        Folder that takes one HDF5 file a stream.
    endpoints
        By stream: where its frames are published.
    bus
        How frames travel.
    duration_s
        How long frames are taken.
    clock
        The run's one clock.
    run_start
        The RunEngine's start document.
    """

    run: str
    recording_dir: Path
    endpoints: Mapping[str, FrameEndpoints]
    bus: Bus
    duration_s: float
    clock: RunClock
    run_start: Mapping[str, Any]

    def endpoints_of(self, stream: str) -> FrameEndpoints:
        """Addresses of one stream; a stream without any is an error of the wiring."""
        try:
            return self.endpoints[stream]
        except KeyError:
            raise ValueError(
                f"wiring: expected addresses of the stream {stream!r}, got only "
                f"{sorted(self.endpoints)}: add it to 'frames'"
            ) from None


class FrameFlyer(Device):
    """Base of every detector. A new one needs ``open_stream`` and ``frames``, and nothing else.

    Parameters
    ----------
    name
        ophyd's name of the device.
    stream
        Name of its stream on the bus, in the recording and among bluesky's streams.
    """

    def __init__(self, prefix: str = "", *, name: str, stream: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.stream = stream
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"flyer-{stream}")
        self._reset()

    def _reset(self) -> None:
        self._flight: Flight | None = None
        self._start: StreamStart | None = None
        self._publisher: FramePublisher | None = None
        self._acquiring: Future[StreamEnd] | None = None
        self._published = 0
        self.numbers_given = 0
        self._referenced = 0
        self._resources: list[Any] = []

    # What a detector has to bring.

    def open_stream(self, flight: Flight) -> StreamStart:
        """Make the detector ready and say what its frames are like. May block, e.g. for arming."""
        raise NotImplementedError

    def frames(self, flight: Flight) -> Iterator[Frame]:
        """Yield each frame when its exposure has ended; return soon after the clock is stopped.

        Frame numbers are the detector's own counter: a frame that it loses leaves a hole. A
        detector that knows of a loss counts it in ``numbers_given``, so that a loss at the very
        end is known too.
        """
        raise NotImplementedError

    def close_stream(self) -> None:
        """Let go of what ``open_stream`` took. Called once, also after a failure."""

    # What bluesky calls.

    def prepare(self, value: Flight) -> DeviceStatus:
        """Open the detector, its file and its sockets."""
        self._reset()
        self._flight = value
        status = DeviceStatus(self)
        opening = self._executor.submit(self._open, value)
        opening.add_done_callback(lambda done: _settle(status, done))
        return status

    def kickoff(self) -> DeviceStatus:
        """Begin to take frames, each on the run's clock, in a thread of its own."""
        if self._flight is None or self._publisher is None:
            raise RuntimeError(f"{self.name}: expected prepare() before kickoff(), got none")
        self._flight.clock.start()
        self._acquiring = self._executor.submit(self._acquire, self._flight, self._publisher)
        status = DeviceStatus(self)
        status.set_finished()
        return status

    def complete(self) -> DeviceStatus:
        """Done when the last frame is published and the stream is ended."""
        if self._acquiring is None:
            raise RuntimeError(f"{self.name}: expected kickoff() before complete(), got none")
        status = DeviceStatus(self)
        self._acquiring.add_done_callback(lambda done: _settle(status, done))
        return status

    def stop(self, *, success: bool = False) -> None:
        """End the run early: the vial is one, so no detector stops alone."""
        super().stop(success=success)
        if self._flight is not None:
            self._flight.clock.stop(f"{self.name} was stopped")

    def describe_collect(self) -> dict[str, Any]:
        """Data keys of the one stream: the frames, and each one's number and time.

        A frame that the detector lost has no row, so a row's place is not its frame number.
        """
        start = self._prepared_start()
        source = str(start.metadata.get("source", self.name))
        return {
            key: {
                "source": source,
                "dtype": "array",
                "dtype_numpy": dtype,
                # The leading 1 is what bluesky's consolidator joins rows along.
                "shape": [1, *shape],
                "external": "STREAM:",
                **({"units": units} if units else {}),
            }
            for key, _, shape, dtype, units in self._columns()
        }

    def get_index(self) -> int:
        """How many frames are flushed to the recording."""
        with self._lock:
            return self._published

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """References to the frames that were flushed since the last call.

        Parameters
        ----------
        index
            Refer to no frame at or beyond this place in the file; all that are there if absent.
        """
        available = self.get_index() if index is None else min(index, self.get_index())
        if available <= self._referenced:
            return
        if not self._resources:
            self._resources = self._compose_resources()
            for bundle in self._resources:
                yield "stream_resource", bundle.stream_resource_doc
        for bundle in self._resources:
            datum = bundle.compose_stream_datum({"start": self._referenced, "stop": available})
            yield "stream_datum", datum
        self._referenced = available

    # What the plan and the acquisition process ask.

    @property
    def recording(self) -> Path:
        """The HDF5 file of the current run."""
        if self._flight is None:
            raise RuntimeError(f"{self.name}: expected prepare() first, got none")
        return self._flight.recording_dir / f"{self.stream}.h5"

    @property
    def geometry(self) -> str | None:
        """Geometry of the prepared detector as the text of a PONI file, if it has one."""
        poni = self._prepared_start().metadata.get("poni")
        return None if poni is None else str(poni)

    @property
    def end(self) -> StreamEnd | None:
        """What was published last, or None while frames are taken or if the stream failed."""
        future = self._acquiring
        if future is None or not future.done() or future.exception() is not None:
            return None
        return future.result()

    def wait_landed(self, timeout_s: float) -> bool:
        """Wait for the acquisition thread, whatever comes of it; True if it has ended."""
        if self._acquiring is None:
            return True
        try:
            self._acquiring.exception(timeout=timeout_s)
        except TimeoutError:
            return False
        return True

    def wait_consumed(self, timeout_s: float) -> bool:
        """Wait until a consumer has said that it has all frames; True if one has."""
        return self._publisher is None or self._publisher.wait_done(timeout_s=timeout_s)

    def close(self) -> None:
        """Stop serving the frames of the last run, and close its file."""
        self._executor.shutdown(wait=True)
        if self._publisher is not None:
            self._publisher.close()

    # Inside.

    def _prepared_start(self) -> StreamStart:
        if self._start is None:
            raise RuntimeError(f"{self.name}: expected prepare() first, got none")
        return self._start

    def _open(self, flight: Flight) -> None:
        endpoints = flight.endpoints_of(self.stream)
        try:
            start = self.open_stream(flight)
            start = replace(start, metadata={**start.metadata, "run_start": dict(flight.run_start)})
            self._publisher = FramePublisher(start, self.recording, endpoints, flight.bus)
        except BaseException:
            self.close_stream()
            raise
        self._start = start

    def _acquire(self, flight: Flight, publisher: FramePublisher) -> StreamEnd:
        try:
            for frame in self.frames(flight):
                publisher.publish(frame)
                self.numbers_given = frame.frame + 1
                with self._lock:
                    self._published += 1
        except Exception as error:
            flight.clock.stop(f"{self.name} failed: {error}")
            publisher.finish(f"failed: {error}", self.numbers_given)
            raise
        finally:
            self.close_stream()
        end = publisher.finish(flight.clock.reason or "done", self.numbers_given)
        log.info("%s: %d frames published, %s", self.stream, self._published, end.reason)
        return end

    def _columns(self) -> list[tuple[str, str, tuple[int, ...], str, str]]:
        """Data key, dataset, shape of a row, type and unit of what the documents refer to."""
        start = self._prepared_start()
        return [
            (f"{self.stream}_{start.kind}", "data", start.shape, start.dtype, ""),
            (f"{self.stream}_frame", "frame", (), "<i8", ""),
            (f"{self.stream}_time_ns", "time_ns", (), "<i8", "ns"),
        ]

    def _compose_resources(self) -> list[Any]:
        # Spelled with the host: bluesky's and Tiled's own documents do, and both parse it.
        uri = "file://localhost" + quote(str(self.recording.resolve()))
        return [
            compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=uri,
                data_key=key,
                parameters={
                    "dataset": f"{_DETECTOR}/{dataset}",
                    "chunk_shape": [_rows_per_block(shape, dtype), *shape],
                    "swmr": True,
                },
            )
            for key, dataset, shape, dtype, _ in self._columns()
        ]


def _rows_per_block(shape: tuple[int, ...], dtype: str) -> int:
    """Rows that Tiled sends at once: an image alone, small rows many at a time."""
    row_bytes = np.dtype(dtype).itemsize * math.prod(shape)
    return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // row_bytes))


def _settle(status: DeviceStatus, done: Future[Any]) -> None:
    """Hand the outcome of a thread to whoever waits for the status."""
    error = done.exception()
    if error is None:
        status.set_finished()
    else:
        status.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
