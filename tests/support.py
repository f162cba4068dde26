"""Real parts that several tests start."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.access import TiledAddress, TiledHttp
from pipeline.cli.session import free_port, running_server

REPOSITORY = Path(__file__).resolve().parent.parent

# Tiled's imports take 10 to 20 s of computing on two busy cores.
STORE_TIMEOUT_S = 120


@dataclass
class StoreProcess:
    """A real store with its embedded Tiled server, in a process of its own."""

    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    link: str

    @property
    def address(self) -> TiledAddress:
        return TiledAddress.of_data_dir(self.folder)

    def http(self) -> TiledHttp:
        return TiledHttp(self.address)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


def start_store(folder: Path, port: int | None = None, link: str | None = None) -> StoreProcess:
    """Start a store on a folder and wait until it answers."""
    port, link = port or free_port(), link or f"tcp://127.0.0.1:{free_port()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pipeline.store", "--data-dir", str(folder)]
    command += ["--port", str(port), "--link", link]
    with (folder / "store.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY)
    deadline = time.monotonic() + STORE_TIMEOUT_S
    while running_server(folder) is None:
        assert process.poll() is None, (folder / "store.log").read_text()
        assert time.monotonic() < deadline, "the store did not start in time"
        time.sleep(0.1)
    assert json.loads((folder / "server.json").read_text())["link"] == link
    return StoreProcess(folder, process, port, link)


def nucleate(*arguments: str | Path, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
    """The command, as a user calls it; its output is text."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def replayed(recording: str | Path, store: StoreProcess, *arguments: str | Path) -> str:
    """Replay by the command on the store's folder; the key of the new run."""
    done = nucleate("replay", recording, "--data-dir", store.folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def alerts_of(http: TiledHttp, run: str) -> list[dict[str, Any]]:
    """The alerts of a run, in order of time."""
    return sorted((fields for _, fields in http.children(f"{run}/alerts")), key=_when)


def _when(alert: dict[str, Any]) -> tuple[float, str]:
    return alert["time_s"], alert["kind"]


def sasmodels_squared(name: str, q_per_nm: np.ndarray, **parameters: float | str) -> np.ndarray:
    """<F^2> (n,) of a sasmodels model in nm^6 for contrasts in 1e-6/A^2, which are in it."""
    from sasmodels.core import load_model
    from sasmodels.direct_model import call_Fq

    kernel = load_model(name, dtype="double", platform="dll").make_kernel([0.1 * q_per_nm])
    _, squared, *_ = call_Fq(kernel, parameters)
    return 0.01 * np.array(squared)


def logarithmic_grid(
    smallest_nm: float, largest_nm: float, relative_step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes even in ln D that reach both ends, and the widths that they stand for."""
    span = np.log(largest_nm / smallest_nm)
    count = int(np.ceil(span / relative_step)) + 1
    nodes = np.geomspace(smallest_nm, largest_nm, count)
    return nodes, nodes * (span / (count - 1))
