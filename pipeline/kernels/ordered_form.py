"""Form factor of particles that are ordered: spheres under peaks that must not bend them.

Model
-----
    I(q) = A <F^2>(q; D, s) [1 - sum_k c_k exp(-(q / (r_k q1))^2)] + background + peaks

q1 is the place of the first peak. Order takes intensity away between and below its peaks (a crystal
scatters diffusely by 1 - exp(-u^2 q^2) only) and gives it to them; the decaying terms stand for
the hole that is left, c_k >= 0, and at large q the structure factor is 1, which sets A. What holds
D and s then is where the minima of the form factor are, and how deep.

Peaks are points far above: residuals are judged by a loss that grows quadratically down to
``BELOW`` and up to ``ABOVE`` standard deviations, beyond linearly and logarithmically. So a
peak pulls the less the higher it is, and no list of peaks is needed to begin with. Errors are those
of the counts and a share of the intensity for what the model leaves out.

The sizes are searched over a table, since a fit that begins from one that the peaks have bent stays
there, and refined by Gauss-Newton steps with reweighting.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.amplitudes import invert_subset, solve_subset
from pipeline.kernels.linear import dot
from pipeline.kernels.sphere import mean_square_amplitude

HOLE = np.array([0.7, 1.5])
"""Reach of the decaying terms over q1: below the first peak, and over it and the next. With a third
one over all peaks the hole takes away what unresolved peaks add, and A comes out 20 % high."""
ABOVE, BELOW = 2.0, 4.0
PASSES = 3
"""Reweighted fits of each size in the table; differences between sizes change by 2 % after that."""
STEPS = 12
"""Of Gauss-Newton; it ends where D and s move by less than 1e-4 of D."""
FURTHEST = 0.03
"""A step changes D, and s, by so much of D at most: half of the table's spacing."""


@njit(cache=True, nogil=True)
def fill_hole(q_per_nm, first_per_nm, hole):
    """Minus the decaying terms, into ``hole`` (k, n)."""
    for k in range(hole.shape[0]):
        for i in range(q_per_nm.size):
            at = q_per_nm[i] / (HOLE[k] * first_per_nm)
            hole[k, i] = -np.exp(-at * at)


@njit(cache=True, nogil=True)
def _solve(gram, moment, holes, amplitudes):
    """Least squares of which the columns ``holes[0]`` to ``holes[1]`` (not in) are not negative.

    The most negative is left out until none is. False if the columns cannot be told apart.
    """
    size = moment.size
    members, solution = np.arange(size), np.empty(size)
    left = size
    while left > 0:
        if not solve_subset(gram, moment, members, left, solution):
            return False
        worst = -1
        for i in range(left):
            if not holes[0] <= members[i] < holes[1] or solution[i] >= 0.0:
                continue
            if worst < 0 or solution[i] < solution[worst]:
                worst = i
        if worst < 0:
            break
        for i in range(worst, left - 1):
            members[i] = members[i + 1]
        left -= 1
    for a in range(size):
        amplitudes[a] = 0.0
    for i in range(left):
        amplitudes[members[i]] = solution[i]
    return True


@njit(cache=True, nogil=True)
def robust_fit(columns, holes, data, weight, passes, factor, amplitudes, gram):
    """Amplitudes of columns under peaks.

    Parameters
    ----------
    columns, data, weight
        (m, n), (n,) and 1/sigma (n,).
    holes
        First and one past the last of those that are not negative.
    passes
        Reweighted fits.
    factor
        What each point counts, 0 to 1 (n,): the start, overwritten.
    amplitudes, gram
        (m,), (m, m), overwritten; ``gram`` is that of the last fit, 0 for what was left out.

    Returns
    -------
    float
        The loss; infinite if the columns cannot be told apart.
    """
    size, points = columns.shape
    moment = np.empty(size)
    weighed, seen = np.empty((size, points)), np.empty(points)
    loss = np.inf
    for _ in range(passes):
        for i in range(points):
            counted = weight[i] * math.sqrt(factor[i])
            seen[i] = data[i] * counted
            for a in range(size):
                weighed[a, i] = columns[a, i] * counted
        for a in range(size):
            moment[a] = dot(weighed[a], seen)
            for b in range(a + 1):
                gram[a, b] = dot(weighed[a], weighed[b])
        for a in range(size):
            for b in range(a):
                gram[b, a] = gram[a, b]
        if not _solve(gram, moment, holes, amplitudes):
            return np.inf
        loss = 0.0
        for i in range(points):
            seen[i] = data[i]
        for a in range(size):
            for i in range(points):
                seen[i] -= amplitudes[a] * columns[a, i]
        for i in range(points):
            off = seen[i] * weight[i]
            if off > ABOVE:
                factor[i] = (ABOVE / off) ** 2
                loss += ABOVE * ABOVE * (1.0 + 2.0 * np.log(off / ABOVE))
            elif off < -BELOW:
                factor[i] = BELOW / -off
                loss += BELOW * (-2.0 * off - BELOW)
            else:
                factor[i] = 1.0
                loss += off * off
    for a in range(holes[0], holes[1]):
        if amplitudes[a] == 0.0:
            for b in range(size):
                gram[a, b] = gram[b, a] = 0.0
    return loss


