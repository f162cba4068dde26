"""A second area detector from the photon to Tiled: sample, device, wire, store, replay."""

import gzip
import itertools
import math
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import replace

import numpy as np
import pytest
import yaml

from detectors.devices.build import make_devices
from detectors.sample import Synthesis, crystal
from detectors.simulation import AreaRenderer
from pipeline.bus import LinkSender, codec
from pipeline.bus.errors import WireError
from pipeline.cli.analyse import host_for, stages_for
from pipeline.cli.configs import acquired_streams, streams_of
from pipeline.cli.wiring import make_wiring
from pipeline.config import RunConfig
from pipeline.config.acquisition import (
    Artefact,
    OphydDevices,
    SimulatedDevices,
    SimulatedSaxs,
    SimulatedWaxs,
)
from pipeline.config.loader import ConfigError, config_to_yaml, load_config, parse_config
from pipeline.config.replay import ReplayFormat
from pipeline.messages import (
    Curve,
    FrameResults,
    RunDocument,
    RunStart,
    StreamEnd,
    StreamStart,
    WaxsCurve,
)
from pipeline.reduce.waxs import ReduceWaxs
from pipeline.replay import ReplayError, open_recording
from pipeline.store.layout import ArrayNode, LayoutError
from tests.support import REPOSITORY, nucleate, replayed

CONFIG = REPOSITORY / "configs" / "cs_dopa_waxs.yaml"
EXPOSURE_S = 0.5


@pytest.fixture(scope="module")
def synthesis():
    return Synthesis("cs_dopa")


@pytest.fixture(scope="module")
def renderer(synthesis):
    return AreaRenderer(SimulatedWaxs(), synthesis, (), 7, "waxs")


# --- the sample -----------------------------------------------------------------------------


def position_per_nm(h, k, l):  # noqa: E741
    """Reflection of the published cell, 8.207, 8.255, 11.759 angstroms."""
    return 2.0 * math.pi * math.sqrt((h / 0.8207) ** 2 + (k / 0.8255) ** 2 + (l / 1.1759) ** 2)


def test_reflections_stand_where_the_cell_has_them():
    positions, strengths = crystal.reflections(30)
    for hkl in ((1, 1, 0), (0, 0, 2), (2, 0, 0), (0, 2, 0), (1, 1, 2), (2, 2, 0), (0, 0, 4)):
        assert np.abs(positions - position_per_nm(*hkl)).min() < 1e-9
    # The strongest of all is the cube's 200, which is 220 and 004 here, at 21.5 1/nm.
    near = np.abs(positions - 21.5) < 0.2
    assert strengths[near].sum() == pytest.approx(strengths.sum(), rel=0.7)
    assert strengths.max() == strengths[near].max()


def test_reflections_are_those_of_an_untilted_perovskite():
    """F of the cubic cell in closed form, with tabulated form factors, in place of a sum."""
    xraydb = pytest.importorskip("xraydb")
    positions, strengths = crystal.reflections(30)
    cubic = {}
    for h, k, l in itertools.product(range(-5, 6), repeat=3):  # noqa: E741
        q = 2.0 * math.pi * math.sqrt(h * h + k * k + l * l) / 0.5840
        if 0 < q < 29:
            lead, caesium, bromine = (
                float(xraydb.f0(name, q / 40.0 / math.pi)[0]) for name in ("Pb", "Cs", "Br")
            )
            signs = (-1) ** h + (-1) ** k + (-1) ** l
            total = lead + (-1) ** (h + k + l) * caesium + bromine * signs
            # Four cubes make the cell, and amplitudes add.
            key = h * h + k * k + l * l
            cubic[key] = cubic.get(key, 0.0) + (4.0 * total) ** 2
    for key, strength in cubic.items():
        near = np.abs(positions - 2.0 * math.pi * math.sqrt(key) / 0.5840) < 0.3
        # Both within 3.5 % in f, so 7 % in its square; weak lines are differences.
        assert strengths[near].sum() == pytest.approx(strength, rel=0.15 if key in (1, 3) else 0.08)


