"""One frame to I(q) and sigma, with a table of shares that was made beforehand.

    I = (S - D) / N        sigma = sqrt(V) / N
    S = sum c x      V = sum c^2 max(x, 1)      N = sum c w      D = sum c d

over the pixels of a bin with share c, count x, weight w (all that a count is to be divided by) and
dark count d. These are pyFAI's weighted mean and its standard error of the mean with the Poisson
error model. Weights and dark stand in N and D only, which are constants of a bin, so no correction
costs anything per frame. max(x, 1): a pixel without a count still says no more than "about one or
fewer".

Pixels that are invalid in this frame (saturated, out of the type's range, negative, not finite)
become a huge number while the frame is converted. It betrays itself in the sum of its segment, and
only that segment is added up again without them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.kernels.packed_table import (
    RUN_PIXELS,
    STRIPE_PIXELS,
    WHOLE,
    ZERO_PLACE,
    PackedTable,
    pixel_at,
    place_of,
)

# Stands for an invalid pixel: finite in float32.
INVALID = np.float32(1e30)
# No sum of a segment reaches this: 61440 pixels of 2^31 counts are 1e14, times `WHOLE` 1e19.
_INVALID_SUM = np.float32(1e20)

_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


@njit(cache=True, nogil=True)
def load_counts(image: np.ndarray, valid_below: np.float32, counts: np.ndarray) -> None:
    """Counts as float32 with invalid pixels marked.

    Parameters
    ----------
    image
        (pixels,) flat, any real type. What is above 2^24 is rounded to 7 digits.
    valid_below
        Valid is what is >= 0 and below this. NaN fails both comparisons.
    counts
        (pixels,) float32 or longer, filled on return.
    """
    for k in range(np.uint64(len(image))):
        x = np.float32(image[k])
        counts[k] = x if (x >= _ZERO) & (x < valid_below) else INVALID


@njit(cache=True, nogil=True)
def load_stripe(image: np.ndarray, valid_below: np.float32, counts: np.ndarray) -> None:
    """As `load_counts`, to the places that a `PackedTable` gives to a stripe's pixels.

    Parameters
    ----------
    image
        (pixels,) of the stripe.
    valid_below
        As for `load_counts`.
    counts
        (ZERO_PLACE + 1,) float32, filled on return but for its gaps.
    """
    for start in range(0, len(image), RUN_PIXELS):
        place = place_of(start)
        run = image[start : start + RUN_PIXELS]
        load_counts(run, valid_below, counts[place : place + RUN_PIXELS])


@njit(cache=True, nogil=True)
def bin_sums(table: PackedTable, values: np.ndarray, bins: int) -> np.ndarray:
    """Sum over each bin's pixels of share times value.

    Parameters
    ----------
    table
        Of the geometry and the static mask.
    values
        (pixels,) flat, one value a pixel: weights for N, darks for D, ones for the pixel count.
    bins
        Number of bins.

    Returns
    -------
    sums
        (bins,)
    """
    width = len(table.share) + 1
    sums = np.zeros(bins + width)
    for stripe in range(len(table.stripe_segment) - 1):
        base = stripe * STRIPE_PIXELS
        for s in range(table.stripe_segment[stripe], table.stripe_segment[stripe + 1]):
            b = table.segment_bin[s]
            stop = table.segment_start[s + 1] - table.segment_padding[s]
            for k in range(table.segment_start[s], stop):
                value = values[base + pixel_at(np.int64(table.place[k]))]
                left = WHOLE
                for part in range(width - 1):
                    sums[b + part] += table.share[part, k] * value / WHOLE
                    left -= table.share[part, k]
                sums[b + width - 1] += left * value / WHOLE
        for k in range(table.stripe_exact[stripe], table.stripe_exact[stripe + 1]):
            value = values[base + pixel_at(np.int64(table.exact_place[k]))]
            sums[table.exact_bin[k]] += table.exact_share[k] * value
    return sums[:bins]


@njit(cache=True, nogil=True)
def integrate(
    image: np.ndarray,
    valid_below: np.float32,
    table: PackedTable,
    weights: np.ndarray,
    darks: np.ndarray,
    norms: np.ndarray,
    dark_sums: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and one-sigma error of each bin, in counts per unit weight.

    Parameters
    ----------
    image
        (pixels,) flat, any real type; unsigned 32-bit ones viewed as signed (faster, and the
        values that mark invalid pixels become negative).
    valid_below
        As for `load_counts`.
    table
        Of the geometry and the static mask.
    weights, darks
        (pixels,), flat; read only where a pixel is invalid. ``darks`` empty = none.
    norms, dark_sums
        (bins,) from `bin_sums` of ``weights`` and ``darks``.

    Returns
    -------
    intensity, sigma
        (bins,), NaN where no valid pixel is.
    """
    sums = start_sums(table, norms, dark_sums)
    counts = np.full(ZERO_PLACE + 1, INVALID)
    counts[ZERO_PLACE] = _ZERO
    for stripe in range(len(table.stripe_segment) - 1):
        base = stripe * STRIPE_PIXELS
        stop = min(base + STRIPE_PIXELS, len(image))
        load_stripe(image[base:stop], valid_below, counts)
        add_stripe(counts, stripe, table, table.place, table.exact_place, weights, darks, sums)
    return finish(sums, len(norms))


