"""The store's end of `pipeline.bus.link`."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import zmq

from pipeline.bus import codec, packed
from pipeline.bus.errors import LinkRefusedError, WireError
from pipeline.bus.sockets import Sockets
from pipeline.config.plumbing import Bus
from pipeline.messages import FrameResults, Result, RunDocument, RunStart, StreamEnd

MAX_RESULT_MESSAGE_BYTES = 1 << 27
"""The largest part is a pixel mask of an EIGER2 16M, 72 MB before compression."""
_MAX_SESSIONS = 256
"""Processes that send at once. The one that was silent longest is forgotten: it starts over."""
_POLL_MS = 200
_KINDS = ("open", "document", "results", "end")


class LinkHandler(Protocol):
    """What a store does with what comes; called in the receiver's thread, so do not linger.

    The same frame, opening, document or end may come again. Raise `LinkRefusedError` for what is
    not wanted; any other exception ends the receiver.
    """

    def on_document(self, document: RunDocument, /) -> None:
        """A run's start or stop document; durable when this returns."""

    def on_open(self, start: RunStart, nodes: tuple[type[Result], ...], /) -> int:
        """A stream and the classes of its results; returns the first frame that is wanted."""
        ...

    def on_results(self, results: FrameResults, /) -> None:
        """Results of a frame; tell `LinkReceiver.ack` when they are durable."""

    def on_end(self, end: StreamEnd, /) -> None:
        """No more results; tell `LinkReceiver.ack_end` when that is durable."""


@dataclass(slots=True)
class _Session:
    """One sender since it began to send."""

    peer: bytes
    expected: int = 0
    streams: set[tuple[str, str]] = field(default_factory=set)


