"""Where a detector stands: read from PONI, NeXus, Nika or Fit2D, and where each pixel lies then."""

from pipeline.reduce.geometry.check import check_on_detector
from pipeline.reduce.geometry.files import read_geometry
from pipeline.reduce.geometry.fit2d import parse_fit2d
from pipeline.reduce.geometry.geometry import HC_EV_NM, Geometry, GeometryError, SensorLayer
from pipeline.reduce.geometry.nexus import read_nexus
from pipeline.reduce.geometry.nika import parse_nika
from pipeline.reduce.geometry.pixels import check_shape, corner_grid_m, corner_positions
from pipeline.reduce.geometry.poni import parse_poni

__all__ = [
    "HC_EV_NM",
    "Geometry",
    "GeometryError",
    "SensorLayer",
    "check_on_detector",
    "check_shape",
    "corner_grid_m",
    "corner_positions",
    "parse_fit2d",
    "parse_nika",
    "parse_poni",
    "read_geometry",
    "read_nexus",
]
