"""When did one regime give way to another? Exact posterior over the moment of the change.

Observables (logarithms, e.g. of number and diameter) follow a level and a slope; a regime says
what slopes are to be expected: normal about a mean, wandering back to it within a relaxation time.
One Kalman filter follows the old regime. At each frame a further one branches off that assumes
that the change has just happened: it keeps the level and takes its slope from the new regime. Its
likelihood against all others is the posterior of that moment: a switching Kalman filter with one
switch (Barber, J. Mach. Learn. Res. 7, 2515, 2006, for the general case), where nothing needs to
be merged because there are only as many histories as frames.

Frames may come at any distance in time. An outlier counts less (Student's t in place of the
normal), so no single frame decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.detect.moment import moment_of_change

# Student's t of so many degrees of freedom: a frame at 10 standard deviations costs 12 nats, not
# 50, and moves the level by a tenth of what it would.
STUDENT_DEGREES = 6.0
# Errors are those of counting. Flux, cell and model add some that are not in them and are the same
# for neighbouring frames, so the sum of log likelihoods overstates what is known.
TEMPER = 0.6
# Branches kept; the least likely go. 64 frames on each side of the onset are ample: a posterior
# that is wider than that is no onset.
BRANCHES = 128
YOUNG = 16


@dataclass(frozen=True, slots=True)
class Regime:
    """Slopes per second to be expected of each observable, (k,) each.

    ``relaxation_s`` is the time within which a slope wanders back to its mean.
    """

    slope_mean: tuple[float, ...]
    slope_sd: tuple[float, ...]
    relaxation_s: float


@dataclass(frozen=True, slots=True)
class Onset:
    """Posterior of the moment of change: median, central interval, probability that it was."""

    onset_s: float
    lo_s: float
    hi_s: float
    probability: float


class Switch:
    """One change from a regime to another, in ``k`` observables.

    Parameters
    ----------
    before, after
        The regimes.
    expected_s
        Mean time that the first regime is expected to last: the prior of the change.
    """

    def __init__(self, before: Regime, after: Regime, expected_s: float) -> None:
        self._before, self._after, self._expected_s = before, after, expected_s
        k = len(before.slope_mean)
        # Row 0 is the history without a change; each further row changed at ``_began[row]``.
        self._level = np.zeros((1, k))
        self._slope = np.array([before.slope_mean])
        self._var_level = np.full((1, k), 1e4)
        self._var_cross = np.zeros((1, k))
        self._var_slope = np.array([before.slope_sd]) ** 2
        self._log = np.zeros(1)
        self._began: list[tuple[float, float]] = [(math.nan, math.nan)]
        self._time = math.nan

    def update(self, time_s: float, value: np.ndarray, error: np.ndarray) -> None:
        """Take in one frame: ``value`` and its standard ``error``, (k,); NaN = not measured."""
        if not math.isnan(self._time):
            self._branch(time_s)
            self._predict(time_s - self._time)
        self._time = time_s
        self._correct(value, error)
        if self._log.size > BRANCHES:
            # Row 0 has not changed, and the last few are too young to be judged.
            judged = np.arange(1, self._log.size - YOUNG)
            worst = judged[np.argmin(self._log[judged])]
            self._select(np.delete(np.arange(self._log.size), worst))

    def forget_level(self) -> None:
        """The scale has jumped (gain, flux): levels are to be learnt anew, slopes are kept."""
        self._var_level += 1.0

    def onset(self, coverage: float) -> Onset:
        """Posterior as it stands; a change lies evenly between two frames."""
        weight = np.exp(self._log - np.max(self._log))
        weight /= weight.sum()
        probability = float(weight[1:].sum())
        if probability == 0.0:
            return Onset(math.nan, math.nan, math.nan, 0.0)
        edges = [self._began[1][0], *(end for _, end in self._began[1:])]
        return Onset(*moment_of_change(weight[1:], edges, coverage), probability)

    def _select(self, keep: np.ndarray) -> None:
        for name in ("_level", "_slope", "_var_level", "_var_cross", "_var_slope", "_log"):
            setattr(self, name, getattr(self, name)[keep])
        self._began = [self._began[i] for i in keep]

    def _branch(self, time_s: float) -> None:
        """A history that changes between the last frame and this one."""
        hazard = -math.expm1(-(time_s - self._time) / self._expected_s)
        self._level = np.vstack((self._level, self._level[:1]))
        self._var_level = np.vstack((self._var_level, self._var_level[:1]))
        self._slope = np.vstack((self._slope, self._after.slope_mean))
        self._var_cross = np.vstack((self._var_cross, np.zeros_like(self._level[:1])))
        self._var_slope = np.vstack((self._var_slope, np.square(self._after.slope_sd)))
        self._log = np.append(self._log, self._log[0] + math.log(hazard))
        self._log[0] += math.log1p(-hazard)
        self._began.append((self._time, time_s))

    def _predict(self, step_s: float) -> None:
        for rows, regime in ((slice(0, 1), self._before), (slice(1, None), self._after)):
            mean, sd = np.array(regime.slope_mean), np.array(regime.slope_sd)
            decay = math.exp(-step_s / regime.relaxation_s)
            self._level[rows] += step_s * self._slope[rows]
            self._var_level[rows] += step_s * (
                2 * self._var_cross[rows] + step_s * self._var_slope[rows]
            )
            self._var_cross[rows] = decay * (self._var_cross[rows] + step_s * self._var_slope[rows])
            self._slope[rows] = mean + decay * (self._slope[rows] - mean)
            self._var_slope[rows] = decay**2 * self._var_slope[rows] + (1 - decay**2) * sd**2

    def _correct(self, value: np.ndarray, error: np.ndarray) -> None:
        seen = np.isfinite(value) & np.isfinite(error) & (error > 0)
        if not np.any(seen):
            return
        nu = STUDENT_DEGREES
        innovation = np.where(seen, value - self._level, 0.0)
        noise = np.where(seen, error, 1.0) ** 2
        spread = self._var_level + noise
        z2 = innovation**2 / spread
        log = -0.5 * np.log(spread) - 0.5 * (nu + 1) * np.log1p(z2 / nu)
        self._log = self._log + TEMPER * np.where(seen, log, 0.0).sum(axis=1)
        # An unlikely value is taken as if its error were larger.
        spread = self._var_level + noise * np.maximum(1.0, (nu + z2) / (nu + 1))
        gain = np.where(seen, self._var_level / spread, 0.0)
        gain_slope = np.where(seen, self._var_cross / spread, 0.0)
        self._level = self._level + gain * innovation
        self._slope = self._slope + gain_slope * innovation
        self._var_slope = self._var_slope - gain_slope * self._var_cross
        self._var_cross = (1 - gain) * self._var_cross
        self._var_level = (1 - gain) * self._var_level
