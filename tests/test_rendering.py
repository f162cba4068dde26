"""Rendered counts against pyFAI's geometry, scipy's statistics and the truth of the sample."""

import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from detectors.sample import Synthesis
from detectors.simulation import AreaRenderer, SpectrometerRenderer, disturbance
from detectors.simulation.geometry import polarisation
from detectors.simulation.noise import counting_noise
from pipeline.config.acquisition import Artefact, SimulatedSaxs, SimulatedSpectrometer

SMALL = SimulatedSaxs(shape=(400, 520), pixel_size_um=150.0, tilt_deg=(4.0, -3.0))
EXPOSURE_S = 0.5


@pytest.fixture(scope="module")
def synthesis() -> Synthesis:
    return Synthesis("cs_dopa")


@pytest.fixture(scope="module")
def renderer(synthesis) -> AreaRenderer:
    return AreaRenderer(SMALL, synthesis, (), 7)


@pytest.fixture(scope="module")
def integrator(renderer, tmp_path_factory):
    pyfai = pytest.importorskip("pyFAI")
    path = tmp_path_factory.mktemp("geometry") / "simulated.poni"
    path.write_text(renderer.poni)
    return pyfai.load(str(path))


# --- geometry -------------------------------------------------------------------------------


def test_geometry_is_pyfais(renderer, integrator):
    two_theta, azimuth, solid_angle = renderer.geometry.pixels()
    shape = SMALL.shape
    q = renderer.geometry.q_per_nm(two_theta)
    theirs = integrator.array_from_unit(shape, "center", "q_nm^-1")
    np.testing.assert_allclose(q, theirs, rtol=1e-9)
    # pyFAI keeps these two as float32.
    theirs = integrator.solidAngleArray(shape, absolute=False)
    np.testing.assert_allclose(solid_angle, theirs, rtol=1e-6)
    theirs = integrator.polarization(shape, factor=0.99)
    np.testing.assert_allclose(polarisation(two_theta, azimuth, 0.99), theirs, rtol=1e-6)


def test_absolute_scale_is_flux_times_solid_angle(renderer):
    assert renderer.absolute_scale == pytest.approx(1 / (5e11 * (150e-6 / 1.9) ** 2), rel=1e-12)


def test_the_mask_covers_what_cannot_count(renderer):
    mask = renderer.pixel_mask
    assert mask.dtype == np.uint8
    assert mask.shape == SMALL.shape
    assert not mask.flags.writeable
    image = renderer.render(0, 10.0, EXPOSURE_S).image
    # Gaps hold the largest value, dead pixels nothing, hot ones far more than their neighbours.
    assert np.all(image[mask == 1] == np.iinfo(np.uint32).max)
    assert np.all(image[mask == 2] == 0)
    assert np.all(image[mask == 8] >= 500)
    assert np.all(image[mask == 32] == 0)
    assert set(np.unique(mask)) == {0, 1, 2, 8, 32}
    assert image[mask == 0].max() < 2000
    # 17 rows and 7 columns per gap.
    assert (mask == 1).sum() >= 17 * 520 + 7 * (400 - 17)


# --- counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("time_s", [0.4, 3.0, 100.0])
def test_an_integration_by_pyfai_gives_the_sample_back(renderer, integrator, synthesis, time_s):
    """Absolute intensity, bin by bin, within the counting error; chi-square says it is Poisson."""
    frames = [renderer.render(i, time_s, EXPOSURE_S) for i in range(6)]
    dose = sum(f.monitor * f.transmission for f in frames) * EXPOSURE_S * SMALL.thickness_cm
    image = np.sum([f.image.astype(float) for f in frames], axis=0)
    image[renderer.pixel_mask != 0] = 0.0
    result = integrator.integrate1d(
        image,
        120,
        unit="q_nm^-1",
        mask=renderer.pixel_mask.copy(),  # pyFAI takes no read-only array
        polarization_factor=0.99,
        correctSolidAngle=True,
        method=("no", "histogram", "cython"),
        error_model="poisson",
    )
    filled = result.count > 100
    q = result.radial[filled]
    factor = renderer.absolute_scale / dose
    measured, sigma = factor * result.intensity[filled], factor * result.sigma[filled]
    truth = synthesis.intensity_per_cm(q, time_s - EXPOSURE_S / 2) + renderer.background_curve(q)
    # Within a bin (0.09 1/nm) the curve bends: leave out where that is over half a sigma.
    width = q[1] - q[0]
    bend = width**2 / 24 * np.abs(np.gradient(np.gradient(truth, q), q))
    straight = bend < 0.25 * sigma
    assert straight.sum() > 50
    z = ((measured - truth) / sigma)[straight]
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert stats.chi2.sf((z**2).sum(), z.size) > 1e-4


