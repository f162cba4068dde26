"""Messages: golden bytes of a real detector, exact round trips, and refusal of all else."""

import struct
from datetime import datetime
from importlib.resources import files

import cbor2
import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bus import WireError, bslz4, cbor, packed, stream2, wire
from pipeline.bus.poni import parse_poni
from pipeline.messages import CurveFrame, ImageFrame, SpectrumFrame, StreamEnd, StreamStart

GOLDEN = files("tickit_devices") / "eiger" / "data" / "stream2"


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.cbor").read_bytes()


def through_hdf5(payload: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """The payload as a chunk of a file, decompressed by HDF5's own filter."""
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        chunk = file.create_dataset(
            "chunk", shape, dtype, chunks=shape, compression=hdf5plugin.Bitshuffle()
        )
        chunk.id.write_direct_chunk((0,) * len(shape), payload)
        return chunk[()]


def start_of(shape=(5, 7), dtype="<u4", **more) -> StreamStart:
    return StreamStart("saxs", "run-1", "image", shape, dtype, **more)


# A real EIGER2 16M


def test_real_start_is_understood():
    start = wire.decode_start([golden("start")])
    assert start.kind == "image"
    assert start.run == "01HBV3JPF9T4ZDPADX6EMK6XMZ"
    assert start.shape == (4362, 4148)
    assert start.dtype == "<u2"  # it says no more than a saturation value of 21517
    assert start.metadata["saturation"] == 21518
    assert start.metadata["source"] == "Dectris EIGER2 Si 16M"
    assert start.metadata["detector"]["incident_energy"] == 13500.299829398293
    assert start.arrays == {}


def test_real_image_and_end_are_understood():
    start = wire.decode_start([golden("start")])
    frame = wire.decode_frame([golden("image")], start)
    assert (frame.frame, frame.image.shape, frame.image.dtype) == (0, (4362, 4148), np.dtype("<u2"))
    # 215873 ticks of 50 MHz
    assert frame.time_ns == 4_317_460
    assert frame.exposure_s == 0.00431746
    # HDF5's filter, a build by other people than the decoder's, finds the same pixels
    payload = cbor.compressed_bytes(
        cbor.loads(golden("image"))["data"]["threshold_1"].value[1].value, np.dtype("<u2"), ""
    )
    other = through_hdf5(payload, (4362, 4148), "<u2")
    assert np.array_equal(frame.image, other)
    assert wire.decode_end([golden("end")], start) == StreamEnd("saxs", start.run, 1)
    assert wire.decode_end([golden("end")], start, frames=7).frames == 7


def test_real_image_is_encoded_to_the_same_bytes():
    start = wire.decode_start([golden("start")])
    message = cbor.loads(golden("image"))
    facts, item = stream2.image_facts(message, start)
    payload = cbor.payload_of(item, "image", start.shape, np.dtype("<u2"))
    series = stream2.Series(
        15614, start.run, "threshold_1", datetime.fromisoformat("2023-10-03T17:47:49.434+02:00"),
        clock_hz=50_000_000,
    )  # fmt: skip
    assert stream2.encode_image(facts, payload, start, series) == golden("image")


def test_our_compression_is_hdf5_filter_32008_and_dectris():
    pixels = np.random.default_rng(0).poisson(2, (33, 65)).astype("<u4")
    payload = bslz4.compress(pixels)
    assert struct.unpack_from(">QI", payload) == (pixels.nbytes, 8192)
    assert np.array_equal(through_hdf5(payload, pixels.shape, "<u4"), pixels)
    dectris = pytest.importorskip("dectris.compression")
    assert dectris.decompress(payload, "bslz4", elem_size=4) == pixels.tobytes()


def damaged(payload: bytes, at: int, length: int) -> bytes:
    return payload[:at] + struct.pack(">I", length) + payload[at + 4 :]


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<u8"])
@pytest.mark.parametrize("shape", [(1, 7), (1, 8), (64, 64), (129, 129), (3, 4099)])
def test_every_wrong_length_of_a_block_is_refused(shape, dtype):
    """Lengths that lead out of the payload or end short of it, in any block, and any cut."""
    pixels = np.random.default_rng(3).poisson(3, shape).astype(dtype)
    payload = bslz4.compress(pixels)
    image = bslz4.decompress(payload, shape, pixels.dtype)
    assert np.array_equal(image, pixels)
    assert not image.flags.writeable
    blocks, at = [], bslz4.HEADER_BYTES
    groups, left = divmod(pixels.size, 8)
    while groups and at < len(payload) - left * pixels.itemsize:
        blocks.append(at)
        at += 4 + struct.unpack_from(">I", payload, at)[0]
    wrong = [payload[:-1], payload + b"\0", payload[: bslz4.HEADER_BYTES]]
    for block in blocks:
        (length,) = struct.unpack_from(">I", payload, block)
        others = (0, length - 1, length + 1, 2**31 - 1, 2**31, 2**32 - 1)
        wrong += [damaged(payload, block, other) for other in others]
    for bad in wrong:
        with pytest.raises(WireError, match=r"expected \d+ bslz4 blocks") as caught:
            bslz4.decompress(bad, shape, pixels.dtype)
        assert "\n" not in str(caught.value)


def test_messages_are_plain_cbor_that_begins_as_the_vendors_parser_wants():
    """Decoded without any code of ours: prefix, type first, channels, units, mask."""
    poni = (
        'Detector_config: {"pixel1": 1e-4, "pixel2": 2e-4}\nDistance: 2.0\nPoni1: 0.01\n'
        "Poni2: 0.02\nRot1: 0\nRot2: 0\nRot3: 0\nWavelength: 1e-10\n"
    )
    mask = np.zeros((5, 7), "<u4")
    start = start_of(arrays={"pixel_mask": mask}, metadata={"poni": poni, "saturation": 4000})
    (message,) = wire.encode_start(start)
    assert message[:3] == bytes.fromhex("d9d9f7")
    assert message[4:15] == b"\x64type\x65start"
    fields = cbor2.loads(message[3:])
    assert (fields["image_size_x"], fields["image_size_y"]) == (7, 5)
    assert fields["image_dtype"] == "uint32"
    assert fields["saturation_value"] == 3999
    assert (fields["beam_center_x"], fields["beam_center_y"]) == pytest.approx((100, 100))
    assert (fields["pixel_size_x"], fields["pixel_size_y"]) == (2e-4, 1e-4)
    assert fields["incident_wavelength"] == pytest.approx(1.0)
    assert fields["incident_energy"] == pytest.approx(12398.42, rel=1e-6)
    assert fields["detector_distance"] == 2.0
    assert fields["channels"] == ["threshold_1"]
    tag = fields["pixel_mask"]["threshold_1"]
    assert (tag.tag, list(tag.value[0]), tag.value[1].tag) == (40, [5, 7], 70)
    again = wire.decode_start([message])
    assert np.array_equal(again.arrays["pixel_mask"], mask)
    assert again.metadata == start.metadata


# Round trips

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
times = st.integers(-(2**62), 2**62)
dtypes = st.sampled_from(["|u1", "<u2", "<u4", "<u8"])


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=dtypes,
    number=st.integers(0, 2**62),
    time_ns=times,
    exposure_s=st.floats(0, 1e6),
    monitor=finite,
    transmission=finite,
    seed=st.integers(0, 2**32 - 1),
)
def test_image_round_trip(shape, dtype, number, time_ns, exposure_s, monitor, transmission, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, np.iinfo(dtype).max, shape, dtype=np.dtype(dtype), endpoint=True)
    frame = ImageFrame("saxs", number, time_ns, exposure_s, pixels, monitor, transmission)
    start = start_of(shape, dtype)
    parts = wire.encode_frame(frame, start)
    assert wire.peek(parts, start) == ("frame", number)
    again = wire.decode_frame(parts, start)
    assert again.image.tobytes() == pixels.tobytes()
    assert again.image.shape == shape
    for name in ("stream", "frame", "time_ns", "exposure_s", "monitor", "transmission"):
        assert getattr(again, name) == getattr(frame, name)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["counts", "absorbance", "curve"]),
    dtype=st.sampled_from(["<f4", "<f8"]),
    size=st.integers(1, 300),
    number=st.integers(0, 2**62),
    time_ns=times,
    exposure_s=finite,
    raw=st.binary(min_size=8, max_size=8),
)
def test_spectrum_and_curve_round_trip(kind, dtype, size, number, time_ns, exposure_s, raw):
    """Bit for bit, whatever the bits mean (NaNs with payloads too)."""
    line = np.frombuffer((raw * size)[: size * np.dtype(dtype).itemsize], dtype)
    start = StreamStart("s", "run", kind, (size,), dtype)
    if kind == "curve":
        frame = CurveFrame("s", number, time_ns, exposure_s, line, line[::-1].copy())
    else:
        frame = SpectrumFrame("s", number, time_ns, exposure_s, line)
    parts = wire.encode_frame(frame, start)
    assert wire.peek(parts, start) == ("frame", number)
    again = wire.decode_frame(parts, start)
    assert type(again) is type(frame)
    assert (again.frame, again.time_ns, again.exposure_s) == (number, time_ns, exposure_s)
    values = again.intensity if kind == "curve" else again.values
    assert values.tobytes() == line.tobytes()
    if kind == "curve":
        assert again.sigma.tobytes() == line[::-1].tobytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | finite | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["image", "counts", "absorbance", "curve"]),
    run=st.text(min_size=1, max_size=30),
    metadata=st.dictionaries(st.text(max_size=8), json_values, max_size=3),
    frames=st.integers(0, 2**62),
    reason=st.text(max_size=60),
)
def test_start_and_end_round_trip(kind, run, metadata, frames, reason):
    metadata.pop("series", None)  # names of a real detector's series
    axis = np.linspace(0, 1, 9)
    image = kind == "image"
    start = StreamStart(
        "abc", run, kind, (9, 2) if image else (9,), "<u2" if image else "<f8",
        {"wavelength_nm": axis}, metadata,
    )  # fmt: skip
    again = wire.decode_start(wire.encode_start(start))
    for name in ("stream", "run", "kind", "shape", "dtype", "metadata"):
        assert getattr(again, name) == getattr(start, name)
    assert again.arrays["wavelength_nm"].tobytes() == axis.tobytes()
    end = StreamEnd("abc", run, frames, reason)
    parts = wire.encode_end(end, start)
    assert wire.peek(parts, start) == ("end", frames)
    assert wire.decode_end(parts, start) == end


