"""Guinier, Porod and the invariant, against spheres whose values are known in closed form."""

import csv
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad

from benchmarks import misfits
from detectors.sample.synthesis import Synthesis
from pipeline.cli.analyse import stages_for
from pipeline.config import RunConfig
from pipeline.config.invariants import InvariantsAnalysis
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.invariants import FitInvariants, warm_up
from pipeline.fit.populations import FitPopulations
from pipeline.kernels.guinier import CURVATURE, guinier_moment, guinier_range
from pipeline.kernels.invariants import model_free
from pipeline.kernels.linear import inverse3
from pipeline.messages import Curve, Invariants, Populations, Stage
from tests.test_pd_fits import FIT as PD_FIT
from tests.test_residual_tests import read_standard

FLAT_PER_CM = 0.03
CONTRAST_PER_NM2 = 27.435e-4
"""Of the densities that the curves are rendered with."""
SAMPLE = Sample(contrast_per_nm2=CONTRAST_PER_NM2)
STAGE = FitInvariants(InvariantsAnalysis(), SAMPLE)


def moment(diameter: float, sigma: float, power: int) -> float:
    """<D^n> of a normal distribution."""
    d = diameter + sigma * np.linspace(-6, 6, 2001)
    weight = np.exp(-0.5 * np.linspace(-6, 6, 2001) ** 2) * (d > 0)
    return float(np.sum(weight * d**power) / np.sum(weight))


def known(diameter: float, relative: float) -> dict[str, float]:
    """What spheres of 0.1 % by volume have; see the module of the kernel."""
    m = {k: moment(diameter, diameter * relative, k) for k in (2, 3, 6, 8)}
    phi, contrast = misfits.VOLUME_FRACTION, 1e7 * CONTRAST_PER_NM2**2
    return {
        "guinier_radius_nm": math.sqrt(3 / 20 * m[8] / m[6]),
        "forward_intensity": contrast * phi * math.pi / 6 * m[6] / m[3],
        "porod_constant": contrast * 2 * math.pi * phi * 6 * m[2] / m[3],
        "background": FLAT_PER_CM,
        "invariant": contrast * 2 * math.pi**2 * phi * (1 - phi),
        "volume_fraction": phi,
        "surface_per_volume_per_nm": 6 * m[2] / m[3],
        "surface_diameter_nm": m[3] / m[2],
        "volume_diameter_nm": (m[6] / m[3]) ** (1 / 3),
    }


def one(curve: Curve, stage: FitInvariants = STAGE) -> Invariants:
    (row,) = stage.process(curve)
    assert isinstance(row, Invariants)
    return row


@pytest.mark.parametrize("flux_per_s", [5e9, 5e11])
@pytest.mark.parametrize(("diameter", "relative"), [(7.4, 0.1), (5.0, 0.2), (10.0, 0.08)])
def test_values_and_errors(diameter, relative, flux_per_s):
    """Bias below the errors, and 95 % intervals that cover at least 88 % (100 frames: 95 +- 2)."""
    truth = misfits.spheres(diameter, relative) + FLAT_PER_CM
    rng = np.random.default_rng(1)
    rows = [one(misfits.measured(truth, flux_per_s, rng)) for _ in range(100)]
    assert all(row.guinier_valid and not row.sigma_estimated for row in rows)
    for name, value in known(diameter, relative).items():
        got = np.array([getattr(row, name) for row in rows])
        err = np.array([getattr(row, name + "_err") for row in rows])
        there = np.isfinite(got)
        assert np.mean(there) > 0.9, name
        covered = np.abs(got - value)[there] < 1.96 * err[there]
        assert np.mean(covered) >= 0.88, (name, np.mean(covered))
        assert abs(np.mean(got[there]) - value) < 1.2 * np.mean(err[there]), name
    # And the errors are worth having.
    for name, most in (("guinier_radius_nm", 0.06), ("invariant", 0.03), ("porod_constant", 0.2)):
        assert np.mean([getattr(row, name + "_err") for row in rows]) < most * abs(
            known(diameter, relative)[name]
        )


def test_sphere_of_one_size_curves_guiniers_line_within_the_prior():
    """ln P = -x^2/5 - x^4/350: c = 0.0079 Rg^4, and the fit has no bias where it is known."""
    assert CURVATURE > 25 / 9 / 350
    q = np.linspace(0.01, 2.0, 400)
    x = 4.0 * q
    intensity = (3 * (np.sin(x) - x * np.cos(x)) / x**3) ** 2
    free = model_free(q, intensity, 1e-5 * np.ones(q.size), False, 1.3, 6.0)
    assert free.radius_nm == pytest.approx(math.sqrt(3 / 5) * 4.0, rel=1e-3)
    assert free.forward == pytest.approx(1.0, rel=1e-3)


