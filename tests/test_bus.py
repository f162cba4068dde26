"""Frames from publisher to consumer: all of them, once, in order, whatever is killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.auth

from pipeline.bus import (
    BadFrame,
    FrameConsumer,
    FramePublisher,
    LostFrame,
    RepairServer,
    SpoolError,
    SpoolReader,
)
from pipeline.bus.sockets import Sockets, check_endpoint
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints
from pipeline.messages import CurveFrame, ImageFrame, SpectrumFrame, StreamEnd, StreamStart

BUS = Bus(repair_timeout_s=0.5, idle_ask_s=0.05)
SHAPE = (64, 48)


def free_endpoints() -> FrameEndpoints:
    ports = []
    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
            ports.append(sock.getsockname()[1])
    return FrameEndpoints(live=f"tcp://127.0.0.1:{ports[0]}", repair=f"tcp://127.0.0.1:{ports[1]}")


def image_start(run="run-1", shape=SHAPE) -> StreamStart:
    mask = np.zeros(shape, "<u4")
    mask[3, 5] = 1
    return StreamStart("saxs", run, "image", shape, "<u4", {"pixel_mask": mask}, {"a": [1, "b"]})


def image(number: int, shape=SHAPE) -> ImageFrame:
    """A frame whose pixels tell its number."""
    pixels = np.random.default_rng(number).poisson(3, shape).astype("<u4")
    return ImageFrame("saxs", number, number * 500_000_001, 0.5, pixels, 0.9 + number * 1e-3, 0.8)


def collect(consumer: FrameConsumer, timeout_s=30.0) -> list:
    """All that a consumer delivers, to the end."""
    received, deadline = [], time.monotonic() + timeout_s
    while not consumer.finished:
        item = consumer.next(0.5)
        if item is not None:
            received.append(item)
        assert time.monotonic() < deadline, (received[-1:], consumer.counters)
    return received


def numbers(received: list) -> list[int]:
    return [item.frame for item in received if not isinstance(item, StreamStart | StreamEnd)]


def wait_until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_frame_arrives_as_it_was(tmp_path):
    endpoints = free_endpoints()
    with FramePublisher(image_start(), tmp_path / "saxs.h5", endpoints, BUS) as publisher:
        with FrameConsumer(endpoints, BUS) as consumer:
            received = []
            for number in range(20):
                publisher.publish(image(number))
                received.append(consumer.next(5))
            end = publisher.finish("ran dry")
            received += collect(consumer)
            consumer.done()
        assert publisher.wait_done(1, timeout_s=5)
    start, *frames, last = received
    assert (start.stream, start.run, start.kind, start.shape) == ("saxs", "run-1", "image", SHAPE)
    assert start.arrays["pixel_mask"][3, 5] == 1
    assert start.metadata == {"a": [1, "b"]}
    assert last == end == StreamEnd("saxs", "run-1", 20, "ran dry")
    for number, frame in enumerate(frames):
        sent = image(number)
        assert frame.image.tobytes() == sent.image.tobytes()
        assert not frame.image.flags.writeable
        assert (frame.frame, frame.time_ns, frame.exposure_s, frame.monitor) == (
            number,
            sent.time_ns,
            sent.exposure_s,
            sent.monitor,
        )


@pytest.mark.parametrize("kind", ["counts", "absorbance", "curve"])
def test_spectra_and_curves_are_exact_floats(tmp_path, kind):
    axis = np.linspace(0.1, 6, 300)
    axis_name = "q_per_nm" if kind == "curve" else "wavelength_nm"
    start = StreamStart("s", "run", kind, (300,), "<f8", {axis_name: axis}, {"x": None})
    rng = np.random.default_rng(0)
    lines = rng.normal(size=(8, 2, 300))
    lines[3, 1, :] = np.nan
    frames = [
        CurveFrame("s", n, -5 + n, 0.1, lines[n, 0], lines[n, 1])
        if kind == "curve"
        else SpectrumFrame("s", n, -5 + n, 0.1, lines[n, 0])
        for n in range(8)
    ]
    endpoints = free_endpoints()
    with FramePublisher(start, tmp_path / "s.h5", endpoints, BUS) as publisher:
        for frame in frames[:4]:
            publisher.publish(frame)  # before the consumer is there: out of the recording
        with FrameConsumer(endpoints, BUS) as consumer:
            first = consumer.next(5)
            assert isinstance(first, StreamStart)
            assert first.arrays[axis_name].tobytes() == axis.tobytes()
            for frame in frames[4:]:
                publisher.publish(frame)
            publisher.finish()
            received = collect(consumer)
    assert numbers(received) == list(range(8))
    for n, frame in enumerate(received[:-1]):
        got = (frame.intensity, frame.sigma) if kind == "curve" else (frame.values,)
        for line, values in zip(lines[n], got, strict=False):
            assert values.tobytes() == line.tobytes()
        assert (frame.time_ns, frame.exposure_s) == (-5 + n, 0.1)


def test_consumer_may_be_there_first_and_publisher_alone(tmp_path):
    endpoints = free_endpoints()
    with FrameConsumer(endpoints, BUS) as consumer:
        assert consumer.next(0.2) is None
        with FramePublisher(image_start(), tmp_path / "saxs.h5", endpoints, BUS) as publisher:
            for number in range(5):
                publisher.publish(image(number))
            publisher.finish()
            assert numbers(collect(consumer)) == [0, 1, 2, 3, 4]


def test_lost_tail_is_noticed_without_another_frame(tmp_path):
    """The last frames go out while the consumer is not connected to the live socket at all."""
    endpoints = free_endpoints()
    deaf = FrameEndpoints(live=free_endpoints().live, repair=endpoints.repair)
    with (
        FramePublisher(image_start(), tmp_path / "saxs.h5", endpoints, BUS) as publisher,
        FrameConsumer(deaf, BUS) as consumer,
    ):
        assert isinstance(consumer.next(5), StreamStart)
        for number in range(9):
            publisher.publish(image(number))
        assert [consumer.next(5).frame for _ in range(9)] == list(range(9))
        assert consumer.counters["repaired"] == 9
        publisher.finish()
        assert isinstance(consumer.next(5), StreamEnd)
        assert consumer.next(0.01) is None


def test_frames_that_were_not_taken_are_lost_and_named(tmp_path):
    endpoints = free_endpoints()
    with (
        FramePublisher(image_start(), tmp_path / "saxs.h5", endpoints, BUS) as publisher,
        FrameConsumer(endpoints, BUS) as consumer,
    ):
        for number in (0, 1, 4, 5, 9):
            publisher.publish(image(number))
        end = publisher.finish(frames=12)  # 10 and 11 were given out too
        received = collect(consumer)
    assert end.frames == 12
    assert numbers(received) == list(range(12))
    assert [item.frame for item in received if isinstance(item, LostFrame)] == [
        2,
        3,
        6,
        7,
        8,
        10,
        11,
    ]
    assert consumer.counters["lost"] == 7


def test_frame_damaged_in_the_file_is_reported_not_fatal(tmp_path):
    endpoints, path = free_endpoints(), tmp_path / "saxs.h5"
    with FramePublisher(image_start(), path, endpoints, BUS) as publisher:
        for number in range(4):
            publisher.publish(image(number))
        publisher.finish()
    with SpoolReader(path) as reader:
        payload = reader.read_payload(2)
    content = path.read_bytes()
    at = content.index(payload)
    broken = bytearray(content)
    broken[at + 16 : at + 600] = b"\xff" * 584
    path.write_bytes(bytes(broken))
    with (
        RepairServer(path, endpoints.repair, BUS),
        FrameConsumer(endpoints, BUS) as consumer,
    ):
        received = collect(consumer)
    bad = [item for item in received if isinstance(item, BadFrame)]
    assert numbers(received) == [0, 1, 2, 3]
    assert [item.frame for item in bad] == [2]
    assert "saxs frame 2" in bad[0].reason


def test_first_frame_and_a_recording_served_alone(tmp_path):
    endpoints, path = free_endpoints(), tmp_path / "saxs.h5"
    with FramePublisher(image_start(), path, endpoints, BUS) as publisher:
        for number in range(10):
            publisher.publish(image(number))
        publisher.finish()
    with RepairServer(path, endpoints.repair, BUS) as server:
        with FrameConsumer(endpoints, BUS, first_frame=7) as consumer:
            assert numbers(collect(consumer)) == [7, 8, 9]
        with FrameConsumer(endpoints, BUS, first_frame=10) as consumer:
            assert [type(item) for item in collect(consumer)] == [StreamStart, StreamEnd]
        assert server.counters["repaired"] == 3


def test_memory_of_a_consumer_far_behind_is_bounded(tmp_path):
    endpoints = free_endpoints()
    with (
        FramePublisher(image_start(), tmp_path / "saxs.h5", endpoints, BUS) as publisher,
        FrameConsumer(endpoints, BUS) as consumer,
    ):
        assert isinstance(consumer.next(5), StreamStart)
        for number in range(300):
            publisher.publish(image(number))
        publisher.finish()
        received = []
        while not consumer.finished:
            item = consumer.next(5)
            if item is not None:
                received.append(item)
            held = len(consumer._waiting) + len(consumer._verdicts)
            assert held <= BUS.live_high_water_mark + BUS.repair_credit
            assert sum(ask == "frame" for ask, _ in consumer._asked) <= BUS.repair_credit
    assert numbers(received) == list(range(300))


CONSUMER = """
import sys, time
from pathlib import Path
from pipeline.bus import FrameConsumer
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints
live, repair, out, delay = sys.argv[1:]
out = Path(out)
# What is stored is known by what is in the file: the place of a frame is its number.
done = len(out.read_text().splitlines()) if out.exists() else 0
bus = Bus(repair_timeout_s=0.5, idle_ask_s=0.05)
with FrameConsumer(FrameEndpoints(live=live, repair=repair), bus, first_frame=done) as consumer:
    with out.open("a") as file:
        while not consumer.finished:
            item = consumer.next(0.5)
            if hasattr(item, "image"):
                time.sleep(float(delay))
                file.write(f"{item.frame} {int(item.image.sum())}\\n")
                file.flush()
    consumer.done()
