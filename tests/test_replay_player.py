"""The player, over the real bus: every frame as it was, at the speed that was asked for."""

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pipeline.bus import BadFrame, FrameConsumer, LinkReceiver, LostFrame, SpoolReader, SpoolWriter
from pipeline.config import RunConfig
from pipeline.config.wiring import FrameEndpoints, Wiring
from pipeline.messages import ImageFrame, SpectrumFrame, StreamEnd, StreamStart
from pipeline.replay import Player, ReplayError, open_recording, parse_speed

RNG = np.random.default_rng(11)


def write_recording(folder, period_ns=20_000_000):
    """Ten images with a hole, thirty spectra three times as fast."""
    folder.mkdir()
    start = StreamStart("saxs", "r1", "image", (16, 16), "<u4", {}, {"poni": "Distance: 1\n"})
    with SpoolWriter(folder / "saxs.h5", start) as spool:
        for i in (0, 1, 2, 3, 5, 6, 7, 8, 9):
            image = RNG.poisson(50, (16, 16)).astype("<u4")
            spool.append(ImageFrame("saxs", i, 3 * period_ns * (i + 1), 0.05, image, 1 + i / 99))
        spool.flush()
        spool.close(StreamEnd("saxs", "r1", 10))
    axes = {n: np.linspace(1, 2, 8) for n in ("wavelength_nm", "dark", "reference")}
    start = StreamStart("absorbance", "r1", "counts", (8,), "<f8", axes, {})
    with SpoolWriter(folder / "absorbance.h5", start) as spool:
        for i in range(30):
            spool.append(
                SpectrumFrame("absorbance", i, period_ns * (i + 1) + 7, 0.01, RNG.random(8))
            )
        spool.flush()
        spool.close(StreamEnd("absorbance", "r1", 30))
    (folder / "run.json").write_text(
        json.dumps({"run": "r1", "config": "name: x\n", "start": {"uid": "u1"}, "stop": {}})
    )


class Store:
    """The store's end of the link: remembers the documents."""

    def __init__(self):
        self.documents = []

    def on_document(self, document):
        self.documents.append(document)


class Listener(threading.Thread):
    """Takes all messages of a stream, and says that it has them."""

    def __init__(self, endpoints):
        super().__init__()
        self.endpoints = endpoints
        self.messages, self.heard = [], []
        self.start()

    def run(self):
        deadline = time.monotonic() + 60
        with FrameConsumer(self.endpoints) as consumer:
            while not consumer.finished and time.monotonic() < deadline:
                message = consumer.next(0.2)
                if message is not None:
                    self.messages.append(message)
                    self.heard.append(time.monotonic())
            consumer.done()

    @property
    def frames(self):
        return self.messages[1:-1]


@pytest.fixture
def wiring(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("name: again\n")
    return Wiring(
        run="r2",
        config_file=config,
        recording_dir=tmp_path / "replayed",
        frames={
            name: FrameEndpoints(
                live=f"ipc://{tmp_path}/{name}-live", repair=f"ipc://{tmp_path}/{name}-repair"
            )
            for name in ("saxs", "absorbance")
        },
        store=f"ipc://{tmp_path}/store",
        tiled_url="http://127.0.0.1:1",
    )


def play(recording, wiring, speed, stop=None):
    store = Store()
    with LinkReceiver(wiring.store, None, store):
        listeners = {name: Listener(wiring.frames[name]) for name in recording.streams}
        error = None
        try:
            Player(recording, wiring, RunConfig(name="again"), speed, stop).run()
        except ReplayError as caught:
            error = caught
        for listener in listeners.values():
            listener.join()
    return listeners, store.documents, error


def facts(frame):
    if isinstance(frame, LostFrame):
        return frame.frame, "lost"
    array = frame.image if isinstance(frame, ImageFrame) else frame.values
    monitor = getattr(frame, "monitor", None)
    return frame.frame, frame.time_ns, frame.exposure_s, monitor, array.tobytes()


@pytest.mark.parametrize("speed", [float("inf"), 4.0])
def test_replay_is_bit_for_bit_the_recording_at_any_speed(tmp_path, wiring, speed):
    write_recording(tmp_path / "original")
    recording = open_recording(tmp_path / "original")
    listeners, documents, error = play(recording, wiring, speed)
    assert error is None
    for name, listener in listeners.items():
        start, end = listener.messages[0], listener.messages[-1]
        assert isinstance(start, StreamStart)
        assert start.run == "r2"
        assert end == StreamEnd(name, "r2", {"saxs": 10, "absorbance": 30}[name])
        original = [facts(f) for f in recording.streams[name].frames()]
        if name == "saxs":
            original.insert(4, (4, "lost"))
        assert [facts(f) for f in listener.frames] == original
    assert [d.name for d in documents] == ["start", "stop"]
    start, stop = (d.document for d in documents)
    assert start["replay_of"]["content_hash"] == recording.content_hash()
    assert start["replay_of"]["start"] == {"uid": "u1"}
    assert start["streams"] == ["absorbance", "saxs"]
    assert start["config_text"] == "name: again\n"
    assert stop["run_start"] == start["uid"]
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"saxs": 9, "absorbance": 30}


