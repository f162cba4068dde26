"""How much of each pixel lies in each cell of q and azimuth.

A pixel is the quadrilateral of `pipeline.kernels.pixel_splitting`; a cell is a rectangle in the
same plane. The area that they share is, by Green's theorem, the integral over the polygon's edge of
how far chi has come through the cell, clamp(chi - lower edge, 0, 1), dq. So each edge is walked
once through the cells that it crosses: a piece within one cell gives that cell its trapezoid, and
the pixel's cells below it the full height.

What holds for the curve holds here, so that the cake adds up to it: shares are normalised to what
lies within the range of q; the pixel that holds the beam counts as if its area were spread evenly
over all q up to its farthest corner, and here over all azimuths. A pixel over the cut at -pi = pi
has a part on either side.

pyFAI (2026.9, "full" splitting) differs in this:

- Within a column of cells it takes each edge as level, at its middle's chi. Pixels that lie over a
  line between two sectors so get shares that are off by up to some percent of a pixel. With
  ``level`` the same is done here, for comparison.
- It moves corners that are out of range onto the edge of the range. So the part of a pixel beyond
  the cut is lost and its rest deformed, and pixels at both ends of the range of q are deformed as
  well: cells there cannot be compared.
- Its sectors end a rounding step of float32 above 180 degrees.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pipeline.kernels.pixel_splitting import SMALLEST_SHARE, TWO_PI, unwrap


@njit(cache=True, nogil=True)
def _add_piece(
    area: np.ndarray,
    q0: float,
    chi0: float,
    q1: float,
    chi1: float,
    column: int,
    rows: int,
    level: bool,
) -> None:
    """Add one straight piece of an edge, which lies in one column of cells.

    ``area`` is (rows, columns) flat; chi is counted from the pixel's lowest row of cells.
    """
    columns = len(area) // rows
    if level:
        chi0 = chi1 = 0.5 * (chi0 + chi1)
    if chi0 == chi1:
        row = min(math.floor(chi0), rows - 1)
        for below in range(row):
            area[below * columns + column] += q1 - q0
        area[row * columns + column] += (q1 - q0) * (chi0 - row)
        return
    slope = (q1 - q0) / (chi1 - chi0)
    low, high = (chi0, chi1) if chi0 < chi1 else (chi1, chi0)
    sign = 1.0 if chi0 < chi1 else -1.0
    row = math.floor(low)
    while row < rows and row < high:
        bottom, top = max(low, float(row)), min(high, row + 1.0)
        width = sign * slope * (top - bottom)
        for below in range(row):
            area[below * columns + column] += width
        area[row * columns + column] += width * (0.5 * (bottom + top) - row)
        row += 1


@njit(cache=True, nogil=True)
def _add_edge(
    area: np.ndarray,
    q0: float,
    chi0: float,
    q1: float,
    chi1: float,
    columns: int,
    rows: int,
    level: bool,
) -> None:
    """Add one edge, cut where it passes from column to column; what is outside of them is left."""
    if q0 == q1:
        return
    slope = (chi1 - chi0) / (q1 - q0)
    low, high = (q0, q1) if q0 < q1 else (q1, q0)
    column = max(math.floor(low), 0)
    while column < columns and column < high:
        left, right = max(low, float(column)), min(high, column + 1.0)
        # The corners' own azimuths where the piece ends in one: no rounding there.
        begin, end = (left, right) if q0 < q1 else (right, left)
        chi_begin = chi0 if begin == q0 else chi0 + slope * (begin - q0)
        chi_end = chi1 if end == q1 else chi0 + slope * (end - q0)
        # Rounding may lead it past the pixel's own ends by a last digit.
        chi_begin = min(max(chi_begin, 0.0), float(rows))
        chi_end = min(max(chi_end, 0.0), float(rows))
        _add_piece(area, begin, chi_begin, end, chi_end, column, rows, level)
        column += 1


@njit(cache=True, nogil=True)
def pixel_cells(
    q_bins: np.ndarray,
    chi_rad: np.ndarray,
    bins: int,
    sectors: int,
    level: bool,
    shares: np.ndarray,
) -> tuple[int, int, int, int, np.ndarray]:
    """Shares of one pixel in the cells that it touches.

    Parameters
    ----------
    q_bins
        (4,), q of the corners in their order around the pixel, in units of bins: 0 is the lower
        edge of the first bin, ``bins`` the upper edge of the last.
    chi_rad
        (4,), their azimuths from -pi to pi; made continuous in place.
    bins, sectors
        Number of cells along q, and around the beam from -pi to pi.
    level
        Whether to take edges as pyFAI does, see above.
    shares
        Room for the shares, float64; replaced if it is too small.

    Returns
    -------
    first_bin, bin_count, first_sector, sector_count
        Sectors from ``first_sector`` on, which may lie below 0 or reach beyond ``sectors``: they go
        on at the other end. A count of 0 is a pixel out of range.
    shares
        The room; its first ``sector_count * bin_count`` values are the shares, by sector, then bin.
    """
    low, high = q_bins.min(), q_bins.max()
    if high < 0.0 or low >= bins:
        return 0, 0, 0, 0, shares
    first_bin = max(math.floor(low), 0)
    bin_count = min(math.floor(high), bins - 1) - first_bin + 1
    if unwrap(chi_rad):
        bin_count += first_bin
        shares = _room(shares, bin_count * sectors)
        shares[: bin_count * sectors] = 1.0 / (bin_count * sectors)
        return 0, bin_count, 0, sectors, shares
    chi = (chi_rad + math.pi) * (sectors / TWO_PI)
    first_sector = math.floor(chi.min())
    sector_count = math.floor(chi.max()) - first_sector + 1
    cells = sector_count * bin_count
    shares = _room(shares, cells)
    if cells == 1:
        shares[0] = 1.0
        return first_bin, 1, first_sector, 1, shares
    area = shares[:cells]
    area[:] = 0.0
    for k in range(4):
        m = (k + 1) % 4
        _add_edge(
            area,
            q_bins[k] - first_bin,
            chi[k] - first_sector,
            q_bins[m] - first_bin,
            chi[m] - first_sector,
            bin_count,
            sector_count,
            level,
        )
    total = area.sum()
    if total == 0.0:
        return 0, 0, 0, 0, shares
    area /= total
    return first_bin, bin_count, first_sector, sector_count, shares


@njit(cache=True, nogil=True)
def _room(array: np.ndarray, at_least: int) -> np.ndarray:
    return array if len(array) >= at_least else np.empty(at_least, array.dtype)


@njit(cache=True, nogil=True)
def split_stripe(
    corner: np.ndarray,
    chi_rad: np.ndarray,
    masked: np.ndarray,
    low: float,
    bin_width: float,
    bins: int,
    sectors: int,
    level: bool,
    start: int,
    stop: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of consecutive pixels, pixel by pixel.

    Parameters
    ----------
    corner, chi_rad
        (rows + 1, columns + 1) float32, the bins' axis (q, say) and azimuth of the pixels' corners.
    masked
        (rows, columns) bool, True = never to be used.
    low, bin_width
        Lower edge of the first bin and width of each, in units of the axis.
    bins, sectors, level
        As for `pixel_cells`.
    start, stop
        Flat indices of the first pixel and of the one after the last.

    Returns
    -------
    offset
        (entries,) uint32, pixel from ``start`` on.
    cell
        (entries,) int32, sector times ``bins`` plus bin.
    share
        (entries,) float32, part of the pixel in the cell.
    """
    columns = masked.shape[1]
    offset = np.empty(2 * (stop - start), np.uint32)
    cell = np.empty(2 * (stop - start), np.int32)
    share = np.empty(2 * (stop - start), np.float32)
    shares = np.empty(64)
    corner_bin, corner_chi = np.empty(4), np.empty(4)
    per_width = 1.0 / bin_width
    used = 0
    for pixel in range(start, stop):
        i, j = pixel // columns, pixel % columns
        if masked[i, j]:
            continue
        corner_bin[0], corner_chi[0] = corner[i, j], chi_rad[i, j]
        corner_bin[1], corner_chi[1] = corner[i + 1, j], chi_rad[i + 1, j]
        corner_bin[2], corner_chi[2] = corner[i + 1, j + 1], chi_rad[i + 1, j + 1]
        corner_bin[3], corner_chi[3] = corner[i, j + 1], chi_rad[i, j + 1]
        for k in range(4):
            corner_bin[k] = (corner_bin[k] - low) * per_width
        single = _single_cell(corner_bin, corner_chi, bins, sectors)
        if single >= 0:
            if used == len(cell):
                offset, cell, share = _longer(offset, 1), _longer(cell, 1), _longer(share, 1)
            offset[used], cell[used], share[used] = pixel - start, single, 1.0
            used += 1
            continue
        first_bin, bin_count, first_sector, sector_count, shares = pixel_cells(
            corner_bin, corner_chi, bins, sectors, level, shares
        )
        count = bin_count * sector_count
        if used + count > len(cell):
            offset = _longer(offset, count)
            cell = _longer(cell, count)
            share = _longer(share, count)
        for row in range(sector_count):
            sector = (first_sector + row) % sectors
            for column in range(bin_count):
                part = shares[row * bin_count + column]
                if abs(part) < SMALLEST_SHARE:
                    continue
                offset[used] = pixel - start
                cell[used] = sector * bins + first_bin + column
                share[used] = part
                used += 1
    return offset[:used], cell[:used], share[:used]


