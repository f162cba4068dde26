"""Points on rings: where each ring is in each narrow sector of azimuth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from pipeline.calibrate.rings import LEAST_SIGNIFICANCE, fit_peak

# Length of a sector along its ring. So short that the ring hardly bends in it or drifts across
# pixels if the geometry is off, so long that a weak ring has counts.
_ARC_PIXELS = 24.0

# Half the window about a ring, as a part of the distance to its nearest neighbour and in pixels.
_WINDOW = 0.35
_WIDEST_PIXELS = 25.0

Angle = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ring_points(
    image: np.ndarray,
    usable: np.ndarray,
    two_theta: np.ndarray,
    azimuth: np.ndarray,
    rings: dict[int, float],
    window_rad: dict[int, float],
    angle: Angle,
) -> np.ndarray:
    """Points on rings, one a sector, from all the sector's counts.

    A maximum of single pixels follows noise and leans towards where the background rises; a fit to
    a sector's profile does not.

    Parameters
    ----------
    image
        (rows, columns) of counts.
    usable
        (rows, columns) bool.
    two_theta, azimuth
        (rows, columns) angles of pixels' centres by the present geometry, in radians.
    rings, window_rad
        2theta of each ring by number, and the distance to its nearest neighbour.
    angle
        2theta by the present geometry from rows and columns, whole numbers at pixels' centres.

    Returns
    -------
    points
        (points, 4): row, column, number of the ring, standard error in radians of 2theta.
    """
    slope = _slope(two_theta)
    found: list[tuple[float, float, float, float]] = []
    for number, place in rings.items():
        along = slope[np.abs(two_theta - place) < 0.02 * place]
        pixel = float(np.median(along)) if along.size else float(slope.min())
        half = min(_WINDOW * window_rad[number], _WIDEST_PIXELS * pixel)
        near = usable & (np.abs(two_theta - place) < half)
        width = min(math.radians(10.0), _ARC_PIXELS * pixel / math.sin(place))
        for member in _sectors(near, azimuth, width):
            peak = _peak(image[member], two_theta[member], place - half, pixel)
            if peak is None or peak[2] < LEAST_SIGNIFICANCE:
                continue
            row, column = (float(index.mean()) for index in member)
            row, column = _onto(angle, row, column, peak[0])
            found.append((row, column, float(number), peak[1]))
    return np.array(found).reshape(-1, 4)


def _slope(two_theta: np.ndarray) -> np.ndarray:
    """(rows, columns) radians of 2theta a pixel."""
    along1, along2 = np.gradient(two_theta)
    return np.hypot(along1, along2)


def _sectors(
    near: np.ndarray, azimuth: np.ndarray, width: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows, columns = np.nonzero(near)
    sector = np.floor((azimuth[rows, columns] + math.pi) / width).astype(int)
    order = np.argsort(sector, kind="stable")
    edges = np.flatnonzero(np.diff(sector[order], prepend=-1, append=sector.max(initial=0) + 1))
    for start, stop in pairwise(edges):
        member = order[start:stop]
        yield rows[member], columns[member]


def _peak(
    counts: np.ndarray, two_theta: np.ndarray, low: float, pixel: float
) -> tuple[float, float, float] | None:
    """Profile of bins a pixel wide, each at the mean angle of its pixels."""
    at = ((two_theta - low) / pixel).astype(int)
    pixels = np.bincount(at)
    kept = pixels > 0
    sums = np.bincount(at, counts)[kept]
    mean = np.bincount(at, two_theta)[kept] / pixels[kept]
    return fit_peak(mean, sums / pixels[kept], np.sqrt(sums + 1.0) / pixels[kept])


def _onto(angle: Angle, row: float, column: float, wanted: float) -> tuple[float, float]:
    """From a point near a ring along the steepest way onto it."""
    for _ in range(4):
        rows = np.array([row, row + 0.5, row - 0.5, row, row])
        columns = np.array([column, column, column, column + 0.5, column - 0.5])
        here, above, below, right, left = angle(rows, columns)
        slope1, slope2 = above - below, right - left
        step = (wanted - here) / (slope1**2 + slope2**2)
        row, column = row + step * slope1, column + step * slope2
    return float(row), float(column)
