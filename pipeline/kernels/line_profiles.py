"""Gaussian lines on a q axis: templates of a search, and rows of a fit with their products.

A line of full width W (half maximum) at q0 multiplies ``scale`` (the particles' scattering for a
structure factor, 1 for an intensity): ``height * scale(q) exp(-4 ln2 (q - q0)^2 / W^2)``. Widths
are those that the detector sees, W^2 = own^2 + instrument^2, which is exact for Gaussians. True
lines have broader feet; what that leaves is met in ``pipeline.kernels.lines``.

Arrays named ``..._w`` are whitened (divided by sigma); ``basis`` (k, n) is orthonormal and spans
what varies slowly: it is projected out of data and lines alike, so products of two lines are those
of what is left of them.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels.linear import dot
from pipeline.kernels.order import FOUR_LN2, LEAST_LEFT, REACH

STEP_IN_FWHM = 0.35
"""Step of the search: the best template loses 4 % of the score at most."""
AREA = 0.5 * math.sqrt(math.pi / math.log(2.0))
"""Area of a Gaussian over height times full width."""


class Grid(NamedTuple):
    """Templates of a search: paths over q, one for each width, one behind the other."""

    q_per_nm: np.ndarray
    """(n,), rising."""
    centres_per_nm: np.ndarray
    """(j,)."""
    fwhm_per_nm: np.ndarray
    """(j,)."""
    begins: np.ndarray
    """Whether a template is the first of its path (j,)."""
    supports: np.ndarray
    """First point of a template and the one past its last (j, 2)."""
    places: np.ndarray
    """Where its values begin in ``values`` (j,)."""
    values: np.ndarray
    """Of all templates, one behind the other."""


class Rows(NamedTuple):
    """Up to m lines: each has three rows, its value and its slopes by place and by width."""

    lines_w: np.ndarray
    """(3 m, n); only the support of a line holds what it should."""
    supports: np.ndarray
    """(m, 2)."""
    shares: np.ndarray
    """Products with the basis (3 m, k)."""
    gram: np.ndarray
    """Products of what the projection leaves (3 m, 3 m)."""
    moment: np.ndarray
    """Products with the data (3 m,)."""


def make_grid(
    q_per_nm: np.ndarray,
    instrument_fwhm_per_nm: np.ndarray,
    own_fwhm_per_nm: tuple[float, ...],
    low_per_nm: float,
    high_per_nm: float,
) -> Grid:
    """Templates of all widths, each with its centre half a width inside of the window at least.

    Parameters
    ----------
    q_per_nm
        (n,), rising.
    instrument_fwhm_per_nm
        Width of the instrument at each q (n,).
    own_fwhm_per_nm
        Widths to try, the instrument's not in it.
    low_per_nm, high_per_nm
        Window in which the whole upper half of a line has to lie.
    """
    centres, widths, begins = [], [], []
    for own in own_fwhm_per_nm:
        at, first = low_per_nm, True
        while True:
            width = math.hypot(own, float(np.interp(at, q_per_nm, instrument_fwhm_per_nm)))
            if at + 0.5 * width > high_per_nm:
                break
            if at - 0.5 * width >= low_per_nm:
                centres.append(at)
                widths.append(width)
                begins.append(first)
                first = False
            at += STEP_IN_FWHM * width
    supports, places, values = [], [0], []
    for centre, width in zip(centres, widths, strict=True):
        low, high = np.searchsorted(q_per_nm, (centre - REACH * width, centre + REACH * width))
        distance = (q_per_nm[low:high] - centre) / width
        values.append(np.exp(-FOUR_LN2 * distance**2))
        supports.append((low, high))
        places.append(places[-1] + high - low)
    return Grid(
        q_per_nm=np.ascontiguousarray(q_per_nm, dtype=float),
        centres_per_nm=np.array(centres, dtype=float),
        fwhm_per_nm=np.array(widths, dtype=float),
        begins=np.array(begins, dtype=np.bool_),
        supports=np.array(supports, dtype=np.int64).reshape(-1, 2),
        places=np.array(places[:-1], dtype=np.int64),
        values=np.concatenate([np.empty(0), *values]),
    )


@njit(cache=True, nogil=True)
def whiten_templates(grid, scale_w, basis, values_w, shares, left):
    """Templates in units of sigma and what the projection leaves of them.

    Parameters
    ----------
    grid, scale_w, basis
        See the module.
    values_w, shares, left
        (as ``grid.values``), (j, k), (j,): whitened templates, their products with the basis, the
        square of what is left; 0 where that is rounding. Overwritten.

    Returns
    -------
    float
        Length in radians of the paths that the projected unit templates travel: how many
        independent places the search has, see ``pipeline.kernels.significance``.
    """
    length = 0.0
    norm_before, before = 0.0, 0
    for j in range(grid.centres_per_nm.size):
        low, high = grid.supports[j, 0], grid.supports[j, 1]
        place = grid.places[j]
        for i in range(low, high):
            values_w[place + i - low] = grid.values[place + i - low] * scale_w[i]
        line = values_w[place : place + high - low]
        whole = dot(line, line)
        rest = whole
        for b in range(basis.shape[0]):
            shares[j, b] = dot(line, basis[b, low:high])
            rest -= shares[j, b] * shares[j, b]
        left[j] = rest if rest > LEAST_LEFT * whole else 0.0
        if grid.begins[j]:
            norm_before = 0.0
        if left[j] == 0.0:
            continue
        norm = math.sqrt(left[j])
        if norm_before > 0.0:
            product = -dot(shares[j], shares[before])
            start, stop = max(low, grid.supports[before, 0]), min(high, grid.supports[before, 1])
            if stop > start:
                other = grid.places[before] - grid.supports[before, 0]
                product += dot(
                    line[start - low : stop - low], values_w[other + start : other + stop]
                )
            length += math.acos(min(1.0, max(-1.0, product / (norm * norm_before))))
        norm_before, before = norm, j
    return length


def make_rows(most: int, points: int, rank: int) -> Rows:
    """Room for ``most`` lines on ``points`` points over a basis of ``rank``."""
    return Rows(
        np.zeros((3 * most, points)),
        np.zeros((most, 2), np.int64),
        np.zeros((3 * most, rank)),
        np.zeros((3 * most, 3 * most)),
        np.zeros(3 * most),
    )


@njit(cache=True, nogil=True)
def copy_lines(source, target, chosen, count):
    """Those of the first ``count`` lines of ``source`` that are chosen, into ``target``."""
    for j in range(count):
        if not chosen[j]:
            continue
        low, high = source.supports[j, 0], source.supports[j, 1]
        target.supports[j, 0], target.supports[j, 1] = low, high
        for r in range(3 * j, 3 * j + 3):
            for i in range(low, high):
                target.lines_w[r, i] = source.lines_w[r, i]
            for b in range(source.shares.shape[1]):
                target.shares[r, b] = source.shares[r, b]
            target.moment[r] = source.moment[r]
            for c in range(3 * count):
                target.gram[r, c] = target.gram[c, r] = source.gram[r, c]


@njit(cache=True, nogil=True)
def first_from(rising, value):
    """Index of the first of ``rising`` (n,) that is not below ``value``.

    As ``np.searchsorted``, which takes a second to compile.
    """
    low, high = 0, rising.size
    while low < high:
        middle = (low + high) // 2
        if rising[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def fill_line(q_per_nm, data_w, scale_w, basis, place_per_nm, fwhm_per_nm, rows, j):
    """Rows of line ``j``, their shares and moments."""
    low = first_from(q_per_nm, place_per_nm - REACH * fwhm_per_nm)
    high = first_from(q_per_nm, place_per_nm + REACH * fwhm_per_nm)
    rows.supports[j, 0], rows.supports[j, 1] = low, high
    value, by_place, by_width = (
        rows.lines_w[3 * j],
        rows.lines_w[3 * j + 1],
        rows.lines_w[3 * j + 2],
    )
    for i in range(low, high):
        distance = (q_per_nm[i] - place_per_nm) / fwhm_per_nm
        line = scale_w[i] * math.exp(-FOUR_LN2 * distance * distance)
        value[i] = line
        by_place[i] = line * 2.0 * FOUR_LN2 * distance / fwhm_per_nm
        by_width[i] = line * 2.0 * FOUR_LN2 * distance * distance / fwhm_per_nm
    rows.moment[3 * j], rows.moment[3 * j + 1], rows.moment[3 * j + 2] = _three_dots(
        value, by_place, by_width, data_w, low, high
    )
    for b in range(basis.shape[0]):
        rows.shares[3 * j, b], rows.shares[3 * j + 1, b], rows.shares[3 * j + 2, b] = _three_dots(
            value, by_place, by_width, basis[b], low, high
        )


@njit(cache=True, nogil=True)
def _three_dots(first, second, third, other, low, high):
    """Products of three lines with another over ``low`` to ``high``.

    Supports are of some ten points, for which three calls of `dot` are mostly calls.
    """
    a, b, c = 0.0, 0.0, 0.0
    for i in range(low, high):
        a += first[i] * other[i]
        b += second[i] * other[i]
        c += third[i] * other[i]
    return a, b, c


@njit(cache=True, nogil=True)
def _nine_dots(lines, first, second, low, high):
    """Products of three rows, ``first`` and on, with three others over ``low`` to ``high``.

    Side by side, as one sum alone waits for its own last addition.
    """
    aa, ab, ac, ba, bb, bc, ca, cb, cc = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(low, high):
        a, b, c = lines[first, i], lines[first + 1, i], lines[first + 2, i]
        d, e, f = lines[second, i], lines[second + 1, i], lines[second + 2, i]
        aa += a * d
        ab += a * e
        ac += a * f
        ba += b * d
        bb += b * e
        bc += b * f
        ca += c * d
        cb += c * e
        cc += c * f
    return aa, ab, ac, ba, bb, bc, ca, cb, cc


@njit(cache=True, nogil=True)
def _fill_block(rows, j, other):
    """Products of two lines, or of one with itself."""
    low = max(rows.supports[j, 0], rows.supports[other, 0])
    high = min(rows.supports[j, 1], rows.supports[other, 1])
    shared = _nine_dots(rows.shares, 3 * j, 3 * other, 0, rows.shares.shape[1])
    met = _nine_dots(rows.lines_w, 3 * j, 3 * other, low, high)
    for r in range(3):
        for s in range(3):
            product = met[3 * r + s] - shared[3 * r + s]
            rows.gram[3 * j + r, 3 * other + s] = product
            rows.gram[3 * other + s, 3 * j + r] = product


@njit(cache=True, nogil=True)
def fill_products(rows, j, count):
    """Products of line ``j`` with the first ``count`` lines, itself among them."""
    for other in range(count):
        _fill_block(rows, j, other)


@njit(cache=True, nogil=True)
def fill_moved(q_per_nm, data_w, scale_w, basis, at, moves, count, rows):
    """Those of the first ``count`` lines, at ``at`` (m, 2), that move, and all their products."""
    for j in range(count):
        if moves[j]:
            fill_line(q_per_nm, data_w, scale_w, basis, at[j, 0], at[j, 1], rows, j)
    for j in range(count):
        for other in range(count if moves[j] else 0):
            # Of two that move the products are filled once.
            if other <= j or not moves[other]:
                _fill_block(rows, j, other)


@njit(cache=True, nogil=True)
def fill_residual(data_w, basis, rows, heights, count, residual_w):
    """Data, already projected, without the first ``count`` lines, into ``residual_w`` (n,)."""
    for i in range(residual_w.size):
        residual_w[i] = data_w[i]
    for j in range(count):
        if heights[j] == 0.0:
            continue
        for i in range(rows.supports[j, 0], rows.supports[j, 1]):
            residual_w[i] -= heights[j] * rows.lines_w[3 * j, i]
    for b in range(basis.shape[0]):
        share = 0.0
        for j in range(count):
            share += heights[j] * rows.shares[3 * j, b]
        if share != 0.0:
            for i in range(residual_w.size):
                residual_w[i] += share * basis[b, i]
