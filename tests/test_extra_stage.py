"""A stage of the user's own: its module is needed where it runs, and nowhere else."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.bus import codec
from pipeline.bus.errors import WireError
from pipeline.messages import RowResult, RunStart, StreamStart
from tests.support import REPOSITORY

SENDER = """
import re, sys
from pathlib import Path
text = Path(sys.argv[1]).read_text()
example = re.search(r"```python\\n# my_stages.py.*?```", text, re.S).group()[10:-3]
namespace = {"__name__": "my_stages"}
exec(compile(example, "my_stages.py", "exec"), namespace)
import numpy as np
from pipeline.bus import codec
from pipeline.messages import Curve, FrameResults, RunStart, StreamStart
q = np.linspace(1.0, 5.0, 50)
stage = namespace["FitPorod"]()
start = RunStart("run", StreamStart("saxs", "run", "curve", (50,), "<f8"))
stage.reset(start)
curve = Curve(frame=3, time_s=2.0, q_per_nm=q, intensity=0.25 * q**-4.0, sigma=q, absolute=True)
results = FrameResults("saxs", "run", 3, 2.0, tuple(stage.process(curve)))
for parts in (codec.encode_open(start, stage.produces), codec.encode_results(results)):
    sys.stdout.buffer.write(len(parts).to_bytes(4, "big"))
    for part in parts:
        sys.stdout.buffer.write(len(part).to_bytes(4, "big") + bytes(part))
"""


def messages(data: bytes) -> list[list[bytes]]:
    """Messages that the sender wrote: counts and lengths before the parts."""
    found, at = [], 0

    def number() -> int:
        nonlocal at
        at += 4
        return int.from_bytes(data[at - 4 : at], "big")

    while at < len(data):
        parts = []
        for _ in range(number()):
            length = number()
            parts.append(data[at : at + length])
            at += length
        found.append(parts)
    return found


def test_example_of_the_readme_arrives_where_its_module_is_unknown() -> None:
    """The very text of the README runs in another process; its result is decoded here."""
    command = [sys.executable, "-c", SENDER, str(REPOSITORY / "README.md")]
    sent = subprocess.run(command, capture_output=True, check=True, cwd=REPOSITORY, timeout=60)
    opening, results = messages(sent.stdout)
    _, (kind,) = codec.decode_open(opening)
    assert issubclass(kind, RowResult)
    assert kind.NODE == "saxs/porod"
    (porod,) = codec.decode_results(results).results
    assert porod.frame == 3
    assert porod.porod_per_cm_nm4 == pytest.approx(0.25)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("node", "fields"),
    [
        ("../raw", {"frame": "int", "time_s": "float", "x": "float"}),
        ("saxs/x", {"frame": "int", "time_s": "float", "x; drop table": "float"}),
        ("saxs/x", {"frame": "int", "time_s": "float", "x": "module:Class"}),
    ],
)
def test_announcement_that_makes_no_sense_is_refused(node: str, fields: dict[str, str]) -> None:
    start = StreamStart("saxs", "run", "curve", (1,), "<f8", {"q_per_nm": np.ones(1)})
    opening = codec.encode_open(RunStart("run", start), ())
    header = codec.packed.unpack(opening[0])
    header["nodes"] = [{"class": "Strange", "fields": fields, "node": node}]
    with pytest.raises(WireError):
        codec.decode_open([codec.packed.pack(header), *opening[1:]])
