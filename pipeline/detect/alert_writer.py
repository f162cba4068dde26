"""Alerts into Tiled: one child of the run's ``alerts`` container each, and a table beside it."""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from typing import Any, get_type_hints

import httpx
import pyarrow as pa

from pipeline.messages.alerts import Alert

log = logging.getLogger(__name__)

ALERTS = "alerts"
ALERTS_TABLE = "alerts_table"
ARROW_TYPES = {float: pa.float64(), int: pa.int64(), str: pa.string()}


def _columns() -> list[str]:
    """Columns of the table: ``frame`` and ``time_s`` first, then the alert's plain fields."""
    hints = get_type_hints(Alert)
    plain = [f.name for f in dataclasses.fields(Alert) if hints[f.name] in ARROW_TYPES]
    return ["frame", "time_s", "key", *(n for n in plain if n not in ("frame", "time_s"))]


COLUMNS = _columns()
SCHEMA = pa.schema(
    [(n, pa.string() if n == "key" else ARROW_TYPES[get_type_hints(Alert)[n]]) for n in COLUMNS]
)


class AlertWriter:
    """Writes each alert once, whatever was written before it was started.

    An alert's key says what and where (kind and frame), so a second write finds the first.
    While Tiled is away alerts wait here; ``flush`` tries again.
    """

    def __init__(self, run: Any) -> None:
        self._alerts = run[ALERTS]
        if ALERTS_TABLE not in run:
            run.create_appendable_table(SCHEMA, key=ALERTS_TABLE)
        self._table = run[ALERTS_TABLE]
        self._waiting: deque[Alert] = deque()
        self._children = set(self._alerts)
        self._rows = set(self._table["key"].read().tolist())

    @property
    def waiting(self) -> int:
        """Alerts that Tiled does not have yet."""
        return len(self._waiting)

    def write(self, alert: Alert) -> None:
        """Queue an alert and try to write all that wait."""
        log.info("%s", alert.message)
        self._waiting.append(alert)
        self.flush()

    def flush(self) -> bool:
        """Write what waits; False if Tiled is away."""
        while self._waiting:
            alert = self._waiting[0]
            try:
                self._store(alert)
            except (httpx.HTTPError, OSError) as error:
                log.warning("alert %s waits: Tiled does not answer (%s)", alert.key, error)
                return False
            self._waiting.popleft()
        return True

    def complete(self, frames: dict[str, int]) -> None:
        """Say that all frames of the run have been looked at."""
        self._alerts.update_metadata({"complete": True, "frames": frames})

    def _store(self, alert: Alert) -> None:
        fields = {**dataclasses.asdict(alert), "key": alert.key}
        if alert.key not in self._children:
            # A write whose answer was lost is there all the same: look before writing again.
            if alert.key not in self._alerts:
                self._alerts.create_container(key=alert.key, metadata=fields)
            self._children.add(alert.key)
        if alert.key not in self._rows:
            row = {name: fields[name] for name in COLUMNS}
            try:
                self._table.append_partition(0, pa.Table.from_pylist([row], schema=SCHEMA))
            except (httpx.HTTPError, OSError):
                # An append cannot be repeated blindly: it may be stored although it failed.
                self._rows = set(self._table["key"].read().tolist())
                raise
            self._rows.add(alert.key)
