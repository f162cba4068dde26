"""What each count is divided by: pyFAI, closed forms and numbers worked out otherwise."""

import math
import sys
import warnings

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from pipeline.config.reduce import Air, AreaReduction, Sensor
from pipeline.kernels.detector_geometry import (
    entered_at,
    incidence_nodes,
    look_up,
    parallax_table,
    rotation,
    stopped_at,
)
from pipeline.reduce.corrections import parallax_layer, read_flat, read_image, static_weights
from pipeline.reduce.corrections.air import relative_air
from pipeline.reduce.corrections.dark import read_dark
from pipeline.reduce.corrections.mask import read_mask
from pipeline.reduce.corrections.sensor import attenuation_per_m, relative_efficiency
from pipeline.reduce.corrections.slab import relative_slab
from pipeline.reduce.corrections.weights import weigh_pixels
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry, SensorLayer, corner_positions, parse_poni

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pyFAI.detectors
    from pyFAI.detectors.sensors import ALL_MATERIALS
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator
    from pyFAI.parallax import Parallax, ThickSensor, ThinSensor

SHAPE = (37, 52)
NOTHING = {"solid_angle": False, "polarization_factor": None}


def make_geometry(**changes) -> Geometry:
    values = {
        "distance_m": 0.11,
        "poni1_m": 0.003,
        "poni2_m": -0.002,
        "wavelength_nm": 0.1,
        "pixel1_m": 1.5e-3,
        "pixel2_m": 1e-3,
        "rot1_rad": 0.3,
        "rot2_rad": -0.2,
        "rot3_rad": 0.5,
    }
    return Geometry(**(values | changes))


def pyfai(geometry: Geometry, shape=SHAPE) -> AzimuthalIntegrator:
    return AzimuthalIntegrator(
        dist=geometry.distance_m,
        poni1=geometry.poni1_m,
        poni2=geometry.poni2_m,
        rot1=geometry.rot1_rad,
        rot2=geometry.rot2_rad,
        rot3=geometry.rot3_rad,
        detector=pyFAI.detectors.Detector(
            geometry.pixel1_m,
            geometry.pixel2_m,
            max_shape=shape,
            orientation=geometry.orientation,
        ),
        wavelength=geometry.wavelength_nm * 1e-9,
    )


def incidence(geometry: Geometry, shape=SHAPE) -> np.ndarray:
    """Angle of incidence of pixels' centres, of orientation 3."""
    p1 = (np.arange(shape[0])[:, None] + 0.5) * geometry.pixel1_m - geometry.poni1_m
    p2 = (np.arange(shape[1]) + 0.5) * geometry.pixel2_m - geometry.poni2_m
    return np.arctan2(np.hypot(p1, p2), geometry.distance_m)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    distance_m=st.floats(0.03, 2.0),
    poni=st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)),
    rot=st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(-3.1, 3.1)),
    orientation=st.sampled_from([1, 2, 3, 4]),
    factor=st.floats(-1.0, 1.0),
)
def test_solid_angle_and_polarization_are_pyfai_s(distance_m, poni, rot, orientation, factor):
    geometry = make_geometry(
        distance_m=distance_m,
        poni1_m=poni[0],
        poni2_m=poni[1],
        rot1_rad=rot[0],
        rot2_rad=rot[1],
        rot3_rad=rot[2],
        orientation=orientation,
    )
    theirs = pyfai(geometry)
    both = static_weights(geometry, SHAPE, AreaReduction(polarization_factor=factor))
    solid_angle = theirs.solidAngleArray(SHAPE)
    polarization = theirs.polarization(SHAPE, factor=factor)
    # pyFAI's polarisation is float32 in angles, so what is left at 90 degrees is good to 1e-6.
    np.testing.assert_allclose(both / solid_angle, polarization, rtol=1e-5, atol=2e-6)
    only = static_weights(geometry, SHAPE, AreaReduction(polarization_factor=None))
    np.testing.assert_allclose(only, solid_angle, rtol=1e-6)


def test_solid_angle_is_that_of_a_rectangle():
    """Solid angle of a rectangle that has a corner at the foot of the sample, in closed form."""
    geometry = make_geometry(pixel1_m=2e-4, pixel2_m=3e-4, distance_m=0.1, poni1_m=0, poni2_m=0)

    def from_foot(i, j):
        a, b, d = i * 2e-4, j * 3e-4, 0.1
        return np.arctan2(a * b, d * np.sqrt(a * a + b * b + d * d))

    i, j = np.arange(SHAPE[0] + 1)[:, None], np.arange(SHAPE[1] + 1)
    corner = from_foot(i, j)
    exact = np.diff(np.diff(corner, axis=0), axis=1)
    ours = static_weights(geometry, SHAPE, AreaReduction(polarization_factor=None))
    # Pixels are small to (size / distance)^2.
    np.testing.assert_allclose(ours * (2e-4 * 3e-4 / 0.1**2), exact, rtol=1e-5)


