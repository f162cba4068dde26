"""Bodies whose scattering is a measured curve: found from many starts and spreads of size.

A spread of sizes fills the minima of a curve as corners and unequal axes do, so it cannot be
taken from a fit of spheres: that would put the answer in. Every spread is tried, and what the
curve bears remains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.optimize import least_squares

from pipeline.shape.envelope import Envelope

SPREADS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.10, 0.12, 0.15)
"""Standard deviations of size over the mean. Steps of 0.02 change a minimum's depth by less than
corners of a degree that the curve resolves."""
FEWEST_POINTS = 20
FEWEST_CHANNELS = 5.0
"""Independent numbers in the curve, (q_max - q_min) D / pi, below which no shape is asked for."""
START_RADII = 80
SMEARED, PLACES = 3.5, 9
SIZE_REACH, SIZES = 4.0, 25
STEP_OF_RADIUS = 0.3
"""Grid of q in 1/R, ten places a period of the intensity: cubic splines are then good to 0.2 % of
what oscillates."""
LARGEST = 2.2
"""Radii of a body over that of the best sphere: an elongation of about 4."""
START_ROUGHNESS = 0.08
"""Of a start: root mean square departure from the sphere. Zero would stay a sphere, for there the
slopes vanish."""
SIGMAS, SEARCHED = 3.0, 0.25
"""A body is borne by the curve if it costs no more than the best by these standard errors, by one
for each channel, which is what drawn noise costs, and by the share of chi-square that fits of a
cube still differ by when they end."""
HOPELESS = 10.0
"""Times that much: a spread whose bodies cost more is not asked again."""
MOST_STEPS = 100


class ShapeError(ValueError):
    """A curve that no shape can be found from; one line."""


@dataclass(frozen=True, slots=True, eq=False)
class CrystalCurve:
    """Curve of the crystals alone: points (n,), q rising, in any unit of intensity.

    ``q_resolution_per_nm`` is the standard deviation of q, zero where it is exact.
    """

    q_per_nm: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    q_resolution_per_nm: np.ndarray


@dataclass(frozen=True, slots=True)
class Settings:
    """How a shape is looked for.

    ``degree`` of the harmonics; ``repeats`` starts at each of ``spreads``; ``tolerance`` is the
    error of the model that is allowed for, over the intensity: a sum of harmonics has no edges.
    """

    degree: int = 8
    repeats: int = 6
    seed: int = 1
    spreads: Sequence[float] = SPREADS
    tolerance: float = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """One body that was found.

    ``misfit`` is chi-square over the points, ``cost`` chi-square with what departures from a
    sphere cost; both of the measured curve, whatever noise the start was given.
    """

    coefficients: np.ndarray
    spread: float
    repeat: int
    misfit: float
    cost: float
    scale: float
    flat: float
    curve: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """All bodies, those that the curve bears first among them, and what they were made with."""

    envelope: Envelope
    compatible: Sequence[Body]
    tried: Sequence[Body]
    channels: float
    sphere_radius_nm: float


Progress = Callable[[int, int], None]


def retrieve(curve: CrystalCurve, settings: Settings, progress: Progress | None = None) -> Found:
    """Look for the bodies that scatter as a curve does.

    Repeat 0 of each spread takes the curve as it is; the others draw their noise from its sigma,
    so that the scatter of bodies tells of noise and of starts together.

    Parameters
    ----------
    curve
        Of the crystals alone.
    settings
        Of the search.
    progress
        Called with what is done and what there is.

    Raises
    ------
    ShapeError
        If the curve has too few points, or spans too little for the size that it tells of.
    """
    points = curve.q_per_nm.size
    if points < FEWEST_POINTS:
        raise ShapeError(
            f"expected at least {FEWEST_POINTS} points of q with a signal, got {points}"
        )
    radius = _sphere_radius(curve, settings.spreads)
    channels = float(np.ptp(curve.q_per_nm)) * 2 * radius / math.pi
    if channels < FEWEST_CHANNELS:
        raise ShapeError(
            f"expected q that spans at least {FEWEST_CHANNELS:g} pi / D, got {channels:.1f} (q "
            f"{curve.q_per_nm[0]:.3g} to {curve.q_per_nm[-1]:.3g} 1/nm, D {2 * radius:.3g} nm)"
        )
    envelope = Envelope(settings.degree, _grid(curve, radius, settings), LARGEST * radius)
    searches = [_Search(curve, envelope, settings, spread, radius) for spread in settings.spreads]
    tried: list[Body] = []
    for repeat in range(settings.repeats):
        for at, search in enumerate(searches):
            tried.append(search.run(repeat))
            if progress is not None:
                left = (settings.repeats - repeat) * len(searches) - at - 1
                progress(len(tried), len(tried) + left)
        # A spread that is far from what the curve bears is not asked again.
        hopeful = {body.spread for body in _borne(tried, channels, HOPELESS)}
        searches = [search for search in searches if search.spread in hopeful]
    return Found(envelope, _borne(tried, channels), tried, channels, radius)


def _borne(tried: Sequence[Body], channels: float, times: float = 1.0) -> list[Body]:
    """Those that the curve bears beside the best, in order of cost."""
    best = min(tried, key=lambda body: body.cost)
    window = SIGMAS**2 + channels + SEARCHED * best.cost
    return sorted(
        (b for b in tried if b.cost <= best.cost + times * window), key=lambda body: body.cost
    )


def sphere_intensity(q_per_nm: np.ndarray, radius_nm: float) -> np.ndarray:
    """|F|^2 of a sphere, nm^6 (Rayleigh 1914)."""
    x = q_per_nm * radius_nm
    return (4 * math.pi * radius_nm**3 * (np.sin(x) - x * np.cos(x)) / x**3) ** 2


def seen(curve: CrystalCurve, grid_per_nm: np.ndarray, spread: float) -> np.ndarray:
    """What makes the curve's points (n,) of a body's intensity on a grid (m,): a matrix (n, m).

    It averages over bodies of sizes x of the mean one, Gaussian in number with deviation
    ``spread``, I(q) = <x^6 I_1(x q)>, and over the resolution of q; cubic splines in between.
    """
    spline = make_interp_spline(grid_per_nm, np.eye(grid_per_nm.size), k=3)
    sizes, shares = _gaussian(1.0, spread, SIZES, SIZE_REACH)
    matrix = np.zeros((curve.q_per_nm.size, grid_per_nm.size))
    for place, weight in zip(*_gaussian(0.0, 1.0, PLACES, SMEARED), strict=True):
        # A quarter of q stands for what would be beyond the beam.
        q = np.maximum(curve.q_per_nm + place * curve.q_resolution_per_nm, 0.25 * curve.q_per_nm)
        for size, share in zip(sizes, shares, strict=True):
            matrix += weight * share * size**6 * spline(np.clip(q * size, *grid_per_nm[[0, -1]]))
        if not curve.q_resolution_per_nm.any():
            return matrix / weight
    return matrix


def _gaussian(mean: float, sigma: float, count: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Even places and their shares; one place where sigma is 0."""
    if sigma == 0.0:
        return np.array([mean]), np.ones(1)
    places = np.linspace(-reach, reach, count)
    shares = np.exp(-0.5 * places**2)
    return mean + sigma * places, shares / shares.sum()


