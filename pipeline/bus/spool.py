"""The recording of one stream: raw data, store for repair and source of a replay in one file.

A NeXus file (HDF5) whose chunks are single frames, in the very bytes that travel on the bus
(bitshuffle + LZ4, filter 32008). It is readable while it grows (SWMR): a row is there as soon as
every dataset of the file has it, and `append` flushes in that order.

| path | shape | what |
|---|---|---|
| /entry/instrument/detector/data | (n, ny, nx) or (n, m) | frames, spectra or intensities |
| /entry/instrument/detector/errors | (n, m) | sigma, of curves only |
| /entry/instrument/detector/frame | (n,) | frame number, rising; numbers may be missing |
| /entry/instrument/detector/time_ns | (n,) | end of exposure since the run's zero |
| /entry/instrument/detector/count_time | (n,) | exposure, s |
| /entry/instrument/monitor/data | (n,) | flux relative to nominal, of images only |
| /entry/sample/transmission | (n,) | of images only |
| /entry/stream/start | () | the start message, JSON |
| /entry/stream/frames, reason | (1,) | the end message; frames is -1 while it is open |

Constant arrays (``pixel_mask``, ``wavelength_nm``, ``dark``, ``reference``, ``q_per_nm``) and what
the PONI text tells of the geometry stand beside ``data``.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import h5py
import hdf5plugin
import numpy as np

from pipeline.bus import bslz4
from pipeline.bus.errors import SpoolError
from pipeline.bus.facts import FrameFacts, arrays_of, check_frame, facts_of
from pipeline.bus.poni import parse_poni
from pipeline.bus.spool_reader import (
    DETECTOR,
    LAYOUT_VERSION,
    MONITOR,
    STREAM,
    TRANSMISSION,
    SpoolReader,
    data_of,
    dataset_of,
    scalars_of,
)
from pipeline.bus.wire import payloads_of
from pipeline.messages import Frame, StreamEnd, StreamStart

__all__ = ["SpoolReader", "SpoolWriter"]

assert hdf5plugin.FILTERS["bshuf"] == bslz4.HDF5_FILTER  # importing it registers the filter

_REASON_BYTES = 200
_SCALAR_CHUNK = 512
"""Rows in a chunk of the per-frame scalars: 4 kB, a page."""
_RESERVED = frozenset(
    ("data", "errors", "frame", "time_ns", "count_time", "distance", "beam_center_x",
     "beam_center_y", "x_pixel_size", "y_pixel_size", "poni")
)  # fmt: skip


class SpoolWriter:
    """Writes one stream to one file; one process at a time.

    Parameters
    ----------
    path
        File to make. A file of the same stream that nobody ended is taken up again, behind its
        last frame.
    start
        The stream.

    Raises
    ------
    SpoolError
        If the file is there and complete, of another stream, or being written by somebody else.
    """

    def __init__(self, path: Path | str, start: StreamStart) -> None:
        self.path = Path(path)
        self.start = start
        self._lock = _lock(self.path)
        try:
            recovered = self.path.with_name(self.path.name + ".recovering")
            if self.path.exists():
                # The file of a writer that was killed may not be opened for writing again: what
                # lies behind its last flush is unknown to its header. So its frames are copied.
                rows = _copy(self.path, recovered, start)
                recovered.replace(self.path)
                self._file, self._rows, self._last = rows
            else:
                self._file, self._rows, self._last = _create(self.path, start), 0, -1
            self._open()
        except BaseException:
            _unlock(self.path, self._lock)
            raise

    def _open(self) -> None:
        self._file.swmr_mode = True
        self._data = data_of(self._file, self.start)
        self._scalars = _scalars(self._file, self.start)

    @property
    def last_frame(self) -> int:
        """Number of the last frame, -1 if there is none."""
        return self._last

    def append(self, frame: Frame, payload: bytes | tuple[bytes, ...] | None = None) -> None:
        """Write a frame; it is readable by others after `flush`.

        Parameters
        ----------
        frame
            Of the announced shape and type, with a higher number than all before.
        payload
            Its bslz4 form (one for each array), if it is at hand.
        """
        check_frame(frame, self.start)
        if frame.frame <= self._last:
            raise SpoolError(
                f"{self.path}: expected a frame after {self._last}, got frame {frame.frame}"
            )
        if payload is None:
            payloads = payloads_of(frame)
        else:
            payloads = (payload,) if isinstance(payload, bytes) else payload
        assert len(payloads) == len(arrays_of(frame))
        self._rows = _append(self._data, self._scalars, self._rows, facts_of(frame), payloads)
        self._last = frame.frame

    def flush(self) -> None:
        """Make all that was appended readable by others, and safe from a kill of this process."""
        h5py.h5f.flush(self._file.id)

    def close(self, end: StreamEnd | None = None) -> None:
        """Close the file; ``end`` completes it. Without it, the file can be taken up again."""
        if not self._file:
            return
        if end is not None:
            if end.frames <= self._last:
                raise SpoolError(
                    f"{self.path}: expected more than {self._last} frames, got {end.frames}"
                )
            # The number last: with it the recording is complete.
            for name, value in (("reason", end.reason.encode()), ("frames", end.frames)):
                dataset = dataset_of(self._file, f"{STREAM}/{name}")
                dataset[0] = value[:_REASON_BYTES] if isinstance(value, bytes) else value
                dataset.flush()
        self._file.close()
        _unlock(self.path, self._lock)

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _append(
    data: list[h5py.Dataset],
    scalars: dict[str, h5py.Dataset],
    row: int,
    facts: FrameFacts,
    payloads: tuple[bytes, ...],
) -> int:
    """Write one row everywhere, the frame number last; returns the number of rows."""
    for dataset, payload in zip(data, payloads, strict=True):
        dataset.resize(row + 1, axis=0)
        dataset.id.write_direct_chunk((row,) + (0,) * (dataset.ndim - 1), payload)
    for name, dataset in scalars.items():
        dataset.resize(row + 1, axis=0)
        dataset[row] = getattr(facts, name)
    return row + 1


def _scalars(file: h5py.File, start: StreamStart) -> dict[str, h5py.Dataset]:
    """As `scalars_of`, and the frame number at the end, because it is written last."""
    return {**scalars_of(file, start), "frame": dataset_of(file, f"{DETECTOR}/frame")}


def _copy(source: Path, target: Path, start: StreamStart) -> tuple[h5py.File, int, int]:
    """A new file with all frames of an unfinished one, chunk by chunk as they are."""
    with SpoolReader(source) as reader:
        if reader.end is not None:
            raise SpoolError(
                f"{source} is a complete recording of run {reader.start.run}: choose another file"
            )
        if _start_json(reader.start) != _start_json(start):
            raise SpoolError(
                f"{source}: expected run {start.run} stream {start.stream} "
                f"{start.shape} {start.dtype}, got the recording of run {reader.start.run} "
                f"stream {reader.start.stream} {reader.start.shape} {reader.start.dtype}: "
                "choose another file"
            )
        file = _create(target, start)
        data = data_of(file, start)
        scalars = _scalars(file, start)
        rows, last = 0, -1
        for number in reader.frames:
            last = int(number)
            rows = _append(data, scalars, rows, reader.facts(last), reader.read_payloads(last))
    file.flush()
    return file, rows, last


def _create(path: Path, start: StreamStart) -> h5py.File:
    """An empty recording, all groups and datasets made: SWMR allows no new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = h5py.File(path, "w", libver="latest")
    file.attrs["default"] = "entry"
    entry = _group(file, "entry", "NXentry")
    entry.attrs["default"] = "data"
    _group(entry, "instrument", "NXinstrument")
    detector = _group(file, DETECTOR, "NXdetector")
    names = ("data", "errors") if start.kind == "curve" else ("data",)
    for name in names:
        detector.create_dataset(
            name,
            shape=(0, *start.shape),
            maxshape=(None, *start.shape),
            chunks=(1, *start.shape),
            dtype=np.dtype(start.dtype),
            compression=bslz4.HDF5_FILTER,
            compression_opts=bslz4.HDF5_OPTIONS,
        )
    _scalar(detector, "frame", "<i8")
    _scalar(detector, "time_ns", "<i8", "ns")
    _scalar(detector, "count_time", "<f8", "s")
    if start.kind == "image":
        _group(file, str(Path(MONITOR).parent), "NXmonitor")
        _scalar(file, MONITOR, "<f8")
        _group(file, str(Path(TRANSMISSION).parent), "NXsample")
        _scalar(file, TRANSMISSION, "<f8")
    _constants(entry, detector, start)
    stream = _group(file, STREAM, "NXcollection")
    stream.attrs["layout"] = LAYOUT_VERSION
    stream["start"] = _start_json(start)
    stream.create_dataset("frames", data=np.array([-1], "<i8"))
    stream.create_dataset("reason", data=np.zeros(1, f"S{_REASON_BYTES}"))
    plot = _group(entry, "data", "NXdata")
    plot.attrs["signal"] = "data"
    plot["data"] = h5py.SoftLink(f"/{DETECTOR}/data")
    return file


