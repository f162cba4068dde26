"""The compose file: every command parses with the arguments of its module, every name is known."""

from __future__ import annotations

import argparse
import importlib
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipeline.bus import LinkReceiver, LinkSender
from pipeline.bus.sockets import check_endpoint
from pipeline.cli.app import app
from pipeline.cli.keys import make_keys
from pipeline.cli.session import SessionError, free_port
from pipeline.cli.wiring import STORE_PORT, TILED_PORT, make_wiring
from pipeline.config.loader import load_config
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import Wiring
from pipeline.messages import RunDocument
from tests.support import REPOSITORY

COMPOSE = REPOSITORY / "docker-compose.yml"
CONFIG = REPOSITORY / "compose" / "cs_dopa.yaml"
STAGES = (
    "detectors",
    "reduce-saxs",
    "fit-saxs",
    "reduce-absorbance",
    "fit-absorbance",
    "analyse-waxs",
    "store",
    "detect",
    "reaction",
)
ENVIRONMENT = {"RUN": "shift-7", "POSTGRES_PASSWORD": "a", "REDIS_PASSWORD": "b"}
ENVIRONMENT["TILED_API_KEY"] = "c"


def interpolated(text: str) -> str:
    """``${NAME:-default}`` and ``${NAME:?message}`` as Compose replaces them."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[3]
        if match[2] == ":?" or default is None:
            return ENVIRONMENT[name]
        return ENVIRONMENT.get(name, default)

    return re.sub(r"(?<!\$)\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text).replace("$$", "$")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(interpolated(COMPOSE.read_text()))["services"]


@pytest.fixture
def wiring(services: dict[str, Any]) -> Wiring:
    """What the service ``wiring`` writes, from this checkout's config."""
    command = [str(CONFIG) if "run.yaml" in part else part for part in words(services["wiring"])]
    parsed = parse_nucleate(command)
    return make_wiring(parsed["config"], parsed["run"], parsed["data_dir"], parsed["host_for"])


def words(service: dict[str, Any]) -> list[str]:
    assert all(isinstance(word, str) for word in service["command"])
    return service["command"]


def parse_nucleate(command: list[str]) -> dict[str, Any]:
    """Arguments of one of our commands, by the real parser."""
    assert command[0] == "nucleate"
    group = typer.main.get_group(app)
    found = group.commands[command[1]]
    return found.make_context(command[1], command[2:]).params


