"""Rates, agreement, balance and phase of the reaction, one row for each moment."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from pipeline.config.reaction import ReactionAnalysis
from pipeline.config.sample import Sample
from pipeline.messages import Result
from pipeline.messages.reaction import ReactionGrowth
from pipeline.messages.rows import Row, number
from pipeline.reaction import amounts, phase
from pipeline.reaction.interface import Outcome
from pipeline.reaction.join import Join, Moment
from pipeline.reaction.rates import Slope, Window, value_of
from pipeline.reaction.sizes import (
    NO_DIFFERENCE,
    Difference,
    Optics,
    SeenTogether,
    difference,
    lasting_z,
)

SAXS, ABSORBANCE = "saxs/populations", "absorbance/exciton"

SAXS_RATES = {
    "growth_rate_nm_per_s": "diameter",
    "focusing_rate_nm_per_s": "sigma",
    "relative_focusing_rate_per_s": "relative_sigma",
    "nucleation_rate_um_per_s": "concentration",
    "crystallisation_rate_per_s": "yield",
}
"""By column: the quantity that it is the rate of."""

OPTICAL_RATES = {
    "optical_growth_rate_nm_per_s": ("diameter_nm", 1.0),
    "exciton_rate_mev_per_s": ("exciton_ev", 1e3),
    "fwhm_rate_mev_per_s": ("fwhm_mev", 1.0),
}
"""By column: the column of ``absorbance/exciton`` that it is the rate of, and the unit's factor."""


class ReactionState:
    """What is remembered of a run: the rows of the windows, and the first amounts.

    Parameters
    ----------
    settings
        Windows.
    sample
        Volume of a formula unit, limiting concentration.
    """

    def __init__(self, settings: ReactionAnalysis, sample: Sample) -> None:
        self._sample = sample
        self._window_s = settings.window_s
        least = settings.least_rows
        names = (*SAXS_RATES.values(), "number", "volume")
        self._windows = {name: Window(settings.window_s, least) for name in names}
        self._slow = Window(settings.window_s * settings.slow_windows, least)
        self._optical = {
            name: Window(settings.window_s, least) for name, _ in OPTICAL_RATES.values()
        }
        self._seen = SeenTogether(settings.window_s)
        self._differences: deque[tuple[float, Difference]] = deque()
        self._balance = amounts.Balance(sample.limiting_concentration_mm)

    def with_saxs(self, moment: Moment) -> ReactionGrowth:
        """The row of a frame of SAXS and the spectra that go with it."""
        self._add_spectra(moment.others)
        row, now_s = moment.row, moment.time_s
        if math.isnan(moment.begin_s):
            return absent(int(row["frame"]), now_s)
        self._add_populations(row, now_s)
        optics = self._seen.during(moment)
        slopes = {name: window.slope(now_s) for name, window in self._windows.items()}
        found = difference(row, optics)
        amount, amount_err = amounts.crystals_mm(row, self._sample.formula_volume_nm3)
        named, probability = self._phase(row, slopes, now_s)
        diameter, diameter_err = value_of(row, "nc_diameter_nm")
        return absent(
            int(row["frame"]),
            now_s,
            saxs_diameter_nm=diameter,
            saxs_diameter_nm_err=diameter_err,
            agreement_z=found.z,
            agreement_window_z=self._lasting(found, now_s),
            agreement_errors=found.named,
            rate_time_s=slopes["diameter"].time_s,
            rate_window_s=slopes["diameter"].span_s,
            rate_rows=slopes["diameter"].rows,
            nucleation_time_s=slopes["concentration"].time_s,
            crystallisation_time_s=slopes["yield"].time_s,
            crystals_mm=amount,
            crystals_mm_err=amount_err,
            phase=named,
            phase_probability=probability,
            **_optical_columns(optics),
            **_rates({column: slopes[name] for column, name in SAXS_RATES.items()}),
            **self._optical_rates(now_s)[0],
            **self._balance.of(row),
        )

    def of_absorbance(self, moment: Moment) -> ReactionGrowth:
        """The row of a spectrum, where there is no SAXS."""
        row, now_s = moment.row, moment.time_s
        if math.isnan(moment.begin_s):
            return absent(int(row["frame"]), now_s)
        self._add_spectra([row])
        optics = self._seen.during(Moment(row, now_s, moment.begin_s, (row,)))
        rates, slopes = self._optical_rates(now_s)
        named, probability = phase.optical(slopes["exciton_rate_mev_per_s"])
        if not math.isfinite(number(row, "exciton_ev")):
            named, probability = phase.agglomerates(*value_of(row, "agglomerate_band"))
        return absent(
            int(row["frame"]),
            now_s,
            phase=named,
            phase_probability=probability,
            **_optical_columns(optics),
            **rates,
        )

    def _add_populations(self, row: Row, now_s: float) -> None:
        diameter, diameter_err = value_of(row, "nc_diameter_nm")
        sigma, sigma_err = value_of(row, "nc_sigma_nm")
        relative, relative_err = math.nan, math.nan
        if diameter > 0 and sigma > 0:
            # As if diameter and width were independent: their covariance is not stored.
            relative = sigma / diameter
            relative_err = relative * math.hypot(sigma_err / sigma, diameter_err / diameter)
        values = {
            "diameter": (diameter, diameter_err),
            "sigma": (sigma, sigma_err),
            "relative_sigma": (relative, relative_err),
            "concentration": value_of(row, "nc_concentration_um"),
            "yield": value_of(row, "yield_fraction"),
            "number": amounts.number_of_crystals(row),
            "volume": value_of(row, "nc_volume_fraction"),
        }
        for name, (value, error) in values.items():
            self._windows[name].add(now_s, value, error)
        self._slow.add(now_s, diameter, diameter_err)

    def _add_spectra(self, rows: Iterable[Row]) -> None:
        for row in rows:
            for column, factor in OPTICAL_RATES.values():
                value, error = value_of(row, column)
                self._optical[column].add(number(row, "time_s"), factor * value, factor * error)

    def _optical_rates(self, now_s: float) -> tuple[dict[str, float], Mapping[str, Slope]]:
        slopes = {c: self._optical[name].slope(now_s) for c, (name, _) in OPTICAL_RATES.items()}
        columns = _rates(slopes)
        columns["optical_time_s"] = slopes["exciton_rate_mev_per_s"].time_s
        return columns, slopes

    def _lasting(self, found: Difference, now_s: float) -> float:
        kept = self._differences
        if found is not NO_DIFFERENCE:
            kept.append((now_s, found))
        while kept and kept[0][0] < now_s - self._window_s:
            kept.popleft()
        return lasting_z([d for _, d in kept])

    def _phase(self, row: Row, slopes: Mapping[str, Slope], now_s: float) -> tuple[str, float]:
        volume, volume_err = value_of(row, "nc_volume_fraction")
        lumps = value_of(row, "agglomerate_volume_fraction")
        found = phase.agglomerates(*lumps, volume, volume_err)
        count = amounts.number_of_crystals(row)[0]
        if found[0] == "agglomerates" or not (volume > 0 and count > 0):
            return found
        return phase.crystals(
            _relative(slopes["number"], count),
            _relative(slopes["volume"], volume),
            self._slow.slope(now_s),
            slopes["sigma"],
        )


