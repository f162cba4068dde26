"""Transitions above the first exciton, where they resolve.

All functions take binned spectra (`pipeline.kernels.exciton.bin_spectrum`) of ascending energy.
Energies and widths in eV; a width w is a standard deviation, fwhm = 2.3548 w.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.exciton import FWHM_PER_SIGMA, curvature
from pipeline.kernels.exciton_model import SECOND, THIRD, THREE, TWO
from pipeline.kernels.exciton_search import (
    HALF_WINDOW_FWHM,
    LOWEST_SHARE,
    RATIO_MAX,
    RATIO_MIN,
    RATIO_PRIOR,
    RATIO_PRIOR_SD,
    covers,
    fit_following,
)

# Narrow peaks far apart: the second transition of 2.9 nm CsPbBr3 is 20 standard deviations above
# an 85 meV first one.
GAP_FARTHEST = 30.0
# Higher transitions are sought from here on, in standard deviations of the first: two equal
# Gaussians closer than 2 have one maximum.
CLOSEST = 2.0
# The curvature of a Gaussian rises to +0.45 of its depth; above a step it goes back to zero, and a
# continuum that grows with E^2 adds less than 0.02. This share tells them, at so many errors.
RECOVERY, RECOVERY_SIGMA = 0.1, 3.0
# Minima of curvature within this many of the band's standard deviations are the band's.
BAND_REACH = 1.5


@njit(cache=True, nogil=True)
def _recovers(second, error, minimum):
    """Whether the curvature becomes positive above a minimum, before it falls below it again."""
    for i in range(minimum + 1, second.size):
        if second[i] > max(-RECOVERY * second[minimum], RECOVERY_SIGMA * error[i]):
            return True
        if second[i] < second[minimum]:
            return False
    return False


@njit(cache=True, nogil=True)
def minima_above(energy, absorbance, sigma, p, height, presence, band):
    """Energies of the first two minima of curvature above the lowest peak, NaN for none (2,).

    A minimum counts if it is ``presence`` errors below zero, stands for a peak of more than
    `LOWEST_SHARE` of the first one, is not the agglomerates' band and is followed by positive
    curvature, as a peak's is and the shoulder of a step is not.
    """
    places = np.full(2, np.nan)
    fwhm = FWHM_PER_SIGMA * p[1]
    low = p[0] + CLOSEST * p[1]
    if not low < energy[-1]:
        return places
    centres = np.arange(low, energy[-1], fwhm / 8.0)
    second, error = curvature(energy, absorbance, sigma, centres, HALF_WINDOW_FWHM * fwhm)
    kept = 0
    for i in range(1, centres.size - 1):
        if (
            kept < 2
            and second[i] < -presence * error[i]
            and second[i] <= second[i - 1]
            and second[i] < second[i + 1]
            and -second[i] * p[1] ** 2 > LOWEST_SHARE * height
            and not abs(centres[i] - band[0]) < BAND_REACH * band[1]
            and _recovers(second, error, i)
        ):
            places[kept] = centres[i]
            kept += 1
    return places


@njit(cache=True, nogil=True)
def _place_variance(covariance, p, third):
    """Variance of E1 + gap w1, or of E1 + (gap + gap3) w1."""
    slope = np.zeros(p.size)
    slope[0], slope[1], slope[2] = 1.0, p[2], p[1]
    if third:
        slope[1] += p[4]
        slope[4] = p[1]
    variance = 0.0
    for j in range(p.size):
        for k in range(p.size):
            variance += slope[j] * covariance[j, k] * slope[k]
    return variance


@njit(cache=True, nogil=True)
def higher_transitions(energy, absorbance, sigma, known, p, height, scale, presence, band):
    """Energies of the second and third transition with their errors, NaN unless resolved.

    Resolved means that all of this is so:

    - the second derivative has a minimum there of its own (`minima_above`; errors by misfit of
      the first fit too), and the third only above a resolved second;
    - a fit from there (`exciton_model`, without priors on the gaps) has a positive amplitude of
      ``presence`` standard errors, a tenth of the first one's at least;
    - its energy has an error below half a width of the first, is within a width of the minimum,
      and the spectrum has points on both sides of it.

    Parameters
    ----------
    energy, absorbance, sigma, known
        As those of `fit_following`.
    p, height, scale
        Parameters (4,), first amplitude and reduced chi-square of the lowest peak's fit.
    presence
        See above.
    band
        Centre and standard deviation of the agglomerates' band; NaN = none.

    Returns
    -------
    energy, error
        (2,) each, eV.
    """
    found, errors = np.full(2, np.nan), np.full(2, np.nan)
    noise = sigma * math.sqrt(max(1.0, scale) if known else scale)
    places = minima_above(energy, absorbance, noise, p, height, presence, band)
    start = np.array([p[0], p[1], 0.0, min(max(p[3], RATIO_MIN), RATIO_MAX), 0.0])
    lower = np.array([p[0] - p[1], 0.5 * p[1], CLOSEST, RATIO_MIN, CLOSEST])
    upper = np.array([p[0] + p[1], 1.5 * p[1], GAP_FARTHEST, RATIO_MAX, GAP_FARTHEST])
    prior = np.zeros((2, THREE))
    prior[0, 3], prior[1, 3] = RATIO_PRIOR, RATIO_PRIOR_SD**-2
    for k in range(2):
        if not math.isfinite(places[k]):
            break
        start[2 if k == 0 else 4] = (places[k] - (p[0] if k == 0 else places[0])) / p[1]
        free = TWO + k
        good, q, a, c, _, _ = fit_following(
            energy,
            absorbance,
            sigma,
            known,
            start[:free],
            lower[:free],
            upper[:free],
            prior[:, :free].copy(),
            0.0,
            band,
        )
        if not good:
            break
        column = SECOND if k == 0 else THIRD
        place = q[0] + (q[2] + (q[4] if k == 1 else 0.0)) * q[1]
        variance = _place_variance(c, q, k == 1)
        amplitude, amplitude_variance = a[column], c[free + column, free + column]
        if not (
            amplitude > LOWEST_SHARE * height
            and amplitude > presence * math.sqrt(max(amplitude_variance, 0.0))
            and 0.0 < variance < (0.5 * p[1]) ** 2
            and abs(place - places[k]) < p[1] * q[3]
            and covers(energy, place, FWHM_PER_SIGMA * p[1])
        ):
            break
        found[k], errors[k] = place, math.sqrt(variance)
    return found, errors
