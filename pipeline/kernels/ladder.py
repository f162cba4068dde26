"""Ladders of sizes: density of sizes, its modes, their comb, and steps from level to level.

A ladder is told from smooth growth by two things that have nothing to do with each other. Smooth
growth, at whatever rate, passes all sizes alike and leaves a density without deep valleys; and
where it pauses, the pauses lie anywhere, not at multiples of one unit cell.
"""

import math

import numpy as np
from numba import njit

# A Gaussian is cut here: 4e-6 of its height.
REACH = 5.0


@njit(cache=True, nogil=True)
def add_kernel(density, origin, step, place, width):
    """Add a Gaussian of area 1 to a density on an even axis, in place.

    Parameters
    ----------
    density
        (n,), per unit of the axis.
    origin, step
        Of the axis.
    place, width
        Centre and standard deviation, in its unit.
    """
    low = max(0, math.ceil((place - REACH * width - origin) / step))
    high = min(density.size - 1, math.floor((place + REACH * width - origin) / step))
    height = 1.0 / (width * math.sqrt(2.0 * math.pi))
    for i in range(low, high + 1):
        z = (origin + i * step - place) / width
        density[i] += height * math.exp(-0.5 * z * z)


# A valley counts when it is so many standard deviations of counting noise below the lower mode. A
# handful of spectra with nothing between reaches it, a random gap in a row of sizes seldom does.
VALLEY_SIGMA = 2.0


@njit(cache=True, nogil=True)
def _parted(peak, valley, share, width):
    """Whether a valley is deep enough, and not by chance.

    A kernel density of x per unit has the counting noise of 2 sqrt(pi) width x values.
    """
    values = 2.0 * math.sqrt(math.pi) * width
    fall = values * (peak - valley)
    return valley <= share * peak and fall >= VALLEY_SIGMA * math.sqrt(values * (peak + valley))


@njit(cache=True, nogil=True)
def find_modes(density, origin, step, width, least, valley):
    """Maxima of a kernel density that stand for enough values and are parted by deep valleys.

    Near a mode the density is a Gaussian that is as wide as the kernel and the scatter of the
    values together, so height and curvature give their number and their scatter.

    Parameters
    ----------
    density, origin, step, width
        As `add_kernel` left it, each value with area 1.
    least
        Number of values from which a maximum counts.
    valley
        Between two modes the density falls below this share of the lower one (and by more than
        counting noise).

    Returns
    -------
    modes
        (k, 3) by rising place: place, standard error of the mean of its values, their number.
    """
    kept = np.empty(density.size, np.int64)
    k = 0
    lowest = 0.0
    for i in range(1, density.size - 1):
        lowest = min(lowest, density[i])
        if not (density[i] > density[i - 1] and density[i] >= density[i + 1]):
            continue
        # Values that scatter add up to more; those of one place to no less than this.
        if density[i] * width * math.sqrt(2.0 * math.pi) < least:
            continue
        if k > 0 and not _parted(min(density[i], density[kept[k - 1]]), lowest, valley, width):
            # One mode with the one before: the higher stands for both.
            if density[i] > density[kept[k - 1]]:
                kept[k - 1] = i
                lowest = density[i]
            continue
        kept[k] = i
        k += 1
        lowest = density[i]
    modes = np.empty((k, 3))
    for m in range(k):
        i = kept[m]
        bent = density[i - 1] - 2.0 * density[i] + density[i + 1]
        modes[m, 0] = origin + step * (i + 0.5 * (density[i - 1] - density[i + 1]) / bent)
        variance = density[i] * step * step / -bent
        number = density[i] * math.sqrt(2.0 * math.pi * variance)
        modes[m, 1] = math.sqrt(max(variance - width * width, 0.0) / number)
        modes[m, 2] = number
    return modes


@njit(cache=True, nogil=True)
def ball_volume(radius, dimensions):
    """Volume of a ball: pi^(n/2) r^n / Gamma(n/2 + 1)."""
    n = float(dimensions)
    return math.pi ** (0.5 * n) * radius**n / math.gamma(0.5 * n + 1.0)


