"""Turning bodies onto one another, mirror images too: a curve knows neither turn nor hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from pipeline.shape.envelope import Envelope

RINGS = 120
"""Of the table of radii, 1.5 degrees each: linear in between is good to 1e-3 of a departure of
degree 8."""
TURNS = 2000
"""Coarse turns, 17 degrees apart in the mean; a cube's departure keeps 0.8 of its correlation over
half of that."""


class Lookup:
    """Surface of a body in any direction.

    Parameters
    ----------
    envelope
        Whose coefficients they are.
    coefficients
        (k,), nm.
    """

    def __init__(self, envelope: Envelope, coefficients: np.ndarray) -> None:
        polar = np.linspace(0.0, np.pi, RINGS + 1)
        azimuth = np.linspace(0.0, 2 * np.pi, 2 * RINGS + 1)
        grid = np.meshgrid(polar, azimuth, indexing="ij")
        harmonics = envelope.harmonics(grid[0].ravel(), grid[1].ravel())
        self._table = (coefficients @ harmonics).reshape(grid[0].shape)

    def at(self, directions: np.ndarray) -> np.ndarray:
        """Radii (...) in directions (3, ...)."""
        polar = np.arccos(np.clip(directions[2], -1.0, 1.0))
        azimuth = np.arctan2(directions[1], directions[0]) % (2 * np.pi)
        places = np.stack([polar, azimuth]) * (RINGS / np.pi)
        return map_coordinates(self._table, places, order=1, mode="nearest")


def best_turn(envelope: Envelope, values: np.ndarray, body: Lookup) -> tuple[np.ndarray, float]:
    """The turn, mirrored or not, that brings a body nearest to given radii.

    Parameters
    ----------
    envelope
        Whose directions the radii belong to.
    values
        Radii of the reference (n,).
    body
        What is turned.

    Returns
    -------
    tuple
        Orthogonal matrix Q (3, 3): the turned body has the radius of ``body`` along Q u in the
        direction u. And the correlation of the two.
    """
    sphere = envelope.sphere
    target = _standard(values, sphere.weights)

    def likeness(turns: np.ndarray) -> np.ndarray:
        radii = body.at(np.einsum("tij,jn->itn", turns, sphere.directions))
        return _standard(radii, sphere.weights) @ (sphere.weights * target)

    coarse = Rotation.random(TURNS, rng=np.random.default_rng(0)).as_matrix()
    best, found = -np.inf, np.eye(3)
    for hand in (1.0, -1.0):
        scores = likeness(hand * coarse)
        start = Rotation.from_matrix(coarse[np.argmax(scores)])

        def loss(by: np.ndarray, start: Rotation = start, hand: float = hand) -> float:
            turn = (Rotation.from_rotvec(by) * start).as_matrix()
            return -float(likeness(hand * turn[None])[0])

        simplex = np.vstack([np.zeros(3), 0.15 * np.eye(3)])
        fine = minimize(
            loss,
            np.zeros(3),
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 2e-3, "fatol": 1e-5},
        )
        if -fine.fun > best:
            best = -float(fine.fun)
            found = hand * (Rotation.from_rotvec(fine.x) * start).as_matrix()
    return found, best


def _standard(radii: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Departures (..., n) from the mean, of unit norm; zeros for a sphere."""
    departure = radii - (radii @ weights / weights.sum())[..., None]
    norm = np.sqrt(departure**2 @ weights)[..., None]
    return np.divide(departure, norm, out=np.zeros_like(departure), where=norm > 1e-12)


def align_all(envelope: Envelope, bodies: Sequence[Lookup]) -> list[np.ndarray]:
    """Turns (3, 3) that lay bodies onto one another: onto the first, then onto their mean."""
    directions = envelope.sphere.directions
    turns = [np.eye(3)]
    turns += [best_turn(envelope, bodies[0].at(directions), body)[0] for body in bodies[1:]]
    radii = [b.at(turn @ directions) for b, turn in zip(bodies, turns, strict=True)]
    mean = np.mean(radii, axis=0)
    return [best_turn(envelope, mean, body)[0] for body in bodies]
