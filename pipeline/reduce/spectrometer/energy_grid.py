"""Averages of a spectrum over even bins of energy.

Between pixels the spectrum is taken as a straight line; a bin's value is the mean of that line over
the bin. That is a weighted mean of the pixels with weights that sum to 1 and whose mean energy is
the bin's centre, so a straight spectrum stays as it is. A curved one with A'' is raised by
A'' (step^2 / 24 + spacing^2 / 12): the top of a Gaussian band is lowered by 0.2 % with ten bins in
its fwhm, and by 1 % with five.

Weights follow from the energies alone. Weights of inverse variance, where the variance is of the
pixel's own counts, would prefer pixels that counted much by chance, and draw absorbance down. They
would gain nothing where neighbouring pixels have much the same error.

Where pixels are missing, the others' weights are multiplied by a straight line so that sum and mean
energy are kept. A bin that has lost more than half of its weight, or whose other pixels are all on
one side, is NaN.

Neighbouring bins share pixels, so their errors are correlated; the fits take them as independent,
which a step of some pixels makes true enough. For evenly spaced pixels with one error, over all
positions of the bins:

=============================  =====  =====  =====  =====
step / pixel spacing             1      2      4      8
correlation of neighbours      0.39   0.15   0.07   0.03
=============================  =====  =====  =====  =====

Errors that all pixels share (offset of the dark, lamp, stray light) are not made smaller by the
average.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.reduce.spectrometer.ratio import Errors

# A bin with less than this share of its weight left is NaN.
_LEAST_WEIGHT = 0.5
# Below this share of the weight missing it is rounding.
_COMPLETE = 1.0 - 1e-9


class EnergyGrid:
    """Bins around whole multiples of a step, between the first and the last pixel.

    Parameters
    ----------
    energy_ev
        (n,) of the pixels, rising.
    step_ev
        Width of a bin.

    Attributes
    ----------
    energy_ev
        (m,) centres.

    Raises
    ------
    ValueError
        If a bin is narrower than the widest pixel, or there is no bin.
    """

    def __init__(self, energy_ev: np.ndarray, step_ev: float) -> None:
        spacing = np.diff(energy_ev)
        widest = int(np.argmax(spacing))
        # Rounding of even energies must not refuse a step that is their spacing.
        if step_ev < spacing[widest] * (1.0 - 1e-9):
            # Rounded up, so that what the line says can be set.
            least = math.ceil(spacing[widest] * 1e5) / 1e5
            raise ValueError(
                f"energy_step_ev: expected at least {least:g} eV, the pixels' spacing at "
                f"{energy_ev[widest]:.4g} eV, got {step_ev:g}: take a wider step or a lower "
                "energy_max_ev"
            )
        first = math.ceil(energy_ev[0] / step_ev + 0.5 - 1e-9)
        last = math.floor(energy_ev[-1] / step_ev - 0.5 + 1e-9)
        if last < first:
            raise ValueError(
                f"energy_step_ev: expected a bin between {energy_ev[0]:.4g} and "
                f"{energy_ev[-1]:.4g} eV, got none of {step_ev:g} eV"
            )
        self.energy_ev = np.arange(first, last + 1) * step_ev
        edges = (np.arange(first, last + 2) - 0.5) * step_ev
        edges = np.clip(edges, energy_ev[0], energy_ev[-1])
        self._bin, self._pixel, self._weight = _line_weights(energy_ev, edges, step_ev)
        self._distance = energy_ev[self._pixel] - self.energy_ev[self._bin]

    def average(self, values: np.ndarray, errors: Errors) -> tuple[np.ndarray, np.ndarray]:
        """Means (m,) of values (n,) over the bins, and their standard errors (m,).

        Values that are NaN are left out.
        """
        valid = np.isfinite(values)
        weight = self._weights(valid)

        def mean(numbers: np.ndarray, weights: np.ndarray = weight) -> np.ndarray:
            known = np.where(valid, numbers, 0.0)
            return self._sum(weights * known[self._pixel])

        averaged = Errors(
            mean(errors.own, weight**2),
            mean(errors.drift),
            np.array([mean(row) for row in errors.shared]).reshape(-1, len(self.energy_ev)),
        )
        return mean(values), averaged.sigma()

    def _weights(self, valid: np.ndarray) -> np.ndarray:
        """Weights of the entries when only some pixels are valid; NaN in bins that are lost."""
        if valid.all():
            return self._weight
        weight = np.where(valid[self._pixel], self._weight, 0.0)
        kept = self._sum(weight)
        first = self._sum(weight * self._distance)
        second = self._sum(weight * self._distance**2)
        whole = kept > _COMPLETE
        spread = kept * second - first**2
        # One pixel alone (no spread) has no mean energy that could be kept.
        lost = ~whole & ~((kept >= _LEAST_WEIGHT) & (spread > 1e-9 * second))
        spread[whole | lost] = 1.0
        line = second[self._bin] - first[self._bin] * self._distance
        tilted = weight * line / spread[self._bin]
        one_sided = self._sum((tilted < 0.0).astype(np.float64)) > 0
        weight = np.where(whole[self._bin], weight, tilted)
        weight[(lost | (~whole & one_sided))[self._bin]] = np.nan
        return weight

    def _sum(self, entries: np.ndarray) -> np.ndarray:
        return np.bincount(self._bin, entries, len(self.energy_ev))


def _line_weights(
    energy_ev: np.ndarray, edges: np.ndarray, step_ev: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin, pixel and weight of every entry: means over bins of the line through the pixels."""
    inner = energy_ev[(energy_ev > edges[0]) & (energy_ev < edges[-1])]
    cuts = np.union1d(edges, inner)
    middle = 0.5 * (cuts[1:] + cuts[:-1])
    width = np.diff(cuts)
    bins = np.searchsorted(edges, middle) - 1
    left = np.searchsorted(energy_ev, middle) - 1
    # The mean of a line over a piece is its value in the middle.
    part = (middle - energy_ev[left]) / (energy_ev[left + 1] - energy_ev[left])
    width = width / step_ev
    all_bins = np.concatenate([bins, bins])
    pixels = np.concatenate([left, left + 1])
    weights = np.concatenate([width * (1.0 - part), width * part])
    # One entry for each pair of bin and pixel: their squares are the variance's weights.
    pairs, entry = np.unique(all_bins * len(energy_ev) + pixels, return_inverse=True)
    return pairs // len(energy_ev), pairs % len(energy_ev), np.bincount(entry, weights)
