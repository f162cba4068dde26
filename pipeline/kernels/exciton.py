"""The first exciton of an absorbance spectrum: model, guide and fit.

Model
-----
Below an upper edge a little above the second transition (see `fit_lowest_peak`),

    A(E) = a0 + a1 (E/3)^4 + A1 g(E; E1, w1) + A2 g(E; E2, w2) + s0 S(x) + s1 R(x) + B g(E; Eb, wb)

with g a Gaussian of unit height, E2 = E1 + gap w1, w2 = ratio w1, S the normal distribution
function of x = (E - E1 - 1.5 gap w1) / w2 and R its integral: a constant and Rayleigh's
lambda^-4 for scattering, the first exciton, the second one, a smoothed step with a slope for all
transitions above, and the agglomerates' band, whose place and width are known.

Four numbers enter non-linearly (E1, w1, gap, ratio). The others are solved for exactly at each
trial (variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10, 413, 1973), under a weak
prior that keeps the continuum's amplitudes of the order of the spectrum.

Range of validity: the second transition at least 1.02 fwhm above the first (gap >= 2.4). Where
two transitions overlap more than that, energy and width are those of their sum.

Energies and widths in eV; a width w is a standard deviation, fwhm = 2.3548 w.
"""

import math

import numpy as np
from numba import njit

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))

# Bounds of gap and ratio, and the normal priors on them. The two-band model gives gaps of 3 to 5
# for 3.8 to 8 nm CsPbBr3 and the priors' widths span that; closer than 2.4 the two Gaussians
# trade their amplitudes freely and the first one slides down the flank of the peak.
GAP_MIN, GAP_MAX, GAP_PRIOR, GAP_PRIOR_SD = 2.4, 8.0, 3.6, 1.5
RATIO_MIN, RATIO_MAX, RATIO_PRIOR, RATIO_PRIOR_SD = 1.0, 2.5, 1.5, 0.5
# Continuum amplitudes are drawn to zero with this standard deviation, in units of the greatest
# absorbance in the window: wide enough to leave 1-sigma errors alone, narrow enough to stop
# cancellations of a thousandfold between step, ramp and second peak.
CONTINUUM_PRIOR_SD = 5.0
# Gauss-Newton gains per iteration here are a decade or so; 40 is three times what was ever used.
MAX_ITERATIONS = 40
# A step that lowers chi-square by less than this (and this share of it) ends the fit: the next
# one would move no number by more than a few hundredths of its standard error.
CONVERGED = 1e-3
CONVERGED_SHARE = 1e-5
NONLINEAR = 4
COLUMNS = 7


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
    """Inverse of a symmetric positive definite matrix (k, k), or NaNs if it is not."""
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
        for i in range(energy.size):
            x = (energy[i] - centres[c]) / half_width
            if x < -1.0 or x > 1.0:
                continue
            count += 1
            left_most = min(left_most, x)
            right_most = max(right_most, x)
            w = 1.0 / (sigma[i] * sigma[i])
            power[0] = 1.0
            for p in range(1, 4):
                power[p] = power[p - 1] * x
            for p in range(4):
                right[p] += w * power[p] * absorbance[i]
                for r in range(4):
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


@njit(cache=True, nogil=True)
def peak_basis(energy, p, band_ev, band_sigma):
    """Columns of the model, (n, 7): constant, scatter, first, second, step, ramp, band.

    ``p`` is (E1, w1, gap, ratio). The band's column is zero where ``band_ev`` is NaN.
    """
    e1, w1, gap, ratio = p[0], p[1], p[2], p[3]
    w2 = ratio * w1
    n = energy.size
    columns = np.empty((n, COLUMNS))
    for i in range(n):
        e = energy[i]
        columns[i, 0] = 1.0
        columns[i, 1] = (e / 3.0) ** 4
        x = (e - e1) / w1
        columns[i, 2] = math.exp(-0.5 * x * x)
        x = (e - e1 - gap * w1) / w2
        columns[i, 3] = math.exp(-0.5 * x * x)
        x = (e - e1 - 1.5 * gap * w1) / w2
        step = 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))
        columns[i, 4] = step
        columns[i, 5] = x * step + math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        columns[i, 6] = 0.0
        if math.isfinite(band_ev):
            x = (e - band_ev) / band_sigma
            columns[i, 6] = math.exp(-0.5 * x * x)
    return columns


