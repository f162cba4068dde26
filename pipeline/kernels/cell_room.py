"""Neighbours and volume of a cell with their errors, and its room for cores."""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def nearest_neighbour(cell, covariance, steps, free):
    """Distance of nearest neighbours and its standard error; arguments as those of ``weigh``."""
    least, chosen = np.inf, 0
    for m in range(steps.shape[0]):
        square = 0.0
        for j in range(free):
            square += steps[m, j] / cell[j]
        if square < least:
            least, chosen = square, m
    distance = math.sqrt(least)
    variance = 0.0
    for j in range(free):
        for k in range(free):
            variance += (
                steps[chosen, j] / cell[j] ** 2 * steps[chosen, k] / cell[k] ** 2 * covariance[j, k]
            )
    return distance, 0.5 * math.sqrt(max(variance, 0.0)) / distance


@njit(cache=True, nogil=True)
def volume_per_particle(cell, covariance, unit_volume, free):
    """Volume per particle and its relative standard error."""
    product, variance = 1.0, 0.0
    for j in range(free):
        edges = (3, 2, 1)[free - 1] if j == 0 else 1
        product *= cell[j] ** edges
        for k in range(free):
            others = (3, 2, 1)[free - 1] if k == 0 else 1
            variance += edges * others * covariance[j, k] / (cell[j] * cell[k])
    return unit_volume / math.sqrt(product), 0.5 * math.sqrt(max(variance, 0.0))


@njit(cache=True, nogil=True)
def _below(value, limit, error):
    """Probability that a value with a normal error is below a limit."""
    return 0.5 * math.erfc((value - limit) / (error * math.sqrt(2.0)))


@njit(cache=True, nogil=True)
def room_for(cell, covariance, steps, unit_volume, free, core):
    """Weight of a cell before its lines are seen: less than 1 where cores do not fit or hold.

    ``core`` is (nearest, furthest distance, error of both, cube of the diameter, its relative
    error, densest packing, weight of the impossible); nothing is asked where nearest is not
    positive.
    """
    nearest, furthest, error, cube, cube_error, densest, least = core
    if not nearest > 0.0:
        return 1.0
    distance, distance_error = nearest_neighbour(cell, covariance, steps, free)
    wide = math.hypot(distance_error, error)
    fits = _below(distance, furthest, wide)
    # Sheets of a stack may be nearer to each other than particles.
    if unit_volume > 0.0:
        fits = min(fits, _below(nearest, distance, wide))
        volume, volume_error = volume_per_particle(cell, covariance, unit_volume, free)
        packing = math.pi / 6.0 * cube / volume
        off = packing * math.hypot(volume_error, cube_error)
        fits = min(fits, _below(packing, densest, off))
    return least + (1.0 - least) * fits
