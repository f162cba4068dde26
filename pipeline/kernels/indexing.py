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

Reflections closer than the lines' width are one: they are merged at their centre of weight.
Everything is in fixed order of operations.
"""

import math

import numpy as np
from numba import njit

GATE = 4.0
"""A line further from a reflection than so many standard deviations is not of it."""
MOST_PREDICTED = 96
"""Reflections in a window beyond which a cell is not weighed: lines are no longer told apart."""
SURE = 0.97
"""Probability at most that a reflection is found, however strong: it may be a shoulder."""
SHADOWED = 0.5
"""Factor of that probability where a stronger reflection lies within SHADOW widths."""
SHADOW = 1.6
WIDE_SCATTER = 1.5
"""Standard deviation of ln(area q^2) of lines that are of no lattice: a factor of 4.5."""
DAMPING = (2.0, 1.5)
"""B q_max^2, mean and standard deviation before it is fitted: displacements of 5 to 12 % of the
distance of neighbours, over a window of three or four orders."""
ROOT_2PI = math.sqrt(2.0 * math.pi)
DIFFERENT = 0.01
"""Cells whose parameters (u, v, w) differ by less are the same."""
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
def _promise(cell, free, forms, square, error, gain, nearest, lowest, highest, best):
    """Quick score of a cell: gain of the lines met, less what reflections without line cost."""
    count = square.size
    for i in range(count):
        best[i] = GATE * GATE
    scale = BINS / highest
    predicted = 0
    top = min(highest, square[count - 1] + GATE * error[count - 1])
    for r in range(forms.shape[0]):
        place = 0.0
        for j in range(free):
            place += cell[j] * forms[r, j]
        if place < lowest or place >= top:
            continue
        predicted += 1
        i = nearest[int(place * scale)]
        distance = (place - square[i]) / error[i]
        best[i] = min(best[i], distance * distance)
    total, met = 0.0, 0
    for i in range(count):
        if best[i] < GATE * GATE:
            total += gain[i] - 0.5 * best[i]
            met += 1
    if predicted > MOST_PREDICTED or met < free:
        return -np.inf
    return total - ABSENCE * (predicted - met)


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
    square, error, gain, lead, window, forms, seeds, inverses, least, most, ascending, cells, scores
):
    """The most promising cells of one lattice: low lines tried as all sets of low reflections.

    Parameters
    ----------
    square, error
        Q = (q / 2 pi)^2 of the lines and its standard error (n,), rising, in 1/nm^2.
    gain
        What a line that is met is worth (n,): about ln(W / (sqrt(2 pi) sigma)).
    lead
        Lines from which cells are made, the lowest ones.
    window
        (lowest, highest) Q.
    forms, seeds, inverses, least, most, ascending
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
    best, cell = np.empty(square.size), np.zeros(3)
    picked = np.arange(free)
    while True:
        for s in range(seeds.shape[0]):
            for j in range(free):
                cell[j] = 0.0
                for m in range(free):
                    cell[j] += inverses[s, j, m] * square[picked[m]]
            if not _allowed(cell, free, least, most, ascending):
                continue
            score = _promise(
                cell, free, forms, square, error, gain, nearest, window[0], window[1], best
            )
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
def predict(cell, forms, weight, window, merge, q, total, spread, form):
    """Reflections inside the window, by rising q, those closer than ``merge`` as one.

    Parameters
    ----------
    cell
        u, v, w (3,).
    window
        (lowest, highest) q.
    q, total, spread, form
        Overwritten (MOST_PREDICTED,), form (MOST_PREDICTED, 3): place, sum of the weights, extent
        (standard deviation) and mean form of the reflections that are one.

    Returns
    -------
    int
        How many; -1 if there are too many.
    """
    place, row = np.empty(MOST_PREDICTED), np.empty(MOST_PREDICTED, dtype=np.int64)
    count = 0
    for r in range(forms.shape[0]):
        squared = cell[0] * forms[r, 0] + cell[1] * forms[r, 1] + cell[2] * forms[r, 2]
        at = 2.0 * math.pi * math.sqrt(squared)
        if weight[r] <= 0.0 or at < window[0] or at > window[1]:
            continue
        if count == MOST_PREDICTED:
            return -1
        i = count
        while i > 0 and place[i - 1] > at:
            place[i] = place[i - 1]
            row[i] = row[i - 1]
            i -= 1
        place[i] = at
        row[i] = r
        count += 1
    merged = 0
    i = 0
    while i < count:
        mass, first, second = 0.0, 0.0, 0.0
        form[merged] = 0.0
        start = place[i]
        while i < count and place[i] - start <= merge:
            w = weight[row[i]]
            mass += w
            first += w * (place[i] - start)
            second += w * (place[i] - start) ** 2
            for j in range(3):
                form[merged, j] += w * forms[row[i], j]
            i += 1
        for j in range(3):
            form[merged, j] /= mass
        q[merged] = start + first / mass
        total[merged] = mass
        spread[merged] = math.sqrt(max(second / mass - (first / mass) ** 2, 0.0))
        merged += 1
    return merged


