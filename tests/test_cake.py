"""The cake: pixels cut by hand, pyFAI's numbers, the curve that it adds up to, and the store."""

import math
import time
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pyfai_twin import pyfai_twin
from pipeline.bus import bslz4, codec
from pipeline.bus.errors import LinkRefusedError, WireError
from pipeline.bus.link import LinkSender
from pipeline.cli.analyse import split, stages_for
from pipeline.config.loader import parse_config
from pipeline.config.reduce import AreaReduction
from pipeline.config.reduce import Cake as CakeSettings
from pipeline.kernels import cake as kernels
from pipeline.kernels import cake_splitting as splitting
from pipeline.messages import (
    BadFrameError,
    Cake,
    Curve,
    FrameResults,
    ImageFrame,
    MapResult,
    PackedImageFrame,
    RunDocument,
    RunStart,
    StreamEnd,
    StreamStart,
    WaxsCake,
    frozen_array,
)
from pipeline.messages.frames import Kind
from pipeline.reduce.cake import CakeIntegrator, ReduceCake, ReduceWaxsCake
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.integrator import Corners, Integrator
from pipeline.reduce.saxs import ReduceSaxs
from pipeline.store.layout import EVERY, LayoutError, MapNode
from tests.support import StoreProcess

# pyFAI ends a range one rounding step above what it is told.
TO_180_DEG = 180.0 / (1.0 + 2.0**-23)


def make_geometry(
    shape=(170, 151), distance_m=0.12, centre=(0.4, 0.55), rot=(0.0, 0.0, 0.0), orientation=3
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


# --- one pixel --------------------------------------------------------------------------------


def below(corners, axis, limit, sign):
    """The part of a polygon with sign * coordinate <= sign * limit (Sutherland and Hodgman)."""
    kept = []
    for here, after in zip(corners, [*corners[1:], *corners[:1]], strict=True):
        inside = sign * here[axis] <= sign * limit
        if inside:
            kept.append(here)
        if inside != (sign * after[axis] <= sign * limit):
            part = (limit - here[axis]) / (after[axis] - here[axis])
            kept.append(tuple(a + part * (b - a) for a, b in zip(here, after, strict=True)))
    return kept


def area_of(corners):
    after = [*corners[1:], *corners[:1]]
    return 0.5 * sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, after, strict=True))


def cut_by_hand(q, chi, bins, sectors):
    """(sectors, bins) shares of a quadrilateral, q and chi in units of cells."""
    shares = np.zeros((sectors, bins))
    for sector in range(sectors):
        for column in range(bins):
            corners = list(zip(q, chi, strict=True))
            for axis, low in ((0, column), (1, sector)):
                corners = below(below(corners, axis, low, -1), axis, low + 1, 1)
            shares[sector, column] = area_of(corners) if corners else 0.0
    return shares / shares.sum()


def shares_of(q, chi, bins, sectors, compiled=True, level=False):
    """(sectors, bins) shares as the kernel has them, chi in units of sectors."""
    function = splitting.pixel_cells if compiled else splitting.pixel_cells.py_func
    chi_rad = np.asarray(chi) * (2 * math.pi / sectors) - math.pi
    first_bin, bin_count, first_sector, sector_count, room = function(
        np.array(q, float), chi_rad, bins, sectors, level, np.empty(1)
    )
    shares = np.zeros((sectors, bins))
    for row in range(sector_count):
        part = room[row * bin_count : (row + 1) * bin_count]
        shares[(first_sector + row) % sectors, first_bin : first_bin + bin_count] += part
    return shares


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    place=st.tuples(st.floats(-1.0, 8.0), st.floats(4.0, 14.0)),
    size=st.tuples(st.floats(0.05, 3.0), st.floats(0.05, 3.0)),
    angle=st.floats(0.0, 6.3),
    seed=st.integers(0, 2**31),
    compiled=st.booleans(),
    reverse=st.booleans(),
)
def test_shares_are_areas_of_the_polygon_in_each_cell(place, size, angle, seed, compiled, reverse):
    bins, sectors = 7, 18
    square = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
    square += np.random.default_rng(seed).uniform(-0.2, 0.2, (4, 2))
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    corners = square @ turn * size + place
    q, chi = corners[:: -1 if reverse else 1].T
    if q.max() <= 0.01 or q.min() >= bins - 0.01:
        return
    expected = cut_by_hand(q, chi, bins, sectors)
    np.testing.assert_allclose(shares_of(q, chi, bins, sectors, compiled), expected, atol=1e-9)


