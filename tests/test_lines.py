"""Lines over a slowly varying curve: how many, where, how wide, with which errors."""

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import binom, chi2, norm

from pipeline.fit.lines import LineSearch, warm_up
from pipeline.kernels.line_judgement import score_level
from pipeline.kernels.line_profiles import fill_line, fill_products, make_rows

Q_PER_NM = np.linspace(0.2, 1.8, 400)
SIGMA = 0.05
WHERE = 2 * (Q_PER_NM - Q_PER_NM[0]) / (Q_PER_NM[-1] - Q_PER_NM[0]) - 1
NUISANCES = np.polynomial.chebyshev.chebvander(WHERE, 3).T
FLAT = np.full(Q_PER_NM.size, SIGMA)
ONES = np.ones(Q_PER_NM.size)


def gauss(q, place, width, height):
    return height * np.exp(-4 * math.log(2) * ((q - place) / width) ** 2)


def curve(lines, rng, scatter=SIGMA):
    clean = 1 + 0.3 * Q_PER_NM + sum(gauss(Q_PER_NM, *line) for line in lines)
    return clean + scatter * rng.normal(size=Q_PER_NM.size)


def searching(instrument=0.004, false_alarm=0.01, **more) -> LineSearch:
    return LineSearch(
        Q_PER_NM, instrument, (0.015, 0.03, 0.08), false_alarm=false_alarm, widest_per_nm=0.3,
        **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def search() -> LineSearch:
    warm_up()
    return searching()


def test_lines_and_errors_are_those_of_scipy():
    truth = [(0.4, 0.03, 1.0), (0.44, 0.035, 0.6), (0.8, 0.05, 0.5), (1.3, 0.06, 0.4)]
    data = curve(truth, np.random.default_rng(1))
    found = searching(ends=False).find(data, FLAT, ONES, NUISANCES)

    def model(q, *p):
        slow = np.polynomial.chebyshev.chebval(WHERE, p[:4])
        return slow + sum(gauss(q, *p[i : i + 3]) for i in range(4, len(p), 3))

    start = [1, 0, 0, 0, *np.ravel(truth)]
    best, covariance = curve_fit(
        model, Q_PER_NM, data, start, sigma=FLAT, absolute_sigma=True, method="trf", xtol=1e-10
    )
    covariance *= found.noise**2
    errors = np.sqrt(np.diag(covariance))
    assert len(found.lines) == 4
    assert found.edges == 0
    for at, line in enumerate(found.lines):
        own = slice(4 + 3 * at, 7 + 3 * at)
        p, e = best[own], errors[own]
        # Both end within a few hundredths of an error of the minimum; scipy's slopes are numeric.
        assert line.q_per_nm == pytest.approx(p[0], abs=0.03 * e[0])
        assert math.hypot(line.fwhm_per_nm, 0.004) == pytest.approx(p[1], abs=0.03 * e[1])
        assert line.height == pytest.approx(p[2], abs=0.03 * e[2])
        got = (line.q_per_nm_err, line.fwhm_per_nm_err * line.fwhm_per_nm / p[1], line.height_err)
        np.testing.assert_allclose(got, e, rtol=0.02)
        by = np.array([0, p[2], p[1]])
        factor = math.sqrt(math.pi / math.log(2)) / 2
        assert line.area == pytest.approx(factor * p[1] * p[2], rel=0.01)
        assert line.area_err == pytest.approx(
            factor * math.sqrt(by @ covariance[own, own] @ by), rel=0.02
        )
    # The whole covariance, with the order height, place, width.
    order = np.concatenate([4 + 3 * at + np.array([2, 0, 1]) for at in range(4)])
    expected = covariance[np.ix_(order, order)]
    unit = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found.covariance / unit, expected / unit, atol=0.02)


def test_noise_alone_gives_lines_as_often_as_declared(search):
    rng = np.random.default_rng(2)
    false = sum(
        bool(found.lines or found.edges)
        for found in (
            search.find(curve([], rng, s), FLAT, ONES, NUISANCES)
            # Half of the draws scatter by twice what sigma says.
            for s in [SIGMA] * 400 + [2 * SIGMA] * 400
        )
    )
    # 1 % of 800 are expected; widths and places between those tried, and the noise's own error,
    # may add as much again, not more.
    assert binom.ppf(0.001, 800, 0.004) <= false <= binom.ppf(0.999, 800, 0.02)


def test_correlated_noise_widens_the_level():
    """Neighbours that go together make humps; with a level for white noise 9 in 10 had one."""
    rng, strict = np.random.default_rng(3), searching(false_alarm=1e-3)
    smooth = np.array([0.25, 0.5, 0.25]) / math.sqrt(0.375)
    false = 0
    for _ in range(100):
        noise = np.convolve(rng.normal(size=Q_PER_NM.size + 2), smooth, "valid")
        found = strict.find(1 + SIGMA * noise, FLAT, ONES, NUISANCES)
        false += bool(found.lines)
        assert found.noise > 1.15
    assert false <= 3


