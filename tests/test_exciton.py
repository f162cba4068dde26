"""FitExciton on spectra whose first exciton is known."""

import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import erf

from pipeline.config.exciton import ExcitonFit
from pipeline.fit.exciton import FitExciton
from pipeline.kernels import exciton as kernel
from pipeline.kernels import sizing
from pipeline.messages import BadFrameError, Exciton, Spectrum, Stage

WAVELENGTH_NM = np.linspace(280.0, 680.0, 1024)
ENERGY_EV = (1239.84198 / WAVELENGTH_NM)[::-1]
ENERGY_EV = ENERGY_EV[(ENERGY_EV > 1.8) & (ENERGY_EV < 4.4)]

# Diameter in nm and fwhm in meV of the Cs-DOPA run at 0.3, 7 and 20 s, with the height of the
# first exciton and of the agglomerates' band (both in absorbance; chosen: they are not published).
CS_DOPA = {
    "0.3 s": (3.80, 339.0, 0.10, 0.80),
    "7 s": (5.30, 138.0, 0.50, 0.10),
    "20 s": (7.60, 134.0, 0.50, 0.00),
}


def transition_ev(diameter_nm: float, scale: float = 1.0) -> float:
    return math.sqrt(2.36**2 + 2 * 2.36 * 11.94 * scale / diameter_nm**2) - 0.71 / diameter_nm


def absorbance(diameter_nm, fwhm_mev, height, band):
    """Four transitions, a smoothed step, lambda^-4 scatter and the agglomerates' band."""
    width = fwhm_mev * 1e-3 / 2.3548200450309493
    total = 0.02 * (ENERGY_EV / 3) ** 4
    shares = ((1, 1, 1), (2.046, 1.25, 0.9), (3.365, 1.6, 0.8), (4, 2.0, 0.8))
    for scale, widening, share in shares:
        x = (ENERGY_EV - transition_ev(diameter_nm, scale)) / (width * widening)
        total += height * share * np.exp(-0.5 * x**2)
    x = ENERGY_EV - transition_ev(diameter_nm, 2.7)
    total += height * 0.5 * (1 + erf(x / (2.5 * width))) * (1 + 0.8 * x)
    total += band * np.exp(-0.5 * ((ENERGY_EV - 3.87) / (0.28 / 2.3548)) ** 2)
    return total


def noisy(clean: np.ndarray, frame: int, full_scale: float = 40000.0) -> Spectrum:
    """Shot noise and five counts of read noise on ``full_scale`` counts of lamp."""
    counts = full_scale * 10**-clean
    sigma = np.sqrt(counts + 25) / counts / math.log(10)
    noise = np.random.default_rng(frame).standard_normal(clean.size)
    return Spectrum(
        frame=frame,
        time_s=0.15 * frame,
        energy_ev=ENERGY_EV,
        absorbance=clean + sigma * noise,
        sigma=sigma,
    )


def fitted(stage: FitExciton, spectrum: Spectrum) -> Exciton:
    (row,) = stage.process(spectrum)
    return row


@pytest.fixture(scope="module")
def stage() -> FitExciton:
    made = FitExciton(ExcitonFit())
    made.warm_up()
    return made


def test_it_is_a_stage(stage):
    assert isinstance(stage, Stage)


@pytest.mark.parametrize("moment", CS_DOPA)
def test_energy_and_width_of_the_cs_dopa_run(stage, moment):
    diameter_nm, fwhm_mev, height, band = CS_DOPA[moment]
    clean = absorbance(diameter_nm, fwhm_mev, height, band)
    rows = [fitted(stage, noisy(clean, k)) for k in range(20)]
    energy = np.array([row.exciton_ev for row in rows])
    fwhm = np.array([row.fwhm_mev for row in rows])
    error = np.array([row.exciton_ev_err for row in rows])

    truth_ev = transition_ev(diameter_nm)
    assert np.all(np.abs(energy - truth_ev) < 5e-3 + 3 * error)
    assert abs(np.median(energy) - truth_ev) < 2e-3
    assert np.all(np.abs(fwhm / fwhm_mev - 1) < 0.10)
    # Noise does what the errors say: 20 frames know their own scatter to 16 %, so 0.5 to 1.6.
    assert 0.5 < np.std(energy) / np.median(error) < 1.6
    sizes = np.array([row.diameter_nm for row in rows])
    assert np.median(sizes) == pytest.approx(diameter_nm, abs=0.05)
    assert {row.size_curve for row in rows} == {"two_band (fallback)"}