def test_pixel_over_the_cut_has_parts_on_both_sides():
    q, sectors = [2.2, 2.8, 2.8, 2.2], 12
    # From half a sector below 180 degrees to a quarter above, which is -180.
    chi = [11.5, 11.5, 0.25, 0.25]
    shares = shares_of(q, chi, 5, sectors)
    assert shares[11, 2] == pytest.approx(0.5 / 0.75)
    assert shares[0, 2] == pytest.approx(0.25 / 0.75)
    assert shares.sum() == pytest.approx(1.0)


def test_pixel_with_the_beam_is_spread_over_all_azimuths():
    shares = shares_of([1.3, 1.5, 1.9, 2.1], [0.5, 3.5, 6.5, 9.5], 5, 12)
    np.testing.assert_allclose(shares[:, :3], 1.0 / 36.0)
    assert not shares[:, 3:].any()


def test_pixel_out_of_range_has_no_share():
    room = np.empty(1)
    q, chi = np.array([7.2, 7.9, 7.9, 7.2]), np.array([0.1, 0.1, 0.2, 0.2])
    assert splitting.pixel_cells(q, chi, 7, 12, False, room)[1] == 0
    assert splitting.pixel_cells(-q, chi, 7, 12, False, room)[1] == 0


# --- pyFAI ------------------------------------------------------------------------------------


def over_the_cut(geometry, shape) -> np.ndarray:
    """Pixels across -180 = 180 degrees, of which pyFAI loses a part, and those at the beam."""
    corners = Corners(geometry, shape, AreaReduction())
    chi = corners.chi_rad
    around = np.stack([chi[:-1, :-1], chi[1:, :-1], chi[1:, 1:], chi[:-1, 1:]])
    one_pixel = 2 * math.pi / geometry.wavelength_nm * geometry.pixel1_m / geometry.distance_m
    # A corner on the cut itself may be on either side of it.
    across = (np.ptp(around, axis=0) > math.pi) | (np.abs(around).max(axis=0) > math.pi - 1e-6)
    return across | (corners.q_per_nm[:-1, :-1] < 3 * one_pixel)


def pyfai(geometry, image, masked, cake, **options):
    integrator = pyfai_twin(geometry, image.shape)
    return integrator.integrate2d(
        image,
        cake.q_bins,
        cake.azimuth_bins,
        unit="q_nm^-1",
        mask=masked.astype(np.int8),
        azimuth_range=(-180.0, TO_180_DEG),
        polarization_factor=0.99,
        error_model="poisson",
        method=("full", "csr", "cython"),
        **options,
    )


