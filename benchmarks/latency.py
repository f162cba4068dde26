"""Age of a result when its subscriber has it, and when it can be read over HTTP.

A real session on a temporary data folder: simulated devices at 2 Hz of 1024 x 1024 and 6.67 Hz,
both analyses, the store with its embedded Tiled, detection. The clock of every age starts at the
end of the exposure: the run's zero, which the acquisition writes down, and the frame's own time.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.report import PERCENTILES_HEADER, Usage, percentiles, usage_of
from pipeline.access import RowsFollower, TiledHttp, UnreachableError
from pipeline.cli.analyse import stages_for
from pipeline.cli.configs import packaged
from pipeline.cli.session import Session
from pipeline.config.loader import load_config
from pipeline.runner import StageChain

STREAMS = ("saxs", "absorbance")
NODES = ("saxs/populations", "absorbance/exciton")
CALLBACK_GOAL_MS = (40.0, 120.0)
HTTP_GOAL_MS = (500.0, 1200.0)
# Caches fill, nodes are made and detection is still loading its client in the first seconds.
WARM_UP_S = 10.0
# Between two questions for the last stored row. It adds half of itself to an age, on average, and
# each question costs the server as much as a reader does.
POLL_S = 0.1


@dataclass
class Arrivals:
    """Unix time in ns at which each frame of a node was there, and the frame's own time in s."""

    node: str
    received_ns: dict[int, int] = field(default_factory=dict)
    readable_ns: dict[int, int] = field(default_factory=dict)
    time_s: dict[int, float] = field(default_factory=dict)

    def on_row(self, row: dict) -> None:
        """Note a row that the subscription brought."""
        self.received_ns[row["frame"]] = time.time_ns()
        self.time_s[row["frame"]] = row["time_s"]

    def poll(self, session: Session, stop: threading.Event) -> None:
        """Ask for the last stored row until told to stop."""
        known = -1
        with TiledHttp(session.address) as http:
            while not stop.wait(POLL_S):
                try:
                    last = http.last_frame(f"{session.run}/{self.node}")
                except UnreachableError:
                    continue  # it is still starting
                now = time.time_ns()
                for frame in range(known + 1, (-1 if last is None else last) + 1):
                    self.readable_ns[frame] = now
                    known = frame

    def ages_s(self, arrived_ns: dict[int, int], zero_ns: int) -> list[float]:
        """Age at arrival of each frame after the warm-up."""
        return [
            (arrived - zero_ns) * 1e-9 - self.time_s[frame]
            for frame, arrived in arrived_ns.items()
            if self.time_s.get(frame, 0.0) > WARM_UP_S
        ]


def compile_kernels(config_file: Path, streams: Sequence[str]) -> None:
    """Leave the compiled kernels on the disk, as an installation does: frames do not wait."""
    config = load_config(config_file)
    for stream in streams:
        StageChain(stages_for(stream, config)).warm_up()


def watch_usage(session: Session, found: dict[str, list[tuple[float, Usage]]]) -> Callable:
    """A tick for `Session.wait` that notes what each process uses, every second."""
    noted = 0.0

    def tick() -> None:
        nonlocal noted
        now = time.monotonic()
        if now - noted < 1.0:
            return
        noted = now
        for name, child in session.supervisor.children.items():
            if child.process is not None and (usage := usage_of(child.process.pid)) is not None:
                found.setdefault(name, []).append((now, usage))

    return tick


def print_usage(found: dict[str, list[tuple[float, Usage]]]) -> None:
    """Memory of each process, and its share of a core while frames came."""
    print(f"{'process':44} {'MB':>8} {'highest':>8} {'core':>8}")
    for name, samples in found.items():
        used = [sample for sample in samples if sample[1].resident_mb > 0]
        (first_s, first), (last_s, last) = used[len(used) // 3], used[-1]
        share = (last.cpu_s - first.cpu_s) / max(last_s - first_s, 1e-9)
        highest = max(usage.highest_mb for _, usage in used)
        print(f"{name:44} {last.resident_mb:8.0f} {highest:8.0f} {share:8.0%}")


def lost_frames(http: TiledHttp, run: str, stream: str) -> tuple[int, int]:
    """How many frames a stream has in Tiled, and how many of these gave no result."""
    ledger = http.table(f"{run}/{stream}/frames")
    status = [] if ledger is None else ledger["status"].to_pylist()
    return len(status), sum(value != "stored" for value in status)


def main(measured_s: float = 60.0) -> None:
    """Print the table."""
    config = packaged("cs_dopa.yaml")
    compile_kernels(config, STREAMS)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder), config, STREAMS)
        arrivals = [Arrivals(node) for node in NODES]
        usage: dict[str, list[tuple[float, Usage]]] = {}
        stop = threading.Event()
        # One reader: a second would double what the readers cost the server.
        reader = threading.Thread(target=arrivals[0].poll, args=(session, stop))
        followers = [RowsFollower(session.address, session.run, a.node, a.on_row) for a in arrivals]
        try:
            session.start("detectors.acquire", "--duration", str(WARM_UP_S + measured_s))
            for follower in followers:
                follower.start()
            reader.start()
            tick = watch_usage(session, usage)
            session.wait(tick)
            session.finish()
            record = json.loads((session.recording_dir / "run.json").read_text())
            with TiledHttp(session.address) as http:
                ledgers = {s: lost_frames(http, session.run, s) for s in session.streams}
        finally:
            stop.set()
            for follower in followers:
                follower.stop()
            session.close()
        if reader.is_alive():
            reader.join()
    _print(arrivals, record["zero_unix_ns"], ledgers, usage, measured_s)


def _print(
    arrivals: list[Arrivals],
    zero_ns: int,
    ledgers: dict[str, tuple[int, int]],
    usage: dict[str, list[tuple[float, Usage]]],
    measured_s: float,
) -> None:
    print(f"one run of {measured_s:.0f} s, after {WARM_UP_S:.0f} s of warm-up that do not count")
    print(PERCENTILES_HEADER)
    for arrival in arrivals:
        label = f"exposure end to callback, {arrival.node}"
        print(percentiles(label, arrival.ages_s(arrival.received_ns, zero_ns), CALLBACK_GOAL_MS))
    readable = arrivals[0].ages_s(arrivals[0].readable_ns, zero_ns)
    print(percentiles(f"exposure end to HTTP, {NODES[0]}", readable, HTTP_GOAL_MS))
    for stream, (frames, lost) in ledgers.items():
        print(f"{stream}: {frames} frames in Tiled, {lost} without a result")
    print_usage(usage)


if __name__ == "__main__":
    main()
