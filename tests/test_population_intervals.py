"""Errors and intervals of populations against numerical ones, and the minimum against scipy's.

The other side of each comparison is `benchmarks.closed_form`, which shares nothing with the
kernels, and numpy or scipy.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.stats import truncnorm

from benchmarks import sequences
from benchmarks.closed_form import spheres
from benchmarks.coverage import QUANTITIES, repeated
from benchmarks.sequences import (
    FORMULA_VOLUME_NM3,
    gain_per_cm,
    mean_volume_nm3,
    moment,
    spheres_per_cm,
)
from detectors.sample import Synthesis
from pipeline.config.populations import Expected, PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.population_problem import Plan, make_plan
from pipeline.fit.populations import FitPopulations, warm_up
from pipeline.kernels.amplitudes import solve_subset
from pipeline.kernels.population_fit import banned_columns
from pipeline.kernels.units import PER_CM_IN_PER_NM, UM_PER_NM3
from pipeline.kernels.variable_projection import refine
from pipeline.messages import Curve, FittedCurve, Populations

Q_PER_NM = np.linspace(0.2, 6.0, 240)
FLAT_PER_CM = 0.03
LIMITING_MM = 2.58
SAMPLE = Sample(limiting_concentration_mm=LIMITING_MM)
UM_PER_AMPLITUDE = UM_PER_NM3 / (PER_CM_IN_PER_NM * SAMPLE.contrast_per_nm2**2)
"""Micromolar that one unit of a column's amplitude is."""

counted = partial(sequences.counted, q_per_nm=Q_PER_NM)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


def fit(curve: Curve, **settings: Any) -> tuple[Populations, FittedCurve]:
    row, fitted = FitPopulations(PopulationsFit(**settings), SAMPLE).process(curve)
    return row, fitted


# Standard errors


