"""Detection on real small-angle scattering of palladium nanocrystals, measured by others."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.loader import load_config
from pipeline.detect.registry import detectors_for
from pipeline.fit.assembly import AnalyseAssembly
from pipeline.fit.populations import FitPopulations
from pipeline.messages import CurveFrame, Peak, RunStart, StreamStart
from pipeline.messages.alerts import Alert
from pipeline.reduce.saxs import ReduceSaxs

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def analysed(folder: Path, config: str, until_s: float) -> tuple[list[Alert], list[Peak]]:
    """Alerts and order of a recording through reduction, fit, search for order and detection."""
    settings = load_config(CONFIGS / config)
    assert settings.saxs.fit is not None
    assert settings.saxs.assembly is not None
    with (folder / "frames_index.csv").open() as file:
        index = [row for row in csv.DictReader(file) if float(row["t_s"]) <= until_s]
    curves = [np.loadtxt(folder / row["file"]) for row in index]
    q_per_nm = curves[0][:, 0] * 10
    stream = StreamStart(
        stream="saxs",
        run="recorded",
        kind="curve",
        shape=q_per_nm.shape,
        dtype="<f8",
        arrays={"q_per_nm": q_per_nm},
    )
    reduce = ReduceSaxs(settings.saxs.reduce)
    fit = FitPopulations(settings.saxs.fit, settings.sample)
    order = AnalyseAssembly(settings.saxs.assembly, settings.sample)
    for stage in (reduce, fit, order):
        stage.reset(RunStart(run="recorded", stream=stream))
    detectors = detectors_for(settings.detect)
    alerts, peaks = [], []
    for frame, (row, values) in enumerate(zip(index, curves, strict=True)):
        message = CurveFrame(
            stream="saxs",
            frame=frame,
            time_ns=round(float(row["t_s"]) * 1e9),
            exposure_s=5.0,
            intensity=values[:, 1],
            sigma=np.full(len(values), np.nan),
        )
        (curve,) = reduce.process(message)
        populations, fitted = fit.process(curve)
        peak, _ = order.process(fitted)
        assert isinstance(peak, Peak)
        peaks.append(peak)
        for result in (populations, peak):
            names = {name: getattr(result, name) for name in type(result).__slots__}
            names |= {"frame": frame, "time_s": message.time_s}
            for detector in detectors:
                if detector.node == type(result).NODE:
                    alerts += detector.update(names)
    return alerts, peaks


@pytest.mark.real_data
def test_nucleation_of_palladium(data_dir):
    """Its experimenters saw noise until 286 s and spheres from 297 s."""
    alerts, _ = analysed(data_dir / "pd_growth_R13_201607", "pd_growth.yaml", 460.0)
    (nucleation,) = (a for a in alerts if a.kind == "nucleation")
    assert 270 <= nucleation.onset_s <= 320
    assert 270 <= nucleation.time_s <= 320
    assert nucleation.onset_lo_s <= 297
    assert nucleation.onset_hi_s >= 286
    assert not [a for a in alerts if a.kind == "artefact"]


ORDER = ("superlattice", "order")


@pytest.mark.real_data
def test_no_superlattice_where_there_was_none(data_dir):
    """Not an alert, and not a single frame of 103 in which order is reported."""
    alerts, peaks = analysed(data_dir / "pd_growth_R13_201607", "pd_growth.yaml", 1e9)
    assert not [a for a in alerts if a.kind.startswith(ORDER)]
    assert {peak.order_kind for peak in peaks} == {""}
    assert max(peak.order_z for peak in peaks if np.isfinite(peak.order_z)) < 0


@pytest.mark.real_data
def test_superlattice_of_palladium_comes_goes_and_comes_again(data_dir):
    """Its experimenters saw a superlattice from 427 to 842 s and from 1690 s on."""
    alerts, peaks = analysed(data_dir / "pd_superlattice_R5_201611", "pd_superlattice.yaml", 1e9)
    begin, end, again = (a for a in alerts if a.kind.startswith(ORDER))
    assert [a.kind for a in (begin, end, again)] == [
        "superlattice_1d", "order_lost", "superlattice_1d",
    ]  # fmt: skip
    # Frames are 11 s apart: one frame after the first ordered one, in the first without, and again.
    assert abs(begin.time_s - 427) <= 11.5
    assert abs(begin.onset_s - 427) <= 11.5
    assert end.time_s == pytest.approx(853, abs=1)
    assert abs(end.onset_s - 847) <= 15
    assert abs(again.time_s - 1690) <= 11.5
    assert abs(again.onset_s - 1690) <= 11.5
    assert again.evidence["time"] == 2
    ordered = np.array([peak.time_s for peak in peaks if peak.order_kind])
    assert not np.any((ordered > 850) & (ordered < 1690))
    assert ordered.min() == pytest.approx(427, abs=1)
