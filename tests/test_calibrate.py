"""Calibration: known geometries and scales come back within their errors; real standards."""

import dataclasses
import math
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.bus import SpoolWriter
from pipeline.calibrate.exposures import read_exposure
from pipeline.calibrate.refinement import poni_text, refine_geometry, spacings_nm
from pipeline.calibrate.rings import find_rings
from pipeline.calibrate.scale import fit_scale
from pipeline.calibrate.standards import glassy_carbon, water
from pipeline.cli import main
from pipeline.config.reduce import AreaReduction
from pipeline.messages import ImageFrame, StreamEnd, StreamStart
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry, parse_poni, read_geometry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pyFAI
    import pyFAI.calibrant
    import pyFAI.detectors
    import pyFAI.goniometer
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

SHAPE = (400, 420)
SMALL_ANGLES = {
    "distance_m": 0.8,
    "poni1_m": 0.030,
    "poni2_m": 0.041,
    "wavelength_nm": 0.1,
    "pixel1_m": 172e-6,
    "pixel2_m": 172e-6,
}
WIDE_ANGLES = SMALL_ANGLES | {
    "distance_m": 0.16,
    "poni1_m": 0.034,
    "poni2_m": 0.036,
    "rot1_rad": -0.30,
    "rot2_rad": 0.05,
}


def integrator_of(geometry: Geometry) -> AzimuthalIntegrator:
    return AzimuthalIntegrator(
        dist=geometry.distance_m,
        poni1=geometry.poni1_m,
        poni2=geometry.poni2_m,
        rot1=geometry.rot1_rad,
        rot2=geometry.rot2_rad,
        rot3=geometry.rot3_rad,
        detector=pyFAI.detectors.Detector(geometry.pixel1_m, geometry.pixel2_m, max_shape=SHAPE),
        wavelength=geometry.wavelength_nm * 1e-9,
    )


def same(one: Geometry, other: Geometry) -> bool:
    near = math.isclose(one.wavelength_nm, other.wavelength_nm, rel_tol=1e-14)
    return near and dataclasses.replace(one, wavelength_nm=other.wavelength_nm) == other


def frame_of(geometry: Geometry, calibrant: str, peak: float, fwhm_deg: float, seed: int):
    """pyFAI's picture of a calibrant, with counting noise."""
    found = pyFAI.calibrant.get_calibrant(calibrant)
    found.wavelength = geometry.wavelength_nm * 1e-9
    picture = found.fake_calibration_image(
        integrator_of(geometry), shape=SHAPE, Imax=peak, Imin=5.0, resolution=fwhm_deg
    )
    return np.random.default_rng(seed).poisson(picture).astype("<u4")


@pytest.fixture
def agbh(tmp_path) -> Path:
    path = tmp_path / "agbh.npy"
    np.save(path, frame_of(Geometry(**SMALL_ANGLES), "AgBh", 60.0, 0.04, 1))
    return path


class Done:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def command(capsys) -> Iterator:
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", *map(str, arguments)])
        told = capsys.readouterr()
        return Done(int(ended.value.code or 0), told.out, told.err)

    yield run
    signal.signal(signal.SIGTERM, before)


