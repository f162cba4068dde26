"""Discrete sizes: the simulated ladder as it is found, and smooth growths that must show none."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

from benchmarks.magic_growths import (
    SmoothGrowth,
    State,
    config,
    magic_sizes,
    rows,
    spectra,
    states,
)
from detectors.sample import RECIPES, Synthesis
from detectors.sample.recipes import UNIT_CELL_NM, MagicSteps
from pipeline.fit.curvature import FindMinima
from pipeline.messages import Spectrum

SPECTRA = 600
GROWTH_SPECTRA = 300
SEED = 3


def steps_told(found: Iterable[State]) -> dict[int, int]:
    """Frame in which each step up was told first, by the cells that it led to."""
    told: dict[int, int] = {}
    for _, ladder, *_ in found:
        if ladder.step_s == ladder.time_s:
            told.setdefault(ladder.step_to_cells, ladder.frame)
    return told


def main(rounds: int = 200) -> None:
    """Print the ladder, its steps and times; ``rounds`` is the number of smooth growths."""
    settings = config()
    magic = magic_sizes(settings)
    measured = list(spectra(Synthesis("cs_oleate_dilute"), settings, SPECTRA, SEED))
    _ladder(states(rows(iter(measured), settings), magic))
    claimed = sizes = 0
    for number in range(rounds):
        growth = SmoothGrowth(number, GROWTH_SPECTRA * 0.1)
        table = rows(spectra(growth, settings, GROWTH_SPECTRA, number), settings)
        ladder = states(table, magic)[-1][1]
        claimed += ladder.claimed
        sizes = max(sizes, ladder.sizes)
    print(f"ladders claimed in {rounds} smooth growths: {claimed} (at most {sizes} sizes in one)")
    _times(measured)


def _ladder(found: list[State]) -> None:
    growth = RECIPES["cs_oleate_dilute"].growth
    assert isinstance(growth, MagicSteps)
    _, ladder, plateaus, _ = found[-1]
    told = steps_told(found)
    verdict = next((state[1].time_s for state in found if state[1].claimed), float("nan"))
    print(
        f"{'true cells':>10} {'found':>8} {'+-':>6} {'dwell s':>8} {'step told after, spectra':>26}"
    )
    for k in range(len(growth.jumps_s) + 1):
        whole = growth.first_cells + k
        index = whole - 1
        cells = plateaus.diameter_nm[index] / UNIT_CELL_NM
        error = plateaus.diameter_nm_err[index] / UNIT_CELL_NM
        # Frame n is exposed from 0.1 n to 0.1 (n + 1) s.
        delay = f"{told[whole] + 1 - 10 * growth.jumps_s[k - 1]:.1f}" if whole in told else "-"
        print(f"{whole:10} {cells:8.3f} {error:6.3f} {plateaus.dwell_s[index]:8.1f} {delay:>26}")
    share = ladder.unit_cell_nm / UNIT_CELL_NM - 1.0
    print(
        f"unit cell {ladder.unit_cell_nm:.5f} +- {ladder.unit_cell_nm_err:.5f} nm ({share:+.3%}); "
        f"claimed at {verdict:.1f} s, p = {ladder.p_value:.1e} in the end"
    )


def _times(measured: list[Spectrum]) -> None:
    settings = config()
    assert settings.absorbance.magic is not None
    stage = FindMinima(settings.absorbance.magic)
    stage.warm_up()
    table = list(rows(iter(measured), settings))
    magic = magic_sizes(settings)
    magic.reset({})
    spent: list[list[float]] = [[], []]
    for spectrum, row in zip(measured, table, strict=True):
        begin = time.perf_counter()
        list(stage.process(spectrum))
        middle = time.perf_counter()
        list(magic.process(row))
        spent[0].append(middle - begin)
        spent[1].append(time.perf_counter() - middle)
    for name, seconds in zip(("second derivative, minima", "run so far"), spent, strict=True):
        median, high = 1e3 * np.percentile(seconds, (50, 99))
        print(f"{name:28} {median:6.3f} ms a spectrum, 99 % within {high:.3f}")


if __name__ == "__main__":
    main()
