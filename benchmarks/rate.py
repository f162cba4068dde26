"""Frames a second that the whole chain holds: a recording replayed as fast as it goes.

The recording is made by the simulated detectors and played through the same bus, analyses, store
and detection as a live run. The rate is that of frames whose results are stored, first to last; a
frame without a result fails the benchmark.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency import compile_kernels, lost_frames, print_usage, watch_usage
from benchmarks.report import Usage
from detectors.devices.build import make_devices
from pipeline.access import TiledHttp, UnreachableError
from pipeline.bus import SpoolWriter
from pipeline.cli.configs import packaged
from pipeline.cli.session import Session
from pipeline.config.acquisition import SimulatedDevices, SimulatedSaxs, SimulatedSpectrometer
from pipeline.messages import StreamEnd

RUN = "benchmark"
POLL_S = 0.2


@dataclass(frozen=True)
class Load:
    """What is replayed."""

    name: str
    stream: str
    frames: int
    devices: SimulatedDevices


@dataclass(frozen=True)
class _Flight:
    """As much of a flight as a simulated detector looks at to say what its frames are like."""

    run: str


def record(load: Load, folder: Path) -> None:
    """Write a recording without waiting for any clock; a few images are used again and again."""
    (device,) = make_devices(load.devices)
    flight: Any = _Flight(RUN)
    start = device.open_stream(flight)
    period_ns: int = device.period_ns  # pyright: ignore[reportAttributeAccessIssue]
    # Crystals of phase III and IV: every frame is fitted in full.
    base_ns = 20_000_000_000
    exposed = [device.expose(n, base_ns + n * period_ns) for n in range(8)]  # pyright: ignore
    folder.mkdir(parents=True)
    with SpoolWriter(folder / f"{load.stream}.h5", start) as writer:
        for number in range(load.frames):
            seen = exposed[number % len(exposed)]
            writer.append(_renumbered(seen, number, base_ns + number * period_ns))
        writer.flush()
        writer.close(StreamEnd(load.stream, RUN, load.frames))
    text = packaged("cs_dopa.yaml").read_text()
    (folder / "config.yaml").write_text(text)
    (folder / "run.json").write_text(json.dumps({"run": RUN, "config": text, "start": {}}))


def _renumbered(frame: Any, number: int, time_ns: int) -> Any:
    fields = {name: getattr(frame, name) for name in frame.__slots__}
    return type(frame)(**{**fields, "frame": number, "time_ns": time_ns})


def replay(load: Load, folder: Path) -> None:
    """Replay at full speed and print one row."""
    record(load, folder / "recording")
    config = folder / "recording" / "config.yaml"
    compile_kernels(config, (load.stream,))
    session = Session(folder / "data", config, (load.stream,))
    usage: dict[str, list[tuple[float, Usage]]] = {}
    watch = watch_usage(session, usage)
    stored: list[tuple[float, int]] = []
    with TiledHttp(session.address) as http:

        def tick() -> None:
            watch()
            try:
                last = http.last_frame(f"{session.run}/{load.stream}/frames")
            except UnreachableError:
                return  # it is still starting
            if last is not None and last >= 0 and (not stored or last > stored[-1][1]):
                stored.append((time.monotonic(), last))

        try:
            recording = str(folder / "recording")
            session.start("pipeline.replay", "--speed", "max", "--", recording)
            session.wait(tick, POLL_S)
            tick()
            frames, lost = lost_frames(http, session.run, load.stream)
        finally:
            session.close()
    times, numbers = np.array(stored).T
    rate = (numbers[-1] - numbers[0]) / (times[-1] - times[0]) if len(stored) > 1 else np.nan
    print(f"{load.name:44} {rate:8.1f} frames/s; {frames} of {load.frames} stored, {lost} lost")
    print_usage(usage)
    if frames != load.frames or lost:
        raise SystemExit(f"{load.name}: expected {load.frames} frames stored, {lost} gave nothing")


def main(large_frames: int = 240, small_frames: int = 1500) -> None:
    """Print a row for each load."""
    loads = (
        Load(
            "saxs 1024 x 1024",
            "saxs",
            large_frames,
            SimulatedDevices(saxs=SimulatedSaxs(), absorbance=None),
        ),
        Load(
            "saxs 128 x 128",
            "saxs",
            small_frames,
            SimulatedDevices(
                # The same angle on fewer, larger pixels.
                saxs=SimulatedSaxs(shape=(128, 128), pixel_size_um=600, rate_hz=20),
                absorbance=None,
            ),
        ),
        Load(
            "absorbance 1024 pixels",
            "absorbance",
            small_frames,
            SimulatedDevices(saxs=None, absorbance=SimulatedSpectrometer()),
        ),
    )
    for load in loads:
        with tempfile.TemporaryDirectory() as folder:
            replay(load, Path(folder))


if __name__ == "__main__":
    main()