def comparable(geometry, masked, cake: CakeIntegrator, theirs, least: float) -> np.ndarray:
    """Cells of at least so many pixels, without those of the first pixel that is used.

    For that one, pyFAI 2026.9 adds to a buffer that was never cleared: its shares are different
    each time.
    """
    populated = theirs.count > least
    row, column = np.unravel_index(np.argmin(masked), masked.shape)
    pixel = slice(row, row + 2), slice(column, column + 2)
    corners = Corners(geometry, masked.shape, AreaReduction())
    chi_deg = np.degrees(corners.chi_rad[pixel])
    q = cake.binning.corners(corners.q_per_nm)[pixel]
    step_deg = 360.0 / len(cake.azimuth_deg)
    sectors = np.abs(cake.azimuth_deg - chi_deg.mean()) < np.ptp(chi_deg) + step_deg
    bins = np.abs(cake.q_per_nm - q.mean()) < np.ptp(q) + cake.binning.width
    populated[np.ix_(sectors, bins)] = False
    return populated


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    distance_m=st.floats(0.03, 0.6),
    centre=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
    rot=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.floats(-3.1, 3.1)),
    orientation=st.sampled_from([1, 2, 3, 4]),
    cells=st.tuples(st.integers(20, 120), st.integers(20, 180)),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_pyfai_on_any_geometry(distance_m, centre, rot, orientation, cells, seed):
    """Where edges are taken as pyFAI takes them; float32 in its areas is what is left."""
    shape = (170, 151)
    random = np.random.default_rng(seed)
    geometry = make_geometry(shape, distance_m, centre, rot, orientation)
    masked = (random.random(shape) < 0.1) | over_the_cut(geometry, shape)
    image = random.poisson(random.uniform(2.0, 200.0), shape).astype(np.uint16)
    cake = CakeSettings(q_bins=cells[0], azimuth_bins=cells[1])
    ours = CakeIntegrator(geometry, shape, AreaReduction(), cake, masked=masked, level=True)
    theirs = pyfai(geometry, image, masked, cake)
    np.testing.assert_allclose(ours.q_per_nm, theirs.radial, rtol=1e-6)
    np.testing.assert_allclose(ours.azimuth_deg, theirs.azimuthal, atol=1e-9)
    populated = comparable(geometry, masked, ours, theirs, 1e-2)
    intensity, sigma = ours(image)
    assert np.isfinite(intensity[populated]).all()
    # Of cells with less than a pixel, its areas of float32 give fewer digits.
    tolerance = 1e-5 * np.maximum(1.0, 1.0 / theirs.count[populated])
    for our, their in ((intensity, theirs.intensity), (sigma, theirs.sigma)):
        apart = np.abs(our[populated] / their[populated] - 1.0)
        assert (apart < tolerance).all(), np.max(apart / tolerance)


def test_dark_is_subtracted_as_pyfai_does_it():
    geometry = make_geometry(rot=(0.1, -0.05, 0.3))
    shape = (170, 151)
    random = np.random.default_rng(2)
    dark = random.uniform(0.0, 9.0, shape)
    flat = random.uniform(0.8, 1.2, shape)
    image = random.poisson(50, shape).astype(np.uint32)
    masked = over_the_cut(geometry, shape)
    cake = CakeSettings(q_bins=40, azimuth_bins=60)
    ours = CakeIntegrator(
        geometry, shape, AreaReduction(), cake, masked=masked, dark=dark, flat=flat, level=True
    )
    theirs = pyfai(geometry, image, masked, cake, dark=dark, flat=flat)
    intensity, sigma = ours(image)
    populated = comparable(geometry, masked, ours, theirs, 0.1)
    np.testing.assert_allclose(intensity[populated], theirs.intensity[populated], rtol=2e-5)
    np.testing.assert_allclose(sigma[populated], theirs.sigma[populated], rtol=2e-5)


def test_exact_shares_are_within_the_noise_of_pyfais():
    """How much level edges matter: a hundredth of sigma in most cells."""
    shape = (170, 151)
    geometry = make_geometry(rot=(0.1, -0.05, 0.3))
    image = np.random.default_rng(3).poisson(20, shape).astype(np.uint16)
    masked = over_the_cut(geometry, shape)
    cake = CakeSettings(q_bins=40, azimuth_bins=36)
    ours = CakeIntegrator(geometry, shape, AreaReduction(), cake, masked=masked)
    theirs = pyfai(geometry, image, masked, cake)
    intensity, sigma = ours(image)
    apart = np.abs(intensity - theirs.intensity)[theirs.count > 1.0] / sigma[theirs.count > 1.0]
    assert 1e-4 < np.median(apart) < 0.03
    assert np.quantile(apart, 0.99) < 0.3


