"""Indexing of powder lines: cells proposed from low lines, refined, and weighed by evidence.

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
without lattice. The evidence integrates L over the cell's parameters by Laplace's method: many
parameters and dense reflections cost what they should (MacKay, Neural Comput. 4 (1992) 415), which
de Wolff's figure of merit only ranks.

Reflections that share their nearest line, within its width, are one at their centre of weight.
Everything is in fixed order of operations.
"""

import math

import numpy as np
from numba import njit

GATE = 4.0
"""A line further from a reflection than so many standard deviations is not of it."""
MOST_PREDICTED = 128
"""Reflections in a window beyond which a cell is not weighed: lines are no longer told apart."""
SURE = 0.97
"""Probability at most that a reflection is found, however strong: it may be a shoulder."""
SHADOWED = 0.4
"""Factor of that probability where a line lies within SHADOW widths."""
SHADOW = 1.3
HALF_MERGED = 0.6
"""Reflections of one line are within so many widths of it: two Gaussians of equal height have one
maximum up to 0.85 widths between them, three up to more."""
WIDE_SCATTER = 1.5
"""Standard deviation of ln(area q^2) of lines that are of no lattice: a factor of 4.5."""
DAMPING = (2.0, 1.5)
"""B q_max^2, mean and standard deviation before it is fitted: displacements of 5 to 12 % of the
distance of neighbours, over a window of three or four orders."""
BLEND = 0.3
"""Error of the place of reflections that are one, in units of their extent: with areas that scatter
by half about their weights, the centre of weight of two moves by so much."""
ROOT_2PI = math.sqrt(2.0 * math.pi)
DIFFERENT = 0.01
"""Cells whose parameters (u, v, w) differ by less are the same."""
CONVERGED = 2e-4
"""Refined ones that differ by less are; they have converged to the same lines."""
SPARE = 2
"""Lines beyond the parameters that a lattice needs: as many lines as parameters are met by a cell
of any kind, and one more, which may be a blend, by one of many. A stack needs one."""
ROUNDS = 5
"""Refinements at most; most end when the second one indexes the same lines."""
BINS = 1024
"""Of the table in which a proposal looks for the nearest line."""
ABSENCE = 0.4
"""What a proposal pays for a reflection without line below the highest line; ln L is exact."""


@njit(cache=True, nogil=True)
def nearest_lines(square, highest):
    """Index of the nearest line (BINS,) along Q from 0 to ``highest``; ``square`` (n,) rises."""
    table = np.zeros(BINS, dtype=np.int64)
    line = 0
    for b in range(BINS):
        place = (b + 0.5) * highest / BINS
        while line + 1 < square.size and abs(square[line + 1] - place) < abs(square[line] - place):
            line += 1
        table[b] = line
    return table


@njit(cache=True, nogil=True)
def _allowed(cell, free, least, most, ascending):
    """Whether u, v, w are positive, in the lattice's range and the permutation that stands."""
    for j in range(free):
        if not cell[j] > 0.0:
            return False
    for j in range(1, free):
        ratio = cell[0] / cell[j]
        if ratio < least[j - 1] or ratio > most[j - 1]:
            return False
    return not (ascending == 3 and cell[1] < cell[2])


@njit(cache=True, nogil=True)
def _has_room(cell, steps, distances):
    """Whether nearest neighbours are at a distance between the two given."""
    least = np.inf
    for m in range(steps.shape[0]):
        square = 0.0
        for j in range(cell.size):
            if steps[m, j] > 0.0:
                square += steps[m, j] / cell[j]
        least = min(least, square)
    return distances[0] ** 2 <= least <= distances[1] ** 2


@njit(cache=True, nogil=True)
def _promise(
    cell, free, forms, square, error, merge, gain, nearest, lowest, highest, most_absent, best
):
    """Quick score of a cell: gain of the lines met, less what reflections without line cost.

    -inf as soon as more than ``most_absent`` are, which no gain makes up for.
    """
    count = square.size
    for i in range(count):
        best[i] = GATE * GATE
    scale = BINS / highest
    predicted, absent = 0, 0
    top = min(highest, square[count - 1] + GATE * error[count - 1])
    for r in range(forms.shape[0]):
        place = cell[0] * forms[r, 0] + cell[1] * forms[r, 1] + cell[2] * forms[r, 2]
        if place < lowest or place >= top:
            continue
        predicted += 1
        i = nearest[int(place * scale)]
        off = place - square[i]
        distance = off / error[i]
        best[i] = min(best[i], distance * distance)
        if abs(off) > merge[i]:
            absent += 1
            if absent > most_absent:
                return -np.inf
    total, met = 0.0, 0
    for i in range(count):
        if best[i] < GATE * GATE:
            total += gain[i] - 0.5 * best[i]
            met += 1
    if predicted > MOST_PREDICTED or met < free:
        return -np.inf
    return total - ABSENCE * absent


