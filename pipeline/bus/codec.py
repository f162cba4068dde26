"""What travels between stages and the store, as msgpack header and array buffers.

Results are dataclasses; a new one needs nothing here, as long as its fields are float, int, str,
bool (each perhaps None) or arrays: the opening of a stream announces what will come.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Sequence
from dataclasses import fields, make_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from pipeline.bus import packed
from pipeline.bus.errors import WireError
from pipeline.bus.wire import decode_start, encode_start
from pipeline.messages import (
    ArrayResult,
    FrameResults,
    MapResult,
    Result,
    RowResult,
    RunDocument,
    RunStart,
    StreamEnd,
)

Parts = Sequence[bytes]
_SCALARS = {float: "float", int: "int", str: "str", bool: "bool"}
_TYPES = {name: kind for kind, name in _SCALARS.items()}


# Which results there are


@cache
def result_fields(kind: type[Result]) -> dict[str, str]:
    """Fields of a result: ``float``, ``int``, ``str``, ``bool`` or ``array``; ``?`` may be None."""
    hints = get_type_hints(kind)
    return {field.name: _field_kind(kind, field.name, hints[field.name]) for field in fields(kind)}


def _field_kind(kind: type, name: str, hint: Any) -> str:
    if hint is np.ndarray or get_origin(hint) is np.ndarray:
        return "array"
    optional = ""
    if get_origin(hint) in (types.UnionType, Union):
        options = [option for option in get_args(hint) if option is not type(None)]
        hint, optional = (options[0] if len(options) == 1 else None), "?"
    if hint not in _SCALARS:
        raise TypeError(
            f"{kind.__name__}.{name}: expected float, int, str, bool or numpy.ndarray, got {hint}"
        )
    return _SCALARS[hint] + optional


_known: dict[str, type[Result]] = {}
_made: set[str] = set()
_NODE = re.compile(r"[a-z][a-z0-9_]{0,40}(/[a-z][a-z0-9_]{0,40}){1,3}")


def result_class(name: str) -> type[Result]:
    """The result of this name among all that are imported.

    Raises
    ------
    WireError
        If there is none, or if two modules have one.
    """
    known = _known.get(name)
    if known is not None:
        return known
    found = [kind for kind in _subclasses(Result) if kind.__name__ == name]
    # dataclass(slots=True) makes a second class and may leave the first lying about.
    slotted = [kind for kind in found if "__slots__" in vars(kind)]
    found = slotted or found
    if not found:
        raise WireError(f"no result is called {name[:60]!r} here: import its module")
    if len({kind.__module__ for kind in found}) > 1:
        modules = sorted({kind.__module__ for kind in found})
        raise WireError(f"{name} is the name of results of several modules: {modules}")
    _known[name] = found[-1]
    return found[-1]


def _subclasses(kind: type) -> Iterable[type]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


# Results of a frame


def encode_results(results: FrameResults) -> list[bytes]:
    """Results of a frame. Those that have no node (``NODE`` None) are left out."""
    buffers: list[bytes] = []
    items = [
        _encode_result(result, buffers) for result in results.results if result.NODE is not None
    ]
    header = {
        "stream": results.stream,
        "run": results.run,
        "frame": int(results.frame),
        "time_s": float(results.time_s),
        "rejected": results.rejected,
        "newest": int(results.newest),
        "results": items,
    }
    return [packed.pack(header), *buffers]


def _encode_result(result: Result, buffers: list[bytes]) -> dict[str, Any]:
    kind = type(result)
    values: dict[str, Any] = {}
    for name, field_kind in result_fields(kind).items():
        value = getattr(result, name)
        if field_kind == "array":
            array = np.asarray(value)
            values[name] = packed.describe(array)
            buffers.append(packed.buffer(array))
        elif value is None and field_kind.endswith("?"):
            values[name] = None
        else:
            values[name] = _TYPES[field_kind.rstrip("?")](value)
    return {"class": kind.__name__, "values": values}


def decode_results(parts: Parts) -> FrameResults:
    """Results of a frame; arrays are read-only. `WireError` if anything is not as declared."""
    header = packed.unpack(parts[0])
    frame = packed.field(header, "frame", int)
    rejected = header.get("rejected")
    if not isinstance(rejected, str | None):
        raise WireError(f"expected rejected as str or nil, got {type(rejected).__name__}")
    if not 0 <= frame < 2**63:
        raise WireError(f"expected a frame number of 0 or more, got {frame}")
    buffers = list(parts[1:])
    results = tuple(
        _decode_result(item, frame, buffers) for item in packed.field(header, "results", list)
    )
    if buffers:
        raise WireError(f"frame {frame}: {len(buffers)} parts more than the header tells of")
    return FrameResults(
        packed.field(header, "stream", str),
        packed.field(header, "run", str),
        frame,
        packed.field(header, "time_s", float),
        results,
        rejected,
        packed.field(header, "newest", int),
    )


def _decode_result(item: Any, frame: int, buffers: list[bytes]) -> Result:
    if not isinstance(item, dict):
        raise WireError(f"frame {frame}: expected a result as a map, got {type(item).__name__}")
    name, given = packed.field(item, "class", str), packed.field(item, "values", dict)
    kind = result_class(name)
    wanted = result_fields(kind)
    if given.keys() != wanted.keys():
        odd = sorted(map(str, given.keys() ^ wanted.keys()))[:5]
        raise WireError(f"frame {frame}: {name} differs in the fields {odd}: same version?")
    values: dict[str, Any] = {}
    for field_name, field_kind in wanted.items():
        what = f"frame {frame} {name}.{field_name}"
        if field_kind == "array":
            if not buffers:
                raise WireError(f"{what}: expected a part, got none")
            values[field_name] = packed.restore(given[field_name], buffers.pop(0), what)
        elif given[field_name] is None and field_kind.endswith("?"):
            values[field_name] = None
        else:
            values[field_name] = packed.field(given, field_name, _TYPES[field_kind.rstrip("?")])
    result = kind(**values)
    if result.frame != frame or result.NODE is None:
        raise WireError(f"frame {frame}: {name} of frame {result.frame} cannot be stored with it")
    return result


# Opening and ending


def encode_open(start: RunStart, kinds: Iterable[type[Result]]) -> list[bytes]:
    """Announcement of the results of one stream."""
    stored = [kind for kind in kinds if kind.NODE is not None]
    header = {
        "run": start.run,
        "metadata": start.metadata,
        "nodes": [_describe(kind) for kind in stored],
    }
    return [packed.pack(header), *encode_start(start.stream)]


def _describe(kind: type[Result]) -> dict[str, Any]:
    """What a receiver that has not imported a result must know of it."""
    description = {"class": kind.__name__, "fields": result_fields(kind), "node": kind.NODE}
    if issubclass(kind, ArrayResult):
        description |= {
            "axis_node": kind.AXIS_NODE,
            "axis": kind.AXIS,
            "lines": list(kind.LINES),
            "constants": [list(constant) for constant in kind.CONSTANTS],
        }
    if issubclass(kind, MapResult):
        description |= {
            "axes": [list(axis) for axis in kind.AXES],
            "lines": list(kind.LINES),
            "constants": [list(constant) for constant in kind.CONSTANTS],
        }
    return description


def _announced(node: dict[str, Any]) -> type[Result]:
    """The class of an announced result: ours, or one made from what is announced.

    So that a user's own stage needs its module where it runs, and nowhere else.
    """
    name = packed.field(node, "class", str)
    declared = packed.field(node, "fields", dict)
    if name in _made:
        known = _known[name]
        if _describe(known) == node:
            return known
    elif any(kind.__name__ == name for kind in _subclasses(Result)):
        return result_class(name)
    types_by_name = {kind: python for python, kind in _SCALARS.items()} | {"array": np.ndarray}
    columns: list[tuple[str, Any]] = []
    for column, kind in declared.items():
        if not (isinstance(column, str) and column.isidentifier() and len(column) <= 63):
            raise WireError(f"{name[:60]}: expected names of fields, got {str(column)[:60]!r}")
        plain = types_by_name.get(str(kind).rstrip("?"))
        if plain is None:
            raise WireError(f"{name[:60]}.{column}: expected a type of field, got {str(kind)[:20]}")
        columns.append((column, plain | None if str(kind).endswith("?") else plain))
    namespace: dict[str, Any] = {"NODE": _node_path(name, packed.field(node, "node", str))}
    base: type[Result] = RowResult
    if "axis" in node:
        base = ArrayResult
        namespace |= _array_layout(name, declared, node)
    elif "axes" in node:
        base = MapResult
        namespace |= _map_layout(name, declared, node)
    own = [column for column in columns if column[0] not in result_fields(base)]
    made = make_dataclass(
        name, own, bases=(base,), namespace=namespace, frozen=True, eq=False, kw_only=True
    )
    _made.add(name)
    _known[name] = made
    return made


def _node_path(name: str, path: Any) -> str:
    if not (isinstance(path, str) and _NODE.fullmatch(path)):
        raise WireError(f"{name[:60]}: expected a node like saxs/porod, got {str(path)[:60]!r}")
    return path


def _array_layout(name: str, declared: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Axis, lines and constants of an announced array, all of which must be its fields."""
    axis, lines = packed.field(node, "axis", str), packed.field(node, "lines", list)
    # Senders from before there were constants do not tell of any.
    constants = _with_nodes(name, node, "constants") if "constants" in node else ()
    _check_arrays(name, declared, [axis, *lines, *(constant[0] for constant in constants)])
    return {
        "AXIS_NODE": _node_path(name, packed.field(node, "axis_node", str)),
        "AXIS": axis,
        "LINES": tuple(lines),
        "CONSTANTS": constants,
    }


