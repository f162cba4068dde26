"""Size distributions of simulated and real curves: right within their errors, or said not to be."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import norm

from detectors.sample.scattering import moments, per_cm
from detectors.sample.synthesis import Synthesis
from pipeline.cli.analyse import stages_for
from pipeline.config import RunConfig
from pipeline.config.sample import Sample
from pipeline.config.size_distribution import SizeInversion
from pipeline.fit.size_distribution import InvertSizes, warm_up
from pipeline.kernels.size_kernel import bin_edges_nm
from pipeline.kernels.units import UM_PER_NM3
from pipeline.messages import BadFrameError, Curve, SizeDistribution, SizeMoments
from pipeline.store.layout import ArrayNode, TableNode

Q_PER_NM = np.linspace(0.15, 6.0, 400)
EDGES_NM = bin_edges_nm((1.5, 20.0), 64)
FINE_NM = np.geomspace(1.5, 20.0, 64 * 40 + 1)
MIDDLE_NM = np.sqrt(FINE_NM[1:] * FINE_NM[:-1])


@pytest.fixture(scope="module")
def synthesis() -> Synthesis:
    return Synthesis("cs_dopa")


@pytest.fixture(scope="module")
def stage() -> InvertSizes:
    warm_up()
    return InvertSizes(SizeInversion(), Sample())


def counted(truth: np.ndarray, rng, *, frame: int = 0, resolution=None) -> Curve:
    """Noise of 5e11 photons/s, 0.5 s, 1 mm, 37.5 keV (k = 190/nm)."""
    solid_angle = 2 * np.pi * Q_PER_NM * (Q_PER_NM[1] - Q_PER_NM[0]) / 190.0**2
    gain = 1 / (5e11 * 0.5 * 0.1 * solid_angle)
    counts = rng.poisson(truth / gain)
    return Curve(
        frame=frame,
        time_s=0.5 * frame,
        q_per_nm=Q_PER_NM,
        intensity=counts * gain,
        sigma=np.sqrt(counts) * gain,
        absolute=True,
        q_resolution_per_nm=np.empty(0) if resolution is None else resolution,
    )


def gaussians(*populations: tuple[float, float, float]) -> np.ndarray:
    """Volume fraction between the fine edges: of (number in uM, mean and sigma in nm)."""
    numbers = np.zeros(MIDDLE_NM.size)
    for number, mean, sigma in populations:
        numbers += number * np.diff(norm.cdf(FINE_NM, mean, sigma))
    return numbers / UM_PER_NM3 * math.pi / 6 * MIDDLE_NM**3


def true_populations(synthesis: Synthesis, time_s: float) -> list[tuple[float, float, float]]:
    state = synthesis.state(time_s)
    made = [(state.agglomerate_concentration_um, 3.0, 0.3)]
    if state.nc_concentration_um > 1e-6:
        made.append((state.nc_concentration_um, state.nc_diameter_nm, state.nc_sigma_nm))
    return made


def in_bins(volumes: np.ndarray) -> np.ndarray:
    return volumes.reshape(64, 40).sum(axis=1)


def invert(stage: InvertSizes, curve: Curve) -> tuple[SizeDistribution, SizeMoments]:
    distribution, row = stage.process(curve)
    assert isinstance(distribution, SizeDistribution)
    assert isinstance(row, SizeMoments)
    return distribution, row


def total_variation(found: SizeDistribution, volumes: np.ndarray) -> float:
    share = found.volume_per_nm * found.bin_width_nm
    truth = in_bins(volumes)
    return 0.5 * float(np.sum(np.abs(share / share.sum() - truth / truth.sum())))


def rendered(volumes: np.ndarray) -> np.ndarray:
    """Intensity in 1/cm by the simulator's spheres, and a flat background."""
    numbers = volumes / (math.pi / 6 * MIDDLE_NM**3) * UM_PER_NM3
    return per_cm(1.0, moments(Q_PER_NM, MIDDLE_NM, numbers)[0]) + 0.03


def test_error_of_the_simulated_growth_is_under_0_08(synthesis, stage):
    """The mean of frames at each moment; single frames reach 0.09."""
    rng = np.random.default_rng(7)
    every = []
    for time_s in (0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 30.0, 300.0):
        truth = gaussians(*true_populations(synthesis, time_s))
        intensity = synthesis.intensity_per_cm(Q_PER_NM, time_s)
        errors = [
            total_variation(invert(stage, counted(intensity, rng))[0], truth) for _ in range(8)
        ]
        assert np.mean(errors) < 0.08, (time_s, errors)
        every += errors
    # 0.04 is what the benchmark gives over 560 frames.
    assert np.mean(every) < 0.05


