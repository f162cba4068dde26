"""Runs in a real Tiled server as recordings: raw frames, and stored curves and spectra."""

from types import SimpleNamespace

import numpy as np
import pytest

from detectors.register import register
from pipeline.bus import SpoolWriter
from pipeline.config.replay import ReplayFormat
from pipeline.messages import ImageFrame, StreamEnd, StreamStart
from pipeline.replay import ReplayError, open_recording
from pipeline.store.server import EmbeddedServer

pytestmark = [
    # Of Tiled's own dependencies, not of ours.
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tiled"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:fastapi"),
]

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 2**31, (3, 6, 8), dtype=np.uint32)
NUMBERS, TIMES_NS = [0, 1, 3], [500_000_001, 1_000_000_002, 2_000_000_003]


def write_spool(folder):
    folder.mkdir()
    start = StreamStart("saxs", "r1", "image", (6, 8), "<u4", {}, {"poni": "Distance: 1\n"})
    with SpoolWriter(folder / "saxs.h5", start) as spool:
        for number, time_ns, image in zip(NUMBERS, TIMES_NS, IMAGES, strict=True):
            spool.append(ImageFrame("saxs", number, time_ns, 0.4, image, 0.97, 0.8))
        spool.flush()
        spool.close(StreamEnd("saxs", "r1", 4))
    (folder / "run.json").write_text(
        '{"run": "r1", "config": "name: x\\n", "start": {"uid": "u1"}}'
    )


def documents_of(recording):
    """What a flyer emits for a recording of three frames."""
    from event_model import compose_run, compose_stream_resource

    run = compose_run()
    columns = {"saxs_image": ("data", [6, 8], "<u4"), "saxs_frame": ("frame", [], "<i8"),
               "saxs_time_ns": ("time_ns", [], "<i8")}  # fmt: skip
    keys = {
        key: {"source": "x", "dtype": "array", "dtype_numpy": dtype, "shape": [1, *shape],
              "external": "STREAM:"}
        for key, (_, shape, dtype) in columns.items()
    }  # fmt: skip
    descriptor = run.compose_descriptor(name="saxs", data_keys=keys)
    documents = [("start", run.start_doc), ("descriptor", descriptor.descriptor_doc)]
    for key, (dataset, shape, _) in columns.items():
        bundle = compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{recording}/saxs.h5",
            data_key=key,
            parameters={"dataset": f"/entry/instrument/detector/{dataset}",
                        "chunk_shape": [1, *shape], "swmr": True},
            start=run.start_doc,
        )  # fmt: skip
        datum = bundle.compose_stream_datum(
            {"start": 0, "stop": 3}, {"start": 1, "stop": 4}, descriptor.descriptor_doc
        )
        documents += [("stream_resource", bundle.stream_resource_doc), ("stream_datum", datum)]
    return run.start_doc["uid"], [*documents, ("stop", run.compose_stop())]


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiled")
    recording = folder / "recording"
    write_spool(recording)
    server = EmbeddedServer(folder / "data", readable=(folder,))
    server.start()
    try:
        from tiled.client import from_uri

        root = from_uri(server.url, api_key=server.api_key)
        raw = root.create_container("raw")
        uid, documents = documents_of(recording)
        register(SimpleNamespace(read_new=lambda: documents, path="documents"), raw)
        store_results(root.create_container("r1", metadata={"start": {"raw": f"raw/{uid}"}}))
        store_results(root.create_container("r2", metadata={"start": {"raw": "raw/away"}}))
        store_plain_raw(raw.create_container("plain", metadata={"start": {"uid": "plain"}}))
        root.create_container("hollow")
        root.context.close()
        yield SimpleNamespace(url=server.url, key=server.api_key, uid=uid, recording=recording)
    finally:
        server.stop()


