"""One stream in two processes: what is stored is what one process stores, whoever is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from pipeline.bus import FramePublisher, LinkReceiver, LinkRefusedError, LinkSender, codec
from pipeline.cli.analyse import HOPELESS, split, stages_for
from pipeline.cli.session import free_port
from pipeline.config import RunConfig
from pipeline.config.loader import ConfigError
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints, Wiring
from pipeline.messages import (
    BadFrameError,
    Curve,
    CurveFrame,
    FrameResults,
    ImageFrame,
    Populations,
    Result,
    RowResult,
    RunDocument,
    RunStart,
    StreamEnd,
    StreamStart,
)
from pipeline.runner import Relay
from tests.support import REPOSITORY

RUN = "run-1"
Q = np.geomspace(0.2, 4.0, 120)
FRAMES = 60


def endpoint() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


def until(condition, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


class Store:
    """A store that remembers, and makes durable what it is told to."""

    def __init__(self, first: int = 0, *, durable: bool = True) -> None:
        self.first, self.durable = first, durable
        self.link: LinkReceiver | None = None
        self.opened: list[tuple[RunStart, tuple[type[Result], ...]]] = []
        self.results: dict[int, FrameResults] = {}
        self.received = 0
        self.ends: list[StreamEnd] = []
        self.refuse = ""

    @contextmanager
    def serve(self, where: str) -> Iterator[Store]:
        # The handler may be called before the constructor returns.
        self.link = LinkReceiver.__new__(LinkReceiver)
        self.link.__init__(where, None, self)
        with self.link:
            yield self

    def on_document(self, document: RunDocument) -> None:
        raise AssertionError(f"nobody sends {document.name} here")

    def on_open(self, start: RunStart, nodes: tuple[type[Result], ...]) -> int:
        if self.refuse:
            raise LinkRefusedError(self.refuse)
        self.opened.append((start, nodes))
        return max(self.results, default=self.first - 1) + 1 if self.durable else self.first

    def on_results(self, results: FrameResults) -> None:
        self.received += 1
        self.results.setdefault(results.frame, results)
        if self.durable:
            self.ack(results.frame)

    def on_end(self, end: StreamEnd) -> None:
        self.ends.append(end)
        if self.durable:
            self.ack_end()

    def ack(self, frame: int) -> None:
        assert self.link is not None
        self.link.ack(RUN, "saxs", frame)

    def ack_end(self) -> None:
        assert self.link is not None
        self.link.ack_end(RUN, "saxs")


# In this process


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Total(RowResult):
    """A result of a later stage."""

    NODE = "test/totals"

    total: float


class Add:
    """A later stage; it refuses frame 3."""

    name: ClassVar[str] = "add"
    consumes: ClassVar[tuple[type, ...]] = (Curve,)
    produces: ClassVar[tuple[type[Result], ...]] = (Total,)

    def __init__(self) -> None:
        self.runs: list[str] = []

    def reset(self, start: RunStart) -> None:
        self.runs.append(start.run)

    def process(self, curve: Curve) -> list[Total]:
        if curve.frame == 3:
            raise BadFrameError("saxs frame 3: not this one")
        total = float(curve.intensity.sum())
        return [Total(frame=curve.frame, time_s=curve.time_s, total=total)]


def start_message() -> RunStart:
    stream = StreamStart("saxs", RUN, "curve", Q.shape, "<f8", {"q_per_nm": Q})
    return RunStart(RUN, stream, {"name": "test"})


def reduced(frame: int, rejected: str | None = None) -> FrameResults:
    time_s = 0.5 * frame
    curve = Curve(
        frame=frame, time_s=time_s, q_per_nm=Q, intensity=Q * frame, sigma=Q, absolute=False
    )
    found = () if rejected else (curve,)
    return FrameResults("saxs", RUN, frame, time_s, found, rejected, newest=frame + 2)


@contextmanager
def relay(link: str, store: str, stage: Any) -> Iterator[threading.Thread]:
    stop = threading.Event()
    host = Relay(link, store, Bus(), [stage], linger_s=0.5)
    thread = threading.Thread(target=host.run, args=(stop,))
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_results_rejections_and_the_end_pass_through():
    link, where, stage = endpoint(), endpoint(), Add()
    with Store().serve(where) as store, relay(link, where, stage) as thread:
        with LinkSender(link) as upstream:
            assert upstream.open(start_message(), [Curve], 20) == 0
            for frame in range(6):
                upstream.send(reduced(frame, "lost: never taken" if frame == 1 else None))
            upstream.end(StreamEnd("saxs", RUN, 6, "stopped"))
            assert upstream.flush(20)
        thread.join(20)
        assert not thread.is_alive()
    assert stage.runs == [RUN]
    ((start, nodes),) = store.opened
    assert start.metadata == {"name": "test"}
    np.testing.assert_array_equal(start.stream.arrays["q_per_nm"], Q)
    assert nodes == (Curve, Total)
    assert store.ends == [StreamEnd("saxs", RUN, 6, "stopped")]
    assert sorted(store.results) == list(range(6))
    for frame, results in store.results.items():
        assert (results.time_s, results.newest) == (0.5 * frame, frame + 2)
        kinds = [type(result) for result in results.results]
        if frame == 1:
            assert (kinds, results.rejected) == ([], "lost: never taken")
        elif frame == 3:
            assert (kinds, results.rejected) == ([Curve], "saxs frame 3: not this one")
        else:
            assert kinds == [Curve, Total]
            total = results.results[1]
            assert isinstance(total, Total)
            assert total.total == (Q * frame).sum()


def test_upstream_is_told_durable_only_what_the_store_made_durable():
    link, where = endpoint(), endpoint()
    with (
        Store(durable=False).serve(where) as store,
        relay(link, where, Add()),
        LinkSender(link) as upstream,
    ):
        upstream.open(start_message(), [Curve], 20)
        for frame in range(5):
            upstream.send(reduced(frame))
        upstream.end(StreamEnd("saxs", RUN, 5))
        until(lambda: store.received == 5 and store.ends)
        assert not upstream.flush(1.5)  # longer than it takes to ask
        assert upstream.pending == 5
        store.ack(2)
        until(lambda: upstream.pending == 2)
        store.ack(4)
        until(lambda: upstream.pending == 0)
        assert not upstream.flush(1.5)  # the end is not durable yet
        store.ack_end()
        assert upstream.flush(20)


def test_opening_answers_what_the_store_wants_and_waits_for_it():
    """Also to a second upstream, whose predecessor was killed: from where all is durable."""
    link, where = endpoint(), endpoint()
    store = Store(first=7, durable=False)
    with relay(link, where, Add()), LinkSender(link) as upstream:
        with pytest.raises(TimeoutError):
            upstream.open(start_message(), [Curve], 0.5)
        with store.serve(where):
            assert upstream.open(start_message(), [Curve], 20) == 7
            for frame in range(7, 12):
                upstream.send(reduced(frame))
            until(lambda: store.received == 5)
            store.ack(8)
            until(lambda: upstream.pending == 3)
            with LinkSender(link) as successor:
                assert successor.open(start_message(), [Curve], 20) == 9
                for frame in range(9, 14):
                    successor.send(reduced(frame))
                until(lambda: store.received == 7)
                store.ack(13)
                assert successor.flush(20)
    assert sorted(store.results) == list(range(7, 14))
    assert store.received == 7, "what is under way is not sent twice"


def test_what_it_cannot_serve_is_refused():
    link, where = endpoint(), endpoint()
    with Store().serve(where) as store, relay(link, where, Add()):
        store.refuse = "run-1 is complete"
        with LinkSender(link) as upstream:
            with pytest.raises(LinkRefusedError, match="run-1 is complete"):
                upstream.open(start_message(), [Curve], 20)
            store.refuse = ""
            upstream.open(start_message(), [Curve], 20)
            upstream.send(reduced(1))
            with pytest.raises(LinkRefusedError, match="expected frame 0, got 1"):
                until(lambda: upstream.flush(0.05))
        other = StreamStart("saxs", "run-2", "curve", Q.shape, "<f8", {"q_per_nm": Q})
        with LinkSender(link) as upstream:
            with pytest.raises(LinkRefusedError, match="expected results of run run-1"):
                upstream.open(RunStart("run-2", other), [Curve], 20)
            upstream.document(RunDocument(RUN, "start", {}))
            with pytest.raises(LinkRefusedError, match="start document goes to the store"):
                until(lambda: upstream.flush(0.05))


def test_a_later_stage_that_wants_frames_cannot_be_split_off():
    class Look(Add):
        name: ClassVar[str] = "look"
        consumes: ClassVar[tuple[type, ...]] = (ImageFrame,)

    stages = stages_for("saxs", RunConfig())
    reducing, fitting = split(stages)
    assert [stage.name for stage in reducing + fitting] == [stage.name for stage in stages]
    assert len(reducing) == 1
    with pytest.raises(ConfigError, match="stage look wants ImageFrame"):
        split([*stages, Look()])


# Processes


CONFIG = """
name: relay
saxs:
  fit:
    q_min_per_nm: 0.2
    q_max_per_nm: 4.0
    agglomerates: false
  assembly: {}
