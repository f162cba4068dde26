"""Export: what a run's curves are in other people's programs."""

import io
import itertools
import signal
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from sasdata.dataloader.loader import Loader

from pipeline.bus.link import LinkSender
from pipeline.cli import main
from pipeline.export import ExportError, Ledger, NotThereError, Request, curve_set
from pipeline.messages import (
    Curve,
    FrameResults,
    RunDocument,
    RunStart,
    StreamEnd,
    StreamStart,
    WaxsCurve,
)
from pipeline.reduce.corrections.background import read_background
from tests.support import StoreProcess

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pyFAI

BINS, FRAMES, REJECTED, HALF_EMPTY = 30, 8, 3, 6
NO_BEAM = "saxs frame 3: no beam: expected a monitor of at least 0.01, got 0"
Q = np.linspace(0.05, 3.0, BINS)
RESOLUTION = 0.01 + 0.002 * Q
PONI = """\
poni_version: 2.1
Detector: Detector
Detector_config: {"pixel1": 0.000172, "pixel2": 0.0001, "orientation": 3}
Distance: 1.6
Poni1: 0.05
Poni2: 0.04
Rot1: 0.02
Rot2: -0.03
Rot3: 0
Wavelength: 1.2398419843320026e-10
"""
START = {
    "run_name": "export test",
    "description": "curves whose values\nfollow from the frame number",
    "streams": ["saxs", "waxs"],
    "time": 1_800_000_000.0,
    "sample": {"system": "CsPbBr3"},
    "config": {"saxs": {"reduce": {"absolute_scale": None, "thickness_cm": 0.15}}},
    "config_text": "name: export test\n",
    "config_sha256": "ab" * 32,
    "software": {"python": "3.11.1", "nucleate": "0.1.0"},
    "geometry": {"saxs": PONI},
}


def intensity(frame: int) -> np.ndarray:
    """Of a frame; bins 0 and 7 have no pixels, and in one frame no other of the first twenty."""
    values = (frame + 1) / (0.3 + Q) ** 3
    values[[0, 7]] = np.nan
    if frame == HALF_EMPTY:
        values[:20] = np.nan
    return values


def usable(frame: int) -> np.ndarray:
    return np.isfinite(intensity(frame))


def curve(kind: type[Curve], frame: int) -> Curve:
    known = {"q_resolution_per_nm": RESOLUTION} if kind is Curve else {}
    values = intensity(frame)
    return kind(
        frame=frame,
        time_s=0.5 * frame,
        q_per_nm=Q,
        intensity=values,
        sigma=0.02 * values,
        absolute=kind is Curve,
        **known,
    )


def send(store: StoreProcess, run: str) -> None:
    """Store a run of two streams through the link, as an analysis does."""
    with LinkSender(store.link) as sender:
        sender.document(RunDocument(run, "start", START))
        for kind, stream in ((Curve, "saxs"), (WaxsCurve, "waxs")):
            start = StreamStart(stream=stream, run=run, kind="curve", shape=(BINS,), dtype="<f8")
            sender.open(RunStart(run=run, stream=start), (kind,), timeout_s=30)
            for frame in range(FRAMES):
                lost = stream == "saxs" and frame == REJECTED
                sender.send(
                    FrameResults(
                        stream=stream,
                        run=run,
                        frame=frame,
                        time_s=0.5 * frame,
                        results=() if lost else (curve(kind, frame),),
                        rejected=NO_BEAM if lost else None,
                        newest=frame,
                    )
                )
            sender.end(StreamEnd(stream, run, FRAMES))
        sender.document(RunDocument(run, "stop", {"exit_status": "success"}))
        assert sender.flush(30)


@dataclass(frozen=True)
class Stored:
    """A run in a served store."""

    store: StoreProcess
    run: str

    def get(self, form: str, run: str | None = None) -> httpx.Response:
        """Ask as curl does."""
        address = self.store.address
        return httpx.get(
            f"{address.url}/api/v1/container/full/{self.run if run is None else run}?format={form}",
            headers={"Authorization": f"Apikey {address.api_key}"},
            timeout=30,
            trust_env=False,
        )


