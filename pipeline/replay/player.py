"""Plays a recording: the same bus and messages as a live run, at any speed.

Time is data: frames carry the times that they were recorded with, and only the pace at which they
are handed over depends on the speed. So a replay gives the results of the live run.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.bus import FramePublisher, LinkSender
from pipeline.config.inputs import geometries, input_hashes, software_versions
from pipeline.config.run import RunConfig
from pipeline.config.wiring import Wiring
from pipeline.messages import Frame, RunDocument
from pipeline.replay.own import RUN_FILE
from pipeline.replay.recording import Recording, ReplayError, StreamSource

log = logging.getLogger(__name__)

#: Waits are cut into pieces of this length, so that a failed socket or a signal is noticed.
_TICK_S = 0.25

_PACKAGES = ("nucleate", "numpy", "h5py", "hdf5plugin", "fabio", "pyzmq", "tiled")


class Player:
    """Publishes a recording's streams, interleaved by their own clocks.

    Parameters
    ----------
    recording
        What is played.
    wiring
        Addresses. The frames are written to ``recording_dir`` on the way, which makes that folder
        a recording of ours; it must not be the folder that is replayed.
    config
        The config that the replay is analysed with.
    speed
        1 = as it was recorded, 2 = twice as fast; infinite = no waiting at all.
    stop
        Set from elsewhere to end early: streams then end where they are.
    """

    def __init__(
        self,
        recording: Recording,
        wiring: Wiring,
        config: RunConfig,
        speed: float = math.inf,
        stop: threading.Event | None = None,
    ) -> None:
        if not speed > 0:
            raise ReplayError(f"expected a speed above 0 or max, got {speed:g}")
        self.recording = recording
        self.wiring = wiring
        self.config = config
        self.speed = speed
        self.stop = stop or threading.Event()
        self.sources = {
            name: _for_run(source, wiring.run)
            for name, source in recording.streams.items()
            if name in wiring.frames
        }
        if not self.sources:
            raise ReplayError(
                f"{recording.uri}: has the stream(s) {', '.join(recording.streams)}, none of which "
                f"is wired ({', '.join(wiring.frames)})"
            )
        for name in recording.streams.keys() - self.sources.keys():
            log.warning("stream %s is not wired and is left out", name)
        if (wiring.recording_dir / RUN_FILE).exists():
            raise ReplayError(
                f"{wiring.recording_dir}: holds a recorded run: a replay needs a folder of its own"
            )

    def run(self) -> None:
        """Play to the end; returns when every frame's results are stored.

        Raises
        ------
        ReplayError
            If the recording turns out to be damaged; the streams then end with that reason.
        """
        wiring, bus = self.wiring, self.config.bus
        wiring.recording_dir.mkdir(parents=True, exist_ok=True)
        start = self._start_document()
        self._note(start, None)
        with ExitStack() as stack:
            store = stack.enter_context(LinkSender(wiring.store, bus))
            store.document(RunDocument(wiring.run, "start", start))
            publishers = {
                name: stack.enter_context(
                    FramePublisher(
                        source.start,
                        wiring.recording_dir / f"{name}.h5",
                        wiring.frames[name],
                        bus,
                    )
                )
                for name, source in self.sources.items()
            }
            failure = self._play(publishers)
            stop = self._stop_document(start, publishers, failure)
            self._note(start, stop)
            store.document(RunDocument(wiring.run, "stop", stop))
            self._wait_stored(publishers, store)
        if failure is not None:
            raise failure

    def _play(self, publishers: Mapping[str, FramePublisher]) -> ReplayError | None:
        failure = None
        try:
            for frame in self._paced():
                publishers[frame.stream].publish(frame)
        except ReplayError as error:
            failure = error
        for name, publisher in publishers.items():
            source = self.sources[name]
            if failure is not None:
                publisher.finish(f"failed: {failure}")
            elif self.stop.is_set():
                publisher.finish("stopped")
            else:
                publisher.finish(source.reason, source.frame_count)
        return failure

    def _paced(self) -> Iterator[Frame]:
        """Frames of all streams in the order of their times, each not before it is due.

        The clock starts when the first frame is due, so a recording that begins late does not
        begin with a wait.
        """
        streams = [source.frames() for source in self.sources.values()]
        merged = heapq.merge(*streams, key=lambda frame: frame.time_ns)
        began: tuple[float, int] | None = None
        for frame in merged:
            if began is None:
                began = time.monotonic(), frame.time_ns
            if math.isfinite(self.speed):
                due = began[0] + (frame.time_ns - began[1]) * 1e-9 / self.speed
                self.stop.wait(max(0.0, due - time.monotonic()))
            if self.stop.is_set():
                return
            yield frame

    def _wait_stored(self, publishers: Mapping[str, FramePublisher], store: LinkSender) -> None:
        """Serve frames again until all is stored: of frames, their consumers say so.

        A consumer says that it needs no frame any more when the store has confirmed its results;
        the store itself confirms the documents.
        """
        self.stop.clear()
        for name, publisher in publishers.items():
            while not publisher.wait_done(1, _TICK_S):
                self._check_patience(f"{name}: stopped before all its results were stored")
        while not store.flush(_TICK_S):
            self._check_patience("stopped before the store had the run's documents")

    def _check_patience(self, message: str) -> None:
        if self.stop.is_set():
            raise ReplayError(message)

    def _start_document(self) -> dict[str, Any]:
        text = self.wiring.config_file.read_bytes()
        recording = self.recording
        return {
            "uid": str(uuid.uuid4()),
            "time": time.time(),
            "nucleate_run": self.wiring.run,
            "run_name": self.config.name,
            "description": self.config.description,
            "plan_name": "replay",
            "streams": sorted(self.sources),
            "sample": self.config.sample.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
            "config_text": text.decode(),
            "config_sha256": hashlib.sha256(text).hexdigest(),
            "software": software_versions(_PACKAGES),
            "recording": str(self.wiring.recording_dir.resolve()),
            "inputs": input_hashes(self.wiring.config_file, self.config),
            "geometry": geometries(
                self.config,
                {
                    name: source.start.metadata["poni"]
                    for name, source in self.sources.items()
                    if "poni" in source.start.metadata
                },
            ),
            "replay_of": {
                "name": recording.name,
                "uri": recording.uri,
                "format": recording.format,
                "content_hash": recording.content_hash(),
                "speed": "max" if math.isinf(self.speed) else self.speed,
                "frames": {n: s.frame_count for n, s in self.sources.items()},
                "start": dict(recording.start_document),
                "stop": dict(recording.stop_document),
            },
        }

    def _stop_document(
        self,
        start: Mapping[str, Any],
        publishers: Mapping[str, FramePublisher],
        failure: ReplayError | None,
    ) -> dict[str, Any]:
        early = self.stop.is_set()
        return {
            "uid": str(uuid.uuid4()),
            "run_start": start["uid"],
            "time": time.time(),
            "exit_status": "fail" if failure else "abort" if early else "success",
            "reason": str(failure) if failure else "stopped" if early else "",
            "num_events": {name: p.counters["published"] for name, p in publishers.items()},
        }

    def _note(self, start: Mapping[str, Any], stop: Mapping[str, Any] | None) -> None:
        """``run.json`` beside the frames: what was played can be replayed as one of ours."""
        content = {
            "run": self.wiring.run,
            "config": start["config_text"],
            "config_sha256": start["config_sha256"],
            "versions": start["software"],
            "start": start,
            "stop": stop,
        }
        (self.wiring.recording_dir / "config.yaml").write_text(
            start["config_text"], encoding="utf-8"
        )
        path = self.wiring.recording_dir / RUN_FILE
        draft = path.with_suffix(".json.part")
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
        draft.replace(path)


def _for_run(source: StreamSource, run: str) -> StreamSource:
    return replace(source, start=replace(source.start, run=run))


def parse_speed(text: str) -> float:
    """``max`` (infinite) or a number above 0.

    Raises
    ------
    ReplayError
        If it is neither.
    """
    if text == "max":
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise ReplayError(f"speed: expected max or a number above 0, got {text!r}")
    return speed


def load_wiring(path: Path) -> Wiring:
    """Addresses of the run, as the command line wrote them."""
    try:
        return Wiring.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReplayError(f"{path}: no such wiring file") from None
    except ValueError as error:
        raise ReplayError(f"{path}: expected a wiring: {' '.join(str(error).split())}") from None
