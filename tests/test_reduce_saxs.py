"""The stage from frames to I(q): units, rejections, real frames."""

import gzip
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config.reduce import AreaReduction
from pipeline.messages import (
    BadFrameError,
    Curve,
    CurveFrame,
    ImageFrame,
    RunStart,
    Stage,
    StreamStart,
    frozen_array,
)
from pipeline.reduce.corrections.background import interpolate_background, read_background
from pipeline.reduce.corrections.mask import read_mask
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.saxs import ReduceSaxs

SHAPE = (90, 80)
GEOMETRY = Geometry(
    distance_m=0.8,
    poni1_m=0.004,
    poni2_m=0.003,
    wavelength_nm=0.1,
    pixel1_m=75e-6,
    pixel2_m=75e-6,
    rot1_rad=0.005,
    rot2_rad=-0.003,
    shape=SHAPE,
)


def start(stream: StreamStart) -> RunStart:
    return RunStart(run=stream.run, stream=stream)


def image_stream(**metadata) -> StreamStart:
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:12] = 1
    return StreamStart(
        stream="saxs",
        run="r",
        kind="image",
        shape=SHAPE,
        dtype="<u2",
        arrays={"pixel_mask": mask},
        metadata={"poni": GEOMETRY.to_poni()} | metadata,
    )


def image_frame(**changes) -> ImageFrame:
    image = np.random.default_rng(0).poisson(100, SHAPE).astype(np.uint16)
    frame = ImageFrame(
        stream="saxs", frame=3, time_ns=2_000_000_000, exposure_s=0.5, image=frozen_array(image)
    )
    return replace(frame, **changes)


def reduce_one(settings: AreaReduction, stream: StreamStart, frame) -> Curve:
    stage = ReduceSaxs(settings)
    assert isinstance(stage, Stage)
    stage.reset(start(stream))
    (curve,) = stage.process(frame)
    return curve


def test_absolute_intensity_is_counts_over_what_reached_the_pixel():
    """A flat scatterer of 2.5 1/cm, rendered by the definition of the cross-section, comes back."""
    flux_per_s, transmission, thickness_cm, monitor, exposure_s = 1e12, 0.7, 0.15, 0.9, 0.2
    pixel_sr = (75e-6 / 0.8) ** 2
    settings = AreaReduction(bins=30, polarization_factor=None)
    stream = image_stream(absolute_scale=1 / (flux_per_s * pixel_sr), thickness_cm=thickness_cm)
    # cos^3 of the incidence, from the pixel's place in space and nothing of ours.
    rows, columns = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]] + 0.5
    r2 = (rows * 75e-6 - 0.004) ** 2 + (columns * 75e-6 - 0.003) ** 2
    solid_angle_sr = pixel_sr * (1 + r2 / 0.8**2) ** -1.5
    counts = 2.5 * flux_per_s * monitor * exposure_s * transmission * thickness_cm * solid_angle_sr
    stream = replace(stream, dtype="<f8")
    frame = image_frame(
        image=counts, monitor=monitor, transmission=transmission, exposure_s=exposure_s
    )
    curve = reduce_one(settings, stream, frame)
    assert curve.absolute
    assert curve.frame == 3
    assert curve.time_s == 2.0
    np.testing.assert_allclose(curve.intensity, 2.5, rtol=1e-5)
    # One pixel's counting error over the square root of the pixels, more where they are shared.
    pixels = counts.size / 30
    floor = 2.5 / math.sqrt(counts.mean() * pixels)
    assert 0.3 * floor < np.median(curve.sigma) < 2 * floor


