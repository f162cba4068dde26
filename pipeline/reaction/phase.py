"""In what phase the reaction is, said in the words of the field and with a probability.

Three rates tell the phases apart, each against a level that is no more than a trifle over one
window (``TRIFLE``): the number of crystals N, their volume V (what has crystallised), and, over a
longer window, their diameter D.

============  ===================  ===========================  ==========
phase         d ln N / dt          d ln V / dt                  d D / dt
============  ===================  ===========================  ==========
nucleation    above its level
growth        below                above its level
ripening      below                below                        above 0
============  ===================  ===========================  ==========

Each comparison has the probability that the rate's normal error leaves it, and those of a row of
the table are multiplied, as if the rates were independent (they are not: N and V of one fit go
together). What is most probable is named if it is more probable than ``LEAST``; else the phase is
unknown. Nothing is remembered from frame to frame but the rows of the windows. Before all that, the
phase is agglomerates where their volume is more than ten times that of the crystals (``SHARE``).
From absorbance alone only growth can be told, by the exciton's shift to the red.
"""

from __future__ import annotations

import math

from scipy.special import ndtr

from pipeline.reaction.rates import Slope

UNKNOWN_PHASE = ("unknown", math.nan)

LEAST = 0.8
"""Below this probability no phase is named."""

NUMBER_TRIFLE = 0.05
"""Share of the crystals that is no nucleation when it is born in one window: of the published
synthesis nucleation passes this level at 3.0 s, where the number has its maximum (window 3 s)."""

VOLUME_TRIFLE = 0.005
"""Share of the volume that is no growth when it crystallises in one window: the published synthesis
falls below at 28.5 s; its phase III ends at 30 s."""

SHARE = 0.1
"""Volume of crystals over that of agglomerates below which the sample is agglomerates: in the
published synthesis 0.3 uM of 4.1 nm beside 21 uM of 3.0 nm at 0.5 s, where phase I ends."""

CERTAIN = 0.95
"""Growth is called focusing or broadening if that is at least so probable: it comes on top."""


def agglomerates(
    amount: float, error: float, of_crystals: float = math.nan, of_crystals_err: float = math.nan
) -> tuple[str, float]:
    """Whether there is little but agglomerates; volumes in any unit, NaN where there are none."""
    if not amount > 0:
        return UNKNOWN_PHASE
    if of_crystals > 0:
        amount, error = (
            amount - of_crystals / SHARE,
            math.hypot(error, of_crystals_err / SHARE),
        )
    if not error > 0:
        return UNKNOWN_PHASE
    probability = float(ndtr(amount / error))
    return ("unknown" if probability < LEAST else "agglomerates"), probability


def crystals(number: Slope, volume: Slope, slow: Slope, sigma: Slope) -> tuple[str, float]:
    """The phase where there are crystals.

    Parameters
    ----------
    number, volume
        Relative rates of their number and volume, 1/s.
    slow
        Rate of the diameter over the long window, nm/s.
    sigma
        Rate of the standard deviation of diameters, nm/s.
    """
    if not (number.span_s > 0 and volume.span_s > 0):
        return UNKNOWN_PHASE
    born = number.probability_above(NUMBER_TRIFLE / number.span_s)
    taken_up = volume.probability_above(VOLUME_TRIFLE / volume.span_s)
    larger = slow.probability_above(0.0)
    likely = {
        "nucleation": born,
        "growth": (1 - born) * taken_up,
        "ripening": (1 - born) * (1 - taken_up) * (0.0 if math.isnan(larger) else larger),
    }
    if any(map(math.isnan, likely.values())):
        return UNKNOWN_PHASE
    phase, probability = max(likely.items(), key=lambda item: item[1])
    if probability < LEAST:
        return "unknown", probability
    return (_growth(sigma) if phase == "growth" else phase), probability


def optical(exciton: Slope) -> tuple[str, float]:
    """The phase by absorbance alone: the exciton's rate, meV/s."""
    red = 1 - exciton.probability_above(0.0)
    if math.isnan(red):
        return UNKNOWN_PHASE
    return ("growth" if red >= LEAST else "unknown"), red


def _growth(sigma: Slope) -> str:
    """With what becomes of the width of sizes, where that is likely either way."""
    broader = sigma.probability_above(0.0)
    if broader >= CERTAIN:
        return "growth, broadening"
    return "growth, focusing" if broader <= 1 - CERTAIN else "growth"
