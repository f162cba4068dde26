"""What every reader of a recording hands over."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.messages import Frame, ImageFrame, StreamEnd, StreamStart

#: Bytes of a file that are in memory while it is hashed.
_HASH_BLOCK = 1 << 20


class ReplayError(Exception):
    """A recording that cannot be replayed; the text is one line: expected, got, where."""


@dataclass(frozen=True, slots=True, eq=False)
class StreamSource:
    """One stream of a recording. Iterating gives StreamStart, frames in time order, StreamEnd.

    Frames are read one by one as they are asked for, so a recording may be larger than memory; it
    can be iterated any number of times.

    Attributes
    ----------
    start
        First message.
    frame_count
        Frame numbers that were given out; there may be fewer frames than numbers.
    read
        Gives the frames, in the order of their numbers.
    spool
        The file in the layout of the bus that already holds the frames, if there is one.
    reason
        Why the stream ended.
    """

    start: StreamStart
    frame_count: int
    read: Callable[[], Iterator[Frame]]
    spool: Path | None = None
    reason: str = "done"

    def frames(self) -> Iterator[Frame]:
        """The frames alone, checked: numbers and times rise, numbers stay below ``frame_count``."""
        last_frame, last_ns = -1, None
        for frame in self.read():
            name = f"{self.start.stream} frame {frame.frame}"
            if not last_frame < frame.frame < self.frame_count:
                raise ReplayError(
                    f"{name}: expected a number from {last_frame + 1} to {self.frame_count - 1}"
                )
            if last_ns is not None and frame.time_ns < last_ns:
                raise ReplayError(
                    f"{name}: expected a time of at least {last_ns * 1e-9:.9g} s (the frame "
                    f"before), got {frame.time_s:.9g} s: this recording's clock is not in order"
                )
            last_frame, last_ns = frame.frame, frame.time_ns
            yield frame

    def __iter__(self) -> Iterator[StreamStart | Frame | StreamEnd]:
        yield self.start
        yield from self.frames()
        yield StreamEnd(self.start.stream, self.start.run, self.frame_count, self.reason)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recorded run that is ready to be read.

    Attributes
    ----------
    name
        Short name, for people and for the key of the replay.
    uri
        Where it is, for the record.
    format
        What it was read as.
    streams
        By name.
    inputs
        Files that it consists of, or None for what does not lie in files.
    start_document
        What is known of the run as a whole; the original's start document if there is one.
    stop_document
        Of the original run, if there is one.
    config_text
        The original's config, if there is one.
    fingerprint
        Instead of the hash of files, where there are none.
    close
        Lets go of a server, after the last frame. Files are open only while frames are read.
    """

    name: str
    uri: str
    format: str
    streams: Mapping[str, StreamSource]
    inputs: tuple[Path, ...] = ()
    start_document: Mapping[str, Any] = field(default_factory=dict)
    stop_document: Mapping[str, Any] = field(default_factory=dict)
    config_text: str | None = None
    fingerprint: str | None = None
    close: Callable[[], None] = lambda: None

    def content_hash(self) -> str:
        """``sha256:`` of all input files, names and contents, independent of where they lie.

        Reads every byte once (about 1 GB/s). Of a run in a server, which has no files, it is the
        hash of what identifies the stored arrays (``fingerprint``).
        """
        if self.fingerprint is not None:
            return self.fingerprint
        digest = hashlib.sha256()
        for path in sorted(self.inputs, key=lambda p: p.name):
            with path.open("rb") as file:
                one = hashlib.sha256()
                while block := file.read(_HASH_BLOCK):
                    one.update(block)
            digest.update(f"{one.hexdigest()}  {path.name}\n".encode())
        return f"sha256:{digest.hexdigest()}"


def seconds_to_ns(seconds: float) -> int:
    """Nearest nanosecond. Exact for what was written with up to nine decimals, to 100 days."""
    return round(seconds * 1e9)


def as_unsigned(image: np.ndarray, name: str) -> np.ndarray:
    """Counts as unsigned integers, which is what detectors send; unsigned ones pass untouched.

    Negative counts (pixels that a detector declares dead, or gaps) and NaN become the largest
    value of the type, the mark that DECTRIS detectors use for a pixel without a value.

    Parameters
    ----------
    image
        Signed or unsigned integers, or floats that hold whole counts.
    name
        For the message.
    """
    kind = image.dtype.kind
    if kind == "u":
        return image
    if kind == "b":
        return image.astype(np.uint8)
    if kind == "i":
        unsigned = np.dtype(f"u{image.dtype.itemsize}")
        return np.where(image < 0, np.iinfo(unsigned).max, image.astype(unsigned))
    if kind == "f":
        usable = np.isfinite(image) & (image >= 0) & (image < 2**32 - 1)
        counts = np.where(usable, image, 0.0)
        if not np.array_equal(counts, np.rint(counts)):
            raise ReplayError(
                f"{name}: expected counts (whole numbers), got {image.dtype} with fractions such "
                f"as {counts[counts != np.rint(counts)][0]:.6g}: replay the raw images instead"
            )
        return np.where(usable, counts, 2**32 - 1).astype(np.uint32)
    raise ReplayError(f"{name}: expected counts, got values of type {image.dtype}")


def image_stream(
    start: StreamStart, count: int, frames: Callable[[], Iterable[ImageFrame]]
) -> StreamSource:
    """A stream of images whose reader is checked for shape and type on the way."""

    def read() -> Iterator[Frame]:
        for frame in frames():
            got = (frame.image.shape, frame.image.dtype.str)
            if got != (start.shape, start.dtype):
                raise ReplayError(
                    f"{start.stream} frame {frame.frame}: expected {start.shape} {start.dtype} as "
                    f"in the first frame, got {got[0]} {got[1]}"
                )
            yield frame

    return StreamSource(start, count, read)
