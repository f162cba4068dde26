"""Frames of one stream through a chain of stages to the store, each exactly once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from pipeline.bus.consumer import BadFrame, FrameConsumer, LostFrame
from pipeline.bus.link import LinkSender
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints
from pipeline.messages import RunStart, Stage, StreamEnd, StreamStart
from pipeline.runner.chain import StageChain

log = logging.getLogger(__name__)

POLL_S = 0.25
OPEN_TIMEOUT_S = 2.0


class Runner:
    """Hosts the stages of one stream in this process.

    The store tells which frame it wants first, so a runner that was killed goes on where the
    stored results end; frames that it missed come out of the recording.

    Parameters
    ----------
    endpoints
        Where the stream's frames are published.
    store
        Where results go.
    bus
        Settings of the sockets.
    stages
        In order. Compiled before the first frame (`warm_up`), if they can be.
    """

    def __init__(
        self, endpoints: FrameEndpoints, store: str, bus: Bus, stages: Sequence[Stage]
    ) -> None:
        self._endpoints = endpoints
        self._store = store
        self._bus = bus
        self._chain = StageChain(stages)

    def run(self, stop: threading.Event) -> int:
        """Until the stream's end is stored, or ``stop`` is set; 0 in both cases."""
        self._chain.warm_up()
        start = self._first_message(stop)
        if start is None:
            return 0
        run_start = RunStart(run=start.run, stream=start, metadata=start.metadata)
        self._chain.reset(run_start)
        with LinkSender(self._store, self._bus) as sender:
            wanted = self._open(sender, run_start, stop)
            if wanted is None:
                return 0
            first = self._chain.first_needed(wanted)
            log.info("%s: from frame %d (wanted: %d)", start.stream, first, wanted)
            with FrameConsumer(
                self._endpoints,
                self._bus,
                first_frame=first,
                keep_compressed=self._chain.reads_packed,
            ) as consumer:
                end = self._pump(consumer, sender, wanted, stop)
                if end is not None:
                    sender.end(end)
                    while not sender.flush(POLL_S):
                        if stop.is_set():
                            return 0
                    consumer.done()
                    log.info("%s: all %d frames are stored", end.stream, end.frames)
        return 0

    def _first_message(self, stop: threading.Event) -> StreamStart | None:
        """The stream's start: what the stages must know before they can say what they store."""
        told = ""
        with FrameConsumer(self._endpoints, self._bus) as consumer:
            while not stop.is_set():
                message = consumer.next(POLL_S)
                if isinstance(message, StreamStart):
                    return message
                if consumer.last_rejection not in ("", told):
                    told = consumer.last_rejection
                    log.warning("the stream's start cannot be used: %s", told)
        return None

    def _open(self, sender: LinkSender, start: RunStart, stop: threading.Event) -> int | None:
        """The first frame that the store wants; waits for a store that is still starting."""
        while not stop.is_set():
            try:
                return sender.open(start, self._chain.produces, timeout_s=OPEN_TIMEOUT_S)
            except TimeoutError:
                log.debug("%s: the store does not answer yet", start.stream.stream)
        return None

    def _pump(
        self, consumer: FrameConsumer, sender: LinkSender, wanted: int, stop: threading.Event
    ) -> StreamEnd | None:
        while not stop.is_set():
            message = consumer.next(POLL_S)
            match message:
                case None | StreamStart():
                    continue
                case StreamEnd():
                    return message
                case LostFrame() | BadFrame():
                    kind = "lost" if isinstance(message, LostFrame) else "unreadable"
                    reason = f"{kind}: {message.reason}"
                    results = self._chain.missing(message.frame, reason, consumer.newest_frame)
                case _:
                    results = self._chain.process(message, consumer.newest_frame)
            if results.frame < wanted:
                continue  # stored before; only what the stages remember of it was missing
            if results.rejected is not None:
                log.warning("%s frame %d: %s", results.stream, results.frame, results.rejected)
            while not sender.send(results, timeout_s=POLL_S):
                if stop.is_set():
                    return None
        return None
