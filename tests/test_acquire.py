"""The acquisition process as it is started: one run, its recording, its documents, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detectors.register import RAW_CONTAINER
from pipeline.bus import FrameConsumer, LinkReceiver, SpoolReader
from pipeline.config.loader import load_config
from pipeline.config.plumbing import Bus
from pipeline.config.wiring import FrameEndpoints, Wiring
from pipeline.messages import ImageFrame, RunDocument, StreamEnd
from pipeline.store.server import EmbeddedServer

NOBODY = "http://127.0.0.1:9"

# Tiled's own packages warn at import and start; what they warn of is not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tiled"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:fastapi"),
]


def endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


class Store:
    """Takes the run's documents."""

    def __init__(self, address: str) -> None:
        self.documents: list[RunDocument] = []
        self.receiver = LinkReceiver(address, Bus(), self)

    def on_document(self, document: RunDocument, /) -> None:
        self.documents.append(document)

    def on_open(self, start: Any, nodes: Any, /) -> int:
        return 0

    def on_results(self, results: Any, /) -> None:
        return None

    def on_end(self, end: Any, /) -> None:
        return None


class Run:
    """Files and addresses of one run, and the process."""

    def __init__(self, folder: Path, duration_s: float, tiled_url: str, **devices: Any) -> None:
        config = {
            "name": "small",
            "acquisition": {
                "duration_s": duration_s,
                "devices": {
                    "type": "simulated",
                    "recipe": "cs_oleate",
                    "saxs": {"rate_hz": 10, "shape": [48, 40]},
                    "absorbance": {"rate_hz": 20, "pixels": 64},
                    **devices,
                },
            },
        }
        config_file = folder / "small.yaml"
        config_file.write_text("# kept as it is\n" + yaml.safe_dump(config))
        self.wiring = Wiring(
            run="run-7",
            config_file=config_file,
            recording_dir=folder / "recording",
            frames={
                stream: FrameEndpoints(live=endpoint(), repair=endpoint())
                for stream in ("saxs", "absorbance")
            },
            store=endpoint(),
            tiled_url=tiled_url,
        )
        self.wiring_file = folder / "wiring.json"
        self.wiring_file.write_text(self.wiring.model_dump_json())
        self.process: subprocess.Popen[str] | None = None
        self.consumers = [
            threading.Thread(target=self._consume, args=(stream,)) for stream in self.wiring.frames
        ]
        self.received: dict[str, list[Any]] = {stream: [] for stream in self.wiring.frames}

    def start(self, *arguments: str, key: str = "") -> None:
        command = [sys.executable, "-m", "detectors.acquire", "--wiring", str(self.wiring_file)]
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TILED_API_KEY": key},
        )

    def finish(self) -> tuple[int, str, str]:
        assert self.process is not None
        try:
            out, err = self.process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.process.communicate()[1]) from None
        return self.process.returncode, out, err

    def record(self) -> dict[str, Any]:
        return json.loads((self.wiring.recording_dir / "run.json").read_text())

    def _consume(self, stream: str) -> None:
        consumer = FrameConsumer(self.wiring.frames[stream], Bus())
        received = self.received[stream]
        while not (received and isinstance(received[-1], StreamEnd)):
            message = consumer.next(0.5)
            if message is not None:
                received.append(message)
        # Said until the process is gone: a word into a breaking connection is lost.
        assert self.process is not None
        while self.process.poll() is None:
            consumer.done()
            time.sleep(0.2)
        consumer.close()


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("tiled")
    server = EmbeddedServer(folder / "data", readable=(folder.parent,))
    server.start()
    yield server
    server.stop()