@njit(cache=True, nogil=True)
def _project(energy, absorbance, sigma, p, band_ev, band_sigma, prior_sd):
    """Best amplitudes at ``p`` and the residuals, priors appended: (7,), (n + 9,)."""
    n = energy.size
    columns = peak_basis(energy, p, band_ev, band_sigma)
    normal = np.zeros((COLUMNS, COLUMNS))
    right = np.zeros(COLUMNS)
    for i in range(n):
        w = 1.0 / (sigma[i] * sigma[i])
        for j in range(COLUMNS):
            right[j] += w * columns[i, j] * absorbance[i]
            for k in range(j + 1):
                normal[j, k] += w * columns[i, j] * columns[i, k]
    for j in range(COLUMNS):
        normal[j, j] += 1.0 / (prior_sd * prior_sd)
        for k in range(j):
            normal[k, j] = normal[j, k]
    amplitudes = cholesky_inverse(normal) @ right
    residual = np.empty(n + COLUMNS + 2)
    for i in range(n):
        model = 0.0
        for j in range(COLUMNS):
            model += columns[i, j] * amplitudes[j]
        residual[i] = (model - absorbance[i]) / sigma[i]
    for j in range(COLUMNS):
        residual[n + j] = amplitudes[j] / prior_sd
    residual[n + COLUMNS] = (p[2] - GAP_PRIOR) / GAP_PRIOR_SD
    residual[n + COLUMNS + 1] = (p[3] - RATIO_PRIOR) / RATIO_PRIOR_SD
    return amplitudes, residual


@njit(cache=True, nogil=True)
def _covariance(energy, sigma, p, amplitudes, band_ev, band_sigma, prior_sd):
    """Covariance of (E1, w1, gap, ratio, amplitudes...), (11, 11), priors included."""
    n = energy.size
    size = NONLINEAR + COLUMNS
    jacobian = np.empty((n, size))
    jacobian[:, NONLINEAR:] = peak_basis(energy, p, band_ev, band_sigma)
    for j in range(NONLINEAR):
        # Central difference: 1e-4 leaves errors of 1e-8 relative from both sides.
        step = 1e-4 * (p[1] if j < 2 else 1.0)
        above, below = p.copy(), p.copy()
        above[j] += step
        below[j] -= step
        difference = peak_basis(energy, above, band_ev, band_sigma) - peak_basis(
            energy, below, band_ev, band_sigma
        )
        jacobian[:, j] = difference @ amplitudes / (2.0 * step)
    for i in range(n):
        jacobian[i] /= sigma[i]
    information = jacobian.T @ jacobian
    information[2, 2] += GAP_PRIOR_SD**-2
    information[3, 3] += RATIO_PRIOR_SD**-2
    for j in range(NONLINEAR, size):
        information[j, j] += prior_sd**-2
    return cholesky_inverse(information)


