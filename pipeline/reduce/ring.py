"""Frames to I(q) where each pixel of a ring is looked at: outliers, scatter, dead time.

Several times slower than `pipeline.reduce.integrator`; for what that cannot do.
"""

from __future__ import annotations

import math
import threading
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from pipeline.kernels.pixel_preparation import prepare_pixels
from pipeline.kernels.pixel_splitting import SplitTable
from pipeline.kernels.ring_statistics import (
    AZIMUTHAL,
    HYBRID,
    MEDIAN,
    NO_REJECTION,
    POISSON,
    SIGMA_CLIP,
    Rejection,
    ring_curve,
    ring_norms,
)
from pipeline.messages import BadFrameError
from pipeline.reduce.errors import InputError

ErrorModel = Literal["poisson", "azimuthal", "hybrid"]
RejectionKind = Literal["none", "sigma_clip", "median"]

_ERROR_MODELS = {"poisson": POISSON, "azimuthal": AZIMUTHAL, "hybrid": HYBRID}
_REJECTIONS = {"none": NO_REJECTION, "sigma_clip": SIGMA_CLIP, "median": MEDIAN}


class RingCurve(NamedTuple):
    """What one frame gives.

    Attributes
    ----------
    intensity, sigma
        (bins,) counts per unit weight and its one-sigma error; intensity is NaN where no pixel is
        left, sigma also where pixels have no scatter to take it from.
    rejected
        (bins,) int64, valid pixels that are not in the average. One on the edge of two rings
        counts in both.
    invalid
        How many pixels of the frame (masked ones included) are not valid, or beyond what the dead
        time allows.
    """

    intensity: np.ndarray
    sigma: np.ndarray
    rejected: np.ndarray
    invalid: int


class RingIntegrator:
    """Frames to I(q) and sigma with error model, rejection and dead time.

    Threads may call one instance at the same time: each has scratch of its own (8 bytes a pixel).

    Parameters
    ----------
    table
        Of the geometry and the static mask.
    weights
        (pixels,) what a count is to be divided by: solid angle, polarisation, flat, all of them.
    dark
        (pixels,) counts in the frames' exposure, subtracted; None = none.
    error_model
        Where sigma comes from: counting statistics, the scatter of the ring's pixels, or hybrid:
        the scatter decides what is clipped, counting statistics give sigma.
    rejection
        What is done against zingers and Bragg spots: nothing, sigma clipping, or the average
        between two quantiles. Counts are skewed, so the middle of a ring lies about 1/6 count below
        its mean, which is the error of a ring of 50 pixels per count.
    clip_sigma, clip_rounds
        How far is far, in standard deviations of a pixel, and how often at most; for sigma_clip.
    quantiles
        0 <= low < high <= 1, for median.
    dead_time_s
        Of one pixel; None = none.
    paralyzable
        Whether a photon that is not counted makes the pixel busy anew.

    Raises
    ------
    InputError
        If sizes do not agree.
    """

    def __init__(
        self,
        table: SplitTable,
        weights: np.ndarray,
        *,
        dark: np.ndarray | None = None,
        error_model: ErrorModel = "poisson",
        rejection: RejectionKind = "none",
        clip_sigma: float = 5.0,
        clip_rounds: int = 5,
        quantiles: tuple[float, float] = (0.4, 0.6),
        dead_time_s: float | None = None,
        paralyzable: bool = False,
    ) -> None:
        self._table = table
        self._weights = np.ascontiguousarray(weights, np.float32).reshape(-1)
        if dark is not None and dark.size != self._weights.size:
            raise InputError(
                f"dark frame: expected {self._weights.size} pixels as the frames, got {dark.size}"
            )
        self._dark = np.ascontiguousarray(() if dark is None else dark, np.float32).reshape(-1)
        self._error_model = _ERROR_MODELS[error_model]
        low, high = float(quantiles[0]), float(quantiles[1])
        self._rejection = Rejection(
            _REJECTIONS[rejection],
            float(clip_sigma),
            int(clip_rounds),
            low,
            high,
            narrowing(low, high),
        )
        self._dead_time_s = 0.0 if dead_time_s is None else float(dead_time_s)
        self._paralyzable = bool(paralyzable)
        # Without dark and dead time the variance follows from the value.
        corrected = self._dark.size > 0 or self._dead_time_s > 0.0
        self._variances = corrected and self._error_model != AZIMUTHAL
        self._norms = ring_norms(table, self._weights)
        self._scratch = threading.local()

    def __call__(
        self, image: np.ndarray, valid_below: float, exposure_s: float | None = None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Intensity, sigma and invalid pixels of one frame; see `curve`."""
        curve = self.curve(image, valid_below, exposure_s)
        return curve.intensity, curve.sigma, curve.invalid

    def curve(
        self, image: np.ndarray, valid_below: float, exposure_s: float | None = None
    ) -> RingCurve:
        """Reduce one frame.

        Parameters
        ----------
        image
            (pixels,) flat counts, any real type in the machine's byte order.
        valid_below
            Valid is what is >= 0 and below this.
        exposure_s
            Of the frame; needed with a dead time only.

        Raises
        ------
        BadFrameError
            If the frame has another number of pixels, or no exposure where dead time needs it.
        """
        if image.shape != self._weights.shape:
            raise BadFrameError(
                f"expected a frame of {self._weights.size} pixels, got {image.size}"
            )
        dead_share = 0.0
        if self._dead_time_s > 0.0:
            if exposure_s is None or not exposure_s > 0.0:
                raise BadFrameError(
                    "expected an exposure above 0 s, which the correction for dead time needs, got "
                    f"{'none' if exposure_s is None else f'{exposure_s:g} s'}"
                )
            dead_share = self._dead_time_s / exposure_s
        prepared = self._prepared()
        invalid = prepare_pixels(
            image,
            float(valid_below),
            self._weights,
            self._dark,
            dead_share,
            self._paralyzable,
            prepared,
        )
        curve = ring_curve(prepared, self._table, *self._norms, self._error_model, self._rejection)
        return RingCurve(*curve, invalid)

    def _prepared(self) -> np.ndarray:
        """This thread's scratch."""
        prepared = getattr(self._scratch, "prepared", None)
        if prepared is None:
            columns = 2 if self._variances else 1
            prepared = np.empty((self._weights.size, columns), np.float32)
            self._scratch.prepared = prepared
        return prepared


def narrowing(low: float, high: float) -> float:
    """Error of the average between two quantiles over that of a mean of as many values.

    For values with a normal distribution of standard deviation 1 the average's error is
    s_w / ((high - low) sqrt(n)), s_w the standard deviation of the values after those beyond the
    quantiles z were moved to them (Huber and Ronchetti, Robust Statistics, 2009, section 3.3); that
    of a mean of (high - low) n values is 1 / sqrt((high - low) n).

    Parameters
    ----------
    low, high
        0 <= low < high <= 1.
    """
    normal = NormalDist()
    mean = 0.0
    square = high - low
    for share, quantile, sign in ((low, low, 1.0), (1.0 - high, high, -1.0)):
        if share > 0.0:
            z = normal.inv_cdf(quantile)
            mean += share * z + sign * normal.pdf(z)
            square += share * z * z + sign * z * normal.pdf(z)
    return math.sqrt((square - mean * mean) / (high - low))
