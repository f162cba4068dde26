"""EIGER2 and PILATUS4 detectors, by their own Stream V2."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq

from detectors.devices.flyer import Flight, FrameFlyer
from pipeline.bus import cbor, stream2
from pipeline.bus.errors import WireError
from pipeline.messages import ImageFrame, StreamStart

log = logging.getLogger(__name__)

# How long a wait may be deaf to the end of the run.
_POLL_MS = 100
# Images that may wait here. The detector itself buffers what we do not fetch.
_HIGH_WATER_MARK = 16
# Between runs a detector may send what is left of a series; so many lines say enough.
_MAX_COMPLAINTS = 20


class DectrisStream(FrameFlyer):
    """Publishes what a DECTRIS detector streams: arm and trigger it with its own tools.

    Enable the stream on the detector (``stream/config/mode`` enabled, ``format`` cbor). The run
    waits for the detector's start message, that is for arming, and ends with its end message or
    when the config's duration is over.

    Times are the detector's own, counted from the start of its series; images that it does not
    deliver leave holes in the numbers.

    Parameters
    ----------
    endpoint
        The detector's stream, e.g. ``tcp://10.1.2.3:31001``.
    socket
        ``pull`` (the usual interface) or ``sub`` (a detector or relay that publishes).
    poni_file
        Geometry as PONI text, version 2. The detector's own header has no tilts.
    absolute_scale
        Factor to 1/cm; absent = arbitrary units.
    thickness_cm
        Path through the sample.
    transmission
        Of the sample, if it is constant.
    dtype
        Type of the pixels, e.g. ``<u4``, if the detector does not say.
    start_s
        Seconds between the injection and the start of the detector's series.
    arm_timeout_s
        How long to wait for arming.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str = "saxs",
        stream: str = "saxs",
        endpoint: str,
        socket: str = "pull",
        poni_file: str = "",
        absolute_scale: float = 0.0,
        thickness_cm: float = 0.0,
        transmission: float = 1.0,
        dtype: str = "",
        start_s: float = 0.0,
        arm_timeout_s: float = 600.0,
        **kwargs: Any,
    ) -> None:
        if socket not in ("pull", "sub"):
            raise ValueError(f"socket: expected 'pull' or 'sub', got {socket!r}")
        super().__init__(prefix, name=name, stream=stream, **kwargs)
        self._endpoint = endpoint
        self._socket_type = zmq.PULL if socket == "pull" else zmq.SUB
        # Read now: a missing file must not wait for the detector to be armed.
        self._poni = Path(poni_file).read_text(encoding="utf-8") if poni_file else ""
        self._constants = {
            key: value
            for key, value in (("absolute_scale", absolute_scale), ("thickness_cm", thickness_cm))
            if value
        }
        self._transmission = transmission
        self._dtype = dtype or None
        self._start_ns = round(start_s * 1e9)
        self._arm_timeout_s = arm_timeout_s
        self._socket: zmq.Socket[bytes] | None = None
        self._announced: StreamStart | None = None
        self.rejected = 0

    def open_stream(self, flight: Flight) -> StreamStart:
        """Connect, and wait for the detector's start message."""
        self.rejected = 0
        self._socket = socket = zmq.Context.instance().socket(self._socket_type)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
        if self._socket_type == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(self._endpoint)
        log.info("%s: waiting for %s to be armed", self.stream, self._endpoint)
        self._announced = announced = self._await_start(flight, socket)
        metadata = {**announced.metadata, **self._constants}
        if self._poni:
            metadata["poni"] = self._poni
        return replace(announced, stream=self.stream, run=flight.run, metadata=metadata)

    def frames(self, flight: Flight) -> Iterator[ImageFrame]:
        """Images until the detector's end message."""
        announced, socket = self._announced, self._socket
        assert announced is not None
        assert socket is not None
        duration_ns = round(flight.duration_s * 1e9)
        while not flight.clock.stopped and flight.clock.now_ns() < duration_ns:
            message = self._receive(socket)
            if message is None:
                continue
            try:
                kind = stream2.message_type(message)
                if kind == "end":
                    stream2.check_series(message, announced)
                    return
                if kind != "image":
                    raise WireError("expected an image, got the start of another series")
                image = stream2.decode_image(message, announced)
            except WireError as error:
                self._reject(error)
                continue
            yield replace(
                image,
                stream=self.stream,
                time_ns=image.time_ns + self._start_ns,
                transmission=self._transmission,
            )

    def close_stream(self) -> None:
        """Disconnect from the detector."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _await_start(self, flight: Flight, socket: zmq.Socket[bytes]) -> StreamStart:
        # The run's clock starts with the first frame's exposure, not here: counted in polls.
        for _ in range(max(1, round(self._arm_timeout_s * 1000 / _POLL_MS))):
            if flight.clock.stopped:
                raise RuntimeError(f"{flight.clock.reason} while waiting for {self._endpoint}")
            message = self._receive(socket)
            if message is None:
                continue
            try:
                if stream2.message_type(message) != "start":
                    raise WireError("expected the start of a series, got the rest of an old one")
                return stream2.decode_start(message, stream=self.stream, dtype=self._dtype)
            except WireError as error:
                self._reject(error)
        raise TimeoutError(
            f"{self.stream}: expected a start message of {self._endpoint} within "
            f"{self._arm_timeout_s:g} s, got none: is the detector armed and its stream enabled?"
        )

    def _receive(self, socket: zmq.Socket[bytes]) -> dict[str, Any] | None:
        """The next message; None if there is none yet, or none that can be read."""
        if not socket.poll(_POLL_MS):
            return None
        try:
            return cbor.loads(socket.recv())
        except WireError as error:
            self._reject(error)
            return None

    def _reject(self, error: WireError) -> None:
        self.rejected += 1
        if self.rejected <= _MAX_COMPLAINTS:
            log.warning("%s: message %d rejected: %s", self.stream, self.rejected, error)
