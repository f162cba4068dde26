"""The geometry of a frame of a calibrant, refined by pyFAI.

pyFAI finds points on the rings and moves the detector until they lie at the calibrant's angles.
Here is what it leaves to its user: which points are none, what stays fixed, how good the result is,
and when there is none. Its points are maxima of single pixels; once they have led near, they are
replaced by fits to sectors of each ring (`sectors`), which pyFAI then refines by.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from pipeline.calibrate.exposures import Exposure
from pipeline.calibrate.rings import Ring, find_rings
from pipeline.calibrate.sectors import ring_points
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry

#: Parameters by pyFAI's names, and what a geometry calls them.
PARAMETERS = {
    "dist": "distance_m",
    "poni1": "poni1_m",
    "poni2": "poni2_m",
    "rot1": "rot1_rad",
    "rot2": "rot2_rad",
    "rot3": "rot3_rad",
}
_SPELLED = {"distance": "dist"}

# Rings do not tell how the detector is turned around the beam.
_NEVER_FREE = ("rot3", "wavelength")

# A tilt moves a ring's points by about (2theta)^2 of its radius times the tilt: below this, by less
# than a pixel per degree on 500 pixels of radius, and then it is one with the beam's place.
_LEAST_TILT_ANGLE = math.radians(5.0)

# Rounds of extraction by pyFAI, the second where the start was too far off for the first, and of
# sectors.
_ROUNDS = 2

# What a point is taken to be off at least, in pixels: pixels are not all alike.
_LEAST_ERROR_PIXELS = 0.05

# Of its minimiser, which may go round in circles with a million by default.
_PYFAI_STEPS = 50

# As many as parameters, three times over.
_FEWEST_POINTS = 15

# Points farther from their ring than so many (robust) standard deviations are on something else.
_CLIP = 4.0


@dataclass(frozen=True, eq=False)
class Refinement:
    """What a refinement found.

    Attributes
    ----------
    start, geometry
        Before and after.
    errors
        Standard errors of what was free, by pyFAI's names: from the points' scatter, each point
        taken as independent.
    points
        How many points on rings were used.
    rms_pixels
        Their distance from their rings.
    rings_before, rings_after
        Positions of the rings by this package's own integration.
    """

    start: Geometry
    geometry: Geometry
    errors: dict[str, float]
    points: int
    rms_pixels: float
    rings_before: list[Ring]
    rings_after: list[Ring]


def spacings_nm(calibrant: str) -> np.ndarray:
    """Spacings of a calibrant that pyFAI knows, falling.

    Raises
    ------
    InputError
        If pyFAI is not installed, or does not know it.
    """
    return 0.1 * np.asarray(_calibrant(calibrant).dspacing, np.float64)


def refine_geometry(
    exposure: Exposure,
    start: Geometry,
    calibrant: str,
    *,
    rings: int | None = None,
    fix: Collection[str] | None = None,
    most_rms_pixels: float = 2.0,
) -> Refinement:
    """Refine a geometry on a frame of a calibrant.

    Parameters
    ----------
    exposure
        Frame.
    start
        Good enough that each ring is nearer to its place than a quarter of the way to the next.
    calibrant
        pyFAI's name of it: AgBh, LaB6, CeO2, ...
    rings
        So many at most, from the innermost on; None = all.
    fix
        Of ``distance``, ``poni1``, ``poni2``, ``rot1``, ``rot2``: what keeps its value. None = the
        tilts rot1 and rot2 if all rings are within 5 degrees, nothing otherwise. rot3 and the
        wavelength always keep theirs.
    most_rms_pixels
        What points and rings may be off in the end.

    Raises
    ------
    InputError
        If no rings were found, or the result does not put them where they belong.
    """
    if start.parallax is not None or start.corners_m is not None:
        raise InputError(
            "start geometry: expected even pixels without parallax, got others: use pyFAI-calib2"
        )
    d_nm = spacings_nm(calibrant)
    before = find_rings(exposure, start, d_nm, rings)
    where = f"{exposure.name}: {calibrant}"
    if not before:
        raise InputError(f"{where}: expected rings on the detector, the start geometry has none")
    single = _single_geometry(exposure, start, calibrant)
    fixed = _fixed(fix, start, before)
    for extract in (*[_extract] * _ROUNDS, *[_extract_sectors] * _ROUNDS):
        extract(single, exposure, rings)
        count = len(single.geometry_refinement.data)
        if count >= _FEWEST_POINTS:
            _refine(single, fixed)
            _clip(single)
            count = len(single.geometry_refinement.data)
        if count < _FEWEST_POINTS:
            raise InputError(
                f"{where}: no rings found: {count} points on them. Are calibrant, start geometry "
                "and mask right?"
            )
        _refine(single, fixed)
    refined = single.geometry_refinement
    changes = {ours: float(getattr(refined, name)) for name, ours in PARAMETERS.items()}
    geometry = dataclasses.replace(start, **changes)
    after = find_rings(exposure, geometry, d_nm, rings)
    off = _off_pixels(refined)
    result = Refinement(
        start=start,
        geometry=geometry,
        errors=_errors(refined, fixed),
        points=off.size,
        rms_pixels=float(np.sqrt(np.mean(off**2))),
        rings_before=before,
        rings_after=after,
    )
    _require_good(result, where, most_rms_pixels)
    return result


def rms_off_pixels(rings: list[Ring]) -> float:
    """Root mean square of how far the found rings are off; NaN if none was found."""
    off = [ring.off_pixels for ring in rings if ring.found]
    return float(np.sqrt(np.mean(np.square(off)))) if off else math.nan


def poni_text(geometry: Geometry, start_file: Path | None, remarks: list[str]) -> str:
    """PONI file, version 2.1, of a geometry that was refined.

    Where the start was a PONI file of version 2 or 2.1, its detector keeps its name and settings.

    Parameters
    ----------
    geometry
        To be written.
    start_file
        That it was refined from.
    remarks
        Lines of comment.
    """
    lines = geometry.to_poni().splitlines()
    kept: dict[str, str] = {}
    if start_file is not None and start_file.suffix.lower() not in (".dat", ".fit2d"):
        for line in start_file.read_text(encoding="utf-8", errors="replace").splitlines():
            key, colon, _ = line.partition(":")
            if colon and not line.startswith("#"):
                kept[key.strip().lower()] = line.strip()
    if kept.get("poni_version", "").partition(":")[2].strip() in ("2", "2.0", "2.1"):
        names = {"Detector": "detector", "Detector_config": "detector_config"}
        lines = [kept.get(names.get(line.partition(":")[0], ""), line) for line in lines]
    return "\n".join([*(f"# {remark}" for remark in remarks), *lines]) + "\n"


def _calibrant(name: str) -> Any:
    calibrants = _pyfai("calibrant")
    known = {known.lower(): known for known in calibrants.names()}
    if name.lower() not in known:
        raise InputError(
            f"calibrant: expected one that pyFAI knows (AgBh, LaB6, CeO2, Si, ...), got {name}"
        )
    return calibrants.get_calibrant(known[name.lower()])


def _pyfai(module: str) -> Any:
    """A module of pyFAI, which only calibration needs."""
    import importlib

    try:
        return importlib.import_module(f"pyFAI.{module}")
    except ImportError as error:
        raise InputError(
            "calibration of the geometry needs pyFAI: pip install 'nucleate[calibrate]'"
        ) from error


def _single_geometry(exposure: Exposure, start: Geometry, name: str) -> Any:
    unusable = exposure.unusable()
    rows, columns = exposure.image.shape
    detector = _pyfai("detectors").Detector(
        start.pixel1_m, start.pixel2_m, max_shape=(rows, columns), orientation=start.orientation
    )
    detector.mask = unusable.astype(np.int8)
    calibrant = _calibrant(name)
    calibrant.wavelength = start.wavelength_nm * 1e-9
    values = {pyfai: getattr(start, ours) for pyfai, ours in PARAMETERS.items()}
    return _pyfai("goniometer").SingleGeometry(
        "frame",
        np.where(unusable, 0, exposure.image).astype(np.float32),
        calibrant=calibrant,
        detector=detector,
        geometry={**values, "wavelength": calibrant.wavelength},
    )


def _fixed(fix: Collection[str] | None, start: Geometry, rings: list[Ring]) -> list[str]:
    if fix is None:
        q = rings[-1].q_expected_per_nm
        two_theta = 2.0 * math.asin(q * start.wavelength_nm / (4.0 * math.pi))
        named = ["rot1", "rot2"] if two_theta < _LEAST_TILT_ANGLE else []
    else:
        named = [_SPELLED.get(name, name) for name in fix]
        unknown = sorted(set(named) - set(PARAMETERS) - {"wavelength"})
        if unknown:
            raise InputError(
                f"fix: expected of distance, poni1, poni2, rot1, rot2, got {', '.join(unknown)}"
            )
    fixed = list(dict.fromkeys((*named, *_NEVER_FREE)))
    if set(PARAMETERS) <= set(fixed):
        raise InputError("fix: expected something that is left free, got all")
    return fixed


def _extract(single: Any, _: Exposure, rings: int | None) -> None:
    single.extract_cp(max_rings=rings, pts_per_deg=1.0)


def _extract_sectors(single: Any, exposure: Exposure, _: int | None) -> None:
    """Points of the rings that have any, of sectors."""
    refined = single.geometry_refinement
    rows, columns = np.indices(exposure.image.shape, np.float64)
    expected = np.asarray(refined.calibrant.get_2th(), np.float64)
    gaps = np.diff(expected, prepend=0.0)
    gaps[:-1] = np.minimum(gaps[:-1], gaps[1:])
    numbers = sorted({int(number) for number in refined.data[:, 2]})
    points = ring_points(
        single.image,
        ~exposure.unusable(),
        refined.tth(rows.ravel(), columns.ravel()).reshape(rows.shape),
        refined.chi(rows.ravel(), columns.ravel()).reshape(rows.shape),
        {number: float(expected[number]) for number in numbers},
        {number: float(gaps[number]) for number in numbers},
        refined.tth,
    )
    if len(points):
        refined.data = points
        least = _LEAST_ERROR_PIXELS * _pixel_angles(refined)
        # pyFAI multiplies what a point is off by its weight.
        points[:, 3] = 1.0 / np.hypot(points[:, 3], least)
    refined.data = points


def _angles_off(refined: Any) -> np.ndarray:
    """How far points are outside of their rings, in radians of 2theta."""
    rows, columns, rings = refined.data[:, :3].T
    expected = np.asarray(refined.calibrant.get_2th(), np.float64)
    return refined.tth(rows, columns) - expected[rings.astype(int)]


def _pixel_angles(refined: Any) -> np.ndarray:
    """2theta of a pixel's width at each point, along the steepest way, in radians."""
    rows, columns = refined.data[:, 0], refined.data[:, 1]
    along1 = refined.tth(rows + 0.5, columns) - refined.tth(rows - 0.5, columns)
    along2 = refined.tth(rows, columns + 0.5) - refined.tth(rows, columns - 0.5)
    return np.hypot(along1, along2)