# Refusal


def image_message(**changes) -> list[bytes]:
    """An image message of `start_of` with fields replaced, or left out (None)."""
    frame = ImageFrame("saxs", 3, 10, 0.5, np.zeros((5, 7), "<u4"))
    fields = cbor2.loads(wire.encode_frame(frame, start_of())[0][3:])
    fields = {**fields, **changes}
    return [cbor.dumps({key: value for key, value in fields.items() if value is not None})]


def item_of(shape, tag=70, data=b"", compression=("bslz4", 4)) -> dict:
    content = cbor2.CBORTag(56500, [*compression, data]) if compression else data
    return {"threshold_1": cbor2.CBORTag(40, [list(shape), cbor2.CBORTag(tag, content)])}


BOMB = struct.pack(">QI", 2**62, 8192) + bytes(100)
BROKEN = struct.pack(">QII", 140, 8192, 87) + b"\xff" * 99
REFUSED = {
    "no number": ({"image_id": None}, "expected image_id as an integer"),
    "negative number": ({"image_id": -1}, "expected image_id as an integer"),
    "number that is a truth": ({"image_id": True}, "expected image_id as an integer"),
    "number beyond 64 bits": ({"image_id": 2**63}, "expected image_id as an integer"),
    "no time": ({"stop_time": None}, "expected stop_time as"),
    "time over nothing": ({"stop_time": [1, 0]}, "expected stop_time as"),
    "time of floats": ({"real_time": [0.5, 1]}, "expected real_time as"),
    "other run": ({"series_unique_id": "x"}, "expected series 'run-1', got 'x'"),
    "no data": ({"data": None}, "expected data of channel"),
    "other channel": ({"data": {"threshold_2": 1}}, "expected data of channel"),
    "data that is no array": ({"data": {"threshold_1": b"abc"}}, "as an array"),
    "transposed": (
        {"data": item_of((7, 5), data=bslz4.compress(np.zeros((7, 5), "<u4")))},
        r"expected saxs frame 3 of shape \(5, 7\), got \(7, 5\)",
    ),
    "huge shape": ({"data": item_of((2**40, 2**40), data=BOMB)}, "expected saxs frame 3 of shape"),
    "bomb": ({"data": item_of((5, 7), data=BOMB)}, "140 B, bslz4 header says 4611686018427387904"),
    "signed": ({"data": item_of((5, 7), tag=78, data=BOMB)}, "of dtype <u4, got <i4"),
    "big-endian": ({"data": item_of((5, 7), tag=66, data=BOMB)}, "little-endian typed array"),
    "other algorithm": (
        {"data": item_of((5, 7), data=BOMB, compression=("lzma", 4))},
        "expected saxs frame 3 as bslz4 of 4 B",
    ),
    "other element": (
        {"data": item_of((5, 7), data=BOMB, compression=("bslz4", 2))},
        "got 'bslz4' of 2 B",
    ),
    "short plain bytes": (
        {"data": item_of((5, 7), data=b"ab", compression=None)},
        r"header says \(5, 7\) <u4 = 140 B, payload has 2 B",
    ),
    "broken blocks": (
        {"data": item_of((5, 7), data=struct.pack(">QI", 140, 8192) + b"\xff" * 99)},
        "expected 1 bslz4 blocks in 99 B, got lengths that add up to 4294967311 B",
    ),
    "wrong blocks": (
        {"data": item_of((5, 7), data=BROKEN)},
        "do not decompress",
    ),
    "huge block": (
        {"data": item_of((5, 7), data=struct.pack(">QI", 140, 2**31) + b"\xff" * 99)},
        "expected a bslz4 block",
    ),
    "no header": ({"data": item_of((5, 7), data=b"abc")}, "expected a bslz4 header of 12 B"),
    "monitor that is text": ({"user_data": {"monitor": "x"}}, "expected monitor as a number"),
    "other type": ({"type": "start"}, "expected a message of type image"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_images_are_refused_in_one_line(case):
    changes, message = REFUSED[case]
    with pytest.raises(WireError, match=message) as caught:
        wire.decode_frame(image_message(**changes), start_of())
    assert "\n" not in str(caught.value)


def test_a_detectors_own_user_data_is_no_concern_of_ours():
    frame = wire.decode_frame(image_message(user_data="sample 7"), start_of())
    assert (frame.frame, frame.monitor) == (3, 1.0)


def test_plain_bytes_are_fine_too():
    pixels = np.arange(35, dtype="<u4").reshape(5, 7)
    message = image_message(data=item_of((5, 7), data=pixels.tobytes(), compression=None))
    assert np.array_equal(wire.decode_frame(message, start_of()).image, pixels)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_message_is_refused_or_harmless(data):
    """Any byte changed, any cut: `WireError`, or a frame of the announced shape and type."""
    message = bytearray(image_message()[0])
    if data.draw(st.booleans()):
        del message[data.draw(st.integers(0, len(message) - 1)) :]
    for _ in range(data.draw(st.integers(1, 4))):
        if message:
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        frame = wire.decode_frame([bytes(message)], start_of())
    except WireError:
        return
    assert (frame.image.shape, frame.image.dtype) == ((5, 7), np.dtype("<u4"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=4))
def test_random_parts_are_refused(parts):
    start = start_of()
    spectra = StreamStart("s", "r", "counts", (4,), "<f8")
    for call in (
        lambda: wire.decode_start(parts),
        lambda: wire.peek(parts, start),
        lambda: wire.decode_frame(parts, start),
        lambda: wire.decode_frame(parts, spectra),
        lambda: wire.decode_end(parts, spectra),
    ):
        with pytest.raises(WireError):
            call()


def test_spectrum_of_another_length_or_type_is_refused():
    start = StreamStart("s", "r", "counts", (4,), "<f8")
    for values in (np.zeros(5), np.zeros(4, "<f4"), np.zeros((2, 2))):
        parts = wire.encode_frame(SpectrumFrame("s", 2, 0, 0.1, values), start)
        with pytest.raises(WireError, match=r"s frame 2: expected \['<f8', \[4\]\]"):
            wire.decode_frame(parts, start)
    parts = wire.encode_frame(SpectrumFrame("s", 2, 0, 0.1, np.zeros(4)), start)
    with pytest.raises(WireError, match="= 32 B, payload has 31 B"):
        wire.decode_frame([parts[0], parts[1][:-1]], start)


def test_float_images_cannot_be_sent():
    with pytest.raises(WireError, match="unsigned integers only"):
        wire.encode_start(start_of(dtype="<f4"))


BAD_ENTRIES = (
    ["|O", [1]], ["<U1", [1]], ["<M8[ns]", [1]], ["f8,i4", [1]], [["<f8"], [1]], ["<f8", "x"],
    ["<f8", [-1]], ["<f8", [2**62, 2**62]], ["<f8", [1] * 40], None,
)  # fmt: skip


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_arrays_that_are_not_numbers_are_refused(entry):
    with pytest.raises(WireError):
        packed.restore(entry, bytes(8), "x")


# Geometry


def test_beam_centre_of_a_tilted_detector():
    """Reference: pyFAI 2026.9, AzimuthalIntegrator(...).getFit2D() of the same geometry."""
    poni = (
        "# comment: 1\nponi_version: 2\nDetector: Detector\n"
        'Detector_config: {"pixel1": 7.5e-05, "pixel2": 8e-05}\nDistance: 1.9\nPoni1: 0.041\n'
        "Poni2: 0.035\nRot1: 0.0052\nRot2: -0.0035\nRot3: 0.1\nWavelength: 3.3e-11\n"
    )
    geometry = parse_poni(poni)
    assert geometry.beam_center_x == pytest.approx(313.9988868412934, abs=1e-6)
    assert geometry.beam_center_y == pytest.approx(457.99843915093567, abs=1e-6)
    assert (geometry.pixel_y_m, geometry.pixel_x_m, geometry.distance_m) == (7.5e-5, 8e-5, 1.9)


def test_a_poni_text_that_says_little_gives_little():
    assert parse_poni("nonsense") == parse_poni("")
    geometry = parse_poni("PixelSize1: 1e-4\nPixelSize2: 2e-4\nDistance: x\nDetector_config: [")
    assert (geometry.pixel_y_m, geometry.pixel_x_m) == (1e-4, 2e-4)
    assert geometry.distance_m is None
    assert geometry.beam_center_x is None
