"""Order of the particles: matched filters for series of Bragg-like peaks at an unknown spacing.

The scattering of ordered particles is I = A <F^2>(q) [1 + sum of peaks] + background. What the
form factor's own freedom, a slowly varying factor and the background could explain is projected
out of the residuals *and* of every template; what remains is compared by matched filters. One
template's score is standard normal without order. The best of many is not: its tail follows from
the length of the path that the unit templates travel as the spacing is scanned (Rice's formula;
Davies, Biometrika 74 (1987) 33),

    P(max score > u) = 1 - F exp(-N / F),
    N = sum over scans i of length_i / (2 pi) exp(-u^2/2) P_i(others < u),
    F = P(all scans < u at one place),

so no false-alarm rate has to be tuned by hand. An excursion of scan i makes the maximum pass u only
if all other scans are below u then. They are correlated with it: P_i is the probability that
normal deviates with the templates' own correlation, given that the i-th is u, are all below u
(`overlap`). Left out, as 1, it makes a bound that is 2 to 3 times too cautious. For spheres of
11.6 nm at 5e11 photons/s, 50,000 draws of noise: the ratio of true probability to bound, and P_i:

=========================  ======  ======  ======
full widths tried (1/nm)   u = 3   3.5     4
=========================  ======  ======  ======
0.03, 0.08: drawn          0.42    0.48    0.57
0.03, 0.08: P_i            0.40    0.45    0.51
0.05: drawn                0.51    0.59    0.59
0.05: P_i                  0.51    0.55    0.59
0.02 to 0.16, four: drawn  0.33    0.38
0.02 to 0.16, four: P_i    0.30    0.36
=========================  ======  ======  ======

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
CLIPPED_SIZE = 0.98872
"""Standard deviation of normal deviates that are clipped at 2.5."""


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

    It is 1 where errors are right and points independent. Residuals are clipped at 2.5 times their
    median size (of a normal deviate: 0.6745), so that a few true peaks weigh little; the gain by
    correlation is that of the first two lags.
    """
    size = np.median(np.abs(residual_w)) / 0.6745
    if size == 0.0:
        return 0.0
    clipped = np.minimum(np.maximum(residual_w, -2.5 * size), 2.5 * size)
    square = dot(clipped, clipped)
    lags = dot(clipped[:-1], clipped[1:]) + dot(clipped[:-2], clipped[2:])
    gain = max(1.0, 1.0 + 2.0 * lags / square)
    return np.sqrt(square / residual_w.size * gain) / CLIPPED_SIZE


@njit(cache=True, nogil=True)
def fill_series(q_per_nm, first_per_nm, fwhm_per_nm, ratios, strengths, out):
    """Gaussian peaks at ``first_per_nm * ratios``, into ``out`` (n,); q ascends."""
    out[:] = 0.0
    for p in range(ratios.size):
        centre = first_per_nm * ratios[p]
        low = np.searchsorted(q_per_nm, centre - REACH * fwhm_per_nm)
        high = np.searchsorted(q_per_nm, centre + REACH * fwhm_per_nm)
        for i in range(low, high):
            distance = (q_per_nm[i] - centre) / fwhm_per_nm
            out[i] += strengths[p] * math.exp(-FOUR_LN2 * distance * distance)


@njit(cache=True, nogil=True)
def fill_shift(q_per_nm, centre_per_nm, fwhm_per_nm, out):
    """Derivative of a Gaussian peak by its place, times the width, into ``out`` (n,)."""
    out[:] = 0.0
    for i in range(q_per_nm.size):
        distance = (q_per_nm[i] - centre_per_nm) / fwhm_per_nm
        if abs(distance) < REACH:
            out[i] = 2.0 * FOUR_LN2 * distance * math.exp(-FOUR_LN2 * distance * distance)


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
    low, high = _support(series)
    template = series * scale_w
    norm2 = _shares(template, low, high, basis, np.empty(basis.shape[0]))
    if norm2 == 0.0:
        return 0.0, 0.0
    overlap = dot(template[low:high], residual_w[low:high])
    return overlap / np.sqrt(norm2), overlap / norm2


@njit(cache=True, nogil=True)
def supports_of(templates, out):
    """First and one past the last point of each template (j, n), into ``out`` (j, 2)."""
    for j in range(templates.shape[0]):
        out[j, 0], out[j, 1] = _support(templates[j])


