"""What a run's results depend on: files and what is in them, geometry, versions of software."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from pipeline.config.run import RunConfig

# Of geometries that are no PONI text, as `pipeline.reduce.geometry.read_geometry` tells them.
_OTHER_GEOMETRIES = (".h5", ".hdf", ".hdf5", ".nxs", ".dat", ".fit2d")


def input_files(config: RunConfig) -> list[Path]:
    """Files that a config's reduction names, and those of detectors that its PONI files name."""
    named = [
        Path(name)
        for reduce in (config.saxs.reduce, config.waxs.reduce)
        for name in (
            reduce.poni_file,
            reduce.mask_file,
            reduce.dark_file,
            reduce.flat_file,
            reduce.background_file,
        )
        if name is not None
    ]
    ponis = [reduce.poni_file for reduce in (config.saxs.reduce, config.waxs.reduce)]
    detectors = [_detector_file(Path(name)) for name in ponis if name is not None]
    return [*named, *(path for path in detectors if path is not None)]


def _detector_file(poni_file: Path) -> Path | None:
    """The file that a PONI file names for its detector's pixels.

    None if it names none, or cannot be read: whoever needs the geometry says so.
    """
    if poni_file.suffix.lower() in _OTHER_GEOMETRIES or not poni_file.is_file():
        return None
    name = None
    for line in poni_file.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() != "detector_config":
            continue
        try:
            config = json.loads(value)
        except json.JSONDecodeError:
            config = None
        # A file to which calibrations were appended counts by its last entries.
        name = config.get("filename") if isinstance(config, dict) else None
    return poni_file.parent / name if isinstance(name, str) and name else None


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
        Its ``poni_file`` overrides what the detector says. What is no PONI text is named, not
        quoted.
    of_streams
        What the detectors say, by stream.
    """
    overriding = {"saxs": config.saxs.reduce.poni_file, "waxs": config.waxs.reduce.poni_file}
    found = dict(of_streams)
    for stream, name in overriding.items():
        if name is not None:
            is_text = Path(name).suffix.lower() not in _OTHER_GEOMETRIES
            found[stream] = (
                Path(name).read_text(encoding="utf-8", errors="replace") if is_text else name
            )
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
