"""Bitshuffle + LZ4 payloads: what DECTRIS calls ``bslz4`` and HDF5 calls filter 32008.

A payload is a header of 12 bytes (size of the array in bytes as big-endian u8, block size in bytes
as big-endian u4) and the blocks, each behind its compressed length as big-endian u4. What does not
fill a group of 8 elements stands uncompressed at the end. The same bytes travel in a message and
lie in a chunk of a file.
"""

from __future__ import annotations

import math
import os
import struct

import numpy as np

from pipeline.bus.errors import WireError

# bitshuffle is built with OpenMP, which reads this once, when it is loaded. With more threads the
# pool would fight the stages for cores and would not survive a fork.
_threads = os.environ.get("OMP_NUM_THREADS")
os.environ["OMP_NUM_THREADS"] = "1"
import bitshuffle  # noqa: E402

if _threads is None:
    del os.environ["OMP_NUM_THREADS"]
else:
    os.environ["OMP_NUM_THREADS"] = _threads

HDF5_FILTER = 32008
HDF5_OPTIONS = (0, 2)
"""Block size chosen by the filter, LZ4."""

_HEADER = struct.Struct(">QI")
HEADER_BYTES = _HEADER.size
_LENGTH = struct.Struct(">I")
_GROUP_ELEMENTS = 8
"""Bitshuffle transposes the bits of 8 elements at a time."""
TARGET_BLOCK_BYTES = 8192
"""Bitshuffle's own choice for elements of 1, 2, 4 and 8 bytes; a real EIGER2 sends it as well."""
_MAX_BLOCK_BYTES = 1 << 20
"""A decoder needs scratch space of one block, so a header may not ask for more."""
MAX_ARRAY_BYTES = 1 << 29
"""No frame is larger: an EIGER2 16M of 4-byte pixels is 72 MB."""


def compress(array: np.ndarray) -> bytes:
    """Payload of an array, in its own byte order.

    Parameters
    ----------
    array
        Of any shape; elements of 1, 2, 4 or 8 bytes.
    """
    array = np.ascontiguousarray(array)
    block = TARGET_BLOCK_BYTES // array.itemsize
    header = _HEADER.pack(array.nbytes, TARGET_BLOCK_BYTES)
    return header + bitshuffle.compress_lz4(array.reshape(-1), block).tobytes()


def array_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Size of an array; `WireError` if no honest sender would send one that large or empty."""
    size = math.prod(shape) * dtype.itemsize
    if not 0 < size <= MAX_ARRAY_BYTES:
        raise WireError(
            f"expected an array of 1 to {MAX_ARRAY_BYTES} B, "
            f"got shape {shape} {dtype.str} = {size} B"
        )
    return size


def decompress(payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The array of a payload, read-only.

    Sizes are compared with the expected shape before anything is allocated.

    Raises
    ------
    WireError
        If the payload does not hold exactly this array.
    """
    block = check(payload, shape, dtype)
    blocks = np.frombuffer(payload, np.uint8, offset=HEADER_BYTES)
    try:
        array = bitshuffle.decompress_lz4(blocks, shape, dtype, block // dtype.itemsize)
    except (RuntimeError, ValueError) as error:
        raise WireError(
            f"expected bslz4 blocks of {shape} {dtype.str}, got {len(payload)} B that do not "
            f"decompress ({error})"
        ) from error
    array.flags.writeable = False
    return array


def check(payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Size of a payload's blocks in bytes, if its header and lengths are those of this array.

    Raises
    ------
    WireError
        If they are not.
    """
    expected = array_bytes(shape, dtype)
    if len(payload) < HEADER_BYTES:
        raise WireError(f"expected a bslz4 header of {HEADER_BYTES} B, got {len(payload)} B")
    declared, block = _HEADER.unpack_from(payload)
    if declared != expected:
        raise WireError(
            f"expected {shape} {dtype.str} = {expected} B, bslz4 header says {declared} B"
        )
    group = _GROUP_ELEMENTS * dtype.itemsize
    if block > _MAX_BLOCK_BYTES or block % group:
        raise WireError(
            f"expected a bslz4 block of 0 to {_MAX_BLOCK_BYTES} B in steps of "
            f"{group}, header says {block} B"
        )
    block = block or TARGET_BLOCK_BYTES
    _check_lengths(payload, expected, block, group)
    return block


def _check_lengths(payload: bytes, expected: int, block: int, group: int) -> None:
    """Follow the lengths of all blocks to the payload's end, which bitshuffle would not look for.

    It reads as many blocks as the array needs, wherever their lengths lead: past the end of a
    payload that was cut short, too.
    """
    whole, rest = divmod(expected, block)
    count = whole + (rest >= group)
    at, end = HEADER_BYTES, len(payload) - rest % group
    for number in range(count):
        # An empty block has no length that LZ4 could mean: one byte is its shortest.
        if at + _LENGTH.size >= end:
            raise WireError(
                f"expected {count} bslz4 blocks, got {len(payload)} B that end in block {number}"
            )
        at += _LENGTH.size + _LENGTH.unpack_from(payload, at)[0]
    if at != end:
        raise WireError(
            f"expected {count} bslz4 blocks in {end} B, got lengths that add up to {at} B"
        )
