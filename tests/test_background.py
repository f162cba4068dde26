"""Subtraction of a background: closed forms, its error by repetition, and real frames."""

import gzip
import warnings

import h5py
import numpy as np
import pytest

from pipeline.config.reduce import AreaReduction
from pipeline.export import CurveSet, FrameCurve, curve_text, write_nxcansas
from pipeline.messages import ImageFrame, RunStart, StreamStart, frozen_array
from pipeline.reduce.corrections.background import Background, read_background, read_curve
from pipeline.reduce.errors import InputError
from pipeline.reduce.saxs import ReduceSaxs
from pipeline.reduce.waxs import ReduceWaxs
from pipeline.replay.images import read_mask

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pyFAI

Q = np.linspace(0.1, 2.0, 20)


def write_text(path, q, intensity, sigma, header=""):
    np.savetxt(path, np.stack([q, intensity, sigma], axis=1), header=header)
    return path


def make(path, q=Q, **settings):
    return Background(AreaReduction(background_file=str(path), **settings), q)


def test_closed_form_with_scale_and_transmission(tmp_path):
    """A straight line is interpolated exactly; errors follow the module's formula."""
    q = np.linspace(0.0, 3.0, 7)
    path = write_text(tmp_path / "b.txt", q, 2.0 + 3.0 * q, np.full(7, 0.1))
    background = make(path, background_scale=0.9, background_transmission=(0.6, 0.03))
    intensity, sigma = np.full(Q.size, 10.0), np.full(Q.size, 0.2)
    less, error = background.subtract(intensity, sigma)
    line = 2.0 + 3.0 * Q
    np.testing.assert_allclose(less, 10.0 - 1.5 * line, rtol=1e-12)
    f = (Q % 0.5) / 0.5
    own = 1.5 * 0.1 * np.sqrt((1 - f) ** 2 + f**2)
    common = 0.9 * line * 0.03 / 0.6**2
    np.testing.assert_allclose(error, np.sqrt(0.2**2 + own**2 + common**2), rtol=1e-9)
    np.testing.assert_array_equal(intensity, 10.0)


def test_outside_of_its_range_nothing_is_known(tmp_path):
    path = write_text(tmp_path / "b.txt", [0.55, 1.0, 1.45], [1, 1, 1], [0.1, 0.1, 0.1])
    less, error = make(path).subtract(np.ones(Q.size), np.ones(Q.size))
    inside = (Q >= 0.55) & (Q <= 1.45)
    np.testing.assert_array_equal(np.isnan(less), ~inside)
    np.testing.assert_array_equal(np.isnan(error), ~inside)


def test_sigma_is_the_scatter_of_repeated_measurements(tmp_path):
    """Sample, background and its transmission are drawn anew; each bin's z has variance 1."""
    rng = np.random.default_rng(5)
    true, blank, transmission = 40.0 * np.exp(-Q), 5.0 + Q, (0.7, 0.02)
    sample_sigma, blank_sigma = 0.3 + 0.1 * Q, 0.05 + 0.02 * Q
    z = np.empty((1500, Q.size))
    path = tmp_path / "b.txt"
    for row in z:
        measured = rng.normal(blank, blank_sigma)
        write_text(path, Q, measured, blank_sigma)
        told = rng.normal(*transmission), transmission[1]
        sample = rng.normal(true + blank / transmission[0], sample_sigma)
        less, error = make(path, background_transmission=told).subtract(sample, sample_sigma)
        row[:] = (less - true) / error
    # 1500 draws: the mean is good to 0.026, the variance to 0.037; 20 bins, four sigma. The mean's
    # bias of 1 / T, (sigma_T / T)^2 B / T = 0.007, is 0.02 sigma at most.
    assert np.abs(z.mean(axis=0)).max() < 0.12
    assert np.abs(z.var(axis=0) - 1.0).max() < 0.15
    # What is common moves neighbours together, as the module says.
    assert np.corrcoef(z[:, 3], z[:, 4])[0, 1] > 0.2


