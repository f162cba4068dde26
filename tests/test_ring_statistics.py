"""Statistics along rings against pyFAI, closed forms and rings of known truth."""

import math
import threading
import warnings

import numpy as np
import pytest
from scipy.special import lambertw

from benchmarks.rings import table_of
from pipeline.kernels import pixel_preparation, ring_quantiles, ring_statistics
from pipeline.kernels.pixel_preparation import HIGHEST_PARALYZABLE, prepare_pixels, undo_dead_time
from pipeline.kernels.pixel_splitting import SplitTable
from pipeline.messages import BadFrameError
from pipeline.reduce.errors import InputError
from pipeline.reduce.ring import RingIntegrator, narrowing

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pyFAI.containers import ErrorModel
    from pyFAI.detectors import Detector
    from pyFAI.engines.CSR_engine import CsrIntegrator1d
    from pyFAI.ext.splitPixelFullCSR import CsrIntegrator
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

# Values are float32: one step is 6e-8.
AGREEMENT = 1e-6
# No count reaches it.
LIMIT = 2.0**31


class CompiledEngine(CsrIntegrator):
    """pyFAI's compiled engine with a table of one's own."""

    check_mask = False
    cmask = None

    def __init__(self, lut, image_size, bins):
        super().__init__(lut, image_size, 0.0)
        self.bin_centers = np.arange(bins, dtype=float)


class Scene:
    """A frame on a tilted detector with pyFAI's table, weights, flat and dark."""

    def __init__(self, seed: int, splitting: str = "full", shape=(210, 190), bins=60) -> None:
        random = np.random.default_rng(seed)
        self.integrator = AzimuthalIntegrator(
            dist=random.uniform(0.1, 0.3),
            poni1=random.uniform(0.2, 0.8) * shape[0] * 172e-6,
            poni2=random.uniform(0.2, 0.8) * shape[1] * 172e-6,
            rot1=random.uniform(-0.3, 0.3),
            rot2=random.uniform(-0.3, 0.3),
            rot3=random.uniform(-3, 3),
            detector=Detector(172e-6, 172e-6, max_shape=shape),
            wavelength=1e-10,
        )
        self.masked = random.random(shape) < 0.1
        self.flat = random.uniform(0.8, 1.2, shape).astype(np.float32)
        self.dark = random.uniform(0.0, 3.0, shape).astype(np.float32)
        solid_angle = np.asarray(self.integrator.solidAngleArray(shape))
        polarization = np.asarray(self.integrator.polarization(shape, 0.95))
        self.weights = (solid_angle * polarization * self.flat).astype(np.float32)
        self.image = random.poisson(60 * self.weights + self.dark).astype(np.uint32)
        self.bins = bins
        engine = self.integrator.setup_sparse_integrator(
            shape,
            bins,
            mask=self.masked.astype(np.int8),
            unit="q_nm^-1",
            split=splitting,
            algo="CSR",
            scale=False,
        )
        share, pixel, start = engine.lut
        self.lut = np.array(share), np.array(pixel), np.array(start)
        self.table = table_of(self.lut)
        self.options = {
            "dark": self.dark,
            "flat": self.flat,
            "solidangle": solid_angle,
            "polarization": polarization,
        }

    def spoil(self, share: float, counts: int, seed: int = 0) -> np.ndarray:
        """Put spots into the frame; where."""
        spots = np.random.default_rng(seed).random(self.image.shape) < share
        self.image[spots] += np.uint32(counts)
        return spots

    def ours(self, **options):
        integrator = RingIntegrator(self.table, self.weights, dark=self.dark, **options)
        return integrator.curve(self.image.reshape(-1), LIMIT)

    def theirs(self, method: str, error_model: ErrorModel, **options):
        """The compiled engine as pyFAI uses it."""
        engine = CompiledEngine(self.lut, self.image.size, self.bins)
        return getattr(engine, method)(
            self.image, error_model=error_model, **self.options, **options
        )

    def theirs_ring_by_ring(self, error_model: ErrorModel, **options):
        """The same without a pixel shared by two rings: each entry of the table is a pixel."""
        share, pixel, start = self.lut
        lut = share, np.arange(len(pixel), dtype=np.int32), start
        engine = CompiledEngine(lut, len(pixel), self.bins)
        spread = {name: array.ravel()[pixel] for name, array in self.options.items()}
        image = self.image.ravel()[pixel].astype(np.float32)
        return engine.sigma_clip(image, error_model=error_model, **spread, **options)

    def theirs_in_two_passes(self, method: str, **options):
        """pyFAI's Python engine, scatter along the ring. It is made for pixels that are not split,
        so the share becomes a factor of both signal and weight."""
        share, pixel, start = self.lut
        lut = np.ones_like(share), np.arange(len(pixel), dtype=np.int32), start
        centres = np.arange(self.bins, dtype=float)
        engine = CsrIntegrator1d(len(pixel), lut, bin_centers=centres, unit="q_nm^-1")
        signal = (self.image.ravel() - self.dark.ravel())[pixel] * share
        weights = self.weights.ravel()[pixel] * share
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return getattr(engine, method)(
                signal, error_model=ErrorModel.AZIMUTHAL, flat=weights, **options
            )