def refused(done: Done) -> str:
    assert done.code == 1, done.out + done.err
    (line,) = done.err.strip().splitlines()
    return line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("true", "moved", "calibrant", "fwhm_deg"),
    [
        (SMALL_ANGLES, {"distance_m": 0.803, "poni1_m": 0.0305, "poni2_m": 0.0407}, "AgBh", 0.04),
        (
            WIDE_ANGLES,
            {"distance_m": 0.1605, "poni1_m": 0.0343, "poni2_m": 0.0358, "rot1_rad": -0.302},
            "LaB6",
            0.15,
        ),
    ],
)
def test_a_known_geometry_comes_back_within_its_errors(true, moved, calibrant, fwhm_deg, tmp_path):
    truth, start = Geometry(**true), Geometry(**(true | moved))
    path = tmp_path / "frame.npy"
    np.save(path, frame_of(truth, calibrant, 200.0, fwhm_deg, 3))
    result = refine_geometry(read_exposure(path), start, calibrant)
    attributes = {"dist": "distance_m"} | {
        name: f"{name}_{unit}"
        for name, unit in (("poni1", "m"), ("poni2", "m"), ("rot1", "rad"), ("rot2", "rad"))
    }
    free = {"dist", "poni1", "poni2"} | ({"rot1", "rot2"} if calibrant == "LaB6" else set())
    assert result.errors.keys() == free
    for name, error in result.errors.items():
        off = getattr(result.geometry, attributes[name]) - getattr(truth, attributes[name])
        assert abs(off) < 4.0 * error, (name, off, error)
    # And the errors are small: of a hundredth of a percent, and of tenths of a pixel and mrad.
    assert result.errors["dist"] < 3e-4 * truth.distance_m
    if calibrant == "AgBh":
        assert result.errors["poni1"] < 0.1 * truth.pixel1_m
    assert result.rms_pixels < 0.3
    found = [ring for ring in result.rings_after if ring.found]
    assert len(found) >= 4
    for ring in found:
        assert abs(ring.off_pixels) < 0.1
        assert ring.d_nm == pytest.approx(spacings_nm(calibrant)[ring.number], rel=2e-3)
    assert result.geometry.wavelength_nm == truth.wavelength_nm


@pytest.mark.slow
def test_what_is_fixed_stays(agbh):
    start = Geometry(**(SMALL_ANGLES | {"distance_m": 0.802, "poni1_m": 0.0302}))
    result = refine_geometry(read_exposure(agbh), start, "AgBh", fix=["distance", "rot1", "rot2"])
    assert result.geometry.distance_m == 0.802
    assert result.errors.keys() == {"poni1", "poni2"}
    with pytest.raises(InputError, match="got tilt"):
        refine_geometry(read_exposure(agbh), start, "AgBh", fix=["tilt"])
    names = ["distance", "poni1", "poni2", "rot1", "rot2"]
    with pytest.raises(InputError, match="left free"):
        refine_geometry(read_exposure(agbh), start, "AgBh", fix=names)


@pytest.mark.slow
def test_command_writes_what_pyfai_reads(agbh, tmp_path, command):
    start, to = tmp_path / "start.poni", tmp_path / "new.poni"
    start.write_text(
        "# of last week\nponi_version: 2.1\nDetector: Detector\n"
        'Detector_config: {"pixel1": 0.000172, "pixel2": 0.000172, "max_shape": [400, 420], '
        '"orientation": 3}\n'
        "Distance: 0.803\nPoni1: 0.0305\nPoni2: 0.0407\nRot1: 0\nRot2: 0\nRot3: 0\n"
        "Wavelength: 1e-10\n"
    )
    given = ("geometry", agbh, "--poni", start, "--calibrant", "AgBh", "--to", to)
    done = command(*given)
    assert done.code == 0, done.err
    assert "rot1 deg" in done.out
    assert "fixed" in done.out
    assert f"written: {to}" in done.out
    theirs = pyFAI.load(str(to))
    assert theirs.dist == pytest.approx(0.8, rel=3e-4)
    assert read_geometry(to).shape == SHAPE
    written = to.read_bytes()
    assert b"agbh.npy" in written
    assert "exists already" in refused(command(*given))
    assert to.read_bytes() == written
    assert command(*given, "--force").code == 0
    assert list(tmp_path.glob("*.partial")) == []


