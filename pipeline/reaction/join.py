"""Two tables on one clock: what was measured during an exposure, whoever measured it.

A moment is given out when nothing that may still come can change it: when the other table has gone
past its time, or has ended. So moments are the same in whatever order rows arrive.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.messages.rows import Row, number


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """One row of the table that sets the clock, with what goes with it.

    Attributes
    ----------
    row
        Of the clock.
    time_s, begin_s
        End and beginning of its exposure: rows tell only ends, so an exposure is taken to begin
        with the end of the one before.
    others
        Rows of the other table since the last moment, each in exactly one moment. Those after
        ``begin_s`` were taken during the exposure.
    after
        The other table's first row later than the moment, if it has one.
    """

    row: Row
    time_s: float
    begin_s: float
    others: tuple[Row, ...] = ()
    after: Row | None = None


class Join:
    """Joins the rows of ``other`` to those of ``clock``.

    Parameters
    ----------
    clock
        Node of the table whose rows become moments, one each, in order.
    other
        Node of the table that is joined to it; None = there is none, and nothing is waited for.
    """

    def __init__(self, clock: str, other: str | None) -> None:
        self.clock = clock
        self.other = other
        self._waiting: deque[Row] = deque()
        self._others: deque[tuple[float, Row]] = deque()
        self._newest_s = -math.inf
        self._other_ended = other is None
        self._last_s = math.nan
        self._exposure_s = math.nan
        self._follows = False

    def take(self, node: str, row: Row) -> list[Moment]:
        """Add a row of one of the tables; the moments that are certain now."""
        if node == self.clock:
            self._waiting.append(row)
        else:
            time_s = number(row, "time_s")
            # A time that is missing or runs backwards says nothing of when.
            if time_s > self._newest_s:
                self._newest_s = time_s
                self._others.append((time_s, row))
        return list(self._certain())

    def end(self, node: str) -> list[Moment]:
        """A table has no more rows; the moments that are certain now."""
        if node == self.other:
            self._other_ended = True
        return list(self._certain())

    def _certain(self) -> Iterator[Moment]:
        while self._waiting:
            row = self._waiting[0]
            time_s = number(row, "time_s")
            in_order = math.isfinite(time_s) and not time_s <= self._last_s
            if in_order and not (self._other_ended or self._newest_s > time_s):
                return
            self._waiting.popleft()
            if in_order:
                yield self._moment(row, time_s)
            else:
                self._follows = False
                yield Moment(row, time_s, math.nan)

    def _moment(self, row: Row, time_s: float) -> Moment:
        if self._follows:
            self._exposure_s = time_s - self._last_s
        # After a frame without a time, the exposure is as long as that of the last pair.
        begin_s = time_s - self._exposure_s
        if math.isnan(begin_s):
            begin_s = min(0.0, time_s)  # the first: since the injection
        self._last_s, self._follows = time_s, True
        others = []
        while self._others and self._others[0][0] <= time_s:
            others.append(self._others.popleft()[1])
        after = self._others[0][1] if self._others else None
        return Moment(row, time_s, begin_s, tuple(others), after)
