"""What a detector sends: one start, frames numbered from 0, one end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Kind = Literal["image", "counts", "absorbance", "curve"]


def frozen_array(values: Any, dtype: Any = None) -> np.ndarray:
    """A C-contiguous array that nobody can write to; copies only if it must."""
    array = np.ascontiguousarray(values, dtype=dtype)
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


@dataclass(frozen=True, slots=True, eq=False)
class StreamStart:
    """The first message of a stream: all that does not change from frame to frame.

    Attributes
    ----------
    stream
        Name of the stream: ``saxs`` or ``absorbance``.
    run
        Identifier of the run, the same in all its streams.
    kind
        ``image`` (area detector), ``counts`` (spectrometer), ``absorbance`` (a recorded spectrum,
        already reduced) or ``curve`` (a recorded I(q), already integrated).
    shape, dtype
        Of one frame's main array; ``dtype`` in numpy's form, e.g. ``<u4``.
    arrays
        Constant arrays by name. ``image``: ``pixel_mask`` (ny, nx), non-zero = unusable.
        ``counts``: ``wavelength_nm``, ``dark``, ``reference`` (n,).
        ``absorbance``: ``wavelength_nm`` (n,). ``curve``: ``q_per_nm`` (n,).
    metadata
        JSON-able facts: ``poni`` (text of a PONI file), ``saturation``, ``source`` and so on.
        ``derived_from`` names the tables that a stream is made of which no detector sends.
    """

    stream: str
    run: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ImageFrame:
    """One exposure of an area detector.

    ``image`` is (ny, nx), unsigned; ``monitor`` the mean incident flux during the exposure relative
    to the nominal flux (1.0 = nominal, 0 = no beam); ``transmission`` of the sample (0 to 1).
    """

    stream: str
    frame: int
    time_ns: int
    exposure_s: float
    image: np.ndarray
    monitor: float = 1.0
    transmission: float = 1.0

    @property
    def time_s(self) -> float:
        return self.time_ns / 1e9


@dataclass(frozen=True, slots=True, eq=False)
class PackedImageFrame:
    """An `ImageFrame` as it travelled: for a stage that reads compressed images itself.

    ``payload`` is the image in bslz4 form (see `pipeline.bus.bslz4`), of ``shape`` and ``dtype``;
    its lengths were checked, its content was not. The other fields are those of an `ImageFrame`. A
    stage that names only `ImageFrame` among what it consumes never sees this.
    """

    stream: str
    frame: int
    time_ns: int
    exposure_s: float
    payload: bytes
    shape: tuple[int, int]
    dtype: str
    monitor: float = 1.0
    transmission: float = 1.0

    @property
    def time_s(self) -> float:
        return self.time_ns / 1e9


@dataclass(frozen=True, slots=True, eq=False)
class SpectrumFrame:
    """One exposure of a spectrometer: raw ``counts`` or, for old records, ``absorbance`` (n,).

    Which of the two it is stands in the stream's ``kind``.
    """

    stream: str
    frame: int
    time_ns: int
    exposure_s: float
    values: np.ndarray

    @property
    def time_s(self) -> float:
        return self.time_ns / 1e9


@dataclass(frozen=True, slots=True, eq=False)
class CurveFrame:
    """An I(q) that somebody integrated before: intensity and, if known, sigma (NaN if not)."""

    stream: str
    frame: int
    time_ns: int
    exposure_s: float
    intensity: np.ndarray
    sigma: np.ndarray

    @property
    def time_s(self) -> float:
        return self.time_ns / 1e9


Frame = ImageFrame | PackedImageFrame | SpectrumFrame | CurveFrame


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The last message: how many frame numbers were given out (0 to ``frames`` - 1)."""

    stream: str
    run: str
    frames: int
    reason: str = "done"
