"""What a person sees while a run goes on: read from Tiled and from nowhere else."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.access import AlertFollower, RowsFollower, TiledHttp, UnreachableError
from pipeline.cli.queries import alert_line, example_curl
from pipeline.cli.shown import (
    CRYSTALS,
    FORM,
    LATTICE,
    ORDER,
    REACTION,
    SHOWN,
    crystals,
    doubts,
    measured,
    ordered,
    present,
)
from pipeline.config import RunConfig

if TYPE_CHECKING:
    from pipeline.cli.session import Session
    from pipeline.cli.supervisor import Child

HEALTH_PERIOD_S = 1.0
REFRESH_HZ = 4
SHOWN_ALERTS = 8

NAMES = {"saxs": "SAXS", "waxs": "WAXS"}
FITS = {"saxs": "saxs/populations", "absorbance": "absorbance/exciton"}
DOUBT = "note"
"""Label of what a fit says against itself."""

# Where a phase's alert says that the sample now is.
PHASES = {
    "phase_1_to_2": "II: nanocrystals appear",
    "phase_2_to_3": "III: growth and focusing",
    "phase_3_to_4": "IV: ripening",
    "burst": "burst is over: nanocrystals only",
    "ripening": "ripening",
    "nucleation": "nanocrystals growing",
    "superlattice_1d": "ordering in one dimension",
    "superlattice_3d": "ordered in three dimensions",
    "lattice": "on a lattice",
    "order_lost": "order lost",
}


def _shown_table(stream: str, config: RunConfig) -> str:
    """The table whose newest row is shown; where nothing is fitted, that of the frames."""
    fitted = {"saxs": config.saxs.fit, "absorbance": config.absorbance.fit}
    return f"{stream}/frames" if fitted.get(stream) is None else FITS[stream]


def _tables_beside(streams: Sequence[str], config: RunConfig) -> list[str]:
    """Tables of order and crystals, where a config asks for them."""
    tables = []
    saxs = config.saxs
    if "saxs" in streams and saxs.fit is not None and saxs.assembly is not None:
        tables.append(ORDER)
        if saxs.structure is not None:
            tables += [FORM] if saxs.lattice is None else [FORM, LATTICE]
    if "waxs" in streams and config.waxs.phases is not None:
        tables.append(CRYSTALS)
    return tables


class Screen:
    """A live view of one run; on a console that is no terminal, alerts and a summary only."""

    def __init__(self, session: Session, config: RunConfig, console: Console) -> None:
        self._session = session
        self._config = config
        self._console = console
        self._nodes = {stream: _shown_table(stream, config) for stream in session.streams}
        followed = [*self._nodes.values()]
        # It is there where anything is fitted.
        if config.reaction is not None and set(followed) & set(FITS.values()):
            followed.append(REACTION)
        followed += _tables_beside(session.streams, config)
        self._followed = followed
        self._lock = threading.Lock()
        self._rows: dict[str, dict[str, Any]] = {}
        self._arrived: float | None = None
        self._began = time.monotonic()
        self._first_result_s: float | None = None
        self._alerts: deque[dict[str, Any]] = deque(maxlen=200)
        self._health: dict[str, Any] = {}
        self._notes: deque[str] = deque(maxlen=3)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read_health, name="health", daemon=True)
        self._followers: list[RowsFollower | AlertFollower] = []
        self._live = Live(console=console, refresh_per_second=REFRESH_HZ, transient=False)

    def __enter__(self) -> Screen:
        address, run = self._session.address, self._session.run
        for node in self._followed:
            follower = RowsFollower(address, run, node, lambda row, n=node: self._take(n, row))
            self._followers.append(follower.start())
        self._followers.append(AlertFollower(address, run, self._take_alert).start())
        self._session.supervisor.on_restart = self._tell_restart
        self._thread.start()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for follower in self._followers:
            follower.stop()
        self._thread.join(timeout=5)
        if self._console.is_terminal:
            self._live.update(self._view(), refresh=True)
            self._live.stop()
        else:
            self._console.print(self._summary(), markup=False, highlight=False, soft_wrap=True)

    def update(self) -> None:
        """Draw the newest state; called by whoever waits for the run."""
        if self._console.is_terminal:
            self._live.update(self._view())

    def say(self, text: str) -> None:
        """A line for the person."""
        with self._lock:
            self._notes.append(text)
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _take(self, node: str, row: dict[str, Any]) -> None:
        with self._lock:
            self._rows[node] = row
            self._arrived = time.monotonic()
            if self._first_result_s is None:
                self._first_result_s = self._arrived - self._began

    def _take_alert(self, _key: str, fields: dict[str, Any]) -> None:
        with self._lock:
            self._alerts.append(fields)
        if not self._console.is_terminal:
            self._console.print(
                f"ALERT {alert_line(fields)}", markup=False, highlight=False, soft_wrap=True
            )

    def _tell_restart(self, child: Child, code: int) -> None:
        self.say(f"{child.name} ended with code {code} and is started again (log: {child.log})")

    def _read_health(self) -> None:
        with TiledHttp(self._session.address, timeout_s=5) as http:
            while not self._stop.wait(HEALTH_PERIOD_S):
                try:
                    health = http.metadata(f"{self._session.run}/health") or {}
                except UnreachableError:
                    continue  # not up yet, or away: the age of the newest result tells
                with self._lock:
                    self._health = health

    def _phase(self) -> str:
        named = [a for a in self._alerts if a["kind"] in PHASES]
        if named:
            newest = max(named, key=lambda a: a["time_s"])
            return f"{PHASES[newest['kind']]} (since {newest['onset_s']:.1f} s)"
        if self._config.detect.recipe == "cs_dopa" and FITS["saxs"] in self._rows:
            return "I: agglomerates"
        return "-"

    def _frames(self, stream: str) -> str:
        counts = self._health.get(stream)
        if not counts:
            return "-"
        text = f"{counts['published']} published, {counts['stored']} stored, {counts['lost']} lost"
        return text + (f", {counts['rejected']} rejected" if counts["rejected"] else "")

    def _values(self) -> list[tuple[str, str]]:
        values = [("phase", self._phase())]
        for stream, node in self._nodes.items():
            name = NAMES.get(stream, stream)
            row = self._rows.get(node)
            values.append((f"time ({name})", measured(row, "time_s", "s", 1)))
            if said := doubts(row):
                values.append((f"{DOUBT} ({name})", said))
            values += [
                (label, measured(row, column, unit, digits))
                for label, column, unit, digits in SHOWN.get(node, ())
            ]
            values.append((f"{name} frames", self._frames(stream)))
        values += ordered(*(self._rows.get(node) for node in (ORDER, FORM, LATTICE)))
        return [*values, *crystals(self._rows.get(CRYSTALS)), *self._reaction()]

    def _reaction(self) -> list[tuple[str, str]]:
        """What the tables say together; only of what there is, for a run may have one clock."""
        row = self._rows.get(REACTION)
        if row is None:
            return []
        described = measured(row, "phase_probability", "", 2)
        values = [("rates say", f"{row['phase']} ({described})")]
        return [*values, *present(row, REACTION)]

    def _age(self) -> str:
        if self._arrived is None:
            waited = time.monotonic() - self._began
            return f"waiting for the first result ({waited:.0f} s; Tiled takes 10 to 20 s to start)"
        return f"newest result {time.monotonic() - self._arrived:.1f} s ago"

    def _view(self) -> Group:
        with self._lock:
            table = Table.grid(padding=(0, 2))
            table.add_column(justify="right", style="dim")
            table.add_column()
            for name, value in self._values():
                style = "yellow" if name.startswith(DOUBT) else ""
                table.add_row(name, Text(value, style="bold" if name == "phase" else style))
            table.add_row("health", self._age())
            shown = list(self._alerts)[-SHOWN_ALERTS:]
            alerts = Text("\n".join(map(alert_line, shown)) or "none yet")
            notes = "\n".join(self._notes)
            parts: list[Any] = [
                Panel(table, title=f"{self._config.name}  {self._session.run}"),
                Panel(alerts, title="alerts"),
                Text(f"Tiled  {self._session.address.url}"),
                Text(self._curl(), style="dim"),
            ]
            if notes:
                parts.append(Text(notes, style="yellow"))
        return Group(*parts)

    def _curl(self) -> str:
        folder = None if self._session.is_external else self._session.data_dir
        table = next(iter(self._nodes.values()))
        return example_curl(self._session.address, self._session.run, folder, table)

    def _summary(self) -> str:
        with self._lock:
            lines = [f"{name}: {value}" for name, value in self._values()]
        return "\n".join([*lines, f"Tiled: {self._session.address.url}"])
