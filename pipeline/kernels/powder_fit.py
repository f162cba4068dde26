"""Fit of powder patterns over fixed columns, by variable projection.

Edges, widths and strains of `pipeline.kernels.powder` are searched; amplitudes follow from one
whitened Gram matrix (`solve_active_set`). Levenberg-Marquardt with Kaufman's Jacobian, as in
`pipeline.kernels.variable_projection`.

Arrays named ``..._w`` are whitened (divided by sigma); ``at`` is (phases, 5).
"""

import numpy as np
from numba import njit

from pipeline.kernels.amplitudes import invert_subset, solve_active_set, solve_subset
from pipeline.kernels.linear import dot
from pipeline.kernels.order import scan
from pipeline.kernels.powder import SEARCHED, WIDTH, fill_patterns, fill_slopes

MAX_STEPS = 25
CONVERGED = 0.01
"""Promised fall of chi-square that ends the search: 0.1 standard errors from the minimum."""
MOST_DAMPING = 1e7


@njit(cache=True, nogil=True)
def columns_of(powder, present, fixed):
    """Places of the columns of the phases present behind ``fixed`` others; how many in all."""
    starts = np.full(present.size, -1, np.int64)
    count = fixed
    for p in range(present.size):
        if present[p]:
            starts[p] = count
            count += powder.first_column[p + 1] - powder.first_column[p]
    return starts, count


@njit(cache=True, nogil=True)
def _project(powder, present, starts, count, fixed, data_w, weight, at, columns, free, amplitudes):
    """Columns at ``at``, their best amplitudes; chi-square without priors, residual (n,), Gram."""
    for p in range(present.size):
        if present[p]:
            many = powder.first_column[p + 1] - powder.first_column[p]
            fill_patterns(powder, p, at, weight, columns[starts[p] : starts[p] + many])
    gram, moment = np.empty((count, count)), np.empty(count)
    for i in range(count):
        moment[i] = dot(columns[i], data_w)
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = dot(columns[i], columns[j])
    solve_active_set(gram, moment, free, amplitudes)
    residual = data_w.copy()
    for i in range(count):
        if amplitudes[i] != 0.0:
            for k in range(residual.size):
                residual[k] -= amplitudes[i] * columns[i, k]
    return dot(residual, residual), residual, gram


@njit(cache=True, nogil=True)
def _prior(powder, present, at):
    total = 0.0
    for p in range(present.size):
        if present[p]:
            for a in range(3):
                if powder.searched[p, a]:
                    total += (at[p, a] / powder.edge_sd) ** 2
    return total


@njit(cache=True, nogil=True)
def fill_jacobian(powder, present, starts, at, weight, amplitudes, lines, owners):
    """Whitened derivatives of the model by what is searched, into ``lines``; how many.

    ``owners`` (m, 2) takes phase and number of each.
    """
    slopes = np.empty((SEARCHED, weight.size))
    everywhere = np.zeros(powder.first_column[-1])
    for p in range(present.size):
        if present[p]:
            for c in range(powder.first_column[p], powder.first_column[p + 1]):
                everywhere[c] = amplitudes[starts[p] + c - powder.first_column[p]]
    count = 0
    for p in range(present.size):
        if not present[p]:
            continue
        fill_slopes(powder, p, at, everywhere, weight, slopes)
        for a in range(SEARCHED):
            if powder.searched[p, a]:
                lines[count] = slopes[a]
                owners[count, 0], owners[count, 1] = p, a
                count += 1
    return count


@njit(cache=True, nogil=True)
def fit_phases(powder, present, fixed_w, fixed_non_negative, data_w, weight, at, amplitudes):
    """Fit of the phases ``present`` over ``fixed_w``, from ``at``.

    Parameters
    ----------
    powder
        See `Powder`.
    present
        (phases,) booleans.
    fixed_w, fixed_non_negative
        Whitened columns of everything else (m, n), and which must not be negative (m,).
    data_w, weight
        Whitened curve and 1/sigma (n,).
    at
        (phases, 5), the start; overwritten by the minimum.
    amplitudes
        At least (m + columns of those present,): fixed ones, then by phase. Overwritten.

    Returns
    -------
    chi2
        At the minimum, priors included.
    columns
        Whitened, in the order of ``amplitudes``.
    residual_w
        What is left (n,).
    """
    many = fixed_w.shape[0]
    starts, count = columns_of(powder, present, many)
    columns = np.empty((count, weight.size))
    columns[:many] = fixed_w
    free = np.ones(count, np.bool_)
    free[:many] = fixed_non_negative
    most = SEARCHED * present.size
    lines, owners = np.empty((most, weight.size)), np.empty((most, 2), np.int64)
    here, trial = amplitudes[:count], np.empty(count)
    chi2, residual, gram = _project(
        powder, present, starts, count, many, data_w, weight, at, columns, free, here
    )
    chi2 += _prior(powder, present, at)
    damping = 1e-3
    kept = columns.copy()
    for _ in range(MAX_STEPS):
        searched = fill_jacobian(powder, present, starts, at, weight, here, lines, owners)
        if searched == 0:
            break
        normal, gradient = _reduced(powder, lines, owners, searched, kept, gram, residual, here, at)
        better = False
        while damping < MOST_DAMPING:
            moved, promised = _step(powder, normal, gradient, owners, searched, damping, at)
            if promised < CONVERGED:
                break
            trial[:] = here
            value, left, products = _project(
                powder, present, starts, count, many, data_w, weight, moved, columns, free, trial
            )
            value += _prior(powder, present, moved)
            if value < chi2:
                better = True
                break
            damping *= 8.0
        if not better:
            break
        fall = chi2 - value
        chi2, residual, gram = value, left, products
        at[:] = moved
        here[:] = trial
        kept[:] = columns
        damping = max(damping / 8.0, 1e-6)
        if fall < CONVERGED:
            break
    return chi2, kept, residual