def exported(absolute=False, resolution=None):
    curves = CurveSet("r", "saxs", Q, resolution, absolute, {})
    return curves, FrameCurve(3, 1.5, 1.0 + Q, np.full(Q.size, 0.25))


@pytest.mark.parametrize("unit", ["1/A", "1/nm"])
def test_what_is_exported_is_read_in_whatever_unit(tmp_path, unit):
    curves, frame = exported()
    (tmp_path / "b.txt").write_text(curve_text(curves, frame, unit))
    write_nxcansas(tmp_path / "b.h5", curves, [frame], unit)
    for name in ("b.txt", "b.h5"):
        q, intensity, sigma = read_background(tmp_path / name)
        np.testing.assert_allclose(q, Q, rtol=1e-8)
        np.testing.assert_allclose(intensity, 1.0 + Q, rtol=1e-8)
        np.testing.assert_allclose(sigma, 0.25)
        assert read_curve(tmp_path / name).absolute is False
    curves, frame = exported(absolute=True, resolution=0.01 * Q)
    text = curve_text(curves, frame, unit)
    (tmp_path / "c.txt").write_text(text)
    write_nxcansas(tmp_path / "c.h5", curves, [frame], unit)
    assert f"sigma (1/cm), dQ ({unit})\n" in text
    to_unit = {"1/A": 0.1, "1/nm": 1.0}[unit]
    table = np.loadtxt(tmp_path / "c.txt")
    np.testing.assert_allclose(table[:, 3], 0.01 * Q * to_unit, rtol=1e-8)
    for name in ("c.txt", "c.h5"):
        curve = read_curve(tmp_path / name)
        assert curve.absolute is True
        np.testing.assert_allclose(curve.q_per_nm, Q, rtol=1e-8)
        np.testing.assert_allclose(curve.sigma, 0.25)


@pytest.mark.parametrize(
    ("told", "of_file"),
    [("1/cm", True), ("cm^-1", True), ("arbitrary", False), ("a.u.", False), (None, None)],
)
def test_scales_that_differ_are_refused(tmp_path, told, of_file):
    header = "" if told is None else f"columns: q (1/nm), I ({told}), sigma ({told})"
    path = write_text(tmp_path / "b.txt", Q, 1.0 + Q, np.full(Q.size, 0.1), header)
    assert read_curve(path).absolute is of_file
    settings = AreaReduction(background_file=str(path))
    for of_curves in (True, False, None):
        if of_file is None or of_curves is None or of_file == of_curves:
            np.testing.assert_allclose(Background(settings, Q, of_curves).value, 1.0 + Q)
            continue
        with pytest.raises(InputError) as caught:
            Background(settings, Q, of_curves)
        expected, got = ("in 1/cm", "arbitrary scale") if of_curves else ("arbitrary", "1/cm")
        line = str(caught.value)
        assert line.startswith(f"{path}: expected a background")
        assert expected in line.partition(", got ")[0]
        assert got in line.partition(", got ")[2]
        assert "absolute_scale" in line


def test_nxcansas_of_somebody_else(tmp_path):
    """Spelled differently: bytes, nm^-1, other name of the uncertainties, masked and NaN points."""
    with h5py.File(tmp_path / "b.nxs", "w") as file:
        entry = file.create_group("sasentry01")
        entry.attrs["canSAS_class"] = np.bytes_("SASentry")
        data = entry.create_group("sasdata01")
        data.attrs["canSAS_class"] = "SASdata"
        data["Q"] = np.array([0.1, 0.2, 0.3, 0.4])
        data["Q"].attrs["units"] = "Angstrom^{-1}"
        data["I"] = np.array([1.0, 2.0, np.nan, 4.0])
        data["I"].attrs["uncertainties"] = "errors"
        data["errors"] = np.full(4, 0.1)
        data["Mask"] = np.array([1, 0, 0, 0])
    q, intensity, _ = read_background(tmp_path / "b.nxs")
    np.testing.assert_allclose(q, [2.0, 4.0])
    np.testing.assert_allclose(intensity, [2.0, 4.0])


