"""Where configs come from, and what they say about streams."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import pipeline
from pipeline.cli.session import SessionError
from pipeline.config import RunConfig
from pipeline.config.acquisition import STREAMS


def packaged(name: str) -> Path:
    """A config that comes with nucleate: beside the package, or where pip put it."""
    places = (
        Path(pipeline.__file__).resolve().parent.parent / "configs",
        Path(sys.prefix) / "share" / "nucleate" / "configs",
    )
    for place in places:
        if (place / name).is_file():
            return place / name
    raise SessionError(
        f"{name} is in none of {', '.join(map(str, places))}: install nucleate again"
    )


def recorded(recording: str, data_dir: Path) -> Path:
    """The config that a recording brings: in its folder, or in the metadata of a run in Tiled.

    The latter is written into the data folder, since a run's processes read a file.
    """
    path = Path(recording) / "config.yaml"
    if path.is_file():
        return path
    # Imported late: most commands need no reader.
    from pipeline.replay import open_recording
    from pipeline.replay.tiled_run import is_tiled_uri

    if is_tiled_uri(recording):
        source = open_recording(recording)
        if source.config_text:
            digest = hashlib.sha256(source.config_text.encode()).hexdigest()
            path = data_dir / "configs" / f"{digest[:16]}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source.config_text, encoding="utf-8")
            return path
    elif not Path(recording).exists():
        raise SessionError(f"{recording}: no such file or folder")
    raise SessionError(
        f"{recording} has no config of its own: name one with --config "
        "(configs/ has one for each kind of recording)"
    )


def unanswered(config: RunConfig, streams: Sequence[str]) -> list[str]:
    """Questions of a config that no result of these streams can answer, one line each."""
    notes = []
    fitted = "saxs" in streams and config.saxs.fit is not None
    if config.detect.recipe != "none" and not fitted:
        notes.append(
            f"detect.recipe {config.detect.recipe}: phases are told by fits of SAXS, "
            "which this run does not have"
        )
    if config.detect.superlattice and fitted and config.saxs.assembly is None:
        notes.append("detect.superlattice: order is not sought without a section saxs.assembly")
    return notes


def acquired_streams(config: RunConfig) -> tuple[str, ...]:
    """Streams of the devices that a config names."""
    devices = config.acquisition.devices
    return tuple(name for name in STREAMS if getattr(devices, name) is not None)


def streams_of(config: RunConfig) -> tuple[str, ...]:
    """Streams that a config is for: of the recording that it names, else of its devices."""
    replayed = {config.replay.stream, *(also.stream for also in config.replay.also)}
    return tuple(name for name in STREAMS if name in replayed) or acquired_streams(config)
