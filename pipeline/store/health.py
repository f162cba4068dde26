"""How each stream is doing, as metadata of a container that anyone may watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.messages import FrameResults
from pipeline.store.layout import LOST

if TYPE_CHECKING:
    from pipeline.store.writer import RunContainer, StreamWriter

HEALTH = "health"
PERIOD_S = 1.0


class HealthWriter:
    """Counts what arrives and writes the counts at most once a second, when they changed."""

    def __init__(self, container: RunContainer) -> None:
        self._container = container
        self._lock = threading.Lock()
        self._counts: dict[str, dict[str, int]] = {}
        self._seen: dict[str, int] = {}
        self._written: Mapping[str, Any] = {}
        self._wrote = 0.0

    def seen(self, message: FrameResults) -> None:
        """Count a frame once, however often it is sent."""
        with self._lock:
            counts = self._counts.setdefault(
                message.stream, {"published": 0, "rejected": 0, "lost": 0}
            )
            counts["published"] = max(counts["published"], message.newest + 1, message.frame + 1)
            if message.frame <= self._seen.get(message.stream, -1):
                return
            self._seen[message.stream] = message.frame
            if message.rejected is not None:
                kind = "lost" if message.rejected.startswith(LOST) else "rejected"
                counts[kind] += 1

    def write(self, streams: Mapping[str, StreamWriter], *, force: bool = False) -> None:
        """Write the counts into the run's ``health`` container."""
        if not force and time.monotonic() - self._wrote < PERIOD_S:
            return
        with self._lock:
            facts = {
                name: {**counts, "stored": streams[name].durable if name in streams else 0}
                for name, counts in self._counts.items()
            }
        if facts == self._written:
            return
        self._container.write_facts(HEALTH, facts)
        self._wrote = time.monotonic()
        self._written = facts
