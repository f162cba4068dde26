"""The command line: helpful, and a mistake is one line on stderr with exit code 1."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from pipeline.cli import main
from pipeline.cli.app import app
from pipeline.cli.supervisor import HOPELESS
from pipeline.reduce.geometry import Geometry
from tests.support import REPOSITORY, StoreProcess, nucleate

SMALL = """\
acquisition:
  devices: {type: simulated, saxs: {shape: [64, 64]}, absorbance: null}
"""
NOBODY = "http://127.0.0.1:9"


@dataclass
class Done:
    code: int
    out: str
    err: str


class Command:
    """Runs commands in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str | Path) -> Done:
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = self._capture.readouterr()
        return Done(int(ended.value.code or 0), told.out, told.err)

    def refused(self, *arguments: str | Path) -> str:
        """The one line that says why."""
        done = self(*arguments)
        assert done.code == 1, done
        (line,) = done.err.strip().splitlines()
        assert "Traceback" not in line
        return line


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    before = signal.getsignal(signal.SIGTERM)
    yield Command(capsys)
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_every_command_shows_an_example() -> None:
    group = get_command(app)
    commands = dict(group.commands)  # pyright: ignore[reportAttributeAccessIssue]
    commands |= commands.pop("config").commands
    shared = {"demo", "run", "replay", "serve", "status", "alerts", "doctor", "check"}
    assert shared <= commands.keys()
    for name, known in commands.items():
        assert "Example: `nucleate" in (known.epilog or ""), name
    for name in shared:
        options = {option for known in commands[name].params for option in known.opts}
        assert {"--data-dir", "--tiled"} <= options, name