@pytest.mark.slow
def test_nothing_is_written_where_nothing_was_found(agbh, tmp_path, command):
    start, to = tmp_path / "start.poni", tmp_path / "new.poni"
    start.write_text(Geometry(**SMALL_ANGLES).to_poni())
    noise = tmp_path / "noise.npy"
    np.save(noise, np.random.default_rng(2).poisson(20.0, SHAPE).astype("<u4"))
    given = ("--poni", start, "--to", to)
    assert "no ring" in refused(command("geometry", noise, *given))
    assert "expected at most" in refused(
        command("geometry", agbh, *given, "--calibrant", "AgBh", "--max-rms", "0.001")
    )
    assert "LaB6" in refused(command("geometry", agbh, *given, "--calibrant", "LaB6"))
    assert "pyFAI knows" in refused(command("geometry", agbh, *given, "--calibrant", "cheese"))
    raw = tmp_path / "frame.raw"
    raw.write_bytes(np.load(agbh).tobytes())
    assert "--shape" in refused(command("geometry", raw, *given))
    assert "ROWS,COLUMNS" in refused(command("geometry", raw, *given, "--shape", "400x420"))
    assert "no such file" in refused(command("geometry", tmp_path / "no.npy", *given))
    assert "no folder" in refused(
        command("geometry", agbh, "--poni", start, "--to", tmp_path / "no" / "new.poni")
    )
    assert not to.exists()
    given = (*given, "--shape", "400,420", "--dtype", "<u4")
    assert command("geometry", raw, *given).code == 0
    assert to.exists()


def test_without_pyfai_one_line_says_what_to_install(agbh, tmp_path, command, monkeypatch):
    start = tmp_path / "start.poni"
    start.write_text(Geometry(**SMALL_ANGLES).to_poni())
    monkeypatch.setitem(sys.modules, "pyFAI.calibrant", None)
    line = refused(command("geometry", agbh, "--poni", start, "--to", tmp_path / "new.poni"))
    assert "pip install 'nucleate[calibrate]'" in line


def test_a_detector_keeps_its_name(tmp_path):
    start = tmp_path / "start.poni"
    start.write_text(
        'poni_version: 2.1\nDetector: Pilatus1M\nDetector_config: {"orientation": 3}\n'
        "Distance: 3\nPoni1: 0.1\nPoni2: 0.1\nRot1: 0\nRot2: 0\nRot3: 0\nWavelength: 1e-10\n"
    )
    text = poni_text(read_geometry(start), start, ["remark"])
    assert "Detector: Pilatus1M\n" in text
    # In nm the wavelength is off by its last digit.
    assert same(parse_poni(text), read_geometry(start))
    # Of what is no PONI file, pixels are spelled out.
    other = Geometry(**SMALL_ANGLES)
    assert same(parse_poni(poni_text(other, tmp_path / "no.dat", [])), other)


def test_frames_of_a_recording_of_ours(tmp_path):
    start = StreamStart(
        "saxs",
        "r",
        "image",
        (4, 5),
        "<u4",
        {"pixel_mask": np.eye(4, 5, dtype="<u4")},
        {"poni": Geometry(**SMALL_ANGLES).to_poni()},
    )
    path = tmp_path / "saxs.h5"
    with SpoolWriter(path, start) as spool:
        for number in range(3):
            image = np.full((4, 5), number, "<u4")
            image[0, 4] = 2**32 - 1
            spool.append(ImageFrame("saxs", number, 10**9 * (number + 1), 0.5, image, 0.9, 0.7))
        spool.close(StreamEnd("saxs", "r", 3))
    mask = tmp_path / "mask.npy"
    np.save(mask, np.arange(20).reshape(4, 5) == 15)
    exposure = read_exposure(path, frame=2, mask=mask)
    assert (exposure.image[1:] == 2).all()
    assert (exposure.exposure_s, exposure.monitor, exposure.transmission) == (0.5, 0.9, 0.7)
    assert same(parse_poni(exposure.poni or ""), Geometry(**SMALL_ANGLES))
    expected = np.eye(4, 5, dtype=bool)
    expected[3, 0] = expected[0, 4] = True
    np.testing.assert_array_equal(exposure.unusable(), expected)
    with pytest.raises(InputError, match="frame from 0 to 2, got 3"):
        read_exposure(path, frame=3)
    with pytest.raises(InputError, match="--stream"):
        read_exposure(path, stream="waxs")


@pytest.fixture(scope="module")
def standards(data_dir) -> Path:
    return data_dir / "ssrl_bl1-5_swaxs_2d" / "poni"


