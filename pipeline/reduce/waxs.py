"""Stage: frames of the wide-angle detector to I(q)."""

from __future__ import annotations

from typing import ClassVar

from pipeline.messages import Curve, Result, WaxsCurve
from pipeline.reduce.area import ReduceArea


class ReduceWaxs(ReduceArea):
    """I(q) of the stream ``waxs``, see `pipeline.reduce.area.ReduceArea`."""

    name: ClassVar[str] = "reduce_waxs"
    curve: ClassVar[type[Curve]] = WaxsCurve
    produces: ClassVar[tuple[type[Result], ...]] = (WaxsCurve,)