def test_nothing_asked_is_nothing_done():
    weights = static_weights(make_geometry(), SHAPE, AreaReduction(**NOTHING))
    np.testing.assert_array_equal(weights, np.ones(SHAPE))


@pytest.mark.parametrize("angle_deg", [0.0, 20.0, 60.0, 80.0])
def test_efficiency_is_the_share_that_is_stopped(angle_deg):
    """Against the integral over depths, for 45 % at normal incidence."""
    absorbance = 0.6
    secant = 1.0 / math.cos(math.radians(angle_deg))
    along, _ = quad(lambda z: secant * math.exp(-z * secant), 0.0, absorbance)
    normal, _ = quad(lambda z: math.exp(-z), 0.0, absorbance)
    for kernel in (relative_efficiency, relative_efficiency.py_func):
        assert kernel(secant, absorbance) == pytest.approx(along / normal, rel=1e-10)


def test_efficiency_of_a_pilatus():
    """320 um of silicon at 12.4 keV stop 3/4: 30 degrees gain 3.6 %."""
    geometry = make_geometry(rot1_rad=0.0, rot2_rad=0.0)
    sensor = Sensor(material="Si", thickness_um=320)
    weights = static_weights(geometry, SHAPE, AreaReduction(**NOTHING, sensor=sensor))
    share = 1.0 - np.exp(-attenuation_per_m("Si", 0.1) * 320e-6 / np.cos(incidence(geometry)))
    normal = 1.0 - math.exp(-attenuation_per_m("Si", 0.1) * 320e-6)
    assert 0.7 < normal < 0.8
    np.testing.assert_allclose(weights, share / normal, rtol=1e-8)
    without = AreaReduction(
        **NOTHING, sensor=Sensor(material="Si", thickness_um=320, efficiency=False)
    )
    np.testing.assert_array_equal(static_weights(geometry, SHAPE, without), np.ones(SHAPE))


@pytest.mark.parametrize(
    ("material", "energy_kev", "mass_cm2_per_g"),
    # Hubbell & Seltzer, NISTIR 5632, table 3.
    [("Si", 10.0, 33.89), ("Si", 20.0, 4.464), ("Si", 8.0, 64.68), ("Ge", 20.0, 42.22)],
)
def test_attenuation_is_nist_s(material, energy_kev, mass_cm2_per_g):
    density = {"Si": 2.329, "Ge": 5.323}[material]
    ours = attenuation_per_m(material, 1.239841984 / energy_kev)
    assert ours == pytest.approx(mass_cm2_per_g * density * 100.0, rel=0.02)


@pytest.mark.parametrize("material", ["CdTe", "GaAs", "CZT", "Gd2O2S", "Se"])
def test_attenuation_of_compounds_is_near_pyfai_s_table(material):
    """20 keV is in pyFAI's table, which is not interpolated then; densities differ a little."""
    theirs = ALL_MATERIALS[material]
    ours = attenuation_per_m(material, 1.239841984 / 20.0, theirs.rho)
    assert ours == pytest.approx(float(theirs.mu(20.0)) * 100.0, rel=0.03)
    assert attenuation_per_m(material, 1.239841984 / 20.0) == pytest.approx(ours, rel=0.02)


@pytest.mark.parametrize(
    ("material", "wavelength_nm", "message"),
    [
        ("NaCl", 0.1, "density for NaCl"),
        ("Unobtainium", 0.1, "chemical formula, got Unobtainium"),
        ("Si", 1e-4, "photons of 100 to 800000 eV, got 1.2"),
    ],
)
def test_unknown_attenuation_is_one_line(material, wavelength_nm, message):
    with pytest.raises(InputError, match=message) as caught:
        attenuation_per_m(material, wavelength_nm)
    assert "\n" not in str(caught.value)


def test_missing_table_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xraydb", None)
    attenuation_per_m.cache_clear()
    with pytest.raises(InputError, match=r"xraydb.*nucleate\[sensor\]"):
        attenuation_per_m("Si", 0.1)


