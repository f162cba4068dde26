"""The time of one run: one zero for all its detectors, and one end."""

from __future__ import annotations

import threading
import time


class RunClock:
    """Zero, waiting and early end of one run, shared by its flyers.

    Every due time is counted from the one zero, never from the frame before, so a late frame
    does not make the next one late and the clocks of two detectors never drift apart.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zero_ns: int | None = None
        self._zero_unix_ns = 0
        self._stopped = threading.Event()
        self._reason = ""

    def start(self) -> None:
        """Set the zero to now. The first flyer to kick off does; later calls change nothing."""
        with self._lock:
            if self._zero_ns is None:
                self._zero_ns = time.monotonic_ns()
                self._zero_unix_ns = time.time_ns()

    @property
    def started(self) -> bool:
        """Whether the zero is set."""
        return self._zero_ns is not None

    def now_ns(self) -> int:
        """Nanoseconds since the zero."""
        if self._zero_ns is None:
            raise RuntimeError("run clock: expected start() before the first reading, got none")
        return time.monotonic_ns() - self._zero_ns

    @property
    def zero_unix_ns(self) -> int:
        """The zero as Unix time, for detectors whose stamps are dates."""
        if self._zero_ns is None:
            raise RuntimeError("run clock: expected start() before the first reading, got none")
        return self._zero_unix_ns

    def wait_until(self, due_ns: int) -> bool:
        """Wait for a time since the zero.

        Parameters
        ----------
        due_ns
            Nanoseconds since the zero; a time that is past returns at once.

        Returns
        -------
        bool
            False if the run was stopped, before or while waiting.
        """
        remaining_s = (due_ns - self.now_ns()) * 1e-9
        if remaining_s > 0:
            self._stopped.wait(remaining_s)
        return not self._stopped.is_set()

    def stop(self, reason: str) -> None:
        """End the run early; the first reason is kept."""
        with self._lock:
            if not self._stopped.is_set():
                self._reason = reason
                self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether the run was ended early."""
        return self._stopped.is_set()

    @property
    def reason(self) -> str:
        """Why the run was ended early, or nothing."""
        return self._reason
