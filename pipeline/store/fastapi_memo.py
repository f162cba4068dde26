"""FastAPI remembers how a request is answered, instead of working it out for each.

Tiled replaces one dependency of its application (``dependency_overrides``), and FastAPI then
inspects the signatures of all functions behind a request again, at each request: 227 of 428
samples of a profile of the store during a live run. What it
finds follows from its arguments alone, so it is remembered.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any

from fastapi.dependencies import utils


def remember_dependants() -> None:
    """Make FastAPI inspect each function once a route. Call it when the application is built.

    A second call changes nothing. The keys are functions and templates of paths, of which an
    application has a fixed number.
    """
    inspect = utils.get_dependant
    if hasattr(inspect, "__wrapped__"):
        return
    remembered: dict[Hashable, Any] = {}

    @functools.wraps(inspect)
    def get_dependant(**arguments: Any) -> Any:
        key = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in sorted(arguments.items())
        )
        if key not in remembered:
            remembered[key] = inspect(**arguments)
        return remembered[key]

    utils.get_dependant = get_dependant
