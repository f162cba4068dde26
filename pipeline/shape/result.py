"""From a curve of crystals to a shape with its map, its resolution and its scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pipeline.shape.align import Lookup, align_all
from pipeline.shape.describe import Describer, Description, Verdict, verdict
from pipeline.shape.maps import Maps, make_maps
from pipeline.shape.retrieve import CrystalCurve, Found, Progress, Settings, retrieve

ELECTRON_RADIUS_NM = 2.8179403262e-6
"""Classical electron radius (CODATA 2018)."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What a curve says of the shape of what scatters; all bodies are those that it bears."""

    curve: CrystalCurve
    settings: Settings
    found: Found
    described: Sequence[Description]
    verdict: Verdict
    maps: Maps

    @property
    def resolutions_nm(self) -> dict[str, float]:
        """What each limit allows: agreement of the halves, reach of q, degree of the harmonics."""
        return {
            "halves": self.maps.fsc_resolution_nm,
            "q": 2 * math.pi / float(self.curve.q_per_nm[-1]),
            "degree": 2 * math.pi * self.found.sphere_radius_nm / self.settings.degree,
        }

    @property
    def resolution_nm(self) -> float:
        """The coarsest of them. Halves are of one curve: they tell of scatter, not of truth."""
        return max(value for value in self.resolutions_nm.values() if not math.isnan(value))

    @property
    def spreads(self) -> tuple[float, float]:
        """Smallest and largest spread of sizes that the curve bears."""
        spreads = [body.spread for body in self.found.compatible]
        return min(spreads), max(spreads)

    def scatter(self, name: str) -> tuple[float, float, float]:
        """Mean, standard deviation and half the range of a number of the bodies."""
        values = np.array([getattr(one, name) for one in self.described])
        return float(values.mean()), float(values.std()), 0.5 * float(np.ptp(values))

    def numbers(self) -> dict[str, Any]:
        """All numbers, flat, as metadata: with ``_std`` over the bodies, ``_min``, ``_max``."""
        told: dict[str, Any] = {
            "verdict": self.verdict.kind,
            "verdict_reason": self.verdict.reason,
            "bodies": len(self.described),
            "tried": len(self.found.tried),
            "spread_min": self.spreads[0],
            "spread_max": self.spreads[1],
            "misfit": self.found.compatible[0].misfit,
            "channels": self.found.channels,
            "resolution_nm": self.resolution_nm,
        }
        told |= {f"resolution_{name}_nm": value for name, value in self.resolutions_nm.items()}
        for field in fields(Description):
            if field.name == "kind":
                continue
            values = np.array([getattr(one, field.name) for one in self.described])
            told[field.name] = float(values.mean())
            told[f"{field.name}_std"] = float(values.std())
            told[f"{field.name}_min"] = float(values.min())
            told[f"{field.name}_max"] = float(values.max())
        return told


def find_shape(curve: CrystalCurve, settings: Settings, progress: Progress | None = None) -> Shape:
    """Retrieve, describe, lay over one another and map.

    Raises
    ------
    ShapeError
        If no shape can be asked for from this curve.
    """
    found = retrieve(curve, settings, progress)
    describer = Describer(found.envelope)
    described = [describer.describe(body.coefficients) for body in found.compatible]
    bodies = [Lookup(found.envelope, body.coefficients) for body in found.compatible]
    turns = align_all(found.envelope, bodies)
    largest = max(float(found.envelope.radii(b.coefficients).max()) for b in found.compatible)
    return Shape(
        curve=curve,
        settings=settings,
        found=found,
        described=described,
        verdict=verdict(found, described),
        maps=make_maps(bodies, turns, largest),
    )
