"""A time series of 1-D curves in text files, integrated by somebody before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config.replay import StreamFormat
from pipeline.messages import CurveFrame, Frame, StreamStart, frozen_array
from pipeline.replay.recording import Recording, ReplayError, StreamSource, seconds_to_ns
from pipeline.replay.tables import natural_key, read_columns, read_csv

#: Factor from the unit of the file to 1/nm.
_PER_NM = {"1/A": 10.0, "1/nm": 1.0}

#: Largest |dq|/q between the axes of two files that are called the same. Files with six digits
#: differ by 5e-7 from rounding; half a bin of a 1000-bin axis is 5e-4.
_SAME_AXIS = 2e-6


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    time_s: float
    exposure_s: float


def open_curves(path: Path, replay: StreamFormat) -> Recording:
    """Read a folder of text files with columns q, I and, if there is a third, sigma.

    All files must be on one q axis: curves that were integrated differently do not make a series,
    and interpolation would correlate the errors of neighbouring points. A file on another axis is
    refused.

    Parameters
    ----------
    path
        Folder, or its index.
    replay
        ``q_unit`` must be given. Order and times come from ``index``; without one, from the names
        of ``files`` (numbers in them by value) and ``period_s``.
    """
    folder = path if path.is_dir() else path.parent
    if replay.q_unit is None:
        raise ReplayError(
            f"{path}: the unit of q is not known: set replay.q_unit to 1/A or 1/nm (it is not "
            "guessed)"
        )
    per_nm = _PER_NM[replay.q_unit]
    entries, inputs = _entries(path, folder, replay)
    q_per_nm, first = _curve(entries[0].path, per_nm)
    stream = replay.stream or "saxs"
    start = StreamStart(
        stream=stream,
        run=folder.name,
        kind="curve",
        shape=q_per_nm.shape,
        dtype="<f8",
        arrays={"q_per_nm": frozen_array(q_per_nm)},
        metadata={
            "source": folder.name,
            "q_unit_of_files": replay.q_unit,
            "sigma": "recorded" if first.shape[1] > 1 else "not recorded",
            "absolute": False,
        },
    )

    def read() -> Iterator[Frame]:
        for frame, entry in enumerate(entries):
            axis, values = _curve(entry.path, per_nm)
            if axis.shape != q_per_nm.shape or not np.allclose(axis, q_per_nm, _SAME_AXIS, 0):
                raise ReplayError(
                    f"{entry.path}: expected the q axis of {entries[0].path.name} "
                    f"({_axis(q_per_nm)}), got {_axis(axis)}: integrate all curves alike"
                )
            sigma = values[:, 1] if values.shape[1] > 1 else np.full(len(axis), np.nan)
            yield CurveFrame(
                stream=stream,
                frame=frame,
                time_ns=seconds_to_ns(entry.time_s),
                exposure_s=entry.exposure_s,
                intensity=frozen_array(values[:, 0], "<f8"),
                sigma=frozen_array(sigma, "<f8"),
            )

    return Recording(
        name=folder.name,
        uri=str(path),
        format="curves",
        streams={stream: StreamSource(start, len(entries), read)},
        inputs=inputs,
    )


def _entries(
    path: Path, folder: Path, replay: StreamFormat
) -> tuple[list[_Entry], tuple[Path, ...]]:
    index = path if path.is_file() else folder / replay.index if replay.index else None
    if index is not None:
        table = read_csv(index)
        names = table.column(replay.index_file_column)
        times_s = table.numbers(replay.index_time_column)
        exposures_s = (
            table.numbers(replay.exposure_column)
            if replay.exposure_column
            else np.full(len(names), replay.exposure_s or 0.0)
        )
        order = np.argsort(times_s, kind="stable")
        entries = [
            _Entry(folder / names[i], float(times_s[i]), float(exposures_s[i])) for i in order
        ]
        absent = [entry.path for entry in entries if not entry.path.is_file()]
        if absent:
            raise ReplayError(f"{index}: {len(absent)} of its files are absent, first {absent[0]}")
        return entries, (index, *(entry.path for entry in entries))
    if replay.files is None:
        raise ReplayError(
            f"{path}: set replay.index (CSV with files and times) or replay.files (glob)"
        )
    files = sorted(folder.glob(replay.files), key=natural_key)
    if not files:
        raise ReplayError(f"{folder}: no file matches replay.files = {replay.files!r}")
    exposure_s = replay.exposure_s or 0.0
    return [_Entry(file, i * replay.period_s, exposure_s) for i, file in enumerate(files)], tuple(
        files
    )


def _curve(path: Path, per_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """q in 1/nm (n,) and the other columns (n, 1 or more)."""
    columns = read_columns(path)
    if columns.shape[1] < 2 or columns.shape[0] < 2:
        raise ReplayError(
            f"{path}: expected columns q, I and maybe sigma, got {columns.shape[1]} column(s) of "
            f"{columns.shape[0]} row(s)"
        )
    axis = columns[:, 0] * per_nm
    if not np.all(np.isfinite(axis)) or axis[0] < 0 or not np.all(np.diff(axis) > 0):
        raise ReplayError(f"{path}: expected q that rises from row to row, got {_axis(axis)}")
    return axis, columns[:, 1:]


def _axis(axis: np.ndarray) -> str:
    return f"{len(axis)} points from {axis[0]:.6g} to {axis[-1]:.6g} 1/nm"
