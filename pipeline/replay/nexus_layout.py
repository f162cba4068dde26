"""Where an HDF5 file keeps the images of a detector, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the filters that detectors compress with)
import numpy as np

from pipeline.config.replay import StreamFormat
from pipeline.replay.recording import ReplayError

#: Groups deeper than this are not searched: NXdetector is at depth 3, its modules at 4.
_DEPTH = 6


@dataclass(frozen=True, slots=True)
class Part:
    """Images ``first`` to ``first`` + ``count`` - 1 of the recording lie in one dataset."""

    dataset: str
    first: int
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where things are in a file."""

    parts: tuple[Part, ...]
    shape: tuple[int, int]
    dtype: np.dtype
    entry: str
    detector: str | None
    inputs: tuple[Path, ...]

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading, or one line that says why not."""
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise ReplayError(f"{path}: no such file") from None
    except OSError as error:
        text = str(error)
        if "unable to lock" in text or "already open for" in text:
            raise ReplayError(
                f"{path}: is still being written: replay it when its writer has closed it (if the "
                "writer died: h5clear -s)"
            ) from error
        if "truncated file" in text:
            raise ReplayError(
                f"{path}: is cut off ({path.stat().st_size} B are there, its header says more): "
                "copy it again"
            ) from error
        raise ReplayError(f"{path}: expected an HDF5 file: {text}") from error
    with file:
        yield file


def find_layout(file: h5py.File, path: Path, replay: StreamFormat) -> Layout:
    """Find the images, and check that all of them are there and alike."""
    entry = _entry_of(file)
    if replay.dataset is not None:
        node = file.get(replay.dataset)
        if not isinstance(node, h5py.Dataset):
            raise ReplayError(f"{path}: no dataset {replay.dataset} (replay.dataset)")
        names = [str(node.name)]
    else:
        names = _master_datasets(file, entry, path) or _find_images(file, path)
    parts, first, inputs = [], 0, [path]
    shape: tuple[int, int] | None = None
    dtype: np.dtype | None = None
    for name in names:
        dataset = file[name]
        assert isinstance(dataset, h5py.Dataset)
        count, this = _image_shape(dataset, path)
        if shape is not None and (this, dataset.dtype) != (shape, dtype):
            raise ReplayError(
                f"{path}:{name}: expected images of {shape} {dtype}, got {this} {dataset.dtype}"
            )
        shape, dtype = this, dataset.dtype
        parts.append(Part(name, first, count))
        first += count
        inputs += _sources(file, name, path)
    if shape is None or dtype is None or not first:
        raise ReplayError(f"{path}: expected images, the datasets {names} hold none")
    return Layout(
        tuple(parts),
        shape,
        dtype,
        str(entry.name),
        _detector_of(file, names[0], entry),
        tuple(dict.fromkeys(inputs)),
    )


def _entry_of(file: h5py.File) -> h5py.Group:
    """The NXentry: by class, else the group ``entry``, else the whole file."""
    groups = [node for node in file.values() if isinstance(node, h5py.Group)]
    for group in groups:
        if _class_of(group) == "NXentry":
            return group
    entry = file.get("entry")
    return entry if isinstance(entry, h5py.Group) else file


def _class_of(group: h5py.Group) -> str:
    value: Any = group.attrs.get("NX_class", "")
    return value.decode() if isinstance(value, bytes) else str(value)


def _master_datasets(file: h5py.File, entry: h5py.Group, path: Path) -> list[str]:
    """``data_000001`` and its followers of an EIGER master."""
    group = entry.get("data")
    if not isinstance(group, h5py.Group):
        return []
    names = sorted(name for name in map(str, group) if re.fullmatch(r"data_\d+", name))
    for name in names:
        if group.get(name) is None:
            link = group.get(name, getlink=True)
            target = getattr(link, "filename", "another file")
            raise ReplayError(
                f"{path}: {group.name}/{name} links to {target}, which is not beside it or is "
                "damaged: copy the data files together with the master"
            )
    return [f"{group.name}/{name}" for name in names]


def _find_images(file: h5py.File, path: Path) -> list[str]:
    """The one set of images: of an NXdetector, else of a dataset called ``data``."""
    detectors: dict[Any, str] = {}
    others: dict[Any, str] = {}
    pending: list[tuple[h5py.Group, int]] = [(file, 0)]
    seen = set()
    while pending:
        group, depth = pending.pop(0)
        if group.id in seen or depth > _DEPTH:
            continue
        seen.add(group.id)
        for name in map(str, group):
            node = group.get(name)
            if isinstance(node, h5py.Group):
                pending.append((node, depth + 1))
            elif isinstance(node, h5py.Dataset) and name == "data" and _is_images(node):
                of_detector = _class_of(group) == "NXdetector"
                (detectors if of_detector else others)[node.id] = str(node.name)
    found = list((detectors or others).values())
    if len(found) == 1:
        return found
    if not found:
        raise ReplayError(
            f"{path}: no images: looked for entry/data/data_000001, for `data` of two or more "
            "dimensions under an NXdetector, and for any such `data`; name it in replay.dataset"
        )
    raise ReplayError(
        f"{path}: {len(found)} sets of images, {', '.join(found)}: choose with replay.dataset"
    )


def _is_images(node: h5py.Dataset) -> bool:
    return node.dtype.kind in "iuf" and node.ndim >= 2 and min(node.shape[-2:]) > 1


def _image_shape(dataset: h5py.Dataset, path: Path) -> tuple[int, tuple[int, int]]:
    """Number of images and their shape, of (ny, nx), (n, ny, nx) or (1, ..., n, ny, nx)."""
    shape = dataset.shape
    if len(shape) < 2 or dataset.dtype.kind not in "iufb":
        raise ReplayError(f"{path}:{dataset.name}: expected images, got {shape} {dataset.dtype}")
    leading = shape[:-2]
    if sum(length != 1 for length in leading) > 1:
        raise ReplayError(
            f"{path}:{dataset.name}: expected (frames, rows, columns), got {shape}: a scan of "
            "several axes is not a time series"
        )
    return int(np.prod(leading, dtype=int)), (shape[-2], shape[-1])


def _sources(file: h5py.File, name: str, path: Path) -> list[Path]:
    """Other files that a dataset's values lie in; all must be there.

    HDF5 fills the part of a virtual dataset whose file is absent with zeros, silently.
    """
    dataset = file[name]
    assert isinstance(dataset, h5py.Dataset)
    names = {dataset.file.filename}
    if dataset.is_virtual:
        here = Path(dataset.file.filename).parent
        names |= {str(here / s.file_name) for s in dataset.virtual_sources() if s.file_name != "."}
    files = sorted(Path(n) for n in names if Path(n).resolve() != path.resolve())
    for source in files:
        if not source.is_file():
            raise ReplayError(f"{path}:{name}: its data file {source} is missing")
    return files


def _detector_of(file: h5py.File, name: str, entry: h5py.Group) -> str | None:
    parent = file[name].parent
    if isinstance(parent, h5py.Group) and _class_of(parent) == "NXdetector":
        return str(parent.name)
    instrument = entry.get("instrument")
    if not isinstance(instrument, h5py.Group):
        return None
    for child in ("detector", *instrument):
        node = instrument.get(child)
        if isinstance(node, h5py.Group) and (
            _class_of(node) == "NXdetector" or child == "detector"
        ):
            return str(node.name)
    return None
