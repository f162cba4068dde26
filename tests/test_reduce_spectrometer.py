"""Corrections of a spectrometer, one by one, against closed forms and independent code."""

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.ndimage import binary_dilation
from scipy.stats import norm

from pipeline.reduce.spectrometer.covered import check_covered, covered_mask, offset
from pipeline.reduce.spectrometer.energy_grid import EnergyGrid
from pipeline.reduce.spectrometer.linearity import check_response, linearise
from pipeline.reduce.spectrometer.ratio import Errors, independent
from pipeline.reduce.spectrometer.saturation import unusable_pixels
from pipeline.reduce.spectrometer.wavelength import air_to_vacuum_nm, photon_energy_ev

# Of an Ocean HR4000, as its memory holds them.
HR4000 = (
    0.939935,
    4.48307e-05,
    -1.58006e-08,
    3.23411e-12,
    -3.96006e-16,
    2.8124e-20,
    -1.05914e-24,
    1.61494e-29,
)


@pytest.mark.parametrize("spread", [0, 1, 7, 60])
def test_saturation_spreads_as_a_dilation(spread):
    random = np.random.default_rng(spread)
    counts = random.uniform(0, 100, 300)
    counts[[0, 40, 43, 299]] = 65535.0
    counts[120] = np.nan
    size = np.ones(2 * spread + 1, bool)
    expected = binary_dilation(counts == 65535.0, size) | np.isnan(counts)
    np.testing.assert_array_equal(unusable_pixels(counts, 65535.0, spread), expected)


def test_covered_pixels_are_ranges_with_both_ends():
    mask = covered_mask(((0, 2), (8, 9)), 10)
    np.testing.assert_array_equal(np.flatnonzero(mask), [0, 1, 2, 8, 9])
    with pytest.raises(ValueError, match="expected pixels from 0 to 9, got 4 to 10"):
        covered_mask(((4, 10),), 10)
    with pytest.raises(ValueError, match="expected pixels with light too, got all 10"):
        covered_mask(((0, 9),), 10)


def test_offset_leaves_out_what_is_unusable():
    above = np.array([3.0, 5.0, np.nan, 900.0, 50.0])
    covered = np.array([True, True, True, True, False])
    unusable = np.array([False, False, True, True, False])
    assert offset(above, covered, unusable) == (4.0, 2)
    with pytest.raises(ValueError, match="expected finite counts below saturation, got none"):
        offset(above, covered, np.ones(5, bool))


def test_covered_pixels_that_see_the_lamp_are_refused():
    above = np.full(100, 5000.0)
    covered = covered_mask(((0, 9),), 100)
    with pytest.raises(ValueError, match=r"expected none of the lamp's light .* got 5000"):
        check_covered(above, covered)
    above[:10] = 30.0
    check_covered(above, covered)


def test_linearity_is_the_vendors_division():
    counts = np.linspace(0.0, 14000.0, 57)
    light, slope = linearise(counts, HR4000)
    np.testing.assert_allclose(light, counts / np.poly1d(HR4000[::-1])(counts), rtol=1e-13)
    step = 1e-3
    ahead, behind = (linearise(counts[1:] + d, HR4000)[0] for d in (step, -step))
    np.testing.assert_allclose(slope[1:], (ahead - behind) / (2 * step), rtol=1e-6)
    # Below the dark a straight line with the slope at 0.
    light, slope = linearise(np.array([-20.0, -1.0]), HR4000)
    np.testing.assert_allclose(light, np.array([-20.0, -1.0]) / HR4000[0])
    np.testing.assert_allclose(slope, 1 / HR4000[0])


def test_response_that_turns_round_is_refused():
    check_response(HR4000, 14000.0)
    with pytest.raises(ValueError, match="expected light that rises with the counts up to 60000"):
        check_response((1.0, 1e-3, 1e-6), 60000.0)
    # What a spectrometer without a calibration says.
    with pytest.raises(ValueError, match="got a fall at 0: lowest power first"):
        check_response((0.0,), 60000.0)


