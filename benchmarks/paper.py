"""The paper's numbers beside what the pipeline says of frames of the simulated detectors.

Frames come from the devices that configs/cs_dopa.yaml and cs_oleate.yaml name (images with gaps,
bad pixels and photon noise; counts of a lamp), and go through the stages of the same configs: no
socket, no file. One frame a figure, unless it says otherwise.

Paper: Montanarella et al., Nano Lett. 2023, 23, 667-676. It gives no errors, so "sigma" counts the
pipeline's own error and the rounding of the printed figure. "Simulated" is what the sample was,
which is the paper's only as far as the sample acts it out. Order and crystals: `paper_order`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detectors.devices.build import make_devices
from detectors.devices.clock import RunClock
from detectors.devices.clocked import ClockedFlyer
from detectors.devices.flyer import Flight
from detectors.sample import Synthesis
from detectors.sample.synthesis import SampleState
from pipeline.cli.analyse import stages_for
from pipeline.config.loader import load_config
from pipeline.config.plumbing import Bus
from pipeline.messages import Exciton, Populations, Result, RunStart
from pipeline.runner.chain import StageChain

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
Results = Sequence[Result]
UNIFORM = 1 / math.sqrt(12)
"""Standard deviation of what rounding to the last digit took away, in units of that digit."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``digit`` is the last one that the paper prints."""

    what: str
    paper: float
    digit: float
    said: float
    error: float
    simulated: float

    @property
    def sigma(self) -> float:
        """Pipeline less paper in standard errors, rounding included."""
        return (self.said - self.paper) / math.hypot(self.error, UNIFORM * self.digit)


class Run:
    """A simulated run of one config: frames are rendered and analysed when they are asked for."""

    def __init__(self, name: str, recipe: str | None = None) -> None:
        self.config = config = load_config(CONFIGS / f"{name}.yaml")
        assert config.acquisition is not None
        made = make_devices(config.acquisition.devices)
        self.devices = {
            device.stream: device for device in made if isinstance(device, ClockedFlyer)
        }
        self.synthesis = Synthesis(recipe or name)
        self.chains = {}
        flight = Flight(name, Path(), {}, Bus(), 0.0, RunClock(), {})
        for stream, device in self.devices.items():
            chain = self.chains[stream] = StageChain(stages_for(stream, config))
            chain.warm_up()
            chain.reset(RunStart(run=name, stream=device.open_stream(flight)))

    def results(self, stream: str, times_s: Iterable[float]) -> Iterator[tuple[float, Results]]:
        """All results of the frames whose exposures end at the times, in order."""
        device = self.devices[stream]
        for time_s in sorted(set(times_s)):
            frame = round(time_s * 1e9 / device.period_ns) - 1
            exposed = device.expose(frame, (frame + 1) * device.period_ns)
            assert exposed is not None
            yield time_s, self.chains[stream].process(exposed).results

    def rows(self, stream: str, times_s: Iterable[float]) -> dict[float, Any]:
        """`Populations` or `Exciton` of the frames whose exposures end at the times, in order."""
        return {
            time_s: next(r for r in results if isinstance(r, Populations | Exciton))
            for time_s, results in self.results(stream, times_s)
        }

    def state(self, stream: str, time_s: float) -> SampleState:
        """The sample in the middle of the exposure that ends at a time."""
        return self.synthesis.state(time_s - 0.5 * self.devices[stream].exposure_s)


def figure(
    run: Run,
    rows: dict[float, Any],
    what: str,
    time_s: float,
    field: str,
    paper: float,
    digit: float,
) -> Figure:
    """A column of one frame against the field of the state that is named alike."""
    row = rows[time_s]
    stream = "saxs" if isinstance(row, Populations) else "absorbance"
    optical = {"diameter_nm": "optical_diameter_nm", "fwhm_mev": "exciton_fwhm_mev"}
    state = run.state(stream, time_s)
    return Figure(
        f"{what}, {time_s:g} s",
        paper,
        digit,
        getattr(row, field),
        getattr(row, field + "_err"),
        getattr(state, optical.get(field, field)),
    )


