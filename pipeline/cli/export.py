"""Curves of a stored run, read over HTTP and written as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.access import TiledHttp
from pipeline.cli.session import SessionError
from pipeline.export import (
    CONCENTRATIONS,
    Chosen,
    CurveSet,
    ExportError,
    FrameCurve,
    Ledger,
    NotThereError,
    Request,
    curve_set,
    curve_text,
    slabs_to_curves,
    write_nxcansas,
)

FORMATS = {"nxcansas": ".h5", "text": ".txt"}
"""Formats and the endings that SasView knows them by."""

# 4 MB of a 500-bin curve: an answer well within a server's limit, of a run of any length.
BLOCK_FRAMES = 512


@dataclass(frozen=True)
class Exported:
    """Where the curves went, and the frames that were asked for but have none, with reasons."""

    path: Path
    frames: int
    left_out: Sequence[tuple[int, str]]


def export_run(http: TiledHttp, run: str, request: Request, form: str, to: Path | None) -> Exported:
    """Write curves of a run.

    Parameters
    ----------
    http
        Server that has the run.
    run, request
        Key of the run, and what is wanted of it.
    form
        One of `FORMATS`. ``nxcansas`` makes one file of all frames, ``text`` one file a frame.
    to
        File, or folder. By default a name made of run, stream and frame, in the working folder.

    Raises
    ------
    ExportError
        If that cannot be exported, or what would be written exists.
    SessionError
        If there is no such run.
    """
    if form not in FORMATS:
        raise ExportError(f"expected format {' or '.join(FORMATS)}, got {form}")
    curves, ledger = look_up(http, run, request.stream)
    chosen = request.choose(run, ledger)
    frames = read_curves(http, curves, chosen.numbers, ledger.time_s)
    stem = f"{run}_{request.stream}"
    single = None if request.frame is None else chosen.numbers[0]
    if form == "text" and single is None:
        path = to or Path(stem)
        _write_texts(path, stem, curves, frames, chosen, request.unit)
    else:
        name = stem if single is None else f"{stem}_{single:06d}"
        path = _target(to, name + FORMATS[form])
        _write_file(path, form, curves, frames, request.unit)
    return Exported(path, len(chosen.numbers), chosen.left_out)


def _target(to: Path | None, name: str) -> Path:
    """The file to write: named, or of a default name in a folder that was named."""
    path = Path(name) if to is None else to / name if to.is_dir() else to
    if path.exists():
        raise ExportError(f"{path} exists already: choose another --to")
    if not path.parent.is_dir():
        raise ExportError(f"{path} cannot be written: there is no folder {path.parent}")
    return path


def _write_file(
    path: Path, form: str, curves: CurveSet, frames: Iterator[FrameCurve], unit: str
) -> None:
    """Write one file; it has its name only once it is whole."""
    partial = path.with_name(path.name + ".partial")
    try:
        if form == "nxcansas":
            write_nxcansas(partial, curves, frames, unit)
        else:
            partial.write_text(curve_text(curves, next(frames), unit), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _write_texts(
    folder: Path,
    stem: str,
    curves: CurveSet,
    frames: Iterator[FrameCurve],
    chosen: Chosen,
    unit: str,
) -> None:
    """Write one file a frame into a folder, which is made if need be."""
    names = {number: f"{stem}_{number:06d}{FORMATS['text']}" for number in chosen.numbers}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be a folder for {len(names)} files: {error.strerror}; choose "
            "another --to"
        ) from None
    for name in names.values():
        _target(folder, name)
    for curve in frames:
        _write_file(folder / names[curve.frame], "text", curves, iter((curve,)), unit)


def look_up(http: TiledHttp, run: str, stream: str) -> tuple[CurveSet, Ledger]:
    """What the frames of a stream have in common, and what became of each."""
    metadata = http.metadata(run)
    if metadata is None:
        raise SessionError(f"there is no run {run} at {http.address.url}")
    q_per_nm = http.array(f"{run}/{stream}/q", "", np.float64)
    frames = http.table(f"{run}/{stream}/frames")
    if q_per_nm is None or frames is None or not http.exists(f"{run}/{stream}/curves"):
        raise NotThereError(f"{run}: expected a run with {stream}/curves, got one without")
    ledger = Ledger(
        frames["time_s"].to_numpy(), frames["status"].to_pylist(), frames["note"].to_pylist()
    )
    populations = http.table(f"{run}/saxs/populations") if stream == "saxs" else None
    columns = []
    if populations is not None:
        known = [name for name in CONCENTRATIONS if name in populations.column_names]
        columns = [populations[name].to_numpy() for name in known]
    curves = curve_set(
        run,
        stream,
        metadata.get("start") or {},
        q_per_nm,
        q_resolution_per_nm=http.array(f"{run}/{stream}/q_resolution", "", np.float64),
        stream_facts=http.metadata(f"{run}/{stream}/curves"),
        concentrations_um=columns,
    )
    return curves, ledger


def read_curves(
    http: TiledHttp, curves: CurveSet, numbers: Sequence[int], time_s: np.ndarray
) -> Iterator[FrameCurve]:
    """Curves in order, a block of frames at a time."""
    path = f"{curves.run}/{curves.stream}/curves"
    bins = curves.q_per_nm.size
    for first in range(numbers[0], numbers[-1] + 1, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, numbers[-1] + 1)
        wanted = [number for number in numbers if first <= number < last]
        if not wanted:
            continue
        values = http.array(path, f"{first}:{last}", np.float64)
        if values is None or values.size != (last - first) * 2 * bins:
            raise ExportError(
                f"{path}: expected frames {first} to {last - 1} of {bins} bins, got "
                f"{0 if values is None else values.size} numbers"
            )
        slabs = values.reshape(last - first, 2, bins)
        yield from slabs_to_curves(slabs, first, wanted, time_s)