def test_compiled_agrees_with_python():
    truth = misfits.spheres(7.4, 0.1) + FLAT_PER_CM
    curve = misfits.measured(truth, 5e10, np.random.default_rng(2))
    arguments = (curve.q_per_nm[::4], curve.intensity[::4], curve.sigma[::4], True, 1.3, 6.0)
    # The last digits differ where sums are contracted.
    np.testing.assert_allclose(model_free(*arguments), model_free.py_func(*arguments), rtol=1e-6)


@pytest.mark.parametrize("integral", [guinier_moment, guinier_moment.py_func])
def test_guiniers_integral(integral):
    for b, q in ((3.0, 0.01), (3.0, 0.129), (3.0, 0.1291), (2.0, 0.5), (1.0, 3.0)):
        expected = quad(lambda t, b=b: t * t * math.exp(-b * t * t), 0, q)[0]
        assert integral(b, q) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("inverse", [inverse3, inverse3.py_func])
def test_inverse_is_lapacks(inverse):
    rng = np.random.default_rng(12)
    out = np.empty((3, 3))
    for scale in (1.0, 1e-9, 1e9):
        rows = rng.normal(size=(3, 5)) * np.array([[1.0], [scale], [1.0 / scale]])
        matrix = rows @ rows.T
        assert inverse(matrix, out)
        unit = np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
        np.testing.assert_allclose(out * unit, np.linalg.inv(matrix / unit), rtol=1e-9)
    assert not inverse(np.ones((3, 3)), out)
    assert not inverse(np.zeros((3, 3)), out)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.2, 4.0])
def test_a_power_law_has_no_guinier_range(power):
    """Everywhere q Rg = sqrt(3 n/2), which is above 0.9 where a range may begin."""
    q = misfits.Q_PER_NM
    intensity = q**-power
    assert guinier_range(q, intensity, (1e-2 * intensity) ** 2, 1.3)[0] == -1
    assert not one(curve_of(q, intensity, 0.01 * intensity)).guinier_valid


def test_a_cut_off_beginning_has_no_guinier_range():
    """q Rg from 1.1 on: no radius and no invariant, but Porod's law still."""
    truth = misfits.spheres(7.4, 0.1) + FLAT_PER_CM
    curve = misfits.measured(truth, 5e11, np.random.default_rng(3))
    row = one(curve, FitInvariants(InvariantsAnalysis(q_min_per_nm=0.36), SAMPLE))
    assert not row.guinier_valid
    assert math.isnan(row.invariant)
    assert math.isnan(row.volume_fraction)
    assert row.porod_constant == pytest.approx(known(7.4, 0.1)["porod_constant"], rel=0.5)


def test_an_upturn_at_the_beginning_is_passed_over():
    q = misfits.Q_PER_NM
    truth = misfits.spheres(5.0, 0.1) + FLAT_PER_CM
    truth = truth + 0.2 * np.max(truth) * np.exp(-(((q - q[0]) / 0.02) ** 2))
    row = one(misfits.measured(truth, 5e11, np.random.default_rng(4)))
    assert row.guinier_q_min_per_nm > 0.22
    assert row.guinier_radius_nm == pytest.approx(known(5.0, 0.1)["guinier_radius_nm"], rel=0.05)


def test_exponent_of_a_smooth_tail():
    """Debye and Bueche's random solid, 1/(1 + a^2 q^2)^2, falls as q^-4 without waves."""
    q = misfits.Q_PER_NM
    truth = 50.0 / (1 + (3.0 * q) ** 2) ** 2 + 1e-3
    rng = np.random.default_rng(5)
    rows = [one(misfits.measured(truth, 5e11, rng)) for _ in range(30)]
    z = np.array([(row.porod_exponent - 4.0) / row.porod_exponent_err for row in rows])
    assert abs(np.mean(z)) < 1.0
    assert 0.5 < np.std(z) < 1.5
    assert np.mean([row.porod_exponent for row in rows]) == pytest.approx(4.0, abs=0.1)


def test_missing_errors_are_estimated_and_said():
    truth = misfits.spheres(7.4, 0.1) + FLAT_PER_CM
    curve = misfits.measured(truth, 5e10, np.random.default_rng(6))
    row = one(dataclasses.replace(curve, sigma=np.full(curve.sigma.size, np.nan)))
    assert row.sigma_estimated == 1
    expected = known(7.4, 0.1)
    for name in ("guinier_radius_nm", "invariant", "volume_diameter_nm"):
        off = getattr(row, name) - expected[name]
        assert abs(off) < 3 * getattr(row, name + "_err"), name
    given = one(curve)
    assert 0.5 < row.guinier_radius_nm_err / given.guinier_radius_nm_err < 2


