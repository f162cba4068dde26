"""What every table says of the machine, and what processes used, out of Linux' /proc."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def print_machine(name: str) -> None:
    """Name of the benchmark, the machine, and how busy it is."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"== {name}: {_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"   load average before {load} (1, 5, 15 minutes); a busy machine is a slow one")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def percentiles(label: str, seconds: Sequence[float], goal_ms: tuple[float, float] | None) -> str:
    """One row: how many, p50, p90, p99 and the worst in ms, and the goal for p50 and p99."""
    if not seconds:
        return f"{label:44} {0:5}   nothing was measured"
    p50, p90, p99, worst = 1e3 * np.percentile(seconds, [50, 90, 99, 100])
    goal = "" if goal_ms is None else f"   goal {goal_ms[0]:.0f}, {goal_ms[1]:.0f}"
    return f"{label:44} {len(seconds):5} {p50:8.1f} {p90:8.1f} {p99:8.1f} {worst:8.1f}{goal}"


PERCENTILES_HEADER = f"{'':44} {'n':>5} {'p50':>8} {'p90':>8} {'p99':>8} {'worst':>8}   ms"


@dataclass(frozen=True)
class Usage:
    """Of one process: memory in MB now and at its highest, and CPU seconds so far."""

    resident_mb: float
    highest_mb: float
    cpu_s: float


def usage_of(pid: int) -> Usage | None:
    """Usage of a process; None where there is no /proc, or no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    kilobytes = {
        line.partition(":")[0]: float(line.split()[1])
        for line in status.splitlines()
        if line.startswith(("VmRSS", "VmHWM"))
    }
    # User and system time are fields 14 and 15 of proc(5), counted from 1 with pid and name.
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Usage(kilobytes.get("VmRSS", 0) / 1e3, kilobytes.get("VmHWM", 0) / 1e3, cpu_s)
