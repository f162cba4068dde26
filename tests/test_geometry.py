"""Geometry from PONI, NeXus, Nika and Fit2D files, against pyFAI."""

import logging
import math
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.config.reduce import AreaReduction
from pipeline.kernels.detector_geometry import grid_q_chi, rotation
from pipeline.reduce.corrections import static_weights
from pipeline.reduce.geometry import (
    Geometry,
    GeometryError,
    SensorLayer,
    check_on_detector,
    corner_grid_m,
    corner_positions,
    parse_fit2d,
    parse_nika,
    parse_poni,
    read_geometry,
    read_nexus,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pyFAI
    from pyFAI.detectors import ALL_DETECTORS, Detector, NexusDetector
    from pyFAI.geometry import Geometry as PyfaiGeometry

PONI = """# comment: with a colon
poni_version: 2
Detector: Detector
Detector_config: {"pixel1": 7.5e-05, "pixel2": 8e-05, "max_shape": [40, 30]}
Distance: 1.9
Poni1: 0.0015
Poni2: -0.001
Rot1: 0.01
Rot2: -0.02
Rot3: 0.3
Wavelength: 3.3062e-11
"""

TILTED = Geometry(
    distance_m=0.21,
    poni1_m=0.001,
    poni2_m=0.0045,
    wavelength_nm=0.1,
    pixel1_m=75e-6,
    pixel2_m=172e-6,
    rot1_rad=0.21,
    rot2_rad=-0.13,
    rot3_rad=0.7,
    orientation=2,
    shape=(25, 32),
)


def corners(geometry: Geometry, shape):
    return corner_positions(geometry, shape)


def test_reads_version_2():
    geometry = parse_poni(PONI)
    assert geometry.distance_m == 1.9
    assert (geometry.poni1_m, geometry.poni2_m) == (0.0015, -0.001)
    assert (geometry.pixel1_m, geometry.pixel2_m) == (7.5e-5, 8e-5)
    assert (geometry.rot1_rad, geometry.rot2_rad, geometry.rot3_rad) == (0.01, -0.02, 0.3)
    assert geometry.wavelength_nm == pytest.approx(0.033062)
    assert geometry.shape == (40, 30)
    assert geometry.orientation == 3


def test_reads_version_1_and_the_last_of_appended_entries():
    text = "PixelSize1: 7.5e-05\nPixelSize2: 8e-05\nDistance: 1.0\n" + PONI.split("\n", 4)[4]
    geometry = parse_poni(text + "Distance: 2.5\n")
    assert (geometry.pixel1_m, geometry.pixel2_m) == (7.5e-5, 8e-5)
    assert geometry.distance_m == 2.5


def test_reads_orientation_of_version_2_1():
    text = PONI.replace("poni_version: 2", "poni_version: 2.1").replace(
        '"max_shape"', '"orientation": 4, "max_shape"'
    )
    assert parse_poni(text).flip == (False, True)


@pytest.mark.parametrize(
    ("name", "size_m"), [("Pilatus1M", 172e-6), ("Eiger2_4M", 75e-6), ("Lambda2M", 55e-6)]
)
def test_knows_the_pixels_of_named_detectors(name, size_m):
    text = PONI.replace("Detector: Detector", f"Detector: {name}").replace(
        '{"pixel1": 7.5e-05, "pixel2": 8e-05, "max_shape": [40, 30]}', "{}"
    )
    geometry = parse_poni(text)
    assert geometry.pixel1_m == geometry.pixel2_m == size_m
    assert pyFAI.detector_factory(name).pixel1 == pytest.approx(size_m, rel=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("poni_version: 2", "poni_version: 4", "expected poni_version 1, 2, 2.1 or 3, got 4"),
        ("Distance: 1.9", "Distance: far", "expected a number for distance, got 'far'"),
        ("Wavelength: 3.3062e-11\n", "", "expected a number for wavelength, got nothing"),
        ("Distance: 1.9", "Distance: 1900000", "expected distance_m in 0.001 to 1000"),
        ("Rot1: 0.01", "Rot1: nan", "expected a number for rot1_rad"),
        ('"pixel1": 7.5e-05, "pixel2": 8e-05, ', "", "known pixel size, got Detector"),
        (
            '"max_shape"',
            '"splineFile": "x.spline", "max_shape"',
            "got splineFile x",
        ),
        ('{"pixel1"', '{"pixel1', "expected JSON for detector_config"),
        (
            "poni_version: 2",
            "poni_version: 3\nParallax: True",
            "expected a sensor with its",
        ),
        ('"max_shape"', '"orientation": 7, "max_shape"', "orientation 1 to 4, got 7"),
        ('"max_shape"', '"orientation": NaN, "max_shape"', "orientation 1 to 4, got nan"),
        ('"max_shape"', '"orientation": 1e999, "max_shape"', "orientation 1 to 4, got inf"),
        ('"max_shape"', '"orientation": 2.5, "max_shape"', "orientation 1 to 4, got 2.5"),
        ('"max_shape"', '"filename": 3, "max_shape"', "expected text for filename, got 3"),
        ('"max_shape"', '"filename": ["a"], "max_shape"', "expected text for filename, got"),
        ('"max_shape"', '"module_size": 3, "max_shape"', "rows and columns for module_size, got 3"),
        ('"max_shape"', '"module_size": "ab", "max_shape"', "columns for module_size, got 'ab'"),
        ('"max_shape"', '"module_size": [0, 8], "max_shape"', r"columns for module_size, got \[0,"),
        ('"max_shape"', '"module_size": [1e999, 8], "max_shape"', "rows and columns for module_s"),
        ('"pixel1": 7.5e-05', f'"pixel1": 1{"0" * 400}', "expected a number for pixel1, got 1000"),
    ],
)
def test_refuses_with_one_line(old, new, message):
    assert old in PONI
    with pytest.raises(GeometryError, match=message) as caught:
        parse_poni(PONI.replace(old, new), "a.poni")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("a.poni: ")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(GeometryError, match=r"nowhere\.poni: expected a PONI or NeXus file"):
        read_geometry(tmp_path / "nowhere.poni")


