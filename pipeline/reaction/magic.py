"""Discrete sizes of a run: from the minima of its spectra to tracks, histogram and ladder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.config.magic import MagicAnalysis
from pipeline.messages import (
    MagicHistogram,
    MagicLadder,
    MagicPlateaus,
    MagicTracks,
    Result,
)
from pipeline.messages.magic import MOST_MINIMA
from pipeline.messages.rows import number
from pipeline.reaction.magic_ladder import Ladder
from pipeline.tracks import Tracks

SLOPE_STEP_EV = 1e-4
"""For the slope of the sizing curve: far above rounding, far below its bends."""
JUMP_CELLS = 0.5
"""From one track to another the size changes by at least this, or it is a peak that split."""
JUMP_SIGMA = 5.0
"""And by as many standard errors: where noise splits a broad peak, tracks take turns."""
TRACK_COLUMNS = tuple(f"minimum_{k}_track" for k in range(1, MOST_MINIMA + 1))


@dataclass(frozen=True, slots=True)
class Size:
    """Of the moment; ``index`` is that of its minimum."""

    index: int
    diameter_nm: float
    diameter_nm_err: float


class MagicSizes:
    """Rows of `Minima`, in the order of frames, to tracks, ladder, plateaus and histogram.

    The size of a moment is that of the lowest minimum that is nearly as deep as the deepest:
    minima above it are second and higher transitions, shallower ones below it larger crystals
    that are still few. Nothing but the rows since `reset` decides, so a replay is the same.

    Parameters
    ----------
    settings
        Section ``absorbance.magic`` of a config.
    diameter_nm
        Sizing curve: energy in eV to diameter in nm, NaN where it does not reach.
    """

    name: ClassVar[str] = "magic"
    reads: ClassVar[tuple[str, ...]] = ("absorbance/minima",)
    produces: ClassVar[tuple[type[Result], ...]] = (
        MagicTracks,
        MagicLadder,
        MagicPlateaus,
        MagicHistogram,
    )

    def __init__(self, settings: MagicAnalysis, diameter_nm: Callable[[float], float]) -> None:
        self._settings = settings
        self._diameter_nm = diameter_nm
        self._ladder = Ladder(settings)
        self.reset({})

    def reset(self, metadata: Mapping[str, Any], /) -> None:
        """Begin a run."""
        self._ladder.reset()
        # Within half a window of each other there is one minimum only, but for noise.
        self._tracks = Tracks(1e-3 * self._settings.half_width_mev)
        self._shown = 0
        self._shown_nm = self._shown_nm_err = math.nan

    def warm_up(self) -> None:
        """Compile (or load from the cache) every kernel, before the first row."""
        ladder = Ladder(self._settings)
        cell = self._settings.unit_cell_nm
        # Four sizes of four spectra each: enough for a test.
        for k in range(16):
            size = (3 + k // 4) * cell
            list(ladder.process(k, float(k), size, 0.01 * cell))
        self._diameter_nm(self._settings.energy_range_ev[1])

    def process(self, row: Mapping[str, Any], /) -> Iterable[Result]:
        """Tracks, ladder, plateaus and histogram as of a row of ``absorbance/minima``."""
        frame, time_s = int(row["frame"]), number(row, "time_s")
        minima = _minima(row)
        size = self._size(minima)
        yield self._followed(frame, time_s, [energy for energy, *_ in minima], size)
        if size is None:
            yield from self._ladder.process(frame, time_s, math.nan, math.nan)
        else:
            yield from self._ladder.process(frame, time_s, size.diameter_nm, size.diameter_nm_err)

    def _size(self, minima: list[tuple[float, float, float]]) -> Size | None:
        deepest = max((depth for *_, depth in minima), default=0.0)
        low, high = self._settings.size_range_nm
        for index, (energy, error, depth) in enumerate(minima):
            if depth < self._settings.dominant_share * deepest:
                continue
            diameter = self._diameter_nm(energy)
            if not low <= diameter <= high:
                continue
            rise = self._diameter_nm(energy + SLOPE_STEP_EV)
            fall = self._diameter_nm(energy - SLOPE_STEP_EV)
            spread = abs(rise - fall) / (2.0 * SLOPE_STEP_EV) * error
            # At an end of the curve the slope is not known, and so not the error.
            return Size(index, diameter, spread) if math.isfinite(spread) else None
        return None

    def _followed(
        self, frame: int, time_s: float, energies_ev: list[float], size: Size | None
    ) -> MagicTracks:
        linked = self._tracks.link(time_s, energies_ev)
        cell_nm = self._settings.unit_cell_nm
        track = None if size is None else linked.tracks[size.index]
        jump_nm = math.nan
        if track is not None and size is not None:
            jump_nm = self._jump_nm(track.number, size)
        numbers = [0 if other is None else other.number for other in linked.tracks]
        numbers += [0] * (MOST_MINIMA - len(numbers))
        return MagicTracks(
            frame=frame,
            time_s=time_s,
            track=0 if track is None else track.number,
            age_s=math.nan if track is None else time_s - track.begin_s,
            diameter_nm=math.nan if size is None else size.diameter_nm,
            diameter_nm_err=math.nan if size is None else size.diameter_nm_err,
            cells=math.nan if size is None else size.diameter_nm / cell_nm,
            tracks=linked.alive,
            births=linked.births,
            deaths=linked.deaths,
            jump_cells=jump_nm / cell_nm,
            **dict(zip(TRACK_COLUMNS, numbers, strict=True)),
        )

    def _jump_nm(self, track: int, size: Size) -> float:
        """How far the size went with its change of tracks; NaN if it did neither."""
        change = size.diameter_nm - self._shown_nm
        error = math.hypot(size.diameter_nm_err, self._shown_nm_err)
        least = max(JUMP_CELLS * self._settings.unit_cell_nm, JUMP_SIGMA * error)
        jumped = self._shown not in (0, track) and abs(change) >= least
        self._shown = track
        self._shown_nm, self._shown_nm_err = size.diameter_nm, size.diameter_nm_err
        return change if jumped else math.nan


def _minima(row: Mapping[str, Any]) -> list[tuple[float, float, float]]:
    """Energy, its error and depth of each minimum of a row, by rising energy."""
    found = []
    for k in range(1, MOST_MINIMA + 1):
        values = tuple(row.get(f"minimum_{k}_{name}") for name in ("ev", "ev_err", "depth"))
        numbers = [math.nan if value is None else float(value) for value in values]
        if not all(math.isfinite(number) for number in numbers):
            break
        found.append((numbers[0], numbers[1], numbers[2]))
    return found
