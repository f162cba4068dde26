"""A compressed frame to I(q) and sigma, without the frame in between.

Decompressing a frame takes longer than integrating it, much of it to write pixels to memory and to
read them again. Here each stripe is decompressed into the buffer that its pixels are added up from.

The pixels of a block stay in the order in which bitshuffle's planes give them: pixel 8 j + i of a
block stands in row i, column j. The table is told once where each of its pixels stands then
(`plane_order`), and nothing has to be put in order, frame by frame.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.kernels.bslz4_blocks import BLOCK_BYTES, SLACK, block_counts, lz4_block
from pipeline.kernels.integration import INVALID, add_stripe, finish, start_sums
from pipeline.kernels.packed_table import STRIPE_PIXELS, ZERO_PLACE, PackedTable, pixel_at

HEADER_BYTES = 12
"""Of a payload, before its first block: see `pipeline.bus.bslz4`."""

_LENGTH_BYTES = 4
_GROUP = 8

# Between rows of a block in the buffer. Rows of 2048 or 1024 bytes would all fall on the same few
# lines of the first cache.
_GAP = 16


@njit(cache=True, nogil=True)
def buffer_size(element_bytes: int) -> int:
    """Floats of a stripe in the order of the planes, with the slot that is 0, which is the last."""
    row = BLOCK_BYTES // _GROUP // element_bytes
    blocks = STRIPE_PIXELS * element_bytes // BLOCK_BYTES
    return blocks * _GROUP * (row + _GAP) + 1


@njit(cache=True, nogil=True)
def plane_order(place: np.ndarray, element_bytes: int) -> np.ndarray:
    """Where the pixels of a table stand in a stripe's buffer in the order of the planes.

    Parameters
    ----------
    place
        (entries,) uint16, of a `PackedTable`.
    element_bytes
        2 or 4.

    Returns
    -------
    plane_place
        (entries,) uint16.
    """
    per_block = BLOCK_BYTES // element_bytes
    row = per_block // _GROUP + _GAP
    found = np.empty(len(place), np.uint16)
    for k in range(len(place)):
        if place[k] == ZERO_PLACE:
            found[k] = buffer_size(element_bytes) - 1
            continue
        pixel = pixel_at(np.int64(place[k]))
        block, within = pixel // per_block, pixel % per_block
        found[k] = (block * _GROUP + within % _GROUP) * row + within // _GROUP
    return found


@njit(cache=True, nogil=True)
def unpack_stripe(
    payload: np.ndarray,
    at: int,
    pixels: int,
    element_bytes: int,
    valid_below: np.float32,
    planes: np.ndarray,
    lines: np.ndarray,
) -> tuple[int, int]:
    """Counts of one stripe as float32 with invalid pixels marked, in the order of the planes.

    Parameters
    ----------
    payload, element_bytes, valid_below
        As for `integrate_bslz4`.
    at
        Where the stripe's first block begins in the payload.
    pixels
        Of the stripe.
    planes
        (BLOCK_BYTES + SLACK,) uint8, scratch.
    lines
        (blocks, 8, row or more) float32, filled on return: pixel 8 j + i of a block is in row i,
        column j of it.

    Returns
    -------
    at
        Where the next stripe begins.
    damaged
        Which block of the stripe cannot be decompressed; -1 = none.
    """
    per_block = BLOCK_BYTES // element_bytes
    for block in range(-(-pixels // per_block)):
        left = min(pixels - block * per_block, per_block)
        elements = left // _GROUP * _GROUP
        if elements > 0:
            length = _big_endian(payload, at)
            at += _LENGTH_BYTES
            if not lz4_block(payload, at, at + length, planes, elements * element_bytes):
                return at, block
            at += length
            if elements == per_block:
                block_counts(planes[:BLOCK_BYTES], element_bytes, valid_below, lines[block])
            else:
                _short_block(planes, elements, element_bytes, valid_below, lines[block])
        if elements < left:
            _bare_pixels(payload, at, elements, left, element_bytes, valid_below, lines[block])
    return at, -1


@njit(cache=True, nogil=True)
def _stripe_lines(element_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Buffer of one stripe whose last place is 0, and its view as blocks, rows and columns."""
    row = BLOCK_BYTES // _GROUP // element_bytes
    counts = np.full(buffer_size(element_bytes), INVALID)
    counts[-1] = np.float32(0.0)
    blocks = STRIPE_PIXELS * element_bytes // BLOCK_BYTES
    return counts, counts[:-1].reshape((blocks, _GROUP, row + _GAP))