def test_frames_of_both_streams_are_interleaved_by_their_own_clocks(tmp_path, wiring):
    write_recording(tmp_path / "original")
    player = Player(open_recording(tmp_path / "original"), wiring, RunConfig())
    player.speed = float("inf")
    times = [frame.time_ns for frame in player._paced()]
    assert times == sorted(times)
    assert len(times) == 39


def test_pace_follows_the_recording(tmp_path, wiring):
    write_recording(tmp_path / "original")
    player = Player(open_recording(tmp_path / "original"), wiring, RunConfig(), speed=2.0)
    began = time.monotonic()
    for frame in player._paced():
        # Never early; how late depends on the machine.
        assert time.monotonic() - began >= (frame.time_ns - 20_000_007) * 1e-9 / 2 - 1e-3


def test_what_was_played_can_be_replayed(tmp_path, wiring):
    write_recording(tmp_path / "original")
    recording = open_recording(tmp_path / "original")
    play(recording, wiring, float("inf"))
    again = open_recording(wiring.recording_dir)
    assert again.start_document["replay_of"]["name"] == "r1"
    assert again.config_text == "name: again\n"
    for name, source in again.streams.items():
        assert [facts(f) for f in source.frames()] == [
            facts(f) for f in recording.streams[name].frames()
        ]
    with pytest.raises(ReplayError, match="a replay needs a folder of its own"):
        Player(recording, wiring, RunConfig())


def test_the_original_is_never_written_to(tmp_path, wiring):
    write_recording(tmp_path / "original")
    before = {p.name: p.read_bytes() for p in (tmp_path / "original").iterdir()}
    play(open_recording(tmp_path / "original"), wiring, float("inf"))
    assert {p.name: p.read_bytes() for p in (tmp_path / "original").iterdir()} == before


def test_damage_in_the_middle_ends_the_streams_and_is_told(tmp_path, wiring):
    for i in range(5):
        (tmp_path / f"c_{i}.dat").write_text("0.1 1\n0.2 2\n" if i != 3 else "0.1 1\n0.2 x\n")
    from pipeline.config.replay import ReplayFormat

    recording = open_recording(
        tmp_path, ReplayFormat(format="curves", q_unit="1/nm", files="c_*.dat")
    )
    listeners, documents, error = play(recording, wiring, float("inf"))
    assert "c_3.dat:2: expected numbers, got 'x'" in str(error)
    assert len(listeners["saxs"].frames) == 3
    assert "c_3.dat" in listeners["saxs"].messages[-1].reason
    assert documents[-1].document["exit_status"] == "fail"


def test_stopping_early_ends_the_streams_where_they_are(tmp_path, wiring):
    write_recording(tmp_path / "original", period_ns=10_000_000_000)
    stop = threading.Event()
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    listeners, documents, error = play(open_recording(tmp_path / "original"), wiring, 1.0, stop)
    assert error is None
    assert not any(isinstance(m, BadFrame) for x in listeners.values() for m in x.messages)
    assert len(listeners["absorbance"].frames) == 1
    assert listeners["absorbance"].messages[-1].reason == "stopped"
    assert documents[-1].document["exit_status"] == "abort"


def test_streams_that_are_not_wired_are_left_out(tmp_path, wiring):
    write_recording(tmp_path / "original")
    only = {"saxs": wiring.frames["saxs"]}
    player = Player(
        open_recording(tmp_path / "original"), wiring.model_copy(update={"frames": only}),
        RunConfig(),
    )  # fmt: skip
    assert list(player.sources) == ["saxs"]
    with pytest.raises(ReplayError, match="none of which is wired"):
        Player(
            open_recording(tmp_path / "original"), wiring.model_copy(update={"frames": {}}),
            RunConfig(),
        )  # fmt: skip


@pytest.mark.parametrize("text", ["0", "-1", "fast", "nan", "inf"])
def test_speed_is_a_number_above_zero_or_max(text):
    with pytest.raises(ReplayError, match="expected max or a number above 0"):
        parse_speed(text)
    assert parse_speed("max") == float("inf")
    assert parse_speed("2.5") == 2.5


def run_process(wiring, folder, *arguments):
    file = wiring.recording_dir.parent / "wiring.json"
    file.write_text(wiring.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.replay", "--wiring", file, *arguments, "--", folder],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_process_returns_zero_when_all_is_stored(tmp_path, wiring):
    write_recording(tmp_path / "original")
    store = Store()
    with LinkReceiver(wiring.store, None, store):
        with run_process(wiring, tmp_path / "original", "--speed", "max") as process:
            listeners = [Listener(e) for e in wiring.frames.values()]
            _, errors = process.communicate(timeout=60)
        for listener in listeners:
            listener.join()
    assert process.returncode == 0, errors
    assert [len(x.frames) for x in listeners] == [10, 30]
    assert [d.name for d in store.documents] == ["start", "stop"]
    with SpoolReader(wiring.recording_dir / "saxs.h5") as spool:
        assert spool.end == StreamEnd("saxs", "r2", 10)


def test_process_says_what_is_wrong_in_one_line(tmp_path, wiring):
    with run_process(wiring, tmp_path / "none") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().endswith("none: no such file or folder")
    assert len(errors.strip().splitlines()) == 1
