"""When a lattice is named, from the claims of the frames."""

import math

import numpy as np
import pytest

from pipeline.config.detect import Detection
from pipeline.detect.lattice import RIGHT, WRONG, Lattice, LatticeWatch
from pipeline.detect.moment import moment_of_change
from pipeline.messages.alerts import Alert

CELLS = {"fcc": (12.0, 12.0, 12.0), "hcp": (8.7, math.nan, 14.1)}


def alerts_of(claims, period_s=0.5, **settings) -> list[Alert]:
    detector = Lattice(Detection(**settings))
    alerts = []
    for frame, claim in enumerate(claims):
        a, b, c = CELLS.get(claim, (math.nan,) * 3)
        row = {"frame": frame, "time_s": period_s * (frame + 1), "lattice": claim}
        row |= {"a_nm": a, "b_nm": b, "c_nm": c, "probability": 0.95, "merit": 20.0}
        row |= dict.fromkeys(("nearest_nm", "gap_nm", "domain_nm", "hcp_share"), math.nan)
        alerts += detector.update(row)
    return alerts


def test_a_lattice_is_named_once_with_its_cell_and_when_it_began():
    claims = [""] * 40 + ["cannot tell"] * 3 + ["fcc", "fcc", "cannot tell", *["fcc"] * 30]
    (alert,) = alerts_of(claims)
    assert (alert.kind, alert.about) == ("lattice", "fcc")
    # 24 h of frames at 2 Hz are 12.1 nats, a claim is worth 2.5 and a frame without it -0.9.
    assert 48 <= alert.frame <= 50
    assert alert.onset_lo_s <= 21.75 <= alert.onset_hi_s
    assert alert.first_frame <= 43
    assert alert.message.endswith("fcc, a = 12.00 nm.")
    assert alert.evidence["a_nm"] == 12.0
    assert "gap_nm" not in alert.evidence


def test_another_lattice_and_the_same_after_its_end_are_told():
    claims = ["fcc"] * 20 + ["hcp"] * 20 + [""] * 40 + ["hcp"] * 20
    alerts = alerts_of(claims)
    assert [alert.about for alert in alerts] == ["fcc", "hcp", "hcp"]
    assert alerts[1].message.endswith("hcp, a = 8.70 nm, c = 14.10 nm.")


def test_lost_frames_and_rows_of_text_only_say_nothing():
    detector = Lattice(Detection())
    lost = {"frame": 0, "time_s": math.nan, "lattice": ""}
    assert list(detector.update(lost)) == []
    assert alerts_of([""] * 50) == []
    assert alerts_of(["cannot tell"] * 500) == []


def test_wrong_claims_alarm_no_more_often_than_declared():
    """At a threshold of 300 frames: mean time 300 or more, cut at 1500 (its error is 13 %)."""
    rng = np.random.default_rng(3)
    lengths = []
    for _ in range(60):
        watch = LatticeWatch(0.9)
        for frame in range(1500):
            watch.update(frame, frame - 1.0, float(frame), claimed=rng.random() < WRONG)
            if watch.statistic > 300.0:
                break
        lengths.append(frame + 1)
    assert np.mean(lengths) > 250


def test_claims_that_are_right_are_told_within_frames():
    """Mean delay in frames: the threshold's nats over the mean worth of a frame, and one more."""
    worth = RIGHT * math.log(RIGHT / WRONG) + (1 - RIGHT) * math.log((1 - RIGHT) / (1 - WRONG))
    rng = np.random.default_rng(4)
    delays = []
    for _ in range(100):
        claims = ["fcc" if rng.random() < RIGHT else "cannot tell" for _ in range(200)]
        delays.append(alerts_of(claims)[0].frame + 1)
    assert np.mean(delays) == pytest.approx(math.log(172_800) / worth, abs=2.0)


def test_moment_of_change_is_the_posterior_s_quantiles():
    weight = np.array([1.0, 2.0, 1.0])
    middle, lo, hi = moment_of_change(weight, [0.0, 1.0, 2.0, 3.0], 0.5)
    assert (lo, middle, hi) == pytest.approx((1.0, 1.5, 2.0))