@pytest.mark.parametrize(
    ("air_nm", "vacuum_nm"),
    [
        # The metre of 1960: 1 650 763.73 wavelengths of 86Kr in vacuum; its line in standard air.
        (605.6125, 1e9 / 1650763.73),
        # 114Cd, 198Hg and the He-Ne laser on iodine: the metre's practical realisation.
        (643.84696, 644.02480),
        (546.07532, 546.22705),
        (435.83376, 435.95624),
        (632.8160, 632.991212),
    ],
)
def test_published_lines_in_air_and_vacuum(air_nm, vacuum_nm):
    # 3e-4 nm: air wavelengths are given for other air (CO2, 20 degrees C for He-Ne); n shifts a
    # line by 0.17 nm, so this is n - 1 to 0.2 %.
    assert air_to_vacuum_nm(np.array([air_nm]))[0] == pytest.approx(vacuum_nm, abs=3e-4)


def test_energies_in_air_are_lower_and_unknown_outside():
    wavelength_nm = np.array([150.0, 250.0, 500.0, 1650.0, 1800.0])
    vacuum = photon_energy_ev(wavelength_nm, in_air=False)
    air = photon_energy_ev(wavelength_nm, in_air=True)
    np.testing.assert_array_equal(np.isnan(air), [True, False, False, False, True])
    assert vacuum[2] == pytest.approx(6.62607015e-34 * 299792458 / 1.602176634e-19 / 500e-9)
    # n - 1 = 2.79e-4 at 500 nm.
    assert (vacuum - air)[2] == pytest.approx(2.48 * 2.79e-4, rel=2e-3)


ENERGY_EV = 1239.841984 / np.linspace(700.0, 300.0, 900)
"""Pixels of a grating: even in wavelength, twice to five times as dense in the red."""
STEP_EV = 0.012


def averaged(values, errors=None, grid=None):
    grid = EnergyGrid(ENERGY_EV, STEP_EV) if grid is None else grid
    errors = independent(np.ones_like(values)) if errors is None else errors
    return grid.energy_ev, *grid.average(values, errors)


def test_bins_are_whole_multiples_between_the_outermost_pixels():
    energy_ev, *_ = averaged(ENERGY_EV)
    np.testing.assert_allclose(energy_ev / STEP_EV, np.rint(energy_ev / STEP_EV), atol=1e-9)
    assert 0 <= energy_ev[0] - STEP_EV / 2 - ENERGY_EV[0] < STEP_EV
    assert 0 <= ENERGY_EV[-1] - energy_ev[-1] - STEP_EV / 2 < STEP_EV


def test_average_is_the_mean_of_the_line_through_the_pixels():
    random = np.random.default_rng(2)
    values = random.standard_normal(ENERGY_EV.size)
    energy_ev, mean, _ = averaged(values)
    for k in (0, 7, energy_ev.size - 1):
        low, high = energy_ev[k] - STEP_EV / 2, energy_ev[k] + STEP_EV / 2
        inside = ENERGY_EV[slice(*np.searchsorted(ENERGY_EV, [low, high]))]
        x = np.concatenate([[low], inside, [high]])
        expected = trapezoid(np.interp(x, ENERGY_EV, values), x) / STEP_EV
        assert mean[k] == pytest.approx(expected, abs=1e-12)


def test_straight_line_stays_with_and_without_missing_pixels():
    line = 0.3 + 1.7 * ENERGY_EV
    energy_ev, mean, _ = averaged(line)
    np.testing.assert_allclose(mean, 0.3 + 1.7 * energy_ev, rtol=1e-12)
    random = np.random.default_rng(4)
    line[random.random(line.size) < 0.1] = np.nan
    energy_ev, mean, sigma = averaged(line)
    left = np.isfinite(mean)
    np.testing.assert_allclose(mean[left], 0.3 + 1.7 * energy_ev[left], rtol=1e-12)
    np.testing.assert_array_equal(left, np.isfinite(sigma))
    # A tenth of some nine pixels missing loses no bin.
    assert left[energy_ev < 2.2].all()


def test_bins_that_lost_their_pixels_are_nan_and_no_others():
    values = np.ones_like(ENERGY_EV)
    gap = (ENERGY_EV > 2.395) & (ENERGY_EV < 2.445)
    values[gap] = np.nan
    energy_ev, mean, sigma = averaged(values)
    inside = (energy_ev - STEP_EV / 2 > 2.395) & (energy_ev + STEP_EV / 2 < 2.445)
    outside = (energy_ev + STEP_EV / 2 < 2.39) | (energy_ev - STEP_EV / 2 > 2.45)
    assert np.isnan(mean[inside]).all()
    assert inside.sum() >= 3
    np.testing.assert_allclose(mean[outside], 1.0)
    np.testing.assert_array_equal(np.isnan(mean), np.isnan(sigma))


