"""Stages one after the other on one frame."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.bus import bslz4
from pipeline.bus.errors import WireError
from pipeline.messages import (
    BadFrameError,
    Frame,
    FrameResults,
    ImageFrame,
    PackedImageFrame,
    Result,
    RunStart,
    Stage,
)

log = logging.getLogger(__name__)


class StageChain:
    """Hands each message to every stage that consumes its type, in the stages' order."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self._start: RunStart | None = None

    @property
    def produces(self) -> list[type[Result]]:
        """Classes of the results that are stored, in the order of the stages."""
        found = [r for stage in self.stages for r in stage.produces if r.NODE is not None]
        return list(dict.fromkeys(found))

    @property
    def reads_packed(self) -> bool:
        """Whether a stage reads compressed images itself."""
        return any(PackedImageFrame in stage.consumes for stage in self.stages)

    def warm_up(self) -> None:
        """Compile what the stages need, or load it from the disk's cache, before any frame."""
        log.info("kernels are compiled, or loaded: the first time takes minutes")
        for stage in self.stages:
            if (compile_kernels := getattr(stage, "warm_up", None)) is not None:
                compile_kernels()

    def reset(self, start: RunStart) -> None:
        """Begin a run in every stage."""
        self._start = start
        for stage in self.stages:
            stage.reset(start)

    def first_needed(self, frame: int) -> int:
        """Where to begin so that ``frame`` comes out as if all had been processed in one go."""
        for stage in reversed(self.stages):
            if (needed := getattr(stage, "first_needed", None)) is not None:
                frame = min(frame, needed(frame))
        return frame

    def process(self, frame: Frame, newest: int = -1) -> FrameResults:
        """All results of a frame. What a stage refuses is named; results before it are kept."""
        messages, rejected = self._through([frame])
        return self._results(frame.frame, frame.time_s, messages[1:], rejected, newest)

    def resume(self, received: FrameResults) -> FrameResults:
        """Go on where a chain in another process left off: its results, and those made of them.

        A frame that was rejected there gives nothing more here, as it would in one chain.
        """
        if received.rejected is not None:
            return received
        messages, rejected = self._through(received.results)
        return self._results(received.frame, received.time_s, messages, rejected, received.newest)

    def _through(self, first: Iterable[Frame | Result]) -> tuple[list[Frame | Result], str | None]:
        """``first`` and all that the stages make of it; why they stopped, if one refused."""
        messages = list(first)
        unpacked: ImageFrame | None = None
        try:
            for stage in self.stages:
                for message in tuple(messages):
                    if isinstance(message, PackedImageFrame) and _wants_pixels(stage):
                        # One image for all stages that cannot read it as it is.
                        unpacked = unpacked or unpack(message)
                        message = unpacked
                    if isinstance(message, stage.consumes):
                        messages += stage.process(message)
        except BadFrameError as error:
            return messages, str(error)
        return messages, None

    def missing(self, frame: int, reason: str, newest: int = -1) -> FrameResults:
        """The entry of a frame that never came, or that cannot be read."""
        return self._results(frame, math.nan, (), reason, newest)

    def _results(
        self,
        frame: int,
        time_s: float,
        messages: Iterable[Frame | Result],
        rejected: str | None,
        newest: int,
    ) -> FrameResults:
        assert self._start is not None, "reset the chain before the first frame"
        return FrameResults(
            stream=self._start.stream.stream,
            run=self._start.run,
            frame=frame,
            time_s=time_s,
            results=tuple(m for m in messages if isinstance(m, Result) and m.NODE is not None),
            rejected=rejected,
            newest=newest,
        )


def _wants_pixels(stage: Stage) -> bool:
    return ImageFrame in stage.consumes and PackedImageFrame not in stage.consumes


def unpack(frame: PackedImageFrame) -> ImageFrame:
    """The frame with its image.

    Raises
    ------
    BadFrameError
        If the image cannot be decompressed.
    """
    try:
        image = bslz4.decompress(frame.payload, frame.shape, np.dtype(frame.dtype))
    except WireError as error:
        raise BadFrameError(f"{frame.stream} frame {frame.frame}: {error}") from error
    return ImageFrame(
        frame.stream,
        frame.frame,
        frame.time_ns,
        frame.exposure_s,
        image,
        frame.monitor,
        frame.transmission,
    )
