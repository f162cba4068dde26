"""The shape of a stored run's crystals: read over HTTP, retrieved here, stored in Tiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from pipeline.access import TiledHttp
from pipeline.cli.export import look_up, read_curves
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.export import CurveSet, Ledger, Request

if TYPE_CHECKING:
    from tiled.client.container import Container

    from pipeline.shape import CrystalCurve, Shape

POPULATIONS = "saxs/populations"
SHAPES = "shape"
"""Container of a run that holds its shapes, one container each."""
COMPLETE = "complete"
"""Key of a shape's metadata; it is there once everything is."""
ONE_SIZE = 0.02
"""Spread of sizes below which crystals may be called alike."""


@dataclass(frozen=True)
class Measured:
    """What is stored of the frames that were asked for."""

    curves: CurveSet
    frames: Sequence[int]
    left_out: Sequence[tuple[int, str]]
    time_s: tuple[float, float]
    crystals: CrystalCurve
    diameter_nm: float
    sigma_nm: float
    contrast_per_nm2: float | None
    subtracted: bool
    described: bool

    @property
    def key(self) -> str:
        """Name of the container that the shape goes to."""
        first, last = self.frames[0], self.frames[-1]
        return f"frame_{first}" if first == last else f"frames_{first}_{last}"


def measure(http: TiledHttp, run: str, request: Request) -> Measured:
    """The curve of the crystals alone, the mean over the frames that were asked for.

    Parameters
    ----------
    http
        Server that has the run.
    run, request
        Key of the run; the frame or the frames.

    Raises
    ------
    ExportError, ShapeError, SessionError
        If there is no such run, no such frame, no curve, or nothing of crystals in it.
    """
    from pipeline.shape import average

    curves, ledger = look_up(http, run, "saxs")
    chosen = request.choose(run, ledger)
    fit, sample = _settings(run, curves.start)
    q = curves.q_per_nm
    resolution = _resolution(curves, fit)
    rows = _rows(http, run, chosen.numbers)
    window = (q > 0) & (q >= fit.q_min_per_nm) & (q <= fit.q_max_per_nm)
    intensities, sigmas = _crystals(
        http, curves, ledger, rows, chosen.numbers, fit, sample, resolution
    )
    return Measured(
        curves=curves,
        frames=chosen.numbers,
        left_out=chosen.left_out,
        time_s=(float(ledger.time_s[chosen.numbers[0]]), float(ledger.time_s[chosen.numbers[-1]])),
        crystals=average(q, intensities, sigmas, resolution, window),
        diameter_nm=_mean(rows, "nc_diameter_nm"),
        sigma_nm=_mean(rows, "nc_sigma_nm"),
        contrast_per_nm2=sample.contrast_per_nm2 if "sample" in _config(curves.start) else None,
        subtracted=rows is not None,
        described=all(row["describes"] for row in rows or ()),
    )


def _resolution(curves: CurveSet, fit: PopulationsFit) -> np.ndarray:
    """Standard deviation of q in each bin, as the fit took it (n,)."""
    known = curves.q_resolution_per_nm
    if fit.smearing and fit.q_resolution_per_nm is not None:
        return np.full(curves.q_per_nm.size, fit.q_resolution_per_nm)
    if not fit.smearing or known is None:
        return np.zeros(curves.q_per_nm.size)
    return np.where(np.isfinite(known), known, 0.0)


def _config(start: Mapping[str, Any]) -> Mapping[str, Any]:
    return start.get("config") or {}


def _settings(run: str, start: Mapping[str, Any]) -> tuple[PopulationsFit, Sample]:
    """What the run was fitted with, out of its start document."""
    from pipeline.shape import ShapeError

    config = _config(start)
    try:
        fit = PopulationsFit.model_validate((config.get("saxs") or {}).get("fit") or {})
        return fit, Sample.model_validate(config.get("sample") or {})
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ShapeError(
            f"run {run}: its config is not one of this version ({where}): replay the run first"
        ) from None