def test_written_poni_is_read_by_us_and_by_pyfai(tmp_path):
    path = tmp_path / "tilted.poni"
    path.write_text(TILTED.to_poni())
    # Metres in the file, nm here: the last bit may differ.
    wavelength_nm = read_geometry(path).wavelength_nm
    assert wavelength_nm == pytest.approx(TILTED.wavelength_nm, rel=1e-15)
    assert replace(read_geometry(path), wavelength_nm=TILTED.wavelength_nm) == TILTED
    theirs = pyFAI.load(str(path))
    q, chi = corners(TILTED, TILTED.shape)
    array = theirs.corner_array(TILTED.shape, "q_nm^-1")
    # Corner 0 of a pixel is corner (i, j) of the grid, corner 2 is (i + 1, j + 1).
    np.testing.assert_allclose(q[:-1, :-1], array[:, :, 0, 0], rtol=2e-7)
    np.testing.assert_allclose(q[1:, 1:], array[:, :, 2, 0], rtol=2e-7)
    np.testing.assert_allclose(chi[:-1, :-1], array[:, :, 0, 1], atol=5e-7)


def test_weights_agree_with_pyfai():
    theirs = pyFAI.load(
        {
            "poni_version": 2.1,
            "dist": TILTED.distance_m,
            "poni1": TILTED.poni1_m,
            "poni2": TILTED.poni2_m,
            "rot1": TILTED.rot1_rad,
            "rot2": TILTED.rot2_rad,
            "rot3": TILTED.rot3_rad,
            "wavelength": TILTED.wavelength_nm * 1e-9,
            "detector": "Detector",
            "detector_config": {
                "pixel1": TILTED.pixel1_m,
                "pixel2": TILTED.pixel2_m,
                "max_shape": TILTED.shape,
                "orientation": TILTED.orientation,
            },
        }
    )
    only = AreaReduction(polarization_factor=None)
    solid_angle = static_weights(TILTED, TILTED.shape, only)
    np.testing.assert_allclose(solid_angle, theirs.solidAngleArray(TILTED.shape), rtol=1e-6)
    only = AreaReduction(solid_angle=False, polarization_factor=0.95)
    polarization = static_weights(TILTED, TILTED.shape, only)
    np.testing.assert_allclose(
        polarization, theirs.polarization(TILTED.shape, factor=0.95), rtol=1e-6
    )


