"""What the wide-angle detector sees begin and end: lines, crystals, phases.

Lines and phases are watched one by one, each by a statistic that no constant strength deceives
(`pipeline.detect.presence`); crystals as such by the significance of the frames, as order is. The
accepted mean time between false alarms is shared by all places where a line may be, and by all
phases. Lines that shift are followed, so heating is no birth.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median
from typing import ClassVar

from pipeline.config.detect import Detection
from pipeline.detect.clock import Clock, Hold
from pipeline.detect.order import ShiftWatch
from pipeline.detect.presence import NOTHING, STRONGEST, Change, PresenceWatch, Seen, shown
from pipeline.messages.alerts import Alert
from pipeline.messages.lines import MOST_LINES, Line, lines_of
from pipeline.messages.rows import Row, number
from pipeline.messages.waxs import MOST_PHASES, Phase, phases_of
from pipeline.tracks import REMEMBERED as REMEMBERED_SIGHTINGS
from pipeline.tracks import Expected, Sighting

PLACES = 256
"""Lines that a curve has room for side by side: 40 1/nm by the 0.15 1/nm of the sharpest known."""
REMEMBERED = 512
"""Frames for which a place is kept where nothing is seen any more."""
FRAMES_BEFORE = 64
"""Frames before a place's first sighting that count: many times what a birth needs."""
YOUNG = 8
"""Sightings from which a new line's strength is taken, and with it the frames before in which it
would have been listed: it may grow for as long."""
FOLLOWED = 3
"""Frames for which a line that is not seen is expected farther along its way; then where it was."""
CERTAINLY_LISTED = 1.5
"""A line that is stronger by this than the weakest of a full row would be in it."""
MOST_Z = 3.0
"""A frame counts for no more than this significance of crystals: 3.9 of the 12 nats that an alarm
needs at 2 Hz and 24 h, so that a bad frame and the noise of its neighbours are none."""


class Place:
    """Where a line was seen, whatever it is.

    Parameters
    ----------
    watch
        Of its presence.
    before
        Frames before the first that shows it, each with the significance from which a line was
        listed in it.
    """

    def __init__(self, watch: PresenceWatch, before: Sequence[tuple[Seen, float]]) -> None:
        self.watch = watch
        self._before = before
        self._since: list[Seen] = []
        self._path: deque[Sighting] = deque(maxlen=REMEMBERED_SIGHTINGS)
        self._strengths: deque[float] = deque(maxlen=YOUNG)
        self.sightings = 0
        """How often it was seen, up to `YOUNG` times."""
        self.line: Line
        """As last seen."""
        self.unseen = 0
        """Frames running that do not show it."""
        self.hidden = False
        """Whether it is a guess that a line beside it explains."""

    @property
    def strength(self) -> float:
        """Typical significance where it is seen."""
        return median(self._strengths)

    def expected(self, time_s: float) -> Expected:
        """Where it should be seen."""
        path = self._path if self.unseen < FOLLOWED else [self._path[-1]]
        return Expected.of(path, time_s)

    def see(self, line: Line, sighting: Sighting) -> None:
        """It is seen in this frame."""
        self.line, self.unseen = line, 0
        self._path.append(sighting)
        self._strengths.append(line.sigmas)
        if self.sightings < YOUNG:
            self.sightings += 1
            # What is known of the frames before depends on how strong it turns out to be.
            known = [seen for seen, listed in self._before if self.strength >= listed]
            self.watch.begin((*known, *self._since))

    def judge(self, seen: Seen, log_threshold: float) -> Change | None:
        """Take in what a frame shows of it."""
        if self.sightings < YOUNG:
            self._since.append(seen)
        change = self.watch.update(seen, log_threshold)
        if change is not None:
            self.sightings, self._since = YOUNG, []
        return change


