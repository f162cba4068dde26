"""What goes wrong at a beamline, as each detector sees it.

===============  ==================================  =========================================
artefact         area detectors                      spectrometer
===============  ==================================  =========================================
beam_dump        no photons, monitor falls to 0      nothing (it has a lamp)
closed_shutter   no photons, monitor stays,          nothing
                 transmission falls to 0: the
                 shutter is between monitor and
                 sample
bubble           ``size`` of the path scatters       that share absorbs nothing; the bubble's
                 nothing and transmits all; the      surface turns light away at all
                 bubble's surface adds q^-4          wavelengths
gain_step        counts times ``size``               counts above dark times ``size``
dropped_frames   no frame                            no frame
===============  ==================================  =========================================

An exposure that an artefact covers in part is disturbed in part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.config.acquisition import Artefact, Stream


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Means over one exposure."""

    beam: float = 1.0
    """Share of the exposure with beam from the ring."""
    shutter: float = 1.0
    """Share of the exposure with the shutter open."""
    bubble: float = 0.0
    """Share of the path that is gas."""
    gain: float = 1.0
    dropped: bool = False


def disturbance(
    artefacts: Iterable[Artefact],
    stream: Stream,
    time_s: float,
    exposure_s: float,
) -> Disturbance:
    """All artefacts of one exposure of a stream, which ended at ``time_s``."""
    beam, shutter, bubble, gain, dropped = 1.0, 1.0, 0.0, 1.0, False
    for artefact in artefacts:
        if artefact.stream not in (None, stream):
            continue
        share = _overlap(artefact, time_s, exposure_s)
        if artefact.kind == "dropped_frames":
            # A frame is lost when it is read out, at the end of its exposure.
            dropped |= artefact.at_s <= time_s < artefact.at_s + artefact.duration_s
        elif artefact.kind == "bubble":
            bubble = max(bubble, artefact.size * share)
        elif artefact.kind == "gain_step":
            gain *= 1.0 + (artefact.size - 1.0) * share
        elif stream != "absorbance" and artefact.kind == "beam_dump":
            beam *= 1.0 - share
        elif stream != "absorbance" and artefact.kind == "closed_shutter":
            shutter *= 1.0 - share
    return Disturbance(beam, shutter, bubble, gain, dropped)


def _overlap(artefact: Artefact, time_s: float, exposure_s: float) -> float:
    first = max(artefact.at_s, time_s - exposure_s)
    last = min(artefact.at_s + artefact.duration_s, time_s)
    return min(max(last - first, 0.0) / exposure_s, 1.0)
