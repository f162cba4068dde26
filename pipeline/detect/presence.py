"""When something that is seen or not seen in each frame begins to be there, and when it ends.

Without a change the significance of a line is the same in all frames, whatever it is: a line near
the level from which lines are seen flickers, and that is no birth and no end. Nor is it where the
search of lines takes up a clear line in some frames and in others not. With h such a state of
things, P_h the probability of what a frame shows, and moments of change k, the statistic of a birth
is

    R = sum_k prod_{i<k} P_absent(x_i) prod_{i>=k} P_present(x_i) / max_h prod_i P_h(x_i)

with P_present the mean over strengths that are seen in most frames; that of an end the same with
both exchanged. For the true h each term over P_h is a martingale that begins with 1, and the
maximum only lowers R: so R is at most a Shiryaev-Roberts statistic, and the mean number of frames
to a false alarm is at least the threshold, whichever h holds (an e-detector: Shin, Ramdas and
Rinaldo, New England J. Stat. Data Sci. 2, 229, 2024; the maximum below the line is universal
inference, Wasserman et al., PNAS 117, 16880, 2020).

What was there from the first frames on cannot be told to begin: R needs frames without it, and the
fewer there are the more frames with it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from pipeline.detect.moment import moment_of_change

LEVEL = 5.0
"""Significance from which lines are seen, about: that which noise exceeds anywhere in a curve in
one of a thousand to a hundred thousand."""
STEPS = np.array([0.0, 1.5, 3.5])
"""What is seen is told apart by these, above the level."""
NOTHING, STRONGEST = 0, STEPS.size
"""What a frame may show: nothing, or what is seen up to the first step but one, and so on."""
STRENGTHS = np.array([-math.inf, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.5, 5.0])
"""True significance less the level, of what may be there without a change; the first is nothing."""
SEEN_SHARES = (0.65, 0.8, 0.9)
SEEN_STRENGTHS = (2.0, 5.0)
"""What may be there without a change, too: lines of these strengths that are found in these shares
of all frames only. Smaller shares would be as good a null, but with them some thirty frames
(recordings are not longer) could not show any change."""
OUTLIERS = 0.002
"""Share of frames that show what they should not, for each of the four things that they may show.
So a frame says no more than 6.2 nats: three in a row may alarm, two never do (`FEWEST_FRAMES` and
the number of places make 12.4 the least threshold)."""
REMEMBERED = 512
"""Frames back to which an onset may be dated."""


def shown(sigmas: float) -> int:
    """What a line of a significance shows."""
    return max(1, int(np.searchsorted(STEPS, sigmas - LEVEL, side="right")))


def _chances(strengths: np.ndarray) -> np.ndarray:
    """Probability of what is shown (4, n) at true significances, above the level (n,)."""
    above = ndtr(strengths - STEPS[:, None])
    edges = np.vstack((np.ones(strengths.size), above, np.zeros(strengths.size)))
    return -np.diff(edges, axis=0)


def _log_ratios() -> np.ndarray:
    """log P_h / P_absent of what is shown (4, h); the first ones are `STRENGTHS`."""
    nothing = _chances(STRENGTHS[:1])
    found = _chances(np.array(SEEN_STRENGTHS))
    dropping = [share * found + (1.0 - share) * nothing for share in SEEN_SHARES]
    chances = np.hstack((_chances(STRENGTHS), *dropping))
    logs = np.log((1.0 - 4.0 * OUTLIERS) * chances + OUTLIERS)
    return logs - logs[:, :1]


LOG_RATIOS = _log_ratios()
PRESENT = np.flatnonzero(np.isin(STRENGTHS, (1.0, 2.0, 3.5, 5.0)))
"""Those of what is seen in five frames of six, or more."""


class Seen(NamedTuple):
    """A frame, the times between which a change would have come, and what it shows."""

    frame: int
    before_s: float
    time_s: float
    shown: int


@dataclass(frozen=True, slots=True)
class Change:
    """A birth or an end: first frame that may have it, median and interval of its moment.

    ``frames_since`` are those from the first on, ``frames_before`` those before it that count.
    """

    appears: bool
    first_frame: int
    onset_s: float
    lo_s: float
    hi_s: float
    log_statistic: float
    frames_since: int
    frames_before: int


class PresenceWatch:
    """One thing that may come and go, any number of times.

    Parameters
    ----------
    coverage
        Of an onset's interval.
    """

    def __init__(self, coverage: float) -> None:
        self._coverage = coverage
        self.present = False
        """Whether it is there, as far as is certain."""
        self._told = False
        self.begin(())

    def begin(self, history: Iterable[Seen]) -> None:
        """Anew, with some frames that are not to be judged any more."""
        self._history: deque[Seen] = deque(maxlen=REMEMBERED)
        self._total = np.zeros(LOG_RATIOS.shape[1])  # log prod P_h / P_absent
        self._birth = np.full(PRESENT.size, -math.inf)  # log sum_k prod_{i>=k} P_h / P_absent
        self._end = np.full(PRESENT.size, -math.inf)  # log sum_k prod_{i<k} P_h / P_absent
        for seen in history:
            self._count(seen)

    def _count(self, seen: Seen) -> None:
        gain = LOG_RATIOS[seen.shown]
        self._history.append(seen)
        self._birth = np.logaddexp(self._birth, 0.0) + gain[PRESENT]
        self._end = np.logaddexp(self._end, self._total[PRESENT])
        self._total = self._total + gain

    def log_statistic(self, *, appears: bool) -> float:
        """That of a birth, or of an end."""
        sums = self._birth if appears else self._end
        mean = np.logaddexp.reduce(sums) - math.log(sums.size)
        return float(mean - self._total.max())

    def update(self, seen: Seen, log_threshold: float) -> Change | None:
        """Take in one frame, and say whether there was a change."""
        self._count(seen)
        if not self._told and self.log_statistic(appears=True) > log_threshold:
            self.present = self._told = True
            return self._change(appears=True)
        if self._total[PRESENT].max() > log_threshold:
            # There since the beginning, or since so soon after it that this cannot be told.
            self.present = True
        if self.present and self.log_statistic(appears=False) > log_threshold:
            self.present = self._told = False
            return self._change(appears=False)
        return None

    def _change(self, *, appears: bool) -> Change:
        """The change that was found; what is remembered begins with it from now on."""
        statistic = self.log_statistic(appears=appears)
        gains = LOG_RATIOS[[seen.shown for seen in self._history]][:, PRESENT]
        since = np.cumsum(gains[::-1], axis=0)[::-1]
        log = np.logaddexp.reduce(since if appears else self._total[PRESENT] - since, axis=1)
        edges = [self._history[0].before_s, *(seen.time_s for seen in self._history)]
        middle, lo, hi = moment_of_change(np.exp(log - log.max()), edges, self._coverage)
        kept = [seen for seen in self._history if seen.time_s >= lo]
        before = len(self._history) - len(kept)
        self.begin(kept)
        return Change(
            appears=appears,
            first_frame=kept[0].frame,
            onset_s=middle,
            lo_s=lo,
            hi_s=hi,
            log_statistic=statistic,
            frames_since=len(kept),
            frames_before=before,
        )