def _off_pixels(refined: Any) -> np.ndarray:
    return _angles_off(refined) / _pixel_angles(refined)


def _clip(single: Any) -> None:
    """Leave out points that are far from their ring, and rings of which most points are."""
    refined = single.geometry_refinement
    off = _off_pixels(refined)
    # A pixel is the least that is told apart: points of a perfect frame differ by fractions.
    spread = max(1.4826 * float(np.median(np.abs(off))), 0.25)
    good = np.abs(off) < _CLIP * spread
    rings = refined.data[:, 2]
    for ring in np.unique(rings):
        if good[rings == ring].mean() < 0.5:
            good[rings == ring] = False
    refined.data = refined.data[good]


def _off(refined: Any, free: list[str], values: np.ndarray) -> np.ndarray:
    """How far points are off with other values of what is free, times their weights."""
    parameters = [
        values[free.index(name)] if name in free else getattr(refined, name) for name in PARAMETERS
    ]
    rows, columns, rings, weights = refined.data[:, :4].T
    expected = np.asarray(refined.calibrant.get_2th(), np.float64)
    return (refined.tth(rows, columns, parameters) - expected[rings.astype(int)]) * weights


def _refine(single: Any, fixed: list[str]) -> None:
    """Least squares on pyFAI's points and geometry, to the end.

    pyFAI's own minimiser (SLSQP) leads near, but may stop standard errors away: on silver behenate
    at 2.9 m it stopped six of the distance's.
    """
    refined = single.geometry_refinement
    if refined.data.shape[1] < 4:
        refined.data = np.column_stack([refined.data, np.ones(len(refined.data))])
    refined.refine3(maxiter=_PYFAI_STEPS, fix=fixed)
    free = [name for name in PARAMETERS if name not in fixed]
    first = np.array([getattr(refined, name) for name in free])
    fit = least_squares(lambda values: _off(refined, free, values), first, x_scale="jac")
    found = dict(zip(free, fit.x.tolist(), strict=True))
    values = [found.get(name, getattr(refined, name)) for name in PARAMETERS]
    refined.set_param(values)


