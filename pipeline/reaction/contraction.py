"""How the spacing of ordered particles and the edges of their lattice change over time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.config.tracks import TrackAnalysis
from pipeline.messages import CellContraction, Result, SpacingContraction
from pipeline.messages.rows import Row, number
from pipeline.reaction.rates import UNKNOWN, Slope, Window, slope, value_of, weighted_mean

EDGES = ("a", "b", "c")
UNCLAIMED = ("", "cannot tell")
PERCENT_PER_MIN = 6000.0
"""Of a relative rate per second."""


@dataclass(frozen=True, slots=True)
class Change:
    """Of a length: its rate, and its strain against a reference."""

    rate: Slope = UNKNOWN
    rate_percent_per_min: float = math.nan
    rate_percent_per_min_err: float = math.nan
    strain_percent: float = math.nan
    strain_percent_err: float = math.nan
    reference_nm: float = math.nan
    reference_nm_err: float = math.nan
    reference_s: float = math.nan


class FollowedLength:
    """A length over time. The first that are reliable, some running on one line, are its reference;
    what was seen before them is none.

    Parameters
    ----------
    settings
        Window and rows of a slope.
    """

    def __init__(self, settings: TrackAnalysis) -> None:
        self._least = settings.contraction_rows
        self._window = Window(settings.contraction_window_s, self._least)
        self._first: deque[tuple[float, float, float]] = deque(maxlen=self._least)
        self._reference = (math.nan, math.nan, math.nan)

    def update(self, time_s: float, length_nm: float, length_nm_err: float) -> Change:
        """Take up a frame's length; NaN is none, and breaks off what was running."""
        if not (length_nm > 0 and 0 < length_nm_err < length_nm):
            self._first.clear()
            length_nm = math.nan
        elif math.isnan(self._reference[0]):
            self._first.append((time_s, length_nm, length_nm_err))
            self._refer()
        else:
            self._window.add(time_s, length_nm, length_nm_err)
        rate = self._window.slope(time_s)
        if math.isnan(length_nm):
            # It is not known whether the length is still there: no rate of what is not seen.
            return self._change(UNKNOWN, math.nan, math.nan)
        return self._change(rate, length_nm, length_nm_err)

    def _change(self, rate: Slope, length_nm: float, length_nm_err: float) -> Change:
        reference, reference_err, reference_s = self._reference
        return Change(
            rate=rate,
            rate_percent_per_min=PERCENT_PER_MIN * rate.value / length_nm,
            rate_percent_per_min_err=PERCENT_PER_MIN * rate.err / length_nm,
            strain_percent=100.0 * (length_nm / reference - 1.0),
            strain_percent_err=100.0
            * math.hypot(length_nm_err, reference_err * length_nm / reference)
            / reference,
            reference_nm=reference,
            reference_nm_err=reference_err,
            reference_s=reference_s,
        )

    def _refer(self) -> None:
        if len(self._first) < self._least:
            return
        times, lengths, errors = zip(*self._first, strict=True)
        if not slope(times, lengths, errors).straight:
            return
        mean, error = weighted_mean(lengths, errors)
        moment, _ = weighted_mean(times, errors)
        self._reference = (mean, error, moment)
        for each in self._first:
            self._window.add(*each)


class SpacingOverTime:
    """Rows of ``assembly/peaks`` to rates of the spacing and its strain since order began.

    Parameters
    ----------
    settings
        Section ``tracks`` of a config.
    """

    name: ClassVar[str] = "spacing"
    reads: ClassVar[tuple[str, ...]] = ("assembly/peaks",)
    produces: ClassVar[tuple[type[Result], ...]] = (SpacingContraction,)

    def __init__(self, settings: TrackAnalysis) -> None:
        self._settings = settings
        self.reset({})

    def reset(self, metadata: Mapping[str, Any], /) -> None:
        """Begin a run."""
        self._length = FollowedLength(self._settings)

    def process(self, row: Row, /) -> Iterable[Result]:
        """Rate and strain as of a row."""
        time_s = number(row, "time_s")
        spacing, error = value_of(row, "spacing_nm")
        # A frame that gave nothing is not one without order.
        looked_at = math.isfinite(time_s) and math.isfinite(number(row, "order_z"))
        change = self._length.update(time_s, spacing, error) if looked_at else Change()
        yield SpacingContraction(
            frame=int(row["frame"]),
            time_s=time_s,
            spacing_nm=spacing,
            spacing_nm_err=error,
            rate_nm_per_s=change.rate.value,
            rate_nm_per_s_err=change.rate.err,
            rate_percent_per_min=change.rate_percent_per_min,
            rate_percent_per_min_err=change.rate_percent_per_min_err,
            rate_time_s=change.rate.time_s,
            rate_window_s=change.rate.span_s,
            rate_rows=change.rate.rows,
            strain_percent=change.strain_percent,
            strain_percent_err=change.strain_percent_err,
            reference_nm=change.reference_nm,
            reference_nm_err=change.reference_nm_err,
            reference_s=change.reference_s,
        )


class CellOverTime:
    """Rows of ``assembly/lattice`` to rates of the cell's edges, each lattice for itself.

    Parameters
    ----------
    settings
        Section ``tracks`` of a config.
    """

    name: ClassVar[str] = "cell"
    reads: ClassVar[tuple[str, ...]] = ("assembly/lattice",)
    produces: ClassVar[tuple[type[Result], ...]] = (CellContraction,)

    def __init__(self, settings: TrackAnalysis) -> None:
        self._settings = settings
        self.reset({})

    def reset(self, metadata: Mapping[str, Any], /) -> None:
        """Begin a run."""
        self._lattices: dict[str, dict[str, FollowedLength]] = {}

    def process(self, row: Row, /) -> Iterable[Result]:
        """Rates and strains as of a row."""
        time_s = number(row, "time_s")
        lattice = str(row.get("lattice") or "")
        columns: dict[str, float] = {}
        changes = dict.fromkeys(EDGES, Change())
        if lattice not in UNCLAIMED and math.isfinite(time_s):
            edges = self._lattices.setdefault(
                lattice, {edge: FollowedLength(self._settings) for edge in EDGES}
            )
            for edge in EDGES:
                changes[edge] = edges[edge].update(time_s, *value_of(row, f"{edge}_nm"))
        for edge, change in changes.items():
            length, error = value_of(row, f"{edge}_nm")
            columns |= {
                f"{edge}_nm": length,
                f"{edge}_nm_err": error,
                f"{edge}_rate_nm_per_s": change.rate.value,
                f"{edge}_rate_nm_per_s_err": change.rate.err,
                f"{edge}_rate_percent_per_min": change.rate_percent_per_min,
                f"{edge}_rate_percent_per_min_err": change.rate_percent_per_min_err,
                f"{edge}_strain_percent": change.strain_percent,
                f"{edge}_strain_percent_err": change.strain_percent_err,
            }
        first = changes["a"]
        yield CellContraction(
            frame=int(row["frame"]),
            time_s=time_s,
            lattice=lattice,
            rate_time_s=first.rate.time_s,
            rate_window_s=first.rate.span_s,
            rate_rows=first.rate.rows,
            reference_s=first.reference_s,
            **columns,
        )
