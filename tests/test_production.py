"""The store on real servers: PostgreSQL behind the catalog and the tables, Redis behind the stream.

Both are started here, on loopback, in a temporary folder; nothing that runs already is touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from pipeline.access import RowsFollower
from pipeline.bus.link import LinkSender
from pipeline.cli.session import free_port, running_server
from pipeline.messages import Curve, FrameResults, Populations, RunDocument, RunStart, StreamStart
from pipeline.messages import StreamEnd as End
from pipeline.store.server import ServerError, with_secrets, without_password
from tests.support import REPOSITORY, STORE_TIMEOUT_S, StoreProcess

pytestmark = pytest.mark.services

# Characters that a URI must have quoted, and one (%) that means something to a config parser.
PASSWORD = "p@ss/w%rd:1"
Q = np.linspace(0.1, 5.0, 40)
FRAMES = 150


def postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent


def as_postgres(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command


def until(condition, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.05)


def run_quietly(command: list[str], **more) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Servers:
    postgres_port: int
    redis_port: int

    def config(self, path: Path) -> Path:
        at = f"nucleate:${{TEST_PASSWORD}}@127.0.0.1:{self.postgres_port}"
        path.write_text(
            "store:\n"
            f"  catalog_uri: postgresql+asyncpg://{at}/catalog\n"
            f"  tables_uri: postgresql://{at}/tables\n"
            f"  stream_cache_uri: redis://:${{TEST_PASSWORD}}@127.0.0.1:{self.redis_port}/0\n"
        )
        return path


@pytest.fixture(scope="module")
def postgres_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    programs, port = postgres_programs(), free_port()
    # Not below pytest's folder: the user postgres could not enter it.
    folder = Path(subprocess.check_output(as_postgres(["mktemp", "-d"]), text=True).strip())
    data = folder / "data"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run_quietly(as_postgres([str(programs / "initdb"), "-A", "trust", "-D", str(data)]))
    control = [str(programs / "pg_ctl"), "-D", str(data), "-w"]
    log = ["-l", str(folder / "log"), "-o", options]
    started = subprocess.run(
        as_postgres([*control, *log, "start"]), stdout=subprocess.DEVNULL, timeout=60, check=False
    )
    assert started.returncode == 0, (folder / "log").read_text()
    try:
        psql = [str(programs / "psql"), "-h", str(folder), "-p", str(port), "-d", "postgres"]
        for statement in (
            f"CREATE ROLE nucleate LOGIN PASSWORD '{PASSWORD}'",
            "CREATE DATABASE catalog OWNER nucleate",
            "CREATE DATABASE tables OWNER nucleate",
        ):
            run_quietly(as_postgres([*psql, "-c", statement]))
        # From here on everybody needs the password.
        rules = ["sed", "-i", "s/trust$/scram-sha-256/", str(data / "pg_hba.conf")]
        run_quietly(as_postgres(rules))
        run_quietly(as_postgres([str(programs / "pg_ctl"), "-D", str(data), "reload"]))
        yield port
    finally:
        run_quietly(as_postgres([*control, "-m", "immediate", "stop"]))
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    command += ["--requirepass", PASSWORD, "--save", ""]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    until(lambda: "Ready to accept connections" in (folder / "log").read_text())
    yield port
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture(scope="module")
def servers(postgres_port: int, redis_port: int) -> Servers:
    return Servers(postgres_port, redis_port)


def start_store(
    folder: Path, servers: Servers, port: int | None = None, link: str | None = None
) -> StoreProcess:
    port, link = port or free_port(), link or f"tcp://127.0.0.1:{free_port()}"
    (folder / "server.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pipeline.store", "--data-dir", str(folder)]
    command += ["--config", str(servers.config(folder / "config.yaml"))]
    command += ["--port", str(port), "--link", link]
    with (folder / "store.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=REPOSITORY,
            env={**os.environ, "TEST_PASSWORD": PASSWORD},
        )
    deadline = time.monotonic() + STORE_TIMEOUT_S
    while running_server(folder) is None:
        assert process.poll() is None, (folder / "store.log").read_text()
        assert time.monotonic() < deadline, "the store did not start in time"
        time.sleep(0.1)
    return StoreProcess(folder, process, port, link)


def results(run: str, frame: int) -> FrameResults:
    """A curve and a row whose values follow from the frame number."""
    time_s = 0.5 * (frame + 1)
    curve = Curve(
        frame=frame,
        time_s=time_s,
        q_per_nm=Q,
        intensity=frame + Q,
        sigma=0.1 * (frame + Q),
        absolute=True,
    )
    kinds = {"float": float, "int": int, "bool": bool, "str": str}
    numbers = {
        name: kinds[kind](place + frame)
        for place, (name, kind) in enumerate(Populations.__annotations__.items())
    }
    row = Populations(frame=frame, time_s=time_s, **numbers)
    return FrameResults("saxs", run, frame, time_s, (curve, row), newest=frame)


def test_killed_store_on_postgresql_and_redis_has_every_frame_once(
    servers: Servers, tmp_path: Path
) -> None:
    """SIGKILL in the middle: rows once each over HTTP, and a subscriber that saw each once."""
    run, node = "shift-7", "saxs/populations"
    running = start_store(tmp_path, servers)
    seen: list[dict] = []
    follower = RowsFollower(running.address, run, node, seen.append).start()
    try:
        with LinkSender(running.link) as sender:
            sender.document(RunDocument(run, "start", {"name": "test", "streams": ["saxs"]}))
            start = StreamStart("saxs", run, "curve", Q.shape, "<f8", {"q_per_nm": Q})
            assert sender.open(RunStart(run, start), (Curve, Populations), timeout_s=60) == 0
            stop = threading.Event()

            def feed() -> None:
                for frame in range(FRAMES):
                    while not sender.send(results(run, frame), timeout_s=0.5):
                        if stop.is_set():
                            return
                    stop.wait(0.02)

            feeder = threading.Thread(target=feed)
            feeder.start()
            try:
                until(lambda: len(seen) > 30)
                running.process.send_signal(signal.SIGKILL)
                running.process.wait()
                running = start_store(tmp_path, servers, running.port, running.link)
                feeder.join(60)
                assert not feeder.is_alive()
            finally:
                stop.set()
            sender.end(End("saxs", run, FRAMES))
            sender.document(RunDocument(run, "stop", {"exit_status": "success"}))
            assert sender.flush(60)
        with running.http() as http:
            until(lambda: bool((http.metadata(run) or {}).get("complete")))
            table, ledger = http.table(f"{run}/{node}"), http.table(f"{run}/saxs/frames")
            assert table is not None
            assert ledger is not None
            for stored in (table, ledger):
                assert stored["frame"].to_pylist() == list(range(FRAMES))
            assert ledger["status"].to_pylist() == ["stored"] * FRAMES
            place = list(Populations.__annotations__).index("nc_diameter_nm")
            expected = [float(place + frame) for frame in range(FRAMES)]
            assert table["nc_diameter_nm"].to_pylist() == expected
            curves = http.array(f"{run}/saxs/curves", "", float)
            assert curves is not None
            np.testing.assert_array_equal(
                curves.reshape(FRAMES, 2, Q.size)[:, 0], np.arange(FRAMES)[:, None] + Q
            )
        until(lambda: len(seen) == FRAMES)
        assert [row["frame"] for row in seen] == list(range(FRAMES))
        assert [row["nc_diameter_nm"] for row in seen] == expected
        # It was these servers, and no file of the folder.
        assert not list(tmp_path.glob("*.db"))
        said = (tmp_path / "store.log").read_text()
        assert PASSWORD not in said
        assert quote(PASSWORD, safe="") not in said
    finally:
        follower.stop()
        running.stop()


def refused(tmp_path: Path, store: str, password: str) -> str:
    """Last words of a store that must not start."""
    config = tmp_path / "config.yaml"
    config.write_text(store)
    command = [sys.executable, "-m", "pipeline.store", "--data-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
        env={**os.environ, "TEST_PASSWORD": password},
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_wrong_password_is_one_line_that_does_not_show_it(
    postgres_port: int, tmp_path: Path
) -> None:
    at = f"127.0.0.1:{postgres_port}/catalog"
    store = f"store: {{catalog_uri: 'postgresql+asyncpg://nucleate:${{TEST_PASSWORD}}@{at}'}}\n"
    said = refused(tmp_path, store, "guessed")
    assert said.startswith(f"nucleate store: catalog at postgresql+asyncpg://{at}: ")
    assert "password authentication failed" in said
    assert "guessed" not in said


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PASSWORD", PASSWORD)
    uri = with_secrets("redis://:${TEST_PASSWORD}@cache:6379/0")
    assert uri == "redis://:p%40ss%2Fw%25rd%3A1@cache:6379/0"
    assert without_password(uri) == "redis://cache:6379/0"
    monkeypatch.delenv("TEST_PASSWORD")
    with pytest.raises(ServerError, match=r"the environment has no TEST_PASSWORD"):
        with_secrets("redis://:${TEST_PASSWORD}@cache:6379/0")