@njit(cache=True, nogil=True)
def fit_comb(sizes, lowest, highest):
    """Unit cell of which all sizes are whole multiples, and the chance of such a fit.

    With a the cell, r_k = d_k / a - n_k are the sizes' distances from the whole numbers n_k, and
    rho^2 = sum r_k^2 is least for some a in the range. For unrelated sizes each d_k / a modulo 1
    is uniform and independent. As a runs through its range they draw a line of length
    L = |d| (1/lowest - 1/highest) in the unit cube, and rho is how near the line comes to the
    cube's corner. The chance is therefore at most the volume of a tube of radius rho about the
    line, V_K(rho) + L V_(K-1)(rho), V the volume of a ball (Weyl, Am. J. Math. 1939, 61, 461; an
    upper bound where the tube meets itself).

    Parameters
    ----------
    sizes
        (k,), k >= 3, in any unit.
    lowest, highest
        Range of the unit cell in the same unit.

    Returns
    -------
    unit_cell, error, p_value
        Least squares of d = n a, its standard error by the scatter about it, and the chance (1
        where two sizes fall on the same whole number).
    """
    k = sizes.size
    largest = square = 0.0
    for d in sizes:
        largest = max(largest, d)
        square += d * d
    # Neighbouring trials move the largest size by a fiftieth of a cell.
    trials = 2 + int(50.0 * largest * (1.0 / lowest - 1.0 / highest))
    best, unit_cell = np.inf, np.nan
    for t in range(trials):
        frequency = 1.0 / highest + (1.0 / lowest - 1.0 / highest) * t / (trials - 1)
        up = down = 0.0
        for d in sizes:
            n = math.floor(d * frequency + 0.5)
            up += n * d
            down += n * n
        cell = min(max(up / down, lowest), highest) if down > 0.0 else highest
        rho_squared = 0.0
        for d in sizes:
            rho_squared += (d / cell - math.floor(d / cell + 0.5)) ** 2
        if rho_squared < best:
            best, unit_cell = rho_squared, cell
    norm = 0.0
    distinct = True
    for i in range(k):
        n = math.floor(sizes[i] / unit_cell + 0.5)
        norm += n * n
        for j in range(i):
            if math.floor(sizes[j] / unit_cell + 0.5) == n:
                distinct = False
    error = unit_cell * math.sqrt(best / (k - 1) / norm) if norm > 0.0 else np.nan
    rho = math.sqrt(best)
    length = math.sqrt(square) * (1.0 / lowest - 1.0 / highest)
    p_value = ball_volume(rho, k) + length * ball_volume(rho, k - 1)
    return unit_cell, error, min(p_value, 1.0) if distinct else 1.0


# A spectrum between two steps shows a mixture of two sizes: this many cells off a whole number.
LEVEL_SCATTER = 0.2
# Density per cell of a size that is anything at all, so that no single spectrum decides.
OUTLIER = 0.05
# Chances of going up and down in one spectrum; a step of m cells has a share of 2^-m. A wrong step
# costs more than one or two spectra of delay, and crystals that grow do not shrink.
UP = 0.02
DOWN = 5e-4


@njit(cache=True, nogil=True)
def follow_level(probability, cells, cells_err):
    """One step of a hidden Markov model on whole numbers of cells, in place.

    Parameters
    ----------
    probability
        (n,) of standing on 1, 2, .. n cells; all 0 before the first spectrum.
    cells, cells_err
        Size in unit cells and its standard error.

    Returns
    -------
    int
        The likeliest whole number of cells.
    """
    n = probability.size
    predicted = np.empty(n)
    total = 0.0
    for m in range(n):
        total += probability[m]
    if total == 0.0:
        predicted[:] = 1.0
    else:
        carried = 0.0
        for m in range(n):
            predicted[m] = (1.0 - UP - DOWN) * probability[m] + UP * carried
            carried = 0.5 * (carried + probability[m])
        carried = 0.0
        for m in range(n - 1, -1, -1):
            predicted[m] += DOWN * carried
            carried = 0.5 * (carried + probability[m])
    scatter = math.sqrt(LEVEL_SCATTER**2 + cells_err**2)
    height = 1.0 / (scatter * math.sqrt(2.0 * math.pi))
    total = 0.0
    best = 0
    for m in range(n):
        z = (cells - (m + 1)) / scatter
        probability[m] = predicted[m] * (height * math.exp(-0.5 * z * z) + OUTLIER)
        total += probability[m]
        if probability[m] > probability[best]:
            best = m
    for m in range(n):
        probability[m] /= total
    return best + 1
