"""The stage from counts to absorbance: definition, error, what is not measurable."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.config.loader import load_config
from pipeline.config.reduce import AbsorbanceReduction
from pipeline.kernels.noise import local_scatter
from pipeline.messages import BadFrameError, RunStart, Spectrum, SpectrumFrame, Stage, StreamStart
from pipeline.reduce.absorbance import ReduceAbsorbance
from pipeline.reduce.errors import InputError
from pipeline.replay import open_recording
from tests.support import REPOSITORY

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
    ],
)
def test_bad_spectrum_is_rejected_with_one_line(frame, message):
    stage = ReduceAbsorbance(SETTINGS)
    stage.reset(counts_start())
    with pytest.raises(BadFrameError, match=message) as caught:
        list(stage.process(frame))
    assert str(caught.value).startswith("absorbance frame 5: ")
    assert "\n" not in str(caught.value)


def test_exposure_is_asked_for_where_the_reference_has_one():
    stage = ReduceAbsorbance(SETTINGS)
    frame = replace(frame_of(DARK + LAMP), exposure_s=0.0)
    stage.reset(counts_start())
    assert len(list(stage.process(frame))) == 1
    stage.reset(counts_start(metadata={"reference_exposure_s": 0.3}))
    with pytest.raises(BadFrameError, match="frame 5: expected an exposure above 0 s, got 0"):
        list(stage.process(frame))


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


COVERED = np.arange(401) < 12
RESPONSE = (0.97, 2e-6, -2e-11)


def recorded(light, offset=0.0, stray=0.0, response=()):
    """Counts of an imperfect spectrometer without noise; the first 12 pixels are covered."""
    light = np.where(COVERED, 0.0, light)
    light = light + np.where(COVERED, 0.0, stray * light[~COVERED].mean())
    counts = light
    for _ in range(60 if response else 0):
        counts = light * np.polynomial.polynomial.polyval(counts, response)
    return DARK + offset + counts


@pytest.mark.parametrize(
    ("settings", "flaws", "reference_flaws", "drift"),
    [
        ({"covered_pixels": ((0, 11),)}, {"offset": 90.0}, {"offset": -15.0}, 1.0),
        ({"transparent_ev": (1.78, 1.95)}, {}, {}, 0.6),
        ({"stray_light_fraction": 0.02}, {"stray": 0.02}, {"stray": 0.02}, 1.0),
        ({"nonlinearity_coefficients": RESPONSE}, {"response": RESPONSE}, None, 1.0),
        (
            {
                "covered_pixels": ((0, 5), (6, 11)),
                "transparent_ev": (1.78, 1.95),
                "stray_light_fraction": 0.02,
                "nonlinearity_coefficients": RESPONSE,
            },
            {"offset": 90.0, "stray": 0.02, "response": RESPONSE},
            {"offset": -15.0, "stray": 0.02, "response": RESPONSE},
            1.3,
        ),
    ],
    ids=["covered", "transparent", "stray", "nonlinear", "all"],
)
def test_flaws_of_a_spectrometer_are_taken_out(settings, flaws, reference_flaws, drift):
    """Without noise the true absorbance comes back; without the setting it is far off."""
    truth = np.where(ENERGY_EV < 1.96, 0.0, TRUE_A)
    arrays = {
        "wavelength_nm": WAVELENGTH_NM,
        "dark": DARK,
        "reference": recorded(LAMP, **(flaws if reference_flaws is None else reference_flaws)),
    }
    # Stray light is told from the mean of the pixels with light, so they must be known.
    covered = {"covered_pixels": ((0, 11),)} if "stray" in flaws else {}
    start, frame = counts_start(arrays=arrays), recorded(drift * LAMP * 10**-truth, **flaws)
    told = SETTINGS.model_copy(update=covered | settings)
    spectrum = reduce_one(start, frame_of(frame), told)
    kept = KEPT[~COVERED[KEPT]]
    by_energy = dict(zip(spectrum.energy_ev, spectrum.absorbance, strict=True))
    absorbance = np.array([by_energy[energy] for energy in ENERGY_EV[kept]])
    np.testing.assert_allclose(absorbance, truth[kept], atol=1e-10)
    untold = reduce_one(start, frame_of(frame), SETTINGS.model_copy(update=covered))
    wrong = np.interp(ENERGY_EV[kept], untold.energy_ev, untold.absorbance) - truth[kept]
    assert np.abs(wrong).max() > 0.01


def test_stray_light_is_the_inverse_of_its_matrix():
    """Zong's 1 + D with D even, solved as a system of equations."""
    matrix = np.eye(401) + 0.03 / 401
    counts = DARK + LAMP * 10**-TRUE_A
    light, lamp = (np.linalg.solve(matrix, one) for one in (counts - DARK, LAMP))
    settings = SETTINGS.model_copy(update={"stray_light_fraction": 0.03})
    spectrum = reduce_one(counts_start(), frame_of(counts), settings)
    usable = (light > 0) & (lamp > 0)
    expected = np.full(401, np.nan)
    expected[usable] = -np.log10(light[usable] / lamp[usable])
    np.testing.assert_allclose(spectrum.absorbance, expected[KEPT], atol=1e-11)


