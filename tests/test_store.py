"""The store: a real Tiled server, real sockets, what is in it afterwards."""

import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest

from pipeline.access import RowsFollower
from pipeline.bus.link import LinkSender
from pipeline.messages import (
    Curve,
    FrameResults,
    Peak,
    Result,
    RunDocument,
    RunStart,
    StreamEnd,
    StreamStart,
)
from tests.support import StoreProcess, start_store

Q = np.linspace(0.1, 5.0, 40)


def peak(frame: int, **values: float) -> Peak:
    rest = {
        name: math.nan
        for name in Peak.__slots__
        if Peak.__annotations__[name] in ("float", float) and name not in values
    }
    return Peak(frame=frame, time_s=0.5 * (frame + 1), **rest, **values)


def results(run: str, frame: int) -> FrameResults:
    """A curve and a row whose values follow from the frame number."""
    curve = Curve(
        frame=frame,
        time_s=0.5 * (frame + 1),
        q_per_nm=Q,
        intensity=frame + Q,
        sigma=0.1 * (frame + Q),
        absolute=True,
    )
    return FrameResults(
        stream="saxs",
        run=run,
        frame=frame,
        time_s=0.5 * (frame + 1),
        results=(curve, peak(frame, order_z=frame / 7)),
        newest=frame,
    )


def rejected(run: str, frame: int, reason: str) -> FrameResults:
    return FrameResults(
        stream="saxs", run=run, frame=frame, time_s=math.nan, rejected=reason, newest=frame
    )


def stream_start(run: str) -> RunStart:
    start = StreamStart(stream="saxs", run=run, kind="curve", shape=(40,), dtype="<f8")
    return RunStart(run=run, stream=start)


KINDS: tuple[type[Result], ...] = (Curve, Peak)


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.05)


@pytest.fixture
def run() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


def begin(sender: LinkSender, run: str) -> int:
    sender.document(RunDocument(run, "start", {"name": "test", "streams": ["saxs"]}))
    return sender.open(stream_start(run), KINDS, timeout_s=30)


def finish(sender: LinkSender, run: str, frames: int) -> None:
    sender.end(StreamEnd("saxs", run, frames))
    sender.document(RunDocument(run, "stop", {"exit_status": "success"}))
    assert sender.flush(30)


def test_every_frame_has_its_row_and_its_slab(store: StoreProcess, run: str) -> None:
    """Row n and slab n are frame n, also where a frame gave nothing."""
    with LinkSender(store.link) as sender:
        assert begin(sender, run) == 0
        for frame in range(50):
            lost = frame == 17
            message = rejected(run, frame, "lost: never taken") if lost else results(run, frame)
            sender.send(message)
        finish(sender, run, 50)
    with store.http() as http:
        until(lambda: bool((http.metadata(run) or {}).get("complete")))
        metadata = http.metadata(run)
        assert metadata is not None
        assert metadata["start"]["name"] == "test"
        assert metadata["stop"]["exit_status"] == "success"
        assert http.metadata(f"{run}/health") == {
            "saxs": {"published": 50, "rejected": 0, "lost": 1, "stored": 50}
        }
        peaks = http.table(f"{run}/assembly/peaks")
        assert peaks is not None
        assert peaks["frame"].to_pylist() == list(range(50))
        z = peaks["order_z"].to_numpy()
        assert np.isnan(z[17])
        np.testing.assert_array_equal(np.delete(z, 17), np.delete(np.arange(50) / 7, 17))
        ledger = http.table(f"{run}/saxs/frames")
        assert ledger is not None
        assert ledger["status"].to_pylist() == ["lost" if n == 17 else "stored" for n in range(50)]
        assert ledger["note"].to_pylist()[17] == "lost: never taken"
        q = http.array(f"{run}/saxs/q", "", float)
        np.testing.assert_array_equal(q, Q)
        curves = http.array(f"{run}/saxs/curves", "", float)
        assert curves is not None
        curves = curves.reshape(50, 2, 40)
        assert np.isnan(curves[17]).all()
        for frame in (0, 16, 18, 49):
            np.testing.assert_array_equal(curves[frame, 0], frame + Q)
            np.testing.assert_array_equal(curves[frame, 1], 0.1 * (frame + Q))


def test_short_run_has_no_empty_slabs(store: StoreProcess, run: str) -> None:
    with LinkSender(store.link) as sender:
        begin(sender, run)
        for frame in range(5):
            sender.send(results(run, frame))
        finish(sender, run, 5)
    with store.http() as http:
        until(lambda: bool((http.metadata(run) or {}).get("complete")))
        curves = http.array(f"{run}/saxs/curves", "", float)
        assert curves is not None
        assert curves.size == 5 * 2 * 40
        assert not np.isnan(curves).any()


