"""Order found in simulated assembly at 100 C, and none where there is none."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kstest, multivariate_normal, norm

from detectors.sample.recipes import RECIPES
from detectors.sample.synthesis import Synthesis
from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.assembly import AnalyseAssembly, warm_up
from pipeline.fit.order_row import Found, instrument_fwhm_per_nm, own_width, paracrystal_g
from pipeline.fit.order_templates import SERIES, paths
from pipeline.fit.populations import FitPopulations
from pipeline.kernels.order import (
    below_all,
    fill_series,
    fill_shift,
    noise_level,
    orthonormal,
    overlap,
    project_out,
    scan,
    series_score,
    sharpen,
    supports_of,
)
from pipeline.kernels.significance import scan_log_probability, scan_significance
from pipeline.messages import Curve, FittedCurve, Peak

Q_PER_NM = np.linspace(0.15, 6.0, 500)


@pytest.fixture(scope="module")
def synthesis() -> Synthesis:
    warm_up()
    return Synthesis("assembly_100c")


def fitted(synthesis: Synthesis, time_s: float, rng) -> FittedCurve:
    """A frame of 5e11 photons/s for 0.5 s through 1 mm, at 37.5 keV (k = 190/nm)."""
    solid_angle = 2 * np.pi * Q_PER_NM * (Q_PER_NM[1] - Q_PER_NM[0]) / 190.0**2
    gain = 1 / (2.5e11 * 0.1 * solid_angle)
    counts = rng.poisson((synthesis.intensity_per_cm(Q_PER_NM, time_s) + 0.03) / gain)
    curve = Curve(
        frame=0,
        time_s=time_s,
        q_per_nm=Q_PER_NM,
        intensity=counts * gain,
        sigma=np.sqrt(counts) * gain,
        absolute=True,
    )
    return FitPopulations(PopulationsFit(), Sample()).process(curve)[1]  # pyright: ignore


def judge(message: FittedCurve, settings: AssemblyAnalysis | None = None) -> Peak:
    peak, _ = AnalyseAssembly(settings or AssemblyAnalysis(), Sample()).process(message)
    assert isinstance(peak, Peak)
    return peak


def test_without_order_scores_are_no_larger_than_normal(synthesis):
    rng = np.random.default_rng(1)
    stage = AnalyseAssembly(AssemblyAnalysis(), Sample())
    peaks = [next(iter(stage.process(fitted(synthesis, 70.0, rng)))) for _ in range(60)]
    z = np.array([peak.order_z for peak in peaks])
    # 60 normal deviates: the highest is below 3.7 in 99.4 %, the mean within 0.39 of 0 in 99.7 %.
    assert np.max(z) < 3.7
    assert abs(np.mean(z)) < 0.39
    assert np.mean(z > 1.645) < 0.12
    p = np.array([peak.order_p for peak in peaks])
    np.testing.assert_allclose(norm.sf(z), p, rtol=1e-6)
    assert all(math.isnan(peak.spacing_nm) and peak.order_kind == "" for peak in peaks)


def test_stacks_are_seen_within_seconds_and_with_their_spacing(synthesis):
    rng = np.random.default_rng(2)
    # 3 s after the onset at 90 s is what a sequential test reaches: 6 frames' scores add up.
    early = [judge(fitted(synthesis, time, rng)).order_z for time in (92, 92.5, 93, 93.5, 94)]
    assert sum(early) / math.sqrt(5) > 4
    # The paper: 16.0 nm at 90 s, 14.8 nm at 300 s.
    late = judge(fitted(synthesis, 295.0, rng))
    assert late.order_kind == "stack"
    assert late.order_z > 15
    assert late.spacing_nm == pytest.approx(14.8, abs=0.1)
    middle = judge(fitted(synthesis, 150.0, rng))
    assert middle.spacing_nm == pytest.approx(synthesis.state(150.0).spacing_nm, abs=0.1)
    assert late.peak_1_q_per_nm == pytest.approx(2 * np.pi / late.spacing_nm, rel=1e-9)
    assert late.domain_nm > middle.domain_nm > 50


def test_a_lattice_is_more_than_a_stack(synthesis):
    rng = np.random.default_rng(3)
    before = [judge(fitted(synthesis, time, rng)).lattice_z for time in (120, 200, 280, 299)]
    after = [judge(fitted(synthesis, time, rng)).lattice_z for time in (360, 420, 600, 1000)]
    assert max(before) < 3
    assert min(after) > 6


def test_young_stacks_are_not_called_a_lattice(synthesis):
    """The third line of hcp is its strongest, and on its grid it may fit one peak better."""
    rng = np.random.default_rng(15)
    peaks = [judge(fitted(synthesis, time, rng)) for time in np.arange(100.0, 120.0, 0.5)]
    assert {peak.order_kind for peak in peaks} == {"stack"}
    assert all(abs(peak.spacing_nm - 15.85) < 0.4 for peak in peaks)


def test_least_height_silences_weak_structure(synthesis):
    message = fitted(synthesis, 120.0, np.random.default_rng(4))
    plain = judge(message)
    assert 0.05 < plain.peak_1_height < 0.4
    strict = AnalyseAssembly(AssemblyAnalysis(least_height=0.6), Sample())
    peak, _ = strict.process(message)
    assert peak.order_z < 0 < plain.order_z


def test_no_crystals_no_verdict(synthesis):
    message = fitted(synthesis, 120.0, np.random.default_rng(5))
    nothing = dataclasses.replace(message.populations, nc_diameter_nm=math.nan)
    peak = judge(dataclasses.replace(message, populations=nothing))
    assert math.isnan(peak.order_z)
    assert math.isnan(peak.lattice_z)


def test_the_same_curve_gives_the_same_bits(synthesis):
    rng = np.random.default_rng(6)
    messages = [fitted(synthesis, time, rng) for time in (80.0, 200.0, 500.0)]
    stage = AnalyseAssembly(AssemblyAnalysis(), Sample())
    for message in reversed(messages):
        again, _ = stage.process(message)
        np.testing.assert_equal(dataclasses.asdict(again), dataclasses.asdict(judge(message)))


def white(q, degree=5):
    """A basis of polynomials, to be projected out of white noise on ``q``."""
    columns = np.vander(q, degree).T.copy()
    basis = np.empty_like(columns)
    return basis[: orthonormal(columns, basis)]


def test_significance_is_calibrated_on_white_noise():
    """The z after look-elsewhere of pure noise: its upper half follows the normal law."""
    rng = np.random.default_rng(7)
    q = np.linspace(0.2, 1.6, 120)
    first = np.geomspace(0.31, 0.52, 90)
    templates = np.empty((90, q.size))
    for place, out in zip(first, templates, strict=True):
        fill_series(q, place, 0.05, np.array([1.0, 2.0, 3.0]), np.ones(3), out)
    supports = np.empty((90, 2), dtype=np.int64)
    supports_of(templates, supports)
    basis = white(q)
    z, scores, scale = [], np.empty(90), np.ones(q.size)
    for _ in range(3000):
        noise = project_out(rng.normal(size=q.size), basis)
        length = scan(noise, scale, basis, templates, supports, 0.0, scores)
        z.append(scan_significance(scores.max(), [length]))
    z = np.array(z)
    for level in (1.0, 2.0, 2.5):
        expected = norm.sf(level)
        # Binomial error of 3000 draws, 3 of it; on the low side the bound may be 30 % cautious.
        room = 3 * math.sqrt(expected / z.size)
        assert 0.7 * expected - room < np.mean(z > level) < expected + room
    assert np.mean(z > 0) == pytest.approx(0.5, abs=0.06)
    upper = z[z > 0.5]
    assert kstest(norm.sf(upper) / norm.sf(0.5), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("widths", [(0.03, 0.08), (0.02, 0.04, 0.08)])
def test_scans_that_rise_together_are_counted_once(widths):
    """All series and widths on white noise; taken for independent they would be too cautious."""
    rng = np.random.default_rng(9)
    q = np.linspace(0.2, 1.6, 270)
    every = paths(q, SERIES, widths, 0.31, 0.52)
    basis, scale = white(q), np.ones(q.size)
    count = len(every.kinds)
    lengths, tops = np.empty(count), np.empty(count, dtype=np.int64)
    scores = np.empty(len(every.templates))
    p, alone = [], []
    for _ in range(1500):
        noise = project_out(rng.normal(size=q.size), basis)
        for n in range(count):
            here = slice(every.starts[n], every.starts[n + 1])
            lengths[n] = scan(
                noise, scale, basis, every.templates[here], every.supports[here], 0.0, scores[here]
            )
            tops[n] = every.starts[n] + np.argmax(scores[here])
        highest = scores.max()
        shares = overlap(highest, scale, basis, every.templates, tops, every.partners, lengths)
        p.append(math.exp(scan_log_probability(highest, lengths.tolist(), *shares)))
        alone.append(math.exp(scan_log_probability(highest, lengths.tolist())))
    for level in (0.3, 0.1, 0.02):
        room = 3 * math.sqrt(level / len(p))
        assert 0.75 * level - room < np.mean(np.array(p) < level) < 1.1 * level + room
    assert np.mean(np.array(alone) < 0.1) < 0.85 * np.mean(np.array(p) < 0.1)


@pytest.mark.parametrize("below", [below_all, below_all.py_func])
def test_probability_that_all_are_below(below):
    """Against the integral of the multivariate normal law."""
    rng = np.random.default_rng(10)
    mixing = rng.normal(size=(4, 4)) + 1.5
    covariance = mixing @ mixing.T
    deviation = np.sqrt(np.diag(covariance))
    covariance /= np.outer(deviation, deviation)
    for level in (0.0, 1.0, 2.5):
        got = below(level, np.full(4, 0.3), covariance.copy())
        expected = multivariate_normal(np.full(4, 0.3), covariance).cdf(np.full(4, level))  # pyright: ignore
        assert got == pytest.approx(expected, rel=0.06)


def test_noise_is_that_of_sums_over_neighbours():
    rng = np.random.default_rng(12)
    noise = rng.normal(size=20_000)
    assert noise_level(noise) == pytest.approx(1.0, abs=0.02)
    # x_i + x_(i-1): sums over many have twice the deviation of a single one's root of number.
    assert noise_level(noise[1:] + noise[:-1]) == pytest.approx(2.0, rel=0.03)
    noise[::100] += 50.0
    assert noise_level(noise) == pytest.approx(1.0, abs=0.08)


def test_the_peak_is_sharpened_to_the_likeliest():
    """Against a simplex of scipy's; errors against the scatter of repeated noise."""
    rng = np.random.default_rng(13)
    q = np.linspace(0.2, 1.6, 270)
    basis, scale = white(q), np.ones(q.size)
    ratios, strengths = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.7, 0.5])
    line, found, claimed = np.empty(q.size), [], []

    def likelihood(at, data):
        fill_series(q, at[0], at[1], ratios, strengths, line)
        return -0.5 * series_score(data, scale, basis, line)[0] ** 2

    for trial in range(200):
        fill_series(q, 0.413, 0.037, ratios, strengths, line)
        data = project_out(6.0 * line + rng.normal(size=q.size), basis)
        at, errors = np.array([0.42, 0.05]), np.empty(2)
        score = sharpen(
            q, data, scale, basis, ratios, strengths, (0.38, 0.45), (0.01, 0.3), at, errors
        )
        found.append(at)
        claimed.append(errors)
        if trial < 5:
            best = minimize(likelihood, at, (data,), "Nelder-Mead", options={"xatol": 1e-7})
            assert 0.5 * score**2 == pytest.approx(-best.fun, abs=5e-3)
            np.testing.assert_allclose(at, best.x, atol=0.1 * errors.min())
    scatter = np.std(found, axis=0)
    np.testing.assert_allclose(np.mean(claimed, axis=0), scatter, rtol=0.2)
    assert np.all(np.abs(np.mean(found, axis=0) - (0.413, 0.037)) < 4 * scatter / math.sqrt(200))


