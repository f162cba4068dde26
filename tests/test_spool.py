"""The recording: a plain NeXus file, readable while it grows and after a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the filter, as any reader would
import numpy as np
import pytest

from pipeline.bus import SpoolError, SpoolReader, SpoolWriter, WireError, bslz4, wire
from pipeline.messages import CurveFrame, ImageFrame, SpectrumFrame, StreamEnd, StreamStart

SHAPE = (40, 30)
PONI = (
    'Detector_config: {"pixel1": 7.5e-05, "pixel2": 7.5e-05}\nDistance: 1.9\nPoni1: 0.0015\n'
    "Poni2: 0.003\nRot1: 0\nRot2: 0\nRot3: 0\nWavelength: 3.3e-11\n"
)


def start_of(**changes) -> StreamStart:
    mask = np.zeros(SHAPE, "<u4")
    mask[1, 2] = 4
    fields = {
        "stream": "saxs", "run": "run-1", "kind": "image", "shape": SHAPE, "dtype": "<u4",
        "arrays": {"pixel_mask": mask}, "metadata": {"poni": PONI, "saturation": 9},
    }  # fmt: skip
    return StreamStart(**{**fields, **changes})


def image(number: int) -> ImageFrame:
    pixels = np.random.default_rng(number).poisson(5, SHAPE).astype("<u4")
    return ImageFrame("saxs", number, number * 500_000_001 - 7, 0.25, pixels, 0.99, 0.75)


def test_finished_recording_is_plain_nexus(tmp_path):
    path = tmp_path / "deep" / "saxs.h5"
    with SpoolWriter(path, start_of()) as writer:
        for number in (0, 1, 5):
            writer.append(image(number))
        writer.close(StreamEnd("saxs", "run-1", 7, "beam lost"))
    with h5py.File(path) as file:  # as any program would open it, no SWMR
        assert file.attrs["default"] == "entry"
        entry = file["entry"]
        assert entry.attrs["NX_class"] == "NXentry"
        plot = entry[entry.attrs["default"]]
        assert plot.attrs["NX_class"] == "NXdata"
        assert np.array_equal(plot[plot.attrs["signal"]][2], image(5).image)
        detector = entry["instrument/detector"]
        assert detector.attrs["NX_class"] == "NXdetector"
        assert detector["data"].shape == (3, *SHAPE)
        assert detector["data"].chunks == (1, *SHAPE)
        for row, number in enumerate((0, 1, 5)):
            assert np.array_equal(detector["data"][row], image(number).image)
        assert detector["frame"][()].tolist() == [0, 1, 5]
        assert detector["time_ns"][()].tolist() == [image(n).time_ns for n in (0, 1, 5)]
        assert detector["count_time"][()].tolist() == [0.25] * 3
        assert detector["pixel_mask"][1, 2] == 4
        assert detector["distance"][()] == 1.9
        assert detector["distance"].attrs["units"] == "m"
        assert detector["beam_center_x"][()] == pytest.approx(40)
        assert detector["beam_center_y"][()] == pytest.approx(20)
        assert detector["x_pixel_size"][()] == 7.5e-5
        assert detector["poni"][()].decode() == PONI
        assert entry["instrument/monitor/data"][()].tolist() == [0.99] * 3
        assert entry["sample/transmission"][()].tolist() == [0.75] * 3
        assert entry["instrument/beam/incident_wavelength"][()] == pytest.approx(0.33)
        assert json.loads(entry["stream/start"][()])["metadata"]["saturation"] == 9
        assert entry["stream/frames"][0] == 7
        assert entry["stream/reason"][0] == b"beam lost"
    assert list(path.parent.iterdir()) == [path]  # no lock, nothing temporary


def test_the_chunk_is_the_payload_of_the_message(tmp_path):
    frame, start = image(3), start_of()
    payloads = wire.payloads_of(frame)
    with SpoolWriter(tmp_path / "saxs.h5", start) as writer:
        writer.append(frame, payloads[0])
        writer.flush()
        with SpoolReader(writer.path) as reader:
            assert reader.read_payload(3) == payloads[0]
            message = wire.encode_stored(reader.facts(3), reader.read_payloads(3), start)
    assert payloads[0] in wire.encode_frame(frame, start)[0]
    assert message == wire.encode_frame(frame, start)


@pytest.mark.parametrize("kind", ["image", "counts", "curve"])
def test_what_is_read_is_what_was_written(tmp_path, kind):
    if kind == "image":
        start, frames = start_of(), [image(n) for n in range(4)]
    else:
        axis = np.linspace(1, 2, 50)
        arrays = {"q_per_nm": axis} if kind == "curve" else {
            "wavelength_nm": axis, "dark": axis * 2, "reference": axis * 3}  # fmt: skip
        start = start_of(kind=kind, shape=(50,), dtype="<f8", arrays=arrays, metadata={})
        lines = np.random.default_rng(0).normal(size=(4, 2, 50))
        lines[2] = np.nan
        frames = [
            CurveFrame("saxs", n, -n, 0.1, *lines[n])
            if kind == "curve"
            else SpectrumFrame("saxs", n, -n, 0.1, lines[n, 0])
            for n in range(4)
        ]
    with SpoolWriter(tmp_path / "s.h5", start) as writer:
        for frame in frames:
            writer.append(frame)
    with SpoolReader(tmp_path / "s.h5") as reader:
        assert reader.end is None
        assert reader.frames.tolist() == [0, 1, 2, 3]
        for name in ("stream", "run", "kind", "shape", "dtype", "metadata"):
            assert getattr(reader.start, name) == getattr(start, name)
        for name, array in start.arrays.items():
            assert reader.start.arrays[name].tobytes() == array.tobytes()
        for frame in frames:
            again = reader.read(frame.frame)
            assert type(again) is type(frame)
            assert wire.encode_frame(again, start) == wire.encode_frame(frame, start)
        with pytest.raises(KeyError, match="has no frame 4"):
            reader.read(4)


def test_reader_follows_the_writer(tmp_path):
    with SpoolWriter(tmp_path / "saxs.h5", start_of()) as writer:
        writer.flush()
        with SpoolReader(writer.path) as reader:
            assert (reader.frames.size, reader.last_frame, reader.end) == (0, -1, None)
            for number in range(0, 30, 3):
                writer.append(image(number))
                writer.flush()
                reader.refresh()
                assert reader.last_frame == number
                assert np.array_equal(reader.read(number).image, image(number).image)
            assert 1 not in reader
            writer.close(StreamEnd("saxs", "run-1", 28, "done"))
            reader.refresh()
            assert reader.end == StreamEnd("saxs", "run-1", 28, "done")


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_spool import SpoolWriter, image, start_of
writer = SpoolWriter(sys.argv[1], start_of())
for number in range(writer.last_frame + 1, 10**6):
    writer.append(image(number))
    writer.flush()
    print(number, flush=True)
"""


