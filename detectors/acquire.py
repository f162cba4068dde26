"""The acquisition process: takes one run and publishes it.

    python -m detectors.acquire --wiring FILE [--linger SECONDS]

SIGINT or SIGTERM during the run ends it early, with all its documents; after the run, frames are
served again to whoever missed one until the store has them all, and a signal ends that. Exit code
0: the run is complete, or was ended early by a signal. Anything else is said in one line.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.config.acquisition import SimulatedDevices
from pipeline.config.loader import ConfigError, load_config
from pipeline.config.wiring import Wiring

if TYPE_CHECKING:
    from detectors.devices.clock import RunClock
    from detectors.devices.flyer import FrameFlyer
    from pipeline.config.run import RunConfig

log = logging.getLogger("detectors.acquire")

# How often new frames are made known to Tiled. Frames and results do not wait for it.
COLLECT_PERIOD_S = 1.0
# Longest that frames are served again after the run, when nobody says how long.
LINGER_S = 600.0
# The raw run's last references are written within a batch period, unless Tiled is away.
REGISTER_TIMEOUT_S = 15.0
# Registering yields to the detectors and the stages on a machine with few cores.
REGISTER_NICENESS = 10


class Signals:
    """Turns SIGINT and SIGTERM into the end of the run, and later into the end of serving."""

    def __init__(self, clock: RunClock) -> None:
        self._clock = clock
        self.run_over = False
        self.leave = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        if self.run_over:
            self.leave.set()
        self._clock.stop(f"stopped by {signal.Signals(number).name}")


class Acquisition:
    """One run from the first document to the last frame served.

    Parameters
    ----------
    wiring
        Addresses and places.
    config
        The run's config, read from ``wiring.config_file``.
    """

    def __init__(self, wiring: Wiring, config: RunConfig) -> None:
        from detectors.devices.build import make_devices
        from detectors.devices.clock import RunClock
        from detectors.documents import DOCUMENTS_FILE, DocumentFile
        from detectors.run_record import RunRecord
        from pipeline.bus import LinkSender

        self.wiring = wiring
        self.config = config
        self.clock = RunClock()
        self.signals = Signals(self.clock)
        self.record = RunRecord(wiring.recording_dir, wiring.run, wiring.config_file)
        self._documents = DocumentFile(wiring.recording_dir / DOCUMENTS_FILE)
        self._registrar = self._start_registrar()
        self.flyers: list[FrameFlyer] = make_devices(config.acquisition.devices)
        self._store = LinkSender(wiring.store, config.bus)
        self._stop: dict[str, Any] | None = None

    def run(self) -> None:
        """Take the run.

        Raises
        ------
        bluesky.utils.FailedStatus
            If a detector, the recording or a socket failed.
        """
        from bluesky import RunEngine

        from detectors.plan import live_run

        engine = RunEngine({}, context_managers=[])
        engine.subscribe(self._documents)
        engine.subscribe(self._note_stop, "stop")
        try:
            engine(
                live_run(
                    self.flyers,
                    self._make_flight,
                    clock=self.clock,
                    collect_period_s=COLLECT_PERIOD_S,
                    metadata=self._metadata(),
                )
            )
        finally:
            self.signals.run_over = True
            self.record.ended(
                self._stop, {f.stream: f.end for f in self.flyers if f.end is not None}
            )

    def linger(self, seconds: float) -> None:
        """Serve frames again until the store has them all, a signal comes or time is up."""

    def close(self) -> None:
        """Let go of files, sockets and the registering process."""
        for flyer in self.flyers:
            flyer.close()
        self._documents.close()
        self._registrar.terminate()
        self._registrar.wait()

    def _metadata(self) -> dict[str, Any]:
        content = self.record.content
        return {
            "nucleate_run": self.wiring.run,
            "run_name": self.config.name,
            "description": self.config.description,
            "sample": self.config.sample.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
            "config_sha256": content["config_sha256"],
            "software": content["versions"],
        }

    def _make_flight(self, start: Mapping[str, Any]) -> Any:
        from detectors.devices.flyer import Flight
        from detectors.register import RAW_CONTAINER
        from pipeline.messages import RunDocument

        self.record.started(start)
        document = {**start, "bluesky_uid": start["uid"], "raw": f"{RAW_CONTAINER}/{start['uid']}"}
        self._store.document(RunDocument(self.wiring.run, "start", document))
        return Flight(
            run=self.wiring.run,
            recording_dir=self.wiring.recording_dir,
            endpoints=self.wiring.frames,
            bus=self.config.bus,
            duration_s=self.config.acquisition.duration_s,
            clock=self.clock,
            run_start=dict(start),
        )

    def _note_stop(self, _name: str, document: dict[str, Any]) -> None:
        self._stop = document

    def _start_registrar(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "detectors.register", str(self.wiring.recording_dir)]
        command += ["--tiled", self.wiring.tiled_url, "--follow"]
        return subprocess.Popen(command)
