"""Receives every frame of one stream, in order, however slow, late or unlucky the receiver."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import zmq

from pipeline.bus import packed, wire
from pipeline.bus.errors import WireError
from pipeline.bus.sockets import SILENCE_S, Sockets
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints
from pipeline.messages import Frame, StreamEnd, StreamStart

_MAX_FRAME = 2**62
_STATES = ("ok", "not_taken", "not_yet", "bad")
_SAY_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class LostFrame:
    """A frame that never was: its number was given out, and nothing was recorded under it."""

    stream: str
    frame: int
    reason: str


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that exists and cannot be used, not even out of the recording."""

    stream: str
    frame: int
    reason: str


Received = StreamStart | Frame | LostFrame | BadFrame | StreamEnd


@dataclass(slots=True)
class _Waiting:
    """A message that is there before its turn."""

    parts: list[bytes]
    repaired: bool


class FrameConsumer:
    """Delivers the start, each frame exactly once in order of its number, and the end.

    Live messages are taken while they are in step; whatever is missing, late or damaged is asked
    for again, out of the recording. May be made before the publisher exists, and outlives its
    restart. Use from one thread.

    Parameters
    ----------
    endpoints
        Where the stream is published.
    bus
        Keys, credit, patience.
    first_frame
        First number that is wanted.
    keep_compressed
        Whether compressed images are handed on as they are (`PackedImageFrame`).

    Attributes
    ----------
    counters
        ``live`` and ``repaired`` frames delivered; ``lost``, ``bad``; ``repeated`` and ``skipped``
        live messages (not needed; too early to keep); ``rejected_live`` and ``rejected_repair``
        messages that were not what the protocol says; ``asked_again``; ``reconnected`` sockets.
    last_rejection
        Why the last message was rejected, one line.
    """

    def __init__(
        self,
        endpoints: FrameEndpoints,
        bus: Bus | None = None,
        first_frame: int = 0,
        *,
        keep_compressed: bool = False,
    ) -> None:
        if first_frame < 0:
            raise ValueError(f"expected first_frame of 0 or more, got {first_frame}")
        self._bus = bus = bus or Bus()
        self._endpoints = endpoints
        self._keep_compressed = keep_compressed
        self.counters: Counter[str] = Counter()
        self.last_rejection = ""
        self._sockets = Sockets(bus)
        self._poller = zmq.Poller()
        self._live = self._connect_live()
        self._repair = self._connect_repair()
        self._live_heard = time.monotonic()
        self._unanswered_since: float | None = None

        self._start: StreamStart | None = None
        self._start_delivered = False
        self._end: StreamEnd | None = None
        self._finished = False
        self._next = first_frame
        self._newest = -1
        self._waiting: dict[int, _Waiting] = {}
        self._verdicts: dict[int, LostFrame | BadFrame] = {}
        self._asked: dict[tuple[str, int], float] = {}
        self._heard = time.monotonic()
        self._window = bus.live_high_water_mark + bus.repair_credit

    @property
    def start(self) -> StreamStart | None:
        """The stream's start, once it is known."""
        return self._start

    @property
    def next_frame(self) -> int:
        """Number of the next frame to be delivered."""
        return self._next

    @property
    def newest_frame(self) -> int:
        """Highest number that is known to exist, -1 if none."""
        return self._newest

    @property
    def finished(self) -> bool:
        """Whether the end has been delivered."""
        return self._finished

    def next(self, timeout_s: float) -> Received | None:
        """What comes next: start, frames (or their fate), end; None if nothing within the time.

        Never raises because of what came over the network.
        """
        deadline = time.monotonic() + timeout_s
        expired = False
        while True:
            received = self._deliver()
            if received is not None or self._finished or expired:
                return received
            self._ask_for_what_is_missing()
            left_s = deadline - time.monotonic()
            expired = left_s <= 0  # this look at the sockets is the last
            for socket, _ in self._poller.poll(_ms(min(max(left_s, 0), self._bus.idle_ask_s))):
                self._receive(socket)

    def done(self) -> bool:
        """Tell the publisher that nothing will be asked for again, not even after a crash.

        Returns
        -------
        bool
            Whether it has answered; if not within the time for repair, it is gone already.
        """
        request = {"ask": "done", "name": f"{id(self):x}-{time.time_ns():x}"}
        deadline = time.monotonic() + self._bus.repair_timeout_s
        while (now := time.monotonic()) < deadline:
            # Said again now and then: a connection that broke takes the word with it.
            self._send(request)
            say_again = min(deadline, now + _SAY_AGAIN_S)
            while self._repair.poll(_ms(max(say_again - time.monotonic(), 0))):
                # Answers to earlier questions come first, and a socket that is closed at one of
                # those drops what it has not sent yet.
                if self._answers_done():
                    return True
        return False

    def _answers_done(self) -> bool:
        try:
            header = packed.unpack(self._repair.recv_multipart(zmq.NOBLOCK)[0])
            return packed.field(header, "re", str) == "done"
        except (zmq.Again, WireError):
            return False

    def close(self) -> None:
        """Close the sockets."""
        self._sockets.close()

    def __enter__(self) -> FrameConsumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Connecting

    def _connect_live(self) -> zmq.Socket[bytes]:
        live = self._sockets.connect(
            zmq.SUB, self._endpoints.live, rcvhwm=self._bus.live_high_water_mark
        )
        live.subscribe(b"")
        self._poller.register(live, zmq.POLLIN)
        return live

    def _connect_repair(self) -> zmq.Socket[bytes]:
        # IMMEDIATE: do not pile up requests for a publisher that is not there.
        repair = self._sockets.connect(
            zmq.DEALER,
            self._endpoints.repair,
            immediate=1,
            sndhwm=1000,
            rcvhwm=self._bus.repair_credit + 8,
        )
        self._poller.register(repair, zmq.POLLIN)
        return repair

    def _reconnect_the_silent(self, now: float) -> None:
        since = self._unanswered_since
        if since is not None and now - since > SILENCE_S:
            self._disconnect(self._repair)
            self._repair = self._connect_repair()
            self._unanswered_since = None
            self.counters["reconnected"] += 1
        if now - self._live_heard > SILENCE_S:
            if self._next <= self._newest:  # there are frames, but they do not come live
                self._disconnect(self._live)
                self._live = self._connect_live()
                self.counters["reconnected"] += 1
            self._live_heard = now

    def _disconnect(self, socket: zmq.Socket[bytes]) -> None:
        self._poller.unregister(socket)
        self._sockets.drop(socket)

    # Delivering

    def _deliver(self) -> Received | None:
        if self._start is None or self._finished:
            return None
        if not self._start_delivered:
            self._start_delivered = True
            return self._start
        verdict = self._verdicts.pop(self._next, None)
        if verdict is not None:
            self.counters["lost" if isinstance(verdict, LostFrame) else "bad"] += 1
            self._advance()
            return verdict
        waiting = self._waiting.pop(self._next, None)
        if waiting is not None:
            return self._decode(waiting, self._start)
        if self._end is not None and self._next >= self._end.frames:
            self._finished = True
            return self._end
        return None

    def _decode(self, waiting: _Waiting, start: StreamStart) -> Received | None:
        try:
            frame = wire.decode_frame(waiting.parts, start, keep_compressed=self._keep_compressed)
        except WireError as error:
            if not waiting.repaired:  # the recording may well have it intact
                self._reject("rejected_live", error)
                return None
            self.counters["bad"] += 1
            bad = BadFrame(start.stream, self._next, str(error))
            self._advance()
            return bad
        self.counters["repaired" if waiting.repaired else "live"] += 1
        self._advance()
        return frame

    def _advance(self) -> None:
        self._asked.pop(("frame", self._next), None)
        self._next += 1

    # Asking

    def _ask_for_what_is_missing(self) -> None:
        now = time.monotonic()
        self._reconnect_the_silent(now)
        for key, deadline in list(self._asked.items()):
            if now >= deadline:
                del self._asked[key]
                self.counters["asked_again"] += 1
        if self._start is None:
            self._ask("start", -1, now)
            return
        if self._end is None and now - self._heard >= self._bus.idle_ask_s:
            self._ask("latest", -1, now)
        last = self._newest
        if self._end is not None:
            last = self._end.frames - 1
        for frame in range(self._next, min(last, self._next + self._window - 1) + 1):
            credit = self._bus.repair_credit - sum(ask == "frame" for ask, _ in self._asked)
            if credit <= 0:
                break
            if frame not in self._waiting and frame not in self._verdicts:
                self._ask("frame", frame, now)

    def _ask(self, ask: str, frame: int, now: float) -> None:
        if (ask, frame) in self._asked:
            return
        request: dict[str, Any] = {"ask": ask}
        if ask == "frame":
            request["frame"] = frame
        if self._send(request):
            # Sockets that connect lose what was sent while they did: ask for the start often.
            patience = self._bus.repair_timeout_s
            self._asked[ask, frame] = now + (min(patience, 0.5) if ask == "start" else patience)

    def _send(self, request: dict[str, Any]) -> bool:
        if self._unanswered_since is None:
            self._unanswered_since = time.monotonic()
        try:
            self._repair.send(packed.pack(request), zmq.NOBLOCK)
        except zmq.Again:  # nobody there yet
            return False
        return True

    # Receiving

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        try:
            parts = socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        live = socket is self._live
        try:
            if live:
                self._receive_live(parts)
            else:
                self._receive_answer(parts)
        except WireError as error:
            self._reject("rejected_live" if live else "rejected_repair", error)

    def _reject(self, counter: str, error: WireError) -> None:
        self.counters[counter] += 1
        self.last_rejection = str(error)

    def _receive_live(self, parts: list[bytes]) -> None:
        if self._start is None:  # nothing to judge it by; it will be had from repair
            self.counters["skipped"] += 1
            return
        kind, number = wire.peek(parts, self._start)
        self._heard = self._live_heard = time.monotonic()
        if kind == "end":  # anybody can say so; the recording knows
            self._ask("end", -1, self._heard)
            return
        if number >= _MAX_FRAME:
            raise WireError(f"expected a frame number below {_MAX_FRAME}, got {number}")
        self._newest = max(self._newest, number)
        if number < self._next or number in self._waiting:
            self.counters["repeated"] += 1
        elif number >= self._next + self._window:
            self.counters["skipped"] += 1
        else:
            self._waiting[number] = _Waiting(parts, repaired=False)

    def _receive_answer(self, parts: list[bytes]) -> None:
        header = packed.unpack(parts[0])
        ask, frame = packed.field(header, "re", str), packed.field(header, "frame", int)
        state, run = packed.field(header, "state", str), packed.field(header, "run", str)
        latest, frames = packed.field(header, "latest", int), header.get("frames")
        if state not in _STATES or type(frames) not in (int, type(None)):
            raise WireError(f"expected a state of {_STATES}, got {state[:40]!r}")
        if self._start is None:
            if ask == "start":
                self._start = wire.decode_start(parts[1:])
                self._asked.pop(("start", -1), None)
                self._unanswered_since = None
                self._newest = latest
            return
        if run != self._start.run:
            raise WireError(f"expected run {self._start.run!r}, got {run[:80]!r}")
        self._heard = time.monotonic()
        self._unanswered_since = None
        # Only the recording knows how far it goes: a live number may have been nonsense.
        self._newest = latest
        if type(frames) is int and self._end is None:
            self._ask("end", -1, self._heard)
        if (ask, frame) not in self._asked:
            self.counters["repeated"] += 1
            return
        if ask == "end" and state == "ok":
            self._end = wire.decode_end(parts[1:], self._start)
        elif ask == "frame":
            self._receive_repair(frame, state, parts[1:], header)
        # Only now: what was rejected is asked for again when its time is over, not at once.
        del self._asked[ask, frame]

    def _receive_repair(
        self, frame: int, state: str, message: list[bytes], header: dict[str, Any]
    ) -> None:
        assert self._start is not None
        if frame < self._next or frame in self._verdicts:
            return
        if state == "ok":
            kind, number = wire.peek(message, self._start)
            if (kind, number) != ("frame", frame):
                raise WireError(f"expected frame {frame}, got {kind} {number}")
            known = self._waiting.get(frame)
            if known is None or not known.repaired:
                self._waiting[frame] = _Waiting(message, repaired=True)
        elif state == "not_taken":
            self._verdicts[frame] = LostFrame(self._start.stream, frame, "was never taken")
        elif state == "bad":
            reason = packed.field(header, "reason", str)
            self._verdicts[frame] = BadFrame(self._start.stream, frame, reason)


def _ms(seconds: float) -> int:
    """Rounded up: rounded down, the last millisecond would be spent spinning."""
    return math.ceil(seconds * 1e3)
