"""Text that holds numbers: CSV with a header, and bare columns."""

from __future__ import annotations

import csv
import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.replay.recording import ReplayError

_DATE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d")


def read_text(path: Path) -> str:
    """Text of a file, unpacked if its name ends in ``.gz``."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise ReplayError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ReplayError(
            f"{path}: expected text, got byte 0x{error.object[error.start]:02x} at offset "
            f"{error.start}"
        ) from None
    except (OSError, EOFError) as error:
        raise ReplayError(f"{path}: cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class CsvTable:
    """A CSV with one header line; cells are stripped text.

    ``lines`` is the line of each row in the file, from 1, for messages.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def column(self, name: str) -> list[str]:
        """Cells of the column ``name``."""
        if name not in self.header:
            raise ReplayError(
                f"{self.path}: no column {name!r}; it has {', '.join(filter(None, self.header))}"
            )
        position = self.header.index(name)
        short = [n for n, row in zip(self.lines, self.rows, strict=True) if len(row) <= position]
        if short:
            raise ReplayError(
                f"{self.path}:{short[0]}: expected {len(self.header)} columns, the row ends before "
                f"{name!r}: is the file complete?"
            )
        return [row[position] for row in self.rows]

    def numbers(self, name: str) -> np.ndarray:
        """The column ``name`` as finite floats."""
        cells = self.column(name)
        values = np.empty(len(cells))
        for i, (line, cell) in enumerate(zip(self.lines, cells, strict=True)):
            value = number(cell)
            if value is None or not np.isfinite(value):
                raise ReplayError(f"{self.path}:{line}: {name}: expected a number, got {cell!r}")
            values[i] = value
        return values


def read_csv(path: Path) -> CsvTable:
    """Read a CSV with a header; rows without any content are left out."""
    reader = csv.reader(read_text(path).splitlines())
    header: tuple[str, ...] | None = None
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    for cells in reader:
        stripped = tuple(cell.strip() for cell in cells)
        if not any(stripped):
            continue
        if header is None:
            header = stripped
            continue
        rows.append(stripped)
        lines.append(reader.line_num)
    if header is None:
        raise ReplayError(f"{path}: expected a table with a header, got an empty file")
    if not rows:
        raise ReplayError(f"{path}: expected rows below the header, got none")
    return CsvTable(path, header, tuple(rows), tuple(lines))


def read_columns(path: Path) -> np.ndarray:
    """Bare columns of numbers, separated by blanks, tabs, commas or semicolons.

    Lines before the first numeric one are a header; lines that begin with ``#`` are comments.

    Returns
    -------
    Array (rows, columns).
    """
    rows: list[list[float]] = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        cells = re.split(r"[\s,;]+", text.strip().strip(",;"))
        if not cells[0] or cells[0].startswith("#"):
            continue
        values = [number(cell) for cell in cells]
        if not rows and values[0] is None:
            continue
        bad = [cell for cell, value in zip(cells, values, strict=True) if value is None]
        if bad:
            raise ReplayError(f"{path}:{line}: expected numbers, got {bad[0]!r}")
        if rows and len(values) != len(rows[0]):
            raise ReplayError(
                f"{path}:{line}: expected {len(rows[0])} columns, got {len(values)}: is the file "
                "complete?"
            )
        rows.append([value for value in values if value is not None])
    if not rows:
        raise ReplayError(f"{path}: expected columns of numbers, got none")
    return np.array(rows)


def number(cell: str) -> float | None:
    """The number that a cell holds, or None."""
    try:
        return float(cell)
    except ValueError:
        return None


def is_date(cell: str) -> bool:
    """Whether a cell is a date with a time of day, ``2014-05-22 15:38:23``."""
    return _DATE.fullmatch(cell.strip()) is not None


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts names so that numbers in them count by value: ``run_9`` before ``run_10``."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", str(path))
        if part
    ]