@njit(cache=True, nogil=True)
def scan(residual_w, scale_w, basis, templates, supports, least_height, scores):
    """Scores of a path of templates (j, n) into ``scores`` (j,), and the length of the path.

    A score says by how many standard deviations the amplitude exceeds ``least_height``. The
    length is that of the projected templates' directions on the unit sphere, in radians; a
    template without anything left scores 0 and is not stepped over. ``supports`` (j, 2) is from
    ``supports_of``.
    """
    template, before = np.empty(residual_w.size), np.empty(residual_w.size)
    shares, shares_before = np.empty(basis.shape[0]), np.empty(basis.shape[0])
    norm_before = 0.0
    low_before = high_before = 0
    length = 0.0
    for j in range(templates.shape[0]):
        low, high = supports[j, 0], supports[j, 1]
        for i in range(low, high):
            template[i] = templates[j, i] * scale_w[i]
        norm2 = _shares(template, low, high, basis, shares)
        if norm2 == 0.0:
            scores[j] = 0.0
            continue
        norm = np.sqrt(norm2)
        score = dot(template[low:high], residual_w[low:high])
        scores[j] = score / norm - least_height * norm
        if norm_before > 0.0:
            both_low, both_high = max(low, low_before), min(high, high_before)
            product = -dot(shares, shares_before)
            if both_low < both_high:
                product += dot(template[both_low:both_high], before[both_low:both_high])
            length += math.acos(min(1.0, max(-1.0, product / (norm * norm_before))))
        template, before = before, template
        shares, shares_before = shares_before, shares
        norm_before, low_before, high_before = norm, low, high
    return length


@njit(cache=True, nogil=True)
def overlap(level, scale_w, basis, templates, tops, partners, lengths):
    """Mean probability that the other scans are below ``level`` where one just passes it.

    And the mean probability that all are at any place.

    Parameters
    ----------
    level
        Score.
    scale_w, basis
        As for ``scan``.
    templates
        Of all scans (j, n).
    tops
        Template of each scan (m,), as a row of ``templates``, at which the others are looked at.
    partners
        (j, m): the template of each scan that is most like this one.
    lengths
        Of the scans' paths (m,), the weights of the mean.
    """
    scans = tops.size
    lines = np.empty((scans, scale_w.size))
    shares = np.empty((scans, basis.shape[0]))
    norm2 = np.empty(scans)
    near = np.empty((scans, scans))
    mean, covariance = np.empty(scans - 1), np.empty((scans - 1, scans - 1))
    others = together = weight = 0.0
    for i in range(scans):
        for k in range(scans):
            # Own template first, then those of the others.
            place = tops[i] if k == 0 else partners[tops[i], k - 1 if k <= i else k]
            for p in range(scale_w.size):
                lines[k, p] = templates[place, p] * scale_w[p]
            low, high = _support(lines[k])
            norm2[k] = _shares(lines[k], low, high, basis, shares[k])
        if norm2[0] == 0.0:
            continue
        for k in range(scans):
            for j in range(k + 1):
                near[k, j] = near[j, k] = 0.0
                if norm2[k] > 0.0 and norm2[j] > 0.0:
                    product = dot(lines[k], lines[j]) - dot(shares[k], shares[j])
                    near[k, j] = near[j, k] = product / np.sqrt(norm2[k] * norm2[j])
        for k in range(scans - 1):
            mean[k] = near[k + 1, 0] * level
            for j in range(scans - 1):
                covariance[k, j] = near[k + 1, j + 1] - near[k + 1, 0] * near[j + 1, 0]
        others += lengths[i] * below_all(level, mean, covariance)
        together += lengths[i] * below_all(level, np.zeros(scans), near)
        weight += lengths[i]
    return (others / weight, together / weight) if weight > 0.0 else (1.0, 1.0)


@njit(cache=True, nogil=True)
def below_all(level, mean, covariance):
    """Probability that normal deviates (k,) are all below ``level``; both arrays are overwritten.

    One after the other, each conditional on those before, whose truncated distribution is taken
    for normal (Mendell & Elston, Biometrics 30 (1974) 41): good to a few per cent.
    """
    probability = 1.0
    for k in range(mean.size):
        variance = covariance[k, k]
        if variance < 1e-9:
            # The same template again.
            continue
        deviation = np.sqrt(variance)
        at = (level - mean[k]) / deviation
        share = max(0.5 * math.erfc(-at / math.sqrt(2.0)), 1e-300)
        probability *= share
        pull = math.exp(-0.5 * at * at) / math.sqrt(2.0 * math.pi) / share
        narrowing = pull * (pull + at)
        for j in range(k + 1, mean.size):
            mean[j] -= covariance[j, k] / deviation * pull
            for i in range(k + 1, mean.size):
                covariance[i, j] -= covariance[i, k] * covariance[j, k] / variance * narrowing
    return probability


