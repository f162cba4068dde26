"""Which lattice the particles are on, out of the claims of many frames.

A frame claims a lattice where its row names one. With the particles on a lattice, frames claim it
more often than not; where they are on none, or on another, a frame claims a given one in at most
WRONG of all cases. So a claim is worth RIGHT / WRONG, a frame without it (1 - RIGHT) / (1 - WRONG),
and

    M <- (1 + M) worth

is a Shiryaev-Roberts statistic as in `pipeline.detect.order`, one for each name: its mean number of
frames to a false alarm is at least the threshold. That holds for frames that err independently; a
misfit that stays is claimed again and again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from pipeline.config.detect import Detection
from pipeline.detect.clock import Clock
from pipeline.detect.moment import moment_of_change
from pipeline.detect.order import REMEMBERED
from pipeline.messages.alerts import Alert
from pipeline.messages.rows import Row, number

RIGHT = 0.6
"""Share of frames that claim the lattice that is there: 63 of 77 palladium frames do."""
WRONG = 0.05
"""Share that claim one that is not: 1 to 5 % of lists of lines that are of no lattice."""
UNDECIDED = "cannot tell"


class LatticeWatch:
    """One name that frames may claim."""

    def __init__(self, coverage: float) -> None:
        self._coverage = coverage
        self._seen: deque[tuple[int, float, float, float]] = deque(maxlen=REMEMBERED)
        self.statistic = 0.0
        """That the claim is right; compare with a number of frames."""
        self.absence = 0.0
        """Likewise, that it is not right any more."""

    def update(self, frame: int, before_s: float, time_s: float, *, claimed: bool) -> None:
        """Take in one frame."""
        worth = RIGHT / WRONG if claimed else (1.0 - RIGHT) / (1.0 - WRONG)
        # Beyond 1e80 nothing changes any more.
        self.statistic = min((1.0 + self.statistic) * worth, 1e80)
        self.absence = min((1.0 + self.absence) / worth, 1e80)
        self._seen.append((frame, before_s, time_s, math.log(worth)))

    def onset(self) -> tuple[int, float, float, float]:
        """First frame that may have it, median and interval of when it began, in s."""
        log = np.cumsum([worth for *_, worth in self._seen][::-1])[::-1]
        edges = [self._seen[0][1], *(time for _, _, time, _ in self._seen)]
        middle, lo, hi = moment_of_change(np.exp(log - log.max()), edges, self._coverage)
        first = next(frame for frame, _, time, _ in self._seen if time >= lo)
        return first, middle, lo, hi


class Lattice:
    """The name of the lattice, told when it is certain, and again when it becomes another."""

    name: ClassVar[str] = "lattice"
    node: ClassVar[str] = "assembly/lattice"

    def __init__(self, settings: Detection) -> None:
        self._coverage = settings.interval_coverage
        self._clock = Clock(settings.false_alarm_hours)
        self._watches: dict[str, LatticeWatch] = {}
        self._named = ""

    def update(self, row: Row, /) -> Iterable[Alert]:
        time_s, claim = number(row, "time_s"), str(row["lattice"])
        if not math.isfinite(time_s):
            return  # a lost frame says nothing
        before_s = self._clock.tick(time_s)
        if claim and claim != UNDECIDED and claim not in self._watches:
            self._watches[claim] = LatticeWatch(self._coverage)
        for name, watch in self._watches.items():
            watch.update(int(row["frame"]), before_s, time_s, claimed=name == claim)
        if self._named and self._watches[self._named].absence > self._clock.frames:
            # Its end is told by what watches order; it may be named anew.
            del self._watches[self._named]
            self._named = ""
        watch = self._watches.get(claim)
        if watch is not None and claim != self._named and watch.statistic > self._clock.frames:
            self._named = claim
            yield self._alert(row, watch)

    def _alert(self, row: Row, watch: LatticeWatch) -> Alert:
        first_frame, onset, lo, hi = watch.onset()
        edges = {edge: number(row, f"{edge}_nm") for edge in "abc"}
        # Edges that symmetry makes equal are the same number.
        known = {
            nm: f"{edge} = {nm:.2f} nm" for edge, nm in reversed(edges.items()) if math.isfinite(nm)
        }
        numbers = {f"{edge}_nm": nm for edge, nm in edges.items()}
        for column in ("probability", "merit", "nearest_nm", "gap_nm", "domain_nm", "hcp_share"):
            numbers[column] = number(row, column)
        return Alert(
            kind="lattice",
            about=self._named,
            frame=int(row["frame"]),
            time_s=number(row, "time_s"),
            onset_s=onset,
            onset_lo_s=lo,
            onset_hi_s=hi,
            message=(
                f"Particles are on a lattice since {onset:.1f} s ({lo:.1f} to {hi:.1f} s): "
                f"{', '.join([self._named, *reversed(known.values())])}."
            ),
            stream=self.node,
            first_frame=first_frame,
            evidence={
                "log_statistic": math.log(watch.statistic),
                **{name: value for name, value in numbers.items() if math.isfinite(value)},
            },
        )