"""


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": root}


def start_consumer(endpoints: FrameEndpoints, out: Path, delay_s: float) -> subprocess.Popen:
    arguments = [endpoints.live, endpoints.repair, str(out), str(delay_s)]
    return subprocess.Popen([sys.executable, "-c", CONSUMER, *arguments], env=environment())


def test_400_frames_through_a_slow_consumer_that_is_killed(tmp_path):
    """The consumer takes longer than the publisher, is killed, and misses nothing."""
    endpoints, out = free_endpoints(), tmp_path / "stored.txt"
    with FramePublisher(image_start(), tmp_path / "saxs.h5", endpoints, BUS) as publisher:

        def publish():
            for number in range(400):
                publisher.publish(image(number))
                time.sleep(0.002)
            publisher.finish()

        def stored() -> int:
            return len(out.read_text().splitlines()) if out.exists() else 0

        thread = threading.Thread(target=publish)
        thread.start()
        process = start_consumer(endpoints, out, 0.005)
        wait_until(lambda: stored() >= 60, 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        # A line that was cut short would be a frame half stored: such a store must repair it.
        text = out.read_text()
        out.write_text(text[: text.rfind("\n") + 1])
        process = start_consumer(endpoints, out, 0.0)
        thread.join()
        assert publisher.wait_done(1, timeout_s=60)
        assert process.wait(30) == 0
    lines = [tuple(map(int, line.split())) for line in out.read_text().splitlines()]
    assert lines == [(number, int(image(number).image.sum())) for number in range(400)]


PUBLISHER = """
import sys, time
sys.path.insert(0, sys.argv[5])
from test_bus import BUS, image, image_start
from pipeline.bus import FramePublisher
from pipeline.config.wiring import FrameEndpoints
live, repair, path, count = sys.argv[1:5]
with FramePublisher(image_start(), path, FrameEndpoints(live=live, repair=repair), BUS) as p:
    print(p.next_frame, flush=True)
    for number in range(p.next_frame, int(count)):
        p.publish(image(number))
        time.sleep(0.01)
    p.finish()
    p.wait_done(1, 60)
