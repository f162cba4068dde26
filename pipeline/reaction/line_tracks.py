"""Lines of a table followed over time: births, deaths, and the track that each line is on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pipeline.config.tracks import TrackAnalysis
from pipeline.messages import CrystalTracks, LineTracks, OrderTracks, Result, lines_of
from pipeline.messages.lines import MOST_LINES
from pipeline.messages.rows import Row, number
from pipeline.tracks import Linked, MovingTracks, Sighting

COLUMNS = tuple(f"line_{k}_track" for k in range(1, MOST_LINES + 1))
NONE_YET: dict[str, Any] = {
    "birth_track": 0,
    "birth_q_per_nm": math.nan,
    "birth_s": math.nan,
    "death_track": 0,
    "death_q_per_nm": math.nan,
    "death_s": math.nan,
}


class FollowLines:
    """Rows of lines, in the order of frames, to tracks; a frame that gave nothing changes none.

    A row has room for the strongest lines only: one that stronger ones push out of it is missed
    like one that fades. What lives is what can be seen.

    Parameters
    ----------
    settings
        Section ``tracks`` of a config.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    made: ClassVar[type[LineTracks]]
    produces: ClassVar[tuple[type[Result], ...]]

    def __init__(self, settings: TrackAnalysis) -> None:
        self._settings = settings
        self.reset({})

    def reset(self, metadata: Mapping[str, Any], /) -> None:
        """Begin a run."""
        self._tracks = MovingTracks(self._settings.confirm_frames, self._settings.lost_frames)
        self._linked = Linked((), 0, (), ())
        self._newest = NONE_YET

    def process(self, row: Row, /) -> Iterable[Result]:
        """The tracks as of a row of lines."""
        time_s = number(row, "time_s")
        if row.get("judged", True) and math.isfinite(time_s):
            linked = self._tracks.follow([Sighting.of(line, time_s) for line in lines_of(row)])
        else:
            linked = Linked((), self._linked.alive, (), ())
        self._linked = linked
        for track in linked.born:
            self._newest = self._newest | {
                "birth_track": track.number,
                "birth_q_per_nm": track.first.place,
                "birth_s": track.first.time_s,
            }
        for track in linked.died:
            self._newest = self._newest | {
                "death_track": track.number,
                "death_q_per_nm": track.last.place,
                "death_s": track.last.time_s,
            }
        numbers = [0 if track is None else track.number for track in linked.tracks]
        numbers += [0] * (MOST_LINES - len(numbers))
        yield self.made(
            frame=int(row["frame"]),
            time_s=time_s,
            tracks=linked.alive,
            births=linked.births,
            deaths=linked.deaths,
            **self._newest,
            **dict(zip(COLUMNS, numbers, strict=True)),
        )


class FollowOrderLines(FollowLines):
    """Lines of the structure factor."""

    name: ClassVar[str] = "order"
    reads: ClassVar[tuple[str, ...]] = ("assembly/lines",)
    made: ClassVar[type[LineTracks]] = OrderTracks
    produces: ClassVar[tuple[type[Result], ...]] = (OrderTracks,)


class FollowCrystalLines(FollowLines):
    """Lines of the wide-angle detector."""

    name: ClassVar[str] = "crystal"
    reads: ClassVar[tuple[str, ...]] = ("waxs/lines",)
    made: ClassVar[type[LineTracks]] = CrystalTracks
    produces: ClassVar[tuple[type[Result], ...]] = (CrystalTracks,)
