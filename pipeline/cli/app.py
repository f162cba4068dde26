"""The commands of `nucleate`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import commands
from pipeline.cli.calibrate import calibrate_app

app = typer.Typer(
    name="nucleate",
    help="Watch nanocrystals grow, live: SAXS and absorbance from detector to alert.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
config_app = typer.Typer(help="Configs.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(calibrate_app, name="calibrate")

DataDir = Annotated[
    Path, typer.Option("--data-dir", help="Folder of the catalog, the recordings and the logs.")
]
TiledUrl = Annotated[
    str | None,
    typer.Option(
        "--tiled",
        metavar="URL",
        help="Use a running Tiled server (its key in TILED_API_KEY) instead of the embedded one.",
    ),
]
Port = Annotated[int, typer.Option("--port", help="Port of the embedded server; 0 = any.")]
DEFAULT_DATA_DIR = Path("data")


@app.command(epilog="Example: `nucleate demo --duration 60`")
def demo(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of the synthesis; all of it by default.")
    ] = None,
    port: Port = 0,
) -> None:
    """Play the simulated Cs-DOPA synthesis at its true pace and show what happens."""
    commands.demo(data_dir, tiled, duration, port)


@app.command(epilog="Example: `nucleate run configs/beamline.yaml --data-dir /data/shift-7`")
def run(
    config: Annotated[Path, typer.Argument(help="YAML file; see configs/.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
    duration: Annotated[
        float | None, typer.Option(help="Seconds, instead of the config's duration_s.")
    ] = None,
    port: Port = 0,
) -> None:
    """Take one run with the devices that a config names, and analyse it live."""
    commands.run(config, data_dir, tiled, duration, port)


@app.command(epilog="Example: `nucleate replay data/recordings/RUN --speed max`")
def replay(
    recording: Annotated[
        str,
        typer.Argument(help="Folder or file of a recording, or `tiled:URL#run` of a stored run."),
    ],
    config: Annotated[
        Path | None, typer.Option(help="Settings to analyse with; the recording's own if absent.")
    ] = None,
    speed: Annotated[
        str, typer.Option(help="Times faster than it was, or `max`: as fast as results come.")
    ] = "1",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
    port: Port = 0,
) -> None:
    """Play a recorded run through the same stream. Prints the new run's key last."""
    commands.replay(recording, config, speed, data_dir, tiled, port)


@app.command(epilog="Example: `nucleate serve --port 8000`")
def serve(data_dir: DataDir = DEFAULT_DATA_DIR, tiled: TiledUrl = None, port: Port = 8000) -> None:
    """Serve the results of all runs of a data folder over HTTP, until Ctrl-C."""
    commands.serve(data_dir, tiled, port)


@app.command(epilog="Example: `nucleate status`")
def status(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
    run: Annotated[str | None, typer.Option(help="Key of a run; the newest if absent.")] = None,
) -> None:
    """Tell what a run has given so far: frames, newest values, alerts."""
    commands.status(data_dir, tiled, run)