@njit(cache=True, nogil=True)
def _single_cell(q_bins: np.ndarray, chi_rad: np.ndarray, bins: int, sectors: int) -> int:
    """The cell that holds all four corners, as most pixels have it; -1 = to be looked at."""
    low, high = min(q_bins[0], q_bins[2]), max(q_bins[0], q_bins[2])
    low, high = min(low, min(q_bins[1], q_bins[3])), max(high, max(q_bins[1], q_bins[3]))
    column = math.floor(low)
    if column < 0 or column >= bins or high >= column + 1:
        return -1
    low, high = min(chi_rad[0], chi_rad[2]), max(chi_rad[0], chi_rad[2])
    low, high = min(low, min(chi_rad[1], chi_rad[3])), max(high, max(chi_rad[1], chi_rad[3]))
    scale = sectors / TWO_PI
    row = math.floor((low + math.pi) * scale)
    # Pixels over the cut, and that with the beam, come to more than half a turn.
    if row < 0 or row >= sectors or (high + math.pi) * scale >= row + 1 or high - low > 3.0:
        return -1
    return row * bins + column


@njit(cache=True, nogil=True)
def _longer(array: np.ndarray, at_least: int) -> np.ndarray:
    """The same with more room."""
    longer = np.empty(2 * len(array) + at_least, array.dtype)
    longer[: len(array)] = array
    return longer
