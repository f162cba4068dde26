"""Shape of crystals from one stored curve: run beside the stream, not in it."""

from pipeline.shape.crystals import alone, average
from pipeline.shape.result import ELECTRON_RADIUS_NM, Shape, find_shape
from pipeline.shape.retrieve import CrystalCurve, Settings, ShapeError

__all__ = [
    "ELECTRON_RADIUS_NM",
    "CrystalCurve",
    "Settings",
    "Shape",
    "ShapeError",
    "alone",
    "average",
    "find_shape",
]
