"""Series of peaks that are tried, and their templates along a path of spacings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.kernels.order import fill_series, partners_of, supports_of

STEP_IN_FWHM = 0.35
"""Step of the scans at the highest peak: the best template loses 4 % of the score at most."""


@dataclass(frozen=True, slots=True)
class Series:
    """Places of a structure's peaks relative to its first, and their strengths.

    Strengths are multiplicity / q^2 (powder) of each line, the first being 1.
    """

    kind: str
    ratios: tuple[float, ...]
    strengths: tuple[float, ...]


def _cubic(kind: str, lines: tuple[tuple[int, int], ...]) -> Series:
    """Lines of a cubic cell as (h^2 + k^2 + l^2, multiplicity)."""
    first, many = lines[0]
    return Series(
        kind,
        tuple(math.sqrt(square / first) for square, _ in lines),
        tuple(number / many * first / square for square, number in lines),
    )


# hcp with c/a = sqrt(8/3): 1/d^2 = 4/3 (h^2 + hk + k^2)/a^2 + l^2/c^2, |structure factor|^2 1, 4,
# 3 for the three parities of (h + 2k mod 3, l); relative to 100.
_HCP = ((1.0, 6 * 1), (9 / 8, 2 * 4), (41 / 32, 12 * 3), (17 / 8, 12 * 1), (3.0, 6 * 4),
        (113 / 32, 12 * 3), (33 / 8, 12 * 4))  # fmt: skip
STACK = Series("stack", (1.0, 2.0, 3.0), (1.0, 0.7, 0.5))
"""Stacked sheets: paracrystalline disorder damps the higher orders."""
SINGLE = Series("single", (1.0,), (1.0,))
SERIES = (
    STACK,
    _cubic("fcc", ((3, 8), (4, 6), (8, 12), (11, 24), (12, 8))),
    _cubic("bcc", ((2, 12), (4, 6), (6, 24), (8, 12), (10, 24))),
    Series(
        "hcp",
        tuple(math.sqrt(square) for square, _ in _HCP),
        tuple(number / 6 / square for square, number in _HCP),
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Templates (j, n) of several scans, one below the other.

    ``kinds`` is series and full width of each of the m scans, ``starts`` (m + 1,) where each
    begins, ``first_per_nm`` (j,) the first peak's place, ``supports`` (j, 2) where each template is
    not zero, ``partners`` (j, m) the template of each scan that is most like this one.
    """

    kinds: tuple[tuple[Series, float], ...]
    starts: np.ndarray
    first_per_nm: np.ndarray
    templates: np.ndarray
    supports: np.ndarray
    partners: np.ndarray


def paths(
    q_per_nm: np.ndarray,
    series: Sequence[Series],
    widths_per_nm: Sequence[float],
    lowest_per_nm: float,
    highest_per_nm: float,
) -> Paths:
    """Templates so dense that no peak moves by more than STEP_IN_FWHM from one to the next."""
    kinds = tuple((each, fwhm) for each in series for fwhm in widths_per_nm)
    places = []
    for each, fwhm in kinds:
        # A step multiplies all places, so the highest peak inside the window moves most.
        step = STEP_IN_FWHM * fwhm / min(q_per_nm[-1], max(each.ratios) * highest_per_nm)
        count = 2 + math.ceil(math.log(highest_per_nm / lowest_per_nm) / step)
        places.append(np.geomspace(lowest_per_nm, highest_per_nm, count))
    starts = np.cumsum([0, *(len(each) for each in places)])
    templates = np.empty((starts[-1], q_per_nm.size))
    row = 0
    for (each, fwhm), first in zip(kinds, places, strict=True):
        ratios, strengths = np.array(each.ratios), np.array(each.strengths)
        for place in first:
            fill_series(q_per_nm, place, fwhm, ratios, strengths, templates[row])
            row += 1
    supports = np.empty((row, 2), dtype=np.int64)
    supports_of(templates, supports)
    partners = np.empty((row, len(kinds)), dtype=np.int64)
    partners_of(templates, starts, partners)
    return Paths(kinds, starts, np.concatenate(places), templates, supports, partners)