@pytest.mark.parametrize("time_s", [0.5, 1.0, 4.0, 7.0, 15.0, 20.0, 50.0, 300.0])
def test_the_simulated_synthesis_is_read_back(stage, time_s):
    """From the first crystals to ripening: 5 meV, 10 % of the width, beyond the noise's share."""
    from detectors.sample.synthesis import Synthesis

    synthesis = Synthesis("cs_dopa")
    truth = synthesis.state(time_s)
    clean = synthesis.absorbance(ENERGY_EV, time_s)
    for frame in range(8):
        row = fitted(stage, noisy(clean, frame))
        assert abs(row.exciton_ev - truth.exciton_ev) < 5e-3 + 2 * row.exciton_ev_err
        assert row.fwhm_mev == pytest.approx(truth.exciton_fwhm_mev, rel=0.10)


def test_errors_cover_the_truth(stage):
    """Of 60 spectra, within one and two errors: 68 and 95 %, allowing 3 binomial deviations.

    Inside the model's family: a single peak, scatter and a smoothed step far above.
    """
    x = (ENERGY_EV - 2.6) / 0.06
    clean = 0.3 * np.exp(-0.5 * x**2) + 0.03 * (ENERGY_EV / 3) ** 4
    clean += 0.2 * np.exp(-0.5 * ((ENERGY_EV - 2.6 - 3.6 * 0.06) / 0.09) ** 2)
    rows = [fitted(stage, noisy(clean, k, full_scale=4000.0)) for k in range(60)]
    for value, error, truth in (
        ("exciton_ev", "exciton_ev_err", 2.6),
        ("fwhm_mev", "fwhm_mev_err", 60 * kernel.FWHM_PER_SIGMA),
    ):
        z = np.array([(getattr(r, value) - truth) / getattr(r, error) for r in rows])
        assert 0.50 < np.mean(np.abs(z) < 1) < 0.92
        assert np.mean(np.abs(z) < 2) > 0.86
    chi2 = np.array([row.reduced_chi2 for row in rows])
    assert 0.85 < np.mean(chi2) < 1.15


@pytest.mark.parametrize("band", [0.0, 0.5, 1.2])
def test_no_exciton_no_number(stage, band):
    """At five standard errors none of 60 blank spectra may show an exciton."""
    clean = absorbance(4.0, 200.0, 0.0, band)
    rows = [fitted(stage, noisy(clean, k)) for k in range(60)]
    assert all(math.isnan(row.exciton_ev) and math.isnan(row.diameter_nm) for row in rows)
    heights = np.array([row.agglomerate_band for row in rows])
    # The fixed width (300 meV) is not quite that of the band (280 meV): 11 % in height.
    assert np.median(heights) == pytest.approx(band, rel=0.13, abs=0.01)


def test_every_spectrum_by_itself(stage):
    clean = absorbance(5.3, 138.0, 0.5, 0.1)
    spectrum = noisy(clean, 3)
    first = fitted(stage, spectrum)
    fitted(stage, noisy(absorbance(7.6, 134.0, 0.5, 0.0), 4))
    again = fitted(stage, spectrum)
    assert all(
        getattr(first, name) == getattr(again, name) for name in ("exciton_ev", "fwhm_mev_err")
    )


def test_falling_energies_and_missing_pixels_and_errors(stage):
    clean = absorbance(5.3, 138.0, 0.5, 0.1)
    spectrum = noisy(clean, 1)
    turned = Spectrum(
        frame=1,
        time_s=0.0,
        energy_ev=spectrum.energy_ev[::-1],
        absorbance=spectrum.absorbance[::-1],
        sigma=spectrum.sigma[::-1],
    )
    assert fitted(stage, turned).exciton_ev == fitted(stage, spectrum).exciton_ev
    holed = spectrum.absorbance.copy()
    holed[100:300:7] = np.nan
    with_holes = Spectrum(
        frame=1, time_s=0.0, energy_ev=ENERGY_EV, absorbance=holed, sigma=spectrum.sigma
    )
    assert fitted(stage, with_holes).exciton_ev == pytest.approx(transition_ev(5.3), abs=2e-3)
    unknown = Spectrum(
        frame=1,
        time_s=0.0,
        energy_ev=ENERGY_EV,
        absorbance=spectrum.absorbance,
        sigma=np.full(ENERGY_EV.size, np.nan),
    )
    row = fitted(stage, unknown)
    assert row.exciton_ev == pytest.approx(transition_ev(5.3), abs=2e-3)
    assert math.isnan(row.reduced_chi2)