@pytest.fixture(scope="module")
def stored(store: StoreProcess) -> Stored:
    run = f"export-{uuid.uuid4().hex[:8]}"
    send(store, run)
    return Stored(store, run)


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def export(
    stored: Stored,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Done]]:
    """The command, in an empty folder."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, run: str | None = None) -> Done:
        capsys.readouterr()
        data = ["--data-dir", str(stored.store.folder)]
        with pytest.raises(SystemExit) as ended:
            main(["export", run or stored.run, *arguments, *data])
        told = capsys.readouterr()
        return Done(int(ended.value.code or 0), told.out, told.err)

    yield call
    signal.signal(signal.SIGTERM, before)


def refused(done: Done) -> str:
    """The one line that says why."""
    assert done.code == 1, done
    (line,) = done.err.strip().splitlines()
    return line.removeprefix("nucleate: ")


def load(path: Path) -> list[Any]:
    """As SasView opens it, without a complaint."""
    found = Loader().load(str(path))
    assert [data.errors for data in found] == [[]] * len(found)
    return found


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


def everything(file: h5py.File) -> dict[str, Any]:
    """Values and attributes of all nodes by path, also of those that are linked twice."""
    found: dict[str, Any] = {}

    def collect(group: h5py.Group) -> None:
        for node in group.values():
            path = f"{group.name}/{node.name}"
            values = node[()] if isinstance(node, h5py.Dataset) else None
            found[path] = np.asarray(values).tolist(), dict(node.attrs)
            if isinstance(node, h5py.Group):
                collect(node)

    collect(file)
    return found


def assert_nxcansas(file: h5py.File) -> None:
    """What the application definition demands of every entry, and of every number a unit."""
    assert file.attrs["NX_class"] == "NXroot"
    assert file.attrs["default"] == sorted(file)[0]
    for entry in file.values():
        assert entry.attrs["NX_class"] == "NXentry"
        assert entry.attrs["canSAS_class"] == "SASentry"
        assert entry.attrs["version"] == "1.1"
        assert text(entry["definition"][()]) == "NXcanSAS"
        assert entry["title"].shape == entry["run"].shape == ()
        data = entry[entry.attrs["default"]]
        assert data.attrs["NX_class"] == "NXdata"
        assert data.attrs["canSAS_class"] == "SASdata"
        assert data.attrs["signal"] == "I"
        assert data.attrs["I_axes"] == "Q"
        assert data.attrs["Q_indices"] == 0
        assert data["I"].attrs["units"] in ("1/cm", "arbitrary")
        assert data["Q"].attrs["units"] in ("1/angstrom", "1/nm")
        named = {
            data["I"].attrs["uncertainties"]: data["I"].attrs["units"],
            data["Q"].attrs.get("resolutions", "Q"): data["Q"].attrs["units"],
        }
        for name, unit in named.items():
            assert data[name].attrs["units"] == unit
        shapes = {data[name].shape for name in ("Q", "I", "Idev", data.attrs["mask"])}
        assert len(shapes) == 1
        assert not data[data.attrs["mask"]][()].any()
        assert all(np.isfinite(data[name][()]).all() for name in ("Q", "I", "Idev"))

        def check(name: str, node: h5py.Group | h5py.Dataset) -> None:
            if isinstance(node, h5py.Group):
                assert {"NX_class", "canSAS_class"} <= node.attrs.keys(), name
            elif node.dtype.kind == "f":
                assert "units" in node.attrs, name

        entry.visititems(check)


@pytest.mark.parametrize("unit", ["1/A", "1/nm"])
def test_a_run_opens_in_sasview(
    export: Callable[..., Done], stored: Stored, tmp_path: Path, unit: str
) -> None:
    """One dataset a frame, with q in 1/A whatever the file's unit, its resolution and errors."""
    done = export("--unit", unit, "--to", "run.h5")
    assert done.code == 0, done.err
    assert done.out == "run.h5: 7 frames\n"
    assert done.err == f"frame 3 has no curve: {NO_BEAM}\n"
    with h5py.File(tmp_path / "run.h5") as file:
        assert_nxcansas(file)
        assert file["frame_000002/sasdata/Q"].attrs["units"] == unit.replace("A", "angstrom")
    found = load(tmp_path / "run.h5")
    frames = [frame for frame in range(FRAMES) if frame != REJECTED]
    assert len(found) == len(frames)
    for frame, data in zip(frames, found, strict=True):
        there = usable(frame)
        assert data.title == f"export test, saxs frame {frame}, {0.5 * frame:g} s"
        assert data.run == [stored.run]
        assert (data._xunit, data._yunit) == ("A^{-1}", "cm^{-1}")
        np.testing.assert_allclose(data.x, Q[there] / 10, rtol=1e-14)
        np.testing.assert_allclose(data.dx, RESOLUTION[there] / 10, rtol=1e-14)
        np.testing.assert_array_equal(data.y, intensity(frame)[there])
        np.testing.assert_array_equal(data.dy, 0.02 * intensity(frame)[there])