def test_sigma_of_the_whole_chain_covers_at_every_energy():
    """Everything drawn anew: dark, reference, drifts, the stray light's true fraction, noise.

    Of 20000 such spectra the variance of z was 1.001 on average over pixels and over bins, and off
    by 0.009 at single pixels, of which chance alone makes 0.008 (mean absolute values).
    """
    pixels, repeats, gain, read, averaged = 120, 1500, 2.0, 8.0, 4
    random = np.random.default_rng(21)
    wavelength_nm = np.linspace(300.0, 700.0, pixels)
    energy_ev = 1239.841984 / wavelength_nm
    lit = np.arange(pixels) >= 14
    lamp = lit * (30000.0 * np.exp(-(((wavelength_nm - 550) / 200) ** 2)) + 1500)
    truth = 0.8 * np.exp(-(((energy_ev - 2.6) / 0.15) ** 2))
    truth += 0.9 / (1 + np.exp(-(energy_ev - 3.2) / 0.08))
    settings = AbsorbanceReduction(
        energy_min_ev=1.78,
        energy_max_ev=3.9,
        read_noise_counts=read,
        counts_per_electron=gain,
        covered_pixels=((0, 13),),
        transparent_ev=(1.79, 1.95),
        stray_light_fraction=0.003,
        stray_light_fraction_err=0.0005,
        nonlinearity_coefficients=RESPONSE,
    )

    def measured(light, stray, offset, spectra):
        light = light + lit * stray * light[lit].mean()
        light = gain * random.poisson(light * spectra / gain) / spectra
        counts = light
        for _ in range(6):
            counts = light * np.polynomial.polynomial.polyval(counts, RESPONSE)
        noise = read / math.sqrt(spectra) * random.standard_normal(pixels)
        return 200.0 + offset + counts + noise

    evened = settings.model_copy(update={"energy_step_ev": 0.06})
    stages = [ReduceAbsorbance(settings), ReduceAbsorbance(evened)]
    spectra = [[], []]
    for number in range(repeats):
        stray = 0.003 + 0.0005 * random.standard_normal()
        arrays = {
            "wavelength_nm": wavelength_nm,
            "dark": 200.0 + read / math.sqrt(averaged) * random.standard_normal(pixels),
            "reference": measured(lamp, stray, 15 * random.standard_normal(), averaged),
        }
        drift = math.exp(0.1 * random.standard_normal())
        counts = measured(lamp * drift * 10**-truth, stray, 30 * random.standard_normal(), 1)
        start = counts_start(
            shape=(pixels,), arrays=arrays, metadata={"reference_frames": averaged}
        )
        for stage, found in zip(stages, spectra, strict=True):
            stage.reset(start)
            found.extend(stage.process(frame_of(counts, number)))
    fine = np.linspace(1.7, 4.0, 20001)
    curve = np.interp(fine, energy_ev[::-1], truth[::-1])
    for found, width in zip(spectra, (None, 0.06), strict=True):
        energies = found[0].energy_ev
        if width is None:
            expected = np.interp(energies, fine, curve)
        else:
            # Means over the bins of the line through the pixels.
            expected = [curve[np.abs(fine - energy) <= width / 2].mean() for energy in energies]
        absorbance = np.array([spectrum.absorbance for spectrum in found])
        z = (absorbance - expected) / np.array([spectrum.sigma for spectrum in found])
        # A variance of 1500 is good to 0.037 and a mean to 0.026: 4.5 of that at one energy.
        assert np.abs(z.var(axis=0) - 1.0).max() < 0.165
        assert z.var(axis=0).mean() == pytest.approx(1.0, abs=0.03)
        assert np.abs(z.mean(axis=0)).max() < 0.125


def test_saturation_takes_its_neighbours_along():
    counts = DARK + LAMP * 10**-TRUE_A
    counts[200] = 60000.0
    reference = DARK + LAMP
    reference[230] = 65535.0
    arrays = {"wavelength_nm": WAVELENGTH_NM, "dark": DARK, "reference": reference}
    settings = SETTINGS.model_copy(update={"saturation_spread_pixels": 2})
    spectrum = reduce_one(counts_start(arrays=arrays), frame_of(counts), settings)
    lost = np.isin(KEPT, [*range(198, 203), *range(228, 233)])
    np.testing.assert_array_equal(np.isnan(spectrum.absorbance), lost)


