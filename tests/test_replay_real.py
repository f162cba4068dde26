"""Readers on real measurements: numbers against the files read in the plainest way."""

import csv
import gzip
from pathlib import Path

import fabio
import h5py
import hdf5plugin  # noqa: F401  (filters)
import numpy as np
import pytest

from pipeline.config.loader import load_config
from pipeline.config.replay import ReplayFormat
from pipeline.replay import ReplayError, open_recording

REPOSITORY = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.real_data


def replay_of(name):
    return load_config(REPOSITORY / "configs" / f"{name}.yaml").replay


@pytest.mark.parametrize(
    ("config", "folder", "count", "last_s", "points"),
    [
        ("pd_growth", "pd_growth_R13_201607", 103, 1849, 603),
        ("pd_superlattice", "pd_superlattice_R5_201611", 182, 2980, 558),
    ],
)
def test_curves_of_pd(data_dir, config, folder, count, last_s, points):
    recording = open_recording(data_dir / folder, replay_of(config))
    source = recording.streams["saxs"]
    frames = list(source.frames())
    with (data_dir / folder / "frames_index.csv").open() as file:
        index = list(csv.DictReader(file))
    assert len(frames) == len(index) == count
    assert frames[-1].time_ns == last_s * 10**9
    assert source.start.shape == (points,)
    for i in (0, count // 2, count - 1):
        q_per_angstrom, intensity = np.loadtxt(data_dir / folder / index[i]["file"]).T
        assert frames[i].time_ns == round(float(index[i]["t_s"]) * 1e9)
        assert frames[i].exposure_s == 5
        assert np.allclose(source.start.arrays["q_per_nm"], 10 * q_per_angstrom, rtol=1e-14)
        assert np.array_equal(frames[i].intensity, intensity)


def test_curves_without_their_unit_are_refused(data_dir):
    replay = replay_of("pd_growth").model_copy(update={"q_unit": None})
    with pytest.raises(ReplayError, match="it is not guessed"):
        open_recording(data_dir / "pd_growth_R13_201607", replay)


def test_curves_without_a_clock(data_dir):
    replay = ReplayFormat(q_unit="1/A", files="*.dat", period_s=60)
    frames = list(
        open_recording(data_dir / "perovskite_waxs_FACs15_heat", replay).streams["saxs"].frames()
    )
    assert [f.time_ns for f in frames] == [i * 60 * 10**9 for i in range(30)]


def test_images_of_ssrl(data_dir):
    folder = data_dir / "ssrl_bl1-5_swaxs_2d"
    source = open_recording(folder, replay_of("ssrl_swaxs")).streams["saxs"]
    frames = list(source.frames())
    assert source.start.metadata["files"] == [
        f"2D/SAXS/sone_Hor_scan_Run{n}_RampT20_ctr0_scan1_0000.raw.gz".rpartition("/")[2]
        for n in (5, 8, 10)
    ]
    assert "Distance: 2.9096968104998107" in source.start.metadata["poni"]
    for frame, file in zip(frames, source.start.metadata["files"], strict=True):
        raw = np.frombuffer(gzip.decompress((folder / "2D/SAXS" / file).read_bytes()), "<i4")
        raw = raw.reshape(1043, 981)
        assert (raw < 0).any()
        assert np.array_equal(frame.image[raw >= 0], raw[raw >= 0])
        assert (frame.image[raw < 0] == 2**32 - 1).all()
        assert frame.exposure_s == 10
        assert frame.transmission == 1
    # i0 of the three runs over their median.
    i0 = np.array([21.29209, 20.72388, 20.9468])
    assert [f.monitor for f in frames] == pytest.approx(i0 / 20.9468, rel=1e-12)
    mask = fabio.open(str(folder / "poni" / "RT_SAXS_mask_03.edf.gz")).data
    assert np.array_equal(source.start.arrays["pixel_mask"] != 0, mask != 0)


def test_standard_whose_name_lies_about_its_format(data_dir):
    folder = data_dir / "ssrl_bl1-5_swaxs_2d" / "poni"
    replay = ReplayFormat(files="sone_Standards_AgBeh*.cbf.gz", poni_file="atT_SAXS.poni")
    (frame,) = open_recording(folder, replay).streams["saxs"].frames()
    assert frame.image.shape == (1043, 981)
    assert frame.image.dtype == np.uint32


@pytest.mark.parametrize(
    ("file", "shape", "exposure_s", "center", "distance_m"),
    [
        ("WAXS_LaB6_AgBeh_eiger2.hdf", (512, 2068), 5, (263.99124574, 2764.73347874), 0.38232086),
        ("SAXS_LaB6_AgBeh_pilatus100k.hdf", (195, 487), 2, (93.59196523, -4.96451977), 0.44792234),
    ],
)
def test_nexus_of_aps(data_dir, file, shape, exposure_s, center, distance_m):
    path = data_dir / "aps_12IDE_eiger_nexus" / file
    source = open_recording(path, ReplayFormat()).streams["saxs"]
    (frame,) = source.frames()
    with h5py.File(path) as h5:
        counts = h5["entry/data/data"][()]
    assert frame.image.shape == shape
    assert frame.exposure_s == exposure_s
    assert np.array_equal(frame.image[counts >= 0], counts[counts >= 0])
    assert (frame.image == 2**32 - 1).sum() == (8233 if "eiger" in file else (counts < 0).sum())
    poni = dict(
        line.split(": ", 1) for line in source.start.metadata["poni"].splitlines() if ": " in line
    )
    pixel_m = 75e-6 if "eiger" in file else 150e-6
    assert float(poni["Distance"]) == pytest.approx(distance_m, rel=1e-7)
    assert float(poni["Poni2"]) == pytest.approx(center[0] * pixel_m)
    assert float(poni["Poni1"]) == pytest.approx(center[1] * pixel_m)
    assert float(poni["Wavelength"]) == pytest.approx(0.44280041e-10)


@pytest.mark.parametrize(("run", "spectra", "points"), [(2, 16, 251), (5, 18, 301), (9, 18, 301)])
def test_absorbance_of_cdse(data_dir, run, spectra, points):
    path = data_dir / "cdse_growth_absorbance" / f"Run_{run}_UV-Vis.csv"
    source = open_recording(path, replay_of("cdse_absorbance")).streams["absorbance"]
    frames = list(source.frames())
    assert (len(frames), source.start.shape) == (spectra, (points,))
    plain = np.genfromtxt(path, delimiter=",", skip_header=1, max_rows=points)[::-1]
    assert np.array_equal(source.start.arrays["wavelength_nm"], plain[:, 0])
    assert np.array_equal([f.values for f in frames], plain[:, 1:].T)
    assert (frames[0].time_ns, frames[-1].time_ns) == (30 * 10**9, 600 * 10**9)


def test_counts_of_gold(data_dir):
    path = data_dir / "aunp_timeseries_raw_counts" / "aunps_glass_good.csv"
    source = open_recording(path, replay_of("aunp_absorbance")).streams["absorbance"]
    frames = list(source.frames())
    plain = np.loadtxt(path, delimiter=",", skiprows=1)
    assert len(frames) == plain.shape[1] - 2
    assert np.array_equal(source.start.arrays["reference"], plain[:, 1])
    assert np.array_equal(frames[40].values, plain[:, 42])
    # 15:38:23 to 15:44:25.
    assert (frames[0].time_ns, frames[-1].time_ns) == (3 * 10**9, 362 * 10**9)
    # The plasmon band: nothing until about 140 s, then it grows to about 0.8 and turns blue.
    wavelength_nm = source.start.arrays["wavelength_nm"]
    band = (wavelength_nm > 470) & (wavelength_nm < 600)
    reference = source.start.arrays["reference"][band]
    absorbance = np.array([-np.log10(f.values[band] / reference) for f in frames])
    early = np.array([f.time_s < 130 for f in frames])
    assert np.abs(absorbance[early]).max() < 0.05
    assert absorbance[~early].max() == pytest.approx(0.8, abs=0.05)
    peak_nm = wavelength_nm[band][absorbance.argmax(axis=1)]
    at_168_s = next(i for i, f in enumerate(frames) if f.time_s >= 168)
    assert peak_nm[at_168_s] == pytest.approx(543, abs=12)
    assert peak_nm[-1] < 510