def hessian(function: Any, at: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Second derivatives by central differences."""
    size = at.size
    out = np.empty((size, size))
    for i in range(size):
        for j in range(i + 1):
            total = 0.0
            for a, b in ((1, 1), (-1, -1), (1, -1), (-1, 1)):
                place = at.copy()
                place[i] += a * steps[i]
                place[j] += b * steps[j]
                total += a * b * function(place)
            out[i, j] = out[j, i] = total / (4 * steps[i] * steps[j])
    return out


@pytest.mark.parametrize("expected", [True, False])
def test_errors_are_those_of_a_numerical_hessian(expected):
    """Of a curve without noise, where chi-square's curvature has no term of the residuals."""
    truth = np.array([1.5, 6.4, 0.8, 40.0, 3.0, 0.3, FLAT_PER_CM, 1e-4])
    sds = np.array([0.05, 0.02])

    def model(at: np.ndarray) -> np.ndarray:
        crystals, agglomerates = spheres(Q_PER_NM, *at[1:3])[0], spheres(Q_PER_NM, *at[4:6])[0]
        return at[0] * crystals + at[3] * agglomerates + at[6] + at[7] * Q_PER_NM**-4.0

    intensity = model(truth)
    sigma = np.sqrt(intensity * gain_per_cm(Q_PER_NM, 5e11))

    def chi2(at: np.ndarray) -> float:
        prior = np.sum(((at[4:6] - truth[4:6]) / sds) ** 2) if expected else 0.0
        return float(np.sum(((intensity - model(at)) / sigma) ** 2) + prior)

    curve = Curve(
        frame=0,
        time_s=0.0,
        q_per_nm=Q_PER_NM,
        intensity=intensity,
        sigma=sigma,
        absolute=True,
    )
    settings = {}
    if expected:
        settings = {
            "agglomerate_diameter_nm": Expected(mean=3.0, sd=0.05),
            "agglomerate_sigma_nm": Expected(mean=0.3, sd=0.02),
        }
    row, _ = fit(curve, **settings)
    assert row.nc_diameter_nm == pytest.approx(6.4, rel=1e-4)
    # Steps of about a tenth of a standard error, of unit chi-square in all.
    first = np.diag(hessian(chi2, truth, 1e-4 * truth)) / 2
    curvature = hessian(chi2, truth, 0.1 / np.sqrt(first)) / 2
    free = np.array([0, 1, 2, 3, 4, 5, 6, 7] if expected else [0, 1, 2, 3, 6, 7])
    covariance = np.zeros((8, 8))
    covariance[np.ix_(free, free)] = np.linalg.inv(curvature[np.ix_(free, free)])
    error = np.sqrt(np.diag(covariance))
    for name, place in (
        ("nc_concentration_um", 0),
        ("nc_diameter_nm", 1),
        ("nc_sigma_nm", 2),
        ("agglomerate_concentration_um", 3),
        ("agglomerate_diameter_nm", 4),
        ("agglomerate_sigma_nm", 5),
    ):
        assert getattr(row, name + "_err") == pytest.approx(error[place], rel=2e-3), name

    def yielded(at: np.ndarray) -> float:
        return at[0] * mean_volume_nm3(*at[1:3]) / FORMULA_VOLUME_NM3 * 1e-3 / LIMITING_MM

    def solute_mm(at: np.ndarray) -> float:
        both = at[0] * mean_volume_nm3(*at[1:3]) + at[3] * mean_volume_nm3(*at[4:6])
        return both / FORMULA_VOLUME_NM3 * 1e-3

    for name, function in (("yield_fraction", yielded), ("solute_mm", solute_mm)):
        steps = 1e-5 * truth
        slopes = np.array(
            [
                (function(truth + step) - function(truth - step)) / (2 * steps[i])
                for i, step in enumerate(np.diag(steps))
            ]
        )
        assert getattr(row, name) == pytest.approx(function(truth), rel=1e-4)
        expected_err = math.sqrt(slopes @ covariance @ slopes)
        assert getattr(row, name + "_err") == pytest.approx(expected_err, rel=3e-3), name
    correlation = covariance[np.ix_(free, free)] / np.outer(error[free], error[free])
    np.fill_diagonal(correlation, 0.0)
    strongest = correlation.flat[np.argmax(np.abs(correlation))]
    assert row.largest_correlation == pytest.approx(strongest, abs=1e-3)


# Intervals


def brute_force(row: Populations, fitted: FittedCurve, scale: float) -> np.ndarray:
    """Intervals of D, s, N and yield from a fine grid in numpy and random numbers: (4, 2).

    At each (D, s/D) amplitudes by least squares, numbers of crystals below zero left out; flat in
    a particle's volume and in s/D.
    """
    curve = fitted.curve
    weight = 1 / np.sqrt(gain_per_cm(Q_PER_NM, 1e11) * fitted.model)
    columns = []
    if math.isfinite(row.background):
        columns.append(np.ones_like(Q_PER_NM))
    if math.isfinite(row.powerlaw_amplitude):
        columns.append(Q_PER_NM**-4.0)
    if math.isfinite(row.agglomerate_concentration_um):
        columns.append(spheres(Q_PER_NM, 3.0, 0.3)[0])
    fixed, data = np.array(columns) * weight, curve.intensity * weight
    base, _ = np.linalg.qr(fixed.T)
    left = data - base @ (base.T @ data)
    diameters = 2.0 + 18.0 * (np.arange(720) + 0.5) / 720
    widths = 0.03 + 0.47 * (np.arange(120) + 0.5) / 120
    logs = np.full((720, 120), -np.inf)
    number, deviation = np.zeros((720, 120)), np.ones((720, 120))
    for i, diameter in enumerate(diameters):
        if abs(diameter - row.nc_diameter_nm) > 4.0:
            continue
        for j, width in enumerate(widths):
            own = spheres(Q_PER_NM, diameter, width * diameter)[0] * weight
            own = own - base @ (base.T @ own)
            norm = own @ own
            number[i, j], deviation[i, j] = own @ left / norm, math.sqrt(scale / norm)
            above = 0.5 * math.erfc(-number[i, j] / deviation[i, j] / math.sqrt(2))
            logs[i, j] = 0.5 * (own @ left) ** 2 / norm / scale + 2 * math.log(diameter)
            logs[i, j] += math.log(max(above, 1e-300))
    share = np.exp(logs - logs.max()).ravel()
    rng = np.random.default_rng(0)
    places = rng.choice(share.size, 200_000, p=share / share.sum())
    rows, columns_at = np.unravel_index(places, logs.shape)
    jitter = rng.uniform(-0.5, 0.5, (2, places.size))
    diameter = diameters[rows] + jitter[0] * 18.0 / 720
    sigma = diameter * (widths[columns_at] + jitter[1] * 0.47 / 120)
    centre, scatter = number.ravel()[places], deviation.ravel()[places]
    many = truncnorm.rvs(-centre / scatter, np.inf, centre, scatter, random_state=rng)
    volume = np.pi / 6 * (diameter**3 + 3 * diameter * sigma**2)
    amount = many * volume / FORMULA_VOLUME_NM3 * 1e-3 / LIMITING_MM
    return np.array([np.quantile(each, (0.025, 0.975)) for each in (diameter, sigma, many, amount)])


@pytest.mark.parametrize(("time_s", "seed"), [(1.5, 3), (2.5, 4)])
def test_intervals_of_a_weak_frame_are_those_of_brute_force(time_s, seed):
    there = moment(Synthesis("cs_dopa"), time_s, Q_PER_NM)
    row, fitted = fit(counted(there.intensity, np.random.default_rng(seed), flux_per_s=1e11))
    assert row.interval == "posterior"
    expected = brute_force(row, fitted, max(row.reduced_chi2, 1.0))
    for name, ends in zip(QUANTITIES, expected, strict=True):
        got = np.array([getattr(row, name + "_lo"), getattr(row, name + "_hi")])
        # Measured: up to 4.1 %, of the width, which has 28 places.
        assert np.max(np.abs(got - ends)) < 0.06 * np.ptp(ends), (name, got, ends)


def test_intervals_of_weak_frames_hold_the_truth():
    """300 frames of phase II at 1e11 photons/s: 95 % is known to 1.3 % from so many."""
    rows = repeated("cs_dopa", (1.0, 1.5, 2.0, 2.5, 3.0), 60, flux_per_s=1e11, seed=5)
    pairs = [pair for each in rows.values() for pair in each]
    for name in QUANTITIES:
        stated = [
            getattr(row, name + "_lo") <= there.truth[name] <= getattr(row, name + "_hi")
            for there, row in pairs
            if row.interval
        ]
        assert len(stated) > 290
        assert 0.91 < np.mean(stated) < 0.98, (name, np.mean(stated))


def test_which_kind_of_interval_is_said():
    synthesis, rng = Synthesis("cs_dopa"), np.random.default_rng(6)
    early, _ = fit(counted(moment(synthesis, 1.5, Q_PER_NM).intensity, rng, flux_per_s=1e11))
    assert early.interval == "posterior"
    # Skew: by more than a symmetric interval has.
    below = early.nc_concentration_um - early.nc_concentration_um_lo
    above = early.nc_concentration_um_hi - early.nc_concentration_um
    assert above > 1.2 * below > 0
    assert early.confounded == "nc_concentration_um, nc_diameter_nm"
    assert -1 < early.largest_correlation < -0.98
    late, _ = fit(counted(moment(synthesis, 20.0, Q_PER_NM).intensity, rng))
    assert late.interval == "fisher"
    assert late.confounded == ""
    assert abs(late.largest_correlation) < 0.98
    for name in QUANTITIES:
        value, err = getattr(late, name), getattr(late, name + "_err")
        ends = getattr(late, name + "_lo"), getattr(late, name + "_hi")
        assert ends == pytest.approx((value - 1.959964 * err, value + 1.959964 * err), rel=1e-9)
    none, _ = fit(counted(np.full(Q_PER_NM.size, FLAT_PER_CM), rng))
    assert (none.interval, none.populations) == ("", 0)
    assert math.isnan(none.nc_diameter_nm_lo)


def test_intervals_widen_with_their_probability():
    there = moment(Synthesis("cs_dopa"), 2.0, Q_PER_NM)
    curve = counted(there.intensity, np.random.default_rng(8), flux_per_s=1e11)
    ends = []
    for probability in (0.6, 0.9, 0.99):
        row, _ = fit(curve, interval_probability=probability)
        ends.append((row.nc_diameter_nm_lo, row.nc_diameter_nm_hi))
    (a, b), (c, d), (e, f) = ends
    assert e < c < a < b < d < f


# Minima


def plan_of(**settings: Any) -> Plan:
    return make_plan(
        PopulationsFit(powerlaw_exponent=None, **settings), Q_PER_NM, np.empty(0), None
    )


def test_one_population_ends_where_scipy_does():
    plan = plan_of(agglomerates=False)
    rng = np.random.default_rng(9)
    for _ in range(20):
        diameter, relative = rng.uniform(4.0, 12.0), rng.uniform(0.07, 0.2)
        truth = rng.uniform(0.3, 3) * spheres_per_cm(Q_PER_NM, diameter, relative * diameter)
        compare(plan, truth + FLAT_PER_CM, rng, np.array([[diameter, relative]]))


def test_two_free_populations_end_where_scipy_does():
    plan = plan_of(
        agglomerate_diameter_nm=Expected(mean=3.0, sd=0.3),
        agglomerate_sigma_nm=Expected(mean=0.3, sd=0.1),
    )
    rng = np.random.default_rng(10)
    for _ in range(20):
        small = rng.normal(3.0, 0.3), rng.uniform(0.2, 0.4)
        diameter, relative = rng.uniform(6.0, 12.0), rng.uniform(0.07, 0.15)
        truth = rng.uniform(0.3, 3) * spheres_per_cm(Q_PER_NM, diameter, relative * diameter)
        truth = truth + rng.uniform(20, 200) * spheres_per_cm(Q_PER_NM, *small)
        sizes = np.array([[3.0, 0.1], [diameter, relative]])
        compare(plan, truth + FLAT_PER_CM, rng, sizes)


def compare(plan: Plan, truth: np.ndarray, rng: np.random.Generator, sizes: np.ndarray) -> None:
    """Both from a start that is off by up to 7 %; scipy minimises over all parameters at once."""
    curve = counted(truth, rng)
    weight = 1 / np.sqrt(truth * gain_per_cm(Q_PER_NM))
    problem, many = plan.problem, len(sizes)
    start = sizes * rng.uniform(0.93, 1.07, sizes.shape)
    prior, prior_weight = problem.prior_nm[2 - many :], problem.prior_weight[2 - many :]

    def residual(at: np.ndarray) -> np.ndarray:
        model = np.full(Q_PER_NM.size, at[0])
        off = []
        for p in range(many):
            mean, relative, number = at[1 + 3 * p : 4 + 3 * p]
            model = model + number * spheres(Q_PER_NM, mean, relative * mean)[0]
            values = np.array([mean, relative * mean])
            off.append((values - prior[p]) * prior_weight[p])
        return np.concatenate([(curve.intensity - model) * weight, *off])

    columns = [np.ones_like(Q_PER_NM)]
    columns += [spheres(Q_PER_NM, mean, relative * mean)[0] for mean, relative in start]
    linear = np.linalg.lstsq((np.array(columns) * weight).T, curve.intensity * weight)[0]
    first, lower, upper = [linear[0]], [-np.inf], [np.inf]
    for p in range(many):
        own = 2 - many + p
        first += [*start[p], max(linear[1 + p], 1e-3)]
        lower += [*problem.lower[own], 0.0]
        upper += [*problem.upper[own], np.inf]
    expected = least_squares(
        residual,
        np.clip(first, lower, upper),
        bounds=(lower, upper),
        x_scale="jac",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=400,
    )
    at, amplitudes = np.empty((2, 2)), np.empty(3)
    at[:] = plan.starts.agglomerates
    at[2 - many :] = start
    banned = banned_columns(3 if many == 2 else 2, 1)
    chi2, converged = refine(
        problem, curve.intensity * weight, weight, problem.fixed * weight, banned, at, amplitudes
    )
    assert converged
    assert chi2 == pytest.approx(2 * expected.cost, abs=2e-4)
    # 0.003 standard errors in the promised fall of chi-square: a few per mille of the error.
    error = np.sqrt(np.diag(np.linalg.inv(expected.jac.T @ expected.jac)))
    for p in range(many):
        found = [*at[2 - many + p], amplitudes[1 + 2 - many + p] * UM_PER_AMPLITUDE]
        place = slice(1 + 3 * p, 4 + 3 * p)
        assert np.all(np.abs(found - expected.x[place]) < 0.02 * error[place])


@pytest.mark.parametrize("solve", [solve_subset, solve_subset.py_func])
def test_solution_of_a_subset_is_that_of_least_squares(solve):
    rng = np.random.default_rng(12)
    for _ in range(20):
        columns = rng.normal(size=(30, 5)) * np.array([1e-4, 1.0, 1e4, 10.0, 1e-8])
        data = rng.normal(size=30)
        members = rng.permutation(5)
        count = int(rng.integers(1, 6))
        solution = np.full(5, np.nan)
        assert solve(columns.T @ columns, columns.T @ data, members, count, solution)
        scale = np.linalg.norm(columns, axis=0)[members[:count]]
        expected = np.linalg.lstsq(columns[:, members[:count]] / scale, data)[0]
        np.testing.assert_allclose(solution[:count] * scale, expected, atol=1e-10)
        assert np.isnan(solution[count:]).all()


@pytest.mark.parametrize("solve", [solve_subset, solve_subset.py_func])
def test_columns_that_are_one_are_told(solve):
    columns = np.random.default_rng(13).normal(size=(30, 3))
    columns[:, 2] = 1e6 * columns[:, 0]
    solution = np.empty(3)
    gram, right = columns.T @ columns, columns.T @ np.ones(30)
    assert not solve(gram, right, np.array([0, 1, 2]), 3, solution)
    assert solve(gram, right, np.array([1, 2, 0]), 2, solution)
    gram[0] = gram[:, 0] = 0.0
    assert not solve(gram, right, np.array([0, 1, 2]), 3, solution)