def test_width_of_a_reflection_is_that_of_spheres():
    """Profile of a sphere: Fourier transform of the volume that it shares with its shifted self."""
    diameter, x = 8.0, np.linspace(0.0, 8.0, 4001)
    shared = 1.0 - 1.5 * x / diameter + 0.5 * (x / diameter) ** 3
    offsets = np.linspace(0.0, 1.0, 2001)
    profile = np.array([np.trapezoid(shared * np.cos(o * x), x) for o in offsets])
    exact = 2.0 * offsets[np.argmax(profile < 0.5 * profile[0])]
    assert 2.0 * math.pi * crystal.SCHERRER / diameter == pytest.approx(exact, rel=1e-3)
    q = np.arange(4.0, 16.0, 0.002)
    curve = crystal.powder_per_cm(q, 1e-4, diameter) * q**2
    first = (q > 14.0) & (q < 16.5)
    above = q[first][curve[first] > 0.5 * curve[first].max()]
    # Three lines, 0.12 1/nm between the outer two, make this peak a little wider than one is.
    assert np.ptp(above) == pytest.approx(exact, rel=0.04)
    assert np.ptp(above) > exact


def test_crystals_grow_out_of_an_amorphous_halo(synthesis):
    q = np.arange(4.0, 40.0, 0.01)
    early, late = (synthesis.wide_angle_per_cm(q, t) for t in (0.2, 300.0))
    # The solvent is most of both; its main peak is at 14 1/nm.
    assert q[early.argmax()] == pytest.approx(14.0, abs=0.1)
    assert np.abs(late / early - 1.0).max() < 0.08
    # At small angles it is what the other detector sees.
    small = synthesis.intensity_per_cm(q[:3], 300.0)
    np.testing.assert_allclose(late[:3], small, atol=0.006)

    def height(time_s):
        """Of a reflection over both its sides, where the halo has ended."""
        left, top, right = synthesis.wide_angle_per_cm(np.array([29.2, 30.42, 31.6]), time_s)
        return top - 0.5 * (left + right)

    heights = [height(t) for t in (0.2, 3.0, 30.0, 300.0)]
    assert heights == sorted(heights)
    assert heights[-1] > 20 * abs(heights[0])


# --- the detector ---------------------------------------------------------------------------


def test_the_beam_passes_beside_the_detector(renderer):
    q = renderer.geometry.q_per_nm(renderer.geometry.pixels()[0])
    assert 4.0 < q.min() < 4.5
    assert 43.0 < q.max() < 45.0
    assert renderer.geometry.poni2_m < 0.0
    assert set(np.unique(renderer.pixel_mask)) == {0, 1, 2, 8}


def test_integration_by_pyfai_gives_the_sample_back(renderer, synthesis, tmp_path):
    """The whole rendering, by a geometry and an integration that nobody here wrote."""
    pyfai = pytest.importorskip("pyFAI")
    poni = tmp_path / "waxs.poni"
    poni.write_text(renderer.poni)
    integrator = pyfai.load(str(poni))

    def mean(first_s):
        total, dose = 0.0, 0.0
        for frame in range(8):
            shot = renderer.render(frame, first_s + frame * EXPOSURE_S, EXPOSURE_S)
            total = total + np.where(renderer.pixel_mask == 0, shot.image, 0)
            dose += shot.monitor * shot.transmission * EXPOSURE_S
        result = integrator.integrate1d(
            total.astype(np.float32),
            700,
            mask=renderer.pixel_mask != 0,
            polarization_factor=0.99,
            unit="q_nm^-1",
            method=("no", "histogram", "cython"),
            error_model="poisson",
        )
        scale = renderer.absolute_scale / renderer.settings.thickness_cm / dose
        return result.radial, result.intensity * scale, result.sigma * scale

    q, late, sigma = mean(290.0)
    truth = synthesis.wide_angle_per_cm(q, 291.5) + renderer.background_curve(q)
    # 2 % of a bin's slope is what 700 bins smear.
    inner = (q > 5) & (q < 40)
    residual = ((late - truth) / np.hypot(sigma, 2e-4 * truth))[inner]
    assert abs(residual.mean()) < 0.2
    assert 0.8 < residual.std() < 1.2
    _, early, _ = mean(0.5)
    grown = (late - early)[inner]
    q = q[inner]
    for hkls in (((1, 1, 2), (2, 0, 0), (0, 2, 0)), ((2, 2, 0), (0, 0, 4))):
        expected = np.mean([position_per_nm(*hkl) for hkl in hkls])
        near = np.abs(q - expected) < 0.5
        top = np.clip(grown[near] - 0.5 * grown[near].max(), 0.0, None)
        assert np.average(q[near], weights=top) == pytest.approx(expected, abs=0.06)