# --- the map of a frame -----------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_invalid_pixels_leave_their_cells_as_if_masked(dark, compiled, monkeypatch):
    shape = (60, 50)
    random = np.random.default_rng(5)
    geometry = make_geometry(shape, rot=(0.1, -0.2, 0.4))
    image = random.poisson(30, shape).astype(np.uint32)
    invalid = random.random(shape) < 0.1
    image[invalid] = random.choice([2**32 - 1, 2**32 - 2, 2**31, 1000, 4000], invalid.sum())
    cake = CakeSettings(q_bins=20, azimuth_bins=30)
    counts_dark = random.uniform(0.0, 5.0, shape) if dark else None
    config = AreaReduction(q_min_per_nm=11.5, q_max_per_nm=17.0)
    ours = CakeIntegrator(geometry, shape, config, cake, dark=counts_dark)
    masked = CakeIntegrator(geometry, shape, config, cake, dark=counts_dark, masked=invalid)
    expected = masked(np.where(invalid, 0, image))
    if not compiled:
        for name in ("_add_stripe", "_sum", "_add_valid", "reciprocals", "finish"):
            monkeypatch.setattr(kernels, name, getattr(kernels, name).py_func)
        monkeypatch.setattr("pipeline.reduce.cake.map_frame", kernels.map_frame.py_func)
        with np.errstate(invalid="ignore"):
            found = ours(image, saturation=1000)
    else:
        found = ours(image, saturation=1000)
    assert np.isnan(expected[0]).any()
    for our, their in zip(found, expected, strict=True):
        np.testing.assert_allclose(our, their, rtol=3e-6, atol=1e-5)


@pytest.mark.parametrize("spacing", ["linear", "logarithmic"])
@pytest.mark.parametrize("axis", ["q", "two_theta"])
def test_mean_over_azimuths_is_the_curve(axis, spacing):
    shape = (170, 151)
    geometry = make_geometry(rot=(0.2, -0.1, 0.3))
    random = np.random.default_rng(6)
    masked = random.random(shape) < 0.05
    image = random.poisson(40, shape).astype(np.uint16)
    image[random.random(shape) < 0.01] = 65535
    config = AreaReduction(bins=40, bin_axis=axis, bin_spacing=spacing, q_min_per_nm=7.0)
    curve = Integrator(geometry, shape, config, masked=masked)
    cake = CakeIntegrator(
        geometry, shape, config, CakeSettings(q_bins=40, azimuth_bins=90), masked=masked
    )
    np.testing.assert_array_equal(cake.q_per_nm, curve.q_per_nm)
    # No invalid pixels first: then the constant weight is that of the frame.
    plain = np.where(image == 65535, 40, image)
    intensity, sigma = cake(plain)
    weight = np.where(np.isfinite(intensity), cake.weight, 0.0)
    mean = np.nansum(weight * intensity, axis=0) / weight.sum(axis=0)
    expected, _ = curve(plain)
    np.testing.assert_allclose(mean, expected, rtol=2e-5)
    assert weight.sum() == pytest.approx(curve._constants[2].sum(), rel=1e-6)
    # The spread of cells is what their sigma says.
    uneven = (intensity - expected) / sigma
    assert np.nanstd(uneven[cake.weight > 5]) == pytest.approx(1.0, abs=0.1)


def test_cake_goes_all_round_with_the_range_of_the_sectors_curve():
    shape = (170, 151)
    geometry = make_geometry()
    i, j = np.indices(shape)
    image = (100 + i + j).astype(np.uint16)
    config = AreaReduction(bins=50, sectors_deg=((20.0, 70.0),))
    curve = Integrator(
        geometry,
        shape,
        config,
        masked=~in_sector(geometry, shape, 20.0, 70.0),
    )
    cake = CakeIntegrator(geometry, shape, config, CakeSettings(q_bins=50, azimuth_bins=360))
    np.testing.assert_array_equal(cake.q_per_nm, curve.q_per_nm)
    intensity, _ = cake(image)
    assert np.isfinite(intensity[:, 10]).all()
    rows = (cake.azimuth_deg > 20.0) & (cake.azimuth_deg < 70.0)
    weight, part = cake.weight[rows], np.nan_to_num(intensity[rows])
    mean = (weight * part).sum(axis=0) / weight.sum(axis=0)
    # Pixels on the sector's rim are in or out as a whole for the curve, and cut here.
    np.testing.assert_allclose(mean[10:], curve(image)[0][10:], rtol=5e-3)


