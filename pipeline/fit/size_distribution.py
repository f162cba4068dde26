"""Stage: a curve becomes a size distribution of no assumed shape, with errors and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pipeline.config.sample import Sample
from pipeline.config.size_distribution import SizeInversion
from pipeline.fit.size_sums import Sums, number_per_volume
from pipeline.kernels.amplitudes import solve_amplitudes
from pipeline.kernels.inversion import (
    amplitudes_of,
    model_of,
    most_probable,
    products,
    start,
)
from pipeline.kernels.inversion_errors import covariance, effective_parameters, unseen
from pipeline.kernels.noise import FEWEST_VALUES, local_scatter
from pipeline.kernels.order import noise_level
from pipeline.kernels.residual_tests import describes, residual_verdict
from pipeline.kernels.size_kernel import (
    background_columns,
    bin_edges_nm,
    bin_mean,
    sphere_matrix,
)
from pipeline.kernels.units import PER_CM_IN_PER_NM, UM_PER_NM3
from pipeline.kernels.weights import counting_gain, counting_weight, running_mean
from pipeline.messages import (
    BadFrameError,
    Curve,
    Result,
    RunStart,
    SizeDistribution,
    SizeMoments,
)

LN10 = math.log(10.0)
FIRST_ALPHA = -4.0
"""log10 of alpha where the climb begins, for densities along ln D; see `_per_bins`."""
ALPHA_BOUNDS = (-14.0, 3.0)
"""log10 of the least and the largest alpha: departures from a lognormal as sharp as a bin, and
none at all over a decade of D."""
ERROR_ALPHA = 0.5
"""Errors are those at this share of alpha. The most probable alpha rounds peaks off, by a bias
that its own covariance leaves out. On 144 simulated frames of Cs-DOPA (0.5 to 300 s) errors of bins
cover so often (1 and 2 standard errors), and have this root mean square of error / its estimate:

