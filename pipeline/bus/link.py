"""Results to their store: nothing is lost, whichever side is killed.

The sender keeps every message until the receiver says that it is durable. Messages of a session
carry consecutive numbers; a receiver that meets a gap, or a session that it does not know (it was
restarted), says so, and the sender begins a new session with all that is not yet durable, its
openings first. So a receiver may see a frame twice: its handler must not mind.

Every message is an envelope (msgpack: ``type``, ``session``, ``seq``) and a body
(`pipeline.bus.codec`). Answers are envelopes only: ``opened``, ``refused``, ``handled``, ``ack``
(all up to this frame is durable), ``ended``, ``gap``, ``unknown``, ``pong``.
"""

from __future__ import annotations

from pipeline.bus.link_receiver import LinkHandler, LinkReceiver
from pipeline.bus.link_sender import LinkSender

__all__ = ["LinkHandler", "LinkReceiver", "LinkSender"]
