"""Phases of a synthesis, from the fitted populations of each frame.

Calibrations of the regimes (slopes per second of ln N, ln V, ln D): taken from the published
Cs-DOPA and Cs-oleate runs (Montanarella et al., Nano Lett. 2023, 23, 667) and wide enough for
syntheses half and twice as fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import numpy as np

from pipeline.config.detect import Detection
from pipeline.detect.guard import Guard, Verdict
from pipeline.detect.onsets import Onset, Regime, Switch
from pipeline.messages.alerts import Alert
from pipeline.messages.rows import Row, number

# A population of crystals is there when its volume is so many standard errors above zero, in so
# many frames one after another. The fit has asked for as much before it reports one at all, so
# two independent frames of noise that agree come about once in 1e8.
PRESENT_SIGMA = 4.0
PRESENT_FRAMES = 2
# ... its diameter is known this well: populations fitted to structured noise (a curve less a
# background that is not quite its own) come with 25 % and more.
DIAMETER_KNOWN = 0.15
# ... and agree in size within this (and three standard errors): noise draws sizes at random.
SAME_DIAMETER = 0.3
# A phase is declared at this probability in so many frames one after another.
CERTAIN = 0.99
CERTAIN_FRAMES = 3
# Errors that counting does not know of: flux against its monitor, model against crystal.
NUMBER_FLOOR, DIAMETER_FLOOR = 0.005, 0.0007
# Agglomerates are used up when they hold less than this share of the crystals' volume.
USED_UP = 0.03

# II: number and volume rise, by 100 to 5 % a second, and settle; III: number falls by 2 to 10 %,
# volume rises by 1 to 3 % a second.
NUCLEATING = Regime((0.3, 0.15), (0.5, 0.15), 1.0)
FOCUSING = Regime((-0.05, 0.015), (0.04, 0.012), 4.0)
# The end of III and all of Cs-oleate's growth: number falls, diameter rises by 1 to 3 % a second;
# ripening is slower by an order of magnitude.
GROWING = Regime((-0.03, 0.015), (0.03, 0.010), 3.0)
RIPENING = Regime((-0.002, 0.0006), (0.003, 0.0008), 10.0)


class Presence:
    """First lasting population of crystals."""

    def __init__(self) -> None:
        self._run: list[tuple[int, float, float, float]] = []
        self._absent_s = math.nan

    @property
    def absence_seen(self) -> bool:
        """Whether any frame was without crystals."""
        return not math.isnan(self._absent_s)

    def update(self, row: Row) -> tuple[int, Onset] | None:
        """First frame and onset, once, when the population has lasted."""
        frame, time_s = int(row["frame"]), number(row, "time_s")
        volume, error = number(row, "nc_volume_fraction"), number(row, "nc_volume_fraction_err")
        diameter = number(row, "nc_diameter_nm")
        diameter_err = number(row, "nc_diameter_nm_err")
        # Without a finite error (populations that cannot be told apart) nothing is proved.
        known = diameter_err < DIAMETER_KNOWN * diameter
        if not (error > 0 and volume > PRESENT_SIGMA * error and known):
            self._absent_s = time_s
            self._run.clear()
            return None
        if self._run:
            _, _, before, before_err = self._run[-1]
            apart = abs(diameter - before)
            if apart > SAME_DIAMETER * before and apart > 3 * math.hypot(diameter_err, before_err):
                self._absent_s = self._run[-1][1]
                self._run.clear()
        self._run.append((frame, time_s, diameter, diameter_err))
        if len(self._run) < PRESENT_FRAMES:
            return None
        first_frame, first_s = self._run[0][:2]
        # Nothing before the first row: they came between the start of the run and that row.
        lo = min(0.0, first_s) if math.isnan(self._absent_s) else self._absent_s
        return first_frame, Onset(0.5 * (lo + first_s), lo, first_s, 1.0)


class Change:
    """Feeds a `Switch` and says when it is certain, once."""

    def __init__(self, switch: Switch, coverage: float) -> None:
        self._switch, self._coverage = switch, coverage
        self._certain = 0
        self.first_frame = -1
        self.second_s = math.nan
        """Time of the second frame: the first one that a change can end at."""

    def update(self, row: Row, names: str, allowed: bool = True) -> Onset | None:
        """``names`` are the observables: N number, V volume, D diameter."""
        values = observables(row, names)
        if values is None:
            return None
        if self.first_frame < 0:
            self.first_frame = int(row["frame"])
        elif math.isnan(self.second_s):
            self.second_s = number(row, "time_s")
        self._switch.update(number(row, "time_s"), *values)
        onset = self._switch.onset(self._coverage)
        self._certain = self._certain + 1 if onset.probability > CERTAIN else 0
        return onset if allowed and self._certain >= CERTAIN_FRAMES else None

    def forget_level(self) -> None:
        self._switch.forget_level()


def observables(row: Row, names: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Logarithms of number, volume and diameter as asked, with errors; None without crystals.

    Without an absolute scale the number is the volume over the mean volume, in arbitrary units.
    """
    diameter, sigma = number(row, "nc_diameter_nm"), number(row, "nc_sigma_nm")
    volume = number(row, "nc_volume_fraction")
    if not (diameter > 0 and volume > 0 and sigma > 0):
        return None
    volume_err = number(row, "nc_volume_fraction_err") / volume
    diameter_err = number(row, "nc_diameter_nm_err") / diameter
    count, count_err = number(row, "nc_concentration_um"), number(row, "nc_concentration_um_err")
    if count > 0:
        count_err /= count
    else:
        count = volume / (diameter**3 * (1 + 3 * (sigma / diameter) ** 2))
        count_err = math.hypot(volume_err, 3 * diameter_err)
    all_values = {
        "N": (math.log(count), math.hypot(count_err, NUMBER_FLOOR)),
        "V": (math.log(volume), math.hypot(volume_err, NUMBER_FLOOR)),
        "D": (math.log(diameter), math.hypot(diameter_err, DIAMETER_FLOOR)),
    }
    values, errors = zip(*(all_values[name] for name in names), strict=True)
    return np.array(values), np.array(errors)


