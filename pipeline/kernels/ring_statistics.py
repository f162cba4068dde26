"""One frame to I(q) and sigma where each pixel of a ring is looked at: its scatter, its outliers.

A ring is the pixels of one bin. Pixel i has value x (signal over weight), share c in the bin,
omega = c w with its weight w, and variance v of its signal; see
`pipeline.kernels.pixel_preparation`.

    I = sum omega x / sum omega
    sigma = sqrt(V) / sum omega, with V = sum c^2 v               counting statistics
                                     V = sum omega^2 (x - I)^2     scatter along the ring

These are pyFAI's weighted mean and the standard error of the mean of its error models "poisson" and
"azimuthal", for ``integrate1d`` and ``sigma_clip_ng``.

Clipping leaves out pixels farther from I than k s, with s = sqrt(V / sum omega^2) and
k = max(clip_sigma, sqrt(2 ln(n / sqrt(2 pi)))), and repeats until nobody leaves. (Chauvenet's
criterion: so far is about one of n pixels by chance, so that large rings are not eaten up.)

The average between two quantiles is in `pipeline.kernels.ring_quantiles`.

Where results differ from pyFAI's:

- A pixel on the edge of two rings is judged in each ring by itself. In pyFAI, one that left a ring
  is missing in all rings that come after, so there the result hangs on the order of the bins (and
  with several threads on chance).
- Clipping by counting statistics begins without gross outliers where a ring scatters more than
  twice as much as counting statistics say. One hot pixel of 10^6 counts among 9000 of 20 lifts the
  mean from 20 to 131, 10 s, so that in pyFAI every good pixel is far from it and the ring ends up
  empty.
- The scatter is summed in two passes. pyFAI's compiled engine updates it pixel by pixel with a
  formula that holds for equal omega only; its Python engine sums as we do.
- A scatter of 0 (one pixel, or all the same) says nothing about the error: sigma is NaN, not 0.

All sums are float64. The pixels of a ring are copied to scratch that fits the processor's cache,
once, and each pass runs over that.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels.pixel_splitting import SplitTable
from pipeline.kernels.ring_quantiles import average_between

POISSON, AZIMUTHAL, HYBRID = 0, 1, 2
NO_REJECTION, SIGMA_CLIP, MEDIAN = 0, 1, 2

# Rows of the scratch.
_VALUE, _NORM, _SHARE, _VARIANCE = 0, 1, 2, 3

# Medians that clipping begins with are those of about so many pixels of a ring.
_SAMPLE = 128

# Clipping by counting statistics: a share f of pixels that stand out by Z lifts the mean by f Z,
# and the scatter to Z sqrt(f) at least. So while the scatter is below twice the counting statistics
# s, the mean is lifted by less than 2 s sqrt(f), s / 5 for a hundredth of the pixels.
_CONTAMINATED = 2.0
# What a sample's median may be off (0.11 s for 128 pixels, more in small rings and for few counts)
# must not cost a good pixel: gross outliers are those farther out by one more s.
_GROSS_MARGIN = 1.0


class Rejection(NamedTuple):
    """What is done against outliers.

    Attributes
    ----------
    kind
        `NO_REJECTION`, `SIGMA_CLIP` or `MEDIAN`.
    clip_sigma, clip_rounds
        For `SIGMA_CLIP`: how far is far, and how often at most.
    low, high
        For `MEDIAN`: quantiles, 0 <= low < high <= 1.
    narrowing
        For `MEDIAN`: sigma of the average between the quantiles over that of a mean of as many
        pixels as lie there, for the normal distribution.
    """

    kind: int
    clip_sigma: float
    clip_rounds: int
    low: float
    high: float
    narrowing: float


@njit(cache=True, nogil=True)
def ring_norms(table: SplitTable, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share times weight of each entry of a table, in the table's order.

    Parameters
    ----------
    table
        Of the geometry and the static mask.
    weights
        (pixels,) float32.

    Returns
    -------
    whole_norm, part_norm
        float32, as long as ``whole_pixel`` and ``part_pixel``.
    """
    whole_norm = np.empty(len(table.whole_pixel), np.float32)
    for k in range(len(whole_norm)):
        whole_norm[k] = weights[table.whole_pixel[k]]
    part_norm = np.empty(len(table.part_pixel), np.float32)
    for k in range(len(part_norm)):
        part_norm[k] = table.part_share[k] * weights[table.part_pixel[k]]
    return whole_norm, part_norm


