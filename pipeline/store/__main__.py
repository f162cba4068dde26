"""The storing process: takes results over the link and serves them with Tiled.

python -m pipeline.store --data-dir DIR --link tcp://127.0.0.1:PORT [--port N] [--tiled URL]
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.loader import ConfigError, load_config
from pipeline.config.plumbing import Bus, Store
from pipeline.stopping import stop_on_signals

log = logging.getLogger("pipeline.store")

# As the supervisor's: this process would fail in the same way again.
HOPELESS = 2


class FolderTakenError(RuntimeError):
    """Another server works on the data folder."""


@contextmanager
def sole_server(data_dir: Path) -> Iterator[None]:
    """Keep a second server off a data folder: SQLite is not shared, and their addresses are.

    The lock goes with the process, however that ends.

    Raises
    ------
    FolderTakenError
        If another process has it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "store.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTakenError(
                f"another server is starting or running on {data_dir}: wait for it, or choose "
                "another --data-dir"
            ) from None
        yield


def write_server_file(data_dir: Path, url: str, link: str | None) -> Path:
    """Tell other commands on this data folder where its server is and takes results."""
    path = data_dir / "server.json"
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"url": url, "link": link, "pid": os.getpid()}) + "\n")
    partial.replace(path)
    return path


def main() -> int:
    """Serve until SIGTERM; 0 on a clean stop."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.store", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--link", help="ROUTER socket that takes results; none = serve only")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tiled", help="URL of a running server to write to instead")
    parser.add_argument("--private", action="store_true", help="take results of one session only")
    parser.add_argument("--config", type=Path, help="config whose bus and store sections apply")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("httpx", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    stop = stop_on_signals()
    # Imported late: the arguments are checked before the seconds that Tiled needs.
    from pipeline.store.server import ServerError

    try:
        config = load_config(arguments.config) if arguments.config else None
        bus, settings = (config.bus, config.store) if config else (Bus(), Store())
        if arguments.tiled is not None:
            return _serve(arguments, bus, settings, stop)
        with sole_server(arguments.data_dir):
            return _serve(arguments, bus, settings, stop)
    except (ConfigError, FolderTakenError) as error:
        print(f"nucleate store: {error}", file=sys.stderr)
        return HOPELESS
    except (ServerError, OSError, ValueError) as error:
        print(f"nucleate store: {error}", file=sys.stderr)
        return 1


def _serve(arguments: argparse.Namespace, bus: Bus, settings: Store, stop: threading.Event) -> int:
    import hdf5plugin  # noqa: F401  lets Tiled read bslz4 frames of registered recordings

    from pipeline.store.datapath import HttpDataPath, InProcessDataPath
    from pipeline.store.server import EmbeddedServer

    server = None
    data: Any
    if arguments.tiled is None:
        recordings = arguments.data_dir / "recordings"
        recordings.mkdir(parents=True, exist_ok=True)
        server = EmbeddedServer(
            arguments.data_dir,
            host=arguments.host,
            port=arguments.port,
            settings=settings,
            readable=(recordings.resolve(),),
        )
        server.start()
    from tiled.client import from_uri

    if server is None:
        root = from_uri(arguments.tiled, api_key=os.environ.get("TILED_API_KEY"))
        data = HttpDataPath(root)
    else:
        root = from_uri(server.url, api_key=server.api_key)
        data = InProcessDataPath(server)
        _prepare_raw(root)
    if server is None:
        return _take_results(arguments.link, bus, root, data, settings, stop)
    link = None if arguments.private else arguments.link
    server_file = write_server_file(arguments.data_dir, server.url, link)
    try:
        return _take_results(arguments.link, bus, root, data, settings, stop)
    finally:
        server_file.unlink(missing_ok=True)
        server.stop()


def _prepare_raw(root: Any) -> None:
    """The container that raw runs are registered in."""
    from tiled.client.utils import ClientError

    if "raw" in root:
        return
    try:
        root.create_container("raw", metadata={"description": "raw runs as bluesky lays them out"})
    except ClientError:
        # The acquisition, which starts at the same time, may have made it meanwhile.
        if "raw" not in root:
            raise


def _take_results(
    link: str | None, bus: Bus, root: Any, data: Any, settings: Store, stop: threading.Event
) -> int:
    from pipeline.bus.link import LinkReceiver
    from pipeline.store.service import StoreService

    if link is None:
        stop.wait()
        return 0
    service = StoreService(root, data, settings.batch_period_s)
    with LinkReceiver(link, bus, service) as receiver:
        service.start(receiver)
        log.info("ready")
        while not stop.wait(0.25):
            if service.failure is not None:
                log.error("storing failed: %s", service.failure)
                return 1
            try:
                receiver.check()
            except RuntimeError as error:
                # Started again by its supervisor; senders send again what is not durable.
                log.error("%s: %s", error, error.__cause__)
                return 1
        service.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
