"""Where the rings of a frame are, by this package's own integration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from pipeline.calibrate.exposures import Exposure
from pipeline.config.reduce import AreaReduction
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.integrator import Integrator

#: A ring counts as found from this many standard errors of its height.
LEAST_SIGNIFICANCE = 5.0

# Half the window about the expected place, in distances to the nearest other ring.
_WINDOW = 0.35


@dataclass(frozen=True)
class Ring:
    """One ring of a calibrant.

    Attributes
    ----------
    number
        From 0, in the order of falling d.
    q_expected_per_nm
        From the calibrant.
    q_per_nm, q_error_per_nm
        Where it was found, and its standard error; NaN if it was not.
    significance
        Its height over the height's standard error.
    off_pixels
        How far too far out it is, in pixels along the radius; NaN if it was not found.
    """

    number: int
    q_expected_per_nm: float
    q_per_nm: float = math.nan
    q_error_per_nm: float = math.nan
    significance: float = 0.0
    off_pixels: float = math.nan

    @property
    def found(self) -> bool:
        """Whether it stands out of the noise."""
        return math.isfinite(self.q_per_nm)

    @property
    def d_nm(self) -> float:
        """Spacing from where it was found."""
        return 2.0 * math.pi / self.q_per_nm

    @property
    def d_expected_nm(self) -> float:
        """Spacing of the calibrant."""
        return 2.0 * math.pi / self.q_expected_per_nm


def find_rings(
    exposure: Exposure, geometry: Geometry, d_nm: np.ndarray, most: int | None = None
) -> list[Ring]:
    """Positions of a calibrant's rings in the integrated curve.

    Bins are about as wide as a pixel. A ring is a Gaussian on a straight line, fitted within 0.35
    of the distance to the nearest other ring.

    Parameters
    ----------
    exposure
        Frame.
    geometry
        To be judged.
    d_nm
        (rings,) falling spacings.
    most
        So many rings at most, from the first on that lies on the detector.

    Returns
    -------
    list of Ring
        Those that lie on the detector, found or not.
    """
    bins = min(max(exposure.image.shape), 4000)
    integrator = Integrator(
        geometry,
        exposure.image.shape,  # pyright: ignore[reportArgumentType]
        AreaReduction(bins=bins, bin_axis="two_theta"),
        masked=exposure.unusable(),
    )
    intensity, sigma = integrator(exposure.image)
    q = integrator.q_per_nm
    expected = 2.0 * np.pi / np.asarray(d_nm, np.float64)
    spacing = np.diff(expected, prepend=0.0)
    spacing[:-1] = np.minimum(spacing[:-1], spacing[1:])
    rings: list[Ring] = []
    for number, (place, apart) in enumerate(zip(expected, spacing, strict=True)):
        if most is not None and len(rings) == most:
            break
        if not q[0] < place < q[-1]:
            continue
        near = np.flatnonzero((np.abs(q - place) < _WINDOW * apart) & np.isfinite(intensity))
        peak = fit_peak(q[near], intensity[near], sigma[near])
        rings.append(_ring(number, float(place), peak, geometry))
    return rings


def fit_peak(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> tuple[float, float, float] | None:
    """Place of a Gaussian on a line, around the highest point above the line of the ends.

    Parameters
    ----------
    x, y, sigma
        (points,) rising places, values and their errors.

    Returns
    -------
    tuple of float or None
        Place, its standard error (enlarged where the fit is worse than sigma allows), and the
        height over its standard error; None = no peak.
    """
    if x.size < 8:
        return None
    # Bins without a count have no error of their own.
    sigma = np.maximum(sigma, 0.1 * np.median(sigma) + 1e-30)
    ends = max(x.size // 8, 1)
    low, high = y[:ends].mean(), y[-ends:].mean()
    above = y - low - (high - low) * (x - x[0]) / (x[-1] - x[0])
    smooth = np.convolve(above, np.ones(3) / 3.0, mode="same")
    top = int(np.argmax(smooth))
    half = np.flatnonzero(smooth < 0.5 * smooth[top])
    left = int(half[half < top].max(initial=0))
    right = int(half[half > top].min(initial=x.size - 1))
    width = max((x[right] - x[left]) / 2.355, float(np.median(np.diff(x))))
    kept = np.abs(x - x[top]) < 4.0 * width
    height = smooth[top]
    if kept.sum() < 6 or not height > 0.0:
        return None
    u, values, errors = (x[kept] - x[top]) / width, y[kept] / height, sigma[kept] / height

    # The third parameter is the logarithm of the width, held near what the half height says.
    def bell(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = (u - p[1]) * math.exp(-min(max(p[2], -3.0), 3.0))
        return z, np.exp(-0.5 * z**2)

    def residuals(p: np.ndarray) -> np.ndarray:
        return (p[0] * bell(p)[1] + p[3] + p[4] * u - values) / errors

    def slopes(p: np.ndarray) -> np.ndarray:
        z, shape = bell(p)
        along = p[0] * shape * z * math.exp(-min(max(p[2], -3.0), 3.0))
        wider = p[0] * shape * z**2
        return np.stack([shape, along, wider, np.ones(u.size), u], axis=1) / errors[:, None]

    first = np.array([1.0, 0.0, 0.0, values.min(), 0.0])
    jacobian: Any = slopes  # which scipy's types take for a name
    fit = least_squares(residuals, first, jacobian, method="lm")
    freedom = max(u.size - 5, 1)
    # Rows of J^-1: their squares' sums are the variances, and cannot come out below 0.
    error = np.linalg.norm(np.linalg.pinv(fit.jac), axis=1)
    error *= math.sqrt(max(1.0, 2.0 * fit.cost / freedom))
    place = float(x[top] + fit.x[1] * width)
    if not error[0] > 0.0 or abs(fit.x[1]) > 2.0 or not x[0] < place < x[-1]:
        return None
    return place, float(error[1] * width), float(fit.x[0] / error[0])


def radius_pixels(two_theta_rad: float, geometry: Geometry) -> float:
    """Distance of a ring from the beam, in pixels of a detector that faces it."""
    return geometry.distance_m * two_theta_rad / math.sqrt(geometry.pixel1_m * geometry.pixel2_m)


def _ring(
    number: int, expected: float, peak: tuple[float, float, float] | None, geometry: Geometry
) -> Ring:
    if peak is None or peak[2] < LEAST_SIGNIFICANCE:
        return Ring(number, expected, significance=0.0 if peak is None else peak[2])
    radii = [
        radius_pixels(2.0 * math.asin(q * geometry.wavelength_nm / (4.0 * math.pi)), geometry)
        for q in (peak[0], expected)
    ]
    return Ring(number, expected, *peak, off_pixels=radii[0] - radii[1])
