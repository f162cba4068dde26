"""Tells a jump of the measurement from a change of the sample.

A beam dump, a shutter, a bubble or a gain step moves every number from one frame to the next.
A synthesis moves them along; so a total intensity far off the line through the last frames, or a
fit that suddenly does not fit, is held back from the detectors of phases.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from enum import Enum
from statistics import median
from typing import ClassVar

import numpy as np

from pipeline.messages.alerts import Alert
from pipeline.messages.rows import Row, number

# Frames that the line is drawn through, and those needed before anything is called a jump.
LINE_FRAMES = 6
NEEDED_FRAMES = 5
# Growth of the published runs bends by less than 2 % from frame to frame after the first five;
# flux that its monitor does not follow is a matter of 1 %.
TOLERANCE = 0.05
TOLERANCE_SCATTER = 6.0
# Reduced chi-square this many times the median of the last frames: the fit has lost the sample.
# Where a model is not exact chi-square grows with the signal, by less than a factor of 2 a frame.
CHI2_FACTOR = 4.0
# The frames around a jump are half one thing and half the other.
HOLD_FRAMES = 3
# Where the new level lasts so many frames it is the level: a gain step.
ACCEPT_FRAMES = 8


class Verdict(Enum):
    """What to do with a row."""

    USE = "use"
    HOLD = "hold"
    NEW_LEVEL = "new level"


class Guard:
    """Judges the rows of ``saxs/populations`` in order."""

    def __init__(self) -> None:
        self._line: deque[tuple[float, float]] = deque(maxlen=LINE_FRAMES)
        self._scatter: deque[float] = deque(maxlen=2 * LINE_FRAMES)
        self._chi2: deque[float] = deque(maxlen=NEEDED_FRAMES)
        self._held: list[tuple[float, float]] = []
        self._holding = 0
        self.jump = math.nan
        """Intensity over what was expected, of the last row."""
        self.chi2_factor = math.nan
        """Reduced chi-square over its median, of the last row."""

    def judge(self, row: Row) -> Verdict:
        """Whether the row may be used, and whether a new scale begins with it."""
        time_s, total = number(row, "time_s"), number(row, "total_intensity")
        chi2 = number(row, "reduced_chi2")
        usual_chi2 = max(1.0, median(self._chi2)) if self._chi2 else math.nan
        self.chi2_factor = chi2 / usual_chi2
        if not math.isfinite(total):
            self.jump = math.nan
            return Verdict.HOLD
        expected, residual = self._expected(time_s, total), 0.0
        off = self.chi2_factor > CHI2_FACTOR and len(self._chi2) >= NEEDED_FRAMES
        self.jump = 1.0
        if not math.isnan(expected):
            residual = total - expected
            self.jump = total / expected if expected != 0 else math.nan
            scatter = 1.4826 * median(self._scatter) if self._scatter else 0.0
            # Scatter about nothing (a curve less its background) must not be called a jump.
            off |= abs(residual) > max(TOLERANCE * abs(expected), TOLERANCE_SCATTER * scatter)
        if off:
            return self._hold(time_s, total)
        self._held.clear()
        if not math.isnan(expected):
            self._scatter.append(abs(residual))
        self._line.append((time_s, total))
        if math.isfinite(chi2):
            self._chi2.append(chi2)
        self._holding = max(0, self._holding - 1)
        return Verdict.HOLD if self._holding else Verdict.USE

    def _hold(self, time_s: float, total: float) -> Verdict:
        self._holding = HOLD_FRAMES
        self._held.append((time_s, total))
        if len(self._held) < ACCEPT_FRAMES:
            return Verdict.HOLD
        self._line.clear()
        self._line.extend(self._held[-LINE_FRAMES:])
        self._scatter.clear()
        self._chi2.clear()
        self._held.clear()
        self._holding = 0
        return Verdict.NEW_LEVEL

    def _expected(self, time_s: float, total: float) -> float:
        """What the last frames lead to; NaN while there are too few.

        The straight line through them or, if that is nearer, the last value: where nucleation
        comes to rest the line overshoots by more than any tolerance.
        """
        if len(self._line) < NEEDED_FRAMES:
            return math.nan
        times, values = np.array(self._line).T
        centred = times - times.mean()
        slope = (centred @ values) / (centred @ centred)
        line = float(values.mean() + slope * (time_s - times.mean()))
        last = float(values[-1])
        return min(line, last, key=lambda expected: abs(expected - total))


class Artefacts:
    """Raises one alert for each jump of the total intensity that no synthesis makes.

    A fit that suddenly fails is held back from the phases, but it is no artefact: particles that
    order are not described by free spheres any more.
    """

    name: ClassVar[str] = "artefacts"
    node: ClassVar[str] = "saxs/populations"

    # A rise may be the sample (nucleation scatters more from one frame to the next); it counts
    # as artefact only if crystals of the same size were there before and after.
    DROP, RISE = 0.7, 1.4
    SAME_SIZE = 0.03

    def __init__(self) -> None:
        self._guard = Guard()
        self._episode = False
        self._last_good = (0, math.nan)
        self._last_diameter_nm = math.nan

    def update(self, row: Row, /) -> Iterable[Alert]:
        frame, time_s = int(row["frame"]), number(row, "time_s")
        diameter_nm = number(row, "nc_diameter_nm")
        verdict = self._guard.judge(row)
        alerts = []
        if verdict is Verdict.HOLD:
            cause = self._cause(diameter_nm)
            if cause and not self._episode:
                alerts.append(self._alert(frame, time_s, cause))
                self._episode = True
        else:
            self._episode = False
            self._last_good = (frame, time_s)
            self._last_diameter_nm = diameter_nm
        return alerts

    def _cause(self, diameter_nm: float) -> str:
        guard = self._guard
        both = diameter_nm > 0 and self._last_diameter_nm > 0
        same = both and abs(math.log(diameter_nm / self._last_diameter_nm)) < self.SAME_SIZE
        if guard.jump < self.DROP or (guard.jump > self.RISE and same):
            return f"total intensity {guard.jump:.2g} times what the frames before lead to"
        return ""

    def _alert(self, frame: int, time_s: float, cause: str) -> Alert:
        first_frame, lo = self._last_good
        lo = time_s if math.isnan(lo) else lo
        return Alert(
            kind="artefact",
            frame=frame,
            time_s=time_s,
            onset_s=time_s,
            onset_lo_s=lo,
            onset_hi_s=time_s,
            message=f"Artefact at {time_s:.1f} s: {cause}; phases are not judged meanwhile.",
            severity="warning",
            stream=self.node,
            first_frame=first_frame,
            evidence={
                "intensity_ratio": _finite(self._guard.jump),
                "chi2_ratio": _finite(self._guard.chi2_factor),
            },
        )


def _finite(value: float) -> float:
    """Tiled's metadata has no NaN: 0 says that the number could not be formed."""
    return value if math.isfinite(value) else 0.0
