"""The packed table and the kernels that read it, against sums by hand, compressed frames too."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus import bslz4
from pipeline.config.reduce import AreaReduction
from pipeline.kernels import bslz4_blocks as blocks
from pipeline.kernels import bslz4_integration as fused
from pipeline.kernels import integration as kernels
from pipeline.kernels import packed_table as tables
from pipeline.kernels.pixel_splitting import split_pixels
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.integrator import Corners, Integrator, unpacked_counts, valid_below


def make_geometry(shape) -> Geometry:
    return Geometry(
        distance_m=0.4,
        poni1_m=0.47 * shape[0] * 172e-6,
        poni2_m=0.52 * shape[1] * 172e-6,
        wavelength_nm=0.1,
        pixel1_m=172e-6,
        pixel2_m=172e-6,
        rot1_rad=0.05,
        rot2_rad=-0.03,
        shape=shape,
    )


def exact_sums(integrator, geometry, config, values):
    """Sum of share times value, with the shares that were never packed."""
    binning = integrator.binning
    corners = Corners(geometry, geometry.shape, config)
    table = split_pixels(
        binning.corners(corners.q_per_nm),
        corners.chi_rad,
        integrator.masked,
        binning.low,
        binning.low + binning.bins * binning.width,
        binning.bins,
    )
    sums = np.zeros(binning.bins)
    for b in range(binning.bins):
        whole = table.whole_pixel[table.whole_start[b] : table.whole_start[b + 1]]
        part = slice(table.part_start[b], table.part_start[b + 1])
        sums[b] = values[whole].sum()
        sums[b] += (table.part_share[part].astype(float) * values[table.part_pixel[part]]).sum()
    return sums


@pytest.mark.parametrize(
    ("shape", "bins", "width"),
    [((420, 400), 150, 2), ((520, 500), 420, 3), ((520, 500), 1000, 4), ((90, 80), 60, 2)],
)
def test_sums_are_those_of_the_shares_before_packing(shape, bins, width):
    geometry, config = make_geometry(shape), AreaReduction(bins=bins, polarization_factor=None)
    random = np.random.default_rng(4)
    masked = random.random(shape) < 0.07
    integrator = Integrator(geometry, shape, config, masked=masked)
    table = integrator._table
    assert len(table.share) + 1 == width
    assert (len(table.place) > 0) == (shape != (90, 80)), "small detectors have exact shares only"
    values = random.uniform(0.5, 2.0, masked.size)
    ours = kernels.bin_sums(table, values, bins)
    expected = exact_sums(integrator, geometry, config, values)
    # 16 bits a share: an error of at most 8e-6 of each split pixel, of random sign.
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=1e-9)
    # What is the same for all pixels is not touched by rounding at all.
    total = kernels.bin_sums(table, np.ones(masked.size), bins).sum()
    assert total == pytest.approx((~masked).sum(), rel=1e-7)


def test_segments_are_padded_with_the_slot_that_is_zero():
    shape = (420, 400)
    table = Integrator(make_geometry(shape), shape, AreaReduction(bins=150))._table
    lengths = np.diff(table.segment_start)
    assert (lengths % tables.LANES == 0).all()
    assert table.segment_padding.max() < tables.LANES
    for segment in range(0, len(lengths), 97):
        stop = table.segment_start[segment + 1]
        pad = int(table.segment_padding[segment])
        places = table.place[table.segment_start[segment] : stop]
        assert (places == tables.ZERO_PLACE).sum() == pad
        assert (places[: len(places) - pad] < tables.ZERO_PLACE).all()


def test_plain_python_gives_the_same_table_and_sums():
    rows, columns = 6, 7
    y, x = np.mgrid[0 : rows + 1, 0 : columns + 1].astype(np.float32)
    corner = np.hypot(y + 3, x + 2).astype(np.float32)
    chi = np.arctan2(y + 3, x + 2).astype(np.float32)
    masked = np.zeros((rows, columns), np.bool_)
    masked[1, 2] = True
    arguments = (corner, masked, 3.0, 2.5, 4)
    pixels, widths = tables.pixel_reach(*arguments)
    plain = tables.pixel_reach.py_func(*arguments)
    np.testing.assert_array_equal(pixels, plain[0])
    np.testing.assert_array_equal(widths, plain[1])
    assert widths.sum() == rows * columns - 1
    # As if each bin had enough pixels for packed shares, and as it is.
    for reach in (pixels + 1000, pixels):
        part = (corner, chi, masked, 3.0, 2.5, reach, 2, 0, rows * columns)
        ours, by_hand = tables.pack_stripe(*part), tables.pack_stripe.py_func(*part)
        for a, b in zip(ours, by_hand, strict=True):
            np.testing.assert_array_equal(a, b)
        assert (len(ours[0]) > 0) == (reach[0] >= 1000)


def counts_of(shape, dtype, mean, seed):
    random = np.random.default_rng(seed)
    image = random.poisson(mean, shape).astype(dtype)
    odd = random.random(shape) < 0.002
    image[odd] = random.choice([0, 300, 65534, 65535], odd.sum())
    if np.dtype(dtype).itemsize == 4:
        image[3, 4], image[5, 6] = 2**32 - 1, 70_000
    return image


# Pixels in whole blocks, in a last short block, and in the bare rest of fewer than eight.
SHAPES = [(512, 480), (300, 299), (301, 303), (30, 31), (2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
@pytest.mark.parametrize("mean", [0.02, 4.0, 900.0])
def test_compressed_frames_give_the_same_counts(shape, dtype, mean):
    image = counts_of((max(shape[0], 6), max(shape[1], 7)), dtype, mean, 7)[: shape[0], : shape[1]]
    image = np.ascontiguousarray(image)
    counts = unpacked_counts(bslz4.compress(image), shape, image.dtype, 60_000)
    limit = min(valid_below(image.dtype), 60_000)
    expected = np.where(image.astype(float) < limit, image, kernels.INVALID).ravel()
    np.testing.assert_array_equal(counts, expected.astype(np.float32))


@pytest.mark.parametrize(("shape", "bins"), [((512, 480), 150), ((520, 501), 420), ((90, 83), 40)])
@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_compressed_frames_give_the_same_curve_bit_for_bit(shape, bins, dtype):
    image = counts_of(shape, dtype, 12.0, 3)
    random = np.random.default_rng(9)
    dark = random.uniform(0, 2, shape)
    integrator = Integrator(make_geometry(shape), shape, AreaReduction(bins=bins), dark=dark)
    plain = integrator(image, 60_000)
    packed = integrator.packed(bslz4.compress(image), image.dtype, 60_000)
    assert plain[0].tobytes() == packed[0].tobytes()
    assert plain[1].tobytes() == packed[1].tobytes()


def test_a_dark_is_subtracted_and_leaves_with_its_pixel():
    shape = (420, 400)
    random = np.random.default_rng(8)
    dark = random.uniform(0.0, 50.0, shape)
    image = (7.0 + dark).astype(np.float32)
    integrator = Integrator(
        make_geometry(shape),
        shape,
        AreaReduction(bins=100, solid_angle=False, polarization_factor=None),
        dark=dark,
    )
    np.testing.assert_allclose(integrator(image)[0], 7.0, rtol=1e-5)
    image[random.random(shape) < 0.05] = np.nan
    np.testing.assert_allclose(integrator(image)[0], 7.0, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 100, 8192])
@pytest.mark.parametrize("kind", ["random", "zeros", "period 3", "period 40", "sparse"])
def test_lz4_blocks_are_decoded(size, kind):
    random = np.random.default_rng(size)
    data = {
        "random": random.integers(0, 256, size),
        "zeros": np.zeros(size),
        "period 3": np.arange(size) % 3,
        "period 40": np.arange(size) % 40,
        "sparse": np.where(random.random(size) < 0.03, 1 << (np.arange(size) % 8), 0),
    }[kind].astype(np.uint8)
    # LZ4 of bytes alone is bitshuffle's of bits that were shuffled back before.
    groups = size // 8 * 8
    if groups:
        bits = np.unpackbits(data[:groups], bitorder="little").reshape(8, groups)
        elements = np.packbits(bits, axis=0, bitorder="little").reshape(groups)
        payload = np.frombuffer(bslz4.compress(elements), np.uint8)
        length = struct.unpack(">I", payload[12:16].tobytes())[0]
        target = np.zeros(groups + blocks.SLACK, np.uint8)
        assert blocks.lz4_block(payload, 16, 16 + length, target, groups)
        np.testing.assert_array_equal(target[:groups], data[:groups])
    else:
        # Literals only: a token with their number, and they themselves.
        block = np.concatenate([[size << 4], data]).astype(np.uint8)
        target = np.zeros(size + blocks.SLACK, np.uint8)
        assert blocks.lz4_block(block, 0, len(block), target, size)
        np.testing.assert_array_equal(target[:size], data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(min_size=0, max_size=200), size=st.integers(1, 300))
def test_lz4_of_anything_stays_within_its_bounds(data, size):
    guard = 77
    source = np.frombuffer(data, np.uint8).copy() if data else np.empty(0, np.uint8)
    whole = np.full(size + blocks.SLACK + 64, guard, np.uint8)
    target = whole[: size + blocks.SLACK]
    target[-16:] = 0
    blocks.lz4_block(source, 0, len(source), target, size)
    assert (whole[size + blocks.SLACK :] == guard).all()
    assert (target[-16:] == 0).all()


def test_bits_are_transposed_as_bitshuffle_does():
    random = np.random.default_rng(2)
    planes = random.integers(0, 2**63, (8, 5), dtype=np.uint64)
    bits = np.unpackbits(planes.view(np.uint8), axis=1, bitorder="little")
    # Bit of plane k at place p = 8 j + i is bit k of element p.
    elements = np.packbits(bits, axis=0, bitorder="little").reshape(-1, 8)
    blocks.transpose_bits(planes)
    np.testing.assert_array_equal(planes.view(np.uint8).T, elements)


@pytest.mark.parametrize("at", [0.2, 0.5, 0.95])
def test_a_damaged_block_is_named(at):
    shape = (512, 480)
    image = counts_of(shape, "<u2", 5.0, 1)
    payload = bytearray(bslz4.compress(image))
    # A block whose first token promises more literals than it holds.
    place, number = 12, 0
    while place < at * len(payload):
        place += 4 + struct.unpack_from(">I", payload, place)[0]
        number += 1
    payload[place + 4 : place + 24] = b"\xff" * 20
    integrator = Integrator(make_geometry(shape), shape, AreaReduction(bins=50))
    with pytest.raises(InputError, match=f"got damage in block {number}$"):
        integrator.packed(bytes(payload), image.dtype)
    with pytest.raises(InputError, match=f"got damage in block {number}$"):
        unpacked_counts(bytes(payload), shape, image.dtype)


def test_places_are_all_different_and_fit_16_bits():
    pixels = range(0, tables.STRIPE_PIXELS, 7)
    places = [tables.place_of(pixel) for pixel in pixels]
    assert [tables.pixel_at(place) for place in places] == list(pixels)
    assert len(set(places)) == len(places)
    assert max(places) < tables.ZERO_PLACE < 65536
    every = np.array([tables.place_of(k) for k in range(tables.STRIPE_PIXELS)], np.uint16)
    table_places = np.append(every, np.uint16(tables.ZERO_PLACE))
    for element_bytes in (2, 4):
        size = fused.buffer_size(element_bytes)
        assert size <= 65536
        found = fused.plane_order(table_places, element_bytes)
        assert len(np.unique(found)) == len(found)
        assert found[-1] == found.max() == size - 1


def test_the_mean_of_a_ring_does_not_depend_on_how_much_is_packed():
    """Bins around the limit of exact shares join without a step."""
    shape = (420, 400)
    geometry = make_geometry(shape)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    image = 1000.0 + 300.0 * np.sin(0.05 * x) * np.cos(0.03 * y)
    for bins in (120, 300):
        config = AreaReduction(bins=bins, solid_angle=False, polarization_factor=None)
        integrator = Integrator(geometry, shape, config)
        values = image.ravel().astype(np.float32).astype(float)
        expected = exact_sums(integrator, geometry, config, values) / exact_sums(
            integrator, geometry, config, np.ones(image.size)
        )
        intensity, _ = integrator(image.astype(np.float32))
        np.testing.assert_allclose(intensity, expected, rtol=1e-6)
    assert math.isfinite(float(np.sum(intensity)))