@njit(cache=True, nogil=True)
def ring_curve(
    prepared: np.ndarray,
    table: SplitTable,
    whole_norm: np.ndarray,
    part_norm: np.ndarray,
    error_model: int,
    rejection: Rejection,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intensity, its one-sigma error and how many pixels were left out, of each ring.

    Parameters
    ----------
    prepared
        (pixels, 1 or 2) float32 of `pipeline.kernels.pixel_preparation.prepare_pixels`; 2 unless
        ``error_model`` is `AZIMUTHAL`.
    table
        Of the geometry and the static mask.
    whole_norm, part_norm
        Of `ring_norms`.
    error_model
        `POISSON`, `AZIMUTHAL`, or `HYBRID`: the scatter decides who is clipped, counting
        statistics give sigma.
    rejection
        What is done against outliers.

    Returns
    -------
    intensity, sigma
        (bins,) in counts per unit weight; intensity is NaN where no pixel is left, sigma also
        where the scatter is 0.
    rejected
        (bins,) int64, valid pixels that are not in the average.
    """
    bins = len(table.whole_start) - 1
    room = 1
    for b in range(bins):
        whole = table.whole_start[b + 1] - table.whole_start[b]
        room = max(room, whole + table.part_start[b + 1] - table.part_start[b])
    scratch = np.empty((4, room), np.float32)
    classes = np.empty(room, np.uint8)
    intensity = np.full(bins, np.nan)
    sigma = np.full(bins, np.nan)
    rejected = np.zeros(bins, np.int64)
    counting = error_model != AZIMUTHAL
    for b in range(bins):
        pixels = _gather(prepared, table, whole_norm, part_norm, b, counting, scratch)
        if pixels == 0:
            continue
        if rejection.kind == MEDIAN:
            mean, error, used = average_between(
                scratch[_VALUE, :pixels],
                scratch[_NORM, :pixels],
                scratch[_VARIANCE, :pixels],
                rejection.low,
                rejection.high,
                rejection.narrowing,
                counting,
                classes,
            )
        elif rejection.kind == SIGMA_CLIP:
            mean, error, used = _clipped(scratch, pixels, error_model, rejection)
        else:
            mean, _, error = _mean(scratch, pixels, error_model == AZIMUTHAL)
            used = pixels
        rejected[b] = pixels - used
        intensity[b] = mean
        if error > 0.0:
            sigma[b] = error
    return intensity, sigma, rejected


@njit(cache=True, nogil=True)
def _gather(prepared, table, whole_norm, part_norm, b, counting, scratch):
    """Copy the usable pixels of one ring to the scratch; how many."""
    shares = scratch[_SHARE]
    start, stop = table.whole_start[b], table.whole_start[b + 1]
    wholes = stop - start
    unusable = _gather_entries(prepared, table.whole_pixel, whole_norm, start, stop, scratch)
    for k in range(wholes):
        shares[k] = np.float32(1.0)
    start, stop = table.part_start[b], table.part_start[b + 1]
    pixels = wholes + stop - start
    behind = scratch[:, wholes:]
    unusable += _gather_entries(prepared, table.part_pixel, part_norm, start, stop, behind)
    for k in range(stop - start):
        shares[wholes + k] = table.part_share[start + k]
    if counting:
        _finish_variances(scratch[:, :pixels], prepared.shape[1] > 1)
    if unusable > 0:
        values = scratch[_VALUE, :pixels]
        pixels = _keep(scratch, values == values)
    return pixels


@njit(cache=True, nogil=True)
def _gather_entries(prepared, entry_pixel, entry_norm, start, stop, scratch):
    """Value, norm and (if there is one) variance of entries of the table; how many are NaN."""
    values, norms, variances = scratch[_VALUE], scratch[_NORM], scratch[_VARIANCE]
    has_variance = prepared.shape[1] > 1
    unusable = 0
    # Unsigned indices need no check for negative ones.
    first = np.uint64(start)
    for k in range(np.uint64(stop - start)):
        pixel = np.uint64(entry_pixel[first + k])
        value = prepared[pixel, np.uint64(0)]
        values[k] = value
        norms[k] = entry_norm[first + k]
        if has_variance:
            variances[k] = prepared[pixel, np.uint64(1)]
        unusable += value != value
    return unusable


@njit(cache=True, nogil=True)
def _finish_variances(scratch, known):
    """Variances times the share squared; those that are not known are of x w counts, 1 at least."""
    values, norms = scratch[_VALUE], scratch[_NORM]
    shares, variances = scratch[_SHARE], scratch[_VARIANCE]
    if known:
        for k in range(len(shares)):
            variances[k] *= shares[k] * shares[k]
    else:
        for k in range(len(shares)):
            variances[k] = shares[k] * max(norms[k] * values[k], shares[k])


@njit(cache=True, nogil=True)
def _keep(scratch, wanted):
    """Move the pixels that are wanted together; how many they are."""
    left = 0
    for k in range(len(wanted)):
        # Written first and counted only if wanted: no branch that the processor could guess wrong.
        for row in range(4):
            scratch[row, left] = scratch[row, k]
        left += wanted[k]
    return left


# The sums below may add in any order (reassoc, contract), which lets them use vectors. No NaN
# reaches them: `_gather` leaves those out.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sums(values, norms):
    """Sum of omega x, of omega, and of omega^2."""
    total = norm = norm_squared = 0.0
    for k in range(len(values)):
        omega = np.float64(norms[k])
        total += omega * values[k]
        norm += omega
        norm_squared += omega * omega
    return total, norm, norm_squared


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sum(values):
    total = 0.0
    for k in range(len(values)):
        total += values[k]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _scatter(values, norms, mean):
    """Sum of omega^2 (x - mean)^2."""
    total = 0.0
    for k in range(len(values)):
        apart = norms[k] * (values[k] - mean)
        total += apart * apart
    return total


@njit(cache=True, nogil=True)
def _mean(scratch, pixels, from_scatter):
    """Mean, standard deviation of one pixel about it, standard error of the mean."""
    values, norms = scratch[_VALUE, :pixels], scratch[_NORM, :pixels]
    total, norm, norm_squared = _sums(values, norms)
    if norm <= 0.0:
        # Slivers of pixels may have a share a rounding step below 0.
        return np.nan, np.nan, np.nan
    mean = total / norm
    counted = scratch[_VARIANCE, :pixels]
    variance = _scatter(values, norms, mean) if from_scatter else _sum(counted)
    return mean, math.sqrt(variance / norm_squared), math.sqrt(variance) / norm


@njit(cache=True, nogil=True)
def _clipped(scratch, pixels, error_model, rejection):
    """Mean, its error and the number of pixels left, after clipping."""
    from_scatter = error_model != POISSON
    if not from_scatter:
        pixels = _without_gross_outliers(scratch, pixels, rejection.clip_sigma)
    mean, spread, error = _mean(scratch, pixels, from_scatter)
    for _ in range(rejection.clip_rounds):
        reach = _far(scratch, pixels, rejection.clip_sigma) * spread
        left = _keep_near(scratch, pixels, mean, reach)
        if left == pixels:
            break
        pixels = left
        if pixels == 0:
            return np.nan, np.nan, 0
        mean, spread, error = _mean(scratch, pixels, from_scatter)
    if error_model == HYBRID:
        mean, spread, error = _mean(scratch, pixels, False)
    return mean, error, pixels


@njit(cache=True, nogil=True)
def _far(scratch, pixels, clip_sigma):
    """How many standard deviations are far in a ring of so many pixels."""
    shares = max(_sum(scratch[_SHARE, :pixels]), 3.0)
    return max(clip_sigma, math.sqrt(2.0 * math.log(shares / math.sqrt(2.0 * math.pi))))


@njit(cache=True, nogil=True)
def _without_gross_outliers(scratch, pixels, clip_sigma):
    """Drop pixels that would carry the first mean away from the others; how many are left.

    Only in rings that scatter more than `_CONTAMINATED` times as much as counting statistics say.
    Centre and deviation are medians of a sample of the ring.
    """
    values, norms = scratch[_VALUE, :pixels], scratch[_NORM, :pixels]
    variances = scratch[_VARIANCE, :pixels]
    mean, spread, _ = _mean(scratch, pixels, False)
    _, _, norm_squared = _sums(values, norms)
    if not _scatter(values, norms, mean) > (_CONTAMINATED * spread) ** 2 * norm_squared:
        return pixels
    step = max(1, pixels // _SAMPLE)
    centre = _median(values[::step])
    deviation = math.sqrt(_median(variances[::step] / norms[::step] ** 2))
    return _keep_near(
        scratch, pixels, centre, (_far(scratch, pixels, clip_sigma) + _GROSS_MARGIN) * deviation
    )


@njit(cache=True, nogil=True)
def _median(values):
    """The upper of the two in the middle: a value that is there."""
    return np.sort(values)[len(values) // 2]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _count_far(values, mean, reach):
    far = 0
    for k in range(len(values)):
        far += abs(values[k] - mean) > reach
    return far


@njit(cache=True, nogil=True)
def _keep_near(scratch, pixels, mean, reach):
    """Close the gaps that pixels farther from the mean than the reach leave; how many are left."""
    values = scratch[_VALUE, :pixels]
    if _count_far(values, mean, reach) == 0:
        return pixels
    return _keep(scratch, np.abs(values - mean) <= reach)