def store_results(run):
    import pyarrow as pa

    for stream, axis, node in (("saxs", "q", "curves"), ("absorbance", "energy", "spectra")):
        group = run.create_container(stream)
        group.write_array(np.array([1.0, 2.0, 4.0]), key=axis)
        slabs = np.arange(24, dtype=float).reshape(4, 2, 3)
        slabs[2] = np.nan
        group.write_array(slabs, key=node)
        schema = pa.schema([("frame", pa.int64()), ("time_s", pa.float64())])
        table = group.create_appendable_table(schema, key="frames")
        times = {"frame": [0, 1, 2, 3], "time_s": [0.5, 1.0, 1.5, 2.0]}
        table.append_partition(0, pa.table(times, schema=schema))


def store_plain_raw(run):
    group = run.create_container("primary")
    group.write_array(IMAGES, key="eiger_image")


@pytest.fixture(autouse=True)
def key(tiled, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", tiled.key)


def test_raw_run_is_read_from_its_recording_where_that_is_at_hand(tiled):
    for uri in (
        f"tiled:{tiled.url}#raw/{tiled.uid}",
        f"{tiled.url}/api/v1/metadata/raw/{tiled.uid}",
        f"tiled:{tiled.url}#r1",  # its results name it
    ):
        recording = open_recording(uri)
        frames = list(recording.streams["saxs"].frames())
        assert np.array_equal([f.image for f in frames], IMAGES)
        assert [(f.frame, f.time_ns) for f in frames] == list(zip(NUMBERS, TIMES_NS, strict=True))
        assert {(f.monitor, f.transmission, f.exposure_s) for f in frames} == {(0.97, 0.8, 0.4)}
        assert recording.config_text == "name: x\n"


def test_raw_images_over_http(tiled, tmp_path):
    poni = tmp_path / "a.poni"
    poni.write_text("Distance: 2\n")
    recording = open_recording(
        f"tiled:{tiled.url}#raw/plain", ReplayFormat(exposure_s=0.25, poni_file=str(poni))
    )
    start, frames = recording.streams["saxs"].start, list(recording.streams["saxs"].frames())
    assert np.array_equal([f.image for f in frames], IMAGES)
    assert [f.time_s for f in frames] == pytest.approx([0.25, 1.25, 2.25])
    assert start.metadata["poni"] == "Distance: 2\n"
    assert recording.content_hash().startswith("sha256:")
    recording.close()


def test_results_are_replayed_where_the_raw_run_is_gone(tiled):
    recording = open_recording(f"tiled:{tiled.url}#r2")
    curves = list(recording.streams["saxs"].frames())
    assert recording.streams["saxs"].start.arrays["q_per_nm"].tolist() == [1, 2, 4]
    # Frame 2 gave no result: it is a hole.
    assert [(f.frame, f.time_ns) for f in curves] == [(0, 5e8), (1, 1e9), (3, 2e9)]
    assert curves[1].intensity.tolist() == [6, 7, 8]
    assert curves[1].sigma.tolist() == [9, 10, 11]
    source = recording.streams["absorbance"]
    assert source.start.kind == "absorbance"
    assert source.start.arrays["wavelength_nm"] == pytest.approx(1239.84198 / np.array([4, 2, 1]))
    assert next(iter(source.frames())).values.tolist() == [2, 1, 0]
    assert recording.streams["saxs"].frame_count == 4
    recording.close()


def test_refusals(tiled, monkeypatch):
    for uri, expected in (
        (f"tiled:{tiled.url}", "expected tiled:URL#path"),
        (f"{tiled.url}/ui", "expected .../api/v1/metadata/"),
        (f"tiled:{tiled.url}#none", "has no run none"),
        (f"tiled:{tiled.url}#hollow", "nothing to replay"),
        ("tiled:http://127.0.0.1:9#r", "no Tiled server answers"),
    ):
        with pytest.raises(ReplayError, match=expected) as caught:
            open_recording(uri)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("TILED_API_KEY", "wrong")
    with pytest.raises(ReplayError, match="answers 401: set TILED_API_KEY"):
        open_recording(f"tiled:{tiled.url}#r1")
