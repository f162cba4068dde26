"""The stage from counts to absorbance: definition, error, what is not measurable."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.config.reduce import AbsorbanceReduction
from pipeline.kernels.noise import local_scatter
from pipeline.messages import BadFrameError, RunStart, Spectrum, SpectrumFrame, Stage, StreamStart
from pipeline.reduce.absorbance import ReduceAbsorbance
from pipeline.reduce.files import InputError

WAVELENGTH_NM = np.linspace(300.0, 700.0, 401)
ENERGY_EV = 1239.841984 / WAVELENGTH_NM
DARK = np.full(401, 200.0)
LAMP = 30000.0 * np.exp(-(((WAVELENGTH_NM - 550) / 200) ** 2))
TRUE_A = 0.8 * np.exp(-(((ENERGY_EV - 2.6) / 0.15) ** 2)) + 0.1
SETTINGS = AbsorbanceReduction(energy_min_ev=1.9, energy_max_ev=4.0, read_noise_counts=5.0)
RISING = np.argsort(ENERGY_EV)
KEPT = RISING[(ENERGY_EV[RISING] >= 1.9) & (ENERGY_EV[RISING] <= 4.0)]


def counts_start(**changes) -> RunStart:
    stream = StreamStart(
        stream="absorbance",
        run="r",
        kind="counts",
        shape=(401,),
        dtype="<f8",
        arrays={"wavelength_nm": WAVELENGTH_NM, "dark": DARK, "reference": DARK + LAMP},
        metadata={"saturation": 60000.0},
    )
    return RunStart(run="r", stream=replace(stream, **changes))


def frame_of(values, number=5) -> SpectrumFrame:
    return SpectrumFrame("absorbance", number, 750_000_000, 0.15, np.asarray(values))


def reduce_one(start: RunStart, frame: SpectrumFrame, settings=SETTINGS) -> Spectrum:
    stage = ReduceAbsorbance(settings)
    assert isinstance(stage, Stage)
    stage.reset(start)
    (spectrum,) = stage.process(frame)
    return spectrum


def test_absorbance_by_its_definition():
    spectrum = reduce_one(counts_start(), frame_of(DARK + LAMP * 10**-TRUE_A))
    assert spectrum.frame == 5
    assert spectrum.time_s == 0.75
    assert (np.diff(spectrum.energy_ev) > 0).all()
    np.testing.assert_allclose(spectrum.energy_ev, ENERGY_EV[KEPT], rtol=1e-12)
    np.testing.assert_allclose(spectrum.absorbance, TRUE_A[KEPT], atol=1e-12)


def test_exposure_of_the_reference_is_taken_out():
    metadata = {"reference_exposure_s": 0.3}
    counts = DARK + 0.5 * LAMP * 10**-TRUE_A
    spectrum = reduce_one(counts_start(metadata=metadata), frame_of(counts))
    np.testing.assert_allclose(spectrum.absorbance, TRUE_A[KEPT], atol=1e-12)


def test_sigma_is_the_scatter_of_repeated_measurements():
    """Spectrum, reference and dark drawn anew each time, with shot and read noise and a gain."""
    settings = AbsorbanceReduction(
        energy_min_ev=1.9, energy_max_ev=4.0, read_noise_counts=8.0, counts_per_electron=2.0
    )
    random = np.random.default_rng(8)

    def measured(mean):
        electrons = random.poisson(mean / 2.0)
        return 2.0 * electrons + 8.0 * random.standard_normal(401)

    z = []
    for _ in range(200):
        dark = DARK + 8.0 * random.standard_normal(401)
        arrays = {
            "wavelength_nm": WAVELENGTH_NM,
            "dark": dark,
            "reference": DARK + measured(LAMP),
        }
        counts = DARK + measured(LAMP * 10**-TRUE_A)
        spectrum = reduce_one(counts_start(arrays=arrays), frame_of(counts), settings)
        z.append((spectrum.absorbance - TRUE_A[KEPT]) / spectrum.sigma)
    # 200 x 347 values; the dark is shared by spectrum and reference, which sigma leaves out (1 %).
    assert np.mean(np.square(z)) == pytest.approx(1.0, abs=0.04)


def test_unmeasurable_pixels_are_nan_and_nothing_else():
    counts = DARK + LAMP * 10**-TRUE_A
    counts[200] = 60000.0
    counts[210] = DARK[210]
    counts[220] = DARK[220] - 30
    reference = DARK + LAMP
    reference[230] = 65535.0
    reference[240] = DARK[240]
    arrays = {"wavelength_nm": WAVELENGTH_NM, "dark": DARK, "reference": reference}
    spectrum = reduce_one(counts_start(arrays=arrays), frame_of(counts))
    lost = np.isin(KEPT, [200, 210, 220, 230, 240])
    np.testing.assert_array_equal(np.isnan(spectrum.absorbance), lost)
    np.testing.assert_array_equal(np.isnan(spectrum.sigma), lost)


def test_a_stage_that_starts_again_gives_the_same_bits():
    random = np.random.default_rng(1)
    frames = [frame_of(random.poisson(DARK + LAMP * 10**-TRUE_A), k) for k in range(4)]
    stage = ReduceAbsorbance(SETTINGS)
    stage.reset(counts_start())
    live = [spectrum for frame in frames for spectrum in stage.process(frame)]
    again = reduce_one(counts_start(), frames[3])
    assert again.absorbance.tobytes() == live[3].absorbance.tobytes()
    assert again.sigma.tobytes() == live[3].sigma.tobytes()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (frame_of(np.ones(7)), r"expected 401 values, got an array of \(7,\)"),
        (frame_of(DARK), "no light"),
        (frame_of(np.full(401, 65535.0)), "all pixels saturated"),
        (replace(frame_of(DARK + LAMP), exposure_s=0.0), "exposure above 0 s, got 0"),
    ],
)
def test_bad_spectrum_is_rejected_with_one_line(frame, message):
    stage = ReduceAbsorbance(SETTINGS)
    stage.reset(counts_start())
    with pytest.raises(BadFrameError, match=message) as caught:
        list(stage.process(frame))
    assert str(caught.value).startswith("absorbance frame 5: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "image"}, "expected a stream of counts or absorbance, got image"),
        ({"arrays": {"wavelength_nm": WAVELENGTH_NM, "dark": DARK}}, "replay.reference_column"),
        ({"arrays": {"wavelength_nm": WAVELENGTH_NM[:5]}}, "expected wavelength_nm of 401 pixels"),
        ({"arrays": {"wavelength_nm": np.linspace(900, 1000, 401)}}, "pixels in 1.9 to 4 eV"),
        ({"arrays": {"wavelength_nm": np.full(401, 500.0)}}, "got one twice"),
    ],
)
def test_bad_start_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        ReduceAbsorbance(SETTINGS).reset(counts_start(**changes))


def test_reference_may_come_as_metadata():
    arrays = {"wavelength_nm": WAVELENGTH_NM, "dark": DARK}
    metadata = {"reference": (DARK + LAMP).tolist()}
    start = counts_start(arrays=arrays, metadata=metadata)
    spectrum = reduce_one(start, frame_of(DARK + LAMP * 10**-TRUE_A))
    np.testing.assert_allclose(spectrum.absorbance, TRUE_A[KEPT], atol=1e-12)


def test_range_upside_down_is_refused():
    with pytest.raises(ValidationError, match="expected energy_min_ev below energy_max_ev"):
        AbsorbanceReduction(energy_min_ev=3.0, energy_max_ev=2.0)


@pytest.mark.parametrize("scatter", [local_scatter, local_scatter.py_func])
def test_scatter_of_a_line(scatter):
    random = np.random.default_rng(6)
    line = np.linspace(0, 1, 300) ** 3 + 0.02 * random.standard_normal(300)
    line[100], line[200] = np.nan, 50.0
    sigma = scatter(line)
    assert np.isnan(sigma[100])
    assert np.nanmedian(sigma) == pytest.approx(0.02, rel=0.15)
    assert np.nanmax(sigma) < 0.04
    assert (scatter(np.ones(40)) == 0).all()
    assert np.isnan(scatter(np.ones(5))).all()


@pytest.mark.real_data
def test_recorded_absorbance_keeps_its_peak_and_gets_an_error(data_dir):
    """CdSe, run 2: the band of the authors' table, above its estimated noise."""
    path = data_dir / "cdse_growth_absorbance" / "Run_2_UV-Vis.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    table = np.array([[float(cell) for cell in row[:8]] for row in rows if _is_number(row[0])])
    start = counts_start(kind="absorbance", shape=(len(table),), metadata={})
    start = replace(start, stream=replace(start.stream, arrays={"wavelength_nm": table[:, 0]}))
    spectrum = reduce_one(start, frame_of(table[:, 5]))
    by_energy = table[np.argsort(-table[:, 0])]
    energy_ev = 1239.841984 / by_energy[:, 0]
    kept = (energy_ev >= 1.9) & (energy_ev <= 4.0)
    np.testing.assert_array_equal(spectrum.absorbance, by_energy[kept, 5])
    band = np.abs(1239.841984 / spectrum.energy_ev - 500) < 30
    top = spectrum.absorbance[band].max()
    assert 0 < np.median(spectrum.sigma) < 0.05 * top


