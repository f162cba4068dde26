"""Structure factor, form factor and lines, against the simulated sample and palladium crystals."""

import csv
import dataclasses
import math

import numpy as np
import pytest

from detectors.sample.assembly import Order, reflections
from detectors.sample.assembly import structure_factor as true_structure_factor
from detectors.sample.recipes import RECIPES
from detectors.sample.synthesis import Synthesis
from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.loader import load_config
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.config.structure import StructureAnalysis
from pipeline.fit.assembly import AnalyseAssembly
from pipeline.fit.assembly import warm_up as warm_up_assembly
from pipeline.fit.populations import FitPopulations
from pipeline.fit.structure import FitStructure, warm_up
from pipeline.kernels.noise import local_scatter
from pipeline.kernels.ordered_form import fill_gram, invert, robust_fit
from pipeline.messages import Curve, JudgedCurve
from pipeline.messages.lines import (
    FormFactor,
    Line,
    OrderedCurve,
    OrderLines,
    StructureFactor,
    lines_of,
)
from tests.support import REPOSITORY

Q_PER_NM = np.linspace(0.15, 6.0, 1000)
FIT = PopulationsFit(q_min_per_nm=0.2, q_max_per_nm=6.0, nc_diameter_range_nm=(2.0, 20.0))
ORDER = AssemblyAnalysis()


@pytest.fixture(scope="module")
def synthesis() -> Synthesis:
    warm_up_assembly()
    warm_up()
    return Synthesis("assembly_100c")


def judged(synthesis: Synthesis, time_s: float, seed: int) -> JudgedCurve:
    """A frame of 5e11 photons/s for 0.5 s through 1 mm, at 37.5 keV (k = 190/nm)."""
    solid_angle = 2 * np.pi * Q_PER_NM * (Q_PER_NM[1] - Q_PER_NM[0]) / 190.0**2
    gain = 1 / (2.5e11 * 0.1 * solid_angle)
    expected = (synthesis.intensity_per_cm(Q_PER_NM, time_s) + 0.03) / gain
    counts = np.random.default_rng(seed).poisson(expected)
    curve = Curve(
        frame=3,
        time_s=time_s,
        q_per_nm=Q_PER_NM,
        intensity=counts * gain,
        sigma=np.sqrt(counts) * gain,
        absolute=True,
    )
    _, fitted = FitPopulations(FIT, Sample()).process(curve)
    _, message = AnalyseAssembly(ORDER, Sample()).process(fitted)  # pyright: ignore
    assert isinstance(message, JudgedCurve)
    return message


def analyse(
    message: JudgedCurve,
    settings: StructureAnalysis | None = None,
    order: AssemblyAnalysis = ORDER,
) -> OrderedCurve:
    stage = FitStructure(settings or StructureAnalysis(), order, FIT, Sample())
    structure, form, rows, ordered = stage.process(message)
    assert isinstance(structure, StructureFactor)
    assert isinstance(form, FormFactor)
    assert isinstance(rows, OrderLines)
    assert isinstance(ordered, OrderedCurve)
    assert ordered.structure is structure
    assert ordered.form_factor is form
    assert lines_of(dataclasses.asdict(rows)) == strongest(ordered)
    assert rows.lines_found == len(ordered.lines)
    return ordered


def strongest(ordered: OrderedCurve) -> list[Line]:
    """The 10 that a row has room for, by rising q."""
    kept = sorted(ordered.lines, key=lambda line: -line.sigmas)[:10]
    return sorted(kept, key=lambda line: line.q_per_nm)


def visible_structure_factor(synthesis: Synthesis, time_s: float) -> np.ndarray:
    """1 + beta (S - 1), by sums over the simulated sizes."""
    state = synthesis.state(time_s)
    assembly = synthesis.recipe.assembly
    assert assembly is not None
    x = 0.5 * Q_PER_NM[:, None] * state.diameters_nm
    amplitude = (np.sin(x) - x * np.cos(x)) / Q_PER_NM[:, None] ** 3
    weight = state.concentrations_um / state.concentrations_um.sum()
    beta = (amplitude @ weight) ** 2 / (amplitude**2 @ weight)
    order = Order(
        state.spacing_nm, state.stacked_share, state.lattice_share, state.domain_nm, state.cell_nm
    )
    return 1 + beta * (true_structure_factor(assembly, order, Q_PER_NM) - 1)


