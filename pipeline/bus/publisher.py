"""Sends the frames of one stream, and keeps every one of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType

import zmq

from pipeline.bus import wire
from pipeline.bus.repair import RepairServer
from pipeline.bus.sockets import Sockets
from pipeline.bus.spool import SpoolWriter
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints
from pipeline.messages import Frame, StreamEnd, StreamStart


class FramePublisher:
    """Compresses a frame once, writes it to the recording, then tells whoever listens.

    A frame that was published can be had again from `RepairServer` until `close`, so nothing
    depends on who was listening, and how fast. Use from one thread.

    Parameters
    ----------
    start
        The stream.
    path
        The recording. One that was left unfinished by a publisher of the same stream is taken up
        again behind its last frame: see `next_frame`.
    endpoints
        Where to bind.
    bus
        Keys, high water mark, credit.

    Raises
    ------
    SpoolError
        If the recording is there and complete, of another stream, or being written.
    """

    def __init__(
        self,
        start: StreamStart,
        path: Path | str,
        endpoints: FrameEndpoints,
        bus: Bus | None = None,
    ) -> None:
        bus = bus or Bus()
        self.start = start
        self._published: Counter[str] = Counter()
        self._end: StreamEnd | None = None
        self._spool = SpoolWriter(path, start)
        self._sockets = Sockets(bus)
        try:
            self._spool.flush()
            self._live = self._sockets.bind(
                zmq.PUB, endpoints.live, sndhwm=bus.live_high_water_mark
            )
            self._repair = RepairServer(self._spool.path, endpoints.repair, bus)
        except BaseException:
            self._sockets.close()
            self._spool.close()
            raise

    @property
    def path(self) -> Path:
        """The recording."""
        return self._spool.path

    @property
    def next_frame(self) -> int:
        """Lowest number that the next frame may have: 0, or more after a restart."""
        return self._spool.last_frame + 1

    @property
    def counters(self) -> Counter[str]:
        """``published`` frames and ``bytes``; ``repaired``, ``requests``, ``bad_requests``."""
        return self._published + self._repair.counters

    def publish(self, frame: Frame, payloads: tuple[bytes, ...] | None = None) -> None:
        """Record and send a frame. Numbers must rise; a number left out is a frame not taken.

        ``payloads`` are its arrays in bslz4 form, if the detector sent them so.
        """
        self._repair.check()
        if payloads is None:
            payloads = wire.payloads_of(frame)
        self._spool.append(frame, payloads)
        self._spool.flush()
        parts = wire.encode_frame(frame, self.start, payloads)
        self._live.send_multipart(parts, copy=False)
        self._published["published"] += 1
        self._published["bytes"] += sum(map(len, parts))

    def finish(self, reason: str = "done", frames: int | None = None) -> StreamEnd:
        """Complete the recording and tell everybody. Repair goes on until `close`.

        ``frames`` is how many numbers were given out, if the last ones were not taken.
        """
        if self._end is None:
            end = StreamEnd(
                self.start.stream,
                self.start.run,
                self.next_frame if frames is None else frames,
                reason,
            )
            # HDF5 marks the file as complete only when nobody in this process has it open.
            with self._repair.suspended():
                self._spool.close(end)
            self._live.send_multipart(wire.encode_end(end, self.start))
            self._end = end
        return self._end

    def wait_done(self, consumers: int = 1, timeout_s: float = 60.0) -> bool:
        """Wait until so many consumers have said that they have all they need."""
        return self._repair.wait_done(consumers, timeout_s)

    def close(self) -> None:
        """Stop serving. A recording without an end can be taken up again."""
        self._repair.close()
        self._spool.close()
        self._sockets.close()

    def __enter__(self) -> FramePublisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
