"""Slopes of what is measured, over a window that ends now.

Model: y(t) = a + b t over the window, weighted least squares. The slope b of a straight line
through a curved y is its derivative at one moment of the window, its ``time_s``: for y of second
order exactly at mean(t) + m3 / (2 m2), the weighted central moments of the times, in the middle
for even weights. Where a straight line does not describe the rows (chi-square above what chance
gives in one of a thousand windows) the oldest are left out, as long as enough remain.

The standard error follows from the errors of y and is widened by the root of the reduced
chi-square where that is above 1, so unknown scatter counts. Where no error of y is known, all rows
weigh the same and the scatter is the error. A scatter that the error is taken from although few
rows tell of it (no errors known, or no line found that describes them) is widened by Student's t,
so that 1.96 errors cover 95 %.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import chdtri, ndtr, stdtrit

from pipeline.messages.rows import Row, number

NORMAL_95 = 1.959963984540054

CHANCE = 0.001
"""Chi-square that is exceeded less often says that the rows are on no straight line. At 0.01 the
shortened windows cost more (rmse of the growth rate between 20 and 30 s up by a half) than
they bring; at 0.001 the bias of the nucleation rate in phase II is halved all the same."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A rate with its standard error; ``time_s`` is when, ``span_s`` over how long."""

    value: float = math.nan
    err: float = math.nan
    time_s: float = math.nan
    span_s: float = math.nan
    rows: int = 0
    straight: bool = True
    """Whether a straight line describes the rows."""

    def probability_above(self, level: float) -> float:
        """That the rate is above a level, given its error as that of a normal distribution."""
        if not self.err > 0:
            return math.nan
        return float(ndtr((self.value - level) / self.err))


UNKNOWN = Slope()


def slope(times_s: Sequence[float], values: Sequence[float], errors: Sequence[float]) -> Slope:
    """Slope of the line through values with errors, all of one length of 3 or more.

    Errors are all positive, or all NaN. Times rise.
    """
    known = not math.isnan(errors[0])
    # Weights relative to the best row: no error is too small for a float.
    least = min(errors) if known else 1.0
    weights = [(least / error) * (least / error) if known else 1.0 for error in errors]
    rows = list(zip(weights, times_s, values, strict=True))
    total = sum(weights)
    centre = sum(w * t for w, t, _ in rows) / total
    mean = sum(w * y for w, _, y in rows) / total
    moved = second = third = 0.0
    for w, t, y in rows:
        away = t - centre
        moved += w * away * (y - mean)
        second += w * away * away
        third += w * away * away * away
    if not second > 0:
        return UNKNOWN  # one row outweighs all others beyond what a float can tell
    rate = moved / second
    chi2 = 0.0
    for w, t, y in rows:
        residual = (y - mean - rate * (t - centre)) / least
        chi2 += w * residual * residual
    free = len(rows) - 2
    straight = not known or chi2 <= chdtri(free, CHANCE)
    widening = math.sqrt(chi2 / free)
    if known and straight:
        widening = max(widening, 1.0)
    else:
        widening *= float(stdtrit(free, 0.975)) / NORMAL_95
    return Slope(
        rate,
        widening * least / math.sqrt(second),
        centre + 0.5 * third / second,
        times_s[-1] - times_s[0],
        len(rows),
        bool(straight),
    )


class Window:
    """The last rows of one quantity.

    Parameters
    ----------
    span_s
        Seconds up to now.
    least_rows
        Where fewer are in the window it reaches back to so many.
    """

    def __init__(self, span_s: float, least_rows: int) -> None:
        self._span_s = span_s
        self._least = least_rows
        self._rows: deque[tuple[float, float, float]] = deque()

    def add(self, time_s: float, value: float, error: float) -> None:
        """Take a value in order of time; one that is not finite is none."""
        if not math.isfinite(value):
            return
        self._rows.append((time_s, value, error if 0 < error < math.inf else math.nan))
        while len(self._rows) > self._least and self._rows[0][0] < time_s - self._span_s:
            self._rows.popleft()

    def slope(self, now_s: float) -> Slope:
        """The rate up to now; unknown while there are too few rows or the newest is an old one.

        Rows whose error is not known count only where none is.
        """
        rows = [row for row in self._rows if not math.isnan(row[2])] or list(self._rows)
        if len(rows) < self._least or now_s - rows[-1][0] > self._span_s:
            return UNKNOWN
        while True:
            found = slope(*zip(*rows, strict=True))
            if found.straight or len(rows) <= self._least:
                return found
            rows = rows[1:]


def weighted_mean(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Mean of values by their errors, and its error, widened by the scatter where that is more.

    Values that are not finite are left out, and so are those without an error where others have
    one. NaN if none is left; the error is NaN if none is known.
    """
    pairs = [(v, e) for v, e in zip(values, errors, strict=True) if math.isfinite(v)]
    known = [(v, e) for v, e in pairs if 0 < e < math.inf]
    if not known:
        return (sum(v for v, _ in pairs) / len(pairs) if pairs else math.nan), math.nan
    least = min(e for _, e in known)
    weights = [(least / e) * (least / e) for _, e in known]
    total = sum(weights)
    mean = sum(w * v for w, (v, _) in zip(weights, known, strict=True)) / total
    residuals = [(v - mean) / e for v, e in known]
    chi2 = sum(r * r for r in residuals)
    widening = math.sqrt(max(1.0, chi2 / (len(known) - 1))) if len(known) > 1 else 1.0
    return mean, widening * least / math.sqrt(total)


def value_of(row: Row, name: str) -> tuple[float, float]:
    """A column and its standard error."""
    return number(row, name), number(row, f"{name}_err")