def assert_agrees(
    ours, theirs, sigma_rtol=AGREEMENT, intensity_rtol=AGREEMENT, rings: np.ndarray | bool = True
) -> None:
    populated = (theirs.count > 1e-3) & rings
    assert populated.sum() > 0.8 * len(populated)
    np.testing.assert_allclose(
        ours.intensity[populated], theirs.intensity[populated], rtol=intensity_rtol
    )
    several = populated & (theirs.sem > 0)
    np.testing.assert_allclose(ours.sigma[several], theirs.sem[several], rtol=sigma_rtol)


SEEDS = range(4)


@pytest.mark.parametrize("splitting", ["full", "no"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("error_model", ["poisson", "hybrid"])
def test_counting_statistics_agree_with_pyfai(seed, splitting, error_model):
    scene = Scene(seed, splitting)
    ours = scene.ours(error_model=error_model)
    assert_agrees(ours, scene.theirs("integrate_ng", ErrorModel.parse(error_model)))
    assert not ours.rejected.any()
    assert ours.invalid == 0


@pytest.mark.parametrize("splitting", ["full", "no"])
@pytest.mark.parametrize("seed", SEEDS)
def test_scatter_agrees_with_pyfai(seed, splitting):
    """With its Python engine, which sums in two passes; its compiled one, which updates the sum
    by a formula that holds for equal weights, comes near."""
    scene = Scene(seed, splitting)
    ours = scene.ours(error_model="azimuthal")
    exact = scene.theirs_in_two_passes("integrate")
    # Its sums are float32.
    assert_agrees(ours, exact, sigma_rtol=3e-6, intensity_rtol=3e-6)
    compiled = scene.theirs("integrate_ng", ErrorModel.AZIMUTHAL)
    populous = compiled.count > 100
    np.testing.assert_allclose(ours.sigma[populous], compiled.sem[populous], rtol=0.03)


def test_scatter_agrees_with_pyfais_compiled_engine_for_equal_weights():
    scene = Scene(5, "no")
    scene.weights = np.ones_like(scene.weights)
    scene.options = {"dark": scene.dark}
    ours = scene.ours(error_model="azimuthal")
    assert_agrees(ours, scene.theirs("integrate_ng", ErrorModel.AZIMUTHAL))


@pytest.mark.parametrize("splitting", ["full", "no"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("clip_sigma", [3.0, 5.0])
def test_clipping_by_counting_statistics_agrees_with_pyfai(seed, splitting, clip_sigma):
    scene = Scene(seed, splitting)
    scene.spoil(0.01, 80)
    ours = scene.ours(rejection="sigma_clip", clip_sigma=clip_sigma, clip_rounds=5)
    theirs = scene.theirs_ring_by_ring(ErrorModel.POISSON, cutoff=clip_sigma, cycle=5)
    # In the others the spots lift the mean; there ours begins without them.
    calm = scene.ours(error_model="azimuthal").sigma < 2 * scene.ours().sigma
    assert_agrees(ours, theirs, rings=calm)
    assert ours.rejected.sum() > 0.008 * scene.image.size
    if splitting == "no":
        theirs = scene.theirs("sigma_clip", ErrorModel.POISSON, cutoff=clip_sigma, cycle=5)
        assert_agrees(ours, theirs, rings=calm)


@pytest.mark.parametrize("splitting", ["full", "no"])
@pytest.mark.parametrize("seed", SEEDS)
def test_clipping_by_scatter_agrees_with_pyfai(seed, splitting):
    scene = Scene(seed, splitting)
    scene.spoil(0.002, 2000)
    ours = scene.ours(error_model="azimuthal", rejection="sigma_clip", clip_sigma=5.0)
    exact = scene.theirs_in_two_passes("sigma_clip", cutoff=5.0, cycle=5)
    assert_agrees(ours, exact, sigma_rtol=1e-5, intensity_rtol=1e-5)
    hybrid = scene.ours(error_model="hybrid", rejection="sigma_clip", clip_sigma=5.0)
    np.testing.assert_array_equal(hybrid.rejected, ours.rejected)
    np.testing.assert_array_equal(hybrid.intensity, ours.intensity)


def test_hybrid_clipping_agrees_with_pyfai_for_equal_weights():
    scene = Scene(6, "no")
    scene.weights = np.ones_like(scene.weights)
    scene.options = {"dark": scene.dark}
    scene.spoil(0.004, 1000)
    ours = scene.ours(error_model="hybrid", rejection="sigma_clip", clip_sigma=4.0)
    theirs = scene.theirs("sigma_clip", ErrorModel.HYBRID, cutoff=4.0, cycle=5)
    assert_agrees(ours, theirs)
    assert ours.rejected.sum() > 50


@pytest.mark.parametrize("counts", [150, 1000, 1_000_000])
def test_hot_pixels_do_not_take_the_good_ones_along(counts):
    """In pyFAI they do: what they lift the mean by, the good pixels are too low."""
    scene = Scene(2)
    spots = scene.spoil(0.02, counts) & ~scene.masked
    ours = scene.ours(rejection="sigma_clip")
    theirs = scene.theirs_ring_by_ring(ErrorModel.POISSON, cutoff=5.0, cycle=5)
    scene.masked |= spots
    scene.image[spots] = 2**32 - 1
    populous = np.diff(scene.lut[2]) > 100
    without = scene.ours()
    np.testing.assert_allclose(ours.intensity[populous], without.intensity[populous], rtol=1e-3)
    lost = np.mean(theirs.intensity[populous] == 0)
    assert lost == (1.0 if counts == 1_000_000 else 0.0)


def test_pixel_on_the_edge_of_two_rings_is_judged_in_each():
    """Why full splitting is compared ring by ring: what pyFAI clips is missing in later rings, so
    its result changes when the bins are taken in the other order. Ours does not."""
    scene = Scene(1)
    scene.spoil(0.05, 60)
    share, pixel, start = scene.lut
    turned = [np.arange(start[b], start[b + 1]) for b in range(scene.bins - 1, -1, -1)]
    backwards = np.concatenate(turned)
    turned_start = np.concatenate(([0], np.cumsum(np.diff(start)[::-1]))).astype(np.int32)
    options = {"cutoff": 3.0, "cycle": 5}
    forth = scene.theirs("sigma_clip", ErrorModel.POISSON, **options)
    ours = scene.ours(rejection="sigma_clip", clip_sigma=3.0)
    scene.lut = share[backwards], pixel[backwards], turned_start
    scene.table = table_of(scene.lut)
    back = scene.theirs("sigma_clip", ErrorModel.POISSON, **options)
    ours_back = scene.ours(rejection="sigma_clip", clip_sigma=3.0)
    np.testing.assert_allclose(ours_back.intensity[::-1], ours.intensity, rtol=1e-12)
    assert np.abs(back.intensity[::-1] / forth.intensity - 1).max() > 1e-4
    # All three are the same ring to a fraction of its error.
    populous = forth.count > 100
    apart = np.abs(ours.intensity - forth.intensity)[populous] / ours.sigma[populous]
    assert apart.max() < 1.0


@pytest.mark.parametrize("splitting", ["full", "no"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("quantiles", [(0.4, 0.6), (0.1, 0.7), (0.0, 1.0)])
def test_average_between_quantiles_agrees_with_pyfai(seed, splitting, quantiles):
    scene = Scene(seed, splitting)
    scene.spoil(0.02, 100_000)
    ours = scene.ours(rejection="median", quantiles=quantiles)
    theirs = scene.theirs(
        "medfilt", ErrorModel.POISSON, quant_min=quantiles[0], quant_max=quantiles[1]
    )
    some = theirs.count > 0
    # Its error is that of a mean of so many pixels; ours that of an average between quantiles.
    scaled = ours._replace(sigma=ours.sigma / narrowing(*quantiles))
    assert_agrees(scaled, theirs, 1e-5, 1e-5)
    entries = np.diff(scene.lut[2])
    np.testing.assert_array_equal(ours.rejected[some], (entries - theirs.count)[some])
    np.testing.assert_array_equal(np.isfinite(ours.intensity), entries > 0)


def rings_table(rings: int, pixels: int) -> SplitTable:
    """Rings of whole pixels, one after the other in memory."""
    start = np.arange(rings + 1) * pixels
    none = np.zeros(rings + 1, np.int64)
    whole = np.arange(rings * pixels, dtype=np.uint32)
    return SplitTable(start, whole, none, np.empty(0, np.uint32), np.empty(0, np.float32))


ALL = [
    (error_model, rejection)
    for error_model in ("poisson", "azimuthal", "hybrid")
    for rejection in ("none", "sigma_clip", "median")
]


@pytest.mark.parametrize(("error_model", "rejection"), ALL)
def test_sigma_covers_the_scatter_of_repeated_frames(error_model, rejection):
    rings, pixels, frames = 30, 400, 150
    random = np.random.default_rng(4)
    weights = random.uniform(0.9, 1.1, rings * pixels)
    integrator = RingIntegrator(
        rings_table(rings, pixels), weights, error_model=error_model, rejection=rejection
    )
    curves, sigmas = [], []
    for _ in range(frames):
        image = random.poisson(50.0 * weights).astype(np.uint16)
        intensity, sigma, _ = integrator(image, LIMIT)
        curves.append(intensity)
        sigmas.append(sigma)
    curves = np.array(curves)
    z = (curves - curves.mean(axis=0)) / np.array(sigmas)
    # 30 x 149 values: the variance is known to 2 %.
    assert np.mean(z**2) * frames / (frames - 1) == pytest.approx(1.0, abs=0.08)
    # Counts are skewed: their middle is 1/6 below the mean.
    bias = -1 / 6 if rejection == "median" else 0.0
    assert curves.mean() - 50.0 == pytest.approx(bias, abs=0.02)


def test_zingers_and_bragg_spots_do_not_reach_the_clipped_mean_or_the_middle():
    rings, pixels = 40, 2000
    random = np.random.default_rng(9)
    truth = np.linspace(200.0, 20.0, rings)
    weights = random.uniform(0.8, 1.2, rings * pixels)
    image = random.poisson(np.repeat(truth, pixels) * weights).astype(np.uint32)
    for ring in range(rings):
        # Bragg spots are runs of pixels, zingers single ones.
        spot = ring * pixels + random.integers(0, pixels - 10)
        image[spot : spot + 10] += np.uint32(3000)
        image[ring * pixels + random.integers(0, pixels, 5)] += np.uint32(100_000)
    table = rings_table(rings, pixels)
    plain = RingIntegrator(table, weights).curve(image, LIMIT)
    assert ((plain.intensity - truth) / plain.sigma > 50).all()
    for error_model in ("poisson", "azimuthal", "hybrid"):
        clipped = RingIntegrator(
            table, weights, error_model=error_model, rejection="sigma_clip"
        ).curve(image, LIMIT)
        assert (np.abs(clipped.intensity - truth) < 4 * clipped.sigma).all()
        assert ((clipped.rejected >= 14) & (clipped.rejected <= 16)).all()
    for error_model in ("poisson", "azimuthal"):
        middle = RingIntegrator(table, weights, error_model=error_model, rejection="median").curve(
            image, LIMIT
        )
        # 0.75 % of spoilt pixels lift the middle by 0.0094 standard deviations of a pixel.
        expected = truth - 1 / 6 + 0.0094 * np.sqrt(truth)
        assert (np.abs(middle.intensity - expected) < 4 * middle.sigma).all()
        # Four fifths are not between the quantiles.
        np.testing.assert_allclose(middle.rejected, 0.8 * pixels, atol=10)


@pytest.mark.parametrize("low_high", [(0.4, 0.6), (0.0, 1.0), (0.1, 0.7), (0.0, 0.5), (0.25, 0.75)])
def test_narrowing_is_what_normal_values_do(low_high):
    low, high = low_high
    n = 1000
    values = np.sort(np.random.default_rng(3).normal(size=(4000, n)), axis=1)
    between = values[:, round(low * n) : round(high * n)].mean(axis=1)
    expected = between.std() * math.sqrt((high - low) * n)
    # 4000 values: known to 1.1 %.
    assert narrowing(low, high) == pytest.approx(expected, rel=0.045)


@pytest.mark.parametrize(
    ("values", "expected", "rejected"),
    [
        ([7, 7], 7.0, 0),
        ([5, 9], 7.0, 0),
        ([5, 6, 1000], 6.0, 2),
        ([3], 3.0, 0),
        ([4, 5, 6, 7, 1000], 6.0, 4),
        ([0, 0, 0, 0, 0, 0], 0.0, 4),
    ],
)
def test_middle_of_a_few_pixels(values, expected, rejected):
    integrator = RingIntegrator(
        rings_table(1, len(values)), np.ones(len(values)), rejection="median"
    )
    curve = integrator.curve(np.array(values, np.uint16), LIMIT)
    assert curve.intensity[0] == expected
    assert curve.rejected[0] == rejected


@pytest.mark.parametrize("rejection", ["none", "sigma_clip", "median"])
@pytest.mark.parametrize("values", [[7], [7, 7, 7, 7]])
def test_no_scatter_says_nothing_about_the_error(values, rejection):
    integrator = RingIntegrator(
        rings_table(1, len(values)),
        np.ones(len(values)),
        error_model="azimuthal",
        rejection=rejection,
    )
    intensity, sigma, _ = integrator(np.array(values, np.uint16), LIMIT)
    assert intensity[0] == 7.0
    assert np.isnan(sigma[0])


@pytest.mark.parametrize(("error_model", "rejection"), ALL)
@pytest.mark.parametrize("dtype", ["u2", "u4", "i4", "f4", "f8"])
def test_invalid_pixels_are_as_if_masked(error_model, rejection, dtype):
    rings, pixels = 6, 300
    random = np.random.default_rng(2)
    weights = random.uniform(0.9, 1.1, rings * pixels)
    image = random.poisson(40, rings * pixels).astype(dtype)
    # The last ring has no valid pixel.
    bad = (random.random(image.size) < 0.1) | (np.arange(image.size) >= 5 * pixels)
    image[bad] = {"u": 60_000, "i": -1, "f": np.nan}[dtype[0]]
    options = {"error_model": error_model, "rejection": rejection}
    curve = RingIntegrator(rings_table(rings, pixels), weights, **options).curve(image, 60_000.0)
    assert curve.invalid == bad.sum()
    assert np.isnan(curve.intensity[5])
    assert np.isnan(curve.sigma[5])
    assert curve.rejected[5] == 0
    start = np.concatenate(([0], np.cumsum((~bad).reshape(rings, pixels).sum(axis=1))))
    good = rings_table(rings, pixels)._replace(
        whole_start=start, whole_pixel=np.flatnonzero(~bad).astype(np.uint32)
    )
    image[bad] = 0
    masked = RingIntegrator(good, weights, **options).curve(image, 60_000.0)
    for name in ("intensity", "sigma", "rejected"):
        np.testing.assert_array_equal(getattr(curve, name), getattr(masked, name))


def test_pixel_without_a_weight_is_not_used():
    weights = np.array([1.0, 0.0, 2.0, np.nan, -1.0])
    curve = RingIntegrator(rings_table(1, 5), weights).curve(np.full(5, 6, np.uint16), LIMIT)
    assert curve.intensity[0] == 4.0
    assert curve.invalid == 0


def test_dark_is_subtracted_and_its_counts_scatter():
    weights = np.array([0.5, 1.0, 2.0])
    image = np.array([10, 20, 0], np.uint16)
    dark = np.array([3.0, 1.0, 0.5])
    curve = RingIntegrator(rings_table(1, 3), weights, dark=dark).curve(image, LIMIT)
    assert curve.intensity[0] == pytest.approx((7 + 19 - 0.5) / 3.5)
    assert curve.sigma[0] == pytest.approx(math.sqrt(10 + 20 + 1) / 3.5)


def test_dead_time_against_closed_forms():
    dead_share = 1e-3
    for count in (0.0, 1.0, 9.9, 10.1, 100.0, 300.0, 360.0, 367.0):
        a = count * dead_share
        photons, variance = undo_dead_time(count, dead_share, False)
        assert photons == pytest.approx(count / (1 - a))
        assert variance == pytest.approx(max(count, 1.0) / (1 - a) ** 2)
        photons, variance = undo_dead_time(count, dead_share, True)
        y = -lambertw(-a, 0).real
        assert photons == pytest.approx(y / dead_share, rel=1e-7)
        slope = math.exp(y) / (1 - y)
        expected = max(count, 1.0) * (1 - 2 * a) * slope**2
        assert variance == pytest.approx(expected, rel=1e-5)
        assert undo_dead_time.py_func(count, dead_share, True)[0] == pytest.approx(photons)
    assert np.isnan(undo_dead_time(1000.0, dead_share, False)).all()
    assert np.isnan(undo_dead_time(368.0, dead_share, True)).all()


def detect(photons: int, dead_share: float, paralyzable: bool, random) -> int:
    """What a pixel counts of photons that come at random times."""
    times = np.sort(random.random(random.poisson(photons)))
    if paralyzable:
        return 1 + int((np.diff(times) >= dead_share).sum())
    counted, free_from = 0, 0.0
    for time in times:
        if time >= free_from:
            counted += 1
            free_from = time + dead_share
    return counted


@pytest.mark.parametrize("paralyzable", [False, True])
def test_dead_time_of_simulated_pixels_is_undone(paralyzable):
    """Photons one by one: mean and scatter of the corrected counts are as said."""
    random = np.random.default_rng(8)
    photons, exposure_s, dead_time_s = 500, 0.1, 5e-5
    dead_share = dead_time_s / exposure_s
    pixels = 2000
    image = np.array(
        [detect(photons, dead_share, paralyzable, random) for _ in range(pixels)], np.uint32
    )
    options = {"dead_time_s": dead_time_s, "paralyzable": paralyzable}
    assert image.mean() < 0.82 * photons
    one_ring = rings_table(1, pixels)
    counting = RingIntegrator(one_ring, np.ones(pixels), **options)
    intensity, sigma, _ = counting(image, LIMIT, exposure_s)
    assert intensity[0] == pytest.approx(photons, abs=5 * sigma[0])
    scatter = RingIntegrator(one_ring, np.ones(pixels), error_model="azimuthal", **options)
    # 2000 pixels: the standard deviation is known to 1.6 %. Counts taken as Poisson's would give
    # 20 % too much.
    assert sigma[0] == pytest.approx(scatter(image, LIMIT, exposure_s)[1][0], rel=0.06)


def test_rate_that_no_dead_time_allows_is_invalid():
    image = np.array([10, 99, 100, 36, 37], np.uint16)
    ring = rings_table(1, 5)
    options = {"dead_time_s": 1e-2, "dark": np.zeros(5)}
    assert RingIntegrator(ring, np.ones(5), **options).curve(image, LIMIT, 1.0).invalid == 1
    paralyzable = RingIntegrator(ring, np.ones(5), paralyzable=True, **options)
    assert paralyzable.curve(image, LIMIT, 1.0).invalid == 3
    assert 0.36 < HIGHEST_PARALYZABLE < 0.37


def test_threads_share_an_integrator():
    scene = Scene(0)
    integrator = RingIntegrator(scene.table, scene.weights, rejection="sigma_clip")
    frames = [scene.image.reshape(-1) + np.uint32(k) for k in range(8)]
    expected = [integrator(frame, LIMIT)[0] for frame in frames]
    got = {}

    def work(first: int) -> None:
        for _ in range(10):
            for k in range(first, 8, 2):
                got[k] = integrator(frames[k], LIMIT)[0]

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, curve in enumerate(expected):
        np.testing.assert_array_equal(got[k], curve)


@pytest.mark.parametrize(("error_model", "rejection"), ALL)
@pytest.mark.parametrize("with_dark", [False, True])
def test_compiled_and_plain_python_agree(monkeypatch, error_model, rejection, with_dark):
    scene = Scene(3, shape=(20, 18), bins=7)
    scene.spoil(0.02, 300)
    scene.image[3, 3] = 2**32 - 1
    if not with_dark:
        scene.dark = None
    compiled = scene.ours(error_model=error_model, rejection=rejection, clip_sigma=3.0)
    for module in (pixel_preparation, ring_quantiles, ring_statistics):
        for name, kernel in list(vars(module).items()):
            if hasattr(kernel, "py_func"):
                monkeypatch.setattr(module, name, kernel.py_func)
    integrator = RingIntegrator(
        scene.table,
        scene.weights,
        dark=scene.dark,
        error_model=error_model,
        rejection=rejection,
        clip_sigma=3.0,
    )
    pixels = scene.image.size
    prepared = np.empty((pixels, 2 if with_dark and error_model != "azimuthal" else 1), np.float32)
    dark = np.empty(0, np.float32) if scene.dark is None else scene.dark.reshape(-1)
    invalid = prepare_pixels.py_func(
        scene.image.reshape(-1), LIMIT, scene.weights.reshape(-1), dark, 0.0, False, prepared
    )
    plain = ring_statistics.ring_curve(
        prepared,
        scene.table,
        *ring_statistics.ring_norms(scene.table, scene.weights.reshape(-1)),
        integrator._error_model,
        integrator._rejection,
    )
    assert invalid == compiled.invalid == 1
    np.testing.assert_allclose(plain[0], compiled.intensity, rtol=1e-6)
    np.testing.assert_allclose(plain[1], compiled.sigma, rtol=1e-6)
    np.testing.assert_array_equal(plain[2], compiled.rejected)


def test_what_does_not_fit_is_refused():
    ring = rings_table(1, 5)
    with pytest.raises(InputError, match="dark frame: expected 5 pixels as the frames, got 4"):
        RingIntegrator(ring, np.ones(5), dark=np.ones(4))
    with pytest.raises(BadFrameError, match="expected a frame of 5 pixels, got 6"):
        RingIntegrator(ring, np.ones(5))(np.ones(6, np.uint16), LIMIT)
    integrator = RingIntegrator(ring, np.ones(5), dead_time_s=1e-7)
    for exposure_s, got in ((None, "got none"), (0.0, "got 0 s"), (math.nan, "got nan s")):
        with pytest.raises(BadFrameError, match=got):
            integrator(np.ones(5, np.uint16), LIMIT, exposure_s)