class LinkReceiver:
    """Receives results of any number of senders in a thread of its own, until closed.

    Parameters
    ----------
    endpoint
        Where to bind.
    bus
        Keys.
    handler
        What is done with them. It may be called before the constructor returns.

    Attributes
    ----------
    counters
        ``results``, ``repeated``, ``gaps``, ``rejected`` messages, ``refused``.
    last_rejection
        Why the last message was rejected, one line.
    """

    def __init__(self, endpoint: str, bus: Bus | None, handler: LinkHandler) -> None:
        self.counters: Counter[str] = Counter()
        self.last_rejection = ""
        self._handler = handler
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._acked: dict[tuple[str, str], int] = {}
        self._ended: set[tuple[str, str]] = set()
        self._news: deque[tuple[str, str, str]] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._sockets = Sockets(bus or Bus())
        try:
            self._router = self._sockets.bind(
                zmq.ROUTER, endpoint, maxmsgsize=MAX_RESULT_MESSAGE_BYTES, rcvhwm=64
            )
            self._wake_near, self._wake_far = self._sockets.pair("wake")
        except BaseException:
            self._sockets.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"link {endpoint}", daemon=True)
        self._thread.start()

    def ack(self, run: str, stream: str, frame: int) -> None:
        """All results of the stream up to and with this frame are durable. From any thread."""
        with self._lock:
            if frame > self._acked.get((run, stream), -1):
                self._acked[run, stream] = frame
                self._tell("ack", run, stream)

    def ack_end(self, run: str, stream: str) -> None:
        """The stream's end, and all before it, is durable. From any thread."""
        with self._lock:
            self._ended.add((run, stream))
            self._tell("ended", run, stream)

    def check(self) -> None:
        """Raise what ended the receiver, if anything did: its process should end too."""
        if self._failure is not None:
            raise RuntimeError("the receiver of results has ended") from self._failure

    def close(self) -> None:
        """Stop receiving."""
        self._stop.set()
        with self._lock:
            self._wake()
        self._thread.join()
        self._sockets.close()

    def __enter__(self) -> LinkReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, kind: str, run: str, stream: str) -> None:
        self._news.append((kind, run, stream))
        self._wake()

    def _wake(self) -> None:
        with suppress(zmq.Again):  # full: it is awake
            self._wake_near.send(b"", zmq.NOBLOCK)

    # The thread

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake_far, zmq.POLLIN)
        try:
            while not self._stop.is_set():
                for socket, _ in poller.poll(_POLL_MS):
                    parts = socket.recv_multipart()
                    if socket is self._router:
                        self._receive(parts[0], parts[1:])
                while self._news:
                    kind, run, stream = self._news.popleft()
                    for name, session in self._sessions.items():
                        if (run, stream) in session.streams:
                            self._answer_durable(name, session, kind, (run, stream))
        except BaseException as error:
            self._failure = error
            raise

    def _answer(self, peer: bytes, session: str, re: str, **fields: Any) -> None:
        message = packed.pack({"re": re, "session": session, **fields})
        try:
            self._router.send_multipart([peer, message], zmq.NOBLOCK)
        except zmq.Again:
            self.counters["dropped_answers"] += 1  # it will ask

    def _answer_durable(
        self, name: str, session: _Session, kind: str, key: tuple[str, str]
    ) -> None:
        fields: dict[str, Any] = {"run": key[0], "stream": key[1]}
        if kind == "ack":
            fields["frame"] = self._acked[key]
        self._answer(session.peer, name, kind, **fields)

    def _receive(self, peer: bytes, parts: list[bytes]) -> None:
        try:
            if not parts:
                raise WireError("expected an envelope, got no part")
            envelope = packed.unpack(parts[0])
            kind = packed.field(envelope, "type", str)
            name = packed.field(envelope, "session", str)
            seq = packed.field(envelope, "seq", int)
            if not 1 <= len(name) <= 64:
                raise WireError(f"expected a session of 1 to 64 characters, got {len(name)}")
            if kind != "ping" and (kind not in _KINDS or len(parts) < 2):
                raise WireError(f"expected type {_KINDS} and a body, got {kind[:40]!r}")
        except WireError as error:
            self._reject(error)
            return
        session = self._sessions.get(name)
        if session is None:
            if seq != 0:
                self._answer(peer, name, "unknown")
                return
            session = self._sessions[name] = _Session(peer)
            if len(self._sessions) > _MAX_SESSIONS:
                self._sessions.popitem(last=False)
        session.peer = peer
        self._sessions.move_to_end(name)
        if kind == "ping":
            self._receive_ping(name, session, seq)
        elif seq == session.expected:
            session.expected += 1
            self._receive_body(name, session, kind, seq, parts[1:])
        elif seq > session.expected:
            self.counters["gaps"] += 1
            self._answer(peer, name, "gap")

    def _receive_ping(self, name: str, session: _Session, seq: int) -> None:
        if seq != session.expected:
            self.counters["gaps"] += 1
            self._answer(session.peer, name, "gap")
            return
        with self._lock:
            acked, ended = session.streams & self._acked.keys(), session.streams & self._ended
        for key in acked:
            self._answer_durable(name, session, "ack", key)
        for key in ended:
            self._answer_durable(name, session, "ended", key)
        self._answer(session.peer, name, "pong")

    def _receive_body(
        self, name: str, session: _Session, kind: str, seq: int, body: list[bytes]
    ) -> None:
        try:
            if kind == "open":
                start, nodes = codec.decode_open(body)
                first = self._handler.on_open(start, nodes)
                session.streams.add((start.run, start.stream.stream))
                self._answer(session.peer, name, "opened", seq=seq, first=first)
            elif kind == "document":
                self._handler.on_document(codec.decode_document(body))
                self._answer(session.peer, name, "handled", seq=seq)
            elif kind == "results":
                results = codec.decode_results(body)
                self._require_open(session, results.run, results.stream)
                self.counters["results"] += 1
                self._handler.on_results(results)
            else:
                end = codec.decode_end(body)
                self._require_open(session, end.run, end.stream)
                self._handler.on_end(end)
        except (WireError, LinkRefusedError) as error:
            if isinstance(error, WireError):
                self._reject(error)
            self.counters["refused"] += 1
            self._answer(session.peer, name, "refused", seq=seq, reason=str(error)[:1000])

    def _require_open(self, session: _Session, run: str, stream: str) -> None:
        if (run, stream) not in session.streams:
            raise WireError(f"expected an opened stream, got {run[:80]!r} {stream[:80]!r}")

    def _reject(self, error: WireError) -> None:
        self.counters["rejected"] += 1
        self.last_rejection = str(error)
