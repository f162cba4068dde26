"""Shapes of particles: each module here is the card of one, and a new one is a file and no more.

A card is found by its module's name, which holds it as ``CARD``; it is imported when asked for,
because some prepare tables.
"""

import importlib
import pkgutil

from pipeline.kernels.shapes.card import Parameter, ShapeCard

NOT_SHAPES = frozenset({"card"})


def names() -> tuple[str, ...]:
    """Names of all shapes."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if name not in NOT_SHAPES))


def load(name: str) -> ShapeCard:
    """The card of a shape.

    Raises
    ------
    ValueError
        Where there is none of that name.
    """
    if name not in names():
        raise ValueError(f"shape {name!r} is not known; known are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").CARD


__all__ = ["Parameter", "ShapeCard", "load", "names"]
