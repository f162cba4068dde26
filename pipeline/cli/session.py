"""One run, whatever makes its frames: processes, addresses, the order of starting and ending."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.access import TiledAddress, TiledHttp, UnreachableError
from pipeline.cli.supervisor import Child, ProcessFailedError, Supervisor
from pipeline.config.wiring import FrameEndpoints, Wiring

SOURCE, STORE, DETECT, REACTION = "source", "store", "detect", "reaction"

# A store that takes longer has a broken disk or a starved machine.
STORE_TIMEOUT_S = 180.0
# After the last frame is stored: time for the last alerts, and for what the tables say together.
FOLLOWERS_TIMEOUT_S = 60.0
FOLLOWERS = {REACTION: "what follows of both detectors", DETECT: "detection"}
"""Processes that read a run's stored results, and what they do."""
# A server that was named and needs longer for one answer is too slow to write to.
EXTERNAL_TIMEOUT_S = 20.0
POLL_S = 0.1


class SessionError(RuntimeError):
    """A run that cannot be started or finished; one line."""


PORTS = range(20_000, 32_000)
"""Below what Linux gives to outgoing connections (from 32768), above the usual services: between
the choice of a port and its use, seconds pass in which any connection could take one of those."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago, at random so that two sessions hardly meet.

    Raises
    ------
    SessionError
        If none is free.
    """
    # From the system's entropy: a seeded generator would give every session the same ports.
    for port in secrets.SystemRandom().sample(PORTS, 100):
        try:
            socket.create_server((host, port)).close()
        except OSError:
            continue
        return port
    raise SessionError(
        f"no free port on {host}: 100 of {PORTS.start} to {PORTS.stop - 1} were tried"
    )


@dataclass(frozen=True)
class RunningServer:
    """A store that already serves this data folder."""

    address: TiledAddress
    link: str | None


def running_server(data_dir: Path) -> RunningServer | None:
    """The store that serves a data folder, if it answers."""
    try:
        address = TiledAddress.of_data_dir(data_dir)
        facts = json.loads((data_dir / "server.json").read_text())
        with TiledHttp(address, timeout_s=5) as http:
            http.get("/")
    except (UnreachableError, FileNotFoundError):
        return None
    return RunningServer(address, facts.get("link"))


