"""What arrives over the link becomes runs in Tiled; what is durable is acknowledged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import adbc_driver_manager
import httpx
from sqlalchemy.exc import SQLAlchemyError

from pipeline.bus.errors import LinkRefusedError
from pipeline.messages import FrameResults, Result, RunDocument, RunStart, StreamEnd
from pipeline.store.datapath import DataPath
from pipeline.store.health import HealthWriter
from pipeline.store.layout import LayoutError
from pipeline.store.writer import RunContainer, StreamWriter

log = logging.getLogger(__name__)

# Tiled is away, its disk is full or its database locked: what waits is tried again.
STORAGE_ERRORS = (
    httpx.HTTPError,
    OSError,
    TimeoutError,
    SQLAlchemyError,
    adbc_driver_manager.Error,
)
RETRY_PAUSE_S = 1.0


class Acknowledge(Protocol):
    """The receiving end of the link, as far as it is needed here."""

    def ack(self, run: str, stream: str, frame: int) -> None: ...

    def ack_end(self, run: str, stream: str) -> None: ...


class RunState:
    """One run that is being written."""

    def __init__(self, container: RunContainer) -> None:
        self.container = container
        self.streams: dict[str, StreamWriter] = {}
        self.health = HealthWriter(container)
        facts = container.metadata
        self.expected: set[str] = set(facts.get("start", {}).get("streams", ()))
        self.stopped = "stop" in facts
        self.complete = facts.get("complete", False)
        self.derived: set[str] = set()
        """Streams made of others' tables: a run is complete without them, for they wait for it."""
        self.ended: dict[str, int] = dict(facts.get("ended", {}))
        """Frames of each stream that has ended, as it is written down."""

    def write_ended(self) -> None:
        """Say in the run's metadata which streams are whole, with how many frames each."""
        ended = self.ended | {n: s.durable for n, s in self.streams.items() if s.ended}
        if ended != self.ended:
            self.container.update({"ended": ended})
            self.ended = ended

    @property
    def finished(self) -> bool:
        """The run has stopped, and all its streams have ended and are durable."""
        expected = self.expected or self.streams.keys() - self.derived
        # As it is written down: a stream that ended before a restart is not opened again.
        return self.stopped and bool(expected) and expected <= self.ended.keys()


class StoreService:
    """Handler of the link: opens runs and streams, takes results, flushes them on a thread.

    Parameters
    ----------
    root
        Client of the Tiled server's root container.
    data
        How numbers get into it.
    batch_period_s
        Time between batches.
    """

    def __init__(self, root: Any, data: DataPath, batch_period_s: float) -> None:
        self._root = root
        self._data = data
        self._period_s = batch_period_s
        self._runs: dict[str, RunState] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._link: Acknowledge | None = None
        self.failure: BaseException | None = None

    # The link's thread calls these four.

    def on_document(self, document: RunDocument) -> None:
        """Write a run's start or stop document into its metadata."""
        state = self._open_run(document.run)
        if document.name == "start":
            state.container.create({"start": dict(document.document)})
            state.expected = set(document.document.get("streams", ()))
            return
        if not state.container.exists:
            raise LinkRefusedError(f"run {document.run}: a stop document without a start")
        state.container.update({"stop": dict(document.document)})
        state.stopped = True

    def on_open(self, start: RunStart, results: Sequence[type[Result]]) -> int:
        """Prepare a stream's nodes; the first frame whose results are not stored yet."""
        state = self._open_run(start.run)
        if not state.container.exists:
            # Documents and results come over different connections: the start may be late.
            state.container.create({})
        stream = start.stream.stream
        if "derived_from" in start.stream.metadata:
            state.derived.add(stream)
        if stream not in state.streams:
            try:
                state.streams[stream] = StreamWriter(state.container, stream, results)
            except LayoutError as error:
                raise LinkRefusedError(str(error)) from None
        return state.streams[stream].durable

    def on_results(self, message: FrameResults) -> None:
        """Publish a frame's results and keep them for the next batch."""
        state = self._runs[message.run]
        state.health.seen(message)
        try:
            state.streams[message.stream].accept(message)
        except LayoutError as error:
            raise LinkRefusedError(str(error)) from None

    def on_end(self, end: StreamEnd) -> None:
        """Remember how many frames a stream has."""
        self._runs[end.run].streams[end.stream].end(end)

    # The flushing thread.

    def start(self, link: Acknowledge) -> None:
        """Begin to flush and to acknowledge."""
        self._link = link
        threading.Thread(target=self._flush_forever, name="flush", daemon=True).start()

    def stop(self) -> None:
        """Flush what is complete and end the thread."""
        self._stop.set()

    def _open_run(self, run: str) -> RunState:
        with self._lock:
            if run not in self._runs:
                self._runs[run] = RunState(RunContainer(self._root, self._data, run))
            return self._runs[run]

    def _flush_forever(self) -> None:
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                pause = self._period_s if self._flush_all() else RETRY_PAUSE_S
                self._stop.wait(max(0.0, began + pause - time.monotonic()))
        except BaseException as error:
            self.failure = error
            raise

    def _flush_all(self) -> bool:
        """Write all that is pending; False if storage failed and must be tried again."""
        done = True
        for run, state in list(self._runs.items()):
            try:
                for name, stream in list(state.streams.items()):
                    self._flush(run, name, stream)
                state.health.write(state.streams)
                state.write_ended()
                if state.finished and not state.complete:
                    self._complete(run, state)
            except STORAGE_ERRORS as error:
                # Other runs do not wait for this one.
                kind = type(error).__name__
                log.warning("run %s: results wait, storing them failed: %s: %s", run, kind, error)
                done = False
        return done

    def _flush(self, run: str, name: str, stream: StreamWriter) -> None:
        assert self._link is not None
        was_ended = stream.ended
        if stream.flush():
            self._link.ack(run, name, stream.durable - 1)
        if stream.ended and not was_ended:
            self._link.ack_end(run, name)

    def _complete(self, run: str, state: RunState) -> None:
        state.health.write(state.streams, force=True)
        state.container.update({"complete": True})
        state.complete = True
        log.info("run %s is complete", run)
