"""What is known of a frame apart from its arrays; and which arrays it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.bus.errors import WireError
from pipeline.messages import (
    CurveFrame,
    Frame,
    ImageFrame,
    PackedImageFrame,
    SpectrumFrame,
    StreamStart,
)

MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """The scalars of a frame, see the fields of the same names in `pipeline.messages`."""

    frame: int
    time_ns: int
    exposure_s: float
    monitor: float = 1.0
    transmission: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.frame <= MAX_INT64:
            raise WireError(f"expected a frame number of 0 or more, got {self.frame}")
        if not -MAX_INT64 <= self.time_ns <= MAX_INT64:
            raise WireError(f"frame {self.frame}: expected a time of 64 bits, got {self.time_ns}")


def facts_of(frame: Frame) -> FrameFacts:
    """The scalars of a frame."""
    if isinstance(frame, ImageFrame | PackedImageFrame):
        return FrameFacts(
            frame.frame, frame.time_ns, frame.exposure_s, frame.monitor, frame.transmission
        )
    return FrameFacts(frame.frame, frame.time_ns, frame.exposure_s)


def arrays_of(frame: Frame) -> tuple[np.ndarray, ...]:
    """The arrays of a frame, the main one first."""
    if isinstance(frame, ImageFrame):
        return (frame.image,)
    if isinstance(frame, CurveFrame):
        return (frame.intensity, frame.sigma)
    if isinstance(frame, SpectrumFrame):
        return (frame.values,)
    raise TypeError(f"{frame.stream} frame {frame.frame}: its image is still packed")


def build_frame(start: StreamStart, facts: FrameFacts, arrays: tuple[np.ndarray, ...]) -> Frame:
    """The frame of a stream, from its facts and its arrays."""
    common = (start.stream, facts.frame, facts.time_ns, facts.exposure_s)
    if start.kind == "image":
        return ImageFrame(*common, arrays[0], facts.monitor, facts.transmission)
    if start.kind == "curve":
        return CurveFrame(*common, arrays[0], arrays[1])
    return SpectrumFrame(*common, arrays[0])


def check_frame(frame: Frame, start: StreamStart) -> None:
    """That a frame belongs to the stream that was announced.

    Raises
    ------
    WireError
        If stream, kind, shape or dtype differ.
    """
    kind = {"image": ImageFrame, "curve": CurveFrame}.get(start.kind, SpectrumFrame)
    where = f"{start.stream} frame {frame.frame}"
    if not isinstance(frame, kind) or frame.stream != start.stream:
        raise WireError(
            f"{where}: expected {kind.__name__} of stream {start.stream}, "
            f"got {type(frame).__name__} of {frame.stream}"
        )
    for array in arrays_of(frame):
        if array.shape != start.shape or array.dtype != np.dtype(start.dtype):
            raise WireError(
                f"{where}: expected {start.shape} {start.dtype}, "
                f"got {array.shape} {array.dtype.str}"
            )


def arrays_per_frame(start: StreamStart) -> int:
    """How many arrays of the stream's shape a frame has."""
    return 2 if start.kind == "curve" else 1
