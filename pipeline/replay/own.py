"""Our own recordings: a folder with ``run.json`` and one file a stream, or such a file alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.bus.errors import SpoolError
from pipeline.bus.spool import SpoolReader
from pipeline.messages import Frame
from pipeline.replay.recording import Recording, ReplayError, StreamSource

#: What is known of a whole run: ``{"start": {...}, "stop": {...}, "config": "text"}``.
RUN_FILE = "run.json"

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def open_own(path: Path) -> Recording:
    """Open a recording that an acquisition (or a replay) left.

    Frames come back bit for bit, numbers and holes included. A stream whose writer was killed has
    no end: it is replayed as far as it goes, and the reason of its end says so.

    Parameters
    ----------
    path
        Folder with ``run.json``, or one ``<stream>.h5``.
    """
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("*.h5")) if path.is_dir() else [path]
    if not files:
        raise ReplayError(f"{path}: expected <stream>.h5 beside {RUN_FILE}, got no such file")
    document, inputs = _run_document(folder, path.is_dir())
    streams = {}
    for file in files:
        source = _stream(file)
        streams[source.start.stream] = source
    runs = sorted({source.start.run for source in streams.values()})
    if len(runs) > 1:
        raise ReplayError(f"{path}: expected streams of one run, got those of {', '.join(runs)}")
    config = document.get("config")
    return Recording(
        name=runs[0],
        uri=str(path),
        format="recording",
        streams=streams,
        inputs=(*files, *inputs),
        start_document=document.get("start") or {},
        stop_document=document.get("stop") or {},
        config_text=config if isinstance(config, str) else None,
    )


def is_own(path: Path) -> bool:
    """Whether a folder or an HDF5 file looks like one of ours."""
    if path.is_dir():
        return (path / RUN_FILE).is_file()
    _require_whole(path)
    try:
        SpoolReader(path).close()
    except SpoolError:
        return False
    return True


def _run_document(folder: Path, wanted: bool) -> tuple[dict[str, Any], list[Path]]:
    path = folder / RUN_FILE
    if not path.is_file():
        if wanted:
            raise ReplayError(f"{path}: no such file: this folder is not one of our recordings")
        return {}, []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReplayError(f"{path}: expected JSON: {error}") from None
    if not isinstance(document, dict):
        raise ReplayError(f"{path}: expected an object with start, stop and config")
    return document, [path]


def _require_whole(path: Path) -> None:
    """Refuse a file that is shorter than its own header says.

    The reader opens for SWMR, since it must also read growing files, and HDF5 then reads a cut off
    file for ever. The end of a file stands at byte 28 of superblocks of version 2 and 3.
    """
    with path.open("rb") as file:
        header = file.read(36)
    if header[:8] == _HDF5_SIGNATURE and len(header) == 36 and header[8] in (2, 3):
        expected, got = int.from_bytes(header[28:36], "little"), path.stat().st_size
        if got < expected:
            raise ReplayError(
                f"{path}: is cut off: expected {expected} B, got {got} B: copy it again"
            )


def _stream(path: Path) -> StreamSource:
    _require_whole(path)
    try:
        with SpoolReader(path) as spool:
            start, end, last = spool.start, spool.end, spool.last_frame
    except SpoolError as error:
        raise ReplayError(str(error)) from error
    if end is None and last < 0:
        raise ReplayError(f"{path}: holds no frame yet")

    def read() -> Iterator[Frame]:
        try:
            with SpoolReader(path) as spool:
                for frame in spool.frames.tolist():
                    # What a growing file got since then belongs to no frame that was announced.
                    if frame <= last:
                        yield spool.read(frame)
        except SpoolError as error:
            raise ReplayError(str(error)) from error

    return StreamSource(
        start=start,
        frame_count=last + 1 if end is None else end.frames,
        read=read,
        spool=path,
        reason="interrupted: the recording has no end" if end is None else end.reason,
    )
