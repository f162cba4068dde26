"""The shares of `pipeline.kernels.pixel_splitting` in a form that is quick to read, frame by frame.

Integrating a frame is bound by memory: the counts and the table are read once, and each pixel's
count is fetched from where the table points. So the table is small, and points into a buffer that
stays in the processor's second cache:

- The frame is cut into stripes of consecutive pixels. A stripe is converted to a buffer of float32,
  and a pixel is named by its place in there, 16 bits. After each 1024 pixels the buffer has a gap:
  without it, the rows of a detector of 1024 columns would all fall on the same few lines of the
  first cache (2.5 times slower).
- Within a stripe the pixels are sorted by the first bin that they touch. Those of one first bin are
  a segment; each pixel stands in it once, with its shares in that bin and the next ones.
- A share has 16 bits: 65535 is the whole pixel. The last share is what the others leave, so the
  shares of a pixel add up exactly. Rounding moves a share by at most 8e-6 of a pixel; in a bin of a
  thousand pixels that is far below 1e-6 of I.
- Bins of few pixels (corners, the beam) would notice. Their pixels, and those that touch more bins
  than the table is wide, stand in a list of their own with shares of float32.
- Segments are filled up to a multiple of 8, the width of a vector register, with pixels that point
  to a slot that is always 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels.pixel_splitting import pixel_shares

WHOLE = 65535
"""The share of a pixel that lies in one bin only."""

LANES = 8
"""Segments are padded to a multiple of this."""

STRIPE_PIXELS = 61440
"""Pixels of a stripe: blocks of 8192 bytes, in which frames are compressed, of 2 or 4 bytes a pixel
fill it evenly, and places in it fit 16 bits with room for gaps. The buffer is 250 kB."""

RUN_PIXELS = 1024
"""Pixels that follow each other in a stripe's buffer, ..."""

GAP = 16
"""... and places that are left empty after them: 64 bytes, a line of the cache."""

ZERO_PLACE = STRIPE_PIXELS // RUN_PIXELS * (RUN_PIXELS + GAP)
"""Place in the buffer that is always 0, its last."""

WIDEST = 4
"""Bins that a pixel of the table may touch at most."""

# A bin that fewer pixels touch is kept with exact shares. The rounding of 512 shares adds up to
# 2e-5 of a pixel, times the relative spread of the counts; of 512 pixels that is below 1e-6.
_FEW_PIXELS = 512

# Pixels with exact shares cost four times as much as packed ones, a wider table a third more for
# all: the width is the narrowest that leaves out less than this part of the pixels.
_LEFT_OUT = 0.02


class PackedTable(NamedTuple):
    """Pixels by stripe and first bin.

    Attributes
    ----------
    place
        (entries,) uint16, of the pixel in its stripe's buffer; `ZERO_PLACE` = none. See `place_of`.
    share
        (width - 1, entries) uint16, parts of `WHOLE` in the first bin, the second and so on. The
        last bin has the rest.
    segment_bin
        (segments,) int32, first bin of each segment.
    segment_start
        (segments + 1,) int64, entries of segment s are
        ``segment_start[s]:segment_start[s + 1]``.
    segment_padding
        (segments,) uint8, how many of its entries are padding; they stand last.
    stripe_segment
        (stripes + 1,) int64, segments of stripe t are
        ``stripe_segment[t]:stripe_segment[t + 1]``.
    exact_place, exact_bin, exact_share
        (exact,) uint16, int32 and float32, of the pixels with exact shares.
    stripe_exact
        (stripes + 1,) int64, as ``stripe_segment``.
    """

    place: np.ndarray
    share: np.ndarray
    segment_bin: np.ndarray
    segment_start: np.ndarray
    segment_padding: np.ndarray
    stripe_segment: np.ndarray
    exact_place: np.ndarray
    exact_bin: np.ndarray
    exact_share: np.ndarray
    stripe_exact: np.ndarray