def test_what_cannot_be_subtracted_is_told_in_one_line(tmp_path):
    curves, frame = exported()
    two = FrameCurve(4, 2.5, frame.intensity, frame.sigma)
    write_nxcansas(tmp_path / "two.h5", curves, [frame, two])
    (tmp_path / "not.h5").write_text("text")
    (tmp_path / "two.txt").write_text("1 2\n3 4\n")
    (tmp_path / "word.txt").write_text("1 2 x\n3 4 5\n")
    (tmp_path / "five.txt").write_text("1 2 3 4 5\n3 4 5 6 7\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "head.txt").write_text("# columns: q (1/A), I (1/cm), sigma (1/cm)\n\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe1 2 3")
    for name, values, mask in (
        ("text.h5", np.array([b"0.1", b"0.2"]), np.zeros(2, "i1")),
        ("complex.h5", np.array([0.1, 0.2 + 1j]), np.zeros(2, "i1")),
        ("mask.h5", np.array([0.1, 0.2]), np.array([b"no", b"no"])),
    ):
        write_nxcansas(tmp_path / name, curves, [frame])
        with h5py.File(tmp_path / name, "r+") as file:
            data = file["frame_000003/sasdata"]
            for column in ("Q", "I", "Idev", "Mask"):
                del data[column]
            data["Q"], data["Mask"] = values, mask
            data["Q"].attrs["units"] = "1/nm"
            data["I"], data["Idev"] = np.ones(2), np.ones(2)
    write_text(tmp_path / "far.txt", [5, 6], [1, 1], [1, 1])
    write_text(tmp_path / "fall.txt", [2, 1], [1, 1], [1, 1])
    write_text(tmp_path / "unit.txt", [1, 2], [1, 1], [1, 1], "columns: q (furlong), I (1/cm), s")
    cases = {
        "none.txt": "no such file",
        "two.h5": "one SASentry, a background curve, got 2: export one frame",
        "not.h5": "as NXcanSAS",
        "two.txt": "rows of q, I, sigma",
        "word.txt": "columns q, I, sigma",
        "five.txt": "rows of q, I, sigma (and dQ), got a table of (2, 5)",
        "empty.txt": "rows of q, I, sigma (and dQ), got a table of (0, 0)",
        "head.txt": "rows of q, I, sigma (and dQ), got a table of (0, 0)",
        "bytes.txt": "columns q, I, sigma",
        "text.h5": "/frame_000003/sasdata/Q: expected real numbers, got text",
        "complex.h5": "/frame_000003/sasdata/Q: expected real numbers, got complex128",
        "mask.h5": "/frame_000003/sasdata/Mask: expected whole numbers, got text",
        "far.txt": "expected q between 0.1 and 2 1/nm, got 5 to 6",
        "fall.txt": "rising q",
        "unit.txt": "the unit 'furlong'",
    }
    for name, told in cases.items():
        with pytest.raises(InputError, match=str(tmp_path / name)) as caught:
            make(tmp_path / name)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="background_file"):
        Background(AreaReduction(), Q)


def counts_of(folder, kind, prefix, run, shape):
    name = f"{prefix}_Hor_scan_Run{run}_RampT20_ctr0_scan1_0000.raw.gz"
    raw = gzip.decompress((folder / "2D" / kind / name).read_bytes())
    return np.frombuffer(raw, "<i4").reshape(shape)