def test_the_background_can_be_subtracted(renderer):
    q = np.array([0.2, 1.0, 5.0])
    assert renderer.background_curve(q) == pytest.approx(0.008 + 1e-4 / q**4)


def test_a_frame_depends_on_its_number_and_the_seed_alone(renderer, synthesis):
    first = renderer.render(3, 5.0, EXPOSURE_S)
    renderer.render(4, 5.5, EXPOSURE_S)
    again = AreaRenderer(SMALL, synthesis, (), 7).render(3, 5.0, EXPOSURE_S)
    assert np.array_equal(first.image, again.image)
    assert first.monitor == again.monitor
    assert not np.array_equal(first.image, renderer.render(4, 5.0, EXPOSURE_S).image)
    other = AreaRenderer(SMALL, synthesis, (), 8)
    assert not np.array_equal(first.image, other.render(3, 5.0, EXPOSURE_S).image)


def test_the_monitor_fluctuates_as_set(synthesis):
    renderer = AreaRenderer(SimulatedSaxs(shape=(64, 64), pixel_size_um=900.0), synthesis)
    monitors = np.array([renderer.render(i, 0.01, 0.01).monitor for i in range(200)])
    # Standard error of a standard deviation from 200 values: 5 %.
    assert monitors.std() == pytest.approx(SMALL.monitor_noise, rel=0.2)
    assert monitors.mean() == pytest.approx(1.0, abs=4 * SMALL.monitor_noise / math.sqrt(200))


@pytest.mark.parametrize(("dtype", "largest"), [("uint16", 65534), ("uint32", 4294967294)])
def test_counts_saturate_below_the_mark_of_missing_pixels(synthesis, dtype, largest):
    bright = SMALL.model_copy(update={"dtype": dtype, "flux_per_s": 1e20})
    renderer = AreaRenderer(bright, synthesis, (), 1)
    exposure = renderer.render(0, 300.0, EXPOSURE_S)
    assert renderer.saturation == largest
    assert exposure.image.dtype == np.dtype(dtype)
    assert exposure.image.flags.c_contiguous
    assert exposure.image[renderer.pixel_mask == 0].max() == largest


def test_the_largest_detector_renders(synthesis):
    renderer = AreaRenderer(SimulatedSaxs(shape=(2880, 2880)), synthesis, (), 1)
    image = renderer.render(0, 100.0, EXPOSURE_S).image
    assert image.shape == (2880, 2880)
    assert image[renderer.pixel_mask == 0].mean() > 0.5


# --- noise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.02, 0.7, 5.0, 15.9, 16.1, 40.0, 300.0])
def test_noise_is_poisson(mean):
    n = 400_000
    counts = counting_noise(np.full(n, mean, np.float32), np.random.default_rng(3)).astype(int)
    assert counts.min() >= 0
    mean = float(np.float32(mean))
    assert counts.mean() == pytest.approx(mean, abs=4 * math.sqrt(mean / n))
    # Variance of the variance of Poisson numbers: (2 m^2 + m) / n.
    assert counts.var() == pytest.approx(mean, abs=4 * math.sqrt((2 * mean**2 + mean) / n))
    # Frequencies, in bins of 25 expected and more.
    expected = n * stats.poisson.pmf(np.arange(counts.max() + 1), mean)
    seen = np.bincount(counts)
    enough = expected > 25
    chi2 = ((seen - expected)[enough] ** 2 / expected[enough]).sum()
    # The approximation's total variation of 1e-3 would show with 1e6 numbers and more.
    assert stats.chi2.sf(chi2, enough.sum()) > 1e-4


