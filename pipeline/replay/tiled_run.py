"""A run in a Tiled server: its raw frames where they are, else its stored curves and spectra."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from pipeline.config.replay import ReplayFormat
from pipeline.messages import (
    CurveFrame,
    Frame,
    ImageFrame,
    SpectrumFrame,
    StreamStart,
    frozen_array,
)
from pipeline.replay.own import is_own, open_own
from pipeline.replay.recording import (
    Recording,
    ReplayError,
    StreamSource,
    as_unsigned,
    seconds_to_ns,
)

_METADATA_ROUTE = "/api/v1/metadata/"

#: A server that is starting or busy answers within this.
_ANSWER_S = 30.0

#: Product of photon energy and wavelength in eV nm (CODATA 2018).
_EV_NM = 1239.84198

#: Frames that are read in one request: a curve of 1000 points is 16 kB, so 1.6 MB.
_FRAMES_PER_REQUEST = 100


def is_tiled_uri(text: str) -> bool:
    """Whether a recording is named by an address of Tiled."""
    return text.startswith(("tiled:", "http://", "https://"))


def open_tiled(uri: str, replay: ReplayFormat) -> Recording:
    """Open a run in Tiled.

    The address is that of bluesky's raw run (``raw/<uid>``) or of a run's results; results that
    name a raw run are replayed from that. Raw frames whose recording lies on this machine are read
    from it, bit for bit; elsewhere they come over HTTP, with what the server knows of them (number,
    time, counts), and geometry and exposure come from ``replay``.

    Parameters
    ----------
    uri
        ``tiled:http://host:port#path/of/run`` or ``http://host/api/v1/metadata/path/of/run``. The
        API key is taken from TILED_API_KEY.
    replay
        ``poni_file``, ``mask_file`` and ``exposure_s`` for raw images over HTTP.
    """
    server, path = _split(uri)
    root = _connect(uri, server)
    try:
        recording = _open_run(root, uri, path, replay)
    except BaseException:
        root.context.close()
        raise
    if recording.fingerprint is None:  # it is read from files
        root.context.close()
        return recording
    return dataclasses.replace(recording, close=root.context.close)


def _open_run(root: Any, uri: str, path: str, replay: ReplayFormat) -> Recording:
    node = _get(root, path)
    if node is None:
        raise ReplayError(f"{uri}: this Tiled server has no run {path}")
    start = _start_document(node)
    raw = start.get("raw")
    if isinstance(raw, str) and (raw_node := _get(root, raw)) is not None:
        node, path = raw_node, raw
    name = path.rpartition("/")[2]
    local = _local_files(node)
    if local and is_own(local[0].parent) and all(file.is_file() for file in local):
        recording = open_own(local[0].parent)
        known = recording.start_document or start
        return dataclasses.replace(
            recording, name=name, uri=uri, format="tiled", start_document=known
        )
    streams: dict[str, StreamSource] = {}
    # Results first: their slabs (frame, line, q) have the shape of images.
    for make in (_result_streams, _raw_streams):
        streams = {source.start.stream: source for source in make(node, name, replay)}
        if streams:
            break
    if not streams:
        raise ReplayError(
            f"{uri}: nothing to replay: looked for <stream>/<images> of a raw run, saxs/curves, "
            f"waxs/curves and absorbance/spectra; it holds {', '.join(node) or 'nothing'}"
        )
    structure = repr([(s.start.stream, s.start.shape, s.frame_count) for s in streams.values()])
    identity = f"{path}\n{node.uri}\n{structure}"
    return Recording(
        name=name,
        uri=uri,
        format="tiled",
        streams=streams,
        start_document=start,
        config_text=start.get("config_text"),
        fingerprint=f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}",
    )


def _split(uri: str) -> tuple[str, str]:
    """Address of the server and path of the run."""
    if uri.startswith("tiled:"):
        server, mark, path = uri.removeprefix("tiled:").partition("#")
        if not mark or not path.strip("/"):
            raise ReplayError(f"{uri}: expected tiled:URL#path, got no path of a run")
        return server, path.strip("/")
    parts = urlsplit(uri)
    before, mark, path = parts.path.partition(_METADATA_ROUTE)
    if not mark or not path.strip("/"):
        raise ReplayError(f"{uri}: expected .../api/v1/metadata/<path of run>, or tiled:URL#path")
    return f"{parts.scheme}://{parts.netloc}{before}", unquote(path.strip("/"))


def _connect(uri: str, server: str) -> Any:
    import httpx
    from tiled.client import from_uri

    key = os.environ.get("TILED_API_KEY")
    headers = {"Authorization": f"Apikey {key}"} if key else {}
    try:
        # Tiled's own client tries for half a minute before it says that nobody is there.
        httpx.get(
            f"{server}{_METADATA_ROUTE}", headers=headers, timeout=_ANSWER_S
        ).raise_for_status()
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ReplayError(f"{uri}: no Tiled server answers at {server} ({error})") from error
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        hint = ": set TILED_API_KEY" if status in (401, 403) else ""
        raise ReplayError(f"{uri}: Tiled at {server} answers {status}{hint}") from error
    return from_uri(server, api_key=key)


def _get(node: Any, path: str) -> Any:
    """The node at a path below, or None."""
    for key in path.strip("/").split("/"):
        if not hasattr(node, "keys") or key not in node:
            return None
        node = node[key]
    return node


def _start_document(node: Any) -> Mapping[str, Any]:
    start = node.metadata.get("start", {})
    return start if isinstance(start, Mapping) else {}


def _local_files(node: Any) -> list[Path]:
    """Files that the raw arrays lie in, one of each stream; empty if any is unknown."""
    files: list[Path] = []
    for stream in node:
        children = node[stream]
        for key in children if hasattr(children, "keys") else ():
            if not re.search(r"_(image|counts|absorbance|curve)$", key):
                continue
            sources = children[key].include_data_sources().data_sources() or []
            files += [
                Path(unquote(urlsplit(asset.data_uri).path))
                for source in sources
                for asset in source.assets
            ]
    return files


def _raw_streams(node: Any, run: str, replay: ReplayFormat) -> Iterator[StreamSource]:
    """Image streams of a raw run, one array (n, ny, nx) each."""
    for name in node:
        group = node[name]
        if not hasattr(group, "keys"):
            continue
        keys = list(group)
        images = [k for k in keys if len(getattr(group[k], "shape", ())) in (3, 4)]
        if not images:
            continue
        if len(images) > 1:
            raise ReplayError(f"{group.uri}: several sets of images, {', '.join(images)}")
        yield _raw_images(name, group, images[0], keys, run, replay)


def _raw_images(
    name: str, group: Any, key: str, keys: list[str], run: str, replay: ReplayFormat
) -> StreamSource:
    array = group[key]
    count, shape = int(np.prod(array.shape[:-2])), tuple(array.shape[-2:])
    dtype = np.dtype(f"<u{array.dtype.itemsize}" if array.dtype.kind in "iu" else "<u4")
    stream = "saxs" if name == "primary" else name
    if not replay.also:
        stream = replay.stream or stream
    said = replay.of(stream)
    exposure_s = said.exposure_s or 1.0
    numbers = _column(group, keys, "_frame", count)
    times_ns = _column(group, keys, "_time_ns", count)
    metadata: dict[str, Any] = {"source": str(group.uri), "saturation": int(np.iinfo(dtype).max)}
    if said.poni_file is not None:
        metadata["poni"] = Path(said.poni_file).read_text(encoding="utf-8")
    start = StreamStart(stream, run, "image", shape, dtype.str, {}, metadata)

    def read() -> Iterator[Frame]:
        for i in range(count):
            index = tuple(map(int, np.unravel_index(i, array.shape[:-2])))
            frame = i if numbers is None else int(numbers[i])
            ns = (
                seconds_to_ns(i * said.period_s + exposure_s)
                if times_ns is None
                else int(times_ns[i])
            )
            image = as_unsigned(np.asarray(array[index]), f"{stream} frame {frame}")
            yield ImageFrame(stream, frame, ns, exposure_s, frozen_array(image, dtype))

    return StreamSource(start, count if numbers is None else int(numbers[-1]) + 1, read)


def _column(group: Any, keys: list[str], suffix: str, count: int) -> np.ndarray | None:
    found = [key for key in keys if key.endswith(suffix)]
    if len(found) != 1:
        return None
    values = np.ravel(np.asarray(group[found[0]].read()))
    return values if len(values) == count else None


def _are_absolute(node: Any, stream: str, curves: Any) -> bool:
    """Whether stored curves are in 1/cm."""
    known = curves.metadata.get("absolute")
    if known is not None:
        return bool(known)
    # Of an older run: concentrations were only made of such curves, and only of small angles.
    return stream == "saxs" and _has_concentrations(node)


def _has_concentrations(node: Any) -> bool:
    """Whether concentrations were found."""
    populations = _get(node, "saxs/populations")
    if populations is None:
        return False
    names = ("nc_concentration_um", "agglomerate_concentration_um")
    return any(np.isfinite(np.asarray(populations[name].read(), float)).any() for name in names)


def _result_streams(node: Any, run: str, _replay: ReplayFormat) -> Iterator[StreamSource]:
    """Stored curves and spectra of a run's results, with the times of their tables."""
    for stream in ("saxs", "waxs"):
        curves, axis = _get(node, f"{stream}/curves"), _get(node, f"{stream}/q")
        if curves is None or axis is None:
            continue
        arrays = {"q_per_nm": frozen_array(axis.read(), "<f8")}
        resolution = _get(node, f"{stream}/q_resolution")
        if resolution is not None:
            arrays["q_resolution_per_nm"] = frozen_array(resolution.read(), "<f8")
        metadata = {
            "source": str(node.uri),
            "sigma": "recorded",
            "absolute": _are_absolute(node, stream, curves),
            # What is stored is what was left after it.
            "background_subtracted": True,
        }
        shape = arrays["q_per_nm"].shape
        start = StreamStart(stream, run, "curve", shape, "<f8", arrays, metadata)
        yield _slabs(start, curves, _times_s(node, stream), _curve_frame)
    spectra, axis = _get(node, "absorbance/spectra"), _get(node, "absorbance/energy")
    if spectra is not None and axis is not None:
        # Rising in energy is falling in wavelength.
        wavelength_nm = frozen_array((_EV_NM / np.asarray(axis.read(), float))[::-1], "<f8")
        start = StreamStart(
            "absorbance",
            run,
            "absorbance",
            wavelength_nm.shape,
            "<f8",
            {"wavelength_nm": wavelength_nm},
            {"source": str(node.uri)},
        )
        yield _slabs(start, spectra, _times_s(node, "absorbance"), _spectrum_frame)


