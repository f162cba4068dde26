"""How a process is told to stop."""

from __future__ import annotations

import signal
import threading


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set.

    It is set from a thread: a handler runs in between any two instructions of the main thread,
    which may hold the event's own lock just then, and would wait for itself for ever.
    """
    stop = threading.Event()

    def handle(_number: int, _frame: object) -> None:
        threading.Thread(target=stop.set, daemon=True).start()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop
