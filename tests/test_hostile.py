"""One corpus of hostile bytes against every socket. The invariant: it still delivers afterwards."""

import os
import pickle
import random
import socket
import struct
import time

import cbor2
import msgpack
import numpy as np
import pytest
import zmq

from pipeline.bus import (
    FrameConsumer,
    FramePublisher,
    LinkReceiver,
    LinkRefusedError,
    LinkSender,
    bslz4,
    wire,
)
from pipeline.bus.sockets import MAX_REQUEST_BYTES
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints
from pipeline.messages import (
    Curve,
    FrameResults,
    ImageFrame,
    RunStart,
    StreamEnd,
    StreamStart,
)

BUS = Bus(repair_timeout_s=0.5, idle_ask_s=0.05)
SHAPE = (16, 12)
START = StreamStart("saxs", "run-1", "image", SHAPE, "<u4")


class Bomb:
    """Unpickling it would be seen."""

    def __reduce__(self):
        return os.mkdir, (f"/tmp/nucleate-unpickled-{os.getpid()}",)


def image(number: int) -> ImageFrame:
    pixels = np.full(SHAPE, number, "<u4")
    return ImageFrame("saxs", number, number * 10**9, 0.5, pixels)


def cbor_image(**changes) -> bytes:
    fields = cbor2.loads(wire.encode_frame(image(1), START)[0][3:])
    return b"\xd9\xd9\xf7" + cbor2.dumps({**fields, **changes})


def array_item(shape, payload: bytes, tag=70) -> dict:
    content = cbor2.CBORTag(56500, ["bslz4", 4, payload])
    return {"threshold_1": cbor2.CBORTag(40, [list(shape), cbor2.CBORTag(tag, content)])}


