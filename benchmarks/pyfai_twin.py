"""pyFAI's integrator of a geometry of ours, to be compared with."""

from __future__ import annotations

import warnings
from typing import Any

from pipeline.reduce.geometry import Geometry


def pyfai_twin(geometry: Geometry, shape: tuple[int, int]) -> Any:
    """An ``AzimuthalIntegrator`` for frames of this shape."""
    with warnings.catch_warnings():
        # Of packages that it can do without.
        warnings.simplefilter("ignore")
        from pyFAI.detectors import Detector
        from pyFAI.integrator.azimuthal import AzimuthalIntegrator
    return AzimuthalIntegrator(
        dist=geometry.distance_m,
        poni1=geometry.poni1_m,
        poni2=geometry.poni2_m,
        rot1=geometry.rot1_rad,
        rot2=geometry.rot2_rad,
        rot3=geometry.rot3_rad,
        detector=Detector(
            geometry.pixel1_m,
            geometry.pixel2_m,
            max_shape=shape,
            orientation=geometry.orientation,
        ),
        wavelength=geometry.wavelength_nm * 1e-9,
    )
