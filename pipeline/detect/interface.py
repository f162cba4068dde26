"""What a detector is. Detectors are pure: no clock, no I/O; a run's rows in, alerts out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from pipeline.messages.alerts import Alert

Row = Mapping[str, Any]


class Detector(Protocol):
    """Reads one table, row by row in order of frame, and says what happened.

    Its state follows from the rows alone: fed again from frame 0 it raises the same alerts.
    """

    name: ClassVar[str]
    node: ClassVar[str]

    def update(self, row: Row, /) -> Iterable[Alert]: ...


def number(row: Row, name: str) -> float:
    """A column's value; NaN where it is missing, null or not a number."""
    value = row.get(name)
    return math.nan if value is None else float(value)