@pytest.mark.parametrize(
    ("settings", "metadata", "absolute"),
    [
        ({}, {}, False),
        ({}, {"absolute_scale": 2.0}, False),
        ({}, {"absolute_scale": 2.0, "thickness_cm": 0.1}, True),
        ({"thickness_cm": 0.2}, {"absolute_scale": 2.0, "thickness_cm": 0.1}, True),
        ({"absolute_scale": 3.0, "thickness_cm": 0.2}, {}, True),
    ],
)
def test_scale_needs_factor_and_thickness(settings, metadata, absolute):
    settings = AreaReduction(bins=20, **settings)
    curve = reduce_one(settings, image_stream(**metadata), image_frame())
    bare = reduce_one(AreaReduction(bins=20), image_stream(), image_frame())
    factor = 1.0
    if absolute:
        factor = (settings.absolute_scale or 2.0) / (settings.thickness_cm or 0.1)
    assert curve.absolute is absolute
    np.testing.assert_allclose(curve.intensity, factor * bare.intensity, rtol=1e-12)
    np.testing.assert_allclose(curve.sigma, factor * bare.sigma, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"monitor": 0.0}, "no beam: .* got 0"),
        ({"monitor": -0.2}, "no beam: .* got -0.2"),
        ({"monitor": math.nan}, "no beam: .* got nan"),
        ({"monitor": math.inf}, "finite monitor"),
        ({"exposure_s": 0.0}, "exposure above 0 s, got 0"),
        ({"exposure_s": math.nan}, "exposure above 0 s, got nan"),
        ({"transmission": 0.0}, "transmission above 0"),
        ({"transmission": 1.3}, "got 1.3"),
        ({"transmission": math.nan}, "got nan"),
        ({"image": np.zeros((4, 4), np.uint16)}, r"expected \(90, 80\) <u2, got \(4, 4\) <u2"),
        ({"image": np.zeros(SHAPE, np.uint32)}, r"expected \(90, 80\) <u2, got \(90, 80\) <u4"),
        ({"image": np.full(SHAPE, 65535, np.uint16)}, "expected valid pixels, got none"),
    ],
)
def test_bad_frame_is_rejected_with_one_line(changes, message):
    stage = ReduceSaxs(AreaReduction(bins=20))
    stage.reset(start(image_stream()))
    with pytest.raises(BadFrameError, match=message) as caught:
        list(stage.process(image_frame(**changes)))
    assert str(caught.value).startswith("saxs frame 3: ")
    assert "\n" not in str(caught.value)
    (curve,) = stage.process(image_frame())
    assert np.isfinite(curve.intensity).all()


def test_curve_frame_in_a_stream_of_images_is_rejected():
    stage = ReduceSaxs(AreaReduction(bins=20))
    stage.reset(start(image_stream()))
    frame = CurveFrame("saxs", 0, 0, 1.0, np.ones(20), np.ones(20))
    with pytest.raises(BadFrameError, match="expected an image, got a curve"):
        list(stage.process(frame))


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (replace(image_stream(), metadata={}), "set saxs.reduce.poni_file"),
        (image_stream(poni="Distance: 1"), "geometry of the stream: expected a number for poni1"),
        (
            replace(image_stream(), arrays={"pixel_mask": np.zeros((3, 3))}),
            r"expected a pixel_mask of \(90, 80\), got \(3, 3\)",
        ),
        (replace(image_stream(), shape=(100,)), "expected images of 2 axes"),
        (replace(image_stream(), kind="counts"), "expected a stream of images or curves"),
    ],
)
def test_bad_start_is_refused(stream, message):
    with pytest.raises(InputError, match=message):
        ReduceSaxs(AreaReduction()).reset(start(stream))


def test_saturated_pixels_are_masked_in_their_frame_only():
    stage = ReduceSaxs(AreaReduction(bins=20))
    stage.reset(start(image_stream(saturation=1000)))
    image = image_frame().image.copy()
    (before,) = stage.process(image_frame(image=image))
    hot = image.copy()
    hot[40, 40], hot[41, 60] = 1000, 65535
    (masked,) = stage.process(image_frame(image=hot))
    (after,) = stage.process(image_frame(image=image))
    assert before.intensity.tobytes() == after.intensity.tobytes()
    changed = np.flatnonzero(before.intensity != masked.intensity)
    assert 0 < len(changed) <= 6
    np.testing.assert_allclose(masked.intensity, before.intensity, rtol=0.03)


def test_a_stage_that_starts_again_gives_the_same_bits():
    settings = AreaReduction(bins=64)
    frames = [image_frame(frame=k, monitor=1 + 0.01 * k) for k in range(3)]
    stage = ReduceSaxs(settings)
    stage.reset(start(image_stream()))
    live = [curve for frame in frames for curve in stage.process(frame)]
    again = reduce_one(settings, image_stream(), frames[2])
    assert again.intensity.tobytes() == live[2].intensity.tobytes()
    assert again.sigma.tobytes() == live[2].sigma.tobytes()