def test_air_is_a_layer_along_the_detector():
    for kernel in (relative_air, relative_air.py_func):
        assert kernel(math.sqrt(2.0), 0.18) == pytest.approx(0.92816, abs=1e-5)
    geometry = make_geometry()
    angle = incidence(geometry)
    for path_m, expected_m in ((None, 0.11), (0.05, 0.05)):
        air = Air(attenuation_per_m=0.36, path_m=path_m)
        weights = static_weights(geometry, SHAPE, AreaReduction(**NOTHING, air=air))
        longer_m = expected_m / np.cos(angle) - expected_m
        np.testing.assert_allclose(weights, np.exp(-0.36 * longer_m), rtol=1e-8)


@pytest.mark.parametrize("angle_deg", [0.01, 5.0, 60.0, 88.0, 92.0, 150.0, 180.0])
@pytest.mark.parametrize("transmission", [0.1, 0.9])
def test_slab_is_the_mean_over_depths(angle_deg, transmission):
    """Both ways through a slab of thickness 1, integrated over the depth of scattering."""
    mu = -math.log(transmission)
    cosine = math.cos(math.radians(angle_deg))

    def both_ways(x):
        after = (1.0 - x) / cosine if cosine > 0.0 else x / -cosine
        return math.exp(-mu * (x + after))

    mean, _ = quad(both_ways, 0.0, 1.0, epsabs=1e-13)
    for kernel in (relative_slab, relative_slab.py_func):
        assert kernel(cosine, mu) == pytest.approx(mean / transmission, rel=1e-9)


def test_slab_in_the_weights():
    assert relative_slab(0.5, math.log(2.0)) == pytest.approx(0.721348, abs=1e-6)
    geometry = make_geometry()
    weights = static_weights(geometry, SHAPE, AreaReduction(**NOTHING, slab_transmission=0.3))
    two_theta = pyfai(geometry).twoThetaArray(SHAPE)
    y = -math.log(0.3) * (1.0 / np.cos(two_theta) - 1.0)
    np.testing.assert_allclose(weights, (1.0 - np.exp(-y)) / y, rtol=1e-6)


def test_all_together_are_the_product():
    geometry = make_geometry()
    single = [
        {"solid_angle": True},
        {"polarization_factor": 0.9},
        {"sensor": Sensor(material="CdTe", thickness_um=750)},
        {"air": Air(attenuation_per_m=0.36)},
        {"slab_transmission": 0.5},
    ]
    product, together = np.ones(SHAPE), dict(NOTHING)
    for one in single:
        product *= static_weights(geometry, SHAPE, AreaReduction(**(NOTHING | one)))
        together |= one
    flat = np.random.default_rng(2).uniform(0.5, 1.5, SHAPE)
    weights = static_weights(geometry, SHAPE, AreaReduction(**together), flat)
    np.testing.assert_allclose(weights, product * flat, rtol=1e-12)


def test_interpreted_kernel_is_the_compiled_one():
    grid = np.meshgrid(np.arange(4) * 0.02, np.arange(5) * 0.03, indexing="ij")
    place = (*grid, 0.1, (0.03, 0.01), rotation(0.2, 0.1, 0.3), (5e3, 1e-3))
    arguments = (*place, True, 5e-4, 0.9, 0.7, 0.02, 0.4)
    np.testing.assert_allclose(
        weigh_pixels.py_func(*arguments), weigh_pixels(*arguments), rtol=1e-13
    )


def test_tables_hide_no_digit_that_counts():
    """Efficiency of a thin sensor, the steepest of what is tabulated, to 80 degrees."""
    nodes = incidence_nodes()
    with np.errstate(divide="ignore"):
        table = -np.expm1(-0.05 / np.sqrt(1.0 - nodes)) / -math.expm1(-0.05)
    for angle_deg in np.linspace(0.0, 80.0, 997):
        angle = math.radians(angle_deg)
        exact = relative_efficiency(1.0 / math.cos(angle), 0.05)
        assert look_up(table, math.sin(angle) ** 2) == pytest.approx(exact, rel=1e-7)


def layer_of_pyfai(geometry: Geometry, thickness_m: float | None, mu_per_m: float):
    integrator = pyfai(geometry)
    if thickness_m is None:
        integrator.parallax = Parallax(ThickSensor(mu_per_m))
    else:
        integrator.parallax = Parallax(ThinSensor(thickness=thickness_m, mu=mu_per_m))
    return integrator


