"""The agglomerates' band: a Gaussian of roughly known place and width on a local continuum.

The continuum within 2.5 standard deviations on either side is a cubic; place and width have normal
priors, because a width that is held wrong is made up for by the cubic: 300 meV for 350 lose 28 % of
the height. Transitions of small crystals that pass under the band are no cubic. Where the fit with
free place and width does not describe the data, they are held, and half of what freedom changes
goes into the error.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.exciton import cholesky_inverse

REACH = 2.5
# Four of the cubic, height, place, width.
NUMBERS = 7
# Gauss-Newton steps; the fourth moves the height by less than 1e-4 of itself.
STEPS = 6
# Place and width stay within this many standard deviations of their priors.
FARTHEST = 2.0
# A reduced chi-square up to this describes the data: with 40 degrees of freedom noise alone is
# beyond in one spectrum of 1e4.
DESCRIBES = 2.0
# Standard error of what is held, over that of what is free.
HELD = 1e-3


@njit(cache=True, nogil=True)
def _fit_shape(energy, absorbance, sigma, known, prior):
    """Gauss-Newton from the priors' means; results as those of `fit_band`, and the scale."""
    nothing = (np.nan, np.nan, np.nan, np.nan, np.nan)
    reach = REACH * prior[2]
    first = np.searchsorted(energy, prior[0] - reach)
    stop = np.searchsorted(energy, prior[0] + reach)
    if not stop - first >= 10:
        return nothing
    if energy[first] > prior[0] - 0.6 * reach or energy[stop - 1] < prior[0] + 0.6 * reach:
        return nothing
    place, width, height, scale = prior[0], prior[2], 0.0, 1.0
    inverse = np.empty((NUMBERS, NUMBERS))
    row, solution = np.empty(NUMBERS), np.zeros(NUMBERS)
    for turn in range(2 * STEPS):
        normal, right = np.zeros((NUMBERS, NUMBERS)), np.zeros(NUMBERS)
        square = 0.0
        for i in range(first, stop):
            x = (energy[i] - prior[0]) / reach
            z = (energy[i] - place) / width
            row[0], row[1], row[2], row[3] = 1.0, x, x * x, x * x * x
            row[4] = math.exp(-0.5 * z * z)
            row[5] = height * row[4] * z / width
            row[6] = row[5] * z
            w = 1.0 / (sigma[i] * sigma[i])
            square += w * absorbance[i] * absorbance[i]
            for j in range(NUMBERS):
                right[j] += w * row[j] * absorbance[i]
                for k in range(j + 1):
                    normal[j, k] += w * row[j] * row[k]
        data = normal.copy()
        moment = right.copy()
        for j, now, mean, error in ((5, place, prior[0], prior[1]), (6, width, prior[2], prior[3])):
            # Misfit counts as noise, so that the priors keep their weight against it.
            normal[j, j] += scale / error**2
            right[j] += scale * (mean - now) / error**2
        inverse = cholesky_inverse(normal)
        chi2 = square
        for j in range(NUMBERS):
            solution[j] = 0.0
            for k in range(NUMBERS):
                solution[j] += inverse[j, k] * right[k]
        for j in range(NUMBERS):
            chi2 -= 2.0 * solution[j] * moment[j]
            for k in range(NUMBERS):
                chi2 += solution[j] * data[max(j, k), min(j, k)] * solution[k]
        height = solution[4]
        place = min(
            max(place + solution[5], prior[0] - FARTHEST * prior[1]), prior[0] + FARTHEST * prior[1]
        )
        width = min(
            max(width + solution[6], prior[2] - FARTHEST * prior[3]), prior[2] + FARTHEST * prior[3]
        )
        if turn >= STEPS - 1:
            scale = max(chi2 / (stop - first - NUMBERS), 1.0 if known else 1e-12)
    return height, math.sqrt(scale * inverse[4, 4]), place, width, scale


@njit(cache=True, nogil=True)
def fit_band(energy, absorbance, sigma, known, prior):
    """Height, place and width of the band.

    Parameters
    ----------
    energy, absorbance, sigma
        (n,), as from `pipeline.kernels.exciton.bin_spectrum`.
    known
        Whether sigma is known; otherwise it is scaled to the scatter of the fit.
    prior
        Place and its standard error, standard deviation of the Gaussian and its standard error,
        eV. A place of NaN = no band is sought.

    Returns
    -------
    height, error, place, width
        In absorbance and eV, misfit in the error; NaN where there are not 10 points, or the window
        is not covered on both sides.
    """
    height, error, place, width, scale = _fit_shape(energy, absorbance, sigma, known, prior)
    if not scale > DESCRIBES:
        return height, error, place, width
    fixed = (prior[0], HELD * prior[1], prior[2], HELD * prior[3])
    held, held_error, place, width, _ = _fit_shape(energy, absorbance, sigma, known, fixed)
    return held, math.hypot(held_error, 0.5 * (height - held)), place, width
