"""Two sizes of the same crystals, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.messages.rows import Row, number
from pipeline.reaction.join import Moment
from pipeline.reaction.rates import value_of, weighted_mean

OPTICAL = ("exciton_ev", "fwhm_mev", "diameter_nm")


@dataclass(frozen=True, slots=True)
class Optics:
    """What absorbance says during one exposure: values and errors by name of the column."""

    values: dict[str, tuple[float, float]]
    systematic_nm: float = math.nan
    spectra: int = 0
    flagged: bool = False


NOTHING_SEEN = Optics(dict.fromkeys(OPTICAL, (math.nan, math.nan)))


def _is_flagged(row: Row) -> bool:
    """Whether the size is outside of what its sizing curve is good for."""
    return bool(row.get("size_flag")) and row["size_flag"] not in ("ok", "none")


def combined(rows: Sequence[Row]) -> Optics:
    """The mean of spectra by their errors; one flagged size flags the mean.

    The systematic error is that of the sizing curve and the same for all: it does not average out.
    """
    values = {
        name: weighted_mean(
            [number(r, name) for r in rows], [number(r, f"{name}_err") for r in rows]
        )
        for name in OPTICAL
    }
    systematic = [number(r, "diameter_nm_systematic") for r in rows]
    known = [s for s in systematic if math.isfinite(s)]
    return Optics(
        values,
        sum(known) / len(known) if known else math.nan,
        len(rows),
        any(map(_is_flagged, rows)),
    )


def between(before: Row, after: Row, time_s: float) -> Optics:
    """What two spectra leave to expect between them, on the straight line, with its error."""
    first, last = number(before, "time_s"), number(after, "time_s")
    share = (time_s - first) / (last - first)
    values = {}
    for name in OPTICAL:
        (a, a_err), (b, b_err) = value_of(before, name), value_of(after, name)
        error = math.hypot((1 - share) * a_err, share * b_err)
        values[name] = ((1 - share) * a + share * b, error)
    ends = [number(row, "diameter_nm_systematic") for row in (before, after)]
    return Optics(values, max(ends), 0, _is_flagged(before) or _is_flagged(after))


class SeenTogether:
    """What absorbance saw during each moment's exposure.

    Parameters
    ----------
    longest_gap_s
        Spectra farther apart are not interpolated between.
    """

    def __init__(self, longest_gap_s: float) -> None:
        self._gap_s = longest_gap_s
        self._before: Row | None = None

    def during(self, moment: Moment) -> Optics:
        """Call it for each moment in order."""
        if moment.others:
            self._before = moment.others[-1]
        inside = [row for row in moment.others if number(row, "time_s") > moment.begin_s]
        if inside:
            return combined(inside)
        before, after = self._before, moment.after
        if before is None or after is None or not math.isfinite(moment.time_s):
            return NOTHING_SEEN
        if number(after, "time_s") - number(before, "time_s") > self._gap_s:
            return NOTHING_SEEN
        return between(before, after, moment.time_s)


@dataclass(frozen=True, slots=True)
class Difference:
    """Diameter by SAXS less the optical one, nm; ``named`` says which errors are known."""

    value: float
    err: float
    systematic: float
    named: str

    @property
    def z(self) -> float:
        """In standard errors, the systematic one included; NaN without any."""
        return _over(self.value, math.hypot(self.err, self._systematic))

    @property
    def _systematic(self) -> float:
        return self.systematic if self.systematic > 0 else 0.0


NO_DIFFERENCE = Difference(math.nan, math.nan, math.nan, "")


def difference(saxs: Row, optics: Optics) -> Difference:
    """Of one moment; none where a size is missing, flagged or of a fit that does not describe."""
    (diameter, error), (seen, seen_err) = (
        value_of(saxs, "nc_diameter_nm"),
        optics.values["diameter_nm"],
    )
    described = saxs.get("describes")
    if (described is not None and not described) or optics.flagged:
        return NO_DIFFERENCE
    value, err = diameter - seen, math.hypot(error, seen_err)
    if not (math.isfinite(value) and math.isfinite(err)):
        return NO_DIFFERENCE
    known = optics.systematic_nm > 0
    named = "saxs, absorbance" + (", sizing curve" if known else "")
    return Difference(value, err, optics.systematic_nm, named)


def lasting_z(differences: Sequence[Difference]) -> float:
    """That of the mean difference: counting errors average out, the sizing curve's does not."""
    known = [d for d in differences if math.isfinite(d.z)]
    if not known:
        return math.nan
    mean, error = weighted_mean([d.value for d in known], [d.err for d in known])
    systematic = [d.systematic for d in known if d.systematic > 0]
    common = sum(systematic) / len(systematic) if systematic else 0.0
    return _over(mean, math.hypot(error, common))


def _over(value: float, error: float) -> float:
    return value / error if error > 0 else math.nan