@njit(cache=True, nogil=True)
def _reduced(powder, lines, owners, searched, columns, gram, residual, amplitudes, at):
    """Normal matrix and gradient of what is searched, amplitudes projected out, priors in."""
    size = amplitudes.size
    members, count = np.empty(size, np.int64), 0
    for j in range(size):
        if amplitudes[j] != 0.0:
            members[count] = j
            count += 1
    crossed, projected = np.empty((searched, size)), np.zeros((searched, size))
    for a in range(searched):
        for j in range(size):
            crossed[a, j] = dot(lines[a], columns[j])
        if not solve_subset(gram, crossed[a], members, count, projected[a]):
            projected[a] = 0.0
    normal, gradient = np.zeros((searched, searched)), np.zeros(searched)
    for a in range(searched):
        gradient[a] = dot(lines[a], residual)
        for b in range(a + 1):
            value = dot(lines[a], lines[b])
            for j in range(count):
                value -= crossed[a, members[j]] * projected[b, j]
            normal[a, b] = normal[b, a] = value
        p, which = owners[a]
        if which < WIDTH:
            normal[a, a] += 1.0 / powder.edge_sd**2
            gradient[a] -= at[p, which] / powder.edge_sd**2
    return normal, gradient


@njit(cache=True, nogil=True)
def _step(powder, normal, gradient, owners, searched, damping, at):
    """A damped step inside the bounds from ``at``: where it leads, what fall it promises."""
    moved = at.copy()
    members, count = np.empty(searched, np.int64), 0
    for a in range(searched):
        p, which = owners[a]
        pressed = at[p, which] <= powder.lower[p, which] and gradient[a] < 0.0
        pressed |= at[p, which] >= powder.upper[p, which] and gradient[a] > 0.0
        if normal[a, a] > 0.0 and not pressed:
            members[count] = a
            count += 1
    if count == 0:
        return moved, 0.0
    damped, solution = normal.copy(), np.empty(count)
    for a in range(searched):
        damped[a, a] *= 1.0 + damping
    if not solve_subset(damped, gradient, members, count, solution):
        return moved, 0.0
    taken = np.zeros(searched)
    for i in range(count):
        p, which = owners[members[i]]
        place = at[p, which] + solution[i]
        place = min(max(place, powder.lower[p, which]), powder.upper[p, which])
        taken[members[i]] = place - at[p, which]
        moved[p, which] = place
    promised = 0.0
    for a in range(searched):
        promised += 2.0 * taken[a] * gradient[a]
        for b in range(searched):
            promised -= taken[a] * normal[a, b] * taken[b]
    return moved, promised


@njit(cache=True, nogil=True)
def fit_covariance(powder, present, columns, amplitudes, weight, at, covariance, owners):
    """Covariance of amplitudes, then of what is searched, for a whitened curve of unit noise.

    Parameters
    ----------
    columns, amplitudes
        Of `fit_phases` (k, n) and (k,).
    covariance
        At least (k + 5 phases)^2, overwritten; rows of phases' amplitudes at zero, and of what sits
        on a bound, are zero. Other amplitudes count although they are at zero.
    owners
        (5 phases, 2), overwritten by phase and number of each that is searched.

    Returns
    -------
    int
        How many are searched; -1 if some cannot be told apart.
    """
    fixed = amplitudes.size - _own_columns(powder, present)
    starts, size = columns_of(powder, present, fixed)
    lines = np.empty((SEARCHED * present.size, weight.size))
    searched = fill_jacobian(powder, present, starts, at, weight, amplitudes, lines, owners)
    total = size + searched
    normal = np.empty((total, total))
    members, count = np.empty(total, np.int64), 0
    for i in range(total):
        own = columns[i] if i < size else lines[i - size]
        for j in range(i + 1):
            normal[i, j] = normal[j, i] = dot(own, columns[j] if j < size else lines[j - size])
        inside = i < fixed or (i < size and amplitudes[i] != 0.0)
        if i >= size:
            p, which = owners[i - size]
            inside = powder.lower[p, which] < at[p, which] < powder.upper[p, which]
            if which < WIDTH:
                normal[i, i] += 1.0 / powder.edge_sd**2
        if inside and normal[i, i] > 0.0:
            members[count] = i
            count += 1
    if not invert_subset(normal, members, count, covariance):
        return -1
    return searched


@njit(cache=True, nogil=True)
def _own_columns(powder, present):
    count = 0
    for p in range(present.size):
        if present[p]:
            count += powder.first_column[p + 1] - powder.first_column[p]
    return count


@njit(cache=True, nogil=True)
def scan_columns(residual_w, weight, basis, templates, supports, scores, lengths):
    """`pipeline.kernels.order.scan` of each column of a phase.

    Parameters
    ----------
    residual_w, weight, basis
        See there; (n,), (n,), (k, n).
    templates, supports
        (columns, stretches, n), and (columns, stretches, 2) from `supports_of` there.
    scores, lengths
        (columns, stretches) and (columns,), overwritten.
    """
    for c in range(templates.shape[0]):
        lengths[c] = scan(residual_w, weight, basis, templates[c], supports[c], 0.0, scores[c])