"""


def sphere_curve(frame: int) -> CurveFrame:
    """Spheres that grow from 5 to 8 nm, 10 % wide, with noise."""
    rng = np.random.default_rng(frame)
    mean = 5 + 3 * frame / FRAMES
    diameters = mean * (1 + 0.1 * np.linspace(-4, 4, 81))
    weights = np.exp(-0.5 * np.linspace(-4, 4, 81) ** 2)
    x = Q[:, None] * diameters / 2
    amplitude = diameters**3 * (np.sin(x) - x * np.cos(x)) / x**3
    intensity = 1e-3 * (amplitude**2 @ weights) / weights.sum() + 0.02
    sigma = 0.02 * intensity
    intensity = intensity + sigma * rng.standard_normal(Q.size)
    time_ns = 500_000_000 * (frame + 1)
    return CurveFrame("saxs", frame, time_ns, 0.5, intensity, sigma)


class Processes:
    """Analysing processes of one wiring; killed at the end if they still run."""

    def __init__(self, folder: Path, wiring: Wiring) -> None:
        self.folder = folder
        self.wiring_file = folder / "wiring.json"
        folder.mkdir()
        self.wiring_file.write_text(wiring.model_dump_json())
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, stages: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipeline.cli.analyse", "--stream", "saxs"]
        command += ["--wiring", str(self.wiring_file), "--stages", stages]
        with (self.folder / f"{stages}.log").open("ab") as log:
            self.all.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY))
        return self.all[-1]

    def log(self, stages: str) -> str:
        return (self.folder / f"{stages}.log").read_text()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.all:
            process.kill()
            process.wait()


def wiring_for(folder: Path, frames: FrameEndpoints, store: str) -> Wiring:
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    return Wiring(
        run=RUN,
        config_file=config,
        recording_dir=folder,
        frames={"saxs": frames},
        store=store,
        links={"saxs": endpoint()},
        tiled_url="http://127.0.0.1:1",
    )


def test_two_processes_store_what_one_does_although_the_second_is_killed(tmp_path: Path) -> None:
    """Bit for bit, by the same frames; the killed one goes on where the store is."""
    frames = FrameEndpoints(live=endpoint(), repair=endpoint())
    one_store, two_store = Store(), Store()
    one_wiring = wiring_for(tmp_path, frames, endpoint())
    two_wiring = wiring_for(tmp_path, frames, endpoint())
    start = start_message().stream
    with (
        one_store.serve(one_wiring.store),
        two_store.serve(two_wiring.store),
        Processes(tmp_path / "one", one_wiring) as one,
        Processes(tmp_path / "two", two_wiring) as two,
        FramePublisher(start, tmp_path / "saxs.h5", frames, Bus()) as publisher,
    ):
        whole, reduce, fit = one.start("all"), two.start("reduce"), two.start("fit")
        for frame in range(FRAMES // 2):
            publisher.publish(sphere_curve(frame))
        until(lambda: len(two_store.results) > 5, 120)  # kernels may have to be compiled
        fit.kill()
        fit.wait()
        for frame in range(FRAMES // 2, FRAMES):
            publisher.publish(sphere_curve(frame))
        publisher.finish()
        fit = two.start("fit")
        for process, log in ((whole, (one, "all")), (reduce, (two, "reduce"))):
            assert process.wait(90) == 0, log[0].log(log[1])
        assert publisher.wait_done(2, 20)
        fit.terminate()  # it would wait a while for questions about the end
        assert fit.wait(30) == 0, two.log("fit")
    assert sorted(two_store.results) == list(range(FRAMES))
    for frame, results in two_store.results.items():
        expected = one_store.results[frame]
        assert [type(r).__name__ for r in results.results] == [
            "Curve",
            "Populations",
            "Invariants",
            "Peak",
            "StructureFactor",
            "FormFactor",
            "OrderLines",
            "LatticeRow",
        ]
        assert results.rejected is None
        # The newest frame that was known is a matter of time, all else is not.
        same = [
            codec.encode_results(
                FrameResults(r.stream, r.run, r.frame, r.time_s, r.results, r.rejected)
            )
            for r in (results, expected)
        ]
        assert same[0] == same[1]
        row = results.results[1]
        assert isinstance(row, Populations)
        assert row.nc_diameter_nm == pytest.approx(5 + 3 * frame / FRAMES, rel=0.02)


def test_wiring_without_a_link_is_said_in_one_line(tmp_path: Path) -> None:
    frames = FrameEndpoints(live=endpoint(), repair=endpoint())
    wiring = wiring_for(tmp_path, frames, endpoint()).model_copy(update={"links": {}})
    with Processes(tmp_path / "two", wiring) as two:
        assert two.start("fit").wait(60) == HOPELESS
        last = two.log("fit").strip().splitlines()[-1]
    assert last == (
        "nucleate analyse: --stages fit: the wiring has no links.saxs, say where they meet"
    )


SLOW = """
import sys, time, zmq
from pipeline.bus.sockets import Sockets
from pipeline.config.plumbing import Bus
near, far = Sockets(Bus()), Sockets(Bus())
near.bind(zmq.ROUTER, sys.argv[1], rcvhwm=4)
sender = far.connect(zmq.DEALER, sys.argv[1], sndhwm=4000)
time.sleep(0.3)
try:
    while True:
        sender.send(bytes(20000), zmq.NOBLOCK)
except zmq.Again:
    pass
far.close()
time.sleep(6)
near.close()
"""


def test_peer_that_goes_while_its_messages_wait_does_not_end_the_process() -> None:
    """libzmq 4.3.5 aborts there, if sockets have its heartbeat, when the next beat is due."""
    command = [sys.executable, "-c", SLOW, endpoint()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr
