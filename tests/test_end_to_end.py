"""A whole run by its real processes: killed, shot at, replayed, written to a server elsewhere.

The run is taken once, with everything against it; what it gave is compared with calm replays.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zmq

from pipeline.access import TiledHttp
from pipeline.bus import SpoolReader
from pipeline.cli.session import Session
from pipeline.messages import ImageFrame
from pipeline.replay import open_recording
from tests.hostile_bytes import corpus, shoot, shoot_tcp
from tests.support import REPOSITORY, StoreProcess, alerts_of, nucleate, replayed

CONFIG = """\
name: small
sample: {limiting_concentration_mm: 2.583}
acquisition:
  duration_s: 10
  devices:
    type: simulated
    recipe: cs_dopa
    saxs: {rate_hz: 10, shape: [128, 128], pixel_size_um: 600}
    absorbance: {rate_hz: 20, pixels: 256}
saxs:
  reduce: {bins: 100}
  assembly: {}
detect: {recipe: cs_dopa, superlattice: true}
"""
FRAMES = {"saxs": 100, "absorbance": 200}
TABLES = {
    "saxs": (
        "saxs/frames",
        "saxs/populations",
        "assembly/peaks",
        "assembly/form_factor",
        "assembly/lines",
        "assembly/lattice",
        "reaction/growth",
        "order/tracks",
        "spacing/contraction",
        "cell/contraction",
    ),
    "absorbance": ("absorbance/frames", "absorbance/exciton"),
}
ARRAYS = {
    "saxs": {
        "saxs/q": (100,),
        "saxs/curves": (100, 2, 100),
        "assembly/q": (100,),
        "assembly/structure_factor": (100, 3, 100),
    },
    "absorbance": {"absorbance/energy": None, "absorbance/spectra": None},
}


def until(condition: Callable[[], Any], what: str, timeout_s: float = 90) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return value


@dataclass
class Attacked:
    """What was seen of the run while it was attacked."""

    session: Session
    stored_at_kill: int = -1
    alerts_at_kill: list[str] = field(default_factory=list)
    restarts: dict[str, int] = field(default_factory=dict)

    @property
    def run(self) -> str:
        return self.session.run


def shoot_at_tiled(url: str) -> None:
    """Hostile requests without a key, and hostile bodies."""
    for body in (parts[0] for parts in corpus().values()):
        for path in ("/api/v1/array/full/x", "/api/v1/metadata/raw", "/api/v1/register/"):
            response = httpx.post(url + path, content=body, trust_env=False)
            assert 400 <= response.status_code < 500
    shoot_tcp(url.replace("http://", "tcp://"))


def shoot_at_all(session: Session) -> None:
    """Hostile bytes to every socket of a run, at once: the run is over in some seconds."""
    targets = [(zmq.DEALER, session.wiring.store)]
    for endpoints in session.wiring.frames.values():
        targets += [(zmq.DEALER, endpoints.repair), (zmq.XSUB, endpoints.live)]
    with ThreadPoolExecutor(len(targets)) as shooters:
        for shots in [shooters.submit(shoot, *target, repeats=1) for target in targets]:
            shots.result()
    shoot_at_tiled(session.address.url)


def kill_behind_the_last_frame(session: Session) -> None:
    """A successor finds no source any more, and must not keep the session from its end."""
    wiring = ("--wiring", str(session.wiring_file))
    arguments = (*wiring, "--stream", "saxs")
    before = session.supervisor.children["analyse-saxs"].total_restarts
    again = session.supervisor.start(
        "analyse-saxs", "pipeline.cli.analyse", *arguments, restart=True
    )
    again.total_restarts = before
    session.supervisor.signal("analyse-saxs", signal.SIGKILL)
    assert session.supervisor.wait("analyse-saxs", 30)
    session.supervisor.check()
    session.finish()
    assert not again.running


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def http(store: StoreProcess) -> Iterator[TiledHttp]:
    with store.http() as http:
        yield http


@pytest.fixture(scope="module")
def live(store: StoreProcess, http: TiledHttp, config_file: Path) -> Iterator[Attacked]:
    """A run of both detectors; what analyses is killed, every socket is shot at."""
    session = Session(store.folder, config_file, ("saxs", "absorbance"))
    seen = Attacked(session)
    children = session.supervisor.children
    try:
        session.start("detectors.acquire")

        def stored() -> int:
            session.supervisor.check()
            return (http.last_frame(f"{session.run}/saxs/frames") or -1) + 1

        until(lambda: stored() >= 3, "no frame was stored")
        # Asked before the shots: they keep the server from answering at once.
        seen.stored_at_kill = stored()
        with ThreadPoolExecutor() as shooter:
            # Beside the kills: a run of some seconds is over before the last shot otherwise.
            shots = shooter.submit(shoot_at_all, session)
            session.supervisor.signal("analyse-saxs", signal.SIGKILL)
            until(lambda: session.supervisor.check() or alerts_of(http, session.run), "no alert")
            assert children["detect"].running
            session.supervisor.signal("detect", signal.SIGKILL)
            session.supervisor.signal("reaction", signal.SIGKILL)
            seen.alerts_at_kill = [alert["kind"] for alert in alerts_of(http, session.run)]
            shots.result()
        session.wait(lambda: None)
        session.finish()
        kill_behind_the_last_frame(session)
        seen.restarts = {name: child.total_restarts for name, child in children.items()}
        yield seen
    finally:
        session.close()


def metadata_of(http: TiledHttp, path: str) -> dict[str, Any]:
    metadata = http.metadata(path)
    assert metadata is not None, path
    return metadata


def columns(http: TiledHttp, path: str) -> dict[str, bytes | list[Any]]:
    """A table, comparable bit for bit: NaN is not equal to itself."""
    table = http.table(path)
    assert table is not None, path
    read = {}
    for name in table.column_names:
        values = table[name].combine_chunks()
        is_text = values.type in ("string", "large_string")
        read[name] = values.to_pylist() if is_text else values.to_numpy(zero_copy_only=False)
    return {n: v.tobytes() if isinstance(v, np.ndarray) else v for n, v in read.items()}


def assert_same_results(http: TiledHttp, one: str, other: str) -> None:
    for stream in FRAMES:
        for node in ARRAYS[stream]:
            a, b = (http.array(f"{run}/{node}", "", float) for run in (one, other))
            assert a is not None, node
            assert b is not None, node
            assert a.tobytes() == b.tobytes(), node
        for node in TABLES[stream]:
            a, b = (columns(http, f"{run}/{node}") for run in (one, other))
            assert a.keys() == b.keys()
            assert [name for name in a if a[name] != b[name]] == [], node
    assert alerts_of(http, one) == alerts_of(http, other)
    assert columns(http, f"{one}/alerts_table") == columns(http, f"{other}/alerts_table")


def test_every_frame_is_stored_once_although_its_processes_were_killed(
    live: Attacked, http: TiledHttp
) -> None:
    killed = {"analyse-saxs": 2, "detect": 1, "reaction": 1}
    assert live.restarts == {"analyse-absorbance": 0, "source": 0, **killed}
    assert 3 <= live.stored_at_kill < FRAMES["saxs"]
    for stream, count in FRAMES.items():
        for node in TABLES[stream]:
            table = http.table(f"{live.run}/{node}")
            assert table is not None
            assert table["frame"].to_pylist() == list(range(count)), node
        ledger = http.table(f"{live.run}/{stream}/frames")
        assert ledger is not None
        assert set(ledger["status"].to_pylist()) == {"stored"}
        period_s = 10 / count
        np.testing.assert_allclose(
            ledger["time_s"].to_numpy(), period_s * np.arange(1, count + 1), atol=1e-6
        )
    metadata = metadata_of(http, f"{live.run}/health")
    made = dict.fromkeys(("reaction", "order", "spacing", "cell"), FRAMES["saxs"])
    for stream, count in {**FRAMES, **made}.items():
        assert metadata[stream] == {"published": count, "stored": count, "lost": 0, "rejected": 0}
    assert metadata_of(http, live.run)["ended"] == {**FRAMES, **made}


def test_both_detectors_together_say_what_the_reaction_does(
    live: Attacked, http: TiledHttp
) -> None:
    table = http.table(f"{live.run}/reaction/growth")
    assert table is not None
    rows = table.to_pylist()
    # Two spectra end in each exposure of 0.1 s.
    assert [row["spectra"] for row in rows] == [2] * 100
    late = rows[50:]
    # The simulated crystals grow by 0.14 nm/s at 4 to 5 s; 128 x 128 pixels see it within 30 %.
    rate = np.array([row["growth_rate_nm_per_s"] for row in late])
    assert np.median(rate) == pytest.approx(0.138, rel=0.3)
    assert {row["phase"] for row in late} <= {"growth", "growth, focusing", "unknown"}


def test_every_alert_is_there_once_although_detection_was_killed(
    live: Attacked, http: TiledHttp
) -> None:
    assert live.alerts_at_kill
    alerts = alerts_of(http, live.run)
    # The synthesis makes crystals at 0.5 s and has most of them at 3.1 s.
    assert [alert["kind"] for alert in alerts] == ["phase_1_to_2", "phase_2_to_3"]
    assert alerts[0]["onset_lo_s"] <= 0.7
    assert alerts[1]["onset_s"] == pytest.approx(3.1, abs=0.7)
    table = http.table(f"{live.run}/alerts_table")
    assert table is not None
    assert table["kind"].to_pylist() == ["phase_1_to_2", "phase_2_to_3"]
    assert table["frame"].to_pylist() == [alert["frame"] for alert in alerts]


def test_the_run_says_what_it_rests_on(live: Attacked, http: TiledHttp, config_file: Path) -> None:
    metadata = metadata_of(http, live.run)
    assert metadata["complete"]
    start, stop = metadata["start"], metadata["stop"]
    assert (stop["exit_status"], stop["run_start"]) == ("success", start["uid"])
    digest = hashlib.sha256(CONFIG.encode()).hexdigest()
    assert start["config_text"] == CONFIG
    assert start["config"]["saxs"]["reduce"]["bins"] == 100
    assert start["config_sha256"] == digest
    assert start["inputs"] == [{"file": str(config_file.resolve()), "sha256": digest}]
    assert "Distance: 1.9" in start["geometry"]["saxs"]
    assert {"python", "numpy", "bluesky", "ophyd"} <= start["software"].keys()


def test_the_raw_run_is_registered_with_the_counts_of_the_recording(
    live: Attacked, http: TiledHttp
) -> None:
    raw = metadata_of(http, live.run)["start"]["raw"]
    assert metadata_of(http, raw)["stop"]["num_events"] == FRAMES
    with SpoolReader(live.session.recording_dir / "saxs.h5") as reader:
        frames = [reader.read(frame) for frame in range(100)]
    recorded = np.stack([frame.image for frame in frames if isinstance(frame, ImageFrame)])
    images = http.array(f"{raw}/saxs/saxs_image", "", recorded.dtype)
    assert images is not None
    np.testing.assert_array_equal(images.reshape(recorded.shape), recorded)
    assert recorded.sum() > 0


def test_a_replay_as_fast_as_possible_gives_the_same_bits(
    live: Attacked, store: StoreProcess, http: TiledHttp
) -> None:
    again = replayed(live.session.recording_dir, store, "--speed", "max")
    assert again != live.run
    assert_same_results(http, live.run, again)
    source = metadata_of(http, again)["start"]["replay_of"]
    assert source["start"]["uid"] == metadata_of(http, live.run)["start"]["uid"]
    assert source["content_hash"].startswith("sha256:")


def test_a_replay_of_the_run_in_tiled_at_five_times_its_pace_gives_the_same_bits(
    live: Attacked, store: StoreProcess, http: TiledHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILED_API_KEY", store.address.api_key or "")
    uri = f"tiled:{store.address.url}#{live.run}"
    again = replayed(uri, store, "--speed", "5")
    assert_same_results(http, live.run, again)


def test_the_command_line_tells_of_the_run(live: Attacked, http: TiledHttp) -> None:
    of_run = ("--run", live.run, "--data-dir", live.session.data_dir)
    told = nucleate("alerts", *of_run, "--json")
    assert told.returncode == 0, told.stderr
    assert [json.loads(line) for line in told.stdout.splitlines()] == alerts_of(http, live.run)
    told = nucleate("status", *of_run)
    assert told.returncode == 0, told.stderr
    assert f"{live.run} (complete)" in told.stdout
    assert ["saxs", "100", "100", "0", "0"] in [
        line.replace("│", " ").split() for line in told.stdout.splitlines()
    ]
    assert "phase_2_to_3" in told.stdout


def test_ctrl_c_ends_a_run_in_order_that_is_written_to_a_server_named_by_url(
    store: StoreProcess, http: TiledHttp, config_file: Path
) -> None:
    # Raw frames are registered where they lie: where the server may read.
    folder = store.folder / "recordings" / "elsewhere"
    command = [sys.executable, "-m", "pipeline.cli", "run", str(config_file), "--duration", "600"]
    command += ["--data-dir", str(folder), "--tiled", store.address.url]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "TILED_API_KEY": store.address.api_key or ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        logs = folder / "logs"
        until(lambda: logs.is_dir() and any(logs.iterdir()), "the run was not begun")
        run = next(logs.iterdir()).name
        until(lambda: (http.last_frame(f"{run}/saxs/frames") or -1) >= 3, "nothing was stored")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, errors
    metadata = metadata_of(http, run)
    assert metadata["complete"]
    assert metadata["stop"]["exit_status"] == "success"
    assert "stopped" in metadata["stop"]["reason"]

    recording = open_recording(folder / "recordings" / run)
    for stream, source in recording.streams.items():
        frames = [frame.frame for frame in source.frames()]
        assert frames == list(range(source.frame_count))
        assert "stopped" in source.reason
        ledger = http.table(f"{run}/{stream}/frames")
        assert ledger is not None
        assert ledger["frame"].to_pylist() == frames
    rows = http.table(f"{run}/reaction/growth")
    assert rows is not None
    assert rows["frame"].to_pylist() == list(range(recording.streams["saxs"].frame_count))
    # What the server was given is numbers that anybody can read there.
    curves = http.array(f"{run}/saxs/curves", "", float)
    assert curves is not None
    assert curves.size == recording.streams["saxs"].frame_count * 2 * 100
    assert np.isfinite(curves).mean() > 0.5
