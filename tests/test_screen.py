"""What the terminal says of a fit: no number looks more certain than it is."""

from __future__ import annotations

import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from benchmarks.sequences import FLAT_PER_CM, Q_PER_NM, counted
from detectors.sample import Synthesis
from pipeline.cli.screen import Screen
from pipeline.cli.shown import crystals, doubts, measured, ordered
from pipeline.config import RunConfig
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.populations import FitPopulations
from pipeline.messages import Populations

NAN = float("nan")


def fitted(time_s: float, wave: float) -> dict[str, object]:
    """The row of a simulated frame whose curve is off by a share that waves along q."""
    true = Synthesis("cs_dopa").intensity_per_cm(Q_PER_NM, time_s)
    curve = counted(
        true * (1 + wave * np.sin(4.0 * Q_PER_NM)) + FLAT_PER_CM, np.random.default_rng(1), frame=0
    )
    (row, _) = FitPopulations(PopulationsFit(), Sample()).process(curve)
    assert isinstance(row, Populations)
    return dataclasses.asdict(row)


def screen() -> Screen:
    session = SimpleNamespace(
        streams=("saxs", "absorbance"),
        run="r",
        address=SimpleNamespace(url="http://127.0.0.1:8000"),
        is_external=True,
    )
    return Screen(session, RunConfig(), Console(file=io.StringIO()))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"d": 8.123, "d_err": 0.0123}, "8.123 ± 0.012 nm"),
        ({"d": 8.123}, "8.12 nm"),
        ({"d": 8.123, "d_err": NAN, "describes": True}, "8.12 nm"),
        ({"d": 8.123, "d_err": NAN, "describes": False}, "8.12 nm (not described)"),
        ({"d": 8.123, "describes": False}, "8.12 nm"),
        ({"d": NAN, "d_err": NAN, "describes": False}, "-"),
        ({"d": None, "d_err": None}, "-"),
        (None, "-"),
        (
            {"d": 4.56, "d_err": 0.3, "d_lo": 4.17, "d_hi": 5.12, "interval": "posterior"},
            "4.6 (4.2 to 5.1) nm",
        ),
        (
            {"d": 4.56, "d_err": 0.3, "d_lo": 4.17, "d_hi": 5.12, "interval": "fisher"},
            "4.56 ± 0.30 nm",
        ),
        (
            {"d": 4.56, "d_err": 0.3, "d_lo": NAN, "d_hi": NAN, "interval": "posterior"},
            "4.56 ± 0.30 nm",
        ),
        (
            {"d": 2.5264, "d_err": 0.0047, "d_systematic": 0.136},
            "2.5264 ± 0.0047 nm (systematic ± 0.14)",
        ),
        ({"d": 2.5264, "d_err": 0.0047, "d_systematic": NAN}, "2.5264 ± 0.0047 nm"),
    ],
)
def test_a_value_stands_with_what_is_known_of_it(row, shown):
    assert measured(row, "d", "nm") == shown


def test_a_fit_that_does_not_describe_the_curve_says_so():
    shown = screen()
    shown._take("saxs/populations", fitted(60.0, 0.0))
    good = dict(shown._values())
    assert "±" in good["diameter"]
    assert not any(name.startswith("note") for name in good)
    row = fitted(60.0, 0.3)
    shown._take("saxs/populations", row)
    bad = dict(shown._values())
    assert bad["note (SAXS)"].startswith("fit does not describe the curve (misfit ")
    # A wave of 30 %, of which the fit follows a part.
    assert 0.05 < float(bad["note (SAXS)"].split("misfit ")[1].split()[0]) / 100 < 0.3
    for label in ("diameter", "sigma", "concentration"):
        assert bad[label].endswith("(not described)")
    assert "described" not in bad["reduced chi²"]
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    console.print(shown._view())
    assert "fit does not describe the curve" in console.file.getvalue()  # pyright: ignore


