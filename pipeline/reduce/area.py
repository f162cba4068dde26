"""What the stages of both area detectors do: frames, or curves of somebody else, to I(q)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from pipeline.config.reduce import AreaReduction
from pipeline.kernels.noise import FEWEST_VALUES, local_scatter
from pipeline.messages import (
    BadFrameError,
    Curve,
    CurveFrame,
    ImageFrame,
    PackedImageFrame,
    Result,
    RunStart,
    StreamStart,
    frozen_array,
)
from pipeline.reduce.corrections.background import Background
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.images import ImageReducer
from pipeline.reduce.inputs import read_inputs
from pipeline.reduce.integrator import packed_zeros


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
    consumes: ClassVar[tuple[type, ...]] = (PackedImageFrame, ImageFrame, CurveFrame)
    produces: ClassVar[tuple[type[Result], ...]]

    def __init__(self, settings: AreaReduction) -> None:
        self.settings = settings
        self._stream: StreamStart | None = None
        self._frames: ImageReducer | None = None
        self._q_per_nm = np.empty(0)
        self._q_resolution_per_nm = np.empty(0)
        self._pixels = np.empty(0)
        self._background: Background | None = None
        self._absolute = False

    def warm_up(self) -> None:
        """Compile every kernel that these settings need, or load it from the disk's cache."""
        poni = Geometry(1.0, 4e-3, 4e-3, 0.1, 1e-3, 1e-3, shape=(8, 8)).to_poni()
        for dtype in ("<u2", "<u4"):
            image = frozen_array(np.ones((8, 8)), dtype)
            stream = StreamStart("saxs", "", "image", (8, 8), dtype, metadata={"poni": poni})
            settings = self.settings
            stage = type(self)(
                AreaReduction(
                    bins=10,
                    error_model=settings.error_model,
                    rejection=settings.rejection,
                    dead_time=settings.dead_time,
                )
            )
            stage.reset(RunStart(run="", stream=stream))
            list(stage.process(ImageFrame("saxs", 0, 1, 1.0, image)))
            payload = packed_zeros(image.nbytes)
            list(stage.process(PackedImageFrame("saxs", 0, 1, 1.0, payload, (8, 8), dtype)))

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
            # Of curves that do not say, nobody knows.
            absolute = self._absolute if stream.kind == "image" else stream.metadata.get("absolute")
            self._background = Background(self.settings, self._q_per_nm, absolute)

    def process(self, message: ImageFrame | PackedImageFrame | CurveFrame, /) -> Iterable[Curve]:
        """The curve of one frame.

        Raises
        ------
        BadFrameError
            If there was no beam, or the frame does not fit its stream.
        """
        if self._stream is None:
            raise RuntimeError(f"{self.name}: reset comes before the first frame")
        if isinstance(message, CurveFrame):
            intensity, sigma, estimated = self._reduce_curve(message)
        elif self._frames is None:
            raise BadFrameError(
                f"{message.stream} frame {message.frame}: expected a curve, got an image"
            )
        else:
            intensity, sigma = self._frames(message)
            estimated = False
        if self._background is not None:
            intensity, sigma = self._background.subtract(intensity, sigma)
        yield self.curve(
            frame=message.frame,
            time_s=message.time_s,
            q_per_nm=self._q_per_nm,
            intensity=frozen_array(intensity),
            sigma=frozen_array(sigma),
            absolute=self._absolute,
            sigma_estimated=estimated,
            q_resolution_per_nm=self._q_resolution_per_nm,
            pixels=self._pixels,
        )

    def _prepare_images(self, stream: StreamStart) -> None:
        inputs = read_inputs(self.settings, stream)
        self._frames = ImageReducer(self.settings, inputs, stream)
        self._q_per_nm = self._frames.q_per_nm
        self._q_resolution_per_nm = self._frames.q_resolution_per_nm
        self._pixels = self._frames.pixels
        self._absolute = self._frames.absolute

    def _prepare_curves(self, stream: StreamStart) -> None:
        q_per_nm = stream.arrays.get("q_per_nm")
        if q_per_nm is None or q_per_nm.ndim != 1 or q_per_nm.shape != tuple(stream.shape):
            got = None if q_per_nm is None else q_per_nm.shape
            raise InputError(f"{stream.stream}: expected q_per_nm of {stream.shape}, got {got}")
        q_per_nm = frozen_array(q_per_nm, np.float64)
        if not np.isfinite(q_per_nm).all() or (np.diff(q_per_nm) <= 0).any() or q_per_nm[0] < 0:
            raise InputError(f"{stream.stream}: expected rising, finite q_per_nm, got others")
        self._frames = None
        self._q_per_nm = q_per_nm
        resolution = stream.arrays.get("q_resolution_per_nm", np.empty(0))
        if resolution.shape not in ((0,), q_per_nm.shape):
            raise InputError(
                f"{stream.stream}: expected q_resolution_per_nm of {stream.shape}, got "
                f"{resolution.shape}"
            )
        self._q_resolution_per_nm = frozen_array(resolution, np.float64)
        self._pixels = np.empty(0)
        self._absolute = bool(stream.metadata.get("absolute", False))

    def _reduce_curve(self, frame: CurveFrame) -> tuple[np.ndarray, np.ndarray, bool]:
        """Intensity, sigma, and whether that had to be estimated at any point."""
        where = f"{frame.stream} frame {frame.frame}"
        if self._frames is not None:
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
        estimated = bool((unknown & np.isfinite(intensity)).any())
        if estimated:
            sigma[unknown] = _estimate(intensity, finite, where)[unknown]
        sigma[np.isnan(intensity)] = np.nan
        return intensity, sigma, estimated


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