def agglomerates_used_up(row: Row) -> bool:
    """Whether agglomerates are absent or a trifle beside the crystals."""
    left = number(row, "agglomerate_volume_fraction")
    return not left > USED_UP * number(row, "nc_volume_fraction")


class _Phases:
    """What the recipes share: the guard, and how an alert is written."""

    node: ClassVar[str] = "saxs/populations"

    def __init__(self, settings: Detection) -> None:
        self._coverage = settings.interval_coverage
        self._guard = Guard()

    def _alert(self, kind: str, row: Row, onset: Onset, first_frame: int, text: str) -> Alert:
        names = ("nc_diameter_nm", "nc_sigma_nm", "nc_concentration_um", "nc_volume_fraction")
        numbers = {name: number(row, name) for name in names}
        return Alert(
            kind=kind,
            frame=int(row["frame"]),
            time_s=number(row, "time_s"),
            onset_s=onset.onset_s,
            onset_lo_s=onset.lo_s,
            onset_hi_s=onset.hi_s,
            message=(
                f"{text} at {onset.onset_s:.1f} s ({onset.lo_s:.1f} to {onset.hi_s:.1f} s)"
                f"{_crystals(row)}."
            ),
            stream=self.node,
            first_frame=first_frame,
            evidence={
                "probability": onset.probability,
                **{name: value for name, value in numbers.items() if math.isfinite(value)},
            },
        )


def _crystals(row: Row) -> str:
    diameter, sigma = number(row, "nc_diameter_nm"), number(row, "nc_sigma_nm")
    count = number(row, "nc_concentration_um")
    text = f": nanocrystals of {diameter:.2f} nm, sigma {sigma:.2f} nm"
    return text + (f", {count:.2f} uM" if math.isfinite(count) else "")