def test_errors_cover_the_truth(synthesis, stage):
    rng = np.random.default_rng(11)
    inside, pulls = [], {"volume_fraction": [], "volume_mean_nm": [], "number_um": []}
    for time_s in (1.0, 3.0, 9.0, 300.0):
        populations = true_populations(synthesis, time_s)
        volumes = gaussians(*populations)
        truth = {
            "volume_fraction": volumes.sum(),
            "volume_mean_nm": np.sum(volumes * MIDDLE_NM) / volumes.sum(),
            "number_um": sum(number for number, _, _ in populations),
        }
        density = in_bins(volumes) / np.diff(EDGES_NM)
        many = in_bins(volumes) > 0.005 * volumes.sum()
        intensity = synthesis.intensity_per_cm(Q_PER_NM, time_s)
        for _ in range(20):
            found, row = invert(stage, counted(intensity, rng))
            off = np.abs(found.volume_per_nm - density)
            inside.append(np.mean((off < 2 * found.volume_per_nm_err)[many]))
            # What the fit calls empty may hold as much as could stand there unseen.
            limit = np.hypot(found.volume_per_nm_err, found.unseen_per_nm)
            assert np.all((off < 4 * limit)[~many])
            assert row.describes
            assert row.present
            for name, value in truth.items():
                err = getattr(row, name + "_err")
                pulls[name].append((getattr(row, name) - value) / err)
    # 95 % are meant; neighbouring bins go together, so 80 frames say it to 3 %.
    assert 0.87 < np.mean(inside) < 0.99
    for name, values in pulls.items():
        # The smoothing's bias moves them by up to 0.8 standard errors at one moment.
        assert abs(np.mean(values)) < 0.5, (name, np.mean(values))
        assert 0.7 < np.sqrt(np.mean(np.square(values))) < 1.4, (name, values)


def test_curve_of_sasmodels(stage):
    """Two populations in volume fractions, 12.0 nm at 8 % and 5.0 nm at 10 %, on 0.05 1/cm."""
    from sasmodels.core import load_model
    from sasmodels.direct_model import call_kernel

    kernel = load_model("sphere", dtype="double", platform="dll").make_kernel([Q_PER_NM / 10])
    total = np.full(Q_PER_NM.size, 0.05)
    for fraction, diameter, relative in ((1.5e-4, 12.0, 0.08), (0.5e-4, 5.0, 0.10)):
        total += call_kernel(
            kernel,
            {
                "scale": fraction, "background": 0.0, "sld": 27.44, "sld_solvent": 0.0,
                "radius": 5 * diameter, "radius_pd": relative, "radius_pd_type": "gaussian",
                "radius_pd_n": 80, "radius_pd_nsigma": 8,
            },
        )  # fmt: skip
    found, row = invert(stage, counted(total, np.random.default_rng(3)))
    assert row.volume_fraction == pytest.approx(2.0e-4, abs=4 * row.volume_fraction_err)
    assert row.volume_fraction_err < 2e-6
    assert row.background == pytest.approx(0.05, abs=4 * row.background_err)
    small = found.diameter_nm < 8
    share = found.volume_per_nm * found.bin_width_nm
    assert share[small].sum() / share.sum() == pytest.approx(0.25, abs=0.01)
    # Volume-weighted mean of Gaussian diameters: D (1 + 6 s^2 + 3 s^4) / (1 + 3 s^2).
    mean = np.sum((share * found.diameter_nm)[~small]) / share[~small].sum()
    assert mean == pytest.approx(
        12.0 * (1 + 6 * 0.0064 + 3 * 0.0064**2) / (1 + 3 * 0.0064), rel=4e-3
    )


@pytest.mark.parametrize(
    ("shape", "limit"),
    [("box", 0.12), ("exponential", 0.12), ("two narrow", 0.1), ("ripened", 0.06)],
)
def test_shapes_that_are_not_gaussian(stage, shape, limit):
    d = MIDDLE_NM
    volumes = {
        "box": np.where((d > 5) & (d < 9), 1.0, 0.0) * np.diff(FINE_NM),
        "exponential": np.exp(-d / 3) * np.diff(FINE_NM),
        "two narrow": gaussians((1.0, 8.0, 0.4), (4.0, 5.0, 0.3)),
        "ripened": np.where(d < 11, d**3 * np.maximum(11 - d, 0) ** 2.2, 0) * np.diff(FINE_NM),
    }[shape]
    volumes *= 2e-4 / volumes.sum()
    rng = np.random.default_rng(5)
    curves = [counted(rendered(volumes), rng) for _ in range(4)]
    found = [invert(stage, curve) for curve in curves]
    assert np.mean([total_variation(one, volumes) for one, _ in found]) < limit
    assert all(row.describes for _, row in found)


