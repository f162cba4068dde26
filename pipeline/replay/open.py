"""Which reader a recording needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from pipeline.config.replay import FurtherStream, ReplayFormat, StreamFormat
from pipeline.replay.curves import open_curves
from pipeline.replay.images import is_image, open_images, require_same_exposures
from pipeline.replay.nexus import open_nexus
from pipeline.replay.own import RUN_FILE, is_own, open_own
from pipeline.replay.recording import Recording, ReplayError
from pipeline.replay.spectra import open_spectra
from pipeline.replay.tiled_run import is_tiled_uri, open_tiled

_HDF5_SUFFIXES = (".h5", ".hdf", ".hdf5", ".nxs", ".nx5", ".nexus")

_READERS: dict[str, Callable[[Path, StreamFormat], Recording]] = {
    "recording": lambda path, _: open_own(path),
    "nexus": open_nexus,
    "images": open_images,
    "curves": open_curves,
    "spectra": open_spectra,
}


def open_recording(recording: str | Path, replay: ReplayFormat | None = None) -> Recording:
    """Open a recording for replay. No frame is read yet, but what can be checked has been.

    Parameters
    ----------
    recording
        A folder, a file, or the address of a run in Tiled (``tiled:URL#path`` or
        ``http://host/api/v1/metadata/raw/<uid>``).
    replay
        What the files do not say themselves; ``format: auto`` looks at them.

    Raises
    ------
    ReplayError
        One line: what was expected, what is there, what to do.
    """
    replay = replay or ReplayFormat()
    if is_tiled_uri(str(recording)):
        # Also where its config tells of the files that the run was once replayed from.
        return open_tiled(str(recording), replay)
    path = Path(recording)
    if not path.exists():
        raise ReplayError(f"{path}: no such file or folder")
    if path.is_dir() and is_own(path):
        # It has all streams, whatever its config tells of the files that they once came from.
        replay = ReplayFormat()
    found = _open_files(path, replay)
    for further in replay.also:
        found = _joined(found, path, replay, further)
    return dataclasses.replace(found, uri=str(path.resolve()))


def _joined(
    found: Recording, path: Path, replay: ReplayFormat, further: FurtherStream
) -> Recording:
    """A recording with one more stream, of ``replay.also``."""
    where = path
    if further.path is not None:
        where = (path if path.is_dir() else path.parent) / further.path
        if not where.exists():
            raise ReplayError(f"{where}: no such file or folder (path in replay.also)")
    more = _open_files(where, further)
    first = next(iter(found.streams.values()))
    for name, source in more.streams.items():
        if name in found.streams:
            raise ReplayError(f"{where}: is stream {name}, as another part of this recording is")
        if found.format == more.format == "images" and replay.period_s == further.period_s:
            require_same_exposures(first, source)
    # Counters that both were read with are one input.
    inputs = tuple(dict.fromkeys((*found.inputs, *more.inputs)))
    return dataclasses.replace(found, streams={**found.streams, **more.streams}, inputs=inputs)


def _open_files(path: Path, replay: StreamFormat) -> Recording:
    """Files of one stream, or of all if they are a recording of ours."""
    form = _detect(path, replay) if replay.format == "auto" else replay.format
    if form == "tiled":
        raise ReplayError(f"{path}: expected tiled:URL#path, got a {_kind(path)}")
    folder_wanted = form == "images"
    if path.is_dir() is not folder_wanted and form in ("images", "nexus", "spectra"):
        wanted = "folder" if folder_wanted else "file"
        raise ReplayError(f"{path}: {form}: expected a {wanted}, got a {_kind(path)}")
    found = _READERS[form](path, replay)
    empty = [name for name, stream in found.streams.items() if stream.frame_count == 0]
    if len(empty) == len(found.streams):
        raise ReplayError(f"{path}: has no frames")
    return found


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else "file"


def _detect(path: Path, replay: StreamFormat) -> str:
    if path.is_file():
        return _detect_file(path, replay)
    if is_own(path):
        return "recording"
    if not any(path.iterdir()):
        raise ReplayError(f"{path}: is empty")
    if replay.index is not None or (replay.q_unit is not None and replay.files is not None):
        return "curves"
    if replay.poni_file is not None or any(is_image(p) for p in path.iterdir()):
        return "images"
    raise ReplayError(
        f"{path}: not recognised: looked for {RUN_FILE} (our own), replay.index or replay.files "
        "with replay.q_unit (curves), and images or replay.poni_file (images); set replay.format "
        "in the config"
    )


def _detect_file(path: Path, replay: StreamFormat) -> str:
    suffix = path.suffix.lower()
    if suffix in _HDF5_SUFFIXES:
        return "recording" if is_own(path) else "nexus"
    if suffix == ".csv":
        return "curves" if replay.q_unit is not None else "spectra"
    raise ReplayError(
        f"{path}: not recognised: looked for HDF5 ({', '.join(_HDF5_SUFFIXES)}) and tables (.csv); "
        "set replay.format in the config"
    )