@app.command(epilog="Example: `nucleate alerts --follow`")
def alerts(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
    run: Annotated[str | None, typer.Option(help="Key of a run; the newest if absent.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the alerts of a run."""
    commands.alerts(data_dir, tiled, run, follow, json_lines)


@app.command(epilog="Example: `nucleate export RUN --frames 100:200 --to growth.h5`")
def export(
    run: Annotated[str, typer.Argument(help="Key of a run.")],
    stream: Annotated[str, typer.Option(help="saxs or waxs.")] = "saxs",
    frame: Annotated[int | None, typer.Option(help="One frame; -1 = the newest.")] = None,
    frames: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="Frames from A up to, but without, B; all if absent."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="nxcansas: one file; text: one file a frame.")
    ] = "nxcansas",
    unit: Annotated[str, typer.Option(help="Of q: 1/A or 1/nm.")] = "1/A",
    to: Annotated[
        Path | None,
        typer.Option(
            help="File to write; a folder, for text of several frames. By default named after the "
            "run, in the current folder."
        ),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
) -> None:
    """Write a run's curves as NXcanSAS, which SasView opens, or as columns of text."""
    commands.export(run, stream, frame, frames, form, unit, to, data_dir, tiled)


@app.command(epilog="Example: `nucleate shape RUN --frame 500`")
def shape(
    run: Annotated[str, typer.Argument(help="Key of a run.")],
    frame: Annotated[int | None, typer.Option(help="One frame; -1 = the newest.")] = None,
    frames: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="The mean of frames A up to, but without, B instead."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=2, help="Searches at each spread, each from a start of its own.")
    ] = 6,
    spread: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.3,
            help="Standard deviation of size over mean where it is known (microscopy); by default "
            "0 to 0.15 are tried.",
        ),
    ] = None,
    degree: Annotated[
        int, typer.Option(min=2, max=12, help="Of the surface's harmonics: detail.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the starts and the drawn noise.")] = 1,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of an earlier shape of the same name.")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
) -> None:
    """Find the crystals' shape from one stored curve, without being told one; minutes, not live."""
    commands.shape(run, frame, frames, repeats, spread, degree, seed, replace, data_dir, tiled)


@app.command(epilog="Example: `nucleate doctor --config configs/beamline.yaml`")
def doctor(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
    config: Annotated[Path | None, typer.Option(help="Also check what this config needs.")] = None,
) -> None:
    """Check what is installed, reachable and writable, and that the kernels are compiled."""
    commands.doctor(data_dir, tiled, config)


@app.command(epilog="Example: `nucleate keys /etc/nucleate/keys`")
def keys(
    folder: Annotated[Path, typer.Argument(help="Folder; a complete set in it is left alone.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
) -> None:
    """Make the CURVE keys that sockets need which other machines may reach."""
    commands.keys(folder)


@app.command(
    epilog="Example: `nucleate wiring run.yaml --run shift-7 --host-for store=tiled.example.org`"
)
def wiring(
    config: Annotated[Path, typer.Argument(help="YAML file, as every machine sees it.")],
    run: Annotated[str, typer.Option(help="Key of the run, new for each.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
    host_for: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=HOST",
            help="Machine of a part: detectors, fit-saxs, fit-absorbance or store. Repeatable.",
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="File to write, instead of printing.")] = None,
) -> None:
    """Print who talks to whom in a run whose processes you start yourself."""
    commands.wiring(config, run, data_dir, tiled, host_for or [], to)


@config_app.command("check", epilog="Example: `nucleate config check configs/cs_dopa.yaml`")
def config_check(
    files: Annotated[list[Path], typer.Argument(help="YAML files.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    tiled: TiledUrl = None,
) -> None:
    """Check config files: every mistake with its line, and what was probably meant."""
    commands.config_check(files)


@config_app.command("schema", epilog="Example: `nucleate config schema > schema.json`")
def config_schema(data_dir: DataDir = DEFAULT_DATA_DIR, tiled: TiledUrl = None) -> None:
    """Print the JSON schema of a config file."""
    commands.config_schema()


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: a mistake of the user is one line on stderr and exit code 1."""
    # A polite end, as by Ctrl-C: processes are stopped in order and what is open is finished.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return app(arguments)
    except KeyboardInterrupt:
        print("nucleate: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, _mistakes()):
            raise
        print(f"nucleate: {error}", file=sys.stderr)
        sys.exit(1)


def _mistakes() -> tuple[type[Exception], ...]:
    """Errors whose text is for the user. Loaded when one occurred: some live in heavy modules."""
    from pipeline.access import UnreachableError
    from pipeline.cli.session import SessionError
    from pipeline.cli.supervisor import ProcessFailedError
    from pipeline.config.loader import ConfigError
    from pipeline.export import ExportError
    from pipeline.messages import BadFrameError
    from pipeline.reduce.errors import InputError
    from pipeline.replay import ReplayError
    from pipeline.shape import ShapeError

    return (
        BadFrameError,
        ConfigError,
        ExportError,
        InputError,
        ReplayError,
        SessionError,
        ProcessFailedError,
        ShapeError,
        UnreachableError,
    )