class Session:
    """Starts the store, the analysis, the detection and a source of frames; ends them in order.

    Parameters
    ----------
    data_dir
        Everything is kept below.
    config_file
        The run's config.
    streams
        Streams that the source has.
    tiled_url
        A running Tiled server to write to; None = the folder's own, started if need be.
    port
        Of the embedded server, 0 = any.
    """

    def __init__(
        self,
        data_dir: Path,
        config_file: Path,
        streams: Sequence[str],
        *,
        tiled_url: str | None = None,
        port: int = 0,
        run: str | None = None,
    ) -> None:
        self.run = run or str(uuid.uuid4())
        self.data_dir = data_dir.resolve()
        self.recording_dir = self.data_dir / "recordings" / self.run
        self.streams = tuple(streams)
        self._own_server: int | None = None
        _require_writable(self.data_dir)
        server = None if tiled_url else running_server(self.data_dir)
        if server is not None:
            if server.link is None:
                raise SessionError(
                    f"another run is being written to {self.data_dir} (its server is "
                    f"{server.address.url}): wait for it, or choose another --data-dir"
                )
            self.address, store = server.address, server.link
        else:
            store = f"tcp://127.0.0.1:{free_port()}"
            self.address = _external(tiled_url) if tiled_url else self._own_address(port)
        self._external = tiled_url
        self._starts_store = server is None
        self.wiring = Wiring(
            run=self.run,
            config_file=config_file.resolve(),
            recording_dir=self.recording_dir,
            frames={name: _endpoints() for name in self.streams},
            store=store,
            tiled_url=self.address.url,
        )
        logs = self.data_dir / "logs" / self.run
        environment = {"TILED_API_KEY": self.address.api_key} if self.address.api_key else {}
        self.supervisor = Supervisor(logs, environment)
        self.wiring_file = logs / "wiring.json"
        self.wiring_file.write_text(self.wiring.model_dump_json(indent=2) + "\n")

    def _own_address(self, port: int) -> TiledAddress:
        """Where the folder's own server will be."""
        from pipeline.store.keys import api_key_for

        if port:
            _require_free(port)
        self._own_server = port or free_port()
        return TiledAddress(f"http://127.0.0.1:{self._own_server}", api_key_for(self.data_dir))

    def start(self, source_module: str, *source_arguments: str) -> None:
        """Start everything at once: what takes longest decides when the first result is there."""
        wiring = ("--wiring", str(self.wiring_file))
        if self._starts_store:
            self._start_store()
        for stream in self.streams:
            self.supervisor.start(
                f"analyse-{stream}",
                "pipeline.cli.analyse",
                *wiring,
                "--stream",
                stream,
                restart=True,
            )
        self.supervisor.start(SOURCE, source_module, *wiring, *source_arguments, restart=False)
        self.supervisor.start(DETECT, "pipeline.detect", *wiring, restart=True)
        self.supervisor.start(REACTION, "pipeline.reaction", *wiring, restart=True)

    def _start_store(self) -> None:
        arguments = ["--private", "--data-dir", str(self.data_dir), "--link", self.wiring.store]
        arguments += ["--config", str(self.wiring.config_file)]
        if self._external is not None:
            arguments += ["--tiled", self._external]
        else:
            arguments += ["--port", str(self._own_server)]
        self.supervisor.start(STORE, "pipeline.store", *arguments, restart=True)

    @property
    def is_external(self) -> bool:
        """Whether results go to a server that was named, not to the folder's own."""
        return self._external is not None

    @property
    def source(self) -> Child:
        return self.supervisor.children[SOURCE]

    def wait(self, tick: Callable[[], None], poll_s: float = POLL_S) -> None:
        """Until the source has ended by itself: all its frames are stored then.

        Raises
        ------
        ProcessFailedError
            Something ended that should not have.
        """
        while self.source.running:
            self.supervisor.check()
            tick()
            time.sleep(poll_s)
        analyses = [self.supervisor.children[f"analyse-{stream}"] for stream in self.streams]
        if self.source.exit_code != 0 and not any(child.running for child in analyses):
            # It failed after its frames were analysed: the last alerts are still to come.
            deadline = time.monotonic() + FOLLOWERS_TIMEOUT_S
            for name in FOLLOWERS:
                self.supervisor.wait(name, max(0.0, deadline - time.monotonic()))
        self.supervisor.check()

    def interrupt(self) -> None:
        """End the run early: the source stops taking frames, the rest finishes them."""
        self.supervisor.signal(SOURCE, signal.SIGTERM)

    def finish(self, tick: Callable[[], None] = lambda: None) -> None:
        """Wait until every result is stored and every alert raised.

        Raises
        ------
        ProcessFailedError
            What reads the results did not finish.
        """
        for stream in self.streams:
            name = f"analyse-{stream}"
            child = self.supervisor.children[name]
            while child.running or child.restart_at is not None:
                self.supervisor.check()
                tick()
                if child.restarts and not self.source.running and self._is_stored(stream):
                    # It was killed behind its last frame: its successor waits for a source that
                    # has gone.
                    self.supervisor.stop(name)
                    break
                time.sleep(POLL_S)
        deadline = time.monotonic() + FOLLOWERS_TIMEOUT_S
        for name, what in FOLLOWERS.items():
            child = self.supervisor.children[name]
            while child.running or child.restart_at is not None:
                self.supervisor.check()
                tick()
                if time.monotonic() > deadline:
                    raise ProcessFailedError(
                        f"{what} has not finished within {FOLLOWERS_TIMEOUT_S:.0f} s of the last "
                        f"frame (log: {child.log})"
                    )
                time.sleep(POLL_S)
        self.supervisor.check()

    def _is_stored(self, stream: str) -> bool:
        """Whether the store has all frames of a stream; False while it does not answer."""
        try:
            with TiledHttp(self.address) as http:
                return stream in (http.metadata(self.run) or {}).get("ended", {})
        except UnreachableError:
            return False

    def close(self) -> None:
        """End every process of this session."""
        self.supervisor.stop_all()


def _external(url: str) -> TiledAddress:
    """A server that was named, once it has answered: a run must not start without its results."""
    address = TiledAddress.from_url(url)
    with TiledHttp(address, timeout_s=EXTERNAL_TIMEOUT_S) as http:
        if http.get("/search/", **{"page[limit]": 1}) is None:
            raise SessionError(f"{url} answers, but is no Tiled server (it has no /api/v1/search)")
    return address


def _require_writable(folder: Path) -> None:
    """Make a folder, and refuse one that cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SessionError(
            f"{folder} cannot be written to: {error.strerror}; choose another --data-dir"
        ) from None


def _require_free(port: int, host: str = "127.0.0.1") -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise SessionError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from None


def _endpoints() -> FrameEndpoints:
    return FrameEndpoints(
        live=f"tcp://127.0.0.1:{free_port()}", repair=f"tcp://127.0.0.1:{free_port()}"
    )
