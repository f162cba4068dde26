"""What is hosted here: rows of stored tables in, results out. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from pipeline.messages import BadFrameError, Result
from pipeline.messages.rows import Row, number


@runtime_checkable
class RowStage(Protocol):
    """Reads one table, row by row in order of frame; its results belong to the row's frame.

    ``name`` is that of the stream that it writes, ``reads`` the one node that it reads. What it
    gives follows from its settings and the rows alone: fed again from frame 0 it gives the same.
    A row of a frame that gave nothing is NaN; so is ``time_s`` of one that was lost.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    produces: ClassVar[tuple[type[Result], ...]]

    def reset(self, metadata: Mapping[str, Any], /) -> None:
        """Begin a run. ``metadata``: ``streams``, the names of those that the run has."""

    def process(self, row: Row, /) -> Iterable[Result]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """All that came of one frame of the stream that is written."""

    frame: int
    time_s: float
    results: tuple[Result, ...] = ()
    rejected: str | None = None


class RowStream(Protocol):
    """One stream that is written, made of one table or several.

    Outcomes come in order of frame, from 0, none left out, and do not depend on the order in
    which rows of different tables arrive.
    """

    name: str
    reads: Sequence[str]
    produces: Sequence[type[Result]]

    def take(self, node: str, row: Row, /) -> Iterable[Outcome]:
        """The next row of one of the tables."""
        ...

    def end(self, node: str, /) -> Iterable[Outcome]:
        """A table has no more rows."""
        ...


class SingleTable:
    """The stream of a stage that reads one table."""

    def __init__(self, stage: RowStage, metadata: Mapping[str, Any]) -> None:
        if len(stage.reads) != 1:
            raise ValueError(f"{stage.name}: expected one table, got {stage.reads}")
        self._stage = stage
        self.name = stage.name
        self.reads: Sequence[str] = stage.reads
        self.produces: Sequence[type[Result]] = stage.produces
        stage.reset(metadata)

    def take(self, _node: str, row: Row, /) -> Iterable[Outcome]:
        """The row's own outcome. What the stage refuses is named."""
        frame, time_s = int(row["frame"]), number(row, "time_s")
        try:
            yield Outcome(frame, time_s, tuple(self._stage.process(row)))
        except BadFrameError as error:
            yield Outcome(frame, time_s, rejected=str(error))

    def end(self, _node: str, /) -> Iterable[Outcome]:
        """Nothing waits here."""
        return ()
