"""Questions to a Tiled server, answered in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.access import TiledAddress, TiledHttp
from pipeline.cli.session import SessionError
from pipeline.cli.shown import REACTION, SHOWN, doubts, measured

RAW = "raw"


def newest_run(http: TiledHttp) -> str:
    """Key of the run that was made last."""
    response = http.get("/search/", **{"page[limit]": 2, "sort": "-"})
    keys = [item["id"] for item in response.json()["data"]] if response is not None else []
    runs = [key for key in keys if key != RAW]
    if not runs:
        raise SessionError(f"there are no runs yet at {http.address.url}")
    return runs[0]


def _require_run(http: TiledHttp, run: str) -> dict[str, Any]:
    """Metadata of a run that has to be there."""
    metadata = http.metadata(run)
    if metadata is None:
        raise SessionError(f"there is no run {run} at {http.address.url}")
    return metadata


def example_curl(
    address: TiledAddress, run: str, data_dir: Path | None, table: str = "saxs/populations"
) -> str:
    """A command that fetches a table of a run; the key stays in its file or variable.

    ``data_dir`` is None for a server elsewhere.
    """
    key = "$TILED_API_KEY" if data_dir is None else f"$(cat {data_dir / 'tiled_api_key'})"
    return (
        f'curl -H "Authorization: Apikey {key}" '
        f'"{address.url}/api/v1/table/full/{run}/{table}?format=text/csv"'
    )


def alert_line(fields: dict[str, Any]) -> str:
    """One alert as one line."""
    return f"{fields['time_s']:8.1f} s  {fields['kind']:<22} {fields['message']}"


def print_alerts(http: TiledHttp, run: str, console: Console, json_lines: bool) -> None:
    """All alerts of a run, in order of time."""
    _require_run(http, run)
    found = sorted((f for _, f in http.children(f"{run}/alerts")), key=lambda f: f["time_s"])
    if json_lines:
        for fields in found:
            console.print(json.dumps(fields), markup=False, highlight=False, soft_wrap=True)
        return
    console.print(f"run {run}: {len(found)} alert{'' if len(found) == 1 else 's'}", soft_wrap=True)
    for fields in found:
        console.print(alert_line(fields), markup=False, highlight=False, soft_wrap=True)


def print_status(http: TiledHttp, run: str | None, console: Console) -> None:
    """What a run has given so far."""
    run = run or newest_run(http)
    metadata = _require_run(http, run)
    state = "complete" if metadata.get("complete") else "running, or was cut off"
    console.print(f"Tiled {http.address.url}", soft_wrap=True)
    console.print(f"Run   {run} ({state})", soft_wrap=True)
    health = http.metadata(f"{run}/health") or {}
    table = Table("stream", "published", "stored", "lost", "rejected")
    for stream, counts in sorted(health.items()):
        table.add_row(
            stream, *(str(counts.get(n, 0)) for n in ("published", "stored", "lost", "rejected"))
        )
    console.print(table)
    for node in ("saxs/populations", "waxs/frames", "absorbance/exciton", REACTION):
        _print_newest(http, f"{run}/{node}", node, console)
    print_alerts(http, run, console, json_lines=False)


def _print_newest(http: TiledHttp, path: str, node: str, console: Console) -> None:
    rows = http.table(path)
    if rows is None or not rows.num_rows:
        return
    newest = rows.slice(rows.num_rows - 1).to_pylist()[0]
    values = [f"frame {newest['frame']}", measured(newest, "time_s", "s", 1)]
    shown = [(label, measured(newest, *column)) for label, *column in SHOWN.get(node, ())]
    values += [f"{label} {value}" for label, value in shown if value != "-"]
    if said := doubts(newest):
        values.append(said)
    console.print(f"{node}: {', '.join(values)}", markup=False, highlight=False, soft_wrap=True)
