"""``run.json``: what a recording says of itself beside its frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectors.documents import plain
from pipeline.config.inputs import input_files, software_versions
from pipeline.config.loader import config_to_yaml, load_config
from pipeline.messages import StreamEnd

#: Name of the file in a recording.
RUN_FILE = "run.json"
#: Name of the config in a recording: a copy, or the same with its paths made absolute.
CONFIG_FILE = "config.yaml"

_PACKAGES = ("nucleate", "bluesky", "ophyd", "event-model", "numpy", "h5py", "hdf5plugin", "pyzmq")


class RunRecord:
    """Writes ``run.json`` at the start and again at the end of a run.

    Parameters
    ----------
    folder
        The recording; made if it is missing.
    run
        Identifier of the run.
    config_file
        Copied as it is.

    Raises
    ------
    FileExistsError
        If the folder holds a run already: a recording is never overwritten.
    """

    def __init__(self, folder: Path, run: str, config_file: Path) -> None:
        self.path = folder / RUN_FILE
        if self.path.exists():
            raise FileExistsError(
                f"{folder}: expected an empty folder, got a recorded run: choose another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        text = config_file.read_bytes()
        config = load_config(config_file)
        if input_files(config):
            # Paths in it were relative to where it lay: here they would lead nowhere.
            text = config_to_yaml(config).encode()
        (folder / CONFIG_FILE).write_bytes(text)
        self.content: dict[str, Any] = {
            "run": run,
            "config": text.decode(),
            "config_sha256": hashlib.sha256(text).hexdigest(),
            "versions": software_versions(_PACKAGES),
            "start": None,
            "stop": None,
            "streams": {},
        }

    def started(self, document: Mapping[str, Any]) -> None:
        """Note the start document."""
        self.content["start"] = dict(document)
        self.content["bluesky_uid"] = document["uid"]
        self._write()

    def ended(self, document: Mapping[str, Any] | None, ends: Mapping[str, StreamEnd]) -> None:
        """Note the stop document, None if there is none, and how the streams ended."""
        self.content["stop"] = None if document is None else dict(document)
        self.content["streams"] = {
            stream: {"file": f"{stream}.h5", "frames": end.frames, "reason": end.reason}
            for stream, end in ends.items()
        }
        self._write()

    def _write(self) -> None:
        # Renamed into place, so that a reader never meets half a file.
        draft = self.path.with_suffix(".json.part")
        draft.write_text(json.dumps(self.content, indent=1, default=plain), encoding="utf-8")
        draft.replace(self.path)
