"""Alerts of the wide-angle detector: lines, crystals and phases that appear and vanish."""

import dataclasses
import math

import numpy as np
import pytest

from benchmarks.phases import CONFIG, FILM, Detector, analysed, columns_of
from detectors.sample import Synthesis
from pipeline.cli.analyse import stages_for
from pipeline.config.detect import Detection
from pipeline.config.loader import load_config
from pipeline.detect.crystals import CrystalLines, Crystals
from pipeline.detect.presence import LEVEL, NOTHING, STRONGEST, PresenceWatch, Seen, shown
from pipeline.detect.registry import detectors_for
from pipeline.messages import Line, Phase, RunStart, WaxsLines, WaxsPhases, lines_of
from pipeline.messages.alerts import Alert
from pipeline.messages.waxs import MOST_PHASES, QUANTITIES, phases_of
from pipeline.replay import open_recording
from pipeline.store.layout import TableNode

NAN = math.nan
PERIOD_S = 0.5


def line(q_per_nm, sigmas, *, width=0.4) -> Line:
    return Line(
        q_per_nm=q_per_nm,
        q_per_nm_err=0.3 * width / sigmas,
        height=sigmas,
        height_err=1.0,
        fwhm_per_nm=width,
        fwhm_per_nm_err=0.1 * width,
        area=1.064 * width * sigmas,
        area_err=width,
        sigmas=sigmas,
    )


