"""YAML on disk to :class:`RunConfig`, and one line for each thing that is wrong with it.

The schema beside the configs (for editors) is written by
``python -m pipeline.config.loader > configs/schema.json``.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import types
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.run import RunConfig

#: Settings that name a file or folder, relative to the config file. Those of ``replay`` are not
#: among them: they are relative to the recording.
FILE_SETTINGS = (
    *(
        (detector, "reduce", name)
        for detector in ("saxs", "waxs")
        for name in ("poni_file", "mask_file", "dark_file", "flat_file", "background_file")
    ),
    ("saxs", "fit", "instrument_file"),
    ("waxs", "phases", "background_file"),
    ("bus", "curve_keys"),
)

Location = tuple[str | int, ...]


class ConfigError(ValueError):
    """A config that cannot be used; the text is one line for each problem.

    Attributes
    ----------
    problems
        The lines, ``file:line: key what is wrong``.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class _Loader(yaml.SafeLoader):
    """Safe YAML with the plain values of YAML 1.2, in which a key may stand only once.

    By YAML 1.1, which PyYAML follows, ``5e11`` is text, ``on`` is a truth value and ``1:30`` is 90.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                twice = f"{_printable(key.value)} stands twice, first in line {seen[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, twice, key.start_mark)
            seen[key.value] = line
        return super().construct_mapping(node, deep)


for _tag_name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag_name}", re.compile(f"^(?:{_pattern})$"), _first
    )


def load_config(path: str | Path) -> RunConfig:
    """Read a config file.

    Parameters
    ----------
    path
        YAML file. Paths in it are relative to its folder.

    Raises
    ------
    ConfigError
        One line for each problem: ``x.yaml:12: saxs.fit.q_mni_per_nm is not known here; did you
        mean q_min_per_nm?``
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such config file{_siblings(path)}"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: expected a YAML file, got a folder"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            [f"{path}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x} "
             f"at offset {error.start}"]
        ) from None  # fmt: skip
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    return parse_config(text, source=str(path), folder=path.resolve().parent)


