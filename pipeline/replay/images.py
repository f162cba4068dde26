"""A folder of images with a PONI file, a mask and counters."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.config.replay import StreamFormat
from pipeline.messages import ImageFrame, StreamStart, frozen_array
from pipeline.replay.recording import (
    Recording,
    ReplayError,
    StreamSource,
    as_unsigned,
    image_stream,
    seconds_to_ns,
)
from pipeline.replay.tables import CsvTable, natural_key, read_csv

#: What an image's name may end in (before a ``.gz``) to be found without replay.files.
IMAGE_SUFFIXES = (".raw", ".edf", ".cbf", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class _Counters:
    """Of each image; ``monitor`` in units of its median."""

    monitor: np.ndarray
    transmission: np.ndarray
    exposure_s: np.ndarray
    rows: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def open_images(path: Path, replay: StreamFormat) -> Recording:
    """Read a folder of images as one stream.

    Images are taken in the order of their names, ``period_s`` apart: the end of exposure n is at
    n ``period_s`` plus its exposure. Signed counts become unsigned, negative ones the largest
    value of the type.

    Parameters
    ----------
    path
        Folder.
    replay
        ``poni_file`` is needed unless the folder holds exactly one; ``shape`` and ``dtype`` are
        needed for headerless files (``.raw``).
    """
    files = _image_files(path, replay)
    poni = _poni_file(path, replay)
    first = read_image(files[0], replay.shape, replay.dtype)
    stream = replay.stream or "saxs"
    arrays, inputs = {}, [*files, poni]
    if replay.mask_file is not None:
        mask_path = path / replay.mask_file
        mask = read_mask(mask_path)
        if mask.shape != first.shape:
            raise ReplayError(
                f"{mask_path}: expected a mask of {first.shape} pixels as {files[0].name} has, got "
                f"{mask.shape}"
            )
        arrays["pixel_mask"] = frozen_array(mask, np.uint8)
        inputs.append(mask_path)
    counters = _counters(path, files, replay)
    start = StreamStart(
        stream=stream,
        run=path.name,
        kind="image",
        shape=first.shape,
        dtype=first.dtype.str,
        arrays=arrays,
        metadata={
            "source": path.name,
            "poni": poni.read_text(encoding="utf-8"),
            "saturation": int(np.iinfo(first.dtype).max),
            "transmission": "measured" if replay.empty_beam_ratio else "not known: 1",
            "files": [file.name for file in files],
            "counter_rows": list(counters.rows),
        },
    )

    def frames() -> Iterator[ImageFrame]:
        for frame, file in enumerate(files):
            exposure_s = float(counters.exposure_s[frame])
            yield ImageFrame(
                stream=stream,
                frame=frame,
                time_ns=seconds_to_ns(frame * replay.period_s + exposure_s),
                exposure_s=exposure_s,
                image=frozen_array(read_image(file, replay.shape, replay.dtype)),
                monitor=float(counters.monitor[frame]),
                transmission=float(counters.transmission[frame]),
            )

    return Recording(
        name=path.name,
        uri=str(path),
        format="images",
        streams={stream: image_stream(start, len(files), frames)},
        inputs=(*inputs, *counters.files),
    )


def require_same_exposures(first: StreamSource, further: StreamSource) -> None:
    """Refuse images of two detectors that cannot have been exposed together, one by one.

    Where the number of an image tells its time, one that is missing would give all that follow the
    time of another exposure.
    """
    names = first.start.stream, further.start.stream
    counts = first.frame_count, further.frame_count
    if counts[0] != counts[1]:
        raise ReplayError(
            f"{names[1]}: expected {counts[0]} images, as {names[0]} has, got {counts[1]}: is one "
            "missing? If they were not exposed together, set period_s in replay.also"
        )
    told = [source.start.metadata["counter_rows"] for source in (first, further)]
    files = [source.start.metadata["files"] for source in (first, further)]
    # Without counters nothing more is known of either.
    for frame, (one, other) in enumerate(zip(*told, strict=False)):
        if one != other:
            raise ReplayError(
                f"{names[1]} frame {frame}: expected the counters of {names[0]}, {one} "
                f"({files[0][frame]}), got {other} ({files[1][frame]}): is an image missing?"
            )


def read_image(path: Path, shape: tuple[int, int] | None, dtype: str | None) -> np.ndarray:
    """One image as unsigned counts (ny, nx).

    ``.raw`` files are bare numbers of ``dtype`` in C order; all others are read by fabio, which
    goes by their content (a ``.cbf`` may well be an EDF). Either may be gzipped.
    """
    if path.name.removesuffix(".gz").endswith(".raw"):
        return as_unsigned(_read_raw(path, shape, dtype), str(path))
    values = _read_with_fabio(path)
    if values.ndim != 2:
        raise ReplayError(f"{path}: expected one image of two dimensions, got {values.shape}")
    return as_unsigned(
        np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))), str(path)
    )


def read_mask(path: Path) -> np.ndarray:
    """A mask (ny, nx), 1 = unusable, from ``.npy``, HDF5 (its only 2-D dataset) or an image."""
    name = path.name.removesuffix(".gz")
    if not path.is_file():
        raise ReplayError(f"{path}: no such mask file (replay.mask_file)")
    if name.endswith(".npy"):
        values = np.load(path, allow_pickle=False)
    elif name.endswith((".h5", ".hdf", ".hdf5", ".nxs")):
        found: list[np.ndarray] = []
        with h5py.File(path) as file:
            file.visititems(
                lambda _, node: (
                    found.append(node[()])
                    if isinstance(node, h5py.Dataset) and node.ndim == 2
                    else None
                )
            )
        if len(found) != 1:
            raise ReplayError(f"{path}: expected one 2-D dataset as the mask, got {len(found)}")
        values = found[0]
    else:
        values = _read_with_fabio(path)
    return (values != 0).astype(np.uint8)


def _read_raw(path: Path, shape: tuple[int, int] | None, dtype: str | None) -> np.ndarray:
    if shape is None or dtype is None:
        raise ReplayError(
            f"{path}: a headerless image needs replay.shape (rows, columns) and replay.dtype"
        )
    try:
        kind = np.dtype(dtype)
    except TypeError:
        raise ReplayError(
            f"replay.dtype: expected a numpy type such as '<i4', got {dtype!r}"
        ) from None
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ReplayError(f"{path}: cannot be read: {error}") from error
    expected = shape[0] * shape[1] * kind.itemsize
    if len(raw) != expected:
        raise ReplayError(
            f"{path}: expected {tuple(shape)} {kind.str} = {expected} B, got {len(raw)} B: is it "
            "complete, are replay.shape and replay.dtype right?"
        )
    return np.frombuffer(raw, kind).reshape(shape)


def _read_with_fabio(path: Path) -> np.ndarray:
    try:
        import fabio  # an extra: only recordings of images need it
    except ImportError:
        raise ReplayError(
            f"{path}: reading this format needs fabio: pip install 'nucleate[images]'"
        ) from None
    try:
        with fabio.open(str(path)) as image:
            data: Any = image.data
            return np.array(data)
    # fabio raises OSError and its own errors for what it does not know, and whatever its parsers
    # trip over (ValueError, IndexError, KeyError ...) for a file that is cut off.
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ReplayError(f"{path}: cannot be read as an image: {why}") from error


def _image_files(path: Path, replay: StreamFormat) -> list[Path]:
    if replay.files is not None:
        files = sorted(path.glob(replay.files), key=natural_key)
        if not files:
            raise ReplayError(f"{path}: no file matches replay.files = {replay.files!r}")
        return files
    files = sorted((p for p in path.iterdir() if is_image(p)), key=natural_key)
    if not files:
        raise ReplayError(
            f"{path}: no images ({', '.join(IMAGE_SUFFIXES)}, maybe .gz) in this folder; if they "
            "lie deeper, set replay.files, e.g. '2D/SAXS/*.raw'"
        )
    return files


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image."""
    return path.name.lower().removesuffix(".gz").endswith(IMAGE_SUFFIXES)