def test_too_little_light_and_too_much_absorbance_are_nan():
    truth = np.where(np.arange(401) == 200, 2.2, TRUE_A)
    counts = DARK + LAMP * 10**-truth
    # Light of 100 counts has a variance of 100 and twice 25, the read noise of it and the dark.
    counts[300] = DARK[300] + 100.0
    seen = 100.0 / math.sqrt(150.0)

    def lost(**update):
        settings = SETTINGS.model_copy(update=update)
        spectrum = reduce_one(counts_start(), frame_of(counts), settings)
        np.testing.assert_array_equal(np.isnan(spectrum.absorbance), np.isnan(spectrum.sigma))
        return set(KEPT[np.isnan(spectrum.absorbance)])

    assert lost() == set()
    assert lost(low_light_sigma=0.99 * seen) == set()
    assert lost(low_light_sigma=1.01 * seen) == {300}
    # At 600 nm, 100 counts are an absorbance of 2.45.
    assert lost(max_absorbance=2.19) == {200, 300}
    assert lost(max_absorbance=2.21) == {300}
    assert lost(max_absorbance=2.46) == set()
    # An unknown in the stray light takes away what it is as large as.
    unknown = {"stray_light_fraction": 1e-3, "stray_light_fraction_err": 5e-3}
    assert lost(low_light_sigma=2.0, **unknown) >= {300}
    with pytest.raises(BadFrameError, match="are low_light_sigma and max_absorbance too strict"):
        lost(max_absorbance=0.01)


def test_wavelengths_in_air_move_energies_and_nothing_else():
    frame = frame_of(DARK + LAMP * 10**-TRUE_A)
    vacuum = reduce_one(counts_start(), frame)
    air = reduce_one(
        counts_start(), frame, SETTINGS.model_copy(update={"wavelengths_in_air": True})
    )
    np.testing.assert_array_equal(air.absorbance, vacuum.absorbance)
    shift_mev = np.interp(2.5, vacuum.energy_ev, 1e3 * (vacuum.energy_ev - air.energy_ev))
    assert shift_mev == pytest.approx(0.70, abs=0.01)


def test_reduced_absorbance_is_averaged_too():
    start = counts_start(kind="absorbance", arrays={"wavelength_nm": WAVELENGTH_NM}, metadata={})
    settings = SETTINGS.model_copy(update={"energy_step_ev": 0.025})
    random = np.random.default_rng(3)
    noisy = TRUE_A + 0.004 * random.standard_normal(401)
    spectrum = reduce_one(start, frame_of(noisy), settings)
    np.testing.assert_allclose(np.diff(spectrum.energy_ev), 0.025)
    residual = spectrum.absorbance - np.interp(spectrum.energy_ev, ENERGY_EV[::-1], TRUE_A[::-1])
    assert np.abs(residual / spectrum.sigma).max() < 5
    assert spectrum.sigma[0] < 0.4 * 0.004 < spectrum.sigma[-1] < 0.004
    settings = SETTINGS.model_copy(update={"stray_light_fraction": 0.01})
    with pytest.raises(InputError, match="stray_light_fraction: expected counts to correct"):
        reduce_one(start, frame_of(noisy), settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covered_pixels": ((390, 401),)}, "expected pixels from 0 to 400, got 390 to 401"),
        ({"covered_pixels": ((200, 210),)}, "expected none of the lamp's light"),
        ({"transparent_ev": (1.2, 1.5)}, r"in 1.2 to 1.5 eV, got 0 of .* 1.771 to 4.133 eV"),
        ({"energy_step_ev": 1e-3}, r"energy_step_ev: expected at least 0.01\d+ eV"),
        ({"energy_step_ev": 3.0}, "energy_step_ev: expected a bin between"),
        ({"nonlinearity_coefficients": (1.0, 1e-3, 1e-6)}, "expected light that rises"),
        ({"saturation_counts": 100.0}, "expected a reference above the dark, got none"),
        ({"saturation_counts": 210.0, "covered_pixels": ((0, 1),)}, "covered_pixels: expected fi"),
    ],
)
def test_settings_that_do_not_fit_the_stream_are_refused(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        ReduceAbsorbance(SETTINGS.model_copy(update=settings)).reset(counts_start())
    assert str(caught.value).startswith("absorbance: ")
    assert "\n" not in str(caught.value)


def test_air_far_outside_its_range_is_refused():
    arrays = {"wavelength_nm": WAVELENGTH_NM * 1000, "dark": DARK, "reference": DARK + LAMP}
    settings = SETTINGS.model_copy(update={"wavelengths_in_air": True})
    with pytest.raises(InputError, match="expected wavelengths from 200 to 1700 nm, got 3e"):
        ReduceAbsorbance(settings).reset(counts_start(arrays=arrays))


@pytest.mark.parametrize(
    ("settings", "broken", "message"),
    [
        ({"transparent_ev": (1.78, 1.95)}, WAVELENGTH_NM > 630, "transparent_ev: expected light"),
        ({"covered_pixels": ((0, 11),)}, None, "covered_pixels: expected finite counts"),
    ],
)
def test_spectrum_that_cannot_be_corrected_is_rejected(settings, broken, message):
    counts = recorded(LAMP)
    if broken is None:
        counts[:12] = np.nan
    else:
        counts[broken] = DARK[broken]
    arrays = {"wavelength_nm": WAVELENGTH_NM, "dark": DARK, "reference": recorded(LAMP)}
    stage = ReduceAbsorbance(SETTINGS.model_copy(update=settings))
    stage.reset(counts_start(arrays=arrays))
    with pytest.raises(BadFrameError, match=message) as caught:
        list(stage.process(frame_of(counts)))
    assert str(caught.value).startswith("absorbance frame 5: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transparent_ev": (2.0, 1.9)}, "expected transparent_ev as from, to in eV, rising"),
        ({"covered_pixels": ((5, 4),)}, "expected covered_pixels as first, last from 0, got 5, 4"),
    ],
)
def test_ranges_upside_down_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        AbsorbanceReduction(**settings)


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
@pytest.mark.parametrize("step_ev", [None, 0.01])
def test_recorded_counts_show_the_plasmon_band(data_dir, step_ev):
    """Gold: nothing until about 140 s, then a band at 543 nm that grows to 0.83 and turns blue."""
    spectra = gold_spectra(data_dir, energy_step_ev=step_ev)
    wavelength = 1239.841984 / spectra[0].energy_ev
    heights = np.array([np.nanmax(spectrum.absorbance) for spectrum in spectra])
    peaks_nm = np.array([wavelength[np.nanargmax(spectrum.absorbance)] for spectrum in spectra])
    # Spectra are about 4 s apart: the first 30 end before 140 s.
    assert heights[:30].max() < 0.02
    appeared = np.argmax(heights > 0.05)
    assert peaks_nm[appeared] == pytest.approx(543, abs=8)
    assert heights.max() == pytest.approx(0.83, abs=0.05)
    assert peaks_nm[-1] < 500


