"""One corpus of hostile bytes against every socket. The invariant: it still delivers afterwards."""

import os
import socket
import time

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
    link_sender,
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
from tests.hostile_bytes import START, corpus, image, shoot, shoot_tcp

BUS = Bus(repair_timeout_s=0.5, idle_ask_s=0.05)


def endpoints_of(*sockets_kinds: int) -> list[str]:
    result = []
    for _ in sockets_kinds:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            result.append(f"tcp://127.0.0.1:{sock.getsockname()[1]}")
    return result


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


def test_sender_of_results_survives_a_hostile_receiver(monkeypatch):
    # Seconds in use, for the sake of a store that is only slow; this one is dead.
    monkeypatch.setattr(link_sender, "_SILENCE_S", 3.0)
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
