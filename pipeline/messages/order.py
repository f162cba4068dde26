"""What a curve says of the particles' order."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages.populations import FittedCurve
from pipeline.messages.results import Result, RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Peak(RowResult):
    """The order of the particles in one frame and the first peaks of the best series.

    ``order_z`` is the significance of order of any kind, in standard deviations of a frame
    without order; ``lattice_z`` that of peaks beyond a stack's 1:2:3. ``order_kind`` is ``stack``,
    ``fcc``, ``bcc`` or ``hcp``, the best of those tried, and empty where no order is reported.
    """

    NODE = "assembly/peaks"

    order_z: float
    lattice_z: float
    spacing_nm: float
    spacing_nm_err: float
    peak_1_q_per_nm: float
    peak_2_q_per_nm: float
    peak_3_q_per_nm: float
    peak_1_height: float
    peak_2_height: float
    peak_3_height: float
    peak_fwhm_per_nm: float
    domain_nm: float
    order_kind: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JudgedCurve(Result):
    """A fitted curve and what was found of order, for stages that follow; not stored."""

    fitted: FittedCurve
    peak: Peak