def test_intervals_of_the_posterior_stand_instead_of_errors():
    row = fitted(1.5, 0.0)
    assert row["interval"] == "posterior"
    shown = screen()
    shown._take("saxs/populations", row)
    diameter = dict(shown._values())["diameter"]
    low, high = (float(end) for end in diameter.split("(")[1].split(")")[0].split(" to "))
    assert low == pytest.approx(row["nc_diameter_nm_lo"], abs=0.05)
    assert high == pytest.approx(row["nc_diameter_nm_hi"], abs=0.05)


def test_why_there_is_no_optical_size():
    row = {"diameter_nm": NAN, "diameter_nm_err": NAN, "size_flag": "outside 2.362 to 3.4 eV"}
    assert measured(row, "diameter_nm", "nm") == "-"
    assert doubts(row) == "no optical size: outside 2.362 to 3.4 eV"
    assert doubts({**row, "size_flag": ""}) == ""
    assert doubts(None) == ""


ORDERED = {"order_kind": "stack", "order_z": 12.34, "spacing_nm": 14.82, "spacing_nm_err": 0.015}
FORM = {"choice": "modelled", "diameter_nm": 11.73, "diameter_nm_err": 0.02}
FORM |= {"surface_nm": 3.09, "surface_nm_err": 0.03}
LATTICE = {"lattice": "fcc", "candidate": "fcc", "probability": 0.991, "consistent": True}
LATTICE |= {"consistent_reason": "", "a_nm": 12.0, "a_nm_err": 0.02, "domain_nm": NAN}


def test_order_is_told_with_what_it_rests_on():
    assert ordered(None, None, None) == []
    assert ordered({"order_z": NAN, "order_kind": ""}, None, None) == []
    assert ordered({"order_z": 0.4, "order_kind": "", "spacing_nm": NAN}, None, None) == [
        ("order", "none seen (0.4 σ)")
    ]
    assert ordered(ORDERED, FORM, {**LATTICE, "lattice": ""}) == [
        ("order", "stack (12.3 σ)"),
        ("spacing", "14.820 ± 0.015 nm"),
        ("diameter under order", "11.730 ± 0.020 nm"),
        ("between surfaces", "3.090 ± 0.030 nm"),
    ]
    # The form factor of a frame without order is that of the populations, which stand above.
    fitted = {**FORM, "choice": "fitted"}
    assert ordered(ORDERED, fitted, None)[-1] == ("spacing", "14.820 ± 0.015 nm")


def test_a_lattice_is_told_and_why_it_cannot_be():
    said = dict(ordered(ORDERED, None, LATTICE))
    assert said["lattice"] == "fcc (fcc 0.99)"
    assert said["a"] == "12.000 ± 0.020 nm"
    assert "domain" not in said
    impossible = {"consistent": False, "consistent_reason": "cores overlap"}
    assert dict(ordered(ORDERED, None, LATTICE | impossible))["note (lattice)"] == (
        "if fcc: cores overlap"
    )


def test_crystals_are_told_by_phase():
    row = {"state": "crystalline", "crystalline_fraction": 0.75, "crystalline_fraction_err": 0.06}
    row |= {"crystalline_z": 21.0, "confounded": "P, Q"}
    for number, (name, present) in enumerate((("P", 1), ("Q", 0), ("", 0)), 1):
        row |= {f"phase_{number}_name": name, f"phase_{number}_present": present}
        row |= {f"phase_{number}_size_nm": 8.2, f"phase_{number}_size_nm_err": 0.18}
        row[f"phase_{number}_probability"] = 0.535
    assert crystals(row) == [
        ("crystals", "crystalline"),
        ("crystalline", "0.750 ± 0.060"),
        ("significance", "21.0 standard deviations"),
        ("P", "probability 0.54, crystallites 8.20 ± 0.18 nm"),
        ("note (crystals)", "cannot be told apart: P, Q"),
    ]
    assert crystals(None) == []
    assert crystals({"state": ""}) == []