def test_resolution_is_taken_out(synthesis):
    """Smearing fills the minima as a spread of sizes does; told of it, the spread is right."""
    volumes = gaussians((1.0, 8.0, 0.5))
    width = 0.08
    steps = np.linspace(-4, 4, 41)
    weights = np.exp(-0.5 * steps**2) / np.sum(np.exp(-0.5 * steps**2))
    numbers = volumes / (math.pi / 6 * MIDDLE_NM**3) * UM_PER_NM3
    smeared = np.full(Q_PER_NM.size, 0.03)
    for step, weight in zip(steps, weights, strict=True):
        q = np.abs(Q_PER_NM + step * width)
        smeared += weight * per_cm(1.0, moments(q, MIDDLE_NM, numbers)[0])
    stage = InvertSizes(SizeInversion(q_min_per_nm=0.4), Sample())
    rng = np.random.default_rng(5)
    told = counted(smeared, rng, resolution=np.full(Q_PER_NM.size, width))
    untold = dataclasses.replace(told, q_resolution_per_nm=np.empty(0))
    mean = np.sum(volumes * MIDDLE_NM) / volumes.sum()
    sigma = math.sqrt(np.sum(volumes * (MIDDLE_NM - mean) ** 2) / volumes.sum())
    assert invert(stage, told)[1].volume_sigma_nm == pytest.approx(sigma, rel=0.06)
    assert invert(stage, untold)[1].volume_sigma_nm > 1.1 * sigma


def test_no_particles_are_no_numbers(stage):
    rng = np.random.default_rng(13)
    truth = 0.05 + 1e-4 * Q_PER_NM**-4.0
    for _ in range(60):
        found, row = invert(stage, counted(truth, rng))
        assert not row.present
        assert math.isnan(row.volume_mean_nm)
        assert math.isnan(row.number_um_err)
        assert not found.volume_per_nm.any()
        assert np.all(found.unseen_per_nm > 0)
        assert row.background == pytest.approx(0.05, rel=0.02)


def test_what_stands_unseen_is_what_can_be_added(stage):
    """One more population is found when it is 6 of its standard errors and lost at 1."""
    rng = np.random.default_rng(17)
    main = gaussians((1.0, 9.0, 0.8))
    found, row = invert(stage, counted(rendered(main), rng))
    at = int(np.argmin(np.abs(found.diameter_nm - 4.0)))
    error = found.unseen_per_nm[at] * math.sqrt(2 * math.pi) * 0.4
    second = gaussians((1.0, 4.0, 0.4))
    got = []
    for times in (1.0, 8.0):
        volumes = main + second * times * error / second.sum()
        share = []
        for _ in range(6):
            found, row = invert(stage, counted(rendered(volumes), rng))
            small = (found.volume_per_nm * found.bin_width_nm)[found.diameter_nm < 5.5].sum()
            share.append(small / error)
        got.append(np.median(share))
    assert got[0] < 3.0
    assert got[1] == pytest.approx(8.0, abs=3.0)
    assert row.number_unseen_um > row.number_um_err


def test_without_absolute_scale_there_is_no_concentration(synthesis, stage):
    curve = counted(synthesis.intensity_per_cm(Q_PER_NM, 10.0), np.random.default_rng(19))
    absolute = invert(stage, curve)
    relative = invert(stage, dataclasses.replace(curve, absolute=False))
    assert math.isnan(relative[1].number_um)
    assert math.isnan(relative[1].number_unseen_um)
    assert relative[1].volume_mean_nm == absolute[1].volume_mean_nm
    np.testing.assert_array_equal(relative[0].volume_per_nm, absolute[0].volume_per_nm)
    np.testing.assert_allclose(
        absolute[0].number_per_nm, UM_PER_NM3 * relative[0].number_per_nm, rtol=1e-12
    )
    number = np.sum(absolute[0].number_per_nm * absolute[0].bin_width_nm)
    assert absolute[1].number_um == pytest.approx(number, rel=1e-12)