def test_a_typo_in_a_config_is_told_with_its_line_and_what_was_meant(tmp_path: Path) -> None:
    """As a process of its own: what a user's terminal shows."""
    path = tmp_path / "typo.yaml"
    path.write_text("name: a\nsaxs:\n  reduce:\n    bin: 100\n")
    done = nucleate("config", "check", path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"{path}:4: " in line
    assert "bins" in line


def test_configs_that_come_along_are_good(command: Command) -> None:
    for path in sorted((REPOSITORY / "configs").glob("*.yaml")):
        done = command("config", "check", path)
        assert done.code == 0, done.err
        assert "good" in done.out


def test_several_configs_are_checked_at_once(command: Command, config: Path) -> None:
    wrong = config.with_name("wrong.yaml")
    wrong.write_text("saxs: {fit: {shape: cubus}}\n")
    gone = config.with_name("gone.yaml")
    done = command("config", "check", wrong, config, gone)
    assert done.code == 1
    assert f"{config}: good" in done.out
    first, second = done.err.splitlines()
    assert f"{wrong}: saxs.fit.shape: shape 'cubus' is not known; known are " in first
    assert str(gone) in second


def test_files_that_a_config_names_are_tried(command: Command, tmp_path: Path) -> None:
    geometry = Geometry(1.9, 1e-3, 1e-3, 0.1, 1e-4, 1e-4, shape=(20, 30))
    (tmp_path / "a.poni").write_text(geometry.to_poni())
    np.save(tmp_path / "mask.npy", np.zeros((20, 30)))
    np.save(tmp_path / "flat.npy", np.ones((30, 20)))
    (tmp_path / "dark.npy").write_bytes(b"")
    (tmp_path / "b.txt").write_text("1 2\n")
    (tmp_path / "named.poni").write_text(
        geometry.to_poni().replace('{"pixel1"', '{"filename": "gone.h5", "pixel1"')
    )
    path = tmp_path / "c.yaml"

    def check(saxs: str, waxs: str = "") -> list[str]:
        path.write_text(f"saxs: {{reduce: {{{saxs}}}}}\nwaxs: {{reduce: {{{waxs}}}}}\n")
        done = command("config", "check", path)
        lines = done.err.removeprefix("nucleate: ").splitlines()
        assert done.code == (1 if lines else 0), done
        assert ("good" in done.out) == (not lines)
        start = f"{path}: "
        assert all(line.startswith(start) for line in lines)
        return [line.removeprefix(start) for line in lines]

    assert check("poni_file: a.poni, mask_file: mask.npy, sensor: {thickness_um: 320}") == []
    gone = check("poni_file: g.poni, mask_file: m.npy, background_file: b.dat", "dark_file: d.npy")
    keys = ["saxs.reduce.poni_file", "saxs.reduce.mask_file", "saxs.reduce.background_file"]
    assert [line.partition(": ")[0] for line in gone] == [*keys, "waxs.reduce.dark_file"]
    assert all(str(tmp_path) in line and "no such file" in line for line in gone)
    wrong = check(
        "poni_file: a.poni, flat_file: flat.npy, dark_file: dark.npy, background_file: b.txt, "
        "sensor: {material: Unobtainium, thickness_um: 1}",
        "poni_file: named.poni",
    )
    told = (
        ("saxs.reduce.dark_file", "No data left in file"),
        ("saxs.reduce.flat_file", "of (20, 30), as the frames, got (30, 20)"),
        ("saxs.reduce.background_file", "rows of q, I, sigma"),
        ("saxs.reduce.sensor", "Unobtainium"),
        ("waxs.reduce.poni_file", "gone.h5: expected the detector's NeXus file"),
    )
    for line, (key, text) in zip(wrong, told, strict=True):
        assert line.startswith(f"{key}: ")
        assert text in line


def test_what_cannot_be_replayed(command: Command, tmp_path: Path, config: Path) -> None:
    nowhere = ("--data-dir", tmp_path / "data")
    line = command.refused("replay", tmp_path / "none", *nowhere)
    assert line == f"nucleate: {tmp_path / 'none'}: no such file or folder"
    line = command.refused("replay", tmp_path, *nowhere)
    assert "name one with --config" in line
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("nothing\n")
    line = command.refused("replay", tmp_path / "folder", "--config", config, *nowhere)
    assert str(tmp_path / "folder") in line
    line = command.refused("replay", config, "--config", config, "--speed", "fast", *nowhere)
    assert "expected max or a number above 0, got 'fast'" in line
    assert not (tmp_path / "data").exists()


def test_where_nothing_can_be_written(command: Command, tmp_path: Path, config: Path) -> None:
    (tmp_path / "file").write_text("")
    line = command.refused("run", config, "--data-dir", tmp_path / "file" / "data")
    assert "cannot be written to: Not a directory; choose another --data-dir" in line


def test_a_port_that_is_taken(command: Command, tmp_path: Path, config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = command.refused("run", config, "--data-dir", tmp_path / "d", "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line
    assert "--port" in line


def test_a_server_that_does_not_answer(command: Command, tmp_path: Path, config: Path) -> None:
    folder = ("--data-dir", tmp_path / "d")
    for arguments in (("run", config), ("status",), ("alerts",)):
        assert f"no answer from Tiled at {NOBODY}" in command.refused(
            *arguments, "--tiled", NOBODY, *folder
        )
    line = command.refused("status", *folder)
    assert "no server is running on" in line
    assert "nucleate serve --data-dir" in line


def test_a_wrong_key(
    command: Command, store: StoreProcess, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILED_API_KEY", "wrong")
    url = store.address.url
    line = command.refused("run", config, "--tiled", url, "--data-dir", store.folder / "other")
    assert line == f"nucleate: Tiled at {url} refuses the API key: set TILED_API_KEY"


def test_questions_about_a_run_that_is_not_there(command: Command, store: StoreProcess) -> None:
    for question in ("status", "alerts"):
        line = command.refused(question, "--run", "none", "--data-dir", store.folder)
        assert line == f"nucleate: there is no run none at {store.address.url}"


def test_doctor(command: Command, store: StoreProcess, config: Path, tmp_path: Path) -> None:
    done = command("doctor", "--data-dir", store.folder, "--config", config)
    assert done.code == 0, done.out
    for line in (
        f"Tiled answers at {store.address.url}",
        "is valid",
        "kernels are compiled (reduce_saxs",
    ):
        assert line in done.out
    (tmp_path / "typo.yaml").write_text("nam: a\n")
    done = command("doctor", "--data-dir", store.folder, "--config", tmp_path / "typo.yaml")
    assert done.code == 1
    assert "typo.yaml:1: " in done.out


def test_a_folder_has_one_server(store: StoreProcess) -> None:
    command = [sys.executable, "-m", "pipeline.store", "--data-dir", str(store.folder)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == HOPELESS
    (line,) = done.stderr.splitlines()
    assert f"another server is starting or running on {store.folder}" in line
    with store.http() as http:
        assert http.exists("raw")
