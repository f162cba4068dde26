"""The disk's cache of packed tables, and detectors that only it would trip over."""

import json
import os
import warnings

import numpy as np
import pytest

from pipeline.config.reduce import AreaReduction, DeadTime
from pipeline.messages import ImageFrame, RunStart, StreamStart
from pipeline.reduce import packing
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.integrator import Integrator
from pipeline.reduce.saxs import ReduceSaxs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pyFAI.detectors import detector_factory
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

SHAPE = (330, 300)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NUCLEATE_CACHE", str(tmp_path))
    return tmp_path / "tables"


def make(distance_m=0.3, cached=True, masked=None, **settings) -> Integrator:
    geometry = Geometry(distance_m, 0.03, 0.025, 0.1, 172e-6, 172e-6, shape=SHAPE)
    return Integrator(
        geometry, SHAPE, AreaReduction(**{"bins": 90, **settings}), masked=masked, cached=cached
    )


@pytest.fixture
def image():
    return np.random.default_rng(3).poisson(30, SHAPE).astype(np.uint32)


def assert_same_bits(ours, theirs) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_table_from_the_cache_gives_the_same_bits(cache, image):
    fresh = make(cached=False)
    first = make()
    (kept,) = cache.iterdir()
    age = kept.stat().st_mtime_ns
    os.utime(kept, (1, 1))
    second = make()
    # It was read, not made again: and reading it made it young.
    assert len(list(cache.iterdir())) == 1
    assert kept.stat().st_mtime_ns >= age
    for integrator in (first, second):
        assert integrator.binning == fresh.binning
        assert_same_bits(integrator(image), fresh(image))
        np.testing.assert_array_equal(integrator.pixels, fresh.pixels)


@pytest.mark.parametrize(
    "change",
    [
        {"distance_m": 0.31},
        {"bins": 91},
        {"bin_axis": "two_theta"},
        {"bin_spacing": "logarithmic", "q_min_per_nm": 1.0},
        {"q_max_per_nm": 5.0},
        {"masked": np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) == 777},
    ],
)
def test_whatever_a_table_depends_on_makes_another(cache, image, change):
    make()
    changed = make(**change)
    assert len(list(cache.glob("*.npz"))) == 2
    assert_same_bits(changed(image), make(cached=False, **change)(image))