def _relative(rate: Slope, value: float) -> Slope:
    """Rate of the logarithm."""
    return Slope(rate.value / value, rate.err / value, rate.time_s, rate.span_s, rate.rows)


def _optical_columns(optics: Optics) -> dict[str, Any]:
    columns: dict[str, Any] = {"spectra": optics.spectra}
    for name, (value, error) in optics.values.items():
        column = "optical_diameter_nm" if name == "diameter_nm" else name
        columns[column], columns[f"{column}_err"] = value, error
    return {**columns, "optical_diameter_nm_systematic": optics.systematic_nm}


def _rates(slopes: Mapping[str, Slope]) -> dict[str, float]:
    columns = {}
    for name, rate in slopes.items():
        columns[name], columns[f"{name}_err"] = rate.value, rate.err
    return columns


_ABSENT: dict[str, Any] = {f.name: math.nan for f in fields(ReactionGrowth)}
_ABSENT |= {"spectra": 0, "rate_rows": 0, "agreement_errors": "", "phase": "unknown"}


def absent(frame: int, time_s: float, **known: Any) -> ReactionGrowth:
    """A row in which only what is given is known."""
    return ReactionGrowth(**{**_ABSENT, "frame": frame, "time_s": time_s, **known})


class JoinedGrowth:
    """The stream ``reaction``: its table ``reaction/growth``, on the clock of SAXS if there is one.

    Parameters
    ----------
    settings, sample
        See `ReactionState`.
    tables
        Those of SAXS and absorbance that the run has, one or both.
    """

    name = "reaction"
    produces: Sequence[type[Result]] = (ReactionGrowth,)

    def __init__(self, settings: ReactionAnalysis, sample: Sample, tables: Sequence[str]) -> None:
        self.reads: Sequence[str] = [n for n in (SAXS, ABSORBANCE) if n in tables]
        clock, *others = self.reads
        if not settings.join:
            others, self.reads = [], [clock]
        self._join = Join(clock, others[0] if others else None)
        state = ReactionState(settings, sample)
        self._row = state.with_saxs if clock == SAXS else state.of_absorbance

    def take(self, node: str, row: Row, /) -> Iterable[Outcome]:
        """Outcomes of the frames that are certain with this row."""
        return [self._outcome(moment) for moment in self._join.take(node, row)]

    def end(self, node: str, /) -> Iterable[Outcome]:
        """Outcomes of the frames that waited for this table."""
        return [self._outcome(moment) for moment in self._join.end(node)]

    def _outcome(self, moment: Moment) -> Outcome:
        row = self._row(moment)
        return Outcome(row.frame, row.time_s, (row,))
