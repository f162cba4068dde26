"""Averages over sizes from a table of monodisperse curves, against sasmodels and closed forms."""

import numpy as np
import pytest

from pipeline.kernels.averages import (
    LARGEST_STRIDE,
    choose_stride,
    fill_average,
    mean_of,
    size_nodes,
)
from pipeline.kernels.distributions import CODES, moment
from pipeline.kernels.shapes import load
from pipeline.kernels.sphere import mean_square_amplitude
from tests.support import sasmodels_squared

Q_PER_NM = np.linspace(0.02, 6.0, 240)
NODES, STEPS = size_nodes(2.0, 20.0, 0.5)
DIAMETERS_NM = (2.0, 3.0, 4.4, 8.0, 13.0, 20.0)
POINTS, SIGMAS = 401, 8.0


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return load("sphere").amplitudes(Q_PER_NM, NODES)[0]


def averaged(table, name, mean, relative, q_max=6.0, function=fill_average):
    out = np.full((3, table.shape[1]), np.nan)
    weights = np.empty((3, NODES.size))
    function(CODES[name], NODES, STEPS, q_max, table, mean, relative, weights, out)
    return out


def rendered(mean: float, relative: float) -> np.ndarray:
    """sasmodels' sphere of 401 points over 8 standard deviations."""
    return sasmodels_squared(
        "sphere",
        Q_PER_NM,
        sld=1.0,
        sld_solvent=0.0,
        radius=5 * mean,
        radius_pd=relative,
        radius_pd_n=POINTS,
        radius_pd_nsigma=SIGMAS,
    )


def kept_share(relative: float) -> float:
    """Of sasmodels' weights, what lies at D >= 0: it makes them 1 in sum again, we do not."""
    u = np.linspace(-SIGMAS, SIGMAS, POINTS)
    weights = np.exp(-0.5 * u**2)
    return float(weights[1 + relative * u > -1e-9].sum() / weights.sum())


@pytest.mark.parametrize("mean", DIAMETERS_NM)
@pytest.mark.parametrize("relative", [0.03, 0.06, 0.1, 0.12, 0.15])
def test_agrees_with_sasmodels(table, mean, relative):
    """Measured: 3e-12, and 1.4e-11 at 0.15, which is the sum of its weights."""
    got = averaged(table, "gaussian", mean, relative)[0]
    np.testing.assert_allclose(got, rendered(mean, relative), rtol=1e-10)


@pytest.mark.parametrize("mean", DIAMETERS_NM)
@pytest.mark.parametrize("relative", [0.2, 0.25, 0.3, 0.4, 0.5])
def test_wide_distributions_are_those_of_sasmodels_up_to_its_norm(table, mean, relative):
    """Both stop at D = 0; it counts the particles above, we count those of the whole Gaussian.

    So the curve is the same (measured: 2e-12, but 9e-10 at 0.3 and 2e-6 at 0.4 where 13 nm have
    every second row) and the number differs: 2.6e-7 at s/D = 0.2, 2.9e-5 at 0.25, 4.2e-4 at 0.3,
    6 in a thousand at 0.4 and 2 per cent at 0.5.
    """
    got = averaged(table, "gaussian", mean, relative)[0]
    expected = rendered(mean, relative)
    np.testing.assert_allclose(
        got, kept_share(relative) * expected, rtol=1e-9 if relative <= 0.3 else 3e-6
    )
    if relative == 0.2:
        np.testing.assert_allclose(got, expected, rtol=3e-6)


@pytest.mark.parametrize("mean", [2.0, 8.0, 20.0])
@pytest.mark.parametrize(("relative", "tolerance"), [(0.1, 1e-11), (0.2, 1e-9), (0.3, 6e-6)])
def test_derivatives_are_those_of_the_closed_form(table, mean, relative, tolerance):
    """At constant s/D and by s/D; from 0.2 on the closed form has a tail below D = 0."""
    value, slope, spread = averaged(table, "gaussian", mean, relative)
    closed = np.empty((3, Q_PER_NM.size))
    mean_square_amplitude(Q_PER_NM, mean, relative * mean, closed)
    np.testing.assert_allclose(value, closed[0], rtol=tolerance)
    for got, expected in (
        (slope, closed[1] + relative * closed[2]),
        (spread, mean * closed[2]),
    ):
        # Relative to the value where a derivative crosses zero.
        scale = np.abs(expected) + closed[0] / (mean if got is slope else relative)
        assert np.max(np.abs(got - expected) / scale) < 30 * tolerance


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize(("mean", "relative"), [(2.5, 0.25), (7.4, 0.1), (7.4, 0.3), (12.0, 0.05)])
def test_derivatives_agree_with_differences(table, name, mean, relative):
    value, slope, spread = averaged(table, name, mean, relative)
    step = 1e-4 * relative
    for got, by_mean, by_relative in ((slope, step * mean, 0.0), (spread, 0.0, step)):
        up = averaged(table, name, mean + by_mean, relative + by_relative)[0]
        down = averaged(table, name, mean - by_mean, relative - by_relative)[0]
        expected = (up - down) / (2 * (by_mean + by_relative))
        scale = np.abs(expected) + value / (mean if by_mean else relative)
        assert np.max(np.abs(got - expected) / scale) < 1e-7