def _map_layout(name: str, declared: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Axes, lines and constants of an announced map, all of which must be its fields."""
    axes, constants = _with_nodes(name, node, "axes"), _with_nodes(name, node, "constants")
    lines = packed.field(node, "lines", list)
    _check_arrays(name, declared, [*lines, *(pair[0] for pair in (*axes, *constants))])
    return {"AXES": axes, "LINES": tuple(lines), "CONSTANTS": constants}


def _with_nodes(name: str, node: dict[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    """Fields, each with its node."""
    pairs = packed.field(node, key, list)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise WireError(f"{name[:60]}: expected {key} as field, node; got {pairs!r:.60}")
    return tuple((field, _node_path(name, path)) for field, path in pairs)


def _check_arrays(name: str, declared: dict[str, Any], named: list[Any]) -> None:
    for field in named:
        if not (isinstance(field, str) and declared.get(field) == "array"):
            raise WireError(f"{name[:60]}: expected an array among its fields, got {field!r:.60}")


def decode_open(parts: Parts) -> tuple[RunStart, tuple[type[Result], ...]]:
    """Run, stream and the classes of its results, which must be the same here as there."""
    header = packed.unpack(parts[0])
    kinds: list[type[Result]] = []
    for node in packed.field(header, "nodes", list):
        if not isinstance(node, dict):
            raise WireError(f"expected a node as a map, got {type(node).__name__}")
        kind = _announced(node)
        if node.get("fields") != result_fields(kind):
            raise WireError(f"{kind.__name__} has other fields there than here: same version?")
        kinds.append(kind)
    start = decode_start(parts[1:])
    run = packed.field(header, "run", str)
    if run != start.run:
        raise WireError(f"expected a stream of run {run[:80]!r}, got one of {start.run[:80]!r}")
    return RunStart(run, start, packed.field(header, "metadata", dict)), tuple(kinds)


def encode_end(end: StreamEnd) -> list[bytes]:
    """End of a stream."""
    header = {"stream": end.stream, "run": end.run, "frames": end.frames, "reason": end.reason}
    return [packed.pack(header)]


def decode_end(parts: Parts) -> StreamEnd:
    """End of a stream."""
    header = _only_header(parts)
    frames = packed.field(header, "frames", int)
    if not 0 <= frames < 2**63:
        raise WireError(f"expected frames of 0 or more, got {frames}")
    return StreamEnd(
        packed.field(header, "stream", str),
        packed.field(header, "run", str),
        frames,
        packed.field(header, "reason", str),
    )


def encode_document(document: RunDocument) -> list[bytes]:
    """Start or stop document of a run; `TypeError` if it holds anything but plain data."""
    header = {"run": document.run, "name": document.name, "document": document.document}
    return [packed.pack(header)]


def decode_document(parts: Parts) -> RunDocument:
    """Start or stop document of a run."""
    header = _only_header(parts)
    name = packed.field(header, "name", str)
    if name != "start" and name != "stop":
        raise WireError(f"expected a document start or stop, got {name[:40]!r}")
    return RunDocument(
        packed.field(header, "run", str), name, packed.field(header, "document", dict)
    )


def _only_header(parts: Parts) -> dict[str, Any]:
    if len(parts) != 1:
        raise WireError(f"expected a message of one part, got {len(parts)}")
    return packed.unpack(parts[0])