def in_sector(geometry, shape, low_deg, high_deg):
    from pipeline.reduce.inputs import in_sectors

    return in_sectors(geometry, shape, ((low_deg, high_deg),))


def test_orientation_of_the_azimuth():
    """0 degrees is along the rows (axis 2), 90 along the columns (axis 1)."""
    shape = (101, 101)
    geometry = make_geometry(shape, centre=(0.5, 0.5))
    cake = CakeIntegrator(
        geometry, shape, AreaReduction(solid_angle=False), CakeSettings(q_bins=5, azimuth_bins=4)
    )
    np.testing.assert_allclose(cake.azimuth_deg, [-135.0, -45.0, 45.0, 135.0])
    image = np.ones(shape, np.uint16)
    image[55:, 55:] = 100
    intensity, _ = cake(image)
    assert intensity[2, 2] > 50
    assert (np.delete(intensity[:, 2], 2) < 5).all()


def test_too_many_cells_and_no_pixels_are_refused():
    geometry = make_geometry()
    cake = CakeSettings(q_bins=5000, azimuth_bins=3600)
    with pytest.raises(InputError, match="q_bins times azimuth_bins up to"):
        CakeIntegrator(geometry, (170, 151), AreaReduction(), cake)
    with pytest.raises(InputError, match="some usable pixels"):
        CakeIntegrator(
            geometry,
            (170, 151),
            AreaReduction(),
            CakeSettings(),
            masked=np.ones((170, 151), np.bool_),
        )
    ours = CakeIntegrator(geometry, (170, 151), AreaReduction(), CakeSettings(q_bins=9))
    with pytest.raises(InputError, match="expected a frame of"):
        ours(np.ones((3, 3)))


# --- the stage --------------------------------------------------------------------------------

SHAPE = (96, 80)
SETTINGS = AreaReduction(
    bins=30,
    cake=CakeSettings(q_bins=30, azimuth_bins=24, every=10),
    absolute_scale=3e-4,
    thickness_cm=0.1,
    polarization_factor=0.99,
)


def stream_start(kind: Kind = "image", run="r", **metadata) -> StreamStart:
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:12] = 1
    poni = make_geometry(SHAPE, centre=(0.45, 0.55), rot=(0.05, 0.02, 0.0)).to_poni()
    return StreamStart(
        stream="saxs",
        run=run,
        kind=kind,
        shape=SHAPE if kind == "image" else (30,),
        dtype="<u2",
        arrays={"pixel_mask": mask},
        metadata={"poni": poni, "saturation": 60000} | metadata,
    )


def image_of(frame: int) -> np.ndarray:
    return frozen_array(np.random.default_rng(frame).poisson(50 + frame, SHAPE), "<u2")


def image_frame(frame: int) -> ImageFrame:
    return ImageFrame("saxs", frame, (frame + 1) * 10**9, 0.5, image_of(frame), 0.8, 0.7)


def ready(stage):
    stage.reset(RunStart(run="r", stream=stream_start()))
    return stage


