"""Onset of order, from the significance of order in each frame."""

import math

import numpy as np
import pytest

from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.detect import Detection
from pipeline.config.sample import Sample
from pipeline.detect.order import CLIP, ShiftWatch, Superlattice
from pipeline.messages.alerts import Alert


def rows(order_z, lattice_z=None, period_s=0.5):
    lattice_z = np.zeros(len(order_z)) if lattice_z is None else lattice_z
    for frame, (one, three) in enumerate(zip(order_z, lattice_z, strict=True)):
        yield {
            "frame": frame,
            "time_s": period_s * (frame + 1),
            "order_z": one,
            "lattice_z": three,
            "spacing_nm": 16.0 if one > 4 else math.nan,
            "domain_nm": math.nan,
        }


def alerts_of(stream, **settings) -> list[Alert]:
    detector = Superlattice(Detection(**settings))
    return [alert for row in stream for alert in detector.update(row)]


def test_eight_hours_without_order():
    """60,000 frames at 2 Hz stay below the threshold of 24 h (172,800)."""
    noise = np.random.default_rng(11).standard_normal(60_000)
    watch = ShiftWatch(0.9)
    highest = 0.0
    for frame, z in enumerate(noise):
        watch.update(frame, 0.5 * frame, float(z))
        highest = max(highest, watch.statistic)
    assert highest < 172_800


def test_mean_time_to_a_false_alarm_is_at_least_the_threshold():
    """At a threshold of 1000 frames, 20 runs of noise: mean time 1000 or more.

    Cut at 4000 frames, which only lowers the mean; its own error is 22 %.
    """
    rng = np.random.default_rng(5)
    lengths = []
    for _ in range(20):
        watch = ShiftWatch(0.9)
        for frame in range(4000):
            watch.update(frame, float(frame), float(rng.standard_normal()))
            if watch.statistic > 1000:
                break
        lengths.append(frame + 1)
    assert np.mean(lengths) > 800


def test_one_frame_alone_never_alarms():
    z = np.zeros(400)
    z[200] = 1e6
    assert alerts_of(rows(z)) == []
    assert CLIP < 5


@pytest.mark.parametrize(("shift", "frames"), [(1.5, 30), (2.0, 14), (4.0, 7)])
def test_delay_and_interval_of_an_onset(shift, frames):
    """A shift at 100 s is found within so many frames, and its interval holds it 8 times of 10."""
    held = 0
    for seed in range(20):
        z = np.random.default_rng(seed).standard_normal(400)
        z[200:] += shift
        alert, *others = alerts_of(rows(z))
        assert others == []
        assert alert.kind == "superlattice_1d"
        assert 200 <= alert.frame <= 200 + 2 * frames
        held += alert.onset_lo_s - 0.5 <= 100.0 <= alert.onset_hi_s + 0.5
    assert held >= 14


@pytest.mark.parametrize("mean", [0.5, 0.8])
def test_what_the_model_leaves_out_is_no_order(mean):
    """z is above zero on average in every frame: 5 hours without an alarm, and an onset then."""
    z = np.random.default_rng(21).normal(mean, 0.85, 40_000)
    z[-100:] += 0.9 * np.arange(100)
    (alert,) = alerts_of(rows(z))
    assert 39_900 <= alert.frame <= 39_910
    assert alert.onset_lo_s <= 0.5 * 39_902 <= alert.onset_hi_s + 0.5


def test_three_dimensions_need_one_first():
    z = np.zeros(400)
    three = np.zeros(400)
    three[100:] = 8.0
    assert alerts_of(rows(z, three)) == []
    z[200:] = 6.0
    kinds = [a.kind for a in alerts_of(rows(z, three))]
    assert kinds == ["superlattice_1d", "superlattice_3d"]


def test_stacks_that_draw_the_lattice_down_do_not_hide_its_rise():
    rng = np.random.default_rng(0)
    z, three = rng.standard_normal((2, 900))
    z[100:] += 10.0
    three[100:] -= np.minimum(np.arange(800) / 20.0, 5.0)
    assert [a.kind for a in alerts_of(rows(z, three))] == ["superlattice_1d"]
    three[600:] += np.minimum(np.arange(300) / 4.0, 20.0)
    first, second = alerts_of(rows(z, three))
    assert first.kind == "superlattice_1d"
    assert second.kind == "superlattice_3d"
    assert second.onset_s == pytest.approx(300.0, abs=8.0)


def test_structure_below_the_smallest_peak_is_misfit():
    z = np.random.default_rng(3).standard_normal(400)
    z[200:] += 6.0
    low = [row | {"peak_1_height": 0.05} for row in rows(z)]
    high = [row | {"peak_1_height": 0.5} for row in rows(z)]
    assert alerts_of(low, smallest_peak=0.2) == []
    assert [a.kind for a in alerts_of(high, smallest_peak=0.2)] == ["superlattice_1d"]
    assert [a.kind for a in alerts_of(low)] == ["superlattice_1d"]


def test_the_end_of_order_is_told_once():
    rng = np.random.default_rng(1)
    z = rng.standard_normal(900)
    z[200:500] += 8.0
    kinds = [(a.kind, a.onset_s) for a in alerts_of(rows(z))]
    assert [kind for kind, _ in kinds] == ["superlattice_1d", "order_lost"]
    assert kinds[1][1] == pytest.approx(250.0, abs=2.0)