def write_nexus(path: Path, **changes) -> Path:
    fields = {
        "distance": (1900.0, "mm"),
        "beam_center_x": (512.5, "pixel"),
        "beam_center_y": (0.03, "m"),
        "x_pixel_size": (75.0, "um"),
        "y_pixel_size": (7.5e-5, "m"),
    } | changes
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        detector = entry.create_group("instrument/eiger")
        detector.attrs["NX_class"] = "NXdetector"
        beam = entry.create_group("sample/beam")
        beam.attrs["NX_class"] = "NXbeam"
        for name, (value, units) in fields.items():
            group = beam if name.startswith("incident") else detector
            group[name] = value
            if units is not None:
                group[name].attrs["units"] = units
    return path


@pytest.mark.parametrize(
    "beam", [{"incident_energy": (37.5, "keV")}, {"incident_wavelength": (0.33062453, "angstrom")}]
)
def test_reads_nexus_with_units(tmp_path, beam):
    geometry = read_geometry(write_nexus(tmp_path / "run.nxs", **beam))
    assert geometry.distance_m == pytest.approx(1.9)
    assert geometry.poni1_m == pytest.approx(0.03)
    assert geometry.poni2_m == pytest.approx(512.5 * 75e-6)
    assert geometry.wavelength_nm == pytest.approx(0.033062453, rel=1e-7)
    assert geometry.pixel1_m == pytest.approx(75e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": (1.9, None)}, "expected units .* for /entry/instrument/eiger/distance"),
        ({"x_pixel_size": (75.0, "furlong")}, "got 'furlong'"),
        ({"incident_energy": (37.5, "keV"), "distance": (1e9, "m")}, "expected distance_m in"),
        ({}, "expected a wavelength or an energy"),
        ({"distance": ("far", "m")}, "expected a number in /entry/.*/distance, got b'far'"),
        ({"distance": (1.9 + 1j, "m")}, "expected a number in /entry/.*/distance, got .*1.9"),
        ({"distance": (np.nan, "m")}, "expected a number in /entry/.*/distance, got nan"),
        ({"incident_energy": (0.0, "keV")}, "incident_energy or energy above 0, got 0"),
    ],
)
def test_refuses_nexus_without_units_or_beam(tmp_path, changes, message):
    with pytest.raises(GeometryError, match=message) as caught:
        read_nexus(write_nexus(tmp_path / "bad.nxs", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("quiet_pyfai")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pixel_size", ["a", "b"], "expected 2 finite numbers in /.*/pixel_size"),
        ("pixel_size", [1e-4], "expected 2 finite numbers in /.*/pixel_size"),
        ("max_shape", ["a", "b"], "expected 2 finite numbers in /.*/max_shape"),
        ("orientation", np.nan, "expected 1 finite number in /.*/orientation"),
        ("pixel_corners", ["a"], "expected numbers in pixel_corners"),
    ],
)
def test_refuses_a_detector_file_with_text_for_numbers(tmp_path, name, value, message):
    path = tmp_path / "even.h5"
    Detector(1e-4, 2e-4, max_shape=(5, 6), orientation=2).save(str(path))
    with h5py.File(path, "r+") as file:
        places: list[str] = []
        file.visit(lambda place: places.append(place))
        (group,) = {place.rpartition("/")[0] for place in places if place.endswith("/pixel_size")}
        if name in file[group]:
            del file[group][name]
        file[group][name] = value
    with pytest.raises(GeometryError, match=message) as caught:
        parse_poni(poni_of("NexusDetector", f'{{"filename": "{path}"}}'))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["SAXS", "WAXS"])
def test_real_poni_gives_pyfai_s_q(data_dir, name):
    path = data_dir / "ssrl_bl1-5_swaxs_2d" / "poni" / f"atT_{name}.poni"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pyFAI.load(str(path))
        array = theirs.corner_array(theirs.detector.shape, "q_nm^-1")
    q, chi = corners(read_geometry(path), theirs.detector.shape)
    np.testing.assert_array_equal(q[:-1, :-1], array[:, :, 0, 0])
    np.testing.assert_array_equal(chi[:-1, :-1], array[:, :, 0, 1])


def poni_of(detector: str, config: str) -> str:
    text = PONI.replace("Detector: Detector", f"Detector: {detector}")
    start, stop = text.index("Detector_config"), text.index("Distance")
    return text[:start] + f"Detector_config: {config}\n" + text[stop:]


