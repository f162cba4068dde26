"""Reads the recording of a stream, finished or growing or left by a writer that was killed."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.bus import bslz4
from pipeline.bus.errors import SpoolError, WireError
from pipeline.bus.facts import FrameFacts, arrays_per_frame, build_frame
from pipeline.messages import Frame, StreamEnd, StreamStart, frozen_array

DETECTOR = "entry/instrument/detector"
MONITOR = "entry/instrument/monitor/data"
TRANSMISSION = "entry/sample/transmission"
STREAM = "entry/stream"
LAYOUT_VERSION = 1

# Signature, version, file consistency flags, address of the end: of the HDF5 format, section II.A.
_SUPERBLOCK = struct.Struct("<8sB2xB16xQ")
_BEING_WRITTEN = 1


class SpoolReader:
    """One recording.

    Parameters
    ----------
    path
        Made by `pipeline.bus.spool.SpoolWriter`.

    Attributes
    ----------
    start
        The stream's start message.

    Raises
    ------
    SpoolError
        If the file is not there, not a recording, or damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        _check_length(self.path)
        try:
            # SWMR, always: it also opens what a killed writer left.
            self._file = h5py.File(self.path, "r", libver="latest", swmr=True)
        except OSError as error:
            raise SpoolError(f"{self.path}: expected a recording, HDF5 says: {error}") from error
        try:
            self.start = _read_start(self._file)
            self._bind()
            self.refresh()
        except (KeyError, OSError, ValueError, RuntimeError) as error:
            self._file.close()
            raise SpoolError(f"{self.path}: expected a recording, {error}") from error

    def _bind(self) -> None:
        file = self._file
        self._data = data_of(file, self.start)
        for dataset in self._data:
            if dataset.shape[1:] != self.start.shape or dataset.chunks != (1, *self.start.shape):
                raise ValueError(f"frames of shape {self.start.shape}, got {dataset.shape[1:]}")
        self._scalars = scalars_of(file, self.start)
        self._numbers = dataset_of(file, f"{DETECTOR}/frame")
        self._end = dataset_of(file, f"{STREAM}/frames"), dataset_of(file, f"{STREAM}/reason")
        self._frames = frozen_array(np.empty(0, np.int64))
        self.end: StreamEnd | None = None

    def refresh(self) -> None:
        """See what was flushed since; sets ``frames`` and ``end``."""
        for dataset in (*self._data, *self._scalars.values(), self._numbers, *self._end):
            dataset.id.refresh()
        # Datasets are flushed one after the other: a row counts when all have it.
        rows = min(
            dataset.shape[0] for dataset in (*self._data, *self._scalars.values(), self._numbers)
        )
        known = len(self._frames)
        if rows > known:
            fresh = self._numbers[known:rows]
            unwritten = np.flatnonzero(fresh < 0)
            if unwritten.size:
                fresh = fresh[: unwritten[0]]
            numbers = np.concatenate([self._frames, fresh])
            if np.any(np.diff(numbers[max(known - 1, 0) :]) <= 0):
                raise SpoolError(f"{self.path}: expected frame numbers that rise")
            self._frames = frozen_array(numbers)
        frames, reason = (dataset[0] for dataset in self._end)
        if frames >= 0:
            text = bytes(reason).decode(errors="replace")
            self.end = StreamEnd(self.start.stream, self.start.run, int(frames), text)

    @property
    def frames(self) -> np.ndarray:
        """Numbers of the frames that are there, rising. Changes by `refresh` only."""
        return self._frames

    @property
    def last_frame(self) -> int:
        """Number of the last frame, -1 if there is none."""
        return int(self._frames[-1]) if len(self._frames) else -1

    def __contains__(self, frame: int) -> bool:
        row = int(np.searchsorted(self._frames, frame))
        return row < len(self._frames) and int(self._frames[row]) == frame

    def read(self, frame: int) -> Frame:
        """A frame.

        Raises
        ------
        KeyError
            If the recording does not have it.
        SpoolError
            If it is damaged.
        """
        facts, dtype = self.facts(frame), np.dtype(self.start.dtype)
        try:
            arrays = tuple(
                bslz4.decompress(payload, self.start.shape, dtype)
                for payload in self.read_payloads(frame)
            )
        except WireError as error:
            raise SpoolError(f"{self.path} frame {frame}: {error}") from error
        return build_frame(self.start, facts, arrays)

    def read_payload(self, frame: int) -> bytes:
        """The main array of a frame in its stored form, see `pipeline.bus.bslz4`."""
        return self.read_payloads(frame)[0]

    def read_payloads(self, frame: int) -> tuple[bytes, ...]:
        """As `read_payload`, of all arrays of the frame."""
        row = self._row(frame)
        payloads = []
        for dataset in self._data:
            try:
                _, payload = dataset.id.read_direct_chunk((row,) + (0,) * (dataset.ndim - 1))
            except (OSError, RuntimeError, ValueError) as error:
                raise SpoolError(f"{self.path} frame {frame}: cannot be read, {error}") from error
            payloads.append(bytes(payload))
        return tuple(payloads)

    def facts(self, frame: int) -> FrameFacts:
        """The scalars of a frame."""
        row = self._row(frame)
        try:
            values = {name: dataset[row].item() for name, dataset in self._scalars.items()}
        except OSError as error:
            raise SpoolError(f"{self.path} frame {frame}: cannot be read, {error}") from error
        return FrameFacts(frame, **values)

    def _row(self, frame: int) -> int:
        if frame not in self:
            raise KeyError(f"{self.path} has no frame {frame}")
        return int(np.searchsorted(self._frames, frame))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> SpoolReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def dataset_of(file: h5py.File, path: str) -> h5py.Dataset:
    """A dataset by its path; `ValueError` if there is none."""
    found = file.get(path)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"dataset /{path}, got {'nothing' if found is None else 'a group'}")
    return found


