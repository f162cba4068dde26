"""Second derivatives and their minima, against polynomial fits by numpy and known peaks."""

import numpy as np
import pytest

from pipeline.config.magic import MagicAnalysis
from pipeline.fit.curvature import FindMinima
from pipeline.kernels import savitzky_golay as kernel
from pipeline.messages import BadFrameError, Minima, SecondDerivative, Spectrum, Stage
from tests.test_cdse import authors_nm, columns

ENERGY_EV = (1239.84198 / np.linspace(280.0, 680.0, 1024))[::-1]
ENERGY_EV = ENERGY_EV[(ENERGY_EV > 1.9) & (ENERGY_EV < 4.3)]
CENTRES = np.arange(2.2, 3.6, 0.05)
HALF_WIDTH = 0.06


def spectrum(absorbance, sigma=1e-3, energy=ENERGY_EV, frame=0):
    return Spectrum(
        frame=frame,
        time_s=0.1 * (frame + 1),
        energy_ev=energy,
        absorbance=absorbance,
        sigma=np.broadcast_to(sigma, energy.shape).copy(),
    )


def gaussian(centre_ev, fwhm_ev, height=1.0):
    return height * np.exp(-4.0 * np.log(2.0) * ((ENERGY_EV - centre_ev) / fwhm_ev) ** 2)


def processed(stage, message) -> tuple[SecondDerivative, Minima]:
    second, minima = stage.process(message)
    return second, minima


def energies(row: Minima) -> np.ndarray:
    values = np.array([getattr(row, f"minimum_{k}_ev") for k in range(1, 7)])
    return values[np.isfinite(values)]


@pytest.fixture(scope="module")
def stage():
    made = FindMinima(MagicAnalysis())
    made.warm_up()
    return made


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "python"])
def test_operators_are_weighted_cubic_fits_of_numpy(compiled):
    make = kernel.curvature_operators if compiled else kernel.curvature_operators.py_func
    apply = kernel.apply_operators if compiled else kernel.apply_operators.py_func
    draw = np.random.default_rng(1)
    values = np.sin(7.0 * ENERGY_EV) + 0.1 * draw.standard_normal(ENERGY_EV.size)
    sigma = draw.uniform(0.05, 0.2, ENERGY_EV.size)
    usable = draw.uniform(size=ENERGY_EV.size) > 0.1
    second, error = apply(*make(ENERGY_EV, usable, CENTRES, HALF_WIDTH), values, sigma)
    for centre, found, spread in zip(CENTRES, second, error, strict=True):
        u = (ENERGY_EV - centre) / HALF_WIDTH
        near = usable & (np.abs(u) <= 1.0)
        weights = np.sqrt(np.maximum(1.0 - u[near] ** 2, 0.0))
        x = ENERGY_EV[near] - centre
        expected = 2.0 * np.polyfit(x, values[near], 3, w=weights)[1]
        assert found == pytest.approx(expected, rel=1e-8)
        # The error, from what each value does to the fit by itself.
        effects = [2.0 * np.polyfit(x, one, 3, w=weights)[1] for one in np.eye(x.size)]
        assert spread == pytest.approx(np.hypot.reduce(effects * sigma[near]), rel=1e-8)


def test_a_cubic_is_exact_and_an_edge_is_not_known():
    x = ENERGY_EV - 3.0
    usable = np.ones(x.size, bool)
    centres = np.array([ENERGY_EV[0] + 0.02, 2.5, 3.5])
    operators = kernel.curvature_operators(ENERGY_EV, usable, centres, HALF_WIDTH)
    second, error = kernel.apply_operators(*operators, 2 * x**3 - x**2 + 5, np.ones(x.size))
    assert np.isnan(second[0])
    assert np.isnan(error[0])
    assert second[1:] == pytest.approx(12.0 * (centres[1:] - 3.0) - 2.0, rel=1e-7)


def test_linear_so_a_mean_of_second_derivatives_is_that_of_the_mean(stage):
    first, other = gaussian(2.6, 0.1), gaussian(2.7, 0.12)
    parts = [processed(stage, spectrum(a))[0].second_per_ev2 for a in (first, other)]
    of_mean = processed(stage, spectrum(0.5 * (first + other)))[0].second_per_ev2
    assert np.mean(parts, axis=0) == pytest.approx(of_mean, abs=1e-9)


def test_it_is_a_stage_with_an_even_axis(stage):
    assert isinstance(stage, Stage)
    second, _ = processed(stage, spectrum(gaussian(2.6, 0.1)))
    assert second.energy_ev[[0, -1]] == pytest.approx([2.2, 3.6])
    assert np.diff(second.energy_ev) == pytest.approx(0.005)


def test_peaks_on_a_curved_background_are_found_where_they_are(stage):
    background = 0.3 + 0.4 * (ENERGY_EV - 2.5) ** 2
    clean = gaussian(2.55, 0.085, 0.3) + gaussian(2.85, 0.1, 0.2) + background
    _, row = processed(stage, spectrum(clean))
    assert energies(row) == pytest.approx([2.55, 2.85], abs=1e-3)