@pytest.fixture
def quiet_pyfai():
    """pyFAI warns of much in its own detectors."""
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def test_corners_of_even_pixels_are_those_of_the_simple_kernel():
    for orientation in (1, 2, 3, 4):
        geometry = replace(TILTED, orientation=orientation)
        for ours, simple in zip(
            corner_positions(geometry, TILTED.shape), corners(geometry, TILTED.shape), strict=True
        ):
            np.testing.assert_array_equal(ours, simple)


def test_interpreted_corners_are_the_compiled_ones():
    grid = corner_grid_m(TILTED, TILTED.shape)
    place = (0.2, (0.001, 0.002), rotation(0.1, 0.2, 0.3), 0.1, (5e3, 3e-4))
    for compiled, interpreted in zip(
        grid_q_chi(*grid, *place), grid_q_chi.py_func(*grid, *place), strict=True
    ):
        np.testing.assert_allclose(compiled, interpreted, rtol=2e-7)


@pytest.mark.usefixtures("quiet_pyfai")
def test_every_detector_that_pyfai_names_is_right_or_refused():
    right, refused, known = set(), {}, 0
    for name, make in sorted(ALL_DETECTORS.items()):
        if name == "detector":
            continue
        theirs = make()
        try:
            geometry = parse_poni(poni_of(name, "{}"), "a.poni")
        except GeometryError as error:
            refused[theirs.__class__.__name__] = str(error)
            continue
        right.add(theirs.__class__.__name__)
        assert geometry.pixel1_m == pytest.approx(theirs.pixel1, rel=1e-12), name
        assert geometry.pixel2_m == pytest.approx(theirs.pixel2, rel=1e-12), name
        assert (geometry.corners_m is None) == theirs.uniform_pixel, name
        assert theirs.IS_FLAT, name
        assert geometry.shape in (None, theirs.max_shape), name
        known += geometry.shape is not None and theirs.uniform_pixel
        if geometry.corners_m is not None:
            assert geometry.shape == theirs.max_shape
            at = theirs.get_pixel_corners()
            for corner, (i, j) in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
                ours = geometry.corners_m[i : i + at.shape[0], j : j + at.shape[1]]
                np.testing.assert_allclose(ours, at[:, :, corner, 1:], atol=1e-8)
    assert known > 80
    assert {"Pilatus1M", "Eiger2_4M", "Pilatus4_1M", "Jungfrau", "ImXPadS140"} <= right
    # Curved, hexagonal, or of modules that stand apart.
    assert {"Aarhus", "Rapid", "Cirpad", "Xpad_flat", "Pixirad1"} <= set(refused)
    assert not any("\n" in line for line in refused.values())


