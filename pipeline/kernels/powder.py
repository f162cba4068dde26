"""Powder patterns of several phases.

A phase scatters, per amplitude x of each of its columns, x / q^2 sum_lines strength profile(q -
q_line), profile a pseudo-Voigt of area 1 with W^2 = w^2 + (s q_line)^2 + instrument^2: size adds w,
the relative spread of d adds s q (Warren, X-ray Diffraction, 1969; all widths in quadrature, which
is exact for Gaussians). A phase whose intensities are known is one column; one of which only the
places are known has a column for each group of lines.

Five numbers a phase are searched (see `pipeline.kernels.powder_fit`): logarithms of the edges
relative to those that are expected, w and s; ``at`` (phases, 5) holds them.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

SEARCHED = 5
WIDTH, STRAIN = 3, 4
FOUR_LN2 = 4.0 * math.log(2.0)
GAUSSIAN_TOP = math.sqrt(FOUR_LN2 / math.pi)
GAUSSIAN_REACH, LORENTZIAN_REACH = 2.0, 12.0
"""Widths from the middle at which a profile ends: at 1.5e-5 of a Gaussian's top, and where 2.7 % of
a Lorentzian's area is beyond, which the background takes."""


class Powder(NamedTuple):
    """What does not change from frame to frame; all phases' lines one after the other."""

    q_per_nm: np.ndarray
    """(n,), rising."""
    instrument_per_nm: np.ndarray
    """Full width of the instrument (n,)."""
    quadratic: np.ndarray
    """(lines, 6), see `pipeline.fit.reflections`."""
    strength: np.ndarray
    """(lines,)."""
    column: np.ndarray
    """Column that each line belongs to (lines,)."""
    first_line: np.ndarray
    """(phases + 1,)."""
    first_column: np.ndarray
    """(phases + 1,)."""
    ties: np.ndarray
    """Which of its three numbers each edge follows (phases, 3)."""
    searched: np.ndarray
    """(phases, 5) booleans."""
    lower: np.ndarray
    upper: np.ndarray
    """Bounds (phases, 5)."""
    edge_sd: float
    """Standard deviation of what is known of the logarithms of edges."""
    lorentz_share: float


@njit(cache=True, nogil=True)
def line_place(powder, line, p, at):
    """Place of a line in 1/nm; its derivatives by the logarithms of the three edges."""
    x = math.exp(-at[p, powder.ties[p, 0]])
    y = math.exp(-at[p, powder.ties[p, 1]])
    z = math.exp(-at[p, powder.ties[p, 2]])
    c = powder.quadratic[line]
    xx, yy, zz = c[0] * x * x, c[1] * y * y, c[2] * z * z
    xy, xz, yz = c[3] * x * y, c[4] * x * z, c[5] * y * z
    q = math.sqrt(xx + yy + zz + xy + xz + yz)
    return (
        q,
        -(2.0 * xx + xy + xz) / (2.0 * q),
        -(2.0 * yy + xy + yz) / (2.0 * q),
        -(2.0 * zz + xz + yz) / (2.0 * q),
    )


@njit(cache=True, nogil=True)
def _width(powder, p, at, place):
    q = powder.q_per_nm
    near = min(np.searchsorted(q, place), q.size - 1)
    spread = at[p, STRAIN] * place
    return math.sqrt(at[p, WIDTH] ** 2 + spread**2 + powder.instrument_per_nm[near] ** 2)


@njit(cache=True, nogil=True)
def _span(powder, place, width):
    reach = GAUSSIAN_REACH if powder.lorentz_share == 0.0 else LORENTZIAN_REACH
    low = np.searchsorted(powder.q_per_nm, place - reach * width)
    return low, np.searchsorted(powder.q_per_nm, place + reach * width)


@njit(cache=True, nogil=True)
def fill_patterns(powder, p, at, scale_w, out):
    """Patterns of the columns of phase ``p``, times ``scale_w`` (n,), into ``out`` (columns, n)."""
    out[:] = 0.0
    q, share = powder.q_per_nm, powder.lorentz_share
    for line in range(powder.first_line[p], powder.first_line[p + 1]):
        place = line_place(powder, line, p, at)[0]
        width = _width(powder, p, at, place)
        low, high = _span(powder, place, width)
        row = out[powder.column[line] - powder.first_column[p]]
        gauss = (1.0 - share) * powder.strength[line] * GAUSSIAN_TOP / width
        lorentz = share * powder.strength[line] * 2.0 / (math.pi * width)
        for i in range(low, high):
            x = (q[i] - place) / width
            square = x * x
            if square < GAUSSIAN_REACH * GAUSSIAN_REACH:
                row[i] += gauss * math.exp(-FOUR_LN2 * square)
            if lorentz > 0.0:
                row[i] += lorentz / (1.0 + 4.0 * square)
    for c in range(out.shape[0]):
        for i in range(q.size):
            out[c, i] *= scale_w[i] / (q[i] * q[i])


@njit(cache=True, nogil=True)
def fill_slopes(powder, p, at, amplitudes, scale_w, out):
    """Derivatives of the sum of phase ``p`` by its five numbers, into ``out`` (5, n).

    ``amplitudes`` are of all columns of all phases.
    """
    out[:] = 0.0
    q, share = powder.q_per_nm, powder.lorentz_share
    for line in range(powder.first_line[p], powder.first_line[p + 1]):
        height = amplitudes[powder.column[line]] * powder.strength[line]
        if height == 0.0:
            continue
        place, by_a, by_b, by_c = line_place(powder, line, p, at)
        width = _width(powder, p, at, place)
        low, high = _span(powder, place, width)
        gauss = (1.0 - share) * height * GAUSSIAN_TOP / width
        lorentz = share * height * 2.0 / (math.pi * width)
        wider, spread = at[p, WIDTH] / width, at[p, STRAIN] * place * place / width
        drift = at[p, STRAIN] ** 2 * place / width
        a, b, c = powder.ties[p, 0], powder.ties[p, 1], powder.ties[p, 2]
        for i in range(low, high):
            x = (q[i] - place) / width
            square = x * x
            by_place = by_width = 0.0
            if square < GAUSSIAN_REACH * GAUSSIAN_REACH:
                value = gauss * math.exp(-FOUR_LN2 * square)
                by_place += value * 2.0 * FOUR_LN2 * x / width
                by_width += value * (2.0 * FOUR_LN2 * square - 1.0) / width
            if lorentz > 0.0:
                value = lorentz / (1.0 + 4.0 * square)
                slope = 8.0 * x / (1.0 + 4.0 * square)
                by_place += value * slope / width
                by_width += value * (slope * x - 1.0) / width
            by_place += by_width * drift
            out[a, i] += by_place * by_a
            out[b, i] += by_place * by_b
            out[c, i] += by_place * by_c
            out[WIDTH, i] += by_width * wider
            out[STRAIN, i] += by_width * spread
    for r in range(SEARCHED):
        for i in range(q.size):
            out[r, i] *= scale_w[i] / (q[i] * q[i])
