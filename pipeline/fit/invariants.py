"""Stage: a curve's Guinier radius, Porod constant and invariant, as checks that know no model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from pipeline.config.invariants import InvariantsAnalysis
from pipeline.config.sample import Sample
from pipeline.kernels.invariants import ModelFree, model_free
from pipeline.kernels.noise import FEWEST_VALUES, local_scatter
from pipeline.messages import Curve, Invariants, Result, RunStart

PER_CM_IN_PER_NM = 1e7
"""1/nm is this many 1/cm."""
POROD_SIGMA = 3.0
"""Errors that Porod's constant has to be above 0 for anything to be divided by it."""
NOTHING = ModelFree(*(math.nan,) * len(ModelFree._fields))


class FitInvariants:
    """Analyses each curve on its own: no frame depends on another.

    Parameters
    ----------
    settings
        Range of q, where Guinier's law ends and Porod's begins.
    sample
        Contrast.
    """

    name: ClassVar[str] = "invariants"
    consumes: ClassVar[tuple[type, ...]] = (Curve,)
    produces: ClassVar[tuple[type[Result], ...]] = (Invariants,)

    def __init__(self, settings: InvariantsAnalysis, sample: Sample) -> None:
        self.settings = settings
        self.sample = sample

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        warm_up()

    def reset(self, start: RunStart, /) -> None:
        """There is nothing to forget."""

    def process(self, message: Curve, /) -> Iterable[Result]:
        """Analyse one curve.

        Returns
        -------
        tuple
            The row; of NaN if too few points can be used: a check must not cost a frame its fit.
        """
        settings = self.settings
        q, intensity, sigma = message.q_per_nm, message.intensity, message.sigma
        used = (q >= settings.q_min_per_nm) & (q <= settings.q_max_per_nm) & (q > 0)
        used &= np.isfinite(intensity)
        known = used & np.isfinite(sigma) & (sigma > 0)
        # Points without an error are left out, unless none has any.
        estimated = not known.any()
        if not estimated:
            used = known
        q_used = np.ascontiguousarray(q[used], dtype=float)
        values = np.ascontiguousarray(intensity[used], dtype=float)
        errors = local_scatter(values) if estimated else np.ascontiguousarray(sigma[used], float)
        # A line without errors and without scatter (a frame of zeros) says nothing.
        free = NOTHING
        if q_used.size >= FEWEST_VALUES and np.all(errors > 0):
            free = model_free(
                q_used,
                values,
                errors,
                settings.flat_background,
                settings.guinier_q_rg_max,
                settings.porod_q_rg_min,
            )
        return (self._row(message, free, bool(estimated or message.sigma_estimated)),)

    def _row(self, curve: Curve, free: ModelFree, estimated: bool) -> Invariants:
        porod_valid = free.porod > POROD_SIGMA * free.porod_err
        fraction, fraction_err = self._volume_fraction(curve, free)
        surface, surface_err = _surface(free) if porod_valid else (math.nan, math.nan)
        diameter, diameter_err = _volume_diameter(free)
        return Invariants(
            frame=curve.frame,
            time_s=curve.time_s,
            guinier_radius_nm=free.radius_nm,
            guinier_radius_nm_err=free.radius_nm_err,
            forward_intensity=free.forward,
            forward_intensity_err=free.forward_err,
            guinier_q_min_per_nm=free.guinier_first,
            guinier_q_max_per_nm=free.guinier_last,
            guinier_valid=int(math.isfinite(free.radius_nm)),
            porod_constant=free.porod,
            porod_constant_err=free.porod_err,
            porod_exponent=free.exponent,
            porod_exponent_err=free.exponent_err,
            porod_q_min_per_nm=free.porod_first,
            porod_valid=int(porod_valid),
            background=free.background,
            background_err=free.background_err,
            invariant=free.invariant,
            invariant_err=free.invariant_err,
            share_below=free.share_below,
            share_beyond=free.share_beyond,
            volume_fraction=fraction,
            volume_fraction_err=fraction_err,
            surface_per_volume_per_nm=surface,
            surface_per_volume_per_nm_err=surface_err,
            surface_diameter_nm=6.0 / surface,
            surface_diameter_nm_err=6.0 * surface_err / surface**2,
            volume_diameter_nm=diameter,
            volume_diameter_nm_err=diameter_err,
            sigma_estimated=estimated,
        )

    def _volume_fraction(self, curve: Curve, free: ModelFree) -> tuple[float, float]:
        """phi of Q = 2 pi^2 drho^2 phi (1 - phi), the smaller one, and its error."""
        if not curve.absolute:
            return math.nan, math.nan
        unit = 2.0 * math.pi**2 * PER_CM_IN_PER_NM * self.sample.contrast_per_nm2**2
        product = free.invariant / unit
        # Beyond 1/4 there is no such fraction; at 1/4 its error has no bound.
        if not product < 0.25:
            return math.nan, math.nan
        root = math.sqrt(1.0 - 4.0 * product)
        return 0.5 * (1.0 - root), free.invariant_err / unit / root


def _surface(free: ModelFree) -> tuple[float, float]:
    """S/V = pi K/Q and its error."""
    if not free.invariant > 0:
        return math.nan, math.nan
    surface = math.pi * free.porod / free.invariant
    return surface, surface * _ratio_err(
        free.porod, free.porod_err, free.invariant, free.invariant_err, free.porod_covariance
    )


def _volume_diameter(free: ModelFree) -> tuple[float, float]:
    """Diameter of the sphere of volume 2 pi^2 I(0)/Q, and its error."""
    if not (free.invariant > 0 and free.forward > 0):
        return math.nan, math.nan
    diameter = (12.0 * math.pi * free.forward / free.invariant) ** (1.0 / 3.0)
    relative = _ratio_err(
        free.forward, free.forward_err, free.invariant, free.invariant_err, free.forward_covariance
    )
    return diameter, diameter * relative / 3.0


def _ratio_err(a: float, a_err: float, b: float, b_err: float, covariance: float) -> float:
    """Relative error of a/b."""
    square = (a_err / a) ** 2 + (b_err / b) ** 2 - 2.0 * covariance / (a * b)
    return math.sqrt(max(square, 0.0))


def warm_up() -> None:
    """Compile (or load from disk) every kernel of this stage, by analysing two small curves."""
    q = np.linspace(0.1, 5.0, 80)
    intensity = np.exp(-(q**2)) + 0.1 + 1e-3 * q**-4 + 1e-6 * np.cos(37.0 * q)
    for sigma in (0.01 * intensity, np.full(q.size, np.nan)):
        curve = Curve(
            frame=0, time_s=0.0, q_per_nm=q, intensity=intensity, sigma=sigma, absolute=True
        )
        FitInvariants(InvariantsAnalysis(), Sample()).process(curve)