def test_one_frame_in_every_is_mapped_in_the_units_of_its_curve():
    stage, curves = ready(ReduceCake(SETTINGS)), ready(ReduceSaxs(SETTINGS))
    assert [n for n in range(35) if list(stage.process(image_frame(n)))] == [0, 10, 20, 30]
    (cake,) = stage.process(image_frame(20))
    (curve,) = curves.process(image_frame(20))
    assert (cake.frame, cake.every, cake.time_s, cake.absolute) == (20, 10, 21.0, True)
    assert cake.intensity.shape == cake.sigma.shape == cake.weight.shape == (24, 30)
    assert cake.intensity.dtype == np.float32
    weight = np.where(np.isfinite(cake.intensity), cake.weight, 0.0)
    mean = np.nansum(weight * cake.intensity, axis=0) / weight.sum(axis=0)
    np.testing.assert_array_equal(cake.q_per_nm, curve.q_per_nm)
    # Few pixels a bin here: the curve's own shares are good to 1e-4 of a pixel.
    np.testing.assert_allclose(mean, curve.intensity, rtol=1e-4)


def test_background_is_not_subtracted(tmp_path):
    file = tmp_path / "background.txt"
    np.savetxt(file, np.stack([np.linspace(0, 9, 20), np.full(20, 1.0), np.full(20, 0.1)], 1))
    plain = ready(ReduceCake(SETTINGS))
    less = ready(ReduceCake(SETTINGS.model_copy(update={"background_file": str(file)})))
    (one,), (other,) = plain.process(image_frame(0)), less.process(image_frame(0))
    np.testing.assert_array_equal(one.intensity, other.intensity)


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_compressed_frames_give_the_same(dtype):
    stage = ReduceCake(SETTINGS)
    stage.warm_up()
    stage.reset(RunStart(run="r", stream=replace(stream_start(), dtype=dtype)))
    image = image_of(10).astype(dtype)
    image[40, 40] = 60001
    image[41, 40] = np.iinfo(dtype).max
    frame = replace(image_frame(10), image=image)
    packed = PackedImageFrame(
        "saxs", 10, frame.time_ns, 0.5, bslz4.compress(image), SHAPE, dtype, 0.8, 0.7
    )
    (one,), (other,) = stage.process(frame), stage.process(packed)
    np.testing.assert_array_equal(one.intensity, other.intensity)
    np.testing.assert_array_equal(one.sigma, other.sigma)
    # It is not even looked at when it is not its turn.
    assert list(stage.process(replace(packed, frame=11, payload=b""))) == []
    damaged = bytearray(packed.payload)
    damaged[16:40] = b"\xff" * 24
    with pytest.raises(BadFrameError, match="saxs frame 10: expected bslz4 blocks"):
        list(stage.process(replace(packed, payload=bytes(damaged))))


def test_frames_and_streams_that_cannot_be_mapped():
    stage = ReduceCake(SETTINGS)
    with pytest.raises(RuntimeError, match="reset comes before"):
        list(stage.process(image_frame(0)))
    with pytest.raises(InputError, match="expected a stream of images, got curve: leave it out"):
        stage.reset(RunStart(run="r", stream=stream_start("curve")))
    with pytest.raises(InputError, match="got nothing"):
        ReduceCake(AreaReduction())
    ready(stage)
    with pytest.raises(BadFrameError, match="no beam"):
        list(stage.process(replace(image_frame(0), monitor=0.0)))
    with pytest.raises(BadFrameError, match=r"expected \(96, 80\) <u2"):
        list(stage.process(replace(image_frame(0), image=np.ones((5, 5), np.uint16))))
    with pytest.raises(BadFrameError, match="expected valid pixels, got none"):
        list(stage.process(replace(image_frame(0), image=np.full(SHAPE, 65535, np.uint16))))


def test_the_command_line_puts_it_behind_the_curve():
    config = parse_config(
        "saxs: {reduce: {cake: {every: 5}}}\nwaxs: {reduce: {cake: {q_bins: 50}}}\n"
    )
    stages = stages_for("saxs", config)
    assert [stage.name for stage in stages][:2] == ["reduce_saxs", "reduce_cake"]
    reducing, fitting = split(stages)
    assert [stage.name for stage in reducing] == ["reduce_saxs", "reduce_cake"]
    assert all(WaxsCake not in stage.produces for stage in fitting)
    waxs = stages_for("waxs", config)
    assert isinstance(waxs[1], ReduceWaxsCake)
    assert waxs[1].produces == (WaxsCake,)