@njit(cache=True, nogil=True)
def _keep(cell, score, free, cells, scores):
    """Enter a cell in the list of the best, unless it is there; the list is by falling score."""
    last = scores.size - 1
    for t in range(scores.size):
        if scores[t] == -np.inf:
            break
        same = True
        for j in range(free):
            same = same and abs(cell[j] - cells[t, j]) < DIFFERENT * cells[t, j]
        if same:
            if score <= scores[t]:
                return
            last = t
            break
    t = last
    while t > 0 and scores[t - 1] < score:
        scores[t] = scores[t - 1]
        cells[t] = cells[t - 1]
        t -= 1
    scores[t] = score
    cells[t] = cell


@njit(cache=True, nogil=True)
def propose(
    square, error, merge, gain, lead, window, distances, forms, seeds, inverses, least, most,
    ascending, steps, cells, scores,
):  # fmt: skip
    """The most promising cells of one lattice: low lines tried as all sets of low reflections.

    Parameters
    ----------
    square, error
        Q = (q / 2 pi)^2 of the lines and its standard error (n,), rising, in 1/nm^2.
    merge
        Distance in Q (n,) within which a reflection is part of a line.
    gain
        What a line that is met is worth (n,): about ln(W / (sqrt(2 pi) sigma)).
    lead
        Lines from which cells are made, the lowest ones.
    window
        (lowest, highest) Q.
    distances
        (lowest, highest) distance of nearest neighbours.
    forms, seeds, inverses, least, most, ascending, steps
        Of ``pipeline.kernels.lattices.Lattice``.
    cells, scores
        (t, 3) and (t,), overwritten: the best, by falling score. -inf where there are fewer.
    """
    scores[:] = -np.inf
    free = seeds.shape[1]
    count = min(lead, square.size)
    if count < free:
        return
    nearest = nearest_lines(square, window[1])
    best, cell, all_gain = np.empty(square.size), np.zeros(3), np.sum(gain)
    picked = np.arange(free)
    while True:
        for s in range(seeds.shape[0]):
            for j in range(free):
                cell[j] = 0.0
                for m in range(free):
                    cell[j] += inverses[s, j, m] * square[picked[m]]
            if not _allowed(cell, free, least, most, ascending):
                continue
            if not _has_room(cell, steps, distances):
                continue
            score = _promise(
                cell, free, forms, square, error, merge, gain, nearest, window[0], window[1],
                (all_gain - scores[-1]) / ABSENCE, best,
            )  # fmt: skip
            if score > scores[-1]:
                _keep(cell, score, free, cells, scores)
        # The next combination of lines, in lexical order.
        place = free - 1
        while place >= 0 and picked[place] == count - free + place:
            place -= 1
        if place < 0:
            return
        picked[place] += 1
        for m in range(place + 1, free):
            picked[m] = picked[m - 1] + 1


@njit(cache=True, nogil=True)
def predict(cell, forms, weight, window, q, row):
    """Reflections inside the window, by rising q.

    Parameters
    ----------
    cell
        u, v, w (3,).
    window
        (lowest, highest) q.
    q, row
        Overwritten (MOST_PREDICTED,): places, and rows of ``forms``.

    Returns
    -------
    int
        How many; -1 if there are too many.
    """
    scale = 4.0 * math.pi * math.pi
    low, high = window[0] ** 2 / scale, window[1] ** 2 / scale
    count = 0
    for r in range(forms.shape[0]):
        at = cell[0] * forms[r, 0] + cell[1] * forms[r, 1] + cell[2] * forms[r, 2]
        if weight[r] <= 0.0 or at < low or at > high:
            continue
        if count == MOST_PREDICTED:
            return -1
        i = count
        while i > 0 and q[i - 1] > at:
            q[i] = q[i - 1]
            row[i] = row[i - 1]
            i -= 1
        q[i] = at
        row[i] = r
        count += 1
    for i in range(count):
        q[i] = 2.0 * math.pi * math.sqrt(q[i])
    return count