def _poni_file(path: Path, replay: StreamFormat) -> Path:
    if replay.poni_file is not None:
        poni = path / replay.poni_file
        if not poni.is_file():
            raise ReplayError(f"{poni}: no such file (replay.poni_file)")
        return poni
    found = sorted(path.glob("*.poni"))
    if len(found) != 1:
        what = "none" if not found else ", ".join(p.name for p in found)
        raise ReplayError(
            f"{path}: expected one .poni file for the geometry, got {what}: set replay.poni_file"
        )
    return found[0]


def _counters(path: Path, files: list[Path], replay: StreamFormat) -> _Counters:
    exposure_s = np.full(len(files), replay.exposure_s or 1.0)
    ones = np.ones(len(files))
    if replay.counters is None:
        return _Counters(ones, ones, exposure_s)
    tables = [read_csv(p) for p in sorted(path.glob(replay.counters), key=natural_key)]
    if not tables:
        raise ReplayError(f"{path}: no file matches replay.counters = {replay.counters!r}")
    rows = [_row_of(file, i, tables, len(files)) for i, file in enumerate(files)]

    def column(name: str) -> np.ndarray:
        numbers = {table.path: table.numbers(name) for table, _ in rows}
        return np.array([numbers[table.path][row] for table, row in rows])

    if replay.exposure_column:
        exposure_s = column(replay.exposure_column)
        _all_positive(exposure_s, replay.exposure_column, files)
    monitor, transmission = ones, ones
    if replay.monitor_column:
        sums = column(replay.monitor_column)
        # The counter adds up over the exposure; the flux is what the frames are compared by.
        flux = sums / exposure_s
        lit = flux[flux > 0]
        if not lit.size:
            raise ReplayError(f"{replay.counters}: {replay.monitor_column}: no beam in any frame")
        monitor = np.maximum(flux, 0.0) / np.median(lit)
        if replay.transmitted_column and replay.empty_beam_ratio:
            _all_positive(sums, replay.monitor_column, files)
            ratio = column(replay.transmitted_column) / sums / replay.empty_beam_ratio
            _all_positive(ratio, replay.transmitted_column, files)
            if ratio.max() > 1.05:  # above 1 by more than a noisy diode: the ratio is wrong
                raise ReplayError(
                    f"{files[int(ratio.argmax())].name}: expected a transmission up to 1, got "
                    f"{ratio.max():.3g}: is replay.empty_beam_ratio right "
                    f"({replay.empty_beam_ratio})?"
                )
            transmission = np.minimum(ratio, 1.0)
    return _Counters(
        monitor,
        transmission,
        exposure_s,
        tuple(f"{table.path.name} row {row}" for table, row in rows),
        tuple(table.path for table in tables),
    )