def _rows(http: TiledHttp, run: str, frames: Sequence[int]) -> list[dict[str, Any]] | None:
    """Rows of the fit; None where the run was not fitted."""
    from pipeline.shape import ShapeError

    table = http.table(f"{run}/{POPULATIONS}")
    if table is None:
        return None
    if table.num_rows <= frames[-1]:
        raise ShapeError(
            f"run {run}: {POPULATIONS} has {table.num_rows} rows so far, frame {frames[-1]} is not "
            "fitted yet"
        )
    rows = [
        # A NaN may arrive as a null.
        {name: np.nan if value is None else value for name, value in row.items()}
        for row in table.take(list(frames)).to_pylist()
    ]
    for row in rows:
        if not np.isfinite(row["nc_diameter_nm"]):
            raise ShapeError(
                f"run {run}: saxs frame {row['frame']}: the fit found no crystals in it"
            )
    return rows


def _mean(rows: list[dict[str, Any]] | None, name: str) -> float:
    return float("nan") if rows is None else float(np.mean([row[name] for row in rows]))


def _crystals(
    http: TiledHttp,
    curves: CurveSet,
    ledger: Ledger,
    rows: list[dict[str, Any]] | None,
    numbers: Sequence[int],
    fit: PopulationsFit,
    sample: Sample,
    resolution: np.ndarray,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Intensity of the crystals of each frame, and its sigma."""
    from pipeline.cli.analyse import instrument_curve
    from pipeline.shape import alone

    instrument = None if rows is None else instrument_curve(fit)
    intensities, sigmas = [], []
    positive = curves.q_per_nm > 0
    for at, curve in enumerate(read_curves(http, curves, numbers, ledger.time_s)):
        intensity = np.array(curve.intensity, dtype=float)
        if rows is not None:
            intensity[positive] = alone(
                curves.q_per_nm[positive], intensity[positive], rows[at], fit, sample,
                resolution[positive], instrument,
            )  # fmt: skip
        intensities.append(intensity)
        sigmas.append(np.array(curve.sigma, dtype=float))
    return intensities, sigmas


def taken(http: TiledHttp, run: str, key: str) -> bool:
    """Whether there is a whole shape of that name."""
    return bool((http.metadata(f"{run}/{SHAPES}/{key}") or {}).get(COMPLETE))


def metadata(measured: Measured, shape: Shape) -> dict[str, Any]:
    """All that is known of a shape beside its arrays."""
    settings = asdict(shape.settings)
    return {
        "stream": "saxs",
        "frames": list(measured.frames),
        "time_s": list(measured.time_s),
        "method": "homogeneous body, surface of spherical harmonics; docs/decisions/0019",
        "settings": settings | {"spreads": list(settings["spreads"])},
        "background_subtracted": measured.subtracted,
        "fit_describes": measured.described,
        "fit_diameter_nm": measured.diameter_nm,
        "fit_sigma_nm": measured.sigma_nm,
        "density_unit": "1/nm^3 excess electrons" if measured.contrast_per_nm2 else "filling",
        "versions": {name: version(name) for name in ("nucleate", "numpy", "scipy")},
        **shape.numbers(),
    }


def arrays(measured: Measured, shape: Shape) -> dict[str, np.ndarray]:
    """Arrays of a shape by their keys."""
    from pipeline.shape import ELECTRON_RADIUS_NM

    unit = 1.0
    if measured.contrast_per_nm2 is not None:
        unit = measured.contrast_per_nm2 / ELECTRON_RADIUS_NM
    found = {
        "density_mean": unit * shape.maps.mean,
        "density_std": unit * shape.maps.deviation,
        "axis_nm": shape.maps.axis_nm,
        "q": shape.curve.q_per_nm,
        "intensity": shape.curve.intensity,
        "sigma": shape.curve.sigma,
        "fitted": np.array([body.curve for body in shape.found.compatible]),
        "coefficients": np.array([body.coefficients for body in shape.found.compatible]),
        "spread": np.array([body.spread for body in shape.found.compatible]),
    }
    if shape.maps.fsc.size:
        found |= {"fsc": shape.maps.fsc, "fsc_frequency_per_nm": shape.maps.shells_per_nm}
    return found


def store(http: TiledHttp, run: str, measured: Measured, shape: Shape) -> str:
    """Write a shape; its container says `COMPLETE` once all is there. Returns its path.

    What an interrupted or an older command left under the same name is taken away first.
    """
    from tiled.client import from_uri

    root = from_uri(http.address.url, api_key=http.address.api_key)
    try:
        shapes = _shapes_of(root[run])
        if measured.key in shapes:
            shapes.delete_contents(measured.key, recursive=True, external_only=False)
        _write(shapes, measured, shape)
    finally:
        root.context.close()
    return f"{run}/{SHAPES}/{measured.key}"


def _shapes_of(run: Container) -> Container:
    """The container of a run's shapes; made if it is missing."""
    from tiled.client.utils import ClientError

    if SHAPES not in run:
        try:
            return run.create_container(SHAPES)
        except ClientError as error:
            # Another command made it between the two requests.
            if error.response.status_code != 409:
                raise
    return run[SHAPES]


def _write(shapes: Container, measured: Measured, shape: Shape) -> None:
    """Write all of a shape, or leave nothing of it."""
    container = shapes.create_container(measured.key, metadata=metadata(measured, shape))
    try:
        for key, values in arrays(measured, shape).items():
            container.write_array(np.ascontiguousarray(values), key=key)
        container.update_metadata({COMPLETE: True}, drop_revision=True)
    except BaseException:
        shapes.delete_contents(measured.key, recursive=True, external_only=False)
        raise


def report(measured: Measured, shape: Shape) -> list[str]:
    """What was found, in plain words."""
    first, last = measured.frames[0], measured.frames[-1]
    frames = f"frame {first}" if first == last else f"mean of {len(measured.frames)} frames"
    low, high = shape.spreads
    lines = [
        f"{frames}: {shape.verdict.kind}",
        f"  because    {shape.verdict.reason}",
        f"  bodies     {len(shape.described)} of {len(shape.found.tried)} tried scatter as the "
        f"curve does (chi-square {shape.found.compatible[0].misfit:.2g} a point)",
    ]
    for label, name, unit in (
        ("volume", "volume_nm3", "nm3"),
        ("diameter", "diameter_nm", "nm, of the sphere of that volume"),
        ("Rg", "gyration_radius_nm", "nm"),
        ("longest", "largest_nm", "nm"),
        ("axes", "axis_ratio", "longest over shortest"),
        ("sphericity", "sphericity", "(sphere 1, cube 0.81)"),
    ):
        mean, deviation, half = shape.scatter(name)
        digits = 1 if name == "volume_nm3" else 2
        scatter = f"± {deviation:.{digits}f} (range ± {half:.{digits}f})"
        lines.append(f"  {label:<10} {mean:.{digits}f} {scatter} {unit}")
    limits = ", ".join(
        f"{name} {value:.2g}" for name, value in shape.resolutions_nm.items() if value == value
    )
    lines.append(f"  resolution {shape.resolution_nm:.2g} nm (limits, nm: {limits})")
    lines.append(
        f"  spread     {100 * low:.0f} to {100 * high:.0f} % of size is borne by the curve"
    )
    lines += _warnings(measured, shape)
    return lines


def _held(shape: Shape) -> bool:
    """Whether the spread was given."""
    return len(shape.settings.spreads) == 1


def _warnings(measured: Measured, shape: Shape) -> list[str]:
    said = []
    relative = measured.sigma_nm / measured.diameter_nm
    if relative > ONE_SIZE and not _held(shape):
        said.append(
            f"  note: the fit says sigma {measured.sigma_nm:.2f} nm ({100 * relative:.0f} %): the "
            "curve is an average over sizes, which blurs a shape; give --spread if another "
            "method has measured it"
        )
    if shape.spreads[1] == max(shape.settings.spreads) and not _held(shape):
        said.append("  note: a spread wider than was tried may do as well")
    if not measured.described:
        said.append(
            "  note: the fit does not describe the curve: where crystals touch or order, what is "
            "between them is taken for their shape"
        )
    if not measured.subtracted:
        said.append("  note: the run has no fit, so no background but a flat one was taken off")
    return said
