"""The one writer of a run: live to subscribers at once, durable in batches, each frame once."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from tiled.client.utils import handle_error
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource
from tiled.structures.table import TableStructure
from tiled.utils import safe_json_dump

from pipeline.messages import (
    ArrayResult,
    FrameResults,
    MapResult,
    Result,
    RowResult,
    StreamEnd,
)
from pipeline.store.datapath import DataPath, LiveBlock, LiveRows
from pipeline.store.layout import (
    CHUNK_FRAMES,
    EVERY,
    LEDGER_SCHEMA,
    LIVE,
    MAP_CHUNK_BYTES,
    ArrayNode,
    LayoutError,
    MapNode,
    TableNode,
    ledger,
    ledger_node,
)

log = logging.getLogger(__name__)

# Slabs of a gap are written so many bytes at a time.
_GAP_BYTES = 1 << 24


class RunContainer:
    """The container of one run: its metadata and its nodes, made when first needed.

    A run that began here is known: nothing in it needs to be looked up. One that was there
    before, after a restart, is asked for each node once.
    """

    def __init__(self, root: Any, data: DataPath, run: str) -> None:
        self.data = data
        self.run = run
        self._root = root
        self._client: Any = root.get(run)
        self.exists = self._client is not None
        self._fresh = not self.exists
        self._lock = threading.RLock()
        self._present: set[str] = {""}

    @property
    def metadata(self) -> Mapping[str, Any]:
        """As it was when the container was first looked at."""
        return self._node("").metadata if self.exists else {}

    def create(self, metadata: Mapping[str, Any]) -> None:
        """Make the container, or complete the metadata of the one that is there."""
        if not self.exists:
            self.data.create((), self.run, metadata=metadata)
            self.exists = True
            self._make("alerts")
        elif metadata:
            self.update(metadata)

    def update(self, metadata: Mapping[str, Any]) -> None:
        """Add to the container's metadata; one at a time, for what is sent is the difference."""
        with self._lock:
            try:
                self._node("").update_metadata(dict(metadata), drop_revision=True)
            except BaseException:
                # The difference may be to what the server has not, or has already: look again.
                self._client = None
                raise

    def segments(self, path: str) -> tuple[str, ...]:
        """Keys from the root of the server."""
        return (self.run, *path.split("/"))

    def _node(self, path: str) -> Any:
        """A client of a node of this run."""
        if self._client is None:
            self._client = self._root[self.run]
        return self._client[tuple(path.split("/"))] if path else self._client

    def _make(
        self,
        path: str,
        source: DataSource[Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Make a node, and the containers that it is in, if it is missing; whether it was."""
        with self._lock:
            if path in self._present:
                return False
            parent, _, key = path.rpartition("/")
            self._make(parent)
            missing = self._fresh or key not in self._node(parent)
            if missing:
                try:
                    above = (self.run, *parent.split("/")) if parent else (self.run,)
                    self.data.create(above, key, source, metadata)
                except BaseException:
                    # It may have been made although the answer was an error.
                    self._fresh = False
                    raise
            self._present.add(path)
            return missing

    def table(self, path: str, schema: pa.Schema, about: str = "") -> int:
        """Make a table if it is missing; the number of rows that it has."""
        source = DataSource(
            structure=TableStructure.from_schema(schema, 1),
            structure_family=StructureFamily.table,
            mimetype="application/x-tiled-sql-table",
        )
        if self._make(path, source, {"about": about} if about else None):
            return 0
        table = self._node(path)
        missing = set(schema.names) ^ set(table.columns)
        if missing:
            raise LayoutError(
                f"{self.run}/{path} was written with other columns ({', '.join(sorted(missing))}): "
                "replay the run under a new key"
            )
        return len(table["frame"].read())

    def array(self, path: str, shape: tuple[int, ...], facts: Mapping[str, Any]) -> int:
        """Make an array of one NaN chunk of frames, if it is missing; how many it has."""
        empty = np.full((CHUNK_FRAMES, *shape), np.nan)
        if self._make(path, _array_source(empty), facts):
            self.data.patch(self.segments(path), empty, 0)
            return CHUNK_FRAMES
        return int(self._node(path).shape[0])

    def maps(self, path: str, shape: tuple[int, ...], facts: Mapping[str, Any]) -> int:
        """Make an array of one NaN chunk of maps, if it is missing; how many it has.

        Raises
        ------
        LayoutError
            If there is one of another shape, or of other frames.
        """
        slab_bytes = np.dtype(np.float32).itemsize * math.prod(shape)
        empty = np.full((max(MAP_CHUNK_BYTES // slab_bytes, 1), *shape), np.nan, np.float32)
        if self._make(path, _array_source(empty), facts):
            self.data.patch(self.segments(path), empty, 0, streamed=False)
            return len(empty)
        node, every = self._node(path), facts[EVERY]
        if tuple(node.shape[1:]) != shape or node.metadata.get(EVERY) != every:
            raise LayoutError(
                f"{self.run}/{path} was written with maps of {tuple(node.shape[1:])} every "
                f"{node.metadata.get(EVERY)} frames, got {shape} every {every}: replay the run "
                "under a new key"
            )
        return int(node.shape[0])

    def axis(self, path: str, values: np.ndarray, quantity: str) -> None:
        """Store an axis, or what is constant along it; a second time changes nothing."""
        values = np.asarray(values, dtype=float)
        self._make(path, _array_source(values), {"quantity": quantity})
        self.data.patch(self.segments(path), values, 0, streamed=values.ndim == 1)

    def live_array(self, path: str, shape: tuple[int, ...]) -> None:
        """Make an array that is streamed and never stored, if it is missing."""
        self._make(path, _array_source(np.zeros((1, *shape))))

    def write_facts(self, path: str, facts: Mapping[str, Any]) -> None:
        """Metadata of a container below the run, in place of what it had."""
        self._make(path)
        self.data.replace_metadata(self.segments(path), facts)

    def trim(self, path: str, frames: int) -> None:
        """Cut the NaN slabs of the first chunk that a short run never filled."""
        node = self._node(path).include_data_sources()
        source = node.data_sources()[0]
        shape = (frames, *node.shape[1:])
        if frames >= node.shape[0] or frames == 0:
            return
        source.structure = {
            **source.structure,
            "shape": list(shape),
            "chunks": [[n] for n in shape],
        }
        uri = node.uri.replace("/metadata/", "/data_source/", 1)
        body = safe_json_dump({"data_source": source})
        handle_error(node.context.http_client.put(uri, content=body))


def _array_source(values: np.ndarray) -> DataSource[Any]:
    """Storage for an array of one chunk."""
    structure = ArrayStructure(
        data_type=BuiltinDtype.from_numpy_dtype(values.dtype),
        shape=values.shape,
        chunks=tuple((n,) for n in values.shape),
    )
    return DataSource(
        structure=structure,
        structure_family=StructureFamily.array,
        mimetype="application/x-zarr",
    )


class StreamWriter:
    """Results of one stream of a run, in order of frame number.

    ``accept`` may be called from any thread; ``flush`` from one.
    """

    def __init__(
        self, container: RunContainer, stream: str, results: Sequence[type[Result]]
    ) -> None:
        self.stream = stream
        self._container = container
        self._lock = threading.Lock()
        self._pending: dict[int, FrameResults] = {}
        self._end: StreamEnd | None = None
        self._tables = [
            TableNode.of(r) for r in results if issubclass(r, RowResult) and r.NODE is not None
        ]
        self._tables.append(TableNode(ledger_node(stream), LEDGER_SCHEMA))
        self._arrays = [
            ArrayNode.of(r) for r in results if issubclass(r, ArrayResult) and r.NODE is not None
        ]
        self._maps = [
            MapNode.of(r) for r in results if issubclass(r, MapResult) and r.NODE is not None
        ]
        self._lengths: dict[str, int] = {}
        self._slabs: dict[str, int] = {}
        self._blanks: dict[str, np.ndarray] = {}
        self._map_shapes: dict[str, tuple[tuple[int, ...], int]] = {}
        # Live nodes first: who sees a table must find what to subscribe to.
        if container.data.publishes:
            for table in self._tables:
                container.table(f"{LIVE}/{table.path}", table.schema)
        self._rows = {t.path: container.table(t.path, t.schema, t.about) for t in self._tables}
        self.durable = min(self._rows.values())
        """Frames 0 to ``durable`` - 1 are stored."""
        self._published = self.durable
        self.ended = False

    def accept(self, message: FrameResults) -> None:
        """Take a frame's results: publish them live, keep them for the next batch.

        A frame that is stored or waiting already changes nothing.
        """
        with self._lock:
            if message.frame < self.durable or message.frame in self._pending:
                return
        for node in self._maps:
            if (found := node.find(message)) is not None:
                self._prepare_map(node, found)
        with self._lock:
            self._pending[message.frame] = message
        if self._container.data.publishes and message.frame >= self._published:
            self._published = message.frame + 1
            self._publish(message)

    def end(self, end: StreamEnd) -> None:
        """The stream is complete once ``end.frames`` frames are durable."""
        self._end = end

    @property
    def complete(self) -> bool:
        return self._end is not None and self.durable >= self._end.frames

    def _publish(self, message: FrameResults) -> None:
        """Rows first: they are small, and alerts wait for them."""
        run = self._container
        live: list[LiveRows | LiveBlock] = [
            LiveRows(run.segments(f"{LIVE}/{table.path}"), self._rows_of(table, [message]))
            for table in self._tables
        ]
        for node in self._arrays:
            if node.find(message) is not None:
                length = self._prepare_array(node, message)
                path = run.segments(f"{LIVE}/{node.path}")
                live.append(LiveBlock(path, node.block([message], length), message.frame))
        run.data.publish(live)

    def _rows_of(self, table: TableNode, frames: Sequence[FrameResults]) -> pa.Table:
        if table.path == ledger_node(self.stream):
            return ledger(frames)
        return table.rows(frames)

    def _prepare_array(self, node: ArrayNode, message: FrameResults) -> int:
        """Make an array's nodes when its axis is first seen; the axis' length."""
        with self._lock:
            if node.path in self._lengths:
                return self._lengths[node.path]
            result = node.find(message)
            assert result is not None
            along = node.along_axis(result)
            shape = (len(node.lines), len(along[node.axis_path]))
            quantities = node.quantities()
            for path, values in along.items():
                self._container.axis(path, values, quantities[path])
            self._slabs[node.path] = self._container.array(node.path, shape, node.facts(result))
            self._blanks[node.path] = np.full((1, *shape), np.nan)
            if self._container.data.publishes:
                self._container.live_array(f"{LIVE}/{node.path}", shape)
            self._lengths[node.path] = shape[1]
            return shape[1]

    def _prepare_map(self, node: MapNode, result: MapResult) -> tuple[tuple[int, ...], int]:
        """Make a map's nodes when the first comes; its shape, and how many frames a slab is for.

        Raises
        ------
        LayoutError
            If this one cannot stand with those before.
        """
        shape = node.shape(result)
        if result.every < 1 or result.frame % result.every:
            raise LayoutError(
                f"{node.path}: expected the map of a frame that {result.every} divides, got frame "
                f"{result.frame}"
            )
        with self._lock:
            if node.path not in self._map_shapes:
                facts = node.facts(result.every)
                self._slabs[node.path] = self._container.maps(node.path, shape, facts)
                self._blanks[node.path] = np.full((1, *shape), np.nan, np.float32)
                quantities = node.quantities()
                for path, values in node.beside(result).items():
                    self._container.axis(path, values, quantities[path])
                self._map_shapes[node.path] = shape, result.every
            known = self._map_shapes[node.path]
        if known != (shape, result.every):
            raise LayoutError(
                f"{node.path}: expected maps of {known[0]} every {known[1]} frames as before, got "
                f"{shape} every {result.every}"
            )
        return known

    def flush(self) -> int:
        """Make all consecutive pending frames durable; the number of frames written."""
        with self._lock:
            frames = []
            while (message := self._pending.get(self.durable + len(frames))) is not None:
                frames.append(message)
        if frames:
            # Rows first: readers wait for them. The ledger last: by it a restarted writer knows
            # that the frames' arrays are stored as well.
            *tables, ledger_table = self._tables
            for table in tables:
                self._append(table, frames)
            self._patch_arrays(frames)
            self._patch_maps(frames)
            self._append(ledger_table, frames)
            with self._lock:
                for message in frames:
                    del self._pending[message.frame]
                self.durable += len(frames)
        if self.complete and not self.ended:
            for path, slabs in self._due().items():
                self._fill(path, slabs)
                self._container.trim(path, slabs)
            self.ended = True
        return len(frames)

    def _patch_arrays(self, frames: Sequence[FrameResults]) -> None:
        for node in self._arrays:
            found = next((m for m in frames if node.find(m) is not None), None)
            if found is not None:
                length = self._prepare_array(node, found)
                self._put(node.path, node.block(frames, length), frames[0].frame)

    def _patch_maps(self, frames: Sequence[FrameResults]) -> None:
        for node in self._maps:
            for message in frames:
                if (found := node.find(message)) is not None:
                    shape, every = self._prepare_map(node, found)
                    slab = node.slab(found, shape)
                    self._put(node.path, slab[None], found.frame // every, streamed=False)

    def _put(self, path: str, block: np.ndarray, offset: int, streamed: bool = True) -> None:
        """Write slabs; those before them that no frame has filled become NaN."""
        self._fill(path, offset)
        segments = self._container.segments(path)
        self._container.data.patch(segments, block, offset, streamed=streamed)
        self._slabs[path] = max(self._slabs[path], offset + len(block))

    def _fill(self, path: str, slabs: int) -> None:
        """Make an array so long at least, with NaN: what is skipped would read as 0."""
        blank = self._blanks[path]
        step = max(_GAP_BYTES // blank.nbytes, 1)
        while (first := self._slabs[path]) < slabs:
            gap = np.repeat(blank, min(step, slabs - first), axis=0)
            segments = self._container.segments(path)
            self._container.data.patch(segments, gap, first, streamed=False)
            self._slabs[path] = first + len(gap)

    def _due(self) -> dict[str, int]:
        """By node, how many slabs there are of the frames that are stored."""
        due = dict.fromkeys(self._lengths, self.durable)
        return due | {
            path: -(-self.durable // every) for path, (_, every) in self._map_shapes.items()
        }

    def _append(self, table: TableNode, frames: Sequence[FrameResults]) -> None:
        """Append the rows that a table does not have yet.

        After a crash between two tables one may be ahead: it skips what it has. After an error
        the server is asked what it has, since an append is not repeatable: it may have committed
        the batch although the answer was an error.
        """
        frames = [m for m in frames if m.frame >= self._rows[table.path]]
        if not frames:
            return
        path = self._container.segments(table.path)
        try:
            self._container.data.append(path, self._rows_of(table, frames))
        except Exception:
            self._rows[table.path] = self._container.table(table.path, table.schema, table.about)
            raise
        self._rows[table.path] = frames[-1].frame + 1
