"""Alerts of a run as they come, each once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.access.follow import RECONCILE_PERIOD_S
from pipeline.access.socket import NodeSocket
from pipeline.access.tiled_http import TiledAddress, TiledHttp, UnreachableError


class AlertFollower:
    """Calls ``on_alert(key, fields)`` for every alert of a run, on a thread of its own."""

    def __init__(
        self,
        address: TiledAddress,
        run: str,
        on_alert: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._address = address
        self._path = f"{run}/alerts"
        self._on_alert = on_alert
        self._seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow alerts", daemon=True)
        self._http = TiledHttp(address)

    def start(self) -> AlertFollower:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._http.close()

    def _follow(self) -> None:
        looked = 0.0
        self._wait_for_run()
        for message in NodeSocket(self._address, self._path, self._stop):
            if message is not None and message.get("type") == "container-child-created":
                self._tell(message["key"], message["metadata"])
            elif time.monotonic() - looked > RECONCILE_PERIOD_S:
                looked = time.monotonic()
                try:
                    for key, fields in self._http.children(self._path):
                        self._tell(key, fields)
                except UnreachableError:
                    continue  # the socket reconnects, and then this looks again

    def _wait_for_run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._http.exists(self._path):
                    return
            except UnreachableError:
                pass  # still starting, or away: asked again
            self._stop.wait(0.5)

    def _tell(self, key: str, fields: dict[str, Any]) -> None:
        if key not in self._seen:
            self._seen.add(key)
            self._on_alert(key, fields)