class CrystalLines:
    """Lines of the wide-angle detector that appear and vanish.

    What is told is when a line begins, or ceases, to be seen: one that fades is there for longer.
    """

    name: ClassVar[str] = "crystal_lines"
    node: ClassVar[str] = "waxs/lines"

    def __init__(self, settings: Detection) -> None:
        self._coverage = settings.interval_coverage
        self._clock = Clock(settings.false_alarm_hours)
        self._hold = Hold()
        self._places: list[Place] = []
        # Frames so far, with the significance below which a line would not have been listed.
        self._frames: deque[tuple[Seen, float]] = deque(maxlen=FRAMES_BEFORE)

    def update(self, row: Row, /) -> Iterable[Alert]:
        if not row.get("judged", True) or not math.isfinite(number(row, "time_s")):
            return
        dark = int(row["lines"]) == 0 and any(place.watch.present for place in self._places)
        for each in self._hold.through(row, dark=dark):
            for place, change in self._judged(each):
                yield self._alert(row, place, change)

    def _judged(self, row: Row) -> Iterable[tuple[Place, Change]]:
        """What a frame settles."""
        frame, time_s = int(row["frame"]), number(row, "time_s")
        before_s = self._clock.tick(time_s)
        lines = [line for line in lines_of(row) if line.sigmas > 0]
        full = len(lines) == MOST_LINES
        listed = CERTAINLY_LISTED * min(line.sigmas for line in lines) if full else 0.0
        sightings = [Sighting.of(line, time_s) for line in lines]
        near = [
            (-place.sightings, distance, p, s)
            for p, place in enumerate(self._places)
            for expected in (place.expected(time_s),)
            for s, sighting in enumerate(sightings)
            if (distance := expected.off(sighting)) <= 1.0
        ]
        beside = {id(self._places[p]) for _, _, p, _ in near}
        owners = self._owners(near)
        for index, (line, sighting) in enumerate(zip(lines, sightings, strict=True)):
            if index not in owners:
                owners[index] = Place(PresenceWatch(self._coverage), tuple(self._frames))
                self._places.append(owners[index])
            owners[index].see(line, sighting)
        strengths = {id(place): lines[index].sigmas for index, place in owners.items()}
        threshold = math.log(self._clock.frames * PLACES)
        for place in self._places:
            strength, what = strengths.get(id(place)), NOTHING
            if strength is not None:
                what = shown(strength)
            elif id(place) in beside:
                # Another stands where it would be. What is not known to be there is forgotten.
                place.hidden = not place.watch.present
                continue
            elif place.strength < listed:
                continue
            else:
                place.unseen += 1
            change = place.judge(Seen(frame, before_s, time_s, what), threshold)
            if change is not None:
                yield place, change
        self._places = [
            p for p in self._places if p.watch.present or (p.unseen < REMEMBERED and not p.hidden)
        ]
        self._frames.append((Seen(frame, before_s, time_s, NOTHING), listed))

    def _owners(self, near: Iterable[tuple[int, float, int, int]]) -> dict[int, Place]:
        """The place of each line, by its index: known places first, then nearest pairs."""
        owners: dict[int, Place] = {}
        taken: set[int] = set()
        for _, _, p, s in sorted(near):
            if s not in owners and p not in taken:
                owners[s] = self._places[p]
                taken.add(p)
        return owners

    def _alert(self, row: Row, place: Place, change: Change) -> Alert:
        line, strength = place.line, place.strength
        what, height = ("appears", "is") if change.appears else ("vanishes", "was")
        return _alert(
            row,
            self.node,
            "line_appeared" if change.appears else "line_vanished",
            change,
            about=f"{line.q_per_nm:.2f}",
            message=(
                f"Line at {line.q_per_nm:.2f} nm^-1 {what} at {_when(change)}; it {height} "
                f"{strength:.0f} sigma high."
            ),
            evidence={
                "q_per_nm": line.q_per_nm,
                "q_per_nm_err": line.q_per_nm_err,
                "fwhm_per_nm": line.fwhm_per_nm,
                "height": line.height,
                "sigmas": strength,
                "frames_since": change.frames_since,
                "frames_before": change.frames_before,
                "log_statistic": change.log_statistic,
            },
        )


