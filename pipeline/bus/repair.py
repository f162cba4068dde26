"""Frames again, out of the recording: what a consumer asks and what it is told.

A request is one msgpack map, ``{"ask": ..., "frame": n}``. An answer is a msgpack map and, if it
has one, the message asked for, in the form in which it was published:

| ask | answer's state | followed by |
|---|---|---|
| start | ok | start message |
| frame | ok, not_taken (the number was skipped), not_yet, bad (cannot be read) | frame, if ok |
| end | ok, not_yet | end message, if ok |
| latest | ok | |
| done | ok | |

Every answer says ``run``, ``latest`` (number of the last frame, -1 if none) and ``frames`` (how
many there are in all, nil while that is open).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from pipeline.bus import packed, wire
from pipeline.bus.errors import SpoolError, WireError
from pipeline.bus.sockets import MAX_REQUEST_BYTES, Sockets
from pipeline.bus.spool_reader import SpoolReader
from pipeline.config.plumbing import Bus

_ASKS = ("start", "frame", "end", "latest", "done")
_POLL_MS = 200
"""How soon the thread notices that it is to stop."""
_MAX_NAMES = 1000
"""Names of consumers that are remembered as done; more can only be a stranger's."""


class RepairServer:
    """Answers requests for frames in a thread of its own, until closed.

    Parameters
    ----------
    path
        A recording, finished or growing.
    endpoint
        Where to bind.
    bus
        Keys and credit.

    Attributes
    ----------
    counters
        ``requests``, ``repaired`` frames, ``bad_requests``.
    """

    def __init__(self, path: Path | str, endpoint: str, bus: Bus | None = None) -> None:
        bus = bus or Bus()
        self.path = Path(path)
        self.counters: Counter[str] = Counter()
        self._reader: SpoolReader | None = SpoolReader(self.path)
        self._reading = threading.Lock()
        self._done: set[str] = set()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._sockets = Sockets(bus)
        try:
            # What a client has not taken beyond its credit (and a few short answers) is dropped,
            # so one that asks and never reads costs a bounded amount of memory.
            self._router = self._sockets.bind(
                zmq.ROUTER,
                endpoint,
                sndhwm=bus.repair_credit + 8,
                rcvhwm=1000,
                maxmsgsize=MAX_REQUEST_BYTES,
            )
        except BaseException:
            self._reader.close()
            self._sockets.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"repair {endpoint}", daemon=True)
        self._thread.start()

    def wait_done(self, consumers: int, timeout_s: float) -> bool:
        """Wait until so many consumers (by name) have said that they need no frame any more."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._done) >= consumers, timeout_s)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let go of the file for a moment; requests wait."""
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            yield

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise RuntimeError(f"repair of {self.path} has ended") from self._failure

    def close(self) -> None:
        """Stop answering."""
        self._stop.set()
        self._thread.join()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._sockets.close()

    def __enter__(self) -> RepairServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._router.poll(_POLL_MS):
                    sender, *request = self._router.recv_multipart()
                    self._answer(sender, request)
        except BaseException as error:
            self._failure = error
            raise

    def _answer(self, sender: bytes, request: list[bytes]) -> None:
        self.counters["requests"] += 1
        try:
            ask, frame, name = _parse(request)
        except WireError:
            self.counters["bad_requests"] += 1
            return
        if ask == "done":
            with self._changed:
                if len(self._done) < _MAX_NAMES:
                    self._done.add(name)
                self._changed.notify_all()
        with self._reading:
            if self._reader is None:
                self._reader = SpoolReader(self.path)
            reply = self._reply(self._reader, ask, frame)
        try:
            # The answer is dropped, never waited for, if this client does not read.
            self._router.send_multipart([sender, *reply], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self.counters["dropped_replies"] += 1

    def _reply(self, reader: SpoolReader, ask: str, frame: int) -> list[bytes]:
        if reader.end is None and (frame < 0 or frame not in reader):
            reader.refresh()
        state, reason, message = "ok", "", []
        if ask == "start":
            message = wire.encode_start(reader.start)
        elif ask == "end":
            if reader.end is None:
                state = "not_yet"
            else:
                message = wire.encode_end(reader.end, reader.start)
        elif ask == "frame":
            state, reason, message = self._frame(reader, frame)
        header: dict[str, Any] = {
            "re": ask,
            "frame": frame,
            "state": state,
            "reason": reason,
            "run": reader.start.run,
            "latest": reader.last_frame,
            "frames": None if reader.end is None else reader.end.frames,
        }
        return [packed.pack(header), *message]

    def _frame(self, reader: SpoolReader, frame: int) -> tuple[str, str, list[bytes]]:
        if frame not in reader:
            known = reader.end.frames if reader.end is not None else reader.last_frame + 1
            return ("not_taken" if frame < known else "not_yet"), "", []
        try:
            facts, payloads = reader.facts(frame), reader.read_payloads(frame)
            message = wire.encode_stored(facts, payloads, reader.start)
        except (SpoolError, WireError) as error:
            return "bad", str(error), []
        self.counters["repaired"] += 1
        return "ok", "", message


def _parse(request: list[bytes]) -> tuple[str, int, str]:
    """What is asked, of which frame, by whom."""
    if len(request) != 1:
        raise WireError(f"expected a request of one part, got {len(request)}")
    header = packed.unpack(request[0])
    ask = packed.field(header, "ask", str)
    if ask not in _ASKS:
        raise WireError(f"expected ask one of {_ASKS}, got {ask[:40]!r}")
    frame = packed.field(header, "frame", int) if ask == "frame" else -1
    if ask == "frame" and not 0 <= frame < 2**63:
        raise WireError(f"expected a frame number of 0 or more, got {frame}")
    name = packed.field(header, "name", str) if ask == "done" else ""
    return ask, frame, name[:200]