def test_without_order_it_is_the_fits_own_form_factor_and_s_is_1(synthesis):
    message = judged(synthesis, 70.0, 1)
    ordered = analyse(message)
    form, populations = ordered.form_factor, message.fitted.populations
    assert form.choice == "fitted"
    assert form.diameter_nm == populations.nc_diameter_nm
    # Its own covariance, without priors of the fit: the same to a few per cent.
    assert form.diameter_nm_err == pytest.approx(populations.nc_diameter_nm_err, rel=0.2)
    assert form.sigma_nm_err == pytest.approx(populations.nc_sigma_nm_err, rel=0.2)
    assert ordered.lines == ()
    factor = ordered.structure
    known = np.isfinite(factor.structure_factor)
    window = (Q_PER_NM >= 0.2) & (Q_PER_NM <= 1.6)
    np.testing.assert_array_equal(known, window)
    off = (factor.structure_factor[known] - 1) / factor.sigma[known]
    # 240 points: 1 +- 0.09, and the fit has taken up its share.
    assert 0.7 < np.mean(off**2) < 1.3


@pytest.mark.parametrize("time_s", [120.0, 200.0, 299.0])
def test_stack(synthesis, time_s):
    ordered = analyse(judged(synthesis, time_s, 2))
    form, state = ordered.form_factor, synthesis.state(time_s)
    assert form.choice == "modelled"
    # Paper: 3.2 nm at 300 s. The fitted spacing is 0.03 nm high.
    assert form.surface_nm == pytest.approx(state.spacing_nm - state.nc_diameter_nm, abs=0.12)
    peak = ordered.judged.peak
    assert form.surface_nm == pytest.approx(peak.spacing_nm - form.diameter_nm, abs=1e-12)
    assert form.surface_nm_err == pytest.approx(
        math.hypot(peak.spacing_nm_err, form.diameter_nm_err), rel=1e-12
    )
    spacing = state.spacing_nm
    first = max(ordered.lines, key=lambda line: line.sigmas)
    # The mean over orientations moves a peak of a stack down by up to 0.5 % of its place.
    assert 2 * math.pi / first.q_per_nm == pytest.approx(spacing, rel=0.006)
    truth = visible_structure_factor(synthesis, time_s)
    at = np.argmax(np.where((Q_PER_NM > 0.3) & (Q_PER_NM < 0.5), truth, 0.0))
    assert first.q_per_nm == pytest.approx(Q_PER_NM[at], abs=Q_PER_NM[1] - Q_PER_NM[0])


def test_s_is_the_simulators(synthesis):
    """At every point beside the flanks, to its error and 5 % (10 % where 40 lines meet)."""
    for time_s, share in ((200.0, 0.05), (360.0, 0.05), (1000.0, 0.1)):
        factor = analyse(judged(synthesis, time_s, 3)).structure
        truth = visible_structure_factor(synthesis, time_s)
        calm = np.isfinite(factor.structure_factor) & (np.abs(np.gradient(truth)) < 0.05)
        off = np.abs(factor.structure_factor - truth)[calm]
        assert np.all(off < 4 * factor.sigma[calm] + share * truth[calm])
        assert np.median(off / truth[calm]) < share


def test_size_under_a_lattice(synthesis):
    """At 1000 s the plain fit is 5.5 % off, one frozen at the onset 3.2 %, this one 1.3 %."""
    onset = synthesis.state(90.0).nc_diameter_nm
    for time_s in (360.0, 1000.0):
        message = judged(synthesis, time_s, 4)
        form = analyse(message).form_factor
        truth = synthesis.state(time_s).nc_diameter_nm
        assert form.diameter_nm == pytest.approx(truth, rel=0.015)
        plain = message.fitted.populations.nc_diameter_nm
        assert abs(form.diameter_nm - truth) < 0.3 * abs(plain - truth)
    assert onset / truth < 0.97


