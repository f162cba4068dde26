"""Alerts: that something happened, when it began, and the frames that say so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["info", "warning"]

KINDS: Mapping[str, str] = {
    "phase_1_to_2": "first nanocrystals beside the agglomerates",
    "phase_2_to_3": "the number of nanocrystals has passed its maximum: growth and focusing",
    "phase_3_to_4": "agglomerates used up, growth has come to rest: ripening",
    "burst": "nanocrystals are there from the first frames",
    "ripening": "growth has come to rest: ripening",
    "nucleation": "first lasting population of nanocrystals",
    "superlattice_1d": "particles order, at first along one direction",
    "order_confirmed": "harmonics of the order's first peak are there",
    "superlattice_3d": "order in three dimensions",
    "lattice": "the lattice of the particles is named",
    "order_lost": "the order has gone",
    "crystallisation": "crystals appear where there were none",
    "line_appeared": "a line of the wide-angle detector begins to be seen",
    "line_vanished": "a line of the wide-angle detector is seen no more",
    "phase_appeared": "a crystal phase begins to be there",
    "phase_vanished": "a crystal phase has gone",
    "artefact": "a jump that no synthesis makes: beam, cell or detector",
}
"""All kinds of alerts, with what each says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One event of a run.

    ``frame`` and ``time_s`` are those of the frame that settled it; ``onset_s`` is when it began,
    within ``onset_lo_s`` to ``onset_hi_s`` with the coverage that the config asks for. The alert
    rests on the frames ``first_frame`` to ``frame`` of ``stream``, the table that was read.

    Attributes
    ----------
    kind
        A key of `KINDS`.
    about
        What of its kind, where there may be several at once: a line's q in 1/nm, a phase's name.
    message
        One plain sentence with numbers and units.
    severity
        ``info`` for an event of the sample, ``warning`` for one of the measurement.
    evidence
        The numbers that settled it, by name with unit.
    """

    kind: str
    about: str = ""
    frame: int
    time_s: float
    onset_s: float
    onset_lo_s: float
    onset_hi_s: float
    message: str
    severity: Severity = "info"
    stream: str
    first_frame: int
    evidence: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"alert kind: expected one of {', '.join(KINDS)}; got {self.kind!r}")
        if not self.onset_lo_s <= self.onset_s <= self.onset_hi_s:
            raise ValueError(
                f"{self.kind}: expected onset_lo_s <= onset_s <= onset_hi_s, got "
                f"{self.onset_lo_s}, {self.onset_s}, {self.onset_hi_s}"
            )

    @property
    def key(self) -> str:
        """Name in Tiled: the same event at the same frame has the same one."""
        about = re.sub(r"[^A-Za-z0-9_.-]+", "_", self.about)
        return f"{self.kind}-{self.frame:06d}" + (f"-{about}" if about else "")
