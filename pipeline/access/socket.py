"""One WebSocket to one node, taken up again after any interruption."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgpack
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

from pipeline.access.tiled_http import TiledAddress

RECEIVE_TIMEOUT_S = 0.25
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
# A slab of 20000 float64 bins with its sigma is 320 kB; a larger message is a mistake.
MAX_MESSAGE_BYTES = 16_000_000


class NodeSocket:
    """Messages of a node, for as long as ``stop`` is not set.

    Yields the decoded message, or None when nothing came for a quarter of a second and after
    each (re)connection: then is the time to compare with what is stored.
    """

    def __init__(self, address: TiledAddress, path: str, stop: threading.Event) -> None:
        self._address = address
        self._path = path
        self._stop = stop
        self.connected = False

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        url = f"{self._address.websocket_url}/api/v1/stream/single/{quote(self._path)}"
        key = self._address.api_key
        headers = {"Authorization": f"Apikey {key}"} if key else {}
        pause = FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                with connect(
                    url + "?envelope_format=msgpack",
                    additional_headers=headers,
                    max_size=MAX_MESSAGE_BYTES,
                    proxy=None,
                ) as socket:
                    self.connected = True
                    pause = FIRST_PAUSE_S
                    socket.recv()  # the schema, which every message repeats for itself
                    yield None
                    while not self._stop.is_set():
                        try:
                            data = socket.recv(timeout=RECEIVE_TIMEOUT_S)
                        except TimeoutError:
                            yield None
                            continue
                        yield msgpack.unpackb(data)
            except (OSError, ConnectionClosed, InvalidHandshake, InvalidStatus):
                self.connected = False
                yield None
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        self.connected = False
