"""Indexing of powder lines: proposed cells refined, and weighed by their evidence.

A frame's lines are taken for a point process on the q axis. A lattice predicts reflections; one
is seen with probability p and then lies where it is predicted, to within the errors; other lines
lie anywhere in the window. So, relative to a window in which all lines lie anywhere,

    ln L = sum over indexed lines  [ln p + ln W + ln N(q - q_hkl; sigma) + areas]
         + sum over absent ones    ln(1 - p)
         + ln(k! (1 - r) r^k),     k unexplained lines,

W the window's width and r the ratio of the geometric law of k. p follows from the area that a
reflection should have against the least that is found there, so one that falls on a minimum of the
form factor, or below the noise, is not missed. The areas of indexed lines have a term of their own:
a lognormal scatter around K weight exp(-B q^2) / q^2 (B held to be reasonable), against a wide one
without lattice. So have the widths, which are alike in a lattice. The evidence integrates L over
the cell's parameters by Laplace's method: many parameters and dense reflections cost what they
should (MacKay, Neural Comput. 4 (1992) 415), which de Wolff's figure of merit only ranks.

Reflections that share their nearest line, within its width, are one at their centre of weight.
Everything is in fixed order of operations.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.cell_refinement import (
    BLEND,
    HALF_MERGED,
    MOST_PREDICTED,
    allowed,
    assign,
    least_squares,
    predict,
)
from pipeline.kernels.cell_room import room_for

SURE = 0.97
"""Probability at most that a reflection is found, however strong: it may be a shoulder."""
SHADOWED = 0.4
"""Factor of that probability where a line lies within SHADOW widths."""
SHADOW = 1.3
WIDE_SCATTER = 1.5
"""Standard deviation of ln(area q^2) of lines that are of no lattice: a factor of 4.5."""
DAMPING = (2.0, 1.5)
"""B q_max^2, mean and standard deviation before it is fitted: displacements of 5 to 12 % of the
distance of neighbours, over a window of three or four orders."""
BLENDED = 0.15
"""Extent of a line's reflections over its width from which it is a blend."""
ROOT_2PI = math.sqrt(2.0 * math.pi)
CONVERGED = 2e-4
"""Cells that differ by less, as a share of u, v and w, have converged to the same lines."""
SPARE = 2
"""Lines beyond the parameters that a lattice needs: as many lines as parameters are met by a cell
of any kind, and one more, which may be a blend, by one of many. A stack needs one."""
ROUNDS = 5
"""Refinements at most; most end when the second one indexes the same lines."""


@njit(cache=True, nogil=True)
def _area_law(line_q, log_area, area_error, scatter, meant, q_max, law):
    """ln K and B of the areas of indexed lines, into ``law`` (2,); B is held near DAMPING."""
    prior = 1.0 / (DAMPING[1] / q_max**2) ** 2
    s, sx, sxx, sy, sxy = 0.0, 0.0, prior, 0.0, -prior * DAMPING[0] / q_max**2
    for i in range(line_q.size):
        if meant[i, 0] == 0.0:
            continue
        w = 1.0 / (scatter * scatter + area_error[i] * area_error[i])
        x = line_q[i] * line_q[i]
        y = log_area[i] + math.log(x) - math.log(meant[i, 0])
        s += w
        sx += w * x
        sxx += w * x * x
        sy += w * y
        sxy += w * x * y
    slope = (s * sxy - sx * sy) / (s * sxx - sx * sx)
    law[1] = max(-slope, 0.0)
    law[0] = (sy + law[1] * sx) / s


@njit(cache=True, nogil=True)
def _seen(at, expected, limits, window, scatter):
    """Probability that a reflection of an expected ln(area) is found: above the least area there.

    ``limits`` (g,) is ln of that least area, on an even grid over the window.
    """
    place = (at - window[0]) / (window[1] - window[0]) * (limits.size - 1)
    limit = limits[min(max(int(place + 0.5), 0), limits.size - 1)]
    if not math.isfinite(limit):
        return 0.0
    return 0.5 * math.erfc((limit - expected) / (scatter * math.sqrt(2.0)))


@njit(cache=True, nogil=True)
def _absences(line_q, count, q, row, weight, of_reflection, law, limits, window, merge, doubt):
    """ln of the probability that reflections without line are not found, and how many should be."""
    log_l, absent = 0.0, 0
    i = 0
    for r in range(count):
        if of_reflection[r] >= 0:
            continue
        expected = law[0] - law[1] * q[r] * q[r] + math.log(weight[row[r]] / (q[r] * q[r]))
        p = SURE * _seen(q[r], expected, limits, window, doubt)
        while i + 1 < line_q.size and abs(line_q[i + 1] - q[r]) < abs(line_q[i] - q[r]):
            i += 1
        if abs(line_q[i] - q[r]) < SHADOW * merge[i]:
            p *= SHADOWED
        log_l += math.log(1.0 - p)
        absent += p > 0.5
    return log_l, absent


