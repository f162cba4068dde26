"""Order found in simulated assembly at 100 C, and none where there is none."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import kstest, norm

from detectors.sample.synthesis import Synthesis
from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.assembly import AnalyseAssembly, warm_up
from pipeline.fit.populations import FitPopulations
from pipeline.kernels.order import fill_series, orthonormal, project_out, scan, series_score
from pipeline.kernels.significance import scan_significance
from pipeline.messages import Curve, FittedCurve

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


def judge(message: FittedCurve):
    peak, _ = AnalyseAssembly(AssemblyAnalysis(), Sample()).process(message)
    return peak


def test_without_order_scores_are_no_larger_than_normal(synthesis):
    rng = np.random.default_rng(1)
    stage = AnalyseAssembly(AssemblyAnalysis(), Sample())
    peaks = [next(iter(stage.process(fitted(synthesis, 70.0, rng)))) for _ in range(60)]
    z = np.array([peak.order_z for peak in peaks])
    # 60 normal deviates: the highest is below 3.7 in 99.4 %; the bound of Rice's formula is
    # conservative, so the mean may be below 0 but not above its own error.
    assert np.max(z) < 3.7
    assert np.mean(z) < 0.26
    assert np.mean(z > 1.645) < 0.12
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


def test_significance_is_calibrated_on_white_noise():
    """The z after look-elsewhere of pure noise: its upper half follows the normal law."""
    rng = np.random.default_rng(7)
    q = np.linspace(0.2, 1.6, 120)
    first = np.geomspace(0.31, 0.52, 90)
    templates = np.empty((90, q.size))
    for place, out in zip(first, templates, strict=True):
        fill_series(q, place, 0.05, np.array([1.0, 2.0, 3.0]), np.ones(3), out)
    columns = np.vander(q, 5).T.copy()
    basis = np.empty_like(columns)
    basis = basis[: orthonormal(columns, basis)]
    z, scores, scale = [], np.empty(90), np.ones(q.size)
    for _ in range(3000):
        noise = project_out(rng.normal(size=q.size), basis)
        length = scan(noise, scale, basis, templates, 0.0, scores)
        z.append(scan_significance(scores.max(), [length]))
    z = np.array(z)
    for level in (1.0, 2.0, 2.5):
        expected = norm.sf(level)
        # Binomial error of 3000 draws, 3 of it; on the low side the bound may be 30 % cautious.
        room = 3 * math.sqrt(expected / z.size)
        assert 0.7 * expected - room < np.mean(z > level) < expected + room
    upper = z[z > 0.5]
    assert kstest(norm.sf(upper) / norm.sf(0.5), "uniform").pvalue > 1e-3


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
