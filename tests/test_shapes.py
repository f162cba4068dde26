"""Shapes of particles, against sasmodels, brute force and known limits."""

import importlib
import math
import re

import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss
from scipy.optimize import least_squares

from pipeline.kernels import shapes
from pipeline.kernels.distributions import GAUSSIAN, fill_weights
from pipeline.kernels.polyhedron import (
    BLOCK,
    X_LAST,
    average_table,
    cubic_orbit,
    directions,
    orientation_averages,
    read_table,
    tabulated_averages,
)
from pipeline.kernels.shapes import load, names
from pipeline.kernels.shapes.sphere import sphere_amplitudes, sphere_shape
from pipeline.kernels.sphere import mean_square_amplitude
from tests.support import logarithmic_grid

POLYHEDRA = ["cube", "rhombicuboctahedron", "truncated_cube"]
SURFACES = {
    "cube": 6.0,
    # 18 squares and 8 triangles of edge a = L/(1 + sqrt 2).
    "rhombicuboctahedron": (18 + 2 * math.sqrt(3)) / (1 + math.sqrt(2)) ** 2,
    # 6 regular octagons and 8 triangles of the same edge.
    "truncated_cube": (12 * (1 + math.sqrt(2)) + 2 * math.sqrt(3)) / (1 + math.sqrt(2)) ** 2,
}


ROOT2 = math.sqrt(2)
PLANES = {
    "cube": (1.0, 1.5),
    "rhombicuboctahedron": (0.5 * ROOT2, ROOT2 - 0.5),
    "truncated_cube": (1.0, 0.5 * (1 + ROOT2)),
}
"""Bodies of size 1 are |x| + |y| <= the first, |x| + |y| + |z| <= the second, inside the cube."""