def test_what_a_table_does_not_depend_on_shares_it(cache, image):
    plain = make()
    polarized = make(polarization_factor=-0.5)
    assert len(list(cache.glob("*.npz"))) == 1
    assert not np.allclose(plain(image)[0], polarized(image)[0], rtol=1e-3)


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "foreign"])
def test_a_damaged_table_is_told_and_made_anew(cache, image, caplog, damage):
    expected = make()(image)
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    if damage == "foreign":
        np.savez(kept, offset=np.zeros(3))
    else:
        kept.write_bytes(
            {"cut": content[: len(content) // 2], "empty": b"", "other": b"x" * 999}[damage]
        )
    assert_same_bits(make()(image), expected)
    assert "expected a cached table" in caplog.text
    caplog.clear()
    assert_same_bits(make()(image), expected)
    assert not caplog.text


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch, image, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("NUCLEATE_CACHE", str(tmp_path / "file"))
    assert_same_bits(make()(image), make(cached=False)(image))
    assert "not kept for the next start" in caplog.text


def test_the_least_recently_used_tables_go(cache, monkeypatch):
    monkeypatch.setattr(packing, "_MOST_CACHED", 3)
    names = []
    for k in range(3):
        make(distance_m=0.2 + 0.01 * k)
        (new,) = set(cache.iterdir()) - set(names)
        names.append(new)
        os.utime(new, (10 + k, 10 + k))
    make(distance_m=0.2)
    make(distance_m=0.5)
    assert names[0].exists()
    assert not names[1].exists()
    assert len(list(cache.iterdir())) == 3


def start(**changes) -> RunStart:
    values = {
        "stream": "saxs",
        "run": "r",
        "kind": "image",
        "shape": SHAPE,
        "dtype": "<u4",
        "metadata": {},
    } | changes
    return RunStart(run="r", stream=StreamStart(**values))


def test_a_detector_of_uneven_pixels_is_reduced_as_pyfai_does(cache):
    """Pixels at the edges of its modules are 2.5 times as wide."""
    detector = detector_factory("imxpad_s10")
    poni = (
        "poni_version: 2.1\nDetector: Imxpad S10\nDetector_config: {}\nDistance: 0.05\n"
        "Poni1: 0.004\nPoni2: 0.02\nRot1: 0.1\nRot2: 0.05\nRot3: 0.2\nWavelength: 1e-10\n"
    )
    shape = detector.shape
    image = np.random.default_rng(2).poisson(50, shape).astype(np.uint32)
    flat_path = cache.parent / "flat.npy"
    np.save(flat_path, np.ones(shape))
    stage = ReduceSaxs(
        AreaReduction(
            bins=60,
            polarization_factor=None,
            q_min_per_nm=6.0,
            q_max_per_nm=12.0,
            flat_file=str(flat_path),
        )
    )
    for _ in range(2):
        stage.reset(start(shape=shape, metadata={"poni": poni}))
        (curve,) = stage.process(ImageFrame("saxs", 0, 1, 1.0, image))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = AzimuthalIntegrator(
            dist=0.05,
            poni1=0.004,
            poni2=0.02,
            rot1=0.1,
            rot2=0.05,
            rot3=0.2,
            detector=detector,
            wavelength=1e-10,
        ).integrate1d(
            image,
            60,
            unit="q_nm^-1",
            radial_range=(6.0, 12.0),
            error_model="poisson",
            mask=np.zeros(shape, np.int8),
            method=("full", "csr", "cython"),
        )
    np.testing.assert_allclose(curve.intensity, theirs.intensity, rtol=1e-5)
    np.testing.assert_allclose(curve.sigma, theirs.sigma, rtol=1e-5)


@pytest.mark.parametrize(
    "metadata",
    [
        {"thickness_cm": -1.0, "absolute_scale": 1.0},
        {"thickness_cm": float("nan"), "absolute_scale": 1.0},
        {"thickness_cm": 0.1, "absolute_scale": float("inf")},
        {"absolute_scale": [1.0]},
        {"saturation": "abc"},
        {"saturation": -1},
        {"saturation": True},
    ],
)
def test_what_the_stream_says_is_checked(metadata):
    geometry = Geometry(0.3, 0.03, 0.025, 0.1, 172e-6, 172e-6, shape=SHAPE)
    stage = ReduceSaxs(AreaReduction(bins=20))
    with pytest.raises(InputError, match=r"stream's own \w+: expected a number above 0, got"):
        stage.reset(start(metadata={"poni": geometry.to_poni()} | metadata))


@pytest.mark.parametrize("dtype", ["<f2", "<c8", "|b1"])
def test_pixels_of_a_type_that_no_detector_has_are_refused(dtype):
    geometry = Geometry(0.3, 0.03, 0.025, 0.1, 172e-6, 172e-6, shape=SHAPE)
    with pytest.raises(InputError, match="expected images of integers or of floats"):
        ReduceSaxs(AreaReduction()).reset(start(metadata={"poni": geometry.to_poni()}, dtype=dtype))


def test_numbers_of_a_config_are_finite():
    for text in ('{"q_max_per_nm": Infinity}', '{"beam_size_um": [-1, 0]}'):
        with pytest.raises(ValueError, match=r"finite|greater than or equal to 0"):
            AreaReduction(**json.loads(text))


@pytest.mark.parametrize(
    "settings",
    [{}, {"rejection": "median", "dead_time": DeadTime(dead_time_ns=10.0)}],
)
def test_warm_up_leaves_nothing_to_compile(cache, settings):
    from pipeline.kernels.bslz4_integration import integrate_bslz4, load_bslz4

    ReduceSaxs(AreaReduction(**settings)).warm_up()
    kernel = load_bslz4 if settings else integrate_bslz4
    assert len(kernel.signatures) >= 1
