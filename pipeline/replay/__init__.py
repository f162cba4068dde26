"""A recorded run through the same bus: readers of recordings, and the player that publishes them.

`open_recording` knows the formats; ``python -m pipeline.replay`` plays.
"""

from pipeline.replay.open import open_recording
from pipeline.replay.player import Player, parse_speed
from pipeline.replay.recording import Recording, ReplayError, StreamSource

__all__ = ["Player", "Recording", "ReplayError", "StreamSource", "open_recording", "parse_speed"]