def _times_s(node: Any, stream: str) -> dict[int, float]:
    """Time of each frame, from the stream's own table of frames."""
    table = _get(node, f"{stream}/frames")
    if table is None:
        raise ReplayError(f"{node.uri}: {stream}/frames, the table of its times, is missing")
    frame = table.read(["frame", "time_s"])
    return dict(zip(map(int, frame["frame"]), map(float, frame["time_s"]), strict=True))


def _slabs(
    start: StreamStart,
    array: Any,
    times_s: Mapping[int, float],
    make: Callable[[str, int, int, np.ndarray], Frame],
) -> StreamSource:
    count = min(array.shape[0], max(times_s, default=-1) + 1)

    def read() -> Iterator[Frame]:
        for first in range(0, count, _FRAMES_PER_REQUEST):
            block = np.asarray(array[first : min(first + _FRAMES_PER_REQUEST, count)])
            for frame, slab in enumerate(block, start=first):
                time_s = times_s.get(frame, float("nan"))
                # A frame that gave no result left NaN: it is a hole, as a lost one is.
                if np.isfinite(time_s) and np.isfinite(slab[0]).any():
                    yield make(start.stream, frame, seconds_to_ns(time_s), slab)

    return StreamSource(start, count, read)


def _curve_frame(stream: str, frame: int, time_ns: int, slab: np.ndarray) -> Frame:
    return CurveFrame(
        stream, frame, time_ns, 0.0, frozen_array(slab[0], "<f8"), frozen_array(slab[1], "<f8")
    )


def _spectrum_frame(stream: str, frame: int, time_ns: int, slab: np.ndarray) -> Frame:
    return SpectrumFrame(stream, frame, time_ns, 0.0, frozen_array(slab[0][::-1], "<f8"))
