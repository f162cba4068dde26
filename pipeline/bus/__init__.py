"""How frames and results travel, so that none is lost.

Frames: `FramePublisher` records each one and publishes it; `FrameConsumer` takes it live or, if
it missed it, out of the recording (`RepairServer`). Results: `LinkSender` keeps each until the
store, behind a `LinkReceiver`, has made it durable.
"""

from pipeline.bus.consumer import BadFrame, FrameConsumer, LostFrame
from pipeline.bus.errors import LinkRefusedError, SpoolError, WireError
from pipeline.bus.link import LinkHandler, LinkReceiver, LinkSender
from pipeline.bus.publisher import FramePublisher
from pipeline.bus.repair import RepairServer
from pipeline.bus.spool import SpoolReader, SpoolWriter

__all__ = [
    "BadFrame",
    "FrameConsumer",
    "FramePublisher",
    "LinkHandler",
    "LinkReceiver",
    "LinkRefusedError",
    "LinkSender",
    "LostFrame",
    "RepairServer",
    "SpoolError",
    "SpoolReader",
    "SpoolWriter",
    "WireError",
]