@njit(cache=True, nogil=True)
def assign(line_q, line_error, count, q, total, spread, of_line, of_reflection):
    """Each line's reflection (n,) and each reflection's line (count,), -1 where there is none.

    By distance in errors, weights breaking near ties; of two lines for one reflection the better
    one has it.
    """
    for r in range(count):
        of_reflection[r] = -1
    start = 0
    for i in range(line_q.size):
        of_line[i] = -1
        while start < count and q[start] < line_q[i] - 0.2 * line_q[i]:
            start += 1
        best, chosen = np.inf, -1
        for r in range(start, count):
            error = math.hypot(line_error[i], 0.5 * spread[r])
            distance = (line_q[i] - q[r]) / error
            if distance < -GATE:
                break
            cost = distance * distance - 2.0 * math.log(total[r])
            if abs(distance) <= GATE and cost < best:
                best, chosen = cost, r
        if chosen < 0:
            continue
        rival = of_reflection[chosen]
        if rival >= 0:
            if abs(line_q[rival] - q[chosen]) <= abs(line_q[i] - q[chosen]):
                continue
            of_line[rival] = -1
        of_line[i] = chosen
        of_reflection[chosen] = i


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
def _least_squares(line_q, line_error, of_line, spread, form, free, cell, covariance):
    """Weighted least squares of u, v, w on the indexed lines; False where they do not settle it."""
    normal, right = np.zeros((3, 3)), np.zeros(3)
    scale = 1.0 / (4.0 * math.pi * math.pi)
    for i in range(line_q.size):
        r = of_line[i]
        if r < 0:
            continue
        error = 2.0 * line_q[i] * scale * math.hypot(line_error[i], 0.5 * spread[r])
        w = 1.0 / (error * error)
        for j in range(free):
            right[j] += w * form[r, j] * line_q[i] * line_q[i] * scale
            for k in range(free):
                normal[j, k] += w * form[r, j] * form[r, k]
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
def _area_law(line_q, log_area, area_error, scatter, of_line, total, q_max, law):
    """ln K and B of the areas of indexed lines, into ``law`` (2,); B is held near DAMPING."""
    prior = 1.0 / (DAMPING[1] / q_max**2) ** 2
    s, sx, sxx, sy, sxy = 0.0, 0.0, prior, 0.0, -prior * DAMPING[0] / q_max**2
    for i in range(line_q.size):
        r = of_line[i]
        if r < 0:
            continue
        w = 1.0 / (scatter * scatter + area_error[i] * area_error[i])
        x = line_q[i] * line_q[i]
        y = log_area[i] + math.log(x) - math.log(total[r])
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
def _likelihood(
    line_q, line_error, log_area, area_error, of_line, of_reflection, count, q, total, spread, law,
    limits, window, merge, scatter, ratio, counts,
):  # fmt: skip
    """ln L of the module's docstring; ``counts`` (3,): indexed, unexplained, absent lines."""
    width = window[1] - window[0]
    # Where it is found also depends on how the line finder did: half a factor more.
    doubt = math.hypot(scatter, 0.5)
    log_l = 0.0
    counts[:] = 0
    mean = 0.0
    for i in range(line_q.size):
        mean += (log_area[i] + 2.0 * math.log(line_q[i])) / line_q.size
    for r in range(count):
        expected = law[0] - law[1] * q[r] * q[r] + math.log(total[r] / (q[r] * q[r]))
        p = SURE * _seen(q[r], expected, limits, window, doubt)
        for other in (r - 1, r + 1):
            if 0 <= other < count and total[other] > total[r]:
                if abs(q[other] - q[r]) < SHADOW * merge:
                    p *= SHADOWED
        i = of_reflection[r]
        if i < 0:
            log_l += math.log(1.0 - p)
            if p > 0.5:
                counts[2] += 1
            continue
        counts[0] += 1
        error = math.hypot(line_error[i], 0.5 * spread[r])
        z = (line_q[i] - q[r]) / error
        log_l += math.log(max(p, 1.0 - SURE) * width / (ROOT_2PI * error)) - 0.5 * z * z
        s = math.hypot(scatter, area_error[i])
        wide = math.hypot(WIDE_SCATTER, area_error[i])
        off = (log_area[i] - expected) / s
        usual = (log_area[i] + 2.0 * math.log(line_q[i]) - mean) / wide
        log_l += math.log(wide / s) - 0.5 * off * off + 0.5 * usual * usual
    counts[1] = line_q.size - counts[0]
    log_l += math.lgamma(counts[1] + 1.0) + math.log(1.0 - ratio) + counts[1] * math.log(ratio)
    bend = (law[1] * window[1] ** 2 - DAMPING[0]) / DAMPING[1]
    return log_l - 0.5 * bend * bend


