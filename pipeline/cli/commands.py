"""What the commands do."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from pipeline.access import AlertFollower, TiledAddress, TiledHttp
from pipeline.cli import configs, queries
from pipeline.cli.config_files import require
from pipeline.cli.screen import Screen
from pipeline.cli.session import Session, SessionError, free_port, running_server
from pipeline.cli.supervisor import Supervisor
from pipeline.config.loader import ConfigError, load_config
from pipeline.stopping import stop_on_signals

out = Console()
err = Console(stderr=True)


def address_of(data_dir: Path, tiled: str | None) -> TiledAddress:
    """The server that was named, or the one that serves the data folder."""
    return TiledAddress.from_url(tiled) if tiled else TiledAddress.of_data_dir(data_dir)


def demo(data_dir: Path, tiled: str | None, duration: float | None, port: int) -> None:
    run(configs.packaged("cs_dopa.yaml"), data_dir, tiled, duration, port)


def run(
    config_file: Path, data_dir: Path, tiled: str | None, duration: float | None, port: int
) -> None:
    """Acquire and analyse; Ctrl-C ends the run in good order, a second one at once."""
    config = load_config(config_file)
    require(config_file, config)
    streams = configs.acquired_streams(config)
    if not streams:
        raise SessionError(f"{config_file}: acquisition.devices names no detector")
    session = Session(data_dir, config_file, streams, tiled_url=tiled, port=port)
    arguments = [] if duration is None else ["--duration", str(duration)]
    with Screen(session, config, out) as screen:
        for note in configs.unanswered(config, streams):
            screen.say(note)
        try:
            session.start("detectors.acquire", *arguments)
            _until_done(session, screen)
        finally:
            session.close()
    _tell_what_is_left(session, tiled)


def _until_done(session: Session, screen: Screen) -> None:
    """Wait for the end of the run; the first Ctrl-C asks for it, the second gives up waiting."""
    interrupted = False
    while True:
        try:
            session.wait(screen.update)
            session.finish(screen.update)
            return
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            screen.say("ending the run: the last frames are being stored (Ctrl-C again: at once)")
            session.interrupt()


def _tell_what_is_left(session: Session, tiled: str | None) -> None:
    shown = session.recording_dir
    if shown.is_relative_to(Path.cwd()):
        shown = shown.relative_to(Path.cwd())
    folder = session.data_dir
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    out.print(f"Recording: {shown}", soft_wrap=True)
    out.print(f"Again:     nucleate replay {shown} --speed max --data-dir {folder}", soft_wrap=True)
    results = f"status --tiled {tiled}" if tiled else f"serve --data-dir {folder}"
    out.print(f"Results:   nucleate {results}", soft_wrap=True)


def replay(
    recording: str,
    config_file: Path | None,
    speed: str,
    data_dir: Path,
    tiled: str | None,
    port: int,
) -> None:
    """Replay; progress on stderr, the key alone on the last line of stdout."""
    from pipeline.replay import open_recording
    from pipeline.replay.player import parse_speed

    parse_speed(speed)
    if config_file is None:
        config_file = configs.recorded(recording, data_dir)
    config = load_config(config_file)
    require(config_file, config)
    source = open_recording(recording, config.replay)
    session = Session(data_dir, config_file, tuple(source.streams), tiled_url=tiled, port=port)
    with Screen(session, config, err) as screen:
        for note in configs.unanswered(config, tuple(source.streams)):
            screen.say(note)
        try:
            session.start("pipeline.replay", "--speed", speed, "--", recording)
            session.wait(screen.update)
            session.finish(screen.update)
        finally:
            session.close()
    print(session.run)


def serve(data_dir: Path, tiled: str | None, port: int) -> None:
    """Serve, and take results of runs that are started meanwhile on the same folder."""
    if tiled is not None:
        raise SessionError("serve starts the folder's own server: --tiled has no meaning here")
    if (running := running_server(data_dir)) is not None:
        raise SessionError(f"{data_dir} is being served already, at {running.address.url}")
    data_dir = data_dir.resolve()
    link = f"tcp://127.0.0.1:{free_port()}"
    supervisor = Supervisor(data_dir / "logs" / "serve", {})
    arguments = ["--data-dir", str(data_dir), "--port", str(port), "--link", link]
    supervisor.start("store", "pipeline.store", *arguments, restart=True)
    try:
        with err.status("starting Tiled"):
            while running_server(data_dir) is None:
                supervisor.check()
                time.sleep(0.2)
        address = TiledAddress.of_data_dir(data_dir)
        out.print(f"Tiled: {address.url}  (API key in {data_dir / 'tiled_api_key'})")
        out.print(queries.example_curl(address, "RUN", data_dir), soft_wrap=True, markup=False)
        out.print("Ctrl-C ends it.")
        while True:
            supervisor.check()
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        supervisor.stop_all()


def status(data_dir: Path, tiled: str | None, run: str | None) -> None:
    with TiledHttp(address_of(data_dir, tiled)) as http:
        queries.print_status(http, run, out)


def alerts(data_dir: Path, tiled: str | None, run: str | None, follow: bool, lines: bool) -> None:
    """Print alerts as a table or as JSON lines; with ``follow``, as they come."""
    address = address_of(data_dir, tiled)
    with TiledHttp(address) as http:
        key = run or queries.newest_run(http)
        if not follow:
            queries.print_alerts(http, key, out, lines)
            return
    stop = stop_on_signals()

    def show(_key: str, fields: dict[str, Any]) -> None:
        print(json.dumps(fields) if lines else queries.alert_line(fields), flush=True)

    follower = AlertFollower(address, key, show).start()
    try:
        stop.wait()
    finally:
        follower.stop()


def export(
    run: str,
    stream: str,
    frame: int | None,
    frames: str | None,
    form: str,
    unit: str,
    to: Path | None,
    data_dir: Path,
    tiled: str | None,
) -> None:
    """Write curves as files; where they are on stdout, what was left out on stderr."""
    from pipeline.cli.export import export_run
    from pipeline.export import Request

    request = Request(stream, frame, frames, unit)
    with TiledHttp(address_of(data_dir, tiled)) as http:
        done = export_run(http, run, request, form, to)
    for number, reason in done.left_out:
        err.print(f"frame {number} has no curve: {reason}", markup=False, soft_wrap=True)
    count = f"{done.frames} frame{'' if done.frames == 1 else 's'}"
    out.print(f"{done.path}: {count}", markup=False, highlight=False, soft_wrap=True)


def shape(
    run: str,
    frame: int | None,
    frames: str | None,
    repeats: int,
    spread: float | None,
    degree: int,
    seed: int,
    replace: bool,
    data_dir: Path,
    tiled: str | None,
) -> None:
    """Retrieve a shape and store it; progress on stderr, what was found on stdout."""
    from rich.progress import Progress

    from pipeline.cli import shape as shapes
    from pipeline.export import Request
    from pipeline.shape import Settings, find_shape

    if frame is None and frames is None:
        raise SessionError("expected --frame N, or --frames A:B for their mean, got neither")
    settings = Settings(degree=degree, repeats=repeats, seed=seed)
    if spread is not None:
        settings = dataclasses.replace(settings, spreads=(spread,))
    with TiledHttp(address_of(data_dir, tiled)) as http:
        measured = shapes.measure(http, run, Request("saxs", frame, frames))
        if not replace and shapes.taken(http, run, measured.key):
            raise SessionError(
                f"{run}/{shapes.SHAPES}/{measured.key} is there already: --replace makes it anew"
            )
        for number, reason in measured.left_out:
            err.print(f"frame {number} has no curve: {reason}", markup=False, soft_wrap=True)
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("searching")

            def show(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            found = find_shape(measured.crystals, settings, show)
        for line in shapes.report(measured, found):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        path = shapes.store(http, run, measured, found)
        out.print(f"  stored     {path}", markup=False, highlight=False, soft_wrap=True)


def doctor(data_dir: Path, tiled: str | None, config_file: Path | None) -> None:
    from pipeline.cli.doctor import examine

    if not examine(data_dir, tiled, config_file, out):
        raise typer.Exit(1)


def keys(folder: Path) -> None:
    """Make CURVE keys, or say that they are there."""
    from pipeline.cli.keys import make_keys

    done = "made" if make_keys(folder) else "there already, unchanged"
    out.print(f"{folder}: keys {done}", markup=False, soft_wrap=True)


def wiring(
    config_file: Path,
    run: str,
    data_dir: Path,
    tiled: str | None,
    hosts: list[str],
    to: Path | None,
) -> None:
    """Print a run's wiring, or write it."""
    from pipeline.cli.wiring import make_wiring

    text = make_wiring(config_file, run, data_dir, hosts, tiled).model_dump_json(indent=2)
    if to is None:
        print(text)
    else:
        to.write_text(text + "\n", encoding="utf-8")


def config_check(files: Sequence[Path]) -> None:
    """Say whether configs are good and the files that they name can be used."""
    problems: list[str] = []
    for file in files:
        try:
            config = load_config(file)
            require(file, config)
        except ConfigError as error:
            problems += error.problems
            continue
        streams = configs.streams_of(config)
        listed = ", ".join(streams) or "no detectors"
        out.print(f"{file}: good ({config.name}; {listed})", markup=False, soft_wrap=True)
        for note in configs.unanswered(config, streams):
            out.print(f"note: {note}", markup=False, soft_wrap=True)
    if problems:
        raise ConfigError(problems)


def config_schema() -> None:
    from pipeline.config.loader import json_schema

    json.dump(json_schema(), sys.stdout, indent=2)
    print()