def test_missing_sigma_is_estimated_and_said(synthesis, stage):
    curve = counted(synthesis.intensity_per_cm(Q_PER_NM, 20.0), np.random.default_rng(23))
    _, known = invert(stage, curve)
    _, row = invert(stage, dataclasses.replace(curve, sigma=np.full(Q_PER_NM.size, np.nan)))
    assert row.sigma_estimated
    assert not known.sigma_estimated
    assert row.volume_mean_nm == pytest.approx(known.volume_mean_nm, rel=0.02)
    assert row.volume_sigma_nm == pytest.approx(known.volume_sigma_nm, rel=0.1)


def test_masked_negative_and_cut_off_points(synthesis, stage):
    rng = np.random.default_rng(29)
    curve = counted(synthesis.intensity_per_cm(Q_PER_NM, 30.0), rng)
    _, whole = invert(stage, curve)
    intensity, sigma = curve.intensity.copy(), curve.sigma.copy()
    intensity[100:120] = np.nan
    sigma[140] = np.nan
    _, row = invert(stage, dataclasses.replace(curve, intensity=intensity, sigma=sigma))
    assert row.volume_mean_nm == pytest.approx(whole.volume_mean_nm, rel=0.01)
    # A background taken off too much: half of the points end below zero.
    below = dataclasses.replace(curve, intensity=curve.intensity - 0.035)
    measured = InvertSizes(SizeInversion(weights="measured"), Sample())
    assert np.mean(below.intensity < 0) > 0.3
    _, row = invert(measured, below)
    assert row.background < 0
    assert row.volume_mean_nm == pytest.approx(whole.volume_mean_nm, rel=0.01)
    keep = (Q_PER_NM > 0.5) & (Q_PER_NM < 3.0)
    cut = dataclasses.replace(
        curve,
        q_per_nm=Q_PER_NM[keep],
        intensity=curve.intensity[keep],
        sigma=curve.sigma[keep],
    )
    _, row = invert(stage, cut)
    # Without small q and the background's end, tails are known less well.
    assert row.volume_mean_nm == pytest.approx(whole.volume_mean_nm, rel=0.02)
    assert row.number_from_nm == pytest.approx(math.pi / cut.q_per_nm[-1])
    assert row.volume_fraction_err > whole.volume_fraction_err


@pytest.mark.parametrize("bad", [np.nan, 0.0])
def test_a_curve_without_data_is_refused_by_name(stage, bad):
    values = np.full(Q_PER_NM.size, bad)
    curve = Curve(
        frame=12, time_s=6.0, q_per_nm=Q_PER_NM, intensity=values, sigma=values, absolute=True
    )
    with pytest.raises(BadFrameError, match=r"saxs frame 12: 0 points .* an inversion needs 24"):
        stage.process(curve)


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_a_curve_that_counted_nothing_is_refused(stage, value):
    curve = Curve(
        frame=3,
        time_s=1.5,
        q_per_nm=Q_PER_NM,
        intensity=np.full(Q_PER_NM.size, value),
        sigma=np.ones(Q_PER_NM.size),
        absolute=True,
    )
    with pytest.raises(BadFrameError, match="saxs frame 3: no intensity above 0"):
        stage.process(curve)


def test_absurd_values_and_particles_out_of_range(stage):
    rng = np.random.default_rng(41)
    truth = rendered(gaussians((1.0, 8.0, 0.8)))
    clean = counted(truth, rng)
    spoilt = clean.intensity.copy()
    spoilt[[50, 90, 200]] = np.inf, -1e200, 1e300
    _, row = invert(stage, dataclasses.replace(clean, intensity=spoilt))
    assert row.volume_mean_nm == pytest.approx(invert(stage, clean)[1].volume_mean_nm, rel=0.01)
    # Spheres of 60 nm, beyond the 20 nm that are allowed.
    single = moments(Q_PER_NM, np.array([60.0]), np.array([1.0]))[0]
    _, row = invert(stage, counted(truth + per_cm(0.01, single), rng))
    assert not row.describes


