"""Bitshuffle + LZ4 payloads: what DECTRIS calls ``bslz4`` and HDF5 calls filter 32008.

A payload is a header of 12 bytes (size of the array in bytes as big-endian u8, block size in bytes
as big-endian u4) and the blocks. The same bytes travel in a message and lie in a chunk of a file.
"""

from __future__ import annotations

import math
import os
import struct

import numpy as np
from dectris.compression import decompress as _decompress

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
_TARGET_BLOCK_BYTES = 8192
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
    block = _TARGET_BLOCK_BYTES // array.itemsize
    header = _HEADER.pack(array.nbytes, _TARGET_BLOCK_BYTES)
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
    expected = array_bytes(shape, dtype)
    if len(payload) < HEADER_BYTES:
        raise WireError(f"expected a bslz4 header of {HEADER_BYTES} B, got {len(payload)} B")
    declared, block = _HEADER.unpack_from(payload)
    if declared != expected:
        raise WireError(
            f"expected {shape} {dtype.str} = {expected} B, bslz4 header says {declared} B"
        )
    # Bitshuffle works on groups of 8 elements.
    if block > _MAX_BLOCK_BYTES or block % (8 * dtype.itemsize):
        raise WireError(
            f"expected a bslz4 block of 0 to {_MAX_BLOCK_BYTES} B in steps of "
            f"{8 * dtype.itemsize}, header says {block} B"
        )
    try:
        raw = _decompress(payload, "bslz4", elem_size=dtype.itemsize)
    except RuntimeError as error:
        raise WireError(
            f"expected bslz4 blocks of {shape} {dtype.str}, got {len(payload)} B that do not "
            f"decompress ({error})"
        ) from error
    if len(raw) != expected:
        raise WireError(f"expected {expected} B after decompression, got {len(raw)} B")
    return np.frombuffer(raw, dtype).reshape(shape)
