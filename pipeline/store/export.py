"""Export formats that our Tiled server adds to Tiled's own.

They belong to the container of a run, so that metadata, q and what became of each frame are at
hand; what is wanted of it stands as parameters in the media type:

    GET /api/v1/container/full/RUN?format=nxcansas;stream=saxs;frames=10:20;unit=1/nm
    GET /api/v1/container/full/RUN?format=text;frame=12

``nxcansas`` is short for ``application/x-nxcansas`` and ``text`` for ``text/plain``. The parameters
are those of `pipeline.export.Request`.
"""

from __future__ import annotations

import asyncio
import copy
import io
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from fastapi import HTTPException
from tiled.catalog.adapter import CatalogContainerAdapter
from tiled.media_type_registration import SerializationRegistry, default_serialization_registry
from tiled.ndslice import NDSlice
from tiled.server.core import NoEntry
from tiled.structures.core import StructureFamily
from tiled.utils import ensure_awaitable, parse_mimetype

from pipeline.export import (
    CONCENTRATIONS,
    CurveSet,
    ExportError,
    FrameCurve,
    Ledger,
    NotThereError,
    Request,
    curve_set,
    curve_text,
    slabs_to_curves,
    write_nxcansas,
)

NXCANSAS = "application/x-nxcansas"
TEXT = "text/plain"
ALIASES = {"nxcansas": NXCANSAS, "text": TEXT}

# An entry of 500 bins takes 7 ms and 15 kB: this is 7 s of a thread that shares Python's lock with
# a live run.
MOST_FRAMES = 1000

Filter = Callable[[Any], Awaitable[Any]]


class ParameterRegistry(SerializationRegistry):
    """Tiled's registry, which here knows the short name of a format also before parameters."""

    def resolve_alias(self, alias: str) -> str:
        """The media type of a short name, or what was given.

        Raises
        ------
        HTTPException
            If parameters are not ``key=value``: Tiled would answer 500.
        """
        try:
            parse_mimetype(alias)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        short, mark, parameters = alias.partition(";")
        return super().resolve_alias(short) + mark + parameters


def serialization_registry() -> SerializationRegistry:
    """All of Tiled's formats, and ours."""
    registry = ParameterRegistry()
    vars(registry).update(copy.deepcopy(vars(default_serialization_registry)))
    registry.register(StructureFamily.container, NXCANSAS, serialize_nxcansas)
    registry.register(StructureFamily.container, TEXT, serialize_text)
    for alias, media_type in ALIASES.items():
        if registry.resolve_alias(alias) != media_type:
            registry.register_alias(alias, media_type)
    return registry


async def serialize_nxcansas(
    media_type: str, node: Any, _metadata: dict[str, Any], filter_for_access: Filter
) -> bytes:
    """Curves of a run as an NXcanSAS file."""
    try:
        request = _request(media_type)
        curves, frames = await _read(await filter_for_access(node), request)
        buffer = io.BytesIO()
        await asyncio.to_thread(write_nxcansas, buffer, curves, frames, request.unit)
    except ExportError as error:
        raise _refusal(error) from None
    return buffer.getvalue()


async def serialize_text(
    media_type: str, node: Any, _metadata: dict[str, Any], filter_for_access: Filter
) -> bytes:
    """One curve of a run as text."""
    try:
        request = _request(media_type)
        if request.frame is None:
            raise ExportError(
                "text holds one curve: expected format=text;frame=N, got no frame in the format"
            )
        curves, frames = await _read(await filter_for_access(node), request)
        return curve_text(curves, frames[0], request.unit).encode()
    except ExportError as error:
        raise _refusal(error) from None


def _refusal(error: ExportError) -> HTTPException:
    return HTTPException(404 if isinstance(error, NotThereError) else 400, str(error))


def _request(media_type: str) -> Request:
    _, parameters = parse_mimetype(media_type)
    return Request.parse(parameters)


async def _read(node: Any, request: Request) -> tuple[CurveSet, list[FrameCurve]]:
    """What is asked for, out of a run's container in the catalog."""
    stream = request.stream
    parts = [await _child(node, stream, key) for key in ("curves", "q", "frames")]
    if any(part is None for part in parts) or node.metadata().get("start") is None:
        raise NotThereError(
            f"expected a run's container with {stream}/curves, got one without: ask for "
            f"container/full/RUN?format=nxcansas;stream={stream}"
        )
    slabs, q, frames = parts
    *_, run = await node.path_segments()
    table = await frames.read(fields=["time_s", "status", "note"])
    ledger = Ledger(table["time_s"].to_numpy(), list(table["status"]), list(table["note"]))
    numbers = request.choose(run, ledger).numbers
    if len(numbers) > MOST_FRAMES:
        raise ExportError(
            f"run {run}: {len(numbers)} frames are too many for one request: expected up to "
            f"{MOST_FRAMES}, choose them with frames=A:B"
        )
    resolution = await _child(node, stream, "q_resolution")
    curves = curve_set(
        run,
        stream,
        node.metadata()["start"],
        await _values(q),
        q_resolution_per_nm=None if resolution is None else await _values(resolution),
        stream_facts=slabs.metadata(),
        concentrations_um=await _concentrations(node) if stream == "saxs" else (),
    )
    block = await slabs.read(NDSlice(slice(numbers[0], numbers[-1] + 1)))
    read = slabs_to_curves(np.asarray(block), numbers[0], numbers, ledger.time_s)
    return curves, list(read)


async def _child(node: Any, *keys: str) -> Any:
    """A node below; None if it is missing, or ``node`` is a part of a file."""
    if not isinstance(node, CatalogContainerAdapter):
        return None
    try:
        return await node.lookup_adapter(list(keys))
    except NoEntry:
        return None


async def _values(array: Any) -> np.ndarray:
    return np.asarray(await ensure_awaitable(array.read), float)


async def _concentrations(node: Any) -> list[np.ndarray]:
    populations = await _child(node, "saxs", "populations")
    if populations is None:
        return []
    names = [n for n in populations.structure().columns if n in CONCENTRATIONS]
    table = await populations.read(fields=names)
    return [table[name].to_numpy() for name in names]