def test_no_frame_depends_on_another(synthesis):
    rng = np.random.default_rng(31)
    curves = [
        counted(synthesis.intensity_per_cm(Q_PER_NM, time_s), rng) for time_s in (0.5, 5.0, 60.0)
    ]
    forwards = InvertSizes(SizeInversion(), Sample())
    backwards = InvertSizes(SizeInversion(), Sample())
    first = [invert(forwards, curve) for curve in curves]
    second = [invert(backwards, curve) for curve in reversed(curves)][::-1]
    for one, other in zip(first, second, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_equal(dataclasses.asdict(mine), dataclasses.asdict(theirs))


def test_crowded_spheres_are_not_described(stage):
    """30 % by volume of hard spheres: no sizes whatever make that dip at small q."""
    from sasmodels.core import load_model
    from sasmodels.direct_model import call_kernel

    model = load_model("sphere@hardsphere", dtype="double", platform="dll")
    parameters = {
        "scale": 1.0, "background": 0.0, "sld": 2.744, "sld_solvent": 0.0, "radius": 40.0,
        "radius_pd": 0.08, "radius_pd_n": 80, "radius_pd_nsigma": 8, "volfraction": 0.3,
    }  # fmt: skip
    crowded = call_kernel(model.make_kernel([Q_PER_NM / 10]), parameters) + 0.03
    _, row = invert(stage, counted(crowded, np.random.default_rng(37)))
    assert row.present
    assert not row.describes


def test_results_have_their_places_and_the_config_its_stage():
    assert ArrayNode.of(SizeDistribution).axis_path == "saxs/size_axis"
    assert "number_unseen_um" in TableNode.of(SizeMoments).schema.names
    saxs = {"size_distribution": {"diameter_range_nm": [2, 12], "bins": 48}}
    stages = stages_for("saxs", RunConfig.model_validate({"saxs": saxs}))
    assert "size_distribution" in [one.name for one in stages]
    assert "size_distribution" not in [one.name for one in stages_for("saxs", RunConfig())]


@pytest.mark.parametrize("bad", [(5.0, 5.0), (0.0, 10.0), (8.0, 2.0)])
def test_diameters_must_be_a_range(bad):
    with pytest.raises(ValueError, match="diameter_range_nm: expected 0 < lowest < highest"):
        SizeInversion(diameter_range_nm=bad)


@pytest.mark.real_data
def test_round_robin_spheres(data_dir):
    """Set 2: main population of 50.4 to 50.7 nm, 3 to 5 %, not quite alone."""
    q, intensity, sigma = np.loadtxt(
        data_dir / "saxs_1d_standards" / "round_robin_dataset_2.dat", unpack=True
    )
    settings = SizeInversion(
        q_min_per_nm=0.03, q_max_per_nm=1.16, diameter_range_nm=(20, 90), bins=96
    )
    curve = Curve(frame=0, time_s=0.0, q_per_nm=q, intensity=intensity, sigma=sigma, absolute=False)
    found, row = invert(InvertSizes(settings, Sample()), curve)
    near = np.abs(found.diameter_nm / 50.5 - 1) < 0.12
    share = (found.volume_per_nm * found.bin_width_nm)[near]
    mean = np.sum(share * found.diameter_nm[near]) / share.sum()
    sigma = math.sqrt(np.sum(share * (found.diameter_nm[near] - mean) ** 2) / share.sum())
    assert mean == pytest.approx(50.55, abs=0.4)
    assert 0.025 < sigma / mean < 0.05
    # The rest is a shoulder at 60 nm and little at the ends.
    total = np.sum(found.volume_per_nm * found.bin_width_nm)
    assert 0.75 < share.sum() / total < 0.95
    # Errors of 0.1 %, and an unknown resolution: the misfit is 60 times the noise, and is said.
    assert not row.describes


@pytest.mark.real_data
def test_palladium_is_the_experts(data_dir):
    """Frame 60 of the growth: diffuse spheres of radius 32.2 A, 4.7 %, by the experts' fit."""
    q_per_angstrom, intensity = np.loadtxt(
        data_dir / "pd_growth_R13_201607" / "R13_0060_dz_bgsub.dat", unpack=True
    )
    settings = SizeInversion(
        q_min_per_nm=0.5, q_max_per_nm=5.2, diameter_range_nm=(1.0, 12.0), weights="measured"
    )
    curve = Curve(
        frame=60,
        time_s=674.0,
        q_per_nm=10 * q_per_angstrom,
        intensity=intensity,
        sigma=np.full(intensity.size, np.nan),
        absolute=False,
    )
    _, row = invert(InvertSizes(settings, Sample()), curve)
    assert row.sigma_estimated
    assert row.number_mean_nm == pytest.approx(2 * 3.2227, rel=0.03)
    assert row.number_sigma_nm / row.number_mean_nm == pytest.approx(0.047, abs=0.02)