def test_a_peaks_shift_is_its_derivative():
    q = np.linspace(0.2, 1.6, 300)
    high, low, shift = np.empty((3, q.size))
    one = np.ones(1)
    fill_series(q, 0.7 + 1e-6, 0.05, one, one, high)
    fill_series(q, 0.7 - 1e-6, 0.05, one, one, low)
    fill_shift(q, 0.7, 0.05, shift)
    np.testing.assert_allclose(shift, 0.05 * (high - low) / 2e-6, atol=2e-5)


def test_the_instruments_width_is_taken_out():
    """A domain of 300 nm has a width of 0.021 1/nm; bins and beam together left in, it shrinks."""
    own = 2 * math.pi / 300
    assert own == pytest.approx(0.0209, abs=1e-4)
    q = np.linspace(0.1, 2.0, 200)
    curve = Curve(
        frame=0, time_s=0.0, q_per_nm=q, intensity=q, sigma=q, absolute=True,
        q_resolution_per_nm=np.linspace(0.002, 0.006, 200),
    )  # fmt: skip
    settings = AssemblyAnalysis(instrument_fwhm_per_nm=0.008)
    instrument = instrument_fwhm_per_nm(curve, 0.4, settings)
    sigma = 0.002 + 0.004 * 0.3 / 1.9
    assert instrument == pytest.approx(math.hypot(0.008, 2.3548 * sigma), rel=1e-4)
    measured = math.hypot(own, instrument)
    assert 2 * math.pi / measured < 275
    width = own_width(Found(measured, 1e-3), instrument)
    assert 2 * math.pi / width.value == pytest.approx(300, rel=1e-9)
    assert width.error == pytest.approx(1e-3 * measured / own)
    assert math.isnan(own_width(Found(0.007, 1e-3), instrument).value)
    bare = dataclasses.replace(curve, q_resolution_per_nm=np.empty(0))
    assert instrument_fwhm_per_nm(bare, 0.4, settings) == 0.008


