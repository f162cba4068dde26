"""Bitshuffle + LZ4, decoded block by block to where the pixels are needed.

A block of n elements of w bytes holds 8 w planes of bits: plane p has bit p of every element, n / 8
bytes, the first element in the lowest bit. So counts much below the type's range leave most planes
0, and LZ4 makes next to nothing of them. That is used twice here: a plane that is 0 is not
transposed, and pixels go to float32 while their block still lies in the first cache.

Formats: K. Masui et al., Astronomy and Computing 12 (2015) 181 (bitshuffle), and the LZ4 block
format description of Y. Collet. Every length is checked before it is followed: a damaged block
gives an error, never another's memory.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from pipeline.kernels.integration import INVALID

BLOCK_BYTES = 8192
"""Of a block; what bitshuffle chooses for elements of 1 to 4 bytes, and detectors send."""

SLACK = 48
"""Bytes that a decoded block's buffer must have beyond its end: copies are 16 bytes at a time, and
the last 16 of the buffer must be 0 and stay so."""

_STEP = 16
_SHORTEST_MATCH = 4
_MORE = 15


@intrinsic
def _copy_16(typing_context, target, to, source, at):
    """Copy ``source[at:at + 16]`` to ``target[to:to + 16]``; both lie within their arrays."""
    signature = types.void(target, types.uint64, source, types.uint64)

    def generate(context, builder, signature, arguments):
        line = ir.VectorType(ir.IntType(8), _STEP)

        def place(kind, array, index):
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), line.as_pointer())

        target, to, source, at = arguments
        load = builder.load(place(signature.args[2], source, at))
        load.align = 1
        store = builder.store(load, place(signature.args[0], target, to))
        store.align = 1
        return context.get_dummy_value()

    return signature, generate


@njit(cache=True, nogil=True)
def lz4_block(source: np.ndarray, start: int, stop: int, target: np.ndarray, size: int) -> bool:
    """Decode one LZ4 block.

    Parameters
    ----------
    source
        (bytes,) uint8; the block is ``source[start:stop]``.
    start, stop
        Where it lies.
    target
        (size + SLACK or more,) uint8, filled on return; its last 16 bytes must be 0.
    size
        Bytes that the block must give.

    Returns
    -------
    whole
        Whether it gave just these; False for a damaged block.
    """
    at, end, safe = np.uint64(start), np.uint64(stop), np.uint64(len(source))
    filled, wanted = np.uint64(0), np.uint64(size)
    one, step = np.uint64(1), np.uint64(_STEP)
    while at < end:
        token = np.uint64(source[at])
        at += one
        length = token >> np.uint64(4)
        if length == np.uint64(_MORE):
            more = np.uint64(255)
            while more == np.uint64(255) and at < end:
                more = np.uint64(source[at])
                length += more
                at += one
        if length > end - at or length > wanted - filled:
            return False
        # Most literals and matches are short: one or two copies that ask for no length are taken
        # much faster than a loop whose end the processor has to guess.
        if at + length + step <= safe:
            _copy_16(target, filled, source, at)  # pyright: ignore
            done = step
            while done < length:
                _copy_16(target, filled + done, source, at + done)  # pyright: ignore
                done += step
        else:
            for k in range(length):
                target[filled + k] = source[at + k]
        at += length
        filled += length
        if at == end:
            # The last sequence is of literals only.
            return filled == wanted
        if end - at < np.uint64(2):
            return False
        distance = np.uint64(source[at]) | (np.uint64(source[at + one]) << np.uint64(8))
        at += np.uint64(2)
        length = token & np.uint64(_MORE)
        if length == np.uint64(_MORE):
            more = np.uint64(255)
            while more == np.uint64(255) and at < end:
                more = np.uint64(source[at])
                length += more
                at += one
        length += np.uint64(_SHORTEST_MATCH)
        if distance == np.uint64(0) or distance > filled or length > wanted - filled:
            return False
        _repeat(target, filled, distance, length)
        filled += length
    return False


@njit(cache=True, nogil=True)
def _repeat(target, filled, distance, length):
    """Copy ``length`` bytes from ``distance`` before ``filled``, which may overlap, to there."""
    step = np.uint64(_STEP)
    done = np.uint64(0)
    if distance == np.uint64(1) and target[filled - np.uint64(1)] == 0:
        # The commonest of all: an empty stretch of a plane.
        zeros = np.uint64(len(target)) - step
        while done < length:
            _copy_16(target, filled + done, target, zeros)  # pyright: ignore
            done += step
    elif distance < step:
        # One period of the pattern at a time, until a step no longer reads what it writes.
        far = distance
        while far < step:
            far += distance
        for k in range(min(far, length)):
            target[filled + k] = target[filled + k - distance]
        done = min(far, length)
        distance = far
    else:
        _copy_16(target, filled, target, filled - distance)  # pyright: ignore
        _copy_16(target, filled + step, target, filled + step - distance)  # pyright: ignore
        done = step + step
    while done < length:
        # pyright does not know that the compiler's own first argument is not ours to give.
        _copy_16(target, filled + done, target, filled + done - distance)  # pyright: ignore
        done += step


@njit(cache=True, nogil=True, inline="always")
def _swap(a, b, shift, mask):
    """Swap bits ``mask << shift`` of every byte of ``a`` with bits ``mask`` of those of ``b``."""
    t = ((a >> np.uint64(shift)) ^ b) & np.uint64(mask)
    return a ^ (t << np.uint64(shift)), b ^ t


@njit(cache=True, nogil=True)
def transpose_bits(planes: np.ndarray) -> None:
    """Eight planes of bits to eight planes of bytes, in place.

    Parameters
    ----------
    planes
        (8, n) uint64. Bit i of byte j of plane k is bit k of element 8 j + i before; bit k of byte
        j of plane i after.
    """
    # Three steps swap ever smaller blocks of 8 x 8 bits (H. S. Warren, Hacker's Delight, 7-3), here
    # across planes, so that eight bytes are swapped at once. What a shift drags over from the next
    # byte falls outside the mask.
    for j in range(np.uint64(planes.shape[1])):
        a, b, c, d = planes[0, j], planes[1, j], planes[2, j], planes[3, j]
        e, f, g, h = planes[4, j], planes[5, j], planes[6, j], planes[7, j]
        a, e = _swap(a, e, 4, 0x0F0F0F0F0F0F0F0F)
        b, f = _swap(b, f, 4, 0x0F0F0F0F0F0F0F0F)
        c, g = _swap(c, g, 4, 0x0F0F0F0F0F0F0F0F)
        d, h = _swap(d, h, 4, 0x0F0F0F0F0F0F0F0F)
        a, c = _swap(a, c, 2, 0x3333333333333333)
        b, d = _swap(b, d, 2, 0x3333333333333333)
        e, g = _swap(e, g, 2, 0x3333333333333333)
        f, h = _swap(f, h, 2, 0x3333333333333333)
        planes[0, j], planes[1, j] = _swap(a, b, 1, 0x5555555555555555)
        planes[2, j], planes[3, j] = _swap(c, d, 1, 0x5555555555555555)
        planes[4, j], planes[5, j] = _swap(e, f, 1, 0x5555555555555555)
        planes[6, j], planes[7, j] = _swap(g, h, 1, 0x5555555555555555)


@njit(cache=True, nogil=True)
def block_counts(
    planes: np.ndarray, element_bytes: int, valid_below: np.float32, counts: np.ndarray
) -> None:
    """Counts of one whole block as float32, with invalid pixels marked, in the order of the planes.

    Parameters
    ----------
    planes
        (BLOCK_BYTES,) uint8, from `lz4_block`; changed.
    element_bytes
        2 or 4, of unsigned counts. Those of 4 bytes from 2^31 on are invalid.
    valid_below
        Valid is what is below this.
    counts
        (8, row or more) float32, row = BLOCK_BYTES / 8 / element_bytes; element 8 j + i of the
        block goes to ``counts[i, j]``.
    """
    row = BLOCK_BYTES // 8 // element_bytes
    words = planes.view(np.uint64).reshape((8 * element_bytes, row // 8))
    highest = 0
    for byte in range(element_bytes):
        if byte == 0 or _any(words, 8 * byte, 8 * byte + 8):
            transpose_bits(words[8 * byte : 8 * byte + 8])
            highest = byte
    octets = planes.reshape((8 * element_bytes, row))
    if highest == 0:
        _from_1(octets, valid_below, counts)
    elif highest == 1:
        _from_2(octets, valid_below, counts)
    else:
        _from_4(octets, valid_below, counts)


@njit(cache=True, nogil=True)
def _any(words: np.ndarray, first: int, last: int) -> bool:
    """Whether a bit is set in these planes."""
    found = np.uint64(0)
    for k in range(np.uint64(first), np.uint64(last)):
        for j in range(np.uint64(words.shape[1])):
            found |= words[k, j]
    return found != np.uint64(0)


@njit(cache=True, nogil=True)
def _from_1(octets: np.ndarray, valid_below: np.float32, counts: np.ndarray) -> None:
    """Counts below 256, of which hardly ever one is invalid."""
    plain = valid_below > np.float32(255.0)
    for i in range(np.uint64(8)):
        if plain:
            for k in range(np.uint64(octets.shape[1])):
                counts[i, k] = np.float32(np.int32(octets[i, k]))
        else:
            for k in range(np.uint64(octets.shape[1])):
                x = np.float32(np.int32(octets[i, k]))
                counts[i, k] = x if x < valid_below else INVALID


@njit(cache=True, nogil=True)
def _from_2(octets: np.ndarray, valid_below: np.float32, counts: np.ndarray) -> None:
    """Counts below 65536."""
    eight = np.uint64(8)
    for i in range(eight):
        for k in range(np.uint64(octets.shape[1])):
            x = np.int32(octets[i, k]) | (np.int32(octets[i + eight, k]) << np.int32(8))
            value = np.float32(x)
            counts[i, k] = value if value < valid_below else INVALID


@njit(cache=True, nogil=True)
def _from_4(octets: np.ndarray, valid_below: np.float32, counts: np.ndarray) -> None:
    """Counts of 32 bits, which are negative from 2^31 on."""
    eight = np.uint64(8)
    for i in range(eight):
        for k in range(np.uint64(octets.shape[1])):
            low = np.int32(octets[i, k]) | (np.int32(octets[i + eight, k]) << np.int32(8))
            third = np.int32(octets[i + eight + eight, k])
            fourth = np.int32(octets[i + eight + eight + eight, k])
            high = third | (fourth << np.int32(8))
            value = np.float32(low | (high << np.int32(16)))
            counts[i, k] = value if (value >= np.float32(0.0)) & (value < valid_below) else INVALID
