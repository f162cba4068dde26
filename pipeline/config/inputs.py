"""What a run's results depend on: files and what is in them, geometry, versions of software."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from pipeline.config.run import RunConfig


def input_files(config: RunConfig) -> list[Path]:
    """Files that a config's reduction names."""
    named = [
        name
        for reduce in (config.saxs.reduce, config.waxs.reduce)
        for name in (
            reduce.poni_file,
            reduce.mask_file,
            reduce.dark_file,
            reduce.flat_file,
            reduce.background_file,
        )
    ]
    return [Path(name) for name in named if name is not None]


def input_hashes(config_file: Path, config: RunConfig) -> list[dict[str, str]]:
    """``file`` and ``sha256`` of the config and of each file that its reduction names.

    A list, since neither bluesky nor Tiled takes a path for a key.

    Parameters
    ----------
    config_file
        Where ``config`` was read from.
    config
        Its paths are absolute, as :func:`pipeline.config.loader.load_config` leaves them.

    Raises
    ------
    OSError
        If one of the files cannot be read; it names the file.
    """
    paths = [config_file, *input_files(config)]
    return [
        {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in paths
    ]


def geometries(config: RunConfig, of_streams: dict[str, str]) -> dict[str, str]:
    """Text of the geometry (PONI) that each stream is reduced with.

    Parameters
    ----------
    config
        Its ``poni_file`` overrides what the detector says. A NeXus file is named, not quoted.
    of_streams
        What the detectors say, by stream.
    """
    overriding = {"saxs": config.saxs.reduce.poni_file, "waxs": config.waxs.reduce.poni_file}
    found = dict(of_streams)
    for stream, name in overriding.items():
        if name is not None:
            is_text = Path(name).suffix.lower() == ".poni"
            found[stream] = Path(name).read_text(encoding="utf-8") if is_text else name
    return found


def software_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of packages; one that runs uninstalled is left out."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