def parse_module(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> argparse.Namespace:
    """Arguments of ``python -m MODULE ...`` by that module's own parser, which then stops."""
    assert command[:2] == ["python", "-m"]
    name = command[2]
    try:
        module = importlib.import_module(f"{name}.__main__")
    except ModuleNotFoundError:
        module = importlib.import_module(name)
    parse, parsed = argparse.ArgumentParser.parse_args, []

    class ParsedError(Exception):
        pass

    def remember(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        parsed.append(parse(parser, *arguments))
        raise ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", remember)
        patch.setattr("sys.argv", [name, *command[3:]])
        with pytest.raises(ParsedError):
            module.main()
    return parsed[0]


def test_services_stand_in_the_order_of_a_frame(services: dict[str, Any]) -> None:
    assert [name for name in services if name in STAGES] == list(STAGES)
    assert set(services) - set(STAGES) == {"keys", "wiring", "postgres", "redis"}


def test_every_command_parses(monkeypatch: pytest.MonkeyPatch, services: dict[str, Any]) -> None:
    for name in STAGES:
        arguments = parse_module(monkeypatch, words(services[name]))
        if name.startswith(("reduce", "fit")):
            stages, stream = name.split("-")
            assert (arguments.stages, arguments.stream) == (stages, stream)
        if name == "analyse-waxs":
            assert (arguments.stages, arguments.stream) == ("all", "waxs")
        if name == "store":
            assert arguments.link == f"tcp://store:{STORE_PORT}"
            assert arguments.port == TILED_PORT
            assert arguments.tiled is None
    assert parse_nucleate(words(services["keys"]))["folder"] == Path("/keys")


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        yield source, target, mode == ["ro"]


def test_volumes_files_and_paths_are_there(services: dict[str, Any]) -> None:
    volumes = set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    used = set()
    for name, service in services.items():
        targets = []
        for source, target, _ in mounts(service):
            targets.append(target)
            if source.startswith("."):
                assert (REPOSITORY / source).exists(), f"{name}: {source}"
            else:
                used.add(source)
        for word in map(str, service.get("command", ())):
            path = word.rpartition("=")[2]
            if word.startswith("--data-dir="):
                # Written down here, used there.
                for user in ("detectors", "store"):
                    assert f"{path}/recordings" in [
                        target for _, target, _ in mounts(services[user])
                    ]
            elif path.startswith("/"):
                assert any(path == t or path.startswith(f"{t}/") for t in targets), (name, word)
    assert used == volumes
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    for copied in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        for file in copied.split():
            assert (REPOSITORY / file).exists(), file
            assert f"!{file}" in (REPOSITORY / ".dockerignore").read_text().split()


def test_only_who_writes_may_write(services: dict[str, Any]) -> None:
    writers: dict[str, set[str]] = {}
    for name, service in services.items():
        for source, _, read_only in mounts(service):
            if not read_only:
                writers.setdefault(source, set()).add(name)
    assert writers["keys"] == {"keys"}
    assert writers["wiring"] == {"wiring"}
    assert writers["data"] == {"store"}
    assert writers["recordings"] == {"detectors", "store"}
    assert writers["postgres"] == {"postgres"}


def test_every_service_is_confined_and_watched(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert "network_mode" not in service
        assert service.get("privileged") is None
        assert service.get("user") == "nucleate" or name in ("postgres", "redis")
        assert "restart" in service, name
        assert "healthcheck" in service or name in ("keys", "wiring"), name
        for other, how in service.get("depends_on", {}).items():
            assert other in services
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
            else:
                assert services[other]["restart"] == "no"
    # One port for people, and that on this machine unless .env says otherwise.
    assert [s["ports"] for s in services.values() if "ports" in s] == [["127.0.0.1:8000:8000"]]


def test_wiring_names_services_and_the_ports_that_are_watched(
    services: dict[str, Any], wiring: Wiring
) -> None:
    assert wiring.run == "shift-7"
    assert wiring.recording_dir == Path("/data/recordings/shift-7")
    bound = {
        "detectors": wiring.frames["saxs"].repair,
        "fit-saxs": wiring.links["saxs"],
        "fit-absorbance": wiring.links["absorbance"],
    }
    for name, endpoint in bound.items():
        host, port = endpoint.removeprefix("tcp://").split(":")
        assert host == name
        assert f"/dev/tcp/{host}/{port}" in services[name]["healthcheck"]["test"][-1]
    assert wiring.store == f"tcp://store:{STORE_PORT}"
    assert wiring.tiled_url == f"http://store:{TILED_PORT}"
    every = [wiring.store, *wiring.links.values()]
    for endpoints in wiring.frames.values():
        every += [endpoints.live, endpoints.repair]
    assert len(set(every)) == len(every) == 7
    for endpoint in every:
        check_endpoint(endpoint, secured=True)
        with pytest.raises(ValueError, match="other machines"):
            check_endpoint(endpoint, secured=False)


def test_config_is_the_demo_on_servers(services: dict[str, Any]) -> None:
    ours, demo = load_config(CONFIG), load_config(REPOSITORY / "configs" / "cs_dopa.yaml")
    assert ours.model_copy(update={"bus": demo.bus, "store": demo.store}) == demo
    assert ours.bus.curve_keys == "/keys"
    for uri in (ours.store.catalog_uri, ours.store.tables_uri, ours.store.stream_cache_uri):
        assert uri is not None
        name, host = re.findall(r"\$\{(\w+)\}@(\w+)", uri)[0]
        assert host in services
        assert name in services["store"]["environment"]
        assert name in services[host]["environment"]


def test_env_example_has_all_names_and_no_secret() -> None:
    example = dict(
        line.split("=", 1)
        for line in (REPOSITORY / "compose" / "env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text()))
    assert asked == set(example)
    assert not any(v for k, v in example.items() if k.endswith(("KEY", "PASSWORD")))


def test_other_machines_need_keys_and_known_parts(tmp_path: Path) -> None:
    plain = REPOSITORY / "configs" / "cs_dopa.yaml"
    local = make_wiring(plain, "r", tmp_path, [])
    assert local.store == f"tcp://127.0.0.1:{STORE_PORT}"
    with pytest.raises(SessionError, match=r"need bus\.curve_keys"):
        make_wiring(plain, "r", tmp_path, ["store=tiled.example.org"])
    with pytest.raises(SessionError, match=r"a part of detectors, fit-saxs, .*; got shop=here"):
        make_wiring(CONFIG, "r", tmp_path, ["shop=here"])


def test_keys_are_complete_private_and_made_once(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert make_keys(keys)
    before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    for path in before:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not make_keys(keys)
    assert {path: path.read_bytes() for path in before} == before
    (keys / "server.key_secret").unlink()
    with pytest.raises(SessionError, match=r"expected all or none of server\.key"):
        make_keys(keys)


class Documents:
    """A store that takes documents."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def on_document(self, document: Any) -> None:
        self.runs.append(document.run)

    def on_open(self, *_: Any) -> int:
        raise AssertionError

    def on_results(self, _: Any) -> None:
        raise AssertionError

    def on_end(self, _: Any) -> None:
        raise AssertionError


def test_keys_open_a_link_by_the_machines_name_and_no_keys_do_not(tmp_path: Path) -> None:
    """``localhost`` is a name: libzmq would not bind to it."""
    make_keys(tmp_path / "keys")
    make_keys(tmp_path / "others")
    bus, store = Bus(curve_keys=str(tmp_path / "keys")), Documents()
    endpoint = f"tcp://localhost:{free_port()}"
    with LinkReceiver(endpoint, bus, store):
        with LinkSender(endpoint, bus) as sender:
            sender.document(RunDocument("ours", "start", {}))
            assert sender.flush(10)
        for stranger in (Bus(), Bus(curve_keys=str(tmp_path / "others"))):
            with LinkSender(endpoint, stranger) as sender:
                sender.document(RunDocument("a stranger's", "start", {}))
                assert not sender.flush(1)
    assert store.runs == ["ours"]
