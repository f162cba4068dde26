"""Detectors fed from Tiled: all rows of the tables that they read, each once, in order."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pipeline.access import RowsFollower, TiledAddress, TiledHttp, UnreachableError
from pipeline.detect.alert_writer import AlertWriter
from pipeline.detect.interface import Detector

log = logging.getLogger(__name__)

POLL_S = 0.25
# The end of a run is looked for this often.
END_PERIOD_S = 1.0


class Watch:
    """Feeds detectors with a run's stored results and writes their alerts back.

    Each detector reads one table, in order of frame, so its alerts do not depend on when rows
    arrive: a live run, a replay and a restart give the same ones.
    """

    def __init__(self, address: TiledAddress, run: str, detectors: Sequence[Detector]) -> None:
        self._address = address
        self._run = run
        self._http = TiledHttp(address)
        self._detectors: dict[str, list[Detector]] = defaultdict(list)
        for detector in detectors:
            self._detectors[detector.node].append(detector)
        self._rows: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._done: dict[str, int] = dict.fromkeys(self._detectors, 0)
        self._looked = 0.0

    def watch(self, stop: threading.Event) -> bool:
        """Until the run is complete and looked at (True), or ``stop`` is set (False)."""
        writer = self._open(stop)
        if writer is None:
            return False
        followers = [self._follow(node) for node in self._detectors]
        try:
            while not stop.is_set():
                try:
                    node, row = self._rows.get(timeout=POLL_S)
                except queue.Empty:
                    for follower in followers:
                        if follower.failure is not None:
                            raise follower.failure from None
                    if writer.flush() and self._finished():
                        writer.complete(self._done)
                        return True
                    continue
                self._done[node] = row["frame"] + 1
                for detector in self._detectors[node]:
                    for alert in detector.update(row):
                        writer.write(alert)
        finally:
            for follower in followers:
                follower.stop()
            self._http.close()
        return False

    def _follow(self, node: str) -> RowsFollower:
        def put(row: dict[str, Any]) -> None:
            self._rows.put((node, row))

        return RowsFollower(self._address, self._run, node, put).start()

    def _open(self, stop: threading.Event) -> AlertWriter | None:
        """Wait until the run's container is there."""
        from tiled.client import from_uri

        while not stop.is_set():
            try:
                if self._http.exists(f"{self._run}/alerts"):
                    root = from_uri(self._address.url, api_key=self._address.api_key)
                    return AlertWriter(root[self._run])
            except UnreachableError as error:
                log.debug("%s", error)
            stop.wait(POLL_S)
        return None

    def _finished(self) -> bool:
        """Whether the run is complete and every row of it has been looked at."""
        if time.monotonic() - self._looked < END_PERIOD_S:
            return False
        self._looked = time.monotonic()
        try:
            metadata = self._http.metadata(self._run) or {}
            if not metadata.get("complete"):
                return False
            for node, done in self._done.items():
                last = self._http.last_frame(f"{self._run}/{node}")
                if last is not None and done <= last:
                    return False
        except UnreachableError:
            return False
        return True
