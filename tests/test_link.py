"""Results from stages to store: none lost, in order, whichever side is killed or restarted."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.bus import LinkReceiver, LinkRefusedError, LinkSender, WireError, codec, link_sender
from pipeline.config.plumbing import Bus
from pipeline.messages import (
    Curve,
    Exciton,
    FittedCurve,
    FrameResults,
    Populations,
    RowResult,
    RunDocument,
    RunStart,
    StreamEnd,
    StreamStart,
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Note(RowResult):
    """A result as a user may write one."""

    NODE = "test/notes"

    text: str
    good: bool
    weight: float | None


def free_endpoint() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{sock.getsockname()[1]}"


def run_start(stream="saxs", run="run-1") -> RunStart:
    start = StreamStart(stream, run, "curve", (3,), "<f8", {"q_per_nm": np.arange(3.0)})
    return RunStart(run, start, {"name": "test", "list": [1, None]})


def note(frame: int, stream="saxs", run="run-1") -> FrameResults:
    result = Note(frame=frame, time_s=frame / 2, text=f"frame {frame}", good=True, weight=None)
    return FrameResults(stream, run, frame, frame / 2, (result,), newest=frame + 1)


def curve(frame: int) -> Curve:
    line = np.array([1.0, np.nan, frame])
    return Curve(
        frame=frame, time_s=0.5 * frame, q_per_nm=np.arange(3.0), intensity=line, sigma=line / 2,
        absolute=True,
    )  # fmt: skip


def populations(frame: int) -> Populations:
    some = {"float": 1.5, "str": "fisher", "bool": True}
    values = {name: some.get(kind) for name, kind in codec.result_fields(Populations).items()}
    return Populations(**{**values, "frame": frame, "time_s": frame / 2, "populations": 2})


class Store:
    """A handler that remembers, and makes durable at once unless told to wait."""

    def __init__(self, first: int = 0, durable: bool = True) -> None:
        self.first, self.durable = first, durable
        self.receiver: LinkReceiver | None = None
        self.documents, self.opened, self.results, self.ends = [], [], [], []
        self.refuse = ""

    def on_document(self, document):
        self.documents.append(document)

    def on_open(self, start, nodes):
        if self.refuse:
            raise LinkRefusedError(self.refuse)
        self.opened.append((start, nodes))
        return self.first

    def on_results(self, results):
        self.results.append(results)
        if self.durable:
            self.receiver.ack(results.run, results.stream, results.frame)

    def on_end(self, end):
        self.ends.append(end)
        if self.durable:
            self.receiver.ack_end(end.run, end.stream)

    def frames(self, stream="saxs"):
        return [results.frame for results in self.results if results.stream == stream]


def serve(endpoint: str, store: Store, bus: Bus | None = None) -> LinkReceiver:
    # The handler may be called before the constructor returns.
    store.receiver = receiver = LinkReceiver.__new__(LinkReceiver)
    receiver.__init__(endpoint, bus, store)
    return receiver


def wait_until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_whole_stream_arrives_as_it_was():
    endpoint, store = free_endpoint(), Store()
    with serve(endpoint, store), LinkSender(endpoint) as sender:
        sender.document(RunDocument("run-1", "start", {"time": np.float64(1.5), "uid": "u"}))
        assert sender.open(run_start(), [Curve, Populations, FittedCurve, Note], 10) == 0
        fitted = FittedCurve(
            frame=0, time_s=0.0, curve=curve(0), populations=populations(0),
            model=np.zeros(3), background=np.zeros(3),
        )  # fmt: skip
        sent = FrameResults("saxs", "run-1", 0, 0.25, (curve(0), fitted, populations(0)))
        assert sender.send(sent)
        sender.send(FrameResults("saxs", "run-1", 1, 0.75, (), rejected="frame 1: no beam"))
        sender.send(note(2))
        sender.end(StreamEnd("saxs", "run-1", 3, "done"))
        assert sender.flush(10)
        assert sender.pending == 0
    assert store.documents[0].document == {"time": 1.5, "uid": "u"}
    start, nodes = store.opened[0]
    assert (start.run, start.metadata) == ("run-1", {"name": "test", "list": [1, None]})
    assert start.stream.arrays["q_per_nm"].tolist() == [0, 1, 2]
    assert nodes == (Curve, Populations, Note)
    first, second, third = store.results
    assert [type(result) for result in first.results] == [Curve, Populations]
    assert first.results[0].intensity.tobytes() == curve(0).intensity.tobytes()
    assert first.results[0].absolute is True
    assert not first.results[0].sigma.flags.writeable
    for name in codec.result_fields(Populations):
        assert getattr(first.results[1], name) == getattr(populations(0), name)
    assert (second.rejected, second.results) == ("frame 1: no beam", ())
    assert (third.results[0].text, third.results[0].weight, third.newest) == ("frame 2", None, 3)
    assert store.ends == [StreamEnd("saxs", "run-1", 3, "done")]


def test_window_holds_the_sender_until_results_are_durable():
    endpoint, store = free_endpoint(), Store(durable=False)
    with serve(endpoint, store) as receiver, LinkSender(endpoint, window=5) as sender:
        sender.open(run_start(), [Note], 10)
        for frame in range(5):
            assert sender.send(note(frame), timeout_s=1)
        assert not sender.send(note(5), timeout_s=0.05)
        assert not sender.flush(0.05)
        wait_until(lambda: len(store.results) == 5)
        receiver.ack("run-1", "saxs", 2)
        for frame in (5, 6, 7):
            assert sender.send(note(frame), timeout_s=5)
        assert not sender.send(note(8), timeout_s=0.05)
        receiver.ack("run-1", "saxs", 7)
        assert sender.flush(5)
        sender.end(StreamEnd("saxs", "run-1", 8))
        assert not sender.flush(0.2)
        receiver.ack_end("run-1", "saxs")
        assert sender.flush(5)
    assert store.frames() == list(range(8))


def test_receiver_that_comes_late_and_comes_back_gets_all_that_is_not_durable():
    endpoint = free_endpoint()
    before, after = Store(durable=False), Store(first=3)
    with LinkSender(endpoint) as sender:
        with pytest.raises(TimeoutError, match=r"expected an answer .* is the store running\?"):
            sender.open(run_start(), [Note], timeout_s=0.2)
        with serve(endpoint, before) as receiver:
            assert sender.open(run_start(), [Note], 10) == 0
            for frame in range(6):
                sender.send(note(frame))
            wait_until(lambda: len(before.results) == 6)
            receiver.ack("run-1", "saxs", 2)
            wait_until(lambda: sender.pending == 3)
        for frame in range(6, 9):
            sender.send(note(frame))
        with serve(endpoint, after):
            sender.end(StreamEnd("saxs", "run-1", 9))
            assert sender.flush(20)
    assert before.frames() == list(range(6))
    assert after.frames() == list(range(3, 9))
    assert after.opened[0][1] == (Note,)


def test_several_senders_and_streams_at_once():
    endpoint, store = free_endpoint(), Store()
    names = ["saxs", "absorbance", "control"]

    def send(stream: str) -> None:
        with LinkSender(endpoint, window=8) as sender:
            sender.open(run_start(stream), [Note], 20)
            for frame in range(150):
                assert sender.send(note(frame, stream), timeout_s=20)
            sender.end(StreamEnd(stream, "run-1", 150))
            assert sender.flush(20)

    with serve(endpoint, store):
        threads = [threading.Thread(target=send, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name in names:
        assert store.frames(name) == list(range(150))


def test_refusals_reach_the_sender():
    endpoint, store = free_endpoint(), Store()
    store.refuse = "run-1 is complete"
    with serve(endpoint, store) as receiver, LinkSender(endpoint) as sender:
        with pytest.raises(LinkRefusedError, match="run-1 is complete"):
            sender.open(run_start(), [Note], 10)
        store.refuse = ""
        assert sender.open(run_start(), [Note], 10) == 0
        sender.send(note(0, stream="other"))
        wait_until(lambda: receiver.counters["rejected"] == 1)
        with pytest.raises(
            LinkRefusedError, match="expected an opened stream, got 'run-1' 'other'"
        ):
            sender.flush(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_handler_that_fails_ends_the_receiver_and_is_heard_of():
    endpoint, store = free_endpoint(), Store()
    store.on_results = lambda results: 1 / 0
    with serve(endpoint, store) as receiver, LinkSender(endpoint) as sender:
        sender.open(run_start(), [Note], 10)
        receiver.check()
        sender.send(note(0))
        wait_until(lambda: not receiver._thread.is_alive())
        with pytest.raises(RuntimeError, match="has ended") as caught:
            receiver.check()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


RECEIVER = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_link
endpoint, out = sys.argv[1], Path(sys.argv[2])
done = [int(line) for line in out.read_text().splitlines()] if out.exists() else []

class Durable(test_link.Store):
    def on_open(self, start, nodes):
        return len(done)
    def on_results(self, results):
        time.sleep(0.002)
        if results.frame == len(done):  # the place of a result is its frame number
            with out.open("a") as file:
                file.write(f"{results.frame}\\n")
            done.append(results.frame)
        self.receiver.ack(results.run, results.stream, len(done) - 1)

test_link.serve(endpoint, Durable())
threading.Event().wait()
"""