@njit(cache=True, nogil=True)
def _gather(line, line_q, reach, count, q, row, weight, forms, of_reflection, meant, form):
    """One line's reflections within ``reach`` as one, at their centre of weight."""
    mass, first, second = 0.0, 0.0, 0.0
    form[line] = 0.0
    for r in range(count):
        if of_reflection[r] != line:
            continue
        off = q[r] - line_q[line]
        if abs(off) > reach:
            of_reflection[r] = -1
            continue
        w = weight[row[r]]
        mass += w
        first += w * off
        second += w * off * off
        for j in range(3):
            form[line, j] += w * forms[row[r], j]
    meant[line, 0] = mass
    if mass > 0.0:
        for j in range(3):
            form[line, j] /= mass
        meant[line, 1] = line_q[line] + first / mass
        meant[line, 2] = math.sqrt(max(second / mass - (first / mass) ** 2, 0.0))


@njit(cache=True, nogil=True)
def assign(line_q, line_error, merge, count, q, row, weight, forms, of_reflection, meant, form):
    """Reflections to their nearest lines, where they are within its width or error.

    Parameters
    ----------
    line_q, line_error, merge
        Lines (n,), and the width within which reflections are one line.
    count, q, row, weight, forms
        As ``predict`` has them.
    of_reflection
        Overwritten (count,): line of each reflection, -1 without.
    meant, form
        Overwritten: (n, 3) with the sum of the weights of each line's reflections, 0 without, their
        centre and their extent (standard deviation); (n, 3) with their mean form.
    """
    i = 0
    for r in range(count):
        while i + 1 < line_q.size and abs(line_q[i + 1] - q[r]) < abs(line_q[i] - q[r]):
            i += 1
        of_reflection[r] = i
    for i in range(line_q.size):
        reach = max(HALF_MERGED * merge, GATE * line_error[i])
        _gather(i, line_q, reach, count, q, row, weight, forms, of_reflection, meant, form)
        if meant[i, 0] == 0.0:
            continue
        error = math.hypot(line_error[i], BLEND * meant[i, 2])
        if abs(meant[i, 1] - line_q[i]) > GATE * error:
            # Not a blend of them all: of those at its place, perhaps.
            reach = GATE * line_error[i]
            _gather(i, line_q, reach, count, q, row, weight, forms, of_reflection, meant, form)


@njit(cache=True, nogil=True)
def _invert(matrix, size, inverse):
    """Inverse of a positive definite matrix (3, 3), its first ``size`` rows; False if singular."""
    work = matrix.copy()
    for i in range(size):
        for j in range(size):
            inverse[i, j] = 1.0 if i == j else 0.0
    for i in range(size):
        pivot = work[i, i]
        if not pivot > 1e-9 * matrix[i, i]:
            return False
        for j in range(size):
            work[i, j] /= pivot
            inverse[i, j] /= pivot
        for k in range(size):
            if k != i:
                factor = work[k, i]
                for j in range(size):
                    work[k, j] -= factor * work[i, j]
                    inverse[k, j] -= factor * inverse[i, j]
    return True


@njit(cache=True, nogil=True)
def _least_squares(line_q, line_error, meant, form, free, cell, covariance):
    """Weighted least squares of u, v, w on the indexed lines; False where they do not settle it."""
    normal, right = np.zeros((3, 3)), np.zeros(3)
    scale = 1.0 / (4.0 * math.pi * math.pi)
    for i in range(line_q.size):
        if meant[i, 0] == 0.0:
            continue
        error = 2.0 * line_q[i] * scale * math.hypot(line_error[i], BLEND * meant[i, 2])
        w = 1.0 / (error * error)
        for j in range(free):
            right[j] += w * form[i, j] * line_q[i] * line_q[i] * scale
            for k in range(free):
                normal[j, k] += w * form[i, j] * form[i, k]
    if not _invert(normal, free, covariance):
        return False
    for j in range(free):
        cell[j] = 0.0
        for k in range(free):
            cell[j] += covariance[j, k] * right[k]
        if not cell[j] > 0.0:
            return False
    return True


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
        if abs(line_q[i] - q[r]) < SHADOW * merge:
            p *= SHADOWED
        log_l += math.log(1.0 - p)
        absent += p > 0.5
    return log_l, absent


