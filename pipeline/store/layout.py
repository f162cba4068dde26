"""Where results stand in a run's container, and in what form.

Row *n* of every table and slab *n* of every array is frame *n*; a frame that gave nothing has NaN
in all of them and its reason in the stream's ``frames`` table. So a place in Tiled is a frame
number, and a second write of a frame is seen for what it is.

Maps are too large for every frame: slab *n* of theirs is frame *n* times ``every``, which the
node's metadata name (``frames_per_slab``). The frames between have no slab and no reason to be
missing. Their place follows from the frame number alone all the same, so a second write, or one
after a restart, puts the same numbers where they were. They are not published live: a map is
larger than what subscribers take in one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from inspect import getdoc
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa

from pipeline.messages import ArrayResult, FrameResults, MapResult, Result, RowResult

ARROW_TYPES = {float: pa.float64(), int: pa.int64(), str: pa.string(), bool: pa.bool_()}
ABSENT = {pa.float64(): float("nan"), pa.int64(): 0, pa.string(): "", pa.bool_(): False}

# Tiled lists every chunk in the structure that each append rewrites: chunks of 32 make that 12 kB
# after 100 000 frames (chunks of 1: 200 kB), and a new array no longer than 32 slabs.
CHUNK_FRAMES = 32

MAP_CHUNK_BYTES = 1 << 20
"""A chunk of maps holds about so much, at least one: what a reader of one map reads in vain."""

EVERY = "frames_per_slab"
"""Key of a map's metadata."""

LIVE = "live"
"""Container of the nodes that are streamed and never stored."""

STORED, REJECTED, LOST = "stored", "rejected", "lost"

LEDGER_SCHEMA = pa.schema(
    [
        ("frame", pa.int64()),
        ("time_s", pa.float64()),
        ("status", pa.string()),
        ("note", pa.string()),
    ]
)


class LayoutError(ValueError):
    """A result that cannot be stored as it is."""


def ledger_node(stream: str) -> str:
    """Node of the table that tells what became of each frame of a stream."""
    return f"{stream}/frames"


@dataclass(frozen=True)
class TableNode:
    """A table with one row a frame. ``about`` is what its result's class says of the columns."""

    path: str
    schema: pa.Schema
    about: str = ""

    @classmethod
    def of(cls, result: type[RowResult]) -> TableNode:
        """The table that a result's class asks for: its fields in order, frame and time first."""
        assert result.NODE is not None
        hints = get_type_hints(result)
        names = [field.name for field in fields(result)]
        try:
            schema = pa.schema([(n, ARROW_TYPES[hints[n]]) for n in names])
        except KeyError as error:
            raise LayoutError(
                f"{result.__name__}: a column is float, int, str or bool, not {error.args[0]}"
            ) from None
        return cls(result.NODE, schema, _about(result))

    def absent(self, frame: int, time_s: float) -> dict[str, Any]:
        """The row of a frame that gave no result."""
        row = {field.name: ABSENT[field.type] for field in self.schema}
        return {**row, "frame": frame, "time_s": time_s}

    def rows(self, frames: Sequence[FrameResults]) -> pa.Table:
        """One row a frame, in their order."""
        rows = []
        for message in frames:
            found = [r for r in message.results if self.path == r.NODE]
            if len(found) > 1:
                raise LayoutError(
                    f"{message.stream} frame {message.frame}: {len(found)} rows for {self.path}, "
                    "expected one"
                )
            if found:
                rows.append({name: getattr(found[0], name) for name in self.schema.names})
            else:
                rows.append(self.absent(message.frame, message.time_s))
        return pa.Table.from_pylist(rows, schema=self.schema)