class CsDopaPhases(_Phases):
    """Phases I to IV: agglomerates, nucleation, size focusing, ripening; each once, in order."""

    name: ClassVar[str] = "cs_dopa_phases"

    def __init__(self, settings: Detection) -> None:
        super().__init__(settings)
        self._phase = 1
        self._agglomerates = False
        self._start_s = math.nan
        self._presence = Presence()
        # Phase II lasts some seconds, III some ten: priors of the change, not limits.
        self._focusing = Change(Switch(NUCLEATING, FOCUSING, 4.0), self._coverage)
        self._ripening = Change(Switch(GROWING, RIPENING, 30.0), self._coverage)

    def update(self, row: Row, /) -> Iterable[Alert]:
        verdict = self._guard.judge(row)
        if verdict is Verdict.NEW_LEVEL:
            self._focusing.forget_level()
            self._ripening.forget_level()
        if verdict is Verdict.HOLD and self._phase > 1:
            return
        if self._phase == 1:
            # Crystals that no agglomerates went before are not those of phase I: an aged sample,
            # or another synthesis, of which nothing is said here.
            self._agglomerates |= not agglomerates_used_up(row)
            found = self._presence.update(row)
            # The switch needs the rise from its first frame on.
            self._focusing.update(row, "NV")
            if found is not None and self._agglomerates:
                self._phase = 2
                self._start_s = found[1].lo_s
                text = "First nanocrystals (phase I to II)"
                yield self._alert("phase_1_to_2", row, found[1], found[0], text)
        elif self._phase == 2:
            onset = self._focusing.update(row, "NV")
            if onset is not None:
                self._phase = 3
                onset = self._or_before(onset, self._focusing)
                text = "Number of nanocrystals past its maximum (phase II to III)"
                first = self._focusing.first_frame
                yield self._alert("phase_2_to_3", row, onset, first, text)
        elif self._phase == 3:
            onset = self._ripening.update(row, "ND", agglomerates_used_up(row))
            if onset is not None:
                self._phase = 4
                onset = self._or_before(onset, self._ripening)
                text = "Growth at rest, ripening begins (phase III to IV)"
                first = self._ripening.first_frame
                yield self._alert("phase_3_to_4", row, onset, first, text)

    def _or_before(self, onset: Onset, change: Change) -> Onset:
        """A change between the first two frames looked at may as well be an earlier one."""
        if onset.onset_s > change.second_s:
            return onset
        return replace(onset, lo_s=min(onset.lo_s, self._start_s))


class CsOleatePhases(_Phases):
    """A burst of crystals in the first frames, growth, and ripening."""

    name: ClassVar[str] = "cs_oleate_phases"

    def __init__(self, settings: Detection) -> None:
        super().__init__(settings)
        self._presence = Presence()
        self._burst = self._ripe = False
        self._ripening = Change(Switch(GROWING, RIPENING, 15.0), self._coverage)

    def update(self, row: Row, /) -> Iterable[Alert]:
        verdict = self._guard.judge(row)
        if verdict is Verdict.NEW_LEVEL:
            self._ripening.forget_level()
        if not self._burst:
            found = self._presence.update(row)
            if found is not None and agglomerates_used_up(row):
                self._burst = True
                text = "Burst: nanocrystals and no agglomerates"
                yield self._alert("burst", row, found[1], found[0], text)
        if verdict is Verdict.HOLD or not self._burst or self._ripe:
            return
        onset = self._ripening.update(row, "ND")
        if onset is not None:
            self._ripe = True
            first = self._ripening.first_frame
            yield self._alert("ripening", row, onset, first, "Growth at rest, ripening begins")


class Nucleation(_Phases):
    """The first lasting population of crystals, once."""

    name: ClassVar[str] = "nucleation"

    def __init__(self, settings: Detection) -> None:
        super().__init__(settings)
        self._presence = Presence()
        self._done = False

    def update(self, row: Row, /) -> Iterable[Alert]:
        if self._done:
            return
        found = self._presence.update(row)
        if found is not None:
            self._done = True
            # Crystals from the first frame on: an aged sample, or a birth that nobody saw.
            if not self._presence.absence_seen:
                return
            yield self._alert("nucleation", row, found[1], found[0], "Nucleation")
