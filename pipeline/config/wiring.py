"""Who talks to whom in one run: addresses that the command line hands to each process."""

from pathlib import Path

from pydantic import Field

from pipeline.config.base import Section


class FrameEndpoints(Section):
    """Where one stream's frames are published."""

    live: str
    """PUB socket, e.g. ``tcp://127.0.0.1:5560``."""
    repair: str
    """ROUTER socket that serves frames again out of the recording."""


class Wiring(Section):
    """Addresses and places of one run. API keys are not in here: see TILED_API_KEY."""

    run: str = Field(min_length=1)
    """Identifier of the run, also its key in Tiled."""
    config_file: Path
    """The run's config."""
    recording_dir: Path
    """Folder that the run's frames are written to (acquisition) or read from (replay)."""
    frames: dict[str, FrameEndpoints]
    """By stream."""
    store: str
    """ROUTER socket that takes results."""
    links: dict[str, str] = Field(default_factory=dict)
    """By stream: ROUTER socket of the process that fits, where one of its own reduces."""
    tiled_url: str
    """Of the Tiled server."""
