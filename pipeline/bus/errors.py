"""What can go wrong on the bus, by name."""

from __future__ import annotations

from pipeline.messages import BadFrameError


class WireError(BadFrameError):
    """A message that is not what the protocol says. One line: expected and got."""


class SpoolError(BadFrameError):
    """A recording that cannot be read, or taken up again. One line: which file, what to do."""


class LinkRefusedError(RuntimeError):
    """The receiver of results does not want this stream. Raised by handlers and by senders."""