def test_recording_of_a_killed_writer_is_read_and_taken_up_again(tmp_path):
    path, here = tmp_path / "saxs.h5", Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent)}
    command = [sys.executable, "-c", WRITER, str(path), str(here)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        flushed = -1
        with pytest.raises(SpoolError, match="expected a recording"):
            SpoolReader(path)
        while flushed < 50:
            flushed = int(process.stdout.readline())
        with SpoolReader(path) as reader:  # of another process, while it writes
            assert reader.last_frame >= 50
            assert np.array_equal(reader.read(50).image, image(50).image)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    flushed = int(rest[-1]) if rest else flushed
    with pytest.raises(OSError, match="h5clear"), h5py.File(path):
        pass  # this is what HDF5 makes of it
    with SpoolReader(path) as reader:
        assert reader.last_frame >= flushed
        assert reader.frames.tolist() == list(range(reader.last_frame + 1))
        for number in (0, flushed):
            assert np.array_equal(reader.read(number).image, image(number).image)
        last = reader.last_frame
    with SpoolWriter(path, start_of()) as writer:
        assert writer.last_frame == last
        writer.append(image(last + 3))
        writer.close(StreamEnd("saxs", "run-1", last + 4))
    with h5py.File(path) as file:
        assert file["entry/instrument/detector/frame"][()].tolist() == [*range(last + 1), last + 3]
        data = file["entry/instrument/detector/data"]
        assert np.array_equal(data[last], image(last).image)
        assert np.array_equal(data[last + 1], image(last + 3).image)


def test_writer_refuses_what_does_not_belong(tmp_path):
    with SpoolWriter(tmp_path / "saxs.h5", start_of()) as writer:
        writer.append(image(4))
        with pytest.raises(SpoolError, match="expected a frame after 4, got frame 4"):
            writer.append(image(4))
        small = ImageFrame("saxs", 5, 0, 0.1, np.zeros((3, 3), "<u4"))
        with pytest.raises(WireError, match=r"saxs frame 5: expected \(40, 30\) <u4, got \(3, 3\)"):
            writer.append(small)
        with pytest.raises(WireError, match="expected ImageFrame of stream saxs"):
            writer.append(SpectrumFrame("saxs", 6, 0, 0.1, np.zeros(3)))
        with pytest.raises(SpoolError, match="expected more than 4 frames, got 3"):
            writer.close(StreamEnd("saxs", "run-1", 3))
        writer.append(image(7))
    for arrays in ({"data": np.zeros(3)}, {"a/b": np.zeros(3)}):
        with pytest.raises(SpoolError, match="an array may not be called"):
            SpoolWriter(tmp_path / "other.h5", start_of(arrays=arrays))
        (tmp_path / "other.h5").unlink()


def test_reader_says_what_is_wrong(tmp_path):
    with pytest.raises(SpoolError, match=r"none\.h5: expected a recording"):
        SpoolReader(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_bytes(b"not HDF5 at all" * 100)
    with pytest.raises(SpoolError, match=r"text\.h5: expected a recording"):
        SpoolReader(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(
        SpoolError, match=r"other\.h5: expected a recording, got no HDF5 file of version"
    ):
        SpoolReader(tmp_path / "other.h5")
    path = tmp_path / "cut.h5"
    with SpoolWriter(path, start_of()) as writer:
        for number in range(20):
            writer.append(image(number))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SpoolError, match=r"cut\.h5: was cut, expected \d+ B, got \d+ B"):
        SpoolReader(path)


def test_bslz4_refuses_before_it_allocates():
    with pytest.raises(WireError, match="expected an array of 1 to 536870912 B"):
        bslz4.array_bytes((2**20, 2**20), np.dtype("<u4"))
    with pytest.raises(WireError, match="expected an array of 1 to"):
        bslz4.array_bytes((0, 5), np.dtype("<u4"))