@pytest.mark.usefixtures("quiet_pyfai")
@pytest.mark.parametrize("name", ["Jungfrau", "ImXPadS140"])
def test_uneven_pixels_lie_where_pyfai_puts_them(tmp_path, name):
    path = tmp_path / "uneven.poni"
    path.write_text(poni_of(name, '{"orientation": 3}').replace("version: 2", "version: 2.1"))
    geometry = read_geometry(path)
    theirs = pyFAI.load(str(path))
    array = theirs.corner_array(theirs.detector.shape, "q_nm^-1")
    q, chi = corner_positions(geometry, theirs.detector.shape)
    np.testing.assert_allclose(q[:-1, :-1], array[:, :, 0, 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(q[1:, 1:], array[:, :, 2, 0], rtol=1e-6, atol=1e-6)
    far = q[:-1, :-1] > 0.01
    np.testing.assert_allclose(chi[:-1, :-1][far], array[:, :, 0, 1][far], atol=1e-4)


@pytest.mark.parametrize(
    ("detector", "config", "message"),
    [
        ("Aarhus", '{"pixel1": 2.5e-05, "pixel2": 2.5e-05}', "flat detector whose pixels are a gr"),
        ("Pixirad1", "{}", "flat detector whose pixels are a grid, got Pixirad1"),
        ("Jungfrau", '{"orientation": 2}', "orientation 3 for a detector of uneven pixels"),
        ("Jungfrau", '{"max_shape": [500, 1024]}', "whole modules of 256 x 256 pixels"),
        ("NexusDetector", '{"filename": "no.h5"}', "expected the detector's NeXus file"),
        ("Detector", '{"pixel1": 1e-4, "pixel2": 1e-4, "max_shape": 5}', "rows and columns"),
    ],
)
def test_refuses_detectors_it_cannot_place(detector, config, message):
    with pytest.raises(GeometryError, match=message) as caught:
        parse_poni(poni_of(detector, config), "a.poni")
    assert "\n" not in str(caught.value)


def distorted(shape=(12, 17)) -> np.ndarray:
    """Corners of pixels behind optics, (rows + 1, columns + 1, 2)."""
    i, j = np.meshgrid(*(np.arange(length + 1.0) for length in shape), indexing="ij")
    return np.stack([(i + 0.01 * j**1.5) * 1e-4, (j - 0.003 * i**2) * 1e-4], axis=-1)


def saved_detector(path: Path, grid: np.ndarray, gap_m: float = 0.0) -> Path:
    rows, columns = grid.shape[0] - 1, grid.shape[1] - 1
    corners = np.zeros((rows, columns, 4, 3), np.float32)
    for corner, (i, j) in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
        corners[:, :, corner, 1:] = grid[i : i + rows, j : j + columns]
    corners[rows // 2 :, :, :, 1] += gap_m
    detector = Detector(1e-4, 1e-4, max_shape=(rows, columns), orientation=3)
    detector.set_pixel_corners(corners)
    detector.save(str(path))
    return path


@pytest.mark.usefixtures("quiet_pyfai")
def test_distorted_detector_comes_from_a_file_of_pyfai_s(tmp_path):
    grid = distorted()
    saved_detector(tmp_path / "detector.h5", grid)
    poni = tmp_path / "distorted.poni"
    poni.write_text(poni_of("NexusDetector", '{"filename": "detector.h5"}'))
    geometry = read_geometry(poni)
    assert geometry.shape == (12, 17)
    np.testing.assert_allclose(geometry.corners_m, grid, atol=1e-9)
    theirs = PyfaiGeometry(
        1.9,
        0.0015,
        -0.001,
        0.01,
        -0.02,
        0.3,
        detector=NexusDetector(str(tmp_path / "detector.h5")),
        wavelength=3.3062e-11,
    )
    array = theirs.corner_array((12, 17), "q_nm^-1")
    q, chi = corner_positions(geometry, (12, 17))
    np.testing.assert_allclose(q[1:, 1:], array[:, :, 2, 0], rtol=1e-6)
    np.testing.assert_allclose(chi[1:, :-1], array[:, :, 1, 1], atol=1e-6)
    with pytest.raises(GeometryError, match=r"frames of \(12, 17\)"):
        corner_positions(geometry, (12, 18))
    with pytest.raises(GeometryError, match="expected even pixels"):
        geometry.to_poni()


@pytest.mark.usefixtures("quiet_pyfai")
def test_detector_file_without_corners_is_even(tmp_path):
    detector = Detector(1e-4, 2e-4, max_shape=(5, 6), orientation=2)
    detector.save(str(tmp_path / "even.h5"))
    geometry = parse_poni(poni_of("NexusDetector", '{"filename": "even.h5"}'), "a", tmp_path)
    assert (geometry.pixel1_m, geometry.pixel2_m) == (1e-4, 2e-4)
    assert (geometry.shape, geometry.orientation, geometry.corners_m) == ((5, 6), 2, None)


@pytest.mark.usefixtures("quiet_pyfai")
def test_detector_file_with_gaps_is_refused(tmp_path):
    path = saved_detector(tmp_path / "gaps.h5", distorted(), gap_m=1e-5)
    with pytest.raises(GeometryError, match="gaps of 10 um"):
        parse_poni(poni_of("NexusDetector", f'{{"filename": "{path}"}}'))
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(GeometryError, match="expected a NeXus file") as caught:
        read_geometry(tmp_path / "text.h5")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("quiet_pyfai")
def test_parallax_of_a_poni_file_is_pyfai_s(tmp_path):
    path = tmp_path / "thick.poni"
    text = poni_of(
        "Detector",
        '{"pixel1": 1e-3, "pixel2": 1e-3, "max_shape": [90, 80], "orientation": 3, '
        '"sensor": {"material": "CdTe", "thickness": 0.001}}',
    )
    text = text.replace("poni_version: 2", "poni_version: 3").replace("1.9", "0.1")
    path.write_text(text + "Parallax: True\n")
    geometry = read_geometry(path)
    assert geometry.parallax == SensorLayer("CdTe", 0.001)
    theirs = pyFAI.load(str(path))
    layer = (theirs.parallax.sensor.mu, theirs.parallax.sensor.thickness)
    array = theirs.corner_array((90, 80), "q_nm^-1")
    q, _ = corner_positions(geometry, (90, 80), layer)
    np.testing.assert_allclose(q[1:, 1:], array[:, :, 2, 0], rtol=1e-6)
    bare, _ = corner_positions(geometry, (90, 80))
    assert np.abs(q / bare - 1.0).max() > 5e-4
    (tmp_path / "again.poni").write_text(geometry.to_poni())
    assert read_geometry(tmp_path / "again.poni").parallax == geometry.parallax
    assert pyFAI.load(str(tmp_path / "again.poni")).parallax is not None


FIT2D = """# Fit2D, mm, pixels, degrees, um, Angstrom
directDist = {distance}
centerX = {x}
centerY = {y}
tilt = {tilt}
tiltPlanRotation: {towards}
pixelX = 75
pixelY = 172   # not square
wavelength = 0.9
"""


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    distance=st.floats(50.0, 5000.0),
    x=st.floats(-500.0, 1500.0),
    y=st.floats(-500.0, 1500.0),
    # pyFAI's own arc cosine loses tilts below 1e-5 degrees.
    tilt=st.just(0.0) | st.floats(0.01, 60.0) | st.floats(-60.0, -0.01),
    towards=st.floats(-180.0, 180.0),
)
def test_fit2d_is_pyfai_s_conversion_and_back(distance, x, y, tilt, towards):
    ours = parse_fit2d(FIT2D.format(distance=distance, x=x, y=y, tilt=tilt, towards=towards))
    theirs = PyfaiGeometry(wavelength=0.9e-10)
    theirs.setFit2D(distance, x, y, tilt, towards, 75.0, 172.0, wavelength=0.9)
    assert ours.distance_m == pytest.approx(theirs.dist, rel=1e-12)
    assert ours.poni1_m == pytest.approx(theirs.poni1, abs=1e-12)
    assert ours.poni2_m == pytest.approx(theirs.poni2, abs=1e-12)
    # pyFAI goes by arc cosines, which leave half of the digits near 0.
    assert ours.rot1_rad == pytest.approx(theirs.rot1, abs=1e-7)
    assert ours.rot2_rad == pytest.approx(theirs.rot2, abs=1e-7)
    assert ours.rot3_rad == pytest.approx(theirs.rot3, abs=1e-7)
    assert (ours.pixel1_m, ours.pixel2_m) == pytest.approx((172e-6, 75e-6))
    assert ours.wavelength_nm == pytest.approx(0.09)
    back = PyfaiGeometry(
        ours.distance_m,
        ours.poni1_m,
        ours.poni2_m,
        ours.rot1_rad,
        ours.rot2_rad,
        ours.rot3_rad,
        detector=Detector(172e-6, 75e-6),
        wavelength=0.9e-10,
    ).getFit2D()
    assert back["directDist"] == pytest.approx(distance, rel=1e-9)
    assert back["centerX"] == pytest.approx(x, abs=1e-5)
    assert back["centerY"] == pytest.approx(y, abs=1e-5)
    assert back["tilt"] == pytest.approx(abs(tilt), abs=1e-5)
    if tilt != 0.0:
        turned = math.radians(back["tiltPlanRotation"] - towards - (180.0 if tilt < 0 else 0.0))
        assert math.cos(turned) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tilt = 5", "tilt = 95", "tilt below 90 degrees, got 95"),
        ("tiltPlanRotation: 10", "", "expected tiltPlanRotation beside a tilt"),
        ("pixelX = 75", "pixelX = wide", "number for pixelx, got 'wide'"),
        ("directDist = 200", "directDist = 0", "expected distance_m in"),
        ("wavelength = 0.9", "", "number for wavelength, got nothing"),
    ],
)
def test_refuses_fit2d_with_one_line(tmp_path, old, new, message):
    text = FIT2D.format(distance=200, x=1, y=2, tilt=5, towards=10)
    assert old in text
    (tmp_path / "a.fit2d").write_text(text)
    assert read_geometry(tmp_path / "a.fit2d").wavelength_nm == pytest.approx(0.09)
    (tmp_path / "a.fit2d").write_text(text.replace(old, new))
    with pytest.raises(GeometryError, match=message) as caught:
        read_geometry(tmp_path / "a.fit2d")
    assert str(caught.value).startswith(str(tmp_path / "a.fit2d"))
    assert "\n" not in str(caught.value)


