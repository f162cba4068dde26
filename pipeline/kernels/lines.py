"""Lines of a curve over what varies slowly: how many, where, how high and how wide.

The search is greedy. The most significant further line is added to those that there are, all are
refined together, and so on until none is significant. A further line is judged by its efficient
score: what is left of it after what varies slowly, and after heights, places and widths of the
lines that there are, so that a line that is merely misplaced or too narrow does not call for a
second one, and two that overlap are told apart where the curve demands it. The level is that which
noise exceeds anywhere in the window with the given probability: Rice's bound, as in
``pipeline.kernels.order``; refining places and widths between those that are tried adds little to
it, what it adds is measured in the tests.

Where residuals scatter more than sigma says, or neighbours go together, all levels and errors are
wider by that much. While lines are still missing only the scatter from one point to the next can be
told; so lines are added by that, and those that do not stand out from what all leave at the end are
taken away again.

What is no line: a feature that cannot be placed with its upper half inside of the window, or that
falls to one side only (an upturn or a shadow at the beamstop), or that is near an end and no
maximum of the curve. It stays in the fit, so that the lines do not take it up, and is not reported.
Nor is a second line within the same width as a first (``SEPARATE``), nor a weak one at the foot of
a strong one (``SATELLITE``): real profiles are not quite Gaussian, and differ there.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.kernels.line_judgement import (
    best_further,
    half_seen,
    is_maximum,
    misplaced,
    roughness,
    score_level,
    widest_misfit,
)
from pipeline.kernels.line_profiles import Grid, fill_residual, make_rows, whiten_templates
from pipeline.kernels.line_refinement import (
    fill_covariance,
    height_error,
    height_errors,
    is_pressed,
    refine,
)
from pipeline.kernels.order import REACH, noise_level, project_out

LINE, EDGE = 1, 2
"""Kinds: a line; a feature of the window's end or without a second flank."""
ENOUGH, ENOUGH_AT_LAST = 1e-2, 1e-3
"""Fall of chi-square that ends a refinement: 0.1 standard errors from the minimum while lines are
sought, where it adds as much to a further line's score, and 0.03 at last."""
STEPS = 25
MOST_REFUSED = 6
"""Further lines that turn out to be none, after which there are no more."""
PASSES = 3
"""Searches at most: splinters of strong lines, which are taken away at the end, may have taken the
places of weaker ones."""
SPLIT_SCORE = 2.0
"""Two are sought in a line that is so many levels high."""
HALF_SEEN = 0.3
"""Height that each half of a line asks for alone, over the line's, at least."""


NEAR_END = 3.0
"""A line that is nearer to an end of the window than so many of its widths has to be a maximum of
the curve itself."""