def test_a_run_is_recorded_published_registered_and_told_to_the_store(
    tmp_path: Path, tiled: EmbeddedServer
) -> None:
    run = Run(tmp_path, 1.5, tiled.url)
    store = Store(run.wiring.store)
    run.start("--linger", "20", key=tiled.api_key)
    for consumer in run.consumers:
        consumer.start()
    code, out, err = run.finish()
    for consumer in run.consumers:
        consumer.join()
    store.receiver.close()

    assert code == 0, err
    assert out == ""
    assert "raw run registered" in err
    folder = run.wiring.recording_dir
    assert (folder / "config.yaml").read_bytes() == run.wiring.config_file.read_bytes()
    record = run.record()
    assert record["run"] == "run-7"
    assert record["config"].startswith("# kept as it is")
    assert record["stop"]["exit_status"] == "success"
    assert record["streams"]["saxs"] == {"file": "saxs.h5", "frames": 15, "reason": "done"}
    assert record["streams"]["absorbance"]["frames"] == 30

    # Every frame reached the consumers, live or by repair.
    with SpoolReader(folder / "saxs.h5") as reader:
        recorded = [reader.read(int(n)) for n in reader.frames]
        assert reader.end == StreamEnd("saxs", "run-7", 15)
    images = np.stack([frame.image for frame in recorded if isinstance(frame, ImageFrame)])
    live = [message for message in run.received["saxs"] if isinstance(message, ImageFrame)]
    np.testing.assert_array_equal(np.stack([frame.image for frame in live]), images)
    assert images.sum() > 0

    # The store was told both documents, and where the raw run is.
    assert [document.name for document in store.documents] == ["start", "stop"]
    uid = record["bluesky_uid"]
    assert store.documents[0].run == "run-7"
    assert store.documents[0].document["raw"] == f"{RAW_CONTAINER}/{uid}"
    assert store.documents[0].document["config"]["name"] == "small"

    # Tiled serves the counts out of the recording.
    from tiled.client import from_uri

    client: Any = from_uri(tiled.url, api_key=tiled.api_key)
    raw = client[RAW_CONTAINER, uid]
    assert raw.metadata["start"]["nucleate_run"] == "run-7"
    assert raw.metadata["stop"]["num_events"] == {"saxs": 15, "absorbance": 30}
    np.testing.assert_array_equal(raw["saxs"]["saxs_image"][:], images)
    period_ns = 50_000_000
    times = np.ravel(raw["absorbance"]["absorbance_time_ns"][:])
    assert times.tolist() == [(n + 1) * period_ns for n in range(30)]
    client.context.http_client.close()


def test_sigterm_ends_the_run_whole_although_tiled_is_away(tmp_path: Path) -> None:
    artefacts = [{"kind": "dropped_frames", "at_s": 0.25, "duration_s": 0.2, "stream": "saxs"}]
    run = Run(tmp_path, 300.0, NOBODY, artefacts=artefacts)
    store = Store(run.wiring.store)
    run.start()
    saxs = run.wiring.recording_dir / "documents.jsonl"
    deadline = time.monotonic() + 60
    while not (saxs.exists() and "stream_datum" in saxs.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    # Registering has no Tiled to wait for: the second signal says that nobody will.
    while run.record()["stop"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run.process.send_signal(signal.SIGTERM)
    code, _, err = run.finish()
    store.receiver.close()

    assert code == 0, err
    assert "Traceback" not in err
    assert "python -m detectors.register" in err
    record = run.record()
    assert record["stop"]["reason"] == "stopped by SIGTERM"
    for stream in ("saxs", "absorbance"):
        with SpoolReader(run.wiring.recording_dir / f"{stream}.h5") as reader:
            assert reader.end is not None
            assert reader.end.reason == "stopped by SIGTERM"
            numbers = reader.frames.tolist()
        if stream == "saxs":
            # Exposures that end at 0.3 and 0.4 s lie in the loss.
            assert {2, 3}.isdisjoint(numbers)
            assert {0, 1, 5}.issubset(numbers)
        else:
            assert numbers == list(range(len(numbers)))


def test_what_cannot_run_says_why_in_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path, 1.0, NOBODY)
    blocker = socket.create_server(("127.0.0.1", 0))
    taken = f"tcp://127.0.0.1:{blocker.getsockname()[1]}"
    frames = {**run.wiring.frames, "saxs": FrameEndpoints(live=taken, repair=endpoint())}
    run.wiring_file.write_text(run.wiring.model_copy(update={"frames": frames}).model_dump_json())
    run.start("--linger", "0")
    assert run.process is not None
    lines: list[str] = []
    assert run.process.stderr is not None
    for line in run.process.stderr:
        lines.append(line)
        if "failed" in line:
            run.process.send_signal(signal.SIGTERM)
            break
    code, _, rest = run.finish()
    blocker.close()
    assert code == 1
    assert "Address already in use" in "".join(lines)
    assert "Traceback" not in "".join(lines) + rest
    assert run.record()["stop"]["exit_status"] == "fail"

    # And a recording is not overwritten.
    run.start()
    code, _, err = run.finish()
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert "expected an empty folder, got a recorded run" in err


def test_the_template_for_a_beamline_is_valid() -> None:
    config = load_config(Path(__file__).parent.parent / "configs" / "beamline.yaml")
    assert config.acquisition.devices.type == "ophyd"