NIKA = """# from the panel of Nika
SampleToCCDDistance = 402.53
BeamCenterX = 325.03
BeamCenterY = 294.7
PixelSizeX = 0.075
PixelSizeY = 0.172
HorizontalTilt = {horizontal}
VerticalTilt = {vertical}
Wavelength = 0.59
X = {first}
"""


@pytest.mark.parametrize("first", ["rows", "columns"])
@pytest.mark.parametrize("tilts", [(0.0, 0.0), (-8.97, 8.974), (12.0, -3.0), (0.3, 40.0)])
def test_nika_s_tilts_are_one_rotation_vector(first, tilts):
    """Pixels' angles from the vector's rotation, by scipy, about the point that the beam meets."""
    ours = parse_nika(NIKA.format(horizontal=tilts[0], vertical=tilts[1], first=first))
    turn = Rotation.from_rotvec(np.radians([tilts[1], tilts[0], 0.0])).as_matrix()
    x, y = np.meshgrid(np.arange(0.0, 600.0, 50.0), np.arange(0.0, 500.0, 50.0), indexing="ij")
    off = np.stack([(x - 325.03) * 0.075, (y - 294.7) * 0.172, np.zeros_like(x)], axis=-1)
    place = off @ turn.T + [0.0, 0.0, 402.53]
    two_theta = np.arctan2(np.hypot(place[..., 0], place[..., 1]), place[..., 2])
    q = 4.0 * np.pi / 0.059 * np.sin(two_theta / 2.0)
    # Whole numbers are centres of pixels in Nika.
    size1_m, size2_m = (75e-6, 172e-6) if first == "rows" else (172e-6, 75e-6)
    assert (ours.pixel1_m, ours.pixel2_m) == pytest.approx((size1_m, size2_m))
    rows, columns = (x, y) if first == "rows" else (y, x)
    seen, _ = grid_q_chi(
        (rows + 0.5) * size1_m,
        (columns + 0.5) * size2_m,
        ours.distance_m,
        (ours.poni1_m, ours.poni2_m),
        rotation(ours.rot1_rad, ours.rot2_rad, ours.rot3_rad),
        ours.wavelength_nm,
        (0.0, 0.0),
    )
    np.testing.assert_allclose(seen, q, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("tilts", "tilt_deg", "towards_deg"),
    # One detector, LaB6, calibrated by Nika and by pyFAI at APS 12-ID-E in April 2025; the
    # pairs are published with Matilda (github.com/APS-USAXS/Matilda).
    [
        ((0.03, 9.29), 9.16, 0.995),
        ((-8.485, -0.526), 8.9744, 90.0),
        ((-8.97, 8.974), 12.78, 45.7),
        ((-6.713, 5.441), 8.52, 51.2),
        ((0.316, -9.5), 9.45, -178.9),
    ],
)
def test_nika_s_tilts_have_the_signs_of_real_calibrations(tilts, tilt_deg, towards_deg):
    ours = parse_nika(NIKA.format(horizontal=tilts[0], vertical=tilts[1], first="rows"))
    fit2d = parse_fit2d(FIT2D.format(distance=402.53, x=1, y=1, tilt=tilt_deg, towards=towards_deg))
    normals = [rotation(g.rot1_rad, g.rot2_rad, g.rot3_rad)[:, 2] for g in (ours, fit2d)]
    # The two fits agree to a fraction of a degree.
    assert math.degrees(math.acos(min(1.0, normals[0] @ normals[1]))) < 0.8


