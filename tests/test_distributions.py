"""Weights of size distributions, against scipy, closed forms and sasmodels."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma, gammaln

from pipeline.kernels import distributions
from pipeline.kernels.distributions import (
    CARDS,
    CODES,
    fill_weights,
    mean_cube,
    moment,
)
from pipeline.kernels.distributions.schulz import stirling_remainder
from pipeline.kernels.shapes import load
from pipeline.kernels.sphere import mean_square_amplitude
from tests.support import logarithmic_grid

WIDTHS = [(8.0, 0.24), (8.0, 0.8), (3.0, 1.0)]


def scipy_density(name: str, mean: float, sigma: float):
    if name == "gaussian":
        return stats.norm(mean, sigma)
    if name == "lognormal":
        square = 1 + (sigma / mean) ** 2
        return stats.lognorm(np.sqrt(np.log(square)), scale=mean / np.sqrt(square))
    return stats.gamma((mean / sigma) ** 2, scale=sigma**2 / mean)


def weights(name: str, mean: float, sigma: float, nodes, steps, function=fill_weights):
    out = np.full((3, nodes.size), np.nan)
    first, stop = function(CODES[name], nodes, steps, mean, sigma, out)
    return out, first, stop


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize(("mean", "sigma"), WIDTHS)
@pytest.mark.parametrize("compiled", [True, False])
def test_weights_are_the_density_of_scipy_times_the_step(name, mean, sigma, compiled):
    nodes, steps = logarithmic_grid(0.3, 60.0, 0.02)
    card = CARDS[name]
    if compiled:
        got, first, stop = weights(name, mean, sigma, nodes, steps)
    else:
        got = np.full((3, nodes.size), np.nan)
        first, stop = card.fill.py_func(nodes, steps, mean, sigma, got)
    expected = scipy_density(name, mean, sigma).pdf(nodes) * steps
    np.testing.assert_allclose(got[0, first:stop], expected[first:stop], rtol=1e-11)
    assert not got[:, :first].any()
    assert not got[:, stop:].any()
    # What is left out does not matter, neither to the number nor to <D^6>.
    for power in (0, 6):
        left = expected * nodes**power
        assert left[:first].sum() + left[stop:].sum() < 2e-12 * left.sum()


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize(("mean", "sigma"), WIDTHS)
def test_derivatives_of_weights_agree_with_differences(name, mean, sigma):
    nodes, steps = logarithmic_grid(0.3, 60.0, 0.02)
    got, _, _ = weights(name, mean, sigma, nodes, steps)
    # scipy's gamma density rounds at 1e-12 (its z ln z), so a smaller step measures that.
    step = 1e-4 * sigma
    for row, (dm, ds) in enumerate(((step, 0), (0, step)), start=1):
        above = scipy_density(name, mean + dm, sigma + ds).pdf(nodes) * steps
        below = scipy_density(name, mean - dm, sigma - ds).pdf(nodes) * steps
        error = np.abs(got[row] - (above - below) / (2 * step))
        assert error.max() < 5e-8 * np.abs(got[row]).max()


@pytest.mark.parametrize("name", ["lognormal", "schulz"])
@pytest.mark.parametrize(("mean", "sigma"), WIDTHS)
def test_moments_on_the_grid_are_the_closed_ones(name, mean, sigma):
    nodes, steps = logarithmic_grid(0.02, 200.0, 0.02)
    got, _, _ = weights(name, mean, sigma, nodes, steps)
    for order in range(7):
        closed = np.array(moment(CODES[name], order, mean, sigma))
        scale = closed[0] / np.array([1, mean, sigma])
        np.testing.assert_allclose(got @ nodes**order / scale, closed / scale, atol=1e-9)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("compiled", [True, False])
def test_moments_against_scipy(name, compiled):
    mean, sigma = 8.0, 2.0
    function = CARDS[name].moment if compiled else CARDS[name].moment.py_func
    for order in range(1, 9):
        value, by_mean, by_sigma = function(order, mean, sigma)

        def exact(mean, sigma, order=order):
            return scipy_density(name, mean, sigma).moment(order)

        assert value == pytest.approx(exact(mean, sigma), rel=1e-8)
        step = 1e-4
        slope = (exact(mean + step, sigma) - exact(mean - step, sigma)) / (2 * step)
        assert by_mean == pytest.approx(slope, rel=1e-5)
        slope = (exact(mean, sigma + step) - exact(mean, sigma - step)) / (2 * step)
        assert by_sigma == pytest.approx(slope, rel=1e-5, abs=1e-5)


def test_reference_values_of_the_cards():
    nodes = np.array([8.0, 9.0, 12.0])
    ones = np.ones(3)
    got, _, _ = weights("gaussian", 8.0, 0.8, nodes, ones)
    assert got[0, 0] == pytest.approx(0.498677850501791, rel=1e-12)
    assert got[0, 1] == pytest.approx(0.228311356736277, rel=1e-12)
    got, _, _ = weights("lognormal", 8.0, 2.0, nodes, ones)
    assert got[0, 0] == pytest.approx(0.201003879784304, rel=1e-12)
    assert got[0, 2] == pytest.approx(0.0281972847165245, rel=1e-12)
    got, _, _ = weights("schulz", 8.0, 2.0, nodes, ones)
    assert got[0, 0] == pytest.approx(0.198435063244311, rel=1e-12)
    assert got[0, 2] == pytest.approx(0.0291495224722222, rel=1e-12)
    assert mean_cube(CODES["gaussian"], 8.0, 0.8)[0] == pytest.approx(527.36, rel=1e-14)
    assert mean_cube(CODES["lognormal"], 8.0, 2.0)[0] == pytest.approx(614.125, rel=1e-14)
    assert mean_cube(CODES["schulz"], 8.0, 2.0)[0] == pytest.approx(612.0, rel=1e-14)


@pytest.mark.parametrize("function", [stirling_remainder, stirling_remainder.py_func])
def test_stirlings_remainder_against_scipy(function):
    for z in (1.0, 3.3, 9.99, 10.0, 60.0, 300.0):
        value, slope = function(z)
        exact = gammaln(z) - (z - 0.5) * np.log(z) + z - 0.5 * np.log(2 * np.pi)
        assert value == pytest.approx(exact, abs=3e-13)
        assert slope == pytest.approx(digamma(z) - np.log(z) + 0.5 / z, abs=1e-13)


@pytest.mark.parametrize(("mean", "sigma"), [(8.0, 0.4), (8.0, 1.6)])
def test_schulz_has_its_characteristic_function(mean, sigma):
    """E[exp(ikR)] = (1 - i k beta)^(-z), R = D/2."""
    nodes, steps = logarithmic_grid(0.05, 100.0, 0.01)
    got, _, _ = weights("schulz", mean, sigma, nodes, steps)
    k = np.linspace(0.0, 12.0, 50)
    z, beta = (mean / sigma) ** 2, sigma**2 / (2 * mean)
    sums = np.exp(0.5j * np.outer(k, nodes)) @ got[0]
    np.testing.assert_allclose(sums, (1 - 1j * k * beta) ** -z, atol=1e-11)


def sphere_average(name, mean, sigma, q, step, largest=20.0):
    nodes, steps = logarithmic_grid(mean / 20, mean * largest, step)
    table, _ = load("sphere").amplitudes(q, nodes)
    got, first, stop = weights(name, mean, sigma, nodes, steps)
    out = np.full((3, q.size), np.nan)
    out[:] = got[:, first:stop] @ table[first:stop]
    return out


@pytest.mark.parametrize(("mean", "sigma"), [(8.0, 0.24), (8.0, 0.8), (11.6, 0.6)])
def test_gaussian_spheres_are_those_in_closed_form(mean, sigma):
    """At the step that the package's docstring recommends, up to q D = 120."""
    q = np.linspace(0.1, 120.0 / mean, 400)
    closed = np.empty((3, q.size))
    mean_square_amplitude(q, mean, sigma, closed)
    got = sphere_average("gaussian", mean, sigma, q, 0.015)
    np.testing.assert_allclose(got[0], closed[0], rtol=1e-9)
    for row in (1, 2):
        error = np.abs(got[row] - closed[row]) / (np.abs(closed[row]) + closed[0] / mean)
        assert error.max() < 1e-7


