"""NeXus and other HDF5 files with the counts of an area detector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.config.replay import StreamFormat
from pipeline.messages import ImageFrame, StreamStart, frozen_array
from pipeline.replay.images import read_mask
from pipeline.replay.nexus_geometry import find, poni_text, scalar, seconds_per_unit
from pipeline.replay.nexus_layout import Layout, find_layout, open_file
from pipeline.replay.recording import (
    Recording,
    ReplayError,
    as_unsigned,
    image_stream,
    seconds_to_ns,
)

#: Times above this (3 years) count from an epoch, not from the start of a run.
_EPOCH_S = 1e8

_TIME_NAMES = (
    "time_ns",
    "timestamps",
    "timestamp",
    "NDArrayTimeStamp",
    "frame_start_time",
    "time_s",
    "time",
    "elapsed_time",
)
_EXPOSURE_NAMES = ("count_time", "exposure_time", "exposure_s", "AcquireTime")


def open_nexus(path: Path, replay: StreamFormat) -> Recording:
    """Read an EIGER master file, an areaDetector file, or any NXdetector with images.

    Counts pass unchanged, the mark 2^32 - 1 of pixels without a value included; signed counts
    become unsigned, see `as_unsigned`. Frames are read one at a time.

    Times come from the first that is there: an array ``time_ns``, ``timestamps`` and its like (end
    of each exposure; those of an epoch are counted from the start of the first exposure), a
    ``frame_time`` (the period), or ``replay.period_s``.

    Parameters
    ----------
    path
        The file.
    replay
        ``dataset`` if the file holds several sets of images; ``poni_file`` and ``mask_file`` go
        before what the file says.
    """
    with open_file(path) as file:
        layout = find_layout(file, path, replay)
        entry = file[layout.entry]
        detector = file[layout.detector] if layout.detector else None
        assert isinstance(entry, h5py.Group)
        assert detector is None or isinstance(detector, h5py.Group)
        places = _places(entry, detector)
        exposure_s = _exposures(entry, places, layout.count, replay, path)
        times_ns = _times_ns(places, exposure_s, replay, path)
        monitor = _monitor(entry, exposure_s)
        transmission = scalar(find([entry], "sample/transmission"))
        arrays, extra = _mask(path, places, layout.shape, replay)
        metadata: dict[str, Any] = {"source": path.name, **_geometry(path, entry, detector, replay)}
        saturation = scalar(find(places, "saturation_value"))
    unsigned = layout.dtype if layout.dtype.kind == "u" else np.dtype(_unsigned(layout.dtype))
    limit = int(np.iinfo(unsigned).max)
    # NeXus gives the largest valid value; the stream's is the smallest that is not.
    metadata["saturation"] = limit if saturation is None else min(int(saturation) + 1, limit)
    stream = replay.stream or "saxs"
    start = StreamStart(
        stream=stream,
        run=path.stem,
        kind="image",
        shape=layout.shape,
        dtype=unsigned.newbyteorder("<").str,
        arrays=arrays,
        metadata=metadata,
    )
    if transmission is None or not 0 < transmission <= 1:
        transmission = 1.0

    def frames() -> Iterator[ImageFrame]:
        with open_file(path) as file:
            for frame, image in _images(file, layout, stream):
                yield ImageFrame(
                    stream=stream,
                    frame=frame,
                    time_ns=int(times_ns[frame]),
                    exposure_s=float(exposure_s[frame]),
                    image=frozen_array(image, start.dtype),
                    monitor=float(monitor[frame]),
                    transmission=transmission,
                )

    return Recording(
        name=path.stem,
        uri=str(path),
        format="nexus",
        streams={stream: image_stream(start, layout.count, frames)},
        inputs=(*layout.inputs, *extra),
    )


def _places(entry: h5py.Group, detector: h5py.Group | None) -> list[h5py.Group]:
    """Groups in which facts about frames are sought, nearest first."""
    named = [
        *([detector, detector.get("detectorSpecific")] if detector is not None else []),
        *(entry.get(n) for n in ("data", "instrument/NDAttributes", "instrument", "Metadata")),
        entry,
    ]
    return [group for group in named if isinstance(group, h5py.Group)]


def _series(node: h5py.Dataset | None, count: int) -> np.ndarray | None:
    """Values of a dataset with one number a frame."""
    if node is None or node.dtype.kind not in "iuf" or node.size != count:
        return None
    return np.ravel(node[()])


def _exposures(
    entry: h5py.Group, places: list[h5py.Group], count: int, replay: StreamFormat, path: Path
) -> np.ndarray:
    node = find(places, *_EXPOSURE_NAMES)
    preset = find([entry], "control/preset")
    if node is not None:
        factor = seconds_per_unit(node)
    elif preset is not None and b"timer" in np.ravel(entry["control/mode"][()])[0]:  # type: ignore[index]
        node, factor = preset, seconds_per_unit(preset)
    elif replay.exposure_s is not None:
        return np.full(count, replay.exposure_s)
    else:
        return np.ones(count)
    values = _series(node, count)
    exposure = np.full(count, scalar(node) or 0.0) if values is None else values.astype(float)
    exposure = exposure * factor
    if not np.all(np.isfinite(exposure) & (exposure > 0)):
        raise ReplayError(f"{path}:{node.name}: expected exposures above 0 s, got {exposure.min()}")
    return exposure


def _times_ns(
    places: list[h5py.Group], exposure_s: np.ndarray, replay: StreamFormat, path: Path
) -> np.ndarray:
    """End of each exposure, ns after the run's zero."""
    count = len(exposure_s)
    for name in _TIME_NAMES:
        node = find(places, name)
        values = _series(node, count)
        if node is None or values is None:
            continue
        if name == "time_ns" and values.dtype.kind in "iu":
            times_ns = values.astype(np.int64)
            if times_ns[0] * 1e-9 > _EPOCH_S:
                times_ns = times_ns - times_ns[0] + seconds_to_ns(float(exposure_s[0]))
        else:
            seconds = values.astype(float) * seconds_per_unit(node)
            if seconds[0] > _EPOCH_S:
                seconds = seconds - seconds[0] + exposure_s[0]
            if not np.all(np.isfinite(seconds)):
                raise ReplayError(f"{path}:{node.name}: expected times, got NaN or infinity")
            times_ns = np.array([seconds_to_ns(s) for s in seconds], dtype=np.int64)
        falling = np.flatnonzero(np.diff(times_ns) < 0)
        if falling.size:
            at = int(falling[0]) + 1
            raise ReplayError(
                f"{path}:{node.name}: expected times that rise, got {times_ns[at] * 1e-9:.9g} s in "
                f"frame {at} after {times_ns[at - 1] * 1e-9:.9g} s"
            )
        return times_ns
    node = find(places, "frame_time", "AcquirePeriod")
    period_s = scalar(node)
    period_s = (
        replay.period_s if not period_s or node is None else period_s * seconds_per_unit(node)
    )
    return np.array(
        [seconds_to_ns(i * period_s + float(exposure_s[i])) for i in range(count)], dtype=np.int64
    )


