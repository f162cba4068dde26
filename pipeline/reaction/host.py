"""Rows out of Tiled through what is made of them to the store, each frame exactly once."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.access import RowsFollower, TiledAddress, TiledHttp, UnreachableError
from pipeline.bus.link import LinkSender
from pipeline.messages import FrameResults, RunStart, StreamEnd, StreamStart
from pipeline.reaction.interface import Outcome, RowStream

log = logging.getLogger(__name__)

POLL_S = 0.25
OPEN_TIMEOUT_S = 2.0
# The ends of a run's tables are looked for this often.
END_PERIOD_S = 1.0
FRAMES_OF = {"assembly": "saxs"}
"""By container: the stream whose frames its tables' rows are, where that has another name."""


class ReactionHost:
    """Feeds streams with a run's stored rows and sends what they give to the store.

    Nothing is kept here that is not stored elsewhere: after a kill all rows are read again from
    frame 0, and what the store has is not sent again.

    Parameters
    ----------
    address
        The Tiled server to read from.
    sender
        To the store.
    run
        Key of the run.
    streams
        What is made.
    """

    def __init__(
        self,
        address: TiledAddress,
        sender: LinkSender,
        run: str,
        streams: Sequence[RowStream],
    ) -> None:
        self._address = address
        self._sender = sender
        self._run = run
        self._streams = streams
        self._http = TiledHttp(address)
        self._rows: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        nodes = dict.fromkeys(node for stream in streams for node in stream.reads)
        self._taken: dict[str, int] = dict.fromkeys(nodes, 0)
        self._open_nodes = set(nodes)
        self._wanted: dict[str, int] = {}
        self._made: dict[str, int] = {}
        self._looked = 0.0

    def run(self, stop: threading.Event) -> bool:
        """Until all that can be made of the run is stored (True), or ``stop`` is set (False).

        Raises
        ------
        LinkRefusedError
            If the store refuses what is sent to it.
        """
        followers: list[RowsFollower] = []
        try:
            if not self._wait_for_run(stop) or not self._open(stop):
                return False
            followers = [self._follow(node) for node in self._taken]
            return self._pump(followers, stop) and self._finish(stop)
        finally:
            for follower in followers:
                follower.stop()
            self._http.close()

    def _wait_for_run(self, stop: threading.Event) -> bool:
        while not stop.is_set():
            try:
                if self._http.exists(self._run):
                    return True
            except UnreachableError as error:
                log.debug("%s", error)
            stop.wait(POLL_S)
        return False

    def _open(self, stop: threading.Event) -> bool:
        """Open each stream at the store, which tells the first frame that it does not have."""
        for stream in self._streams:
            start = StreamStart(
                stream.name,
                self._run,
                # Frames are rows of one line; none of them travels.
                "curve",
                (1,),
                "<f8",
                metadata={"derived_from": list(stream.reads)},
            )
            while stream.name not in self._wanted:
                if stop.is_set():
                    return False
                try:
                    first = self._sender.open(
                        RunStart(self._run, start), stream.produces, timeout_s=OPEN_TIMEOUT_S
                    )
                except TimeoutError:
                    log.debug("%s: the store does not answer yet", stream.name)
                    continue
                self._wanted[stream.name], self._made[stream.name] = first, 0
                log.info("%s: from frame %d", stream.name, first)
        return True

    def _follow(self, node: str) -> RowsFollower:
        def put(row: dict[str, Any]) -> None:
            # NaN is null in a stored table, and NaN in a live message.
            known = {name: math.nan if v is None else v for name, v in row.items()}
            self._rows.put((node, known))

        return RowsFollower(self._address, self._run, node, put).start()

    def _pump(self, followers: Sequence[RowsFollower], stop: threading.Event) -> bool:
        """Rows through the streams until every table has ended."""
        while self._open_nodes and not stop.is_set():
            try:
                node, row = self._rows.get(timeout=POLL_S)
            except queue.Empty:
                for follower in followers:
                    if follower.failure is not None:
                        raise follower.failure from None
            else:
                self._taken[node] = row["frame"] + 1
                for stream in self._streams:
                    if node in stream.reads:
                        self._send(stream, stream.take(node, row), stop)
            for node in self._ended_now():
                log.info("%s: all %d rows are read", node, self._taken[node])
                for stream in self._streams:
                    if node in stream.reads:
                        self._send(stream, stream.end(node), stop)
        return not stop.is_set()

    def _send(self, stream: RowStream, outcomes: Iterable[Outcome], stop: threading.Event) -> None:
        for outcome in outcomes:
            expected = self._made[stream.name]
            if outcome.frame != expected:
                # It would wait in the store for a frame that nobody has.
                raise RuntimeError(f"{stream.name}: expected frame {expected}, got {outcome.frame}")
            self._made[stream.name] += 1
            if outcome.rejected is not None:
                log.warning("%s frame %d: %s", stream.name, outcome.frame, outcome.rejected)
            if outcome.frame < self._wanted[stream.name]:
                continue
            results = FrameResults(
                stream.name,
                self._run,
                outcome.frame,
                outcome.time_s,
                outcome.results,
                outcome.rejected,
            )
            while not self._sender.send(results, timeout_s=POLL_S):
                if stop.is_set():
                    return

    def _ended_now(self) -> list[str]:
        """Tables that turn out to have no more rows than were taken."""
        if time.monotonic() - self._looked < END_PERIOD_S:
            return []
        self._looked = time.monotonic()
        try:
            metadata = self._http.metadata(self._run) or {}
        except UnreachableError:
            return []
        # Written when the stream's rows are all durable, the number of them beside it.
        ended = metadata.get("ended", {})
        done = [n for n in self._open_nodes if stream_of(n) in ended and self._is_read(n, ended)]
        self._open_nodes.difference_update(done)
        return sorted(done)

    def _is_read(self, node: str, ended: dict[str, int]) -> bool:
        """Whether all rows of a table were taken; one that was never made has none."""
        taken = self._taken[node]
        if taken == 0 and not self._exists(node):
            log.warning("%s: there is no such table in run %s", node, self._run)
            return True
        return taken >= ended[stream_of(node)]

    def _exists(self, node: str) -> bool:
        try:
            return self._http.exists(f"{self._run}/{node}")
        except UnreachableError:
            return True  # not known: it is asked again

    def _finish(self, stop: threading.Event) -> bool:
        for name, frames in self._made.items():
            self._sender.end(StreamEnd(name, self._run, frames))
        while not self._sender.flush(POLL_S):
            if stop.is_set():
                return False
        log.info("all is stored: %s", self._made)
        return True


def stream_of(node: str) -> str:
    """The stream whose frames a table's rows are."""
    container = node.split("/")[0]
    return FRAMES_OF.get(container, container)
