"""What the frames of an area detector are reduced with: geometry, masks, flat field, dark."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from pipeline.config.reduce import AreaReduction
from pipeline.kernels.detector_geometry import grid_q_chi, rotation
from pipeline.messages import BadFrameError, ImageFrame, PackedImageFrame, StreamStart
from pipeline.reduce.corrections.dark import read_dark
from pipeline.reduce.corrections.flat import read_flat
from pipeline.reduce.corrections.mask import read_mask
from pipeline.reduce.corrections.normalisation import setting_or
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import (
    Geometry,
    check_on_detector,
    corner_grid_m,
    parse_poni,
    read_geometry,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AreaInputs:
    """All that does not change from frame to frame.

    Attributes
    ----------
    geometry
        Of the detector.
    shape, dtype
        Of a frame.
    masked
        (rows, columns) bool, True = never used: the detector's own mask, the mask file's, and all
        that is outside of the sectors.
    flat, dark
        (rows, columns) or None.
    saturation
        Pixels at or above are not used; None = not known.
    """

    geometry: Geometry
    shape: tuple[int, int]
    dtype: np.dtype
    masked: np.ndarray
    flat: np.ndarray | None
    dark: np.ndarray | None
    saturation: float | None

    def check(self, frame: ImageFrame | PackedImageFrame) -> np.dtype:
        """Type of a frame's pixels; `BadFrameError` if the frame is not as was announced."""
        packed = isinstance(frame, PackedImageFrame)
        shape = frame.shape if packed else frame.image.shape
        dtype = np.dtype(frame.dtype if packed else frame.image.dtype)
        if (shape, dtype) != (self.shape, self.dtype):
            raise BadFrameError(
                f"{frame.stream} frame {frame.frame}: expected {self.shape} {self.dtype.str}, got "
                f"{shape} {dtype.str}"
            )
        return dtype


def require_valid(intensity: np.ndarray, where: str) -> None:
    """Raise `BadFrameError` if no bin or cell of a frame has a value."""
    if np.isnan(intensity).all():
        raise BadFrameError(
            f"{where}: expected valid pixels, got none: all that are not masked are saturated "
            "or marked as invalid"
        )


def read_inputs(settings: AreaReduction, stream: StreamStart) -> AreaInputs:
    """Read what the settings name and what the stream brings.

    Raises
    ------
    InputError
        If something cannot be used, or does not fit the frames.
    """
    if len(stream.shape) != 2:
        raise InputError(f"{stream.stream}: expected images of 2 axes, got {stream.shape}")
    shape = (int(stream.shape[0]), int(stream.shape[1]))
    dtype = np.dtype(stream.dtype)
    if dtype.kind not in "iuf" or (dtype.kind == "f" and dtype.itemsize not in (4, 8)):
        raise InputError(
            f"{stream.stream}: expected images of integers or of floats of 4 or 8 bytes, got "
            f"{dtype}"
        )
    geometry = _geometry(settings, stream)
    if (note := check_on_detector(geometry, shape)) is not None:
        _log.warning("%s: %s", stream.stream, note)
    return AreaInputs(
        geometry=geometry,
        shape=shape,
        dtype=dtype,
        masked=_masked(settings, stream, geometry, shape),
        flat=None if settings.flat_file is None else read_flat(settings.flat_file, shape),
        dark=None if settings.dark_file is None else read_dark(settings.dark_file, shape),
        saturation=setting_or(settings.saturation_counts, stream.metadata, "saturation"),
    )


def _geometry(settings: AreaReduction, stream: StreamStart) -> Geometry:
    if settings.poni_file is not None:
        return read_geometry(settings.poni_file)
    poni = stream.metadata.get("poni")
    if not poni:
        raise InputError(
            f"{stream.stream}: expected a geometry, got none with the stream: set "
            f"{stream.stream}.reduce.poni_file"
        )
    return parse_poni(str(poni), f"{stream.stream}: geometry of the stream")


def _masked(
    settings: AreaReduction, stream: StreamStart, geometry: Geometry, shape: tuple[int, int]
) -> np.ndarray:
    masked = np.zeros(shape, np.bool_)
    if "pixel_mask" in stream.arrays:
        pixel_mask = stream.arrays["pixel_mask"]
        if pixel_mask.shape != shape:
            raise InputError(
                f"{stream.stream}: expected a pixel_mask of {shape}, got {pixel_mask.shape}"
            )
        masked |= pixel_mask != 0
    if settings.mask_file is not None:
        masked |= read_mask(settings.mask_file, shape)
    if settings.sectors_deg:
        masked |= ~in_sectors(geometry, shape, settings.sectors_deg)
        if masked.all():
            raise InputError(
                "expected usable pixels in sectors_deg "
                f"{[list(sector) for sector in settings.sectors_deg]}, got none: the detector sees "
                f"{_seen_azimuths(geometry, shape)}"
            )
    return masked


def _seen_azimuths(geometry: Geometry, shape: tuple[int, int]) -> str:
    """The azimuths that a detector sees, for people: steps of 10 degrees, joined."""
    seen = [
        k for k in range(-18, 18) if in_sectors(geometry, shape, ((10 * k, 10 * k + 10),)).any()
    ]
    ends = [k for k in seen if k + 1 not in seen]
    starts = [k for k in seen if k - 1 not in seen]
    parts = (f"{10 * a} to {10 * b + 10}" for a, b in zip(starts, ends, strict=True))
    return ", ".join(parts) + " degrees"


def in_sectors(
    geometry: Geometry, shape: tuple[int, int], sectors_deg: tuple[tuple[float, float], ...]
) -> np.ndarray:
    """Whether the middle of a pixel lies in one of some intervals of azimuth.

    Parameters
    ----------
    geometry
        Of the detector.
    shape
        Rows and columns of a frame.
    sectors_deg
        Each from, to, at most 360 apart.

    Returns
    -------
    inside
        (rows, columns) bool.
    """
    middles = [
        0.25 * (corners[:-1, :-1] + corners[1:, :-1] + corners[:-1, 1:] + corners[1:, 1:])
        for corners in corner_grid_m(geometry, shape)
    ]
    _, chi_rad = grid_q_chi(
        middles[0],
        middles[1],
        geometry.distance_m,
        (geometry.poni1_m, geometry.poni2_m),
        rotation(geometry.rot1_rad, geometry.rot2_rad, geometry.rot3_rad),
        geometry.wavelength_nm,
        (0.0, 0.0),
    )
    chi_deg = np.degrees(chi_rad.astype(np.float64))
    inside = np.zeros(shape, np.bool_)
    for start, stop in sectors_deg:
        # A full turn must not shrink to nothing.
        width = stop - start
        inside |= (width >= 360.0) | (np.mod(chi_deg - start, 360.0) <= width)
    return inside
