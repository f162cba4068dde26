"""Pixels of the detectors that PONI files name instead of describing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pipeline.messages import frozen_array
from pipeline.reduce.geometry.geometry import GeometryError, SensorLayer

# Pixel sizes in micrometres of detectors with even pixels. The first that matches counts; gaps
# between their modules are whole pixels.
_EVEN_UM = (
    (r"pilatus_?4", 150.0),
    (r"pilatus", 172.0),
    (r"hf[-_]\d", 150.0),
    (r"eiger", 75.0),
    (r"jungfrau_?[148]m$", 75.0),
    (r"lambda", 55.0),
    (r"maxipix|timepix", 55.0),
    (r"perkin", 200.0),
    (r"dexela", 75.0),
    (r"(adsc_q|quantum_?)\d", 51.0),
    (r"(oxd_?|agilent_?)?titan", 60.0),
    (r"apex_?(2|ii)$|bruker$", 120.0),
    (r"mar_?3450?$", 100.0),
    (r"mar_?555$", 139.0),
    (r"pixium|thales", 308.0),
    (r"frelon", 50.0),
    (r"fairchild|condor", 15.0),
)


@dataclass(frozen=True, slots=True)
class _Modules:
    """Modules without gaps, whose pixels along an inner border are larger."""

    pixel_um: float
    module: tuple[int, int]
    shape: tuple[int, int]
    border: float


# Sizes as in pyFAI 2026.9 (pyFAI.detectors): a module's outermost pixels are ``border`` times as
# large where another module follows.
_UNEVEN = (
    (r"jungfrau(_?500k)?$", _Modules(75.0, (256, 256), (512, 1024), 2.0)),
    (r"imxpad_?s10$", _Modules(130.0, (120, 80), (120, 80), 2.5)),
    (r"imxpad_?s70$", _Modules(130.0, (120, 80), (120, 560), 2.5)),
    (r"imxpad_?s70_?v$", _Modules(130.0, (80, 120), (560, 120), 2.5)),
    (r"imxpad_?s140$", _Modules(130.0, (120, 80), (240, 560), 2.5)),
)

# Rows and columns, by name in lower case without separators and the sensor's material.
_SHAPES = {
    "pilatus100k": (195, 487),
    "pilatus200k": (407, 487),
    "pilatus300k": (619, 487),
    "pilatus300kw": (195, 1475),
    "pilatus900k": (619, 1475),
    "pilatus900kw": (195, 4439),
    "pilatus1m": (1043, 981),
    "pilatus2m": (1679, 1475),
    "pilatus6m": (2527, 2463),
    "pilatus4260k": (530, 513),
    "pilatus4260kw": (255, 1033),
    "pilatus41m": (1080, 1033),
    "pilatus42m": (1630, 1553),
    "pilatus44m": (2180, 2073),
    "eiger500k": (514, 1030),
    "eiger1m": (1065, 1030),
    "eiger4m": (2167, 2070),
    "eiger9m": (3269, 3110),
    "eiger16m": (4371, 4150),
    "eiger2250k": (512, 512),
    "eiger2500k": (512, 1028),
    "eiger21m": (1062, 1028),
    "eiger21mw": (512, 2068),
    "eiger22mw": (512, 4148),
    "eiger24m": (2162, 2068),
    "eiger29m": (3262, 3108),
    "eiger216m": (4362, 4148),
}


def named_shape(name: str) -> tuple[int, int] | None:
    """Rows and columns of a detector that a PONI file names; None if they are not known here."""
    return _SHAPES.get(re.sub(r"[\s_-]|cdte", "", name.lower()))


# Detectors that are curved, hexagonal, or of modules at an angle: no plane grid describes them,
# whatever pixel size stands beside the name.
_NOT_A_GRID = re.compile(r"aarhus|rapid|cirpad|xcirpad|xpad|d5$|pixirad|jungfrau_?16m|cylind|hexa?")


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pixels of a detector, wherever it stands.

    Attributes
    ----------
    pixel1_m, pixel2_m
        Size along axis 1 and 2, of most pixels.
    shape
        Rows and columns, if known.
    corners_m
        (rows + 1, columns + 1, 2), read-only, if uneven.
    sensor
        If the description has one.
    orientation
        If the description has one.
    """

    pixel1_m: float
    pixel2_m: float
    shape: tuple[int, int] | None = None
    corners_m: np.ndarray | None = None
    sensor: SensorLayer | None = None
    orientation: int | None = None


def named_pixels(
    name: str,
    sizes_m: tuple[float, float] | None = None,
    shape: tuple[int, int] | None = None,
    module: tuple[int, int] | None = None,
) -> Pixels:
    """Pixels of a detector by name and what its configuration says of it.

    Parameters
    ----------
    name
        As in PONI files, in any case; ``Detector`` = of even pixels.
    sizes_m
        Along axes 1 and 2, where given.
    shape
        Rows and columns, where given.
    module
        Rows and columns of one module, where given.

    Raises
    ------
    GeometryError
        If the name says nothing about the pixels, or the detector is no grid of pixels.
    """
    key = name.strip().lower().replace(" ", "_")
    for pattern, modules in _UNEVEN:
        if re.match(pattern, key):
            return _uneven(name, modules, shape, module)
    if _NOT_A_GRID.match(key):
        raise GeometryError(
            f"expected a flat detector whose pixels are a grid, got {name}: reduce its frames with "
            "pyFAI and send curves"
        )
    if sizes_m is not None:
        return Pixels(sizes_m[0], sizes_m[1], shape)
    for pattern, size_um in _EVEN_UM:
        if re.match(pattern, key):
            size_m = round(size_um * 1e-6, 9)
            return Pixels(size_m, size_m, shape)
    raise GeometryError(
        f"expected a detector of known pixel size, got {name}: give pixel1 and pixel2 in "
        "Detector_config"
    )


def _uneven(
    name: str, modules: _Modules, shape: tuple[int, int] | None, module: tuple[int, int] | None
) -> Pixels:
    shape = modules.shape if shape is None else shape
    rows, columns = modules.module if module is None else module
    if min(*shape, rows, columns) < 1 or shape[0] % rows or shape[1] % columns:
        raise GeometryError(
            f"expected whole modules of {rows} x {columns} pixels for {name}, got {shape}"
        )
    size_m = modules.pixel_um * 1e-6
    edges1 = _edges_m(shape[0], rows, size_m, modules.border)
    edges2 = _edges_m(shape[1], columns, size_m, modules.border)
    corners = np.stack(np.meshgrid(edges1, edges2, indexing="ij"), axis=-1)
    return Pixels(size_m, size_m, shape, frozen_array(corners))


def _edges_m(length: int, module: int, size_m: float, border: float) -> np.ndarray:
    """(length + 1,) edges of pixels along one axis."""
    sizes = np.full(length, size_m)
    inner = np.arange(module, length, module)
    sizes[inner] = sizes[inner - 1] = border * size_m
    return np.concatenate([[0.0], np.cumsum(sizes)])