def _all_positive(values: np.ndarray, column: str, files: list[Path]) -> None:
    bad = np.flatnonzero(~(values > 0))
    if bad.size:
        raise ReplayError(
            f"{files[bad[0]].name}: {column}: expected more than 0, got {values[bad[0]]:g}"
        )


def _row_of(file: Path, position: int, tables: list[CsvTable], images: int) -> tuple[CsvTable, int]:
    """Which counter row belongs to an image: see ``StreamFormat.counters``."""
    if len(tables) == 1:
        table, row = tables[0], position
        if len(table.rows) != images:
            raise ReplayError(
                f"{table.path}: expected a row for each of {images} images, got {len(table.rows)}"
            )
        return table, row
    owners = [t for t in tables if t.path.stem in file.name]
    if not owners:
        raise ReplayError(
            f"{file.name}: none of {len(tables)} counter files has a name that is part of this one"
        )
    table = max(owners, key=lambda t: len(t.path.stem))
    stem = file.name.removesuffix(".gz").rsplit(".", 1)[0]
    match = re.search(r"(\d+)$", stem)
    row = int(match[1]) if match else 0
    if row >= len(table.rows):
        raise ReplayError(
            f"{table.path}: expected row {row} for {file.name}, got {len(table.rows)} row(s)"
        )
    return table, row
