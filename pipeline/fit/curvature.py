"""Second derivative of each absorbance spectrum, and its minima."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from pipeline.config.magic import MagicAnalysis
from pipeline.kernels.noise import local_scatter
from pipeline.kernels.savitzky_golay import curvature_operators, significant_minima
from pipeline.messages import (
    BadFrameError,
    Minima,
    Result,
    RunStart,
    SecondDerivative,
    Spectrum,
    frozen_array,
)
from pipeline.messages.magic import MOST_MINIMA

COLUMNS = tuple(
    f"minimum_{k}_{name}"
    for k in range(1, MOST_MINIMA + 1)
    for name in ("ev", "ev_err", "depth", "sigmas")
)
REACH = 1.0 / 3.0
"""A minimum is the lowest of this share of half a window to both sides. Two peaks that leave two
minima are farther apart; two minima of noise on one broad peak are not."""


class FindMinima:
    """Stage: `Spectrum` to `SecondDerivative` and `Minima`, each spectrum by itself.

    A peak is a minimum of the second derivative, also where it is only a shoulder of the
    absorbance, and on a background that is a parabola at most it stays where the peak is. The
    operators that make it depend on energies and usable pixels only and are kept; a spectrum with
    other ones gets its own, so the numbers never depend on what came before.

    Parameters
    ----------
    settings
        Section ``absorbance.magic`` of a config.
    """

    name: ClassVar[str] = "minima"
    consumes: ClassVar[tuple[type, ...]] = (Spectrum,)
    produces: ClassVar[tuple[type[Result], ...]] = (SecondDerivative, Minima)

    def __init__(self, settings: MagicAnalysis) -> None:
        self._settings = settings
        low, high = settings.energy_range_ev
        step = 1e-3 * settings.energy_step_mev
        self._centres = frozen_array(low + step * np.arange(int((high - low) / step + 1e-9) + 1))
        self._reach = max(1, round(REACH * settings.half_width_mev / settings.energy_step_mev))
        self._energy = np.empty(0)
        self._usable = np.empty(0, bool)
        self._operators = curvature_operators(self._energy, self._usable, self._centres, 1.0)

    def reset(self, start: RunStart, /) -> None:
        """Nothing that a result depends on is kept from spectrum to spectrum."""

    def warm_up(self) -> None:
        """Compile (or load from the cache) every kernel, before the first frame."""
        energy = np.linspace(*self._settings.energy_range_ev, 400)
        for sigma in (1e-3, np.nan):
            spectrum = Spectrum(
                frame=0,
                time_s=0.0,
                energy_ev=energy,
                absorbance=np.exp(-0.5 * ((energy - np.mean(energy)) / 0.05) ** 2),
                sigma=np.full(400, sigma),
            )
            list(self.process(spectrum))

    def process(self, message: Spectrum, /) -> Iterable[Result]:
        """The second derivative on the even axis, and the row of its minima.

        Raises
        ------
        BadFrameError
            If the three lines are not of one length, or energies do not rise or fall throughout.
        """
        energy, absorbance, sigma = _lines(message)
        if not np.any(np.isfinite(sigma)):
            sigma = np.full(energy.size, np.median(local_scatter(absorbance)))
        usable = np.isfinite(absorbance) & np.isfinite(sigma)
        if not (np.array_equal(usable, self._usable) and np.array_equal(energy, self._energy)):
            half_width = 1e-3 * self._settings.half_width_mev
            self._operators = curvature_operators(energy, usable, self._centres, half_width)
            self._energy, self._usable = energy, usable
        second, error, minima = significant_minima(
            self._centres,
            *self._operators,
            absorbance,
            sigma,
            self._reach,
            self._settings.least_sigma,
            MOST_MINIMA,
        )
        where = {"frame": message.frame, "time_s": message.time_s}
        yield SecondDerivative(
            **where,
            energy_ev=self._centres,
            second_per_ev2=frozen_array(second),
            sigma_per_ev2=frozen_array(error),
        )
        yield Minima(**where, **dict(zip(COLUMNS, minima.ravel().tolist(), strict=True)))


def _lines(message: Spectrum) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energy, absorbance and error by rising energy."""
    where = f"absorbance frame {message.frame}"
    energy, absorbance, sigma = (
        np.ascontiguousarray(line, dtype=float)
        for line in (message.energy_ev, message.absorbance, message.sigma)
    )
    if not energy.size == absorbance.size == sigma.size:
        raise BadFrameError(
            f"{where}: expected energy_ev, absorbance and sigma of one length, got {energy.size}, "
            f"{absorbance.size} and {sigma.size}"
        )
    if energy.size > 1 and energy[0] > energy[-1]:
        energy, absorbance, sigma = (line[::-1].copy() for line in (energy, absorbance, sigma))
    if not np.all(np.diff(energy) > 0):
        raise BadFrameError(f"{where}: expected energies that rise or fall throughout, got others")
    return energy, absorbance, sigma