@pytest.mark.real_data
def test_rings_of_silver_behenate(standards):
    """With the beamline's PONI the innermost ring is at the certified 58.380 A within 0.15 %."""
    exposure = read_exposure(
        standards / "sone_Standards_AgBeh_T20_ctr0_scan1_0000.cbf.gz",
        mask=standards / "RT_SAXS_mask_03.edf.gz",
    )
    start = read_geometry(standards / "atT_SAXS.poni")
    before = find_rings(exposure, start, spacings_nm("AgBh"))
    assert [ring.number for ring in before] == [0, 1]
    for ring in before:
        assert ring.d_nm == pytest.approx(5.838 / (ring.number + 1), rel=1.5e-3)
    result = refine_geometry(exposure, start, "AgBh")
    # The beamline's own distance is 2909.7 mm, that of another refit 2910.8.
    assert result.geometry.distance_m == pytest.approx(2.9097, rel=1e-3)
    assert result.errors["dist"] < 0.5e-3
    assert result.rms_pixels < 0.5
    for ring in result.rings_after:
        assert ring.d_nm == pytest.approx(5.838 / (ring.number + 1), rel=6e-4)


@pytest.mark.real_data
def test_rings_of_lanthanum_hexaboride(standards):
    """Six lines, of a = 4.156826 A, on a tilted detector at 158 mm."""
    exposure = read_exposure(
        standards / "b_tassone_Standards_LaB6_T20_ctr0_scan1_0000.cbf.gz",
        mask=standards / "RT_WAXS_mask.edf",
    )
    start = read_geometry(standards / "atT_WAXS.poni")
    edges_nm = 0.4156826 / np.sqrt([1, 2, 3, 4, 5, 6])
    before = find_rings(exposure, start, edges_nm)
    assert len(before) == 6
    for ring, d_nm in zip(before, edges_nm, strict=True):
        assert ring.d_nm == pytest.approx(d_nm, rel=2e-4)
    result = refine_geometry(exposure, start, "LaB6")
    assert result.geometry.distance_m == pytest.approx(start.distance_m, rel=1e-3)
    assert result.rms_pixels < 0.2
    for ring, d_nm in zip(result.rings_after, edges_nm, strict=True):
        assert ring.d_nm == pytest.approx(d_nm, rel=1e-4)


def test_certified_values_of_glassy_carbon():
    """NIST SRM 3600, Table 1, at some of its q; monotonic between them."""
    standard = glassy_carbon()
    q = np.array([0.00827568, 0.0294317, 0.0979, 0.156513, 0.247402]) * 10.0
    values = [34.933380, 28.889970, 23.945, 14.587700, 4.463604]
    np.testing.assert_allclose(standard.per_cm(q), values, rtol=1e-4)
    assert standard.q_range_per_nm == pytest.approx((0.0827568, 2.47402))
    assert (np.diff(standard.per_cm(np.linspace(0.083, 2.47, 2000))) < 0).all()


def test_water_follows_its_compressibility():
    """Against density^2 T kappa of IAPWS-95 (kappa, rho at 0.101325 MPa)."""
    table = {
        5: (4.916853822, 999.9667),
        10: (4.780829642, 999.7026),
        20: (4.589128995, 998.2072),
        25: (4.524617174, 997.0476),
        30: (4.476921593, 995.6488),
        40: (4.423755184, 992.2152),
    }

    def formula(celsius):
        kappa, density = table[celsius]
        return density**2 * (celsius + 273.15) * kappa

    assert water().per_cm(np.array([2.0])) == pytest.approx(0.01632)
    for celsius in table:
        expected = 0.01632 * formula(celsius) / formula(20)
        assert water(celsius).per_cm(np.array([2.0])) == pytest.approx(expected, rel=3e-4)
    with pytest.raises(InputError, match="0 to 60 C, got 90"):
        water(90)


