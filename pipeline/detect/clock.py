"""Frames as they come: how often, and which are to be judged now."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

from pipeline.messages.rows import Row

FEWEST_FRAMES = 1e3
"""Least threshold: recordings with frames every minute would otherwise alarm at two sigma."""
HELD_FRAMES = 8
"""As many as the guard of the other detectors takes for a new level (`pipeline.detect.guard`)."""


class Clock:
    """Times of the rows: the typical period, and how many frames the accepted time is."""

    def __init__(self, false_alarm_hours: float) -> None:
        self._false_alarm_s = false_alarm_hours * 3600.0
        self._periods: deque[float] = deque(maxlen=64)
        self.last_s = math.nan

    def tick(self, time_s: float) -> float:
        """Take in a frame's time; that of the frame before, or its own if it is the first."""
        before = time_s if math.isnan(self.last_s) else self.last_s
        if time_s > before:
            self._periods.append(time_s - before)
        self.last_s = time_s
        return before

    @property
    def frames(self) -> float:
        """Mean number of frames between false alarms that is accepted."""
        period = median(self._periods) if self._periods else math.inf
        return max(self._false_alarm_s / period, FEWEST_FRAMES)


class Hold:
    """Keeps back frames that show nothing where something was: beam, shutter, or the end of all.

    Where something is seen again after fewer than `HELD_FRAMES` they are forgotten; otherwise they
    count, late.
    """

    def __init__(self) -> None:
        self._held: list[Row] = []
        self._accepted = False

    def through(self, row: Row, *, dark: bool) -> Sequence[Row]:
        """The rows that are to be judged now."""
        if not dark or self._accepted:
            self._held, self._accepted = [], dark
            return (row,)
        self._held.append(row)
        if len(self._held) < HELD_FRAMES:
            return ()
        rows, self._held, self._accepted = self._held, [], True
        return rows
