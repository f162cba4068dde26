"""What bins are even in, and which pixels they see: against pyFAI, and by hand."""

import math

import numpy as np
import pytest

from benchmarks.pyfai_twin import pyfai_twin
from pipeline.config.reduce import AreaReduction
from pipeline.messages import StreamStart
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.inputs import in_sectors, read_inputs
from pipeline.reduce.integrator import Integrator

SHAPE = (330, 300)


def make_geometry(centre=(0.45, 0.55), rot=(0.2, -0.1, 0.6)) -> Geometry:
    return Geometry(
        distance_m=0.1,
        poni1_m=centre[0] * SHAPE[0] * 172e-6,
        poni2_m=centre[1] * SHAPE[1] * 172e-6,
        wavelength_nm=0.1,
        pixel1_m=172e-6,
        pixel2_m=172e-6,
        rot1_rad=rot[0],
        rot2_rad=rot[1],
        rot3_rad=rot[2],
        shape=SHAPE,
    )


def pyfai(geometry, image, bins, unit, radial_range=None):
    integrator = pyfai_twin(geometry, image.shape)
    return integrator.integrate1d(
        image,
        bins,
        unit=unit,
        radial_range=radial_range,
        error_model="poisson",
        method=("full", "csr", "cython"),
    )


@pytest.fixture
def image():
    return np.random.default_rng(1).poisson(40, SHAPE).astype(np.uint32)


def test_bins_even_in_two_theta_agree_with_pyfai(image):
    geometry = make_geometry(centre=(-0.2, 0.3))
    settings = AreaReduction(bins=120, bin_axis="two_theta", polarization_factor=None)
    integrator = Integrator(geometry, SHAPE, settings)
    intensity, sigma = integrator(image)
    theirs = pyfai(geometry, image, 120, "2th_rad")
    two_theta = 2 * np.arcsin(integrator.q_per_nm * 0.1 / (4 * math.pi))
    np.testing.assert_allclose(two_theta, theirs.radial, rtol=1e-6)
    assert np.ptp(np.diff(two_theta)) < 1e-12
    # Two ways to 2 theta, each rounded to float32: 1e-5 in bins of some hundred pixels.
    np.testing.assert_allclose(intensity, theirs.intensity, rtol=2e-5)
    np.testing.assert_allclose(sigma, theirs.sigma, rtol=2e-5)


def test_logarithmic_bins_agree_with_pyfai(image):
    geometry = make_geometry(centre=(-0.2, 0.3))
    settings = AreaReduction(bins=90, bin_spacing="logarithmic", polarization_factor=None)
    integrator = Integrator(geometry, SHAPE, settings)
    intensity, sigma = integrator(image)
    edges = integrator.binning.edges_per_nm
    np.testing.assert_allclose(edges[1:] / edges[:-1], edges[1] / edges[0], rtol=1e-12)
    np.testing.assert_allclose(integrator.q_per_nm, np.sqrt(edges[1:] * edges[:-1]), rtol=1e-12)
    theirs = pyfai(geometry, image, 90, "log(q.nm)_None", (math.log(edges[0]), math.log(edges[-1])))
    np.testing.assert_allclose(np.log(integrator.q_per_nm), theirs.radial, rtol=1e-6)
    np.testing.assert_allclose(intensity, theirs.intensity, rtol=5e-5)
    np.testing.assert_allclose(sigma, theirs.sigma, rtol=5e-5)


def test_logarithmic_bins_begin_above_the_beam(image):
    """A pixel around the beam reaches down to q = 0, which no logarithm has."""
    geometry = make_geometry(rot=(0.0, 0.0, 0.0))
    settings = AreaReduction(bins=60, bin_spacing="logarithmic", q_min_per_nm=0.5)
    integrator = Integrator(geometry, SHAPE, settings)
    intensity, _ = integrator(np.full(SHAPE, 5, np.uint16))
    assert integrator.binning.edges_per_nm[0] == pytest.approx(0.5)
    assert np.isfinite(intensity).all()
    low = AreaReduction(bins=60, bin_spacing="logarithmic", q_min_per_nm=0.0)
    with pytest.raises(InputError, match="q_min_per_nm: expected above 0 for logarithmic bins"):
        Integrator(geometry, SHAPE, low)