def test_order_comes_back_in_cycles():
    """One dimension, three, none, and again: each told with which time it is."""
    rng = np.random.default_rng(4)
    z, three = rng.standard_normal((2, 1600))
    for begin in (200, 800, 1300):
        z[begin : begin + 250] += 8.0
        three[begin + 100 : begin + 250] += 6.0
    alerts = alerts_of(rows(z, three))
    assert [a.kind for a in alerts] == 3 * ["superlattice_1d", "superlattice_3d", "order_lost"]
    for cycle, begin in enumerate((200, 800, 1300)):
        one, other, end = alerts[3 * cycle : 3 * cycle + 3]
        assert 0 <= one.frame - begin <= 5
        assert 0 <= other.frame - (begin + 100) <= 8
        assert 0 <= end.frame - (begin + 250) <= 14
        assert one.onset_s == pytest.approx(0.5 * begin, abs=2.0)
        assert all(a.evidence["time"] == cycle + 1 for a in (one, other, end))
    assert "time" not in alerts[0].message
    assert "for the 2nd time" in alerts[3].message
    assert "for the 3rd time" in alerts[8].message
    assert len({a.key for a in alerts}) == 9


@pytest.mark.parametrize("level", [2.5, 3.0, 5.0, 9.0])
def test_order_that_weakens_but_stays_is_not_lost(level):
    z = np.random.default_rng(6).standard_normal(3000)
    z[200:400] += 20.0
    z[400:] += level
    assert [a.kind for a in alerts_of(rows(z))] == ["superlattice_1d"]


def test_order_is_confirmed_by_harmonics():
    rng = np.random.default_rng(7)
    z = rng.standard_normal(600)
    z[200:] += 6.0
    second, third = 0.1 * rng.standard_normal((2, 600))
    plain = [
        row
        | {"order_kind": "stack", "peak_2_height": two, "peak_2_height_err": 0.1}
        | {"peak_3_height": three, "peak_3_height_err": 0.1}
        for row, two, three in zip(rows(z), second, third, strict=True)
    ]
    assert [a.kind for a in alerts_of(plain)] == ["superlattice_1d"]
    with_second = [row | {"peak_2_height": row["peak_2_height"] + 0.25} for row in plain]
    first, confirmed = alerts_of(with_second)
    assert first.kind == "superlattice_1d"
    assert confirmed.kind == "order_confirmed"
    assert 0 < confirmed.frame - first.frame <= 15
    # Lines of a lattice are no harmonics.
    other = [row | {"order_kind": "fcc"} for row in with_second]
    assert [a.kind for a in alerts_of(other)] == ["superlattice_1d"]


def test_frames_without_numbers_are_passed_over():
    z = np.random.default_rng(2).standard_normal(400)
    z[200:] += 4.0
    holed = [
        row | ({"order_z": None} if row["frame"] % 3 == 0 else {"lattice_z": None})
        for row in rows(z)
    ]
    (alert,) = alerts_of(holed)
    assert alert.onset_s == pytest.approx(100.0, abs=2.0)
    assert all(math.isfinite(value) for value in alert.evidence.values())


def analysed(times_s, seed=0, frozen_s=None):
    """Rows that the stages make of simulated curves of the 100 C assembly."""
    from detectors.sample.synthesis import Synthesis
    from pipeline.config.populations import PopulationsFit
    from pipeline.fit.assembly import AnalyseAssembly
    from pipeline.fit.populations import FitPopulations
    from pipeline.messages import Curve, FittedCurve, Peak

    synthesis = Synthesis("assembly_100c")
    q = np.linspace(0.2, 3.8, 500)
    photons_cm = 5e11 * 0.5 * 0.8 * 0.1 * 1.74e-4 * q * (q[1] - q[0])
    fit, order = FitPopulations(PopulationsFit(), Sample()), None
    order = AnalyseAssembly(AssemblyAnalysis(), Sample())
    rng = np.random.default_rng(seed)
    for frame, time_s in enumerate(times_s):
        at = float(time_s if frozen_s is None else frozen_s)
        counts = rng.poisson(synthesis.intensity_per_cm(q, at) * photons_cm)
        curve = Curve(
            frame=frame,
            time_s=float(time_s),
            q_per_nm=q,
            intensity=counts / photons_cm,
            sigma=np.sqrt(np.maximum(counts, 1)) / photons_cm,
            absolute=True,
        )
        (fitted,) = (r for r in fit.process(curve) if isinstance(r, FittedCurve))
        peak, _ = order.process(fitted)
        assert isinstance(peak, Peak)
        yield {name: getattr(peak, name) for name in type(peak).__slots__} | {
            "frame": frame,
            "time_s": float(time_s),
        }


def test_assembly_at_100_c():
    """Published: one dimension from 90 s, three from 300 s; both begin gradually."""
    times = np.concatenate((np.arange(75, 100, 0.5), np.arange(276, 316, 0.5)))
    one, three = alerts_of(analysed(times))
    assert one.kind == "superlattice_1d"
    assert one.onset_s == pytest.approx(90.0, abs=4.0)
    # 6 frames of 0.5 s and the frame at 90 s itself; delays of 8 runs are in the benchmark.
    assert one.time_s <= 93.5
    assert one.evidence["spacing_nm"] == pytest.approx(16.0, abs=0.5)
    assert three.kind == "superlattice_3d"
    assert three.onset_s == pytest.approx(300.0, abs=10.0)
    # Within 15 frames where the stacks were watched before (benchmark); here only since 276 s.
    assert three.time_s <= 312.0


def test_particles_that_do_not_order():
    assert alerts_of(analysed(np.arange(0, 60, 0.5), seed=3, frozen_s=85.0)) == []
