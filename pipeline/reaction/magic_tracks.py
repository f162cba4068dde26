"""Minima of the second derivative, followed from spectrum to spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONFIRMED_SPECTRA = 3
"""A track is born when it was seen in so many spectra running: a minimum of noise is in one."""
LOST_SPECTRA = 3
"""It dies when it was missed in so many running."""


@dataclass(slots=True)
class Track:
    """A minimum over time; ``seen`` and ``missed`` count spectra running."""

    energy_ev: float
    begin_s: float
    number: int = 0
    seen: int = 1
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Linked:
    """What a spectrum did to the tracks; ``tracks`` are those of its minima, None if unborn."""

    tracks: tuple[Track | None, ...]
    alive: int
    births: int
    deaths: int


class Tracks:
    """Links each minimum to the nearest track, one to one, nearest pairs first.

    Parameters
    ----------
    gate_ev
        Farther than this from its last place a minimum is another one.
    """

    def __init__(self, gate_ev: float) -> None:
        self._gate_ev = gate_ev
        self._tracks: list[Track] = []
        self._numbers = 0

    def link(self, time_s: float, energies_ev: Sequence[float]) -> Linked:
        """Take up the minima of one spectrum."""
        pairs = sorted(
            (abs(track.energy_ev - energy), t, m)
            for t, track in enumerate(self._tracks)
            for m, energy in enumerate(energies_ev)
            if abs(track.energy_ev - energy) <= self._gate_ev
        )
        owner: dict[int, int] = {}
        for _, t, m in pairs:
            if m not in owner and t not in owner.values():
                owner[m] = t
        births = 0
        followed = set(owner.values())
        found = []
        for m, energy in enumerate(energies_ev):
            if m in owner:
                track = self._tracks[owner[m]]
                track.energy_ev, track.seen, track.missed = energy, track.seen + 1, 0
                if track.number == 0 and track.seen >= CONFIRMED_SPECTRA:
                    self._numbers += 1
                    track.number = self._numbers
                    births += 1
            else:
                track = Track(energy, time_s)
                self._tracks.append(track)
                followed.add(len(self._tracks) - 1)
            found.append(track)
        deaths = 0
        alive = []
        for t, track in enumerate(self._tracks):
            if t not in followed:
                track.seen, track.missed = 0, track.missed + 1
                if track.number == 0 or track.missed >= LOST_SPECTRA:
                    deaths += track.number > 0
                    continue
            alive.append(track)
        self._tracks = alive
        return Linked(
            tracks=tuple(track if track.number > 0 else None for track in found),
            alive=sum(track.number > 0 for track in alive),
            births=births,
            deaths=deaths,
        )
