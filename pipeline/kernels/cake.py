"""One frame to intensity and sigma over q and azimuth, with a table that was made beforehand.

The formulas are those of `pipeline.kernels.integration`, for a cell in place of a bin; pixels that
are invalid in this frame are marked and betray themselves as there.

Cells are small: 500 by 360 of them have 30 pixels each on a detector of 4.5 million, and a third of
all pixels lie in more than one. So the table is not that of the curve, whose pixels stand once with
the shares of neighbouring bins. Of what was tried on such frames (one thread of a Zen processor,
1.6 ms of it for conversion of the counts), milliseconds:

==========================================================  =====
entries by cell, share in 16 bits, filled up to eights        9.7
entries by cell, share in float32, filled up to eights        9.7
the same, filled up to fours                                  9.9
the same, not filled up                                      10.8
the same, whole pixels apart from those that are split       13.5
entries by pixel, added to their cells                       37
==========================================================  =====

The third is used: shares are exact, nothing is gained by less of them, and smaller cells are filled
up by less. Stripes of the frame go through
a buffer as for the curve, so that a pixel is named by 16 bits and fetched from the second cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels.integration import INVALID, load_counts
from pipeline.kernels.packed_table import STRIPE_PIXELS

LANES = 4
"""Segments are filled up to a multiple of this: what LLVM takes at a time behind its main loop."""

# No sum of a segment reaches this: 61440 pixels of 2^31 counts are 1e14. The smallest share of an
# invalid pixel is far above: 1e30 times 1e-7.
_INVALID_SUM = np.float32(1e20)

_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


class CakeTable(NamedTuple):
    """Pixels by stripe and cell.

    Attributes
    ----------
    offset
        (entries,) uint16, pixel within its stripe; ``STRIPE_PIXELS`` = a slot that is 0, with which
        segments are filled up.
    share
        (entries,) float32, part of the pixel in the cell; 0 of what only fills up.
    segment_cell
        (segments,) int32, sector times bins plus bin.
    segment_start
        (segments + 1,) int64, entries of segment s are ``segment_start[s]:segment_start[s + 1]``.
    stripe_segment
        (stripes + 1,) int64, segments of stripe t are ``stripe_segment[t]:stripe_segment[t + 1]``.
    """

    offset: np.ndarray
    share: np.ndarray
    segment_cell: np.ndarray
    segment_start: np.ndarray
    stripe_segment: np.ndarray


@njit(cache=True, nogil=True)
def cell_sums(table: CakeTable, values: np.ndarray, cells: int) -> np.ndarray:
    """Sum over each cell's pixels of share times value.

    Parameters
    ----------
    table
        Of the geometry and the static mask.
    values
        (pixels,) flat, one value a pixel: weights for N, darks for D, ones for the pixel count.
    cells
        Number of cells.

    Returns
    -------
    sums
        (cells,)
    """
    sums = np.zeros(cells)
    for stripe in range(len(table.stripe_segment) - 1):
        base = stripe * STRIPE_PIXELS
        for s in range(table.stripe_segment[stripe], table.stripe_segment[stripe + 1]):
            for k in range(table.segment_start[s], table.segment_start[s + 1]):
                if table.share[k] != _ZERO:
                    sums[table.segment_cell[s]] += table.share[k] * values[base + table.offset[k]]
    return sums


@njit(cache=True, nogil=True)
def reciprocals(norms: np.ndarray) -> np.ndarray:
    """1 / N (cells,) as float32; NaN of a cell without pixels."""
    found = np.full(len(norms), np.nan, np.float32)
    for cell in range(len(norms)):
        if norms[cell] > 0.0:
            found[cell] = 1.0 / norms[cell]
    return found


@njit(cache=True, nogil=True)
def map_frame(
    image: np.ndarray,
    valid_below: np.float32,
    table: CakeTable,
    weights: np.ndarray,
    darks: np.ndarray,
    norms: np.ndarray,
    dark_sums: np.ndarray,
    per_norm: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and one-sigma error of each cell, in counts per unit weight.

    Parameters
    ----------
    image, valid_below
        As for `pipeline.kernels.integration.integrate`.
    table
        Of the geometry and the static mask.
    weights, darks
        (pixels,), flat; read only where a pixel is invalid. ``darks`` empty = none.
    norms, dark_sums
        (cells,) from `cell_sums` of ``weights`` and ``darks``; ``dark_sums`` empty = none.
    per_norm
        (cells,) from `reciprocals` of ``norms``.

    Returns
    -------
    intensity, sigma
        (cells,) float32, NaN where no valid pixel is.
    """
    # A cell gets a sum from each of the few stripes that it lies in: float32 is enough.
    sums = np.zeros((2, len(norms)), np.float32)
    counts = np.empty(STRIPE_PIXELS + 1, np.float32)
    counts[STRIPE_PIXELS] = _ZERO
    betrayed = np.empty(len(table.segment_cell), np.int32)
    all_valid = True
    for stripe in range(len(table.stripe_segment) - 1):
        base = stripe * STRIPE_PIXELS
        stop = min(base + STRIPE_PIXELS, len(image))
        load_counts(image[base:stop], valid_below, counts)
        found = _add_stripe(
            counts,
            table.offset,
            table.share,
            table.segment_start,
            table.segment_cell,
            table.stripe_segment[stripe],
            table.stripe_segment[stripe + 1],
            sums,
            betrayed,
        )
        if found > 0 and all_valid:
            norms, dark_sums = norms.copy(), dark_sums.copy()
            all_valid = False
        for k in range(found):
            _add_valid(counts, base, betrayed[k], table, weights, darks, sums, norms, dark_sums)
    if not all_valid:
        per_norm = reciprocals(norms)
    if len(dark_sums) > 0:
        for cell in range(len(norms)):
            sums[0, cell] -= dark_sums[cell]
    return finish(sums[0], sums[1], per_norm)