def _level(curve: CrystalCurve, radius_nm: float) -> np.ndarray:
    """Intensity without its oscillations (n,): the mean over a period of them."""
    q = curve.q_per_nm
    near = np.abs(q[:, None] - q) <= 0.5 * math.pi / radius_nm
    return near @ np.abs(curve.intensity) / near.sum(axis=1)


def _grid(curve: CrystalCurve, radius_nm: float, settings: Settings) -> np.ndarray:
    """Places of q that hold a body's intensity."""
    widest = max(settings.spreads)
    reach = SMEARED * float(curve.q_resolution_per_nm.max())
    low = 0.25 * curve.q_per_nm[0] * max(1 - SIZE_REACH * widest, 0.2)
    high = (curve.q_per_nm[-1] + reach) * (1 + SIZE_REACH * widest)
    return np.linspace(low, high, max(32, math.ceil((high - low) * radius_nm / STEP_OF_RADIUS)))


def _sphere_radius(curve: CrystalCurve, spreads: Sequence[float]) -> float:
    """Radius of the spheres, of any spread, that come nearest: where the search begins."""
    smallest = math.pi / curve.q_per_nm[-1] / 2
    radii = np.geomspace(smallest, max(2 * math.pi / curve.q_per_nm[0], 2 * smallest), START_RADII)
    best, found = math.inf, float(radii[0])
    for spread in spreads:
        sizes, shares = _gaussian(1.0, spread, SIZES, SIZE_REACH)
        for radius in radii:
            model = np.zeros(curve.q_per_nm.size)
            for size, share in zip(sizes, shares, strict=True):
                if size > 0:
                    model += share * sphere_intensity(curve.q_per_nm, size * radius)
            design = np.stack([model / model.max(), np.ones_like(model)]) / curve.sigma
            solution = np.linalg.lstsq(design.T, curve.intensity / curve.sigma, rcond=None)[0]
            misfit = float(np.sum((solution @ design - curve.intensity / curve.sigma) ** 2))
            if solution[0] > 0 and misfit < best:
                best, found = misfit, float(radius)
    if best == math.inf:
        raise ShapeError("the curve does not fall with q as one of particles does")
    return found


