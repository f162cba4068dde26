"""Lines over a slowly varying curve: how many, where, how wide, with which errors."""

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import binom

from pipeline.fit.lines import LineSearch

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


@pytest.fixture(scope="module")
def search() -> LineSearch:
    return LineSearch(
        Q_PER_NM, 0.004, (0.015, 0.03, 0.08), false_alarm=0.01, widest_per_nm=0.3, most=10
    )


def test_lines_and_errors_are_those_of_scipy(search):
    truth = [(0.4, 0.03, 1.0), (0.44, 0.035, 0.6), (0.8, 0.05, 0.5), (1.3, 0.06, 0.4)]
    data = curve(truth, np.random.default_rng(1))
    found = search.find(data, FLAT, ONES, NUISANCES)

    def model(q, *p):
        slow = np.polynomial.chebyshev.chebval(WHERE, p[:4])
        return slow + sum(gauss(q, *p[i : i + 3]) for i in range(4, len(p), 3))

    start = [1, 0, 0, 0, *np.ravel(truth)]
    best, covariance = curve_fit(
        model, Q_PER_NM, data, start, sigma=FLAT, absolute_sigma=True, method="trf", xtol=1e-10
    )
    errors = np.sqrt(np.diag(covariance)) * found.noise
    assert len(found.lines) == 4
    for line, p, e in zip(
        found.lines, best[4:].reshape(-1, 3), errors[4:].reshape(-1, 3), strict=True
    ):
        # Both end within a few hundredths of an error of the minimum; scipy's slopes are numeric.
        assert line.q_per_nm == pytest.approx(p[0], abs=0.03 * e[0])
        assert math.hypot(line.fwhm_per_nm, 0.004) == pytest.approx(p[1], abs=0.03 * e[1])
        assert line.height == pytest.approx(p[2], abs=0.03 * e[2])
        got = (line.q_per_nm_err, line.fwhm_per_nm_err * line.fwhm_per_nm / p[1], line.height_err)
        np.testing.assert_allclose(got, e, rtol=0.02)
        assert line.area == pytest.approx(1.0645 * p[1] * p[2], rel=0.01)


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
    # 1 % of 800 are expected at most.
    assert false <= binom.ppf(0.999, 800, 0.01)