@pytest.mark.parametrize("instrument", [0.004, 0.008])
def test_lattice_and_domain_through_an_instrument(synthesis, instrument):
    """A domain of 300 nm is one of 300 nm, whatever the instrument's width, if that is known."""
    recipe = RECIPES["assembly_100c"]
    assert recipe.assembly is not None
    seen = dataclasses.replace(recipe.assembly, instrument_fwhm_per_nm=instrument)
    sample = Synthesis(dataclasses.replace(recipe, assembly=seen))
    state = sample.state(1100.0)
    message = judged(sample, 1100.0, 5)
    order = AssemblyAnalysis(instrument_fwhm_per_nm=instrument)
    ordered = analyse(message, order=order)
    # (001), (010), (100) and their pairs; (111) meets the weaker (002).
    expected = reflections(state.cell_nm, 0.6)[0]
    assert len(expected) == 6
    lines = ordered.lines[:6]
    # The mean over orientations divides a line by q^2, which moves it down by 2 sigma^2 / q.
    wide = math.hypot(2 * math.pi / state.domain_nm, instrument) / math.sqrt(8 * math.log(2))
    for line, place in zip(lines, expected - 2 * wide**2 / expected, strict=True):
        assert line.q_per_nm == pytest.approx(place, abs=4 * line.q_per_nm_err + 1e-4)
    domains = [2 * math.pi / line.fwhm_per_nm for line in lines[:3]]
    errors = [2 * math.pi * line.fwhm_per_nm_err / line.fwhm_per_nm**2 for line in lines[:3]]
    assert domains == pytest.approx([state.domain_nm] * 3, abs=4 * max(errors))
    assert max(errors) < 0.03 * state.domain_nm
    if instrument == 0.008:
        left_in = analyse(message, order=AssemblyAnalysis(instrument_fwhm_per_nm=0.0))
        wide = math.hypot(2 * math.pi / state.domain_nm, instrument)
        read = 2 * math.pi / left_in.lines[0].fwhm_per_nm
        # 280 nm: 20 nm or 7 % too small, many errors of it.
        assert read == pytest.approx(2 * math.pi / wide, rel=0.02)
        assert state.domain_nm - read > 5 * errors[0]
        # Half of it told by the curve's own resolution, which is NaN where a bin has no pixels.
        curve = message.fitted.curve
        sigma = np.full(curve.q_per_nm.size, math.sqrt(0.008**2 - 0.004**2) / 2.354820045)
        sigma[::9] = np.nan
        fitted = dataclasses.replace(
            message.fitted, curve=dataclasses.replace(curve, q_resolution_per_nm=sigma)
        )
        told = analyse(
            dataclasses.replace(message, fitted=fitted),
            order=AssemblyAnalysis(instrument_fwhm_per_nm=0.004),
        )
        assert [line.fwhm_per_nm for line in told.lines] == pytest.approx(
            [line.fwhm_per_nm for line in ordered.lines], rel=1e-6, nan_ok=True
        )


def test_the_config_may_give_the_form_factor(synthesis):
    settings = StructureAnalysis(diameter_nm=11.7, sigma_nm=0.71)
    form = analyse(judged(synthesis, 299.0, 6), settings).form_factor
    assert (form.choice, form.diameter_nm, form.sigma_nm) == ("given", 11.7, 0.71)
    assert form.diameter_nm_err == 0
    with pytest.raises(ValueError, match="expected diameter_nm and sigma_nm, or neither"):
        StructureAnalysis(diameter_nm=11.7)


def test_no_crystals_no_structure(synthesis):
    message = judged(synthesis, 70.0, 7)
    populations = dataclasses.replace(message.fitted.populations, nc_diameter_nm=math.nan)
    fitted = dataclasses.replace(message.fitted, populations=populations)
    ordered = analyse(dataclasses.replace(message, fitted=fitted))
    assert ordered.structure.q_per_nm.size == Q_PER_NM.size
    assert np.all(np.isnan(ordered.structure.structure_factor))
    assert math.isnan(ordered.form_factor.diameter_nm)
    assert ordered.form_factor.choice == ""