===== ===== ===== ====
share 68 %  95 %  1
===== ===== ===== ====
1     60 %  90 %  1.25
0.5   69 %  95 %  1.02
0.3   78 %  97 %  0.87
===== ===== ===== ====
"""
ALPHA_STEPS = (LN10, 0.5 * LN10, 0.0)
"""Steps in ln alpha of the climb of each pass. In all but the first, sigma is taken from the model
and the reduced chi-square of the pass before; in the last, alpha stays."""
ABSURD = 1e100
"""Of an intensity or its error: its square would be lost to double precision."""
UNSEEN_RELATIVE_SIGMA = 0.1
"""Width of the population whose standard error stands beside the density."""
MIN_POINTS = 24
"""The data settle 5 to 15 parameters."""
LARGEST_LOG_ERROR = 300.0
"""Of a density: beyond, its error has no number in double precision."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """All that depends on the q axis and the settings alone.

    ``columns`` (n q, m) give 1/cm by volume fraction for the bins, then the backgrounds.
    """

    q_axis: np.ndarray
    resolution: np.ndarray
    window: np.ndarray
    columns: np.ndarray
    backgrounds: tuple[str, ...]
    non_negative: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """The most probable densities of one curve, under weights divided by ``noise``."""

    gram: np.ndarray
    log_alpha: float
    state: np.ndarray
    held: np.ndarray
    amplitudes: np.ndarray
    covariance: np.ndarray
    parameters: float
    residual_w: np.ndarray
    model_w: np.ndarray
    reduced: float
    fall: float
    """How much chi-square, in units of ``noise`` squared, falls by having particles."""


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """The points of one curve in the window; sigma is infinite where a point is no use."""

    intensity: np.ndarray
    sigma: np.ndarray
    estimated: bool


class InvertSizes:
    """Inverts each curve on its own: no frame depends on another, so a replay repeats the numbers.

    Model: spheres of all diameters on a power law and a constant; see ``kernels.inversion``.
    Errors are widened by the root of the reduced chi-square where that is above 1, and so is what
    the smoothing takes for noise.

    Parameters
    ----------
    settings
        Diameters, window, backgrounds.
    sample
        Contrast.
    """

    name: ClassVar[str] = "size_distribution"
    consumes: ClassVar[tuple[type, ...]] = (Curve,)
    produces: ClassVar[tuple[type[Result], ...]] = (SizeDistribution, SizeMoments)

    def __init__(self, settings: SizeInversion, sample: Sample) -> None:
        self.settings = settings
        self._per_volume = PER_CM_IN_PER_NM * sample.contrast_per_nm2**2
        self._edges = bin_edges_nm(settings.diameter_range_nm, settings.bins)
        self._per_bins = LN10 * _per_bins(settings)
        self._tried = _tried_populations(self._edges)
        self._plan: _Plan | None = None

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        warm_up()

    def reset(self, start: RunStart, /) -> None:
        """A new run may have another q axis."""
        self._plan = None

    def process(self, message: Curve, /) -> Iterable[Result]:
        """Invert one curve.

        Returns
        -------
        tuple
            The distribution and its moments.

        Raises
        ------
        BadFrameError
            If too few points can be used.
        """
        plan = self._plan_for(message)
        data = self._usable(message, plan)
        fit = self._fit(plan, data)
        present = fit.fall > self.settings.presence_sigma**2 + fit.parameters
        limit = self._unseen(fit, present)
        verdict = residual_verdict(
            fit.residual_w, fit.model_w, round(fit.parameters), self.settings.residual_stride
        )
        described = bool(
            describes(
                verdict,
                self.settings.describes_probability,
                self.settings.tolerated_misfit,
                not data.estimated,
            )
        )
        if not described:
            # Errors are those of a model that is true.
            fit = replace(fit, covariance=np.full_like(fit.covariance, math.nan))
        moments = self._moments(message, plan, data, fit, present, limit)
        moments = replace(moments, describes=described, misfit_relative=verdict.misfit_relative)
        return self._distribution(message, fit, present, limit), moments

    def _plan_for(self, curve: Curve) -> _Plan:
        plan = self._plan
        if plan is None or not (
            _same(plan.q_axis, curve.q_per_nm) and _same(plan.resolution, curve.q_resolution_per_nm)
        ):
            plan = self._plan = self._make_plan(curve.q_per_nm, curve.q_resolution_per_nm)
        return plan

    def _make_plan(self, q_axis: np.ndarray, resolution: np.ndarray) -> _Plan:
        settings = self.settings
        window = (q_axis >= settings.q_min_per_nm) & (q_axis <= settings.q_max_per_nm)
        window &= q_axis > 0
        q = np.ascontiguousarray(q_axis[window], dtype=float)
        seen = resolution[window] if resolution.size else resolution
        spheres = self._per_volume * sphere_matrix(q, self._edges, seen)
        exponent, flat = settings.powerlaw_exponent, settings.flat_background
        background = background_columns(q, exponent, flat)
        names = (*("powerlaw",) * (exponent is not None), *("flat",) * flat)
        return _Plan(
            q_axis=q_axis,
            resolution=resolution,
            window=window,
            columns=np.ascontiguousarray(np.hstack([spheres, background])),
            backgrounds=names,
            non_negative=np.array([name != "flat" for name in names], dtype=bool),
        )

    def _usable(self, curve: Curve, plan: _Plan) -> _Data:
        intensity = np.array(curve.intensity[plan.window], dtype=float)
        sigma = np.array(curve.sigma[plan.window], dtype=float)
        there = np.abs(intensity) < ABSURD
        absent = not np.any(np.isfinite(sigma))
        told = curve.sigma_estimated
        estimated = absent and int(np.count_nonzero(there)) >= FEWEST_VALUES
        if estimated:
            sigma = local_scatter(intensity)
        good = there & (sigma > 0) & (sigma < ABSURD)
        if np.count_nonzero(good) < MIN_POINTS:
            raise BadFrameError(
                f"saxs frame {curve.frame}: {np.count_nonzero(good)} points with finite intensity "
                f"and sigma > 0 between {self.settings.q_min_per_nm} and "
                f"{self.settings.q_max_per_nm} 1/nm, an inversion needs {MIN_POINTS}: check mask "
                "and q_min_per_nm, q_max_per_nm"
            )
        intensity[~good] = 0.0
        sigma[~good] = np.inf
        if self._counted(estimated or told) and not np.any(intensity > 0.0):
            raise BadFrameError(
                f"saxs frame {curve.frame}: no intensity above 0, so nothing says what a count is "
                "worth: for curves with a background subtracted set weights: measured"
            )
        return _Data(intensity, sigma, estimated or told)

    def _counted(self, estimated: bool) -> bool:
        """Whether sigma is that of counting, so that the model can give it."""
        return self.settings.weights == "model" and not estimated

    def _fit(self, plan: _Plan, data: _Data) -> _Fit:
        """First with weights from the running mean, then from the model itself."""
        counted = self._counted(data.estimated)
        gain = counting_gain(data.intensity, data.sigma)
        weight = 1.0 / data.sigma
        if counted:
            weight = counting_weight(gain, running_mean(data.intensity, data.sigma))
        fit = self._most_probable(plan, data, weight, 1.0, None, ALPHA_STEPS[0])
        model = np.empty(data.intensity.size)
        for step in ALPHA_STEPS[1:]:
            if counted:
                model_of(plan.columns, fit.amplitudes, model)
                weight = counting_weight(gain, model)
            noise = max(1.0, fit.reduced)
            fit = self._most_probable(plan, data, weight, noise, fit, step)
        return fit

    def _most_probable(
        self,
        plan: _Plan,
        data: _Data,
        weight: np.ndarray,
        noise: float,
        before: _Fit | None,
        step: float,
    ) -> _Fit:
        """Densities at the most probable alpha, when sigma^2 is ``noise`` times what it seems."""
        bins, size = self.settings.bins, plan.columns.shape[1]
        gram, moment = np.empty((size, size)), np.empty(size)
        scaled = weight / math.sqrt(noise)
        square = products(plan.columns, scaled, data.intensity, gram, moment)
        state, held = np.empty(size), np.zeros(size - bins, dtype=bool)
        bounds = (ALPHA_BOUNDS[0] * LN10 - self._per_bins, ALPHA_BOUNDS[1] * LN10 - self._per_bins)
        if before is None:
            start(gram, moment, square, bins, plan.non_negative, state)
            log_alpha = FIRST_ALPHA * LN10 - self._per_bins
        else:
            state[:] = before.state
            log_alpha = before.log_alpha
        log_alpha = most_probable(
            gram, moment, square, bins, plan.non_negative, log_alpha, step, bounds, state, held
        )[0]
        alpha = math.exp(log_alpha)
        amplitudes, spread = np.empty(size), np.empty((size, size))
        amplitudes_of(state, bins, amplitudes)
        covariance(gram, ERROR_ALPHA * alpha, bins, held, amplitudes, spread)
        parameters = effective_parameters(spread, ERROR_ALPHA * alpha, bins, held)
        model = np.empty(data.intensity.size)
        model_of(plan.columns, amplitudes, model)
        used = weight > 0
        residual_w = ((data.intensity - model) * weight)[used]
        chi2 = float(np.sum(residual_w**2))
        without = square - solve_amplitudes(
            np.ascontiguousarray(gram[bins:, bins:]), np.ascontiguousarray(moment[bins:]),
            plan.non_negative, 0, np.empty(size - bins),
        )  # fmt: skip
        return _Fit(
            gram=gram,
            log_alpha=log_alpha,
            state=state,
            held=held,
            amplitudes=amplitudes,
            covariance=spread,
            parameters=parameters,
            residual_w=residual_w,
            model_w=(model * weight)[used],
            reduced=chi2 / max(residual_w.size - parameters, 1.0),
            fall=without - chi2 / noise,
        )

    def _unseen(self, fit: _Fit, present: bool) -> np.ndarray:
        """Standard error (bins,) of the volume of one more population at each bin."""
        bins, amplitudes, spread = self.settings.bins, fit.amplitudes, fit.covariance
        if not present:
            # Without particles only the backgrounds are free.
            amplitudes = np.concatenate([np.zeros(bins), fit.amplitudes[bins:]])
            spread = _backgrounds_only(fit.gram, fit.held, bins)
        limit = np.empty(bins)
        unseen(fit.gram, spread, bins, amplitudes, self._tried, limit)
        return limit

    def _distribution(
        self, curve: Curve, fit: _Fit, present: bool, limit: np.ndarray
    ) -> SizeDistribution:
        bins, edges = self.settings.bins, self._edges
        width = np.diff(edges)
        volumes = fit.amplitudes[:bins] if present else np.zeros(bins)
        log_err = np.sqrt(np.diag(fit.covariance)[:bins])
        relative = np.expm1(np.minimum(log_err, LARGEST_LOG_ERROR))
        density = volumes / width
        numbers = number_per_volume(edges) * (UM_PER_NM3 if curve.absolute else 1.0)
        return SizeDistribution(
            frame=curve.frame,
            time_s=curve.time_s,
            diameter_nm=bin_mean(edges, 1),
            bin_width_nm=width,
            number_per_nm=density * numbers,
            number_per_nm_err=density * numbers * relative,
            volume_per_nm=density,
            volume_per_nm_err=density * relative,
            unseen_per_nm=limit * np.max(self._tried, axis=1) / width,
            absolute=curve.absolute,
        )

    def _moments(
        self,
        curve: Curve,
        plan: _Plan,
        data: _Data,
        fit: _Fit,
        present: bool,
        limit: np.ndarray,
    ) -> SizeMoments:
        bins, edges = self.settings.bins, self._edges
        number_from = math.pi / min(self.settings.q_max_per_nm, float(np.max(curve.q_per_nm)))
        numbers = number_per_volume(edges) * (edges[:-1] >= number_from)
        volumes = fit.amplitudes[:bins] if present else np.full(bins, math.nan)
        spread = fit.covariance[:bins, :bins]
        by_volume = Sums.of(volumes, spread, edges)
        by_number = Sums.of(volumes * numbers, spread, edges)
        number_unseen = float(np.max(limit * np.sum(self._tried * numbers, axis=1)))
        micromolar = UM_PER_NM3 if curve.absolute else math.nan
        absent = math.nan, math.nan
        background: dict[str, tuple[float, float]] = {"powerlaw": absent, "flat": absent}
        for name, value, variance in zip(
            plan.backgrounds, fit.amplitudes[bins:], np.diag(fit.covariance)[bins:], strict=True
        ):
            background[name] = (float(value), math.sqrt(variance))
        noise = float(noise_level(fit.residual_w))
        return SizeMoments(
            frame=curve.frame,
            time_s=curve.time_s,
            volume_mean_nm=by_volume.mean,
            volume_mean_nm_err=by_volume.mean_err,
            volume_sigma_nm=by_volume.sigma,
            volume_sigma_nm_err=by_volume.sigma_err,
            number_mean_nm=by_number.mean,
            number_mean_nm_err=by_number.mean_err,
            number_sigma_nm=by_number.sigma,
            number_sigma_nm_err=by_number.sigma_err,
            number_from_nm=number_from,
            volume_fraction=by_volume.total,
            volume_fraction_err=by_volume.total_err,
            number_um=by_number.total * micromolar,
            number_um_err=by_number.total_err * micromolar,
            number_unseen_um=number_unseen * micromolar,
            background=background["flat"][0],
            background_err=background["flat"][1],
            powerlaw_amplitude=background["powerlaw"][0],
            powerlaw_amplitude_err=background["powerlaw"][1],
            reduced_chi2=fit.reduced,
            residual_noise=noise,
            parameters=fit.parameters,
            log10_alpha=(fit.log_alpha + self._per_bins) / LN10,
            present=present,
            misfit_relative=math.nan,
            describes=False,
            sigma_estimated=data.estimated,
        )


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one is other or np.array_equal(one, other, equal_nan=True)


def _per_bins(settings: SizeInversion) -> float:
    """log10 of what a penalty on third differences is along ln D: the bins' width to the fifth."""
    lowest, highest = settings.diameter_range_nm
    return 5.0 * math.log10(math.log(highest / lowest) / settings.bins)


