"""Standard errors of a fit of populations, and of what follows from it.

The parameters of a fit stand in one line: amplitudes in the order of the columns, then mean and
standard deviation of the sizes (nm) of agglomerates and of crystals.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels.amplitudes import invert_subset
from pipeline.kernels.averages import mean_of
from pipeline.kernels.variable_projection import fill_fixed, fill_population


class Derived(NamedTuple):
    """Values and standard errors of what a fit means; amounts are per nm^3 or shares of volume."""

    values: np.ndarray
    """(2, 2) number density and volume fraction of agglomerates and crystals."""
    errors: np.ndarray
    """Likewise."""
    solute: float
    """Volume fraction of both."""
    solute_err: float


@njit(cache=True, nogil=True)
def fill_information(problem, amplitudes, at, weight, information):
    """Fisher information of all parameters (m + 6, m + 6), expectations included."""
    fixed = problem.fixed.shape[0]
    size = fixed + 2
    width = size + 4
    gram, moment = np.zeros((width, width)), np.zeros(width)
    rows, weights = np.zeros((2, 3, weight.size)), np.empty((3, problem.nodes.size))
    fixed_w = problem.fixed * weight
    nothing = np.zeros(weight.size)
    fill_fixed(nothing, fixed_w, gram, moment)
    turn = np.eye(width)
    for p in range(2):
        if amplitudes[fixed + p] == 0.0:
            continue
        fill_population(problem, p, at[p], nothing, weight, fixed_w, rows, weights, gram, moment)
        # From (D, s/D) to (D, s), and from a curve of one particle to that of all.
        first, mean, relative = size + 2 * p, at[p, 0], at[p, 1]
        amplitude = amplitudes[fixed + p]
        turn[first, first] = amplitude
        turn[first, first + 1] = -amplitude * relative / mean
        turn[first + 1, first + 1] = amplitude / mean
    for i in range(width):
        for j in range(i + 1):
            value = 0.0
            for k in range(width):
                if turn[i, k] != 0.0:
                    for n in range(width):
                        if turn[j, n] != 0.0:
                            value += turn[i, k] * gram[k, n] * turn[j, n]
            information[i, j] = information[j, i] = value
    for p in range(2):
        if amplitudes[fixed + p] != 0.0:
            for c in range(2):
                place = size + 2 * p + c
                information[place, place] += problem.prior_weight[p, c] ** 2


@njit(cache=True, nogil=True)
def fill_covariance(problem, amplitudes, at, weight, covariance):
    """Covariance of all parameters (m + 6, m + 6): 0 where one is held or absent.

    Returns
    -------
    bool
        False if the parameters cannot be told apart; all is NaN then.
    """
    fixed = problem.fixed.shape[0]
    size = fixed + 2
    width = size + 4
    information = np.empty((width, width))
    fill_information(problem, amplitudes, at, weight, information)
    members, count = np.empty(width, np.int64), 0
    for j in range(size):
        if amplitudes[j] != 0.0:
            members[count] = j
            count += 1
    for p in range(2):
        for c in range(2):
            free = problem.lower[p, c] < problem.upper[p, c]
            if amplitudes[fixed + p] != 0.0 and free:
                members[count] = size + 2 * p + c
                count += 1
    if not invert_subset(information, members, count, covariance):
        covariance[:] = np.nan
        return False
    return True


@njit(cache=True, nogil=True)
def _spread(gradient, covariance):
    """Standard error of a linear function of the parameters."""
    total = 0.0
    for i in range(gradient.size):
        if gradient[i] != 0.0:
            for j in range(gradient.size):
                if gradient[j] != 0.0:
                    total += gradient[i] * covariance[i, j] * gradient[j]
    return np.sqrt(max(total, 0.0)) if np.isfinite(total) else np.nan


@njit(cache=True, nogil=True)
def derive(problem, volumes, per_particle, amplitudes, at, covariance):
    """Numbers and volumes with their errors from the full covariance.

    Parameters
    ----------
    problem
        See `Problem`.
    volumes
        Volume of a particle at each size of the tables (2, k), nm^3.
    per_particle
        Intensity of one particle per nm^3 over its |F|^2, in the curve's units.
    amplitudes, at, covariance
        Of the fit.
    """
    fixed = problem.fixed.shape[0]
    size = fixed + 2
    values, errors = np.full((2, 2), np.nan), np.full((2, 2), np.nan)
    both = np.zeros(covariance.shape[0])
    weights = np.empty((3, problem.nodes.size))
    solute = 0.0
    for p in range(2):
        amplitude, mean, relative = amplitudes[fixed + p], at[p, 0], at[p, 1]
        if amplitude == 0.0:
            continue
        volume, by_mean, by_relative = mean_of(
            problem.kinds[p], problem.nodes, problem.steps, problem.q_max, volumes[p],
            mean, relative, weights,
        )  # fmt: skip
        number = amplitude / per_particle
        gradient = np.zeros(covariance.shape[0])
        gradient[fixed + p] = 1.0 / per_particle
        values[p, 0], errors[p, 0] = number, _spread(gradient, covariance)
        gradient[fixed + p] = volume / per_particle
        gradient[size + 2 * p] = number * (by_mean - relative / mean * by_relative)
        gradient[size + 2 * p + 1] = number * by_relative / mean
        values[p, 1], errors[p, 1] = number * volume, _spread(gradient, covariance)
        solute += number * volume
        both += gradient
    if solute == 0.0:
        return Derived(values, errors, np.nan, np.nan)
    return Derived(values, errors, solute, _spread(both, covariance))


@njit(cache=True, nogil=True)
def strongest_correlation(covariance):
    """Correlation of greatest size and the two parameters that it is between; (0, 0, 0) if none."""
    best, first, second = 0.0, 0, 0
    for i in range(covariance.shape[0]):
        for j in range(i):
            norm = covariance[i, i] * covariance[j, j]
            if norm > 0.0:
                value = covariance[i, j] / np.sqrt(norm)
                if abs(value) > abs(best):
                    best, first, second = value, j, i
    return best, first, second