@njit(cache=True, nogil=True)
def place_of(pixel: int | np.integer) -> int:
    """Place in a stripe's buffer of a pixel, both counted from the stripe's first."""
    return int(pixel + pixel // RUN_PIXELS * GAP)


@njit(cache=True, nogil=True)
def pixel_at(place: int | np.integer) -> int:
    """Pixel of a stripe that stands at a place of its buffer."""
    return int(place - place // (RUN_PIXELS + GAP) * GAP)


@njit(cache=True, nogil=True)
def pixel_reach(
    corner: np.ndarray, masked: np.ndarray, low: float, bin_width: float, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels touch each bin, and how many pixels touch so many bins.

    Parameters
    ----------
    corner
        (rows + 1, columns + 1), the bins' axis (q, say) at the pixels' corners.
    masked
        (rows, columns) bool, True = never to be used.
    low, bin_width
        Lower edge of the first bin and width of each, in units of the axis.
    bins
        Number of bins.

    Returns
    -------
    pixels
        (bins,)
    widths
        (WIDEST + 2,), the last is of all that touch more than `WIDEST`.
    """
    rows, columns = masked.shape
    pixels = np.zeros(bins, np.int64)
    widths = np.zeros(WIDEST + 2, np.int64)
    for i in range(rows):
        for j in range(columns):
            if masked[i, j]:
                continue
            a, b = corner[i, j], corner[i + 1, j]
            c, d = corner[i + 1, j + 1], corner[i, j + 1]
            lowest = (min(min(a, b), min(c, d)) - low) / bin_width
            highest = (max(max(a, b), max(c, d)) - low) / bin_width
            if highest < 0.0 or lowest >= bins:
                continue
            first = max(math.floor(lowest), 0)
            last = min(math.floor(highest), bins - 1)
            for k in range(first, last + 1):
                pixels[k] += 1
            widths[min(last - first + 1, WIDEST + 1)] += 1
    return pixels, widths


def table_width(widths: np.ndarray) -> int:
    """How many bins a packed pixel may touch, for a geometry with these `pixel_reach` widths."""
    total = widths.sum()
    for width in range(2, WIDEST):
        if widths[width + 1 :].sum() <= _LEFT_OUT * total:
            return width
    return WIDEST


@njit(cache=True, nogil=True)
def pack_stripe(
    corner: np.ndarray,
    chi_rad: np.ndarray,
    masked: np.ndarray,
    low: float,
    bin_width: float,
    pixels: np.ndarray,
    width: int,
    start: int,
    stop: int,
):
    """The part of a `PackedTable` for one stripe.

    Parameters
    ----------
    corner, chi_rad
        (rows + 1, columns + 1) float32, axis and azimuth of the pixels' corners.
    masked, low, bin_width
        As for `pixel_reach`.
    pixels
        (bins,) from `pixel_reach`.
    width
        From `table_width`.
    start, stop
        Flat indices of the stripe's first pixel and of the one after its last.

    Returns
    -------
    place, share, segment_bin, segment_length, segment_padding
        As in the table; ``segment_length`` counts the entries of each segment.
    exact_place, exact_bin, exact_share
        As in the table.
    """
    columns = masked.shape[1]
    bins = len(pixels)
    first_bin = np.full(stop - start, -1, np.int32)
    parts = np.zeros((width - 1, stop - start), np.uint16)
    counts = np.zeros(bins, np.int64)
    exact_place = np.empty(1024, np.uint16)
    exact_bin = np.empty(1024, np.int32)
    exact_share = np.empty(1024, np.float32)
    exact = 0
    shares = np.empty(bins, np.float32)
    corner_bin = np.empty(4)
    corner_chi = np.empty(4)
    for pixel in range(start, stop):
        i, j = pixel // columns, pixel % columns
        if masked[i, j]:
            continue
        corner_bin[0] = (np.float64(corner[i, j]) - low) / bin_width
        corner_bin[1] = (np.float64(corner[i + 1, j]) - low) / bin_width
        corner_bin[2] = (np.float64(corner[i + 1, j + 1]) - low) / bin_width
        corner_bin[3] = (np.float64(corner[i, j + 1]) - low) / bin_width
        corner_chi[0], corner_chi[1] = chi_rad[i, j], chi_rad[i + 1, j]
        corner_chi[2], corner_chi[3] = chi_rad[i + 1, j + 1], chi_rad[i, j + 1]
        first, count = pixel_shares(corner_bin, corner_chi, bins, shares)
        if count == 0:
            continue
        packed = count <= width
        for k in range(first, first + count):
            packed = packed and pixels[k] >= _FEW_PIXELS
        if packed:
            first_bin[pixel - start] = first
            counts[first] += 1
            left = WHOLE
            for k in range(min(count, width - 1)):
                part = min(max(round(shares[first + k] * WHOLE), 0), left)
                # The last share of all takes what rounding left.
                part = left if k == count - 1 else part
                parts[k, pixel - start] = part
                left -= part
            continue
        if exact + count > len(exact_bin):
            exact_place = _twice(exact_place, count)
            exact_bin = _twice(exact_bin, count)
            exact_share = _twice(exact_share, count)
        for k in range(first, first + count):
            exact_place[exact] = place_of(pixel - start)
            exact_bin[exact] = k
            exact_share[exact] = shares[k]
            exact += 1
    place, share, segment_bin, lengths, padding = _sort(first_bin, parts, counts)
    return (
        place,
        share,
        segment_bin,
        lengths,
        padding,
        exact_place[:exact],
        exact_bin[:exact],
        exact_share[:exact],
    )


@njit(cache=True, nogil=True)
def _twice(array, at_least):
    """The same with room for more."""
    longer = np.empty(2 * len(array) + at_least, array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True, nogil=True)
def _sort(first_bin, parts, counts):
    """Counting sort by first bin; within a bin the pixels stay in the order of memory."""
    segments = 0
    entries = 0
    next_entry = np.zeros(len(counts), np.int64)
    for b in range(len(counts)):
        if counts[b] > 0:
            segments += 1
            next_entry[b] = entries
            entries += -(-counts[b] // LANES) * LANES
    segment_bin = np.empty(segments, np.int32)
    lengths = np.empty(segments, np.int64)
    padding = np.empty(segments, np.uint8)
    s = 0
    for b in range(len(counts)):
        if counts[b] > 0:
            segment_bin[s] = b
            lengths[s] = -(-counts[b] // LANES) * LANES
            padding[s] = lengths[s] - counts[b]
            s += 1
    place = np.full(entries, ZERO_PLACE, np.uint16)
    share = np.zeros((len(parts), entries), np.uint16)
    for k in range(len(first_bin)):
        b = first_bin[k]
        if b >= 0:
            at = next_entry[b]
            place[at] = place_of(k)
            for part in range(len(parts)):
                share[part, at] = parts[part, k]
            next_entry[b] += 1
    return place, share, segment_bin, lengths, padding
