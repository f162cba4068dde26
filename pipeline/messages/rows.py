"""Rows of tables as they are read back: by column name, whatever became of NaN on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def number(row: Row, name: str) -> float:
    """A column's value; NaN where it is missing, null or not a number."""
    value = row.get(name)
    return math.nan if value is None else float(value)