def test_holes_in_a_curve_are_passed_over(synthesis):
    message = judged(synthesis, 1000.0, 8)
    curve = message.fitted.curve
    intensity, sigma = curve.intensity.copy(), curve.sigma.copy()
    intensity[60:70] = math.nan
    sigma[90:100] = 0.0
    intensity[150] = -1.0
    holed = dataclasses.replace(curve, intensity=intensity, sigma=sigma)
    fitted = dataclasses.replace(message.fitted, curve=holed)
    ordered = analyse(dataclasses.replace(message, fitted=fitted))
    assert np.all(np.isnan(ordered.structure.structure_factor[60:70]))
    assert ordered.lines[0].q_per_nm == pytest.approx(0.353, abs=1e-3)


def test_a_curve_without_spheres_keeps_those_of_the_fit(synthesis):
    message = judged(synthesis, 1000.0, 8)
    curve = message.fitted.curve
    nothing = dataclasses.replace(curve, intensity=-curve.intensity)
    fitted = dataclasses.replace(message.fitted, curve=nothing)
    form = analyse(dataclasses.replace(message, fitted=fitted)).form_factor
    assert form.choice == "fitted"
    assert form.reason.endswith("no spheres are left so")


def test_a_frame_depends_on_no_other(synthesis):
    messages = [judged(synthesis, time_s, 9) for time_s in (70.0, 200.0, 600.0)]
    stage = FitStructure(StructureAnalysis(), ORDER, FIT, Sample())
    for message in reversed(messages):
        structure, form, rows, _ = stage.process(message)
        alone = analyse(message)
        np.testing.assert_equal(dataclasses.asdict(structure), dataclasses.asdict(alone.structure))
        np.testing.assert_equal(dataclasses.asdict(form), dataclasses.asdict(alone.form_factor))
        assert lines_of(dataclasses.asdict(rows)) == strongest(alone)


@pytest.mark.parametrize("python", [False, True])
def test_robust_fit_of_a_clean_curve_is_least_squares(python):
    fit = robust_fit.py_func if python else robust_fit
    rng = np.random.default_rng(10)
    x = np.linspace(0.1, 1.0, 40)
    columns = np.stack([np.exp(-3 * x), -np.exp(-12 * x), np.ones_like(x)])
    truth = np.array([2.0, 0.5, 0.3])
    data, weight = truth @ columns + 0.01 * rng.normal(size=x.size), np.full(x.size, 20.0)
    amplitudes, gram, factor = np.empty(3), np.empty((3, 3)), np.ones(x.size)
    loss = fit(columns, (1, 2), data, weight, 2, factor, amplitudes, gram)
    expected = np.linalg.lstsq(20.0 * columns.T, 20.0 * data, rcond=None)[0]
    assert amplitudes == pytest.approx(expected, rel=1e-9)
    assert loss == pytest.approx(np.sum((20.0 * (data - expected @ columns)) ** 2), rel=1e-9)
    assert np.all(factor == 1)
    # A hole cannot be negative, and peaks a hundred errors high move nothing by an error.
    data = np.array([2.0, -0.5, 0.3]) @ columns
    fit(columns, (1, 2), data, weight, 2, factor, amplitudes, gram)
    assert amplitudes[1] == 0
    data = truth @ columns
    data[10:14] += 5.0
    fit(columns, (1, 2), data, weight, 12, factor, amplitudes, gram)
    covariance, whole = np.empty((3, 3)), np.empty((3, 3))
    fill_gram(columns * weight, whole)
    invert(whole, covariance)
    np.testing.assert_allclose(covariance, np.linalg.inv(whole), rtol=1e-8)
    assert np.all(np.abs(amplitudes - truth) < np.sqrt(np.diag(covariance)))


PALLADIUM = load_config(REPOSITORY / "configs" / "pd_superlattice.yaml")


