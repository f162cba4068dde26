"""Cells proposed for powder lines: low lines tried as all sets of low reflections."""

import numpy as np
from numba import njit

from pipeline.kernels.cell_refinement import GATE, MOST_PREDICTED, allowed

DIFFERENT = 0.04
"""Cells whose parameters (u, v, w) differ by less are the same."""
BINS = 1024
"""Of the table in which a proposal looks for the nearest line."""
ABSENCE = 0.7
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
        i = nearest[min(int(place * scale), BINS - 1)]
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
        for j in range(3):
            cells[t, j] = cells[t - 1, j]
        t -= 1
    scores[t] = score
    for j in range(3):
        cells[t, j] = cell[j]


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
            if not allowed(cell, free, least, most, ascending):
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
