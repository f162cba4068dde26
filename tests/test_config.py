"""Configs: what is wrong is said in one line with its place; those in configs/ are right."""

import hashlib
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config import RunConfig
from pipeline.config.inputs import geometries, input_files, input_hashes
from pipeline.config.loader import (
    ConfigError,
    config_to_yaml,
    json_schema,
    json_schema_text,
    load_config,
    parse_config,
)

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
CONFIG_FILES = sorted(CONFIGS.glob("*.yaml"))


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, source="x.yaml")
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: p.stem)
def test_config_in_repository_is_valid(path):
    config = load_config(path)
    assert config.name == path.stem
    assert parse_config(config_to_yaml(config)) == config


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: p.stem)
def test_schema_accepts_what_the_models_accept(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(json_schema_text()))


def test_schema_refuses_an_unknown_key():
    with pytest.raises(jsonschema.ValidationError, match="q_mni_per_nm"):
        jsonschema.validate({"saxs": {"fit": {"q_mni_per_nm": 1}}}, json_schema())


def test_schema_file_is_up_to_date():
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == json_schema_text(), (
        "run: python -m pipeline.config.loader > configs/schema.json"
    )


def test_empty_sections_give_the_defaults():
    assert parse_config("name: run") == RunConfig()


def test_numbers_without_a_dot_are_numbers():
    text = "acquisition: {devices: {type: ophyd, saxs_options: {flux: 5e11, n: 3, on: 'x'}}}"
    devices = parse_config(text).acquisition.devices
    assert devices.saxs_options == {"flux": 5e11, "n": 3, "on": "x"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e11", 5e11), ("-.5", -0.5), ("007", 7), ("0x1f", 31), ("true", True), ("on", "on"),
     ("1:30", "1:30"), ("2016-07-08", "2016-07-08"), ("'5'", "5")],
)  # fmt: skip
def test_plain_values_are_those_of_yaml_1_2(text, value):
    config = parse_config(f"acquisition: {{devices: {{type: ophyd, saxs_options: {{x: {text}}}}}}}")
    found = config.acquisition.devices.saxs_options["x"]
    assert (found, type(found)) == (value, type(value))


def test_tag_chooses_the_kind_of_devices():
    text = "acquisition: {devices: {type: ophyd, saxs: 'lab.eiger:Eiger'}}"
    assert parse_config(text).acquisition.devices.saxs == "lab.eiger:Eiger"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "saxs:\n  fit:\n    q_mni_per_nm: 0.2\n",
            "x.yaml:3: saxs.fit.q_mni_per_nm is not known here; did you mean q_min_per_nm?",
        ),
        (
            "saxs:\n  fit:\n    thickness_cm: 0.2\n",
            "x.yaml:3: saxs.fit.thickness_cm is not known here; did you mean "
            "acquisition.devices.saxs.thickness_cm?",
        ),
        (
            "\nacquisition:\n  devices:\n    type: simulated\n    saxs:\n      rate_hzz: 2\n",
            "x.yaml:6: acquisition.devices.saxs.rate_hzz is not known here; did you mean rate_hz?",
        ),
        (
            "acquisition:\n  devices:\n    type: simulatd\n",
            "x.yaml:3: acquisition.devices.type should be 'simulated' or 'ophyd', got 'simulatd'",
        ),
        (
            "acquisition:\n  devices:\n    seed: 2\n",
            "x.yaml:2: acquisition.devices.type is missing: it says which kind this is, "
            "'simulated' or 'ophyd'",
        ),
        (
            "acquisition:\n  devices:\n    type: simulated\n    artefacts:\n"
            "      - kind: bubble\n        at_s: -1\n",
            "x.yaml:6: acquisition.devices.artefacts.0.at_s should be greater than or equal to 0, "
            "got -1",
        ),
        (
            "saxs:\n  reduce:\n    bins: many\n",
            "x.yaml:3: saxs.reduce.bins should be a valid integer, unable to parse string as an "
            "integer, got 'many'",
        ),
        (
            "saxs:\n  assembly:\n    spacing_range_nm: [20, 12]\n",
            "x.yaml:3: saxs.assembly.spacing_range_nm expected 0 < first < second, "
            "got (20.0, 12.0)",
        ),
        (
            "saxs:\n  assembly:\n    peak_fwhm_per_nm: [0.08, 0.03]\n",
            "x.yaml:3: saxs.assembly.peak_fwhm_per_nm expected ascending from above 0, "
            "got (0.08, 0.03)",
        ),
        (
            "waxs:\n  phases:\n    phases: [CsPbBr3]\n",
            "x.yaml:3: waxs.phases.phases.0 expected one of CsPbBr3_Pbnm, CsPbBr3_Pm-3m, Cs4PbBr6, "
            "PbBr2, PbI2, FAPbI3_alpha, FAPbI3_delta, or a cell; got 'CsPbBr3'",
        ),
        ("saxs: 5\n", "x.yaml:1: saxs should be a section, got 5"),
        ("sample:\n  system:\n", "x.yaml:2: sample.system should be a valid string, got nothing"),
        ("name: a\nsaxs: {}\nname: b\n", "x.yaml:3: name stands twice, first in line 1"),
        ("", "x.yaml: expected a config, got an empty file"),
        ("# nothing\n", "x.yaml: expected a config, got an empty file"),
        ("- a\n", "x.yaml:1: expected keys with values, got a list of 1"),
    ],
)
def test_problem_is_one_line(text, expected):
    assert problems(text) == (expected,)