@dataclass(frozen=True)
class ArrayNode:
    """An array of shape (frame, line, axis), with what stands once beside it.

    ``constants`` are a result's fields along the axis, each with its node; ``about`` is what the
    result's class says of all.
    """

    path: str
    axis_path: str
    axis: str
    lines: tuple[str, ...]
    constants: tuple[tuple[str, str], ...] = ()
    about: str = ""

    @classmethod
    def of(cls, result: type[ArrayResult]) -> ArrayNode:
        """The array that a result's class asks for."""
        assert result.NODE is not None
        return cls(
            result.NODE,
            result.AXIS_NODE,
            result.AXIS,
            result.LINES,
            result.CONSTANTS,
            _about(result),
        )

    def find(self, message: FrameResults) -> Result | None:
        """This node's result of a frame, if it has one."""
        return next((r for r in message.results if self.path == r.NODE), None)

    def facts(self, result: Result) -> dict[str, Any]:
        """What a reader must know of the array: metadata of the node, the same for all frames.

        What its dimensions, lines and numbers are, and what a result says of itself apart from
        arrays: of a curve, whether it is ``absolute``.
        """
        values = {field.name: getattr(result, field.name) for field in fields(result)}
        own = {
            name: value
            for name, value in values.items()
            if isinstance(value, bool | int | float | str) and name not in ("frame", "time_s")
        }
        return _described(self.about, ["frame", "line", self.axis_path], self.lines) | own

    def quantities(self) -> dict[str, str]:
        """By node beside the array: the name of its quantity, with the unit."""
        return {self.axis_path: self.axis} | {path: name for name, path in self.constants}

    def along_axis(self, result: Result) -> dict[str, np.ndarray]:
        """By node: the axis (n,), and each constant that is known, (n,)."""
        axis = np.asarray(getattr(result, self.axis))
        found = {self.axis_path: axis}
        for name, path in self.constants:
            values = np.asarray(getattr(result, name))
            if not values.size:
                continue
            if values.shape != axis.shape:
                raise LayoutError(
                    f"{path}: expected {name} of {axis.shape} as {self.axis} has, got "
                    f"{values.shape}"
                )
            found[path] = values
        return found

    def block(self, frames: Sequence[FrameResults], length: int) -> np.ndarray:
        """Slabs of consecutive frames, (n, line, axis); NaN where a frame gave nothing."""
        block = np.full((len(frames), len(self.lines), length), np.nan)
        for slab, message in zip(block, frames, strict=True):
            result = self.find(message)
            if result is None:
                continue
            for line, name in zip(slab, self.lines, strict=True):
                values = getattr(result, name)
                if values.shape != line.shape:
                    raise LayoutError(
                        f"{message.stream} frame {message.frame}: {name} has {values.shape[0]} "
                        f"points, {self.path} has {length}"
                    )
                line[:] = values
        return block


@dataclass(frozen=True)
class MapNode:
    """An array of shape (slab, line, *map*), slab n of frame n * every, with what stands beside it.

    ``axes`` are a result's fields along the map's axes and ``constants`` further maps, each with
    its node; ``about`` is what the result's class says of all.
    """

    path: str
    axes: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    constants: tuple[tuple[str, str], ...] = ()
    about: str = ""

    @classmethod
    def of(cls, result: type[MapResult]) -> MapNode:
        """The array that a result's class asks for."""
        assert result.NODE is not None
        return cls(result.NODE, result.AXES, result.LINES, result.CONSTANTS, _about(result))

    def facts(self, every: int) -> dict[str, Any]:
        """Metadata of the node, of which every so-manieth frame has a slab."""
        dimensions = ["slab", "line", *(path for _, path in self.axes)]
        return _described(self.about, dimensions, self.lines) | {EVERY: every}

    def quantities(self) -> dict[str, str]:
        """By node beside the maps: the name of its quantity, with the unit."""
        return {path: name for name, path in (*self.axes, *self.constants)}

    def find(self, message: FrameResults) -> MapResult | None:
        """This node's map of a frame, if it has one."""
        return next(
            (r for r in message.results if self.path == r.NODE and isinstance(r, MapResult)), None
        )

    def beside(self, result: MapResult) -> dict[str, np.ndarray]:
        """By node: the axes, each of one dimension, and the constant maps."""
        found = {path: np.asarray(getattr(result, name)) for name, path in self.axes}
        shape = tuple(axis.size for axis in found.values())
        for name, path in self.constants:
            values = np.asarray(getattr(result, name))
            if values.shape != shape:
                raise LayoutError(f"{path}: expected {name} of {shape}, got {values.shape}")
            found[path] = values
        return found

    def shape(self, result: MapResult) -> tuple[int, ...]:
        """Of one slab: lines and the map's axes."""
        return (len(self.lines), *(np.size(getattr(result, name)) for name, _ in self.axes))

    def slab(self, result: MapResult, shape: tuple[int, ...]) -> np.ndarray:
        """(line, *map*) of one frame, float32."""
        slab = np.empty(shape, np.float32)
        for line, name in zip(slab, self.lines, strict=True):
            values = getattr(result, name)
            if values.shape != line.shape:
                raise LayoutError(
                    f"frame {result.frame}: {name} is {values.shape}, {self.path} has {line.shape}"
                )
            line[...] = values
        return slab


def _about(result: type[Result]) -> str:
    """What a result's class says of its fields; a dataclass without a word has its signature."""
    text = getdoc(result) or ""
    return "" if text.startswith(f"{result.__name__}(") else text


def _described(about: str, dimensions: Sequence[str], lines: Sequence[str]) -> dict[str, Any]:
    return {"about": about, "dimensions": list(dimensions), "lines": list(lines)}


def ledger(frames: Sequence[FrameResults]) -> pa.Table:
    """What became of each frame."""
    rows = []
    for message in frames:
        status = STORED if message.rejected is None else REJECTED
        if message.rejected is not None and message.rejected.startswith(LOST):
            status = LOST
        rows.append(
            {
                "frame": message.frame,
                "time_s": message.time_s,
                "status": status,
                "note": message.rejected or "",
            }
        )
    return pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA)