def test_background_is_subtracted_with_its_error(tmp_path):
    bare = reduce_one(AreaReduction(bins=20), image_stream(), image_frame())
    q = np.linspace(0.5 * bare.q_per_nm[0], bare.q_per_nm[15], 7)
    path = tmp_path / "background.dat"
    np.savetxt(path, np.c_[q, 3 + q, np.full(7, 0.5)], header="q 1/nm, I, sigma")
    settings = AreaReduction(bins=20, background_file=str(path))
    curve = reduce_one(settings, image_stream(), image_frame())
    covered = bare.q_per_nm <= q[-1]
    assert np.isnan(curve.intensity[~covered]).all()
    assert np.isnan(curve.sigma[~covered]).all()
    np.testing.assert_allclose(
        curve.intensity[covered], (bare.intensity - 3 - bare.q_per_nm)[covered], rtol=1e-9
    )
    # Between two independent points the variance is 1 to 1/2 of theirs.
    added = curve.sigma[covered] ** 2 - bare.sigma[covered] ** 2
    assert ((added > 0.124) & (added < 0.2501)).all()


def test_interpolated_variance_is_that_of_a_weighted_mean():
    value, variance = interpolate_background(
        np.array([1.0, 1.25, 3.0]),
        (np.array([1.0, 2.0]), np.array([10.0, 20.0]), np.array([1.0, 2.0])),
    )
    np.testing.assert_allclose(value, [10.0, 12.5, np.nan])
    np.testing.assert_allclose(variance, [1.0, 0.75**2 + 0.5**2, np.nan])


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2\n3 4\n", "rows of q, I, sigma"), ("a b c\n", "got"), ("2 1 1\n1 1 1\n", "rising q")],
)
def test_bad_background_is_refused(tmp_path, text, message):
    path = tmp_path / "b.dat"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_background(path)