@njit(cache=True, nogil=True)
def _add_stripe(counts, offset, share, starts, cells, first, last, sums, betrayed):
    """Add segments ``first`` to ``last``; those with invalid pixels are kept, their number told."""
    found = 0
    for s in range(first, last):
        signal, variance = _sum(counts, offset, share, starts[s], starts[s + 1])
        if abs(signal) > _INVALID_SUM:
            betrayed[found] = s
            found += 1
            continue
        sums[0, cells[s]] += signal
        sums[1, cells[s]] += variance
    return found


# May add in any order (reassoc, contract), which lets it use vectors. NaN cannot reach it, since
# `load_counts` replaces it. Unsigned indices need no check for negative ones.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sum(counts, offset, share, start, stop):
    """Of c x and of c^2 max(x, 1)."""
    signal = variance = _ZERO
    for k in range(np.uint64(start), np.uint64(stop)):
        x = counts[np.uint64(offset[k])]
        c = share[k]
        signal += c * x
        variance += c * c * max(x, _ONE)
    return signal, variance


@njit(cache=True, nogil=True)
def _add_valid(counts, base, s, table, weights, darks, sums, norms, dark_sums):
    """Add a segment that has invalid pixels; their weights and darks leave N and D."""
    cell = table.segment_cell[s]
    for k in range(table.segment_start[s], table.segment_start[s + 1]):
        share = table.share[k]
        if share == _ZERO:
            continue
        x = counts[table.offset[k]]
        if x < INVALID:
            sums[0, cell] += share * x
            sums[1, cell] += share * share * max(x, _ONE)
            continue
        pixel = base + np.int64(table.offset[k])
        norms[cell] -= share * weights[pixel]
        if len(darks) > 0:
            dark_sums[cell] -= share * darks[pixel]


@njit(cache=True, nogil=True)
def finish(
    signals: np.ndarray, variances: np.ndarray, per_norm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and sigma (cells,) float32 from S - D, V and 1 / N."""
    intensity = np.empty(len(per_norm), np.float32)
    sigma = np.empty(len(per_norm), np.float32)
    for cell in range(np.uint64(len(per_norm))):
        variance = variances[cell]
        # Of a cell that lost its pixels, rounding may leave a trace of the norm, but no variance.
        scale = per_norm[cell] if variance > _ZERO else np.float32(np.nan)
        intensity[cell] = signals[cell] * scale
        sigma[cell] = np.sqrt(variance) * scale
    return intensity, sigma
