"""Kernels of the size inversion, each against a slow form that shares nothing with it."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import least_squares, nnls

from pipeline.kernels import inversion
from pipeline.kernels.inversion_errors import covariance, effective_parameters, unseen
from pipeline.kernels.size_kernel import background_columns, bin_edges_nm, bin_mean, sphere_matrix

Q_PER_NM = np.linspace(0.2, 5.0, 90)
BINS = 20
EDGES_NM = bin_edges_nm((2.0, 12.0), BINS)
NON_NEGATIVE = np.array([True, False])
THIRD = np.diff(np.eye(BINS), 3, axis=0)


def shape_squared(q: float, diameter_nm: float) -> float:
    """V [3 (sin x - x cos x) / x^3]^2 in nm^3, as the textbook has it."""
    x = 0.5 * q * diameter_nm
    return math.pi / 6 * diameter_nm**3 * (3 * (math.sin(x) - x * math.cos(x)) / x**3) ** 2


def problem(seed: int = 0, powerlaw: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, weight and noisy intensity of two populations."""
    columns = np.hstack(
        [sphere_matrix(Q_PER_NM, EDGES_NM, np.empty(0)), background_columns(Q_PER_NM, 4.0, True)]
    )
    centres = np.sqrt(EDGES_NM[1:] * EDGES_NM[:-1])
    volumes = np.exp(-0.5 * ((centres - 7) / 0.8) ** 2) + 0.3 * np.exp(-2 * (centres - 3.5) ** 2)
    truth = columns @ np.concatenate([volumes, [powerlaw, 0.5]])
    sigma = 0.01 * np.abs(truth) + 0.02
    noise = np.random.default_rng(seed).normal(0, sigma)
    return np.ascontiguousarray(columns), 1 / sigma, truth + noise


def gram_of(columns, weight, intensity):
    whitened = columns * weight[:, None]
    return (
        whitened.T @ whitened,
        whitened.T @ (weight * intensity),
        np.sum((weight * intensity) ** 2),
    )


@pytest.mark.parametrize("resolution", [0.0, 0.05])
def test_matrix_is_the_average_over_bin_and_resolution(resolution):
    q = np.array([0.25, 1.1, 2.9])
    edges = np.array([6.0, 6.9, 8.0])
    got = sphere_matrix(q, edges, np.full(3, resolution))

    def over_bin(at, low, high):
        total = quad(lambda u: shape_squared(at, math.exp(u)), math.log(low), math.log(high))[0]
        return total / math.log(high / low)

    for i, at in enumerate(q):
        for j in range(2):
            low, high = edges[j], edges[j + 1]
            expected = over_bin(at, low, high)
            if resolution:
                expected = quad(
                    lambda z, at=at, low=low, high=high: (
                        math.exp(-0.5 * z * z)
                        * over_bin(at + resolution * z, low, high)
                        / math.sqrt(2 * math.pi)
                    ),
                    -6,
                    6,
                )[0]
            # The smearing ends at 4 standard deviations: 6e-5 of the weight.
            assert got[i, j] == pytest.approx(expected, rel=2e-4 if resolution else 1e-9)


def test_matrix_agrees_with_sasmodels():
    from sasmodels.core import load_model
    from sasmodels.direct_model import call_kernel

    q = np.linspace(0.1, 6.0, 50)
    narrow = np.array([7.999999, 8.000001])
    got = sphere_matrix(q, narrow, np.empty(0))[:, 0]
    kernel = load_model("sphere", dtype="double", platform="dll").make_kernel([q / 10])
    parameters = {"radius": 40.0, "sld": 27.44, "sld_solvent": 0.0, "background": 0.0}
    # 1/cm at 27.44e-6 1/A^2 = 27.44e-4 1/nm^2.
    np.testing.assert_allclose(
        1e7 * 27.44e-4**2 * got, call_kernel(kernel, parameters), rtol=1e-6, atol=1e-9
    )


def test_means_over_bins():
    edges = np.array([2.0, 3.0, 5.0])
    for power in (1, 2, -3):
        for j in range(2):
            low, high = math.log(edges[j]), math.log(edges[j + 1])
            expected = quad(lambda u, power=power: math.exp(power * u), low, high)[0] / (high - low)
            assert bin_mean(edges, power)[j] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("compiled", [True, False])
def test_products_are_those_of_numpy(compiled):
    columns, weight, intensity = problem()
    weight[[3, 50]] = 0.0
    intensity[3] = 1e9
    gram, moment = np.empty((BINS + 2, BINS + 2)), np.empty(BINS + 2)
    function = inversion.products if compiled else inversion.products.py_func
    square = function(columns, weight, intensity, gram, moment)
    expected = gram_of(columns, weight, np.where(weight > 0, intensity, 0.0))
    np.testing.assert_allclose(gram, expected[0], rtol=1e-12)
    np.testing.assert_allclose(moment, expected[1], rtol=1e-12)
    assert square == pytest.approx(expected[2], rel=1e-12)


@pytest.mark.parametrize("compiled", [True, False])
def test_factor_and_determinant(compiled):
    matrix = np.random.default_rng(1).normal(size=(30, 12))
    matrix = matrix.T @ matrix
    factor = matrix.copy()
    log_det = (inversion.cholesky if compiled else inversion.cholesky.py_func)(factor)
    upper = np.triu(factor)
    np.testing.assert_allclose(upper.T @ upper, matrix, atol=1e-12)
    assert log_det == pytest.approx(np.linalg.slogdet(matrix)[1], rel=1e-12)


