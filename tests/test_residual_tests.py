"""Residuals that tell a misfit: exact p-values, false alarms at their rate, power, real curves."""

import csv
import itertools
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import misfits
from detectors.sample.synthesis import Synthesis
from detectors.simulation.area import AreaRenderer
from pipeline.config.acquisition import SimulatedSaxs
from pipeline.config.populations import PopulationsFit
from pipeline.config.reduce import AreaReduction
from pipeline.config.sample import Sample
from pipeline.fit.populations import FitPopulations
from pipeline.kernels.noise import local_scatter
from pipeline.kernels.residual_tests import (
    describes,
    f_survival,
    few_runs_p,
    longest_run_p,
    residual_verdict,
)
from pipeline.messages import Curve, ImageFrame, RunStart, StreamStart
from pipeline.reduce.saxs import ReduceSaxs
from tests.test_pd_fits import FIT as PD_FIT
from tests.test_pd_fits import measured


def runs_of(signs: Iterable[int]) -> list[int]:
    return [len(list(group)) for _, group in itertools.groupby(signs)]


@pytest.mark.parametrize("p_value", [longest_run_p, longest_run_p.py_func])
def test_longest_run_by_counting_all_tosses(p_value):
    n = 10
    longest = np.array([max(runs_of(s)) for s in itertools.product((0, 1), repeat=n)])
    for length in range(1, n + 1):
        assert p_value(length, n) == pytest.approx(np.mean(longest >= length), rel=1e-12)
    assert p_value(n + 1, n) == 0.0


def test_longest_run_of_many_tosses():
    """Against the Poisson limit, and far in the tail where a complement would be rounded off."""
    # Schilling: runs of k heads are nearly Poisson events, (n - 1 - k)/2^(k + 1) + 2^-k of them.
    rate = (2047 - 14) / 2**15 + 2**-14
    assert longest_run_p(15, 2048) == pytest.approx(-math.expm1(-rate), rel=0.01)
    assert longest_run_p(400, 500) == pytest.approx(2.0**-399 * 51, rel=1e-12)


@pytest.mark.parametrize("p_value", [few_runs_p, few_runs_p.py_func])
@pytest.mark.parametrize(("positive", "negative"), [(5, 6), (3, 8), (1, 9), (7, 7)])
def test_few_runs_by_counting_all_orders(p_value, positive, negative):
    n = positive + negative
    counts = [
        len(runs_of([i in places for i in range(n)]))
        for places in itertools.combinations(range(n), positive)
    ]
    for runs in range(2, max(counts) + 1):
        expected = np.mean(np.array(counts) <= runs)
        assert p_value(runs, positive, negative) == pytest.approx(expected, rel=1e-10)


def test_few_runs_of_many_signs_is_nearly_normal():
    n1, n2 = 240, 210
    mean = 2 * n1 * n2 / (n1 + n2) + 1
    variance = (mean - 1) * (mean - 2) / (n1 + n2 - 1)
    for runs in (190, 205, 225, 240):
        expected = stats.norm.cdf((runs + 0.5 - mean) / math.sqrt(variance))
        assert few_runs_p(runs, n1, n2) == pytest.approx(expected, rel=0.03)
    assert few_runs_p(1, 30, 0) == 1.0


@pytest.mark.parametrize("survival", [f_survival, f_survival.py_func])
@pytest.mark.parametrize(("degrees", "below"), [(8, 100.0), (16, 33.0), (64, 400.0)])
def test_tail_of_f_is_scipys(survival, degrees, below):
    for ratio in (0.3, 1.0, 2.0, 6.0, 40.0):
        expected = stats.f.sf(ratio, degrees, below)
        assert survival(ratio, degrees, below) == pytest.approx(expected, rel=1e-9)


def test_compiled_agrees_with_python():
    rng = np.random.default_rng(1)
    residual = rng.normal(size=300) + np.sin(np.arange(300) / 15)
    got = residual_verdict(residual, np.full(300, 40.0), 5, 2)
    np.testing.assert_allclose(got, residual_verdict.py_func(residual, np.full(300, 40.0), 5, 2))


def within(count: int, of: int, probability: float) -> bool:
    """Whether a count is one of a binomial distribution, at 1 in 10000 on either side."""
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], of, probability)
    return bool(low <= count <= high)


def test_independent_residuals_alarm_at_the_stated_rate():
    rng = np.random.default_rng(2)
    n = 2000
    values = np.array(
        [residual_verdict(rng.normal(size=450), np.ones(450), 0, 1) for _ in range(n)]
    )
    for level in (0.1, 0.01):
        alarms = np.count_nonzero(values[:, :4] < level, axis=0)
        assert within(alarms[2], n, level), alarms
        # Whole numbers of signs in a row: at most at the rate.
        assert alarms[0] <= stats.binom.ppf(1 - 1e-4, n, level)
        assert alarms[1] <= stats.binom.ppf(1 - 1e-4, n, level)
        # Cauchy's combination holds for small p only: within a fifth at 0.1.
        assert 0.5 * level < alarms[3] / n < 1.2 * level + 4 * math.sqrt(level / n)