@njit(cache=True, nogil=True)
def fill_gram(columns_w, gram):
    """Products of whitened columns (m, n), into ``gram`` (m, m)."""
    for a in range(columns_w.shape[0]):
        for b in range(a + 1):
            gram[a, b] = gram[b, a] = dot(columns_w[a], columns_w[b])


@njit(cache=True, nogil=True)
def invert(gram, out):
    """Inverse of a Gram matrix (m, m): covariance of the amplitudes; 0 for columns that are 0.

    NaN if the columns cannot be told apart.
    """
    members = np.flatnonzero(np.diag(gram) > 0.0)
    invert_subset(gram, members, members.size, out)


@njit(cache=True, nogil=True)
def _fill_columns(curve, hole, others, columns):
    """The form factor, with its hole and what is added, into ``columns`` (1 + k + b, n)."""
    holes = hole.shape[0]
    for i in range(curve.size):
        columns[0, i] = curve[i]
        for k in range(holes):
            columns[1 + k, i] = hole[k, i] * curve[i]
        for b in range(others.shape[0]):
            columns[1 + holes + b, i] = others[b, i]


@njit(cache=True, nogil=True)
def search_sizes(table, hole, others, data, weight, losses):
    """Loss of each size of a table into ``losses`` (j,); infinite where the amplitude is negative.

    Parameters
    ----------
    table
        <F^2> of each size, in any units of its own (j, n).
    hole, others
        From `fill_hole` (k, n); what is added to the particles (b, n).
    data, weight
        (n,), (n,).
    """
    size = 1 + hole.shape[0] + others.shape[0]
    columns, factor = np.empty((size, data.size)), np.empty(data.size)
    amplitudes, gram = np.empty(size), np.empty((size, size))
    for j in range(table.shape[0]):
        _fill_columns(table[j], hole, others, columns)
        for i in range(data.size):
            factor[i] = 1.0
        losses[j] = robust_fit(
            columns, (1, 1 + hole.shape[0]), data, weight, PASSES, factor, amplitudes, gram
        )
        if not amplitudes[0] > 0.0:
            losses[j] = np.inf


@njit(cache=True, nogil=True)
def refine_sizes(q_per_nm, hole, others, data, weight, bounds, free, at, amplitudes, gram, factor):
    """Bring diameter and standard deviation to the least loss.

    Parameters
    ----------
    q_per_nm, hole, others, data, weight
        As in `search_sizes`.
    bounds
        Least and greatest D, least and greatest s/D (4,).
    free
        Whether D and s are searched, or held.
    at
        D and s in nm, the start; overwritten.
    amplitudes, gram
        Of the columns: slopes by D and by s (where ``free``), spheres, hole, others. (m,), (m, m);
        overwritten.
    factor
        What each point counted (n,), overwritten.

    Returns
    -------
    float
        The loss.
    """
    slopes = 2 if free else 0
    holes = hole.shape[0]
    columns = np.empty((amplitudes.size, q_per_nm.size))
    spheres = np.empty((3, q_per_nm.size))
    scale = at[0] ** 6
    for i in range(factor.size):
        factor[i] = 1.0
    loss = np.inf
    for step in range(STEPS):
        mean_square_amplitude(q_per_nm, at[0], at[1], spheres)
        for r in range(3):
            for i in range(q_per_nm.size):
                spheres[r, i] /= scale
        _fill_columns(spheres[0], hole, others, columns[slopes:])
        if step == 0:
            # Sizes held, for the hole that the slopes share with the spheres.
            first = np.empty((amplitudes.size - slopes, amplitudes.size - slopes))
            loss = robust_fit(
                columns[slopes:],
                (1, 1 + holes),
                data,
                weight,
                PASSES,
                factor,
                amplitudes[slopes:],
                first,
            )
            if not free:
                gram[:, :] = first
                break
        if not amplitudes[slopes] > 0.0:
            break
        for i in range(q_per_nm.size):
            shape = 1.0
            for k in range(holes):
                shape += amplitudes[slopes + 1 + k] / amplitudes[slopes] * hole[k, i]
            columns[0, i] = spheres[1, i] * shape
            columns[1, i] = spheres[2, i] * shape
        where = (slopes + 1, slopes + 1 + holes)
        loss = robust_fit(columns, where, data, weight, 1, factor, amplitudes, gram)
        if not amplitudes[slopes] > 0.0:
            break
        moved = 0.0
        most = FURTHEST * at[0]
        for r in range(2):
            by = amplitudes[r] / amplitudes[slopes]
            by = min(max(by, -most), most)
            low, high = bounds[0], bounds[1]
            if r == 1:
                low, high = bounds[2] * at[0], bounds[3] * at[0]
            after = min(max(at[r] + by, low), high)
            moved = max(moved, abs(after - at[r]))
            at[r] = after
        if moved < 1e-4 * at[0]:
            break
    return loss
