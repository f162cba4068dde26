"""The plan of a run: all detectors fly, each on its own clock, in one run of the RunEngine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus, MsgGenerator, RunEngineControlException

from detectors.devices.clock import RunClock
from detectors.devices.flyer import Flight, FrameFlyer

# Longest that a flyer may need to notice that the run was stopped: one exposure at 1 Hz, the
# slowest rate that a config allows, and the writing of its frame. Used after a failure only.
STOP_TIMEOUT_S = 10.0
READY_PERIOD_S = 0.05


def live_run(
    flyers: Sequence[FrameFlyer],
    make_flight: Callable[[Mapping[str, Any]], Flight],
    *,
    clock: RunClock,
    collect_period_s: float = 1.0,
    metadata: Mapping[str, Any] | None = None,
    ready: Callable[[], bool] = lambda: True,
) -> MsgGenerator[str]:
    """Fly all detectors in one run until the last is done or the clock is stopped.

    Each detector has a stream of its own and is collected alone: collected together, bluesky
    cuts all to the slowest.

    Parameters
    ----------
    flyers
        The detectors; their ``stream`` names the bluesky stream.
    make_flight
        Makes what the flyers are prepared with out of the run's start document.
    clock
        The run's clock. ``clock.stop(reason)``, from any thread or signal handler, ends the run
        with all its documents.
    collect_period_s
        Seconds between references to new frames.
    metadata
        For the start document.
    ready
        Asked, when the detectors are prepared, whether frames may be taken.

    Returns
    -------
    str
        The uid that bluesky gave the run.
    """
    start: dict[str, Any] = {}
    token = yield from bps.subscribe("start", lambda _name, document: start.update(document))
    uid = yield from bps.open_run(md=dict(metadata or {}))
    yield from bps.unsubscribe(token)
    try:
        yield from _fly(flyers, make_flight(start), collect_period_s, ready)
    except BaseException as error:
        clock.stop(f"failed: {cause_of(error)}")
        for flyer in flyers:
            flyer.wait_landed(STOP_TIMEOUT_S)
        # What the RunEngine itself throws in (an abort, a halt) closes the run there.
        if isinstance(error, Exception) and not isinstance(error, RunEngineControlException):
            yield from bps.close_run(exit_status="fail", reason=str(cause_of(error)))
        raise
    yield from bps.close_run(exit_status="success", reason=clock.reason)
    return uid


def _fly(
    flyers: Sequence[FrameFlyer],
    flight: Flight,
    collect_period_s: float,
    ready: Callable[[], bool],
) -> MsgGenerator[None]:
    # bluesky's protocols and ophyd's annotations do not match, although the objects do.
    devices: list[Any] = list(flyers)
    prepared = f"prepared-{uuid.uuid4()}"
    for flyer in devices:
        yield from bps.prepare(flyer, flight, group=prepared)
    yield from bps.wait(group=prepared)
    for flyer in devices:
        yield from bps.declare_stream(flyer, name=flyer.stream, collect=True)
    while not ready():
        yield from bps.sleep(READY_PERIOD_S)
    yield from bps.kickoff_all(*devices, wait=True)

    flown = f"flown-{uuid.uuid4()}"
    yield from bps.complete_all(*devices, group=flown, wait=False)
    done = False
    while not done:
        done = yield from bps.wait(group=flown, timeout=collect_period_s, error_on_timeout=False)
        for flyer in devices:
            yield from bps.collect(flyer, name=flyer.stream, return_payload=False)


def cause_of(error: BaseException) -> BaseException:
    """The detector's own error, out of the RunEngine's wrapping."""
    return error.__cause__ if isinstance(error, FailedStatus) and error.__cause__ else error