def _constants(entry: h5py.Group, detector: h5py.Group, start: StreamStart) -> None:
    """Constant arrays, and the geometry as far as the PONI text tells it."""
    for name, array in start.arrays.items():
        if name in _RESERVED or "/" in name:
            raise SpoolError(f"stream {start.stream}: an array may not be called {name!r}")
        if name == "pixel_mask":
            detector.create_dataset(name, data=array.astype("<u4"), **hdf5plugin.Bitshuffle())
        else:
            detector[name] = array
    for name, unit in (("wavelength_nm", "nm"), ("q_per_nm", "1/nm")):
        if name in start.arrays:
            detector[name].attrs["units"] = unit
    poni = start.metadata.get("poni")
    if not isinstance(poni, str):
        return
    detector["poni"] = poni
    geometry = parse_poni(poni)
    for name, value, unit in (
        ("distance", geometry.distance_m, "m"),
        ("beam_center_x", geometry.beam_center_x, "pixel"),
        ("beam_center_y", geometry.beam_center_y, "pixel"),
        ("x_pixel_size", geometry.pixel_x_m, "m"),
        ("y_pixel_size", geometry.pixel_y_m, "m"),
    ):
        if value is not None:
            detector[name] = value
            detector[name].attrs["units"] = unit
    if geometry.wavelength_m is not None:
        beam = _group(entry, "instrument/beam", "NXbeam")
        beam["incident_wavelength"] = geometry.wavelength_m * 1e10
        beam["incident_wavelength"].attrs["units"] = "angstrom"


