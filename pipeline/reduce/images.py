"""One frame of an area detector to I(q) and sigma, by the quick way or by the one ring by ring."""

from __future__ import annotations

import numpy as np

from pipeline.config.reduce import AreaReduction
from pipeline.kernels.pixel_splitting import split_pixels
from pipeline.messages import (
    BadFrameError,
    ImageFrame,
    PackedImageFrame,
    StreamStart,
    frozen_array,
)
from pipeline.reduce.corrections.normalisation import Normalisation
from pipeline.reduce.errors import InputError
from pipeline.reduce.inputs import AreaInputs, require_valid
from pipeline.reduce.integrator import (
    COUNTS_END,
    Corners,
    Integrator,
    flat_counts,
    unpacked_counts,
    valid_below,
)
from pipeline.reduce.resolution import q_resolution
from pipeline.reduce.ring import RingIntegrator


class ImageReducer:
    """Frames of one stream to I(q) and sigma, normalised.

    Counting statistics of all pixels are added up by `pipeline.reduce.integrator`. What needs each
    pixel by itself (scatter along the ring, rejection, dead time) goes by `pipeline.reduce.ring`.

    Parameters
    ----------
    settings
        Of the reduction.
    inputs
        From `pipeline.reduce.inputs.read_inputs`.
    stream
        Its start.

    Attributes
    ----------
    q_per_nm, q_resolution_per_nm, pixels
        (bins,) see `pipeline.messages.Curve`.
    absolute
        Whether intensities are in 1/cm.

    Raises
    ------
    InputError
        If no pixel is usable, or none lies in the range of q.
    """

    def __init__(self, settings: AreaReduction, inputs: AreaInputs, stream: StreamStart) -> None:
        self._inputs = inputs
        self._normalisation = Normalisation(settings, stream.metadata)
        self.absolute = self._normalisation.absolute
        self._integrator = Integrator(
            inputs.geometry,
            inputs.shape,
            settings,
            masked=inputs.masked,
            flat=inputs.flat,
            dark=inputs.dark,
            cached=True,
        )
        self.q_per_nm = self._integrator.q_per_nm
        self.pixels = self._integrator.pixels
        self.q_resolution_per_nm = frozen_array(
            q_resolution(
                inputs.geometry,
                self.q_per_nm,
                np.diff(self._integrator.binning.edges_per_nm),
                settings,
                self._normalisation.thickness_cm,
                inputs.shape,
            )
        )
        self._rings = self._ring_integrator(settings) if needs_rings(settings) else None
        # Compiled for this type of pixel now, not while frames come in.
        self._reduce(np.zeros(inputs.shape, inputs.dtype), 1.0)

    def __call__(self, frame: ImageFrame | PackedImageFrame) -> tuple[np.ndarray, np.ndarray]:
        """Intensity and one-sigma error of each bin, NaN where no valid pixel is.

        Raises
        ------
        BadFrameError
            If there was no beam, or the frame does not fit its stream.
        """
        where = f"{frame.stream} frame {frame.frame}"
        inputs = self._inputs
        packed = isinstance(frame, PackedImageFrame)
        dtype = inputs.check(frame)
        factor = self._normalisation.factor(frame)
        try:
            if packed and self._rings is not None:
                counts = unpacked_counts(frame.payload, inputs.shape, dtype, inputs.saturation)
                intensity, sigma, _ = self._rings(counts, COUNTS_END, frame.exposure_s)
            elif packed:
                intensity, sigma = self._integrator.packed(frame.payload, dtype, inputs.saturation)
            else:
                intensity, sigma = self._reduce(frame.image, frame.exposure_s)
        except InputError as error:
            raise BadFrameError(f"{where}: {error}") from error
        require_valid(intensity, where)
        return intensity * factor, sigma * factor

    def _reduce(self, image: np.ndarray, exposure_s: float) -> tuple[np.ndarray, np.ndarray]:
        saturation = self._inputs.saturation
        if self._rings is None:
            return self._integrator(image, saturation)
        limit = valid_below(image.dtype, saturation)
        return self._rings(flat_counts(image), limit, exposure_s)[:2]

    def _ring_integrator(self, settings: AreaReduction) -> RingIntegrator:
        inputs, binning = self._inputs, self._integrator.binning
        corners = Corners(inputs.geometry, inputs.shape, settings)
        table = split_pixels(
            binning.corners(corners.q_per_nm),
            corners.chi_rad,
            self._integrator.masked,
            binning.low,
            binning.low + binning.width * binning.bins,
            binning.bins,
        )
        dead_time = settings.dead_time
        return RingIntegrator(
            table,
            self._integrator.weights,
            dark=inputs.dark,
            error_model=settings.error_model,
            rejection=settings.rejection,
            clip_sigma=settings.clip_sigma,
            clip_rounds=settings.clip_rounds,
            quantiles=settings.median_quantiles,
            dead_time_s=None if dead_time is None else dead_time.dead_time_ns * 1e-9,
            paralyzable=dead_time is not None and dead_time.paralyzable,
        )


def needs_rings(settings: AreaReduction) -> bool:
    """Whether a pixel's weight is needed while its frame is added up."""
    return (
        settings.error_model != "poisson"
        or settings.rejection != "none"
        or settings.dead_time is not None
    )
