"""What is seen in one frame, minima or lines, followed from frame to frame."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.messages import Line

CONFIRMED_FRAMES = 3
"""A track is born when it was seen in so many frames running: what noise makes is in one."""
LOST_FRAMES = 3
"""It dies when it was missed in so many running."""

REMEMBERED = 8
"""Sightings from which a track's next place is foretold: few enough to follow a bend."""
LEAST_SIGHTINGS = 4
"""With fewer a track is expected where it was last seen: a slope of three places is noise."""
GATE_SIGMAS = 5.0
"""Standard errors, of the place and of what was foretold, that a line may be off its track."""
GATE_WIDTHS = 0.5
"""Or so much of its width, whichever is more: lines nearer than this are seen as one, and errors
of strong lines are smaller than what neighbours and a bent background do to them."""
FARTHEST_WIDTHS = 1.0
"""Never farther than this, however little is known of where the track went: that is a jump."""


HEIGHT_WIDTH_PER_AREA = math.sqrt(4.0 * math.log(2.0) / math.pi)
"""Height times full width over area, of a Gaussian. What is seen, the instrument included, is as
wide as that, whether or not the sample's own width is resolved."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """Where something was seen, with its standard error and the full width of what was seen.

    An error or width of 0 is not known.
    """

    time_s: float
    place: float
    error: float = 0.0
    width: float = 0.0

    @classmethod
    def of(cls, line: Line, time_s: float) -> Sighting:
        """That of a line."""
        width = HEIGHT_WIDTH_PER_AREA * line.area / line.height if line.height > 0 else math.nan
        if not 0 < width < math.inf:
            width = line.fwhm_per_nm
        return cls(
            time_s,
            line.q_per_nm,
            line.q_per_nm_err if 0 < line.q_per_nm_err < math.inf else 0.0,
            width if 0 < width < math.inf else 0.0,
        )


@dataclass(slots=True)
class Track:
    """One thing over time; ``seen`` and ``missed`` count frames running. 0 is no number yet."""

    first: Sighting
    number: int = 0
    seen: int = 1
    missed: int = 0
    path: deque[Sighting] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    @property
    def begin_s(self) -> float:
        """When it was first seen."""
        return self.first.time_s

    @property
    def last(self) -> Sighting:
        """Where and when it was last seen."""
        return self.path[-1]

    @property
    def place(self) -> float:
        """Where it was last seen."""
        return self.last.place


@dataclass(frozen=True, slots=True)
class Linked:
    """What a frame did to the tracks; ``tracks`` are those of its sightings, None if unborn."""

    tracks: tuple[Track | None, ...]
    alive: int
    born: tuple[Track, ...]
    died: tuple[Track, ...]

    @property
    def births(self) -> int:
        return len(self.born)

    @property
    def deaths(self) -> int:
        return len(self.died)


class Tracks:
    """Links each sighting to the nearest track, one to one, nearest pairs first.

    Parameters
    ----------
    gate
        Farther than this from its last place it is another one.
    confirmed, lost
        Frames running in which a track must have been seen to be born, or missed to die.
    """

    def __init__(
        self, gate: float, confirmed: int = CONFIRMED_FRAMES, lost: int = LOST_FRAMES
    ) -> None:
        self._gate = gate
        self._confirmed = confirmed
        self._lost = lost
        self._tracks: list[Track] = []
        self._numbers = 0

    def link(self, time_s: float, places: Sequence[float]) -> Linked:
        """Take up what was seen in one frame."""
        return self._link([Sighting(time_s, place) for place in places])

    def _distance(self, track: Track, sighting: Sighting) -> float:
        """How far off its track something is; infinite where it cannot be the same."""
        distance = abs(track.place - sighting.place)
        return distance if distance <= self._gate else math.inf

    def _rank(self, track: Track) -> int:
        """Tracks of a lower rank are served first."""
        del track
        return 0

    def _owners(self, sightings: Sequence[Sighting]) -> dict[int, int]:
        """The track of each sighting that has one, both by their indices."""
        pairs = sorted(
            (self._rank(track), distance, t, s)
            for t, track in enumerate(self._tracks)
            for s, sighting in enumerate(sightings)
            if math.isfinite(distance := self._distance(track, sighting))
        )
        owner: dict[int, int] = {}
        for _, _, t, s in pairs:
            if s not in owner and t not in owner.values():
                owner[s] = t
        return owner

    def _link(self, sightings: Sequence[Sighting]) -> Linked:
        owner = self._owners(sightings)
        born, died = [], []
        followed = set(owner.values())
        found = []
        for s, sighting in enumerate(sightings):
            if s in owner:
                track = self._tracks[owner[s]]
                track.seen, track.missed = track.seen + 1, 0
                if track.number == 0 and track.seen >= self._confirmed:
                    self._numbers += 1
                    track.number = self._numbers
                    born.append(track)
            else:
                track = Track(sighting)
                self._tracks.append(track)
                followed.add(len(self._tracks) - 1)
            track.path.append(sighting)
            found.append(track)
        alive = []
        for t, track in enumerate(self._tracks):
            if t not in followed:
                track.seen, track.missed = 0, track.missed + 1
                if track.number == 0 or track.missed >= self._lost:
                    if track.number > 0:
                        died.append(track)
                    continue
            alive.append(track)
        self._tracks = alive
        return Linked(
            tracks=tuple(track if track.number > 0 else None for track in found),
            alive=sum(track.number > 0 for track in alive),
            born=tuple(born),
            died=tuple(died),
        )


class MovingTracks(Tracks):
    """Tracks that are expected farther along the line that they went.

    A sighting is a track's if it is near to where the track is foretold to be, in units of a gate
    made of both errors and the width. So a line that shifts steadily stays itself, and so do two
    that cross; one that jumps by more than its width is another.
    """

    def __init__(self, confirmed: int = CONFIRMED_FRAMES, lost: int = LOST_FRAMES) -> None:
        super().__init__(1.0, confirmed, lost)

    def follow(self, sightings: Sequence[Sighting]) -> Linked:
        """Take up what was seen in one frame."""
        return self._link(sightings)

    def _rank(self, track: Track) -> int:
        """What noise put beside a line must not take it over."""
        return int(track.number == 0)

    def _distance(self, track: Track, sighting: Sighting) -> float:
        distance = Expected.of(track.path, sighting.time_s).off(sighting)
        return distance if distance <= self._gate else math.inf


@dataclass(frozen=True, slots=True)
class Expected:
    """Where a path leads to, with the error of that, and how wide what it follows was."""

    place: float
    error: float
    width: float

    @classmethod
    def of(cls, path: Sequence[Sighting], time_s: float) -> Expected:
        """That of a time."""
        return cls(*foretold(path, time_s), path[-1].width)

    def off(self, sighting: Sighting) -> float:
        """How far off something is, in units of what may be."""
        gate = GATE_SIGMAS * math.hypot(self.error, sighting.error)
        # Something broad beside a sharp line is not that line.
        width = min(sighting.width, self.width) or max(sighting.width, self.width)
        if width > 0:
            gate = min(max(gate, GATE_WIDTHS * width), FARTHEST_WIDTHS * width)
        return abs(sighting.place - self.place) / gate if gate > 0 else math.inf


def foretold(path: Sequence[Sighting], time_s: float) -> tuple[float, float]:
    """Place at a time by the straight line through a path, and its standard error.

    Weighted least squares; the error is widened by the root of the reduced chi-square where the
    places scatter by more than their errors, or lie on no line. Where an error is not known all
    places weigh the same, and their scatter is the error.
    """
    last = path[-1]
    if len(path) < LEAST_SIGHTINGS:
        return last.place, last.error
    known = all(each.error > 0 for each in path)
    least = min(each.error for each in path) if known else 1.0
    rows = [((least / e.error) ** 2 if known else 1.0, e.time_s, e.place) for e in path]
    total = sum(w for w, _, _ in rows)
    centre = sum(w * t for w, t, _ in rows) / total
    mean = sum(w * p for w, _, p in rows) / total
    second = sum(w * (t - centre) ** 2 for w, t, _ in rows)
    if not second > 0:
        return last.place, last.error
    rate = sum(w * (t - centre) * (p - mean) for w, t, p in rows) / second
    chi2 = sum(w * (p - mean - rate * (t - centre)) ** 2 for w, t, p in rows)
    chi2 /= least**2 * (len(rows) - 2)
    widening = max(chi2, 1.0) if known else chi2
    away = time_s - centre
    error = least * math.sqrt(widening * (1.0 / total + away**2 / second))
    return mean + rate * away, error