@pytest.mark.parametrize("offset", [False, True])
def test_scale_is_known_as_well_as_is_said(offset):
    """Simulated curves of glassy carbon of a known scale: z has mean 0 and variance 1."""
    rng, standard, true = np.random.default_rng(7), glassy_carbon(), 3.2e-3
    q = np.linspace(0.1, 3.0, 300)
    # The curve goes on beyond where it is certified, and is not used there.
    shape = standard.per_cm(np.minimum(q, 2.47)) / true
    sigma = 0.02 * shape + 5.0
    fits = [
        fit_scale(q, rng.normal(shape + 400.0 * offset, sigma), sigma, standard, offset=offset)
        for _ in range(400)
    ]
    z = np.array([(fit.scale - true) / fit.counting_error for fit in fits])
    # 400 draws: 0.05 for the mean, 0.07 for the variance. chi^2 makes some errors larger.
    assert abs(z.mean()) < 0.2
    assert z.var() == pytest.approx(0.95, abs=0.22)
    reduced = np.mean([fit.chi2 / fit.freedom for fit in fits])
    assert reduced == pytest.approx(1.0, abs=0.02)
    assert fits[0].q_range_per_nm[1] < 2.475
    assert fits[0].standard_error == pytest.approx(0.025795 * fits[0].scale)
    if offset:
        z = [(fit.offset - 400.0) / fit.offset_error for fit in fits]
        assert abs(np.mean(z)) < 0.2


def test_water_gives_the_scale_too():
    q, true = np.linspace(0.5, 4.0, 100), 0.05
    value = water(25).per_cm(q) / true
    fit = fit_scale(q, value, 0.01 * value, water(25), relative_input_error=0.03)
    assert fit.scale == pytest.approx(true, rel=1e-12)
    expected = math.sqrt(0.006**2 + 0.03**2 + 0.01**2 / (fit.freedom + 1))
    assert fit.error == pytest.approx(expected * true, rel=1e-6)
    assert fit.q_range_per_nm[0] >= 1.0
    assert fit.q_range_per_nm[1] <= 3.0
    with pytest.raises(InputError, match="no constant to be fitted"):
        fit_scale(q, value, 0.01 * value, water(25), offset=True)


def test_a_wrong_shape_is_told():
    q, standard = np.linspace(0.2, 2.0, 400), glassy_carbon()
    value = standard.per_cm(q) * (1.0 + 0.2 * (q - 1.0))
    fit = fit_scale(q, value, 1e-3 * value, standard)
    # The scale of the parts runs from 0.84 to 1.2, evenly: 0.36 / sqrt(12) = 0.104.
    assert fit.shape_error / fit.scale == pytest.approx(0.104, rel=0.1)
    assert fit.error > fit.shape_error
    with pytest.raises(InputError, match="above its error"):
        fit_scale(q, -value, value, standard)


def simulated_standard(flux, exposure_s, transmission, thickness_cm):
    """Counts of glassy carbon, by pyFAI's q, solid angle and polarisation."""
    geometry = Geometry(**(SMALL_ANGLES | {"distance_m": 2.0, "rot1_rad": 0.01}))
    pyfai = integrator_of(geometry)
    q = pyfai.qArray(SHAPE)
    per_cm = glassy_carbon().per_cm(np.clip(q, 0.083, 2.474))
    area = geometry.pixel1_m * geometry.pixel2_m
    normal_sr = area / geometry.distance_m**2
    solid_angle = normal_sr * pyfai.solidAngleArray(SHAPE)
    polarization = pyfai.polarization(SHAPE, factor=0.99)
    incident = flux * exposure_s * transmission * thickness_cm
    return geometry, incident * per_cm * solid_angle * polarization, 1.0 / (flux * normal_sr)


