"""Geometry from PONI and NeXus files, against pyFAI."""

import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.kernels.detector_geometry import corner_q_chi, pixel_weights, rotation
from pipeline.reduce.geometry import (
    Geometry,
    GeometryError,
    parse_poni,
    read_geometry,
    read_nexus,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pyFAI

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
    turn = rotation(geometry.rot1_rad, geometry.rot2_rad, geometry.rot3_rad)
    return corner_q_chi(
        shape,
        (geometry.pixel1_m, geometry.pixel2_m),
        geometry.distance_m,
        (geometry.poni1_m, geometry.poni2_m),
        turn,
        geometry.wavelength_nm,
        geometry.flip,
    )


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
        ('"max_shape"', '"splineFile": "x.spline", "max_shape"', "without distortion, got splineFile"),
        ('{"pixel1"', '{"pixel1', "expected JSON for detector_config"),
        ("poni_version: 2", "poni_version: 3\nParallax: True", "expected a sensor with its material"),
        ('"max_shape"', '"orientation": 7, "max_shape"', "orientation 1 to 4, got 7"),
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
    turn = rotation(TILTED.rot1_rad, TILTED.rot2_rad, TILTED.rot3_rad)
    place = (
        TILTED.shape,
        (TILTED.pixel1_m, TILTED.pixel2_m),
        TILTED.distance_m,
        (TILTED.poni1_m, TILTED.poni2_m),
        turn,
        TILTED.flip,
    )
    solid_angle = pixel_weights(*place, True, False, 0.0)
    np.testing.assert_allclose(solid_angle, theirs.solidAngleArray(TILTED.shape), rtol=1e-6)
    polarization = pixel_weights(*place, False, True, 0.95)
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
    ],
)
def test_refuses_nexus_without_units_or_beam(tmp_path, changes, message):
    with pytest.raises(GeometryError, match=message):
        read_nexus(write_nexus(tmp_path / "bad.nxs", **changes))


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