# --- wire and store ---------------------------------------------------------------------------

AZIMUTH = np.array([-90.0, 90.0])
Q = np.linspace(0.1, 1.0, 7)


def cake_of(frame: int, every: int = 10, q=Q, kind: type[Cake] = Cake) -> Cake:
    """A map whose values follow from the frame number."""
    shape = (2, len(q))
    intensity = (frame + np.arange(2 * len(q)).reshape(shape)).astype(np.float32)
    return kind(
        frame=frame,
        time_s=frame + 1.0,
        every=every,
        azimuth_deg=AZIMUTH,
        q_per_nm=q,
        intensity=intensity,
        sigma=intensity / 4,
        weight=np.arange(2.0 * len(q), dtype=np.float32).reshape(shape),
        absolute=True,
    )


def curve_of(frame: int) -> Curve:
    return Curve(
        frame=frame,
        time_s=frame + 1.0,
        q_per_nm=Q,
        intensity=frame + Q,
        sigma=0.1 * (frame + Q),
        absolute=True,
    )


def results(run: str, frame: int, lost: bool = False, **changes) -> FrameResults:
    made: list[Curve | Cake] = [curve_of(frame)]
    if frame % changes.get("every", 10) == 0:
        made.append(cake_of(frame, **changes))
    return FrameResults(
        stream="saxs",
        run=run,
        frame=frame,
        time_s=frame + 1.0,
        results=() if lost else tuple(made),
        rejected="no beam" if lost else None,
        newest=frame,
    )


def test_cakes_travel_over_the_wire():
    sent = results("r", 20)
    received = codec.decode_results(codec.encode_results(sent))
    cake = received.results[1]
    assert isinstance(cake, Cake)
    assert (cake.every, cake.frame, cake.absolute) == (10, 20, True)
    np.testing.assert_array_equal(cake.intensity, cake_of(20).intensity)
    assert cake.intensity.dtype == np.float32
    start = RunStart(run="r", stream=stream_start())
    _, kinds = codec.decode_open(codec.encode_open(start, [Curve, Cake, WaxsCake]))
    assert kinds == (Curve, Cake, WaxsCake)


def test_maps_of_a_class_that_is_not_known_here():
    """Announced as a stage of the user's own would be, and made from that."""
    announced = codec._describe(WaxsCake) | {"class": "Texture", "node": "saxs/texture"}
    made = codec._announced(announced)
    assert issubclass(made, MapResult)
    assert replace(MapNode.of(made), about="") == MapNode(
        "saxs/texture", WaxsCake.AXES, ("intensity", "sigma"), WaxsCake.CONSTANTS
    )
    assert codec._describe(made) == announced
    for key, value in (
        ("axes", [["nothing", "saxs/x"]]),
        ("axes", ["azimuth_deg"]),
        ("lines", ["every"]),
        ("constants", [["weight", "../x"]]),
    ):
        with pytest.raises(WireError):
            codec._announced(announced | {"class": f"Other{key}", key: value})


def test_maps_that_do_not_fit_are_refused():
    node = MapNode.of(Cake)
    with pytest.raises(LayoutError, match=r"intensity is \(2, 7\), saxs/cake has \(3, 7\)"):
        node.slab(cake_of(0), (2, 3, 7))
    with pytest.raises(LayoutError, match="expected weight of"):
        node.beside(replace(cake_of(0), weight=np.zeros(3)))


@pytest.fixture
def run() -> str:
    return f"cake-{uuid.uuid4().hex[:8]}"


def until_complete(http, run: str) -> None:
    deadline = time.monotonic() + 30
    while not (http.metadata(run) or {}).get("complete"):
        assert time.monotonic() < deadline, "the run did not complete in time"
        time.sleep(0.05)


