"""Azimuthal integration against pyFAI, and against polygons cut by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pyfai_twin import pyfai_twin
from pipeline.config.reduce import AreaReduction
from pipeline.kernels import integration as kernels
from pipeline.kernels.detector_geometry import grid_q_chi, rotation
from pipeline.kernels.pixel_splitting import SplitTable, pixel_shares, split_pixels, unwrap
from pipeline.reduce.corrections import static_weights
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry, corner_grid_m, corner_positions
from pipeline.reduce.integrator import Integrator, flat_counts, valid_below

# Three rounding steps of float32 (6e-8) in pyFAI; the goal is 1e-5.
AGREEMENT = 1e-6


def make_geometry(
    shape=(120, 104), distance_m=0.12, centre=(0.4, 0.55), rot=(0.0, 0.0, 0.0), orientation=3
) -> Geometry:
    return Geometry(
        distance_m=distance_m,
        poni1_m=centre[0] * shape[0] * 172e-6,
        poni2_m=centre[1] * shape[1] * 172e-6,
        wavelength_nm=0.1,
        pixel1_m=172e-6,
        pixel2_m=172e-6,
        rot1_rad=rot[0],
        rot2_rad=rot[1],
        rot3_rad=rot[2],
        orientation=orientation,
        shape=shape,
    )


def pyfai(geometry: Geometry, image, masked, bins, q_range=None, polarization=0.99, dummy=None):
    integrator = pyfai_twin(geometry, image.shape)
    return integrator.integrate1d(
        image,
        bins,
        unit="q_nm^-1",
        mask=masked.astype(np.int8),
        radial_range=q_range,
        polarization_factor=polarization,
        correctSolidAngle=True,
        error_model="poisson",
        method=("full", "csr", "cython"),
    )


def make_integrator(geometry: Geometry, masked=None, *, dark=None, flat=None, **settings):
    """An integrator with these settings; q_range_per_nm stands for both its ends."""
    low, high = settings.pop("q_range_per_nm", (None, None))
    settings = {"polarization_factor": None, **settings}
    return Integrator(
        geometry,
        geometry.shape,
        AreaReduction(q_min_per_nm=low, q_max_per_nm=high, **settings),
        masked=masked,
        dark=dark,
        flat=flat,
    )


def assert_agrees(ours, theirs, q_per_nm) -> None:
    intensity, sigma = ours
    populated = theirs.count > 1e-6
    np.testing.assert_array_equal(np.isfinite(intensity), populated)
    np.testing.assert_allclose(q_per_nm, theirs.radial, rtol=1e-6)
    np.testing.assert_allclose(intensity[populated], theirs.intensity[populated], rtol=AGREEMENT)
    np.testing.assert_allclose(sigma[populated], theirs.sigma[populated], rtol=AGREEMENT)


def around_beam(geometry: Geometry, shape) -> np.ndarray:
    """The pixel that holds the beam, and its neighbours: there "full" splitting has no meaning."""
    q, _ = corner_positions(geometry, shape)
    one_pixel = 2 * math.pi / geometry.wavelength_nm * geometry.pixel1_m / geometry.distance_m
    return q[:-1, :-1] < 3 * one_pixel


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    distance_m=st.floats(0.03, 2.0),
    centre=st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)),
    rot=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(-3.1, 3.1)),
    orientation=st.sampled_from([1, 2, 3, 4]),
    bins=st.integers(20, 300),
    seed=st.integers(0, 2**31),
    narrow=st.booleans(),
)
def test_agrees_with_pyfai_on_any_geometry(
    distance_m, centre, rot, orientation, bins, seed, narrow
):
    shape = (70, 61)
    random = np.random.default_rng(seed)
    geometry = make_geometry(shape, distance_m, centre, rot, orientation)
    masked = (random.random(shape) < 0.1) | around_beam(geometry, shape)
    image = random.poisson(random.uniform(0.5, 200), shape).astype(np.uint16)
    q_range = (None, None)
    if narrow:
        q = make_integrator(geometry, masked, bins=10).q_per_nm
        q_range = (float(q[2]), float(q[7]))
    ours = make_integrator(
        geometry, masked, bins=bins, q_range_per_nm=q_range, polarization_factor=0.99
    )
    theirs = pyfai(geometry, image, masked, bins, q_range if narrow else None)
    assert_agrees(ours(image), theirs, ours.q_per_nm)


@pytest.mark.parametrize(("shape", "bins"), [((120, 104), 80), ((400, 380), 90), ((500, 480), 500)])
def test_invalid_pixels_leave_the_mean_as_if_masked(shape, bins):
    random = np.random.default_rng(5)
    geometry = make_geometry(shape, rot=(0.1, -0.2, 0.4))
    image = random.poisson(30, shape).astype(np.uint32)
    invalid = random.random(shape) < 0.05
    image[invalid] = random.choice([2**32 - 1, 2**32 - 2, 2**31, 1000, 4000], invalid.sum())
    static = random.random(shape) < 0.02
    integrator = make_integrator(geometry, static, bins=bins, polarization_factor=0.99)
    q_range = (float(2 * integrator.q_per_nm[0]), float(integrator.q_per_nm[-1]))
    integrator = make_integrator(
        geometry, static, bins=bins, q_range_per_nm=q_range, polarization_factor=0.99
    )
    ours = integrator(image, saturation=1000)
    theirs = pyfai(geometry, np.where(invalid, 0, image), static | invalid, bins, q_range)
    assert_agrees(ours, theirs, integrator.q_per_nm)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "f4", "f8", ">u2"])
def test_type_of_pixel_does_not_matter(dtype):
    geometry = make_geometry()
    integrator = make_integrator(geometry, bins=50)
    image = np.random.default_rng(1).poisson(40, geometry.shape)
    expected = integrator(image.astype("<i8"))
    np.testing.assert_array_equal(integrator(image.astype(dtype))[0], expected[0])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("u1", 255),
        ("u2", 65535),
        ("u2", 65534),
        ("u4", 2**32 - 2),
        ("i4", -1),
        ("f4", np.nan),
        ("f4", np.inf),
        ("f8", -2.0),
    ],
)
def test_values_that_are_no_counts_are_invalid(dtype, value):
    image = np.full(8, 7, dtype)
    image[3] = value
    counts = np.empty(8, np.float32)
    kernels.load_counts(flat_counts(image), np.float32(valid_below(image.dtype)), counts)
    assert counts[3] == kernels.INVALID
    assert (np.delete(counts, 3) == 7).all()


def test_bin_without_valid_pixels_is_nan():
    geometry = make_geometry()
    image = np.full(geometry.shape, 9, np.uint16)
    intensity, sigma = make_integrator(geometry, bins=40)(image, saturation=9)
    assert np.isnan(intensity).all()
    assert np.isnan(sigma).all()


def test_flat_sample_gives_a_flat_curve():
    """Counts made of the weights alone come back as the constant that was put in."""
    geometry = make_geometry(rot=(0.3, 0.2, 0.5))
    weights = static_weights(geometry, geometry.shape, AreaReduction(polarization_factor=0.9))
    assert weights.max() / weights.min() > 1.05
    integrator = make_integrator(geometry, bins=64, polarization_factor=0.9)
    intensity, _ = integrator((1e4 * weights).astype(np.float32))
    np.testing.assert_allclose(intensity, 1e4, rtol=1e-6)
    assert integrator.pixels.sum() == pytest.approx(geometry.shape[0] * geometry.shape[1])


def test_sigma_covers_the_scatter_of_repeated_frames():
    """z of repeated Poisson frames has the variance that correlated shares leave: 1."""
    geometry = make_geometry()
    integrator = make_integrator(geometry, bins=40, solid_angle=False)
    random = np.random.default_rng(11)
    curves, sigmas = [], []
    for _ in range(400):
        intensity, sigma = integrator(random.poisson(50, geometry.shape).astype(np.uint16))
        curves.append(intensity)
        sigmas.append(sigma)
    z = (np.array(curves) - 50.0) / np.array(sigmas)
    # 400 x 40 values, neighbouring bins correlated: the variance is known to about 2 %.
    assert np.mean(z**2) == pytest.approx(1.0, abs=0.04)


def clip_share(q, chi, low, high) -> float:
    """Area of a polygon between two values of q, by cutting it (Sutherland and Hodgman)."""

    def cut(points, edge, keep_above):
        kept = []
        for k, here in enumerate(points):
            before = points[k - 1]
            inside = (here[0] >= edge) == keep_above
            was_inside = (before[0] >= edge) == keep_above
            if inside != was_inside:
                f = (edge - before[0]) / (here[0] - before[0])
                kept.append((edge, before[1] + f * (here[1] - before[1])))
            if inside:
                kept.append(here)
        return kept

    points = cut(cut(list(zip(q, chi, strict=True)), low, True), high, False)
    return 0.5 * abs(
        sum(
            points[k - 1][0] * points[k][1] - points[k][0] * points[k - 1][1]
            for k in range(len(points))
        )
    )


@pytest.mark.parametrize("shares_of", [pixel_shares, pixel_shares.py_func])
def test_shares_are_polygon_areas(shares_of):
    random = np.random.default_rng(3)
    for _ in range(200):
        # A turned square of 0.3 to 4 bins, a tenth of a radian high.
        angle, size = random.uniform(0, math.pi), random.uniform(0.3, 4)
        corners = angle + np.array([0, 1, 2, 3]) * math.pi / 2
        q = 10 + random.uniform(0, 1) + size * np.cos(corners)
        chi = random.uniform(-2, 2) + 0.1 * np.sin(corners)
        shares = np.zeros(20, np.float32)
        first, count = shares_of(q, chi.copy(), 20, shares)
        total = clip_share(q, chi, 0, 20)
        expected = [clip_share(q, chi, b, b + 1) / total for b in range(first, first + count)]
        np.testing.assert_allclose(shares[first : first + count], expected, atol=3e-6)
        assert sum(expected) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("unwrap_it", [unwrap, unwrap.py_func])
def test_azimuths_across_pi_are_made_continuous(unwrap_it):
    chi = np.array([3.1, -3.1, -3.0, 3.12])
    assert not unwrap_it(chi)
    assert np.ptp(chi) < 0.4
    around = np.array([-2.3, 2.3, 0.8, -0.8])
    assert unwrap_it(around)


def test_compiled_and_plain_python_agree():
    shape = (6, 5)
    geometry = make_geometry(shape, distance_m=0.01, centre=(-0.3, 0.2))
    turn = rotation.py_func(0.1, 0.2, 0.3)
    np.testing.assert_allclose(turn, rotation(0.1, 0.2, 0.3), rtol=1e-14)
    arguments = (
        *corner_grid_m(geometry, shape),
        geometry.distance_m,
        (geometry.poni1_m, geometry.poni2_m),
        turn,
        0.1,
        (0.0, 0.0),
    )
    q, chi = grid_q_chi(*arguments)
    plain_q, plain_chi = grid_q_chi.py_func(*arguments)
    np.testing.assert_allclose(q, plain_q, rtol=1e-7)
    np.testing.assert_allclose(chi, plain_chi, rtol=1e-6)
    masked = np.zeros(shape, np.bool_)
    masked[2, 2] = True
    low, high = float(q.min()), float(q.max()) * 1.01
    table = split_pixels(q, chi, masked, low, high, 8)
    by_hand = SplitTable(*split_pixels.py_func(q, chi, masked, low, high, 8))
    for ours, theirs in zip(table, by_hand, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_same_frame_gives_the_same_bits():
    geometry = make_geometry()
    image = np.random.default_rng(2).poisson(3, geometry.shape).astype(np.uint16)
    first = make_integrator(geometry, bins=77)(image)
    second = make_integrator(geometry, bins=77)(image)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masked": np.ones((120, 104), bool)}, "usable pixels, got none"),
        ({"q_range_per_nm": (900.0, None)}, r"expected a part of .* got 900"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    geometry = make_geometry()
    with pytest.raises(InputError, match=message):
        make_integrator(geometry, **options)


def test_frame_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"expected frames of \(120, 104\), got \(10, 10\)"):
        Integrator(make_geometry(), (10, 10), AreaReduction())
