"""What the stages of both area detectors do: frames, or curves of somebody else, to I(q)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from pipeline.config.reduce import AreaReduction
from pipeline.kernels.noise import FEWEST_VALUES, local_scatter
from pipeline.messages import (
    BadFrameError,
    Curve,
    CurveFrame,
    ImageFrame,
    Result,
    RunStart,
    StreamStart,
    frozen_array,
)
from pipeline.reduce.files import InputError, interpolate_background, read_background, read_mask
from pipeline.reduce.geometry import Geometry, parse_poni, read_geometry
from pipeline.reduce.integrator import Integrator

# A transmission is the ratio of two counters, each good to a percent or two: an empty beam may well
# come out at 1.01. More than this is a wrong counter.
_HIGHEST_TRANSMISSION = 1.05


class ReduceArea:
    """I(q) with its error from each frame, in 1/cm where the scale is known.

    Images are integrated and divided by monitor, transmission, exposure and thickness (formula at
    ``absolute_scale`` in `pipeline.config.reduce.AreaReduction`). The error is that of counting
    statistics; those of monitor and transmission are common to all bins and not in it.

    Curves are handed on. Where they bring no error (NaN or not positive), it is estimated from the
    scatter of neighbouring points of the same curve about a smooth line
    (`pipeline.kernels.noise.local_scatter`), good to about 23 % a point and too small if somebody
    smoothed the curve.

    Parameters
    ----------
    settings
        Section ``saxs.reduce`` or ``waxs.reduce`` of a config.
    """

    name: ClassVar[str]
    curve: ClassVar[type[Curve]]
    consumes: ClassVar[tuple[type, ...]] = (ImageFrame, CurveFrame)
    produces: ClassVar[tuple[type[Result], ...]]

    def __init__(self, settings: AreaReduction) -> None:
        self.settings = settings
        self._stream: StreamStart | None = None
        self._integrator: Integrator | None = None
        self._q_per_nm = np.empty(0)
        self._background: tuple[np.ndarray, np.ndarray] | None = None
        self._saturation: float | None = None
        self._scale = 1.0
        self._absolute = False

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        poni = Geometry(1.0, 4e-3, 4e-3, 0.1, 1e-3, 1e-3, shape=(8, 8)).to_poni()
        for dtype in ("<u2", "<u4"):
            image = frozen_array(np.ones((8, 8)), dtype)
            stream = StreamStart("saxs", "", "image", (8, 8), dtype, metadata={"poni": poni})
            stage = type(self)(AreaReduction(bins=10))
            stage.reset(RunStart(run="", stream=stream))
            list(stage.process(ImageFrame("saxs", 0, 1, 1.0, image)))

    def reset(self, start: RunStart, /) -> None:
        """Prepare for a stream: geometry, mask, table of shares; compiles what is needed.

        Raises
        ------
        InputError
            If geometry, mask, background or q cannot be used.
        """
        stream = start.stream
        if stream.kind == "image":
            self._prepare_images(stream)
        elif stream.kind == "curve":
            self._prepare_curves(stream)
        else:
            raise InputError(
                f"{stream.stream}: expected a stream of images or curves, got {stream.kind}"
            )
        self._stream = stream
        self._background = None
        subtracted = stream.kind == "curve" and stream.metadata.get("background_subtracted")
        if self.settings.background_file is not None and not subtracted:
            background = read_background(self.settings.background_file)
            self._background = interpolate_background(self._q_per_nm, background)
            if np.isnan(self._background[0]).all():
                raise InputError(
                    f"{self.settings.background_file}: expected q between {self._q_per_nm[0]:g} "
                    f"and {self._q_per_nm[-1]:g} 1/nm, got {background[0][0]:g} to "
                    f"{background[0][-1]:g}"
                )

    def process(self, message: ImageFrame | CurveFrame, /) -> Iterable[Curve]:
        """The curve of one frame.

        Raises
        ------
        BadFrameError
            If there was no beam, or the frame does not fit its stream.
        """
        if self._stream is None:
            raise RuntimeError(f"{self.name}: reset comes before the first frame")
        if isinstance(message, ImageFrame):
            intensity, sigma = self._reduce_image(message)
        else:
            intensity, sigma = self._reduce_curve(message)
        if self._background is not None:
            value, variance = self._background
            intensity = intensity - value
            sigma = np.sqrt(sigma**2 + variance)
        yield self.curve(
            frame=message.frame,
            time_s=message.time_s,
            q_per_nm=self._q_per_nm,
            intensity=frozen_array(intensity),
            sigma=frozen_array(sigma),
            absolute=self._absolute,
        )

    def _prepare_images(self, stream: StreamStart) -> None:
        settings = self.settings
        if len(stream.shape) != 2:
            raise InputError(f"{stream.stream}: expected images of 2 axes, got {stream.shape}")
        shape = (int(stream.shape[0]), int(stream.shape[1]))
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
        self._integrator = Integrator(
            self._geometry(stream),
            shape,
            masked=masked,
            bins=settings.bins,
            q_range_per_nm=(settings.q_min_per_nm, settings.q_max_per_nm),
            solid_angle=settings.solid_angle,
            polarization_factor=settings.polarization_factor,
        )
        self._q_per_nm = self._integrator.q_per_nm
        self._saturation = _first(settings.saturation_counts, stream.metadata.get("saturation"))
        scale = _first(settings.absolute_scale, stream.metadata.get("absolute_scale"))
        thickness_cm = _first(settings.thickness_cm, stream.metadata.get("thickness_cm"))
        self._absolute = scale is not None and thickness_cm is not None
        self._scale = 1.0
        if scale is not None and thickness_cm is not None:
            self._scale = scale / thickness_cm
        # Compiled for this type of pixel now, not while frames come in.
        self._integrator(np.zeros(shape, np.dtype(stream.dtype)), self._saturation)

    def _geometry(self, stream: StreamStart) -> Geometry:
        if self.settings.poni_file is not None:
            return read_geometry(self.settings.poni_file)
        poni = stream.metadata.get("poni")
        if not poni:
            raise InputError(
                f"{stream.stream}: expected a geometry, got none with the stream: set "
                f"{stream.stream}.reduce.poni_file"
            )
        return parse_poni(str(poni), f"{stream.stream}: geometry of the stream")

    def _prepare_curves(self, stream: StreamStart) -> None:
        q_per_nm = stream.arrays.get("q_per_nm")
        if q_per_nm is None or q_per_nm.ndim != 1 or q_per_nm.shape != tuple(stream.shape):
            got = None if q_per_nm is None else q_per_nm.shape
            raise InputError(f"{stream.stream}: expected q_per_nm of {stream.shape}, got {got}")
        q_per_nm = frozen_array(q_per_nm, np.float64)
        if not np.isfinite(q_per_nm).all() or (np.diff(q_per_nm) <= 0).any() or q_per_nm[0] < 0:
            raise InputError(f"{stream.stream}: expected rising, finite q_per_nm, got others")
        self._integrator = None
        self._q_per_nm = q_per_nm
        self._absolute = bool(stream.metadata.get("absolute", False))
        self._scale = 1.0

    def _reduce_image(self, frame: ImageFrame) -> tuple[np.ndarray, np.ndarray]:
        assert self._stream is not None
        where = f"{frame.stream} frame {frame.frame}"
        if self._integrator is None:
            raise BadFrameError(f"{where}: expected a curve, got an image")
        image = frame.image
        expected = tuple(self._stream.shape), np.dtype(self._stream.dtype)
        if (image.shape, image.dtype) != expected:
            raise BadFrameError(
                f"{where}: expected {expected[0]} {expected[1].str}, got {image.shape} "
                f"{image.dtype.str}"
            )
        if not frame.monitor >= self.settings.monitor_min:
            raise BadFrameError(
                f"{where}: no beam: expected a monitor of at least {self.settings.monitor_min:g}, "
                f"got {frame.monitor:g}"
            )
        if not 0.0 < frame.transmission <= _HIGHEST_TRANSMISSION:
            raise BadFrameError(
                f"{where}: expected a transmission above 0, up to 1, got {frame.transmission:g}"
            )
        if not (math.isfinite(frame.exposure_s) and frame.exposure_s > 0.0):
            raise BadFrameError(
                f"{where}: expected an exposure above 0 s, got {frame.exposure_s:g}"
            )
        if not math.isfinite(frame.monitor):
            raise BadFrameError(f"{where}: expected a finite monitor, got {frame.monitor:g}")
        intensity, sigma, invalid = self._integrator(image, self._saturation)
        if np.isnan(intensity).all():
            raise BadFrameError(
                f"{where}: expected valid pixels, got none: {invalid} of {image.size} are "
                "saturated or marked as invalid, the others are masked"
            )
        factor = self._scale / (frame.monitor * frame.transmission * frame.exposure_s)
        return intensity * factor, sigma * factor

    def _reduce_curve(self, frame: CurveFrame) -> tuple[np.ndarray, np.ndarray]:
        where = f"{frame.stream} frame {frame.frame}"
        if self._integrator is not None:
            raise BadFrameError(f"{where}: expected an image, got a curve")
        expected = self._q_per_nm.shape
        if frame.intensity.shape != expected or frame.sigma.shape != expected:
            raise BadFrameError(
                f"{where}: expected intensity and sigma of {expected}, got "
                f"{frame.intensity.shape} and {frame.sigma.shape}"
            )
        intensity = frame.intensity.astype(np.float64)
        intensity[~np.isfinite(intensity)] = np.nan
        finite = int(np.isfinite(intensity).sum())
        if finite == 0:
            raise BadFrameError(f"{where}: expected an intensity, got none that is finite")
        sigma = frame.sigma.astype(np.float64)
        unknown = ~(np.isfinite(sigma) & (sigma > 0.0))
        if (unknown & np.isfinite(intensity)).any():
            sigma[unknown] = _estimate(intensity, finite, where)[unknown]
        sigma[np.isnan(intensity)] = np.nan
        return intensity, sigma


def _estimate(intensity: np.ndarray, finite: int, where: str) -> np.ndarray:
    """Errors of a curve that has none."""
    if finite < FEWEST_VALUES:
        raise BadFrameError(
            f"{where}: expected errors, or {FEWEST_VALUES} points to estimate them from, got "
            f"{finite}"
        )
    sigma = local_scatter(intensity)
    if not np.nanmax(sigma) > 0.0:
        raise BadFrameError(
            f"{where}: expected errors, or scatter to estimate them from, got a line without any"
        )
    return sigma


def _first(setting: float | None, streams_own: Any) -> float | None:
    """A setting counts before what the stream says; 0 in the stream means not known."""
    if setting is not None:
        return float(setting)
    return float(streams_own) if streams_own else None
