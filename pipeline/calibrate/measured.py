"""A standard's curve, measured: out of a frame by this package's reduction, or out of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from pipeline.calibrate.exposures import Exposure
from pipeline.config.reduce import AreaReduction
from pipeline.messages import ImageFrame, RunStart, StreamStart, frozen_array
from pipeline.reduce.corrections.background import interpolate_background, read_curve
from pipeline.reduce.errors import InputError
from pipeline.reduce.saxs import ReduceSaxs

_TEXT_SUFFIXES = (".txt", ".dat", ".csv")
_HDF5_SUFFIXES = (".h5", ".hdf", ".hdf5", ".nxs")


@dataclass(frozen=True)
class Conditions:
    """What counts are divided by, as in `pipeline.messages.ImageFrame`; None = not known."""

    monitor: float | None = None
    transmission: float | None = None
    exposure_s: float | None = None


@dataclass(frozen=True, eq=False)
class MeasuredCurve:
    """A curve divided by monitor, transmission and exposure, not by a thickness.

    ``q_per_nm``, ``intensity`` and ``sigma`` are (points,); NaN = not measured.
    """

    q_per_nm: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray

    def without(self, background: MeasuredCurve) -> MeasuredCurve:
        """Less a background, measured under its own conditions."""
        known = np.isfinite(background.intensity)
        if known.sum() < 2:
            raise InputError("background: expected a curve, got no finite points")
        points = background.q_per_nm[known], background.intensity[known], background.sigma[known]
        value, variance = interpolate_background(self.q_per_nm, points)
        return MeasuredCurve(
            self.q_per_nm, self.intensity - value, np.sqrt(self.sigma**2 + variance)
        )


def is_curve(path: Path) -> bool:
    """Whether a file holds a curve, by its name and, of HDF5, by what is in it."""
    suffix = path.suffix.lower()
    if suffix in _TEXT_SUFFIXES:
        return True
    if suffix not in _HDF5_SUFFIXES or not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        kinds = [node.attrs.get("canSAS_class", "") for node in file.values()]
    return any(kind in ("SASentry", b"SASentry") for kind in kinds)


def curve_of_file(path: Path, conditions: Conditions) -> MeasuredCurve:
    """A curve that was integrated before; conditions that are not named count as divided by.

    Raises
    ------
    InputError
        If it cannot be read, or is in 1/cm already.
    """
    curve = read_curve(path)
    if curve.absolute:
        raise InputError(
            f"{path}: expected a curve of arbitrary scale, got one in 1/cm: reduce the standard "
            "without absolute_scale and thickness_cm, or give its frame"
        )
    factor = 1.0
    for name in ("monitor", "transmission", "exposure_s"):
        value = getattr(conditions, name)
        if value is not None:
            factor /= _positive(value, name, path)
    return MeasuredCurve(curve.q_per_nm, curve.intensity * factor, curve.sigma * factor)


def curve_of_frame(
    exposure: Exposure, conditions: Conditions, settings: AreaReduction
) -> MeasuredCurve:
    """A frame, reduced as the frames of a run are, so that the scale fits them.

    Parameters
    ----------
    exposure
        Of the standard.
    conditions
        Complete.
    settings
        Of the reduction; scale, thickness and background in them are left aside.

    Raises
    ------
    InputError
        If a condition is missing or cannot be, or there is no geometry.
    """
    if settings.poni_file is None and exposure.poni is None:
        raise InputError(f"{exposure.name}: expected a geometry, got none: give --poni")
    values = {
        name: _positive(getattr(conditions, name), name, exposure.name)
        for name in ("monitor", "transmission", "exposure_s")
    }
    shape = exposure.image.shape
    stream = StreamStart(
        "saxs",
        "",
        "image",
        shape,
        exposure.image.dtype.str,
        {"pixel_mask": frozen_array(exposure.unusable(), np.uint8)},
        {} if exposure.poni is None else {"poni": exposure.poni},
    )
    own = {"absolute_scale": None, "thickness_cm": None, "background_file": None}
    # A calibration is not a run: what its monitor may be is the user's to judge.
    stage = ReduceSaxs(settings.model_copy(update={**own, "monitor_min": 1e-300}))
    stage.reset(RunStart(run="", stream=stream))
    (curve,) = stage.process(ImageFrame("saxs", 0, 1, image=exposure.image, **values))
    return MeasuredCurve(curve.q_per_nm, curve.intensity, curve.sigma)


def _positive(value: float | None, name: str, where: object) -> float:
    if value is None or not (np.isfinite(value) and value > 0.0):
        got = "none" if value is None else f"{value:g}"
        raise InputError(f"{where}: expected {name} above 0, got {got}")
    return float(value)