def test_scale_out_of_a_frame_is_one_over_flux_and_solid_angle(tmp_path, command):
    """The definition at ``absolute_scale``, end to end; a monitor of 0.5 is half that flux."""
    geometry, counts, true = simulated_standard(1e11, 2.0, 0.8, 0.1)
    empty = 0.02 * counts.max() / 0.8
    rng = np.random.default_rng(4)
    np.save(tmp_path / "gc.npy", rng.poisson(0.5 * counts + 0.8 * empty).astype("<u4"))
    np.save(tmp_path / "empty.npy", rng.poisson(np.full(SHAPE, 2.0 * empty)).astype("<u4"))
    poni = tmp_path / "g.poni"
    poni.write_text(geometry.to_poni())
    known = ("--poni", poni, "--monitor", "0.5", "--exposure", "2", "--transmission", "0.8")
    less = ("--background", tmp_path / "empty.npy", "--background-monitor", "1")
    less += ("--background-exposure", "2", "--background-to", tmp_path / "empty.txt")
    done = command(
        "absolute",
        tmp_path / "gc.npy",
        *known,
        *less,
        "--thickness-cm",
        "0.1",
        "--q-range",
        "0.2:2",
    )
    assert done.code == 0, done.err
    section = yaml.safe_load(done.out)["saxs"]["reduce"]
    settings = AreaReduction(**section)
    assert settings.absolute_scale == pytest.approx(true, rel=2e-3)
    assert "standard 2.6 %" in done.out
    assert "note:" not in done.out
    # The empty beam in 1/cm: its counts are even, so it is what 2 * empty counts are.
    assert settings.background_file == str(tmp_path / "empty.txt")
    q, value, sigma = np.loadtxt(tmp_path / "empty.txt").T
    middle = (q > 0.3) & (q < 0.6)
    expected = true * 2.0 * empty / (2.0 * 0.1)
    assert np.abs(value[middle] / expected - 1.0).max() < 0.02
    assert (sigma > 0).all()


def test_a_curve_gives_the_scale_and_what_is_missing_is_asked_for(tmp_path, command):
    q = np.linspace(0.01, 0.24, 80)
    value = glassy_carbon().per_cm(10.0 * q) * 0.1 / 7e-4
    path = tmp_path / "gc.dat"
    header = "columns: q (1/A), I (arbitrary), sigma (arbitrary)"
    np.savetxt(path, np.stack([q, value, 0.01 * value], axis=1), header=header)
    done = command("absolute", path, "--thickness-cm", "0.1", "--stream", "waxs")
    assert yaml.safe_load(done.out)["waxs"]["reduce"]["absolute_scale"] == pytest.approx(7e-4)
    assert "--thickness-cm above 0" in refused(command("absolute", path))
    told = refused(command("absolute", path, "--thickness-cm", "0.1", "--q-range", "5:6"))
    assert "expected 5 points or more" in told
    assert "the curve has q 0.1 to 2.4" in told
    told = refused(command("absolute", path, "--thickness-cm", "0.1", "--standard", "water"))
    assert "expected a curve of the shape of water" in told
    told = refused(command("absolute", path, "--thickness-cm", "0.1", "--standard", "lupolen"))
    assert "glassy-carbon or water, got lupolen" in told
    np.savetxt(
        path, np.stack([q, value, value], axis=1), header=header.replace("arbitrary", "1/cm")
    )
    assert "in 1/cm" in refused(command("absolute", path, "--thickness-cm", "0.1"))
    frame = tmp_path / "gc.npy"
    np.save(frame, np.ones((8, 8), "<u4"))
    told = refused(command("absolute", frame, "--thickness-cm", "0.1", "--monitor", "1"))
    assert "expected --transmission, --exposure, got none" in told
    known = ("--monitor", "1", "--transmission", "0.8", "--exposure", "1")
    told = refused(command("absolute", frame, "--thickness-cm", "0.1", *known))
    assert "give --poni" in told


