"""What is exported: the curves of one stream of a run, and what is known about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Q_UNITS = {"1/A": 0.1, "1/nm": 1.0}
"""Units that q can be exported in, and the factor to each from 1/nm."""


CONCENTRATIONS = ("nc_concentration_um", "agglomerate_concentration_um")
"""Columns of ``saxs/populations`` that are finite only where curves are absolute."""


class ExportError(ValueError):
    """Something that cannot be exported as it was asked for; one line that says why."""


class NotThereError(ExportError):
    """The run has no such stream, or no curve of such a frame."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameCurve:
    """I(q) of one frame: intensity and sigma, (bins,), NaN where there is nothing."""

    frame: int
    time_s: float
    intensity: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class CurveSet:
    """What all curves of a stream have in common.

    Attributes
    ----------
    run, stream
        Key of the run, name of the stream.
    q_per_nm
        (bins,), in 1/nm.
    q_resolution_per_nm
        (bins,), standard deviation of q in 1/nm; None if it is not known.
    absolute
        Whether intensities are in 1/cm; arbitrary otherwise.
    start
        The run's start document.
    """

    run: str
    stream: str
    q_per_nm: np.ndarray
    q_resolution_per_nm: np.ndarray | None
    absolute: bool
    start: Mapping[str, Any]

    @property
    def intensity_unit(self) -> str:
        """As NXcanSAS spells it."""
        return "1/cm" if self.absolute else "arbitrary"

    def usable(self, curve: FrameCurve) -> np.ndarray:
        """Bins of a frame that have a q, an intensity and a sigma, as a mask (bins,).

        Raises
        ------
        ExportError
            If there is none.
        """
        usable = (
            np.isfinite(self.q_per_nm) & np.isfinite(curve.intensity) & np.isfinite(curve.sigma)
        )
        if not usable.any():
            raise ExportError(
                f"run {self.run}: {self.stream} frame {curve.frame}: expected intensities with "
                "their errors, got none that is finite"
            )
        return usable


def curve_set(
    run: str,
    stream: str,
    start: Mapping[str, Any],
    q_per_nm: np.ndarray,
    *,
    q_resolution_per_nm: np.ndarray | None = None,
    stream_facts: Mapping[str, Any] | None = None,
    concentrations_um: Iterable[np.ndarray] = (),
) -> CurveSet:
    """Put together what a server has on the curves of a stream.

    Curves are absolute if the metadata of their node say so (``absolute``). Where they say nothing,
    as those of older runs, curves are absolute if images were reduced with a scale and a thickness
    out of the config, or if any of ``concentrations_um`` is finite: the fit gives none without a
    scale.
    """
    known = (stream_facts or {}).get("absolute")
    if known is None:
        known = _scaled_by_config(start, stream) or any(
            np.isfinite(np.asarray(column, float)).any() for column in concentrations_um
        )
    if q_resolution_per_nm is not None and q_resolution_per_nm.shape != q_per_nm.shape:
        raise ExportError(
            f"run {run}: expected a resolution of {stream} for each of {q_per_nm.size} bins, got "
            f"{q_resolution_per_nm.size}"
        )
    return CurveSet(run, stream, q_per_nm, q_resolution_per_nm, bool(known), start)


def _scaled_by_config(start: Mapping[str, Any], stream: str) -> bool:
    """Curves that came ready-made have no geometry, and the scale does not act on them."""
    if stream not in (start.get("geometry") or {}):
        return False
    section = (start.get("config") or {}).get(stream) or {}
    settings = section.get("reduce") or {}
    return settings.get("absolute_scale") is not None and settings.get("thickness_cm") is not None


def slabs_to_curves(
    slabs: np.ndarray, first: int, numbers: Sequence[int], time_s: np.ndarray
) -> Iterator[FrameCurve]:
    """Curves of the frames ``numbers`` out of slabs (n, [I, sigma], bins) from frame ``first``."""
    for number in numbers:
        intensity, sigma = slabs[number - first]
        yield FrameCurve(number, float(time_s[number]), intensity, sigma)
