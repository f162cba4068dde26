"""When the particles begin to order, from the significance of order in each frame.

Shiryaev-Roberts statistics for a shift of unknown size, averaged over sizes (Shiryaev, Theory
Probab. Appl. 8, 22, 1963; Roberts, Technometrics 8, 411, 1966): with z normal (0, 1) without order,

    M <- (1 + M) exp(size (z - DRIFT) - SLACK size^2 / 2)

is, up to drift and slack, a martingale less the number of frames, so that the mean number of frames
to a false alarm is at least the threshold, whatever the sizes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import ClassVar

import numpy as np

from pipeline.config.detect import Detection
from pipeline.detect.clock import Clock
from pipeline.detect.moment import moment_of_change
from pipeline.messages.alerts import Alert
from pipeline.messages.rows import Row, number

SIZES = np.array([0.25, 0.5, 1.0, 2.0])
"""Shifts of z that are looked for, in standard deviations."""
SLACK = 1.05
"""Allows for errors that are 2.5 % too small."""
DRIFT = 0.1
"""Mean of z without order that is allowed for: 0.04 with errors 5 % too small, 0.10 where
neighbouring bins share pixels."""
CLIP = 4.5
"""A single frame can never alarm: 24 h of frames at 2 Hz are 12 nats, one frame gives 6.9."""
REMEMBERED = 512
"""Frames back to which an onset may be dated."""
CLEAR_Z, CLEAR_FRAMES = 4.0, 8
"""The end of order is told only of order that was clear, in the median, for so many frames."""
LEAST_ORDER_Z = 2.0
"""Weak order is order still: what stays above this is not lost, or it would be found again at once.
So the end takes as many frames to be told as an onset of this height."""
REFERENCE_FRAMES = 40
"""Stacks alone draw lattice_z below zero, the further the better they are ordered: what counts is
the rise above its own mean over so many frames, as far as that is negative."""
MOST_MISFIT = 1.0
"""Without order z has a mean of its own: particles are not quite the model's, and bins narrower
than a pixel share its counts (0.5 in a simulated run at 5e11 photons/s). It is followed over as
many frames, as far as it is positive, up to this; steady order weaker than that is not told."""


WHAT = {
    "superlattice_1d": "Particles begin to order",
    "order_confirmed": "Order is confirmed by its harmonics",
    "superlattice_3d": "Order in three dimensions begins",
    "order_lost": "Order is lost",
}
"""Kinds of alerts, and how their sentences begin."""


class ShiftWatch:
    """Shift of a series from normal (0, 1) upwards."""

    def __init__(self, coverage: float) -> None:
        self._coverage = coverage
        self._statistic = np.zeros(SIZES.size)
        # Log likelihood ratio since each of the last frames, newest last, with the frames' numbers
        # and the times between which a change would have come.
        self._ratio = np.zeros((REMEMBERED, SIZES.size))
        self._since: deque[tuple[int, float, float]] = deque(maxlen=REMEMBERED)
        self._previous_s = math.nan

    @property
    def statistic(self) -> float:
        """Mean over the sizes; compare with a number of frames."""
        return float(self._statistic.mean())

    def update(self, frame: int, time_s: float, z: float) -> None:
        """Take in one frame."""
        gain = SIZES * (min(max(z, -CLIP), CLIP) - DRIFT) - SLACK * SIZES**2 / 2
        self._statistic = (1 + self._statistic) * np.exp(np.minimum(gain, 50.0))
        # Beyond e^200 nothing changes any more, and doubles end at e^709.
        self._statistic = np.minimum(self._statistic, math.exp(200.0))
        self._ratio[:-1] = self._ratio[1:]
        self._ratio[-1] = 0.0
        self._ratio += gain
        before = time_s if math.isnan(self._previous_s) else self._previous_s
        self._since.append((frame, before, time_s))
        self._previous_s = time_s

    def onset(self) -> tuple[int, float, float, float]:
        """First frame, median and interval of the posterior over the moments of change."""
        log = np.logaddexp.reduce(self._ratio[-len(self._since) :], axis=1)
        edges = [self._since[0][1], *(time for _, _, time in self._since)]
        middle, lo, hi = moment_of_change(np.exp(log - log.max()), edges, self._coverage)
        first = next(frame for frame, _, time in self._since if time >= lo)
        return first, middle, lo, hi


class Superlattice:
    """Order in one dimension, then in three, and its end; after that, order again.

    Each is told once a cycle, with which time it is. Order is confirmed when harmonics of its
    first peak are there: a shift of their heights over their errors, watched from the onset on.
    """

    name: ClassVar[str] = "superlattice"
    node: ClassVar[str] = "assembly/peaks"

    def __init__(self, settings: Detection) -> None:
        self._smallest_peak = settings.smallest_peak
        self._clock = Clock(settings.false_alarm_hours)
        self._coverage = settings.interval_coverage
        self._times: dict[str, int] = {}
        self._begin_again()

    def _begin_again(self) -> None:
        """Without order, and nothing known of it."""
        self._order, self._lattice, self._absence, self._harmonics = (
            ShiftWatch(self._coverage) for _ in range(4)
        )
        self._typical: deque[float] = deque(maxlen=64)
        self._reference, self._spread, self._misfit = 0.0, 1.0, 0.0
        self._ordered = self._in_three = self._confirmed = False

    def update(self, row: Row, /) -> Iterable[Alert]:
        frame, time_s = int(row["frame"]), number(row, "time_s")
        order_z, lattice_z = number(row, "order_z"), number(row, "lattice_z")
        self._clock.tick(time_s)
        if not math.isfinite(order_z):
            return
        if self._smallest_peak > 0 and not number(row, "peak_1_height") >= self._smallest_peak:
            # Misfit of the form factor: it may speak against order, not for it.
            order_z, lattice_z = min(order_z, 0.0), min(lattice_z, 0.0)
        if not self._ordered:
            self._order.update(frame, time_s, self._above_misfit(order_z))
            if not self._passed(self._order):
                return
            self._ordered = True
            yield self._alert("superlattice_1d", row, self._order)
        elif self._is_lost(frame, time_s, order_z):
            yield self._alert("order_lost", row, self._absence)
            self._begin_again()
            return
        harmonics = _harmonics_z(row)
        if not self._confirmed and math.isfinite(harmonics):
            self._harmonics.update(frame, time_s, harmonics)
            if self._passed(self._harmonics):
                self._confirmed = True
                yield self._alert("order_confirmed", row, self._harmonics)
        # Order beyond the comb needs the comb: before, its statistic only gathers false evidence.
        if not self._in_three and math.isfinite(lattice_z):
            self._lattice.update(frame, time_s, self._above_reference(lattice_z))
            if self._passed(self._lattice):
                self._in_three = True
                yield self._alert("superlattice_3d", row, self._lattice)

    def _is_lost(self, frame: int, time_s: float, order_z: float) -> bool:
        """Order is lost when z is nearer to none than to half of what it was, or LEAST_ORDER_Z."""
        self._typical.append(order_z)
        if len(self._typical) < CLEAR_FRAMES or median(self._typical) < CLEAR_Z:
            return False
        self._absence.update(
            frame, time_s, min(0.5 * median(self._typical), LEAST_ORDER_Z) - order_z
        )
        return self._passed(self._absence)

    def _above_misfit(self, order_z: float) -> float:
        """Rise of order_z above its mean without order."""
        rise = order_z - min(max(self._misfit, 0.0), MOST_MISFIT)
        # As below: an onset must not take its own reference with it.
        self._misfit += min(max(order_z - self._misfit, -2.0), 1.0) / REFERENCE_FRAMES
        return rise

    def _above_reference(self, lattice_z: float) -> float:
        """Rise of lattice_z in standard deviations, against what it was before."""
        rise = (lattice_z - min(self._reference, 0.0)) / math.sqrt(max(self._spread, 1.0))
        # What rises is not the reference any more: it would follow the onset away.
        step = min(max(lattice_z - self._reference, -3.0), 2.0)
        self._reference += step / REFERENCE_FRAMES
        self._spread += (step**2 - self._spread) / REFERENCE_FRAMES
        return rise

    def _passed(self, watch: ShiftWatch) -> bool:
        return watch.statistic > self._clock.frames

    def _alert(self, kind: str, row: Row, watch: ShiftWatch) -> Alert:
        first_frame, onset, lo, hi = watch.onset()
        spacing, domain = number(row, "spacing_nm"), number(row, "domain_nm")
        time = self._times[kind] = self._times.get(kind, 0) + 1
        text = f"{WHAT[kind]} at {onset:.1f} s ({lo:.1f} to {hi:.1f} s)"
        if time > 1:
            text += f", for the {_ordinal(time)} time"
        if kind != "order_lost" and math.isfinite(spacing):
            text += f": spacing {spacing:.2f} nm"
        numbers = {
            "order_z": number(row, "order_z"),
            "lattice_z": number(row, "lattice_z"),
            "spacing_nm": spacing,
            "domain_nm": domain,
            "harmonics": number(row, "harmonics"),
            "time": float(time),
            "log_statistic": math.log(max(watch.statistic, 1e-300)),
        }
        return Alert(
            kind=kind,
            frame=int(row["frame"]),
            time_s=number(row, "time_s"),
            onset_s=onset,
            onset_lo_s=lo,
            onset_hi_s=hi,
            message=text + ".",
            stream=self.node,
            first_frame=first_frame,
            evidence={name: value for name, value in numbers.items() if math.isfinite(value)},
        )


def _harmonics_z(row: Row) -> float:
    """Heights of a stack's second and third order over their errors, as one z; NaN without."""
    if row.get("order_kind") != "stack":
        return math.nan
    each = [
        number(row, f"peak_{n}_height") / number(row, f"peak_{n}_height_err")
        for n in (2, 3)
        if number(row, f"peak_{n}_height_err") > 0
    ]
    each = [z for z in each if math.isfinite(z)]
    return sum(each) / math.sqrt(len(each)) if each else math.nan


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
