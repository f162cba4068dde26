"""What a curve says of the particles without a model."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages.results import RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Invariants(RowResult):
    """Guinier, Porod and the invariant of one curve. NaN = not in the data.

    ``guinier_radius_nm`` and ``forward_intensity`` are Rg and I(0) of the points from
    ``guinier_q_min_per_nm`` to ``guinier_q_max_per_nm``; ``guinier_valid`` is 1 if there is such a
    range, else 0. ``porod_constant`` is K of I = K q^-4 + ``background`` from
    ``porod_q_min_per_nm`` on, in nm^-4 times the curve's unit; ``porod_exponent`` what the power is
    if it is left free; ``porod_valid`` is 1 if K is above three of its errors.

    ``invariant`` is Q, the integral of q^2 (I - background) from 0 to infinity, of which
    ``share_below`` is Guinier's and ``share_beyond`` Porod's law. With an absolute scale it gives
    the ``volume_fraction``. Without any scale: ``surface_per_volume_per_nm`` = pi K/Q, that of the
    particles in dilution; ``surface_diameter_nm`` = 6 Q/(pi K), <D^3>/<D^2> of spheres;
    ``volume_diameter_nm``, of the sphere with the volume 2 pi^2 I(0)/Q, which is <V^2>/<V>.

    ``sigma_estimated``: the curve had no errors and its scatter was taken for them.
    """

    NODE = "saxs/invariants"

    guinier_radius_nm: float
    guinier_radius_nm_err: float
    forward_intensity: float
    forward_intensity_err: float
    guinier_q_min_per_nm: float
    guinier_q_max_per_nm: float
    guinier_valid: int
    porod_constant: float
    porod_constant_err: float
    porod_exponent: float
    porod_exponent_err: float
    porod_q_min_per_nm: float
    porod_valid: int
    background: float
    background_err: float
    invariant: float
    invariant_err: float
    share_below: float
    share_beyond: float
    volume_fraction: float
    volume_fraction_err: float
    surface_per_volume_per_nm: float
    surface_per_volume_per_nm_err: float
    surface_diameter_nm: float
    surface_diameter_nm_err: float
    volume_diameter_nm: float
    volume_diameter_nm_err: float
    sigma_estimated: bool