"""


def start_publisher(endpoints: FrameEndpoints, path: Path, count: int) -> subprocess.Popen:
    arguments = [endpoints.live, endpoints.repair, str(path), str(count)]
    command = [sys.executable, "-c", PUBLISHER, *arguments, str(Path(__file__).parent)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)


def test_publisher_that_is_killed_takes_its_recording_up_again(tmp_path):
    endpoints, path = free_endpoints(), tmp_path / "saxs.h5"
    process = start_publisher(endpoints, path, 1000)
    with FrameConsumer(endpoints, BUS) as consumer:
        received = []
        while len(received) < 60:
            item = consumer.next(10)
            assert item is not None
            received.append(item)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with SpoolReader(path) as reader:
            assert reader.end is None
            recorded = reader.last_frame
        assert recorded >= 58
        process = start_publisher(endpoints, path, recorded + 40)
        received += collect(consumer, 60)
        consumer.done()
        output, _ = process.communicate(timeout=30)
        assert (process.returncode, int(output)) == (0, recorded + 1)
    assert numbers(received) == list(range(recorded + 40))
    for item in received[1:-1]:
        assert item.image.tobytes() == image(item.frame).image.tobytes()


def test_publisher_refuses_a_recording_that_is_not_its_own(tmp_path):
    path = tmp_path / "saxs.h5"
    with FramePublisher(image_start("run-1"), path, free_endpoints(), BUS) as publisher:
        publisher.publish(image(0))
        with pytest.raises(SpoolError, match="being written by another process"):
            FramePublisher(image_start("run-1"), path, free_endpoints(), BUS)
    with pytest.raises(SpoolError, match=r"expected run run-2 .* got the recording of run run-1"):
        FramePublisher(image_start("run-2"), path, free_endpoints(), BUS)
    with FramePublisher(image_start("run-1"), path, free_endpoints(), BUS) as publisher:
        assert publisher.next_frame == 1
        publisher.finish()
    with pytest.raises(SpoolError, match="complete recording"):
        FramePublisher(image_start("run-1"), path, free_endpoints(), BUS)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:5560",
        "tcp://*:5560",
        "tcp://192.168.1.4:5560",
        "tcp://eth0:1",
        "tcp://[::]:1",
    ],
)
def test_only_loopback_without_keys(tmp_path, endpoint):
    endpoints = FrameEndpoints(live=endpoint, repair="tcp://127.0.0.1:*")
    with pytest.raises(ValueError, match=r"bind to 127\.0\.0\.1, or set bus\.curve_keys"):
        FramePublisher(image_start(), tmp_path / "saxs.h5", endpoints, BUS)
    check_endpoint(endpoint, secured=True)


def test_loopback_endpoints_are_allowed():
    for endpoint in ("tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1", "ipc:///tmp/x"):
        check_endpoint(endpoint, secured=False)
    with pytest.raises(ValueError, match="expected tcp://"):
        check_endpoint("udp://127.0.0.1:1", secured=False)


def make_keys(folder: Path) -> tuple[Path, Path, Path]:
    """Folders of a server, of a client that it knows, and of one that it does not."""
    server, known, stranger = folder / "server", folder / "known", folder / "stranger"
    for place in (server / "clients", known, stranger):
        place.mkdir(parents=True)
    public, _ = zmq.auth.create_certificates(server, "server")
    for client in (known, stranger):
        zmq.auth.create_certificates(client, "client")
        (client / "server.key").write_bytes(Path(public).read_bytes())
    (server / "clients" / "beamline.key").write_bytes((known / "client.key").read_bytes())
    return server, known, stranger


def test_with_keys_only_known_clients_get_frames(tmp_path):
    server, known, stranger = make_keys(tmp_path / "keys")
    endpoints = free_endpoints()

    def keyed(folder: Path) -> Bus:
        return BUS.model_copy(update={"curve_keys": str(folder)})

    with FramePublisher(image_start(), tmp_path / "saxs.h5", endpoints, keyed(server)) as publisher:
        publisher.publish(image(0))
        for bus in (BUS, keyed(stranger)):
            with FrameConsumer(endpoints, bus) as consumer:
                assert consumer.next(0.7) is None
        with FrameConsumer(endpoints, keyed(known)) as consumer:
            assert isinstance(consumer.next(10), StreamStart)
            assert consumer.next(10).image.tobytes() == image(0).image.tobytes()
            publisher.publish(image(1))
            publisher.finish()
            assert numbers(collect(consumer)) == [1]


def test_missing_keys_are_named(tmp_path):
    server, _, _ = make_keys(tmp_path / "keys")
    (server / "server.key_secret").unlink()
    bus = BUS.model_copy(update={"curve_keys": str(server)})
    sockets = Sockets(bus)
    with pytest.raises(ValueError, match=r"server\.key_secret: expected a CURVE key"):
        sockets.bind(zmq.PUB, "tcp://127.0.0.1:*")
    sockets.close()
    for key in (server / "clients").glob("*.key"):
        key.unlink()
    sockets = Sockets(bus)
    with pytest.raises(ValueError, match="expected public keys of clients"):
        sockets.bind(zmq.PUB, "tcp://127.0.0.1:*")
    sockets.close()