@njit(cache=True, nogil=True)
def _likelihood(
    line_q, line_error, log_area, area_error, meant, law, limits, window, scatter, doubt, ratio
):
    """ln of the part of L that is the lines', and how many of them are indexed."""
    width = window[1] - window[0]
    mean = 0.0
    for i in range(line_q.size):
        mean += (log_area[i] + 2.0 * math.log(line_q[i])) / line_q.size
    log_l, indexed = 0.0, 0
    for i in range(line_q.size):
        total, at, spread = meant[i]
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
def _room(cell, covariance, steps, unit_volume, free, core):
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
    line_q, line_error, log_area, area_error, limits, window, merge, scatter, ratio, free, forms,
    weight, least, most, ascending, steps, unit_volume, likenesses, core, cell, covariance, indexed_q, counts,
):  # fmt: skip
    """Refine one cell on the lines that it indexes, and its ln L times the parameters' volume.

    Parameters
    ----------
    line_q, line_error
        Places (n,), rising, with errors that include what profiles and zero cost.
    log_area, area_error
        ln of the areas and their relative errors (n,).
    limits
        ln of the least area that is found (g,), on an even grid over the window.
    window, merge
        (lowest, highest) q; reflections closer than ``merge`` are one.
    scatter
        Of ln(area) about its law.
    ratio
        r of the number of unexplained lines.
    free, forms, weight, least, most, ascending, steps, unit_volume, likenesses
        Of the lattice.
    core
        See ``_room``.
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
    count, lines = 0, line_q.size
    q, row = np.empty(MOST_PREDICTED), np.empty(MOST_PREDICTED, dtype=np.int64)
    of_reflection = np.full(MOST_PREDICTED, -2)
    before = np.empty_like(of_reflection)
    meant, form = np.zeros((lines, 3)), np.empty((lines, 3))
    law = np.empty(2)
    for _ in range(ROUNDS):
        before[:] = of_reflection
        count = predict(cell, forms, weight, window, q, row)
        if count <= 0:
            return -np.inf
        assign(line_q, line_error, merge, count, q, row, weight, forms, of_reflection, meant, form)
        if np.array_equal(before, of_reflection):
            break
        if not _least_squares(line_q, line_error, meant, form, free, cell, covariance):
            return -np.inf
    highest = 1e-9
    for i in range(lines):
        indexed_q[i] = meant[i, 1] if meant[i, 0] > 0.0 else np.nan
        if meant[i, 0] > 0.0:
            highest = line_q[i]
    if not _allowed(cell, free, least, most, ascending):
        return -np.inf
    # A distortion too small to split the highest line would be free, and is not claimed.
    if not _splits(cell, likenesses, HALF_MERGED * merge / highest):
        return -np.inf
    _area_law(line_q, log_area, area_error, scatter, meant, window[1], law)
    # Where it is found also depends on how the line finder did: half a factor more.
    doubt = math.hypot(scatter, 0.5)
    log_l, counts[0] = _likelihood(
        line_q, line_error, log_area, area_error, meant, law, limits, window, scatter, doubt, ratio
    )
    log_absent, counts[2] = _absences(
        line_q, count, q, row, weight, of_reflection, law, limits, window, merge, doubt
    )
    if counts[0] < free + (SPARE if unit_volume > 0.0 else 1):
        return -np.inf
    counts[1] = lines - counts[0]
    counts[3] = np.count_nonzero(q[:count] <= highest + 0.5 * merge)
    room = _room(cell, covariance, steps, unit_volume, free, core)
    return log_l + log_absent + _log_volume(cell, covariance, free) + math.log(room)


@njit(cache=True, nogil=True)
def weigh_all(
    line_q, line_error, log_area, area_error, limits, window, merge, scatter, ratio, free, forms,
    weights, least, most, ascending, steps, unit_volume, likenesses, core, cells, covariances, indexed_q, counts, evidence,
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
                line_q, line_error, log_area, area_error, limits, window, merge, scatter, ratio,
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
    """ln L of lines that are of no lattice, their number following the geometric law of ``ratio``."""
    return math.lgamma(count + 1.0) + math.log(1.0 - ratio) + count * math.log(ratio)
