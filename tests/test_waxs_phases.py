"""Phases on the wide-angle detector, against sums over atoms, scipy, the simulator and a film."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import nnls

from detectors.sample import Synthesis, crystal, scattering
from detectors.sample.synthesis import FORMULA_VOLUME_NM3, PER_NM3_PER_MM
from pipeline.cli import config_files
from pipeline.cli.analyse import stages_for
from pipeline.config import RunConfig
from pipeline.config.known_phases import KNOWN, known_phase
from pipeline.config.loader import ConfigError, load_config, parse_config
from pipeline.config.phases import CrystalPhase, PhasesAnalysis
from pipeline.fit.phase_problem import make_plan
from pipeline.fit.phases import FitPhases
from pipeline.fit.reflections import reflections_of
from pipeline.kernels import powder as kernel
from pipeline.kernels.amplitudes import solve_active_set
from pipeline.messages import (
    BadFrameError,
    CurveFrame,
    RunStart,
    WaxsCurve,
    lines_of,
    phases_of,
)
from pipeline.reduce.waxs import ReduceWaxs
from pipeline.replay import open_recording
from pipeline.store.layout import TableNode
from tests.support import REPOSITORY

Q = np.arange(8.0, 40.0, 0.05)
B_NM2 = 8.0 * math.pi**2 * 3.8e-4
"""Debye-Waller factor of the phases that come with the package."""


def solvent_per_cm(q=Q):
    return scattering.HEXANE_PER_CM + crystal.solvent_per_cm(q)


def counted(intensity, seed, q=Q, frame=0, time_s=0.0):
    """Poisson counts of 0.5 s at 5e11 photons/s through 1 mm on a fifth of each ring."""
    solid_angle = 0.2 * 2.0 * math.pi * q * 0.05 / 190.0**2
    gain = 1.0 / (5e11 * 0.5 * 0.1 * 0.8 * solid_angle)
    counts = np.random.default_rng(seed).poisson(np.maximum(intensity, 0.0) / gain)
    return WaxsCurve(
        frame=frame, time_s=time_s, q_per_nm=q, intensity=counts * gain,
        sigma=np.sqrt(np.maximum(counts, 1)) * gain, absolute=True,
    )  # fmt: skip


def settings(phases=("CsPbBr3_Pbnm",), **changes):
    values = {
        "phases": list(phases),
        "background_degree": 0,
        "amorphous_of": "CsPbBr3_Pbnm" if "CsPbBr3_Pbnm" in phases else None,
        "scherrer_k": crystal.SCHERRER,
        "size_range_nm": (2.0, 40.0),
    }
    return PhasesAnalysis.model_validate(values | changes)


def row_of(result):
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def analyse(stage, curve):
    """Row, phases that are present by name, lines."""
    row, lines = stage.process(curve)
    present = {phase.name: phase for phase in phases_of(row_of(row)) if phase.present}
    return row, present, lines_of(row_of(lines))


@pytest.fixture(scope="module")
def growth_stage():
    solvent = Q, solvent_per_cm()
    return FitPhases(settings(("CsPbBr3_Pbnm", "CsPbBr3_Pm-3m", "Cs4PbBr6", "PbBr2")), solvent)


# --- reflections, against sums over atoms that use no crystallography ------------------------

PBI2_ATOMS = (("Pb", (0, 0, 0)), ("I", (1 / 3, 2 / 3, 0.2675)), ("I", (2 / 3, 1 / 3, -0.2675)))
CUBE_ATOMS = (
    ("Pb", (0, 0, 0)), ("Cs", (0.5, 0.5, 0.5)),
    ("Br", (0.5, 0, 0)), ("Br", (0, 0.5, 0)), ("Br", (0, 0, 0.5)),
)  # fmt: skip


def places(phase, q_max):
    """Every hkl and its q: by the metric, from edges and angles."""
    a = np.array(phase.cell_nm)
    cos = np.cos(np.radians(phase.cell_angles_deg))
    metric = np.outer(a, a) * np.array(
        [[1, cos[2], cos[1]], [cos[2], 1, cos[0]], [cos[1], cos[0], 1]]
    )
    inverse = np.linalg.inv(metric)
    reach = range(-int(q_max * a.max() / 6) - 2, int(q_max * a.max() / 6) + 3)
    hkl = np.array([h for h in itertools.product(reach, repeat=3) if any(h)])
    q = 2 * math.pi * np.sqrt(np.einsum("ni,ij,nj->n", hkl, inverse, hkl))
    volume = math.sqrt(np.linalg.det(metric))
    return hkl[q < q_max], q[q < q_max], volume


def brute_force(phase, atoms, q_max):
    """q of every lattice vector and its share of strength."""
    xraydb = pytest.importorskip("xraydb")
    hkl, q, volume = places(phase, q_max)
    total = 0
    for element, xyz in atoms:
        factor = xraydb.f0(element, q / 40 / math.pi)
        total = total + factor * np.exp(2j * math.pi * hkl @ np.array(xyz))
    squared = np.abs(total) ** 2 * np.exp(-2 * B_NM2 * (q / 4 / math.pi) ** 2)
    return q, 1e7 * 2 * math.pi**2 * (crystal.ELECTRON_RADIUS_NM / volume) ** 2 * squared


@pytest.mark.parametrize(("name", "atoms"), [("PbI2", PBI2_ATOMS), ("CsPbBr3_Pm-3m", CUBE_ATOMS)])
def test_strengths_are_those_of_a_sum_over_all_atoms(name, atoms):
    lines = reflections_of(known_phase(name), 35.0)
    q, strength = brute_force(known_phase(name), atoms, 35.0)
    for place in np.unique(lines.q_per_nm.round(6)):
        ours = lines.strength[np.abs(lines.q_per_nm - place) < 1e-5].sum()
        theirs = strength[np.abs(q - place) < 1e-5].sum()
        # Two tabulations of form factors; weak lines are differences of large terms.
        assert ours == pytest.approx(theirs, rel=0.01, abs=1e-4 * strength.max())
    assert lines.strength.sum() == pytest.approx(strength.sum(), rel=2e-3)


def test_strengths_are_those_of_the_simulator():
    """Same atoms, form factors of another kind (within 3.5 %, so 7 % in the square)."""
    lines = reflections_of(known_phase("CsPbBr3_Pbnm"), 30.0)
    positions, strengths = crystal.reflections(30)
    damping = np.exp(-2 * crystal.DEBYE_WALLER_NM2 * (positions / 4 / math.pi) ** 2)
    scale = 1e7 * 2 * math.pi**2 * (crystal.ELECTRON_RADIUS_NM / math.prod(crystal.CELL_NM)) ** 2
    for place, theirs in zip(positions, scale * strengths * damping, strict=True):
        ours = lines.strength[np.abs(lines.q_per_nm - place) < 1e-6].sum()
        assert ours == pytest.approx(theirs, rel=0.07, abs=0.01 * strengths.max() * scale)


def test_places_that_are_published():
    def first(name, count):
        return reflections_of(known_phase(name), 25.0).q_per_nm[:count]

    assert first("PbI2", 1)[0] == pytest.approx(9.00, abs=0.01)
    assert first("FAPbI3_delta", 2) == pytest.approx([8.38, 11.55], abs=0.01)
    cube = 2 * math.pi / 0.5874
    expected = cube * np.sqrt([1, 2, 3, 4, 5])
    np.testing.assert_allclose(first("CsPbBr3_Pm-3m", 5), expected, rtol=1e-9)
    cubic = reflections_of(known_phase("FAPbI3_alpha"), 25.0)
    assert cubic.multiplicity[:6].tolist() == [6, 12, 8, 6, 24, 24]


# Conditions for reflections, International Tables A, written out by hand.
CONDITIONS = {
    "Cs4PbBr6": lambda h, k, l: (  # noqa: E741
        (-h + k + l) % 3 == 0 and not (h == -k and l % 2) and not (h == 0 and l % 2)
        and not (k == 0 and l % 2)
    ),
    "FAPbI3_delta": lambda h, k, l: not (  # noqa: E741
        l % 2 and (h == k or k == -2 * h or h == -2 * k)
    ),
    "PbBr2": lambda h, k, l: (  # noqa: E741
        not (h == 0 and (k + l) % 2) and not (l == 0 and h % 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONS)
def test_absences_are_those_of_the_tables(name):
    lines = reflections_of(known_phase(name), 24.0)
    hkl, q, _ = places(known_phase(name), 24.0)
    allowed = np.array([CONDITIONS[name](*indices) for indices in hkl.tolist()])
    expected = np.unique(q[allowed].round(6))
    np.testing.assert_allclose(np.unique(lines.q_per_nm.round(6)), expected, atol=2e-6)
    assert lines.multiplicity.sum() == np.count_nonzero(allowed)


PBI2_CIF = """data_PbI2
_cell_length_a 4.557
_cell_length_b 4.557
_cell_length_c 6.979
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_symmetry_space_group_name_H-M 'P -3 m 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_U_iso_or_equiv
Pb1 Pb 0 0 0 1 0.038
I1 I 0.3333333 0.6666667 0.2675 1 0.038
"""


def test_a_cif_says_the_same_as_a_cell_with_atoms(tmp_path):
    (tmp_path / "pbi2.cif").write_text(PBI2_CIF)
    text = "waxs: {phases: {phases: [{name: film, cif: pbi2.cif}]}}"
    (tmp_path / "run.yaml").write_text(text)
    analysis = load_config(tmp_path / "run.yaml").waxs.phases
    assert analysis is not None
    ours, theirs = (reflections_of(p, 35.0) for p in (known_phase("PbI2"), analysis.phases[0]))
    np.testing.assert_allclose(ours.q_per_nm, theirs.q_per_nm, rtol=1e-9)
    np.testing.assert_allclose(ours.strength, theirs.strength, rtol=1e-4)


def test_phases_that_make_no_sense_are_named(tmp_path):
    with pytest.raises(ConfigError, match="expected one of CsPbBr3_Pbnm"):
        parse_config("waxs: {phases: {phases: [CsPbBr4]}}")
    with pytest.raises(ConfigError, match="either cif, or cell_nm and space_group"):
        parse_config("waxs: {phases: {phases: [{name: x}]}}")
    cell = {"name": "x", "cell_nm": (0.5, 0.6, 0.7)}
    with pytest.raises(ValueError, match="'Q 3' is not known"):
        reflections_of(CrystalPhase(**cell, space_group="Q 3"), 20.0)
    with pytest.raises(ValueError, match="are not those of P m -3 m"):
        reflections_of(CrystalPhase(**cell, space_group="P m -3 m"), 20.0)
    (tmp_path / "no.cif").write_text("data_x\n_cell_length_a 3\n")
    with pytest.raises(ValueError, match="no cell"):
        reflections_of(CrystalPhase(name="x", cif=str(tmp_path / "no.cif")), 20.0)


def test_a_check_of_the_config_finds_what_a_run_would_stumble_over(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "waxs: {phases: {phases: [{name: x, cif: gone.cif}], background_file: gone.dat}}"
    )
    first, second = config_files.problems(load_config(tmp_path / "run.yaml"))
    assert first.startswith("waxs.phases.phases: phase x: ")
    assert "gone.cif: No such file or directory" in first
    assert "gone.dat: expected a background curve, got no such file" in second


# --- kernels ---------------------------------------------------------------------------------


def plan_of(analysis, q=Q):
    lines = tuple(reflections_of(phase, 45.0) for phase in analysis.phases)
    return make_plan(analysis, lines, q, np.empty(0), None)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_pattern_is_the_sum_of_its_lines(share):
    plan = plan_of(settings(("PbI2",), lorentz_share=share, instrument_fwhm_per_nm=0.2))
    at = np.zeros((1, kernel.SEARCHED))
    at[0] = [0.004, 0.004, -0.006, 0.5, 0.01]
    out = np.empty((1, Q.size))
    kernel.fill_patterns(plan.powder, 0, at, np.ones(Q.size), out)
    lines, expected = plan.reflections[0], np.zeros(Q.size)
    for (h, k, l), strength in zip(lines.hkl, lines.strength, strict=True):  # noqa: E741
        a, c = 0.4557 * math.exp(0.004), 0.6979 * math.exp(-0.006)
        q = 2 * math.pi * math.sqrt(4 / 3 * (h * h + h * k + k * k) / a**2 + l * l / c**2)
        width = math.sqrt(0.5**2 + (0.01 * q) ** 2 + 0.2**2)
        sigma = width / math.sqrt(8 * math.log(2))
        gauss = np.exp(-0.5 * ((Q - q) / sigma) ** 2) / sigma / math.sqrt(2 * math.pi)
        lorentz = width / 2 / math.pi / ((Q - q) ** 2 + width**2 / 4)
        expected += strength / Q**2 * ((1 - share) * gauss + share * lorentz)
    # A Lorentzian is cut at 12 widths, where it is 1/577 of its top.
    np.testing.assert_allclose(out[0], expected, atol=(4e-3 if share else 3e-5) * expected.max())


def test_slopes_are_those_of_the_pattern():
    plan = plan_of(settings(("PbI2",), strain=True, lorentz_share=0.3))
    at, amplitudes = np.array([[0.002, 0.002, -0.003, 0.4, 0.01]]), np.array([2.5])
    slopes = np.empty((kernel.SEARCHED, Q.size))
    kernel.fill_slopes(plan.powder, 0, at, amplitudes, np.ones(Q.size), slopes)
    plain = np.empty_like(slopes)
    kernel.fill_slopes.py_func(plan.powder, 0, at, amplitudes, np.ones(Q.size), plain)
    np.testing.assert_allclose(plain, slopes, atol=1e-12)
    for number in np.flatnonzero(plan.powder.searched[0]):
        sides, step = [], 1e-5
        for sign in (1, -1):
            moved, out = at.copy(), np.empty((1, Q.size))
            moved[0, number] += sign * step
            kernel.fill_patterns.py_func(plan.powder, 0, moved, np.ones(Q.size), out)
            sides.append(2.5 * out[0])
        difference = (sides[0] - sides[1]) / (2 * step)
        # Points at the cut ends of a profile jump.
        error = np.abs(difference - slopes[number])
        assert np.quantile(error, 0.95) < 2e-3 * np.abs(difference).max()


@pytest.mark.parametrize("solve", [solve_active_set, solve_active_set.py_func])
def test_active_sets_find_what_scipy_finds(solve):
    rng = np.random.default_rng(4)
    for _ in range(30):
        columns = rng.normal(size=(12, 60)) + 0.5
        data = rng.normal(size=60)
        amplitudes = np.where(rng.random(12) < 0.5, 1.0, 0.0)
        fall = solve(columns @ columns.T, columns @ data, np.ones(12, bool), amplitudes)
        expected, norm = nnls(columns.T, data)
        np.testing.assert_allclose(amplitudes, expected, atol=1e-9)
        assert data @ data - fall == pytest.approx(norm**2, rel=1e-9)
    # Columns that may be negative: two of opposite sign each do the same by scipy.
    free = np.ones(12, bool)
    free[:3] = False
    amplitudes = np.zeros(12)
    solve(columns @ columns.T, columns @ data, free, amplitudes)
    expected, _ = nnls(np.vstack([columns, -columns[:3]]).T, data)
    expected[:3] -= expected[12:]
    np.testing.assert_allclose(amplitudes, expected[:12], atol=1e-9)


# --- the simulated growth --------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthesis():
    return Synthesis("cs_dopa")


def test_growth_is_amorphous_then_orthorhombic(growth_stage, synthesis):
    q = Q
    row, present, _ = analyse(
        growth_stage, counted(synthesis.wide_angle_per_cm(q, 0.25), seed=1, time_s=0.5)
    )
    assert (row.state, present, row.phases) == ("amorphous", {}, 0)
    assert row.crystalline_fraction == 0.0
    pulls = []
    for seed, time_s in enumerate((2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 200.0, 300.0)):
        curve = counted(synthesis.wide_angle_per_cm(q, time_s), seed=10 + seed, time_s=time_s)
        row, present, lines = analyse(growth_stage, curve)
        state = synthesis.state(time_s)
        assert row.state == "crystalline"
        assert list(present) == ["CsPbBr3_Pbnm"]
        assert row.describes
        assert row.unexplained_lines == 0
        assert min(abs(line.q_per_nm - 21.5) for line in lines) < 0.2
        phase = present["CsPbBr3_Pbnm"]
        volumes = state.concentrations_um * state.diameters_nm**3
        size = float(volumes @ state.diameters_nm / volumes.sum())
        amorphous = PER_NM3_PER_MM * state.pool_mm * FORMULA_VOLUME_NM3
        share = state.nc_volume_fraction / (state.nc_volume_fraction + amorphous)
        pulls.append(
            [
                (phase.size_nm - size) / phase.size_nm_err,
                (phase.a_nm - 0.8207) / phase.a_nm_err,
                # Form factors of simulator and tables leave 0.05 of the halo's amount.
                (row.crystalline_fraction - share) / math.hypot(row.crystalline_fraction_err, 0.05),
                (row.crystal_volume_fraction / state.nc_volume_fraction - 1.0)
                / math.hypot(row.crystal_volume_fraction_err / state.nc_volume_fraction, 0.05),
            ]
        )
        assert phase.b_nm / phase.a_nm == pytest.approx(0.8255 / 0.8207)
        assert row.fraction_kind == "volume"
    pulls = np.array(pulls)
    assert np.abs(pulls).max() < 3.5
    assert np.abs(pulls.mean(axis=0)).max() < 1.2


def test_without_the_solvent_the_amorphous_share_is_not_told(synthesis):
    """A background that can bend takes the halo up: the error says so, the crystal stays right."""
    stage = FitPhases(
        settings(background_degree=6, halos=[{"q_per_nm": 14.0, "fwhm_per_nm": 5.65}])
    )
    row, present, _ = analyse(stage, counted(synthesis.wide_angle_per_cm(Q, 4.0), seed=3))
    phase = present["CsPbBr3_Pbnm"]
    assert row.crystalline_fraction_err > 0.15
    assert phase.a_nm == pytest.approx(0.8207, abs=3.5 * phase.a_nm_err)
    assert phase.size_nm == pytest.approx(5.2, abs=3.5 * phase.size_nm_err)


def test_noise_is_no_crystal(growth_stage):
    """Solvent with and without agglomerates; the significance is calibrated, if cautious."""
    halo = crystal.powder_per_cm(Q, 1.9e-4, crystal.AGGLOMERATE_ORDER_NM)
    z = {"none": [], "amorphous": []}
    for seed in range(120):
        expected = ("none", "amorphous")[seed % 2]
        curve = counted(solvent_per_cm() + (halo if seed % 2 else 0.0), seed=1000 + seed)
        row, present, _ = analyse(growth_stage, curve)
        assert row.state == expected
        assert not present
        z[expected].append(row.crystalline_z)
    for values in z.values():
        above = np.mean(np.array(values) > 1.0)
        # 0.16 of standard normal deviates are; the bound may be cautious, templates overlap.
        assert above < 0.16 + 3 * math.sqrt(0.16 / len(values))
        assert max(values) < 4.0


def test_small_cubes_and_tilted_ones_look_alike_and_large_ones_do_not(growth_stage):
    small = counted(solvent_per_cm() + crystal.powder_per_cm(Q, 1.5e-4, 5.0), seed=5)
    row, present, _ = analyse(growth_stage, small)
    assert row.confounded == "CsPbBr3_Pbnm,CsPbBr3_Pm-3m"
    # The first in the config is reported, so that the table does not flicker.
    assert list(present) == ["CsPbBr3_Pbnm"]
    both = [phase.probability for phase in phases_of(row_of(row))[:2]]
    assert sum(both) == pytest.approx(1.0, abs=0.01)
    assert max(both) < 0.95
    axes = KNOWN["CsPbBr3_Pbnm"].model_copy(update={"cell": "axes"})
    analysis = settings([axes.model_dump(), "CsPbBr3_Pm-3m"], amorphous_of=None)
    large = counted(solvent_per_cm() + crystal.powder_per_cm(Q, 1.5e-4, 30.0), seed=6)
    row, present, _ = analyse(FitPhases(analysis, (Q, solvent_per_cm())), large)
    assert row.confounded == ""
    (phase,) = present.values()
    assert phase.name == "CsPbBr3_Pbnm"
    assert phase.probability > 0.999
    for edge, expected in zip("abc", crystal.CELL_NM, strict=True):
        error = getattr(phase, f"{edge}_nm_err")
        assert error < 4e-4 * expected
        assert getattr(phase, f"{edge}_nm") == pytest.approx(expected, abs=4 * error)


# --- every phase that comes with the package, and mixtures -----------------------------------


def drawn(strengths, fwhm, q=Q):
    """A powder of Gaussians, from every lattice vector's q and strength."""
    places_q, strength = strengths
    sigma = fwhm / math.sqrt(8 * math.log(2))
    total = np.zeros(q.size)
    for place, value in zip(places_q, strength, strict=True):
        total += value * np.exp(-0.5 * ((q - place) / sigma) ** 2)
    return total / (q**2 * sigma * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("name", KNOWN)
def test_each_known_phase_is_found_among_all(name):
    """Crystals of 25 nm; strengths by the atoms, by multiplicity alone where there are none."""
    q = np.arange(7.0, 24.5, 0.02)
    others = [other for other in KNOWN if other != "CsPbBr3_Pm-3m"][:6]
    if name not in others:
        others[0] = name
    stage = FitPhases(
        settings(
            others, q_min_per_nm=7.0, q_max_per_nm=24.5, amorphous_of=None, size_range_nm=(10, 60)
        )
    )
    # Where heights are free, lines beyond the window have none.
    known = known_phase(name)
    lines = reflections_of(known, 27.0 if known.sites else 23.8)
    strength = lines.strength if lines.has_atoms else lines.multiplicity
    fwhm = crystal.SCHERRER * 2 * math.pi / 25
    pattern = drawn((1.003 * lines.q_per_nm, strength), fwhm, q)
    curve = counted(0.3 + 0.5 * pattern / pattern.max(), seed=7, q=q)
    row, present, _ = analyse(stage, curve)
    assert list(present) == [name]
    assert row.state == "crystalline"
    assert row.unexplained_lines == 0
    phase = present[name]
    assert phase.size_nm == pytest.approx(25.0, abs=max(4 * phase.size_nm_err, 0.25))
    edge = known_phase(name).cell_nm[0] / 1.003
    assert phase.a_nm == pytest.approx(edge, abs=max(4 * phase.a_nm_err, 2e-4 * edge))


def test_shares_of_a_mixture():
    names, volumes = ("PbI2", "CsPbBr3_Pm-3m"), (3e-5, 9e-5)
    atoms = (PBI2_ATOMS, CUBE_ATOMS)
    intensity = solvent_per_cm()
    for name, own, volume in zip(names, atoms, volumes, strict=True):
        strengths = brute_force(known_phase(name), own, 42.0)
        intensity = intensity + volume * drawn(strengths, 0.3)
    stage = FitPhases(settings(names), (Q, solvent_per_cm()))
    row, present, _ = analyse(stage, counted(intensity, seed=8))
    assert set(present) == set(names)
    assert row.fraction_kind == "volume"
    for name, expected in zip(names, (0.25, 0.75), strict=True):
        phase = present[name]
        assert phase.fraction_err < 0.015
        assert phase.fraction == pytest.approx(expected, abs=4 * phase.fraction_err + 0.002)
        assert phase.probability > 0.999
    assert row.crystal_volume_fraction == pytest.approx(1.2e-4, rel=0.02)


def test_a_line_of_no_phase_is_told(growth_stage):
    stranger = 0.03 * np.exp(-4 * math.log(2) * ((Q - 12.9) / 0.5) ** 2)
    base = solvent_per_cm() + crystal.powder_per_cm(Q, 1.9e-4, 8.0)
    row, present, lines = analyse(growth_stage, counted(base + stranger, seed=9))
    assert "CsPbBr3_Pbnm" in present
    assert row.unexplained_lines == 1
    assert row.unexplained_q_per_nm == pytest.approx(12.9, abs=0.05)
    line = min(lines, key=lambda line: abs(line.q_per_nm - 12.9))
    assert line.fwhm_per_nm == pytest.approx(0.5, abs=4 * line.fwhm_per_nm_err)
    # Without any phase to try there are lines, and nobody to say whose.
    row, present, _ = analyse(
        FitPhases(settings((), size_range_nm=(5, 40)), (Q, solvent_per_cm())),
        counted(solvent_per_cm() + stranger, seed=9),
    )
    assert (row.state, row.unexplained_lines, present) == ("unindexed", 1, {})


# --- behaviour of the stage ------------------------------------------------------------------


def test_a_curve_gives_the_same_bits_whatever_came_before(growth_stage):
    base = solvent_per_cm() + crystal.powder_per_cm(Q, 1.9e-4, 8.0)
    curve = counted(base, seed=11)
    first = [row_of(result) for result in growth_stage.process(curve)]
    growth_stage.process(counted(solvent_per_cm(), seed=12))
    assert repr([row_of(result) for result in growth_stage.process(curve)]) == repr(first)


def test_bad_points_are_left_out_and_hopeless_curves_refused(growth_stage):
    base = solvent_per_cm() + crystal.powder_per_cm(Q, 1.9e-4, 8.0)
    curve = counted(base, seed=13)
    intensity, sigma = curve.intensity.copy(), curve.sigma.copy()
    intensity[100:130] = np.nan
    sigma[200:210] = 0.0
    intensity[300] = sigma[300] = 2.0
    row, present, _ = analyse(growth_stage, replace(curve, intensity=intensity, sigma=sigma))
    assert list(present) == ["CsPbBr3_Pbnm"]
    unknown = replace(curve, sigma=np.full(Q.size, np.nan))
    assert list(analyse(growth_stage, unknown)[1]) == ["CsPbBr3_Pbnm"]
    for empty in (np.zeros(Q.size), -intensity):
        row, _, _ = analyse(growth_stage, replace(curve, intensity=np.nan_to_num(empty)))
        assert row.state in ("none", "unindexed", "amorphous")
    with pytest.raises(BadFrameError, match="waxs frame 0: 0 points with finite intensity"):
        growth_stage.process(replace(curve, intensity=np.full(Q.size, np.nan)))
    # No, or one, point in the window.
    for few in (Q < 8.0, Q < 8.01):
        stage = FitPhases(
            settings(amorphous_halos=[{"q_per_nm": 20.0, "fwhm_per_nm": 8.0}], q_min_per_nm=8.0)
        )
        cut = replace(curve, q_per_nm=Q[few], intensity=intensity[few], sigma=sigma[few])
        with pytest.raises(BadFrameError, match=f"waxs frame 0: {few.sum()} points with finite"):
            stage.process(cut)


def test_bins_without_pixels_have_the_resolution_of_their_neighbours(growth_stage):
    curve = counted(solvent_per_cm() + crystal.powder_per_cm(Q, 1.9e-4, 8.0), seed=13)
    resolution = np.linspace(0.05, 0.09, Q.size)
    whole = analyse(growth_stage, replace(curve, q_resolution_per_nm=resolution))[0]
    gaps = resolution.copy()
    gaps[::7] = np.nan
    row = analyse(growth_stage, replace(curve, q_resolution_per_nm=gaps))[0]
    assert row.phase_1_size_nm == pytest.approx(whole.phase_1_size_nm, rel=1e-4)
    # 0.16 1/nm of the instrument beside the 0.8 of 8 nm.
    bare = analyse(growth_stage, curve)[0]
    assert row.phase_1_size_nm > bare.phase_1_size_nm


def test_columns_of_the_row_fit_a_table():
    from pipeline.messages import WaxsPhases

    names = TableNode.of(WaxsPhases).schema.names
    assert len({name.lower() for name in names}) == len(names)
    assert {"state", "phase_1_name", "phase_6_strain_err", "confounded"} <= set(names)


def test_the_stream_has_the_stage_with_the_measured_solvent():
    config = load_config(REPOSITORY / "configs" / "cs_dopa_waxs.yaml")
    reduction, stage = stages_for("waxs", config)
    assert isinstance(reduction, ReduceWaxs)
    assert isinstance(stage, FitPhases)
    # What the file holds is the simulator's solvent, with the capillary's flat scattering.
    q, solvent = stage._background
    inside = (q > 8.0) & (q < 40.0)
    beyond = solvent[inside] - solvent_per_cm(q[inside])
    assert beyond.std() < 1e-3 * solvent[inside].mean()
    assert [stage.name for stage in stages_for("waxs", RunConfig())] == ["reduce_waxs"]


# --- a film that somebody heated ---------------------------------------------------------------


@pytest.mark.real_data
def test_the_heated_film_loses_one_phase_and_gains_another(data_dir):
    """Its authors: 0.84 1/A vanishes, 0.90 (PbI2) appears, the perovskite's 0.993 to 1.00 stays."""
    config = load_config(REPOSITORY / "configs" / "facs_heat.yaml")
    recording = open_recording(data_dir / "perovskite_waxs_FACs15_heat", config.replay)
    source = recording.streams["waxs"]
    reduction = ReduceWaxs(config.waxs.reduce)
    reduction.reset(RunStart("film", source.start))
    stage = FitPhases(config.waxs.phases)
    phases, lines = [], []
    for frame in source.read():
        assert isinstance(frame, CurveFrame)
        (curve,) = reduction.process(frame)
        row, present, found = analyse(stage, curve)
        assert row.state == "crystalline"
        phases.append(present)
        lines.append([line.q_per_nm for line in found])

    def seen(low, high):
        return [any(low < q < high for q in frame) for frame in lines]

    assert len(lines) == 30
    assert all(seen(9.9, 10.12))
    assert all(seen(8.3, 8.5)[:17])
    assert not any(seen(8.3, 8.5)[20:])
    assert not any(seen(8.98, 9.06)[:20])
    assert all(seen(8.98, 9.06)[26:])
    assert all("FAPbI3_alpha" in frame for frame in phases)
    assert all("FAPbI3_delta" in frame for frame in phases[:18])
    assert not any("FAPbI3_delta" in frame for frame in phases[22:])
    assert not any("PbI2" in frame for frame in phases[:18])
    assert all("PbI2" in frame for frame in phases[23:])
    shares = [frame["FAPbI3_alpha"].fraction for frame in phases]
    assert shares[0] < 0.2
    assert shares[20] > 0.97
    # Heat stretches the perovskite; 001 of PbI2 is where the tables have it.
    edges = [frame["FAPbI3_alpha"].a_nm for frame in phases]
    assert edges[-1] > edges[0] + 0.008
    assert phases[-1]["PbI2"].c_nm == pytest.approx(0.6979, rel=0.003)


@pytest.mark.real_data
def test_polymer_films_are_semicrystalline_or_amorphous(data_dir):
    """Runs 5 and 8 have 110 and 200 of polyethylene, at 1.52 and 1.69 1/A; run 10 has a halo."""
    config = load_config(REPOSITORY / "configs" / "ssrl_swaxs.yaml")
    source = open_recording(data_dir / "ssrl_bl1-5_swaxs_2d", config.replay).streams["waxs"]
    reduction = ReduceWaxs(config.waxs.reduce)
    reduction.reset(RunStart("films", source.start))
    stage = FitPhases(config.waxs.phases)
    rows = [analyse(stage, curve) for frame in source.read() for curve in reduction.process(frame)]
    assert [row.state for row, _, _ in rows] == ["crystalline", "crystalline", "amorphous"]
    for row, present, lines in rows[:2]:
        phase = present["polyethylene"]
        assert [line.q_per_nm for line in lines] == pytest.approx([15.2, 16.9], abs=0.05)
        # At room temperature; the cell varies with branching by a percent.
        assert phase.a_nm == pytest.approx(0.740, rel=0.01)
        assert phase.b_nm == pytest.approx(0.493, rel=0.01)
        assert math.isnan(phase.c_nm)
        assert 0.15 < row.crystalline_fraction < 0.35
        assert row.fraction_kind == "scattering"
    assert rows[2][2] == []