def minimum(gram, moment, square, alpha):
    state, held = np.empty(BINS + 2), np.zeros(2, dtype=bool)
    inversion.start(gram, moment, square, BINS, NON_NEGATIVE, state)
    value, log_det, _ = inversion.minimise(
        gram, moment, square, alpha, BINS, NON_NEGATIVE, state, held
    )
    return value, log_det, state, held


@pytest.mark.parametrize("alpha", [1.0, 1e2, 1e4])
def test_minimum_is_that_of_scipy(alpha):
    columns, weight, intensity = problem()
    gram, moment, square = gram_of(columns, weight, intensity)
    value, _, state, _ = minimum(gram, moment, square, alpha)

    def residual(x):
        model = columns @ np.concatenate([np.exp(x[:BINS]), x[BINS:]])
        return np.concatenate([weight * (model - intensity), math.sqrt(alpha) * THIRD @ x[:BINS]])

    lower = np.full(BINS + 2, -np.inf)
    lower[BINS] = 0.0
    begin = np.concatenate([np.zeros(BINS), [1e-3, 0.1]])
    found = least_squares(residual, begin, bounds=(lower, np.inf), x_scale="jac", xtol=1e-12)
    assert value == pytest.approx(found.cost, abs=0.02)
    # Where J is flat to 0.02 the state may be off by a fifth of a standard error.
    np.testing.assert_allclose(np.exp(state[:BINS]), np.exp(found.x[:BINS]), atol=0.02)


def test_a_background_below_zero_is_held_at_zero():
    columns, weight, intensity = problem(powerlaw=-0.2)
    gram, moment, square = gram_of(columns, weight, intensity)
    _, _, state, held = minimum(gram, moment, square, 10.0)
    assert held.tolist() == [True, False]
    assert state[BINS] == 0.0
    columns, weight, intensity = problem(powerlaw=0.2)
    _, _, state, held = minimum(*gram_of(columns, weight, intensity), 10.0)
    assert not held.any()
    assert state[BINS] == pytest.approx(0.2, rel=0.3)


def test_without_smoothing_it_is_non_negative_least_squares():
    columns, weight, intensity = problem()
    value = minimum(*gram_of(columns, weight, intensity), 1e-6)[0]
    both = np.hstack([columns, -columns[:, -1:]]) * weight[:, None]
    _, norm = nnls(both, weight * intensity, maxiter=10000)
    # The best densities of all have many zeros, which a logarithm comes near to in ever smaller
    # steps. What they leave is little beside what noise is worth in 22 parameters.
    assert norm**2 - 1e-6 <= 2 * value < norm**2 + 4.0


def test_the_most_probable_strength_is_that_of_a_scan():
    columns, weight, intensity = problem()
    gram, moment, square = gram_of(columns, weight, intensity)
    state, held = np.empty(BINS + 2), np.zeros(2, dtype=bool)
    inversion.start(gram, moment, square, BINS, NON_NEGATIVE, state)
    step = 0.5 * math.log(10)
    best, _, evidence, _ = inversion.most_probable(
        gram, moment, square, BINS, NON_NEGATIVE, math.log(1e3), step, (-10.0, 20.0), state, held
    )
    scanned = []
    for log_alpha in np.arange(-3, 8) * step + math.log(1e3) - 4 * step:
        value, _, at, out = minimum(gram, moment, square, math.exp(log_alpha))
        jacobian = np.diag(np.concatenate([np.exp(at[:BINS]), [1.0, 1.0]]))
        hessian = jacobian @ gram @ jacobian
        hessian[:BINS, :BINS] += math.exp(log_alpha) * THIRD.T @ THIRD
        keep = np.concatenate([np.ones(BINS, dtype=bool), ~out])
        log_det = np.linalg.slogdet(hessian[np.ix_(keep, keep)])[1]
        scanned.append((-value + 0.5 * (BINS - 3) * log_alpha - 0.5 * log_det, log_alpha))
    assert evidence == pytest.approx(max(scanned)[0], abs=0.15)
    assert best == pytest.approx(max(scanned)[1], abs=step * 1.01)


def test_errors_are_those_of_the_augmented_least_squares():
    """Covariance and unseen amounts from the Jacobian with its penalty rows, by numpy."""
    columns, weight, intensity = problem()
    gram, moment, square = gram_of(columns, weight, intensity)
    alpha = 50.0
    _, _, state, held = minimum(gram, moment, square, alpha)
    amplitudes, spread = np.empty(BINS + 2), np.empty((BINS + 2, BINS + 2))
    inversion.amplitudes_of(state, BINS, amplitudes)
    covariance(gram, alpha, BINS, held, amplitudes, spread)
    scale = np.concatenate([amplitudes[:BINS], [1.0, 1.0]])
    upper = columns * weight[:, None] * scale
    lower = np.hstack([math.sqrt(alpha) * THIRD, np.zeros((BINS - 3, 2))])
    jacobian = np.vstack([upper, lower])
    expected = np.linalg.inv(jacobian.T @ jacobian)
    np.testing.assert_allclose(spread, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())

    shapes = np.zeros((2, BINS))
    shapes[0, 2:5] = 1 / 3
    shapes[1, 15] = 1.0
    limit = np.empty(2)
    unseen(gram, spread, BINS, amplitudes, shapes, limit)
    for shape, got in zip(shapes, limit, strict=True):
        extra = np.concatenate([weight * (columns[:, :BINS] @ shape), np.zeros(BINS - 3)])
        wider = np.column_stack([jacobian, extra])
        assert got == pytest.approx(math.sqrt(np.linalg.inv(wider.T @ wider)[-1, -1]), rel=1e-3)

    settled = effective_parameters(spread, alpha, BINS, held)
    influence = upper @ expected @ upper.T
    assert settled == pytest.approx(np.trace(influence), rel=1e-3)