def test_masks_from_files_are_added(tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[:, :40] = True
    np.save(tmp_path / "m.npy", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.npy", SHAPE), mask)
    half = reduce_one(
        AreaReduction(bins=20, mask_file=str(tmp_path / "m.npy")), image_stream(), image_frame()
    )
    whole = reduce_one(AreaReduction(bins=20), image_stream(), image_frame())
    assert np.nanmedian(half.sigma) > 1.2 * np.nanmedian(whole.sigma)
    with pytest.raises(InputError, match=r"expected a mask of \(5, 5\)"):
        read_mask(tmp_path / "m.npy", (5, 5))
    with pytest.raises(InputError, match="no such file"):
        read_mask(tmp_path / "none.npy", SHAPE)


def curve_stream(q_per_nm, **metadata) -> StreamStart:
    return StreamStart(
        stream="saxs",
        run="r",
        kind="curve",
        shape=q_per_nm.shape,
        dtype="<f8",
        arrays={"q_per_nm": q_per_nm},
        metadata=metadata,
    )


def test_curve_with_errors_is_handed_on():
    q = np.geomspace(0.1, 5, 60)
    intensity, sigma = np.exp(-q), np.full(60, 0.1)
    intensity[4] = np.inf
    frame = CurveFrame("saxs", 7, 3_500_000_000, 1.0, intensity, sigma)
    curve = reduce_one(AreaReduction(), curve_stream(q, absolute=True), frame)
    assert curve.absolute
    assert curve.time_s == 3.5
    np.testing.assert_array_equal(curve.q_per_nm, q)
    assert np.isnan(curve.intensity[4])
    assert np.isnan(curve.sigma[4])
    np.testing.assert_array_equal(np.delete(curve.sigma, 4), 0.1)


def test_missing_errors_are_estimated_from_the_scatter():
    """The estimate follows noise that falls tenfold, and passes over sharp peaks."""
    q = np.linspace(0.2, 5, 800)
    true_sigma = 0.5 * 10 ** (-q / 5)
    smooth = 40 * np.exp(-((q / 1.5) ** 2)) + 2 / q
    smooth += 30 * np.exp(-(((q - 3) / 0.006) ** 2))
    random = np.random.default_rng(4)
    stage = ReduceSaxs(AreaReduction())
    stage.reset(start(curve_stream(q)))
    ratios = []
    for k in range(40):
        intensity = smooth + true_sigma * random.standard_normal(800)
        frame = CurveFrame("saxs", k, k, 1.0, intensity, np.full(800, np.nan))
        (curve,) = stage.process(frame)
        ratios.append(curve.sigma / true_sigma)
    assert not curve.absolute
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.06)
    assert np.std(ratios) < 0.3
    assert np.abs(np.mean(ratios, axis=0) - 1).max() < 0.35


@pytest.mark.parametrize(
    ("intensity", "message"),
    [
        (np.full(50, np.nan), "got none that is finite"),
        (np.ones(50), "scatter to estimate them from"),
        (np.r_[np.arange(5.0), np.full(45, np.nan)], "10 points to estimate them from, got 5"),
        (np.ones(3), r"intensity and sigma of \(50,\)"),
    ],
)
def test_bad_curves_are_rejected(intensity, message):
    stage = ReduceSaxs(AreaReduction())
    stage.reset(start(curve_stream(np.linspace(0.1, 2, 50))))
    frame = CurveFrame("saxs", 1, 0, 1.0, intensity, np.full(intensity.shape, np.nan))
    with pytest.raises(BadFrameError, match=message):
        list(stage.process(frame))


def test_q_that_falls_is_refused():
    with pytest.raises(InputError, match="rising, finite q_per_nm"):
        ReduceSaxs(AreaReduction()).reset(start(curve_stream(np.linspace(2, 1, 50))))


# --- real frames ---------------------------------------------------------------------------------


def ssrl_mask(folder):
    from fabio.edfimage import EdfImage

    return EdfImage().read(str(folder / "poni" / "RT_SAXS_mask_03.edf.gz")).data != 0


def ssrl_start(folder, mask, **metadata) -> RunStart:
    poni = (folder / "poni" / "atT_SAXS.poni").read_text()
    stream = StreamStart(
        stream="saxs",
        run="ssrl",
        kind="image",
        shape=(1043, 981),
        dtype="<i4",
        arrays={"pixel_mask": mask.astype(np.uint8)},
        metadata={"poni": poni} | metadata,
    )
    return RunStart(run="ssrl", stream=stream)


@pytest.mark.real_data
def test_silver_behenate_ring_is_where_it_belongs(data_dir):
    """First ring at d = 58.4 A within 0.3 %: the calibrant's own value is 58.38 A."""
    from fabio.edfimage import EdfImage

    folder = data_dir / "ssrl_bl1-5_swaxs_2d"
    path = folder / "poni" / "sone_Standards_AgBeh_T20_ctr0_scan1_0000.cbf.gz"
    image = EdfImage().read(str(path)).data.astype(np.int32)
    stage = ReduceSaxs(AreaReduction(bins=1000))
    stage.reset(ssrl_start(folder, ssrl_mask(folder)))
    frame = ImageFrame("saxs", 0, 0, 1.0, frozen_array(image))
    (curve,) = stage.process(frame)
    near = np.abs(curve.q_per_nm - 2 * np.pi / 5.838) < 0.05
    q, intensity = curve.q_per_nm[near], curve.intensity[near]
    top = np.abs(q - q[np.argmax(intensity)]) < 0.015
    weight = intensity[top] - intensity.min()
    d_nm = 2 * np.pi / np.average(q[top], weights=weight)
    assert d_nm == pytest.approx(5.84, rel=3e-3)


@pytest.mark.real_data
@pytest.mark.parametrize("run", [5, 8, 10])
def test_real_frames_agree_with_pyfai(data_dir, run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyFAI

        folder = data_dir / "ssrl_bl1-5_swaxs_2d"
        theirs = pyFAI.load(str(folder / "poni" / "atT_SAXS.poni"))
    name = f"sone_Hor_scan_Run{run}_RampT20_ctr0_scan1_0000.raw.gz"
    with gzip.open(folder / "2D" / "SAXS" / name) as file:
        image = np.frombuffer(file.read(), "<i4").reshape(1043, 981)
    mask = ssrl_mask(folder)
    stage = ReduceSaxs(AreaReduction(bins=500))
    stage.reset(ssrl_start(folder, mask | (image < 0)))
    (curve,) = stage.process(ImageFrame("saxs", run, 0, 1.0, image))
    expected = theirs.integrate1d(
        image,
        500,
        unit="q_nm^-1",
        mask=(mask | (image < 0)).astype(np.int8),
        polarization_factor=0.99,
        error_model="poisson",
        method=("full", "csr", "cython"),
    )
    assert (expected.count > 0).all()
    np.testing.assert_allclose(curve.q_per_nm, expected.radial, rtol=1e-6)
    np.testing.assert_allclose(curve.intensity, expected.intensity, rtol=1e-5)
    np.testing.assert_allclose(curve.sigma, expected.sigma, rtol=1e-5)