@njit(cache=True, nogil=True)
def _likelihood(
    line_q, line_error, log_area, area_error, width_gain, meant, law, limits, window, merge,
    scatter, doubt, ratio,
):  # fmt: skip
    """ln of the part of L that is the lines', and how many of them are indexed."""
    width = window[1] - window[0]
    mean = 0.0
    for i in range(line_q.size):
        mean += (log_area[i] + 2.0 * math.log(line_q[i])) / line_q.size
    log_l, indexed = 0.0, 0
    for i in range(line_q.size):
        total, at, spread = meant[i, 0], meant[i, 1], meant[i, 2]
        if total == 0.0:
            continue
        indexed += 1
        expected = law[0] - law[1] * at * at + math.log(total / (at * at))
        p = max(SURE * _seen(at, expected, limits, window, doubt), 1.0 - SURE)
        error = math.hypot(line_error[i], BLEND * spread)
        z = (line_q[i] - at) / error
        log_l += math.log(p * width / (ROOT_2PI * error)) - 0.5 * z * z
        s = math.hypot(scatter, area_error[i])
        wide = math.hypot(WIDE_SCATTER, area_error[i])
        # A blend may have any width.
        if spread < BLENDED * merge[i]:
            log_l += width_gain[i]
        off = (log_area[i] - expected) / s
        usual = (log_area[i] + 2.0 * math.log(line_q[i]) - mean) / wide
        log_l += math.log(wide / s) - 0.5 * off * off + 0.5 * usual * usual
    others = line_q.size - indexed
    log_l += math.lgamma(others + 1.0) + math.log(1.0 - ratio) + others * math.log(ratio)
    bend = (law[1] * window[1] ** 2 - DAMPING[0]) / DAMPING[1]
    return log_l - 0.5 * bend * bend, indexed


@njit(cache=True, nogil=True)
def _log_volume(cell, covariance, free):
    """ln of (2 pi)^(free / 2) sqrt(det of the covariance of ln a, ln b, ln c)."""
    c = covariance
    determinant = c[0, 0]
    if free == 2:
        determinant = c[0, 0] * c[1, 1] - c[0, 1] * c[0, 1]
    elif free == 3:
        determinant = (
            c[0, 0] * (c[1, 1] * c[2, 2] - c[1, 2] * c[1, 2])
            - c[0, 1] * (c[0, 1] * c[2, 2] - c[1, 2] * c[0, 2])
            + c[0, 2] * (c[0, 1] * c[1, 2] - c[1, 1] * c[0, 2])
        )
    for j in range(free):
        # ln a = -ln(u) / 2.
        determinant /= 4.0 * cell[j] * cell[j]
    return 0.5 * free * math.log(2.0 * math.pi) + 0.5 * math.log(max(determinant, 1e-300))


@njit(cache=True, nogil=True)
def _unchanged(before, after, count):
    """Whether the first ``count`` of both are equal; the first is made so."""
    same = True
    for r in range(count):
        same = same and before[r] == after[r]
        before[r] = after[r]
    return same


@njit(cache=True, nogil=True)
def _splits(cell, likenesses, least):
    """Whether a cell differs from those of higher symmetry by more than ``least`` of an edge."""
    for m in range(likenesses.shape[0]):
        i, j = int(likenesses[m, 0]), int(likenesses[m, 1])
        if abs(0.5 * math.log(cell[i] / (cell[j] * likenesses[m, 2]))) < least:
            return False
    return True