def test_error_of_a_minimum_is_its_scatter(stage):
    clean = gaussian(2.55, 0.085, 0.3)
    draw = np.random.default_rng(2)
    found = []
    for frame in range(300):
        noisy = clean + 4e-3 * draw.standard_normal(clean.size)
        row = processed(stage, spectrum(noisy, 4e-3, frame=frame))[1]
        found.append((row.minimum_1_ev, row.minimum_1_ev_err))
    places, errors = np.array(found).T
    # The scatter of 300 is known to 4 %; where the grid cuts the parabola adds a little.
    assert np.std(places) == pytest.approx(np.median(errors), rel=0.2)
    assert np.mean(places) == pytest.approx(2.55, abs=3 * np.std(places) / np.sqrt(300) + 2e-4)


def test_noise_has_no_minima_and_does_not_split_a_broad_peak(stage):
    draw = np.random.default_rng(3)
    broad = gaussian(2.7, 0.25, 0.4)
    minima = twins = 0
    for frame in range(200):
        noise = 3e-3 * draw.standard_normal(ENERGY_EV.size)
        minima += energies(processed(stage, spectrum(noise, 3e-3, frame=frame))[1]).size
        twins += energies(processed(stage, spectrum(broad + noise, 3e-3, frame=frame))[1]).size > 1
    # Noise passes 5 standard errors in 3e-7 of some 50 independent places, 200 times.
    assert minima == 0
    assert twins <= 2


def test_a_spectrum_does_not_depend_on_those_before():
    absorbance = gaussian(2.6, 0.1)
    masked = absorbance.copy()
    masked[300:320] = np.nan
    fresh, used = FindMinima(MagicAnalysis()), FindMinima(MagicAnalysis())
    list(used.process(spectrum(masked)))
    list(used.process(spectrum(absorbance[::2].copy(), energy=ENERGY_EV[::2])))
    for one, other in zip(
        processed(fresh, spectrum(absorbance)), processed(used, spectrum(absorbance)), strict=True
    ):
        for name in type(one).__slots__:
            assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0], ids=["nan", "zero", "negative"])
def test_nothing_in_a_spectrum_gives_no_minima(stage, value):
    _, row = processed(stage, spectrum(np.full(ENERGY_EV.size, value)))
    assert energies(row).size == 0


def test_without_errors_they_come_from_the_scatter(stage):
    draw = np.random.default_rng(4)
    noisy = gaussian(2.6, 0.1) + 2e-3 * draw.standard_normal(ENERGY_EV.size)
    known, _ = processed(stage, spectrum(noisy, 2e-3))
    unknown, row = processed(stage, spectrum(noisy, np.nan))
    ratio = unknown.sigma_per_ev2 / known.sigma_per_ev2
    assert np.median(ratio) == pytest.approx(1.0, abs=0.25)
    assert energies(row) == pytest.approx([2.6], abs=2e-3)


def test_falling_energies_are_turned_and_others_refused(stage):
    absorbance = gaussian(2.6, 0.1)
    _, rising = processed(stage, spectrum(absorbance))
    _, falling = processed(stage, spectrum(absorbance[::-1], energy=ENERGY_EV[::-1]))
    assert falling.minimum_1_ev == rising.minimum_1_ev
    shuffled = ENERGY_EV.copy()
    shuffled[5] = shuffled[9]
    with pytest.raises(BadFrameError, match="absorbance frame 7: expected energies that rise"):
        list(stage.process(spectrum(absorbance, energy=shuffled, frame=7)))
    short = Spectrum(
        frame=8, time_s=0.0, energy_ev=ENERGY_EV, absorbance=absorbance[1:], sigma=absorbance
    )
    with pytest.raises(BadFrameError, match=r"frame 8: expected energy_ev.* of one length"):
        list(stage.process(short))


@pytest.mark.real_data
@pytest.mark.parametrize("run", [2, 9])
def test_lowest_minimum_of_real_spectra_is_the_peak_that_the_authors_saw(data_dir, run):
    folder = data_dir / "cdse_growth_absorbance"
    authors = authors_nm(folder, run)
    finder = FindMinima(MagicAnalysis(energy_range_ev=(2.1, 3.3)))
    off_nm = []
    for time_s, wavelength_nm, absorbance in columns(folder / f"Run_{run}_UV-Vis.csv"):
        energy = 1239.84198 / wavelength_nm
        _, row = processed(finder, spectrum(absorbance, np.nan, energy))
        off_nm.append(1239.84198 / row.minimum_1_ev - authors[time_s])
    # The authors read maxima of the absorbance, which the rising continuum draws to the blue.
    assert len(off_nm) >= 16
    assert min(off_nm) > -1.0
    assert max(off_nm) < 5.0
    assert 0.0 < np.median(off_nm) < 3.0
