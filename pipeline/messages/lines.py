"""Lines of a curve: peaks over what varies slowly, of a lattice or of crystals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.messages.order import JudgedCurve
from pipeline.messages.results import ArrayResult, Result, RowResult
from pipeline.messages.rows import number

MOST_LINES = 10
"""Lines that a row has room for."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line, with standard errors.

    ``fwhm_per_nm`` is the sample's own full width: the instrument's is taken out. NaN = not
    resolved. Height and area (over q) are of S(q) - 1 for a structure factor, and of the intensity
    for a curve. ``sigmas`` is the height over the error that it would have if nothing were there.
    """

    q_per_nm: float
    q_per_nm_err: float
    height: float
    height_err: float
    fwhm_per_nm: float
    fwhm_per_nm_err: float
    area: float
    area_err: float
    sigmas: float


QUANTITIES = tuple(Line.__dataclass_fields__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LinesRow(RowResult):
    """Lines of one frame by rising q: columns ``line_1_q_per_nm`` and so on as in `Line`.

    ``lines`` is how many there are; further columns are NaN. Where more were found than a row has
    room for, the strongest are kept, and ``lines_found`` says how many there were. ``judged`` tells
    a frame without lines from one that gave nothing (its row is absent: zeros and NaN).
    """

    judged: bool
    lines: int
    lines_found: int

    if TYPE_CHECKING:

        def __init__(self, **_: Any) -> None: ...

    @classmethod
    def of(cls, frame: int, time_s: float, lines: Sequence[Line]) -> LinesRow:
        """The row of what was found."""
        kept = sorted(sorted(lines, key=lambda line: -line.sigmas)[:MOST_LINES], key=_q)
        columns = dict.fromkeys((name for name, _ in _COLUMNS), float("nan"))
        for slot, line in enumerate(kept, 1):
            columns |= {f"line_{slot}_{name}": getattr(line, name) for name in QUANTITIES}
        return cls(
            frame=frame,
            time_s=time_s,
            judged=True,
            lines=len(kept),
            lines_found=len(lines),
            **columns,
        )


def _q(line: Line) -> float:
    return line.q_per_nm


_COLUMNS = [
    (f"line_{slot}_{name}", float) for slot in range(1, MOST_LINES + 1) for name in QUANTITIES
]


def _row(name: str, node: str, what: str) -> type[LinesRow]:
    return make_dataclass(
        name,
        _COLUMNS,
        bases=(LinesRow,),
        namespace={"NODE": node, "__doc__": what, "__module__": __name__},
        frozen=True,
        slots=True,
        eq=False,
        kw_only=True,
    )


OrderLines = _row("OrderLines", "assembly/lines", "Lines of the structure factor of one frame.")
WaxsLines = _row("WaxsLines", "waxs/lines", "Lines of one frame of the wide-angle detector.")


def lines_of(row: Mapping[str, Any]) -> list[Line]:
    """Lines out of a stored row, by rising q."""
    return [
        Line(*(number(row, f"line_{slot}_{name}") for name in QUANTITIES))
        for slot in range(1, int(row["lines"]) + 1)
    ]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StructureFactor(ArrayResult):
    """S(q) of one frame with its standard error, and the form factor that it rests on.

    ``form_factor`` is <F^2>(q) times the number density, in the curve's units. NaN outside of the
    range in which order is sought, and in frames without crystals.
    """

    NODE = "assembly/structure_factor"
    AXIS_NODE = "assembly/q"
    AXIS = "q_per_nm"
    LINES = ("structure_factor", "sigma", "form_factor")

    q_per_nm: np.ndarray
    structure_factor: np.ndarray
    sigma: np.ndarray
    form_factor: np.ndarray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FormFactor(RowResult):
    """The form factor by which a structure factor is divided, where it comes from and why.

    ``choice`` is ``fitted`` (as in the table of populations: no order is seen), ``modelled``
    (fitted together with the peaks, which it cannot absorb then) or ``given`` (by the config).
    ``reason`` is one line. Diameter and sigma are of the number distribution. ``surface_nm`` is the
    distance between the surfaces of neighbouring sheets, the spacing of `Peak` less the diameter;
    NaN unless the particles are stacked.
    """

    NODE: ClassVar[str | None] = "assembly/form_factor"

    diameter_nm: float
    diameter_nm_err: float
    sigma_nm: float
    sigma_nm_err: float
    reduced_chi2: float
    choice: str
    reason: str
    surface_nm: float = float("nan")
    surface_nm_err: float = float("nan")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OrderedCurve(Result):
    """A judged curve with its structure factor and lines, for stages that follow; not stored."""

    judged: JudgedCurve
    structure: StructureFactor
    form_factor: FormFactor
    lines: tuple[Line, ...]