def test_two_detectors_see_one_flux_and_photons_of_their_own(synthesis):
    shared = {"shape": (64, 64), "pixel_size_um": 500.0, "distance_m": 0.45, "beam_at": (0.5, -0.1)}
    one = AreaRenderer(SimulatedSaxs(**shared), synthesis, (), 7, "saxs")
    other = AreaRenderer(SimulatedWaxs(**shared), synthesis, (), 7, "waxs")
    frames = [(one.render(n, 5.0, 0.5), other.render(n, 5.0, 0.5)) for n in range(20)]
    assert all(a.monitor == b.monitor for a, b in frames)
    good = (one.pixel_mask == 0) & (other.pixel_mask == 0)
    noise = [np.array([pair[k].image[good] / pair[k].monitor for pair in frames]) for k in (0, 1)]
    noise = [values - values.mean(axis=0) for values in noise]
    correlation = (noise[0] * noise[1]).mean() / (noise[0].std() * noise[1].std())
    assert abs(correlation) < 0.02


def test_artefacts_hit_the_detector_that_they_name(synthesis):
    def monitor(seen_by, **artefact):
        made = Artefact(at_s=0.0, duration_s=10.0, **artefact)
        settings = SimulatedWaxs if seen_by == "waxs" else SimulatedSaxs
        shot = AreaRenderer(settings(shape=(64, 64)), synthesis, (made,), 7, seen_by).render(
            4, 2.0, 0.5
        )
        return None if shot is None else shot.monitor

    assert monitor("waxs", kind="beam_dump") == monitor("saxs", kind="beam_dump") == 0.0
    assert monitor("waxs", kind="dropped_frames", stream="waxs") is None
    assert monitor("saxs", kind="dropped_frames", stream="waxs") > 0.9


# --- any combination of streams -------------------------------------------------------------

STREAMS = ("saxs", "waxs", "absorbance")
SECTIONS = {
    "saxs": {"shape": [64, 64]},
    "waxs": {"shape": [64, 64]},
    "absorbance": {"pixels": 64},
}


@pytest.mark.parametrize(
    "chosen", [c for n in (1, 2, 3) for c in itertools.combinations(STREAMS, n)], ids="-".join
)
def test_any_combination_of_simulated_detectors(chosen, tmp_path):
    devices = {s: SECTIONS[s] if s in chosen else None for s in STREAMS}
    text = yaml.safe_dump({"acquisition": {"devices": {"type": "simulated", **devices}}})
    config = parse_config(text)
    assert acquired_streams(config) == streams_of(config) == chosen
    file = tmp_path / "run.yaml"
    file.write_text(text)
    wiring = make_wiring(file, "r", tmp_path, [])
    every = [wiring.store, *wiring.links.values()]
    every += [e for ends in wiring.frames.values() for e in (ends.live, ends.repair)]
    assert len(set(every)) == len(every) == 1 + 3 * len(chosen)
    if len(chosen) == 3:
        assert [d.stream for d in make_devices(config.acquisition.devices)] == list(chosen)