def half_chord(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Half of the body's length along z at points of one quadrant within |x| + |y|'s bound."""
    side, top = PLANES[name]
    along = np.minimum(0.5, np.minimum(side - np.maximum(x, y), top - x - y))
    return np.maximum(along, 0.0)


def chords(name: str, count: int = 1200) -> tuple[np.ndarray, ...]:
    """x, y, half the chord and the area of the cells of a quadrant, for sums over the body.

    A cell that |x| + |y|'s bound cuts counts by its part inside: the sums err by 1e-6.
    """
    step = 0.5 / count
    middle = (np.arange(count) + 0.5) * step
    x, y = np.meshgrid(middle, middle, indexing="ij")
    depth = np.clip((PLANES[name][0] - x - y) / step, -1, 1)
    inside = np.where(depth > 0, 1 - (1 - depth) ** 2 / 2, (1 + depth) ** 2 / 2)
    return x, y, half_chord(name, x, y), inside * step**2


def cones_of(name: str):
    module = importlib.import_module(f"pipeline.kernels.shapes.{name}")
    return module.cones(2 - math.sqrt(2)) if name == "truncated_cube" else module.cones()


def sasmodels_curve(name: str, q: np.ndarray, **parameters: float) -> np.ndarray:
    """1/cm per volume fraction at contrast 1e-6/A^2."""
    from sasmodels.core import load_model
    from sasmodels.direct_model import call_kernel

    kernel = load_model(name, dtype="double", platform="dll").make_kernel([q / 10])
    return call_kernel(kernel, {"scale": 1.0, "background": 0.0, **parameters})


def test_every_shape_is_found_and_says_what_it_is():
    assert set(names()) == {"sphere", "core_shell_sphere", *POLYHEDRA}
    for name in names():
        card = load(name)
        assert card.name == name
        for parameter in card.parameters:
            assert parameter.bounds[0] <= parameter.default <= parameter.bounds[1]


def test_a_new_shape_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "halved_sphere.py").write_text(
        "from pipeline.kernels.shapes import sphere\n"
        "from pipeline.kernels.shapes.card import ShapeCard\n"
        "def averages(q, size, parameters):\n"
        "    return sphere.averages(q, size / 2, {})\n"
        "CARD = ShapeCard('halved_sphere', 'twice the diameter', '', averages, lambda p: 0.0)\n"
    )
    monkeypatch.setattr(shapes, "__path__", [*shapes.__path__, str(tmp_path)])
    q = np.array([1.0, 2.0])
    got, _ = load("halved_sphere").amplitudes(q, np.array([8.0]))
    np.testing.assert_array_equal(got, load("sphere").amplitudes(q, np.array([4.0]))[0])


@pytest.mark.parametrize("name", ["dodecahedron", "card", "", "..sphere"])
def test_an_unknown_shape_is_named_with_the_known(name):
    with pytest.raises(ValueError, match=f"{re.escape(repr(name))} is not known.*cube, rhombi"):
        load(name)


def test_parameters_that_a_shape_has_not_are_refused():
    q, size = np.array([1.0]), np.array([8.0])
    with pytest.raises(ValueError, match="sphere has no parameter 'shell'; it has: none"):
        load("sphere").amplitudes(q, size, {"shell": 1.0})
    with pytest.raises(ValueError, match=r"truncation from 0.0 to 1.0 1 expected, got 1.5"):
        load("truncated_cube").volume_nm3(size, {"truncation": 1.5})


@pytest.mark.parametrize("name", ["sphere", "core_shell_sphere", *POLYHEDRA])
def test_reference_values_stand_in_the_card(name):
    module = importlib.import_module(f"pipeline.kernels.shapes.{name}")
    text = module.__doc__.split("Reference values:")[1].split("1/nm:")[1].split("nm^6")[0]
    expected = [float(value) for value in re.findall(r"\d+\.\d+", text)]
    got, _ = load(name).amplitudes(np.array([0.5, 1.5, 4.0]), np.array([8.0]))
    np.testing.assert_allclose(got[0], expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [sphere_shape, sphere_shape.py_func])
def test_sphere_shape_is_continuous_where_the_series_ends(shape):
    for x in np.linspace(0.3, 0.5, 21):
        exact = 3 * (math.sin(x) - x * math.cos(x)) / x**3
        assert shape(x) == pytest.approx(exact, rel=2e-14)
    assert shape(0.0) == 1.0


def test_sphere_amplitudes_are_the_same_in_python():
    q, size = np.geomspace(0.01, 5, 7), np.array([3.0, 12.0])
    outs = np.empty((2, 2, 7))
    sphere_amplitudes(q, size, outs[0])
    sphere_amplitudes.py_func(q, size, outs[1])
    np.testing.assert_allclose(outs[0], outs[1], rtol=1e-13)


@pytest.mark.parametrize(("shell", "contrast"), [(1.2, 0.075), (2.0, -0.3), (0.0, 0.5)])
def test_core_shell_agrees_with_converged_sasmodels(shell, contrast):
    mean, sigma = 8.0, 0.8
    q = np.linspace(0.05, 5.0, 120)
    expected = sasmodels_curve(
        "core_shell_sphere",
        q,
        sld_core=3.0,
        sld_shell=1.0 + 2.0 * contrast,
        sld_solvent=1.0,
        radius=5 * mean,
        radius_pd=sigma / mean,
        radius_pd_n=401,
        radius_pd_nsigma=8.0,
        thickness=10 * shell,
    )
    nodes, steps = logarithmic_grid(mean / 20, mean * 4, 0.015)
    table, _ = load("core_shell_sphere").amplitudes(
        q, nodes, {"shell": shell, "shell_contrast": contrast}
    )
    weights, out = np.empty((3, nodes.size)), np.empty((3, q.size))
    first, stop = fill_weights(GAUSSIAN, nodes, steps, mean, sigma, weights)
    out[:] = weights[:, first:stop] @ table[first:stop]
    # sasmodels divides by the volume with the shell.
    whole = weights[0] @ (np.pi / 6 * (nodes + 2 * shell) ** 3)
    np.testing.assert_allclose(out[0] * 4e-8 / whole * 1e7, expected, rtol=1e-8)


def test_core_shell_counts_its_core():
    size = np.array([4.0, 8.0])
    np.testing.assert_array_equal(
        load("core_shell_sphere").volume_nm3(size), load("sphere").volume_nm3(size)
    )


def test_cube_agrees_with_sasmodels():
    """Its 76 nodes in each angle leave 2e-8 in the minimum at q L = 19."""
    edge = 8.0
    q = np.linspace(0.05, 5.0, 100)
    expected = sasmodels_curve(
        "rectangular_prism",
        q,
        sld=2.0,
        sld_solvent=1.0,
        length_a=10 * edge,
        b2a_ratio=1.0,
        c2a_ratio=1.0,
    )
    card = load("cube")
    squared, _ = card.amplitudes(q, np.array([edge]))
    got = squared[0] * 1e-8 / card.volume_nm3(np.array([edge])) * 1e7
    np.testing.assert_allclose(got, expected, rtol=3e-8)


def test_cube_is_the_mean_of_products_of_sines():
    """Over angles of one octant, a domain and a form that the kernel does not use."""
    edge, order = 8.0, 120
    q = np.linspace(0.01, 12.0, 60)
    nodes, weights = leggauss(order)
    cosine, angle = np.meshgrid(0.5 * (nodes + 1), 0.25 * np.pi * (nodes + 1), indexing="ij")
    weight = 0.25 * np.outer(weights, weights).ravel()
    sine = np.sqrt(1 - cosine**2)
    units = np.stack([sine * np.cos(angle), sine * np.sin(angle), cosine]).reshape(3, -1)
    f = edge**3 * np.prod(np.sinc(q[:, None, None] * edge * units / (2 * np.pi)), axis=1)
    squared, mean = load("cube").amplitudes(q, np.array([edge]))
    np.testing.assert_allclose(squared[0], f**2 @ weight, rtol=1e-9)
    error = np.abs(mean[0] - f @ weight) / np.sqrt(squared[0])
    assert error.max() < 1e-10


@pytest.mark.parametrize("name", POLYHEDRA)
def test_amplitude_in_a_direction_is_the_integral_over_the_body(name):
    """Chords along z, summed over a grid of 1200 x 1200."""
    cones = cones_of(name)
    volume = load(name).volume_nm3(np.ones(1))[0]
    x, y, chord, area = chords(name)
    assert 8 * np.sum(area * chord) == pytest.approx(volume, rel=2e-6)
    rng = np.random.default_rng(3)
    for q in (0.5, 3.0, 9.0, 20.0):
        unit = rng.standard_normal(3)
        unit /= np.linalg.norm(unit)
        qx, qy, qz = q * unit
        exact = 8 * np.sum(area * np.cos(qx * x) * np.cos(qy * y) * np.sin(qz * chord) / qz)
        squared, mean = np.empty(1), np.empty(1)
        orientation_averages(
            np.array([q]), unit[None], np.ones(1), cones.vertices, cones.edges, squared, mean
        )
        assert mean[0] == pytest.approx(exact, abs=2e-6 * volume)
        assert squared[0] == pytest.approx(mean[0] ** 2, rel=1e-12)


@pytest.mark.parametrize("name", POLYHEDRA)
def test_average_over_orientations_is_debyes_over_pairs_of_points(name):
    """<F^2>/V^2 is the mean of sin(q r)/(q r) over pairs of random points, within 4 errors."""
    rng = np.random.default_rng(7)
    points = rng.uniform(-0.5, 0.5, (700_000, 3))
    x, y, z = np.abs(points).T
    inside = points[(x + y <= PLANES[name][0]) & (z <= half_chord(name, x, y))]
    pairs = inside[: len(inside) // 2 * 2].reshape(-1, 2, 3)
    distance = np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=1)
    radius = np.linalg.norm(inside, axis=1)
    q = np.array([1.0, 3.0, 5.0, 7.0, 9.0])
    card = load(name)
    volume = card.volume_nm3(np.ones(1))[0]
    squared, mean = card.amplitudes(q, np.ones(1))
    for got, r in ((squared[0] / volume**2, distance), (mean[0] / volume, radius)):
        for value, at in zip(got, q, strict=True):
            samples = np.sinc(at * r / np.pi)
            assert abs(value - samples.mean()) < 4 * samples.std() / math.sqrt(r.size)


@pytest.mark.parametrize("name", POLYHEDRA)
def test_small_q_gives_volume_and_radius_of_gyration(name):
    card = load(name)
    x, y, chord, area = chords(name)
    volume = card.volume_nm3(np.ones(1))[0]
    gyration2 = 8 * np.sum(area * ((x**2 + y**2) * chord + chord**3 / 3)) / volume
    q = np.array([1e-4, 0.05, 0.1])
    squared, mean = card.amplitudes(q, np.ones(1))
    assert squared[0, 0] == pytest.approx(volume**2, rel=1e-7)
    # 1 - F^2/V^2 = q^2 Rg^2/3 - c q^4: two values leave q^4 out.
    slopes = (1 - squared[0, 1:] / volume**2) * 3 / q[1:] ** 2
    assert (4 * slopes[0] - slopes[1]) / 3 == pytest.approx(gyration2, rel=3e-6)
    slopes = (1 - mean[0, 1:] / volume) * 6 / q[1:] ** 2
    assert (4 * slopes[0] - slopes[1]) / 3 == pytest.approx(gyration2, rel=3e-6)
    if name == "cube":
        assert gyration2 == pytest.approx(0.25, rel=3e-6)


@pytest.mark.parametrize("name", POLYHEDRA)
def test_large_q_gives_the_surface(name):
    """Porod: <F^2> q^4 is 2 pi S, once sizes that spread by 10 % have averaged undulations."""
    card = load(name)
    nodes, steps = logarithmic_grid(0.4, 2.0, 0.004)
    weights, out = np.empty((3, nodes.size)), np.empty((3, 3))
    first, stop = fill_weights(GAUSSIAN, nodes, steps, 1.0, 0.1, weights)
    q = np.array([80.0, 100.0, 120.0])
    out[:] = weights[:, first:stop] @ card.amplitudes(q, nodes)[0][first:stop]
    surface = SURFACES[name] * (1.0 + 0.1**2)
    np.testing.assert_allclose(out[0] * q**4 / (2 * np.pi), surface, rtol=2e-3)
    # Beyond the table too.
    squared, mean = card.amplitudes(np.array([1.5 * X_LAST]), np.ones(1))
    assert squared[0, 0] * (1.5 * X_LAST) ** 4 / (2 * np.pi) == pytest.approx(SURFACES[name])
    assert mean[0, 0] == 0.0


def test_truncated_cube_ends_in_the_cube_and_the_cuboctahedron():
    truncated = importlib.import_module("pipeline.kernels.shapes.truncated_cube")
    q, size = np.linspace(0.1, 60.0, 200), np.ones(1)
    table = average_table(truncated.cones(0.0), 1.0, 6.0, x_last=8 * BLOCK)
    for got, expected in zip(
        tabulated_averages(q, size, table), load("cube").amplitudes(q, size), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13)
    # A cuboctahedron of edge a = L/sqrt 2 has V = 5 sqrt 2/3 a^3, S = (6 + 2 sqrt 3) a^2.
    volume = load("truncated_cube").volume_nm3(size, {"truncation": 1.0})[0]
    assert volume == pytest.approx(5 * ROOT2 / 3 / ROOT2**3, rel=1e-14)
    table = average_table(truncated.cones(1.0), volume, 3 + math.sqrt(3), x_last=BLOCK)
    forward, _ = tabulated_averages(np.array([1e-5]), size, table)
    assert math.sqrt(forward[0, 0]) == pytest.approx(volume, rel=1e-9)


@pytest.mark.parametrize("name", POLYHEDRA)
def test_table_is_what_it_was_made_of(name):
    """Blocks join, and nodes in between agree with a finer quadrature."""
    cones = cones_of(name)
    x = np.concatenate([np.linspace(0.5, 4 * BLOCK, 150), [BLOCK, 2 * BLOCK * (1 - 1e-15)]])
    units, weights = directions(60)
    squared, mean = np.empty(x.size), np.empty(x.size)
    orientation_averages(x, units, weights, cones.vertices, cones.edges, squared, mean)
    got, got_mean = load(name).amplitudes(x, np.ones(1))
    np.testing.assert_allclose(got[0], squared, rtol=3e-10)
    assert np.max(np.abs(got_mean[0] - mean) / np.sqrt(squared)) < 3e-10
    assert weights.sum() == pytest.approx(1.0, rel=1e-13)


@pytest.mark.parametrize("name", POLYHEDRA)
def test_shorter_tables_give_the_same_bits(name):
    """Which table is read depends on the largest q size: a replay may have fewer sizes."""
    q, card = np.linspace(0.1, 60.0, 50), load(name)
    for short, long in zip(
        card.amplitudes(q, np.ones(1)), card.amplitudes(q, np.array([1.0, 2.0, 4.0])), strict=True
    ):
        np.testing.assert_array_equal(short[0], long[0])


@pytest.mark.parametrize(
    ("name", "too_wide"), [("rhombicuboctahedron", (0.0, 0.01)), ("cube", (0.33, 0.39))]
)
def test_a_shape_taken_for_a_sphere_is_as_wrong_as_is_known(name, too_wide):
    """Sigma of a cube comes out 36 % too large, nothing of a rhombicuboctahedron by 1 %.

    Diameters of 8.1 nm (10 %) by volume, with a flat background, as 500 counting bins have it.
    """
    card, q = load(name), np.linspace(0.1, 4.0, 500)
    mean = 8.1 * (np.pi / 6 / card.volume_nm3(np.ones(1))[0]) ** (1 / 3)
    nodes, steps = logarithmic_grid(mean / 20, 5 * mean, 0.015)
    weights, out = np.empty((3, nodes.size)), np.empty((3, q.size))
    first, stop = fill_weights(GAUSSIAN, nodes, steps, mean, 0.1 * mean, weights)
    out[:] = weights[:, first:stop] @ card.amplitudes(q, nodes)[0][first:stop]
    curve = out[0].copy()
    error = np.sqrt(1e-6 * curve.max() * curve + (1e-5 * curve.max()) ** 2)

    def linear(values):
        mean_square_amplitude(q, *values, out)
        design = np.column_stack([out[0], np.ones(q.size)]) / error[:, None]
        return design, np.linalg.lstsq(design, curve / error)[0]

    def residual(values):
        design, shares = linear(values)
        return design @ shares - curve / error

    diameter, sigma = least_squares(residual, [8.0, 0.9]).x
    assert too_wide[0] <= sigma / 0.81 - 1 <= too_wide[1]
    if name == "rhombicuboctahedron":
        assert abs(diameter / 8.1 - 1) < 0.01
        assert abs(linear([diameter, sigma])[1][0] - 1) < 0.01


def test_compiled_and_python_forms_agree():
    cones = cubic_orbit((0.5, 0.5, 0.5), [[(-1, 0, 0), (0, -1, 0), (0, 0, -1)]], turns=1)
    units, weights = directions(4)
    x = np.array([0.7, 6.0])
    outs = np.empty((2, 2, 2))
    for out, function in zip(
        outs, (orientation_averages, orientation_averages.py_func), strict=True
    ):
        function(x, units, weights, cones.vertices, cones.edges, out[0], out[1])
    np.testing.assert_allclose(outs[0], outs[1], rtol=1e-11)
    table = average_table(cones, 1.0, 6.0, x_last=2 * BLOCK)
    x = np.array([0.0, 0.3, 7.9, 8.0, 15.9, 16.0, 40.0])
    outs = np.empty((2, 2, x.size))
    for out, function in zip(outs, (read_table, read_table.py_func), strict=True):
        function(x, BLOCK, table.squared, table.mean, 12 * np.pi, out[0], out[1])
    np.testing.assert_allclose(outs[0], outs[1], rtol=1e-12)
    assert outs[0, 0, 0] == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("name", ["sphere", *POLYHEDRA])
def test_sizes_and_vectors_only_scale(name):
    """F of 6 nm at q is 27 times that of 2 nm at 3 q; q that is no number gives none."""
    q = np.array([0.3, 1.1, np.nan])
    squared, mean = load(name).amplitudes(q, np.array([2.0, 6.0]))
    other, other_mean = load(name).amplitudes(3 * q, np.array([2.0]))
    np.testing.assert_allclose(squared[1], 729 * other[0], rtol=1e-12)
    np.testing.assert_allclose(mean[1, :2], 27 * other_mean[0, :2], rtol=1e-12)
    assert np.isnan(squared[:, 2]).all()