@pytest.mark.parametrize("g", [0.02, 0.04])
def test_disorder_of_a_paracrystal_from_the_widths_of_three_orders(g):
    """Widths at half height of Hosemann's interference function, summed term by term."""
    spacing, size = 15.0, 200.0
    m = np.arange(1, 120)[:, None]
    widths = []
    for n in (1, 2, 3):
        q = 2 * np.pi / spacing * n + np.linspace(-0.15, 0.15, 3001)
        damping = np.exp(-0.5 * m * (q * g * spacing) ** 2)
        damping = damping * np.exp(-0.5 * (m * spacing * 2 * np.pi / size / 2.3548) ** 2)
        z = 1 + 2 * np.sum(np.cos(m * q * spacing) * damping, axis=0)
        above = q[z > 0.5 * z.max()]
        widths.append(Found(float(above[-1] - above[0]), 5e-4))
    found = paracrystal_g(spacing, widths)
    assert found.value == pytest.approx(g, rel=0.08)
    assert 0 < found.error < 0.3 * g
    alike = [Found(0.03, 1e-3)] * 3
    assert not paracrystal_g(spacing, alike).value > 0.01
    assert math.isnan(paracrystal_g(spacing, [*alike[:2], Found()]).value)


def test_share_and_domain_against_what_is_simulated(synthesis):
    """In the middle of stacking. The simulated powder average is lower than that of large sheets
    by 1 / (1 + q^2 / (2 pi n)) over 2 pi n / q^2, here 0.87."""
    rng = np.random.default_rng(14)
    recipe = RECIPES["assembly_100c"].assembly
    assert recipe is not None
    area = recipe.cell_b_nm * recipe.cell_c_nm
    for time_s in (150.0, 200.0, 280.0):
        state = synthesis.state(time_s)
        message = fitted(synthesis, time_s, rng)
        peak = judge(message, AssemblyAnalysis(sheet_area_nm2=area))
        assert peak.order_parameter == pytest.approx(0.87 * state.stacked_share, rel=0.12)
        assert 0 < peak.order_parameter_err < 0.1 * peak.order_parameter
        assert abs(peak.spacing_nm - state.spacing_nm) < 4 * peak.spacing_nm_err
        assert peak.domain_nm == pytest.approx(state.domain_nm, rel=0.12)


