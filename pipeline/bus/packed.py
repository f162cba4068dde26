"""Multipart messages of our own: a msgpack header, then the bytes of each array as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from pipeline.bus.bslz4 import MAX_ARRAY_BYTES
from pipeline.bus.errors import WireError

_KINDS = "biuf"
"""Booleans, integers, floats. No objects, no strings, nothing that would need unpickling."""


def _plain(value: Any) -> Any:
    """numpy scalars are what devices put into documents; anything else is a mistake."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"expected plain data, got {type(value).__name__}: {str(value)[:60]!r}")


def pack(header: Mapping[str, Any]) -> bytes:
    """Header of a message. `TypeError` if a value is not plain data."""
    packed = msgpack.packb(dict(header), default=_plain)
    assert packed is not None
    return packed


def unpack(part: bytes) -> dict[str, Any]:
    """Header of a message; `WireError` if it is not one map with text keys."""
    try:
        header = msgpack.unpackb(part, raw=False, strict_map_key=True, ext_hook=_refuse)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(
            f"expected a msgpack map, got {len(part)} B: {error or type(error).__name__}"
        ) from error
    if not isinstance(header, dict) or not all(type(key) is str for key in header):
        raise WireError(f"expected a msgpack map with text keys, got {type(header).__name__}")
    return header


def _refuse(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


def describe(array: np.ndarray) -> list[Any]:
    """Entry of an array in a header: type and shape."""
    if array.dtype.kind not in _KINDS:
        raise WireError(f"expected an array of numbers, got dtype {array.dtype.str}")
    return [array.dtype.str, list(array.shape)]


def buffer(array: np.ndarray) -> bytes:
    """The bytes of an array, in C order."""
    return np.ascontiguousarray(array).tobytes()


def restore(entry: Any, part: bytes, what: str) -> np.ndarray:
    """The array of an entry and its part, read-only, without a copy.

    Raises
    ------
    WireError
        If the entry is not type and shape, or the part is not of that size.
    """
    if not isinstance(entry, list) or len(entry) != 2 or type(entry[0]) is not str:
        raise WireError(f"expected {what} as [dtype, shape], got {str(entry)[:60]}")
    name, dimensions = entry
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:
        raise WireError(f"expected a dtype for {what}, got {name[:40]!r}") from error
    if dtype.kind not in _KINDS or dtype.str != name:
        raise WireError(f"expected {what} as numbers, got dtype {name[:40]!r}")
    if (
        not isinstance(dimensions, list)
        or len(dimensions) > 8
        or not all(type(n) is int and n >= 0 for n in dimensions)
    ):
        raise WireError(f"expected the shape of {what}, got {str(dimensions)[:60]}")
    size = math.prod(dimensions) * dtype.itemsize
    if size != len(part) or size > MAX_ARRAY_BYTES:
        raise WireError(
            f"{what}: header says {tuple(dimensions)} {name} = {size} B, payload has {len(part)} B"
        )
    return np.frombuffer(part, dtype).reshape(dimensions)


def restore_all(entries: Any, parts: Sequence[bytes], what: str) -> dict[str, np.ndarray]:
    """The arrays of a header's map of entries, one part each, in order."""
    if not isinstance(entries, dict) or len(entries) != len(parts):
        count = len(entries) if isinstance(entries, dict) else type(entries).__name__
        raise WireError(f"{what}: header tells of {count} arrays, got {len(parts)} parts")
    return {
        name: restore(entry, part, f"{what} {name}")
        for (name, entry), part in zip(entries.items(), parts, strict=True)
    }


def field(header: Mapping[str, Any], key: str, kind: type) -> Any:
    """A field of exactly this type (a bool is no int; an int will do for a float)."""
    value = header.get(key)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise WireError(f"expected {key} as {kind.__name__}, got {type(value).__name__}")
    return value
