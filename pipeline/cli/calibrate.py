"""`nucleate calibrate`: the geometry, by pyFAI, and the absolute scale, by a standard."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.calibrate.exposures import Exposure
    from pipeline.calibrate.measured import Conditions, MeasuredCurve
    from pipeline.calibrate.refinement import Refinement
    from pipeline.calibrate.scale import ScaleFit
    from pipeline.config.reduce import AreaReduction

calibrate_app = typer.Typer(
    help="Geometry and absolute scale, out of frames of standards.",
    epilog="Example: `nucleate calibrate geometry agbh.cbf --poni start.poni --to saxs.poni`",
    no_args_is_help=True,
)

# Relative; half of what NIST certifies the scale to.
_NOTED_SHAPE_ERROR = 0.0125
# From here on it is another sample: water for glassy carbon came out at 0.38, a polymer at 4.8.
_WORST_SHAPE_ERROR = 0.2

Frame = Annotated[int, typer.Option("--frame", help="Which one, where the file has several.")]
Stream = Annotated[
    str | None, typer.Option(help="Of a recording with several area detectors: saxs or waxs.")
]
Dataset = Annotated[
    str | None, typer.Option(help="Path of the images in an HDF5 file with several sets.")
]
Shape = Annotated[
    str | None, typer.Option(metavar="ROWS,COLUMNS", help="Of a headerless image (.raw).")
]
Dtype = Annotated[str | None, typer.Option(help="numpy type of a headerless image, e.g. <i4.")]
Mask = Annotated[Path | None, typer.Option(help="Extra mask, non-zero = unusable.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")]


@calibrate_app.command(
    epilog="Example: `nucleate calibrate geometry agbh.cbf --poni start.poni --to saxs.poni`"
)
def geometry(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="FRAME", help="Recording, NeXus, .npy, .raw, or an image that fabio reads."
        ),
    ],
    poni: Annotated[Path, typer.Option(help="Geometry to start from: PONI, NeXus, Nika, Fit2D.")],
    to: Annotated[Path, typer.Option(help="PONI file to write.")],
    calibrant: Annotated[str, typer.Option(help="AgBh, LaB6, CeO2, or another of pyFAI's.")] = (
        "AgBh"
    ),
    mask: Mask = None,
    rings: Annotated[
        int | None, typer.Option(min=1, help="Use so many rings, from within.")
    ] = None,
    fix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Of distance, poni1, poni2, rot1, rot2: what keeps its value. By default rot1 "
            "and rot2 where all rings are within 5 degrees, nothing otherwise.",
        ),
    ] = None,
    max_rms: Annotated[float, typer.Option(help="Pixels that rings may be off at most.")] = 2.0,
    frame: Frame = 0,
    stream: Stream = None,
    dataset: Dataset = None,
    shape: Shape = None,
    dtype: Dtype = None,
    force: Force = False,
) -> None:
    """Refine a geometry with pyFAI on a frame of a calibrant; write it if it is good."""
    from pipeline.calibrate.exposures import read_exposure
    from pipeline.calibrate.refinement import poni_text, refine_geometry
    from pipeline.reduce.errors import InputError
    from pipeline.reduce.geometry import read_geometry

    if not 0.0 < max_rms < float("inf"):
        raise InputError(f"--max-rms: expected pixels above 0, got {max_rms:g}")
    _require_target(to, force)
    start = read_geometry(poni)
    exposure = read_exposure(
        image,
        frame=frame,
        stream=stream,
        dataset=dataset,
        shape=_shape(shape),
        dtype=dtype,
        mask=mask,
    )
    names = None if fix is None else [name.strip() for name in fix.split(",") if name.strip()]
    result = refine_geometry(
        exposure, start, calibrant, rings=rings, fix=names, most_rms_pixels=max_rms
    )
    _print_refinement(result)
    remark = (
        f"Refined by pyFAI on {image.name}, {calibrant}: {result.points} points, "
        f"{result.rms_pixels:.3f} pixels rms"
    )
    _write(to, poni_text(result.geometry, poni, [remark]))
    print(f"written: {to}")


@calibrate_app.command(
    epilog="Example: `nucleate calibrate absolute gc.cbf --poni saxs.poni --monitor 1 "
    "--transmission 0.81 --exposure 30 --thickness-cm 0.1055`"
)
def absolute(
    measured: Annotated[
        Path,
        typer.Argument(
            help="Curve of the standard (text of 3 or 4 columns, NXcanSAS) not in 1/cm, or a frame."
        ),
    ],
    standard: Annotated[
        str, typer.Option(help="glassy-carbon (NIST SRM 3600) or water.")
    ] = "glassy-carbon",
    thickness_cm: Annotated[float | None, typer.Option(help="Of the standard.")] = None,
    thickness_err_cm: Annotated[float, typer.Option(min=0, help="Its standard error.")] = 0.0,
    transmission: Annotated[float | None, typer.Option(help="Of the standard, 0 to 1.")] = None,
    transmission_err: Annotated[float, typer.Option(min=0, help="Its standard error.")] = 0.0,
    monitor: Annotated[
        float | None, typer.Option(help="Flux over nominal flux, as the run's frames have it.")
    ] = None,
    exposure: Annotated[float | None, typer.Option(help="Of a frame, in seconds.")] = None,
    background: Annotated[
        Path | None, typer.Option(help="The same without the standard: a curve or a frame.")
    ] = None,
    background_transmission: Annotated[
        float, typer.Option(help="Of what stays in the beam without the standard.")
    ] = 1.0,
    background_monitor: Annotated[float | None, typer.Option(help="As --monitor.")] = None,
    background_exposure: Annotated[float | None, typer.Option(help="As --exposure.")] = None,
    background_to: Annotated[
        Path | None, typer.Option(help="Write the background's curve in 1/cm as text.")
    ] = None,
    offset: Annotated[
        bool, typer.Option("--offset", help="Fit a constant too (fluorescence).")
    ] = False,
    q_range: Annotated[
        str | None, typer.Option(metavar="A:B", help="In 1/nm; all where the standard is known.")
    ] = None,
    temperature_c: Annotated[float, typer.Option(help="Of water.")] = 20.0,
    config: Annotated[
        Path | None, typer.Option(help="Reduce the frame by this config's corrections.")
    ] = None,
    poni: Annotated[Path | None, typer.Option(help="Geometry of the frame.")] = None,
    mask: Mask = None,
    frame: Frame = 0,
    stream: Stream = None,
    dataset: Dataset = None,
    shape: Shape = None,
    dtype: Dtype = None,
    force: Force = False,
) -> None:
    """Find `absolute_scale` by a standard; print the lines for a config."""
    from pipeline.calibrate.exposures import read_exposure
    from pipeline.calibrate.measured import Conditions
    from pipeline.calibrate.scale import fit_scale
    from pipeline.calibrate.standards import glassy_carbon, water
    from pipeline.reduce.errors import InputError

    if standard not in ("glassy-carbon", "water"):
        raise InputError(f"--standard: expected glassy-carbon or water, got {standard}")
    known = glassy_carbon() if standard == "glassy-carbon" else water(temperature_c)
    if background_to is not None:
        if background is None:
            raise InputError("--background-to: expected --background too, got none")
        _require_target(background_to, force)
    if thickness_cm is None or not thickness_cm > 0.0:
        got = "none" if thickness_cm is None else f"{thickness_cm:g}"
        raise InputError(
            f"{measured}: expected --thickness-cm above 0, the standard's path in the beam, got "
            f"{got}"
        )
    name = stream or "saxs"
    settings = _settings(config, name, poni)

    def read(path: Path) -> Exposure:
        return read_exposure(
            path,
            frame=frame,
            stream=stream,
            dataset=dataset,
            shape=_shape(shape),
            dtype=dtype,
            mask=mask,
        )

    def curve(path: Path, told: Conditions, prefix: str) -> tuple[MeasuredCurve, float | None]:
        return _measure(path, told, settings, read, prefix)

    whole, used = curve(measured, Conditions(monitor, transmission, exposure), "")
    empty = None
    if background is not None:
        told = Conditions(background_monitor, background_transmission, background_exposure)
        empty, _ = curve(background, told, "background-")
    net = whole if empty is None else whole.without(empty)
    fit = fit_scale(
        net.q_per_nm,
        net.intensity / thickness_cm,
        net.sigma / thickness_cm,
        known,
        q_range_per_nm=_interval(q_range),
        offset=offset,
        relative_input_error=_inputs_error(
            (thickness_err_cm, thickness_cm), (transmission_err, used), measured
        ),
    )
    _print_scale(fit, known.name, name)
    if background_to is not None and empty is not None:
        _write(background_to, _background_text(empty, fit.scale / thickness_cm, thickness_cm))
        print(f"    background_file: {background_to}")
        print(f"    # of a path of {thickness_cm:g} cm: background_scale is this over the sample's")


def _measure(
    path: Path,
    told: Conditions,
    settings: AreaReduction,
    read: Callable[[Path], Exposure],
    prefix: str,
) -> tuple[MeasuredCurve, float | None]:
    """A curve out of a file of curves, or out of a frame of which all is known.

    With the transmission that it was divided by; None = by none.
    """
    from pipeline.calibrate.measured import Conditions, curve_of_file, curve_of_frame, is_curve
    from pipeline.reduce.errors import InputError

    if not path.exists():
        raise InputError(f"{path}: expected a curve or a frame, got no such file")
    if is_curve(path):
        return curve_of_file(path, told), told.transmission
    exposure = read(path)
    values = {
        "monitor": told.monitor if told.monitor is not None else exposure.monitor,
        "transmission": (
            told.transmission if told.transmission is not None else exposure.transmission
        ),
        "exposure": told.exposure_s if told.exposure_s is not None else exposure.exposure_s,
    }
    missing = [f"--{prefix}{name}" for name, value in values.items() if value is None]
    if missing:
        raise InputError(f"{path}: expected {', '.join(missing)}, got none: the file has no such")
    used = Conditions(*values.values())
    return curve_of_frame(exposure, used, settings), used.transmission


def _inputs_error(
    thickness: tuple[float, float], transmission: tuple[float, float | None], measured: Path
) -> float:
    """Relative standard error of thickness and transmission together, each (error, value)."""
    from pipeline.reduce.errors import InputError

    error, value = transmission
    if error > 0.0 and value is None:
        raise InputError(
            f"{measured}: expected --transmission beside --transmission-err, got none: the curve "
            "does not say which one it was divided by"
        )
    relative = math.hypot(thickness[0] / thickness[1], 0.0 if value is None else error / value)
    if not math.isfinite(relative):
        raise InputError(
            f"{measured}: expected finite --thickness-err-cm and --transmission-err, got "
            f"{thickness[0]:g} and {error:g}"
        )
    return relative


def _settings(config: Path | None, stream: str, poni: Path | None) -> AreaReduction:
    from pipeline.config.loader import load_config
    from pipeline.config.reduce import AreaReduction
    from pipeline.reduce.errors import InputError

    settings = AreaReduction()
    if config is not None:
        section = getattr(load_config(config), stream, None)
        if section is None or not hasattr(section, "reduce"):
            raise InputError(f"{config}: expected a section {stream}.reduce, got none")
        settings = section.reduce
    return settings if poni is None else settings.model_copy(update={"poni_file": str(poni)})


def _print_refinement(result: Refinement) -> None:
    from pipeline.calibrate.refinement import PARAMETERS, rms_off_pixels

    units = {"m": (1e3, "mm"), "rad": (57.29577951308232, "deg")}
    print(f"{'':12}{'before':>14}{'after':>14}{'+-':>12}")
    for name, attribute in PARAMETERS.items():
        stem, _, unit = attribute.rpartition("_")
        factor, shown = units[unit]
        before, after = (
            getattr(geometry, attribute) * factor for geometry in (result.start, result.geometry)
        )
        error = result.errors.get(name)
        told = "fixed" if error is None else f"{error * factor:.4f}"
        print(f"{stem + ' ' + shown:12}{before:14.4f}{after:14.4f}{told:>12}")
    wavelength = 10.0 * result.start.wavelength_nm
    print(f"{'wavelength A':12}{wavelength:14.6f}{wavelength:14.6f}{'fixed':>12}")
    print("ring   d expected A   d before A    d after A    off, pixels: before    after")
    for before, after in zip(result.rings_before, result.rings_after, strict=False):
        d = [
            f"{10.0 * ring.d_nm:13.5f}" if ring.found else f"{'-':>13}" for ring in (before, after)
        ]
        off = [f"{ring.off_pixels:.3f}" if ring.found else "-" for ring in (before, after)]
        expected = 10.0 * before.d_expected_nm
        print(f"{before.number + 1:4}{expected:15.5f}{d[0]}{d[1]}{off[0]:>24}{off[1]:>9}")
    before, after = (rms_off_pixels(rings) for rings in (result.rings_before, result.rings_after))
    print(f"rings off: {before:.3f} pixels rms before, {after:.3f} after")
    print(f"points: {result.points}, {result.rms_pixels:.3f} pixels rms off their rings")


def _print_scale(fit: ScaleFit, standard: str, stream: str) -> None:
    def percent(part: float) -> str:
        return f"{100.0 * part / fit.scale:.2g} %"

    low, high = fit.q_range_per_nm
    print(f"# {standard}: q {low:.4g} to {high:.4g} 1/nm")
    print(f"# chi2 {fit.chi2:.5g} for {fit.freedom} degrees of freedom")
    print(
        f"# standard error {percent(fit.error)}: counting {percent(fit.counting_error)}, standard "
        f"{percent(fit.standard_error)}, thickness and transmission {percent(fit.inputs_error)}, "
        f"shape {percent(fit.shape_error)}"
    )
    if fit.offset:
        print(
            f"# constant that was taken off, before scaling: {fit.offset:.4g} +- "
            f"{fit.offset_error:.2g}"
        )
    if fit.shape_error > _WORST_SHAPE_ERROR * fit.scale:
        from pipeline.reduce.errors import InputError

        raise InputError(
            f"expected a curve of the shape of {standard}, got one whose scale differs by "
            f"{percent(fit.shape_error)} between parts of its range: is it another sample or "
            "geometry, is a background left, or --q-range too wide? No scale is given"
        )
    if fit.shape_error > _NOTED_SHAPE_ERROR * fit.scale:
        print("# note: the curve has not the standard's shape: is a background left, or --q-range")
        print("# too wide?")
    print(f"{stream}:\n  reduce:\n    absolute_scale: {fit.scale:.6g}  # +- {fit.error:.2g}")


def _background_text(curve: MeasuredCurve, factor: float, thickness_cm: float) -> str:
    import numpy as np

    used = np.isfinite(curve.intensity) & np.isfinite(curve.sigma)
    rows = zip(
        curve.q_per_nm[used],
        factor * curve.intensity[used],
        factor * curve.sigma[used],
        strict=True,
    )
    head = (
        f"# background of a path of {thickness_cm:g} cm\n"
        "# columns: q (1/nm), I (1/cm), sigma (1/cm)\n"
    )
    return head + "".join(f"{q:.8e} {value:.8e} {sigma:.8e}\n" for q, value, sigma in rows)


def _shape(text: str | None) -> tuple[int, int] | None:
    from pipeline.reduce.errors import InputError

    if text is None:
        return None
    try:
        rows, columns = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--shape: expected ROWS,COLUMNS, got {text}") from None
    if rows < 1 or columns < 1:
        raise InputError(f"--shape: expected ROWS,COLUMNS above 0, got {text}")
    return rows, columns


def _interval(text: str | None) -> tuple[float, float] | None:
    from pipeline.reduce.errors import InputError

    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise InputError(f"--q-range: expected A:B in 1/nm, got {text}") from None
    if not 0.0 <= low < high:
        raise InputError(f"--q-range: expected A:B, rising, got {text}")
    return low, high


def _require_target(path: Path, force: bool) -> None:
    from pipeline.reduce.errors import InputError

    if path.exists() and (path.is_dir() or not force):
        raise InputError(f"{path} exists already: choose another name or add --force")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}")


def _write(path: Path, text: str) -> None:
    """Write a file; it has its name only once it is whole."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