@pytest.mark.parametrize("score", [series_score, series_score.py_func])
def test_score_is_the_generalised_least_squares_estimate(score):
    rng = np.random.default_rng(8)
    q = np.linspace(0.2, 1.6, 90)
    nuisances = np.vander(q, 4).T.copy()
    scale = 1 + q
    line = np.empty(q.size)
    fill_series(q, 0.4, 0.06, np.array([1.0, 2.0]), np.array([1.0, 0.5]), line)
    data = 0.7 * line * scale + nuisances.T @ rng.normal(size=4) + rng.normal(size=q.size)
    basis = np.empty_like(nuisances)
    basis = basis[: orthonormal(nuisances, basis)]
    got, amplitude = score(project_out(data, basis), scale, basis, line)
    design = np.column_stack([line * scale, nuisances.T])
    expected = np.linalg.lstsq(design, data, rcond=None)[0][0]
    error = math.sqrt(np.linalg.inv(design.T @ design)[0, 0])
    assert amplitude == pytest.approx(expected, rel=1e-8)
    assert got == pytest.approx(expected / error, rel=1e-8)


def test_significance_of_huge_scores_stays_finite():
    """A score of 300 has a probability of 1e-19547: far below what a float can hold."""
    assert scan_significance(300.0, [20.0]) == pytest.approx(300, abs=0.05)
    # Below 0 nothing is told apart: a score of -50 is just no order.
    assert scan_significance(-50.0, [20.0]) < -2
    assert scan_significance(-50.0, [1000.0]) == -8.0