def test_errors_cover_what_they_should(search):
    """200 draws of a line 25 errors high: deviations over errors are normal."""
    rng = np.random.default_rng(4)
    truth = (0.8, 0.04, 0.4)
    own = math.sqrt(truth[1] ** 2 - 0.004**2)
    off = []
    for _ in range(200):
        lines = search.find(curve([truth], rng), FLAT, ONES, NUISANCES).lines
        # One draw in 100 has a false one.
        line = max(lines, key=lambda each: each.sigmas)
        off.append(
            [
                (line.q_per_nm - truth[0]) / line.q_per_nm_err,
                (line.fwhm_per_nm - own) / line.fwhm_per_nm_err,
                (line.height - truth[2]) / line.height_err,
                (line.area - truth[1] * truth[2] * 1.06447) / line.area_err,
            ]
        )
    squares = np.sum(np.square(off), axis=0)
    # The noise's own estimate, never below 1, makes errors 2 % wide on average.
    low, high = chi2.ppf([1e-3, 1 - 1e-3], 200)
    assert np.all(squares > 0.9 * low)
    assert np.all(squares < 1.05 * high)
    assert np.all(np.abs(np.mean(off, axis=0)) < 3.3 / math.sqrt(200))


def test_sigmas_is_height_over_its_error_if_nothing_were_there():
    truth = (0.8, 0.04, 0.3)
    data = curve([truth], np.random.default_rng(5))
    found = searching(ends=False).find(data, FLAT, ONES, NUISANCES)
    (line,) = found.lines
    shape = gauss(Q_PER_NM, line.q_per_nm, math.hypot(line.fwhm_per_nm, 0.004), 1.0)
    design = np.column_stack([shape, *NUISANCES]) / SIGMA
    error = found.noise * math.sqrt(np.linalg.inv(design.T @ design)[0, 0])
    assert line.sigmas == pytest.approx(line.height / error, rel=1e-4)


@pytest.mark.parametrize(("apart", "least", "most"), [(1.2, 0.95, 1.0), (0.9, 0.75, 1.0)])
def test_a_pair_is_told_apart_where_the_curve_demands_it(search, apart, least, most):
    width = 0.05
    pair = [(0.9, width, 0.6), (0.9 + apart * width, width, 0.5)]
    counts = [
        len(search.find(curve(pair, np.random.default_rng(seed)), FLAT, ONES, NUISANCES).lines)
        for seed in range(40)
    ]
    assert least <= np.mean(np.array(counts) == 2) <= most
    assert max(counts) <= 3


def test_a_pair_that_noise_hides_stays_one(search):
    pair = [(0.9, 0.05, 0.5), (0.92, 0.05, 0.5)]
    counts = [
        len(search.find(curve(pair, np.random.default_rng(seed)), FLAT, ONES, NUISANCES).lines)
        for seed in range(40)
    ]
    # A second line of a true single one would be a false alarm: 1 in 100.
    assert np.mean(np.array(counts) == 1) >= 0.95


def test_wide_line_in_the_place_of_three_is_split(search):
    three = [(0.836, 0.024, 0.5), (0.888, 0.024, 0.9), (0.946, 0.024, 1.5)]
    found = search.find(curve(three, np.random.default_rng(6)), FLAT, ONES, NUISANCES)
    assert [line.q_per_nm for line in found.lines] == pytest.approx(
        [0.836, 0.888, 0.946], abs=0.003
    )


def test_width_is_the_lines_own():
    """Lines as seen through an instrument of 0.008 have the widths that they had before it."""
    own = 2 * math.pi / 300
    seen = math.hypot(own, 0.008)
    q = np.linspace(0.3, 0.6, 300)
    sigma = np.full(q.size, 0.01)
    data = 1 + gauss(q, 0.43, seen, 1.0) + sigma * np.random.default_rng(7).normal(size=q.size)
    results = {}
    for instrument in (0.008, 0.0):
        search = LineSearch(q, instrument, (0.02,), false_alarm=1e-3, widest_per_nm=0.1)
        (results[instrument],) = search.find(data, sigma, np.ones(q.size), np.ones((1, 300))).lines
    line = results[0.008]
    assert line.fwhm_per_nm == pytest.approx(own, abs=3 * line.fwhm_per_nm_err)
    assert line.fwhm_per_nm_err < 0.02 * own
    assert results[0.0].fwhm_per_nm == pytest.approx(seen, rel=0.03)


def test_a_line_as_wide_as_the_instrument_has_no_width_of_its_own():
    search = searching(instrument=0.03)
    data = curve([(0.9, 0.03, 0.5)], np.random.default_rng(8))
    (line,) = search.find(data, FLAT, ONES, NUISANCES).lines
    assert math.isnan(line.fwhm_per_nm)
    assert line.q_per_nm == pytest.approx(0.9, abs=4 * line.q_per_nm_err)
    assert line.area == pytest.approx(0.5 * 0.03 * 1.0645, abs=4 * line.area_err)
    assert line.area_err > 0


