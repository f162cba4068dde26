"""Phases of the simulated Cs-DOPA run against its truth, and of a film recorded on heating.

`solvent_file` makes ``configs/hexane_waxs.dat``: python -m benchmarks.phases FILE
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recordings import REPOSITORY, data_folder
from detectors.sample import Synthesis, crystal, scattering
from detectors.sample.synthesis import FORMULA_VOLUME_NM3, PER_NM3_PER_MM
from detectors.simulation import AreaRenderer
from pipeline.cli.analyse import stages_for
from pipeline.config import RunConfig
from pipeline.config.acquisition import SimulatedDevices
from pipeline.config.loader import load_config
from pipeline.messages import (
    CurveFrame,
    ImageFrame,
    LinesRow,
    Phase,
    PhasesRow,
    RunStart,
    StreamStart,
    WaxsCurve,
    lines_of,
    phases_of,
)
from pipeline.reduce.waxs import ReduceWaxs
from pipeline.replay import open_recording

CONFIG = REPOSITORY / "configs" / "cs_dopa_waxs.yaml"
FILM = REPOSITORY / "configs" / "facs_heat.yaml"
TIMES_S = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 30.0, 60.0, 100.0, 200.0, 300.0)
EXPOSURE_S = 0.5
SOLVENT_FRAMES = 60
SOLVENT_FIRST = 10_000
"""Frame numbers of the solvent's noise: no run has them."""


class Solvent:
    """What the vial holds before the injection, as a renderer asks for it."""

    def __init__(self) -> None:
        self.recipe = Synthesis("cs_dopa").recipe

    def wide_angle_per_cm(self, q_per_nm: np.ndarray, _: float) -> np.ndarray:
        return scattering.HEXANE_PER_CM + crystal.solvent_per_cm(q_per_nm)


class Detector:
    """The simulated wide-angle detector of a config and its reduction."""

    def __init__(self, config: RunConfig, sample: Any) -> None:
        devices = config.acquisition.devices
        assert isinstance(devices, SimulatedDevices)
        assert devices.waxs is not None
        self.renderer = AreaRenderer(devices.waxs, sample, (), devices.seed, "waxs")
        self.reduction = ReduceWaxs(config.waxs.reduce)
        metadata = {
            "poni": self.renderer.poni,
            "saturation": self.renderer.saturation,
            "absolute_scale": self.renderer.absolute_scale,
        }
        start = StreamStart(
            "waxs",
            "run",
            "image",
            devices.waxs.shape,
            np.dtype(self.renderer.dtype).str,
            {"pixel_mask": self.renderer.pixel_mask},
            metadata,
        )
        self.reduction.reset(RunStart("run", start))

    def curve(self, frame: int, time_s: float) -> WaxsCurve:
        """Of the exposure that ends at ``time_s``."""
        shot = self.renderer.render(frame, time_s, EXPOSURE_S)
        assert shot is not None
        image = ImageFrame(
            "waxs", frame, round(1e9 * time_s), EXPOSURE_S, shot.image, shot.monitor,
            shot.transmission,
        )  # fmt: skip
        (curve,) = self.reduction.process(image)
        assert isinstance(curve, WaxsCurve)
        return curve


def solvent_file() -> str:
    """Text of the solvent's curve, as a beamline would measure it before the injection."""
    detector = Detector(load_config(CONFIG), Solvent())
    curves = [
        detector.curve(SOLVENT_FIRST + n, (n + 1) * EXPOSURE_S) for n in range(SOLVENT_FRAMES)
    ]
    mean = np.mean([curve.intensity for curve in curves], axis=0)
    sigma = np.sqrt(np.sum([curve.sigma**2 for curve in curves], axis=0)) / len(curves)
    lines = [
        f"# Hexane in its capillary on the simulated wide-angle detector of {CONFIG.name},",
        f"# {len(curves)} frames of {EXPOSURE_S} s: python -m benchmarks.phases",
        "# columns: q (1/nm), I (1/cm), sigma (1/cm)",
    ]
    rows = zip(curves[0].q_per_nm, mean, sigma, strict=True)
    return "\n".join(lines + [f"{q:.5f} {i:.6e} {s:.2e}" for q, i, s in rows]) + "\n"