# Columns of the array of sums.
_S, _V, _N, _D = 0, 1, 2, 3

_SCALE = 1.0 / WHOLE
_SCALE_2 = _SCALE**2


@njit(cache=True, nogil=True)
def start_sums(table: PackedTable, norms: np.ndarray, dark_sums: np.ndarray) -> np.ndarray:
    """(bins + width, 4) S, V, N and D before the first stripe; N and D as if all were valid."""
    bins = len(norms)
    sums = np.zeros((bins + len(table.share) + 1, 4))
    sums[:bins, _N] = norms
    sums[:bins, _D] = dark_sums
    return sums


@njit(cache=True, nogil=True)
def finish(sums: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and sigma from the sums over all stripes."""
    intensity = np.full(bins, np.nan)
    sigma = np.full(bins, np.nan)
    for b in range(bins):
        norm = sums[b, _N]
        # Of a bin that lost its pixels, rounding may leave a trace of the norm.
        if sums[b, _V] > 0.0 and norm > 0.0:
            intensity[b] = (sums[b, _S] - sums[b, _D]) / norm
            sigma[b] = np.sqrt(sums[b, _V]) / norm
    return intensity, sigma


@njit(cache=True, nogil=True)
def add_stripe(
    counts: np.ndarray,
    stripe: int,
    table: PackedTable,
    place: np.ndarray,
    exact_place: np.ndarray,
    weights: np.ndarray,
    darks: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add one stripe to the sums.

    Parameters
    ----------
    counts
        float32, the stripe's counts in any order, and a slot that is 0.
    stripe
        Its number.
    table, weights, darks
        As for `integrate`.
    place, exact_place
        uint16, where in ``counts`` the pixels of the table stand: its own ``place`` and
        ``exact_place`` for counts from `load_stripe`.
    sums
        From `start_sums`, added to.
    """
    width = len(table.share) + 1
    first, last = table.stripe_segment[stripe], table.stripe_segment[stripe + 1]
    betrayed = np.empty(last - first, np.int64)
    if width == 2:
        found = _add_2(
            counts,
            place,
            table.share[0],
            table.segment_start[first : last + 1],
            table.segment_bin[first:last],
            table.segment_padding[first:last],
            sums,
            betrayed,
        )
    elif width == 3:
        found = _add_3(
            counts,
            place,
            table.share[0],
            table.share[1],
            table.segment_start[first : last + 1],
            table.segment_bin[first:last],
            table.segment_padding[first:last],
            sums,
            betrayed,
        )
    else:
        found = _add_4(
            counts,
            place,
            table.share,
            table.segment_start[first : last + 1],
            table.segment_bin[first:last],
            table.segment_padding[first:last],
            sums,
            betrayed,
        )
    for k in range(found):
        _add_valid(counts, stripe, first + betrayed[k], table, place, weights, darks, sums)
    _add_exact(counts, stripe, table, exact_place, weights, darks, sums)


# One function for each width of the table, so that nothing is decided in the loop. A padding entry
# has all of its share in the last bin, and no count: its max(0, 1) is taken off again.
@njit(cache=True, nogil=True)
def _add_2(counts, place, share, starts, bins, padding, sums, betrayed):
    """Add segments of pixels in two bins; the numbers of those with invalid pixels are kept."""
    found = 0
    for s in range(len(bins)):
        t0, t1, v0, v1, total = _sum_2(counts, place, share, starts[s], starts[s + 1])
        if total > _INVALID_SUM:
            betrayed[found] = s
            found += 1
            continue
        b = bins[s]
        sums[b, _S] += t0 * _SCALE
        sums[b, _V] += v0 * _SCALE_2
        sums[b + 1, _S] += t1 * _SCALE
        sums[b + 1, _V] += v1 * _SCALE_2 - padding[s]
    return found


@njit(cache=True, nogil=True)
def _add_3(counts, place, share_0, share_1, starts, bins, padding, sums, betrayed):
    """The same for pixels in three bins."""
    found = 0
    for s in range(len(bins)):
        t0, t1, t2, v0, v1, v2 = _sum_3(counts, place, share_0, share_1, starts[s], starts[s + 1])
        if t0 + t1 + t2 > _INVALID_SUM:
            betrayed[found] = s
            found += 1
            continue
        b = bins[s]
        sums[b, _S] += t0 * _SCALE
        sums[b, _V] += v0 * _SCALE_2
        sums[b + 1, _S] += t1 * _SCALE
        sums[b + 1, _V] += v1 * _SCALE_2
        sums[b + 2, _S] += t2 * _SCALE
        sums[b + 2, _V] += v2 * _SCALE_2 - padding[s]
    return found


@njit(cache=True, nogil=True)
def _add_4(counts, place, share, starts, bins, padding, sums, betrayed):
    """The same for pixels in four bins."""
    found = 0
    for s in range(len(bins)):
        t0, t1, t2, t3, v0, v1, v2, v3 = _sum_4(
            counts, place, share[0], share[1], share[2], starts[s], starts[s + 1]
        )
        if t0 + t1 + t2 + t3 > _INVALID_SUM:
            betrayed[found] = s
            found += 1
            continue
        b = bins[s]
        sums[b, _S] += t0 * _SCALE
        sums[b, _V] += v0 * _SCALE_2
        sums[b + 1, _S] += t1 * _SCALE
        sums[b + 1, _V] += v1 * _SCALE_2
        sums[b + 2, _S] += t2 * _SCALE
        sums[b + 2, _V] += v2 * _SCALE_2
        sums[b + 3, _S] += t3 * _SCALE
        sums[b + 3, _V] += v3 * _SCALE_2 - padding[s]
    return found


# The loops below may add in any order (reassoc, contract), which lets them use vectors. NaN cannot
# reach them, since `load_counts` replaces it. Unsigned indices need no check for negative ones: 3
# times faster. The fifth sum of `_sum_2` is there for the compiler as well: with four it takes two
# vectors a round, which at the length of a segment is 1.5 times slower.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sum_2(counts, place, share, start, stop):
    """Of c x and (65535 - c) x, of c^2 max(x, 1) and (65535 - c)^2 max(x, 1), and of x."""
    t0 = t1 = v0 = v1 = total = _ZERO
    for k in range(np.uint64(start), np.uint64(stop)):
        x = counts[np.uint64(place[k])]
        c0 = np.float32(np.int32(share[k]))
        c1 = np.float32(WHOLE) - c0
        m = max(x, _ONE)
        t0 += c0 * x
        t1 += c1 * x
        v0 += c0 * c0 * m
        v1 += c1 * c1 * m
        total += x
    return t0, t1, v0, v1, total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sum_3(counts, place, share_0, share_1, start, stop):
    """The same for pixels in three bins."""
    t0 = t1 = t2 = v0 = v1 = v2 = _ZERO
    for k in range(np.uint64(start), np.uint64(stop)):
        x = counts[np.uint64(place[k])]
        c0 = np.float32(np.int32(share_0[k]))
        c1 = np.float32(np.int32(share_1[k]))
        c2 = np.float32(WHOLE) - c0 - c1
        m = max(x, _ONE)
        t0 += c0 * x
        t1 += c1 * x
        t2 += c2 * x
        v0 += c0 * c0 * m
        v1 += c1 * c1 * m
        v2 += c2 * c2 * m
    return t0, t1, t2, v0, v1, v2


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sum_4(counts, place, share_0, share_1, share_2, start, stop):
    """The same for pixels in four bins."""
    t0 = t1 = t2 = t3 = v0 = v1 = v2 = v3 = _ZERO
    for k in range(np.uint64(start), np.uint64(stop)):
        x = counts[np.uint64(place[k])]
        c0 = np.float32(np.int32(share_0[k]))
        c1 = np.float32(np.int32(share_1[k]))
        c2 = np.float32(np.int32(share_2[k]))
        c3 = np.float32(WHOLE) - c0 - c1 - c2
        m = max(x, _ONE)
        t0 += c0 * x
        t1 += c1 * x
        t2 += c2 * x
        t3 += c3 * x
        v0 += c0 * c0 * m
        v1 += c1 * c1 * m
        v2 += c2 * c2 * m
        v3 += c3 * c3 * m
    return t0, t1, t2, t3, v0, v1, v2, v3


@njit(cache=True, nogil=True)
def _add_valid(counts, stripe, s, table, place, weights, darks, sums):
    """Add a segment that has invalid pixels; their weights and darks leave N and D."""
    width = len(table.share) + 1
    b = table.segment_bin[s]
    stop = table.segment_start[s + 1] - table.segment_padding[s]
    for k in range(table.segment_start[s], stop):
        left = np.float64(WHOLE)
        for part in range(width):
            share = left
            if part < width - 1:
                share = np.float64(table.share[part, k])
            left -= share
            _add_pixel(
                counts[place[k]],
                stripe * STRIPE_PIXELS + pixel_at(np.int64(table.place[k])),
                share / WHOLE,
                b + part,
                weights,
                darks,
                sums,
            )


@njit(cache=True, nogil=True)
def _add_exact(counts, stripe, table, place, weights, darks, sums):
    """Add the pixels of a stripe whose shares are not packed."""
    for k in range(table.stripe_exact[stripe], table.stripe_exact[stripe + 1]):
        _add_pixel(
            counts[place[k]],
            stripe * STRIPE_PIXELS + pixel_at(np.int64(table.exact_place[k])),
            np.float64(table.exact_share[k]),
            table.exact_bin[k],
            weights,
            darks,
            sums,
        )


@njit(cache=True, nogil=True)
def _add_pixel(x, pixel, share, b, weights, darks, sums):
    """Add one pixel of count x to one bin, or take it out of the bin's norm."""
    if x < INVALID:
        sums[b, _S] += share * x
        sums[b, _V] += share * share * max(x, _ONE)
        return
    sums[b, _N] -= share * weights[pixel]
    if len(darks) > 0:
        sums[b, _D] -= share * darks[pixel]