@njit(cache=True, nogil=True)
def load_bslz4(
    payload: np.ndarray, element_bytes: int, valid_below: np.float32, counts: np.ndarray
) -> int:
    """Counts of a compressed frame as float32 with invalid pixels marked, in the order of memory.

    Parameters
    ----------
    payload, element_bytes, valid_below
        As for `integrate_bslz4`.
    counts
        (pixels,) float32, filled on return.

    Returns
    -------
    damaged
        Number of the first block that cannot be decompressed; -1 = none.
    """
    per_block = BLOCK_BYTES // element_bytes
    lines = _stripe_lines(element_bytes)[1]
    planes = np.zeros(BLOCK_BYTES + SLACK, np.uint8)
    at = HEADER_BYTES
    for start in range(0, len(counts), STRIPE_PIXELS):
        pixels = min(len(counts) - start, STRIPE_PIXELS)
        at, damaged = unpack_stripe(payload, at, pixels, element_bytes, valid_below, planes, lines)
        if damaged >= 0:
            return start // per_block + damaged
        for pixel in range(pixels):
            block, within = pixel // per_block, pixel % per_block
            counts[start + pixel] = lines[block, within % _GROUP, within // _GROUP]
    return -1


@njit(cache=True, nogil=True)
def integrate_bslz4(
    payload: np.ndarray,
    pixels: int,
    element_bytes: int,
    valid_below: np.float32,
    table: PackedTable,
    place: np.ndarray,
    exact_place: np.ndarray,
    weights: np.ndarray,
    darks: np.ndarray,
    norms: np.ndarray,
    dark_sums: np.ndarray,
) -> tuple[int, np.ndarray, np.ndarray]:
    """Intensity and sigma of a compressed frame, as `pipeline.kernels.integration.integrate`.

    Parameters
    ----------
    payload
        (bytes,) uint8, header and blocks of `BLOCK_BYTES`, of little-endian unsigned counts. The
        lengths of the blocks must have been checked to lie within it.
    pixels
        Of the frame.
    element_bytes
        2 or 4.
    valid_below
        Valid is what is below this; at most 2^31.
    table, weights, darks, norms, dark_sums
        As for `integrate`.
    place, exact_place
        `plane_order` of the table's ``place`` and ``exact_place``.

    Returns
    -------
    damaged
        Number of the first block that cannot be decompressed; -1 = none.
    intensity, sigma
        (bins,), NaN where no valid pixel is, or if a block is damaged.
    """
    counts, lines = _stripe_lines(element_bytes)
    planes = np.zeros(BLOCK_BYTES + SLACK, np.uint8)
    sums = start_sums(table, norms, dark_sums)
    at = HEADER_BYTES
    for stripe in range(len(table.stripe_segment) - 1):
        start = stripe * STRIPE_PIXELS
        at, damaged = unpack_stripe(
            payload,
            at,
            min(pixels - start, STRIPE_PIXELS),
            element_bytes,
            valid_below,
            planes,
            lines,
        )
        if damaged >= 0:
            failed = np.full(len(norms), np.nan)
            return start * element_bytes // BLOCK_BYTES + damaged, failed, failed.copy()
        add_stripe(counts, stripe, table, place, exact_place, weights, darks, sums)
    intensity, sigma = finish(sums, len(norms))
    return -1, intensity, sigma


@njit(cache=True, nogil=True)
def _big_endian(values: np.ndarray, at: int) -> int:
    value = 0
    for k in range(_LENGTH_BYTES):
        value = (value << 8) | int(values[at + k])
    return value


@njit(cache=True, nogil=True)
def _count(bits: int, valid_below: np.float32) -> np.float32:
    value = np.float32(bits)
    return value if value < valid_below else INVALID


@njit(cache=True, nogil=True)
def _short_block(planes, elements, element_bytes, valid_below, lines):
    """The last block of a frame, whose planes are no whole words: bit by bit."""
    row = elements // _GROUP
    for pixel in range(elements):
        j, i = pixel // _GROUP, pixel % _GROUP
        bits = 0
        for k in range(8 * element_bytes):
            bits |= ((int(planes[k * row + j]) >> i) & 1) << k
        lines[i, j] = _count(bits, valid_below)


@njit(cache=True, nogil=True)
def _bare_pixels(payload, at, first, stop, element_bytes, valid_below, lines):
    """The fewer than eight pixels at the end of a frame, which are not compressed."""
    for pixel in range(first, stop):
        bits = 0
        for k in range(element_bytes):
            bits |= int(payload[at + (pixel - first) * element_bytes + k]) << (8 * k)
        lines[pixel % _GROUP, pixel // _GROUP] = _count(bits, valid_below)
