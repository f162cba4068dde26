"""Which frames are exported, how, and why others cannot be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.export.curves import Q_UNITS, ExportError, NotThereError

STORED = "stored"


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """What became of each frame of a stream: columns of its table ``frames``, row n = frame n."""

    time_s: np.ndarray
    status: Sequence[str]
    note: Sequence[str]

    def __len__(self) -> int:
        return len(self.status)

    def why_missing(self, frame: int) -> str | None:
        """Why a frame has no curve; None if it has one."""
        if self.status[frame] == STORED:
            return None
        return self.note[frame] or self.status[frame]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Frames with a curve, and those that were asked for as well but have none, with the reason."""

    numbers: tuple[int, ...]
    left_out: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants exported.

    ``frame`` is one frame, ``frames`` a range ``A:B`` (from A up to and without B, either may be
    absent); negative numbers count from the newest frame, -1. Neither = all frames.
    """

    stream: str = "saxs"
    frame: int | None = None
    frames: str | None = None
    unit: str = "1/A"

    def __post_init__(self) -> None:
        if self.unit not in Q_UNITS:
            raise ExportError(f"expected unit {' or '.join(Q_UNITS)}, got {self.unit}")
        if self.frame is not None and self.frames is not None:
            raise ExportError("expected frame or frames, got both")
        if self.frames is not None and not re.fullmatch(r"(-?\d+)?:(-?\d+)?", self.frames):
            raise ExportError(f"expected frames as A:B, got {self.frames}")

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Request:
        """A request out of texts, as they stand in a media type.

        Raises
        ------
        ExportError
            If a name or a value is not one of ours.
        """
        texts = dict(given)
        frame = texts.pop("frame", None)
        if frame is not None and not re.fullmatch(r"-?\d+", frame):
            raise ExportError(f"expected frame as a number, got {frame}")
        if unknown := texts.keys() - {"stream", "frames", "unit"}:
            raise ExportError(
                f"expected stream, frame, frames or unit, got {', '.join(sorted(unknown))}"
            )
        return cls(frame=None if frame is None else int(frame), **texts)

    def choose(self, run: str, ledger: Ledger) -> Chosen:
        """The frames of a stream that are meant.

        Raises
        ------
        NotThereError
            If a frame is out of range or has no curve, or no frame of the range has one.
        """
        count = len(ledger)
        where = f"run {run}: {self.stream}"
        if not count:
            raise NotThereError(f"{where} has no frames yet")
        if self.frame is not None:
            frame = self.frame + count if self.frame < 0 else self.frame
            if not 0 <= frame < count:
                raise NotThereError(f"{where} has frames 0 to {count - 1}, got {self.frame}")
            if (reason := ledger.why_missing(frame)) is not None:
                raise NotThereError(f"{where} frame {frame} has no curve: {reason}")
            return Chosen((frame,), ())
        start, stop = self._bounds(count)
        if not 0 <= start < stop <= count:
            raise NotThereError(f"{where} has frames 0 to {count - 1}, got {self.frames}")
        reasons = {frame: ledger.why_missing(frame) for frame in range(start, stop)}
        numbers = tuple(frame for frame, reason in reasons.items() if reason is None)
        left_out = tuple((frame, reason) for frame, reason in reasons.items() if reason is not None)
        if not numbers:
            frame, reason = left_out[0]
            raise NotThereError(
                f"{where} frames {start} to {stop - 1} have no curves: {frame}: {reason}"
            )
        return Chosen(numbers, left_out)

    def _bounds(self, count: int) -> tuple[int, int]:
        first, _, last = (self.frames or ":").partition(":")
        start, stop = int(first or 0), int(last or count)
        return start + count if start < 0 else start, stop + count if stop < 0 else stop