def corpus() -> dict[str, list[bytes]]:
    """Messages by name. Those that look most like ours come last."""
    rng = random.Random(1)
    good = wire.encode_frame(image(1), START)[0]
    bomb = struct.pack(">QI", 2**60, 8192) + bytes(64)
    ours = {"type": "results", "session": "s", "seq": 0}
    messages = {
        "nothing": [b""],
        "many empty parts": [b""] * 50,
        "random": [rng.randbytes(200)],
        "random parts": [rng.randbytes(n) for n in (0, 1, 7, 900)],
        "pickle": [pickle.dumps(Bomb())],
        "pickle after a good header": [msgpack.packb(ours), pickle.dumps(Bomb())],
        "msgpack extension": [msgpack.packb(msgpack.ExtType(5, pickle.dumps(Bomb())))],
        "msgpack too deep": [b"\x91" * 5000 + b"\x01"],
        "msgpack huge array": [b"\xdd\xff\xff\xff\xff"],
        "msgpack huge map": [b"\xdf\xff\xff\xff\xff"],
        "msgpack huge bytes": [b"\xc6\xff\xff\xff\xff"],
        "msgpack list": [msgpack.packb([1, 2])],
        "msgpack int keys": [msgpack.packb({1: 2})],
        "json": [b'{"ask": "start"}'],
        "cbor too deep": [b"\xd9\xd9\xf7" + b"\x81" * 5000 + b"\x01"],
        "cbor huge array": [b"\xd9\xd9\xf7\x9b" + b"\x7f" * 8],
        "cbor huge bytes": [b"\xd9\xd9\xf7\xa1\x64type\x5b" + b"\x7f" * 8],
        "cbor huge map": [b"\xd9\xd9\xf7\xbb" + b"\x7f" * 8],
        "cbor int": [b"\xd9\xd9\xf7\x01"],
        "cbor bignum": [b"\xd9\xd9\xf7\xa1\x64type\xc2\x58\xff" + b"\xff" * 255],
        "cbor decimal": [b"\xd9\xd9\xf7\xa1\x64type\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01"],
        "cbor regular expression": [b"\xd9\xd9\xf7\xa1\x64type\xd8\x23\x68(a+)+(b+"],
        "cbor of itself": [b"\xd9\xd9\xf7\xd8\x1c\xa1\x64type\xd8\x1d\x00"],
        "cut": [good[: len(good) // 2]],
        "longer": [good + b"more"],
        "two parts": [good, good],
        "other run": [cbor_image(series_unique_id="run-0")],
        "other shape": [cbor_image(data=array_item((9, 9), bslz4.compress(np.ones((9, 9), "u4"))))],
        "wrong tag": [cbor_image(data=array_item(SHAPE, bomb, tag=78))],
        "decompression bomb": [cbor_image(data=array_item(SHAPE, bomb))],
        "shape bomb": [cbor_image(data=array_item((2**40, 2**20), bomb))],
        "number beyond all": [cbor_image(image_id=2**63 - 1)],
        "number from the future": [cbor_image(image_id=2**61)],
        "false start": [cbor_image(type="start")],
        "false end": wire.encode_end(StreamEnd("saxs", "run-1", 2**40), START),
        "ask for nonsense": [msgpack.packb({"ask": "frames"})],
        "ask for no frame": [msgpack.packb({"ask": "frame", "frame": -1})],
        "ask for a frame of text": [msgpack.packb({"ask": "frame", "frame": "1"})],
        "ask for a frame beyond 64 bits": [msgpack.packb({"ask": "frame", "frame": 2**64 - 1})],
        "answer that nobody asked for": [
            msgpack.packb({"re": "frame", "frame": 0, "state": "ok", "reason": "",
                           "run": "run-1", "latest": 2**60, "frames": 2**60}), good],
        "envelope without a body": [msgpack.packb(ours)],
        "results never opened": [msgpack.packb(ours), msgpack.packb({"run": "run-1"})],
        "bad opening": [msgpack.packb({**ours, "type": "open"}), msgpack.packb({"nodes": 3})],
        "gap": [msgpack.packb({**ours, "seq": 2**63})],
        "session without end": [msgpack.packb({**ours, "session": "s" * 100000})],
        "message of another kind": [msgpack.packb({**ours, "type": "shutdown"}), b"\x80"],
    }  # fmt: skip
    return messages


def endpoints_of(*sockets_kinds: int) -> list[str]:
    result = []
    for _ in sockets_kinds:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            result.append(f"tcp://127.0.0.1:{sock.getsockname()[1]}")
    return result


def shoot_tcp(endpoint: str) -> None:
    """Bytes that are not even ZMQ, and connections that never say a word or stop in between."""
    host, _, port = endpoint.removeprefix("tcp://").partition(":")
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    for content in (
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        random.Random(2).randbytes(4096),
        b"\xff" * 4096,
        greeting[:30],
        greeting,
        greeting + b"\x02" + struct.pack(">Q", 2**62) + b"x",  # a message of 4 EB is announced
        greeting + b"\x04\xff" + b"\xff" * 300,
    ):
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.sendall(content)


def shoot(kind: int, endpoint: str, repeats: int = 2) -> None:
    """The whole corpus at a bound socket."""
    with zmq.Context() as context, context.socket(kind) as attacker:
        attacker.linger = 2000
        attacker.connect(endpoint)
        for _ in range(repeats):
            for message in corpus().values():
                attacker.send_multipart(message)
        time.sleep(0.2)
    shoot_tcp(endpoint)


@pytest.fixture(autouse=True)
def nothing_was_unpickled():
    yield
    assert not os.path.exists(f"/tmp/nucleate-unpickled-{os.getpid()}")


def drain(consumer: FrameConsumer, timeout_s=30.0) -> list:
    received, deadline = [], time.monotonic() + timeout_s
    while not consumer.finished:
        item = consumer.next(0.2)
        if item is not None:
            received.append(item)
        assert time.monotonic() < deadline, (received, consumer.counters, consumer.last_rejection)
    return received


def assert_all(received: list, count: int) -> None:
    assert isinstance(received[0], StreamStart)
    assert received[-1] == StreamEnd("saxs", "run-1", count, "done")
    for number, frame in enumerate(received[1:-1]):
        assert isinstance(frame, ImageFrame), frame
        assert (frame.frame, int(frame.image[0, 0])) == (number, number)
    assert len(received) == count + 2


def test_publisher_and_repair_survive(tmp_path):
    live, repair = endpoints_of(zmq.PUB, zmq.ROUTER)
    endpoints = FrameEndpoints(live=live, repair=repair)
    with FramePublisher(START, tmp_path / "saxs.h5", endpoints, BUS) as publisher:
        publisher.publish(image(0))
        shoot(zmq.DEALER, repair)
        shoot_tcp(live)
        with FrameConsumer(endpoints, BUS) as consumer:
            for number in range(1, 10):
                publisher.publish(image(number))
            shoot(zmq.DEALER, repair)
            publisher.finish()
            assert_all(drain(consumer), 10)
        # libzmq itself drops a connection that announces too much, and what was queued on it.
        assert publisher.counters["bad_requests"] > 20


def test_a_client_that_asks_and_never_reads_is_not_waited_for(tmp_path):
    live, repair = endpoints_of(zmq.PUB, zmq.ROUTER)
    endpoints = FrameEndpoints(live=live, repair=repair)
    with (
        FramePublisher(START, tmp_path / "saxs.h5", endpoints, BUS) as publisher,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as greedy,
    ):
        greedy.linger, greedy.rcvhwm = 0, 1
        greedy.connect(repair)
        publisher.publish(image(0))
        for _ in range(5000):
            greedy.send(msgpack.packb({"ask": "frame", "frame": 0}))
        with FrameConsumer(endpoints, BUS) as consumer:
            publisher.finish()
            assert_all(drain(consumer), 1)


def test_consumer_survives_a_hostile_live_socket(tmp_path):
    """The live socket is an attacker's; the repair is ours."""
    live, repair, unused = endpoints_of(zmq.PUB, zmq.ROUTER, zmq.PUB)
    published = FrameEndpoints(live=unused, repair=repair)
    with (
        FramePublisher(START, tmp_path / "saxs.h5", published, BUS) as publisher,
        zmq.Context() as context,
        context.socket(zmq.PUB) as attacker,
    ):
        attacker.linger = 0
        attacker.bind(live)
        with FrameConsumer(FrameEndpoints(live=live, repair=repair), BUS) as consumer:
            received = []
            messages = list(corpus().values())
            for number in range(len(messages)):
                publisher.publish(image(number))
                for message in (messages[number], messages[-number]):
                    attacker.send_multipart(message)
                item = consumer.next(0.05)
                if item is not None:
                    received.append(item)
            publisher.finish()
            received += drain(consumer)
            assert_all(received, len(messages))
            assert consumer.counters["rejected_live"] > 10
            assert consumer.last_rejection


def test_consumer_survives_a_hostile_repair_socket(tmp_path):
    """An attacker answers all requests with the corpus, then goes; the true one takes over."""
    live, repair = endpoints_of(zmq.PUB, zmq.ROUTER)
    endpoints = FrameEndpoints(live=live, repair=repair)
    with FrameConsumer(endpoints, BUS) as consumer:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as attacker:
            attacker.linger = 0
            attacker.bind(repair)
            assert consumer.next(1) is None
            sender, *_ = attacker.recv_multipart()
            for message in corpus().values():
                while attacker.poll(0):  # after a dropped connection it has another name
                    sender, *_ = attacker.recv_multipart()
                for _ in range(3):
                    attacker.send_multipart([sender, *message])
                assert consumer.next(0.01) is None
        assert consumer.counters["rejected_repair"] > 20
        with FramePublisher(START, tmp_path / "saxs.h5", endpoints, BUS) as publisher:
            for number in range(5):
                publisher.publish(image(number))
            publisher.finish()
            assert_all(drain(consumer), 5)


def test_consumer_comes_back_after_a_peer_that_broke_the_protocol(tmp_path):
    """libzmq alone would never connect to that address again."""
    live, repair = endpoints_of(zmq.PUB, zmq.ROUTER)
    endpoints = FrameEndpoints(live=live, repair=repair)
    with socket.socket() as attacker:
        attacker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        attacker.bind(("127.0.0.1", int(repair.rpartition(":")[2])))
        attacker.listen()
        with FrameConsumer(endpoints, BUS) as consumer:
            peer, _ = attacker.accept()
            with peer:
                peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NOSUCH".ljust(55, b"\0"))
                assert consumer.next(0.2) is None
            attacker.close()
            with FramePublisher(START, tmp_path / "saxs.h5", endpoints, BUS) as publisher:
                publisher.publish(image(0))
                publisher.finish()
                assert_all(drain(consumer), 1)


class Store:
    """Makes everything durable at once."""

    receiver: LinkReceiver

    def __init__(self):
        self.frames = []

    def on_document(self, document):
        pass

    def on_open(self, start, nodes):
        if start.run != "run-1":
            raise LinkRefusedError("another run")
        return 0

    def on_results(self, results):
        self.frames.append(results.frame)
        self.receiver.ack(results.run, results.stream, results.frame)

    def on_end(self, end):
        self.receiver.ack_end(end.run, end.stream)


def results(frame: int) -> FrameResults:
    line = np.arange(3.0)
    curve = Curve(
        frame=frame, time_s=0.0, q_per_nm=line, intensity=line, sigma=line, absolute=False
    )
    return FrameResults("saxs", "run-1", frame, 0.0, (curve,))


def test_receiver_of_results_survives():
    (endpoint,) = endpoints_of(zmq.ROUTER)
    store = Store()
    with LinkReceiver(endpoint, BUS, store) as receiver, LinkSender(endpoint, BUS) as sender:
        store.receiver = receiver
        sender.open(RunStart("run-1", START), [Curve], 20)
        for frame in range(5):
            sender.send(results(frame), 20)
        shoot(zmq.DEALER, endpoint)
        for frame in range(5, 10):
            sender.send(results(frame), 20)
        sender.end(StreamEnd("saxs", "run-1", 10))
        assert sender.flush(20)
        receiver.check()
        assert receiver.counters["rejected"] > 50
        assert receiver.last_rejection
    assert store.frames == list(range(10))


def test_sender_of_results_survives_a_hostile_receiver():
    (endpoint,) = endpoints_of(zmq.ROUTER)
    store = Store()
    with LinkSender(endpoint, BUS) as sender:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as attacker:
            attacker.linger = 0
            attacker.bind(endpoint)
            with pytest.raises(TimeoutError):
                sender.open(RunStart("run-1", START), [Curve], 0.5)
            assert attacker.poll(5000)
            peer, *_ = attacker.recv_multipart()
            # At what is longer than any answer, libzmq hangs up: that comes last.
            messages = sorted(corpus().values(), key=lambda parts: max(map(len, parts)))
            short = [parts for parts in messages if max(map(len, parts)) <= MAX_REQUEST_BYTES]
            for message in short:
                attacker.send_multipart([peer, *message])
            deadline = time.monotonic() + 10
            while sender.counters["rejected"] < len(short):
                assert time.monotonic() < deadline, sender.counters
                time.sleep(0.01)
            for message in messages[len(short) :]:
                attacker.send_multipart([peer, *message])
        with LinkReceiver(endpoint, BUS, store) as store.receiver:
            sender.open(RunStart("run-1", START), [Curve], 20)
            for frame in range(10):
                sender.send(results(frame), 20)
            sender.end(StreamEnd("saxs", "run-1", 10))
            assert sender.flush(20)
    assert store.frames == list(range(10))