class Search(NamedTuple):
    """What does not change from frame to frame."""

    grid: Grid
    least_fwhm_per_nm: np.ndarray
    """Narrowest width that a line may have at each q: the instrument's (n,)."""
    widest_per_nm: float
    low_per_nm: float
    high_per_nm: float
    least_height: float
    """A line must be significantly higher than this, in units of the scale."""
    false_alarm: float
    """Probability that noise alone gives a line anywhere."""
    most: int
    """Most lines, features of the window's ends among them."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundLines:
    """Lines and edges of one curve by rising place."""

    at: np.ndarray
    """Place and full width as seen (m, 2), 1/nm."""
    heights: np.ndarray
    """In units of the scale (m,)."""
    sigmas: np.ndarray
    """Height over the error that it would have if nothing were there (m,)."""
    kinds: np.ndarray
    """`LINE` or `EDGE` (m,)."""
    covariance: np.ndarray
    """Of height, place and width of each (3 m, 3 m); NaN for what a bound holds."""
    noise: float
    """Scatter over what sigma says, at least 1; the errors are wider by it."""
    level: float
    """Score that a line needed."""


class _Fit:
    """Lines of one curve while they are sought."""

    def __init__(
        self, search: Search, data_w: np.ndarray, scale_w: np.ndarray, basis: np.ndarray
    ) -> None:
        most, points, rank = search.most, data_w.size, len(basis)
        self.search, self.scale, self.basis = search, scale_w, basis
        self.whole_data = data_w
        self.data = project_out(data_w, basis)
        self.residual = np.empty(points)
        self.at, self.bounds, self.heights = (
            np.zeros((most, 2)),
            np.zeros((most, 4)),
            np.zeros(most),
        )
        self.rows, self.spare = make_rows(most, points, rank), make_rows(most, points, rank)
        self._kept_rows = make_rows(most, points, rank)
        self.whole = np.zeros(most, np.bool_)
        self.count, self.fall, self.noise = 0, 0.0, 1.0

    def refine(
        self, moves: np.ndarray | None = None, steps: int = STEPS, enough: float = ENOUGH
    ) -> None:
        """Bring the lines that move, or all, to the minimum."""
        if moves is None:
            moves = np.ones(self.count, np.bool_)
        self.fall = refine(
            self.search.grid.q_per_nm, self.data, self.scale, self.basis, self.bounds, moves,
            self.count, steps, enough, self.at, self.heights, self.rows, self.spare,
        )  # fmt: skip

    def near(self, place_per_nm: float, fwhm_per_nm: float) -> np.ndarray:
        """Which lines overlap with one (m,)."""
        at = self.at[: self.count]
        return np.abs(at[:, 0] - place_per_nm) < 0.5 * REACH * (at[:, 1] + fwhm_per_nm)

    def look(self) -> None:
        """What the lines leave, and how much it scatters."""
        fill_residual(self.data, self.basis, self.rows, self.heights, self.count, self.residual)
        free = 1.0 - (len(self.basis) + 3.0 * self.count) / self.residual.size
        self.noise = max(1.0, float(noise_level(self.residual)) / math.sqrt(max(free, 0.1)))

    def add(self, place_per_nm: float, fwhm_per_nm: float) -> None:
        """One more line, not refined yet."""
        search, j = self.search, self.count
        point = min(int(np.searchsorted(search.grid.q_per_nm, place_per_nm)), self.data.size - 1)
        self.at[j] = place_per_nm, fwhm_per_nm
        self.bounds[j] = (
            search.least_fwhm_per_nm[point], search.widest_per_nm, search.low_per_nm,
            search.high_per_nm,
        )  # fmt: skip
        self.whole[j] = False
        self.count += 1

    def remove(self, j: int) -> None:
        """One line less, the last in its place; not refined yet."""
        self.count -= 1
        for array in (self.at, self.bounds, self.whole):
            array[j] = array[self.count]

    def refine_without(self, j: int) -> None:
        """One line less, and those that it met at their minimum."""
        place, width = self.at[j].tolist()
        self.remove(j)
        moves = self.near(place, width)
        moves[j : j + 1] = True
        self.refine(moves)

    def without_height(self) -> int:
        """The first line without a height, or -1."""
        gone = np.flatnonzero(self.heights[: self.count] == 0.0)
        return int(gone[0]) if gone.size else -1

    def error(self, j: int) -> float:
        """Error of a height if nothing were there."""
        return self.noise * height_error(
            self.rows, self.at, self.bounds, self.heights, self.count, j
        )

    def errors(self) -> np.ndarray:
        """Errors of all heights if nothing were there (m,)."""
        return self.noise * height_errors(self.rows, self.at, self.bounds, self.heights, self.count)

    def keep(self) -> None:
        """Remember all as it is."""
        self._kept = (self.at.copy(), self.bounds.copy(), self.heights.copy(), self.whole.copy())
        self._kept_count, self._kept_fall = self.count, self.fall
        for array, kept in zip(self.rows, self._kept_rows, strict=True):
            np.copyto(kept, array)

    def go_back(self) -> None:
        """As it was when it was remembered."""
        for array, kept in zip(
            (self.at, self.bounds, self.heights, self.whole), self._kept, strict=True
        ):
            np.copyto(array, kept)
        self.count, self.fall = self._kept_count, self._kept_fall
        for array, kept in zip(self.rows, self._kept_rows, strict=True):
            np.copyto(array, kept)


def find_lines(
    search: Search, data_w: np.ndarray, scale_w: np.ndarray, basis: np.ndarray
) -> FoundLines:
    """Find all lines of one curve.

    Parameters
    ----------
    search
        See `Search`.
    data_w, scale_w
        Whitened curve and what a line multiplies (n,).
    basis
        Orthonormal whitened nuisances (k, n), from ``pipeline.kernels.order.orthonormal``.
    """
    grid = search.grid
    fit = _Fit(search, data_w, scale_w, basis)
    values_w, left = np.empty(grid.values.size), np.empty(grid.centres_per_nm.size)
    shares, dead = np.empty((left.size, len(basis))), np.zeros(left.size, np.bool_)
    length = whiten_templates(grid, scale_w, basis, values_w, shares, left)
    level = score_level(search.false_alarm, length, max(np.count_nonzero(grid.begins), 1))
    for _ in range(PASSES):
        before = fit.count
        dead[:] = False
        fit.whole[:] = False
        _gather(fit, level, (values_w, shares, left, dead))
        fit.refine()
        fit.look()
        found = fit.count
        _prune(fit, level)
        if fit.count == found or fit.count <= before:
            break
    return _finish(fit, level)


def _gather(
    fit: _Fit, level: float, templates: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
) -> None:
    """Put in one line after the other until nothing is left that is one."""
    search, refused = fit.search, 0
    grid = search.grid
    values_w, shares, left, dead = templates
    while fit.count < search.most and refused < MOST_REFUSED:
        fit.look()
        # Lines not found yet are noise to the whole, but hardly from one point to the next.
        noise = min(fit.noise, max(1.0, float(roughness(fit.residual))))
        if _split(fit, level, noise):
            continue
        j, score = best_further(
            grid, values_w, shares, left, dead, fit.residual, search.least_height, noise,
            fit.rows, fit.at, fit.bounds, fit.heights, fit.count,
        )  # fmt: skip
        if j < 0 or score < level:
            break
        place, width = float(grid.centres_per_nm[j]), float(grid.fwhm_per_nm[j])
        if not _try(fit, ((place, width),), -1, level * noise):
            # Nothing more from around here.
            refused += 1
            reach = 0.5 * np.maximum(grid.fwhm_per_nm, width)
            dead |= np.abs(grid.centres_per_nm - place) < reach


def _try(fit: _Fit, more: tuple[tuple[float, float], ...], without: int, least_gain: float) -> bool:
    """Put more lines (place, width) in, for one that there is if ``without`` is not -1.

    If they do not let the root of chi-square fall by ``least_gain``, or one is none, leave all as
    it was and say so.
    """
    fit.keep()
    fall = fit.fall
    if without >= 0:
        fit.remove(without)
    kept = fit.count
    for place, width in more:
        fit.add(place, width)
    middle = sum(place for place, _ in more) / len(more)
    widest = max(width for _, width in more)
    moves = fit.near(middle, widest)
    moves[kept:] = True
    if without >= 0:
        moves[without] = True
    fit.refine(moves)
    gone = fit.without_height()
    if without < 0:
        wrong = misplaced(fit.at, fit.heights, fit.count)
        if 0 <= gone < kept:
            # The new one does what an old one did.
            fit.refine_without(gone)
            gone = fit.without_height()
        elif gone < 0 <= wrong < kept:
            # A wide one that stood for several: narrow, it can be one of them.
            fit.at[wrong, 1] = np.min(fit.at[: fit.count, 1])
            fit.refine(moves)
            gone = fit.without_height()
    gain = math.sqrt(max(fit.fall - fall, 0.0))
    if gone < 0 and gain >= least_gain and misplaced(fit.at, fit.heights, fit.count) < 0:
        return True
    fit.go_back()
    return False


def _split(fit: _Fit, level: float, noise: float) -> bool:
    """Put two lines in the place of one, the widest first; False if none is the better for it.

    A pair of which a single line has taken the place has no maximum of its own left for a further
    line to be found at. It is tried where more is left over a line than noise.
    """
    if fit.count == 0 or fit.count == fit.search.most:
        return False
    least_gain = level * noise
    while True:
        j = widest_misfit(
            fit.rows, fit.at, fit.bounds, fit.whole, fit.residual, noise, least_gain, fit.count
        )
        if j < 0:
            return False
        fit.whole[j] = True
        if fit.heights[j] < SPLIT_SCORE * least_gain * fit.error(j) / fit.noise:
            continue
        place, width = fit.at[j].tolist()
        halves = ((place - 0.3 * width, 0.6 * width), (place + 0.3 * width, 0.6 * width))
        if _try(fit, halves, j, least_gain):
            return True


def _prune(fit: _Fit, level: float) -> None:
    """Take away, one by one, lines that do not stand out.

    Noise is what all lines leave: without one that is taken away, it is noise to the others.
    """
    noise = fit.noise
    while fit.count > 0:
        scores = (fit.heights[: fit.count] - fit.search.least_height) / fit.errors()
        worst = int(np.argmin(scores))
        if scores[worst] >= level:
            worst = misplaced(fit.at, fit.heights, fit.count)
            if worst < 0:
                return
        fit.refine_without(worst)
        fit.noise = noise


def _finish(fit: _Fit, level: float) -> FoundLines:
    """Bring the lines to their minimum, and say what each is and how well it is known."""
    count = fit.count
    order = np.argsort(fit.at[:count, 0], kind="stable")
    fit.at[:count], fit.bounds[:count] = fit.at[order], fit.bounds[order]
    fit.refine(enough=ENOUGH_AT_LAST)
    fit.look()
    covariance = np.empty((3 * count, 3 * count))
    fill_covariance(fit.rows, fit.at, fit.bounds, fit.heights, count, covariance)
    kinds = np.array([_kind(fit, j) for j in range(count)], dtype=np.int64)
    heights = fit.heights[:count].copy()
    return FoundLines(
        at=fit.at[:count].copy(),
        heights=heights,
        sigmas=heights / fit.errors() if count else heights,
        kinds=kinds,
        covariance=covariance * fit.noise**2,
        noise=fit.noise,
        level=level,
    )


def _kind(fit: _Fit, j: int) -> int:
    """Whether a line lies inside of the window and is seen to both sides of its maximum."""
    at, bounds = fit.at, fit.bounds
    outside = (
        is_pressed(at, bounds, j, 0, -1.0)
        or is_pressed(at, bounds, j, 0, 1.0)
        or is_pressed(at, bounds, j, 1, 1.0)
    )
    q, search, (place, width) = fit.search.grid.q_per_nm, fit.search, at[j].tolist()
    seen = half_seen(q, fit.basis, fit.rows, fit.heights, place, fit.residual, j)
    if outside or seen < HALF_SEEN:
        return EDGE
    near_end = min(place - search.low_per_nm, search.high_per_nm - place) < NEAR_END * width
    if near_end and not is_maximum(q, fit.whole_data, fit.scale, fit.noise, place, width):
        return EDGE
    return LINE