def test_every_problem_is_told_in_the_order_of_the_file():
    found = problems("zzz: 1\nsaxs:\n  reduce:\n    bins: 1\n    bin: 2\n")
    assert [line.split(":")[1] for line in found] == ["1", "4", "5"]


@pytest.mark.parametrize(
    ("text", "line"),
    [("name: [a", 1), ("name: a\n b: c: d", 2), ("a: !!python/name:os.system x", 1)],
)
def test_what_is_not_yaml_is_refused_with_its_line(text, line):
    (problem,) = problems(text)
    assert problem.startswith(f"x.yaml:{line}: not YAML: ")


def test_aliases_and_merges_may_be_used_but_keep_their_line():
    text = "saxs: &s\n  fit: {bins: 1}\nabsorbance: *s\n"
    assert all(p.startswith("x.yaml:2:") or p.startswith("x.yaml:3:") for p in problems(text))
    merged = "saxs:\n  reduce: &r {bins: 100}\n  fit: null\n"
    assert parse_config(merged).saxs.reduce.bins == 100


def test_aliases_of_aliases_do_not_explode():
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    assert len(problems("\n".join(lines))) == 40


def test_files_are_relative_to_the_config(tmp_path):
    path = tmp_path / "deep" / "x.yaml"
    path.parent.mkdir()
    path.write_text(
        "saxs: {reduce: {poni_file: ../a.poni, mask_file: /m.npy}}\nreplay: {poni_file: b.poni}\n"
    )
    config = load_config(path)
    assert Path(config.saxs.reduce.poni_file).resolve() == tmp_path / "a.poni"
    assert config.saxs.reduce.mask_file == "/m.npy"
    assert config.saxs.reduce.background_file is None
    assert config.replay.poni_file == "b.poni"  # relative to the recording, not to the config


def test_inputs_are_all_that_the_reduction_reads(tmp_path):
    """The detector's file of a PONI file too, relative to it; the last of appended entries."""
    folder = tmp_path / "deep"
    folder.mkdir()
    text = 'Detector_config: {"filename": "old.h5"}\nDetector_config: {"filename": "pixels.h5"}\n'
    (folder / "a.txt").write_text(text)
    (folder / "pixels.h5").write_bytes(b"pixels")
    (tmp_path / "w.nxs").write_bytes(b"\xff")
    path = tmp_path / "x.yaml"
    path.write_text("saxs: {reduce: {poni_file: deep/a.txt}}\nwaxs: {reduce: {poni_file: w.nxs}}\n")
    config = load_config(path)
    files = [folder / "a.txt", tmp_path / "w.nxs", folder / "pixels.h5"]
    assert input_files(config) == files
    told = {entry["file"]: entry["sha256"] for entry in input_hashes(path, config)}
    assert list(told) == [str(file) for file in (path, *files)]
    assert told[str(folder / "pixels.h5")] == hashlib.sha256(b"pixels").hexdigest()
    # What is PONI text, whatever its name, is quoted.
    expected = {"saxs": text, "waxs": str(tmp_path / "w.nxs"), "other": "theirs"}
    assert geometries(config, {"saxs": "no", "other": "theirs"}) == expected
    for bad in (
        "no colon",
        "Detector_config: {",
        "Detector_config: 3",
        'Detector_config: {"a": 1}',
    ):
        (folder / "a.txt").write_text(bad)
        assert input_files(config) == files[:2]
    (folder / "a.txt").unlink()
    assert input_files(config) == files[:2]


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "cs_dopa.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such config file; did you mean .*cs_dopa\.yaml\?"):
        load_config(tmp_path / "cs_dopar.yaml")
    with pytest.raises(ConfigError, match="nor a folder"):
        load_config(tmp_path / "no" / "x.yaml")
    with pytest.raises(ConfigError, match="got a folder"):
        load_config(tmp_path)


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="expected UTF-8 text, got byte 0xff at offset 6"):
        load_config(path)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["saxs", "reduce", "fit", "acquisition", "devices", "type", "name"])
                | st.text(max_size=5),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
@example({"\n": None})
def test_any_yaml_is_a_config_or_a_config_error(value):
    found = ()
    try:
        parse_config(yaml.safe_dump(value, allow_unicode=True), source="x.yaml")
    except ConfigError as error:
        found = error.problems
    assert all(p.startswith("x.yaml:") and "\n" not in p for p in found)


@pytest.mark.parametrize(
    "text", ["a: !!timestamp 2001-99-99", "a: !!int x", "? [a]\n: b", "[" * 3000, "\x00"]
)
def test_hostile_yaml_is_a_config_error(text):
    (problem,) = problems(text)
    assert problem.startswith("x.yaml:")
    assert "\n" not in problem