def parse_config(text: str, *, source: str = "config", folder: Path | None = None) -> RunConfig:
    """Read a config that is already in memory.

    Parameters
    ----------
    text
        The YAML.
    source
        What the messages call it.
    folder
        What relative paths are relative to; left as they are if None.

    Raises
    ------
    ConfigError
        As :func:`load_config`.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        what = error.problem or error.context or "not readable"
        duplicate = isinstance(error, yaml.constructor.ConstructorError) and "twice" in what
        raise ConfigError([f"{source}{line}: {'' if duplicate else 'not YAML: '}{what}"]) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as `!!int x`
        raise ConfigError([f"{source}: not YAML: {' '.join(str(error).split())}"]) from None
    except RecursionError:
        raise ConfigError([f"{source}: not a config: nested too deeply"]) from None
    if node is None or data is None:
        raise ConfigError([f"{source}: expected a config, got an empty file"])
    if not isinstance(data, dict):
        raise ConfigError([f"{source}:1: expected keys with values, got {_show(data)}"])
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        lines = dict(_key_lines(node))
        problems = [_explain(detail, lines, source) for detail in error.errors()]
        raise ConfigError([text for _, text in sorted(problems)]) from None
    return config if folder is None else _resolve_files(config, folder)


def config_to_yaml(config: RunConfig) -> str:
    """The whole config, defaults included, as YAML that :func:`parse_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """JSON schema of a config file, for editors and for other programs."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Config of nucleate",
        **{k: v for k, v in RunConfig.model_json_schema().items() if k != "title"},
    }


def json_schema_text() -> str:
    """The schema as it stands in ``configs/schema.json``."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _siblings(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (nor a folder {folder})"
    names = sorted(p.name for p in folder.glob("*.y*ml"))
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {folder / near[0]}?" if near else ""


def _resolve_files(config: RunConfig, folder: Path) -> RunConfig:
    for location in FILE_SETTINGS:
        *sections, name = location
        chain: list[BaseModel] = [config]
        for section in sections:
            chain.append(getattr(chain[-1], section))
        # A section may be absent as a whole.
        value = None if chain[-1] is None else getattr(chain[-1], name)
        if value is None:
            continue
        changed: Any = str(folder / Path(value).expanduser())
        for model, key in zip(reversed(chain), reversed(location), strict=True):
            changed = model.model_copy(update={key: changed})
        config = changed
    return _resolve_cifs(config, folder)


def _resolve_cifs(config: RunConfig, folder: Path) -> RunConfig:
    """Files of phases, relative to the config file as all others."""
    if config.waxs.phases is None:
        return config
    phases = tuple(
        phase
        if phase.cif is None
        else phase.model_copy(update={"cif": str(folder / Path(phase.cif).expanduser())})
        for phase in config.waxs.phases.phases
    )
    analysis = config.waxs.phases.model_copy(update={"phases": phases})
    waxs = config.waxs.model_copy(update={"phases": analysis})
    return config.model_copy(update={"waxs": waxs})


def _key_lines(root: yaml.Node) -> Iterator[tuple[Location, int]]:
    """Line (from 1) of each key and list item. Aliased parts count where they are defined."""
    pending: list[tuple[Location, yaml.Node]] = [((), root)]
    seen: set[int] = set()
    while pending:
        location, node = pending.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    yield (*location, key.value), key.start_mark.line + 1
                    pending.append(((*location, key.value), value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                yield (*location, index), value.start_mark.line + 1
                pending.append(((*location, index), value))


def _explain(detail: ErrorDetails, lines: dict[Location, int], source: str) -> tuple[int, str]:
    """Line and text of one problem."""
    location, model = _follow(detail["loc"], detail["type"])
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        location = (*location, str(context["discriminator"]).strip("'"))
    message = re.sub(r"^Value error, ", "", detail["msg"])
    if kind == "value_error":
        # Of a whole section: its text names the keys, and the first that stands there has the line.
        named = [(*location, word) for word in re.findall(r"[a-z]\w+", message)]
        location = next((key for key in named if key in lines), location)
    line = _line_of(location, lines)
    where = f"{source}:{line}: {'.'.join(map(_printable, location))}"
    got = _show(detail["input"])
    if kind == "extra_forbidden":
        text = f"is not known here; {_nearest(str(location[-1]), model)}"
    elif kind == "missing":
        text = "is missing"
    elif kind == "union_tag_not_found":
        text = f"is missing: it says which kind this is, {_tags(model)}"
    elif kind == "union_tag_invalid":
        text = f"should be {_tags(model)}, got {_show(context['tag'])}"
    elif kind in ("model_type", "model_attributes_type"):
        text = f"should be a section, got {got}"
    else:
        text = re.sub(r"^(Input|Value|String|Tuple) should ", "should ", message)
        text = text.replace("a valid tuple", "a list, e.g. [1, 2]")
        text = text.removesuffix(f" after validation, not {context.get('actual_length')}")
        if not (kind == "value_error" and (isinstance(detail["input"], dict) or "got " in text)):
            text += f", got {got}"
        # Keys of which the text says itself that they are meant.
        text = text.removeprefix(f"{location[-1]} ").removeprefix(f"{location[-1]}: ")
    return line, f"{where} {text}"


def _line_of(location: Location, lines: dict[Location, int]) -> int:
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)


def _follow(loc: Location, kind: str) -> tuple[Location, Any]:
    """Where in the file an error is, and the type there (for ``extra_forbidden``: the section's).

    pydantic puts the tag of a discriminated union into the location; the file has no such key.
    """
    found: list[str | int] = []
    annotation: Any = RunConfig
    last = len(loc) - 1
    for position, step in enumerate(loc):
        members = _sections(annotation)
        if isinstance(step, str) and len(members) > 1:
            chosen = [m for m in members if _tag(m) == step]
            if chosen:
                annotation = chosen[0]
                continue
        found.append(step)
        if position == last and kind == "extra_forbidden":
            break
        if isinstance(step, str) and members and step in members[0].model_fields:
            annotation = members[0].model_fields[step].annotation
        elif isinstance(step, int):
            arguments = [a for a in get_args(_strip(annotation)) if a is not Ellipsis]
            annotation = arguments[min(step, len(arguments) - 1)] if arguments else None
    return tuple(found), annotation


def _strip(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [a for a in get_args(annotation) if a is not type(None)]
        if len(rest) == 1:
            return _strip(rest[0])
    return annotation


def _sections(annotation: Any) -> list[type[BaseModel]]:
    annotation = _strip(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for part in get_args(annotation) for m in _sections(part)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def _tag(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("type")
    return field.default if field else None


def _tags(annotation: Any) -> str:
    return " or ".join(repr(_tag(m)) for m in _sections(annotation))


def _nearest(name: str, annotation: Any) -> str:
    known = [field for model in _sections(annotation) for field in model.model_fields]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    elsewhere = [path for path in _all_settings(RunConfig) if path[-1] == name]
    if elsewhere:
        return f"did you mean {'.'.join(elsewhere[0])}?"
    return f"known are {', '.join(known)}"


def _all_settings(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*above, name)
        for section in _sections(field.annotation):
            yield from _all_settings(section, (*above, name))


def _printable(key: str | int) -> str:
    return str(key) if str(key).isprintable() else repr(key)


def _show(value: Any) -> str:
    """What a value is, in a few words. Never the whole of a list: aliases can make it endless."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value[:80]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


if __name__ == "__main__":
    sys.stdout.write(json_schema_text())