def extreme(
    rows: dict[float, Any], field: str, between_s: tuple[float, float]
) -> tuple[float, float, float]:
    """Value, time and its error of the vertex of a weighted parabola through frames."""
    times = np.array([t for t in rows if between_s[0] <= t <= between_s[1]])
    values = np.array([getattr(rows[t], field) for t in times])
    errors = np.array([getattr(rows[t], field + "_err") for t in times])
    kept = np.isfinite(values) & np.isfinite(errors)
    middle = 0.5 * sum(between_s)
    coefficients, covariance = np.polyfit(
        times[kept] - middle, values[kept], 2, w=1 / errors[kept], cov="unscaled"
    )
    bend, slope, _ = coefficients
    gradient = np.array([slope / (2 * bend**2), -1 / (2 * bend), 0.0])
    at = -slope / (2 * bend)
    return (
        float(np.polyval(coefficients, at)),
        float(at + middle),
        float(math.sqrt(gradient @ covariance @ gradient)),
    )


def cs_dopa_saxs(run: Run) -> tuple[list[Figure], Populations]:
    """Phases II to IV, and the row of the first frame."""
    around_most = np.arange(1.5, 6.1, 0.5)
    around_narrowest = np.arange(22.0, 40.1, 1.0)
    rows = run.rows("saxs", (0.5, *around_most, *around_narrowest, 300.0))
    _, most_s, most_err_s = extreme(rows, "nc_concentration_um", (1.5, 6.0))
    _, narrowest_s, narrowest_err_s = extreme(rows, "nc_sigma_nm", (22.0, 40.0))
    onsets = run.synthesis.onsets_s
    narrow = rows[30.0]
    relative = narrow.nc_sigma_nm / narrow.nc_diameter_nm
    state = run.state("saxs", 30.0)
    figures = [
        figure(run, rows, "II: NC diameter (nm)", 2.5, "nc_diameter_nm", 4.4, 0.1),
        figure(run, rows, "II: most NCs (uM)", 3.0, "nc_concentration_um", 4.2, 0.1),
        Figure("   at (s), parabola 1.5 to 6 s", 3, 1, most_s, most_err_s, onsets["III"]),
        figure(run, rows, "III: NC diameter (nm)", 30.0, "nc_diameter_nm", 7.4, 0.1),
        figure(run, rows, "III: least sigma (nm)", 30.0, "nc_sigma_nm", 0.70, 0.01),
        Figure(
            "   in % of the diameter",
            10,
            1,
            100 * relative,
            100 * relative * narrow.nc_sigma_nm_err / narrow.nc_sigma_nm,
            100 * state.nc_sigma_nm / state.nc_diameter_nm,
        ),
        Figure(
            "   at (s), parabola 22 to 40 s", 30, 10, narrowest_s, narrowest_err_s, onsets["IV"]
        ),
        figure(run, rows, "III: yield of Cs", 30.0, "yield_fraction", 0.61, 0.01),
        figure(run, rows, "IV: NC diameter (nm)", 300.0, "nc_diameter_nm", 8.1, 0.1),
        figure(run, rows, "IV: NCs (uM)", 300.0, "nc_concentration_um", 1.1, 0.1),
    ]
    return figures, rows[0.5]


def cs_dopa_absorbance(run: Run) -> tuple[list[Figure], Exciton]:
    """Size and width of the first exciton, and the row of the frame that ends at 0.45 s."""
    rows = run.rows("absorbance", (0.45, 7.05, 13.5, 19.95))
    first = rows[0.45]
    figures = [
        figure(run, rows, "first NC diameter (nm)", 0.45, "diameter_nm", 3.8, 0.1),
        figure(run, rows, "fwhm (meV), first", 0.45, "fwhm_mev", 340, 10),
        figure(run, rows, "fwhm (meV), end of II", 7.05, "fwhm_mev", 135, 5),
        figure(run, rows, "fwhm (meV), III", 13.5, "fwhm_mev", 135, 5),
        figure(run, rows, "fwhm (meV), end of III", 19.95, "fwhm_mev", 135, 5),
        figure(run, rows, "plateau diameter (nm)", 19.95, "diameter_nm", 7.6, 0.1),
    ]
    return figures, first