def test_metadata_travel(export: Callable[..., Done], tmp_path: Path) -> None:
    assert export("--to", "run.h5").code == 0
    with h5py.File(tmp_path / "run.h5") as file:
        first, last = file["frame_000000"], file["frame_000007"]
        assert last["sasprocess"] == first["sasprocess"], "stored twice"
        note = last["sasprocess/sasprocessnote"]
        assert text(note["config"][()]) == START["config_text"]
        assert text(note["geometry"][()]) == PONI
        assert text(note["config_sha256"][()]) == "ab" * 32
        assert text(note["software"][()]) == "python 3.11.1, nucleate 0.1.0"
        assert text(last["sasprocess/date"][()]) == "2027-01-15T08:00:00+00:00"
        assert last["sasnote/frame"][()] == 7
        assert last["sasnote/time"][()] == 3.5
        detector = last["sasinstrument/sasdetector"]
        assert detector["y_pixel_size"][()] == 172e-6
        assert detector["x_pixel_size"][()] == 100e-6
    data = load(tmp_path / "run.h5")[-1]
    assert data.sample.name == "CsPbBr3"
    assert (data.sample.thickness, data.sample.thickness_unit) == (pytest.approx(1.5), "mm")
    assert data.source.wavelength == pytest.approx(1.2398419843, rel=1e-10)
    poni = tmp_path / "geometry.poni"
    poni.write_text(PONI)
    distance_mm = pyFAI.load(str(poni)).getFit2D()["directDist"]
    assert data.detector[0].distance == pytest.approx(distance_mm / 1e3, rel=1e-9)
    assert data.detector[0].distance_unit == "m"


def test_one_frame_as_text(export: Callable[..., Done], stored: Stored, tmp_path: Path) -> None:
    done = export("--frame", "-2", "--format", "text")
    assert done.code == 0, done.err
    path = tmp_path / f"{stored.run}_saxs_000006.txt"
    assert done.out == f"{path.name}: 1 frame\n"
    columns = np.loadtxt(path)
    there = usable(HALF_EMPTY)
    expected = [Q / 10, intensity(HALF_EMPTY), 0.02 * intensity(HALF_EMPTY), RESOLUTION / 10]
    np.testing.assert_allclose(columns.T, np.array(expected)[:, there], rtol=1e-8)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for line in (
        "# export test: saxs frame 6",
        f"# run: {stored.run}",
        "# time: 3 s from the run's zero",
        "# description: curves whose values follow from the frame number",
        "# wavelength: 1.23984198 A",
        "# software: python 3.11.1, nucleate 0.1.0",
        "# dQ: resolution, one standard deviation of q",
        "# columns: q (1/A), I (1/cm), sigma (1/cm), dQ (1/A)",
    ):
        assert line in header
    (data,) = load(path)
    np.testing.assert_allclose(data.x, Q[there] / 10, rtol=1e-8)
    np.testing.assert_allclose(data.y, intensity(HALF_EMPTY)[there], rtol=1e-8)
    np.testing.assert_allclose(data.dy, 0.02 * intensity(HALF_EMPTY)[there], rtol=1e-8)
    np.testing.assert_allclose(data.dx, RESOLUTION[there] / 10, rtol=1e-8)
    assert export("--stream", "waxs", "--frame", "1", "--format", "text", "--to", "w.txt").code == 0
    assert np.loadtxt(tmp_path / "w.txt").shape[1] == 3
    assert "sigma (arbitrary)\n" in (tmp_path / "w.txt").read_text()


def test_text_of_a_range_is_a_folder_and_may_be_a_background(
    export: Callable[..., Done], stored: Stored, tmp_path: Path
) -> None:
    done = export(*["--frames", "2:5", "--format", "text", "--unit", "1/nm", "--to", "texts"])
    assert done.code == 0, done.err
    names = [f"{stored.run}_saxs_{n:06d}.txt" for n in (2, 4)]
    assert sorted(path.name for path in (tmp_path / "texts").iterdir()) == names
    q_per_nm, values, sigma = read_background(str(tmp_path / "texts" / names[1]))
    np.testing.assert_allclose(q_per_nm, Q[usable(4)], rtol=1e-8)
    np.testing.assert_allclose(values, intensity(4)[usable(4)], rtol=1e-8)
    np.testing.assert_allclose(sigma, 0.02 * intensity(4)[usable(4)], rtol=1e-8)


