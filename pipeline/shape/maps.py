"""Maps of bodies, what they have in common, and how finely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.shape.align import Lookup

VOXELS_ACROSS = 32
"""Voxels of the largest radius's diameter; a body of 8 nm has voxels of 0.25 nm, finer than any
detail that its curve holds."""
MARGIN = 1.25
HALF = 0.5
"""Fourier shell correlation that ends the resolution, as is usual where halves are of one set of
data."""


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """Filling (n, n, n) of voxels, mean and standard deviation over bodies, 0 to 1.

    ``axis_nm`` (n,) are the voxels' middles along each axis. ``shells_per_nm`` (m,) and ``fsc``
    (m,) are the Fourier shell correlation of two halves of the bodies; empty for a single body.
    """

    axis_nm: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    shells_per_nm: np.ndarray
    fsc: np.ndarray

    @property
    def fsc_resolution_nm(self) -> float:
        """Where the correlation first falls below a half; NaN if it never does, or is unknown."""
        below = np.flatnonzero(self.fsc < HALF)
        if not below.size:
            return float("nan")
        at = below[0]
        if at == 0:
            return float(1 / self.shells_per_nm[0])
        shells, values = self.shells_per_nm[at - 1 : at + 1], self.fsc[at - 1 : at + 1]
        return float(1 / np.interp(HALF, values[::-1], shells[::-1]))


def make_maps(bodies: Sequence[Lookup], turns: Sequence[np.ndarray], largest_nm: float) -> Maps:
    """Maps of bodies laid onto one another.

    Parameters
    ----------
    bodies, turns
        Surfaces, and the turn (3, 3) of each.
    largest_nm
        Radius that none of them exceeds.
    """
    step = 2 * largest_nm / VOXELS_ACROSS
    half = int(np.ceil(0.5 * MARGIN * VOXELS_ACROSS))
    axis = (np.arange(2 * half) - half + 0.5) * step
    places = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    distance = np.sqrt(np.sum(places**2, axis=0))
    directions = places / distance
    filled = np.empty((len(bodies), *distance.shape))
    for at, (body, turn) in enumerate(zip(bodies, turns, strict=True)):
        radii = body.at(np.einsum("ij,jabc->iabc", turn, directions))
        filled[at] = np.clip((radii - distance) / step + 0.5, 0.0, 1.0)
    shells, fsc = np.empty(0), np.empty(0)
    if len(bodies) > 1:
        shells, fsc = shell_correlation(filled[::2].mean(axis=0), filled[1::2].mean(axis=0), step)
    return Maps(axis, filled.mean(axis=0), filled.std(axis=0), shells, fsc)


def shell_correlation(
    first: np.ndarray, second: np.ndarray, step_nm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fourier shell correlation of two maps (n, n, n): middles of the shells (m,), 1/nm, values.

    Harauz and van Heel, Optik 1986, 73, 146. Shells are one frequency of the box wide, up to
    where the box still holds whole ones.
    """
    one, two = np.fft.fftn(first), np.fft.fftn(second)
    n = first.shape[0]
    frequency = np.fft.fftfreq(n) * n
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*[frequency] * 3, indexing="ij")))
    shell = np.rint(radius).astype(int).ravel()
    inside = slice(1, n // 2)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, weights=values.ravel())[inside]

    cross = total((one * two.conj()).real)
    power = np.sqrt(total(np.abs(one) ** 2) * total(np.abs(two) ** 2))
    values = np.divide(cross, power, out=np.ones_like(cross), where=power > 0)
    return np.arange(1, n // 2) / (n * step_nm), values
