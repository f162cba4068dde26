"""Register a raw run in Tiled, as bluesky's own writer lays it out.

    python -m detectors.register RECORDING --tiled URL [--follow]

A process of its own: loading Tiled's client takes 10 s of computing, which would hold up the
detectors' clocks if it shared their interpreter, and an outage of Tiled cannot reach them. It
reads the documents' file in the recording, so nothing is lost while Tiled is away, and a run can
be registered again at any time.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from detectors.documents import DOCUMENTS_FILE, DocumentReader, coalesce

if TYPE_CHECKING:
    from tiled.client.container import Container

log = logging.getLogger("detectors.register")

#: Container at the server's root that holds the raw runs.
RAW_CONTAINER = "raw"

# Each resource of a batch costs Tiled one request of 25 to 60 ms.
BATCH_PERIOD_S = 1.0
# While a run is going, registering yields to the detectors and the stages.
NICENESS = 10
# Between attempts while Tiled is away.
RETRY_PERIOD_S = 2.0
# Tiled takes 9 to 14 s to start on an idle machine: silence until then is no outage.
STARTUP_S = 20.0

_AWAY = "Tiled at %s is away (%s): raw frames are recorded, and registered when it is back"


class RunAbandonedError(RuntimeError):
    """The acquisition ended without the run's stop document."""


def raw_container(root: Container) -> Container:
    """The container of raw runs; made if it is missing."""
    from tiled.client.utils import ClientError

    if RAW_CONTAINER not in root:
        try:
            return root.create_container(RAW_CONTAINER)
        except ClientError as error:
            # Somebody else made it between the two requests.
            if error.response.status_code != 409:
                raise
    return root[RAW_CONTAINER]


def register(
    reader: DocumentReader, container: Container, *, alive: Callable[[], bool] = lambda: False
) -> str:
    """Write a run's documents into ``container`` until its stop document is written.

    Parameters
    ----------
    reader
        At the start of the documents' file.
    container
        Takes the run, under its uid. What an earlier attempt left there is taken away first
        (references only, never files).
    alive
        Whether more documents may still come.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    RunAbandonedError
        If no more documents come and the stop document is not among them.
    """
    from bluesky.callbacks.tiled_writer import TiledWriter

    writer = TiledWriter(container, batch_size=1)
    uid = ""
    while True:
        # Asked before reading: what is written after the answer is read in the next round.
        more = alive()
        for name, document in coalesce(reader.read_new()):
            if name == "start":
                uid = document["uid"]
                if uid in container:
                    container.delete_contents(uid, recursive=True, external_only=True)
            writer(name, document)
            if name == "stop":
                return uid
        if not more:
            raise RunAbandonedError(
                f"{reader.path}: expected the run's stop document, got the end of the file: "
                "the acquisition did not end by itself"
            )
        time.sleep(BATCH_PERIOD_S)


def register_with_retries(
    documents: Path, url: str, *, alive: Callable[[], bool] = lambda: False
) -> str:
    """Register a run; while ``alive()``, wait for a Tiled that is away and say so in one line.

    Raises
    ------
    httpx.HTTPStatusError
        If Tiled answers and refuses, e.g. a wrong key or a folder that it may not read.
    httpx.TransportError
        If it does not answer, and nobody waits for the run any more.
    """
    import httpx
    from tiled.client import from_uri

    said = ""
    while True:
        try:
            root = from_uri(url, api_key=os.environ.get("TILED_API_KEY"))
            uid = register(DocumentReader(documents), raw_container(root), alive=alive)
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
            if refused or not alive():
                raise
            if type(error).__name__ != said:
                said = type(error).__name__
                log.warning(_AWAY, url, said)
            time.sleep(RETRY_PERIOD_S)
        else:
            log.info("raw run registered as %s/%s", RAW_CONTAINER, uid)
            return uid


def wait_for_listener(url: str, alive: Callable[[], bool]) -> None:
    """Wait until something listens at ``url``, or nobody waits for the run any more.

    Loading Tiled's client at the same time as the server starts would delay the first result.
    """
    parts = urlsplit(url)
    address = (
        parts.hostname or "localhost",
        parts.port or (443 if parts.scheme == "https" else 80),
    )
    began, said = time.monotonic(), False
    while alive():
        try:
            socket.create_connection(address, timeout=RETRY_PERIOD_S).close()
        except OSError as error:
            if not said and time.monotonic() - began > STARTUP_S:
                log.warning(_AWAY, url, type(error).__name__)
                said = True
            time.sleep(RETRY_PERIOD_S)
        else:
            return


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m detectors.register", description="Register a raw run in Tiled."
    )
    parser.add_argument("recording", type=Path, help="folder of the recording")
    parser.add_argument("--tiled", required=True, metavar="URL", help="of the Tiled server")
    parser.add_argument(
        "--follow", action="store_true", help="the run may still be going: wait for its end"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    log.setLevel(logging.INFO)

    documents = options.recording / DOCUMENTS_FILE
    if not options.follow and not documents.is_file():
        log.error("expected %s, got no such file: is this a recording of nucleate?", documents)
        return 1
    # Tiled's client would retry by itself and say so line by line; here it is done and said once.
    os.environ.setdefault("TILED_RETRY_ATTEMPTS", "1")
    if options.follow:
        os.nice(NICENESS)
    parent = os.getppid()

    def alive() -> bool:
        # An orphan's parent changes: the acquisition is gone, and no document will follow.
        return options.follow and os.getppid() == parent

    wait_for_listener(options.tiled, alive)

    import httpx

    try:
        register_with_retries(documents, options.tiled, alive=alive)
    except (httpx.HTTPStatusError, httpx.TransportError) as error:
        log.error(
            "Tiled at %s did not take the raw run: %s. Its documents stay in %s; later: "
            "python -m detectors.register %s --tiled %s",
            options.tiled,
            " ".join(str(error).split()) or type(error).__name__,
            documents,
            options.recording,
            options.tiled,
        )
        return 1
    except RunAbandonedError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
