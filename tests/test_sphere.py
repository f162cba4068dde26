"""Spheres in closed form, against sasmodels, quadrature and the slow Python form."""

import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss
from scipy.stats import norm

from pipeline.kernels.sphere import mean_amplitude, mean_square_amplitude, mean_volume

Q_PER_NM = np.geomspace(0.005, 8.0, 240)
SHAPES = [(3.0, 0.3), (4.4, 1.0), (8.0, 0.8), (11.6, 0.35), (20.0, 3.0)]


def amplitude(q: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """4 pi (sin x - x cos x)/q^3, with its series where the difference cancels."""
    x = np.outer(q, radius)
    series = x**3 / 3 * (1 - x**2 / 10 + x**4 / 280 - x**6 / 15120 + x**8 / 1330560)
    exact = np.sin(x) - x * np.cos(x)
    return 4 * np.pi / q[:, None] ** 3 * np.where(np.abs(x) < 0.3, series, exact)


def averages(q: np.ndarray, diameter: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """<F^2> and <F> by 400 Gauss-Legendre nodes over 9 standard deviations."""
    nodes, weights = leggauss(400)
    nodes, weights = 9 * nodes, 9 * weights * norm.pdf(9 * nodes)
    f = amplitude(q, (diameter + sigma * nodes) / 2)
    return f**2 @ weights, f @ weights


def evaluate(q: np.ndarray, diameter: float, sigma: float, function=mean_square_amplitude):
    out = np.empty((3, q.size))
    function(q, diameter, sigma, out)
    return out


@pytest.mark.parametrize(("diameter", "sigma"), SHAPES)
@pytest.mark.parametrize("function", [mean_square_amplitude, mean_square_amplitude.py_func])
def test_mean_square_agrees_with_quadrature(diameter, sigma, function):
    expected, _ = averages(Q_PER_NM, diameter, sigma)
    np.testing.assert_allclose(
        evaluate(Q_PER_NM, diameter, sigma, function)[0], expected, rtol=1e-9
    )


@pytest.mark.parametrize(("diameter", "sigma"), SHAPES)
@pytest.mark.parametrize("function", [mean_amplitude, mean_amplitude.py_func])
def test_mean_agrees_with_quadrature(diameter, sigma, function):
    out = np.empty(Q_PER_NM.size)
    function(Q_PER_NM, diameter, sigma, out)
    _, expected = averages(Q_PER_NM, diameter, sigma)
    # <F> crosses zero, so its error is judged against the root of <F^2>.
    scale = np.sqrt(averages(Q_PER_NM, diameter, sigma)[0])
    assert np.max(np.abs(out - expected) / scale) < 1e-9


@pytest.mark.parametrize(("diameter", "sigma"), SHAPES)
def test_derivatives_agree_with_differences_of_the_quadrature(diameter, sigma):
    value, by_diameter, by_sigma = evaluate(Q_PER_NM, diameter, sigma)
    step = 1e-4
    for column, shift in ((by_diameter, (step, 0)), (by_sigma, (0, step))):
        above, _ = averages(Q_PER_NM, diameter + shift[0], sigma + shift[1])
        below, _ = averages(Q_PER_NM, diameter - shift[0], sigma - shift[1])
        # Derivatives cross zero, so errors are judged against the size of what is derived.
        error = np.abs(column - (above - below) / (2 * step))
        assert np.max(error / (np.abs(column) + value / diameter)) < 1e-6


@pytest.mark.parametrize(("diameter", "sigma"), [(8.0, 0.8), (11.6, 0.35), (3.0, 0.3)])
def test_agrees_with_converged_sasmodels(diameter, sigma):
    from sasmodels.core import load_model
    from sasmodels.direct_model import call_kernel

    q = np.linspace(0.02, 6.0, 150)
    kernel = load_model("sphere", dtype="double", platform="dll").make_kernel([q / 10])
    got = call_kernel(
        kernel,
        {
            "scale": 1.0,
            "background": 0.0,
            "sld": 27.44,
            "sld_solvent": 0.0,
            "radius": 5 * diameter,
            "radius_pd": sigma / diameter,
            "radius_pd_n": 401,
            "radius_pd_nsigma": 8.0,
        },
    )
    # sasmodels: per volume fraction, SLD in 1e-6/A^2, 1/cm. Ours: per particle and nm^3.
    ours = evaluate(q, diameter, sigma)[0] * (27.44e-4) ** 2 / mean_volume(diameter, sigma) * 1e7
    np.testing.assert_allclose(ours, got, rtol=1e-8)


def test_reference_values():
    """Of the card, and the limit of small q by sampling."""
    q = np.array([0.5, 1.5, 4.0])
    expected, _ = averages(q, 8.0, 0.8)
    np.testing.assert_allclose(evaluate(q, 8.0, 0.8)[0], expected, rtol=1e-12)
    # Forward scattering is the mean square volume.
    tiny = evaluate(np.array([1e-4]), 8.0, 0.8)[0, 0]
    radius = 4.0 + 0.4 * np.random.default_rng(0).standard_normal(400_000)
    assert tiny == pytest.approx(np.mean((4 / 3 * np.pi * radius**3) ** 2), rel=0.01)


def test_mean_volume_by_sampling():
    diameters = 8 + 1.5 * np.random.default_rng(1).standard_normal(400_000)
    assert mean_volume(8.0, 1.5) == pytest.approx(np.mean(np.pi / 6 * diameters**3), rel=3e-3)
