"""How much of each pixel lies in each bin of q: full splitting of the pixel's polygon.

A pixel is the quadrilateral of its four corners in the plane of q and azimuth, with straight
edges; its share in a bin is the fraction of the quadrilateral's area between the bin's edges. This
is what pyFAI calls "full" splitting (J. Kieffer et al., J. Synchrotron Rad. 2020, 27, 558).

The area between two values of q is the sum over the polygon's directed edges of the trapezoid
between the edge and the axis chi = 0 (Green's theorem), so each edge is walked once through the
bins that it crosses.

Two choices are made for the sake of agreement with pyFAI, whose numbers people compare with:

- Corners and areas are rounded to float32. Trapezoids are up to thousands of times larger than the
  pixel, so that a share is good to about 1e-4. Without the rounding, I and sigma differ from
  pyFAI's by up to 1e-4 in bins of a few pixels (the corners of a frame), with it by 1e-7. Either
  way it is far below the counting statistics of such bins: their sum of shares stays exact.
- Shares are normalised to what lies within the range of q, so a pixel that sticks out of the range
  counts fully.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

TWO_PI = 2.0 * math.pi

# Smaller shares are dropped. Above the step of float32 below 1 (6e-8), so that the rest of a split
# pixel is never rounded to 1, which stands for a whole pixel; and 100 times below what agreement to
# 1e-5 needs of one pixel.
SMALLEST_SHARE = 1e-7


class SplitTable(NamedTuple):
    """Pixels by bin. Those that lie in one bin only need no share and stand apart.

    Attributes
    ----------
    whole_start, whole_pixel
        Pixels (flat index, uint32) wholly in bin b are
        ``whole_pixel[whole_start[b]:whole_start[b + 1]]``.
    part_start, part_pixel, part_share
        The same for pixels that are split, with their shares (float32) in that bin.
    """

    whole_start: np.ndarray
    whole_pixel: np.ndarray
    part_start: np.ndarray
    part_pixel: np.ndarray
    part_share: np.ndarray


@njit(cache=True, nogil=True)
def _add_edge(
    area: np.ndarray, q0: float, chi0: float, q1: float, chi1: float, first: int, last: int
) -> None:
    """Add to ``area`` (one value a bin) the trapezoids under one edge, q in units of bins."""
    if q0 == q1:
        return
    slope = (chi1 - chi0) / (q1 - q0)
    low, high = (q0, q1) if q0 < q1 else (q1, q0)
    sign = 1.0 if q0 < q1 else -1.0
    b = max(math.floor(low), first)
    while b <= last and b < high:
        left, right = max(low, float(b)), min(high, b + 1.0)
        area[b] += sign * (right - left) * (chi0 + slope * (0.5 * (left + right) - q0))
        b += 1


@njit(cache=True, nogil=True)
def unwrap(chi_rad: np.ndarray) -> bool:
    """Make the azimuths of one pixel's corners continuous across -pi = pi, in place.

    Parameters
    ----------
    chi_rad
        (4,), in the corners' order around the pixel.

    Returns
    -------
    around_beam
        Whether the pixel holds the beam (its edge goes once round it); the azimuths then stay.
    """
    turns = 0
    jumps = False
    for k in range(4):
        step = chi_rad[(k + 1) % 4] - chi_rad[k]
        if step > math.pi:
            turns -= 1
            jumps = True
        elif step < -math.pi:
            turns += 1
            jumps = True
    if turns != 0:
        return True
    if jumps:
        for k in range(4):
            if chi_rad[k] < 0.0:
                chi_rad[k] += TWO_PI
        if chi_rad.mean() > math.pi:
            chi_rad -= TWO_PI
    return False


@njit(cache=True, nogil=True)
def pixel_shares(
    q_bins: np.ndarray, chi_rad: np.ndarray, bins: int, shares: np.ndarray
) -> tuple[int, int]:
    """Shares of one pixel in the bins that it touches.

    Parameters
    ----------
    q_bins
        (4,), q of the corners in their order around the pixel, in units of bins: 0 is the lower
        edge of the first bin, ``bins`` the upper edge of the last.
    chi_rad
        (4,), their azimuths; made continuous in place.
    bins
        Number of bins.
    shares
        (bins,) float32, filled on return.

    Returns
    -------
    first, count
        The shares are ``shares[first:first + count]``; count is 0 for a pixel out of range.

    Notes
    -----
    The pixel that holds the beam is no quadrilateral in q and azimuth. It counts as if its area
    were spread evenly over the bins up to its farthest corner.
    """
    low, high = q_bins.min(), q_bins.max()
    if high < 0.0 or low >= bins:
        return 0, 0
    first = max(math.floor(low), 0)
    last = min(math.floor(high), bins - 1)
    around_beam = unwrap(chi_rad)
    if around_beam:
        first = 0
    if first == last:
        shares[first] = 1.0
        return first, 1
    shares[first : last + 1] = 1.0 if around_beam else 0.0
    if not around_beam:
        for k in range(4):
            m = (k + 1) % 4
            _add_edge(shares, q_bins[k], chi_rad[k], q_bins[m], chi_rad[m], first, last)
    total = 0.0
    for b in range(first, last + 1):
        total += shares[b]
    if total == 0.0:
        return 0, 0
    for b in range(first, last + 1):
        shares[b] /= total
    # Slivers at both ends go.
    while last > first and abs(shares[last]) < SMALLEST_SHARE:
        last -= 1
    while first < last and abs(shares[first]) < SMALLEST_SHARE:
        first += 1
    if first == last:
        shares[first] = 1.0
    return first, last - first + 1


@njit(cache=True, nogil=True)
def split_pixels(
    q_per_nm: np.ndarray,
    chi_rad: np.ndarray,
    masked: np.ndarray,
    q_low_per_nm: float,
    q_high_per_nm: float,
    bins: int,
) -> SplitTable:
    """Table of all pixels' shares.

    Parameters
    ----------
    q_per_nm, chi_rad
        (rows + 1, columns + 1) float32, of the pixels' corners.
    masked
        (rows, columns) bool, True = never to be used.
    q_low_per_nm, q_high_per_nm
        Lower edge of the first bin and upper edge of the last.
    bins
        Number of bins, evenly spaced.
    """
    rows, columns = masked.shape
    bin_width = (q_high_per_nm - q_low_per_nm) / bins
    corner_bin = (q_per_nm.astype(np.float64) - q_low_per_nm) / bin_width
    entries = _room(corner_bin, masked, bins)
    entry_pixel = np.empty(entries, np.uint32)
    entry_bin = np.empty(entries, np.uint32)
    entry_share = np.empty(entries, np.float32)
    whole_start = np.zeros(bins + 1, np.int64)
    part_start = np.zeros(bins + 1, np.int64)
    shares = np.empty(bins, np.float32)
    corner_q = np.empty(4)
    corner_chi = np.empty(4)
    used = 0
    for i in range(rows):
        for j in range(columns):
            if masked[i, j]:
                continue
            corner_q[0], corner_q[1] = corner_bin[i, j], corner_bin[i + 1, j]
            corner_q[2], corner_q[3] = corner_bin[i + 1, j + 1], corner_bin[i, j + 1]
            corner_chi[0], corner_chi[1] = chi_rad[i, j], chi_rad[i + 1, j]
            corner_chi[2], corner_chi[3] = chi_rad[i + 1, j + 1], chi_rad[i, j + 1]
            first, count = pixel_shares(corner_q, corner_chi, bins, shares)
            for k in range(count):
                entry_pixel[used] = i * columns + j
                entry_bin[used] = first + k
                entry_share[used] = shares[first + k]
                used += 1
                if count == 1:
                    whole_start[first + 1] += 1
                else:
                    part_start[first + k + 1] += 1
    return _sort_by_bin(
        entry_pixel[:used], entry_bin[:used], entry_share[:used], whole_start, part_start
    )


@njit(cache=True, nogil=True)
def _room(corner_bin: np.ndarray, masked: np.ndarray, bins: int) -> int:
    """How many entries the table has at most."""
    rows, columns = masked.shape
    entries = 0
    for i in range(rows):
        for j in range(columns):
            if masked[i, j]:
                continue
            a, b = corner_bin[i, j], corner_bin[i + 1, j]
            c, d = corner_bin[i + 1, j + 1], corner_bin[i, j + 1]
            low, high = min(a, b, c, d), max(a, b, c, d)
            if high < 0.0 or low >= bins:
                continue
            first = max(math.floor(low), 0)
            last = min(math.floor(high), bins - 1)
            entries += last - first + 1
    # The one pixel that holds the beam reaches down to the first bin.
    return entries + bins


@njit(cache=True, nogil=True)
def _sort_by_bin(entry_pixel, entry_bin, entry_share, whole_start, part_start):
    """Counting sort; within a bin the pixels stay in the order of the frame's memory."""
    for b in range(len(whole_start) - 1):
        whole_start[b + 1] += whole_start[b]
        part_start[b + 1] += part_start[b]
    whole_pixel = np.empty(whole_start[-1], np.uint32)
    part_pixel = np.empty(part_start[-1], np.uint32)
    part_share = np.empty(part_start[-1], np.float32)
    next_whole, next_part = whole_start[:-1].copy(), part_start[:-1].copy()
    for k in range(len(entry_pixel)):
        b = entry_bin[k]
        # Only a pixel that is in no other bin has a share of exactly 1.
        if entry_share[k] == 1.0:
            whole_pixel[next_whole[b]] = entry_pixel[k]
            next_whole[b] += 1
        else:
            part_pixel[next_part[b]] = entry_pixel[k]
            part_share[next_part[b]] = entry_share[k]
            next_part[b] += 1
    return SplitTable(whole_start, whole_pixel, part_start, part_pixel, part_share)
