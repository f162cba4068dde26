"""Sizes so far: their histogram, whether they are a ladder, and the plateaus on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.config.magic import MagicAnalysis
from pipeline.kernels import ladder as kernel
from pipeline.messages import (
    MagicHistogram,
    MagicLadder,
    MagicPlateaus,
    Result,
    frozen_array,
)

FEWEST_SIZES = 3
"""Two sizes are always multiples of something near the unit cell, or nearly."""
TESTS = 10
"""Numbers of sizes that are tested, 3 to 12, each for this share of the false alarms."""


@dataclass(frozen=True, slots=True)
class Comb:
    """Unit cell of which the sizes are multiples, its standard error, and the chance of that."""

    unit_cell_nm: float
    unit_cell_nm_err: float
    p_value: float


class Stairs:
    """Which whole number of cells growth stands on, since when, and where it stood before.

    Parameters
    ----------
    levels
        Most cells that are thought of.
    unit_cell_nm
        What sizes are counted in.
    """

    def __init__(self, levels: int, unit_cell_nm: float) -> None:
        self.unit_cell_nm = unit_cell_nm
        self.level = 0
        self.entered_s = math.nan
        self.steps = 0
        self.step_s = math.nan
        self.step_from = self.step_to = 0
        self.since_s = np.full(levels, np.nan)
        self.dwell_s = np.full(levels, np.nan)
        self._probability = np.zeros(levels)
        self._last_s = math.nan

    def add(self, time_s: float, diameter_nm: float, diameter_nm_err: float) -> None:
        """Take up a size. The time since the one before belongs to the plateau of that one."""
        cells, cells_err = diameter_nm / self.unit_cell_nm, diameter_nm_err / self.unit_cell_nm
        level = int(kernel.follow_level(self._probability, cells, cells_err))
        if self.level:
            self.dwell_s[self.level - 1] += time_s - self._last_s
        self._last_s = time_s
        if level == self.level:
            return
        if self.level:
            self.steps += 1
            self.step_s, self.step_from, self.step_to = time_s, self.level, level
        self.level, self.entered_s = level, time_s
        if math.isnan(self.since_s[level - 1]):
            self.since_s[level - 1], self.dwell_s[level - 1] = time_s, 0.0

    @property
    def stood_s(self) -> float:
        """On the plateau of the moment so far."""
        return self._last_s - self.entered_s


class Ladder:
    """Takes up one size after the other; a pure function of those.

    Sizes are the modes of the density of all sizes so far. Whether they are multiples of one unit
    cell is tested once for each number of sizes, when growth has left so many, so that the
    chances of false alarms of all tests add up to the declared one. A ladder once claimed stays.
    From then on steps are counted in the unit cell found, those before are counted again.

    Whole multiples are meant from zero, so the sizing curve must be right: on the simulated ladder
    one that is off by 0.1 nm delays the claim from 2.3 to 11 s and moves the unit cell by 2 %, one
    that is off by 0.2 nm prevents it; the sizes are then still found, as a count and in the
    histogram.

    Parameters
    ----------
    settings
        Section ``absorbance.magic`` of a config.
    """

    def __init__(self, settings: MagicAnalysis) -> None:
        cell = settings.unit_cell_nm
        self._settings = settings
        low, high = (size / cell for size in settings.size_range_nm)
        step = settings.histogram_step_cells
        self._axis = frozen_array(low + step * np.arange(int((high - low) / step) + 1))
        self._width = settings.histogram_width_nm / cell
        tolerance = settings.unit_cell_tolerance
        self._cell_range = (cell * (1.0 - tolerance), cell * (1.0 + tolerance))
        self._levels = math.ceil(settings.size_range_nm[1] / self._cell_range[0])
        self._whole = frozen_array(np.arange(1.0, self._levels + 1.0))
        self.reset()

    def reset(self) -> None:
        """Forget all sizes."""
        self._density = np.zeros(self._axis.size)
        self._history: list[tuple[float, float, float]] = []
        self._stairs = Stairs(self._levels, self._settings.unit_cell_nm)
        self._tested = FEWEST_SIZES - 1
        self._claimed = False
        self._p_value = math.nan

    def process(
        self, frame: int, time_s: float, diameter_nm: float, diameter_nm_err: float
    ) -> Iterable[Result]:
        """The ladder as of this spectrum; without a size (NaN) as of the one before."""
        if math.isfinite(diameter_nm):
            self._add(time_s, diameter_nm, diameter_nm_err)
        modes = self._modes()
        if math.isfinite(diameter_nm):
            self._test(modes, diameter_nm)
        comb = None
        if self._claimed and len(modes) >= FEWEST_SIZES:
            comb = self._comb(modes)
        cell = self._stairs.unit_cell_nm if comb is None else comb.unit_cell_nm
        diameters, errors = self._of_levels(modes, cell)
        yield self._row(frame, time_s, len(modes), comb, cell, diameters, errors)
        yield MagicPlateaus(
            frame=frame,
            time_s=time_s,
            whole_cells=self._whole,
            diameter_nm=frozen_array(diameters),
            diameter_nm_err=frozen_array(errors),
            since_s=frozen_array(self._stairs.since_s.copy()),
            dwell_s=frozen_array(self._stairs.dwell_s.copy()),
        )
        yield MagicHistogram(
            frame=frame,
            time_s=time_s,
            cells=self._axis,
            density=frozen_array(self._density / max(len(self._history), 1)),
        )

    def _add(self, time_s: float, diameter_nm: float, diameter_nm_err: float) -> None:
        place = diameter_nm / self._settings.unit_cell_nm
        kernel.add_kernel(
            self._density, self._axis[0], self._settings.histogram_step_cells, place, self._width
        )
        self._history.append((time_s, diameter_nm, diameter_nm_err))
        self._stairs.add(time_s, diameter_nm, diameter_nm_err)

    def _modes(self) -> np.ndarray:
        """Sizes so far, (k, 3): nm, standard error, spectra."""
        settings = self._settings
        modes = kernel.find_modes(
            self._density,
            self._axis[0],
            settings.histogram_step_cells,
            self._width,
            settings.least_spectra,
            settings.valley,
        )
        modes[:, :2] *= settings.unit_cell_nm
        return modes

    def _comb(self, modes: np.ndarray) -> Comb:
        return Comb(*kernel.fit_comb(modes[:, 0].copy(), *self._cell_range))

    def _test(self, modes: np.ndarray, diameter_nm: float) -> None:
        """Test the sizes that growth has left, if they are more than ever before."""
        left = modes[np.abs(modes[:, 0] - diameter_nm) > 0.5 * self._settings.unit_cell_nm]
        if not self._tested < len(left) < FEWEST_SIZES + TESTS:
            return
        self._tested = len(left)
        comb = self._comb(left)
        self._p_value = comb.p_value
        if self._claimed or comb.p_value > self._settings.false_alarms / TESTS:
            return
        self._claimed = True
        self._stairs = Stairs(self._levels, comb.unit_cell_nm)
        for size in self._history:
            self._stairs.add(*size)

    def _of_levels(self, modes: np.ndarray, cell_nm: float) -> tuple[np.ndarray, np.ndarray]:
        """Diameter and error of each whole number of cells (n,): of its most frequent size."""
        diameters, errors = np.full((2, self._levels), np.nan)
        most = np.zeros(self._levels)
        for diameter, error, number in modes.tolist():
            level = math.floor(diameter / cell_nm + 0.5) - 1
            if 0 <= level < self._levels and number > most[level]:
                diameters[level], errors[level], most[level] = diameter, error, number
        return diameters, errors

    def _row(
        self,
        frame: int,
        time_s: float,
        sizes: int,
        comb: Comb | None,
        cell_nm: float,
        diameters: np.ndarray,
        errors: np.ndarray,
    ) -> MagicLadder:
        stairs = self._stairs
        level = stairs.level
        diameter = float(diameters[level - 1]) if level else math.nan
        return MagicLadder(
            frame=frame,
            time_s=time_s,
            claimed=self._claimed,
            p_value=self._p_value,
            sizes=sizes,
            unit_cell_nm=math.nan if comb is None else comb.unit_cell_nm,
            unit_cell_nm_err=math.nan if comb is None else comb.unit_cell_nm_err,
            plateau=stairs.steps + 1 if level else 0,
            plateau_name=f"{level} cells" if level else "",
            plateau_nm=diameter,
            plateau_nm_err=float(errors[level - 1]) if level else math.nan,
            plateau_cells=diameter / cell_nm,
            plateau_since_s=stairs.entered_s,
            plateau_dwell_s=stairs.stood_s,
            steps=stairs.steps,
            step_s=stairs.step_s,
            step_from_cells=stairs.step_from,
            step_to_cells=stairs.step_to,
        )
