"""How fast frames travel: ``python -m benchmarks.bus [pixels] [frames]``.

Prints the cost of each step on one frame and the rate from publisher to a consumer in another
process, with a check that none was lost. Read it as ratios: other programs share the machine.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from pipeline.bus import FrameConsumer, FramePublisher, SpoolReader, SpoolWriter, bslz4, wire
from pipeline.config.wiring import FrameEndpoints
from pipeline.messages import ImageFrame, StreamEnd, StreamStart


def median_ms(step: Callable[[int], object], repeats: int = 20) -> float:
    """Median time of a step that is told its turn."""
    times = []
    for turn in range(repeats):
        begin = time.perf_counter()
        step(turn)
        times.append(time.perf_counter() - begin)
    return 1e3 * float(np.median(times))


def frames_of(pixels: int) -> tuple[StreamStart, np.ndarray]:
    """A stream, and one image with as few counts as SAXS has."""
    shape = (pixels, pixels)
    image = np.random.default_rng(1).poisson(3, shape).astype("<u4")
    return StreamStart("saxs", "benchmark", "image", shape, "<u4"), image


def steps(pixels: int, folder: Path) -> None:
    """Cost of each step on one frame."""
    start, image = frames_of(pixels)
    payloads = (bslz4.compress(image),)
    frame = ImageFrame("saxs", 0, 0, 0.5, image)
    parts = wire.encode_frame(frame, start, payloads)
    print(
        f"{pixels}^2 <u4, {image.nbytes / 1e6:.1f} MB, compressed {len(payloads[0]) / 1e6:.2f} MB"
    )
    print(f"  compress   {median_ms(lambda _: bslz4.compress(image)):8.2f} ms")
    print(f"  encode     {median_ms(lambda _: wire.encode_frame(frame, start, payloads)):8.2f} ms")
    print(f"  decode     {median_ms(lambda _: wire.decode_frame(parts, start)):8.2f} ms")
    with SpoolWriter(folder / "steps.h5", start) as writer:

        def record(turn: int) -> None:
            writer.append(ImageFrame("saxs", turn, turn, 0.5, image), payloads)
            writer.flush()

        print(f"  record     {median_ms(record):8.2f} ms")
    with SpoolReader(folder / "steps.h5") as reader:
        print(f"  read       {median_ms(reader.read):8.2f} ms")


def consume(endpoints: FrameEndpoints, report: Connection) -> None:
    """Take a stream to its end, in a process of its own."""
    with FrameConsumer(endpoints) as consumer:
        taken = 0
        while not consumer.finished:
            item = consumer.next(1.0)
            if isinstance(item, StreamStart):
                report.send("ready")
            taken += isinstance(item, ImageFrame)
        report.send((taken, dict(consumer.counters)))
        consumer.done()


def end_to_end(pixels: int, count: int, folder: Path) -> None:
    """Rate from publisher to consumer, flat out."""
    start, image = frames_of(pixels)
    with socket.socket() as one, socket.socket() as two:
        ports = []
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
            ports.append(sock.getsockname()[1])
    endpoints = FrameEndpoints(
        live=f"tcp://127.0.0.1:{ports[0]}", repair=f"tcp://127.0.0.1:{ports[1]}"
    )
    context = get_context("spawn")
    near, far = context.Pipe()
    with FramePublisher(start, folder / "run.h5", endpoints) as publisher:
        process = context.Process(target=consume, args=(endpoints, far))
        process.start()
        assert near.recv() == "ready"
        begin = time.perf_counter()
        for number in range(count):
            publisher.publish(ImageFrame("saxs", number, number, 0.5, image))
        published = time.perf_counter() - begin
        end: StreamEnd = publisher.finish()
        taken, counters = near.recv()
        delivered = time.perf_counter() - begin
        process.join()
    print(f"  published  {count / published:8.1f} frames/s")
    print(f"  delivered  {count / delivered:8.1f} frames/s, {taken} of {end.frames}, {counters}")


def main(pixels: int = 1024, count: int = 200) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        steps(pixels, Path(folder))
        end_to_end(pixels, count, Path(folder))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