def test_existing_configs_have_no_second_area_detector():
    assert SimulatedDevices().waxs is None
    for file in (REPOSITORY / "configs").glob("*.yaml"):
        assert ("waxs" in streams_of(load_config(file))) is (
            file.stem in ("cs_dopa_waxs", "facs_heat", "ssrl_swaxs")
        ), file


def test_a_real_second_detector_is_named_by_its_import_path():
    path = "detectors.hardware.dectris:DectrisStream"
    options = {"endpoint": "tcp://127.0.0.1:9", "socket": "pull"}
    devices = OphydDevices(saxs=path, saxs_options=options, waxs=path, waxs_options=options)
    config = RunConfig.model_validate({"acquisition": {"devices": devices}})
    assert acquired_streams(config) == ("saxs", "waxs")
    assert [(d.name, d.stream) for d in make_devices(devices)] == [(s, s) for s in ("saxs", "waxs")]


def test_one_stage_cannot_be_spread_over_two_processes(tmp_path):
    config = RunConfig()
    wiring = make_wiring(CONFIG, "r", tmp_path, [])
    with pytest.raises(ConfigError, match=r"waxs has one stage only: run it without --stages"):
        host_for("reduce", "waxs", stages_for("waxs", config), wiring, config.bus)


# --- what is constant along the axis ---------------------------------------------------------

Q = np.linspace(5.0, 40.0, 30)
RESOLUTION, PIXELS = 0.01 + 1e-4 * Q, np.arange(30.0)


def curve(frame, kind=WaxsCurve, **changes):
    values = {
        "frame": frame,
        "time_s": 0.5 * frame,
        "q_per_nm": Q,
        "intensity": frame + Q,
        "sigma": 0.1 * Q,
        "absolute": True,
        "q_resolution_per_nm": RESOLUTION,
        "pixels": PIXELS,
    }
    return kind(**(values | changes))


def opening(stream="waxs", run="run"):
    return RunStart(run, StreamStart(stream, run, "curve", (30,), "<f8", {"q_per_nm": Q}))


def announced(change):
    """Announcement of a result that nobody here has imported."""
    parts = codec.encode_open(opening(), [WaxsCurve])
    header = codec.packed.unpack(parts[0])
    (node,) = header["nodes"]
    node["class"] = f"Foreign{uuid.uuid4().hex}"
    change(node)
    return codec.decode_open([codec.packed.pack(header), *parts[1:]])[1][0]


def test_unknown_classes_bring_their_constants():
    kind = announced(lambda node: None)
    assert kind.CONSTANTS == WaxsCurve.CONSTANTS
    # But for what their classes say in words.
    assert ArrayNode.of(kind) == replace(ArrayNode.of(WaxsCurve), about="")
    assert announced(lambda node: node.pop("constants")).CONSTANTS == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node.update(constants=[["absolute", "waxs/absolute"]]),
        lambda node: node.update(constants=[["pixels", "../secret"]]),
        lambda node: node.update(constants=[["pixels"]]),
        lambda node: node.update(constants="pixels"),
        lambda node: node.update(axis_node="raw"),
        lambda node: node.update(axis="nothing"),
        lambda node: node.update(lines=["intensity", 3]),
    ],
)
def test_layouts_that_make_no_sense_are_refused(change):
    with pytest.raises(WireError):
        announced(change)


def test_constants_are_as_long_as_the_axis():
    node = ArrayNode.of(WaxsCurve)
    along = node.along_axis(curve(0, pixels=np.empty(0)))
    assert set(along) == {"waxs/q", "waxs/q_resolution"}
    with pytest.raises(LayoutError, match=r"waxs/pixels: expected pixels of \(30,\)"):
        node.along_axis(curve(0, pixels=np.ones(29)))