def test_without_scale_and_resolution(export: Callable[..., Done], tmp_path: Path) -> None:
    """The wide-angle stream has neither: arbitrary units, and no dQ rather than zeros."""
    done = export("--stream", "waxs", "--frame", "1", "--to", "w.h5")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "w.h5") as file:
        assert_nxcansas(file)
        assert file["frame_000001/sasdata/I"].attrs["units"] == "arbitrary"
        assert "Qdev" not in file["frame_000001/sasdata"]
    (data,) = load(tmp_path / "w.h5")
    assert data.dx is None
    np.testing.assert_array_equal(data.y, intensity(1)[usable(1)])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--frame 8", "run {run}: saxs has frames 0 to 7, got 8"),
        ("--frame -9", "run {run}: saxs has frames 0 to 7, got -9"),
        ("--frames 5:9", "run {run}: saxs has frames 0 to 7, got 5:9"),
        ("--frames 5:5", "run {run}: saxs has frames 0 to 7, got 5:5"),
        ("--frame 3", f"run {{run}}: saxs frame 3 has no curve: {NO_BEAM}"),
        ("--frames 3:4", f"run {{run}}: saxs frames 3 to 3 have no curves: 3: {NO_BEAM}"),
        ("--stream absorbance", "{run}: expected a run with absorbance/curves, got one without"),
        ("--frames 5", "expected frames as A:B, got 5"),
        ("--frame 1 --frames 1:2", "expected frame or frames, got both"),
        ("--unit nm", "expected unit 1/A or 1/nm, got nm"),
        ("--format cif", "expected format nxcansas or text, got cif"),
        ("--to nowhere/x.h5", "nowhere/x.h5 cannot be written: there is no folder nowhere"),
        ("--frame 1 --to there.h5", "there.h5 exists already: choose another --to"),
        ("--format text --to there.h5", "there.h5 cannot be a folder for 7 files: File exists; "),
    ],
)
def test_what_cannot_be_exported(
    export: Callable[..., Done], stored: Stored, tmp_path: Path, arguments: str, line: str
) -> None:
    (tmp_path / "there.h5").write_text("precious")
    assert refused(export(*arguments.split())).startswith(line.format(run=stored.run))
    assert [path.name for path in tmp_path.iterdir()] == ["there.h5"]
    assert (tmp_path / "there.h5").read_text() == "precious"


def test_a_run_that_is_not_there(export: Callable[..., Done], stored: Stored) -> None:
    line = refused(export(run="none"))
    assert line == f"there is no run none at {stored.store.address.url}"


def test_over_http(stored: Stored, tmp_path: Path) -> None:
    """The same file as the command's, from one request."""
    response = stored.get("nxcansas")
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/x-nxcansas"
    (tmp_path / "run.h5").write_bytes(response.content)
    with h5py.File(tmp_path / "run.h5") as file:
        assert_nxcansas(file)
    found = load(tmp_path / "run.h5")
    assert len(found) == FRAMES - 1
    np.testing.assert_allclose(found[0].x, Q[usable(0)] / 10, rtol=1e-14)
    np.testing.assert_allclose(found[0].dx, RESOLUTION[usable(0)] / 10, rtol=1e-14)
    np.testing.assert_array_equal(found[-1].y, intensity(7)[usable(7)])
    part = stored.get("application/x-nxcansas;stream=waxs;frames=1:3;unit=1/nm")
    with h5py.File(io.BytesIO(part.content)) as file:
        assert list(file) == ["frame_000001", "frame_000002"]
        np.testing.assert_array_equal(file["frame_000002/sasdata/Q"], Q[usable(2)])


def test_http_and_command_give_the_same(
    stored: Stored, export: Callable[..., Done], tmp_path: Path
) -> None:
    assert export(*["--frame", "5", "--format", "text", "--to", "a.txt"]).code == 0
    assert export(*["--frames", "1:", "--to", "a.h5"]).code == 0
    response = stored.get("text;frame=5")
    assert response.headers["Content-Type"].startswith("text/plain")
    assert response.text == (tmp_path / "a.txt").read_text()
    content = stored.get("nxcansas;frames=1:").content
    with h5py.File(io.BytesIO(content)) as served, h5py.File(tmp_path / "a.h5") as written:
        assert everything(served) == everything(written)