class _Search:
    """Fits at one spread. Parameters: coefficients, log of the scale, flat background."""

    def __init__(
        self,
        curve: CrystalCurve,
        envelope: Envelope,
        settings: Settings,
        spread: float,
        radius_nm: float,
    ) -> None:
        self._curve, self._envelope, self._settings = curve, envelope, settings
        self.spread, self._radius = spread, radius_nm
        self._matrix = seen(curve, envelope.q_per_nm, spread)
        self._last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._weight = 1 / np.hypot(curve.sigma, settings.tolerance * _level(curve, radius_nm))
        self._unit = float(np.min(curve.sigma))
        # Departures of degree l are expected to be about 1 / (l (l + 1)) of the mean radius.
        degrees = envelope.degrees
        self._price = degrees * (degrees + 1) / envelope.sphere_of(radius_nm)[0]
        # Steps are counted in what is expected. Scaled by the slopes instead, the search stops
        # in a valley at ten times the chi-square of a cube.
        self._steps = np.concatenate([1 / np.maximum(self._price, 1.0), [0.1, 1.0]])

    def run(self, repeat: int) -> Body:
        """The body that a start of its own leads to."""
        rng = np.random.default_rng((self._settings.seed, round(1000 * self.spread), repeat))
        start = self._start(rng)
        data = self._curve.intensity
        if repeat > 0:
            data = data + rng.normal(0.0, self._curve.sigma)
        result = least_squares(
            lambda at: self._residuals(at, data),
            start,
            jac=self._jacobian,  # type: ignore[arg-type]
            method="lm",
            x_scale=self._steps,
            max_nfev=MOST_STEPS,
            ftol=1e-6,
            xtol=1e-6,
        )
        at = result.x
        size = self._envelope.degrees.size
        whole = self._residuals(at, self._curve.intensity)
        points = whole[: data.size]
        return Body(
            coefficients=at[:size],
            spread=self.spread,
            repeat=repeat,
            misfit=float(np.mean(points**2)),
            cost=float(np.sum(whole**2)),
            scale=math.exp(at[size]),
            flat=float(at[size + 1] * self._unit),
            curve=self._curve.intensity + points / self._weight,
        )

    def _start(self, rng: np.random.Generator) -> np.ndarray:
        sphere = self._envelope.sphere_of(self._radius)
        rough = rng.normal(size=sphere.size) / np.maximum(self._price, 1e-9)
        rough[0] = 0.0
        rough *= START_ROUGHNESS * sphere[0] / np.linalg.norm(rough)
        model = self._matrix @ self._envelope.intensity(sphere)[0]
        low = slice(0, max(5, model.size // 10))
        scale = np.sum(self._curve.intensity[low]) / np.sum(model[low])
        return np.concatenate([sphere + rough, [math.log(max(scale, 1e-300)), 0.0]])

    def _body(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is seen of a body (n,), and its slopes (n, k); the last is kept, for the fit asks
        for residuals and for slopes at the same place."""
        if self._last is None or not np.array_equal(self._last[0], coefficients):
            intensity, slopes = self._envelope.intensity(coefficients)
            seen_now = self._matrix @ intensity, self._matrix @ slopes
            self._last = (coefficients.copy(), *seen_now)
        return self._last[1:]

    def _residuals(self, at: np.ndarray, data: np.ndarray) -> np.ndarray:
        size = self._envelope.degrees.size
        model = math.exp(at[size]) * self._body(at[:size])[0]
        points = (model + at[size + 1] * self._unit - data) * self._weight
        return np.concatenate([points, self._price * at[:size]])

    def _jacobian(self, at: np.ndarray) -> np.ndarray:
        size = self._envelope.degrees.size
        intensity, slopes = self._body(at[:size])
        scale = math.exp(at[size])
        columns = [
            scale * slopes,
            scale * intensity[:, None],
            np.full((self._curve.q_per_nm.size, 1), self._unit),
        ]
        points = np.concatenate(columns, axis=1) * self._weight[:, None]
        costs = np.concatenate([np.diag(self._price), np.zeros((size, 2))], axis=1)
        return np.concatenate([points, costs])