@njit(cache=True, nogil=True)
def weigh(
    line_q, line_error, log_area, area_error, limits, window, merge, scatter, ratio, free, forms,
    weight, cell, covariance, of_line, indexed_q, counts,
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
    free, forms, weight
        Of the lattice.
    cell, covariance
        u, v, w (3,), refined in place; (3, 3), overwritten.
    of_line, indexed_q, counts
        Overwritten: index of each line's reflection among those predicted (n,) and its q (n,),
        -1 and NaN without; lines indexed, unexplained, and absent (3,), then how many reflections
        are predicted up to the highest indexed line (4th).

    Returns
    -------
    float
        ln of L (2 pi)^(free / 2) sqrt(det of the covariance of ln a, ln b, ln c); to be divided
        by the prior volume of these. -inf where the lines do not settle the cell.
    """
    q, total = np.empty(MOST_PREDICTED), np.empty(MOST_PREDICTED)
    spread = np.empty(MOST_PREDICTED)
    form = np.empty((MOST_PREDICTED, 3))
    of_reflection = np.empty(MOST_PREDICTED, dtype=np.int64)
    law = np.empty(2)
    for _ in range(3):
        count = predict(cell, forms, weight, window, merge, q, total, spread, form)
        if count <= 0:
            return -np.inf
        assign(line_q, line_error, count, q, total, spread, of_line, of_reflection)
        if not _least_squares(
            line_q, line_error, of_line, spread, form, free, cell, covariance
        ):
            return -np.inf
    count = predict(cell, forms, weight, window, merge, q, total, spread, form)
    if count <= 0:
        return -np.inf
    assign(line_q, line_error, count, q, total, spread, of_line, of_reflection)
    highest = -1
    for i in range(line_q.size):
        indexed_q[i] = q[of_line[i]] if of_line[i] >= 0 else np.nan
        highest = max(highest, of_line[i])
    if highest < 0:
        return -np.inf
    _area_law(line_q, log_area, area_error, scatter, of_line, total, window[1], law)
    log_l = _likelihood(
        line_q, line_error, log_area, area_error, of_line, of_reflection, count, q, total, spread,
        law, limits, window, merge, scatter, ratio, counts[:3],
    )  # fmt: skip
    counts[3] = highest + 1
    determinant = covariance[0, 0]
    if free == 2:
        determinant = covariance[0, 0] * covariance[1, 1] - covariance[0, 1] ** 2
    elif free == 3:
        c = covariance
        determinant = (
            c[0, 0] * (c[1, 1] * c[2, 2] - c[1, 2] ** 2)
            - c[0, 1] * (c[0, 1] * c[2, 2] - c[1, 2] * c[0, 2])
            + c[0, 2] * (c[0, 1] * c[1, 2] - c[1, 1] * c[0, 2])
        )
    for j in range(free):
        # ln a = -ln(u) / 2.
        determinant /= 4.0 * cell[j] * cell[j]
    return log_l + 0.5 * free * math.log(2.0 * math.pi) + 0.5 * math.log(max(determinant, 1e-300))


@njit(cache=True, nogil=True)
def unrelated(count, ratio):
    """ln L of lines that are of no lattice, their number following the geometric law of ``ratio``."""
    return math.lgamma(count + 1.0) + math.log(1.0 - ratio) + count * math.log(ratio)