def data_of(file: h5py.File, start: StreamStart) -> list[h5py.Dataset]:
    """Datasets of a stream's arrays, the main one first."""
    names = ("data", "errors")[: arrays_per_frame(start)]
    return [dataset_of(file, f"{DETECTOR}/{name}") for name in names]


def scalars_of(file: h5py.File, start: StreamStart) -> dict[str, h5py.Dataset]:
    """Datasets of a stream's scalars by the names of `FrameFacts`, but for the frame number."""
    paths = {"time_ns": f"{DETECTOR}/time_ns", "exposure_s": f"{DETECTOR}/count_time"}
    if start.kind == "image":
        paths |= {"monitor": MONITOR, "transmission": TRANSMISSION}
    return {name: dataset_of(file, path) for name, path in paths.items()}


def _check_length(path: Path) -> None:
    """That a closed file is as long as its header says.

    A file that was cut (a copy that was broken off) would be taken for one that is still being
    written: HDF5 would wait for the rest for hours.
    """
    try:
        with path.open("rb") as file:
            header, length = file.read(_SUPERBLOCK.size), file.seek(0, os.SEEK_END)
    except OSError as error:
        raise SpoolError(f"{path}: expected a recording, {error.strerror}") from error
    if len(header) < _SUPERBLOCK.size:
        raise SpoolError(f"{path}: expected a recording, got {length} B")
    signature, version, flags, end = _SUPERBLOCK.unpack(header)
    if signature != b"\x89HDF\r\n\x1a\n" or version != 3:
        raise SpoolError(f"{path}: expected a recording, got no HDF5 file of version 3")
    if not flags & _BEING_WRITTEN and length < end:
        raise SpoolError(f"{path}: was cut, expected {end} B, got {length} B: copy it again")


def _read_start(file: h5py.File) -> StreamStart:
    text = dataset_of(file, f"{STREAM}/start")
    layout = file[STREAM].attrs.get("layout")
    if layout != LAYOUT_VERSION:
        raise ValueError(f"layout {LAYOUT_VERSION}, got {layout}")
    fields: dict[str, Any] = json.loads(text[()])
    arrays = {
        name: frozen_array(dataset_of(file, f"{DETECTOR}/{name}")[()]) for name in fields["arrays"]
    }
    return StreamStart(
        fields["stream"],
        fields["run"],
        fields["kind"],
        tuple(fields["shape"]),
        fields["dtype"],
        arrays,
        fields["metadata"],
    )
