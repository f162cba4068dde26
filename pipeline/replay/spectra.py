"""A table of spectra against time: one column of wavelengths, one column a spectrum."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from pipeline.config.replay import StreamFormat
from pipeline.messages import Frame, SpectrumFrame, StreamStart, frozen_array
from pipeline.replay.recording import Recording, ReplayError, StreamSource, seconds_to_ns
from pipeline.replay.tables import CsvTable, is_date, number, read_csv

_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
_TIME = re.compile(r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*(s|sec|min|h)?\b")


def open_spectra(path: Path, replay: StreamFormat) -> Recording:
    """Read a CSV of spectra.

    The header gives the times: seconds (``30 s``, ``2 min``, or a bare number in ``time_unit``) or
    dates with a time of day, counted from the first column. Rows end at the first one whose
    wavelength is not a number; instruments write their settings below. Spectra are handed over
    with rising wavelength, whatever their order in the file.

    Parameters
    ----------
    path
        The CSV.
    replay
        ``values`` says what the numbers are; for ``counts``, ``reference_column`` is needed. The
        reference is not replayed, and its time is the zero where the header holds dates.
    """
    table = read_csv(path)
    wavelength, position = _wavelength_column(table, replay.wavelength_column)
    columns = [i for i, name in enumerate(table.header) if i != position and name]
    if not columns:
        raise ReplayError(f"{path}: expected columns of spectra, got none beside the wavelength")
    times_s = _times([table.header[i] for i in columns], path, replay.time_unit)
    wavelength_nm, values = _numbers(table, wavelength, position, columns)

    stream = replay.stream or "absorbance"
    arrays = {"wavelength_nm": frozen_array(wavelength_nm)}
    metadata = {"source": path.name, "columns": [table.header[i] for i in columns]}
    if replay.values == "counts":
        reference = replay.reference_column
        if reference is None or reference >= len(columns):
            raise ReplayError(
                f"{path}: counts need a reference: set replay.reference_column to a number from 0 "
                f"to {len(columns) - 1}, got {reference}"
            )
        arrays["reference"] = frozen_array(values[:, reference])
        arrays["dark"] = frozen_array(np.zeros(len(wavelength_nm)))
        metadata["dark"] = "not recorded: zero"
        values = np.delete(values, reference, axis=1)
        times_s = np.delete(times_s, reference)
    order = np.argsort(times_s, kind="stable")
    start = StreamStart(
        stream=stream,
        run=path.stem,
        kind=replay.values,
        shape=(len(wavelength_nm),),
        dtype="<f8",
        arrays=arrays,
        metadata=metadata,
    )
    exposure_s = replay.exposure_s or 0.0

    def read() -> Iterator[Frame]:
        for frame, column in enumerate(order):
            yield SpectrumFrame(
                stream=stream,
                frame=frame,
                time_ns=seconds_to_ns(float(times_s[column])),
                exposure_s=exposure_s,
                values=frozen_array(values[:, column], "<f8"),
            )

    return Recording(
        name=path.stem,
        uri=str(path),
        format="spectra",
        streams={stream: StreamSource(start, len(order), read)},
        inputs=(path,),
    )


def _wavelength_column(table: CsvTable, wanted: str | None) -> tuple[list[str], int]:
    name = table.header[0] if wanted is None else wanted
    if wanted is None and not re.search(r"wave|lambda|nm", name, re.IGNORECASE):
        raise ReplayError(
            f"{table.path}: expected a first column of wavelengths in nm, got {name!r}: name it in "
            "replay.wavelength_column"
        )
    if re.search(r"\beV\b|cm-1|\bum\b|\(A\)", name):
        raise ReplayError(f"{table.path}: expected wavelengths in nm, got the column {name!r}")
    return table.column(name), table.header.index(name)


def _times(headers: Sequence[str], path: Path, bare_unit: str) -> np.ndarray:
    """Seconds of each column."""
    if all(is_date(text) for text in headers):
        stamps = [datetime.fromisoformat(text.strip()) for text in headers]
        return np.array([(stamp - stamps[0]).total_seconds() for stamp in stamps])
    times = []
    for text in headers:
        match = _TIME.match(text)
        if match is None:
            raise ReplayError(
                f"{path}: header {text!r}: expected a time such as '30 s', '2 min' or "
                "'2014-05-22 15:38:23'"
            )
        times.append(float(match[1]) * _SECONDS[match[2] or bare_unit])
    return np.array(times)


def _numbers(
    table: CsvTable, wavelength: Sequence[str], position: int, columns: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Wavelengths (n,), rising, and values (n, spectra)."""
    path = table.path
    count = next((i for i, cell in enumerate(wavelength) if number(cell) is None), len(wavelength))
    if count < 2:
        raise ReplayError(f"{path}:{table.lines[0]}: expected numbers below the header, got none")
    block = np.empty((count, len(columns)))
    for row, (line, cells) in enumerate(zip(table.lines[:count], table.rows[:count], strict=True)):
        for k, i in enumerate(columns):
            value = number(cells[i]) if i < len(cells) else None
            if value is None:
                got = repr(cells[i]) if i < len(cells) else "the end of the line"
                raise ReplayError(
                    f"{path}:{line}: {table.header[i]}: expected a number, got {got}: is the file "
                    "complete?"
                )
            block[row, k] = value
    for line, cells in zip(table.lines[count:], table.rows[count:], strict=True):
        if len(cells) == len(table.header) and all(number(c) is not None for c in cells):
            raise ReplayError(
                f"{path}:{line}: numbers again after line {table.lines[count]}, which is not "
                f"numeric ({wavelength[count]!r}): is the table damaged?"
            )
    axis = np.array([float(cell) for cell in wavelength[:count]])
    order = np.argsort(axis, kind="stable")
    steps = np.diff(axis)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        at = int(np.flatnonzero(np.sign(steps) != np.sign(axis[-1] - axis[0]))[0]) + 1
        raise ReplayError(
            f"{path}:{table.lines[at]}: {table.header[position]}: expected wavelengths in one "
            f"direction, got {axis[at]:g} after {axis[at - 1]:g}"
        )
    if not 100 < axis.min() < axis.max() < 20000:
        raise ReplayError(
            f"{path}: {table.header[position]}: expected wavelengths in nm (100 to 20000), got "
            f"{axis.min():g} to {axis.max():g}"
        )
    return axis[order], block[order]