@pytest.mark.parametrize(
    ("mean", "relative", "q_max", "stride"),
    [(20.0, 0.05, 6.0, 1), (8.0, 0.1, 6.0, 2), (4.0, 0.15, 6.0, 4), (4.0, 0.3, 1.0, 8)],
)
@pytest.mark.parametrize("name", ["gaussian", "schulz"])
def test_every_stride_gives_what_all_rows_give(table, name, mean, relative, q_max, stride):
    part = np.ascontiguousarray(table[:, q_max >= Q_PER_NM])
    assert choose_stride(NODES, STEPS, q_max, mean, relative * mean) == stride
    assert choose_stride.py_func(NODES, STEPS, q_max, mean, relative * mean) == stride
    got = averaged(part, name, mean, relative, q_max)
    # A q that high lets no row be passed over.
    every = averaged(part, name, mean, relative, 1e3)
    assert choose_stride(NODES, STEPS, 1e3, mean, relative * mean) == 1
    scale = every[0] * np.array([[1.0], [1 / mean], [1 / relative]])
    assert np.max(np.abs(got - every) / (np.abs(every) + scale)) < 1e-9


def test_no_more_than_the_largest_stride():
    assert choose_stride(NODES, STEPS, 1e-3, 2.0, 1.0) == LARGEST_STRIDE


@pytest.mark.parametrize(("name", "mean", "relative"), [("gaussian", 2.0, 0.3), ("schulz", 5, 0.1)])
def test_compiled_and_python_forms_agree(table, name, mean, relative):
    part = np.ascontiguousarray(table[:, ::60])
    compiled = averaged(part, name, mean, relative)
    python = averaged(part, name, mean, relative, function=fill_average.py_func)
    np.testing.assert_allclose(compiled, python, rtol=1e-11, atol=1e-13 * compiled.max())
    weights = np.empty((3, NODES.size))
    given = (CODES[name], NODES, STEPS, 6.0, NODES**3, mean, relative, weights)
    np.testing.assert_allclose(mean_of(*given), mean_of.py_func(*given), rtol=1e-12)


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize(("mean", "relative"), [(2.0, 0.2), (4.4, 0.2), (7.4, 0.1), (20.0, 0.03)])
def test_means_are_closed_moments(name, mean, relative):
    weights = np.empty((3, NODES.size))
    for order in (0, 3, 6):
        got = mean_of(CODES[name], NODES, STEPS, 6.0, NODES**order, mean, relative, weights)
        value, by_mean, by_sigma = moment(CODES[name], order, mean, relative * mean)
        assert got[0] == pytest.approx(value, rel=5e-7)
        assert got[1] == pytest.approx(by_mean + relative * by_sigma, rel=1e-6, abs=1e-5 / mean)
        # Of <1> only what is cut off below zero depends on the width.
        assert got[2] == pytest.approx(mean * by_sigma, rel=1e-6, abs=1e-4 * value)


def test_rows_reach_beyond_the_largest_sizes():
    """From a hundredth of the smallest mean to 7.5 standard deviations above the largest."""
    for low, high, relative in ((2.0, 20.0, 0.5), (0.9, 8.0, 0.3), (50.0, 400.0, 0.5)):
        nodes, steps = size_nodes(low, high, relative)
        assert np.all(np.diff(nodes) > 0)
        assert nodes[0] < 0.01 * low
        assert nodes[-1] >= high * (1 + 7.4 * relative)
        # A density of one per nm, and ends of half a step, give back the length.
        assert steps.sum() == pytest.approx(nodes[-1] + 0.5 * steps[-1], rel=1e-4)