def _errors(refined: Any, fixed: list[str]) -> dict[str, float]:
    """Standard errors by the points' scatter, with derivatives by differences."""
    free = [name for name in PARAMETERS if name not in fixed]
    values = np.array([getattr(refined, name) for name in free])
    step = 1e-5
    slopes = [
        (_off(refined, free, values + move) - _off(refined, free, values - move)) / (2.0 * step)
        for move in step * np.eye(len(free))
    ]
    jacobian = np.stack(slopes, axis=1)
    off = _off(refined, free, values)
    variance = float(off @ off) / max(off.size - len(free), 1)
    scale = np.linalg.norm(jacobian, axis=0)
    covariance = np.linalg.pinv((jacobian / scale).T @ (jacobian / scale)) * variance
    return dict(zip(free, (np.sqrt(np.diag(covariance)) / scale).tolist(), strict=True))


def _require_good(result: Refinement, where: str, most_pixels: float) -> None:
    found = [ring for ring in result.rings_after if ring.found]
    if not found:
        raise InputError(
            f"{where}: refined, but no ring stands out of the integrated curve. Are calibrant, "
            "start geometry and mask right?"
        )
    off = rms_off_pixels(result.rings_after)
    if result.rms_pixels > most_pixels or off > most_pixels:
        raise InputError(
            f"{where}: refined, but the points are {result.rms_pixels:.2f} pixels off their rings "
            f"and the integrated rings {off:.2f} (rms), expected at most {most_pixels:g}. Are "
            "calibrant, wavelength and start geometry right?"
        )