def begin(sender: LinkSender, run: str) -> int:
    sender.document(RunDocument(run, "start", {"name": "test", "streams": ["saxs"]}))
    return sender.open(RunStart(run, stream_start(run=run)), (Curve, Cake), timeout_s=30)


def finish(sender: LinkSender, run: str, frames: int) -> None:
    sender.end(StreamEnd("saxs", run, frames))
    sender.document(RunDocument(run, "stop", {"exit_status": "success"}))
    assert sender.flush(30)


def stored(http, run: str, node: str, *shape: int, dtype: Any = float) -> np.ndarray:
    values = http.array(f"{run}/{node}", "", dtype)
    assert values is not None
    return values.reshape(shape)


def test_slab_n_is_frame_n_times_every(store: StoreProcess, run: str) -> None:
    """Sent twice from the start, a frame lost: each slab stands once, at its frame's place."""
    with LinkSender(store.link) as sender:
        assert begin(sender, run) == 0
        for frame in range(15):
            sender.send(results(run, frame, lost=frame == 10))
        assert sender.flush(30)
    with LinkSender(store.link) as sender:
        assert begin(sender, run) == 15
        for frame in range(42):
            sender.send(results(run, frame, lost=frame == 10))
        finish(sender, run, 42)
    with store.http() as http:
        until_complete(http, run)
        cakes = stored(http, run, "saxs/cake", 5, 2, 2, 7, dtype=np.float32)
        for slab, cake in enumerate(cakes):
            if slab == 1:
                assert np.isnan(cake).all()
                continue
            np.testing.assert_array_equal(cake[0], cake_of(10 * slab).intensity)
            np.testing.assert_array_equal(cake[1], cake_of(10 * slab).sigma)
        np.testing.assert_array_equal(stored(http, run, "saxs/cake_q", 7), Q)
        np.testing.assert_array_equal(stored(http, run, "saxs/cake_azimuth", 2), AZIMUTH)
        weight = stored(http, run, "saxs/cake_weight", 2, 7)
        np.testing.assert_array_equal(weight, cake_of(0).weight)
        metadata = http.metadata(f"{run}/saxs/cake")
        assert metadata is not None
        assert metadata[EVERY] == 10
        curves = stored(http, run, "saxs/curves", 42, 2, 7)
        np.testing.assert_array_equal(curves[11, 0], 11 + Q)
        assert http.metadata(f"{run}/live/saxs/cake") is None


def test_long_gaps_and_ends_without_results_are_nan(store: StoreProcess, run: str) -> None:
    """Batches of nothing but lost frames, longer than a chunk, leave no zeros behind."""
    lost = [*range(3, 140), *range(150, 163)]
    with LinkSender(store.link) as sender:
        begin(sender, run)
        for frame in range(163):
            sender.send(results(run, frame, lost=frame in lost, every=2))
            if frame in (2, 60, 130, 155):
                assert sender.flush(30)
        finish(sender, run, 163)
    with store.http() as http:
        until_complete(http, run)
        curves = stored(http, run, "saxs/curves", 163, 2, 7)
        nothing = np.isnan(curves).all(axis=(1, 2))
        np.testing.assert_array_equal(np.flatnonzero(nothing), lost)
        assert not np.isnan(curves[~nothing]).any()
        cakes = stored(http, run, "saxs/cake", 82, 2, 2, 7, dtype=np.float32)
        nothing = np.isnan(cakes).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(
            2 * np.flatnonzero(nothing), [frame for frame in lost if frame % 2 == 0]
        )


def test_maps_of_another_kind_in_one_run_are_refused(store: StoreProcess, run: str) -> None:
    with LinkSender(store.link) as sender:
        begin(sender, run)
        sender.send(results(run, 0))
        assert sender.flush(30)
        sender.send(replace(results(run, 1), results=(cake_of(1, every=1),)))
        with pytest.raises(LinkRefusedError, match="every 10 frames as before"):
            sender.flush(30)
