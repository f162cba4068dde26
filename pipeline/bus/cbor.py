"""CBOR as Stream V2 uses it: plain data, dates, typed arrays. Everything else is refused."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import cbor2
import numpy as np

from pipeline.bus import bslz4
from pipeline.bus.errors import WireError

PREFIX = b"\xd9\xd9\xf7"
"""Self-described CBOR (tag 55799). DECTRIS' own parser refuses a message without it."""

_MULTI_DIM = 40
_COMPRESSED = 56500
_TAG_TO_DTYPE = {
    64: "|u1", 68: "|u1", 69: "<u2", 70: "<u4", 71: "<u8",
    72: "|i1", 77: "<i2", 78: "<i4", 79: "<i8",
    84: "<f2", 85: "<f4", 86: "<f8",
}  # fmt: skip
"""Little-endian typed arrays of RFC 8746. No detector sends the others."""
_DTYPE_TO_TAG = {
    dtype: tag for tag, dtype in _TAG_TO_DTYPE.items() if tag != 68
}  # 68: clamped bytes

_MAX_DEPTH = 24
"""A real start message is 3 deep; what users attach seldom passes 10."""
_MAX_DIMENSIONS = 8

# Tags that cbor2 would turn into bignums, decimals, regular expressions, shared references, e-mail
# messages, sets and so on. Nothing of that is in the protocol, some of it is costly.
_REFUSED_TAGS = (1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000)


def _refuse(*_: Any) -> Any:
    raise ValueError("a tag that Stream V2 does not use")


_DECODERS: dict[int, Any] = dict.fromkeys((*_REFUSED_TAGS, 55799), _refuse)


def loads(message: bytes) -> dict[str, Any]:
    """The top-level map of a message, with or without the prefix.

    Raises
    ------
    WireError
        If it is anything but one complete map with text keys.
    """
    body = io.BytesIO(message)
    if message[: len(PREFIX)] == PREFIX:
        body.seek(len(PREFIX))
    decoder = cbor2.CBORDecoder(
        body,
        semantic_decoders=_DECODERS,
        max_depth=_MAX_DEPTH,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
    )
    try:
        value = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise WireError(f"expected a CBOR map, got {len(message)} B of which: {error}") from error
    if body.tell() != len(message):
        raise WireError(f"expected one CBOR map, got {len(message) - body.tell()} B more after it")
    if not isinstance(value, dict):
        raise WireError(f"expected a CBOR map, got {type(value).__name__}")
    return value


def dumps(message: Mapping[str, Any]) -> bytes:
    """A message with its prefix. Keys stay in order: the protocol wants ``type`` first."""
    return PREFIX + cbor2.dumps(dict(message))


def array_item(array: np.ndarray, payload: bytes | None = None) -> cbor2.CBORTag:
    """A multi-dimensional array; ``payload`` is its bslz4 form if that is to be sent."""
    dtype = array.dtype.newbyteorder("<")
    data = np.ascontiguousarray(array, dtype).tobytes() if payload is None else payload
    return item(array.shape, dtype, data, compressed=payload is not None)


def item(
    shape: tuple[int, ...], dtype: np.dtype, data: bytes, *, compressed: bool
) -> cbor2.CBORTag:
    """As `array_item`, of an array that exists only as bytes."""
    tag = _DTYPE_TO_TAG.get(dtype.str)
    if tag is None:
        raise WireError(f"expected one of {sorted(_DTYPE_TO_TAG)}, got dtype {dtype.str}")
    content: Any = data
    if compressed:
        content = cbor2.CBORTag(_COMPRESSED, ["bslz4", dtype.itemsize, data])
    return cbor2.CBORTag(_MULTI_DIM, [list(shape), cbor2.CBORTag(tag, content)])