def test_without_absolute_scale_there_is_no_volume_fraction():
    truth = misfits.spheres(7.4, 0.1) + FLAT_PER_CM
    curve = misfits.measured(truth, 5e10, np.random.default_rng(7))
    row = one(dataclasses.replace(curve, absolute=False))
    assert math.isnan(row.volume_fraction)
    assert row.invariant == one(curve).invariant
    # phi (1 - phi) is never above 1/4.
    thick = dataclasses.replace(curve, intensity=curve.intensity * 1e3, sigma=curve.sigma * 1e3)
    assert math.isnan(one(thick).volume_fraction)


def curve_of(q: np.ndarray, intensity: np.ndarray, sigma: np.ndarray) -> Curve:
    return Curve(frame=3, time_s=1.5, q_per_nm=q, intensity=intensity, sigma=sigma, absolute=True)


def _some_nan(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.size) % 3 == 0, np.nan, values)


HOSTILE: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "zeros": lambda i: (0 * i, 0 * i),
    "zeros with errors": lambda i: (0 * i, np.ones(i.size)),
    "constant": lambda i: (np.ones(i.size), 0.1 * np.ones(i.size)),
    "negative": lambda i: (-i, 0.1 * i),
    "nan": lambda i: (np.nan * i, np.nan * i),
    "infinite": lambda i: (np.inf * i, i),
    "alternating": lambda i: (i * (-1.0) ** np.arange(i.size), 0.01 * i),
    "rising": lambda i: (i[::-1], 0.01 * i[::-1]),
    "huge": lambda i: (1e150 * i, 1e148 * i),
    "tiny": lambda i: (1e-150 * i, 1e-152 * i),
    "errors huge": lambda i: (i, 1e6 * i),
    "errors tiny": lambda i: (i, 1e-12 * i),
    "one spike": lambda i: (np.where(np.arange(i.size) == 50, 1e9, i), 0.01 * i),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_curves_give_nan_and_no_crash(kind):
    q = misfits.Q_PER_NM
    intensity, sigma = HOSTILE[kind](misfits.spheres(7.4, 0.1) + FLAT_PER_CM)
    for cut in (q.size, 200, 30, 11, 3, 0):
        row = one(curve_of(q[:cut], intensity[:cut], sigma[:cut]))
        for name, value in dataclasses.asdict(row).items():
            assert not isinstance(value, float) or not math.isinf(value), name
        for name in ("guinier_radius_nm", "invariant", "volume_diameter_nm", "porod_constant"):
            error = getattr(row, name + "_err")
            assert math.isnan(error) or error >= 0
    if kind in ("zeros", "nan", "infinite", "negative", "constant", "rising"):
        assert not row.guinier_valid
        assert math.isnan(row.volume_diameter_nm)


def test_noise_alone_has_no_radius():
    """Around zero, as a curve with its background subtracted."""
    rng = np.random.default_rng(8)
    q = misfits.Q_PER_NM
    rows = [one(curve_of(q, rng.normal(size=q.size), np.ones(q.size))) for _ in range(100)]
    assert sum(row.guinier_valid for row in rows) <= 1
    assert sum(row.porod_valid for row in rows) <= 2


def test_masked_points_cost_nothing_but_their_counts():
    truth = misfits.spheres(7.4, 0.1) + FLAT_PER_CM
    curve = misfits.measured(truth, 5e11, np.random.default_rng(9))
    masked = dataclasses.replace(
        curve, intensity=_some_nan(curve.intensity), sigma=_some_nan(curve.sigma)
    )
    row, expected = one(masked), known(7.4, 0.1)
    for name in ("guinier_radius_nm", "invariant", "volume_diameter_nm"):
        assert abs(getattr(row, name) - expected[name]) < 3 * getattr(row, name + "_err")


def test_the_same_curve_gives_the_same_bits_and_the_stage_is_wired():
    warm_up()
    assert isinstance(STAGE, Stage)
    truth = misfits.spheres(7.4, 0.1) + FLAT_PER_CM
    curve = misfits.measured(truth, 5e11, np.random.default_rng(10))
    first, again = one(curve), one(curve, FitInvariants(InvariantsAnalysis(), SAMPLE))
    np.testing.assert_equal(dataclasses.asdict(first), dataclasses.asdict(again))
    assert "invariants" in [stage.name for stage in stages_for("saxs", RunConfig())]
    without = RunConfig.model_validate({"saxs": {"invariants": None}})
    assert "invariants" not in [stage.name for stage in stages_for("saxs", without)]


