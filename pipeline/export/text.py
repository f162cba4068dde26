"""One curve as columns of text: three, or four where the resolution of q is known."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.export.curves import Q_UNITS, CurveSet, FrameCurve
from pipeline.export.facts import Facts, one_line


def curve_text(curves: CurveSet, curve: FrameCurve, unit: str = "1/A") -> str:
    """q, I and sigma of one frame below a header of comments; bins without a value are left out.

    Where the run knows it, dQ follows as a fourth column: the standard deviation of q, where
    SasView looks for it. Numbers have 9 significant digits: more than a float32 holds. The text can
    be used as a config's ``background_file``.

    Raises
    ------
    ExportError
        If the frame has no finite point.
    """
    usable = curves.usable(curve)
    q = curves.q_per_nm[usable] * Q_UNITS[unit]
    columns = [q, curve.intensity[usable], curve.sigma[usable]]
    if curves.q_resolution_per_nm is not None:
        columns.append(curves.q_resolution_per_nm[usable] * Q_UNITS[unit])
    lines = [f"# {line}" for line in _header(curves, curve, unit)]
    lines += [" ".join(f"{value:.8e}" for value in row) for row in zip(*columns, strict=True)]
    return "\n".join(lines) + "\n"


def _header(curves: CurveSet, curve: FrameCurve, unit: str) -> Iterator[str]:
    facts = Facts.of(curves)
    scale = "absolute, 1/cm" if curves.absolute else "arbitrary"
    yield f"{facts.name}: {curves.stream} frame {curve.frame}"
    yield f"run: {curves.run}"
    yield f"frame: {curve.frame}"
    yield f"time: {curve.time_s:.9g} s from the run's zero"
    if facts.description:
        yield f"description: {one_line(facts.description)}"
    if facts.sample:
        yield f"sample: {facts.sample}"
    if facts.wavelength_m:
        yield f"wavelength: {facts.wavelength_m * 1e10:.9g} A"
    if facts.distance_m:
        yield f"distance: {facts.distance_m:.9g} m"
    yield f"intensity: {scale}"
    yield "sigma: one standard deviation"
    resolution = ""
    if curves.q_resolution_per_nm is not None:
        yield "dQ: resolution, one standard deviation of q"
        resolution = f", dQ ({unit})"
    if facts.software:
        yield f"software: {facts.software}"
    if facts.config_sha256:
        yield f"config sha256: {facts.config_sha256}"
    intensity = curves.intensity_unit
    yield f"columns: q ({unit}), I ({intensity}), sigma ({intensity}){resolution}"
