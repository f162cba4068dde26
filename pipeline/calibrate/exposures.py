"""One frame out of whatever file, with what the file knows of its exposure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config.replay import ReplayFormat
from pipeline.messages import ImageFrame, frozen_array
from pipeline.reduce.corrections.images import read_npy
from pipeline.reduce.corrections.mask import read_mask
from pipeline.reduce.errors import InputError
from pipeline.reduce.integrator import valid_below
from pipeline.replay import ReplayError, StreamSource, open_recording
from pipeline.replay.images import read_image
from pipeline.replay.recording import as_unsigned

_HDF5_SUFFIXES = (".h5", ".hdf", ".hdf5", ".nxs", ".nx5", ".nexus")


@dataclass(frozen=True, eq=False)
class Exposure:
    """One frame of an area detector.

    Attributes
    ----------
    name
        What to call it in an error.
    image
        (rows, columns) of counts.
    masked
        (rows, columns) bool, True = unusable as the file or a mask says.
    exposure_s, monitor, transmission
        As in `pipeline.messages.ImageFrame`; None = the file does not say.
    poni
        Text of the geometry that came with it, if any.
    """

    name: str
    image: np.ndarray
    masked: np.ndarray
    exposure_s: float | None = None
    monitor: float | None = None
    transmission: float | None = None
    poni: str | None = None

    def unusable(self) -> np.ndarray:
        """(rows, columns) bool: masked, not finite, or a mark instead of a count."""
        return (
            self.masked | ~np.isfinite(self.image) | (self.image >= valid_below(self.image.dtype))
        )


def read_exposure(
    path: str | Path,
    *,
    frame: int = 0,
    stream: str | None = None,
    dataset: str | None = None,
    shape: tuple[int, int] | None = None,
    dtype: str | None = None,
    mask: str | Path | None = None,
) -> Exposure:
    """Read one frame.

    Parameters
    ----------
    path
        A recording of ours (folder or file), NeXus or other HDF5, ``.npy``, headerless ``.raw``,
        or an image that fabio reads; gzipped or not.
    frame
        Which one, where the file has several.
    stream
        Which one of a recording with several area detectors.
    dataset
        Path of the images in an HDF5 file that holds several sets.
    shape, dtype
        Of headerless images.
    mask
        Extra mask, non-zero = unusable.

    Raises
    ------
    InputError
        If there is no such frame, or it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: expected a frame, got no such file")
    try:
        if path.is_dir() or path.suffix.lower() in _HDF5_SUFFIXES:
            found = _from_recording(path, frame, stream, dataset)
        else:
            found = _from_image(path, frame, shape, dtype)
    except ReplayError as error:
        raise InputError(_as_options(str(error))) from error
    found = dataclasses.replace(found, image=_as_reduced(found.image, found.name))
    if mask is None:
        return found
    masked = found.masked | read_mask(mask, found.image.shape)
    return dataclasses.replace(found, masked=masked)


def _as_reduced(image: np.ndarray, name: str) -> np.ndarray:
    """The image in a type that the reduction takes: floats have 4 or 8 bytes."""
    if image.dtype.kind not in "iuf":
        raise InputError(f"{name}: expected an image of real numbers, got {image.dtype}")
    if image.dtype.kind == "f" and image.dtype.itemsize not in (4, 8):
        return frozen_array(image, np.float32 if image.dtype.itemsize == 2 else np.float64)
    return image


def _as_options(text: str) -> str:
    """Settings of a replay, in an error of its readers, as options of a command."""
    for name in ("shape", "dtype", "dataset", "stream"):
        text = text.replace(f"replay.{name}", f"--{name}")
    return text


def _from_image(
    path: Path, frame: int, shape: tuple[int, int] | None, dtype: str | None
) -> Exposure:
    if frame != 0:
        raise InputError(f"{path}: expected frame 0 of a file with one image, got {frame}")
    if path.suffix.lower() == ".npy":
        image = read_npy(path, "an image")
        if image.ndim != 2 or image.dtype.kind not in "iuf":
            raise InputError(
                f"{path}: expected an image of two axes, got {image.shape} {image.dtype}"
            )
        if image.dtype.kind == "i":
            image = as_unsigned(image, str(path))
    else:
        image = read_image(path, shape, dtype)
    return Exposure(str(path), frozen_array(image), np.zeros(image.shape, np.bool_))


def _from_recording(path: Path, frame: int, stream: str | None, dataset: str | None) -> Exposure:
    recording = open_recording(path, ReplayFormat(dataset=dataset))
    try:
        source = _area_detector(path, recording.streams, stream)
        if not 0 <= frame < source.frame_count:
            raise InputError(
                f"{path}: expected a frame from 0 to {source.frame_count - 1}, got {frame}"
            )
        for found in source.frames():
            if found.frame == frame and isinstance(found, ImageFrame):
                break
        else:
            raise InputError(f"{path}: expected frame {frame}, got none with that number")
    finally:
        recording.close()
    start = source.start
    masked = start.arrays.get("pixel_mask", np.zeros(found.image.shape)) != 0
    # Other files tell the flux relative to themselves, if at all.
    own = recording.format == "recording"
    measured = own and start.metadata.get("transmission") != "not known: 1"
    return Exposure(
        f"{path} frame {frame}",
        found.image,
        masked,
        found.exposure_s,
        found.monitor if own else None,
        found.transmission if measured else None,
        start.metadata.get("poni"),
    )


def _area_detector(path: Path, streams: object, wanted: str | None) -> StreamSource:
    assert isinstance(streams, dict)
    images = {name: source for name, source in streams.items() if source.start.kind == "image"}
    if wanted is not None:
        images = {name: source for name, source in images.items() if name == wanted}
    if len(images) != 1:
        names = ", ".join(images) or "none"
        raise InputError(f"{path}: expected one area detector, got {names}: name it by --stream")
    return next(iter(images.values()))
