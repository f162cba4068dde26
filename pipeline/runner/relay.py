"""The later stages of a stream in a process of their own: results in, more results out."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence

from pipeline.bus.errors import LinkRefusedError
from pipeline.bus.link import LinkReceiver, LinkSender
from pipeline.config.plumbing import Bus
from pipeline.messages import FrameResults, Result, RunDocument, RunStart, Stage, StreamEnd
from pipeline.runner.chain import StageChain

log = logging.getLogger(__name__)

POLL_S = 0.1
OPEN_TIMEOUT_S = 2.0
LINGER_S = 10.0
"""After the end: an upstream that missed the word of it asks within a second (`LinkSender`), ten
such questions may get lost."""


class Relay:
    """Hosts the stages that follow the first process of a stream.

    Nothing is kept here that is not kept elsewhere: the upstream holds each result until the
    store has made durable what came of it, so this process may be killed at any time. Whoever
    opens a stream here is told the frame that the store itself wants first.

    Parameters
    ----------
    endpoint
        Where the upstream's results are taken (bound here).
    store
        Where results go, the upstream's and those of the stages here.
    bus
        Settings of the sockets.
    stages
        In order; they consume results, not frames.
    linger_s
        How long an upstream may still ask whether the end is stored.
    """

    def __init__(
        self,
        endpoint: str,
        store: str,
        bus: Bus,
        stages: Sequence[Stage],
        linger_s: float = LINGER_S,
    ) -> None:
        self._endpoint = endpoint
        self._store = store
        self._bus = bus
        self._chain = StageChain(stages)
        self._linger_s = linger_s

    def run(self, stop: threading.Event) -> int:
        """Until the stream's end is stored, or ``stop`` is set; 0 in both cases.

        Raises
        ------
        LinkRefusedError
            If the store refuses what is sent to it.
        RuntimeError
            If a link has ended.
        """
        self._chain.warm_up()
        with LinkSender(self._store, self._bus) as sender:
            intake = _Intake(sender, self._chain, stop)
            with LinkReceiver(self._endpoint, self._bus, intake) as receiver:
                end = self._pump(intake, sender, receiver, stop)
                if end is not None:
                    self._finish(end, intake, sender, receiver, stop)
        return 0

    def _pump(
        self, intake: _Intake, sender: LinkSender, receiver: LinkReceiver, stop: threading.Event
    ) -> StreamEnd | None:
        while not stop.is_set():
            receiver.check()
            intake.acknowledge(receiver)
            try:
                message = intake.queue.get(timeout=POLL_S)
            except queue.Empty:
                continue
            match message:
                case StreamEnd():
                    return message
                case RunStart():
                    self._chain.reset(message)
                    continue
            results = self._chain.resume(message)
            if results.frame < intake.wanted:
                intake.already_stored(results.frame)
                continue
            if results.rejected is not None and message.rejected is None:
                log.warning("%s frame %d: %s", results.stream, results.frame, results.rejected)
            while not sender.send(results, timeout_s=POLL_S):
                intake.acknowledge(receiver)
                if stop.is_set():
                    return None
            intake.handed_over(results.frame)
        return None

    def _finish(
        self,
        end: StreamEnd,
        intake: _Intake,
        sender: LinkSender,
        receiver: LinkReceiver,
        stop: threading.Event,
    ) -> None:
        sender.end(end)
        while not sender.flush(POLL_S):
            intake.acknowledge(receiver)
            if stop.is_set():
                return
        intake.acknowledge(receiver, all_done=True)
        receiver.ack_end(end.run, end.stream)
        log.info("%s: all %d frames are stored", end.stream, end.frames)
        leave = time.monotonic() + self._linger_s
        while not stop.wait(min(POLL_S, self._linger_s)) and time.monotonic() < leave:
            receiver.check()


class _Intake:
    """What the receiving link does with what comes: each frame once, in order, to the queue.

    The link calls it in a thread of its own; stages run in another, so that a fit that takes its
    time does not keep an upstream from hearing that somebody is there. The queue cannot outgrow
    the upstream's window, for nothing is acknowledged before the store has it.
    """

    def __init__(self, sender: LinkSender, chain: StageChain, stop: threading.Event) -> None:
        self.queue: queue.SimpleQueue[RunStart | FrameResults | StreamEnd] = queue.SimpleQueue()
        self._sender = sender
        self._chain = chain
        self._stop = stop
        self._opened: tuple[RunStart, tuple[type[Result], ...]] | None = None
        self.wanted = 0
        """First frame that the store has not."""
        self._expected = 0
        self._durable = -1
        self._ended = False
        self._under_way: deque[int] = deque()

    # The link's thread calls these four.

    def on_document(self, document: RunDocument) -> None:
        """Documents of a run go to the store directly."""
        raise LinkRefusedError(
            f"run {document.run}: its {document.name} document goes to the store, not here"
        )

    def on_open(self, start: RunStart, nodes: tuple[type[Result], ...]) -> int:
        """Open the same stream at the store; the first frame that is needed to go on there."""
        if self._opened is not None:
            self._require_same(start, nodes)
            return self._durable + 1
        kinds = tuple(dict.fromkeys([*nodes, *self._chain.produces]))
        while not self._stop.is_set():
            try:
                first = self._sender.open(start, kinds, timeout_s=OPEN_TIMEOUT_S)
            except TimeoutError:
                log.debug("%s: the store does not answer yet", start.stream.stream)
                continue
            self.queue.put(start)
            needed = self._chain.first_needed(first)
            self.wanted, self._expected, self._durable = first, needed, needed - 1
            self._opened = (start, nodes)
            log.info("%s: from frame %d (wanted: %d)", start.stream.stream, needed, first)
            return needed
        return 0  # this process ends; its successor tells, and a frame too many does no harm

    def _require_same(self, start: RunStart, nodes: tuple[type[Result], ...]) -> None:
        assert self._opened is not None
        opened, known = self._opened
        ours = (opened.run, opened.stream.stream, known)
        if (start.run, start.stream.stream, nodes) != ours:
            raise LinkRefusedError(
                f"expected results of run {opened.run}, stream {opened.stream.stream} "
                f"({', '.join(kind.__name__ for kind in known)}), got run {start.run}, stream "
                f"{start.stream.stream} ({', '.join(kind.__name__ for kind in nodes)}): "
                "one process of later stages serves one stream of one run"
            )

    def on_results(self, results: FrameResults) -> None:
        """Queue a frame that was not seen yet."""
        if results.frame < self._expected:
            return
        if results.frame > self._expected:
            # It would wait in the store for a frame that nobody has.
            raise LinkRefusedError(
                f"{results.stream}: expected frame {self._expected}, got {results.frame}"
            )
        self._expected += 1
        self.queue.put(results)

    def on_end(self, end: StreamEnd) -> None:
        """Queue the end, once."""
        if not self._ended:
            self._ended = True
            self.queue.put(end)

    # The stages' thread calls these three.

    def already_stored(self, frame: int) -> None:
        """Note a frame that was only needed for what the stages remember of it."""
        self._durable = frame

    def handed_over(self, frame: int) -> None:
        """Note a frame that the sender to the store has taken."""
        self._under_way.append(frame)

    def acknowledge(self, receiver: LinkReceiver, all_done: bool = False) -> None:
        """Tell the upstream what it need not keep.

        Frames go to the store in order and become durable in order, so those that are not
        pending any more are the oldest. Durable frames that the stages would have to see again
        after a restart are kept, unless there is nothing left to do.
        """
        if self._opened is None:
            return
        pending = self._sender.pending
        while len(self._under_way) > pending:
            self._durable = self._under_way.popleft()
        start = self._opened[0]
        kept = self._durable + 1 if all_done else self._chain.first_needed(self._durable + 1)
        receiver.ack(start.run, start.stream.stream, kept - 1)
