"""Frames as messages, and back. What comes back is what was announced, or `WireError`.

Images travel as DECTRIS Stream V2 (`pipeline.bus.stream2`), one part. Spectra and curves are
floats, which that protocol does not carry: a header and the bytes of each array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from pipeline.bus import bslz4, cbor, packed, stream2
from pipeline.bus.errors import WireError
from pipeline.bus.facts import FrameFacts, arrays_of, arrays_per_frame, build_frame, facts_of
from pipeline.messages import Frame, StreamEnd, StreamStart
from pipeline.messages.frames import Kind

Parts = Sequence[bytes]
_KINDS = get_args(Kind)
_LINE_DTYPES = ("<u2", "<u4", "<f4", "<f8")
"""Of spectra and curves: counts come as integers or, averaged, as floats."""


def payloads_of(frame: Frame) -> tuple[bytes, ...]:
    """The bslz4 form of each array of a frame: what is stored, and sent if it is an image."""
    return tuple(bslz4.compress(array) for array in arrays_of(frame))


# Encoding


def encode_start(start: StreamStart) -> list[bytes]:
    """Message that announces a stream."""
    if start.kind == "image":
        return [stream2.encode_start(start)]
    header = {
        "type": "start",
        "stream": start.stream,
        "run": start.run,
        "kind": start.kind,
        "shape": list(start.shape),
        "dtype": np.dtype(start.dtype).str,
        "metadata": start.metadata,
        "arrays": {name: packed.describe(array) for name, array in start.arrays.items()},
    }
    return [packed.pack(header), *(packed.buffer(array) for array in start.arrays.values())]


def encode_frame(
    frame: Frame, start: StreamStart, payloads: tuple[bytes, ...] | None = None
) -> list[bytes]:
    """Message of a frame. ``payloads`` saves compressing again: see `payloads_of`."""
    if start.kind == "image":
        payload = payloads[0] if payloads else bslz4.compress(arrays_of(frame)[0])
        return [stream2.encode_image(facts_of(frame), payload, start, stream2.series_of(start))]
    return _encode_arrays(facts_of(frame), arrays_of(frame), start)


def encode_stored(
    facts: FrameFacts, payloads: tuple[bytes, ...], start: StreamStart
) -> list[bytes]:
    """Message of a frame that is at hand in its stored form."""
    if start.kind == "image":
        return [stream2.encode_image(facts, payloads[0], start, stream2.series_of(start))]
    dtype = np.dtype(start.dtype)
    arrays = tuple(bslz4.decompress(payload, start.shape, dtype) for payload in payloads)
    return _encode_arrays(facts, arrays, start)


def _encode_arrays(
    facts: FrameFacts, arrays: tuple[np.ndarray, ...], start: StreamStart
) -> list[bytes]:
    header = {
        "type": "frame",
        "run": start.run,
        "frame": facts.frame,
        "time_ns": facts.time_ns,
        "exposure_s": float(facts.exposure_s),
        "arrays": [packed.describe(array) for array in arrays],
    }
    return [packed.pack(header), *(packed.buffer(array) for array in arrays)]


def encode_end(end: StreamEnd, start: StreamStart) -> list[bytes]:
    """Message that ends a stream."""
    if start.kind == "image":
        return [stream2.encode_end(end, stream2.series_of(start))]
    header = {"type": "end", "run": end.run, "frames": end.frames, "reason": end.reason}
    return [packed.pack(header)]


# Decoding


def decode_start(parts: Parts, *, stream: str = "saxs", dtype: str | None = None) -> StreamStart:
    """Start of a stream; the options are those of `stream2.decode_start`."""
    message = _first(parts)
    _expect(message, "start")
    if _is_cbor(parts):
        return stream2.decode_start(message, stream=stream, dtype=dtype)
    kind = packed.field(message, "kind", str)
    shape = packed.field(message, "shape", list)
    if kind not in _KINDS or kind == "image":
        raise WireError(f"expected kind counts, absorbance or curve, got {kind[:40]!r}")
    if len(shape) != 1 or type(shape[0]) is not int or shape[0] < 1:
        raise WireError(f"expected a shape of one dimension, got {str(shape)[:60]}")
    name = packed.field(message, "dtype", str)
    if name not in _LINE_DTYPES:
        raise WireError(f"expected dtype {' or '.join(_LINE_DTYPES)}, got {name[:40]!r}")
    bslz4.array_bytes(tuple(shape), np.dtype(name))
    metadata = packed.field(message, "metadata", dict)
    return StreamStart(
        packed.field(message, "stream", str),
        packed.field(message, "run", str),
        kind,
        tuple(shape),
        name,
        packed.restore_all(message.get("arrays"), parts[1:], "start"),
        stream2.json_able(metadata, "metadata"),
    )


def peek(parts: Parts, start: StreamStart) -> tuple[str, int]:
    """What a message is and which: ``("frame", number)`` or ``("end", frames)``.

    Arrays are not touched. `WireError` also if it belongs to another run.
    """
    message = _first(parts)
    if _is_cbor(parts) != (start.kind == "image"):
        raise WireError(f"expected a message of kind {start.kind}")
    if message.get("type") == "end":
        return "end", decode_end(parts, start).frames
    if _is_cbor(parts):
        _expect(message, "image")
        stream2.check_series(message, start)
        return "frame", stream2.image_number(message)
    _expect(message, "frame")
    _check_run(message, start)
    return "frame", _facts(message).frame


def decode_frame(parts: Parts, start: StreamStart, *, keep_compressed: bool = False) -> Frame:
    """Frame of a stream; with ``keep_compressed``, a compressed image as it is.

    Raises
    ------
    WireError
        If anything differs from what ``start`` announced; sizes are checked before anything is
        allocated or decompressed.
    """
    message = _first(parts)
    if start.kind == "image":
        _expect(message, "image")
        packed_frame = stream2.decode_packed(message, start) if keep_compressed else None
        return packed_frame or stream2.decode_image(message, start)
    _expect(message, "frame")
    _check_run(message, start)
    facts = _facts(message)
    what = f"{start.stream} frame {facts.frame}"
    entries = packed.field(message, "arrays", list)
    count = arrays_per_frame(start)
    if len(entries) != count or len(parts) != count + 1:
        raise WireError(f"{what}: expected {count} arrays, got {len(parts) - 1} parts")
    announced = [np.dtype(start.dtype).str, list(start.shape)]
    for entry in entries:
        if entry != announced:
            raise WireError(f"{what}: expected {announced}, header says {str(entry)[:60]}")
    arrays = tuple(
        packed.restore(entry, part, what) for entry, part in zip(entries, parts[1:], strict=True)
    )
    return build_frame(start, facts, arrays)


def decode_end(parts: Parts, start: StreamStart, frames: int | None = None) -> StreamEnd:
    """End of a stream; ``frames`` as in `stream2.decode_end`."""
    message = _first(parts)
    _expect(message, "end")
    if start.kind == "image":
        return stream2.decode_end(message, start, frames)
    _check_run(message, start)
    count = packed.field(message, "frames", int)
    if count < 0:
        raise WireError(f"expected frames of 0 or more, got {count}")
    return StreamEnd(start.stream, start.run, count, packed.field(message, "reason", str))


def _is_cbor(parts: Parts) -> bool:
    """CBOR by its prefix, or a bare map: a msgpack map begins with 80-8f, de or df."""
    first = parts[0]
    return first[:3] == cbor.PREFIX or (bool(first) and 0xA0 <= first[0] <= 0xBF)


def _first(parts: Parts) -> dict[str, Any]:
    """The map of a message: the whole of it (images), or its header."""
    if not parts:
        raise WireError("expected a message, got no part")
    if not _is_cbor(parts):
        return packed.unpack(parts[0])
    if len(parts) != 1:
        raise WireError(f"expected an image message of one part, got {len(parts)}")
    return cbor.loads(parts[0])


def _expect(message: dict[str, Any], kind: str) -> None:
    if message.get("type") != kind:
        raise WireError(f"expected a message of type {kind}, got {str(message.get('type'))[:40]!r}")


def _check_run(message: dict[str, Any], start: StreamStart) -> None:
    run = packed.field(message, "run", str)
    if run != start.run:
        raise WireError(f"expected run {start.run!r}, got {run[:80]!r}")


def _facts(message: dict[str, Any]) -> FrameFacts:
    return FrameFacts(
        packed.field(message, "frame", int),
        packed.field(message, "time_ns", int),
        packed.field(message, "exposure_s", float),
    )