def test_noise_of_mixed_means():
    """Blocks that reach over the limit of the two methods, and blocks of nothing."""
    generator = np.random.default_rng(5)
    mean = np.concatenate((np.zeros(40_000), np.linspace(0.0, 60.0, 200_000))).astype(np.float32)
    counts = counting_noise(mean, generator)
    assert np.all(counts[:40_000] == 0)
    z = (counts[50_000:] - mean[50_000:]) / np.sqrt(mean[50_000:])
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert z.var() == pytest.approx(1.0, abs=0.02)


# --- spectrometer ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spectrometer(synthesis) -> SpectrometerRenderer:
    return SpectrometerRenderer(SimulatedSpectrometer(), synthesis, (), 7)


def _absorbance(renderer: SpectrometerRenderer, counts: np.ndarray) -> np.ndarray:
    return -np.log10((counts - renderer.dark) / (renderer.reference - renderer.dark))


def test_absorbance_comes_back_within_shot_and_read_noise(spectrometer, synthesis):
    counts = spectrometer.render(11, 20.0, 0.15)
    assert counts.dtype == np.uint32
    energy = 1239.841984 / spectrometer.wavelength_nm
    truth = synthesis.absorbance(energy, 20.0 - 0.075)
    light = spectrometer.reference - spectrometer.dark
    electrons = light * 10**-truth
    variance = (electrons + 25.0 + 1 / 12) / electrons**2 + (1 / light) / 400
    z = (_absorbance(spectrometer, counts) - truth) * math.log(10) / np.sqrt(variance)
    # Noise is nearly normal only where there is light.
    z = z[electrons > 300]
    assert z.size > 800
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert z.var() == pytest.approx(1.0, abs=4 * math.sqrt(2 / z.size))


def test_the_lamp_reaches_full_scale_and_does_not_saturate(spectrometer):
    counts = spectrometer.render(0, 0.05, 0.05)
    assert 45_000 < counts.max() < spectrometer.saturation
    assert (spectrometer.reference - spectrometer.dark).max() == pytest.approx(50_000, rel=0.01)
    assert (spectrometer.reference - spectrometer.dark).min() > 1000


def test_a_spectrum_depends_on_its_number_and_the_seed_alone(spectrometer, synthesis):
    again = SpectrometerRenderer(SimulatedSpectrometer(), synthesis, (), 7)
    assert np.array_equal(again.dark, spectrometer.dark)
    assert np.array_equal(again.render(5, 1.0, 0.15), spectrometer.render(5, 1.0, 0.15))
    assert not np.array_equal(again.render(6, 1.0, 0.15), spectrometer.render(5, 1.0, 0.15))


# --- artefacts ------------------------------------------------------------------------------


def _with(synthesis, kind: str, **options) -> tuple[AreaRenderer, SpectrometerRenderer]:
    artefact = Artefact(kind=kind, at_s=10.0, duration_s=2.0, **options)
    return (
        AreaRenderer(SMALL, synthesis, (artefact,), 7),
        SpectrometerRenderer(SimulatedSpectrometer(), synthesis, (artefact,), 7),
    )


def _sum(renderer: AreaRenderer, time_s: float) -> float:
    exposure = renderer.render(0, time_s, EXPOSURE_S)
    return float(exposure.image[renderer.pixel_mask == 0].sum(dtype=float))


def test_artefacts_begin_and_end(synthesis, renderer):
    for kind in ("beam_dump", "closed_shutter", "bubble", "gain_step"):
        area, _ = _with(synthesis, kind, size=0.5)
        for time_s in (9.5, 10.0, 12.5, 13.0):
            same = renderer.render(0, time_s, EXPOSURE_S).image
            assert np.array_equal(area.render(0, time_s, EXPOSURE_S).image, same)
        assert _sum(area, 11.0) != _sum(renderer, 11.0)