def _tried_populations(edges_nm: np.ndarray) -> np.ndarray:
    """Share in each bin (bins, bins) of a lognormal population at each bin, sum 1."""
    places = 0.5 * (np.log(edges_nm[1:]) + np.log(edges_nm[:-1]))
    shapes = np.exp(-0.5 * ((places[:, None] - places) / UNSEEN_RELATIVE_SIGMA) ** 2)
    return shapes / np.sum(shapes, axis=1, keepdims=True)


def _backgrounds_only(gram: np.ndarray, held: np.ndarray, bins: int) -> np.ndarray:
    """Covariance (m, m) with the backgrounds alone that are not held; zero elsewhere."""
    spread = np.zeros_like(gram)
    free = bins + np.flatnonzero(~held)
    if free.size:
        spread[np.ix_(free, free)] = np.linalg.inv(gram[np.ix_(free, free)])
    return spread


def warm_up() -> None:
    """Compile (or load from disk) every kernel of this stage, by inverting one small curve."""
    q = np.linspace(0.3, 5.0, 60)
    edges = bin_edges_nm((1.5, 20.0), 16)
    intensity = 1.0 + np.sum(sphere_matrix(q, edges, np.empty(0)), axis=1)
    for sigma in (np.sqrt(intensity), np.full(q.size, math.nan)):
        curve = Curve(
            frame=0, time_s=0.0, q_per_nm=q, intensity=intensity, sigma=sigma, absolute=False
        )
        settings = SizeInversion(q_min_per_nm=0.3, q_max_per_nm=5.0, bins=16)
        InvertSizes(settings, Sample()).process(curve)