@pytest.mark.real_data
def test_recorded_counts_show_the_plasmon_band(data_dir):
    """Gold: nothing until about 140 s, then a band at 543 nm that grows to 0.83 and turns blue."""
    path = data_dir / "aunp_timeseries_raw_counts" / "aunps_glass_good.csv"
    table = np.genfromtxt(path, delimiter=",", skip_header=1)
    table = table[np.isfinite(table).all(axis=1)]
    wavelength_nm = table[:, 0]
    settings = AbsorbanceReduction(energy_min_ev=1.65, energy_max_ev=3.0)
    start = counts_start(
        shape=(len(table),),
        arrays={
            "wavelength_nm": wavelength_nm,
            "dark": np.zeros(len(table)),
            "reference": table[:, 1],
        },
        metadata={},
    )
    stage = ReduceAbsorbance(settings)
    stage.reset(start)
    spectra = [
        spectrum
        for k in range(2, table.shape[1])
        for spectrum in stage.process(frame_of(table[:, k], k))
    ]
    wavelength = 1239.841984 / spectra[0].energy_ev
    heights = np.array([np.nanmax(spectrum.absorbance) for spectrum in spectra])
    peaks_nm = np.array([wavelength[np.nanargmax(spectrum.absorbance)] for spectrum in spectra])
    # Spectra are about 4 s apart: the first 30 end before 140 s.
    assert heights[:30].max() < 0.02
    appeared = np.argmax(heights > 0.05)
    assert peaks_nm[appeared] == pytest.approx(543, abs=8)
    assert heights.max() == pytest.approx(0.83, abs=0.05)
    assert peaks_nm[-1] < 500


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