@njit(cache=True, nogil=True)
def weigh(
    line_q, line_error, log_area, area_error, width_gain, limits, window, merge, scatter, ratio,
    free, forms,
    weight, least, most, ascending, steps, unit_volume, likenesses, core, cell, covariance,
    indexed_q, counts,
):  # fmt: skip
    """Refine one cell on the lines that it indexes, and its ln L times the parameters' volume.

    Parameters
    ----------
    line_q, line_error
        Places (n,), rising, with errors that include what profiles and zero cost.
    log_area, area_error
        ln of the areas and their relative errors (n,).
    width_gain
        What it adds to ln L that a line is as wide as lines of a lattice are (n,).
    limits
        ln of the least area that is found (g,), on an even grid over the window.
    window, merge
        (lowest, highest) q; reflections within ``merge`` (n,) of a line may be one line.
    scatter
        Of ln(area) about its law.
    ratio
        r of the number of unexplained lines.
    free, forms, weight, least, most, ascending, steps, unit_volume, likenesses
        Of the lattice.
    core
        See ``pipeline.kernels.cell_room``.
    cell, covariance
        u, v, w (3,), refined in place; (3, 3), overwritten.
    indexed_q, counts
        Overwritten: q of each line's reflection (n,), NaN without; how many lines are indexed,
        unexplained, and absent, and reflections up to the highest indexed line (4,).

    Returns
    -------
    float
        ln of L (2 pi)^(free / 2) sqrt(det of the covariance of ln a, ln b, ln c) and of the room
        for the cores; to be divided by the prior volume of the edges. -inf where the lines do not
        settle the cell.
    """
    count, previous, lines = 0, -1, line_q.size
    q, row = np.empty(MOST_PREDICTED), np.empty(MOST_PREDICTED, dtype=np.int64)
    of_reflection = np.empty(MOST_PREDICTED, dtype=np.int64)
    before = np.full(MOST_PREDICTED, -2)
    meant, form = np.zeros((lines, 3)), np.empty((lines, 3))
    law = np.empty(2)
    for _ in range(ROUNDS):
        count = predict(cell, forms, weight, window, q, row)
        if count <= 0:
            return -np.inf
        assign(line_q, line_error, merge, count, q, row, weight, forms, of_reflection, meant, form)
        # Called first: it also remembers.
        if _unchanged(before, of_reflection, count) and count == previous:
            break
        previous = count
        if not least_squares(line_q, line_error, meant, form, free, cell, covariance):
            return -np.inf
    highest, narrowest = 1e-9, np.inf
    for i in range(lines):
        narrowest = min(narrowest, merge[i])
        indexed_q[i] = meant[i, 1] if meant[i, 0] > 0.0 else np.nan
        if meant[i, 0] > 0.0:
            highest = line_q[i]
    if not allowed(cell, free, least, most, ascending):
        return -np.inf
    # A distortion too small to split the highest line would be free, and is not claimed.
    if not _splits(cell, likenesses, HALF_MERGED * narrowest / highest):
        return -np.inf
    _area_law(line_q, log_area, area_error, scatter, meant, window[1], law)
    # Where it is found also depends on how the line finder did: half a factor more.
    doubt = math.hypot(scatter, 0.5)
    log_l, counts[0] = _likelihood(
        line_q, line_error, log_area, area_error, width_gain, meant, law, limits, window, merge,
        scatter, doubt, ratio,
    )  # fmt: skip
    log_absent, counts[2] = _absences(
        line_q, count, q, row, weight, of_reflection, law, limits, window, merge, doubt
    )
    if counts[0] < free + (SPARE if unit_volume > 0.0 else 1):
        return -np.inf
    counts[1] = lines - counts[0]
    counts[3] = 0
    while counts[3] < count and q[counts[3]] <= highest + 0.5 * narrowest:
        counts[3] += 1
    room = room_for(cell, covariance, steps, unit_volume, free, core)
    return log_l + log_absent + _log_volume(cell, covariance, free) + math.log(room)


@njit(cache=True, nogil=True)
def weigh_all(
    line_q, line_error, log_area, area_error, width_gain, limits, window, merge, scatter, ratio,
    free, forms,
    weights, least, most, ascending, steps, unit_volume, likenesses, core, cells,
    covariances, indexed_q, counts, evidence,
):  # fmt: skip
    """``weigh`` for all cells (t, 3) and all weights (s, r): outputs have the axes (s, t) first.

    ``cells`` (s, t, 3) holds the proposals. A cell that ends where a better one is has the
    evidence -inf, as one has that is not settled.
    """
    for s in range(cells.shape[0]):
        for t in range(cells.shape[1]):
            evidence[s, t] = -np.inf
            if not cells[s, t, 0] > 0.0:
                continue
            value = weigh(
                line_q, line_error, log_area, area_error, width_gain, limits, window, merge,
                scatter, ratio,
                free, forms, weights[s], least, most, ascending, steps, unit_volume,
                likenesses, core, cells[s, t], covariances[s, t],
                indexed_q[s, t], counts[s, t],
            )  # fmt: skip
            for other in range(t):
                same = evidence[s, other] > -np.inf
                for j in range(free):
                    off = abs(cells[s, t, j] - cells[s, other, j])
                    same = same and off < CONVERGED * cells[s, t, j]
                if same and evidence[s, other] >= value:
                    value = -np.inf
                elif same:
                    evidence[s, other] = -np.inf
            evidence[s, t] = value


@njit(cache=True, nogil=True)
def unrelated(count, ratio):
    """ln L of lines that are of no lattice; their number has the geometric law of ``ratio``."""
    return math.lgamma(count + 1.0) + math.log(1.0 - ratio) + count * math.log(ratio)
