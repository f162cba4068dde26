"""A detector that the software triggers: frame n is due at an absolute time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from detectors.devices.flyer import Flight, FrameFlyer
from pipeline.messages import Frame

log = logging.getLogger(__name__)

# A frame is called late when it leaves more than this share of a period after its due time: at
# 2 Hz 50 ms, at 6.67 Hz 15 ms, both far above the worst that a healthy run shows (below 5 ms).
LATE_SHARE = 0.1
# ... but never less than this: below it, the operating system's wake-up alone decides.
LATE_FLOOR_NS = 5_000_000


class ClockedFlyer(FrameFlyer):
    """Exposes frame n from n to n + 1 periods after the run's zero.

    Rendering or reading happens while the exposure is running, so that the frame can leave at its
    end. A frame that is late is counted, logged and sent; none is skipped to catch up.

    Parameters
    ----------
    rate_hz
        Frames a second.
    start_s
        Time of the run's zero on the frames' own scale, in seconds.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        stream: str,
        rate_hz: float,
        start_s: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, stream=stream, **kwargs)
        self.rate_hz = rate_hz
        self.period_ns = round(1e9 / rate_hz)
        self.start_ns = round(start_s * 1e9)
        self.late = 0
        self.dropped = 0
        self.worst_lateness_ns = 0

    @property
    def exposure_s(self) -> float:
        """Seconds of one exposure: the whole period."""
        return self.period_ns * 1e-9

    def frame_count(self, duration_s: float) -> int:
        """How many whole periods fit in the duration."""
        return round(duration_s * 1e9) // self.period_ns

    def expose(self, frame: int, time_ns: int) -> Frame | None:
        """Make frame number ``frame`` whose exposure ends at ``time_ns``; None if it is lost."""
        raise NotImplementedError

    def frames(self, flight: Flight) -> Iterator[Frame]:
        """Yield each frame at its due time."""
        self.late = self.dropped = self.worst_lateness_ns = 0
        for number in range(self.frame_count(flight.duration_s)):
            due_ns = (number + 1) * self.period_ns
            frame = self.expose(number, self.start_ns + due_ns)
            if not flight.clock.wait_until(due_ns):
                return
            self._note_lateness(number, flight.clock.now_ns() - due_ns)
            if frame is None:
                self.dropped += 1
                self.numbers_given = number + 1
                log.info("%s frame %d: dropped by the detector", self.stream, number)
                continue
            yield frame
        if self.late:
            log.warning(
                "%s: %d frames were late, the worst by %.1f ms",
                self.stream,
                self.late,
                self.worst_lateness_ns * 1e-6,
            )

    def _note_lateness(self, number: int, lateness_ns: int) -> None:
        self.worst_lateness_ns = max(self.worst_lateness_ns, lateness_ns)
        if lateness_ns <= max(LATE_FLOOR_NS, LATE_SHARE * self.period_ns):
            return
        self.late += 1
        # At the first, the 10th, the 100th: a detector that cannot keep its rate must not flood.
        if self.late in (1, 10, 100, 1000, 10000):
            log.warning(
                "%s frame %d: late by %.1f ms (%d late so far)",
                self.stream,
                number,
                lateness_ns * 1e-6,
                self.late,
            )
