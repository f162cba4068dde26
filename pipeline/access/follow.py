"""All rows of a table in order of frame, while the table grows: each once, none left out."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from pipeline.access.socket import NodeSocket
from pipeline.access.tiled_http import TiledAddress, TiledHttp, UnreachableError

# Rows that a subscriber missed while nothing new came are found by looking this often.
RECONCILE_PERIOD_S = 2.0


class RowsFollower:
    """Follows a table of a run on a thread of its own.

    Live messages come at once; whatever is missing (before the subscription, over an outage of
    the server, or dropped by it) is read from the stored table. Row *n* is frame *n*, so order
    and completeness are a comparison of two numbers.

    Parameters
    ----------
    address
        The server.
    run, node
        The run's key and the table in it, e.g. ``saxs/populations``.
    on_row
        Called on the follower's thread with each row as a dict.
    first_frame
        Rows before are skipped.
    """

    def __init__(
        self,
        address: TiledAddress,
        run: str,
        node: str,
        on_row: Callable[[dict[str, Any]], None],
        first_frame: int = 0,
    ) -> None:
        self._address = address
        self._run = run
        self._node = node
        self._on_row = on_row
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"follow {node}", daemon=True)
        self._http = TiledHttp(address)
        self._looked = 0.0
        self.next_frame = first_frame
        """All rows before this frame have been handed over."""
        self.connected = False
        self.failure: BaseException | None = None
        """What ended the thread, if it was not ``stop``."""

    def start(self) -> RowsFollower:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
        self._http.close()

    def _follow(self) -> None:
        try:
            if not self._wait_for_node():
                return
            live = f"{self._run}/live/{self._node}"
            path = live if self._exists(live) else f"{self._run}/{self._node}"
            socket = NodeSocket(self._address, path, self._stop)
            was_connected = False
            for message in socket:
                self.connected = socket.connected
                if message is not None and message.get("type") == "table-data":
                    self._take(_rows(message["payload"]))
                elif socket.connected and not was_connected:
                    self._catch_up()
                elif time.monotonic() - self._looked > RECONCILE_PERIOD_S:
                    self._catch_up_if_behind()
                was_connected = socket.connected
        except BaseException as error:
            self.failure = error
            raise

    def _exists(self, path: str) -> bool:
        while not self._stop.is_set():
            try:
                return self._http.exists(path)
            except UnreachableError:
                self._stop.wait(0.5)
        return False

    def _wait_for_node(self) -> bool:
        while not self._stop.is_set():
            if self._exists(f"{self._run}/{self._node}"):
                return True
            self._stop.wait(0.2)
        return False

    def _take(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            frame = row["frame"]
            while frame > self.next_frame and not self._stop.is_set():
                # A hole: the rows in it are stored already or will be with the next batch.
                self._catch_up()
                if frame > self.next_frame:
                    self._stop.wait(0.1)
            if frame == self.next_frame:
                self.next_frame += 1
                # A row in its turn says that none before it is missing: no need to look.
                self._looked = time.monotonic()
                self._on_row(row)

    def _catch_up(self) -> None:
        self._looked = time.monotonic()
        try:
            table = self._http.table(f"{self._run}/{self._node}")
        except UnreachableError:
            return  # the socket says the same, and the next reconnection looks again
        if table is None:
            return
        for row in table.slice(self.next_frame).to_pylist():
            if row["frame"] == self.next_frame:
                self.next_frame += 1
                self._on_row(row)

    def _catch_up_if_behind(self) -> None:
        self._looked = time.monotonic()
        try:
            last = self._http.last_frame(f"{self._run}/{self._node}")
        except UnreachableError:
            return
        if last is not None and last >= self.next_frame:
            self._catch_up()


def _rows(payload: bytes) -> list[dict[str, Any]]:
    table: pa.Table = pyarrow.ipc.open_file(io.BytesIO(payload)).read_all()
    return table.to_pylist()
