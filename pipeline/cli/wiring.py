"""The wiring of a run whose processes are started by something else than `nucleate run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.cli.configs import acquired_streams
from pipeline.cli.session import SessionError
from pipeline.config.loader import load_config
from pipeline.config.wiring import FrameEndpoints, Wiring

LOOPBACK = "127.0.0.1"
STORE_PORT, TILED_PORT = 5570, 8000
PORTS = {
    "saxs": (5560, 5561, 5562),
    "absorbance": (5563, 5564, 5565),
    "waxs": (5566, 5567, 5568),
}
"""By stream: live frames and their repair (bound by the detectors), link (bound by the fit)."""


def make_wiring(
    config_file: Path,
    run: str,
    data_dir: Path,
    hosts: Sequence[str],
    tiled_url: str | None = None,
) -> Wiring:
    """Addresses of a run, each process on the machine that is named for it.

    Parameters
    ----------
    config_file
        As every machine sees it.
    run
        Key of the run.
    data_dir
        Its ``recordings`` are written by the detectors and read by the store.
    hosts
        ``PART=HOST``; parts are ``detectors``, ``fit-STREAM`` and ``store``, on this machine
        unless they are named. A host is a name or an address that all machines know.
    tiled_url
        Of a Tiled server elsewhere; that of the store if absent.

    Raises
    ------
    SessionError
        An unknown part, or other machines without keys.
    """
    config = load_config(config_file)
    streams = acquired_streams(config)
    host = _hosts(hosts, ("detectors", *(f"fit-{name}" for name in streams), "store"))
    if set(host.values()) != {LOOPBACK} and config.bus.curve_keys is None:
        raise SessionError(
            f"{config_file}: processes on other machines need bus.curve_keys: make the folder "
            "with `nucleate keys DIR`"
        )
    frames, links = {}, {}
    for name in streams:
        live, repair, link = PORTS[name]
        frames[name] = FrameEndpoints(
            live=f"tcp://{host['detectors']}:{live}", repair=f"tcp://{host['detectors']}:{repair}"
        )
        links[name] = f"tcp://{host[f'fit-{name}']}:{link}"
    return Wiring(
        run=run,
        config_file=config_file.resolve(),
        recording_dir=data_dir.resolve() / "recordings" / run,
        frames=frames,
        links=links,
        store=f"tcp://{host['store']}:{STORE_PORT}",
        tiled_url=tiled_url or f"http://{host['store']}:{TILED_PORT}",
    )


def _hosts(given: Sequence[str], parts: Sequence[str]) -> Mapping[str, str]:
    hosts = dict.fromkeys(parts, LOOPBACK)
    for text in given:
        part, _, host = text.partition("=")
        if part not in hosts or not host:
            raise SessionError(f"expected PART=HOST with a part of {', '.join(parts)}; got {text}")
        hosts[part] = host
    return hosts
