"""What a wide-angle curve says of crystals: which phases, how much, which cell, how large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any

from pipeline.messages.results import RowResult
from pipeline.messages.rows import number

MOST_PHASES = 6
"""Phases that a row has room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase of a frame, with standard errors; what the curve does not determine is NaN.

    ``present`` is 1 where the phase is reported, ``probability`` that of its presence: it is
    shared with phases that explain the curve as well (see ``confounded``). ``fraction`` is the
    share of this phase in what is crystalline, of the kind that ``fraction_kind`` says. A cell's
    edge that follows from another by symmetry repeats it. ``size_nm`` is the Scherrer size K 2 pi
    / fwhm, the instrument's width taken out; ``strain`` the width of the relative spread of d.
    """

    name: str
    present: int = 0
    probability: float = float("nan")
    fraction: float = float("nan")
    fraction_err: float = float("nan")
    a_nm: float = float("nan")
    a_nm_err: float = float("nan")
    b_nm: float = float("nan")
    b_nm_err: float = float("nan")
    c_nm: float = float("nan")
    c_nm_err: float = float("nan")
    size_nm: float = float("nan")
    size_nm_err: float = float("nan")
    strain: float = float("nan")
    strain_err: float = float("nan")


QUANTITIES = tuple(Phase.__dataclass_fields__)
_COLUMNS = [
    (f"phase_{slot}_{name}", {"name": str, "present": int}.get(name, float))
    for slot in range(1, MOST_PHASES + 1)
    for name in QUANTITIES
]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PhasesRow(RowResult):
    """Phases of one frame: columns ``phase_1_name`` and so on as in `Phase`.

    Slot n is the n-th phase of the config in every frame; slots that it leaves over are "" and
    NaN. ``state`` is ``crystalline`` (a phase is there), ``unindexed`` (none is, but lines are),
    ``amorphous`` (the broad scattering of the phases' atoms without lines) or ``none`` (nothing is
    told from the background). Where ``confounded``, the first such phase of the config is reported.
    ``crystalline_z`` is the significance of crystals in standard deviations of a frame without.

    ``crystalline_fraction`` is what is crystalline over that and the amorphous, of the kind that
    ``fraction_kind`` says: ``volume``, where atoms are known for all that is there, else
    ``scattering``, of q^2 I over the window. It is 0, without an error, in an
    amorphous frame: how much could hide there depends on its size. ``crystal_volume_fraction`` is
    that in the beam; NaN unless the curve is in 1/cm and atoms are known.

    ``confounded`` names phases, separated by commas, that the curve cannot tell apart; it is ""
    where there are none. ``describes`` is 1 if the residuals are chance or their misfit is small.
    ``unexplained_lines`` is how many significant lines belong to no phase that is present,
    ``unexplained_q_per_nm`` where the strongest is.
    """

    state: str
    phases: int
    crystalline_z: float
    crystalline_fraction: float
    crystalline_fraction_err: float
    fraction_kind: str
    crystal_volume_fraction: float
    crystal_volume_fraction_err: float
    confounded: str
    reduced_chi2: float
    describes: int
    misfit_relative: float
    unexplained_lines: int
    unexplained_q_per_nm: float

    if TYPE_CHECKING:

        def __init__(self, **_: Any) -> None: ...


WaxsPhases = make_dataclass(
    "WaxsPhases",
    _COLUMNS,
    bases=(PhasesRow,),
    namespace={
        "NODE": "waxs/phases",
        "__doc__": "Phases of one frame of the wide-angle detector.",
        "__module__": __name__,
    },
    frozen=True,
    slots=True,
    eq=False,
    kw_only=True,
)


def phases_of(row: Mapping[str, Any]) -> list[Phase]:
    """Phases out of a stored row, present or not, in the order of the config."""
    return [
        Phase(
            name=row[f"phase_{slot}_name"],
            present=int(row[f"phase_{slot}_present"]),
            **{name: number(row, f"phase_{slot}_{name}") for name in QUANTITIES[2:]},
        )
        for slot in range(1, MOST_PHASES + 1)
        if row[f"phase_{slot}_name"]
    ]
