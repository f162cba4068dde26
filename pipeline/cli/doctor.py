"""Is everything there that a shift needs?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline.access import TiledAddress, TiledHttp, UnreachableError
from pipeline.cli.analyse import stages_for
from pipeline.cli.configs import acquired_streams, streams_of
from pipeline.config import RunConfig
from pipeline.config.acquisition import OphydDevices
from pipeline.config.loader import ConfigError, load_config
from pipeline.runner import StageChain

PACKAGES = (
    "numpy",
    "numba",
    "pyzmq",
    "bluesky",
    "ophyd",
    "tiled",
    "pydantic",
    "h5py",
    "bitshuffle",
)
EXTRAS = {"fabio": "image files (.edf, .cbf, .tif): pip install 'nucleate[images]'"}

# An EIGER2 16M at 2 Hz writes about 10 MB/s compressed: an hour.
FREE_BYTES = 40_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``good`` None: worth knowing, not wrong."""

    good: bool | None
    what: str


def examine(data_dir: Path, tiled: str | None, config_file: Path | None, console: Console) -> bool:
    """Print what was found; False if anything is wrong."""
    config = RunConfig()
    findings: list[Finding] = []
    if config_file is not None:
        try:
            config = load_config(config_file)
            findings.append(Finding(True, f"{config_file} is valid"))
        except ConfigError as error:
            findings.append(Finding(False, str(error)))
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        lambda: _folder(data_dir),
        lambda: _server(data_dir, tiled),
        lambda: _devices(config),
        lambda: _kernels(_everything() if config_file is None else config),
    )
    for check in checks:
        findings.extend(check())
    for finding in findings:
        mark = {True: "[green]ok  [/]", False: "[red]BAD [/]", None: "[yellow]note[/]"}
        console.print(mark[finding.good], end=" ")
        console.print(finding.what, markup=False, highlight=False, soft_wrap=True)
    return all(finding.good is not False for finding in findings)


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding((3, 11) <= sys.version_info[:2] < (3, 14), f"Python {version} (3.11 to 3.13)")
    yield Finding(True, f"{os.cpu_count()} cores")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(True, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(False, f"{name} is not installed: pip install nucleate")
    for name, purpose in EXTRAS.items():
        if importlib.util.find_spec(name) is None:
            yield Finding(None, f"{name} is not installed; it is needed for {purpose}")


def _folder(data_dir: Path) -> Iterator[Finding]:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / f".probe-{os.getpid()}"
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        yield Finding(False, f"{data_dir} is not writable: {error.strerror}; choose a --data-dir")
        return
    free = shutil.disk_usage(data_dir).free
    yield Finding(
        True if free > FREE_BYTES else None,
        f"{data_dir.resolve()} is writable, {free / 1e9:.0f} GB free",
    )


def _server(data_dir: Path, tiled: str | None) -> Iterator[Finding]:
    try:
        address = TiledAddress.from_url(tiled) if tiled else TiledAddress.of_data_dir(data_dir)
    except UnreachableError:
        yield Finding(None, f"no Tiled server on {data_dir} now: runs start one themselves")
        return
    try:
        with TiledHttp(address, timeout_s=10) as http:
            began = time.monotonic()
            http.get("/")
            took = time.monotonic() - began
        yield Finding(True, f"Tiled answers at {address.url} ({1e3 * took:.0f} ms)")
    except UnreachableError as error:
        yield Finding(False, str(error))


def _devices(config: RunConfig) -> Iterator[Finding]:
    devices = config.acquisition.devices
    if importlib.util.find_spec("detectors") is None:
        yield Finding(False, "the package `detectors` is not installed: pip install nucleate")
    if not isinstance(devices, OphydDevices):
        yield Finding(True, f"devices: {devices.type} ({', '.join(acquired_streams(config))})")
        return
    for stream in acquired_streams(config):
        name = getattr(devices, stream)
        module = name.partition(":")[0]
        found = importlib.util.find_spec(module.partition(".")[0]) is not None
        text = f"{stream} device {name}" + ("" if found else ": its package is not installed")
        yield Finding(found, text)


def _everything() -> RunConfig:
    """A config that asks for all that there is, so that no first run waits for a compiler."""
    return RunConfig.model_validate(
        {
            "acquisition": {"devices": {"type": "simulated", "waxs": {}}},
            "saxs": {"assembly": {}, "size_distribution": {}},
            "waxs": {"phases": {"phases": ["CsPbBr3_Pbnm"]}},
            "absorbance": {"magic": {}},
        }
    )


def _kernels(config: RunConfig) -> Iterator[Finding]:
    """Each stage's in a process of its own: compilers take minutes, and there are cores."""
    began = time.monotonic()
    jobs = [
        (config, stream, place)
        for stream in streams_of(config)
        for place in range(len(stages_for(stream, config)))
    ]
    # Forks would share the locks of numba's threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        names = list(pool.map(_warm_up, *zip(*jobs, strict=True)))
    took = time.monotonic() - began
    yield Finding(True, f"kernels are compiled ({', '.join(names)}; {took:.1f} s)")


def _warm_up(config: RunConfig, stream: str, place: int) -> str:
    """Compile one stage of a stream, or load it from the disk's cache; its name."""
    stage = stages_for(stream, config)[place]
    StageChain([stage]).warm_up()
    return stage.name
