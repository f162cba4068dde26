"""One corpus of hostile bytes, and how it is shot at a socket."""

import os
import pickle
import random
import socket
import struct
import time

import cbor2
import msgpack
import numpy as np
import zmq

from pipeline.bus import bslz4, wire
from pipeline.messages import ImageFrame, StreamEnd, StreamStart

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
        attacker.sndtimeo = 5000  # nobody is there any more: tell, do not wait
        attacker.connect(endpoint)
        for _ in range(repeats):
            for message in corpus().values():
                attacker.send_multipart(message)
        time.sleep(0.2)
    shoot_tcp(endpoint)