def test_size_of_a_known_misfit():
    """A signal that is wrong by a wave of 3 % has a misfit of 3 %/sqrt(2), whatever the counts."""
    rng = np.random.default_rng(3)
    wave = 0.03 * np.sin(np.arange(450) / 12)
    for signal_over_sigma in (60.0, 600.0):
        signal = np.full(450, signal_over_sigma)
        values = np.array(
            [
                residual_verdict(rng.normal(size=450) + signal * wave, signal, 0, 2)
                for _ in range(50)
            ]
        )
        assert np.mean(values[:, 4]) == pytest.approx(0.03 / math.sqrt(2), rel=0.03)
        assert np.mean(values[:, 5] > 0.03 / math.sqrt(2)) > 0.9
    # A factor on sigma changes nothing but chi-square.
    residual = rng.normal(size=450) + signal * wave
    once, twice = (residual_verdict(residual / f, signal / f, 0, 2) for f in (1.0, 2.0))
    np.testing.assert_allclose(once[:6], twice[:6], rtol=1e-9)
    assert once.chi2_reduced == pytest.approx(4 * twice.chi2_reduced)


@pytest.mark.parametrize("residual", [np.empty(0), np.ones(1), np.zeros(30), np.ones(100)])
def test_no_data_no_crash(residual):
    verdict = residual_verdict(residual, np.ones(residual.size), 5, 2)
    assert all(math.isnan(p) or 0.0 <= p <= 1.0 for p in verdict[:4])
    assert residual_verdict(residual, np.zeros(residual.size), 5, 2)[4:6] == pytest.approx(
        (math.nan, math.nan), nan_ok=True
    )


@pytest.fixture(scope="module")
def true_model() -> np.ndarray:
    return misfits.spheres(7.4, 0.1) + misfits.BACKGROUND_PER_CM


def test_fits_of_a_true_model_alarm_no_more_than_stated(true_model):
    """Neighbours correlated, parameters used up: on the safe side, not below a quarter."""
    values, _ = misfits.verdicts(true_model, 5e10, 1000)
    for level in (0.1, 0.02):
        alarms = np.count_nonzero(values[:, :4] < level, axis=0)
        assert np.all(alarms <= stats.binom.ppf(1 - 1e-4, 1000, level)), (level, alarms)
        assert alarms[2] > 0.4 * level * 1000
        assert alarms[3] > 0.25 * level * 1000
    assert all(describes(misfits.ResidualVerdict(*value)) for value in values)
    assert np.median(values[:, 4]) < 0.005


class _Spheres:
    """A vial of nothing but spheres."""

    def __init__(self, curve: np.ndarray) -> None:
        self.recipe = Synthesis("cs_dopa").recipe
        self.curve = curve

    def intensity_per_cm(self, q_per_nm: np.ndarray, time_s: float) -> np.ndarray:
        return np.interp(q_per_nm, misfits.Q_PER_NM, self.curve)


def test_detector_frames_of_a_true_model(true_model):
    """Rendered pixel by pixel and integrated: neighbours are correlated, and no alarm is false."""
    settings = SimulatedSaxs(shape=(512, 512), pixel_size_um=150.0, flux_per_s=5e11)
    renderer = AreaRenderer(settings, _Spheres(true_model), (), 3)
    start = StreamStart(
        stream="saxs",
        run="",
        kind="image",
        shape=settings.shape,
        dtype=renderer.dtype.str,
        arrays={"pixel_mask": renderer.pixel_mask},
        metadata={
            "poni": renderer.poni,
            "absolute_scale": renderer.absolute_scale,
            "thickness_cm": settings.thickness_cm,
        },
    )
    stage = ReduceSaxs(AreaReduction(bins=250, polarization_factor=0.99))
    stage.reset(RunStart(run="", stream=start))
    fit = FitPopulations(PopulationsFit(q_max_per_nm=5.3), Sample())
    residuals, p_values = [], []
    for frame in range(150):
        exposure = renderer.render(frame, 1.0, 0.5)
        assert exposure is not None
        image = ImageFrame(
            "saxs", frame, 10**9, 0.5, exposure.image, exposure.monitor, exposure.transmission
        )
        row, fitted = fit.process(next(iter(stage.process(image))))
        p_values.append(misfits.judge(row, fitted)[:4])
        used = np.isfinite(fitted.model) & np.isfinite(fitted.curve.intensity)
        curve = fitted.curve
        residuals.append(((curve.intensity - fitted.model) / curve.sigma)[used])
    residual = np.array(residuals)
    lags = [np.mean(residual[:, k:] * residual[:, : residual.shape[1] - k]) for k in range(4)]
    assert 0.08 < lags[1] / lags[0] < 0.2
    assert max(abs(lags[2]), abs(lags[3])) < 0.03 * lags[0]
    for level in (0.1, 0.01):
        alarms = np.count_nonzero(np.array(p_values) < level, axis=0)
        assert np.all(alarms <= stats.binom.ppf(1 - 1e-4, 150, level)), (level, alarms)