class Crystals:
    """From amorphous to crystalline, once; and phases that appear and vanish, by name."""

    name: ClassVar[str] = "crystals"
    node: ClassVar[str] = "waxs/phases"

    def __init__(self, settings: Detection) -> None:
        self._coverage = settings.interval_coverage
        self._clock = Clock(settings.false_alarm_hours)
        self._crystalline = ShiftWatch(settings.interval_coverage)
        self._first_s = math.nan
        self._settled = False
        self._hold = Hold()
        self._phases: dict[str, PresenceWatch] = {}

    def update(self, row: Row, /) -> Iterable[Alert]:
        time_s, z = number(row, "time_s"), number(row, "crystalline_z")
        if not (math.isfinite(time_s) and math.isfinite(z)):
            return
        if math.isnan(self._first_s):
            self._first_s = time_s
        before_s = self._clock.tick(time_s)
        yield from self._crystallisation(row, time_s, z)
        dark = not any(phase.present for phase in phases_of(row))
        dark &= any(watch.present for watch in self._phases.values())
        for each in self._hold.through({**row, "before_s": before_s}, dark=dark):
            for phase, change in self._judged(each):
                yield self._phase_alert(row, phase, change)

    def _judged(self, row: Row) -> Iterable[tuple[Phase, Change]]:
        """What a frame settles of phases."""
        frame, before_s, time_s = int(row["frame"]), row["before_s"], number(row, "time_s")
        confounded = _confounded(row)
        threshold = math.log(self._clock.frames * MOST_PHASES)
        for phase in phases_of(row):
            if not phase.present and phase.name in confounded:
                continue  # it cannot be told from another
            watch = self._phases.setdefault(phase.name, PresenceWatch(self._coverage))
            what = STRONGEST if phase.present else NOTHING
            change = watch.update(Seen(frame, before_s, time_s, what), threshold)
            if change is not None:
                yield phase, change

    def _crystallisation(self, row: Row, time_s: float, z: float) -> Iterable[Alert]:
        if self._settled:
            return
        watch = self._crystalline
        watch.update(int(row["frame"]), time_s, min(z, MOST_Z))
        if watch.statistic <= self._clock.frames:
            return
        self._settled = True
        first_frame, onset, lo, hi = watch.onset()
        if lo <= self._first_s:
            return  # crystalline from the first frame on, as far as can be told
        change = Change(
            appears=True,
            first_frame=first_frame,
            onset_s=onset,
            lo_s=lo,
            hi_s=hi,
            log_statistic=math.log(watch.statistic),
            frames_since=int(row["frame"]) - first_frame + 1,
            frames_before=first_frame,
        )
        fraction = number(row, "crystalline_fraction")
        error = number(row, "crystalline_fraction_err")
        also = _named(row)
        if math.isfinite(fraction):
            also += f"; {100.0 * fraction:.0f} % of the solid is crystalline by now"
        yield _alert(
            row,
            self.node,
            "crystallisation",
            change,
            message=f"Crystals appear at {_when(change)}{also}.",
            evidence={
                "crystalline_z": z,
                "crystalline_fraction": fraction,
                "crystalline_fraction_err": error,
                "log_statistic": change.log_statistic,
            },
        )

    def _phase_alert(self, row: Row, phase: Phase, change: Change) -> Alert:
        what = "appears" if change.appears else "vanishes"
        return _alert(
            row,
            self.node,
            "phase_appeared" if change.appears else "phase_vanished",
            change,
            about=phase.name,
            message=f"{phase.name} {what} at {_when(change)}.",
            evidence={
                "probability": phase.probability,
                "fraction": phase.fraction,
                "fraction_err": phase.fraction_err,
                "frames_since": change.frames_since,
                "frames_before": change.frames_before,
                "log_statistic": change.log_statistic,
            },
        )


def _confounded(row: Row) -> list[str]:
    """Phases that the curve cannot tell apart."""
    names = str(row.get("confounded") or "").split(",")
    return [name.strip() for name in names if name.strip()]


def _named(row: Row) -> str:
    """Phases that are present, to go on with."""
    if confounded := _confounded(row):
        return f": {' or '.join(confounded)}, which the curve does not tell apart"
    present = [phase.name for phase in phases_of(row) if phase.present]
    return f": {' and '.join(present)}" if present else ""


def _when(change: Change) -> str:
    return f"{change.onset_s:.1f} s ({change.lo_s:.1f} to {change.hi_s:.1f} s)"


def _alert(
    row: Row,
    node: str,
    kind: str,
    change: Change,
    *,
    message: str,
    evidence: dict[str, float],
    about: str = "",
) -> Alert:
    return Alert(
        kind=kind,
        about=about,
        frame=int(row["frame"]),
        time_s=number(row, "time_s"),
        onset_s=change.onset_s,
        onset_lo_s=change.lo_s,
        onset_hi_s=change.hi_s,
        message=message,
        stream=node,
        first_frame=change.first_frame,
        evidence={name: float(v) for name, v in evidence.items() if math.isfinite(v)},
    )