@pytest.mark.parametrize(
    "feature",
    [
        np.exp(-(Q_PER_NM - 0.2) / 0.03),
        -np.exp(-(Q_PER_NM - 0.2) / 0.03),
        gauss(Q_PER_NM, 0.2, 0.08, 1.0),
        gauss(Q_PER_NM, 0.21, 0.05, 1.0),
        gauss(Q_PER_NM, 1.8, 0.08, 1.0),
        1 / (1 + np.exp((Q_PER_NM - 0.24) / 0.005)),
    ],
    ids=["upturn", "shadow", "half a bump", "cut bump", "bump at the end", "shoulder"],
)
def test_what_the_windows_end_does_is_no_line(search, feature):
    rng = np.random.default_rng(9)
    for height in (0.5, 2.0, 10.0):
        data = 1 + height * feature + SIGMA * rng.normal(size=Q_PER_NM.size)
        found = search.find(data, FLAT, ONES, NUISANCES)
        assert [line.q_per_nm for line in found.lines] == []


def test_a_line_beside_a_shadow_is_found(search):
    rng = np.random.default_rng(10)
    data = curve([(0.45, 0.04, 0.5)], rng) - np.exp(-(Q_PER_NM - 0.2) / 0.02)
    found = search.find(data, FLAT, ONES, NUISANCES)
    assert [line.q_per_nm for line in found.lines] == pytest.approx([0.45], abs=0.005)


def test_least_height_and_scale():
    """Heights are in units of the scale; what is lower than the least is none."""
    scale = 100 * np.exp(-2 * Q_PER_NM)
    sigma = 0.02 * scale
    data = scale * (1 + gauss(Q_PER_NM, 0.6, 0.05, 0.3) + gauss(Q_PER_NM, 1.4, 0.05, 0.08))
    data += sigma * np.random.default_rng(11).normal(size=Q_PER_NM.size)
    nuisances = NUISANCES * scale
    both = searching().find(data, sigma, scale, nuisances).lines
    assert [line.height for line in both] == pytest.approx([0.3, 0.08], abs=0.03)
    (high,) = searching(least_height=0.1).find(data, sigma, scale, nuisances).lines
    assert high.q_per_nm == pytest.approx(0.6, abs=0.003)


def test_lorentzian_feet_are_no_lines():
    """A profile that is not Gaussian leaves weak humps at its feet: one line, and no satellites."""
    feet = 1 / (1 + 4 * ((Q_PER_NM - 0.9) / 0.05) ** 2)
    data = 1 + feet + 0.01 * np.random.default_rng(12).normal(size=Q_PER_NM.size)
    found = searching().find(data, np.full(Q_PER_NM.size, 0.01), ONES, NUISANCES)
    strongest = max(found.lines, key=lambda line: line.height)
    assert strongest.q_per_nm == pytest.approx(0.9, abs=1e-3)
    for line in found.lines:
        assert line is strongest or line.height > 0.05


def test_the_same_curve_gives_the_same_bits(search):
    truth = [(0.4, 0.03, 1.0), (0.44, 0.035, 0.6), (0.8, 0.05, 0.5)]
    data = curve(truth, np.random.default_rng(13))
    first, again = (searching().find(data, FLAT, ONES, NUISANCES) for _ in range(2))
    assert first.lines == again.lines
    np.testing.assert_array_equal(first.covariance, again.covariance)


def test_level_is_that_of_rices_bound():
    for false_alarm, length in ((0.01, 30.0), (3e-5, 200.0)):
        level = score_level(false_alarm, length, 3)
        # Three ends of paths, and the upcrossings along them: rare events that do not know of
        # each other.
        expected = 3 * norm.sf(level) + length / (2 * np.pi) * np.exp(-(level**2) / 2)
        assert -np.expm1(-expected) == pytest.approx(false_alarm, rel=1e-6)


@pytest.mark.parametrize("python", [False, True])
def test_slopes_of_a_line_are_its_differences(python):
    fill = fill_line.py_func if python else fill_line
    products = fill_products.py_func if python else fill_products
    q, scale = Q_PER_NM[:60], 1 + Q_PER_NM[:60]
    basis = np.full((1, q.size), 1 / math.sqrt(q.size))
    rows = make_rows(1, q.size, 1)
    fill(q, scale, scale, basis, 0.3, 0.05, rows, 0)
    products(rows, 0, 1)
    step = 1e-6
    by_place = (gauss(q, 0.3 + step, 0.05, scale) - gauss(q, 0.3 - step, 0.05, scale)) / (2 * step)
    by_width = (gauss(q, 0.3, 0.05 + step, scale) - gauss(q, 0.3, 0.05 - step, scale)) / (2 * step)
    inside = slice(*rows.supports[0])
    expected = np.stack([gauss(q, 0.3, 0.05, scale), by_place, by_width])
    np.testing.assert_allclose(rows.lines_w[:, inside], expected[:, inside], rtol=1e-6, atol=1e-8)
    # Products are those of what is left after the basis; the line ends at 1.5e-5 of its height.
    left = expected - np.outer(expected @ basis[0], basis[0])
    np.testing.assert_allclose(rows.gram, left @ left.T, rtol=1e-3, atol=2e-3)
