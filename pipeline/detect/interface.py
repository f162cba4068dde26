"""What a detector is. Detectors are pure: no clock, no I/O; a run's rows in, alerts out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

from pipeline.messages.alerts import Alert
from pipeline.messages.rows import Row


class Detector(Protocol):
    """Reads one table, row by row in order of frame, and says what happened.

    Its state follows from the rows alone: fed again from frame 0 it raises the same alerts.
    """

    name: ClassVar[str]
    node: ClassVar[str]

    def update(self, row: Row, /) -> Iterable[Alert]: ...
