"""Discrete ("magic") sizes: the second derivative of the absorbance, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.messages.results import ArrayResult, RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SecondDerivative(ArrayResult):
    """Second derivative of one spectrum by the energy and its standard error, in 1/eV^2.

    NaN where the spectrum has too few valid pixels.
    """

    NODE = "absorbance/second_derivative"
    AXIS_NODE = "absorbance/second_derivative_energy"
    AXIS = "energy_ev"
    LINES = ("second_per_ev2", "sigma_per_ev2")

    energy_ev: np.ndarray
    second_per_ev2: np.ndarray
    sigma_per_ev2: np.ndarray


MOST_MINIMA = 6
"""Minima that a row of `Minima` has room for."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Minima(RowResult):
    """Deepest significant minima of one spectrum's second derivative, by rising energy.

    Depth is in 1/eV^2 and positive; ``sigmas`` is the depth over its standard error.
    """

    NODE = "absorbance/minima"

    minimum_1_ev: float
    minimum_1_ev_err: float
    minimum_1_depth: float
    minimum_1_sigmas: float
    minimum_2_ev: float
    minimum_2_ev_err: float
    minimum_2_depth: float
    minimum_2_sigmas: float
    minimum_3_ev: float
    minimum_3_ev_err: float
    minimum_3_depth: float
    minimum_3_sigmas: float
    minimum_4_ev: float
    minimum_4_ev_err: float
    minimum_4_depth: float
    minimum_4_sigmas: float
    minimum_5_ev: float
    minimum_5_ev_err: float
    minimum_5_depth: float
    minimum_5_sigmas: float
    minimum_6_ev: float
    minimum_6_ev_err: float
    minimum_6_depth: float
    minimum_6_sigmas: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MagicTracks(RowResult):
    """Minima followed from spectrum to spectrum.

    ``minimum_k_track`` is the number of the track that minimum k of this spectrum's `Minima` is on
    (from 1; 0 = none: it was seen too few times yet).
    ``track`` is the one that shows the size of the moment, ``cells`` that size in nominal unit
    cells, whatever track it is on. ``tracks`` are those that live; ``births`` and ``deaths`` are
    told in this spectrum. ``jump_cells`` is NaN unless the size went over to another track, at
    least half a unit cell away and by more than the errors.
    """

    NODE = "magic/tracks"

    track: int
    age_s: float
    diameter_nm: float
    diameter_nm_err: float
    cells: float
    tracks: int
    births: int
    deaths: int
    jump_cells: float
    minimum_1_track: int
    minimum_2_track: int
    minimum_3_track: int
    minimum_4_track: int
    minimum_5_track: int
    minimum_6_track: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MagicLadder(RowResult):
    """Whether sizes are whole multiples of a unit cell, and on which of them growth stands.

    Until ``claimed``, plateaus and steps count on the nominal unit cell and show nothing but
    where the size is nearest: smooth growth passes them too. ``p_value`` is that of the last test:
    the chance that as many unrelated sizes lie as near to multiples of one unit cell. ``sizes`` is
    how many different sizes were found so far. A plateau is named after its whole number of cells;
    ``plateau_nm`` and ``plateau_cells`` are measured, NaN until it lasted.
    ``step_s`` is when the last step was told, NaN (and 0 cells) before the first.
    """

    NODE = "magic/ladder"

    claimed: bool
    p_value: float
    sizes: int
    unit_cell_nm: float
    unit_cell_nm_err: float
    plateau: int
    plateau_name: str
    plateau_nm: float
    plateau_nm_err: float
    plateau_cells: float
    plateau_since_s: float
    plateau_dwell_s: float
    steps: int
    step_s: float
    step_from_cells: int
    step_to_cells: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MagicPlateaus(ArrayResult):
    """All plateaus until this spectrum, by their whole number of unit cells; NaN = not visited.

    Measured diameter with its error, the time when growth first stood there, and how long.
    """

    NODE = "magic/plateaus"
    AXIS_NODE = "magic/plateau_cells"
    AXIS = "whole_cells"
    LINES = ("diameter_nm", "diameter_nm_err", "since_s", "dwell_s")

    whole_cells: np.ndarray
    diameter_nm: np.ndarray
    diameter_nm_err: np.ndarray
    since_s: np.ndarray
    dwell_s: np.ndarray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MagicHistogram(ArrayResult):
    """Density of the sizes of all spectra so far, per nominal unit cell; its integral is 1."""

    NODE = "magic/histogram"
    AXIS_NODE = "magic/histogram_cells"
    AXIS = "cells"
    LINES = ("density",)

    cells: np.ndarray
    density: np.ndarray
