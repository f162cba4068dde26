"""One geometry, mask and binning, ready to integrate any number of frames."""

from __future__ import annotations

import numpy as np

from pipeline.kernels.detector_geometry import corner_q_chi, pixel_weights, rotation
from pipeline.kernels.integration import bin_norms, integrate, load_counts
from pipeline.kernels.pixel_splitting import split_pixels
from pipeline.messages import frozen_array
from pipeline.reduce.files import InputError
from pipeline.reduce.geometry import Geometry

# The outermost corner must lie inside the last bin, not on its edge; pyFAI widens by one step of
# float32, so we do.
_JUST_ABOVE = 1.0 + 2.0**-23

# Counts from here on are not counts. Detectors mark gaps and dead pixels by the highest values of
# the type (EIGER: 2^32 - 1 and a few below, 65535 and 65534 with 16 bits), and -1, -2 become the
# same when read as unsigned. No pixel counts 2^31 photons in an exposure.
_ABSURD_FROM = {"u1": 255, "u2": 65534, "i1": 127, "i2": 32767}
_ABSURD_FROM_ELSE = 2**31 - 1


class Integrator:
    """Frames to I(q) and sigma for one geometry and static mask.

    Parameters
    ----------
    geometry
        Of the detector.
    shape
        Rows and columns of a frame.
    masked
        (rows, columns) bool, True = never used; None = all are used.
    bins
        Number of q bins, evenly spaced.
    q_range_per_nm
        Lower edge of the first bin and upper edge of the last; None = of the usable pixels.
    solid_angle
        Whether counts are divided by the relative solid angle.
    polarization_factor
        Of the beam, +1 = horizontal; None = not corrected.

    Attributes
    ----------
    q_per_nm
        (bins,) centres of the bins.
    pixels
        (bins,) how many pixels each bin has (sum of shares).

    Raises
    ------
    InputError
        If no pixel is usable, or none lies in the range of q.
    """

    def __init__(
        self,
        geometry: Geometry,
        shape: tuple[int, int],
        *,
        masked: np.ndarray | None = None,
        bins: int = 500,
        q_range_per_nm: tuple[float | None, float | None] = (None, None),
        solid_angle: bool = True,
        polarization_factor: float | None = None,
    ) -> None:
        if geometry.shape is not None and geometry.shape != shape:
            raise InputError(f"geometry: expected frames of {geometry.shape}, got {shape}")
        if masked is None:
            masked = np.zeros(shape, np.bool_)
        if masked.all():
            raise InputError("pixel mask: expected some usable pixels, got none")
        pixel_m = (geometry.pixel1_m, geometry.pixel2_m)
        poni_m = (geometry.poni1_m, geometry.poni2_m)
        turn = rotation(geometry.rot1_rad, geometry.rot2_rad, geometry.rot3_rad)
        q_corner, chi_corner = corner_q_chi(
            shape, pixel_m, geometry.distance_m, poni_m, turn, geometry.wavelength_nm, geometry.flip
        )
        low, high = _q_range(q_corner, masked, q_range_per_nm)
        weights = pixel_weights(
            shape,
            pixel_m,
            geometry.distance_m,
            poni_m,
            turn,
            geometry.flip,
            solid_angle,
            polarization_factor is not None,
            0.0 if polarization_factor is None else float(polarization_factor),
        )
        upper = high * _JUST_ABOVE
        width = (upper - low) / bins
        self.q_per_nm = frozen_array(low + width * (np.arange(bins) + 0.5))
        self._shape = shape
        self._weights = weights.ravel()
        self._table = split_pixels(q_corner, chi_corner, masked, low, upper, bins)
        self._norms, pixels = bin_norms(self._table, self._weights)
        self.pixels = frozen_array(pixels)
        if not self.pixels.any():
            raise InputError(f"q range: expected usable pixels in {low:g} to {high:g} 1/nm, got 0")
        self._counts = np.empty(shape[0] * shape[1], np.float32)

    def __call__(
        self, image: np.ndarray, saturation: float | None = None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Integrate one frame.

        Parameters
        ----------
        image
            (rows, columns) of counts, any real type.
        saturation
            Pixels at or above are not used; None = only what no detector counts.

        Returns
        -------
        intensity, sigma
            (bins,) counts per pixel, divided by the pixel's weights, and its one-sigma error from
            counting statistics; NaN where no pixel is valid.
        invalid
            How many pixels of the frame (masked ones included) are not valid.
        """
        if image.shape != self._shape:
            raise InputError(f"expected a frame of {self._shape}, got {image.shape}")
        if not image.dtype.isnative:
            image = image.astype(image.dtype.newbyteorder("="))
        flat = np.ascontiguousarray(image).reshape(-1)
        limit = valid_below(image.dtype, saturation)
        invalid = load_counts(flat, limit, self._counts)
        intensity, sigma = integrate(self._counts, self._table, self._weights, self._norms)
        return intensity, sigma, invalid


def valid_below(dtype: np.dtype, saturation: float | None = None) -> float:
    """Counts that a pixel must stay below to be valid."""
    absurd = float(_ABSURD_FROM.get(dtype.str[1:], _ABSURD_FROM_ELSE))
    return absurd if saturation is None else min(absurd, float(saturation))


def _q_range(
    q_corner: np.ndarray, masked: np.ndarray, wanted: tuple[float | None, float | None]
) -> tuple[float, float]:
    """Range of the usable pixels' corners, where not given."""
    usable = np.zeros(q_corner.shape, np.bool_)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            usable[rows, columns] |= ~masked
    inside = q_corner[usable]
    reach_low, reach_high = float(inside.min()), float(inside.max())
    low = reach_low if wanted[0] is None else wanted[0]
    high = reach_high if wanted[1] is None else wanted[1]
    if low >= high or low >= reach_high or high <= reach_low:
        raise InputError(
            f"q range: expected a part of {reach_low:.6g} to {reach_high:.6g} 1/nm, which the "
            f"usable pixels see, got {low:g} to {high:g}"
        )
    return low, high
