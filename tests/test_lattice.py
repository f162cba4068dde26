"""Lattices told from lines: tables, cells, claims, room for cores, domains."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from benchmarks.lattices import (
    KINDS,
    Q_PER_NM,
    crystal,
    frame_of,
    judged,
    lines_of_kind,
    merged,
    ordered_curve,
    powder,
)
from detectors.sample.assembly import reflections as simulated_reflections
from pipeline.config.lattice import LatticeAnalysis
from pipeline.fit.lattice import CANNOT_TELL, IndexLattice, warm_up
from pipeline.kernels import cell_refinement, cell_room
from pipeline.kernels.lattices import fcc_with_hcp, lattices
from pipeline.messages import LatticeRow, Line

BY_NAME = {lattice.name: lattice for lattice in lattices()}


@pytest.fixture(scope="module")
def stage() -> IndexLattice:
    warm_up()
    return IndexLattice(LatticeAnalysis())


def line(q, area, fwhm=0.021, error=4e-4, relative=0.05):
    height = area / (1.0645 * fwhm)
    return Line(
        q, error, height, relative * height, fwhm, 0.05 * fwhm, area, relative * area, 1 / relative
    )


def powder_frame(q, area, core_nm=11.0, highest=1.3, least=1e-3):
    """Lines of given places and areas with a Debye-Waller factor, without noise, up to highest."""
    area = area * np.exp(-0.75 * q**2)
    places, areas = merged(q, area, 0.02)
    found = [
        line(place, strength)
        for place, strength in zip(places, areas, strict=True)
        if strength > least and place < highest
    ]
    return frame_of(found, np.where(highest > Q_PER_NM, 0.01, math.nan), core_nm)


def squares(edges, free):
    a, b, c = edges
    return {1: [a**-2, 0, 0], 2: [a**-2, c**-2, 0], 3: [a**-2, b**-2, c**-2]}[free]


def by_area(row: LatticeRow):
    return {name: getattr(row, name) for name in row.__dataclass_fields__ if name[:2] == "p_"}


# Tables.


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "stack"])
def test_reflections_are_those_of_every_reciprocal_vector(name):
    cell = crystal(name, np.random.default_rng(5))
    q, area = merged(*powder(cell, 1.6), 1e-7)
    lattice = BY_NAME[name]
    at = np.array(squares(cell.edges_nm, lattice.free))
    ours = 2 * math.pi * np.sqrt(lattice.forms @ at)
    volume = abs(np.linalg.det(cell.vectors_nm)) / len(cell.places)
    weights = 2 * math.pi**2 * lattice.weight / (volume * ours**2)
    seen = ours <= 1.6
    order = np.argsort(ours[seen])
    np.testing.assert_allclose(ours[seen][order], q, rtol=1e-9)
    np.testing.assert_allclose(weights[seen][order], area, rtol=1e-9)


def test_cubic_reflections_are_the_textbooks():
    first = {
        "sc": ([1, 2, 3, 4, 5, 6, 8], [6, 12, 8, 6, 24, 24, 12]),
        "bcc": ([2, 4, 6, 8, 10, 12, 14], [12, 6, 24, 12, 24, 8, 48]),
        "fcc": ([3, 4, 8, 11, 12, 16, 19], [8, 6, 12, 24, 8, 6, 24]),
    }
    for name, (sums, multiplicity) in first.items():
        np.testing.assert_array_equal(BY_NAME[name].forms[:7, 0], sums)
        np.testing.assert_allclose(BY_NAME[name].weight[:7], multiplicity)


def test_both_close_packings_share_the_lines_of_their_layers():
    lattice, fcc, hcp = fcc_with_hcp()
    sums = lattice.forms[:, 0]
    # 111 = 002, 220 = 110, 311 = 112; 200 is of fcc alone, 100, 101 and 102 of hcp.
    for shared in (3, 8, 11):
        assert fcc[sums == shared] > 0
        assert hcp[sums == shared] > 0
    assert fcc[sums == 4] > 0
    assert hcp[sums == 4] == 0
    ratio = np.sqrt(sums[(hcp > 0) & (fcc == 0)][:3] / 3)
    # q / q(002) of 100, 101, 102 with c/a = sqrt(8/3).
    expected = [math.sqrt(8) / 3, math.sqrt(8 / 9 + 1 / 4), math.sqrt(8 / 9 + 1)]
    np.testing.assert_allclose(ratio, expected, rtol=1e-7)


@pytest.mark.parametrize("name", ["sc", "bcc", "fcc", "hcp", "body-centred tetragonal",
                                  "face-centred orthorhombic"])  # fmt: skip
def test_neighbours_and_volume_with_errors(name):
    cell = crystal(name, np.random.default_rng(6))
    lattice = BY_NAME[name]
    at = np.array(squares(cell.edges_nm, lattice.free))
    covariance = np.zeros((3, 3))
    covariance[: lattice.free, : lattice.free] = np.diag((0.002 * at[: lattice.free]) ** 2)
    index = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T
    between = (index[:, None] + cell.places[None]).reshape(-1, 3) @ cell.vectors_nm
    length = np.sort(np.linalg.norm(between, axis=1))[1]
    volume = abs(np.linalg.det(cell.vectors_nm)) / len(cell.places)
    rng = np.random.default_rng(7)
    drawn = at + np.sqrt(np.diag(covariance)) * rng.normal(size=(400, 3))
    for compiled in (True, False):
        near, room = cell_room.nearest_neighbour, cell_room.volume_per_particle
        if not compiled:
            near, room = near.py_func, room.py_func
        distance, error = near(at, covariance, lattice.steps, lattice.free)
        filled, relative = room(at, covariance, lattice.unit_volume, lattice.free)
        assert distance == pytest.approx(length, rel=1e-9)
        assert filled == pytest.approx(volume, rel=1e-9)
        all_near = [near(u, covariance, lattice.steps, lattice.free)[0] for u in drawn]
        all_room = [room(u, covariance, lattice.unit_volume, lattice.free)[0] for u in drawn]
        # 400 draws give a standard deviation to 3.5 %.
        assert error == pytest.approx(np.std(all_near), rel=0.12)
        assert relative == pytest.approx(np.std(all_room) / volume, rel=0.12)


# Claims.


def test_claims_on_random_lattices_are_right(stage):
    """With realistic errors, blends, missing and spurious lines; 99 % over 100 of each kind."""
    rng = np.random.default_rng(12)
    right, wrong, off = 0, [], []
    for kind in KINDS:
        for _ in range(8):
            frame, cell = ordered_curve(kind, rng)
            row = judged(stage, frame)
            claim = "stack" if row.p_stack >= 0.9 else row.lattice
            if claim == kind:
                right += 1
                if kind != "stack":
                    assert cell is not None
                    off.append((row.a_nm - cell.edges_nm[0]) / row.a_nm_err)
            elif claim != CANNOT_TELL:
                wrong.append((kind, claim))
            assert sum(by_area(row).values()) == pytest.approx(1, abs=1e-9)
    assert right >= 0.85 * 8 * len(KINDS)
    assert len(wrong) <= 0.05 * right, wrong
    # A common error of 0.1 % is in all lines and in none of the errors but by their floor.
    assert np.median(np.abs(off)) < 1.5
    assert np.mean(np.abs(off) < 4) > 0.95


def test_noise_and_one_or_two_lines_are_no_lattice(stage):
    rng = np.random.default_rng(13)
    rows = [judged(stage, ordered_curve(kind, rng)[0]) for kind in ("noise", "few") * 40]
    claimed = [row.lattice for row in rows if row.lattice not in ("", CANNOT_TELL)]
    assert len(claimed) <= 1
    few = rows[1::2]
    assert not [row.lattice for row in few if row.lattice not in ("", CANNOT_TELL)]
    assert any(row.lattice == CANNOT_TELL for row in few)


@pytest.mark.parametrize(("centring", "verdict"), [("P", "primitive"), ("F", "face-centred")])
def test_the_simulated_cell_of_the_paper_comes_back(stage, centring, verdict):
    """14.6, 16.0, 17.8 nm; read as face-centred, its cores of 11.6 nm overlap and it is told."""
    edges = (14.6, 16.0, 17.8)
    q, multiplicity = simulated_reflections(edges, 1.4, centring)
    area = 2 * math.pi**2 * (4 if centring == "F" else 1) * multiplicity / (math.prod(edges) * q**2)
    row = judged(stage, powder_frame(q, 0.5 * area, core_nm=11.6))
    assert row.lattice == f"{verdict} orthorhombic"
    for value, error, truth in zip(
        (row.a_nm, row.b_nm, row.c_nm), (row.a_nm_err, row.b_nm_err, row.c_nm_err), edges,
        strict=True,
    ):  # fmt: skip
        assert value == pytest.approx(truth, rel=0.003)
        assert abs(value - truth) < 3 * error
    if centring == "P":
        assert row.consistent
        # 3.0 nm between surfaces; pi / 6 * (11.6^3 + 3 * 11.6 * 0.8^2) / 4158.
        assert row.gap_nm == pytest.approx(3.0, abs=0.06)
        assert row.packing == pytest.approx(0.1994, abs=0.004)
        assert row.p_orthorhombic_f < 0.01
    else:
        assert not row.consistent
        # Neighbours along (110): sqrt(14.6^2 + 16.0^2) / 2.
        assert row.nearest_nm == pytest.approx(10.83, abs=0.04)
        assert "overlap" in row.consistent_reason
        assert row.p_orthorhombic_p < 0.01


def test_a_stack_is_one_dimensional_and_does_not_break_a_lattice(stage):
    comb = 2 * math.pi * np.arange(1, 4) / 15.0
    row = judged(stage, powder_frame(comb, 0.02 / comb**2))
    assert row.p_stack > 0.9
    assert row.lattice == ""
    assert row.candidate == "stack"
    assert row.a_nm == pytest.approx(15.0, rel=1e-3)
    assert math.isnan(row.c_nm)
    assert math.isnan(row.packing)
    cell = crystal("fcc", np.random.default_rng(3))
    q, area = powder(cell, 1.3)
    both, areas = np.concatenate([q, comb]), np.concatenate([0.5 * area, 0.01 / comb**2])
    order = np.argsort(both, kind="stable")
    row = judged(stage, powder_frame(both[order], areas[order]))
    assert row.lattice == "fcc"
    assert row.a_nm == pytest.approx(cell.edges_nm[0], rel=2e-3)


def test_a_comb_with_nothing_beside_it_is_no_question_of_a_lattice(stage):
    frame = frame_of([line(0.42, 0.02)], np.full(Q_PER_NM.size, 0.01))
    assert judged(stage, frame).lattice == CANNOT_TELL
    peak = dataclasses.replace(
        frame.judged.peak, order_kind="stack", spacing_nm=2 * math.pi / 0.421, peak_fwhm_per_nm=0.03
    )
    flat = dataclasses.replace(frame, judged=dataclasses.replace(frame.judged, peak=peak))
    assert judged(stage, flat).lattice == ""
    beside = dataclasses.replace(flat, lines=(*flat.lines, line(0.55, 0.01)))
    assert judged(stage, beside).lattice == CANNOT_TELL


def test_share_of_hcp_in_a_mixture(stage):
    rng = np.random.default_rng(14)
    for share in (0.3, 0.6):
        fcc = crystal("fcc", rng)
        a = fcc.edges_nm[0]
        hexagonal = np.array([[1, 0, 0], [-0.5, math.sqrt(0.75), 0], [0, 0, math.sqrt(8 / 3)]])
        places = np.array([(0, 0, 0), (1 / 3, 2 / 3, 0.5)])
        hcp = dataclasses.replace(fcc, vectors_nm=a / math.sqrt(2) * hexagonal, places=places)
        parts = [powder(fcc, 1.4), powder(hcp, 1.4)]
        q = np.concatenate([part[0] for part in parts])
        area = np.concatenate([(1 - share) * parts[0][1], share * parts[1][1]])
        order = np.argsort(q, kind="stable")
        row = judged(stage, powder_frame(q[order], 0.5 * area[order]))
        assert row.lattice == "fcc+hcp"
        assert row.a_nm == pytest.approx(a, rel=2e-3)
        assert abs(row.hcp_share - share) < 2 * row.hcp_share_err < 0.5


def test_room_for_cores_decides_where_lines_cannot():
    """Six lines at 1, 2, 3 .. 6 are sc of edge a or bcc of edge sqrt(2) a; areas may scatter."""
    settings = LatticeAnalysis(area_scatter=3.0)
    q = 2 * math.pi * np.sqrt(np.arange(1, 7)) / 14.0
    area = 0.01 / q**2
    large = judged(IndexLattice(settings), powder_frame(q, area, core_nm=16.5))
    small = judged(IndexLattice(settings), powder_frame(q, area, core_nm=10.0))
    # Neighbours in sc are 14.0 nm apart, in bcc 17.1.
    assert large.p_bcc > 20 * large.p_sc
    assert small.p_sc > 20 * small.p_bcc
    regardless = dataclasses.asdict(
        judged(
            IndexLattice(settings.model_copy(update={"overlap_prior": 1.0})),
            powder_frame(q, area, core_nm=16.5),
        )
    )
    assert regardless["p_sc"] > 20 * large.p_sc


def test_merit_is_de_wolffs(stage):
    """M_N = Q_N / (2 <|dQ|> R_N), by hand for a simple cubic of 14 nm with known deviations."""
    q = 2 * math.pi * np.sqrt([1, 2, 3, 4, 5, 6]) / 14.0
    shifts = 1e-3 * np.array([1, -1, 1, -1, 1, -1])
    weights = np.array([6, 12, 8, 6, 24, 24])
    frame = powder_frame(q + shifts, 0.002 * weights / q**2, highest=1.15)
    row = judged(stage, frame)
    assert row.lattice == "sc"
    meant = 2 * math.pi * np.sqrt([1, 2, 3, 4, 5, 6]) / row.a_nm
    seen = np.array([each.q_per_nm for each in frame.lines])
    off = np.mean(np.abs(seen**2 - meant**2))
    assert row.merit == pytest.approx(seen[-1] ** 2 / (2 * off * 6), rel=1e-6)
    assert (row.lines_indexed, row.lines_unexplained, row.lines_absent) == (6, 0, 0)


def test_a_strong_line_that_is_absent_speaks_against_and_a_hidden_one_does_not(stage):
    q, area, _ = lines_of_kind("sc", np.random.default_rng(15))
    q, area = merged(q, area, 1e-6)
    whole = powder_frame(q, 0.5 * area)
    third = whole.lines[2].q_per_nm
    lacking = dataclasses.replace(whole, lines=(*whole.lines[:2], *whole.lines[3:]))
    sigma = np.where(np.abs(Q_PER_NM - third) < 0.05, 10.0, whole.structure.sigma)
    hidden = dataclasses.replace(
        lacking, structure=dataclasses.replace(whole.structure, sigma=sigma)
    )
    assert judged(stage, whole).lines_absent == 0
    assert judged(stage, lacking).lines_absent == 1
    assert judged(stage, hidden).lines_absent == 0


# Domains.


def test_domain_is_2_pi_over_the_first_width(stage):
    lines = [line(0.43, 0.02, fwhm=0.020944), line(0.86, 0.01, fwhm=0.03)]
    row = judged(stage, frame_of(lines, np.full(Q_PER_NM.size, 0.01)))
    # A width of 0.0209 1/nm is the published 300 nm; the error is the width's, 5 %.
    assert row.domain_nm == pytest.approx(300.0, rel=1e-4)
    assert row.domain_nm_err == pytest.approx(15.0, rel=1e-4)
    assert row.scherrer_nm == pytest.approx(270.0, rel=1e-4)
    assert math.isnan(row.microstrain)
    unresolved = dataclasses.replace(lines[0], fwhm_per_nm=math.nan, fwhm_per_nm_err=math.nan)
    row = judged(stage, frame_of([unresolved], np.full(Q_PER_NM.size, 0.01)))
    assert math.isnan(row.domain_nm)


def test_strain_is_the_slope_of_widths(stage):
    rng = np.random.default_rng(16)
    # Of one lattice, simple cubic: strain is that of the lines that it indexes.
    q = 0.45 * np.sqrt([1, 2, 3, 4, 5])
    errors = np.array([5e-4, 6e-4, 8e-4, 1e-3, 1.5e-3])
    domain, strain, pulls = 250.0, 0.006, []
    for _ in range(200):
        widths = 2 * math.pi / domain + 2 * strain * q + errors * rng.normal(size=5)
        lines = [
            dataclasses.replace(line(at, 0.01, fwhm=width), fwhm_per_nm_err=error)
            for at, width, error in zip(q, widths, errors, strict=True)
        ]
        row = judged(stage, frame_of(lines, np.full(Q_PER_NM.size, 0.01)))
        pulls.append((row.microstrain - strain) / row.microstrain_err)
    (start, slope), covariance = curve_fit(
        lambda x, start, slope: start + slope * x, q, widths, sigma=errors, absolute_sigma=True
    )
    assert row.microstrain == pytest.approx(slope / 2, rel=1e-6)
    assert row.hall_domain_nm == pytest.approx(2 * math.pi / start, rel=1e-6)
    assert row.microstrain_err >= math.sqrt(covariance[1, 1]) / 2 * 0.999
    # Errors grow by the misfit where it exceeds 1, so pulls are a little narrower than normal.
    assert 0.7 < np.std(pulls) < 1.05


# Bad input, bits.


def test_frames_without_anything_to_index(stage):
    empty = judged(stage, frame_of([], np.full(Q_PER_NM.size, 0.01)))
    assert empty.lattice == ""
    assert math.isnan(empty.p_none)
    assert math.isnan(empty.domain_nm)
    nothing = frame_of([line(0.4, 0.02)], np.full(Q_PER_NM.size, math.nan))
    assert judged(stage, nothing).candidate == ""
    q, area, _ = lines_of_kind("fcc", np.random.default_rng(17))
    frame = powder_frame(q, 0.5 * area)
    bad = (line(0.3, -0.01), line(math.nan, 0.01), dataclasses.replace(line(0.7, 0.01),
           q_per_nm_err=math.nan))  # fmt: skip
    assert judged(stage, dataclasses.replace(frame, lines=(*frame.lines, *bad))).lattice == "fcc"
    core = dataclasses.replace(frame.form_factor, diameter_nm=math.nan, diameter_nm_err=math.nan)
    row = judged(stage, dataclasses.replace(frame, form_factor=core))
    assert row.lattice == "fcc"
    assert math.isnan(row.gap_nm)
    assert row.consistent_reason == "the core's diameter is not known"


def test_the_same_frame_gives_the_same_bits(stage):
    rng = np.random.default_rng(18)
    frames = [ordered_curve(kind, rng)[0] for kind in ("hcp", "fcc+hcp", "primitive orthorhombic")]
    once = [dataclasses.asdict(judged(stage, frame)) for frame in frames]
    other = IndexLattice(LatticeAnalysis())
    for frame, row in zip(reversed(frames), reversed(once), strict=True):
        np.testing.assert_equal(dataclasses.asdict(judged(other, frame)), row)


def test_compiled_prediction_is_pythons():
    lattice = BY_NAME["hcp"]
    cell = np.array([14.0**-2, 23.0**-2, 0.0])
    out = []
    for function in (cell_refinement.predict, cell_refinement.predict.py_func):
        q, row = (
            np.zeros(cell_refinement.MOST_PREDICTED),
            np.zeros(cell_refinement.MOST_PREDICTED, dtype=int),
        )
        count = function(cell, lattice.forms, lattice.weight, (0.2, 1.5), q, row)
        out.append((count, q[:count], row[:count]))
    np.testing.assert_equal(out[0], out[1])
    count, q, _ = out[0]
    direct = 2 * math.pi * np.sqrt(lattice.forms @ cell)
    np.testing.assert_allclose(q, np.sort(direct[(direct > 0.2) & (direct < 1.5)]), rtol=1e-12)


def test_domain_is_that_of_the_lattice_and_not_of_a_halo(stage):
    """A broad line below those of a lattice is none of them, and its width no domain's."""
    lines = [line(0.45 * math.sqrt(n), 0.01, fwhm=0.03) for n in (1, 2, 3, 4, 5, 6)]
    flat = np.full(Q_PER_NM.size, 0.01)
    alone = judged(stage, frame_of(lines, flat))
    beside = judged(stage, frame_of([line(0.31, 0.05, fwhm=0.2), *lines], flat))
    assert alone.lattice == beside.lattice == "sc"
    assert beside.lines_unexplained == 1
    assert beside.domain_nm == pytest.approx(2 * math.pi / 0.03, rel=1e-9)