def test_dark_spectrum_is_a_row_of_nans(stage):
    nothing = np.full(ENERGY_EV.size, np.nan)
    row = fitted(
        stage,
        Spectrum(frame=0, time_s=0.0, energy_ev=ENERGY_EV, absorbance=nothing, sigma=nothing),
    )
    assert math.isnan(row.exciton_ev)
    assert math.isnan(row.agglomerate_band)


def test_bad_axes_are_named(stage):
    energy = ENERGY_EV.copy()
    energy[50] = energy[40]
    spectrum = Spectrum(frame=9, time_s=0.0, energy_ev=energy, absorbance=energy, sigma=energy)
    with pytest.raises(BadFrameError, match=r"absorbance frame 9: expected energies that rise"):
        fitted(stage, spectrum)
    short = Spectrum(
        frame=9, time_s=0.0, energy_ev=ENERGY_EV, absorbance=energy[:5], sigma=ENERGY_EV
    )
    with pytest.raises(BadFrameError, match="one length"):
        fitted(stage, short)


def test_compiled_and_plain_agree():
    clean = absorbance(5.3, 138.0, 0.5, 0.0)[::6]
    energy = ENERGY_EV[::6]
    sigma = np.full(energy.size, 2e-3)
    keep = energy < 2.9
    arguments = (
        energy[keep],
        clean[keep],
        sigma[keep],
        np.array([2.63, 0.06, 3.6, 1.5]),
        np.array([2.2, 0.03, kernel.GAP_MIN, kernel.RATIO_MIN]),
        np.array([3.6, 0.2, kernel.GAP_MAX, kernel.RATIO_MAX]),
        np.nan,
        0.12,
    )
    compiled = kernel.fit_lowest_peak(*arguments)
    plain = kernel.fit_lowest_peak.py_func(*arguments)
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-9)


def test_curvature_equals_savitzky_golay():
    """On even points and equal errors the local cubic is scipy's Savitzky-Golay filter."""
    from scipy.signal import savgol_filter

    energy = np.linspace(2.0, 3.0, 101)
    values = np.random.default_rng(0).normal(size=101)
    second, error = kernel.curvature(energy, values, np.ones(101), energy[20:80], 0.1001)
    expected = np.asarray(savgol_filter(values, 21, 3, deriv=2, delta=0.01))[20:80]
    np.testing.assert_allclose(second, expected, rtol=1e-6, atol=1e-6 * np.ptp(expected))
    impulse = np.zeros(101)
    impulse[50] = 1.0
    weights = np.asarray(savgol_filter(impulse, 21, 3, deriv=2, delta=0.01))
    np.testing.assert_allclose(error, np.sqrt(np.sum(weights**2)), rtol=1e-6)


def test_inverse_is_the_inverse_and_says_when_there_is_none():
    made = np.random.default_rng(2).normal(size=(9, 5))
    matrix = made.T @ made
    np.testing.assert_allclose(kernel.cholesky_inverse(matrix), np.linalg.inv(matrix), rtol=1e-9)
    assert np.all(np.isnan(kernel.cholesky_inverse(np.zeros((3, 3)))))


def test_sizing_curves():
    cspbbr3 = (2.36, 11.94, 0.71)
    for diameter in (1.5, 3.8, 7.6, 20.0):
        energy = sizing.two_band_energy_ev(diameter, *cspbbr3)
        assert sizing.two_band_diameter_nm(energy, *cspbbr3) == pytest.approx(diameter, rel=1e-9)
    assert math.isnan(sizing.two_band_diameter_nm(1.5, *cspbbr3))
    # Yu, Qu, Guo and Peng, Chem. Mater. 15, 2854 (2003), CdSe, worked out by hand at 520 nm.
    yu = (41.57, -0.4277, 1.6242e-3, -2.6575e-6, 1.6122e-9)
    assert sizing.polynomial_diameter_nm(1239.84198 / 520.0, yu) == pytest.approx(2.56, abs=0.01)
    table = (np.array([2.4, 2.6, 3.0]), np.array([9.0, 5.0, 3.0]))
    assert sizing.table_diameter_nm(2.5, *table) == pytest.approx(7.0)
    assert math.isnan(sizing.table_diameter_nm(2.3, *table))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValidationError, match="two or more pairs"):
        ExcitonFit(sizing="table")
    with pytest.raises(ValidationError, match="lowest power first"):
        ExcitonFit(sizing="polynomial_nm")
    with pytest.raises(ValidationError, match="expected 0 < first < second"):
        ExcitonFit(energy_range_ev=(3.0, 2.0))