def test_receiver_killed_and_restarted_stores_every_frame_once(tmp_path):
    endpoint, out = free_endpoint(), tmp_path / "stored.txt"
    root = str(Path(__file__).resolve().parent.parent)

    def start():
        arguments = [endpoint, str(out), str(Path(__file__).parent)]
        environment = {**os.environ, "PYTHONPATH": root}
        return subprocess.Popen([sys.executable, "-c", RECEIVER, *arguments], env=environment)

    with LinkSender(endpoint, window=16) as sender:
        process = start()
        sender.open(run_start(), [Note], 60)
        for frame in range(300):
            assert sender.send(note(frame), timeout_s=60)
            if frame == 100:
                process.send_signal(signal.SIGKILL)
                process.wait()
                process = start()
        sender.end(StreamEnd("saxs", "run-1", 300))
        assert sender.flush(60)
        assert sender.counters["sessions"] >= 1
    process.kill()
    process.wait()
    assert [int(line) for line in out.read_text().splitlines()] == list(range(300))


# The codec alone


def test_documents_hold_plain_data_only():
    with pytest.raises(TypeError, match="expected plain data, got object"):
        codec.encode_document(RunDocument("r", "start", {"x": object()}))


def test_a_result_that_is_not_as_declared_is_refused():
    good = codec.encode_results(FrameResults("saxs", "run-1", 4, 2.0, (curve(4),)))
    assert codec.decode_results(good).results[0].frame == 4
    header = codec.packed.unpack(good[0])

    def refused(match: str, parts=None, **changes):
        result = {**header["results"][0], **changes}
        broken = codec.packed.pack({**header, "results": [result]})
        with pytest.raises(WireError, match=match):
            codec.decode_results([broken, *(good[1:] if parts is None else parts)])

    values = header["results"][0]["values"]
    refused("no result is called 'Popen' here", **{"class": "Popen"})
    refused("differs in the fields", values={**values, "extra": 1})
    refused("expected absolute as bool, got int", values={**values, "absolute": 1})
    refused("Curve of frame 5", values={**values, "frame": 5})
    refused("header says", values={**values, "sigma": ["<f8", [4]]})
    refused("expected a part, got none", parts=good[1:3])
    refused("1 parts more", parts=[*good[1:], b""])
    refused("numbers", values={**values, "sigma": ["|O", [3]]})


def test_every_result_can_travel():
    for kind in (Curve, Populations, Exciton, Note):
        assert codec.result_class(kind.__name__) is kind
        assert set(codec.result_fields(kind)) >= {"frame", "time_s"}
    with pytest.raises(TypeError, match=r"FittedCurve.curve: expected float, int, str"):
        codec.result_fields(FittedCurve)


def test_document_is_acknowledged_although_its_first_answer_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A handler that is silent for longer than the sender waits: the answer goes nowhere."""
    monkeypatch.setattr(link_sender, "_SILENCE_S", 0.5)
    address = free_endpoint()
    handled: list[str] = []

    class Slow(Store):
        def on_document(self, document: RunDocument) -> None:
            if not handled:
                time.sleep(1.5)
            handled.append(document.name)

    with LinkReceiver(address, None, Slow()), LinkSender(address) as sender:
        sender.document(RunDocument("run", "start", {}))
        assert sender.flush(10)
    assert set(handled) == {"start"}