def test_beam_dump_takes_photons_and_monitor_but_not_the_lamp(synthesis, renderer, spectrometer):
    area, lamp = _with(synthesis, "beam_dump")
    exposure = area.render(0, 11.0, EXPOSURE_S)
    assert exposure.monitor == 0.0
    assert exposure.transmission == SMALL.transmission
    assert _sum(area, 11.0) == 0.0
    # Half of this exposure has beam, and monitor and counts agree on it.
    half = area.render(0, 10.25, EXPOSURE_S)
    whole = renderer.render(0, 10.25, EXPOSURE_S)
    assert half.monitor == pytest.approx(0.5 * whole.monitor)
    assert _sum(area, 10.25) == pytest.approx(0.5 * _sum(renderer, 10.25), rel=0.02)
    assert np.array_equal(lamp.render(0, 11.0, 0.15), spectrometer.render(0, 11.0, 0.15))


def test_closed_shutter_leaves_the_monitor(synthesis):
    area, _ = _with(synthesis, "closed_shutter")
    exposure = area.render(0, 11.0, EXPOSURE_S)
    assert exposure.monitor == pytest.approx(1.0, abs=0.05)
    assert exposure.transmission == 0.0
    assert _sum(area, 11.0) == 0.0


def test_bubble_scatters_less_transmits_more_and_absorbs_less(synthesis, renderer, spectrometer):
    area, lamp = _with(synthesis, "bubble", size=0.5)
    exposure = area.render(0, 11.0, EXPOSURE_S)
    assert exposure.transmission == pytest.approx(math.sqrt(SMALL.transmission))
    q = renderer.geometry.q_per_nm(renderer.geometry.pixels()[0])
    ring = (renderer.pixel_mask == 0) & (q > 0.6) & (q < 1.0)
    ratio = exposure.image[ring].sum() / renderer.render(0, 11.0, EXPOSURE_S).image[ring].sum()
    # Half the sample, 1 / sqrt(0.8) as much transmission, all of the capillary (a few per cent).
    assert ratio == pytest.approx(0.5 / math.sqrt(0.8), rel=0.06)
    uv = slice(100, 200)
    clear = _absorbance(spectrometer, spectrometer.render(0, 11.0, 0.15))[uv].mean()
    bubbly = _absorbance(lamp, lamp.render(0, 11.0, 0.15))[uv].mean()
    assert bubbly == pytest.approx(0.5 * clear - math.log10(1 - 0.3 * 0.5), abs=0.01)


def test_gain_step_multiplies_counts_of_the_detector_concerned(synthesis, renderer, spectrometer):
    area, lamp = _with(synthesis, "gain_step", size=1.2, stream="saxs")
    assert _sum(area, 11.0) == pytest.approx(1.2 * _sum(renderer, 11.0), rel=0.01)
    assert np.array_equal(lamp.render(0, 11.0, 0.15), spectrometer.render(0, 11.0, 0.15))
    _, lamp = _with(synthesis, "gain_step", size=0.8)
    above = lamp.render(0, 11.0, 0.15) - lamp.dark
    usual = spectrometer.render(0, 11.0, 0.15) - spectrometer.dark
    assert above.sum() == pytest.approx(0.8 * usual.sum(), rel=0.002)


def test_dropped_frames_are_not_there(synthesis):
    area, lamp = _with(synthesis, "dropped_frames")
    lost = [area.render(0, t, EXPOSURE_S) is None for t in (9.9, 10.0, 11.9, 12.0)]
    assert lost == [False, True, True, False]
    assert lamp.render(0, 11.0, 0.15) is None


def test_artefacts_add_up():
    artefacts = (
        Artefact(kind="gain_step", at_s=0.0, duration_s=10.0, size=2.0),
        Artefact(kind="gain_step", at_s=5.0, duration_s=10.0, size=3.0),
        Artefact(kind="beam_dump", at_s=5.0, duration_s=0.25),
    )
    both = disturbance(artefacts, "saxs", 5.5, 0.5)
    assert both.gain == pytest.approx(6.0)
    assert both.beam == pytest.approx(0.5)


# --- settings -------------------------------------------------------------------------------


def test_impossible_settings_are_refused():
    with pytest.raises(ValidationError, match="share of the path that is lost"):
        Artefact(kind="bubble", at_s=1.0, size=1.5)
    with pytest.raises(ValidationError, match="less than or equal to 2880"):
        SimulatedSaxs(shape=(4000, 100))
    with pytest.raises(ValidationError, match="'uint16' or 'uint32'"):
        SimulatedSaxs(dtype="int32")