def test_second_write_of_a_frame_changes_nothing(store: StoreProcess, run: str) -> None:
    """A sender that knows nothing of the first sends all frames again."""
    with LinkSender(store.link) as sender:
        begin(sender, run)
        for frame in range(10):
            sender.send(results(run, frame))
        assert sender.flush(30)
    with LinkSender(store.link) as sender:
        assert begin(sender, run) == 10
        for frame in range(20):
            sender.send(results(run, frame))
        finish(sender, run, 20)
    with store.http() as http:
        peaks = http.table(f"{run}/assembly/peaks")
        assert peaks is not None
        assert peaks["frame"].to_pylist() == list(range(20))


def test_rows_reach_subscribers_before_they_are_stored(store: StoreProcess, run: str) -> None:
    """A follower gets every row once and in order, live ones before the batch is written."""
    seen: list[int] = []
    follower = RowsFollower(
        store.address, run, "assembly/peaks", lambda row: seen.append(row["frame"])
    ).start()
    with LinkSender(store.link) as sender, store.http() as http:
        begin(sender, run)
        for frame in range(5):
            sender.send(results(run, frame))
        until(lambda: follower.connected and len(seen) == 5)
        ahead = 0
        for frame in range(5, 25):
            sender.send(results(run, frame))
            until(lambda n=frame: len(seen) == n + 1)
            stored = http.last_frame(f"{run}/assembly/peaks")
            ahead += stored is not None and stored < frame
        finish(sender, run, 25)
    follower.stop()
    assert seen == list(range(25))
    assert ahead > 0, "every row was stored before its subscriber had it"


def test_csv_and_json_while_the_run_is_live(store: StoreProcess, run: str) -> None:
    with LinkSender(store.link) as sender, store.http() as http:
        begin(sender, run)
        for frame in range(3):
            sender.send(results(run, frame))
        assert sender.flush(30)
        response = http.get(f"/table/full/{run}/assembly/peaks", format="text/csv")
        assert response is not None
        lines = response.text.strip().splitlines()
        assert lines[0].split(",") == [field.name for field in fields(Peak)]
        assert len(lines) == 4
        response = http.get(f"/table/full/{run}/assembly/peaks", format="application/json")
        assert response is not None
        assert response.json()["frame"] == [0, 1, 2]


def test_killed_store_loses_nothing(tmp_path_factory: pytest.TempPathFactory, run: str) -> None:
    """SIGKILL in the middle, a new process on the same folder: the sender goes on by itself."""
    folder = tmp_path_factory.mktemp("killed")
    running = start_store(folder)
    seen: list[int] = []
    follower = RowsFollower(
        running.address, run, "assembly/peaks", lambda row: seen.append(row["frame"])
    ).start()
    try:
        with LinkSender(running.link) as sender:
            begin(sender, run)
            stop = threading.Event()

            def feed() -> None:
                for frame in range(120):
                    while not sender.send(results(run, frame), timeout_s=1):
                        if stop.is_set():
                            return
                    time.sleep(0.02)

            feeder = threading.Thread(target=feed)
            feeder.start()
            try:
                until(lambda: len(seen) > 20)
                running.kill()
                running = start_store(folder, running.port, running.link)
                feeder.join(60)
                assert not feeder.is_alive()
            finally:
                stop.set()
            finish(sender, run, 120)
        with running.http() as http:
            for node in ("assembly/peaks", "saxs/frames"):
                table = http.table(f"{run}/{node}")
                assert table is not None
                assert table["frame"].to_pylist() == list(range(120))
            curves = http.array(f"{run}/saxs/curves", "", float)
            assert curves is not None
            np.testing.assert_array_equal(
                curves.reshape(120, 2, 40)[:, 0], np.arange(120)[:, None] + Q
            )
        until(lambda: len(seen) == 120)
        assert seen == list(range(120))
    finally:
        follower.stop()
        running.stop()


def test_nodes_say_what_they_hold(store: StoreProcess, run: str) -> None:
    """To one who knows HTTP only: dimensions, lines, quantities with units, what columns mean."""
    with LinkSender(store.link) as sender, store.http() as http:
        begin(sender, run)
        sender.send(results(run, 0))
        finish(sender, run, 1)
        curves = http.metadata(f"{run}/saxs/curves")
        assert curves is not None
        assert curves["dimensions"] == ["frame", "line", "saxs/q"]
        assert curves["lines"] == ["intensity", "sigma"]
        assert "1/cm" in curves["about"]
        assert http.metadata(f"{run}/saxs/q") == {"quantity": "q_per_nm"}
        peaks = http.metadata(f"{run}/assembly/peaks")
        assert peaks is not None
        assert "``order_z``" in peaks["about"]