def _group(parent: h5py.Group, name: str, nexus_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    return group


def _scalar(parent: h5py.Group, name: str, dtype: str, units: str | None = None) -> None:
    # -1 (a frame number that no frame has) and NaN mark rows that were never written.
    fill: Any = -1 if dtype == "<i8" else np.nan
    dataset = parent.create_dataset(
        name, shape=(0,), maxshape=(None,), chunks=(_SCALAR_CHUNK,), dtype=dtype, fillvalue=fill
    )
    if units is not None:
        dataset.attrs["units"] = units


def _start_json(start: StreamStart) -> str:
    """The start message without its arrays, which are datasets of their own."""
    return json.dumps(
        {
            "stream": start.stream,
            "run": start.run,
            "kind": start.kind,
            "shape": list(start.shape),
            "dtype": np.dtype(start.dtype).str,
            "arrays": list(start.arrays),
            "metadata": dict(start.metadata),
        }
    )


def _lock(path: Path) -> IO[bytes]:
    """Keep other writers off; the kernel lets go when this process dies, however it dies.

    It lies beside the recording, because HDF5's readers lock the file itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = open(path.with_name(path.name + ".lock"), "ab")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise SpoolError(f"{path} is being written by another process: stop it first") from error
    return lock


def _unlock(path: Path, lock: IO[bytes]) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path.with_name(path.name + ".lock"))
    lock.close()
