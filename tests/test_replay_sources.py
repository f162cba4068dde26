"""Readers of recordings, on files made here: what they hand over, and what they refuse."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest

from pipeline.bus import SpoolWriter
from pipeline.config.replay import ReplayFormat
from pipeline.messages import ImageFrame, SpectrumFrame, StreamEnd, StreamStart
from pipeline.replay import ReplayError, open_recording

RNG = np.random.default_rng(7)
PONI = "poni_version: 2\nDetector: Detector\nDistance: 1.0\n"


def frames_of(recording, stream="saxs"):
    return list(recording.streams[stream].frames())


def read_all(recording):
    for source in recording.streams.values():
        list(source)


def refusal(path, replay=None, *, read=False):
    """The line with which a recording is refused, when it is opened or only when it is read."""
    recording = open_recording(path, replay) if read else None
    with pytest.raises(ReplayError) as caught:
        open_recording(path, replay) if recording is None else read_all(recording)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Our own


def write_own(folder: Path, *, end=True):
    """Two streams with clocks of their own; a hole in the images' numbers."""
    images = RNG.integers(0, 2**32, (5, 6, 8), dtype=np.uint32)
    start = StreamStart(
        "saxs", "r1", "image", (6, 8), "<u4",
        {"pixel_mask": np.eye(6, 8, dtype=np.uint8)}, {"poni": PONI},
    )  # fmt: skip
    written = []
    with SpoolWriter(folder / "saxs.h5", start) as spool:
        for k, number in enumerate((0, 1, 3, 4, 7)):
            frame = ImageFrame(
                "saxs", number, 500_000_003 * (number + 1), 0.49, images[k], 0.9 + k / 100, 0.8
            )
            spool.append(frame)
            written.append(frame)
        spool.flush()
        if end:
            spool.close(StreamEnd("saxs", "r1", 9, "done"))
    start = StreamStart(
        "absorbance", "r1", "counts", (4,), "<f8",
        {n: np.ones(4) for n in ("wavelength_nm", "dark", "reference")}, {},
    )  # fmt: skip
    with SpoolWriter(folder / "absorbance.h5", start) as spool:
        for k in range(6):
            spool.append(SpectrumFrame("absorbance", k, 150_000_000 * (k + 1), 0.1, RNG.random(4)))
        spool.flush()
        spool.close(StreamEnd("absorbance", "r1", 6, "done"))
    (folder / "run.json").write_text(
        json.dumps({"run": "r1", "config": "name: x\n", "start": {"uid": "u"}, "stop": None})
    )
    return written


def test_own_recording_comes_back_bit_for_bit(tmp_path):
    written = write_own(tmp_path)
    recording = open_recording(tmp_path)
    assert recording.format == "recording"
    assert recording.config_text == "name: x\n"
    assert recording.start_document == {"uid": "u"}
    assert set(recording.streams) == {"saxs", "absorbance"}
    start, *frames, end = recording.streams["saxs"]
    assert np.array_equal(start.arrays["pixel_mask"], np.eye(6, 8))
    assert end == StreamEnd("saxs", "r1", 9, "done")
    assert [f.frame for f in frames] == [0, 1, 3, 4, 7]
    for got, expected in zip(frames, written, strict=True):
        assert got.image.tobytes() == expected.image.tobytes()
        assert (got.time_ns, got.exposure_s) == (expected.time_ns, expected.exposure_s)
        assert (got.monitor, got.transmission) == (expected.monitor, expected.transmission)


def test_recording_without_an_end_is_replayed_as_far_as_it_goes(tmp_path):
    write_own(tmp_path, end=False)
    *_, end = open_recording(tmp_path).streams["saxs"]
    assert end.frames == 8
    assert "interrupted" in end.reason


def test_one_stream_of_a_recording_can_be_replayed_alone(tmp_path):
    write_own(tmp_path)
    recording = open_recording(tmp_path / "saxs.h5")
    assert (recording.format, list(recording.streams)) == ("recording", ["saxs"])


