"""The one abstraction: a stage turns a message into messages and does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pipeline.messages.frames import StreamStart
from pipeline.messages.results import Result


class BadFrameError(ValueError):
    """A frame that cannot be used. The text says expected, got, and which frame."""


@dataclass(frozen=True, slots=True, eq=False)
class RunStart:
    """What a stage may know before the first frame.

    ``stream`` is the start message of the stream that the stage reads.
    """

    run: str
    stream: StreamStart
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RunDocument:
    """What is known of a whole run: ``start`` opens its container, ``stop`` completes it."""

    run: str
    name: Literal["start", "stop"]
    document: Mapping[str, Any]


@runtime_checkable
class Stage(Protocol):
    """Consumes messages of the types in ``consumes``; all others pass it by.

    A stage is a pure function of its settings, the start and the message, so a stream can be
    taken up again at any frame and gives the same numbers. One that remembers frames says how far
    back by a method ``first_needed(frame) -> int``: fed from that frame on, it gives for ``frame``
    what it would have given had it seen all. What it gives before is thrown away.
    """

    name: ClassVar[str]
    consumes: ClassVar[tuple[type, ...]]
    produces: ClassVar[tuple[type[Result], ...]]

    def reset(self, start: RunStart, /) -> None: ...

    def process(self, message: Any, /) -> Iterable[Result]: ...
