"""The run's documents as a file: one JSON array ``[name, document]`` a line.

The file is what the run has said, whether or not a Tiled server listens; whoever registers the
run reads it, during the run or years later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Document = tuple[str, dict[str, Any]]

#: Name of the file in a recording.
DOCUMENTS_FILE = "documents.jsonl"


def plain(value: Any) -> Any:
    """numpy's numbers and arrays as JSON knows them, for ``json.dumps(default=...)``.

    event_model's own encoder loads dask at the first array, for seconds, in the RunEngine's thread.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"expected what JSON or numpy knows in a document, got {type(value).__name__}")


class DocumentFile:
    """Callback for the RunEngine that appends every document, and flushes it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("x", encoding="utf-8")

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        self._file.write(json.dumps([name, document], default=plain) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class DocumentReader:
    """Reads the file while it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._line = 0

    def read_new(self) -> list[Document]:
        """Documents that were written in full since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        # A line without its end is still being written: it is left for the next call.
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [self._parse(line) for line in complete.splitlines()]

    def _parse(self, line: bytes) -> Document:
        self._line += 1
        try:
            name, document = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{self.path}:{self._line}: expected [name, document] as JSON, got "
                f"{line[:60]!r}: the file is damaged, restore it from a copy"
            ) from error
        return name, document


def coalesce(documents: Iterable[Document]) -> Iterator[Document]:
    """Join consecutive StreamDatum documents of one resource into one.

    To register a batch then costs one request a resource, however long the batch is.
    """
    pending: dict[str, dict[str, Any]] = {}
    for name, document in documents:
        if name == "stream_datum":
            key = document["stream_resource"]
            before = pending.get(key)
            if before is None:
                pending[key] = dict(document)
                continue
            if before["indices"]["stop"] == document["indices"]["start"]:
                pending[key] = {
                    **document,
                    "indices": _span(before["indices"], document["indices"]),
                    "seq_nums": _span(before["seq_nums"], document["seq_nums"]),
                }
                continue
        yield from (("stream_datum", datum) for datum in pending.values())
        pending.clear()
        if name == "stream_datum":
            pending[document["stream_resource"]] = dict(document)
        else:
            yield name, document
    yield from (("stream_datum", datum) for datum in pending.values())


def _span(first: dict[str, int], last: dict[str, int]) -> dict[str, int]:
    return {"start": first["start"], "stop": last["stop"]}