@pytest.mark.parametrize("thickness_m", [320e-6, 1e-3, None])
@pytest.mark.parametrize("orientation", [2, 3])
def test_parallax_is_pyfai_s(thickness_m, orientation):
    geometry = make_geometry(orientation=orientation)
    mu_per_m = 4e3
    layer = (mu_per_m, math.inf if thickness_m is None else thickness_m)
    integrator = layer_of_pyfai(geometry, thickness_m, mu_per_m)
    array = integrator.corner_array(SHAPE, "q_nm^-1")
    q, chi = corner_positions(geometry, SHAPE, layer)
    bare, _ = corner_positions(geometry, SHAPE)
    # The shift itself is 1e-3 of q here; pyFAI interpolates it from 1024 angles.
    assert np.abs(q / bare - 1.0).max() > 5e-4
    np.testing.assert_allclose(q[:-1, :-1], array[:, :, 0, 0], rtol=2e-6)
    np.testing.assert_allclose(q[1:, 1:], array[:, :, 2, 0], rtol=2e-6)
    np.testing.assert_allclose(chi[:-1, :-1], array[:, :, 0, 1], atol=3e-6)


def test_pixels_move_towards_the_beam():
    geometry = make_geometry(rot1_rad=0.0, rot2_rad=0.0, poni1_m=0.02, poni2_m=0.02)
    q, _ = corner_positions(geometry, SHAPE, (5e3, 450e-6))
    bare, _ = corner_positions(geometry, SHAPE)
    assert (q <= bare).all()
    assert (q < bare).mean() > 0.99


@pytest.mark.parametrize("thickness_m", [1e-5, 4.5e-4, math.inf])
@pytest.mark.parametrize("tangent", [1e-6, 0.1, 1.0, 5.0])
def test_mean_depth_is_the_integral(thickness_m, tangent):
    mu = 3e3
    secant = math.hypot(1.0, tangent)
    deepest = min(thickness_m, 60.0 / mu / secant)

    def stopped(z):
        return math.exp(-mu * secant * z)

    scale = {"epsabs": 0.0, "epsrel": 1e-10}
    moment, _ = quad(lambda z: z * stopped(z), 0.0, deepest, **scale)
    total, _ = quad(stopped, 0.0, deepest, **scale)
    for kernel in (stopped_at, stopped_at.py_func):
        assert kernel(tangent, mu, thickness_m) == pytest.approx(tangent * moment / total, rel=1e-8)
    radius = entered_at(0.1 * tangent, 0.1, mu, thickness_m)
    assert radius + stopped_at(radius / 0.1, mu, thickness_m) == pytest.approx(
        0.1 * tangent, abs=1e-10
    )


def test_parallax_table_without_a_layer_moves_nothing():
    assert (parallax_table(0.1, 0.0, 0.0) == 1.0).all()


def test_parallax_is_taken_once():
    sensor = Sensor(material="Si", thickness_um=450, parallax=True)
    still = Sensor(material="Si", thickness_um=450)
    plain = make_geometry()
    own = make_geometry(parallax=SensorLayer("Si", 320e-6))
    mu = attenuation_per_m("Si", 0.1)
    assert parallax_layer(plain, None) == (0.0, 0.0)
    assert parallax_layer(plain, still) == (0.0, 0.0)
    assert parallax_layer(plain, sensor) == (mu, pytest.approx(450e-6))
    assert parallax_layer(own, still) == (mu, 320e-6)
    with pytest.raises(InputError, match="got both"):
        parallax_layer(own, sensor)


def test_polarization_is_taken_where_photons_enter():
    geometry = make_geometry()
    wanted = AreaReduction(solid_angle=False, polarization_factor=0.95)
    sensor = Sensor(material="CdTe", thickness_um=2000, parallax=True, efficiency=False)
    moved = static_weights(geometry, SHAPE, wanted.model_copy(update={"sensor": sensor}))
    mu_per_m, thickness_m = parallax_layer(geometry, sensor)
    integrator = layer_of_pyfai(geometry, thickness_m, mu_per_m)
    theirs = integrator.polarization(SHAPE, factor=0.95)
    assert np.abs(moved / static_weights(geometry, SHAPE, wanted) - 1.0).max() > 1e-5
    np.testing.assert_allclose(moved, theirs, rtol=3e-6)


def test_flat_is_divided_by_as_in_pyfai(tmp_path):
    geometry = make_geometry()
    random = np.random.default_rng(3)
    flat = random.uniform(0.5, 1.5, SHAPE)
    image = random.poisson(50.0, SHAPE)
    path = tmp_path / "flat.npy"
    np.save(path, flat)
    weights = static_weights(geometry, SHAPE, AreaReduction(), read_flat(path, SHAPE))
    theirs = pyfai(geometry).integrate1d(
        image,
        1,
        flat=flat,
        polarization_factor=0.99,
        correctSolidAngle=True,
        error_model="poisson",
        method=("no", "histogram", "python"),
    )
    assert image.sum() / weights.sum() == pytest.approx(float(theirs.intensity[0]), rel=1e-5)
    assert image.sum() ** 0.5 / weights.sum() == pytest.approx(float(theirs.sigma[0]), rel=1e-5)


