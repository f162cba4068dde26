"""Flyers under a real RunEngine: documents, clocks, recordings, what is published."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zmq
from bluesky import RunEngine
from bluesky.utils import FailedStatus, RunEngineInterrupted
from event_model import DocumentNames, schema_validators

from detectors.devices.build import DeviceError, make_devices
from detectors.devices.clock import RunClock
from detectors.devices.flyer import Flight, FrameFlyer
from detectors.devices.simulated import SimulatedAreaDetector, SimulatedFibreSpectrometer
from detectors.documents import DocumentFile, DocumentReader, coalesce
from detectors.hardware.dectris import DectrisStream
from detectors.hardware.follower import FileFollower
from detectors.plan import live_run
from pipeline.bus import FrameConsumer, SpoolReader, stream2
from pipeline.bus.facts import facts_of
from pipeline.bus.wire import payloads_of
from pipeline.config.acquisition import OphydDevices
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints
from pipeline.messages import ImageFrame, StreamEnd, StreamStart, frozen_array

SHAPE = (12, 10)


class Exposed(NamedTuple):
    image: np.ndarray
    monitor: float
    transmission: float


@dataclass
class TinyImages:
    """Renders the frame number and the time, so that a frame tells where it belongs."""

    lost: frozenset[int] = frozenset()
    broken_at: int | None = None
    poni: str = ""
    pixel_mask: np.ndarray = field(default_factory=lambda: np.zeros(SHAPE, np.uint8))
    absolute_scale: float = 0.5
    saturation: int = 60000
    dtype: str = "<u4"

    def render(self, frame: int, time_s: float, exposure_s: float) -> Exposed | None:
        if frame == self.broken_at:
            raise OSError("the detector's power supply is off")
        if frame in self.lost:
            return None
        image = np.full(SHAPE, frame, "<u4")
        image[0, 0] = round(time_s * 1e6)
        image[0, 1] = round(exposure_s * 1e6)
        return Exposed(image, 1.0 + 0.001 * frame, 0.8)


@dataclass
class TinySpectra:
    wavelength_nm: np.ndarray = field(default_factory=lambda: np.linspace(300.0, 600.0, 7))
    dark: np.ndarray = field(default_factory=lambda: np.full(7, 10.0))
    reference: np.ndarray = field(default_factory=lambda: np.full(7, 1000.0))
    reference_frames: int = 1
    saturation: int = 65535

    def render(self, frame: int, time_s: float, exposure_s: float) -> np.ndarray | None:
        return np.full(7, frame, np.uint32)


def endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


class Beamline:
    """A RunEngine, a recording and the documents of one run."""

    def __init__(self, folder: Path, *flyers: FrameFlyer) -> None:
        self.folder = folder
        self.flyers = flyers
        self.clock = RunClock()
        self.engine = RunEngine({}, context_managers=[])
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.engine.subscribe(lambda name, document: self.documents.append((name, document)))
        self.endpoints = {
            flyer.stream: FrameEndpoints(live=endpoint(), repair=endpoint()) for flyer in flyers
        }

    def run(self, duration_s: float) -> None:
        def flight(start: Any) -> Flight:
            return Flight(
                run="run-1",
                recording_dir=self.folder,
                endpoints=self.endpoints,
                bus=Bus(),
                duration_s=duration_s,
                clock=self.clock,
                run_start=start,
            )

        plan = live_run(self.flyers, flight, clock=self.clock, collect_period_s=0.2)
        self.engine(plan)

    def named(self, name: str) -> list[dict[str, Any]]:
        return [document for each, document in self.documents if each == name]

    def recorded(self, stream: str) -> tuple[StreamStart, list[Any], StreamEnd | None]:
        # HDF5 mixes up what two SWMR readers of one process see: repair's is closed first.
        for flyer in self.flyers:
            flyer.close()
        with SpoolReader(self.folder / f"{stream}.h5") as reader:
            return reader.start, [reader.read(int(n)) for n in reader.frames], reader.end


@pytest.fixture
def beamline(tmp_path: Path) -> Iterator[Any]:
    made: list[Beamline] = []

    def make(*flyers: FrameFlyer) -> Beamline:
        made.append(Beamline(tmp_path, *flyers))
        return made[-1]

    yield make
    for each in made:
        for flyer in each.flyers:
            flyer.close()


def area(rate_hz: float = 10.0, **options: Any) -> SimulatedAreaDetector:
    start_s = options.pop("start_s", 0.0)
    return SimulatedAreaDetector(
        renderer=TinyImages(**options), rate_hz=rate_hz, thickness_cm=0.1, start_s=start_s
    )


def spectrometer(rate_hz: float = 1 / 0.15) -> SimulatedFibreSpectrometer:
    return SimulatedFibreSpectrometer(renderer=TinySpectra(), rate_hz=rate_hz)


def test_two_detectors_fly_in_one_run_on_their_own_clocks(beamline: Any) -> None:
    line = beamline(area(10.0), spectrometer(1 / 0.15))
    line.run(1.2)

    _, images, end = line.recorded("saxs")
    assert [frame.frame for frame in images] == list(range(12))
    assert [frame.time_ns for frame in images] == [(n + 1) * 100_000_000 for n in range(12)]
    assert end == StreamEnd("saxs", "run-1", 12, "done")
    _, spectra, end = line.recorded("absorbance")
    assert [frame.time_ns for frame in spectra] == [(n + 1) * 150_000_000 for n in range(8)]
    assert [frame.values[0] for frame in spectra] == list(range(8))
    assert end == StreamEnd("absorbance", "run-1", 8, "done")

    (stop,) = line.named("stop")
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"saxs": 12, "absorbance": 8}


def test_every_document_is_valid_and_none_carries_pixels(beamline: Any) -> None:
    line = beamline(area(10.0), spectrometer())
    line.run(0.9)

    for name, document in line.documents:
        schema_validators[DocumentNames[name]].validate(document)
        assert len(json.dumps(document)) < 5000
    names = [name for name, _ in line.documents]
    assert names[0] == "start"
    assert names[-1] == "stop"
    assert set(names) == {"start", "descriptor", "stream_resource", "stream_datum", "stop"}
    assert {each["name"] for each in line.named("descriptor")} == {"saxs", "absorbance"}
    resources = {each["data_key"]: each for each in line.named("stream_resource")}
    assert set(resources) == {
        "saxs_image", "saxs_frame", "saxs_time_ns",
        "absorbance_counts", "absorbance_frame", "absorbance_time_ns",
    }  # fmt: skip
    image = resources["saxs_image"]
    assert image["mimetype"] == "application/x-hdf5"
    assert image["uri"] == f"file://localhost{line.folder / 'saxs.h5'}"
    assert image["parameters"]["dataset"] == "/entry/instrument/detector/data"


def test_references_follow_each_other_and_never_run_ahead_of_the_file(
    beamline: Any, tmp_path: Path
) -> None:
    flyer = area(50.0)
    line = beamline(flyer)
    ahead: list[int] = []

    def check(name: str, document: dict[str, Any]) -> None:
        if name == "stream_datum":
            with SpoolReader(tmp_path / "saxs.h5") as reader:
                ahead.append(document["indices"]["stop"] - len(reader.frames))

    line.engine.subscribe(check)
    line.run(1.0)

    assert ahead
    assert max(ahead) <= 0
    for resource in line.named("stream_resource"):
        spans = [
            (datum["indices"]["start"], datum["indices"]["stop"])
            for datum in line.named("stream_datum")
            if datum["stream_resource"] == resource["uid"]
        ]
        assert spans[0][0] == 0
        assert spans[-1][1] == 50
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


def test_a_lost_frame_leaves_a_hole_in_the_numbers_and_no_row(beamline: Any) -> None:
    flyer = area(20.0, lost=frozenset({3, 9}))
    line = beamline(flyer)
    line.run(0.5)

    _, images, end = line.recorded("saxs")
    assert [frame.frame for frame in images] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert images[3].time_ns == 250_000_000
    # The last number was given out too, so whoever waits for it learns that it was lost.
    assert end is not None
    assert end.frames == 10
    assert line.named("stop")[0]["num_events"] == {"saxs": 8}
    assert flyer.dropped == 2


def test_a_hundred_frames_a_second(beamline: Any) -> None:
    line = beamline(area(100.0), spectrometer(100.0))
    line.run(1.5)

    for stream in ("saxs", "absorbance"):
        _, frames, _ = line.recorded(stream)
        assert [frame.frame for frame in frames] == list(range(150))
        assert frames[-1].time_ns == 1_500_000_000


def test_a_slow_frame_makes_no_later_frame_late_and_none_is_skipped(beamline: Any) -> None:
    class Slow(TinyImages):
        def render(self, frame: int, time_s: float, exposure_s: float) -> Exposed | None:
            if frame == 2:
                threading.Event().wait(0.45)
            return super().render(frame, time_s, exposure_s)

    flyer = SimulatedAreaDetector(renderer=Slow(), rate_hz=10.0, thickness_cm=0.1)
    line = beamline(flyer)
    line.run(1.5)

    _, images, _ = line.recorded("saxs")
    assert [frame.time_ns for frame in images] == [(n + 1) * 100_000_000 for n in range(15)]
    # Frame 2 was ready 0.35 s too late, so 2 to 4 were sent late; a clock that counts from the
    # frame before would have been late to the end.
    assert 3 <= flyer.late < 12
    assert flyer.worst_lateness_ns >= 300_000_000


def test_frames_know_their_exposure_beam_and_place_in_the_synthesis(beamline: Any) -> None:
    line = beamline(area(10.0, start_s=90.0))
    line.run(0.5)

    start, images, _ = line.recorded("saxs")
    assert start.kind == "image"
    assert start.metadata["absolute_scale"] == 0.5
    assert start.metadata["thickness_cm"] == 0.1
    assert start.metadata["saturation"] == 60000
    assert start.metadata["run_start"]["uid"] == line.named("start")[0]["uid"]
    second = images[1]
    assert second.time_ns == 90_200_000_000
    assert second.exposure_s == pytest.approx(0.1)
    assert second.monitor == pytest.approx(1.001)
    assert second.transmission == 0.8
    assert second.image[0, 0] == 90_200_000
    assert second.image[0, 1] == 100_000


def test_live_consumers_get_what_is_recorded(beamline: Any) -> None:
    line = beamline(area(20.0, lost=frozenset({2})))
    received: list[Any] = []

    def consume() -> None:
        consumer = FrameConsumer(line.endpoints["saxs"], Bus())
        try:
            while not (received and isinstance(received[-1], StreamEnd)):
                message = consumer.next(0.2)
                if message is not None:
                    received.append(message)
            consumer.done()
        finally:
            consumer.close()

    thread = threading.Thread(target=consume)
    thread.start()
    line.run(0.6)
    thread.join(10.0)
    assert line.flyers[0].wait_consumed(5.0)

    _, recorded, end = line.recorded("saxs")
    live = [message for message in received if isinstance(message, ImageFrame)]
    assert [frame.frame for frame in live] == [frame.frame for frame in recorded]
    for a, b in zip(live, recorded, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
    assert received[-1] == end


def test_a_stop_in_the_middle_ends_the_run_with_all_its_documents(beamline: Any) -> None:
    line = beamline(area(20.0), spectrometer(20.0))
    timer = threading.Timer(0.6, lambda: line.clock.stop("stopped by SIGTERM"))
    timer.start()
    line.run(30.0)

    (stop,) = line.named("stop")
    assert stop["exit_status"] == "success"
    assert stop["reason"] == "stopped by SIGTERM"
    for stream in ("saxs", "absorbance"):
        _, frames, end = line.recorded(stream)
        assert 0 < len(frames) < 200
        assert end == StreamEnd(stream, "run-1", len(frames), "stopped by SIGTERM")
        assert stop["num_events"][stream] == len(frames)


def test_a_detector_that_fails_fails_the_run_and_ends_the_other(beamline: Any) -> None:
    line = beamline(area(20.0, broken_at=4), spectrometer(20.0))
    with pytest.raises(FailedStatus):
        line.run(30.0)

    (stop,) = line.named("stop")
    assert stop["exit_status"] == "fail"
    assert "the detector's power supply is off" in stop["reason"]
    _, images, end = line.recorded("saxs")
    assert len(images) == 4
    assert end == StreamEnd("saxs", "run-1", 4, "failed: the detector's power supply is off")
    _, _, end = line.recorded("absorbance")
    assert end is not None
    assert "power supply" in end.reason


def test_an_abort_by_the_run_engine_closes_the_streams(beamline: Any) -> None:
    line = beamline(area(20.0))
    timer = threading.Timer(0.5, line.engine.abort)
    timer.start()
    with pytest.raises(RunEngineInterrupted):
        line.run(30.0)
    assert line.named("stop")[0]["exit_status"] == "abort"
    _, _, end = line.recorded("saxs")
    assert end is not None


def test_documents_read_back_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    reader = DocumentReader(path)
    assert reader.read_new() == []
    file = DocumentFile(path)
    file("start", {"uid": "a", "value": np.float64(1.5), "shape": np.arange(2)})
    assert reader.read_new() == [("start", {"uid": "a", "value": 1.5, "shape": [0, 1]})]
    with path.open("a") as half:
        half.write('["stop", {"uid"')
    assert reader.read_new() == []
    with path.open("a") as rest:
        rest.write(': "b"}]\nnot json\n')
    with pytest.raises(ValueError, match=r"documents.jsonl:3: expected \[name, document\]"):
        reader.read_new()
    file.close()


def test_coalesced_references_span_what_their_parts_did() -> None:
    def datum(resource: str, start: int, stop: int) -> tuple[str, dict[str, Any]]:
        return "stream_datum", {
            "uid": f"{resource}/{start}",
            "stream_resource": resource,
            "descriptor": "d",
            "indices": {"start": start, "stop": stop},
            "seq_nums": {"start": start + 1, "stop": stop + 1},
        }

    documents = [
        ("start", {}), datum("a", 0, 2), datum("b", 0, 2), datum("a", 2, 5), datum("b", 2, 6),
        ("stop", {}),
    ]  # fmt: skip
    joined = list(coalesce(documents))
    assert [name for name, _ in joined] == ["start", "stream_datum", "stream_datum", "stop"]
    assert joined[1][1]["indices"] == {"start": 0, "stop": 5}
    assert joined[2][1]["seq_nums"] == {"start": 1, "stop": 7}
    # A gap is not bridged.
    apart = list(coalesce([datum("a", 0, 2), datum("a", 3, 4)]))
    assert [each["indices"]["start"] for _, each in apart] == [0, 3]


def test_devices_that_cannot_be_made_are_named() -> None:
    def refusal(**devices: Any) -> str:
        with pytest.raises(DeviceError) as raised:
            make_devices(OphydDevices(**devices))
        return str(raised.value)

    assert "expected a detector" in refusal()
    assert "expected 'package.module:Class', got 'nonsense'" in refusal(saxs="nonsense")
    assert "cannot import 'no_such_package'" in refusal(saxs="no_such_package:Thing")
    assert "expected a subclass" in refusal(saxs="detectors.devices.clock:RunClock")
    options = {"endpoint": "tcp://127.0.0.1:1", "sokcet": "pull"}
    assert "sokcet" in refusal(
        saxs="detectors.hardware.dectris:DectrisStream", saxs_options=options
    )
    ocean = {"dark_file": "d.npy", "reference_file": "r.npy"}
    assert "pip install seabreeze" in refusal(
        absorbance="detectors.hardware.ocean:OceanSpectrometer", absorbance_options=ocean
    )


def dectris_messages(frames: int, lost: frozenset[int] = frozenset()) -> list[bytes]:
    """What a detector of 12 x 10 pixels streams, and what is wrong with some of it."""
    start = StreamStart(
        "x", "series-77", "image", SHAPE, "<u4", {"pixel_mask": np.zeros(SHAPE, np.uint8)}, {}
    )
    series = stream2.series_of(start)
    images = []
    for number in range(frames):
        image = frozen_array(np.full(SHAPE, 1000 + number, "<u4"))
        frame = ImageFrame("x", number, (number + 1) * 10_000_000, 0.009, image)
        (payload,) = payloads_of(frame)
        images.append(stream2.encode_image(facts_of(frame), payload, start, series))
    kept = [image for number, image in enumerate(images) if number not in lost]
    end = stream2.encode_end(StreamEnd("x", "series-77", frames), series)
    return [b"hostile", images[0], stream2.encode_start(start), *kept[:2], b"\xff", *kept[2:], end]


def test_a_dectris_detector_plugs_in(beamline: Any) -> None:
    pusher = zmq.Context.instance().socket(zmq.PUSH)
    port = pusher.bind_to_random_port("tcp://127.0.0.1")

    def detector() -> None:
        for message in dectris_messages(9, lost=frozenset({5})):
            pusher.send(message)

    sender = threading.Thread(target=detector)
    sender.start()
    flyer = DectrisStream(
        endpoint=f"tcp://127.0.0.1:{port}", thickness_cm=0.15, transmission=0.7, start_s=2.0
    )
    line = beamline(flyer)
    line.run(20.0)
    sender.join()
    pusher.close(0)

    start, images, end = line.recorded("saxs")
    assert start.run == "run-1"
    assert start.metadata["thickness_cm"] == 0.15
    assert start.arrays["pixel_mask"].shape == SHAPE
    assert [frame.frame for frame in images] == [0, 1, 2, 3, 4, 6, 7, 8]
    assert [int(frame.image[3, 3]) for frame in images[-3:]] == [1006, 1007, 1008]
    assert images[0].time_ns == 2_010_000_000
    assert images[0].transmission == 0.7
    assert end == StreamEnd("saxs", "run-1", 9, "done")
    # Rubbish before the start, the rest of an old series, rubbish in between.
    assert flyer.rejected == 3


def test_a_dectris_detector_that_is_not_armed_is_said(beamline: Any) -> None:
    line = beamline(DectrisStream(endpoint=endpoint(), arm_timeout_s=0.3))
    with pytest.raises(FailedStatus):
        line.run(5.0)
    assert "is the detector armed" in line.named("stop")[0]["reason"]


def test_an_area_detector_file_is_followed(beamline: Any, tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "ioc.h5"
    zero = 1_000_000_000.0
    written = threading.Event()

    def ioc() -> None:
        """Writes as areaDetector's HDF5 plugin does: SWMR, a flush a frame, one frame lost."""
        with h5py.File(path, "w", libver="latest") as file:
            data = file.create_dataset(
                "/entry/data/data", (0, *SHAPE), "<u2", maxshape=(None, *SHAPE), chunks=(1, *SHAPE)
            )
            attributes = file.create_group("/entry/instrument/NDAttributes")
            number = attributes.create_dataset("NDArrayUniqueId", (0,), "<i4", maxshape=(None,))
            stamp = attributes.create_dataset("NDArrayTimeStamp", (0,), "<f8", maxshape=(None,))
            file.swmr_mode = True
            for row, unique in enumerate((41, 42, 44, 45)):
                for dataset in (data, number, stamp):
                    dataset.resize(row + 1, axis=0)
                data[row] = np.full(SHAPE, unique, "<u2")
                number[row] = unique
                stamp[row] = zero + 0.5 * unique
                file.flush()
                threading.Event().wait(0.1)
            written.wait(20.0)

    writer = threading.Thread(target=ioc)
    writer.start()
    line = beamline(FileFollower(path=str(path), exposure_s=0.4, idle_s=0.8))
    line.run(20.0)
    written.set()
    writer.join()

    start, images, end = line.recorded("saxs")
    assert start.dtype == "<u2"
    assert [frame.frame for frame in images] == [0, 1, 3, 4]
    assert [int(frame.image[0, 0]) for frame in images] == [41, 42, 44, 45]
    steps = np.diff([frame.time_ns for frame in images])
    assert steps.tolist() == [500_000_000, 1_000_000_000, 500_000_000]
    assert end == StreamEnd("saxs", "run-1", 5, "done")
