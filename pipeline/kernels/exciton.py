"""An absorbance spectrum made ready: bins of energy, second derivative.

Energies and widths in eV; a width w is a standard deviation, fwhm = 2.3548 w.
"""

import math

import numpy as np
from numba import njit

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))

# A detector at its end repeats one value; noise does so five times in a row in one spectrum of
# 1e12 (doubles) to never (absorbance written with four decimals and a noise of a digit: 1e-3).
CLIPPED_RUN = 5


@njit(cache=True, nogil=True)
def without_clipped(absorbance):
    """A copy (n,) with NaN where the spectrum's greatest value stands `CLIPPED_RUN` times in a row.

    A spectrum of one value has no greatest one and stays as it is.
    """
    out = absorbance.copy()
    top, bottom = -np.inf, np.inf
    for value in absorbance:
        if math.isfinite(value):
            top, bottom = max(top, value), min(bottom, value)
    if not top > bottom:
        return out
    begin = 0
    for i in range(absorbance.size + 1):
        if i < absorbance.size and absorbance[i] == top:
            continue
        if i - begin >= CLIPPED_RUN:
            out[begin:i] = np.nan
        begin = i + 1
    return out


@njit(cache=True, nogil=True)
def pixel_scatter(absorbance):
    """Noise of a pixel from third differences, robustly; they cancel any parabola.

    A third difference of white noise has a variance of 20 (1 + 9 + 9 + 1); the median absolute
    value is 0.6745 standard deviations. Not below 1e-6, for noiseless records.
    """
    values = absorbance[np.isfinite(absorbance)]
    if values.size < 4:
        return 1.0
    third = np.abs(values[3:] - 3.0 * values[2:-1] + 3.0 * values[1:-2] - values[:-3])
    return max(np.median(third) / 0.6744897501960817 / math.sqrt(20.0), 1e-6)


@njit(cache=True, nogil=True)
def bin_spectrum(energy, absorbance, sigma, width):
    """Merge neighbouring pixels into bins of energy, weighted by 1 / sigma^2.

    A bin's energy is the weighted mean of its pixels, so that binning is exact for a line and
    adds no more than width^2 / 12 to the variance of a peak.

    Parameters
    ----------
    energy
        (n,) ascending, eV.
    absorbance, sigma
        (n,) decadic; pixels whose absorbance or sigma is not finite are left out.
    width
        Of a bin, eV.

    Returns
    -------
    energy, absorbance, sigma
        (m,) each, m <= n; empty bins are left out.
    """
    n = energy.size
    out_e = np.empty(n)
    out_a = np.empty(n)
    out_s = np.empty(n)
    m = 0
    current = -1
    sum_w = sum_we = sum_wa = 0.0
    for i in range(n):
        if not (math.isfinite(absorbance[i]) and math.isfinite(sigma[i]) and sigma[i] > 0.0):
            continue
        index = math.floor((energy[i] - energy[0]) / width)
        if index != current:
            if sum_w > 0.0:
                out_e[m], out_a[m], out_s[m] = sum_we / sum_w, sum_wa / sum_w, sum_w**-0.5
                m += 1
            current = index
            sum_w = sum_we = sum_wa = 0.0
        w = 1.0 / (sigma[i] * sigma[i])
        sum_w += w
        sum_we += w * energy[i]
        sum_wa += w * absorbance[i]
    if sum_w > 0.0:
        out_e[m], out_a[m], out_s[m] = sum_we / sum_w, sum_wa / sum_w, sum_w**-0.5
        m += 1
    return out_e[:m], out_a[:m], out_s[:m]


@njit(cache=True, nogil=True)
def cholesky_inverse(matrix):
    """Inverse of a symmetric positive definite matrix (k, k), or NaNs if it is not.

    Only the lower triangle is read.
    """
    k = matrix.shape[0]
    low = np.zeros((k, k))
    inverse = np.empty((k, k))
    for i in range(k):
        for j in range(i + 1):
            acc = matrix[i, j]
            for m in range(j):
                acc -= low[i, m] * low[j, m]
            if i == j:
                if not acc > 0.0:
                    inverse[:] = np.nan
                    return inverse
                low[i, i] = math.sqrt(acc)
            else:
                low[i, j] = acc / low[j, j]
    column = np.empty(k)
    for c in range(k):
        for i in range(k):
            acc = 1.0 if i == c else 0.0
            for m in range(i):
                acc -= low[i, m] * column[m]
            column[i] = acc / low[i, i]
        for i in range(k - 1, -1, -1):
            acc = column[i]
            for m in range(i + 1, k):
                acc -= low[m, i] * column[m]
            column[i] = acc / low[i, i]
        inverse[:, c] = column
    return inverse


@njit(cache=True, nogil=True)
def curvature(energy, absorbance, sigma, centres, half_width):
    """Second derivative by a local cubic (Savitzky-Golay for uneven points) and its error.

    Parameters
    ----------
    energy, absorbance, sigma
        (n,), as from `bin_spectrum`.
    centres
        (m,) energies at which it is wanted.
    half_width
        Of the window about each centre, eV.

    Returns
    -------
    second, error
        (m,) in 1/eV^2; NaN where fewer than six points or one side only is in the window.
    """
    m = centres.size
    second = np.full(m, np.nan)
    error = np.full(m, np.nan)
    normal = np.empty((4, 4))
    right = np.empty(4)
    power = np.empty(4)
    for c in range(m):
        normal[:] = 0.0
        right[:] = 0.0
        count = 0
        left_most = right_most = 0.0
        first = np.searchsorted(energy, centres[c] - 1.01 * half_width)
        for i in range(first, energy.size):
            x = (energy[i] - centres[c]) / half_width
            if x < -1.0:
                continue
            if x > 1.0:
                break
            count += 1
            left_most = min(left_most, x)
            right_most = max(right_most, x)
            w = 1.0 / (sigma[i] * sigma[i])
            power[0] = 1.0
            for p in range(1, 4):
                power[p] = power[p - 1] * x
            for p in range(4):
                right[p] += w * power[p] * absorbance[i]
                for r in range(p + 1):
                    normal[p, r] += w * power[p] * power[r]
        if count < 6 or left_most > -0.6 or right_most < 0.6:
            continue
        inverse = cholesky_inverse(normal)
        value = 0.0
        for p in range(4):
            value += inverse[2, p] * right[p]
        second[c] = 2.0 * value / half_width**2
        error[c] = 2.0 * math.sqrt(inverse[2, 2]) / half_width**2
    return second, error
