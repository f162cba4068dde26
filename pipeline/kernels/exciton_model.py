"""Least squares of the lowest peaks of an absorbance spectrum.

Model
-----
Below an upper edge a little above its highest transition (see `fit_peaks`),

    A(E) = a0 + a1 (E/3)^4 + A1 g(E; E1, w1) + A2 g(E; E2, w2) + s0 S(x) + s1 R(x)
           + B g(E; Eb, wb) + A3 g(E; E3, w3)

with g a Gaussian of unit height, E2 = E1 + gap w1, w2 = ratio w1, S the normal distribution
function of x = (E - Es) / ws and R its integral: a constant and Rayleigh's lambda^-4 for
scattering, the first exciton, the second one, a smoothed step with a slope for all transitions
above, the agglomerates' band, whose place and width are known, and a third transition where it is
asked for, E3 = E2 + gap3 w1, w3 = (2 ratio - 1) w1 (widths rise evenly). The step is half a gap
above the highest transition, as wide as that.

E1, w1, gap, ratio (and gap3) enter non-linearly. The others are solved for exactly at each trial
(variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10, 413, 1973, with the Jacobian of
Kaufman, BIT 15, 49, 1975), under a weak prior that keeps the continuum's amplitudes of the order
of the spectrum.

Range of validity: the second transition at least 1.02 fwhm above the first (gap >= 2.4). Where
two transitions overlap more than that, energy and width are those of their sum.

Energies and widths in eV; a width w is a standard deviation, fwhm = 2.3548 w.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.exciton import cholesky_inverse
from pipeline.kernels.linear import dot

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
# Non-linear parameters with and without a third transition.
TWO, THREE = 4, 5
COLUMNS = 8
SLOPES = 5
# Places of the amplitudes and columns.
CONSTANT, SCATTER, FIRST, SECOND, STEP, RAMP, BAND, THIRD = range(COLUMNS)
ROOT_HALF = math.sqrt(0.5)
ROOT_TWO_PI = math.sqrt(2.0 * math.pi)


@njit(cache=True, nogil=True)
def fill_columns(energy, p, band_ev, band_sigma, columns, slopes):
    """Columns of the model (6 to 8, n) and their derivatives.

    ``p`` is (E1, w1, gap, ratio) or (E1, w1, gap, ratio, gap3). Six columns have neither band nor
    third transition, seven no third; the band's is zero where ``band_ev`` is NaN.

    ``slopes`` (5, n) become d column / d place of the three transitions, the step and the ramp: all
    else follows by the chain rule, because place
    and width enter as x = (E - place) / width only and d/d width = x d/d place.
    """
    w1 = p[1]
    w2 = p[3] * w1
    e2 = p[0] + p[2] * w1
    three = p.size == THREE
    if three:
        w3 = (2.0 * p[3] - 1.0) * w1
        e3 = e2 + p[4] * w1
        step_at, step_width = e3 + 0.5 * p[4] * w1, w3
    else:
        w3, e3 = 1.0, 0.0
        step_at, step_width = e2 + 0.5 * p[2] * w1, w2
    banded = math.isfinite(band_ev)
    for i in range(energy.size):
        e = energy[i]
        columns[CONSTANT, i] = 1.0
        square = (e / 3.0) * (e / 3.0)
        columns[SCATTER, i] = square * square
        x = (e - p[0]) / w1
        columns[FIRST, i] = math.exp(-0.5 * x * x)
        slopes[0, i] = columns[FIRST, i] * x / w1
        x = (e - e2) / w2
        columns[SECOND, i] = math.exp(-0.5 * x * x)
        slopes[1, i] = columns[SECOND, i] * x / w2
        x = (e - step_at) / step_width
        step = 0.5 * math.erfc(-x * ROOT_HALF)
        density = math.exp(-0.5 * x * x) / ROOT_TWO_PI
        columns[STEP, i] = step
        columns[RAMP, i] = x * step + density
        slopes[3, i] = -density / step_width
        slopes[4, i] = -step / step_width
        if banded:
            x = (e - band_ev) / band_sigma
            columns[BAND, i] = math.exp(-0.5 * x * x)
        elif columns.shape[0] > BAND:
            columns[BAND, i] = 0.0
        slopes[2, i] = 0.0
        if three:
            x = (e - e3) / w3
            columns[THIRD, i] = math.exp(-0.5 * x * x)
            slopes[2, i] = columns[THIRD, i] * x / w3


@njit(cache=True, nogil=True)
def fill_derivatives(energy, p, amplitudes, slopes, derivatives):
    """d A / d p at fixed amplitudes, (4 or 5, n), out of the slopes of `fill_columns`."""
    w1, gap, ratio = p[1], p[2], p[3]
    w2 = ratio * w1
    e2 = p[0] + gap * w1
    three = p.size == THREE
    gap3 = p[4] if three else 0.0
    w3 = (2.0 * ratio - 1.0) * w1
    e3 = e2 + gap3 * w1
    if three:
        step_at, step_width = e3 + 0.5 * gap3 * w1, w3
        # d place / d w1 of the step, d place / d gap; d width / d w1, d width / d ratio.
        step_by_w1, step_by_gap = gap + 1.5 * gap3, 1.0
        width_by_w1, width_by_ratio = 2.0 * ratio - 1.0, 2.0
    else:
        step_at, step_width = e2 + 0.5 * gap * w1, w2
        step_by_w1, step_by_gap = 1.5 * gap, 1.5
        width_by_w1, width_by_ratio = ratio, 1.0
    for i in range(energy.size):
        e = energy[i]
        first = amplitudes[FIRST] * slopes[0, i]
        second = amplitudes[SECOND] * slopes[1, i]
        third = amplitudes[THIRD] * slopes[2, i] if three else 0.0
        step = amplitudes[STEP] * slopes[3, i] + amplitudes[RAMP] * slopes[4, i]
        x1 = (e - p[0]) / w1
        x2 = (e - e2) / w2
        x3 = (e - e3) / w3
        xs = (e - step_at) / step_width
        derivatives[0, i] = first + second + third + step
        derivatives[1, i] = (
            first * x1
            + second * (gap + x2 * ratio)
            + third * (gap + gap3 + x3 * (2.0 * ratio - 1.0))
            + step * (step_by_w1 + xs * width_by_w1)
        )
        derivatives[2, i] = w1 * (second + third + step * step_by_gap)
        derivatives[3, i] = w1 * (second * x2 + 2.0 * third * x3 + step * xs * width_by_ratio)
        if three:
            derivatives[4, i] = w1 * (third + 1.5 * step)


@njit(cache=True, nogil=True)
def _solve_amplitudes(columns_w, absorbance_w, prior_sd, amplitudes, residual):
    """Best amplitudes at fixed places, into ``amplitudes``; residuals, sum of squares, inverse.

    The sum includes the amplitudes' prior. ``columns_w`` and ``absorbance_w`` are over sigma.
    """
    size = columns_w.shape[0]
    gram = np.empty((size, size))
    moment = np.empty(size)
    for j in range(size):
        moment[j] = dot(columns_w[j], absorbance_w)
        for k in range(j + 1):
            gram[j, k] = gram[k, j] = dot(columns_w[j], columns_w[k])
        gram[j, j] += 1.0 / (prior_sd * prior_sd)
    inverse = cholesky_inverse(gram)
    cost = 0.0
    for j in range(size):
        value = 0.0
        for k in range(size):
            value += inverse[j, k] * moment[k]
        amplitudes[j] = value
        cost += (value / prior_sd) ** 2
    for i in range(absorbance_w.size):
        residual[i] = -absorbance_w[i]
    for j in range(size):
        for i in range(absorbance_w.size):
            residual[i] += columns_w[j, i] * amplitudes[j]
    return cost + dot(residual, residual), inverse


@njit(cache=True, nogil=True)
def _prior_cost(p, mean, precision):
    cost = 0.0
    for j in range(p.size):
        cost += precision[j] * (p[j] - mean[j]) ** 2
    return cost


@njit(cache=True, nogil=True)
def _evaluate(energy, absorbance_w, weight, p, prior, band, prior_sd, work, amplitudes, residual):
    """Cost at ``p`` with the best amplitudes; columns and slopes stay in ``work`` over sigma."""
    columns, slopes = work[:-SLOPES], work[-SLOPES:]
    fill_columns(energy, p, band[0], band[1], columns, slopes)
    for j in range(work.shape[0]):
        for i in range(energy.size):
            work[j, i] *= weight[i]
    cost, inverse = _solve_amplitudes(columns, absorbance_w, prior_sd, amplitudes, residual)
    return cost + _prior_cost(p, prior[0], prior[1]), inverse


@njit(cache=True, nogil=True)
def _information(columns_w, derivatives_w, precision, prior_sd):
    """Fisher information of (p..., amplitudes...), priors included."""
    free = precision.size
    size = free + columns_w.shape[0]
    lines = np.empty((size, columns_w.shape[1]))
    lines[:free] = derivatives_w
    lines[free:] = columns_w
    information = np.empty((size, size))
    for j in range(size):
        for k in range(j + 1):
            information[j, k] = information[k, j] = dot(lines[j], lines[k])
    for j in range(size):
        information[j, j] += precision[j] if j < free else prior_sd**-2
    return information


@njit(cache=True, nogil=True)
def _step_matrix(columns_w, derivatives_w, inverse, residual, p, mean, precision):
    """Normal matrix and gradient of the reduced problem.

    The columns are projected out of the derivatives D: D^T D - (C^T D)^T (C^T C)^-1 (C^T D).
    """
    free = p.size
    size = columns_w.shape[0]
    cross = np.empty((size, free))
    normal = np.empty((free, free))
    gradient = np.empty(free)
    for j in range(free):
        for c in range(size):
            cross[c, j] = dot(columns_w[c], derivatives_w[j])
    for j in range(free):
        gradient[j] = dot(derivatives_w[j], residual)
        for k in range(j + 1):
            value = dot(derivatives_w[j], derivatives_w[k])
            for c in range(size):
                for d in range(size):
                    value -= cross[c, j] * inverse[c, d] * cross[d, k]
            normal[j, k] = normal[k, j] = value
    for j in range(free):
        normal[j, j] += precision[j]
        gradient[j] += precision[j] * (p[j] - mean[j])
    return normal, gradient


@njit(cache=True, nogil=True)
def fit_peaks(energy, absorbance, sigma, start, lower, upper, prior, band_ev, band_sigma):
    """Least squares (Levenberg-Marquardt) of the model in the module's docstring.

    Parameters
    ----------
    energy, absorbance, sigma
        (n,) the window to fit, n > 13.
    start, lower, upper
        (4,) or (5,) first values and bounds of E1, w1 (eV), gap, ratio (and gap3).
    prior
        (2, 4) or (2, 5): means of the normal priors on them and 1 / variances (0 = none).
    band_ev, band_sigma
        Centre and standard deviation of the agglomerates' band; NaN = not in the model.

    Returns
    -------
    p
        (4,) or (5,), as ``start``.
    amplitudes
        (8,): constant, scatter at 3 eV, first, second, step, ramp, band, third.
    covariance
        Of p and amplitudes, in that order; NaN if it could not be inverted, 0 for what is not in
        the model.
    chi2
        Sum of squared residuals of the data, without the priors.
    cost
        The same with the priors: what is least.
    """
    n = energy.size
    free = start.size
    weight = 1.0 / sigma
    absorbance_w = absorbance * weight
    prior_sd = CONTINUUM_PRIOR_SD * max(np.max(np.abs(absorbance)), 1e-6)
    band = (band_ev, band_sigma)
    size = THIRD + 1 if free == THREE else BAND + 1 if math.isfinite(band_ev) else BAND
    p = np.minimum(np.maximum(start, lower), upper)
    work, trial_work = np.empty((size + SLOPES, n)), np.empty((size + SLOPES, n))
    residual, trial_residual = np.empty(n), np.empty(n)
    amplitudes, trial_amplitudes = np.zeros(COLUMNS), np.zeros(COLUMNS)
    derivatives = np.empty((free, n))
    cost, inverse = _evaluate(
        energy, absorbance_w, weight, p, prior, band, prior_sd, work, amplitudes, residual
    )
    damping = 1e-3
    for _ in range(MAX_ITERATIONS):
        fill_derivatives(energy, p, amplitudes, work[-SLOPES:], derivatives)
        normal, gradient = _step_matrix(
            work[:-SLOPES], derivatives, inverse, residual, p, prior[0], prior[1]
        )
        for j in range(free):
            # At a bound that the descent would cross, the parameter rests, and the others move
            # as if it were fixed: a clipped joint step would zigzag.
            if (p[j] <= lower[j] and gradient[j] > 0.0) or (p[j] >= upper[j] and gradient[j] < 0.0):
                normal[j, :] = 0.0
                normal[:, j] = 0.0
                normal[j, j] = 1.0
                gradient[j] = 0.0
        improved = False
        gain = 0.0
        for _ in range(8):
            damped = normal.copy()
            for j in range(free):
                damped[j, j] += damping * normal[j, j] + 1e-12
            solved = cholesky_inverse(damped)
            trial = p.copy()
            for j in range(free):
                for k in range(free):
                    trial[j] -= solved[j, k] * gradient[k]
            trial = np.minimum(np.maximum(trial, lower), upper)
            trial_cost, trial_inverse = _evaluate(
                energy,
                absorbance_w,
                weight,
                trial,
                prior,
                band,
                prior_sd,
                trial_work,
                trial_amplitudes,
                trial_residual,
            )
            if trial_cost < cost:
                gain = cost - trial_cost
                improved = True
                break
            damping *= 5.0
        if not improved:
            break
        p, cost, inverse = trial, trial_cost, trial_inverse
        work, trial_work = trial_work, work
        residual, trial_residual = trial_residual, residual
        amplitudes, trial_amplitudes = trial_amplitudes, amplitudes
        damping = max(damping * 0.1, 1e-9)
        if gain < CONVERGED + CONVERGED_SHARE * cost:
            break
    fill_derivatives(energy, p, amplitudes, work[-SLOPES:], derivatives)
    covariance = np.zeros((free + COLUMNS, free + COLUMNS))
    covariance[: free + size, : free + size] = cholesky_inverse(
        _information(work[:-SLOPES], derivatives, prior[1], prior_sd)
    )
    return p, amplitudes, covariance, dot(residual, residual), cost
