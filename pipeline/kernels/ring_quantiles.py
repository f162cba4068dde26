"""The middle of a ring: the average of its pixels between two quantiles.

Pixels are sorted by value x, and those are averaged that lie wholly between the quantiles in the
cumulative sum of omega (`pipeline.kernels.ring_statistics` has the notation); as in pyFAI's
``medfilt1d_ng``. Where none does (rings of a few pixels), those that overlap the range are; pyFAI
gives 0 there.

Sigma is that of such an average, not of a mean of as many pixels (which is what pyFAI gives, 1.9
times too large for the quantiles 0.4 to 0.6). From the scatter, with x_w the values after those
beyond the quantiles are moved to them (winsorised),

    sigma = sqrt(sum omega^2 (x_w - mean x_w)^2) / ((high - low) sum omega)

(J. W. Tukey and D. H. McLaughlin, Sankhya A 1963, 25, 331; P. J. Huber and E. M. Ronchetti, Robust
Statistics, 2009, section 3.3). From counting statistics, sqrt(sum c^2 v) / sum omega of the
averaged pixels is scaled to what that formula gives for the normal distribution.

Few pixels are really sorted: a pass over the ring counts the values in classes, and only the two
classes that hold the quantiles are.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Sorting: values between two rough quantiles of a ring are counted in so many classes; only the two
# that hold the quantiles are sorted. The sample that the rough quantiles come from has an error of
# 0.5 / sqrt(128) = 0.044 in rank, so that a margin of 0.15 is rarely missed; if it is, only more is
# sorted.
_CLASSES = 256
_SAMPLE = 128
_MARGIN = 0.15


@njit(cache=True, nogil=True)
def average_between(
    values: np.ndarray,
    norms: np.ndarray,
    variances: np.ndarray,
    low_quantile: float,
    high_quantile: float,
    narrowing: float,
    with_variance: bool,
    classes: np.ndarray,
) -> tuple[float, float, int]:
    """Average between two quantiles of one ring.

    Parameters
    ----------
    values, norms, variances
        (pixels,) float32 x, omega and c^2 v; without NaN.
    low_quantile, high_quantile
        0 <= low < high <= 1.
    narrowing
        Error of such an average over that of a mean of as many pixels as lie there, for the normal
        distribution.
    with_variance
        Whether sigma comes from the variances; otherwise from the scatter.
    classes
        (pixels,) uint8 scratch.

    Returns
    -------
    mean, sigma, pixels
        The average, its error, and how many pixels are in it.
    """
    class_norm = _classify(values, norms, low_quantile, high_quantile, classes)
    whole = class_norm.sum()
    if whole <= 0.0:
        return np.nan, np.nan, 0
    # Rounded as pyFAI does, so that sums that should be the same, but for the order of adding,
    # are.
    low, high = np.float32(low_quantile * whole), np.float32(high_quantile * whole)
    first, before_first = _class_beyond(class_norm, low, False)
    last, before_last = _class_beyond(class_norm, high, True)
    # Total, norm, variance, pixels, lowest and highest value.
    found = np.array([0.0, 0.0, 0.0, 0.0, np.inf, -np.inf])
    _add_classes(values, norms, variances, classes, first, last, with_variance, found)
    for strict in (True, False):
        for wanted, before in ((first, before_first), (last, before_last)):
            _add_sorted(values, norms, variances, classes, wanted, before, low, high, strict, found)
            if last == first:
                break
        if found[3] > 0.0:
            break
    mean = found[0] / found[1]
    if with_variance:
        error = math.sqrt(found[2]) / found[1] * narrowing
    else:
        scatter = _winsorised_scatter(values, norms, found[4], found[5])
        error = math.sqrt(scatter) / ((high_quantile - low_quantile) * whole)
    return mean, error, int(found[3])


@njit(cache=True, nogil=True)
def _classify(values, norms, low, high, classes):
    """Give each pixel a class that rises with its value; sum of omega of each class."""
    step = max(1, len(values) // _SAMPLE)
    sample = np.sort(values[::step])
    bottom = sample[int(max(low - _MARGIN, 0.0) * (len(sample) - 1))]
    top = sample[int(min(high + _MARGIN, 1.0) * (len(sample) - 1))]
    # Equal ends (a ring of the same few counts) would divide by 0: then all that matters is who is
    # above.
    scale = np.float32(_CLASSES) / max(top - bottom, np.float32(1e-30))
    highest = np.float32(_CLASSES - 1)
    class_norm = np.zeros(_CLASSES)
    for k in range(len(values)):
        place = min(max((values[k] - bottom) * scale, np.float32(0.0)), highest)
        c = np.uint8(place)
        classes[k] = c
        class_norm[c] += norms[k]
    return class_norm


@njit(cache=True, nogil=True)
def _class_beyond(class_norm, bound, or_equal):
    """First class in which the cumulative sum passes (or reaches) the bound; the sum before it."""
    before = 0.0
    for c in range(len(class_norm) - 1):
        after = np.float32(before + class_norm[c])
        if after > bound or (or_equal and after == bound):
            return c, before
        before += class_norm[c]
    return len(class_norm) - 1, before


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _add_classes(values, norms, variances, classes, first, last, with_variance, found):
    """Add the pixels of all classes between the first and the last."""
    total = norm = variance = 0.0
    pixels = 0
    for k in range(len(values)):
        inside = (classes[k] > first) & (classes[k] < last)
        omega = np.float64(norms[k]) if inside else 0.0
        total += omega * values[k]
        norm += omega
        pixels += inside
    if with_variance:
        for k in range(len(values)):
            inside = (classes[k] > first) & (classes[k] < last)
            variance += np.float64(variances[k]) if inside else 0.0
    elif pixels > 0:
        for k in range(len(values)):
            if (classes[k] > first) & (classes[k] < last):
                found[4] = min(found[4], values[k])
                found[5] = max(found[5], values[k])
    found[0] += total
    found[1] += norm
    found[2] += variance
    found[3] += pixels


@njit(cache=True, nogil=True)
def _add_sorted(values, norms, variances, classes, wanted, before, low, high, strict, found):
    """Add those pixels of one class that lie between the quantiles, in the order of their values.

    ``strict``: wholly between, or over both; otherwise those that overlap the range.
    """
    members = np.flatnonzero(classes[: len(values)] == wanted)
    order = members[np.argsort(values[members], kind="mergesort")]
    below = np.float32(before)
    for k in order:
        before += norms[k]
        above = np.float32(before)
        if strict:
            inside = (low <= below and above <= high) or (below <= low and high <= above)
        else:
            inside = below < high and low < above
        below = above
        if not inside:
            continue
        found[0] += np.float64(norms[k]) * values[k]
        found[1] += norms[k]
        found[2] += variances[k]
        found[3] += 1.0
        found[4] = min(found[4], values[k])
        found[5] = max(found[5], values[k])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _winsorised_scatter(values, norms, lowest, highest):
    """Sum of omega^2 (x_w - mean x_w)^2, x_w = x moved into lowest to highest."""
    total = norm = 0.0
    for k in range(len(values)):
        omega = np.float64(norms[k])
        total += omega * min(max(np.float64(values[k]), lowest), highest)
        norm += omega
    mean = total / norm
    scatter = 0.0
    for k in range(len(values)):
        apart = norms[k] * (min(max(np.float64(values[k]), lowest), highest) - mean)
        scatter += apart * apart
    return scatter