def cs_oleate_saxs(run: Run, dopa_yield: Figure) -> tuple[list[Figure], Sequence[Populations]]:
    """The burst and the ripening, and the rows at 2, 14 and 300 s."""
    times_s = (2.0, 14.0, *np.arange(15.0, 25.1, 1.0), 100.0, 300.0)
    rows = run.rows("saxs", times_s)
    final = [rows[t] for t in times_s if 14.0 <= t <= 25.0]
    mean, error = _mean(final, "yield_fraction")
    true_final = float(np.mean([run.state("saxs", t).yield_fraction for t in np.arange(14, 26)]))
    early, done = rows[2.0], rows[14.0]

    def share(row: Populations) -> tuple[float, float]:
        of_final = row.yield_fraction / mean
        relative = math.hypot(row.yield_fraction_err / row.yield_fraction, error / mean)
        return of_final, of_final * relative

    def true_share(time_s: float) -> float:
        return run.state("saxs", time_s).yield_fraction / true_final

    ratio = mean / dopa_yield.said
    ratio_err = ratio * math.hypot(error / mean, dopa_yield.error / dopa_yield.said)
    figures = [
        figure(run, rows, "burst: NCs (uM)", 2.0, "nc_concentration_um", 24, 1),
        figure(run, rows, "burst: NC diameter (nm)", 2.0, "nc_diameter_nm", 3.4, 0.1),
        Figure("yield over final, 2 s", 0.76, 0.01, *share(early), true_share(2.0)),
        Figure("yield over final, 14 s", 1.0, 0.01, *share(done), true_share(14.0)),
        Figure(
            "final yield over that of Cs-DOPA",
            0.25,
            0.05,
            ratio,
            ratio_err,
            true_final / dopa_yield.simulated,
        ),
    ]
    return figures, (early, done, rows[300.0])


def _mean(rows: Sequence[Any], field: str) -> tuple[float, float]:
    """Weighted mean of a column, and its error."""
    values, errors = (
        np.array([getattr(r, name) for r in rows]) for name in (field, field + "_err")
    )
    weights = errors**-2.0
    return float(weights @ values / weights.sum()), float(weights.sum() ** -0.5)


def print_figures(title: str, figures: Iterable[Figure]) -> None:
    """A table."""
    print(f"{title:36}{'paper':>8}{'pipeline':>11}{'error':>9}{'sigma':>7}{'simulated':>11}")
    for line in figures:
        print(
            f"  {line.what:34}{line.paper:8.4g}{line.said:11.4g}{line.error:9.2g}{line.sigma:7.1f}"
            f"{line.simulated:11.4g}"
        )


def main() -> None:
    """Print the tables."""
    begin = time.monotonic()
    dopa = Run("cs_dopa")
    figures, first = cs_dopa_saxs(dopa)
    print_figures("Cs-DOPA, SAXS", figures)
    agglomerates = dopa.state("saxs", 0.5).agglomerate_concentration_um
    say(
        "I: NCs in the first frame, 0.5 s",
        "none",
        _found(first.nc_concentration_um, first.nc_concentration_um_err, "uM"),
    )
    say(
        "I: agglomerates of 3.0 nm (fixed)",
        "many",
        _found(first.agglomerate_concentration_um, first.agglomerate_concentration_um_err, "uM")
        + f", simulated {agglomerates:.1f}",
    )
    optical, spectrum = cs_dopa_absorbance(dopa)
    print_figures("Cs-DOPA, absorbance", optical)
    band = spectrum.agglomerate_band / spectrum.agglomerate_band_err
    say("band at 3.9 eV, 0.45 s", "there", f"{band:.0f} standard errors, not diluted")
    oleate = Run("cs_oleate")
    burst, (early, done, late) = cs_oleate_saxs(oleate, figures[7])
    print_figures("Cs-OA, SAXS", burst)
    growth = late.nc_sigma_nm - early.nc_sigma_nm
    error = math.hypot(late.nc_sigma_nm_err, early.nc_sigma_nm_err)
    say("sigma, 300 s less 2 s", "rises: no focusing", f"{growth:+.3f} +- {error:.3f} nm")
    fewer = done.nc_concentration_um - late.nc_concentration_um
    say(
        "NCs lost from 14 to 300 s", "ripening", f"{fewer:.1f} of {done.nc_concentration_um:.1f} uM"
    )
    print(
        f"diameters of absorbance by {spectrum.size_curve}; all in {time.monotonic() - begin:.0f} s"
    )


def _found(value: float, error: float, unit: str) -> str:
    return "none" if math.isnan(value) else f"{value:.2f} +- {error:.2f} {unit}"


def say(what: str, paper: str, said: str) -> None:
    """A line that is no figure."""
    print(f"  {what:34}{paper}: {said}")


if __name__ == "__main__":
    main()