@pytest.mark.real_data
def test_a_lamp_that_fades_leaves_recorded_absorbance_as_it_is(data_dir):
    steady = gold_spectra(data_dir, transparent_ev=(1.83, 1.9))
    fading = gold_spectra(data_dir, fade=0.995, transparent_ev=(1.83, 1.9))
    bare = gold_spectra(data_dir, fade=0.995)
    assert bare[90].absorbance[50] - steady[90].absorbance[50] > 0.1
    for before, after in zip(steady, fading, strict=True):
        np.testing.assert_allclose(after.absorbance, before.absorbance, atol=1e-12)


@pytest.mark.real_data
def test_config_of_recorded_counts_loses_no_spectrum(data_dir):
    """The record names no exposure."""
    path = data_dir / "aunp_timeseries_raw_counts" / "aunps_glass_good.csv"
    config = load_config(REPOSITORY / "configs" / "aunp_absorbance.yaml")
    source = open_recording(path, config.replay).streams["absorbance"]
    stage = ReduceAbsorbance(config.absorbance.reduce)
    stage.reset(RunStart(run="r", stream=source.start))
    frames = [frame for frame in source.frames() if isinstance(frame, SpectrumFrame)]
    spectra = [spectrum for frame in frames for spectrum in stage.process(frame)]
    assert len(spectra) == 99
    assert np.isfinite([spectrum.absorbance for spectrum in spectra]).all()


def gold_spectra(data_dir, fade=1.0, **settings) -> list[Spectrum]:
    """Of recorded counts, each a factor ``fade`` fainter than the one before."""
    path = data_dir / "aunp_timeseries_raw_counts" / "aunps_glass_good.csv"
    table = np.genfromtxt(path, delimiter=",", skip_header=1)
    table = table[np.isfinite(table).all(axis=1)]
    arrays = {
        "wavelength_nm": table[:, 0],
        "dark": np.zeros(len(table)),
        "reference": table[:, 1],
    }
    stage = ReduceAbsorbance(AbsorbanceReduction(energy_min_ev=1.65, energy_max_ev=3.0, **settings))
    stage.reset(counts_start(shape=(len(table),), arrays=arrays, metadata={}))
    return [
        spectrum
        for k in range(2, table.shape[1])
        for spectrum in stage.process(frame_of(table[:, k] * fade**k, k))
    ]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
