"""The acquisition process: takes one run and publishes it.

    python -m detectors.acquire --wiring FILE [--linger SECONDS]

SIGINT or SIGTERM during the run ends it early, with all its documents; after the run, frames are
served again to whoever missed one until the store has them all, and a signal ends that. Exit code
0: the run is complete, or was ended early by a signal. Anything else is said in one line.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.config.acquisition import SimulatedDevices
from pipeline.config.inputs import geometries, input_hashes
from pipeline.config.loader import ConfigError, load_config
from pipeline.config.wiring import Wiring

if TYPE_CHECKING:
    from detectors.devices.clock import RunClock
    from detectors.devices.flyer import FrameFlyer
    from pipeline.config.run import RunConfig

log = logging.getLogger("detectors.acquire")

# How often new frames are made known to Tiled. Frames and results do not wait for it.
COLLECT_PERIOD_S = 1.0
# How long frames are served again after the run: an analysis may be as late as it likes.
LINGER_S = math.inf
# The raw run's last references are written within a batch period, unless Tiled is away or the run
# was shorter than the loading of Tiled's client, which takes 10 s of computing at low priority.
REGISTER_TIMEOUT_S = 60.0
# How often a signal is looked for while waiting.
POLL_S = 0.1


class Signals:
    """Turns SIGINT and SIGTERM into the end of the run, and later into the end of serving."""

    def __init__(self, clock: RunClock) -> None:
        self._clock = clock
        self.run_over = False
        self.leave = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        # On a thread: the main thread may hold the very locks that are taken here.
        threading.Thread(target=self._end, args=(number,), daemon=True).start()

    def _end(self, number: int) -> None:
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
    duration_s
        Instead of the config's own.
    """

    def __init__(self, wiring: Wiring, config: RunConfig, duration_s: float | None = None) -> None:
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
        self._start: dict[str, Any] | None = None
        self._start_told = False
        self._stop: dict[str, Any] | None = None
        self._duration_s = config.acquisition.duration_s if duration_s is None else duration_s
        self._patience_ends = time.monotonic() + config.acquisition.wait_for_store_s

    def run(self) -> None:
        """Take the run.

        Raises
        ------
        bluesky.utils.FailedStatus
            If a detector, the recording or a socket failed.
        """
        from bluesky import RunEngine

        from detectors.plan import live_run
        from pipeline.messages import RunDocument

        # Signals are ours: the RunEngine's own handler would pause and wait for a command.
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
                    ready=self._ready,
                )
            )
        finally:
            self.signals.run_over = True
            ends = {flyer.stream: flyer.end for flyer in self.flyers if flyer.end is not None}
            if self.clock.started:
                # Frame times count from here: latency is measured against it.
                self.record.content["zero_unix_ns"] = self.clock.zero_unix_ns
            self.record.ended(self._stop, ends)
            if self._stop is not None:
                # The store refuses an end without a beginning: a failed run may have got no
                # further than its start document.
                self._tell_start({})
                self._store.document(RunDocument(self.wiring.run, "stop", self._stop))

    def linger(self, seconds: float) -> bool:
        """Serve frames again until the store has all (True), a signal comes or time is up.

        The store has all when every stream's consumer has said that it needs no frame any more,
        and the store has confirmed the stop document.
        """
        deadline = time.monotonic() + seconds

        def patient() -> bool:
            return not self.signals.leave.is_set() and time.monotonic() < deadline

        waiting = self.flyers
        while waiting and patient():
            waiting = [flyer for flyer in waiting if not flyer.wait_consumed(POLL_S)]
        confirmed = self._store.flush(0)
        while not confirmed and patient():
            confirmed = self._store.flush(POLL_S)
        for flyer in waiting:
            log.warning(
                "%s: nobody has taken all frames yet; they are in %s", flyer.stream, flyer.recording
            )
        if not confirmed:
            log.warning("store at %s has not confirmed the run", self.wiring.store)
        return confirmed and not waiting

    def close(self) -> None:
        """Let go of files and sockets, and see the raw run registered, within reason."""
        for flyer in self.flyers:
            flyer.close()
        self._store.close()
        self._documents.close()
        deadline = time.monotonic() + REGISTER_TIMEOUT_S
        while self._registrar.poll() is None:
            if self.signals.leave.wait(POLL_S) or time.monotonic() > deadline:
                self._registrar.terminate()
                self._registrar.wait()
                log.warning(
                    "raw run not registered in Tiled; later: python -m detectors.register %s "
                    "--tiled %s",
                    self.wiring.recording_dir,
                    self.wiring.tiled_url,
                )

    def _metadata(self) -> dict[str, Any]:
        content = self.record.content
        return {
            "nucleate_run": self.wiring.run,
            "run_name": self.config.name,
            "streams": [flyer.stream for flyer in self.flyers],
            "description": self.config.description,
            "sample": self.config.sample.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
            "config_text": content["config"],
            "config_sha256": content["config_sha256"],
            "inputs": input_hashes(self.wiring.config_file, self.config),
            "recording": str(self.wiring.recording_dir.resolve()),
            "software": content["versions"],
        }

    def _make_flight(self, start: Mapping[str, Any]) -> Any:
        from detectors.devices.flyer import Flight

        self.record.started(start)
        self._start = dict(start)
        return Flight(
            run=self.wiring.run,
            recording_dir=self.wiring.recording_dir,
            endpoints=self.wiring.frames,
            bus=self.config.bus,
            duration_s=self._duration_s,
            clock=self.clock,
            run_start=dict(start),
        )

    def _tell_start(self, of_streams: dict[str, str]) -> None:
        """Send the store the start document, once, with what only prepared detectors know."""
        from detectors.register import RAW_CONTAINER
        from pipeline.messages import RunDocument

        if self._start_told or self._start is None:
            return
        uid = self._start["uid"]
        document = {
            **self._start,
            "bluesky_uid": uid,
            "raw": f"{RAW_CONTAINER}/{uid}",
            "geometry": geometries(self.config, of_streams),
        }
        self._store.document(RunDocument(self.wiring.run, "start", document))
        self._start_told = True

    def _ready(self) -> bool:
        """Whether the store has the start document; frames do not wait for it for ever.

        Asked when the detectors are prepared.
        """
        told = {flyer.stream: flyer.geometry for flyer in self.flyers}
        self._tell_start({stream: poni for stream, poni in told.items() if poni is not None})
        if self._store.flush(0):
            return True
        if time.monotonic() > self._patience_ends:
            log.warning("the store does not answer yet; frames are taken and kept in the recording")
            return True
        return self.clock.stopped

    def _note_stop(self, _name: str, document: dict[str, Any]) -> None:
        self._stop = document

    def _start_registrar(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "detectors.register", str(self.wiring.recording_dir)]
        command += ["--tiled", self.wiring.tiled_url, "--follow"]
        # A session of its own: Ctrl-C ends the run, and the run's end is still to be registered.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m detectors.acquire", description="Take one run and publish it."
    )
    parser.add_argument("--wiring", type=Path, required=True, metavar="FILE", help="JSON")
    parser.add_argument(
        "--linger",
        type=float,
        default=LINGER_S,
        metavar="SECONDS",
        help="longest that frames are served again after the run (default %(default)g)",
    )
    parser.add_argument(
        "--duration", type=float, metavar="SECONDS", help="instead of the config's duration_s"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("detectors").setLevel(logging.INFO)
    # A failure is said once, by us, and not with two tracebacks before.
    logging.getLogger("bluesky").setLevel(logging.CRITICAL)
    try:
        return _acquire(options.wiring, options.linger, options.duration)
    except (OSError, ValidationError, ConfigError) as error:
        log.error("%s", " ".join(str(error).split()))
        return 1


def _acquire(wiring_file: Path, linger_s: float, duration_s: float | None) -> int:
    wiring = Wiring.model_validate_json(wiring_file.read_text(encoding="utf-8"))
    config = load_config(wiring.config_file)
    if isinstance(config.acquisition.devices, SimulatedDevices):
        # Nothing simulated speaks Channel Access; without it ophyd loads faster.
        os.environ.setdefault("OPHYD_CONTROL_LAYER", "dummy")

    from bluesky.utils import FailedStatus

    from detectors.devices.build import DeviceError
    from detectors.plan import cause_of
    from pipeline.bus import LinkRefusedError

    try:
        acquisition = Acquisition(wiring, config, duration_s)
    except DeviceError as error:
        log.error("%s: %s", wiring.config_file, error)
        return 1
    try:
        try:
            acquisition.run()
        except FailedStatus as error:
            # What was taken before is analysed and stored all the same.
            acquisition.linger(linger_s)
            log.error("run %s failed: %s", wiring.run, cause_of(error))
            return 1
        if not acquisition.linger(linger_s) and not acquisition.signals.leave.is_set():
            log.error("run %s is recorded, but not all of it is stored: replay it", wiring.run)
            return 1
    except LinkRefusedError as error:
        log.error("run %s: the store does not take it: %s", wiring.run, error)
        return 1
    finally:
        acquisition.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