@pytest.mark.real_data
def test_round_robin_spheres(data_dir):
    """50.5 nm. The largest of a population "not perfectly one" count most for Rg."""
    q, intensity, sigma = read_standard(data_dir / "saxs_1d_standards/round_robin_dataset_2.dat")
    row = one(dataclasses.replace(curve_of(q, intensity, sigma), absolute=False))
    assert row.guinier_radius_nm == pytest.approx(math.sqrt(3 / 20) * 50.5, rel=0.1)
    assert row.volume_diameter_nm == pytest.approx(50.5, rel=0.06)


@pytest.mark.real_data
def test_colloid_of_5_per_cent_scatters_forward_less_by_its_repulsion(data_dir):
    """Hard spheres: S(0) = (1 - phi)^4/(1 + 2 phi)^2 = 0.67, which the volume from I(0)/Q shows."""
    path = data_dir / "saxs_1d_standards"
    row = one(curve_of(*read_standard(path / "Colloid_dilute.dat")))
    volume = moment(204.6, 0.051 * 204.6, 6) / moment(204.6, 0.051 * 204.6, 3)
    assert row.volume_diameter_nm**3 / volume == pytest.approx(0.95**4 / 1.1**2, rel=0.06)
    concentrated = one(curve_of(*read_standard(path / "Colloid_conc.dat")))
    assert not concentrated.guinier_valid


def scatter(intensity: np.ndarray) -> np.ndarray:
    """Errors from the second differences of 25 neighbours, by their median size."""
    second = np.abs(intensity[:-2] - 2 * intensity[1:-1] + intensity[2:]) / np.sqrt(6)
    second = np.pad(second, 1, mode="edge")
    near = (second[max(i - 12, 0) : i + 13] for i in range(second.size))
    return np.array([np.median(part) * 1.4826 for part in near])


@pytest.mark.real_data
def test_palladium_radii_agree_with_the_fits(data_dir):
    """From 332 to 380 s: beyond 4.6 nm the beamstop at 0.5 1/nm leaves no range.

    Before, what is not yet crystals scatters as much, and Rg is a quarter below the fit's.
    """
    folder = data_dir / "pd_growth_R13_201607"
    settings = InvariantsAnalysis(q_min_per_nm=0.5, q_max_per_nm=5.2)
    stage, fit = FitInvariants(settings, Sample()), FitPopulations(PD_FIT, Sample())
    z, ratios, late = [], [], []
    with open(folder / "frames_index.csv", newline="") as file:
        for frame, line in enumerate(csv.DictReader(file)):
            if not 332 <= float(line["t_s"]) <= 600:
                continue
            q_per_angstrom, intensity = np.loadtxt(folder / line["file"], unpack=True)
            curve = curve_of(10 * q_per_angstrom, intensity, scatter(intensity))
            curve = dataclasses.replace(curve, frame=frame, absolute=False)
            row = one(curve, stage)
            fitted = next(r for r in fit.process(curve) if isinstance(r, Populations))
            d, s = fitted.nc_diameter_nm, fitted.nc_sigma_nm
            expected = math.sqrt(3 / 20 * moment(d, s, 8) / moment(d, s, 6))
            if row.guinier_valid and d < 4.6:
                z.append((row.guinier_radius_nm - expected) / row.guinier_radius_nm_err)
                ratios.append(row.guinier_radius_nm / expected)
            if d > 6.0:
                late.append(row.guinier_valid)
    assert len(z) >= 4
    assert np.max(np.abs(z)) < 2
    assert np.max(np.abs(np.array(ratios) - 1)) < 0.06
    assert sum(late) == 0


def test_agrees_with_the_fit_in_every_phase_of_a_synthesis():
    """Agglomerates, both, crystals only: volume fractions by the invariant and by the fit."""
    synthesis = Synthesis("cs_dopa")
    stage, fit = (
        FitInvariants(InvariantsAnalysis(), Sample()),
        FitPopulations(PopulationsFit(), Sample()),
    )
    rng = np.random.default_rng(11)
    for time_s in (0.3, 1.5, 5.0, 20.0, 100.0):
        truth = synthesis.intensity_per_cm(misfits.Q_PER_NM, time_s) + FLAT_PER_CM
        curve = misfits.measured(truth, 5e11, rng)
        fitted = next(r for r in fit.process(curve) if isinstance(r, Populations))
        volume = np.nansum([fitted.nc_volume_fraction, fitted.agglomerate_volume_fraction])
        row = one(curve, stage)
        assert abs(row.volume_fraction - volume) < 3 * row.volume_fraction_err
        assert row.volume_fraction_err < 0.2 * volume
