"""The stages' end of `pipeline.bus.link`."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import zmq

from pipeline.bus import codec, packed
from pipeline.bus.errors import LinkRefusedError, WireError
from pipeline.bus.sockets import MAX_REQUEST_BYTES, Sockets
from pipeline.config.plumbing import Bus
from pipeline.messages import FrameResults, Result, RunDocument, RunStart, StreamEnd

_PING_S = 1.0
"""After this long without a word while something is under way, ask. A restarted receiver is
noticed that soon."""
_SILENCE_S = 15.0
"""After this long without an answer, connect anew (`pipeline.bus.sockets.SILENCE_S` says why).
Longer than for frames: a store that makes a run's nodes on a busy machine is silent for seconds."""
_POLL_MS = 200
"""Longest sleep of the thread; it is woken for everything but timers."""
_RETRY_MS = 20
"""How soon to try again when nobody is connected or the socket is full."""


@dataclass(eq=False, slots=True)
class _Entry:
    """A message that is kept until it is durable."""

    kind: str  # open, document, results or end
    run: str
    stream: str
    parts: list[bytes]
    frame: int = -1
    first: int | None = None  # of an opening: the answer
    refusal: str | None = None
    seq: int = -1
    sends: int = 0


class LinkSender:
    """Sends documents, results and ends of one process; safe to use from several threads.

    Sockets live in a thread of their own, so a caller that computes for seconds does not hold up
    delivery.

    Parameters
    ----------
    endpoint
        Of the receiver, which need not be there yet.
    bus
        Keys and window.
    window
        Results that may be under way; that of ``bus`` if absent.

    Attributes
    ----------
    counters
        ``sent``, ``resent``, ``durable`` results; ``sessions``; ``rejected`` answers.
    """

    def __init__(self, endpoint: str, bus: Bus | None = None, window: int | None = None) -> None:
        bus = bus or Bus()
        self.endpoint = endpoint
        self.counters: Counter[str] = Counter()
        self._window = bus.link_window if window is None else window
        if self._window < 1:
            raise ValueError(f"expected a window of 1 or more, got {self._window}")
        self._changed = threading.Condition()
        self._entries: list[_Entry] = []
        self._unsent = 0  # index of the first entry that is not sent in this session
        self._session = uuid.uuid4().hex
        self._seq = 0
        self._heard = self._pinged = time.monotonic()
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._sockets = Sockets(bus)
        self._socket = self._connect()
        self._wake_near, self._wake_far = self._sockets.pair("wake")
        self._thread = threading.Thread(target=self._run, name=f"link {endpoint}", daemon=True)
        self._thread.start()

    # For callers

    def open(
        self, start: RunStart, kinds: Iterable[type[Result]], timeout_s: float | None = None
    ) -> int:
        """Announce the results of a stream.

        Parameters
        ----------
        start
            Run and stream.
        kinds
            Classes of the results that will come; those without a node are left out.
        timeout_s
            How long to wait for the receiver; None = as long as it takes.

        Returns
        -------
        int
            The first frame that the receiver wants results of.

        Raises
        ------
        LinkRefusedError
            If the receiver does not want the stream.
        TimeoutError
            If it does not answer in time; the announcement is withdrawn.
        """
        entry = _Entry(
            "open", start.run, start.stream.stream, codec.encode_open(start, tuple(kinds))
        )
        self._put(entry)
        with self._changed:
            answered = self._wait(
                lambda: entry.first is not None or entry.refusal is not None, timeout_s
            )
            if entry.refusal is not None:
                raise LinkRefusedError(entry.refusal)
            if not answered:
                self._remove([entry])
                raise TimeoutError(
                    f"{self.endpoint}: expected an answer to the opening of {start.run} "
                    f"{start.stream.stream} within {timeout_s} s, got none: is the store running?"
                )
            assert entry.first is not None
            return entry.first

    def send(self, results: FrameResults, timeout_s: float | None = None) -> bool:
        """Hand over the results of a frame of an opened stream.

        Waits while the window is full, at most ``timeout_s`` (None = as long as it takes).
        Returns False if it was not taken: try again.
        """
        entry = _Entry(
            "results", results.run, results.stream, codec.encode_results(results), results.frame
        )
        with self._changed:
            if not self._wait(lambda: self.pending < self._window, timeout_s):
                return False
            self._append(entry)
        return True

    def document(self, document: RunDocument) -> None:
        """Hand over a run's start or stop document."""
        self._put(_Entry("document", document.run, "", codec.encode_document(document)))

    def end(self, end: StreamEnd) -> None:
        """Hand over the end of an opened stream."""
        self._put(_Entry("end", end.run, end.stream, codec.encode_end(end), end.frames))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was handed over is durable; False if the time is over first."""
        with self._changed:
            return self._wait(lambda: not any(map(_is_under_way, self._entries)), timeout_s)

    @property
    def pending(self) -> int:
        """Results that are not durable yet."""
        return sum(entry.kind == "results" for entry in self._entries)

    def close(self) -> None:
        """Stop, without waiting: `flush` before."""
        self._stop.set()
        self._wake()
        self._thread.join()
        self._sockets.close()

    def __enter__(self) -> LinkSender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, entry: _Entry) -> None:
        with self._changed:
            self._check()
            self._append(entry)

    def _append(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._wake()

    def _wait(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait with `_changed` held; what ended the thread ends the wait."""
        self._changed.wait_for(lambda: self._failure is not None or condition(), timeout_s)
        self._check()
        return condition()

    def _check(self) -> None:
        if isinstance(self._failure, LinkRefusedError):
            raise self._failure
        if self._failure is not None:
            raise RuntimeError(f"the link to {self.endpoint} has ended") from self._failure

    def _wake(self) -> None:
        # A socket may be used by one thread at a time; full: the other end is awake.
        with self._changed, suppress(zmq.Again):
            self._wake_near.send(b"", zmq.NOBLOCK)

    # The thread

    def _connect(self) -> zmq.Socket[bytes]:
        # IMMEDIATE: what has not gone out to a living receiver stays here, where it is counted.
        return self._sockets.connect(
            zmq.DEALER, self.endpoint, immediate=1, sndhwm=64, maxmsgsize=MAX_REQUEST_BYTES
        )

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_far, zmq.POLLIN)
        try:
            while not self._stop.is_set():
                all_out = self._send_entries()
                if self._ping():
                    poller.unregister(self._socket)
                    self._sockets.drop(self._socket)
                    self._socket = self._connect()
                    poller.register(self._socket, zmq.POLLIN)
                    # Answers went to the old connection: whatever was under way is sent again.
                    with self._changed:
                        self._begin_session()
                for socket, _ in poller.poll(_POLL_MS if all_out else _RETRY_MS):
                    parts = socket.recv_multipart()
                    if socket is self._socket:
                        self._receive(parts)
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise

    def _send_entries(self) -> bool:
        """Send what may be sent; False if the socket does not take it now."""
        with self._changed:
            while self._unsent < len(self._entries):
                entry = self._entries[self._unsent]
                entry.seq = self._seq
                if not self._send({"type": entry.kind, "seq": entry.seq}, entry.parts):
                    return False
                self._seq += 1
                self._unsent += 1
                if entry.kind == "results":
                    self.counters["resent" if entry.sends else "sent"] += 1
                entry.sends += 1
            return True

    def _send(self, envelope: dict[str, Any], parts: Iterable[bytes] = ()) -> bool:
        message = [packed.pack({"session": self._session, **envelope}), *parts]
        try:
            self._socket.send_multipart(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _ping(self) -> bool:
        """Ask for a sign of life if one is due; True if it is time to connect anew."""
        now = time.monotonic()
        with self._changed:
            if not any(map(_is_under_way, self._entries)):
                self._heard = now  # nothing to hear
                return False
            if now - max(self._heard, self._pinged) >= _PING_S:
                self._pinged = now
                self._send({"type": "ping", "seq": self._seq})
            if now - self._heard < _SILENCE_S:
                return False
            self._heard = now
            return True

    def _receive(self, parts: list[bytes]) -> None:
        try:
            answer = packed.unpack(parts[0])
            kind = packed.field(answer, "re", str)
            if packed.field(answer, "session", str) != self._session:
                return  # of a session that was given up
            with self._changed:
                self._heard = time.monotonic()
                self._take(kind, answer)
                self._changed.notify_all()
        except WireError:
            self.counters["rejected"] += 1

    def _take(self, kind: str, answer: dict[str, Any]) -> None:
        if kind in ("gap", "unknown"):
            self._begin_session()
        elif kind in ("opened", "handled", "refused"):
            seq = packed.field(answer, "seq", int)
            entry = next((entry for entry in self._entries if entry.seq == seq), None)
            if entry is not None:
                self._answered(entry, kind, answer)
        elif kind == "ack":
            run, stream = packed.field(answer, "run", str), packed.field(answer, "stream", str)
            self._durable(run, stream, packed.field(answer, "frame", int))
        elif kind == "ended":
            key = packed.field(answer, "run", str), packed.field(answer, "stream", str)
            if any(e.kind == "end" and (e.run, e.stream) == key for e in self._entries):
                self._remove([e for e in self._entries if (e.run, e.stream) == key])
        elif kind != "pong":
            raise WireError(f"expected a known answer, got {kind[:40]!r}")

    def _answered(self, entry: _Entry, kind: str, answer: dict[str, Any]) -> None:
        if kind == "refused":
            entry.refusal = packed.field(answer, "reason", str)
            self._remove([entry])
            if entry.kind != "open" or entry.first is not None:
                # Nobody waits for this answer: the next call tells.
                self._failure = LinkRefusedError(f"{self.endpoint}: {entry.refusal}")
        elif kind == "handled":
            if entry.kind == "document":
                self._remove([entry])
        elif entry.kind == "open":
            entry.first = first = packed.field(answer, "first", int)
            self._durable(entry.run, entry.stream, first - 1)

    def _durable(self, run: str, stream: str, frame: int) -> None:
        entries = [
            entry
            for entry in self._entries
            if entry.kind == "results"
            and (entry.run, entry.stream) == (run, stream)
            and entry.frame <= frame
        ]
        self.counters["durable"] += len(entries)
        self._remove(entries)

    def _remove(self, gone: list[_Entry]) -> None:
        gone_ids = set(map(id, gone))
        if not gone_ids:
            return
        sent = self._entries[: self._unsent]
        self._unsent -= sum(id(entry) in gone_ids for entry in sent)
        self._entries = [entry for entry in self._entries if id(entry) not in gone_ids]

    def _begin_session(self) -> None:
        """Start over with all that is kept: nothing of it is known to be durable."""
        self._session = uuid.uuid4().hex
        self._seq = self._unsent = 0
        for entry in self._entries:
            entry.seq = -1
        self.counters["sessions"] += 1


def _is_under_way(entry: _Entry) -> bool:
    """Openings stay for as long as their stream, so that they can be told to a new receiver."""
    return entry.kind != "open" or entry.first is None
