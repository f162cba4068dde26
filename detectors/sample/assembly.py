"""Order of the particles: stacks of sheets, then a three-dimensional lattice.

Stacks (Hosemann's paracrystal of sheets at distance L, s the disorder of one distance, x the size
of a domain):

    Z(q) = 1 + 2 sum_m cos(m q L) exp(-m q^2 s^2 / 2) exp(-(m L t)^2 / 2)

with t = 2 pi / x / 2.355, so that without disorder peaks are Gaussians of fwhm 2 pi / x. (Stacks
of one height would have side lobes, which a mixture of heights has not.) Z is the interference
along the normal. The powder average over a sheet with n particles per nm^2 weights it with
g = 2 pi n / q^2, capped by the sheet's own extent: g = 1 / (1 + q^2 / (2 pi n)). Sheets are
needed: freely turning *strings* have their peaks 5 to 18 % above 2 pi m / L, the observed ones are
at 2 pi m / L.

Lattice, k particles in a cell of volume v:

    Z(q) = 2 pi^2 k / (v q^2) sum_hkl profile(q - q_hkl)

over all reflections that are allowed, so that Z is 1 on average. It is damped by displacements,
S = 1 + exp(-c q^2) (Z - 1); the stack's disorder damps it as it is. The intensity is
n <F^2> [1 + beta (S - 1)] with beta = <F>^2 / <F^2>, sizes and places being independent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from detectors.sample.recipes import Assembly

SIGMA_PER_FWHM = 1.0 / math.sqrt(8.0 * math.log(2.0))
FURTHEST_SIGMA = 5.0
"""Correlations along a stack are summed until they are exp(-12.5) = 4e-6."""


class Order(NamedTuple):
    """How far the particles are ordered at one moment."""

    spacing_nm: float
    stacked_share: float
    """Of all particles: in stacks or lattice."""
    lattice_share: float
    """Of those in stacks: registered in three dimensions."""
    domain_nm: float
    cell_nm: tuple[float, float, float]


DISORDER = Order(math.nan, 0.0, 0.0, math.nan, (math.nan, math.nan, math.nan))


def order(assembly: Assembly | None, time_s: float) -> Order:
    """Order at a time; shares are zero before it sets in."""
    if assembly is None or time_s < assembly.begin_1d_s:
        return DISORDER
    since = time_s - assembly.begin_1d_s
    shrunk = -math.expm1(-since / assembly.spacing_life_s)
    spacing = assembly.first_spacing_nm + shrunk * (
        assembly.last_spacing_nm - assembly.first_spacing_nm
    )
    lattice = 0.0
    if time_s > assembly.begin_3d_s:
        lattice = -math.expm1(-(time_s - assembly.begin_3d_s) / assembly.lattice_life_s)
    grown = -math.expm1(-since / assembly.domain_life_s)
    return Order(
        spacing_nm=spacing,
        stacked_share=assembly.stacked_share * -math.expm1(-since / assembly.stacking_life_s),
        lattice_share=lattice,
        domain_nm=assembly.first_domain_nm
        + grown * (assembly.last_domain_nm - assembly.first_domain_nm),
        cell_nm=(spacing, assembly.cell_b_nm, assembly.cell_c_nm),
    )


def structure_factor(assembly: Assembly, state: Order, q_per_nm: np.ndarray) -> np.ndarray:
    """S(q) of all particles, (n,); 1 without order. ``q_per_nm`` must be positive."""
    if state.stacked_share == 0.0:
        return np.ones_like(q_per_nm)
    damping = np.exp(-assembly.debye_waller_nm2 * q_per_nm**2)
    excess = (1.0 - state.lattice_share) * (stack(assembly, state, q_per_nm) - 1.0)
    if state.lattice_share > 0.0:
        excess += state.lattice_share * damping * (lattice(assembly, state, q_per_nm) - 1.0)
    return 1.0 + state.stacked_share * excess


def stack(assembly: Assembly, state: Order, q_per_nm: np.ndarray) -> np.ndarray:
    """S(q) of stacked sheets alone. Their disorder damps them: no further Debye-Waller factor."""
    along = SIGMA_PER_FWHM * 2.0 * math.pi / state.domain_nm * state.spacing_nm
    m = np.arange(1, math.ceil(FURTHEST_SIGMA / along) + 1)[:, None]
    phase = m * (q_per_nm * state.spacing_nm)
    decay = np.exp(-0.5 * m * (q_per_nm * assembly.sheet_disorder_nm) ** 2 - 0.5 * (m * along) ** 2)
    z = 1.0 + 2.0 * np.sum(np.cos(phase) * decay, axis=0)
    per_nm2 = 1.0 / (assembly.cell_b_nm * assembly.cell_c_nm)
    powder = 1.0 / (1.0 + q_per_nm**2 / (2.0 * math.pi * per_nm2))
    return 1.0 + powder * (z - 1.0)


def reflections(
    cell_nm: tuple[float, float, float], q_max_per_nm: float, centring: str = "P"
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n,) in 1/nm, ascending, and multiplicities (n,) of an orthorhombic cell."""
    limits = [int(q_max_per_nm * edge / (2.0 * math.pi)) for edge in cell_nm]
    h, k, l = np.meshgrid(*(np.arange(n + 1) for n in limits), indexing="ij")  # noqa: E741
    q = 2.0 * math.pi * np.sqrt(sum((i / e) ** 2 for i, e in zip((h, k, l), cell_nm, strict=True)))
    allowed = (q > 0.0) & (q <= q_max_per_nm)
    if centring == "F":
        allowed &= ((h + k) % 2 == 0) & ((k + l) % 2 == 0)
    multiplicity = 2.0 ** ((h > 0).astype(int) + (k > 0) + (l > 0))
    ascending = np.argsort(q[allowed], kind="stable")
    return q[allowed][ascending], multiplicity[allowed][ascending]


def lattice(assembly: Assembly, state: Order, q_per_nm: np.ndarray) -> np.ndarray:
    """Interference Z(q) of the perfect lattice with peaks of the domains' width."""
    fwhm = math.hypot(2.0 * math.pi / state.domain_nm, assembly.instrument_fwhm_per_nm)
    sigma = SIGMA_PER_FWHM * fwhm
    per_cell = 4 if assembly.centring == "F" else 1
    # Beyond exp(-k q^2) = 1e-4 the lattice is not seen, and Z may as well be 1.
    limit = math.sqrt(math.log(1e4) / assembly.debye_waller_nm2)
    positions, multiplicity = reflections(state.cell_nm, limit + 4.0 * sigma, assembly.centring)
    ascending = np.argsort(q_per_nm, kind="stable")
    q = q_per_nm[ascending]
    q = q[: np.searchsorted(q, limit)]
    peaks = np.zeros_like(q)
    first = np.searchsorted(q, positions - 6.0 * sigma)
    last = np.searchsorted(q, positions + 6.0 * sigma)
    for position, count, i, j in zip(positions, multiplicity, first, last, strict=True):
        peaks[i:j] += count * np.exp(-0.5 * ((q[i:j] - position) / sigma) ** 2)
    volume = math.prod(state.cell_nm)
    peaks *= 2.0 * math.pi**2 * per_cell / (volume * q**2 * sigma * math.sqrt(2.0 * math.pi))
    z = np.ones_like(q_per_nm)
    z[ascending[: q.size]] = peaks
    return z
