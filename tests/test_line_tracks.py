"""Lines followed over time, and how spacings shrink."""

import dataclasses
import math

import numpy as np
import pytest

from detectors.sample.synthesis import Synthesis
from pipeline.config import RunConfig
from pipeline.config.tracks import TrackAnalysis
from pipeline.messages import Line, OrderLines, Peak, RowResult
from pipeline.messages.lines import MOST_LINES
from pipeline.reaction.contraction import CellOverTime, SpacingOverTime
from pipeline.reaction.host import stream_of
from pipeline.reaction.interface import RowStage
from pipeline.reaction.line_tracks import FollowCrystalLines, FollowOrderLines
from pipeline.reaction.registry import row_stages_for
from pipeline.store.layout import TableNode
from pipeline.tracks import MovingTracks, Sighting, foretold

NAN = math.nan
HEIGHT_TO_AREA = 0.5 * math.sqrt(math.pi / math.log(2.0))


def line(q_per_nm, *, error=0.002, width=0.04, sigmas=12.0) -> Line:
    return Line(
        q_per_nm=q_per_nm,
        q_per_nm_err=error,
        height=0.5,
        height_err=0.04,
        fwhm_per_nm=NAN,
        fwhm_per_nm_err=NAN,
        area=0.5 * width * HEIGHT_TO_AREA,
        area_err=0.002,
        sigmas=sigmas,
    )


def row_of(result: RowResult) -> dict:
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def rows_of(frames, period_s=0.5) -> list[dict]:
    """Rows as they are stored; a frame that is None gave nothing."""
    table = TableNode.of(OrderLines)
    return [
        table.absent(n, period_s * (n + 1))
        if lines is None
        else row_of(OrderLines.of(n, period_s * (n + 1), lines))
        for n, lines in enumerate(frames)
    ]


def tracks_of(frames, period_s=0.5, **settings) -> list[dict]:
    stage = FollowOrderLines(TrackAnalysis(**settings))
    return [row_of(r) for row in rows_of(frames, period_s) for r in stage.process(row)]


def numbers(row) -> list[int]:
    return [row[f"line_{k}_track"] for k in range(1, MOST_LINES + 1)]


def test_a_row_tells_a_frame_without_lines_from_one_that_gave_nothing():
    empty, lost = rows_of([[], None])
    assert (empty["judged"], empty["lines"]) == (True, 0)
    assert (lost["judged"], lost["lines"]) == (False, 0)
    assert set(empty) == set(lost)