def monitor_of(folder, run):
    """Counter i0, the fourth column."""
    rows = (folder / "2D" / f"Hor_scan_Run{run}_RampT20_ctr0_scan1.csv").read_text().splitlines()
    assert rows[0].split(",")[3].strip() == "i0"
    return float(rows[1].split(",")[3])


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("kind", "prefix", "shape", "mask_name", "q_range", "peaks_per_angstrom", "width"),
    [
        ("SAXS", "sone", (1043, 981), "RT_SAXS_mask_03.edf.gz", (0.2, 2.0), [0.037], 0.4),
        ("WAXS", "b_tassone", (195, 487), "RT_WAXS_mask.edf", (8.0, 20.0), [1.52, 1.69], 0.04),
    ],
)
def test_polymer_without_what_is_amorphous(
    data_dir, tmp_path, kind, prefix, shape, mask_name, q_range, peaks_per_angstrom, width
):
    """Run 5 less run 10 of one beam time: peaks where they are known, values as pyFAI and numpy."""
    folder = data_dir / "ssrl_bl1-5_swaxs_2d"
    poni = folder / "poni" / f"atT_{kind}.poni"
    mask = read_mask(folder / "poni" / mask_name) != 0
    bins = 200
    settings = AreaReduction(
        poni_file=str(poni), bins=bins, q_min_per_nm=q_range[0], q_max_per_nm=q_range[1]
    )
    arrays = {"pixel_mask": mask.astype(np.uint8)}
    stage = {"SAXS": ReduceSaxs, "WAXS": ReduceWaxs}[kind]
    theirs = pyFAI.load(str(poni))
    ours: dict[int, tuple] = {}
    pyfais: dict[int, tuple] = {}
    for run in (5, 10):
        counts = counts_of(folder, kind, prefix, run, shape)
        monitor = monitor_of(folder, run)
        reduce = stage(settings)
        start = StreamStart(kind.lower(), "r", "image", shape, "<u4", arrays)
        reduce.reset(RunStart(run="r", stream=start))
        # Dead pixels, which are negative, become marks near 2^32.
        image = frozen_array(counts.astype("<u4"))
        (curve,) = reduce.process(ImageFrame(kind.lower(), 0, 1, 10.0, image, monitor))
        ours[run] = curve.q_per_nm, curve.intensity, curve.sigma
        result = theirs.integrate1d_ng(
            counts,
            bins,
            mask=mask | (counts < 0),
            radial_range=q_range,
            unit="q_nm^-1",
            method=("full", "csr", "cython"),
            polarization_factor=0.99,
            error_model="poisson",
        )
        norm = 10.0 * monitor
        pyfais[run] = result.radial, result.intensity / norm, result.sigma / norm
    usable = np.isfinite(ours[10][1])
    path = write_text(tmp_path / "run10.txt", *(column[usable] for column in ours[10]))
    q, intensity, sigma = ours[5]
    less, error = make(path, q).subtract(intensity, sigma)
    expected = pyfais[5][1] - pyfais[10][1]
    known = np.isfinite(less)
    assert known.mean() > 0.85
    np.testing.assert_allclose(pyfais[5][0][known], q[known], rtol=1e-5)
    # pyFAI places pixels' corners in single precision: a few shares of 1e-3 go to another bin.
    assert np.abs((less - expected)[known] / error[known]).max() < 0.12
    their_error = np.hypot(pyfais[5][2], pyfais[10][2])
    np.testing.assert_allclose(error[known], their_error[known], rtol=0.02)
    # The lamellae's hump is one of q^2 I, where it stands on nothing that falls.
    shown, error = (less * q**2, error * q**2) if kind == "SAXS" else (less, error)
    for peak in peaks_per_angstrom:
        near = np.flatnonzero(known & (np.abs(q / 10.0 - peak) < width * peak))
        top = near[np.argmax(shown[near])]
        assert q[top] / 10.0 == pytest.approx(peak, rel=0.01 if kind == "WAXS" else 0.05)
        # Above what it stands on: the mean of its sides.
        floor = 0.5 * (shown[near[0]] + shown[near[-1]])
        assert shown[top] - floor > 25.0 * error[top]