def test_curvature_raises_a_bin_by_what_the_card_says():
    spacing, step = 0.004, 0.02
    energy_ev = np.arange(2.0, 3.0, spacing)
    grid = EnergyGrid(energy_ev, step)
    values = (energy_ev - 2.5) ** 2
    centres, mean, _ = averaged(values, grid=grid)
    raised = mean - (centres - 2.5) ** 2
    # A'' = 2; the second term holds where bins end on pixels, as they do on average.
    assert raised.mean() == pytest.approx(2 * (step**2 / 24 + spacing**2 / 12), rel=0.02)


def test_correlation_of_neighbours_is_the_cards():
    """Weights out of averages of unit vectors; over all positions of the bins."""
    for steps, expected in ((1, 0.39), (2, 0.15), (4, 0.07), (8, 0.03)):
        found = []
        for phase in np.arange(8) / 8:
            energy_ev = 2.0 + 0.01 * (np.arange(60) + phase)
            grid = EnergyGrid(energy_ev, 0.01 * steps)
            weights = np.array([averaged(unit, grid=grid)[1] for unit in np.eye(60)]).T
            np.testing.assert_allclose(weights.sum(axis=1), 1.0)
            covariance = weights @ weights.T
            sigma = np.sqrt(np.diag(covariance))
            found.append(np.mean(np.diag(covariance, 1) / (sigma[1:] * sigma[:-1])))
        assert np.mean(found) == pytest.approx(expected, abs=0.01)


def test_shared_errors_are_not_averaged_away():
    n = ENERGY_EV.size
    shared = np.vstack([np.full(n, 0.03), 0.02 * ENERGY_EV])
    energy_ev, _, sigma = averaged(np.ones(n), Errors(np.zeros(n), np.full(n, 0.01**2), shared))
    np.testing.assert_allclose(sigma**2, 0.01**2 + 0.03**2 + (0.02 * energy_ev) ** 2)


def test_thousand_averaged_spectra_scatter_as_sigma_says():
    """Two Gaussians and shot noise at each pixel: no bias, and sigma right, in every bin."""
    random = np.random.default_rng(12)
    curve = _gaussians(ENERGY_EV)
    grid = EnergyGrid(ENERGY_EV, STEP_EV)
    electrons = 60000.0 * 10**-curve
    edges = np.append(grid.energy_ev - STEP_EV / 2, grid.energy_ev[-1] + STEP_EV / 2)
    expected = np.diff(_area_of_gaussians(edges)) / STEP_EV
    z = []
    for _ in range(1000):
        counted = random.poisson(electrons)
        absorbance = -np.log10(counted / 60000.0)
        variance = 1.0 / counted / np.log(10.0) ** 2
        _, mean, sigma = averaged(absorbance, independent(variance), grid)
        z.append((mean - expected) / sigma)
    z = np.array(z)
    # 195 bins: the mean of a bin is good to 0.03, its variance to 0.045.
    assert np.abs(z.mean(axis=0)).max() < 0.13
    assert abs(z.mean()) < 0.01
    assert z.var(axis=0).mean() == pytest.approx(1.0, abs=0.015)
    assert np.abs(z.var(axis=0) - 1.0).max() < 0.2


def _gaussians(energy_ev):
    first = 0.5 * np.exp(-0.5 * ((energy_ev - 2.4) / 0.08) ** 2)
    return first + 0.8 * np.exp(-0.5 * ((energy_ev - 2.9) / 0.2) ** 2)


def _area_of_gaussians(energy_ev):
    """From far below to each energy."""
    unit = np.sqrt(2 * np.pi)
    first = 0.5 * 0.08 * unit * norm.cdf(energy_ev, 2.4, 0.08)
    return first + 0.8 * 0.2 * unit * norm.cdf(energy_ev, 2.9, 0.2)


def test_grid_finer_than_the_pixels_is_refused_with_a_step_that_works():
    with pytest.raises(ValueError, match=r"energy_step_ev: expected at least") as caught:
        EnergyGrid(ENERGY_EV, 0.002)
    least = float(str(caught.value).split("at least ")[1].split(" eV")[0])
    assert least == pytest.approx(np.diff(ENERGY_EV).max(), rel=0.01)
    EnergyGrid(ENERGY_EV, least)
    EnergyGrid(np.arange(2.0, 3.0, 0.01), 0.01)
    with pytest.raises(ValueError, match=r"expected a bin between 1.771 and 4.133 eV, got none"):
        EnergyGrid(ENERGY_EV, 3.0)