@pytest.mark.parametrize("name", CARDS)
def test_spheres_agree_with_converged_sasmodels(name):
    from sasmodels.core import load_model
    from sasmodels.direct_model import call_kernel

    mean, sigma = 8.0, 1.0
    q = np.linspace(0.05, 5.0, 120)
    middle, width = mean, sigma / mean
    if name == "lognormal":
        middle = mean / np.sqrt(1 + width**2)
        width = np.sqrt(np.log(1 + width**2))
    kernel = load_model("sphere", dtype="double", platform="dll").make_kernel([q / 10])
    expected = call_kernel(
        kernel,
        {
            "scale": 1.0,
            "background": 0.0,
            "sld": 1.0,
            "sld_solvent": 0.0,
            "radius": 5 * middle,
            "radius_pd": width,
            "radius_pd_n": 401,
            # Its lognormal is cut at this many widths of the median, linearly: 8 lose 6e-7.
            "radius_pd_nsigma": 12.0 if name == "lognormal" else 8.0,
            "radius_pd_type": name,
        },
    )
    volume = np.pi / 6 * mean_cube(CODES[name], mean, sigma)[0]
    got = sphere_average(name, mean, sigma, q, 0.015)[0] * 1e-8 / volume * 1e7
    np.testing.assert_allclose(got, expected, rtol=1e-8)


def test_grid_is_even_in_the_logarithm_and_steps_are_of_the_integral():
    nodes, steps = logarithmic_grid(1.0, 20.0, 0.015)
    assert nodes[0] == 1.0
    assert nodes[-1] == pytest.approx(20.0, rel=1e-14)
    ratio = np.diff(np.log(nodes))
    assert ratio.max() <= 0.015
    np.testing.assert_allclose(ratio, steps[0], rtol=1e-10)
    np.testing.assert_allclose(steps, nodes * steps[0], rtol=1e-13)


@pytest.mark.parametrize("name", CARDS)
def test_a_distribution_beside_the_grid_has_no_weight(name):
    nodes, steps = logarithmic_grid(1.0, 2.0, 0.02)
    got, first, stop = weights(name, 50.0, 1.0, nodes, steps)
    assert first == stop
    assert not got.any()


def test_every_card_has_a_code_of_its_own():
    assert sorted(CODES.values()) == [
        distributions.GAUSSIAN,
        distributions.LOGNORMAL,
        distributions.SCHULZ,
    ]