def test_the_error_of_a_transmission_is_over_the_one_that_was_used(tmp_path, command):
    """Told, of a frame, or of a recording that brings it; without one there is no share."""
    geometry, counts, _ = simulated_standard(1e11, 2.0, 0.5, 0.1)
    image = np.random.default_rng(4).poisson(counts).astype("<u4")
    start = StreamStart("saxs", "r", "image", SHAPE, "<u4", {}, {"poni": geometry.to_poni()})
    with SpoolWriter(tmp_path / "saxs.h5", start) as spool:
        spool.append(ImageFrame("saxs", 0, 1, 2.0, image, 1.0, 0.5))
        spool.close(StreamEnd("saxs", "r", 1))
    np.save(tmp_path / "gc.npy", image)
    (tmp_path / "g.poni").write_text(geometry.to_poni())
    q = np.linspace(0.1, 2.4, 80)
    value = glassy_carbon().per_cm(q)
    np.savetxt(tmp_path / "gc.txt", np.stack([q, value, 0.01 * value], axis=1))
    error = ("--thickness-cm", "0.1", "--thickness-err-cm", "0.003", "--transmission-err", "0.02")
    told = ("--monitor", "1", "--exposure", "2", "--transmission", "0.5")
    expected = f"thickness and transmission {100 * math.hypot(0.03, 0.04):.2g} %"
    for arguments in (
        (tmp_path / "saxs.h5",),
        (tmp_path / "gc.npy", *told, "--poni", tmp_path / "g.poni"),
        (tmp_path / "gc.txt", "--transmission", "0.5"),
    ):
        done = command("absolute", *arguments, *error)
        assert done.code == 0, done.err
        assert expected in done.out
    line = refused(command("absolute", tmp_path / "gc.txt", *error))
    assert "expected --transmission beside --transmission-err, got none" in line
    for option in ("--transmission-err", "--thickness-err-cm"):
        done = command("absolute", tmp_path / "gc.txt", "--thickness-cm", "0.1", option, "-0.1")
        assert done.code == 2
        assert option in done.err
        line = refused(command("absolute", tmp_path / "gc.txt", *told, *error, option, "inf"))
        assert "finite" in line


def test_frames_and_options_that_cannot_be(agbh, tmp_path, command):
    (tmp_path / "s.poni").write_text(Geometry(**SMALL_ANGLES).to_poni())
    rest = ("--poni", tmp_path / "s.poni", "--to", tmp_path / "t.poni")
    assert command("geometry", agbh, *rest, "--rings", "0").code == 2
    for value in ("0", "-1", "nan"):
        line = refused(command("geometry", agbh, *rest, "--max-rms", value))
        assert f"--max-rms: expected pixels above 0, got {value}" in line
    (tmp_path / "empty.npy").write_bytes(b"")
    line = refused(command("geometry", tmp_path / "empty.npy", *rest))
    assert "empty.npy: expected an image, got No data left in file" in line
    np.save(tmp_path / "complex.npy", np.full((8, 8), 1j))
    line = refused(command("geometry", tmp_path / "complex.npy", *rest))
    assert "complex128" in line
    (tmp_path / "empty.txt").write_text("")
    line = refused(command("absolute", tmp_path / "empty.txt", "--thickness-cm", "0.1"))
    assert "empty.txt: expected rows of q, I, sigma" in line
    half = np.full((8, 8), 2.5, np.float16)
    np.save(tmp_path / "half.npy", half)
    image = read_exposure(tmp_path / "half.npy").image
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, 2.5)


@pytest.mark.real_data
def test_a_real_glassy_carbon(standards, command):
    """Its shape is NIST's, and the flux that the scale tells is that of a bending magnet."""
    frame = standards / "sone_Standards_Glossy_Carbon_withStage_30s_T20_ctr0_scan1_0000.cbf.gz"
    poni = standards / "atT_SAXS.poni"
    # Neither thickness nor transmission were recorded: such plates have 1 mm, and carbon of
    # 1.42 g/cm3 then lets about 0.8 pass at 12 keV.
    given = ("--thickness-cm", "0.1", "--transmission", "0.8", "--monitor", "1", "--exposure", "30")
    mask = ("--poni", poni, "--mask", standards / "RT_SAXS_mask_03.edf.gz")
    done = command("absolute", frame, *given, *mask, "--q-range", "0.2:2.2", "--offset")
    assert done.code == 0, done.err
    scale = yaml.safe_load(done.out)["saxs"]["reduce"]["absolute_scale"]
    flux_per_s = 1.0 / (scale * (172e-6 / 2.9097) ** 2)
    assert 1e8 < flux_per_s < 1e12
    # Stage and air were not taken off, and yet the shape is the certified one to a few percent.
    line = next(line for line in done.out.splitlines() if "shape" in line)
    assert float(line.rpartition("shape ")[2].removesuffix(" %")) < 3.0
