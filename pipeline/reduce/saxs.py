"""Stage: frames of the small-angle detector to I(q)."""

from __future__ import annotations

from typing import ClassVar

from pipeline.messages import Curve, Result
from pipeline.reduce.area import ReduceArea


class ReduceSaxs(ReduceArea):
    """I(q) of the stream ``saxs``, see `pipeline.reduce.area.ReduceArea`."""

    name: ClassVar[str] = "reduce_saxs"
    curve: ClassVar[type[Curve]] = Curve
    produces: ClassVar[tuple[type[Result], ...]] = (Curve,)