@pytest.mark.parametrize(
    "sectors", [((-30.0, 45.0),), ((170.0, 190.0),), ((0.0, 10.0), (85.0, 95.0)), ((-360.0, 0.0),)]
)
def test_sectors_are_azimuths_of_pixels_middles(sectors):
    geometry = make_geometry()
    inside = in_sectors(geometry, SHAPE, sectors)
    integrator = pyfai_twin(geometry, SHAPE)
    chi = np.degrees(integrator.chiArray(SHAPE))
    expected = np.zeros(SHAPE, bool)
    for start, stop in sectors:
        for turn in (-720, -360, 0, 360):
            expected |= (chi + turn >= start) & (chi + turn <= stop)
    # Pixels whose middle is on the edge may fall either way by rounding.
    assert (inside != expected).sum() <= 3


def stream(**changes) -> StreamStart:
    values = {
        "stream": "saxs",
        "run": "r",
        "kind": "image",
        "shape": SHAPE,
        "dtype": "<u4",
        "metadata": {"poni": make_geometry().to_poni()},
    }
    return StreamStart(**(values | changes))


def test_sector_keeps_what_lies_in_it():
    """A sample that scatters along axis 2 only is bright in that sector and dark across."""
    geometry = make_geometry(rot=(0.0, 0.0, 0.0))
    chi = np.degrees(
        np.arctan2(
            (np.arange(SHAPE[0])[:, None] + 0.5) - 0.45 * SHAPE[0],
            (np.arange(SHAPE[1]) + 0.5) - 0.55 * SHAPE[1],
        )
    )
    image = np.where(np.abs(chi) < 20, 100, 1).astype(np.uint32)
    curves = {}
    for name, sectors in (("along", ((-20.0, 20.0),)), ("across", ((70.0, 110.0),))):
        settings = AreaReduction(bins=40, sectors_deg=sectors, solid_angle=False)
        masked = read_inputs(settings, stream(metadata={"poni": geometry.to_poni()})).masked
        curves[name] = Integrator(geometry, SHAPE, settings, masked=masked)(image)[0]
    assert np.nanmedian(curves["along"]) == pytest.approx(100, rel=0.05)
    assert np.nanmedian(curves["across"]) == pytest.approx(1, rel=0.05)


def test_sectors_without_pixels_are_refused():
    away = make_geometry(centre=(-3.0, 0.5), rot=(0.0, 0.0, 0.0)).to_poni()
    with pytest.raises(InputError, match=r"sectors_deg \[\[-100.0, -80.0\]\], got none"):
        read_inputs(AreaReduction(sectors_deg=((-100.0, -80.0),)), stream(metadata={"poni": away}))


@pytest.mark.parametrize(
    ("key", "what"), [("mask_file", "a mask"), ("flat_file", "a flat field"), ("dark_file", "dark")]
)
def test_images_of_another_shape_are_named(tmp_path, key, what):
    path = tmp_path / "image.npy"
    np.save(path, np.ones((5, 6)))
    with pytest.raises(InputError, match=rf"{path}: expected .*{what}.* got \(5, 6\)"):
        read_inputs(AreaReduction(**{key: str(path)}), stream())


def test_sigma_is_the_scatter_of_repeated_frames_at_every_q():
    """z of 40 000 frames has unit variance within 2 % in every bin (3 standard errors: 2.1 %)."""
    shape = (30, 26)
    geometry = Geometry(0.05, 0.4 * 30 * 172e-6, 0.3 * 26 * 172e-6, 0.1, 172e-6, 172e-6)
    integrator = Integrator(geometry, shape, AreaReduction(bins=10))
    y, x = np.mgrid[0:30, 0:26]
    # A count of 25 to 400: steep, so that the pixels of one bin differ.
    mean = 400.0 * np.exp(-np.hypot(y - 12, x - 8) / 10) + 25.0
    random = np.random.default_rng(5)
    truth = integrator(mean.astype(np.float64))[0]
    z = np.empty((40_000, 10))
    for k in range(len(z)):
        intensity, sigma = integrator(random.poisson(mean).astype(np.uint16))
        z[k] = (intensity - truth) / sigma
    np.testing.assert_allclose(z.var(axis=0), 1.0, atol=0.02)
    # sigma follows each frame's own counts, so a low frame counts for a little more: of a ring of n
    # counts in all, -1 / (2 sqrt(n)) standard deviations.
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=0.03)