@pytest.mark.parametrize(
    ("name", "flux_per_s", "least_misfit"),
    [
        ("cubes 6 nm, 10 %", 5e10, 0.019),
        ("hard spheres, 5 % by volume", 5e9, 0.06),
        ("hard spheres, 40 %", 5e9, 0.5),
        ("core and shell, 1.2 nm", 5e10, 0.025),
        ("spheres of 6 and 9 nm, 8 %", 5e9, 0.04),
        ("powder, q^-3.2", 5e9, 0.1),
        ("powder, 1/(1 + 9 q^2)^1.25", 5e9, 0.15),
    ],
)
def test_what_is_not_spheres_is_told(name, flux_per_s, least_misfit):
    truth = misfits.CASES[name]() + misfits.BACKGROUND_PER_CM
    values, _ = misfits.verdicts(truth, flux_per_s, 10)
    assert np.all(values[:, 3] < 1e-3)
    assert np.mean(values[:, 4]) > least_misfit
    told = [not describes(misfits.ResidualVerdict(*value)) for value in values]
    assert np.mean(told) >= 0.9


def test_unmodelled_smearing_is_told_but_tolerated():
    """0.04 nm^-1 at 8 nm: beyond chance at 5e11 photons/s, where chi-square is 3, by 0.9 %."""
    truth = misfits.CASES["spheres 8 nm, 6 %, dq 0.04"]() + misfits.BACKGROUND_PER_CM
    values, _ = misfits.verdicts(truth, 5e11, 10)
    assert np.all(values[:, 3] < 1e-6)
    assert np.mean(values[:, 4]) == pytest.approx(0.009, abs=0.002)
    assert all(describes(misfits.ResidualVerdict(*value)) for value in values)


def read_standard(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = []
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) >= 3 and not line.startswith(("#", "Q")):
            rows.append([float(word) for word in words[:3]])
    q, intensity, sigma = np.array(rows).T
    return q, intensity, sigma


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "q_range", "diameters", "expected_nm", "misfit"),
    [
        # The dilute one has 5 % by volume: S(q) bends it below 0.015 1/nm (misfit 10 % with it).
        ("Colloid_dilute", (0.015, 0.2), (50.0, 400.0), 204.6, (0.03, 0.07)),
        ("round_robin_dataset_2", (0.03, 3.0), (5.0, 150.0), 50.5, (0.03, 0.06)),
        ("Colloid_conc", (0.008, 0.2), (50.0, 400.0), None, (0.5, math.inf)),
    ],
)
def test_colloids(data_dir, name, q_range, diameters, expected_nm, misfit):
    """Those in dilution are spheres within 7 %; the concentrated one is not within 50 %."""
    q, intensity, given = read_standard(data_dir / "saxs_1d_standards" / f"{name}.dat")
    settings = PopulationsFit(
        q_min_per_nm=q_range[0],
        q_max_per_nm=q_range[1],
        nc_diameter_range_nm=diameters,
        nc_relative_sigma_range=(0.02, 0.5),
        agglomerates=False,
        weights="measured",
    )
    for sigma in (given, local_scatter(intensity)):
        curve = Curve(
            frame=0, time_s=0.0, q_per_nm=q, intensity=intensity, sigma=sigma, absolute=False
        )
        row, fitted = FitPopulations(settings, Sample()).process(curve)
        verdict = misfits.judge(row, fitted, "measured")
        assert verdict.p_combined < 1e-10
        assert misfit[0] < verdict.misfit_relative < misfit[1]
        assert not describes(verdict)
        assert describes(verdict, tolerated_misfit=0.07) is (expected_nm is not None)
        if expected_nm is not None:
            assert row.nc_diameter_nm == pytest.approx(expected_nm, rel=0.02)


@pytest.mark.real_data
def test_palladium_spheres_pass_and_superlattices_do_not(data_dir):
    told: dict[str, list[bool]] = {"diffuse:spherical": [], "crystalline": []}
    for folder, step in (("pd_growth_R13_201607", 2), ("pd_superlattice_R5_201611", 3)):
        path = data_dir / folder
        with open(path / "frames_index.csv", newline="") as file:
            index = list(csv.DictReader(file))
        fit = FitPopulations(PD_FIT, Sample())
        for frame, line in enumerate(index[::step]):
            kind = line["expert_class"].split(":")[0]
            kind = kind if kind == "crystalline" else line["expert_class"]
            if kind not in told:
                continue
            row, fitted = fit.process(measured(path, line, frame))
            told[kind].append(not describes(misfits.judge(row, fitted, "measured")))
    assert len(told["diffuse:spherical"]) > 50
    assert np.mean(told["diffuse:spherical"]) < 0.03
    assert len(told["crystalline"]) > 20
    assert np.mean(told["crystalline"]) > 0.9