def _monitor(entry: h5py.Group, exposure_s: np.ndarray) -> np.ndarray:
    """Flux of each frame over the median one; 1 where it was not recorded frame by frame."""
    count = len(exposure_s)
    values = _series(find([entry], "control/data", "control/integral"), count)
    if values is None or count == 1:
        return np.ones(count)
    flux = np.maximum(values.astype(float), 0.0) / exposure_s
    lit = flux[flux > 0]
    return flux / np.median(lit) if lit.size else np.ones(count)


def _mask(
    path: Path, places: list[h5py.Group], shape: tuple[int, int], replay: StreamFormat
) -> tuple[dict[str, np.ndarray], list[Path]]:
    extra: list[Path] = []
    if replay.mask_file is not None:
        extra = [path.parent / replay.mask_file]
        mask, where = read_mask(extra[0]), str(extra[0])
    else:
        node = find(places, "pixel_mask", "mask")
        if node is None:
            return {}, []
        mask, where = np.squeeze(node[()]), f"{path}:{node.name}"
    if mask.shape != shape:
        raise ReplayError(f"{where}: expected a mask of {shape} pixels, got {mask.shape}")
    return {"pixel_mask": frozen_array(mask != 0, np.uint8)}, extra


def _geometry(
    path: Path, entry: h5py.Group, detector: h5py.Group | None, replay: StreamFormat
) -> dict[str, str]:
    if replay.poni_file is not None:
        poni = path.parent / replay.poni_file
        if not poni.is_file():
            raise ReplayError(f"{poni}: no such file (replay.poni_file)")
        return {"poni": poni.read_text(encoding="utf-8"), "geometry": poni.name}
    text, missing = poni_text(entry, detector)
    if text is None:
        return {"geometry": f"not in the file: {', '.join(missing)}"}
    return {"poni": text, "geometry": "metadata of the file, without tilts"}


def _unsigned(dtype: np.dtype) -> str:
    return {"i": f"u{dtype.itemsize}", "b": "u1"}.get(dtype.kind, "u4")


def _images(file: h5py.File, layout: Layout, stream: str) -> Iterator[tuple[int, np.ndarray]]:
    for part in layout.parts:
        dataset = file[part.dataset]
        assert isinstance(dataset, h5py.Dataset)
        for i in range(part.count):
            frame = part.first + i
            leading = dataset.shape[:-2]
            try:
                image = dataset[np.unravel_index(i, leading)] if leading else dataset[()]
            except OSError as error:
                raise ReplayError(
                    f"{stream} frame {frame} ({file.filename}:{part.dataset}[{i}]) cannot be read: "
                    f"{error}"
                ) from error
            yield frame, as_unsigned(image, f"{stream} frame {frame}")
