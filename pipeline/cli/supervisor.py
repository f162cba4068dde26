"""Starts processes, restarts those that crash, ends them in order."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# A process that crashes more often than this needs a person, not a supervisor.
MAX_RESTARTS = 5
RESTART_WINDOW_S = 60.0
RESTART_PAUSE_S = 0.5

HOPELESS = 2
"""Exit code of a process that would fail in the same way again: a file or setting is wrong."""

# Each process works on one frame at a time: more threads would only fight over the cores.
SINGLE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


class ProcessFailedError(RuntimeError):
    """A process ended that should not have. One line: which, its last words, where its log is."""


@dataclass
class Child:
    """One process and how it is kept alive."""

    name: str
    arguments: list[str]
    restart: bool
    log: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: deque[float] = field(default_factory=deque)
    total_restarts: int = 0
    restart_at: float | None = None
    dismissed: bool = False
    """Ended on purpose: how it ends is nobody's business, and it is not started again."""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def last_words(self) -> str:
        """The last line of its log."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def _die_with_parent() -> None:
    """Ask Linux to end this child when its supervisor is gone, however that ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    pr_set_pdeathsig = 1
    libc.prctl(pr_set_pdeathsig, signal.SIGTERM)


class Supervisor:
    """Children run in sessions of their own, so that Ctrl-C reaches this process only."""

    def __init__(self, log_dir: Path, environment: Mapping[str, str]) -> None:
        self._log_dir = log_dir
        log_dir.mkdir(parents=True, exist_ok=True)
        self._environment = {**os.environ, **SINGLE_THREAD, **environment}
        self.children: dict[str, Child] = {}
        self.on_restart: Callable[[Child, int], None] = lambda child, code: None

    def start(self, name: str, module: str, *arguments: str, restart: bool) -> Child:
        """Start ``python -m module arguments``; its output goes to a log file."""
        command = [sys.executable, "-m", module, *arguments]
        child = Child(name, command, restart, self._log_dir / f"{name}.log")
        self.children[name] = child
        self._spawn(child)
        return child

    def _spawn(self, child: Child) -> None:
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                child.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        child.restart_at = None

    def check(self) -> None:
        """Restart what crashed; call it a few times a second.

        Raises
        ------
        ProcessFailedError
            A process failed that is not to be restarted, or keeps crashing.
        """
        now = time.monotonic()
        for child in self.children.values():
            if child.dismissed or child.running or child.exit_code in (0, None):
                continue
            assert child.exit_code is not None
            if child.restart_at is None:
                self._plan_restart(child, now)
            elif now >= child.restart_at:
                self._spawn(child)

    def _plan_restart(self, child: Child, now: float) -> None:
        assert child.exit_code is not None
        while child.restarts and now - child.restarts[0] > RESTART_WINDOW_S:
            child.restarts.popleft()
        hopeless = child.exit_code == HOPELESS or len(child.restarts) >= MAX_RESTARTS
        if not child.restart or hopeless:
            raise ProcessFailedError(
                f"{child.name} ended with code {child.exit_code}: {child.last_words()} "
                f"(log: {child.log})"
            )
        child.restarts.append(now)
        child.total_restarts += 1
        child.restart_at = now + RESTART_PAUSE_S
        self.on_restart(child, child.exit_code)

    def wait(self, name: str, timeout_s: float) -> bool:
        """Wait until a process has ended by itself."""
        process = self.children[name].process
        assert process is not None
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def signal(self, name: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to one process, if it still runs."""
        child = self.children.get(name)
        if child is not None and child.running:
            assert child.process is not None
            child.process.send_signal(number)

    def stop(self, name: str, timeout_s: float = 10.0) -> None:
        """End one process: SIGTERM, and SIGKILL if that does not help."""
        if name not in self.children:
            return
        self.children[name].dismissed = True
        self.signal(name)
        if not self.wait(name, timeout_s):
            self.signal(name, signal.SIGKILL)
            self.wait(name, timeout_s)

    def stop_all(self) -> None:
        """End all processes, the last started first."""
        for name in reversed(self.children):
            self.stop(name)
