"""Where the lowest peaks of an absorbance spectrum are: from the second derivative to the fit.

All functions take binned spectra (`pipeline.kernels.exciton.bin_spectrum`) of ascending energy.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.exciton import FWHM_PER_SIGMA, curvature
from pipeline.kernels.exciton_model import (
    COLUMNS,
    FIRST,
    SECOND,
    THREE,
    TWO,
    fit_peaks,
)

# Bounds of gap and ratio, and the normal priors on them. The two-band model gives gaps of 3 to 5
# for 3.8 to 8 nm CsPbBr3 and the priors' widths span that; closer than 2.4 the two Gaussians
# trade their amplitudes freely and the first one slides down the flank of the peak.
GAP_MIN, GAP_MAX, GAP_PRIOR, GAP_PRIOR_SD = 2.4, 8.0, 3.6, 1.5
RATIO_MIN, RATIO_MAX, RATIO_PRIOR, RATIO_PRIOR_SD = 1.0, 2.5, 1.5, 0.5
# Window, start and error scale follow the fit until they settle, or this often.
PASSES = 6
# An error scale that changes by less than this needs no further pass.
SCALE_SETTLED = 0.02
# Curvature this many errors below zero is a candidate. Nothing is lost by being generous: the
# fitted amplitude decides.
CURVATURE_SIGMA = 3.0
# Where the second transition is first sought, in standard deviations of the first.
GAP_NEAR, GAP_FAR = 3.0, 4.5
# Places that are tried, from the lowest energy up.
MAX_STARTS = 3
# Minima of curvature that are kept of each scale, from the lowest energy up.
MINIMA_PER_SCALE = 2
# A minimum of curvature that stands for less than this share of the tallest peak's height is a
# ripple of the baseline (interference in the cell, a lamp line), not the first exciton.
LOWEST_SHARE = 0.1
# A window for higher transitions ends this many standard deviations above the highest of them:
# as 2.2 fwhm of the first do above the second by the prior.
EDGE_ABOVE = 1.05
# Half a window of the second derivative, in fwhm of the feature that is sought.
HALF_WINDOW_FWHM = 0.6
# Variance that the local cubic's second derivative adds to a peak, in half windows squared: twice
# its response to x^4 / 24 over that to x^2 / 2, (2/24) (3/7 - 1/5) / (3/5 - 1/3) = 1/14.
SMOOTHING = 1.0 / 7.0
MARGIN = 1e-6
# Fits whose reduced chi-squares are within this factor describe their windows equally well: with
# forty degrees of freedom noise alone makes a fifth of difference, and windows differ.
AS_WELL = 1.5


@njit(cache=True, nogil=True)
def _width_below(centres, second, minimum, half_window):
    """Standard deviation of the peak at a minimum of curvature, by its flank of lower energy.

    A Gaussian's curvature changes sign one standard deviation from its centre, and below the
    lowest peak there is no other that would move it.
    """
    i = minimum
    while i > 0 and second[i] < 0.0:
        i -= 1
    if second[i] >= 0.0:
        part = second[i] / (second[i] - second[i + 1])
        reach = centres[minimum] - (centres[i] + part * (centres[i + 1] - centres[i]))
    else:
        reach = centres[minimum] - centres[i]
    return math.sqrt(max(reach**2 - SMOOTHING * half_window**2, 0.1 * reach**2))


@njit(cache=True, nogil=True)
def find_starts(energy, absorbance, sigma, scales_ev, low_ev, high_ev):
    """Significant minima of curvature, grouped by place, places from the lowest energy up.

    Minima of several smoothing lengths within half a width of each other are one place: which
    length suits a peak is not known before the fit.

    Parameters
    ----------
    energy, absorbance, sigma
        (n,), as from `bin_spectrum`.
    scales_ev
        (k,) full widths at half maximum that are tried.
    low_ev, high_ev
        Where the peak is sought.

    Returns
    -------
    starts
        (m, 3): energy and fwhm in eV, and the number of the place.
    """
    # Centre, fwhm, height: a Gaussian of height h and standard deviation w has a curvature of
    # -h / w^2.
    found = np.empty((MINIMA_PER_SCALE * scales_ev.size, 3))
    count = 0
    for fwhm in scales_ev:
        centres = np.arange(low_ev, high_ev, fwhm / 8.0)
        second, error = curvature(energy, absorbance, sigma, centres, HALF_WINDOW_FWHM * fwhm)
        kept = 0
        for i in range(1, centres.size - 1):
            if (
                kept < MINIMA_PER_SCALE
                and second[i] < -CURVATURE_SIGMA * error[i]
                and second[i] <= second[i - 1]
                and second[i] < second[i + 1]
            ):
                width = _width_below(centres, second, i, HALF_WINDOW_FWHM * fwhm)
                found[count, 0] = centres[i]
                found[count, 1] = FWHM_PER_SIGMA * width
                found[count, 2] = -second[i] * (fwhm / FWHM_PER_SIGMA) ** 2
                count += 1
                kept += 1
    order = np.argsort(-found[:count, 2], kind="mergesort")
    leaders = np.empty((count, 2))
    place = np.full(count, -1)
    places = 0
    for i in order:
        for j in range(places):
            reach = 0.5 * max(found[i, 1], leaders[j, 1])
            if place[i] < 0 and abs(found[i, 0] - leaders[j, 0]) <= reach:
                place[i] = j
        if place[i] < 0 and found[i, 2] > LOWEST_SHARE * found[order[0], 2]:
            leaders[places] = found[i, :2]
            place[i] = places
            places += 1
    starts = np.empty((count, 3))
    total = 0
    for rank, j in enumerate(np.argsort(leaders[:places, 0], kind="mergesort")[:MAX_STARTS]):
        for i in order:
            if place[i] == j:
                starts[total, 0], starts[total, 1], starts[total, 2] = (
                    found[i, 0],
                    found[i, 1],
                    rank,
                )
                total += 1
    return starts[:total]


@njit(cache=True, nogil=True)
def fit_following(energy, absorbance, sigma, known, start, lower, upper, prior, window_fwhm, band):
    """Fit in a window that follows the peaks.

    Parameters
    ----------
    energy, absorbance, sigma
        (n,), as from `bin_spectrum`.
    known
        Whether sigma is known; otherwise it is scaled to the scatter of the fit.
    start, lower, upper, prior
        (4,) or (5,) first values and bounds, and the priors, see `fit_peaks`.
    window_fwhm
        What is fitted ends this many full widths above the first peak; 0 = `EDGE_ABOVE` standard
        deviations of the highest transition above that.
    band
        Centre and standard deviation of the agglomerates' band; NaN = none.

    Returns
    -------
    found
        False where the window holds too few points, a number ended at a bound, the covariance is
        not finite or the first amplitude is not positive.
    p, amplitudes, covariance
        See `fit_peaks`; misfit is in the covariance.
    scale
        Reduced chi-square by the sigma that came in.
    stop
        Points in the window.
    """
    p = start.copy()
    free = p.size
    amplitudes = np.full(COLUMNS, np.nan)
    covariance = np.full((free + COLUMNS, free + COLUMNS), np.nan)
    scale = inflation = 1.0
    last_stop = 0
    for _ in range(PASSES):
        if window_fwhm > 0.0:
            edge = p[0] + window_fwhm * FWHM_PER_SIGMA * p[1]
        elif free == THREE:
            edge = p[0] + (p[2] + p[4] + EDGE_ABOVE * (2.0 * p[3] - 1.0)) * p[1]
        else:
            edge = p[0] + (p[2] + EDGE_ABOVE * p[3]) * p[1]
        stop = np.searchsorted(energy, edge)
        reached = edge > band[0] - 3.0 * band[1]
        freedom = stop - free - COLUMNS + (0 if free == THREE else 1) + (0 if reached else 1)
        if freedom < 1:
            return False, p, amplitudes, covariance, scale, stop
        p, amplitudes, covariance, chi2, cost = fit_peaks(
            energy[:stop],
            absorbance[:stop],
            sigma[:stop] * inflation,
            p,
            lower,
            upper,
            prior,
            band[0] if reached else np.nan,
            band[1],
        )
        if not math.isfinite(cost):
            return False, p, amplitudes, covariance, scale, stop
        scale = chi2 * inflation**2 / freedom
        # Misfit counts as noise, so that the weak priors keep their weight against it.
        wanted = math.sqrt(max(1.0, scale) if known else max(scale, 1e-12))
        if stop == last_stop and abs(wanted / inflation - 1.0) < SCALE_SETTLED:
            break
        last_stop = stop
        inflation = wanted
    inside = amplitudes[FIRST] > 0.0
    for j in range(2):
        inside = inside and lower[j] + MARGIN < p[j] < upper[j] - MARGIN
    for j in range(free + SECOND):
        inside = inside and covariance[j, j] > 0.0
    return inside, p, amplitudes, covariance, scale, last_stop


@njit(cache=True, nogil=True)
def covers(energy, centre_ev, fwhm_ev):
    """Whether there are two points and more within half a width on either side."""
    left = right = 0
    for e in energy:
        if centre_ev - 0.5 * fwhm_ev <= e <= centre_ev:
            left += 1
        if centre_ev <= e <= centre_ev + 0.5 * fwhm_ev:
            right += 1
    return left >= 2 and right >= 2


@njit(cache=True, nogil=True)
def lowest_peak(
    energy,
    absorbance,
    sigma,
    known,
    scales_ev,
    energy_range,
    fwhm_range,
    window_fwhm,
    presence,
    band,
):
    """The first place from below whose peak is there.

    Of the fits from the starts of one place, those that describe their window as well as any
    (reduced chi-square within `AS_WELL` of the least) are good, and of these the one with the
    widest window is best: it explains the most.

    Returns
    -------
    found, p, amplitudes, covariance, scale, stop
        As those of `fit_following`.
    """
    low, high = energy_range
    lower = np.array([low, fwhm_range[0] / FWHM_PER_SIGMA, GAP_MIN, RATIO_MIN])
    upper = np.array([high, fwhm_range[1] / FWHM_PER_SIGMA, GAP_MAX, RATIO_MAX])
    prior = np.array(
        [[0.0, 0.0, GAP_PRIOR, RATIO_PRIOR], [0.0, 0.0, GAP_PRIOR_SD**-2, RATIO_PRIOR_SD**-2]]
    )
    starts = find_starts(energy, absorbance, sigma, scales_ev, low, high)
    size = TWO + COLUMNS
    p, amplitudes = np.full(TWO, np.nan), np.full(COLUMNS, np.nan)
    covariance = np.full((size, size), np.nan)
    scale, stop = np.nan, 0
    for place in range(MAX_STARTS):
        found = False
        # Every width at this place with the second transition near, then far from the best of
        # them: the fit has a minimum with it near and one with it far.
        for k in range(starts.shape[0] + 1):
            if k < starts.shape[0]:
                if starts[k, 2] != place:
                    continue
                first = np.array(
                    [starts[k, 0], starts[k, 1] / FWHM_PER_SIGMA, GAP_NEAR, RATIO_PRIOR]
                )
            elif found:
                first = np.array([p[0], p[1], GAP_FAR, RATIO_PRIOR])
            else:
                continue
            good, q, a, c, q_scale, q_stop = fit_following(
                energy, absorbance, sigma, known, first, lower, upper, prior, window_fwhm, band
            )
            if not (
                good
                and a[FIRST] > presence * math.sqrt(c[TWO + FIRST, TWO + FIRST])
                and covers(energy, q[0], FWHM_PER_SIGMA * q[1])
            ):
                continue
            better = q_scale * AS_WELL < scale
            as_good = q_scale < scale * AS_WELL
            if not found or better or (as_good and q_stop > stop):
                found = True
                p, amplitudes, covariance, scale, stop = q, a, c, q_scale, q_stop
        if found:
            return True, p, amplitudes, covariance, scale, stop
    return False, p, amplitudes, covariance, scale, stop
