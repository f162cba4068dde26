"""The fit as one would write it in numpy and scipy: rival in speed, reference for its minima.

Shares nothing with `pipeline.kernels`: the closed form of spheres with Gaussian diameters is
written out again, its derivatives by the chain rule of the complex exponential.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import least_squares

from benchmarks.sequences import AGGLOMERATES_NM, PER_CUBIC_ANGSTROM_PER_UM

DIAMETER_BOUNDS_NM = (2.0, 20.0)
RELATIVE_SIGMA_BOUNDS = (0.03, 0.5)
CONTRAST_PER_NM2 = 27.44e-4
PER_CM_PER_UM = 1e7 * CONTRAST_PER_NM2**2 * 1e3 * PER_CUBIC_ANGSTROM_PER_UM
"""<F^2> in nm^6 of 1 uM to 1/cm."""
LOWER = np.array([2.0, 0.05, 0.0, -np.inf, 0.0, 0.0])
UPPER = np.array([20.0, 10.0, np.inf, np.inf, np.inf, np.inf])
"""Of D, s (nm), crystals (uM), flat, q^-4, agglomerates (uM)."""
LEAST_AMPLITUDES = np.array([0.1, -np.inf, 1e-7, 0.1])
WRONG_CHI2 = 4.0
"""A minimum that is so far above the best one is another one."""


def spheres(q: np.ndarray, diameter: float, sigma: float) -> np.ndarray:
    """Intensity of 1 uM in 1/cm and its derivatives by diameter and sigma (nm), (3, n).

    Below q D/2 = 0.1 cancellation leaves 8 digits; the curves here begin at 0.15.
    """
    mu, tau = 0.5 * diameter, 0.5 * sigma
    q2, b = q * q, 2 * q * tau * tau
    turned = np.exp(-q * tau * tau * 2 * q) * np.exp(2j * mu * q)
    c, w = turned.real, turned.imag
    spread = mu * mu + tau * tau - b * b
    last = spread * c - 2 * mu * b * w
    head = (8 * np.pi**2 * PER_CM_PER_UM) / (q2 * q2)
    out = np.empty((3, q.size))
    out[0] = head / q2 * (1 + q2 * (mu * mu + tau * tau) - c - 2 * q * (mu * w + b * c) + q2 * last)
    out[1] = head / q * (q * mu - q * (mu * c - b * w) - q2 * (spread * w + 2 * mu * b * c))
    out[2] = head * tau * (1 - c - 2 * q2 * last)
    return out


def non_negative(gram: np.ndarray, moment: np.ndarray, free: int) -> np.ndarray:
    """Amplitudes that minimise a G a - 2 m a, all but number ``free`` not negative.

    All are tried; only if one comes out negative are the subsets gone through, so this is exact.
    """
    amplitudes = np.linalg.solve(gram, moment)
    bound = [i for i in range(moment.size) if i != free]
    if np.all(amplitudes[bound] >= 0):
        return amplitudes
    best, lowest = np.zeros(moment.size), np.inf
    for count in range(len(bound)):
        for chosen in combinations(bound, count):
            kept = [*chosen, free]
            part = np.linalg.solve(gram[np.ix_(kept, kept)], moment[kept])
            cost = -float(part @ moment[kept])
            if cost < lowest and np.all(part[:-1] >= 0):
                lowest, best = cost, np.zeros(moment.size)
                best[kept] = part
    return best


@dataclass(frozen=True, slots=True, eq=False)
class Minimum:
    """Where a fit ended; amplitudes are crystals (uM), flat, q^-4 and agglomerates (uM)."""

    chi2: float
    diameter_nm: float
    sigma_nm: float
    amplitudes: np.ndarray


class ClosedFormFit:
    """Fits of one curve: crystals, flat and q^-4 background, and agglomerates of known shape.

    Parameters
    ----------
    q_per_nm, intensity, sigma
        The curve, (n,).
    agglomerates
        Whether they are in the model.
    """

    def __init__(
        self,
        q_per_nm: np.ndarray,
        intensity: np.ndarray,
        sigma: np.ndarray,
        agglomerates: bool = True,
    ) -> None:
        self.q = q_per_nm
        self.weight = 1 / sigma
        fixed = [np.ones_like(q_per_nm), q_per_nm**-4.0]
        if agglomerates:
            fixed.append(spheres(q_per_nm, *AGGLOMERATES_NM)[0])
        self.fixed = np.array(fixed)
        self.data_w = intensity * self.weight
        # Crystals, the fixed columns, the data, the two derivatives: one product gives all.
        self._rows = np.empty((4 + len(fixed), q_per_nm.size))
        self._rows[1 : 1 + len(fixed)] = self.fixed * self.weight
        self._rows[1 + len(fixed)] = self.data_w

    def chi2(self, model: np.ndarray) -> float:
        """Of a model (n,) in 1/cm."""
        return float(np.sum((self.data_w - model * self.weight) ** 2))

    def without_crystals(self) -> float:
        """Chi-square of the fixed columns alone."""
        rows = self._rows[1:-2]
        gram = rows @ rows.T
        moment = gram[:-1, -1]
        amplitudes = non_negative(gram[:-1, :-1], moment, 0)
        return float(
            gram[-1, -1] - 2 * amplitudes @ moment + amplitudes @ gram[:-1, :-1] @ amplitudes
        )

    def variable_projection(self, start: tuple[float, float], steps: int = 60) -> Minimum:
        """Levenberg-Marquardt over (D, s/D); amplitudes are solved for at each step."""
        lower, upper = np.array([DIAMETER_BOUNDS_NM, RELATIVE_SIGMA_BOUNDS]).T
        at = np.clip(np.array([start[0], start[1] / start[0]]), lower, upper)
        cost, amplitudes, curvature, slope = self._project(at)
        damping = 1e-3
        for _ in range(steps):
            damped = curvature + damping * np.diag(np.diag(curvature))
            # Without crystals there is no slope, and no way on.
            if not np.all(np.diag(damped) > 0):
                break
            trial = np.clip(at + np.linalg.solve(damped, slope), lower, upper)
            found = self._project(trial)
            fall, moved = cost - found[0], np.max(np.abs(trial / at - 1))
            if fall > 0:
                at, damping = trial, 0.1 * damping
                cost, amplitudes, curvature, slope = found
            else:
                damping *= 10
            if abs(fall) < 1e-8 * cost or moved < 1e-8:
                break
        return Minimum(cost, float(at[0]), float(at[0] * at[1]), amplitudes)

    def scan(self, relative_sigma: float = 0.15) -> tuple[float, float]:
        """The best of ten diameters and its width: no single start has crystals in every curve."""
        grid = np.geomspace(*DIAMETER_BOUNDS_NM, 10)
        costs = [self._project(np.array([diameter, relative_sigma]))[0] for diameter in grid]
        best = float(grid[int(np.argmin(costs))])
        return best, relative_sigma * best

    def _project(self, at: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Chi-square, amplitudes, and curvature and slope of it over (D, s/D)."""
        diameter, relative = at
        rows, columns = self._rows, self._rows.shape[0] - 3
        shape = spheres(self.q, diameter, relative * diameter)
        rows[0] = shape[0] * self.weight
        rows[-2] = (shape[1] + relative * shape[2]) * self.weight
        rows[-1] = shape[2] * (diameter * self.weight)
        gram = rows @ rows.T
        own, moment = gram[:columns, :columns], gram[:columns, columns]
        amplitudes = non_negative(own, moment, 1)
        cost = gram[columns, columns] - 2 * amplitudes @ moment + amplitudes @ own @ amplitudes
        kept = np.flatnonzero(amplitudes)
        cross = gram[np.ix_(kept, (columns + 1, columns + 2))]
        curvature = gram[-2:, -2:] - cross.T @ np.linalg.solve(own[np.ix_(kept, kept)], cross)
        slope = gram[-2:, columns] - gram[-2:, :columns] @ amplitudes
        number = amplitudes[0]
        return float(cost), amplitudes, number**2 * curvature, number * slope

    def all_parameters(self, start: tuple[float, float]) -> np.ndarray:
        """D, s and the best amplitudes there; none is zero, which has no slope to leave it by."""
        amplitudes = self._project(np.array([start[0], start[1] / start[0]]))[1]
        return np.array([*start, *np.maximum(amplitudes, LEAST_AMPLITUDES[: amplitudes.size])])

    def least_squares(self, start: np.ndarray) -> Minimum:
        """Scipy's trust region over D, s and all amplitudes, with the derivatives written out."""
        bounds = (LOWER[: start.size], UPPER[: start.size])
        done = least_squares(
            self.residuals, start, self.jacobian, bounds, method="trf", x_scale="jac"
        )
        return Minimum(2 * done.cost, done.x[0], done.x[1], done.x[2:])

    def residuals(self, x: np.ndarray) -> np.ndarray:
        """Model less data in standard errors, (n,), of D, s, N, flat, q^-4, agglomerates."""
        model = x[2] * spheres(self.q, x[0], x[1])[0] + x[3:] @ self.fixed
        return model * self.weight - self.data_w

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """Its derivatives (n, 6)."""
        shape = spheres(self.q, x[0], x[1]) * self.weight
        return np.vstack((x[2] * shape[1:], shape[:1], self._rows[1 : 1 + self.fixed.shape[0]])).T


def random_starts(count: int, seed: int = 0) -> Iterator[tuple[float, float]]:
    """Diameters and widths (nm), even in the logarithm of D and of s/D."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        diameter = float(np.exp(rng.uniform(*np.log(DIAMETER_BOUNDS_NM))))
        yield diameter, diameter * float(np.exp(rng.uniform(*np.log(RELATIVE_SIGMA_BOUNDS))))


def best_of_random(fit: ClosedFormFit, count: int = 50, by_scipy: bool = False) -> Minimum:
    """The lowest minimum that so many random starts lead to, by projection or by scipy."""
    found = []
    for start in random_starts(count):
        if by_scipy:
            found.append(fit.least_squares(fit.all_parameters(start)))
        else:
            found.append(fit.variable_projection(start))
    return min(found, key=lambda minimum: minimum.chi2)
