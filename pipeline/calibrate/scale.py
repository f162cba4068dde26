"""The factor from a measured curve of a standard to 1/cm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.calibrate.standards import Standard
from pipeline.reduce.errors import InputError

# As many as make chi^2 worth stating.
_FEWEST_POINTS = 5

# Parts of the range whose scales are compared.
_PARTS = 10


@dataclass(frozen=True)
class ScaleFit:
    """``absolute_scale`` with its standard error.

    Attributes
    ----------
    scale
        What the measured curve is multiplied by.
    error
        Standard error: all below together.
    counting_error
        From the curve's sigma, times sqrt(chi2 / freedom) where that is above 1: what chi^2 says
        was wrong with the curve cannot be told from noise.
    standard_error
        From the standard.
    inputs_error
        From thickness and transmission.
    chi2, freedom
        Of the fit; points less parameters.
    offset, offset_error
        Constant that was taken off the measured curve, in its units; 0 if none was asked for.
    q_range_per_nm
        First and last q that was used.
    shape_error
        From the shape: how much the scales of ten parts of the range differ (standard deviation),
        less what noise makes them differ. It does not become less with more points, as what makes
        it (a background, a wrong standard) is common to many.
    """

    scale: float
    error: float
    counting_error: float
    standard_error: float
    inputs_error: float
    shape_error: float
    chi2: float
    freedom: int
    offset: float
    offset_error: float
    q_range_per_nm: tuple[float, float]


def fit_scale(
    q_per_nm: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray,
    standard: Standard,
    *,
    q_range_per_nm: tuple[float, float] | None = None,
    offset: bool = False,
    relative_input_error: float = 0.0,
) -> ScaleFit:
    """Fit measured = standard / scale + offset by weighted least squares.

    Parameters
    ----------
    q_per_nm, intensity, sigma
        (points,) of the measured curve, divided by all that `pipeline.config.reduce` divides by,
        the thickness in cm included, but not multiplied by a scale. NaN = not measured.
    standard
        What it should be.
    q_range_per_nm
        To be used; the standard's own if absent.
    offset
        Whether a constant is fitted too, such as fluorescence.
    relative_input_error
        Of thickness and transmission together, which no fit can see.

    Raises
    ------
    InputError
        If there are too few points in the range, or they do not lead to a scale above 0.
    """
    if offset and standard.flat:
        raise InputError(
            f"{standard.name}: expected no constant to be fitted, as the standard is one itself"
        )
    low, high = standard.q_range_per_nm if q_range_per_nm is None else q_range_per_nm
    low, high = max(low, standard.q_range_per_nm[0]), min(high, standard.q_range_per_nm[1])
    used = (q_per_nm >= low) & (q_per_nm <= high) & np.isfinite(intensity) & (sigma > 0.0)
    if used.sum() < _FEWEST_POINTS:
        known = q_per_nm[np.isfinite(intensity) & (sigma > 0.0)]
        got = f"{known[0]:.4g} to {known[-1]:.4g}" if known.size else "none"
        raise InputError(
            f"q range: expected {_FEWEST_POINTS} points or more in {low:.4g} to {high:.4g} 1/nm, "
            f"where {standard.name} is known, got {used.sum()}; the curve has q {got}"
        )
    q, y, weights = q_per_nm[used], intensity[used], 1.0 / sigma[used]
    columns = [standard.per_cm(q), np.ones(q.size)][: 2 if offset else 1]
    design = np.stack(columns, axis=1)
    weighted = design * weights[:, None]
    size = np.linalg.norm(weighted, axis=0)
    solution, *_ = np.linalg.lstsq(weighted / size, y * weights, rcond=None)
    covariance = np.linalg.inv((weighted / size).T @ (weighted / size)) / np.outer(size, size)
    solution = solution / size
    slope, constant = float(solution[0]), float(solution[1]) if offset else 0.0
    residuals = (y - design @ solution) * weights
    chi2, freedom = float(residuals @ residuals), q.size - design.shape[1]
    inflated = covariance * max(1.0, chi2 / freedom)
    slope_error = math.sqrt(inflated[0, 0])
    if not slope > 3.0 * slope_error:
        raise InputError(
            f"{standard.name}: expected an intensity above its error, got {slope:.3g} +- "
            f"{slope_error:.3g} of the standard's"
        )
    scale = 1.0 / slope
    parts = (
        slope_error / slope * scale,
        standard.relative_error * scale,
        relative_input_error * scale,
        _shape_error(design @ solution, y, weights) * scale,
    )
    return ScaleFit(
        scale,
        math.hypot(*parts),
        *parts,
        chi2=chi2,
        freedom=freedom,
        offset=constant,
        offset_error=math.sqrt(inflated[1, 1]) if offset else 0.0,
        q_range_per_nm=(float(q[0]), float(q[-1])),
    )


def _shape_error(model: np.ndarray, measured: np.ndarray, weights: np.ndarray) -> float:
    """Relative standard deviation of the scale over the range, less that of noise."""
    ratios, variances = [], []
    for part in np.array_split(np.arange(model.size), min(_PARTS, model.size)):
        w = weights[part] ** 2 * model[part]
        ratios.append(float(w @ measured[part]) / float(w @ model[part]))
        variances.append(1.0 / float(w @ model[part]))
    return math.sqrt(max(float(np.var(ratios, ddof=1) - np.mean(variances)), 0.0))