def palladium(data_dir, run: str, wanted) -> list[tuple[dict[str, str], OrderedCurve]]:
    """Frames of a recording, with errors from their own scatter as the reduction takes them."""
    saxs, out = PALLADIUM.saxs, []
    with open(data_dir / run / "frames_index.csv", newline="") as file:
        index = list(csv.DictReader(file))
    assert saxs.fit is not None
    assert saxs.assembly is not None
    assert saxs.structure is not None
    fit, order = FitPopulations(saxs.fit, Sample()), AnalyseAssembly(saxs.assembly, Sample())
    stage = FitStructure(saxs.structure, saxs.assembly, saxs.fit, Sample())
    for frame in wanted(index):
        line = index[frame]
        q, intensity = np.loadtxt(data_dir / run / line["file"], unpack=True)
        curve = Curve(
            frame=frame,
            time_s=float(line["t_s"]),
            q_per_nm=10 * q,
            intensity=intensity,
            sigma=local_scatter(intensity),
            absolute=False,
            sigma_estimated=True,
        )
        _, fitted = fit.process(curve)
        _, message = order.process(fitted)  # pyright: ignore
        out.append((line, list(stage.process(message))[-1]))  # pyright: ignore
    return out


def experts_radius_nm(data_dir, line: dict[str, str]) -> float:
    """Radius in the lattice, from the experts' own file."""
    import yaml

    path = data_dir / "pd_superlattice_R5_201611" / line["file"].replace(".dat", ".yml")
    fit = yaml.safe_load(path.read_text())
    return fit["superlattice"]["parameters"]["r"]["value"] / 10


@pytest.mark.real_data
def test_palladium_radius_and_first_line_under_the_lattice(data_dir, synthesis):
    ordered = palladium(data_dir, "pd_superlattice_R5_201611", lambda _: range(38, 72, 5))
    for line, result in ordered:
        assert result.form_factor.choice == "modelled"
        # Plain spheres: 0.55 to 0.98 of it.
        radius = result.form_factor.diameter_nm / 2
        assert radius == pytest.approx(experts_radius_nm(data_dir, line), rel=0.04)
        q111 = 2 * math.pi * math.sqrt(3) / (float(line["expert_lattice_a_A"]) / 10)
        near = [each for each in result.lines if abs(each.q_per_nm / q111 - 1) < 0.02]
        assert near, line["t_s"]


@pytest.mark.real_data
def test_palladium_last_frame_has_the_triplet_of_hcp(data_dir, synthesis):
    ((_, result),) = palladium(
        data_dir, "pd_superlattice_R5_201611", lambda index: [len(index) - 1]
    )
    places = np.array([line.q_per_nm for line in result.lines])
    triplet = places[places < 1.0]
    assert len(triplet) == 3
    # (002) and (101): 0.890 and 0.942 1/nm by eye, steps of q being 0.010; (100) of a = 8.68 nm.
    assert triplet[1:] == pytest.approx([0.890, 0.942], abs=0.005)
    assert triplet[0] == pytest.approx(4 * math.pi / math.sqrt(3) / 8.678, rel=0.005)
    # Ideal hcp: (101) over (100) is sqrt(41/32).
    assert triplet[2] / triplet[0] == pytest.approx(math.sqrt(41 / 32), rel=0.005)


@pytest.mark.real_data
def test_palladium_that_never_ordered_has_no_lines(data_dir, synthesis):
    results = palladium(data_dir, "pd_growth_R13_201607", lambda index: range(28, len(index), 7))
    assert len(results) == 11
    assert [(line["t_s"], result.lines) for line, result in results if result.lines] == []


@pytest.mark.slow
@pytest.mark.real_data
def test_palladium_all_frames(data_dir, synthesis):
    """Every frame of the run that never ordered, and of the melt of the one that did."""
    never = palladium(data_dir, "pd_growth_R13_201607", lambda index: range(len(index)))
    melt = palladium(data_dir, "pd_superlattice_R5_201611", lambda _: range(77, 143))
    assert [line["t_s"] for line, result in never + melt if result.lines] == []
    lattice = palladium(
        data_dir, "pd_superlattice_R5_201611", lambda _: [*range(38, 75), *range(149, 182)]
    )
    ratios = np.array(
        [
            result.form_factor.diameter_nm / 2 / experts_radius_nm(data_dir, line)
            for line, result in lattice
        ]
    )
    assert np.mean(ratios) == pytest.approx(1.0085, abs=0.005)
    assert np.max(np.abs(ratios - 1)) < 0.045