def test_content_hash_follows_the_contents_not_the_place(tmp_path):
    (tmp_path / "a").mkdir()
    write_own(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    first = open_recording(tmp_path / "b").content_hash()
    assert first.startswith("sha256:")
    (tmp_path / "b" / "run.json").write_text('{"config": "name: y"}')
    assert open_recording(tmp_path / "b").content_hash() != first


def test_damaged_own_recordings_are_refused(tmp_path):
    write_own(tmp_path)
    path = tmp_path / "saxs.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in refusal(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "run.json").write_text("{")
    assert "expected JSON" in refusal(tmp_path)
    for file in tmp_path.glob("*.h5"):
        file.unlink()
    (tmp_path / "run.json").write_text("{}")
    assert "expected <stream>.h5" in refusal(tmp_path)


# What is not a recording


def test_folder_that_is_nothing_says_what_was_looked_for(tmp_path):
    assert "no such file or folder" in refusal(tmp_path / "none")
    assert "is empty" in refusal(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    line = refusal(tmp_path)
    assert all(word in line for word in ("run.json", "replay.index", "images", "replay.format"))
    assert "not recognised" in refusal(tmp_path / "a.txt")


# NeXus


def write_nexus(path: Path, data, **datasets):
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        detector = entry.create_group("instrument/detector")
        detector.attrs["NX_class"] = "NXdetector"
        detector.create_dataset("data", data=data, **hdf5plugin.Bitshuffle(cname="lz4"))
        for name, value in datasets.items():
            place, _, key = name.rpartition("__")
            group = entry.require_group(place.replace("_of_", "/")) if place else detector
            values, unit = value if isinstance(value, tuple) else (value, None)
            group[key] = values
            if unit:
                group[key].attrs["units"] = unit


IMAGES = RNG.integers(0, 1000, (4, 5, 7), dtype=np.uint32)


def test_nexus_passes_counts_times_mask_and_geometry(tmp_path):
    images = IMAGES.copy()
    images[2, 1, 1] = 2**32 - 1
    mask = np.zeros((5, 7), np.uint32)
    mask[0, 0] = 2
    write_nexus(
        tmp_path / "a.nxs", images, pixel_mask=mask, count_time=0.4,
        timestamps=(1.7e9 + np.array([0, 0.5, 1.0, 1.75]), "s"), saturation_value=900,
        detector_distance=(1900.0, "mm"), x_pixel_size=75e-6, y_pixel_size=(150.0, "um"),
        beam_center_x=100.5, beam_center_y=(0.0075, "m"),
        instrument_of_beam__incident_wavelength=(0.033, "nm"),
    )  # fmt: skip
    recording = open_recording(tmp_path / "a.nxs")
    start, frames = recording.streams["saxs"].start, frames_of(recording)
    assert np.array_equal([f.image for f in frames], images)
    # An epoch is counted from the start of the first exposure; frames are stamped at their end.
    assert np.allclose([f.time_s for f in frames], [0.4, 0.9, 1.4, 2.15], atol=1e-6)
    assert {f.exposure_s for f in frames} == {0.4}
    assert start.arrays["pixel_mask"][0, 0] == 1
    assert start.metadata["saturation"] == 901
    poni = dict(line.split(": ", 1) for line in start.metadata["poni"].splitlines() if ": " in line)
    assert float(poni["Distance"]) == pytest.approx(1.9)
    assert json.loads(poni["Detector_config"]) == {"pixel1": pytest.approx(150e-6), "pixel2": 75e-6}
    assert float(poni["Poni1"]) == pytest.approx(0.0075)
    assert float(poni["Poni2"]) == pytest.approx(100.5 * 75e-6)
    assert float(poni["Wavelength"]) == pytest.approx(3.3e-11)


def test_geometry_agrees_with_pyfai(tmp_path):
    pyfai = pytest.importorskip("pyFAI")
    write_nexus(
        tmp_path / "a.h5", IMAGES, distance=1.5, x_pixel_size=172e-6, y_pixel_size=172e-6,
        beam_center_x=3.25, beam_center_y=2.5, instrument_of_monochromator__energy=(12.0, "keV"),
    )  # fmt: skip
    text = open_recording(tmp_path / "a.h5").streams["saxs"].start.metadata["poni"]
    (tmp_path / "a.poni").write_text(text)
    geometry = pyfai.load(str(tmp_path / "a.poni")).getFit2D()
    assert geometry["directDist"] == pytest.approx(1500)
    assert (geometry["centerX"], geometry["centerY"]) == pytest.approx((3.25, 2.5))
    assert geometry["wavelength"] == pytest.approx(12.398419843 / 12.0)


def test_own_file_read_as_nexus_gives_the_same_counts_and_times(tmp_path):
    written = write_own(tmp_path)
    recording = open_recording(tmp_path / "saxs.h5", ReplayFormat(format="nexus"))
    frames = frames_of(recording)
    assert [f.time_ns for f in frames] == [f.time_ns for f in written]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(frames, written, strict=True))
    assert {f.exposure_s for f in frames} == {0.49}


def test_eiger_master_with_external_data_files(tmp_path):
    for i in (1, 2):
        with h5py.File(tmp_path / f"x_data_{i:06d}.h5", "w") as file:
            file["entry/data/data"] = IMAGES[2 * i - 2 : 2 * i]
    with h5py.File(tmp_path / "x_master.h5", "w") as file:
        file.create_group("entry/data").attrs["NX_class"] = "NXdata"
        for i in (1, 2):
            file[f"entry/data/data_{i:06d}"] = h5py.ExternalLink(
                f"x_data_{i:06d}.h5", "/entry/data/data"
            )
        detector = file.create_group("entry/instrument/detector")
        detector.attrs["NX_class"] = "NXdetector"
        detector["frame_time"], detector["count_time"] = 0.5, 0.45
        detector["detectorSpecific/pixel_mask"] = np.ones((5, 7), np.uint32)
    recording = open_recording(tmp_path / "x_master.h5")
    frames = frames_of(recording)
    assert np.array_equal([f.image for f in frames], IMAGES)
    assert [f.time_ns for f in frames] == [450_000_000, 950_000_000, 1_450_000_000, 1_950_000_000]
    assert recording.streams["saxs"].start.arrays["pixel_mask"].all()
    assert len(recording.inputs) == 3
    (tmp_path / "x_data_000002.h5").unlink()
    assert "data_000002 links to x_data_000002.h5" in refusal(tmp_path / "x_master.h5")


def test_virtual_dataset_with_a_missing_source_is_refused(tmp_path):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["data"] = IMAGES
    layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
    layout[:] = h5py.VirtualSource("part.h5", "data", IMAGES.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("entry/data/data", layout)
    assert np.array_equal([f.image for f in frames_of(open_recording(tmp_path / "a.h5"))], IMAGES)
    (tmp_path / "part.h5").unlink()
    assert "part.h5 is missing" in refusal(tmp_path / "a.h5")


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<i2", "<f8", "<u2", ">u2"])
def test_counts_become_unsigned_and_negative_ones_the_mark_of_no_value(tmp_path, dtype):
    images = IMAGES.astype(dtype)
    signed = np.dtype(dtype).kind in "if"
    if signed:
        images[1, 2, 3] = -2
    write_nexus(tmp_path / "a.h5", images)
    recording = open_recording(tmp_path / "a.h5")
    frames, start = frames_of(recording), recording.streams["saxs"].start
    expected = IMAGES.astype(np.uint64)
    if signed:
        expected[1, 2, 3] = np.iinfo(start.dtype).max
    assert np.array_equal([f.image for f in frames], expected)
    assert np.dtype(start.dtype).kind == "u"
    assert start.metadata["saturation"] == np.iinfo(start.dtype).max


def test_nexus_refusals(tmp_path):
    path = tmp_path / "a.h5"
    write_nexus(path, IMAGES, pixel_mask=np.zeros((3, 3)))
    assert "expected a mask of (5, 7) pixels, got (3, 3)" in refusal(path)
    write_nexus(path, IMAGES, timestamps=np.array([0.0, 1.0, 0.5, 2.0]))
    assert "expected times that rise, got 0.5 s in frame 2 after 1 s" in refusal(path)
    write_nexus(path, IMAGES, timestamps=(np.arange(4.0), "furlong"))
    assert "expected a unit of" in refusal(path)
    write_nexus(path, IMAGES + 0.5)
    assert "expected counts (whole numbers)" in refusal(path, read=True)
    write_nexus(path, np.zeros((2, 3, 4, 5), np.uint16))
    assert "a scan of several axes" in refusal(path)
    write_nexus(path, np.zeros(5))
    assert "no images: looked for" in refusal(path)
    write_nexus(path, IMAGES, instrument_of_other__x=1)
    with h5py.File(path, "a") as file:
        other = file["entry/instrument/other"]
        other.attrs["NX_class"] = "NXdetector"
        other["data"] = IMAGES * 2
    assert "2 sets of images" in refusal(path)
    chosen = open_recording(path, ReplayFormat(dataset="/entry/instrument/other/data"))
    assert np.array_equal(frames_of(chosen)[0].image, IMAGES[0] * 2)
    write_nexus(
        path, IMAGES, instrument_of_monochromator__energy=(12.0, "keV"),
        instrument_of_monochromator__wavelength=(1.5, "angstrom"),
    )  # fmt: skip
    assert "contradict each other" in refusal(path)


def test_damaged_and_unfinished_hdf5_files(tmp_path):
    path = tmp_path / "a.h5"
    write_nexus(path, RNG.integers(0, 2**31, (4, 50, 70), dtype=np.uint32))
    whole = path.read_bytes()
    path.write_bytes(whole[:-3000])
    assert "is cut off" in refusal(path)
    path.write_bytes(b"no HDF5 at all")
    assert "expected an HDF5 file" in refusal(path)
    path.write_bytes(whole)
    with h5py.File(path) as file:
        chunk = file["entry/instrument/detector/data"].id.get_chunk_info(0)
    damaged = bytearray(whole)
    damaged[chunk.byte_offset + 12 : chunk.byte_offset + chunk.size] = b"\xff" * (chunk.size - 12)
    path.write_bytes(damaged)
    assert "saxs frame" in refusal(path, read=True)
    path.write_bytes(whole)
    # HDF5 locks between processes only.
    hold = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert "is still being written" in refusal(path)
        writer.communicate(b"")


def test_frames_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        # 40 GB if it were read as a whole; without chunks written, the file is small.
        file.create_dataset(
            "entry/data/data", (2500, 2000, 2000), "u4", chunks=(1, 2000, 2000), fillvalue=3
        )
    frames = iter(open_recording(path).streams["saxs"].frames())
    assert next(frames).image[0, 0] == 3
    assert next(frames).frame == 1


# Images


def write_images(folder: Path, names):
    images = RNG.integers(-1, 500, (len(names), 6, 9)).astype("<i4")
    for name, image in zip(names, images, strict=True):
        raw = image.tobytes()
        (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    (folder / "a.poni").write_text(PONI)
    return images


RAW = {"shape": (6, 9), "dtype": "<i4"}


def test_raw_images_with_counters_of_each_series(tmp_path):
    names = ["x_Run10_0000.raw.gz", "x_Run9_0000.raw", "x_Run9_0001.raw"]
    images = write_images(tmp_path, names)
    (tmp_path / "Run9.csv").write_text("#, Seconds, i0, bstop\n0, 2.0, 20.0, 4.0\n1,2.0,22.0,4.4\n")
    (tmp_path / "Run10.csv").write_text("#, Seconds, i0, bstop\n0, 4.0, 80, 32\n")
    np.save(tmp_path / "mask.npy", np.eye(6, 9))
    replay = ReplayFormat(
        **RAW, counters="*.csv", monitor_column="i0", transmitted_column="bstop",
        empty_beam_ratio=0.5, exposure_column="Seconds", period_s=10, mask_file="mask.npy",
    )  # fmt: skip
    recording = open_recording(tmp_path, replay)
    start, frames = recording.streams["saxs"].start, frames_of(recording)
    # Numbers in names count by value.
    expected = images[[1, 2, 0]].astype(np.int64)
    expected[expected < 0] = 2**32 - 1
    assert np.array_equal([f.image for f in frames], expected)
    assert start.metadata["poni"] == PONI
    assert np.array_equal(start.arrays["pixel_mask"], np.eye(6, 9))
    # Flux is 10, 11, 20 a second: relative to the median.
    assert [f.monitor for f in frames] == pytest.approx([10 / 11, 1.0, 20 / 11])
    assert [f.transmission for f in frames] == pytest.approx([0.4, 0.4, 0.8])
    assert [f.exposure_s for f in frames] == [2.0, 2.0, 4.0]
    assert [f.time_s for f in frames] == pytest.approx([2.0, 12.0, 24.0])


def test_edf_tif_and_cbf_are_read_by_content(tmp_path):
    image = RNG.integers(0, 500, (6, 9)).astype(np.int32)
    fabio.edfimage.EdfImage(data=image).write(str(tmp_path / "a1.edf"))
    fabio.edfimage.EdfImage(data=image + 1).write(str(tmp_path / "b.edf"))
    (tmp_path / "a2.cbf.gz").write_bytes(gzip.compress((tmp_path / "b.edf").read_bytes()))
    (tmp_path / "b.edf").unlink()
    fabio.cbfimage.CbfImage(data=image + 2).write(str(tmp_path / "a3.cbf"))
    fabio.tifimage.TifImage(data=image + 3).write(str(tmp_path / "a4.tif"))
    (tmp_path / "g.poni").write_text(PONI)
    frames = frames_of(open_recording(tmp_path))
    assert np.array_equal([f.image for f in frames], [image, image + 1, image + 2, image + 3])


def test_image_refusals(tmp_path):
    write_images(tmp_path, ["x_0.raw", "x_1.raw"])
    assert "needs replay.shape" in refusal(tmp_path)
    assert "got 216 B: is it complete" in refusal(tmp_path, ReplayFormat(shape=(6, 8), dtype="<i4"))
    assert "expected a numpy type" in refusal(tmp_path, ReplayFormat(shape=(6, 9), dtype="int99"))
    (tmp_path / "x_1.raw").write_bytes(b"12")
    assert "x_1.raw" in refusal(tmp_path, ReplayFormat(**RAW), read=True)
    (tmp_path / "x_1.raw").unlink()
    line = refusal(tmp_path, ReplayFormat(**RAW, poni_file="b.poni"))
    assert "b.poni: no such file (replay.poni_file)" in line
    (tmp_path / "b.poni").write_text(PONI)
    assert "expected one .poni file for the geometry, got a.poni, b.poni" in refusal(
        tmp_path, ReplayFormat(**RAW)
    )
    (tmp_path / "a.poni").unlink()
    (tmp_path / "b.poni").unlink()
    assert "got none: set replay.poni_file" in refusal(tmp_path, ReplayFormat(**RAW))
    (tmp_path / "a.poni").write_text(PONI)
    assert "no such mask file" in refusal(tmp_path, ReplayFormat(**RAW, mask_file="m.edf"))
    np.save(tmp_path / "m.npy", np.zeros((2, 2)))
    assert "expected a mask of (6, 9)" in refusal(tmp_path, ReplayFormat(**RAW, mask_file="m.npy"))
    (tmp_path / "c.csv").write_text("i0\n1\n2\n")
    assert "expected a row for each of 1 images, got 2" in refusal(
        tmp_path, ReplayFormat(**RAW, counters="c.csv")
    )
    (tmp_path / "c.csv").write_text("i0, bstop\n1, 4\n")
    assert "no column 'I0'; it has i0, bstop" in refusal(
        tmp_path, ReplayFormat(**RAW, counters="c.csv", monitor_column="I0")
    )
    wrong = ReplayFormat(
        **RAW, counters="c.csv", monitor_column="i0", transmitted_column="bstop",
        empty_beam_ratio=2.0,
    )  # fmt: skip
    assert "expected a transmission up to 1, got 2" in refusal(tmp_path, wrong)
    (tmp_path / "y.edf").write_bytes(b"{ HeaderID = EH ;")
    assert "cannot be read as an image" in refusal(tmp_path, ReplayFormat(files="y.edf"))


# Curves


def write_curves(folder: Path, count=3, sigma=False):
    q = np.linspace(0.02, 0.5, 20)
    values = RNG.normal(0, 1, (count, 20))
    for i in range(count):
        columns = [q, values[i], *([np.full(20, 0.1 * i)] if sigma else [])]
        np.savetxt(folder / f"c_{i + 9}.dat", np.column_stack(columns), header="q I")
    return q, values


def test_curves_in_the_order_of_their_index(tmp_path):
    q, values = write_curves(tmp_path)
    (tmp_path / "index.csv").write_text(
        "file,t,exp\nc_10.dat,7.5,2\nc_9.dat,0.25,1\nc_11.dat,9,2\n"
    )
    replay = ReplayFormat(
        q_unit="1/A", index="index.csv", index_time_column="t", exposure_column="exp"
    )
    recording = open_recording(tmp_path, replay)
    assert recording.format == "curves"
    frames = frames_of(recording)
    axis = recording.streams["saxs"].start.arrays["q_per_nm"]
    assert np.allclose(axis, 10 * q, rtol=1e-12)
    assert np.allclose([f.intensity for f in frames], values, rtol=1e-12)
    assert all(np.isnan(f.sigma).all() for f in frames)
    assert [f.time_ns for f in frames] == [250_000_000, 7_500_000_000, 9_000_000_000]
    assert [f.exposure_s for f in frames] == [1, 2, 2]


def test_curves_without_an_index_follow_the_numbers_in_their_names(tmp_path):
    q, values = write_curves(tmp_path, sigma=True)
    replay = ReplayFormat(format="curves", q_unit="1/nm", files="*.dat", period_s=2.5)
    recording = open_recording(tmp_path, replay)
    frames = frames_of(recording)
    assert np.allclose(recording.streams["saxs"].start.arrays["q_per_nm"], q, rtol=1e-12)
    assert np.allclose([f.intensity for f in frames], values, rtol=1e-12)
    assert [f.sigma[0] for f in frames] == pytest.approx([0, 0.1, 0.2])
    assert [f.time_s for f in frames] == [0, 2.5, 5.0]


def test_curve_refusals(tmp_path):
    write_curves(tmp_path)
    (tmp_path / "index.csv").write_text("file,t_s\nc_9.dat,0\nc_10.dat,1\n")
    indexed = ReplayFormat(q_unit="1/A", index="index.csv")
    line = refusal(tmp_path, ReplayFormat(index="index.csv"))
    assert "set replay.q_unit to 1/A or 1/nm (it is not guessed)" in line
    assert "set replay.index" in refusal(tmp_path, ReplayFormat(format="curves", q_unit="1/A"))
    other = np.column_stack([np.linspace(0.02, 0.6, 20), np.ones(20)])
    np.savetxt(tmp_path / "c_10.dat", other)
    line = refusal(tmp_path, indexed, read=True)
    assert "c_10.dat: expected the q axis of c_9.dat (20 points from 0.2 to 5 1/nm)" in line
    (tmp_path / "c_10.dat").write_text("0.1 2\n0.2 3\n0.3")
    assert "c_10.dat:3: expected 2 columns, got 1: is the file complete?" in refusal(
        tmp_path, indexed, read=True
    )
    (tmp_path / "c_10.dat").write_text("0.1 2\n0.2 x\n")
    assert "c_10.dat:2: expected numbers, got 'x'" in refusal(tmp_path, indexed, read=True)
    (tmp_path / "c_10.dat").write_text("0.2 2\n0.1 3\n")
    assert "expected q that rises" in refusal(tmp_path, indexed, read=True)
    (tmp_path / "c_10.dat").unlink()
    assert "1 of its files are absent, first" in refusal(tmp_path, indexed)
    (tmp_path / "index.csv").write_text("file,t_s\nc_9.dat,soon\n")
    assert "index.csv:2: t_s: expected a number, got 'soon'" in refusal(tmp_path, indexed)


# Spectra


def test_table_of_absorbance_against_time(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(
        "Wavelength (nm),30 s,2 min,1 min reaction \n"
        "600,1,3,2\n500,4,6,5\n400,7,9,8\n,,,\n,Old:5,,\n",
        encoding="utf-8-sig",
    )
    recording = open_recording(path)
    frames = frames_of(recording, "absorbance")
    start = recording.streams["absorbance"].start
    assert start.kind == "absorbance"
    assert start.arrays["wavelength_nm"].tolist() == [400, 500, 600]
    assert [f.time_ns for f in frames] == [30 * 10**9, 60 * 10**9, 120 * 10**9]
    assert [f.values.tolist() for f in frames] == [[7, 4, 1], [8, 5, 2], [9, 6, 3]]


def test_table_of_counts_has_its_reference_taken_out(tmp_path):
    path = tmp_path / "s.csv"
    stamps = "2014-05-22 15:38:23,2014-05-22 15:38:26,2014-05-22 15:39:00"
    path.write_text(f"Wavelength,{stamps}\n400,10,9,8\n401,20,19,18\n")
    replay = ReplayFormat(values="counts", reference_column=0)
    recording = open_recording(path, replay)
    start, frames = recording.streams["absorbance"].start, frames_of(recording, "absorbance")
    assert start.kind == "counts"
    assert start.arrays["reference"].tolist() == [10, 20]
    assert not start.arrays["dark"].any()
    assert [f.time_s for f in frames] == [3, 37]
    assert [f.values.tolist() for f in frames] == [[9, 19], [8, 18]]
    assert "counts need a reference" in refusal(path, ReplayFormat(values="counts"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "got an empty file"),
        ("Wavelength,1\n", "expected rows below the header"),
        ("Energy (eV),1 s\n2,1\n3,1\n", "expected a first column of wavelengths in nm"),
        ("Wavelength (um),1\n0.4,1\n0.5,1\n", "expected wavelengths in nm"),
        ("Wavelength,1\n0.4,1\n0.5,1\n", "expected wavelengths in nm (100 to 20000), got 0.4"),
        ("Wavelength,first\n400,1\n401,1\n", "header 'first': expected a time"),
        ("Wavelength,1,2\n400,1,1\n401,1\n", ":3: 2: expected a number, got the end of the line"),
        ("Wavelength,1,2\n400,1,1\n401,1,x\n", ":3: 2: expected a number, got 'x'"),
        ("Wavelength,1\n400,1\n403,1\n402,1\n", ":4: Wavelength: expected wavelengths in one"),
        ("Wavelength,1\n400,1\n401,1\nx,\n402,1\n", "numbers again after line 4"),
    ],
)
def test_spectra_refusals(tmp_path, text, expected):
    (tmp_path / "s.csv").write_text(text)
    assert expected in refusal(tmp_path / "s.csv")
