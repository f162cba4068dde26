"""Wide-angle scattering: reflections of CsPbBr3, amorphous agglomerates, the solvent's halo.

Powder of crystals, volume fraction phi, in 1/cm (kinematic theory, Warren, X-ray Diffraction,
1969):

    I(q) = 1e7 phi r_e^2 2 pi^2 / (v^2 q^2) sum_hkl m |F_hkl|^2 profile(q - q_hkl)

with r_e in nm, v the cell's volume in nm^3, m the number of equivalent reflections, and profile a
Gaussian of area 1 whose fwhm is Scherrer's for spheres, 2 pi 1.107 / D, D the volume-weighted
diameter: that of the Fourier transform of the volume that a sphere shares with its shifted self
(0.89 by the cube root of the volume, Scherrer's usual constant).

Positions are those of the orthorhombic cell (ICSD 97851). Intensities are an approximation: atoms
stand where the perovskite without tilts has them, so lines that only the tilts of the octahedra
allow are missing (they are weak); one Debye-Waller factor serves for all; f', f'' are left out.
Agglomerates have the same atoms without long-range order: the same sum with a length of 0.8 nm.
"""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np

CELL_NM = (0.8207, 0.8255, 1.1759)
"""CsPbBr3 in the setting Pbnm (ICSD 97851; Rodova et al. 2003)."""

ELECTRON_RADIUS_NM = 2.8179403e-6

ATOMS = (
    # Electrons, a in nm of f(q) = Z / sqrt(1 + (q a)^2) (within 3.5 % of the tabulated f0 of
    # Waasmaier and Kirfel 1995, 4 to 40 1/nm), and places in the cell.
    (82, 0.0241, ((0, 0, 0), (2, 2, 0), (0, 0, 2), (2, 2, 2))),
    (55, 0.0293, ((0, 2, 1), (2, 0, 1), (0, 2, 3), (2, 0, 3))),
    (35, 0.0297, ((0, 0, 1), (2, 2, 1), (0, 0, 3), (2, 2, 3))),
    (35, 0.0297, tuple((x, y, z) for x in (1, 3) for y in (1, 3) for z in (0, 2))),
)
"""Pb, Cs, Br along c, Br across; places in quarters of the edges."""

DEBYE_WALLER_NM2 = 0.03
"""B of exp(-2 B (q / 4 pi)^2) on intensities: 3 square angstroms, as soft halides have."""

SCHERRER = 1.107
SIGMA_PER_FWHM = 1.0 / math.sqrt(8.0 * math.log(2.0))
REACH = 5.0
"""Standard deviations on which a reflection is drawn."""

AGGLOMERATE_ORDER_NM = 0.8
"""Length over which atoms of an agglomerate are ordered: hardly more than a cell."""

HALO_Q_PER_NM, HALO_SIGMA_PER_NM, HALO_PER_CM = 14.0, 2.4, 0.25
"""Carbon to carbon between neighbouring chains of hexane, 0.45 nm: the main peak of liquid alkanes.
Its height is an estimate: twice the 0.14 1/cm of independent CH2 at hexane's density."""

SMALL_ANGLE_END_PER_NM = 8.0
"""Where the tail of the crystals' small-angle scattering, below 2e-5 1/cm there, is left out."""

COMPTON_PER_CM = 0.05
"""Inelastic scattering and the halo's further orders, without structure; the same estimate."""


@cache
def reflections(q_max_per_nm: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n,) in 1/nm, ascending, and m |F|^2 (n,) of all lines that do not vanish."""
    found = []
    ranges = (range(int(q_max_per_nm * edge / (2.0 * math.pi)) + 1) for edge in CELL_NM)
    for hkl in itertools.product(*ranges):
        q = 2.0 * math.pi * math.hypot(*(i / edge for i, edge in zip(hkl, CELL_NM, strict=True)))
        if 0.0 < q <= q_max_per_nm:
            strength = 2 ** sum(i > 0 for i in hkl) * _structure_factor(hkl, q) ** 2
            if strength > 1e-6:
                found.append((q, strength))
    positions, strengths = np.array(sorted(found)).T
    for array in (positions, strengths):
        array.flags.writeable = False
    return positions, strengths


def _structure_factor(hkl: tuple[int, ...], q_per_nm: float) -> float:
    """F in electrons; real, since the cell has a centre of inversion at the origin."""
    total = 0.0
    for electrons, a_nm, places in ATOMS:
        factor = electrons / math.hypot(1.0, q_per_nm * a_nm)
        phases = (0.5 * math.pi * sum(i * x for i, x in zip(hkl, p, strict=True)) for p in places)
        total += factor * sum(map(math.cos, phases))
    return total


def powder_per_cm(q_per_nm: np.ndarray, volume_fraction: float, order_nm: float) -> np.ndarray:
    """Reflections of crystals, (n,), 1/cm.

    Parameters
    ----------
    q_per_nm
        Momentum transfer (n,), 1/nm, ascending and positive.
    volume_fraction
        Of the crystals in the vial.
    order_nm
        Diameter of the (spherical) crystals.
    """
    sigma = SIGMA_PER_FWHM * SCHERRER * 2.0 * math.pi / order_nm
    positions, strengths = reflections(math.ceil(q_per_nm[-1] + REACH * sigma))
    first = np.searchsorted(q_per_nm, positions - REACH * sigma)
    last = np.searchsorted(q_per_nm, positions + REACH * sigma)
    lines = np.zeros_like(q_per_nm)
    for position, strength, i, j in zip(positions, strengths, first, last, strict=True):
        lines[i:j] += strength * np.exp(-0.5 * ((q_per_nm[i:j] - position) / sigma) ** 2)
    lines *= np.exp(-2.0 * DEBYE_WALLER_NM2 * (q_per_nm / (4.0 * math.pi)) ** 2)
    lines *= 2.0 * math.pi**2 / (q_per_nm**2 * sigma * math.sqrt(2.0 * math.pi))
    scale = 1e7 * volume_fraction * (ELECTRON_RADIUS_NM / math.prod(CELL_NM)) ** 2
    return scale * lines


def solvent_per_cm(q_per_nm: np.ndarray) -> np.ndarray:
    """Halo of the solvent beyond its flat scattering at small angles, (n,), 1/cm."""
    halo = np.exp(-0.5 * ((q_per_nm - HALO_Q_PER_NM) / HALO_SIGMA_PER_NM) ** 2)
    compton = -np.expm1(-((q_per_nm / HALO_Q_PER_NM) ** 2))
    return HALO_PER_CM * halo + COMPTON_PER_CM * compton