@pytest.mark.parametrize(
    ("form", "status", "line"),
    [
        ("nxcansas;frame=8", 404, "run {run}: saxs has frames 0 to 7, got 8"),
        ("nxcansas;frame=3", 404, f"run {{run}}: saxs frame 3 has no curve: {NO_BEAM}"),
        (
            "nxcansas;stream=absorbance",
            404,
            "expected a run's container with absorbance/curves, got one without: ask for "
            "container/full/RUN?format=nxcansas;stream=absorbance",
        ),
        (
            "text",
            400,
            "text holds one curve: expected format=text;frame=N, got no frame in the format",
        ),
        ("text;frame=two", 400, "expected frame as a number, got two"),
        ("text;frame=2;unit=nm", 400, "expected unit 1/A or 1/nm, got nm"),
        ("text;frams=2", 400, "expected stream, frame, frames or unit, got frams"),
        ("text;frame", 400, "Could not parse frame as 'key=value' mimetype parameter"),
    ],
)
def test_http_says_what_is_wrong(stored: Stored, form: str, status: int, line: str) -> None:
    response = stored.get(form)
    assert response.status_code == status
    assert response.json() == {"detail": line.format(run=stored.run)}


def test_containers_that_are_no_runs(stored: Stored) -> None:
    assert stored.get("nxcansas", "none").status_code == 404
    for container in (f"{stored.run}/saxs", "raw", ""):
        response = stored.get("nxcansas", container)
        assert response.status_code == 404, response.text
        assert "expected a run's container with saxs/curves" in response.json()["detail"]


def test_formats_of_tiled_itself_are_still_there(stored: Stored) -> None:
    """And ours stand among them, where a client looks for what it may ask for."""
    address = stored.store.address
    about = httpx.get(f"{address.url}/api/v1/", timeout=30, trust_env=False).json()
    assert {"application/x-nxcansas", "text/plain", "application/json"} <= set(
        about["formats"]["container"]
    )
    assert about["aliases"]["container"]["application/x-nxcansas"] == ["nxcansas"]
    assert stored.get("application/json").status_code == 200


def ledger(*missing: int, count: int = 6) -> Ledger:
    status = ["lost" if n in missing else "stored" for n in range(count)]
    return Ledger(np.arange(count) * 0.5, status, ["" for _ in status])


def test_ranges_are_those_of_python() -> None:
    bounds = ["", *map(str, range(-6, 7))]
    for first, last in itertools.product(bounds, bounds):
        expected = tuple(range(6))[int(first or 0) : int(last) if last else None]
        asked = Request(frames=f"{first}:{last}")
        if expected:
            assert asked.choose("r", ledger()).numbers == expected
        else:
            with pytest.raises(NotThereError, match="has frames 0 to 5"):
                asked.choose("r", ledger())
    chosen = Request().choose("r", ledger(0, 4))
    assert chosen.numbers == (1, 2, 3, 5)
    assert chosen.left_out == ((0, "lost"), (4, "lost"))
    with pytest.raises(NotThereError, match="r: saxs has no frames yet"):
        Request().choose("r", ledger(count=0))


@pytest.mark.parametrize(
    ("facts", "scale", "thickness", "geometry", "concentrations", "absolute"),
    [
        ({"absolute": True}, None, None, {}, (), True),
        ({"absolute": False}, 1.0, 0.1, {"saxs": ""}, ([1.0],), False),
        ({}, 1.0, 0.1, {"saxs": ""}, (), True),
        ({}, 1.0, 0.1, {}, (), False),
        ({}, 1.0, None, {"saxs": ""}, (), False),
        (None, None, None, {}, ([np.nan, np.nan], [np.nan, 2.0]), True),
        (None, None, None, {}, ([np.nan],), False),
    ],
)
def test_when_curves_are_absolute(
    facts: dict[str, Any] | None,
    scale: float | None,
    thickness: float | None,
    geometry: dict[str, str],
    concentrations: tuple[list[float], ...],
    absolute: bool,
) -> None:
    settings = {"absolute_scale": scale, "thickness_cm": thickness}
    start = {"config": {"saxs": {"reduce": settings}}, "geometry": geometry}
    found = curve_set(
        "r",
        "saxs",
        start,
        Q,
        stream_facts=facts,
        concentrations_um=[np.array(column) for column in concentrations],
    )
    assert found.absolute is absolute
    assert found.intensity_unit == ("1/cm" if absolute else "arbitrary")


def test_a_resolution_of_other_bins_is_refused() -> None:
    with pytest.raises(ExportError, match="saxs for each of 30 bins, got 3"):
        curve_set("r", "saxs", {}, Q, q_resolution_per_nm=np.ones(3))