def test_nika_with_the_names_of_metadata_and_energy(tmp_path):
    (tmp_path / "waxs.dat").write_text(
        "distance: 402.53\nwaxs_ccd_center_x_pixel: 325.03\nwaxs_ccd_center_y_pixel: 294.7\n"
        "waxs_ccd_pixel_size_x: 0.075\nwaxs_ccd_pixel_size_y: 0.172\nwaxs_ccd_tilt_x: 1\n"
        "waxs_ccd_tilt_y: 2\nXrayEnergy: 21\nX: rows\n"
    )
    named = parse_nika(NIKA.format(horizontal=1, vertical=2, first="rows"))
    energy = read_geometry(tmp_path / "waxs.dat")
    assert energy.wavelength_nm == pytest.approx(0.059040, rel=1e-5)
    assert replace(energy, wavelength_nm=named.wavelength_nm) == named


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("X = rows", "", "expected X = rows .* got nothing"),
        ("X = rows", "X = left", "got left"),
        ("BeamCenterY = 294.7", "", "number for beamcentery, got nothing"),
        ("HorizontalTilt = 1", "HorizontalTilt = a bit", "number for horizontaltilt"),
        ("Wavelength = 0.59", "XrayEnergy = 0", "XrayEnergy above 0"),
    ],
)
def test_refuses_nika_with_one_line(old, new, message):
    text = NIKA.format(horizontal=1, vertical=2, first="rows")
    assert old in text
    with pytest.raises(GeometryError, match=message) as caught:
        parse_nika(text.replace(old, new), "a.dat")
    assert str(caught.value).startswith("a.dat: ")
    assert "\n" not in str(caught.value)


