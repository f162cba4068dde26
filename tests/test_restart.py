"""A fit that remembers the frame before: taken up again anywhere, it stores the same bits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pipeline.bus import FramePublisher, codec
from pipeline.cli.analyse import stages_for
from pipeline.config import RunConfig
from pipeline.config.plumbing import Bus
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.config.wiring import FrameEndpoints
from pipeline.fit.populations import FitPopulations
from pipeline.messages import CurveFrame, FrameResults, Populations, RunStart, Stage
from pipeline.runner.chain import StageChain
from pipeline.runner.runner import Runner
from tests.test_relay import FRAMES, Store, endpoint, sphere_curve, start_message, until

STOPPED_AT = 33


class Remembers:
    """A stage that needs so many frames before."""

    name: ClassVar[str] = "remembers"
    consumes: ClassVar[tuple[type, ...]] = ()
    produces: ClassVar[tuple[type, ...]] = ()

    def __init__(self, before: int) -> None:
        self.before = before

    def reset(self, start: RunStart) -> None: ...

    def process(self, message: object) -> list[object]:
        return []

    def first_needed(self, frame: int) -> int:
        return max(frame - self.before, 0)


@pytest.mark.parametrize("every", [1, 7, 20])
def test_the_fit_needs_the_frames_since_the_last_search(every):
    stage = FitPopulations(PopulationsFit(search_every=every), Sample())
    for frame in range(45):
        needed = stage.first_needed(frame)
        assert needed % every == 0
        assert frame - every < needed <= frame


def test_a_chain_needs_what_the_first_stage_needs_for_the_last():
    """Each stage has to be right from where the one after it begins."""
    fit = FitPopulations(PopulationsFit(search_every=20), Sample())
    nothing = FitPopulations(PopulationsFit(search_every=1), Sample())
    assert StageChain([]).first_needed(33) == 33
    assert StageChain([nothing]).first_needed(33) == 33
    assert StageChain([fit]).first_needed(33) == 20
    assert StageChain([fit, Remembers(15)]).first_needed(33) == 0  # 18, whose block begins at 0
    assert StageChain([Remembers(15), fit]).first_needed(33) == 5
    assert StageChain([Remembers(15), fit]).first_needed(3) == 0


def test_stages_of_a_run_begin_where_the_fit_does():
    chain = StageChain(stages(20))
    assert [chain.first_needed(frame) for frame in (0, 19, 20, 33, 59)] == [0, 0, 20, 20, 40]


def stages(every: int) -> list[Stage]:
    fit = {"q_min_per_nm": 0.2, "q_max_per_nm": 4.0, "search_every": every}
    config = RunConfig.model_validate({"name": "restart", "saxs": {"fit": fit}})
    return stages_for("saxs", config)


def bits(results: FrameResults) -> bytes:
    """All that is stored; the newest frame that was known is a matter of time."""
    return codec.encode_results(
        FrameResults(
            results.stream,
            results.run,
            results.frame,
            results.time_s,
            results.results,
            results.rejected,
        )
    )


def bad(frame: int) -> CurveFrame:
    """A frame that the fit refuses."""
    good, nothing = sphere_curve(frame), np.full(120, np.nan)
    return CurveFrame("saxs", frame, good.time_ns, good.exposure_s, nothing, nothing)


def frame_of(number: int) -> CurveFrame:
    """Bad ones: just after a search, a search itself, and the last before the restart."""
    return bad(number) if number in (21, 32, 40) else sphere_curve(number)


@contextmanager
def running(frames: FrameEndpoints, store: str, every: int) -> Iterator[threading.Thread]:
    stop = threading.Event()
    runner = Runner(frames, store, Bus(), stages(every))
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("every", [20, 7])
def test_a_runner_that_stops_within_a_block_goes_on_with_the_same_bits(tmp_path: Path, every: int):
    """Two runners on the same frames, one of which is replaced by a new one at frame 33."""
    StageChain(stages(every)).warm_up()  # compiling may take longer than anything is waited for
    frames = FrameEndpoints(live=endpoint(), repair=endpoint())
    whole, broken = Store(), Store()
    with (
        whole.serve(where_whole := endpoint()),
        broken.serve(where_broken := endpoint()),
        FramePublisher(start_message().stream, tmp_path / "saxs.h5", frames, Bus()) as publisher,
        running(frames, where_whole, every) as thread,
    ):
        with running(frames, where_broken, every):
            for frame in range(STOPPED_AT):
                publisher.publish(frame_of(frame))
            until(lambda: len(broken.results) == STOPPED_AT)
        received = broken.received
        with running(frames, where_broken, every) as successor:
            for frame in range(STOPPED_AT, FRAMES):
                publisher.publish(frame_of(frame))
            publisher.finish()
            for each in (thread, successor):
                each.join(60)
                assert not each.is_alive()
    assert sorted(broken.results) == sorted(whole.results) == list(range(FRAMES))
    assert broken.received == received + FRAMES - STOPPED_AT, "what was stored is not sent again"
    fitted = 0
    for frame, expected in whole.results.items():
        assert bits(broken.results[frame]) == bits(expected), frame
        rows = [row for row in expected.results if isinstance(row, Populations)]
        fitted += len(rows)
        assert (expected.rejected is None) == (len(rows) == 1) == (frame not in (21, 32, 40))
        for row in rows:
            assert row.nc_diameter_nm == pytest.approx(5 + 3 * frame / FRAMES, rel=0.03)
    assert fitted == FRAMES - 3


def test_the_bits_of_a_frame_do_depend_on_the_frame_before():
    """Otherwise the test above would show nothing: a start elsewhere ends in other last digits."""
    chains = [StageChain(stages(20)) for _ in range(2)]
    for chain in chains:
        chain.reset(start_message())
    first = [chains[0].process(sphere_curve(frame)) for frame in range(20, 36)]
    second = [chains[1].process(sphere_curve(frame)) for frame in range(33, 36)]
    assert bits(first[13]) != bits(second[0])