def analysed(config: RunConfig, curves: Any) -> Iterator[tuple[PhasesRow, LinesRow, float]]:
    """Rows of each curve, and the seconds of computing that they took."""
    stage = next(stage for stage in stages_for("waxs", config) if stage.name == "phases")
    stage.warm_up()  # pyright: ignore[reportAttributeAccessIssue]
    for number, curve in enumerate(curves):
        if number == 0:
            # The plan of an axis is made once, on its first curve.
            list(stage.process(curve))
        begin = time.thread_time()
        row, lines = stage.process(curve)
        seconds = time.thread_time() - begin
        assert isinstance(row, PhasesRow)
        assert isinstance(lines, LinesRow)
        yield row, lines, seconds


def columns_of(row: PhasesRow | LinesRow) -> dict[str, Any]:
    """A row as it is stored."""
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def truth_at(synthesis: Synthesis, time_s: float) -> tuple[float, float, float]:
    """Crystalline share of the volume, volume fraction of crystals, volume-weighted diameter."""
    state = synthesis.state(time_s - 0.5 * EXPOSURE_S)
    amorphous = PER_NM3_PER_MM * state.pool_mm * FORMULA_VOLUME_NM3
    volumes = state.concentrations_um * state.diameters_nm**3
    size = float(volumes @ state.diameters_nm / volumes.sum()) if volumes.sum() > 0 else np.nan
    crystals = state.nc_volume_fraction
    return crystals / (crystals + amorphous), crystals, size


def growth() -> list[float]:
    """Print the simulated run beside its truth; seconds of each frame."""
    config, synthesis = load_config(CONFIG), Synthesis("cs_dopa")
    detector = Detector(config, synthesis)
    curves = (detector.curve(round(2 * t), t) for t in TIMES_S)
    print("cs_dopa_waxs   state         z   crystalline share    size, nm           a, nm"
          "              P    chi2  confounded")  # fmt: skip
    seconds = []
    for time_s, (row, _, took) in zip(TIMES_S, analysed(config, curves), strict=True):
        share, _, size = truth_at(synthesis, time_s)
        present = [phase for phase in phases_of(columns_of(row)) if phase.present]
        phase = present[0] if present else Phase(name="-")
        print(
            f"{time_s:7.1f} s  {row.state:12} {row.crystalline_z:5.1f} "
            f"{row.crystalline_fraction:6.3f}+-{row.crystalline_fraction_err:5.3f} ({share:5.3f}) "
            f"{phase.size_nm:5.2f}+-{phase.size_nm_err:4.2f} ({size:4.2f}) "
            f"{phase.a_nm:7.4f}+-{phase.a_nm_err:6.4f} {phase.name:14} {phase.probability:4.2f} "
            f"{row.reduced_chi2:5.2f} {row.confounded}"
        )
        seconds.append(took)
    return seconds


def film(folder: Path) -> list[float]:
    """Print the recorded film; seconds of each frame."""
    config = load_config(FILM)
    recording = open_recording(folder, config.replay)
    source = recording.streams["waxs"]
    reduction = ReduceWaxs(config.waxs.reduce)
    reduction.reset(RunStart("film", source.start))
    frames = (frame for frame in source.read() if isinstance(frame, CurveFrame))
    curves = [curve for frame in frames for curve in reduction.process(frame)]
    print("facs_heat  phases and their shares of the scattering; lines, 1/nm")
    seconds = []
    for row, lines, took in analysed(config, curves):
        found = [
            f"{phase.name} {phase.fraction:.3f}+-{phase.fraction_err:.3f}"
            for phase in phases_of(columns_of(row))
            if phase.present
        ]
        places = [f"{line.q_per_nm:.2f}" for line in lines_of(columns_of(lines))]
        print(f"{row.frame:4}  {', '.join(found):75} {' '.join(places):22} {row.reduced_chi2:6.1f}")
        seconds.append(took)
    return seconds


def main() -> None:
    """Print both tables and the computing time of a frame."""
    seconds = growth()
    print(f"a frame: median {1e3 * np.median(seconds):.1f} ms, worst {1e3 * max(seconds):.1f} ms\n")
    folder = data_folder() / "perovskite_waxs_FACs15_heat"
    if folder.is_dir():
        seconds = film(folder)
        print(f"a frame: median {1e3 * np.median(seconds):.1f} ms")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(solvent_file())
    else:
        main()