def test_births_and_deaths_with_place_and_time():
    frames = [[line(0.4)], [], *([line(0.4), line(0.8)] for _ in range(5)), *([line(0.8)],) * 4]
    told = tracks_of(frames)
    assert [row["births"] for row in told] == [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    assert [row["deaths"] for row in told] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert [row["tracks"] for row in told] == [0, 0, 0, 0, 2, 2, 2, 2, 2, 1, 1]
    assert numbers(told[4])[:3] == [1, 2, 0]
    assert numbers(told[7])[:2] == [2, 0]
    last = told[-1]
    # The newest birth was that of the second; it was first seen in frame 2.
    assert (last["birth_track"], last["birth_q_per_nm"], last["birth_s"]) == (2, 0.8, 1.5)
    assert (last["death_track"], last["death_q_per_nm"], last["death_s"]) == (1, 0.4, 3.5)
    assert math.isnan(told[3]["birth_q_per_nm"])
    assert math.isnan(told[8]["death_s"])


def test_what_noise_makes_is_not_born():
    generator = np.random.default_rng(0)
    frames = [[line(q) for q in sorted(generator.uniform(0.3, 3.0, 2))] for _ in range(400)]
    assert sum(row["births"] for row in tracks_of(frames)) <= 1


def test_a_line_missed_in_one_frame_lives_and_lost_frames_do_not_count():
    seen, missed = [line(0.4)], []
    frames = [seen, seen, seen, missed, seen, missed, missed, None, None, None, seen, seen]
    told = tracks_of(frames)
    assert [row["tracks"] for row in told] == [0, 0, *[1] * 10]
    assert sum(row["deaths"] for row in told) == 0
    assert all(numbers(told[n])[0] == 1 for n in (2, 4, 10, 11))
    # While it is not born, a lost frame neither helps nor harms.
    assert [r["births"] for r in tracks_of([seen, seen, None, seen])] == [0, 0, 0, 1]
    assert [r["births"] for r in tracks_of([seen, seen, missed, seen])] == [0, 0, 0, 0]


@pytest.mark.parametrize("rate", [-0.008, 0.0, 0.003, 0.015])
def test_a_line_that_shifts_steadily_is_one_track(rate):
    """Up to 0.4 of its width a frame, through ten widths and more."""
    generator = np.random.default_rng(1)
    path = [2.0 + rate * n + 0.002 * generator.standard_normal() for n in range(80)]
    frames = [[] if n % 17 == 5 else [line(q)] for n, q in enumerate(path)]
    told = tracks_of(frames)
    assert sum(row["births"] for row in told) == 1
    assert sum(row["deaths"] for row in told) == 0


def test_the_contraction_of_a_lattice_keeps_all_its_lines():
    """The published one: 16.0 to 14.6 nm, three orders, at 2 Hz and with a frame every minute."""
    for period_s, frames in ((0.5, 600), (60.0, 18)):
        times = 90.0 + period_s * np.arange(frames)
        spacing = 14.6 + 1.4 * np.exp(-(times - 90.0) / 107.9)
        lines = [[line(2 * math.pi * n / d) for n in (1, 2, 3)] for d in spacing]
        told = tracks_of(lines, period_s)
        assert numbers(told[-1])[:4] == [1, 2, 3, 0]
        assert sum(row["deaths"] for row in told) == 0


def test_a_jump_is_another_line():
    frames = [[line(0.40)]] * 10 + [[line(0.45)]] * 10
    told = tracks_of(frames)
    assert [row["births"] for row in told].index(1, 5) == 12
    assert numbers(told[-1])[0] == 2
    assert sum(row["deaths"] for row in told) == 1


def test_lines_that_cross_keep_their_ways():
    """Where they are nearer than half a width only one is seen."""
    frames = []
    for n in range(60):
        one, other = 1.0 + 0.010 * n, 1.6 - 0.010 * n
        near = abs(one - other) < 0.02
        frames.append(
            [line(0.5 * (one + other))] if near else [line(min(one, other)), line(max(one, other))]
        )
    told = tracks_of(frames, lost_frames=6)
    assert numbers(told[20])[:2] == [1, 2]
    assert numbers(told[-1])[:2] == [2, 1]
    assert sum(row["births"] for row in told) == 2


def test_what_is_foretold_is_the_line_by_weighted_least_squares():
    generator = np.random.default_rng(3)
    times, errors = np.arange(8.0), generator.uniform(0.001, 0.004, 8)
    places = 1.0 + 0.01 * times + errors * generator.standard_normal(8)
    path = [Sighting(*row) for row in zip(times, places, errors, strict=True)]
    place, error = foretold(path, 9.5)
    fit, covariance = np.polyfit(times, places, 1, w=1 / errors, cov="unscaled")
    residual = (np.polyval(fit, times) - places) / errors
    widening = max(1.0, float(residual @ residual) / 6)
    at = np.array([9.5, 1.0])
    assert place == pytest.approx(np.polyval(fit, 9.5), abs=1e-12)
    assert error == pytest.approx(math.sqrt(widening * at @ covariance @ at), rel=1e-9)
    # A bend that the errors do not know of widens what may be.
    bent = [dataclasses.replace(s, place=s.place + 0.01 * s.time_s**2) for s in path]
    assert foretold(bent, 9.5)[1] > 5 * error


def test_tracks_without_errors_and_widths_need_the_very_place():
    tracks = MovingTracks()
    for n in range(4):
        linked = tracks.follow([Sighting(float(n), 1.0)])
    assert linked.alive == 0
    hostile = [Line(*[NAN] * 9), Line(1.0, *[math.inf] * 8), Line(1.0, *[-1.0] * 8)]
    assert len(tracks_of([hostile] * 4)) == 4


# --- contraction ----------------------------------------------------------------------------


def spacing_rows(times_s, spacings_nm, error_nm):
    for frame, (time_s, spacing) in enumerate(zip(times_s, spacings_nm, strict=True)):
        yield {
            "frame": frame,
            "time_s": float(time_s),
            "order_z": 6.0,
            "spacing_nm": float(spacing),
            "spacing_nm_err": NAN if math.isnan(spacing) else error_nm,
        }


def published(times_s):
    """Spacing, nm, and its rate, nm/s."""
    decay = np.exp(-(np.asarray(times_s) - 90.0) / 107.9)
    return 14.6 + 1.4 * decay, -1.4 / 107.9 * decay


def followed(rows, **settings) -> list:
    stage = SpacingOverTime(TrackAnalysis(**settings))
    return [result for row in rows for result in stage.process(row)]


def test_rate_and_strain_of_the_published_contraction():
    times = np.arange(90.5, 400.0, 0.5)
    truth, _ = published(times)
    pulls, strains = [], []
    for seed in range(6):
        noise = 0.03 * np.random.default_rng(seed).standard_normal(times.size)
        told = followed(spacing_rows(times, truth + noise, 0.03))
        first = next(row for row in told if math.isfinite(row.rate_nm_per_s))
        assert first.frame == 7
        for row in told[60::60]:
            _, rate = published(row.rate_time_s)
            pulls.append((row.rate_nm_per_s - rate) / row.rate_nm_per_s_err)
            spacing, _ = published(row.time_s)
            began, _ = published(row.reference_s)
            strains.append(
                (row.strain_percent - 100 * (spacing / began - 1)) / row.strain_percent_err
            )
            assert row.rate_percent_per_min == pytest.approx(
                6000 * row.rate_nm_per_s / row.spacing_nm, rel=1e-12
            )
            assert row.rate_nm_per_s_err < 6e-4
    # 60 pulls: mean 0 within 3.5 / sqrt(60), and the errors are what they are said to be.
    assert abs(np.mean(pulls)) < 0.45
    assert 0.7 < np.std(pulls) < 1.3
    assert 0.6 < np.std(strains) < 1.4
    # At 300 s 14.8 of 16.0 nm.
    late = next(row for row in told if row.time_s >= 300.0)
    assert late.strain_percent == pytest.approx(100 * (14.8 / 16.0 - 1), abs=0.7)


def test_nothing_is_said_before_there_is_enough_or_where_nothing_is_seen():
    times = np.arange(0.5, 60.0, 0.5)
    spacing = np.where(times < 20.0, NAN, 16.0 - 0.01 * (times - 20.0))
    spacing[5] = 13.0  # a false one
    spacing[70] = NAN
    rows = list(spacing_rows(times, spacing, 0.02))
    rows[80] |= {"order_z": None, "spacing_nm": None, "spacing_nm_err": None}
    told = followed(rows)
    assert all(math.isnan(r.rate_nm_per_s) and math.isnan(r.strain_percent) for r in told[:46])
    assert math.isnan(told[0].reference_nm)
    for n in (70, 80):
        assert math.isnan(told[n].rate_nm_per_s)
        assert math.isnan(told[n].strain_percent)
    assert told[-1].reference_nm == pytest.approx(16.0, abs=0.03)
    assert told[-1].reference_s == pytest.approx(21.75, abs=0.1)
    assert told[-1].rate_nm_per_s == pytest.approx(-0.01, abs=1e-6)
    assert told[-1].strain_percent == pytest.approx(100 * (15.605 / 15.9825 - 1), abs=0.02)


def test_the_reference_waits_for_spacings_on_one_line():
    times = np.arange(0.5, 20.0, 0.5)
    spacing = np.full(times.size, 15.0)
    spacing[:10] = [15.0, 8.0, 15.0, 12.0, 15.0, 9.0, 15.0, 12.0, 10.0, 15.0]
    told = followed(spacing_rows(times, spacing, 0.05))
    assert told[-1].reference_nm == pytest.approx(15.0, abs=1e-9)
    assert told[-1].reference_s > times[9]


def cell_row(frame, lattice, edges, error=0.02):
    row = {"frame": frame, "time_s": 0.5 * (frame + 1), "lattice": lattice}
    for name, edge in zip("abc", edges, strict=True):
        row |= {f"{name}_nm": edge, f"{name}_nm_err": error}
    return row


def test_edges_are_followed_each_within_its_own_lattice():
    stage = CellOverTime(TrackAnalysis())
    told = []
    for n in range(120):
        shrink = 1.0 - 1e-4 * n
        row = cell_row(n, "orthorhombic_f", (14.6 * shrink, 16.0, NAN))
        if n % 10 == 7:  # a frame that finds another lattice, with other edges
            row = cell_row(n, "fcc", (21.0, 21.0, 21.0))
        if n % 10 == 8:
            row = cell_row(n, "cannot tell", (11.0, 11.0, 11.0))
        told += stage.process(row)
    last = told[-1]
    assert last.lattice == "orthorhombic_f"
    assert last.a_rate_nm_per_s == pytest.approx(-14.6 * 2e-4, rel=1e-6)
    assert last.a_rate_percent_per_min == pytest.approx(-1.2 / (1 - 0.0119), rel=1e-3)
    assert last.b_rate_nm_per_s == pytest.approx(0.0, abs=1e-12)
    assert last.b_strain_percent == pytest.approx(0.0, abs=1e-9)
    assert math.isnan(last.c_rate_nm_per_s)
    first = np.mean([n for n in range(10) if n % 10 < 7])
    reference = 14.6 * (1 - 1e-4 * np.mean([0, 1, 2, 3, 4, 5, 6, 9]))
    assert first < 4
    assert last.a_strain_percent == pytest.approx(
        100 * (14.6 * (1 - 0.0119) / reference - 1), abs=1e-6
    )
    other, none = told[117], told[118]
    assert math.isnan(none.a_rate_nm_per_s)
    assert math.isfinite(none.a_nm)
    assert other.a_strain_percent == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_the_simulated_assembly_contracts_as_it_was_told_to():
    """Curves of the simulated run, fitted and judged; its truth is the sample's own."""
    from tests.test_order_detection import analysed

    times = np.arange(130.0, 190.0, 0.5)
    told = followed(analysed(times, seed=4))
    synthesis = Synthesis("assembly_100c")
    pulls = []
    for row in told[40::10]:
        t = row.rate_time_s
        rate = (synthesis.state(t + 1).spacing_nm - synthesis.state(t - 1).spacing_nm) / 2
        pulls.append((row.rate_nm_per_s - rate) / row.rate_nm_per_s_err)
    assert np.abs(pulls).max() < 4
    strain = 100 * (
        synthesis.state(189.5).spacing_nm / synthesis.state(told[-1].reference_s).spacing_nm - 1
    )
    assert told[-1].strain_percent == pytest.approx(strain, abs=5 * told[-1].strain_percent_err)


# --- wiring -----------------------------------------------------------------------------------


def test_what_is_followed_follows_from_config_and_streams():
    def made(streams, **changes):
        config = RunConfig.model_validate(changes)
        return {s.name: s.reads[0] for s in row_stages_for(config, streams)}

    order = {
        "spacing": "assembly/peaks",
        "order": "assembly/lines",
        "cell": "assembly/lattice",
    }
    both = made(("saxs", "waxs"), saxs={"assembly": {}}, waxs={"phases": {}})
    assert both == {**order, "crystal": "waxs/lines"}
    assert made(("saxs",), saxs={"assembly": {}}) == order
    no_lattice = made(("saxs",), saxs={"assembly": {}, "lattice": None})
    assert no_lattice == {name: order[name] for name in ("spacing", "order")}
    no_lines = made(("saxs",), saxs={"assembly": {}, "structure": None})
    assert no_lines == {"spacing": "assembly/peaks"}
    assert made(("saxs", "waxs")) == {}
    assert made(("saxs", "waxs"), saxs={"assembly": {}}, tracks=None) == {}
    # A table ends with the stream that its rows are frames of.
    assert [stream_of(node) for node in both.values()] == ["saxs", "saxs", "saxs", "waxs"]
    for stage in (FollowOrderLines, FollowCrystalLines, SpacingOverTime, CellOverTime):
        assert isinstance(stage(TrackAnalysis()), RowStage)
        for kind in stage.produces:
            assert TableNode.of(kind).path.startswith(f"{stage.name}/")
    assert issubclass(Peak, RowResult)
