"""Order of the particles: matched filters for series of Bragg-like peaks at an unknown spacing.

The scattering of ordered particles is I = A <F^2>(q) [1 + sum of peaks] + background. What the
form factor's own freedom, a slowly varying factor and the background could explain is projected
out of the residuals *and* of every template; what remains is compared by matched filters. One
template's score is standard normal without order. The best of many is not: its tail follows from
the length of the path that the unit templates travel as the spacing is scanned (Rice's formula;
Davies, Biometrika 74 (1987) 33),

    P(max score > u) <= sum over scans [ P(N(0,1) > u) + length / (2 pi) exp(-u^2/2) ],

so no false-alarm rate has to be tuned by hand.

Arrays named ``..._w`` are whitened (divided by sigma); ``basis`` (k, n) is orthonormal.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.linear import dot

FOUR_LN2 = 4.0 * math.log(2.0)
DEPENDENT = 1e-10
"""A nuisance that keeps less than this share of its square is a mixture of those before it."""
REACH = 2.0
"""Peaks end this many full widths from their centre, where they are 1.5e-5 of their height."""
LEAST_LEFT = 1e-6
"""A template of whose square less than this survives the projection is a nuisance."""
GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)


@njit(cache=True, nogil=True)
def orthonormal(columns, basis):
    """Gram-Schmidt, each column twice ("twice is enough"): into ``basis``; returns its rank.

    Parameters
    ----------
    columns
        Whitened nuisances (k, n).
    basis
        (k, n), overwritten in its first ``rank`` rows.
    """
    rank = 0
    for c in range(columns.shape[0]):
        row = columns[c].copy()
        before = dot(row, row)
        for _ in range(2):
            for b in range(rank):
                row -= dot(row, basis[b]) * basis[b]
        after = dot(row, row)
        if after > DEPENDENT * before:
            basis[rank] = row / np.sqrt(after)
            rank += 1
    return rank


@njit(cache=True, nogil=True)
def project_out(line_w, basis):
    """``line_w`` (n,) without what the orthonormal ``basis`` (k, n) explains."""
    out = line_w.copy()
    for b in range(basis.shape[0]):
        out -= dot(out, basis[b]) * basis[b]
    return out


@njit(cache=True, nogil=True)
def noise_level(residual_w):
    """Standard deviation that sums over neighbouring residuals have per root of their number.

    It is 1 where errors are right and points independent. The size comes from the median (of a
    normal deviate: 0.6745), the gain by correlation from the first two lags of residuals clipped
    at 2.5 times it, so that a few true peaks weigh little.
    """
    size = np.median(np.abs(residual_w)) / 0.6745
    if size == 0.0:
        return 0.0
    clipped = np.minimum(np.maximum(residual_w, -2.5 * size), 2.5 * size)
    square = dot(clipped, clipped)
    lags = dot(clipped[:-1], clipped[1:]) + dot(clipped[:-2], clipped[2:])
    return size * np.sqrt(max(1.0, 1.0 + 2.0 * lags / square))


@njit(cache=True, nogil=True)
def fill_series(q_per_nm, first_per_nm, fwhm_per_nm, ratios, strengths, out):
    """Gaussian peaks at ``first_per_nm * ratios``, into ``out`` (n,)."""
    out[:] = 0.0
    for p in range(ratios.size):
        centre = first_per_nm * ratios[p]
        for i in range(q_per_nm.size):
            distance = (q_per_nm[i] - centre) / fwhm_per_nm
            if abs(distance) < REACH:
                out[i] += strengths[p] * math.exp(-FOUR_LN2 * distance * distance)


@njit(cache=True, nogil=True)
def _support(line):
    """First and one past the last point of ``line`` (n,) that is not zero."""
    low, high = 0, line.size
    while low < high and line[low] == 0.0:
        low += 1
    while high > low and line[high - 1] == 0.0:
        high -= 1
    return low, high


@njit(cache=True, nogil=True)
def _shares(template, low, high, basis, shares):
    """Overlaps of a whitened template with the basis (k,); its square with them taken away.

    0 if less than LEAST_LEFT of the square is left: then it is a nuisance, not a peak.
    """
    peak = template[low:high]
    whole = dot(peak, peak)
    left = whole
    for b in range(basis.shape[0]):
        shares[b] = dot(peak, basis[b, low:high])
        left -= shares[b] * shares[b]
    return left if left > LEAST_LEFT * whole else 0.0


@njit(cache=True, nogil=True)
def series_score(residual_w, scale_w, basis, series):
    """Matched-filter score and amplitude of one series of peaks.

    Parameters
    ----------
    residual_w
        Whitened residual (n,), already projected, so that the template need not be.
    scale_w
        Whitened particle scattering (n,), which the series multiplies.
    basis
        Orthonormal nuisances (k, n).
    series
        (n,), from ``fill_series``.

    Returns
    -------
    score, amplitude
        Score in standard deviations; amplitude in units of the series (peak height of S - 1).
    """
    template = series * scale_w
    norm2 = _shares(template, 0, template.size, basis, np.empty(basis.shape[0]))
    if norm2 == 0.0:
        return 0.0, 0.0
    overlap = dot(template, residual_w)
    return overlap / np.sqrt(norm2), overlap / norm2


@njit(cache=True, nogil=True)
def scan(residual_w, scale_w, basis, templates, least_height, scores):
    """Scores of a path of templates (j, n) into ``scores`` (j,), and the length of the path.

    A score says by how many standard deviations the amplitude exceeds ``least_height``. The
    length is that of the projected templates' directions on the unit sphere, in radians; a
    template without anything left scores 0 and is not stepped over.
    """
    template, before = np.empty(residual_w.size), np.empty(residual_w.size)
    shares, shares_before = np.empty(basis.shape[0]), np.empty(basis.shape[0])
    norm_before = 0.0
    length = 0.0
    for j in range(templates.shape[0]):
        for i in range(template.size):
            template[i] = templates[j, i] * scale_w[i]
        low, high = _support(template)
        norm2 = _shares(template, low, high, basis, shares)
        if norm2 == 0.0:
            scores[j] = 0.0
            continue
        norm = np.sqrt(norm2)
        overlap = dot(template[low:high], residual_w[low:high])
        scores[j] = overlap / norm - least_height * norm
        if norm_before > 0.0:
            product = dot(template[low:high], before[low:high]) - dot(shares, shares_before)
            length += math.acos(min(1.0, max(-1.0, product / (norm * norm_before))))
        template, before = before, template
        shares, shares_before = shares_before, shares
        norm_before = norm
    return length


@njit(cache=True, nogil=True)
def sharpen(q_per_nm, residual_w, scale_w, basis, ratios, strengths, first_bounds, fwhm_bounds, at):
    """Maximise the score over the first peak's place and the peaks' width, alternately.

    Golden-section searches, three rounds of 24 steps: each narrows its interval 1e5 times.

    Parameters
    ----------
    first_bounds, fwhm_bounds
        (low, high) in 1/nm.
    at
        (first, fwhm) (2,), the start; overwritten by the maximum.

    Returns
    -------
    float
        Score at the maximum.
    """
    series = np.empty(q_per_nm.size)
    trial = at.copy()
    best = -np.inf
    for _ in range(3):
        for axis in range(2):
            low, high = first_bounds if axis == 0 else fwhm_bounds
            left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
            score_left = score_right = np.nan
            for _ in range(24):
                if np.isnan(score_left):
                    trial[:] = at
                    trial[axis] = left
                    fill_series(q_per_nm, trial[0], trial[1], ratios, strengths, series)
                    score_left = series_score(residual_w, scale_w, basis, series)[0]
                if np.isnan(score_right):
                    trial[:] = at
                    trial[axis] = right
                    fill_series(q_per_nm, trial[0], trial[1], ratios, strengths, series)
                    score_right = series_score(residual_w, scale_w, basis, series)[0]
                if score_left > score_right:
                    high, right, score_right = right, left, score_left
                    left, score_left = high - GOLDEN * (high - low), np.nan
                else:
                    low, left, score_left = left, right, score_right
                    right, score_right = low + GOLDEN * (high - low), np.nan
            middle = 0.5 * (low + high)
            trial[:] = at
            trial[axis] = middle
            fill_series(q_per_nm, trial[0], trial[1], ratios, strengths, series)
            score = series_score(residual_w, scale_w, basis, series)[0]
            if score > best:
                best = score
                at[axis] = middle
    return best
