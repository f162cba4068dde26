"""Lines of a curve: the search with units, and what it found as messages have it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.kernels.line_profiles import AREA, make_grid
from pipeline.kernels.lines import LINE, Search, find_lines
from pipeline.kernels.order import FOUR_LN2, orthonormal
from pipeline.messages.lines import Line

RESOLVED = 2.0
"""Standard errors by which the square of a width has to exceed the instrument's to be a width."""
NARROWEST_STEPS = 1.5
"""Least full width in steps of q: what is narrower is a bad pixel."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Lines of one curve.

    ``model`` is their sum at each q (n,) in units of the scale, with ``edges`` features that are
    no lines (see ``pipeline.kernels.lines``). ``noise`` is the scatter over what sigma says, at
    least 1, in all errors. ``level`` is the score that a line needed. ``covariance`` (3 m, 3 m)
    is of height, place and width as seen of each line; NaN where a bound holds one.
    """

    lines: tuple[Line, ...]
    model: np.ndarray
    edges: int
    noise: float
    level: float
    covariance: np.ndarray


class LineSearch:
    """Search of lines on one q axis.

    Parameters
    ----------
    q_per_nm
        (n,), rising.
    instrument_fwhm_per_nm
        Full width of the instrument at each q (n,), or one for all.
    own_fwhm_per_nm
        Widths of lines that are tried, ascending, the instrument's not in it.
    false_alarm
        Probability that noise alone gives a line anywhere in the window.
    least_height
        A line must be significantly higher, in units of the scale.
    widest_per_nm
        Greatest full width that a line may have.
    most
        Most lines.
    window_per_nm
        Ends of the window that the upper half of a line has to lie in; None = the whole axis.
    ends
        Whether the curve may rise or fall steeply at the ends of the axis, as at a beamstop.
    """

    def __init__(
        self,
        q_per_nm: np.ndarray,
        instrument_fwhm_per_nm: np.ndarray | float,
        own_fwhm_per_nm: tuple[float, ...],
        *,
        false_alarm: float,
        widest_per_nm: float,
        least_height: float = 0.0,
        most: int = 12,
        window_per_nm: tuple[float, float] | None = None,
        ends: bool = True,
    ) -> None:
        q = np.ascontiguousarray(q_per_nm, dtype=float)
        self.instrument = np.broadcast_to(np.asarray(instrument_fwhm_per_nm, float), q.shape).copy()
        low, high = window_per_nm or (float(q[0]), float(q[-1]))
        low, high = max(low, float(q[0])), min(high, float(q[-1]))
        self._ends = _decays_from_ends(q, own_fwhm_per_nm if ends else ())
        self.search = Search(
            grid=make_grid(q, self.instrument, own_fwhm_per_nm, low, high),
            least_fwhm_per_nm=np.maximum(self.instrument, NARROWEST_STEPS * np.gradient(q)),
            widest_per_nm=min(widest_per_nm, 0.5 * (high - low)),
            low_per_nm=low,
            high_per_nm=high,
            least_height=least_height,
            false_alarm=false_alarm,
            most=most,
        )

    def find(
        self, data: np.ndarray, sigma: np.ndarray, scale: np.ndarray, nuisances: np.ndarray
    ) -> Found:
        """Lines of one curve, all (n,) on the axis of this search, sigma finite and positive.

        Parameters
        ----------
        data, sigma
            The curve, or what a fit leaves of it, with its error.
        scale
            What a line multiplies: the particles' scattering, or 1.
        nuisances
            What varies slowly (k, n); their amplitudes are free.
        """
        weight = 1.0 / sigma
        columns = np.ascontiguousarray(np.vstack([nuisances, self._ends * scale]) * weight)
        basis = np.empty_like(columns)
        basis = basis[: orthonormal(columns, basis)]
        found = find_lines(self.search, data * weight, scale * weight, basis)
        at, heights, covariance = found.at, found.heights, found.covariance
        distance = (self.search.grid.q_per_nm - at[:, :1]) / at[:, 1:]
        kept = np.flatnonzero(found.kinds == LINE)
        rows = (3 * kept[:, None] + np.arange(3)).ravel()
        lines = tuple(
            self._line(at[j], float(heights[j]), float(found.sigmas[j]), covariance[own, own])
            for j in kept
            for own in (slice(3 * j, 3 * j + 3),)
        )
        return Found(
            lines=lines,
            model=heights @ np.exp(-FOUR_LN2 * distance**2),
            edges=len(heights) - len(lines),
            noise=found.noise,
            level=found.level,
            covariance=covariance[np.ix_(rows, rows)],
        )

    def _line(self, at: np.ndarray, height: float, sigmas: float, covariance: np.ndarray) -> Line:
        """One line with its errors; ``covariance`` (3, 3) of height, place, width as seen."""
        place, width = at.tolist()
        instrument = float(np.interp(place, self.search.grid.q_per_nm, self.instrument))
        # A width that is held at the instrument's has no error, and adds none to the area's.
        square, width_err = width**2 - instrument**2, _root(float(covariance[2, 2]))
        own = own_err = math.nan
        if square > RESOLVED * 2.0 * width * width_err:
            own = math.sqrt(square)
            own_err = width * width_err / own
        area_square = width**2 * float(covariance[0, 0])
        if width_err > 0:
            area_square += 2 * width * height * float(covariance[0, 2]) + (height * width_err) ** 2
        return Line(
            q_per_nm=place,
            q_per_nm_err=_root(float(covariance[1, 1])),
            height=height,
            height_err=_root(float(covariance[0, 0])),
            fwhm_per_nm=own,
            fwhm_per_nm_err=own_err,
            area=AREA * height * width,
            area_err=AREA * _root(area_square),
            sigmas=sigmas,
        )


def _decays_from_ends(q: np.ndarray, own_fwhm_per_nm: tuple[float, ...]) -> np.ndarray:
    """Exponentials from both ends of the window (k, n): what a beamstop or a cut peak does there.

    Half of each width that is tried, and one as long as the widest, are dense enough to make up
    upturns, shadows and shoulders of any length between them to a few hundredths.
    """
    lengths = [0.5 * width for width in own_fwhm_per_nm] + list(own_fwhm_per_nm[-1:])
    step = float(np.median(np.diff(q)))
    decays = [
        np.exp(-distance / max(length, step))
        for distance in (q - q[0], q[-1] - q)
        for length in lengths
    ]
    return np.array(decays).reshape(-1, q.size)


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan


def warm_up() -> None:
    """Compile (or load from disk) every kernel of the search, by finding one line."""
    q = np.linspace(0.2, 1.0, 60)
    search = LineSearch(q, 0.0, (0.05, 0.1), false_alarm=1e-3, widest_per_nm=0.3)
    line = np.exp(-(((q - 0.5) / 0.05) ** 2)) + np.exp(-(((q - 0.75) / 0.05) ** 2))
    search.find(line, np.full(q.size, 0.01), np.ones(q.size), np.ones((1, q.size)))