def frames_of(lines, frames, seed=0, spurious=0.0) -> list[list[Line]]:
    """What is seen of lines: pairs of a place, or a function of the frame, and a strength."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(frames):
        found = []
        for place, strength in lines:
            at = place(n) if callable(place) else place
            z = (strength(n) if callable(strength) else strength) + rng.standard_normal()
            if z >= LEVEL:
                found.append(line(at + 0.3 * 0.4 / z * rng.standard_normal(), z))
        if rng.random() < spurious:
            found.append(line(rng.uniform(8.0, 40.0), LEVEL + rng.exponential(0.3)))
        made.append(found)
    return made


def rows_of(frames):
    """Rows as they are stored; a frame that is None gave nothing."""
    table = TableNode.of(WaxsLines)
    for n, lines in enumerate(frames):
        time_s = PERIOD_S * (n + 1)
        if lines is None:
            yield table.absent(n, time_s)
        else:
            row = WaxsLines.of(n, time_s, lines)
            yield {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def alerts_of(frames, **settings) -> list[Alert]:
    detector = CrystalLines(Detection(**settings))
    return [alert for row in rows_of(frames) for alert in detector.update(row)]


def told(alerts) -> list[tuple[str, str]]:
    return [(alert.kind, alert.about) for alert in alerts]


def between(first, last, strength):
    return lambda n: strength if first <= n < last else 0.0


# --- the statistic ----------------------------------------------------------------------------


def run_length(strength, threshold, longest, rng) -> int:
    watch = PresenceWatch(0.9)
    for n, z in enumerate(LEVEL + strength + rng.standard_normal(longest)):
        what = shown(z) if z >= LEVEL else NOTHING
        if watch.update(Seen(n, n - 1.0, float(n), what), math.log(threshold)) is not None:
            return n + 1
    return longest


@pytest.mark.parametrize("strength", [-2.2, -0.4, 0.8, 2.2])
def test_mean_time_to_a_false_alarm_is_at_least_the_threshold(strength):
    """For lines that flicker: seen in 1, 34, 79 and 99 of 100 frames, never exactly as assumed.

    At a threshold of 30 frames, cut at 300, which only lowers the mean; its own error is 17 %.
    """
    rng = np.random.default_rng(2)
    lengths = [run_length(strength, 30.0, 300, rng) for _ in range(15)]
    assert np.mean(lengths) > 30.0


def test_what_was_there_from_the_first_frames_on_does_not_begin():
    for before in range(3):
        watch = PresenceWatch(0.9)
        for n in range(200):
            seen = Seen(n, n - 1.0, float(n), STRONGEST if n >= before else NOTHING)
            assert watch.update(seen, math.log(1e6)) is None
        assert watch.present


def test_a_birth_and_an_end_are_dated_between_their_frames():
    watch = PresenceWatch(0.9)
    changes = []
    for n in range(120):
        what = STRONGEST if 30 <= n < 70 else NOTHING
        change = watch.update(Seen(n, n - 1.0, float(n), what), math.log(1e6))
        if change is not None:
            changes.append((n, change))
    (born, birth), (ended, end) = changes
    assert (birth.appears, end.appears) == (True, False)
    # Three frames without are 18.4 nats less log 4 for not knowing the strength; 1e6 is 13.8. Two
    # more are to be sure that it is not found in half of the frames only.
    assert (born, ended) == (32, 74)
    for change, truth in ((birth, 30), (end, 70)):
        assert change.lo_s == pytest.approx(truth - 1, abs=0.1)
        assert change.hi_s == pytest.approx(truth, abs=0.1)
        assert change.first_frame == truth
        assert change.frames_since == (3 if change.appears else 5)


# --- lines ------------------------------------------------------------------------------------


def test_a_line_that_comes_and_one_that_goes():
    frames = frames_of(
        [(10.0, 40.0), (15.0, between(40, 999, 12.0)), (21.5, between(0, 90, 15.0))], 150
    )
    alerts = alerts_of(frames)
    assert [alert.kind for alert in alerts] == ["line_appeared", "line_vanished"]
    birth, end = alerts
    assert birth.onset_lo_s <= 20.5 <= birth.onset_hi_s + 0.5
    assert birth.onset_s == pytest.approx(20.25, abs=0.3)
    assert end.onset_s == pytest.approx(45.25, abs=0.3)
    for alert, first, q in ((birth, 40, 15.0), (end, 90, 21.5)):
        assert alert.first_frame == first
        assert alert.frame <= first + 4
        assert alert.evidence["q_per_nm"] == pytest.approx(q, abs=0.05)
        assert alert.evidence["frames_since"] <= 5
        assert all(math.isfinite(value) for value in alert.evidence.values())
    assert birth.about.startswith("15.0") or birth.about.startswith("14.9")
    assert f"Line at {birth.about} nm^-1 appears at 20." in birth.message
    assert "sigma high" in birth.message
    assert birth.stream == "waxs/lines"


def test_births_at_once_are_alerts_of_their_own():
    frames = frames_of([(q, between(30, 999, 20.0)) for q in (10.0, 15.0, 21.0)], 60)
    alerts = alerts_of(frames)
    assert [alert.kind for alert in alerts] == ["line_appeared"] * 3
    assert len({alert.key for alert in alerts}) == 3
    assert {alert.frame for alert in alerts} == {alerts[0].frame}


def test_one_noisy_frame_never_alarms_nor_do_two():
    always = [(10.0, 40.0), (21.5, 15.0)]
    for strange in (
        [[line(q, 1e3) for q in (10.0, 13.0, 17.0, 21.5, 25.0)]],
        [[]],
        [[line(13.0, 1e6)], [line(13.0, 1e6)]],
        [[], []],
    ):
        frames = frames_of(always, 300)
        frames[150 : 150 + len(strange)] = strange
        assert alerts_of(frames, false_alarm_hours=0.01) == []


@pytest.mark.parametrize("strength", [4.0, 5.0, 6.0])
def test_a_line_near_the_level_flickers_and_tells_nothing(strength):
    assert alerts_of(frames_of([(10.0, 40.0), (15.0, strength)], 400, seed=3)) == []


def test_lines_that_shift_on_heating_are_neither_born_nor_lost():
    """Through five widths, and back in jumps of a third of one."""
    frames = frames_of(
        [(lambda n: 10.0 - 0.01 * n, 30.0), (lambda n: 20.0 - 2.0 * math.sin(0.03 * n), 8.0)], 200
    )
    assert alerts_of(frames) == []


def test_frames_that_gave_nothing_count_neither_way():
    frames = frames_of([(10.0, 40.0), (15.0, between(40, 999, 12.0))], 100)
    frames[60:80] = [None] * 20
    assert [alert.kind for alert in alerts_of(frames)] == ["line_appeared"]
    # Nothing is known of what was there before the first frame.
    assert alerts_of([None] * 30 + frames_of([(10.0, 40.0), (15.0, 20.0)], 60)) == []


def test_a_weak_line_that_stronger_ones_push_out_of_the_row_has_not_vanished():
    """A row has room for ten lines: what it does not list may be there."""
    strong = [(10.0 + 2.0 * k, between(40, 999, 60.0)) for k in range(10)]
    weak, clear = (33.0, 9.0), (36.0, between(0, 60, 300.0))
    alerts = alerts_of(frames_of([*strong[:9], weak, clear], 120))
    assert ("line_vanished", "36.00") in told(alerts)
    alerts = alerts_of(frames_of([*strong, weak], 120))
    assert {alert.kind for alert in alerts} == {"line_appeared"}
    assert len(alerts) == 10
    # Nor has one appeared that finds room again where another has gone.
    gone = [(10.0 + 2.0 * k, 60.0) for k in range(9)] + [(28.0, between(0, 60, 60.0))]
    assert [a.kind for a in alerts_of(frames_of([*gone, weak], 120))] == ["line_vanished"]


def test_a_shutter_is_no_end_of_all_lines_but_melting_is():
    frames = frames_of([(10.0, between(0, 90, 40.0)), (21.5, between(0, 90, 15.0))], 150)
    frames[40:47] = [[]] * 7
    ends = alerts_of(frames)
    assert [alert.kind for alert in ends] == ["line_vanished"] * 2
    assert {alert.frame for alert in ends} == {97}
    assert [alert.first_frame for alert in ends] == [90, 90]
    assert [alert.onset_s for alert in ends] == pytest.approx([45.25] * 2, abs=0.2)


def test_rows_so_far_decide_alone():
    frames = frames_of([(10.0, 40.0), (15.0, between(40, 70, 9.0))], 120, seed=2, spurious=0.2)
    assert alerts_of(frames[:80]) == [a for a in alerts_of(frames) if a.frame < 80]
    assert alerts_of(frames) == alerts_of(frames)


@pytest.mark.parametrize("frames", [400, pytest.param(7200, marks=pytest.mark.slow)])
def test_stationary_frames_tell_nothing(frames):
    """An hour at 2 Hz with lines of all strengths; one frame in ten has one more by noise.

    At the least threshold there is, a thousand frames between false alarms.
    """
    lines = [
        (9.0 + 3.0 * k, strength) for k, strength in enumerate((30, 15, 8, 6.5, 5.5, 4.5, 3.5))
    ]
    made = frames_of(lines, frames, seed=5, spurious=0.1)
    assert alerts_of(made, false_alarm_hours=0.01) == []


# --- crystals and phases ----------------------------------------------------------------------

NAMES = ("CsPbBr3", "Cs4PbBr6", "PbBr2")


def phase_rows(z, present, confounded=None):
    """Rows as they are stored, of a significance and the names of phases in each frame."""
    table = TableNode.of(WaxsPhases)
    for n, (each, names) in enumerate(zip(z, present, strict=True)):
        row = table.absent(n, PERIOD_S * (n + 1))
        if names is None:
            yield row
            continue
        row |= {"crystalline_z": float(each), "crystalline_fraction": 0.4, "phases": len(names)}
        row |= {"state": "crystalline" if names else "amorphous", "confounded": ""}
        if confounded is not None:
            row["confounded"] = confounded[n]
        for slot in range(1, MOST_PHASES + 1):
            name = NAMES[slot - 1] if slot <= len(NAMES) else ""
            phase = Phase(name=name, present=int(name in names))
            row |= {
                f"phase_{slot}_{f.name}": getattr(phase, f.name) for f in dataclasses.fields(phase)
            }
        yield row


def phase_alerts(*args, **kwargs) -> list[Alert]:
    detector = Crystals(Detection())
    return [alert for row in phase_rows(*args, **kwargs) for alert in detector.update(row)]


def test_crystallisation_is_told_once_and_dated():
    z = np.random.default_rng(0).standard_normal(400)
    z[200:] += np.minimum(0.3 * np.arange(200), 8.0)
    alerts = phase_alerts(z, [()] * 400)
    assert [alert.kind for alert in alerts] == ["crystallisation"]
    (alert,) = alerts
    assert alert.onset_lo_s - 0.5 <= 102.0 <= alert.onset_hi_s + 2.0
    assert alert.frame < 225
    assert "40 % of the solid is crystalline" in alert.message
    assert alert.evidence["crystalline_z"] == pytest.approx(z[alert.frame])


def test_amorphous_frames_tell_nothing():
    z = np.random.default_rng(1).standard_normal(800)
    assert phase_alerts(z, [()] * 800) == []
    z[500] = 1e6
    assert phase_alerts(z, [()] * 800) == []


def test_crystals_from_the_first_frame_on_did_not_appear():
    z = 6.0 + np.random.default_rng(1).standard_normal(200)
    assert phase_alerts(z, [("CsPbBr3",)] * 200) == []
    # Frames that gave nothing before them do not make it a beginning.
    assert phase_alerts(np.r_[[NAN] * 20, z], [None] * 20 + [("CsPbBr3",)] * 200) == []


def test_phases_that_appear_and_vanish_by_name():
    present = [("PbBr2",)] * 40 + [("PbBr2", "CsPbBr3")] * 20 + [("CsPbBr3",)] * 40
    z = np.full(100, 20.0)
    alerts = phase_alerts(z, present)
    assert told(alerts) == [("phase_appeared", "CsPbBr3"), ("phase_vanished", "PbBr2")]
    assert [alert.onset_s for alert in alerts] == pytest.approx([20.25, 30.25], abs=0.1)
    assert [alert.first_frame for alert in alerts] == [40, 60]
    assert alerts[0].message.startswith("CsPbBr3 appears at 20.")
    assert alerts[0].message.endswith(" s (20.0 to 20.5 s).")
    assert alerts[1].key == "phase_vanished-000063-PbBr2"
    # One frame without, or with, is none.
    present[20], present[80] = (), ("PbBr2", "CsPbBr3", "Cs4PbBr6")
    assert told(phase_alerts(z, present)) == told(alerts)


def test_a_shutter_is_no_end_of_a_phase():
    present = [("CsPbBr3",)] * 40 + [()] * 7 + [("CsPbBr3",)] * 40 + [()] * 20
    (end,) = phase_alerts(np.full(107, 9.0), present)
    assert (end.kind, end.first_frame, end.frame) == ("phase_vanished", 87, 94)
    assert end.onset_s == pytest.approx(43.75, abs=0.1)


def test_a_phase_that_cannot_be_told_from_another_has_not_gone():
    present = [("CsPbBr3",)] * 40 + [()] * 60
    said = [""] * 40 + ["CsPbBr3, Cs4PbBr6"] * 60
    assert phase_alerts(np.full(100, 9.0), present, confounded=said) == []
    assert told(phase_alerts(np.full(100, 9.0), present)) == [("phase_vanished", "CsPbBr3")]


def test_the_wide_angle_detector_is_watched_where_there_is_one():
    def names(settings, **asked):
        return {d.name for d in detectors_for(settings, **asked)} & {"crystal_lines", "crystals"}

    assert names(Detection(), wide_angle=True) == {"crystal_lines", "crystals"}
    assert names(Detection()) == set()
    assert names(Detection(crystals=False), wide_angle=True) == set()


# --- analysed curves --------------------------------------------------------------------------


def watched(config, rows) -> list[Alert]:
    """Alerts of rows of phases and of lines, each watched as in a run."""
    detectors = [
        detector
        for detector in detectors_for(config.detect, wide_angle=True)
        if detector.node.startswith("waxs")
    ]
    tables = {"waxs/phases": 0, "waxs/lines": 1}
    return [
        alert
        for pair in rows
        for detector in detectors
        for alert in detector.update(columns_of(pair[tables[detector.node]]))
    ]


def test_crystals_of_the_simulated_synthesis_are_told_once():
    """Nucleation begins at 0.45 s: the first frame, that ends at 0.5 s, is amorphous."""
    config = load_config(CONFIG)
    detector = Detector(config, Synthesis("cs_dopa"))
    curves = (detector.curve(n, 0.5 * (n + 1)) for n in range(12))
    alerts = watched(config, analysed(config, curves))
    assert [alert.kind for alert in alerts] == ["crystallisation"]
    (alert,) = alerts
    assert 0.4 <= alert.onset_lo_s <= alert.onset_hi_s <= 1.1
    assert alert.first_frame == 1
    assert alert.time_s <= 3.0
    assert "CsPbBr3_Pbnm" in alert.message
    assert alert.evidence["crystalline_z"] > 10.0


@pytest.mark.real_data
def test_a_film_on_heating(data_dir):
    """Known: the line at 8.4 1/nm goes, 9.0 comes, that at 9.9 stays. By eye 11.6 goes too."""
    config = load_config(FILM)
    source = open_recording(data_dir / "perovskite_waxs_FACs15_heat", config.replay).streams["waxs"]
    reduce, fit = stages_for("waxs", config)
    for stage in (reduce, fit):
        stage.reset(RunStart("film", source.start))
    curves = (curve for frame in source.frames() for curve in reduce.process(frame))
    alerts = watched(config, (tuple(fit.process(curve)) for curve in curves))
    lines = sorted((a.kind, a.evidence["q_per_nm"]) for a in alerts if "line" in a.kind)
    assert [kind for kind, _ in lines] == ["line_appeared", "line_vanished", "line_vanished"]
    assert [q for _, q in lines] == pytest.approx([9.02, 8.36, 11.57], abs=0.03)
    phases = {(a.kind, a.about) for a in alerts if "line" not in a.kind}
    assert phases == {("phase_vanished", "FAPbI3_delta"), ("phase_appeared", "PbI2")}


def test_nothing_known_is_read_back_whatever_became_of_it_on_the_way():
    """Tiled's rows come as JSON, in which NaN is null."""
    unresolved = Line(9.0, 0.01, 1.0, 0.1, math.nan, math.nan, 0.1, 0.01, 12.0)
    row = WaxsLines.of(3, 1.5, [unresolved])
    stored = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    (line,) = lines_of({name: None if value != value else value for name, value in stored.items()})
    assert line.q_per_nm == 9.0
    assert math.isnan(line.fwhm_per_nm)
    phases = {f"phase_{slot}_{name}": None for slot in range(1, 7) for name in QUANTITIES}
    phases |= {f"phase_{slot}_name": "" for slot in range(1, 7)}
    phases |= {"phase_2_name": "PbI2", "phase_2_present": 1, "phase_2_size_nm": 54.0}
    (phase,) = phases_of(phases)
    assert (phase.name, phase.present, phase.size_nm) == ("PbI2", 1, 54.0)
    assert math.isnan(phase.strain)