def test_flat_marks_unusable_pixels(tmp_path):
    flat = np.ones(SHAPE)
    flat[0, :4] = 0.0, np.nan, np.inf, -1.0
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["a/flat"] = flat
    read = read_flat(tmp_path / "flat.h5", SHAPE)
    assert np.isnan(read[0, :4]).all()
    weights = static_weights(make_geometry(), SHAPE, AreaReduction(), read)
    assert np.isnan(weights).sum() == 4


def test_uneven_pixels_count_by_their_area_unless_a_flat_does():
    text = """poni_version: 2.1
Detector: Jungfrau
Detector_config: {"orientation": 3}
Distance: 100
Poni1: 0
Poni2: 0
Rot1: 0
Rot2: 0
Rot3: 0
Wavelength: 1e-10
"""
    geometry, shape = parse_poni(text), (512, 1024)
    weights = static_weights(geometry, shape, AreaReduction())
    assert weights[0, 0] == pytest.approx(1.0, abs=1e-5)
    assert weights[255:257, 7] == pytest.approx([2.0, 2.0], abs=1e-5)
    assert weights[255, 256] == pytest.approx(4.0, abs=1e-5)
    flat = static_weights(geometry, shape, AreaReduction(), np.ones(shape))
    np.testing.assert_allclose(flat, 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.npy", None, "expected a dark, got no such file"),
        ("wrong.npy", np.ones((3, 4)), r"expected a dark of \(37, 52\)"),
        ("text.npy", np.full(SHAPE, "a"), "of real numbers"),
        ("broken.npy", b"no array", "expected a dark, got"),
        ("empty.npy", b"", "expected a dark, got No data left in file"),
        ("header.npy", b"\x93NUMPY\x01\x00\x04\x00{'a(", "expected a dark, got"),
        ("complex.npy", np.full(SHAPE, 1j), "of real numbers, got complex128"),
        ("broken.h5", b"no file", "expected a dark, got"),
    ],
)
def test_unusable_images_are_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_image(path, SHAPE, "a dark")
    assert "\n" not in str(caught.value)


def test_an_archive_is_no_image(tmp_path):
    np.savez(tmp_path / "a.npz", np.ones(SHAPE))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match="archive of several arrays"):
        read_image(tmp_path / "a.npy", SHAPE, "a dark")


@pytest.mark.parametrize("read", [read_image, read_flat, read_dark, read_mask])
def test_damaged_cbf_is_one_line(tmp_path, read):
    """Cut off (but not between header and numbers, where fabio itself never ends), or damaged."""
    fabio = pytest.importorskip("fabio")
    image = np.random.default_rng(3).integers(1, 90, SHAPE).astype("<i4")
    fabio.cbfimage.CbfImage(data=image).write(str(tmp_path / "good.cbf"))
    content = (tmp_path / "good.cbf").read_bytes()
    path = tmp_path / "bad.cbf"
    start = content.index(b"\x0c\x1a\x04\xd5")
    damaged = [content[:length] for length in (0, 40, start + 4, len(content) // 2)]
    damaged += [content.replace(b"X-Binary", b"Y-Ninary"), content.replace(b"_", b"\xff")]
    for bad in damaged:
        path.write_bytes(bad)
        arguments = (path, SHAPE, "a dark") if read is read_image else (path, SHAPE)
        with pytest.raises(InputError) as caught:
            read(*arguments)
        assert str(caught.value).startswith(f"{path}: expected a")
        assert "\n" not in str(caught.value)


def test_unusable_flats_are_one_line(tmp_path):
    np.save(tmp_path / "zero.npy", np.zeros(SHAPE))
    with pytest.raises(InputError, match="values above 0"):
        read_flat(tmp_path / "zero.npy", SHAPE)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"] = file["b"] = np.ones(SHAPE)
    with pytest.raises(InputError, match="one 2-D dataset, a flat field"):
        read_flat(tmp_path / "two.h5", SHAPE)
    with pytest.raises(InputError, match="flat field: expected"):
        static_weights(make_geometry(), SHAPE, AreaReduction(), np.ones((2, 2)))