def _pair(value: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise WireError(f"expected {what} as an array of two, got {_brief(value)}")
    return value[0], value[1]


def _brief(value: Any) -> str:
    text = repr(value) if isinstance(value, int | float | str | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def array_of(
    value: Any, what: str, shape: tuple[int, ...] | None = None, dtype: np.dtype | None = None
) -> np.ndarray:
    """The array of a tag-40 item, read-only.

    Parameters
    ----------
    value
        As decoded by `loads`.
    what
        Name for the message of an error.
    shape, dtype
        What it must be; None = whatever it is.
    """
    got_shape, got_dtype, content = _describe(value, what)
    if shape is not None and got_shape != shape:
        raise WireError(f"expected {what} of shape {shape}, got {got_shape}")
    if dtype is not None and got_dtype != dtype:
        raise WireError(f"expected {what} of dtype {dtype.str}, got {got_dtype.str}")
    if isinstance(content, bytes):
        size = math.prod(got_shape) * got_dtype.itemsize
        if len(content) != size:
            raise WireError(
                f"{what}: header says {got_shape} {got_dtype.str} = {size} B, "
                f"payload has {len(content)} B"
            )
        return np.frombuffer(content, got_dtype).reshape(got_shape)
    try:
        return bslz4.decompress(compressed_bytes(content, got_dtype, what), got_shape, got_dtype)
    except WireError as error:
        raise WireError(f"{what}: {error}") from error.__cause__


def payload_of(value: Any, what: str, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The bslz4 payload of a tag-40 item, compressed now if it was not."""
    got_shape, got_dtype, content = _describe(value, what)
    if (got_shape, got_dtype) != (shape, dtype) or isinstance(content, bytes):
        return bslz4.compress(array_of(value, what, shape, dtype))
    return compressed_bytes(content, got_dtype, what)


def checked_payload(value: Any, what: str, shape: tuple[int, ...], dtype: np.dtype) -> bytes | None:
    """The bslz4 payload of a tag-40 item, its lengths checked.

    None if it is not compressed, or with another type or size of block than detectors send: not of
    unsigned counts of 2 or 4 bytes in blocks of 8192 bytes.
    """
    got_shape, got_dtype, content = _describe(value, what)
    if isinstance(content, bytes) or dtype.str not in ("<u2", "<u4"):
        return None
    if (got_shape, got_dtype) != (shape, dtype):
        raise WireError(f"expected {what} as {shape} {dtype.str}, got {got_shape} {got_dtype.str}")
    payload = compressed_bytes(content, got_dtype, what)
    try:
        block = bslz4.check(payload, got_shape, got_dtype)
    except WireError as error:
        raise WireError(f"{what}: {error}") from None
    return payload if block == bslz4.TARGET_BLOCK_BYTES else None


def _describe(value: Any, what: str) -> tuple[tuple[int, ...], np.dtype, Any]:
    """Shape, dtype and content (bytes, or the compression tag) of an array item."""
    if not isinstance(value, cbor2.CBORTag) or value.tag != _MULTI_DIM:
        raise WireError(f"expected {what} as an array (tag {_MULTI_DIM}), got {_brief(value)}")
    dimensions, typed = _pair(value.value, what)
    if (
        not isinstance(dimensions, list | tuple)
        or not 1 <= len(dimensions) <= _MAX_DIMENSIONS
        or not all(type(n) is int and n >= 0 for n in dimensions)
    ):
        raise WireError(f"expected the shape of {what} as integers, got {_brief(dimensions)}")
    if not isinstance(typed, cbor2.CBORTag) or typed.tag not in _TAG_TO_DTYPE:
        tag = typed.tag if isinstance(typed, cbor2.CBORTag) else _brief(typed)
        raise WireError(f"expected {what} as a little-endian typed array, got tag {tag}")
    if not isinstance(typed.value, bytes | cbor2.CBORTag):
        raise WireError(f"expected bytes in {what}, got {_brief(typed.value)}")
    return tuple(dimensions), np.dtype(_TAG_TO_DTYPE[typed.tag]), typed.value


def compressed_bytes(content: cbor2.CBORTag, dtype: np.dtype, what: str) -> bytes:
    """The payload inside a compression tag."""
    fields = content.value
    if content.tag != _COMPRESSED or not isinstance(fields, list | tuple) or len(fields) != 3:
        raise WireError(f"expected {what} as bytes or tag {_COMPRESSED}, got tag {content.tag}")
    algorithm, element_bytes, payload = fields
    if algorithm != "bslz4" or element_bytes != dtype.itemsize or not isinstance(payload, bytes):
        raise WireError(
            f"expected {what} as bslz4 of {dtype.itemsize} B elements, "
            f"got {_brief(algorithm)} of {_brief(element_bytes)} B elements"
        )
    return payload
