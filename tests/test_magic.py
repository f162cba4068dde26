"""Magic sizes: the simulated ladder is given back, and smooth growth shows none."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.magic import steps_told
from benchmarks.magic_growths import (
    SmoothGrowth,
    config,
    magic_sizes,
    rows,
    spectra,
    states,
)
from detectors.sample import RECIPES, Synthesis
from detectors.sample.recipes import UNIT_CELL_NM
from pipeline.config.magic import MagicAnalysis
from pipeline.fit.curvature import FindMinima
from pipeline.kernels import ladder as kernel
from pipeline.messages import ArrayResult, RowResult
from pipeline.reaction.magic import MagicSizes
from pipeline.reaction.magic_ladder import Ladder
from pipeline.store.layout import ArrayNode, TableNode
from pipeline.tracks import Tracks

RATE_HZ = 10.0
GROWTH_SPECTRA = 250
GROWTH = RECIPES["cs_oleate_dilute"].growth


@pytest.fixture(scope="module")
def settings():
    return config()


@pytest.fixture(scope="module")
def magic(settings):
    return magic_sizes(settings)


@pytest.fixture(scope="module")
def table(settings):
    return list(rows(spectra(Synthesis("cs_oleate_dilute"), settings, 600, 3), settings))


@pytest.fixture(scope="module")
def found(table, magic):
    return states(iter(table), magic)


def numbers(results) -> list[np.ndarray]:
    """All that results say, for comparison to the last bit."""
    return [np.asarray(getattr(r, name)) for r in results for name in type(r).__slots__]


def same(one, other) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(numbers(one), numbers(other), strict=True)
    )


def test_the_simulated_ladder_is_given_back(found):
    _, ladder, plateaus, histogram = found[-1]
    whole = GROWTH.first_cells + np.arange(len(GROWTH.jumps_s) + 1)
    assert ladder.claimed
    assert ladder.sizes == whole.size
    assert plateaus.whole_cells[np.isfinite(plateaus.diameter_nm)] == pytest.approx(whole)
    # The simulator's particles stand on whole cells of 0.58 nm.
    cells = plateaus.diameter_nm[whole - 1] / UNIT_CELL_NM
    assert np.abs(cells - whole).max() < 0.05
    assert ladder.unit_cell_nm == pytest.approx(UNIT_CELL_NM, rel=3e-3)
    assert abs(ladder.unit_cell_nm - UNIT_CELL_NM) < 4 * ladder.unit_cell_nm_err
    assert ladder.plateau_name == "12 cells"
    assert ladder.plateau == whole.size
    assert ladder.plateau_cells == pytest.approx(12, abs=0.05)
    area = histogram.density.sum() * (histogram.cells[1] - histogram.cells[0])
    assert area == pytest.approx(1.0, abs=1e-6)


def test_steps_are_told_within_six_spectra_and_plateaus_last_as_long(found):
    told = steps_told(found)
    delays = [
        told[GROWTH.first_cells + k + 1] + 1 - RATE_HZ * jump_s
        for k, jump_s in enumerate(GROWTH.jumps_s)
    ]
    assert len(delays) == 7
    assert max(np.abs(delays)) <= 6
    dwell_s = found[-1][2].dwell_s[GROWTH.first_cells : GROWTH.first_cells + 6]
    assert dwell_s == pytest.approx(np.diff(GROWTH.jumps_s), abs=0.3)
    assert found[-1][1].step_s == pytest.approx(GROWTH.jumps_s[-1], abs=0.6)
    assert (found[-1][1].step_from_cells, found[-1][1].step_to_cells) == (11, 12)


def test_the_claim_waits_for_three_sizes_left_behind(found):
    first = next(state for state in found if state[1].claimed)
    assert first[1].time_s >= GROWTH.jumps_s[2] - 0.1
    assert first[1].time_s < GROWTH.jumps_s[4]
    assert first[1].p_value < 1e-4
    assert all(math.isnan(state[1].unit_cell_nm) for state in found if not state[1].claimed)


def test_jumps_between_resolved_sizes_are_jumps_of_tracks(found):
    jumps = [(s[0].time_s, s[0].jump_cells) for s in found if math.isfinite(s[0].jump_cells)]
    # Above 9 cells neighbours differ by less than their width and melt into one another.
    assert [time_s for time_s, _ in jumps] == pytest.approx(GROWTH.jumps_s[:4], abs=0.2)
    assert [cells for _, cells in jumps] == pytest.approx([1, 1, 1, 1], abs=0.15)
    births, deaths = (sum(getattr(s[0], name) for s in found) for name in ("births", "deaths"))
    assert births - deaths == found[-1][0].tracks


def test_rows_so_far_decide_alone(found, table, settings, magic):
    begun = states(iter(table[:100]), magic_sizes(settings))
    assert all(same(one, other) for one, other in zip(begun, found, strict=False))
    assert all(
        same(one, other)
        for one, other in zip(states(iter(table[:300]), magic), found, strict=False)
    )


def test_lost_and_empty_rows_change_no_size(table, magic, found):
    lost = {name: None if name.startswith("minimum") else v for name, v in table[0].items()}
    lost["time_s"] = math.nan
    holed = [lost | {"frame": row["frame"]} if row["frame"] % 7 == 3 else row for row in table]
    _, ladder, plateaus, _ = states(iter(holed), magic)[-1]
    assert ladder.claimed
    assert ladder.sizes == found[-1][1].sizes
    assert plateaus.diameter_nm == pytest.approx(found[-1][2].diameter_nm, abs=0.01, nan_ok=True)


def test_nothing_ever_seen_says_nothing(magic):
    magic.reset({})
    for frame in range(5):
        tracks, ladder, plateaus, histogram = magic.process({"frame": frame, "time_s": 0.1 * frame})
        assert (tracks.track, tracks.tracks, ladder.plateau, ladder.plateau_name) == (0, 0, 0, "")
        assert not ladder.claimed
        assert np.isnan(plateaus.diameter_nm).all()
        assert not histogram.density.any()


def claims_in_growths(numbers_of_growths, settings, magic) -> int:
    claims = 0
    for number in numbers_of_growths:
        growth = SmoothGrowth(number, GROWTH_SPECTRA / RATE_HZ)
        measured = spectra(growth, settings, GROWTH_SPECTRA, number)
        claims += states(rows(measured, settings), magic)[-1][1].claimed
    return claims


def test_no_ladder_in_forty_smooth_growths(settings, magic):
    assert claims_in_growths(range(40), settings, magic) == 0


@pytest.mark.slow
def test_no_ladder_in_two_hundred_smooth_growths(settings, magic):
    assert claims_in_growths(range(200), settings, magic) == 0


def test_the_size_of_a_smooth_growth_is_followed(settings, magic):
    growth = SmoothGrowth(2, GROWTH_SPECTRA / RATE_HZ)
    measured = spectra(growth, settings, GROWTH_SPECTRA, 2)
    tracks = [state[0] for state in states(rows(measured, settings), magic)]
    truth = np.array([growth.diameter_nm(t.time_s - 0.05) for t in tracks])
    seen = np.array([t.diameter_nm for t in tracks])
    # Above, first and second transition are nearer than these peaks are wide.
    apart = truth < 6.0
    assert apart.sum() > 10
    assert np.abs(seen - truth)[apart].max() < 0.05
    assert not any(math.isfinite(t.jump_cells) for t in tracks)


def climbed(ladder: Ladder, sizes_nm, generator, spectra_each=12) -> bool:
    """Whether growth that stands on these sizes, one after the other, is called a ladder."""
    ladder.reset()
    frame, claimed = 0, False
    for size_nm in sizes_nm:
        for _ in range(spectra_each):
            noisy = size_nm + 0.004 * generator.standard_normal()
            claimed = next(iter(ladder.process(frame, 0.1 * frame, noisy, 0.004))).claimed
            frame += 1
    return claimed


def test_stairs_of_any_height_are_claimed_as_often_as_declared():
    # Plateaus at random sizes, which only the comb can tell from a ladder.
    declared, runs = 0.1, 150
    ladder = Ladder(MagicAnalysis(false_alarms=declared))
    generator = np.random.default_rng(5)
    claims = sum(
        climbed(ladder, 2.3 + np.cumsum(generator.uniform(0.3, 0.9, 8)), generator)
        for _ in range(runs)
    )
    # 15 would be expected at most; 27 is exceeded by chance in 0.1 %.
    assert claims <= 27


@pytest.mark.parametrize("cell_nm", [0.56, 0.58, 0.60])
def test_a_ladder_of_another_cell_is_found_in_its_own(cell_nm):
    ladder = Ladder(MagicAnalysis())
    generator = np.random.default_rng(6)
    assert climbed(ladder, cell_nm * np.arange(4, 12), generator)
    row, plateaus, _ = ladder.process(999, 99.9, math.nan, math.nan)
    assert row.unit_cell_nm == pytest.approx(cell_nm, rel=1e-3)
    assert plateaus.whole_cells[np.isfinite(plateaus.dwell_s)] == pytest.approx(np.arange(4, 12))
    assert row.steps == 7


@pytest.mark.parametrize("sizes", [3, 5, 8])
def test_the_chance_of_a_comb_is_an_upper_bound_and_not_far_off(sizes):
    generator = np.random.default_rng(sizes)
    p_values = []
    for _ in range(4000):
        # Unrelated to the cell: each displaced by up to a cell, evenly.
        places = 0.58 * (4.0 + np.arange(sizes) + generator.uniform(-0.5, 0.5, sizes))
        p_values.append(kernel.fit_comb(np.sort(places), 0.551, 0.609)[2])
    for level in (0.01, 0.05):
        rate = np.mean(np.array(p_values) <= level)
        # 4000 know 1 % to 0.16 %.
        assert rate <= level + 3 * math.sqrt(level / 4000)
    assert np.mean(np.array(p_values) <= 0.05) > 0.005


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "python"])
def test_a_comb_gives_its_cell(compiled):
    fit = kernel.fit_comb if compiled else kernel.fit_comb.py_func
    cell, error, p_value = fit(0.583 * np.arange(5.0, 13.0), 0.551, 0.609)
    assert cell == pytest.approx(0.583, rel=1e-12)
    assert error < 1e-9
    assert p_value < 1e-9
    assert fit(np.array([2.9, 2.95, 3.48]), 0.551, 0.609)[2] == 1.0


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "python"])
def test_modes_are_means_of_their_values(compiled):
    add = kernel.add_kernel if compiled else kernel.add_kernel.py_func
    find = kernel.find_modes if compiled else kernel.find_modes.py_func
    generator = np.random.default_rng(7)
    groups = [place + 0.02 * generator.standard_normal(40) for place in (5.0, 6.0, 7.3)]
    density = np.zeros(500)
    for value in np.concatenate([*groups, [8.5, 8.5]]):
        add(density, 2.0, 0.02, value, 0.086)
    assert density.sum() * 0.02 == pytest.approx(122.0, rel=1e-5)
    modes = find(density, 2.0, 0.02, 0.086, 3.0, 0.3)
    # Two values of one place are too few.
    assert modes[:, 0] == pytest.approx([np.mean(g) for g in groups], abs=3e-3)
    assert modes[:, 1] == pytest.approx(0.02 / math.sqrt(40), rel=0.5)
    assert modes[:, 2] == pytest.approx(40, rel=0.02)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "python"])
def test_a_level_is_left_for_good_reasons_only(compiled):
    follow = kernel.follow_level if compiled else kernel.follow_level.py_func
    probability = np.zeros(20)
    said = [follow(probability, cells, 0.01) for cells in [7.0] * 5 + [3.0] + [7.1] * 5]
    assert said == [7] * 11
    said = [follow(probability, cells, 0.01) for cells in [8.0] * 5]
    assert said[0] == 7 or said[1] == 8
    assert said[2:] == [8, 8, 8]
    assert probability.sum() == pytest.approx(1.0)


def test_tracks_are_born_after_three_spectra_and_die_after_three():
    tracks = Tracks(0.06)
    events = []
    for spectrum, energies in enumerate([[2.5], [2.51], [2.52, 2.9], [2.53], [], [], [], [2.53]]):
        linked = tracks.link(0.1 * spectrum, energies)
        events.append((linked.births, linked.deaths, linked.alive))
    assert events == [
        (0, 0, 0), (0, 0, 0), (1, 0, 1), (0, 0, 1), (0, 0, 1), (0, 0, 1), (0, 1, 0), (0, 0, 0),
    ]  # fmt: skip


def test_crossing_minima_go_to_the_nearest_track():
    tracks = Tracks(0.06)
    for spectrum in range(4):
        linked = tracks.link(float(spectrum), [2.50 + 0.01 * spectrum, 2.60])
    names = [None if track is None else track.number for track in linked.tracks]
    assert names == [1, 2]
    # The lower one is gone; what is left is the upper, though within reach of both.
    linked = tracks.link(4.0, [2.57])
    assert linked.tracks[0] is not None
    assert linked.tracks[0].number == 2


def test_rows_are_all_that_is_read(settings):
    assert MagicSizes.reads == ("absorbance/minima",)
    assert settings.absorbance.magic is not None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"energy_range_ev": (2.2, 2.25)}, "two windows"),
        ({"half_width_mev": 8, "energy_step_mev": 5}, "at most half of half_width_mev"),
        ({"histogram_width_nm": 0.01}, "histogram_step_cells"),
        ({"size_range_nm": (3.0, 2.0)}, "0 < first < second"),
        ({"size_range_nm": (1.0, 2.0)}, "four unit cells"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, words):
    with pytest.raises(ValidationError, match=words):
        MagicAnalysis(**wrong)


def test_the_store_has_a_place_for_each_result():
    for kind in (*MagicSizes.produces, *FindMinima.produces):
        if issubclass(kind, RowResult):
            assert TableNode.of(kind).path == kind.NODE
        else:
            assert issubclass(kind, ArrayResult)
            assert ArrayNode.of(kind).lines == kind.LINES
