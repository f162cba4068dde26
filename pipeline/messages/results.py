"""What stages make of a frame.

A result names its own place in the run's container (``NODE``). A row's fields are the columns of
a table, so a new result needs a new dataclass and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """Belongs to one frame of one stream; ``NODE`` is None for what is not stored."""

    NODE: ClassVar[str | None] = None

    frame: int
    time_s: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowResult(Result):
    """A row of a table. Fields are float, int or str; absent numbers are NaN."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ArrayResult(Result):
    """Equal-length lines stacked into one slab of the array at ``NODE``.

    ``AXIS_NODE`` names the node of the common axis; ``AXIS`` and ``LINES`` the fields.
    ``CONSTANTS`` are fields along the axis that do not change from frame to frame, each with its
    node; an empty one is not stored.
    """

    AXIS_NODE: ClassVar[str]
    AXIS: ClassVar[str]
    LINES: ClassVar[tuple[str, ...]]
    CONSTANTS: ClassVar[tuple[tuple[str, str], ...]] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MapResult(Result):
    """Maps of equal shape stacked into one slab of the array at ``NODE``, of some frames.

    Slab n is that of frame n * every; other frames have none. ``AXES`` are the fields of the map's
    axes in their order, each with its node; ``LINES`` the fields that are maps. ``CONSTANTS``
    are further maps that do not change from frame to frame, each with its node. Maps are stored as
    float32.
    """

    AXES: ClassVar[tuple[tuple[str, str], ...]]
    LINES: ClassVar[tuple[str, ...]]
    CONSTANTS: ClassVar[tuple[tuple[str, str], ...]] = ()

    every: int


def _unknown() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curve(ArrayResult):
    """I(q) of one frame: intensity and one-sigma error in 1/cm (or arbitrary units), q in 1/nm.

    Bins without pixels are NaN in both lines. ``q_resolution_per_nm`` is the standard deviation of
    the q that a bin sees, ``pixels`` how many pixels a bin has (with those that are invalid in this
    frame only); both are empty for curves that somebody else integrated. ``sigma_estimated`` says
    that the curve came without errors and got them from its own scatter.
    """

    NODE = "saxs/curves"
    AXIS_NODE = "saxs/q"
    AXIS = "q_per_nm"
    LINES = ("intensity", "sigma")
    CONSTANTS = (("q_resolution_per_nm", "saxs/q_resolution"), ("pixels", "saxs/pixels"))

    q_per_nm: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    absolute: bool
    sigma_estimated: bool = False
    q_resolution_per_nm: np.ndarray = field(default_factory=_unknown)
    pixels: np.ndarray = field(default_factory=_unknown)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WaxsCurve(Curve):
    """I(q) of one frame of the wide-angle detector; fields as those of a `Curve`."""

    NODE = "waxs/curves"
    AXIS_NODE = "waxs/q"
    CONSTANTS = (("q_resolution_per_nm", "waxs/q_resolution"), ("pixels", "waxs/pixels"))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cake(MapResult):
    """I(azimuth, q) of one frame: intensity and one-sigma error in the units of the frame's curve.

    Azimuths are from -180 to 180 degrees, 0 along axis 2 and 90 along axis 1; q is in 1/nm. Cells
    without valid pixels are NaN. ``weight`` is what a cell counts for in a mean over cells: its
    pixels (with those that are invalid in this frame only), each by its corrections. The mean over
    all azimuths is the curve.
    """

    NODE = "saxs/cake"
    AXES = (("azimuth_deg", "saxs/cake_azimuth"), ("q_per_nm", "saxs/cake_q"))
    LINES = ("intensity", "sigma")
    CONSTANTS = (("weight", "saxs/cake_weight"),)

    azimuth_deg: np.ndarray
    q_per_nm: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    weight: np.ndarray
    absolute: bool


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WaxsCake(Cake):
    """I(azimuth, q) of one frame of the wide-angle detector; fields as those of a `Cake`."""

    NODE = "waxs/cake"
    AXES = (("azimuth_deg", "waxs/cake_azimuth"), ("q_per_nm", "waxs/cake_q"))
    CONSTANTS = (("weight", "waxs/cake_weight"),)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Spectrum(ArrayResult):
    """Absorbance of one frame (decadic) and its one-sigma error against energy in eV.

    ``sigma_estimated`` says that the errors are from the spectrum's own scatter.
    """

    NODE = "absorbance/spectra"
    AXIS_NODE = "absorbance/energy"
    AXIS = "energy_ev"
    LINES = ("absorbance", "sigma")

    energy_ev: np.ndarray
    absorbance: np.ndarray
    sigma: np.ndarray
    sigma_estimated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FrameResults:
    """All that came of one frame, the unit of delivery.

    ``rejected`` is None, or one line that says why the frame gave nothing. ``newest`` is the
    newest frame number that the sender had heard of, so what is under way can be told.
    """

    stream: str
    run: str
    frame: int
    time_s: float
    results: tuple[Result, ...] = ()
    rejected: str | None = None
    newest: int = -1
