"""The whole way from a frame to a curve, all corrections together, against pyFAI; both paths."""

from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.pyfai_twin import pyfai_twin
from pipeline.bus import bslz4
from pipeline.config.reduce import AreaReduction, DeadTime
from pipeline.messages import (
    BadFrameError,
    Curve,
    ImageFrame,
    PackedImageFrame,
    RowResult,
    RunStart,
    StreamStart,
    WaxsCurve,
)
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.saxs import ReduceSaxs
from pipeline.reduce.waxs import ReduceWaxs
from pipeline.runner.chain import StageChain

SHAPE = (340, 310)
GEOMETRY = Geometry(
    distance_m=0.3,
    poni1_m=-0.02,
    poni2_m=0.03,
    wavelength_nm=0.1,
    pixel1_m=172e-6,
    pixel2_m=172e-6,
    rot1_rad=0.15,
    rot2_rad=0.1,
    rot3_rad=-0.4,
    shape=SHAPE,
)
EXPOSURE_S, MONITOR, TRANSMISSION = 0.25, 1.3, 0.7


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A frame with dark counts, an uneven detector and invalid pixels, and what is known of it."""
    folder = tmp_path_factory.mktemp("measured")
    random = np.random.default_rng(6)
    flat = random.normal(1.0, 0.1, SHAPE)
    flat[40:44, 50:60] = 0.0
    dark = random.uniform(2.0, 5.0, SHAPE)
    mask = random.random(SHAPE) < 0.03
    image = random.poisson(dark + 60 * np.clip(flat, 0.2, None)).astype(np.uint32)
    broken = random.random(SHAPE) < 0.01
    image[broken] = 2**32 - 1
    np.save(folder / "flat.npy", flat)
    np.save(folder / "dark.npy", dark)
    np.save(folder / "mask.npy", mask)
    return folder, image, flat, dark, mask | broken | (flat == 0.0)


def settings_of(folder, **changes) -> AreaReduction:
    values = {
        "bins": 70,
        "polarization_factor": 0.95,
        "flat_file": str(folder / "flat.npy"),
        "dark_file": str(folder / "dark.npy"),
        "mask_file": str(folder / "mask.npy"),
        "absolute_scale": 3.0,
        "thickness_cm": 0.2,
        # Within what every frame's usable pixels see, or invalid ones would move pyFAI's range.
        "q_min_per_nm": 8.0,
        "q_max_per_nm": 17.0,
    }
    return AreaReduction(**(values | changes))


def stream_of(name="saxs") -> StreamStart:
    return StreamStart(name, "r", "image", SHAPE, "<u4", metadata={"poni": GEOMETRY.to_poni()})


def frames_of(image):
    facts = {"stream": "saxs", "frame": 5, "time_ns": 10**9, "exposure_s": EXPOSURE_S}
    beam = {"monitor": MONITOR, "transmission": TRANSMISSION}
    plain = ImageFrame(**facts, image=image, **beam)
    packed = PackedImageFrame(
        **facts, payload=bslz4.compress(image), shape=SHAPE, dtype="<u4", **beam
    )
    return plain, packed


def reduce_it(config, frame, stage=ReduceSaxs) -> Curve:
    made = stage(config)
    made.reset(RunStart(run="r", stream=stream_of()))
    (curve,) = made.process(frame)
    return curve


def pyfai(measured, error_model="poisson", clip=None):
    _, image, flat, dark, unusable = measured
    integrator = pyfai_twin(GEOMETRY, SHAPE)
    options = {
        "unit": "q_nm^-1",
        "mask": unusable.astype(np.int8),
        "polarization_factor": 0.95,
        "error_model": error_model,
        "radial_range": (8.0, 17.0),
        "flat": np.where(unusable, 1.0, flat),
        "dark": dark,
        "method": ("full", "csr", "cython"),
    }
    values = np.where(unusable, 0, image)
    result = integrator.integrate1d(values, 70, **options)
    factor = 3.0 / (0.2 * EXPOSURE_S * MONITOR * TRANSMISSION)
    return result.radial, result.intensity * factor, result.sigma * factor


def test_all_corrections_together_agree_with_pyfai(measured):
    plain, packed = frames_of(measured[1])
    curve = reduce_it(settings_of(measured[0]), plain)
    q, intensity, sigma = pyfai(measured)
    np.testing.assert_allclose(curve.q_per_nm, q, rtol=1e-6)
    np.testing.assert_allclose(curve.intensity, intensity, rtol=1e-5)
    np.testing.assert_allclose(curve.sigma, sigma, rtol=1e-5)
    assert curve.absolute
    assert curve.pixels.min() > 20
    # Of all pixels but the static mask and those of no sensitivity.
    assert 0.5 < curve.pixels.sum() / (0.97 * SHAPE[0] * SHAPE[1]) < 1.0
    # A pixel is 172 um at 0.3 m and more: 0.03 1/nm; a bin is 0.13 1/nm wide.
    assert (curve.q_resolution_per_nm > 0.13 / 12**0.5).all()
    assert (curve.q_resolution_per_nm < 0.06).all()
    same = reduce_it(settings_of(measured[0]), packed)
    assert same.intensity.tobytes() == curve.intensity.tobytes()
    assert same.sigma.tobytes() == curve.sigma.tobytes()


def test_scatter_along_the_ring_gives_sigma(measured):
    config = settings_of(measured[0], error_model="azimuthal")
    plain, packed = frames_of(measured[1])
    curve = reduce_it(config, plain)
    _, intensity, _ = pyfai(measured)
    np.testing.assert_allclose(curve.intensity, intensity, rtol=1e-5)
    # Counts of this sample scatter by counting statistics; a ring of n pixels tells its scatter to
    # 1 / sqrt(2 n).
    poisson = reduce_it(settings_of(measured[0]), plain)
    ratio = curve.sigma / poisson.sigma
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03)
    same = reduce_it(config, packed)
    np.testing.assert_array_equal(same.intensity, curve.intensity)
    np.testing.assert_array_equal(same.sigma, curve.sigma)


@pytest.mark.parametrize("rejection", ["sigma_clip", "median"])
def test_zingers_are_left_out(measured, rejection):
    folder, image, *_ = measured
    clean = reduce_it(settings_of(folder), frames_of(image)[0])
    hit = image.copy()
    random = np.random.default_rng(2)
    places = tuple(random.integers(0, n, 300) for n in SHAPE)
    hit[places] = 50_000
    plain = reduce_it(settings_of(folder), frames_of(hit)[0])
    assert np.nanmedian(plain.intensity / clean.intensity) > 1.5
    saved = reduce_it(settings_of(folder, rejection=rejection), frames_of(hit)[1])
    # The middle of Poisson counts lies 1/6 count below their mean.
    np.testing.assert_allclose(saved.intensity, clean.intensity, rtol=0.03)


def test_dead_time_needs_the_exposure_and_raises_counts(measured):
    folder, image, *_ = measured
    config = settings_of(folder, dark_file=None, dead_time=DeadTime(dead_time_ns=1e5))
    plain, _ = frames_of(image)
    ratio = (
        reduce_it(config, plain).intensity
        / reduce_it(settings_of(folder, dark_file=None), plain).intensity
    )
    # n / m = 1 / (1 - m tau / t) for some 60 to 70 counts m: 1 / (1 - 65 * 1e-4 / 0.25) = 1.027.
    assert np.nanmedian(ratio) == pytest.approx(1.027, abs=0.002)


def test_each_detector_has_its_own_kind_of_curve(measured):
    curve = reduce_it(settings_of(measured[0]), frames_of(measured[1])[0], ReduceWaxs)
    assert isinstance(curve, WaxsCurve)
    assert (curve.NODE, curve.AXIS_NODE) == ("waxs/curves", "waxs/q")
    assert isinstance(curve, Curve)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Brightest(RowResult):
    NODE = "saxs/brightest"
    counts: int


class FindBrightest:
    """A stage of somebody who knows nothing of compressed images."""

    name, consumes, produces = "brightest", (ImageFrame,), (Brightest,)

    def reset(self, start):
        pass

    def process(self, frame):
        yield Brightest(
            frame=frame.frame,
            time_s=frame.time_s,
            counts=int(frame.image[frame.image < 2**31].max()),
        )


def test_stages_that_want_pixels_get_them(measured):
    folder, image, *_ = measured
    chain = StageChain([ReduceSaxs(settings_of(folder)), FindBrightest(), FindBrightest()])
    assert chain.reads_packed
    assert not StageChain([FindBrightest()]).reads_packed
    chain.reset(RunStart(run="r", stream=stream_of()))
    plain, packed = frames_of(image)
    for frame in (plain, packed):
        curve, first, second = chain.process(frame).results
        assert isinstance(curve, Curve)
        assert first.counts == second.counts == image[image < 2**31].max()


def test_a_damaged_image_is_rejected_and_named(measured):
    folder, image, *_ = measured
    _, packed = frames_of(image)
    payload = bytearray(packed.payload)
    payload[16:40] = b"\xff" * 24
    damaged = PackedImageFrame("saxs", 5, 10**9, 0.25, bytes(payload), SHAPE, "<u4")
    with pytest.raises(BadFrameError, match=r"saxs frame 5: expected bslz4 blocks .* block 0"):
        reduce_it(settings_of(folder), damaged)
    chain = StageChain([FindBrightest()])
    chain.reset(RunStart(run="r", stream=stream_of()))
    results = chain.process(damaged)
    assert results.rejected is not None
    assert results.rejected.startswith("saxs frame 5: expected bslz4 blocks of (340, 310)")


def test_a_frame_of_invalid_pixels_is_rejected(measured):
    folder, image, *_ = measured
    for frame in frames_of(np.full_like(image, 2**32 - 1)):
        with pytest.raises(BadFrameError, match="expected valid pixels, got none"):
            reduce_it(settings_of(folder), frame)


def test_a_beam_beside_the_detector_is_told_not_refused(measured, caplog):
    reduce_it(settings_of(measured[0]), frames_of(measured[1])[0])
    assert "saxs: the direct beam misses the detector" in caplog.text
