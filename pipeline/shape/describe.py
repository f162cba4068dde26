"""What a body is: its numbers, and what one would call it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.shape.align import Lookup, best_turn
from pipeline.shape.envelope import Envelope
from pipeline.shape.retrieve import Found

SPHERE_LIKE, CUBE_LIKE, ANGULAR = "sphere-like", "cube-like", "angular"
ELONGATED, FLATTENED, CANNOT_TELL = "elongated", "flattened", "cannot tell"

UNEQUAL_AXES = 1.3
"""Longest over shortest axis from which a body is called elongated. A spread of 6 % of sizes looks
like axes of 1 : 1.25, and no curve tells the two apart."""
ROUGH = 0.05
"""Departure of degrees 3 and up, over the mean radius, from which a body is not round. Of degree 8,
a cube and one with cut corners have 0.12, an octahedron 0.10, a cuboctahedron 0.07, a truncated
octahedron 0.06, a rhombicuboctahedron 0.03."""
CUBE_CORNERS, CUBE_ALIKE = 0.09, 0.75
"""The same, and its correlation with a cube's, from which a body is called a cube. A cuboctahedron
correlates with 0.75 to 0.79, an octahedron with -0.81; cubes found in noisy curves with 0.78 to
0.95."""


POOR = 9.0
"""Chi-square a point, with the model's own tolerance in the errors, from which no body will do."""


@dataclass(frozen=True, slots=True)
class Description:
    """Numbers of one homogeneous body; lengths in nm.

    ``departure`` is the root mean square departure of the surface from its mean radius, of all
    degrees, ``corners`` that of degrees 3 and up, both over the mean radius. ``cubic`` is the
    correlation of the latter with a cube's, at its best turn; an octahedron's is negative.
    ``sphericity`` is the surface of a sphere of this volume over the body's: cube 0.806.
    """

    volume_nm3: float
    diameter_nm: float
    gyration_radius_nm: float
    largest_nm: float
    axis_ratio: float
    sphericity: float
    departure: float
    corners: float
    cubic: float
    kind: str


class Describer:
    """Describes bodies of one envelope."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        sphere = envelope.sphere
        step = 1e-4
        self._by_polar = (
            envelope.harmonics(sphere.polar + step, sphere.azimuth)
            - envelope.harmonics(sphere.polar - step, sphere.azimuth)
        ) / (2 * step)
        self._by_azimuth = (
            envelope.harmonics(sphere.polar, sphere.azimuth + step)
            - envelope.harmonics(sphere.polar, sphere.azimuth - step)
        ) / (2 * step)
        self._cube = Lookup(envelope, self._without_low(_cube(envelope)))

    def describe(self, coefficients: np.ndarray) -> Description:
        """Of one body."""
        sphere = self._envelope.sphere
        radii = self._envelope.radii(coefficients)
        weights, directions = sphere.weights, sphere.directions
        volume = float(np.sum(weights * radii**3)) / 3
        middle = directions @ (weights * radii**4) / (4 * volume)
        second = (directions * (weights * radii**5)) @ directions.T / (5 * volume)
        spread = np.linalg.eigvalsh(second - np.outer(middle, middle))
        short, between, long = np.sqrt(spread)
        slopes = np.hypot(
            coefficients @ self._by_polar, coefficients @ self._by_azimuth / np.sin(sphere.polar)
        )
        area = float(np.sum(weights * radii * np.hypot(radii, slopes)))
        corner = self._without_low(coefficients)
        corners = float(np.linalg.norm(corner) / coefficients[0])
        cubic = self._cubic(corner)
        return Description(
            volume_nm3=volume,
            diameter_nm=(6 * volume / math.pi) ** (1 / 3),
            gyration_radius_nm=math.sqrt(float(np.sum(spread))),
            largest_nm=_largest(directions * radii),
            axis_ratio=float(long / short),
            sphericity=math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area,
            departure=float(np.linalg.norm(coefficients[1:]) / coefficients[0]),
            corners=corners,
            cubic=cubic,
            kind=_kind(float(long / short), float(long - between), float(between - short), corners,
                       cubic),
        )  # fmt: skip

    def _without_low(self, coefficients: np.ndarray) -> np.ndarray:
        return np.where(self._envelope.degrees >= 3, coefficients, 0.0)

    def _cubic(self, corner: np.ndarray) -> float:
        """Correlation with a cube; where it is more like the negative of one, below 0."""
        values = self._envelope.plain(corner)
        if not np.any(values):
            return 0.0
        alike = best_turn(self._envelope, values, self._cube)[1]
        unlike = best_turn(self._envelope, -values, self._cube)[1]
        return alike if alike >= unlike else -unlike


def _kind(ratio: float, above: float, below: float, corners: float, cubic: float) -> str:
    if ratio >= UNEQUAL_AXES:
        return ELONGATED if above >= below else FLATTENED
    if corners < ROUGH:
        return SPHERE_LIKE
    return CUBE_LIKE if corners >= CUBE_CORNERS and cubic >= CUBE_ALIKE else ANGULAR


def _cube(envelope: Envelope) -> np.ndarray:
    """Coefficients of a cube of unit half edge, as far as the degree goes."""
    sphere = envelope.sphere
    radii = 1 / np.abs(sphere.directions).max(axis=0)
    return envelope.harmonics(sphere.polar, sphere.azimuth) * sphere.weights @ radii


def _largest(surface: np.ndarray) -> float:
    """Largest distance of two points of a surface (3, n)."""
    squares = np.sum(surface**2, axis=0)
    return math.sqrt(float(np.max(squares[:, None] + squares - 2 * surface.T @ surface)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all bodies that the curve bears have in common."""

    kind: str
    reason: str


def verdict(found: Found, described: Sequence[Description]) -> Verdict:
    """What the crystals are, or that the curve does not tell.

    Parameters
    ----------
    found
        Result of the search.
    described
        Of each body that the curve bears, in their order.
    """
    spreads: dict[str, list[float]] = {}
    for body, facts in zip(found.compatible, described, strict=True):
        spreads.setdefault(facts.kind, []).append(body.spread)
    told = [f"{kind} with {_percent(of)} spread of size" for kind, of in sorted(spreads.items())]
    if found.compatible[0].misfit > POOR:
        return Verdict(
            CANNOT_TELL,
            f"no body of this kind describes the curve (chi-square {found.compatible[0].misfit:.3g}"
            " a point)",
        )
    if len(spreads) > 1:
        return Verdict(CANNOT_TELL, "the curve is that of bodies " + ", or ".join(told))
    return Verdict(next(iter(spreads)), told[0])


def _percent(spreads: Sequence[float]) -> str:
    low, high = 100 * min(spreads), 100 * max(spreads)
    return f"{low:.0f} %" if low == high else f"{low:.0f} to {high:.0f} %"