def test_beam_on_the_detector_needs_no_note():
    upright = Geometry(2.0, 0.05, 0.05, 0.1, 1e-4, 1e-4)
    assert check_on_detector(upright, (1000, 1000)) is None
    # By a tilt of 0.1 the beam stands 0.2 m beside the point of normal incidence.
    tilted = replace(upright, rot1_rad=0.1)
    note = check_on_detector(tilted, (1000, 1000))
    assert note is not None
    assert check_on_detector(replace(tilted, poni2_m=0.25), (1000, 1000)) is None


def test_beam_beside_the_detector_is_noted():
    beside = Geometry(0.2, 0.05, -0.03, 0.1, 1e-4, 1e-4)
    note = check_on_detector(beside, (1000, 1000))
    assert note is not None
    assert "0 rows and 300 columns off" in note
    assert "q is from 9.346" in note
    behind = check_on_detector(replace(beside, rot1_rad=2.0), (1000, 1000))
    assert behind is not None
    assert "never meets its plane" in behind


def test_beam_centre_in_wrong_units_is_refused():
    with pytest.raises(GeometryError, match="are the numbers in metres"):
        check_on_detector(Geometry(2.0, 512.0, 480.0, 0.1, 1e-4, 1e-4), (1000, 1000))


@pytest.mark.real_data
def test_nika_s_parameters_of_a_real_frame_put_rings_on_circles(data_dir):
    """LaB6 on an EIGER2 that Nika calibrated: q of its lines in thirds of the detector.

    The file's distance is known to be 0.43 % off, so lines share one factor; that they share it all
    over the detector is what the beam's centre, X = rows and the tilts must give.
    """
    with h5py.File(data_dir / "aps_12IDE_eiger_nexus" / "WAXS_LaB6_AgBeh_eiger2.hdf") as file:
        metadata = {name: node[()] for name, node in file["entry/Metadata"].items()}
        distance_mm = file["entry/instrument/detector/distance"][0]
        image = file["entry/data/data"][()]
    lines = [f"{name}: {metadata[name][0]}" for name in metadata if name.startswith("waxs_ccd_")]
    lines += [f"wavelength: {metadata['wavelength'][0]}", f"distance: {distance_mm}", "X: rows"]
    geometry = parse_nika("\n".join(lines))
    assert "697 columns off" in str(check_on_detector(geometry, image.shape))
    q, _ = corner_positions(geometry, image.shape)
    centre = 0.25 * (q[1:, 1:] + q[:-1, :-1] + q[1:, :-1] + q[:-1, 1:])
    factors = []
    for rows in (slice(0, 170), slice(170, 340), slice(340, 512)):
        counted = image[rows] < 2**31
        at, counts = centre[rows][counted], image[rows][counted].astype(np.float64)
        # h^2 + k^2 + l^2 of LaB6, a = 0.41569 nm (NIST SRM 660c).
        for squares in (2, 3, 4, 5, 6, 8, 9):
            expected = 2.0 * math.pi / 0.41569 * math.sqrt(squares)
            edges = expected * np.linspace(0.99, 1.02, 61)
            pixels = np.histogram(at, edges)[0]
            if not pixels.all():
                continue
            curve = np.histogram(at, edges, weights=counts)[0] / pixels
            peak = np.clip(curve - np.quantile(curve, 0.3), 0.0, None)
            peak[peak < 0.3 * peak.max()] = 0.0
            middles = 0.5 * (edges[1:] + edges[:-1])
            factors.append((peak * middles).sum() / peak.sum() / expected)
    assert len(factors) >= 15
    assert np.mean(factors) == pytest.approx(1.0043, abs=5e-4)
    assert np.std(factors) < 6e-4