def test_constants_are_stored_once_and_stay_over_a_restart(store, monkeypatch):
    run = f"waxs-{uuid.uuid4().hex[:8]}"
    streams = (("waxs", WaxsCurve, {}), ("saxs", Curve, {"pixels": np.empty(0)}))

    def send(frames):
        for stream, kind, changes in streams:
            with LinkSender(store.link) as sender:
                document = {"name": "x", "streams": ["saxs", "waxs"]}
                sender.document(RunDocument(run, "start", document))
                sender.open(opening(stream, run), [kind], timeout_s=30)
                for n in frames:
                    sender.send(FrameResults(stream, run, n, 0.5 * n, (curve(n, kind, **changes),)))
                if frames[-1] == 5:
                    sender.end(StreamEnd(stream, run, 6))
                    sender.document(RunDocument(run, "stop", {}))
                assert sender.flush(30)

    # The second sender begins anew, as a stage that was started again does.
    send(range(3))
    send(range(6))
    with store.http() as http:
        for name, expected in (("q", Q), ("q_resolution", RESOLUTION), ("pixels", PIXELS)):
            np.testing.assert_array_equal(http.array(f"{run}/waxs/{name}", "", float), expected)
        assert http.exists(f"{run}/saxs/q_resolution")
        assert not http.exists(f"{run}/saxs/pixels")
        deadline = time.monotonic() + 30
        while not (http.metadata(run) or {}).get("complete"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert set(http.metadata(f"{run}/health")) == {"saxs", "waxs"}
        curves = http.array(f"{run}/waxs/curves", "", float).reshape(6, 2, 30)
        np.testing.assert_array_equal(curves[:, 0], np.arange(6)[:, None] + Q)
    monkeypatch.setenv("TILED_API_KEY", store.address.api_key or "")
    recording = open_recording(f"tiled:{store.address.url}#{run}")
    try:
        assert list(recording.streams) == ["saxs", "waxs"]
        for source in recording.streams.values():
            assert source.frame_count == len(list(source.frames())) == 6
            resolution = source.start.arrays["q_resolution_per_nm"]
            np.testing.assert_array_equal(resolution, RESOLUTION)
    finally:
        recording.close()


# --- replay of two detectors ------------------------------------------------------------------


@pytest.fixture
def ssrl(data_dir):
    return data_dir / "ssrl_bl1-5_swaxs_2d"


@pytest.fixture
def swaxs():
    return load_config(REPOSITORY / "configs" / "ssrl_swaxs.yaml").replay


@pytest.mark.real_data
def test_images_of_both_detectors_share_counters_and_times(ssrl, swaxs):
    recording = open_recording(ssrl, swaxs)
    frames = {name: list(source.frames()) for name, source in recording.streams.items()}
    assert list(frames) == ["saxs", "waxs"]
    assert len(frames["waxs"]) == 3
    for one, other in zip(frames["saxs"], frames["waxs"], strict=True):
        assert (one.time_ns, one.exposure_s, one.monitor) == (
            other.time_ns,
            other.exposure_s,
            other.monitor,
        )
    start = recording.streams["waxs"].start
    assert "Distance: 0.15768496156055517" in start.metadata["poni"]
    for frame, name in zip(frames["waxs"], start.metadata["files"], strict=True):
        raw = np.frombuffer(gzip.decompress((ssrl / "2D" / "WAXS" / name).read_bytes()), "<i4")
        raw = raw.reshape(195, 487)
        assert np.array_equal(frame.image[raw >= 0], raw[raw >= 0])
    # Everything that was read is in the hash, and counters once.
    assert len(recording.inputs) == len(set(recording.inputs)) == 3 + 3 + 2 + 2 + 3


@pytest.mark.real_data
def test_real_wide_angle_frames_agree_with_pyfai(ssrl, swaxs):
    """The detector stands at 32 degrees to the beam, which passes beside it."""
    pyfai = pytest.importorskip("pyFAI")
    source = open_recording(ssrl, swaxs).streams["waxs"]
    stage = ReduceWaxs(load_config(REPOSITORY / "configs" / "ssrl_swaxs.yaml").waxs.reduce)
    stage.reset(RunStart("r", source.start))
    theirs = pyfai.load(str(ssrl / "poni" / "atT_WAXS.poni"))
    for frame in source.frames():
        (ours,) = stage.process(frame)
        assert isinstance(ours, WaxsCurve)
        q = ours.q_per_nm
        half = 0.5 * (q[1] - q[0])
        expected = theirs.integrate1d(
            np.where(frame.image == 2**32 - 1, 0, frame.image).astype(np.int32),
            q.size,
            unit="q_nm^-1",
            mask=(source.start.arrays["pixel_mask"] != 0) | (frame.image == 2**32 - 1),
            radial_range=(q[0] - half, q[-1] + half),
            polarization_factor=0.99,
            error_model="poisson",
            method=("full", "csr", "cython"),
        )
        scale = frame.monitor * frame.exposure_s
        np.testing.assert_allclose(q, expected.radial, rtol=1e-6)
        np.testing.assert_allclose(ours.intensity * scale, expected.intensity, rtol=1e-5)
        # The last bins hold shares of few pixels, cut at an edge that pyFAI keeps as float32.
        np.testing.assert_allclose(ours.sigma * scale, expected.sigma, rtol=1e-4)


@pytest.mark.real_data
def test_a_missing_image_does_not_shift_the_others(ssrl, swaxs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ssrl, copy, ignore=shutil.ignore_patterns("*Standards*"))
    for folder in (copy, *(p for p in copy.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    lost = next((copy / "2D" / "WAXS").glob("*Run8*.gz"))
    kept = lost.read_bytes()
    lost.unlink()
    with pytest.raises(ReplayError, match="waxs: expected 3 images, as saxs has, got 2"):
        open_recording(copy, swaxs)
    # As many as there should be, but one twice: Run 5 again.
    (lost.parent / "again_Hor_scan_Run5_RampT20_ctr0_scan1_0000.raw.gz").write_bytes(kept)
    with pytest.raises(ReplayError, match=r"waxs frame 0.*Run5.*row 0|waxs frame 1.*got .*Run5"):
        open_recording(copy, swaxs)
    apart = swaxs.model_copy(update={"also": (swaxs.also[0].model_copy(update={"period_s": 3.0}),)})
    times = [f.time_s for f in open_recording(copy, apart).streams["waxs"].frames()]
    assert times == [10.0, 13.0, 16.0]


def test_further_streams_in_configs():
    text = """\
replay:
  format: images
  stream: saxs
  period_s: 2
  shape: [3, 4]
  poni_file: a.poni
  counters: c.csv
  also:
    - {stream: waxs, poni_file: b.poni}
    - {stream: absorbance, format: spectra, path: uv.csv}
"""
    replay = parse_config(text).replay
    waxs, optical = replay.also
    assert (waxs.format, waxs.period_s, waxs.counters) == ("images", 2, "c.csv")
    # Geometry and shape of one detector are never those of another.
    assert (waxs.poni_file, waxs.shape, replay.of("waxs")) == ("b.poni", None, waxs)
    assert (optical.period_s, optical.counters) == (1, None)
    config = parse_config(text)
    assert parse_config(config_to_yaml(config)) == config
    assert streams_of(config) == ("saxs", "waxs", "absorbance")


@pytest.mark.parametrize(
    ("also", "line"),
    [
        ("[{files: a}]", "got saxs, none"),
        ("[{stream: saxs}]", "got saxs, saxs"),
        ("[{stream: waxs}, {stream: waxs}]", "got saxs, waxs, waxs"),
        ("[{strem: waxs}]", "replay.also.0.strem is not known here; did you mean stream?"),
        ("[{stream: waxs, also: []}]", "replay.also.0.also is not known here"),
        ("3", "replay.also should be a list"),
    ],
)
def test_further_streams_that_make_no_sense(also, line):
    with pytest.raises(ConfigError, match=line.replace("?", r"\?")):
        parse_config(f"replay:\n  stream: saxs\n  also: {also}\n")


def test_a_stream_of_another_kind_and_place(tmp_path):
    """Curves of the area detector and a table of spectra, in two folders of one recording."""
    (tmp_path / "curves").mkdir()
    for n in range(3):
        np.savetxt(tmp_path / "curves" / f"c_{n}.dat", np.c_[Q, Q + n, 0.1 * Q])
    rows = "\n".join(f"{400 + 10 * i},0.{i},0.{i}" for i in range(5))
    (tmp_path / "uv.csv").write_text(f"wavelength_nm,10 s,20 s\n{rows}\n")
    also = {"stream": "absorbance", "format": "spectra", "path": "uv.csv"}
    replay = {"format": "curves", "stream": "waxs", "q_unit": "1/nm", "files": "curves/*.dat"}
    recording = open_recording(tmp_path, ReplayFormat.model_validate(replay | {"also": [also]}))
    assert {n: s.frame_count for n, s in recording.streams.items()} == {"waxs": 3, "absorbance": 2}
    absent = ReplayFormat.model_validate(replay | {"also": [also | {"path": "vis.csv"}]})
    with pytest.raises(ReplayError, match=r"vis\.csv: no such file or folder \(path in replay"):
        open_recording(tmp_path, absent)


# --- the command line, all of it --------------------------------------------------------------


@pytest.mark.slow
def test_a_run_with_three_detectors_by_the_command_line(store, tmp_path):
    """Two frames of reflections, by HTTP; and the recording, played again, bit for bit."""
    config = yaml.safe_load(CONFIG.read_text())
    config["acquisition"]["devices"]["start_s"] = 290.0
    config["acquisition"]["devices"]["saxs"]["shape"] = [128, 128]
    # It is beside the config that this one is made of.
    config["waxs"]["phases"]["background_file"] = str(CONFIG.parent / "hexane_waxs.dat")
    config["detect"] = {"recipe": "none", "superlattice": False}
    file = tmp_path / "three.yaml"
    file.write_text(yaml.safe_dump(config))
    done = nucleate("run", file, "--duration", "4", "--data-dir", store.folder)
    assert done.returncode == 0, done.stderr
    assert "WAXS frames: 8 published, 8 stored, 0 lost" in done.stdout
    run = next(
        line.rpartition("/")[2] for line in done.stdout.splitlines() if line.startswith("Recording")
    )
    told = nucleate("status", "--run", run, "--data-dir", store.folder)
    assert "waxs/frames: frame 7" in told.stdout
    recording = store.folder / "recordings" / run
    again = replayed(recording, store, "--speed", "max")
    with store.http() as http:
        q = http.array(f"{run}/waxs/q", "", float)
        curves = http.array(f"{run}/waxs/curves", "", float).reshape(8, 2, q.size)
        other = http.array(f"{again}/waxs/curves", "", float).reshape(8, 2, q.size)
        np.testing.assert_array_equal(curves, other)
        for name in ("q_resolution", "pixels"):
            values = http.array(f"{run}/waxs/{name}", "", float)
            assert values.shape == q.shape
            assert (values[np.isfinite(curves[0, 0])] > 0).all()
    truth = Synthesis("cs_dopa").wide_angle_per_cm(q, 292.0) + 0.008 + 1e-4 * q**-4
    intensity, sigma = curves[:, 0].mean(axis=0), np.sqrt((curves[:, 1] ** 2).sum(axis=0)) / 8
    inner = (q > 5) & (q < 42)
    residual = ((intensity - truth) / np.hypot(sigma, 2e-4 * truth))[inner]
    assert abs(residual.mean()) < 0.3
    assert 0.8 < residual.std() < 1.25


def test_doctor_looks_at_the_second_detector():
    """As a process of its own, since it compiles."""
    code = (
        "import sys; from pathlib import Path; from pipeline.cli.doctor import _kernels, _devices;"
        "from pipeline.config.loader import load_config; c = load_config(Path(sys.argv[1]));"
        "print(*(f.what for f in (*_devices(c), *_kernels(c))), sep='\\n')"
    )
    command = [sys.executable, "-c", code, str(CONFIG)]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert "devices: simulated (saxs, waxs, absorbance)" in told.stdout, told.stderr
    assert "reduce_waxs" in told.stdout