@njit(cache=True, nogil=True)
def partners_of(templates, starts, out):
    """For each template (j, n) the most similar one of each scan, into ``out`` (j, m)."""
    norms = np.empty(templates.shape[0])
    for j in range(norms.size):
        norms[j] = np.sqrt(dot(templates[j], templates[j]))
    for j in range(norms.size):
        for k in range(starts.size - 1):
            best = -1.0
            out[j, k] = starts[k]
            for i in range(starts[k], starts[k + 1]):
                if norms[i] > 0.0:
                    product = dot(templates[j], templates[i]) / norms[i]
                    if product > best:
                        best = product
                        out[j, k] = i


@njit(cache=True, nogil=True)
def sharpen(
    q_per_nm, residual_w, scale_w, basis, ratios, strengths, first_bounds, fwhm_bounds, at, errors
):
    """Maximise the score over the first peak's place and the peaks' width.

    Newton's steps on score^2/2, the log-likelihood, with derivatives by differences and no step
    longer than a trust radius, which halves where a step does not rise. It ends where a step would
    raise it by less than 1e-3: that is 0.04 of a standard error.

    Parameters
    ----------
    first_bounds, fwhm_bounds
        (low, high) in 1/nm.
    at
        (first, fwhm) (2,), the start; overwritten by the maximum.
    errors
        (2,), overwritten: standard errors from the curvature there, NaN where it has none.

    Returns
    -------
    float
        Score at the maximum.
    """
    series = np.empty(q_per_nm.size)
    values = np.empty(9)
    radius, best = 0.5, -np.inf
    errors[:] = np.nan
    first, fwhm = at[0], at[1]
    step = 0.03
    for _ in range(12):
        # In units of the width: u moves the place, v the logarithm of the width.
        for n in range(9):
            u, v = step * (n // 3 - 1), step * (n % 3 - 1)
            if n in (2, 6):
                continue
            fill_series(q_per_nm, first + u * fwhm, fwhm * math.exp(v), ratios, strengths, series)
            score = series_score(residual_w, scale_w, basis, series)[0]
            values[n] = 0.5 * score * abs(score)
        best = values[4]
        slope_u = (values[7] - values[1]) / (2 * step)
        slope_v = (values[5] - values[3]) / (2 * step)
        bend_u = (values[7] + values[1] - 2 * best) / step**2
        bend_v = (values[5] + values[3] - 2 * best) / step**2
        both = values[8] + values[0] - values[7] - values[1] - values[5] - values[3] + 2 * best
        cross = both / (2 * step**2)
        det = bend_u * bend_v - cross**2
        if bend_u < 0.0 and det > 0.0:
            errors[0] = fwhm * math.sqrt(-bend_v / det)
            errors[1] = fwhm * math.sqrt(-bend_u / det)
            u = (-bend_v * slope_u + cross * slope_v) / det
            v = (-bend_u * slope_v + cross * slope_u) / det
        else:
            errors[:] = np.nan
            steep = math.hypot(slope_u, slope_v)
            if steep == 0.0:
                break
            u, v = radius * slope_u / steep, radius * slope_v / steep
        if slope_u * u + slope_v * v < 2e-3:
            break
        longest = max(abs(u), abs(v))
        if longest > radius:
            u, v = u * radius / longest, v * radius / longest
        moved = False
        for _ in range(6):
            place = min(max(first + u * fwhm, first_bounds[0]), first_bounds[1])
            width = min(max(fwhm * math.exp(v), fwhm_bounds[0]), fwhm_bounds[1])
            fill_series(q_per_nm, place, width, ratios, strengths, series)
            score = series_score(residual_w, scale_w, basis, series)[0]
            if 0.5 * score * abs(score) > best:
                moved = True
                break
            u, v, radius = 0.5 * u, 0.5 * v, 0.5 * radius
        if not moved:
            break
        first, fwhm, best = place, width, 0.5 * score * abs(score)
    at[0], at[1] = first, fwhm
    return math.copysign(math.sqrt(2.0 * abs(best)), best)