@njit(cache=True, nogil=True)
def fit_lowest_peak(energy, absorbance, sigma, start, lower, upper, band_ev, band_sigma):
    """Least squares (Levenberg-Marquardt) of the model in the module's docstring.

    Parameters
    ----------
    energy, absorbance, sigma
        (n,) the window to fit, n > 11.
    start, lower, upper
        (4,) first values and bounds of E1, w1 (eV), gap, ratio.
    band_ev, band_sigma
        Centre and standard deviation of the agglomerates' band; NaN = not in the model.

    Returns
    -------
    p
        (4,) E1, w1, gap, ratio.
    amplitudes
        (7,) in the order of `peak_basis`.
    covariance
        (11, 11) of both, in that order; NaN if it could not be inverted.
    chi2
        Sum of squared residuals of the data, without the priors.
    """
    n = energy.size
    prior_sd = CONTINUUM_PRIOR_SD * max(np.max(np.abs(absorbance)), 1e-6)
    p = np.minimum(np.maximum(start, lower), upper)
    amplitudes, residual = _project(energy, absorbance, sigma, p, band_ev, band_sigma, prior_sd)
    cost = residual @ residual
    damping = 1e-3
    jacobian = np.empty((residual.size, NONLINEAR))
    for _ in range(MAX_ITERATIONS):
        for j in range(NONLINEAR):
            step = 1e-5 * (p[1] if j < 2 else 1.0)
            if p[j] + step > upper[j]:
                step = -step
            moved = p.copy()
            moved[j] += step
            _, other = _project(energy, absorbance, sigma, moved, band_ev, band_sigma, prior_sd)
            jacobian[:, j] = (other - residual) / step
        normal = jacobian.T @ jacobian
        gradient = jacobian.T @ residual
        for j in range(NONLINEAR):
            # At a bound that the descent would cross, the parameter rests, and the others move
            # as if it were fixed: a clipped joint step would zigzag.
            if (p[j] <= lower[j] and gradient[j] > 0.0) or (p[j] >= upper[j] and gradient[j] < 0.0):
                normal[j, :] = 0.0
                normal[:, j] = 0.0
                normal[j, j] = 1.0
                gradient[j] = 0.0
        improved = False
        for _ in range(8):
            damped = normal.copy()
            for j in range(NONLINEAR):
                damped[j, j] += damping * normal[j, j] + 1e-12
            trial = p - cholesky_inverse(damped) @ gradient
            trial = np.minimum(np.maximum(trial, lower), upper)
            trial_amplitudes, trial_residual = _project(
                energy, absorbance, sigma, trial, band_ev, band_sigma, prior_sd
            )
            trial_cost = trial_residual @ trial_residual
            if trial_cost < cost:
                improved = True
                break
            damping *= 5.0
        if not improved:
            break
        gain = cost - trial_cost
        p, amplitudes, residual, cost = trial, trial_amplitudes, trial_residual, trial_cost
        damping = max(damping * 0.1, 1e-9)
        if gain < CONVERGED + CONVERGED_SHARE * cost:
            break
    covariance = _covariance(energy, sigma, p, amplitudes, band_ev, band_sigma, prior_sd)
    return p, amplitudes, covariance, residual[:n] @ residual[:n]


@njit(cache=True, nogil=True)
def band_amplitude(energy, absorbance, sigma, band_ev, band_sigma):
    """Height of a band of known place and width on a cubic continuum.

    The window is 2.5 standard deviations to each side; the cubic takes up what else is there.

    Returns
    -------
    height, error, chi2, points
        Height and error in absorbance; NaN where the window is not covered on both sides.
    """
    reach = 2.5 * band_sigma
    normal = np.zeros((5, 5))
    right = np.zeros(5)
    row = np.empty(5)
    points = 0
    lowest, highest = 1.0, -1.0
    for i in range(energy.size):
        x = (energy[i] - band_ev) / reach
        if x < -1.0 or x > 1.0:
            continue
        points += 1
        lowest, highest = min(lowest, x), max(highest, x)
        row[0], row[1], row[2], row[3] = 1.0, x, x * x, x * x * x
        row[4] = math.exp(-0.5 * (x * 2.5) ** 2)
        w = 1.0 / (sigma[i] * sigma[i])
        for j in range(5):
            right[j] += w * row[j] * absorbance[i]
            for k in range(5):
                normal[j, k] += w * row[j] * row[k]
    if points < 8 or lowest > -0.6 or highest < 0.6:
        return np.nan, np.nan, np.nan, points
    inverse = cholesky_inverse(normal)
    solution = inverse @ right
    chi2 = 0.0
    for i in range(energy.size):
        x = (energy[i] - band_ev) / reach
        if x < -1.0 or x > 1.0:
            continue
        model = (
            solution[0]
            + x * (solution[1] + x * (solution[2] + x * solution[3]))
            + solution[4] * math.exp(-0.5 * (x * 2.5) ** 2)
        )
        chi2 += ((model - absorbance[i]) / sigma[i]) ** 2
    return solution[4], math.sqrt(inverse[4, 4]), chi2, points
