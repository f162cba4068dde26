"""What the best series of peaks says: its row, and that of a frame without order."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from pipeline.config.assembly import AssemblyAnalysis
from pipeline.fit.order_templates import SINGLE, STACK, Series
from pipeline.kernels.order import fill_series, series_score, sharpen
from pipeline.kernels.sphere import mean_amplitude, mean_square_amplitude
from pipeline.messages import Curve, FittedCurve, Peak, Populations

PEAKS = 3
"""Peaks that have columns of their own."""
SEEN_SIGMA = 3.0
"""A peak whose height exceeds so many of its errors is there: its place is known beforehand."""
FWHM_PER_SIGMA = math.sqrt(8.0 * math.log(2.0))
GAUSSIAN_AREA = math.sqrt(math.pi / (4.0 * math.log(2.0)))
"""Area of a Gaussian of unit height and unit full width."""


@dataclass(frozen=True, slots=True, eq=False)
class Whitened:
    """One frame's usable points (n,), ready for matched filters; see ``pipeline.kernels.order``."""

    q_per_nm: np.ndarray
    residual: np.ndarray
    scale: np.ndarray
    basis: np.ndarray


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one frame: probability of so much by chance, the same as z, and z beyond a stack."""

    order_p: float = math.nan
    order_z: float = math.nan
    lattice_z: float = math.nan


@dataclass(frozen=True, slots=True)
class Found:
    """A value and its standard error."""

    value: float = math.nan
    error: float = math.nan


ABSENT = Found()


@dataclass(frozen=True, slots=True)
class Fitted:
    """A series at its likeliest: score, place of the first peak, full width as measured."""

    series: Series
    score: float
    first: Found
    fwhm: Found


def absent(message: FittedCurve, verdict: Verdict) -> Peak:
    """A row without a spacing."""
    nothing = dict.fromkeys((each.name for each in fields(Peak)), math.nan)
    return Peak(
        **nothing  # pyright: ignore[reportArgumentType]
        | {
            "frame": message.frame,
            "time_s": message.time_s,
            "order_p": verdict.order_p,
            "order_z": verdict.order_z,
            "lattice_z": verdict.lattice_z,
            "harmonics": 0,
            "order_kind": "",
        }
    )


def likeliest(
    frame: Whitened, series: Series, start: tuple[float, float], settings: AssemblyAnalysis
) -> Fitted:
    """A series' place and width from those of its best template."""
    place, width = start
    shortest, longest = settings.spacing_range_nm
    bounds = (
        max(place - width, 2 * math.pi / longest),
        min(place + width, 2 * math.pi / shortest),
    )
    return _sharpened(frame, series, start, bounds, 4 * settings.peak_fwhm_per_nm[-1])


def describe(
    message: FittedCurve,
    frame: Whitened,
    verdict: Verdict,
    best: Fitted,
    settings: AssemblyAnalysis,
) -> Peak:
    """The row of an ordered frame, by the series that fits it best."""
    series, first, fwhm = best.series, best.first, best.fwhm
    places = [first.value * ratio for ratio in series.ratios[:PEAKS]]
    heights = [_height(frame, at, fwhm.value) for at in places]
    seen = [height.value > SEEN_SIGMA * height.error for height in heights]
    spacing = Found(2 * math.pi / first.value, 2 * math.pi / first.value**2 * first.error)
    instrument = instrument_fwhm_per_nm(message.curve, first.value, settings)
    own = own_width(fwhm, instrument)
    domain = Found(2 * math.pi / own.value, 2 * math.pi / own.value**2 * own.error)
    share = g = ABSENT
    if series is STACK:
        share = stacked_share(message.populations, heights[0], fwhm, spacing, settings)
    if series is STACK and all(seen):
        widths = [
            _sharpened(
                frame, SINGLE, (at, fwhm.value), (at - fwhm.value, at + fwhm.value), 0.5
            ).fwhm
            for at in places
        ]
        instruments = [instrument_fwhm_per_nm(message.curve, at, settings) for at in places]
        g = paracrystal_g(spacing.value, [*map(own_width, widths, instruments)])
    return Peak(
        frame=message.frame,
        time_s=message.time_s,
        order_p=verdict.order_p,
        order_z=verdict.order_z,
        lattice_z=verdict.lattice_z,
        order_kind=series.kind,
        spacing_nm=spacing.value,
        spacing_nm_err=spacing.error,
        peak_1_q_per_nm=places[0],
        peak_1_height=heights[0].value,
        peak_1_height_err=heights[0].error,
        peak_2_q_per_nm=places[1],
        peak_2_height=heights[1].value,
        peak_2_height_err=heights[1].error,
        peak_3_q_per_nm=places[2],
        peak_3_height=heights[2].value,
        peak_3_height_err=heights[2].error,
        harmonics=sum(seen),
        peak_fwhm_per_nm=own.value,
        peak_fwhm_per_nm_err=own.error,
        domain_nm=domain.value,
        domain_nm_err=domain.error,
        order_parameter=share.value,
        order_parameter_err=share.error,
        paracrystal_g=g.value,
        paracrystal_g_err=g.error,
    )


def _sharpened(
    frame: Whitened,
    series: Series,
    start: tuple[float, float],
    place_bounds: tuple[float, float],
    widest: float,
) -> Fitted:
    at, errors = np.array(start), np.empty(2)
    narrowest = max(float(np.median(np.diff(frame.q_per_nm))), 1e-6)
    score = sharpen(
        frame.q_per_nm, frame.residual, frame.scale, frame.basis, np.array(series.ratios),
        np.array(series.strengths), place_bounds, (narrowest, widest), at, errors,
    )  # fmt: skip
    first, fwhm = (Found(*pair) for pair in zip(at.tolist(), errors.tolist(), strict=True))
    return Fitted(series, score, first, fwhm)


def _height(frame: Whitened, place: float, fwhm: float) -> Found:
    """Height of one peak of S(q) - 1; absent outside of the window."""
    q = frame.q_per_nm
    if not q[0] <= place <= q[-1]:
        return ABSENT
    line, one = np.empty(q.size), np.ones(1)
    fill_series(q, place, fwhm, one, one, line)
    score, height = series_score(frame.residual, frame.scale, frame.basis, line)
    return Found(height, height / score) if score != 0.0 else ABSENT


def instrument_fwhm_per_nm(curve: Curve, q_per_nm: float, settings: AssemblyAnalysis) -> float:
    """Full width that a sharp peak has at ``q_per_nm``: of the config, and of the curve's bins."""
    return float(instrument_fwhms(curve, np.array([q_per_nm]), settings)[0])


def instrument_fwhms(curve: Curve, q_per_nm: np.ndarray, settings: AssemblyAnalysis) -> np.ndarray:
    """The same at several places (m,); bins whose resolution is NaN have that of neighbours."""
    own, known = np.zeros(q_per_nm.size), np.isfinite(curve.q_resolution_per_nm)
    if known.any():
        q = curve.q_per_nm[known]
        own = FWHM_PER_SIGMA * np.interp(q_per_nm, q, curve.q_resolution_per_nm[known])
    return np.hypot(settings.instrument_fwhm_per_nm, own)


def own_width(measured: Found, instrument_fwhm_per_nm: float) -> Found:
    """Full width without that of the instrument (normal both); absent where it is not wider."""
    square = measured.value**2 - instrument_fwhm_per_nm**2
    if not square > 0.0:
        return ABSENT
    own = math.sqrt(square)
    return Found(own, measured.value / own * measured.error)


def stacked_share(
    populations: Populations,
    height: Found,
    fwhm: Found,
    spacing: Found,
    settings: AssemblyAnalysis,
) -> Found:
    """Share of the particles that is in stacks, by the area of the first peak.

    Sheets at a distance d, n particles per area: S(q) = (2 pi n / q^2) (2 pi / d) delta(q - 2 pi/d)
    on average over all directions (Guinier, X-Ray Diffraction, 1963, chapters 4 and 7). So the
    area of q^2 (S - 1) over 4 pi^2 n / d is the share. The spread of the particles' amplitudes
    damps what interferes by beta = <F>^2 / <F^2> (Kotlarchyk & Chen, J. Chem. Phys. 79 (1983)
    2461), which is divided out. The error is that of the peak alone: the share is as good as n, and
    what displacements take from the peak counts as not ordered. Where it exceeds 1 by more than
    two errors the form factor or n is wrong, and it is absent.
    """
    first = 2 * math.pi / spacing.value
    at, mean, square = np.array([first]), np.empty(1), np.empty((3, 1))
    mean_amplitude(at, populations.nc_diameter_nm, populations.nc_sigma_nm, mean)
    mean_square_amplitude(at, populations.nc_diameter_nm, populations.nc_sigma_nm, square)
    beta = float(mean[0] ** 2 / square[0, 0])
    area_nm2 = settings.sheet_area_nm2 or spacing.value**2
    ideal = 4 * math.pi**2 / (area_nm2 * spacing.value)
    share = GAUSSIAN_AREA * fwhm.value * first**2 * height.value / (beta * ideal)
    error = abs(share) * math.hypot(height.error / height.value, fwhm.error / fwhm.value)
    return Found(share, error) if share <= 1 + 2 * error else ABSENT


def paracrystal_g(spacing_nm: float, widths_per_nm: list[Found]) -> Found:
    """Relative disorder of a stack from its own widths at the orders 1, 2, 3.

    The n-th order of a paracrystal is a Lorentzian of integral width (2 pi / d) (pi g n)^2
    (Hosemann & Bagchi, Direct Analysis of Diffraction by Matter, 1962; Hindeleh & Hosemann, J.
    Phys. C 21 (1988) 4155), of full width 2 / pi of that, folded with a Gaussian of the domain's
    size w_0, the same for all. Full width of a Voigt profile by Olivero and Longbothum (J. Quant.
    Spectrosc. Radiat. Transfer 17 (1977) 233): 0.5346 l + sqrt(0.2166 l^2 + w_0^2). Least squares
    over w_0 and g^2; absent where g^2 is not positive or three widths are not resolved.
    """
    measured = np.array([width.value for width in widths_per_nm])
    errors = np.array([width.error for width in widths_per_nm])
    if not (np.all(np.isfinite(measured)) and np.all(errors > 0)):
        return ABSENT
    per_g2 = 4 * math.pi**2 / spacing_nm * np.arange(1, len(measured) + 1) ** 2.0
    # Start as if widths added.
    size = measured[0]
    g2 = max((measured[-1] - measured[0]) / (per_g2[-1] - per_g2[0]), 1e-8)
    normal = np.zeros(3)
    for _ in range(8):
        lorentz = per_g2 * g2
        root = np.sqrt(0.2166 * lorentz**2 + size**2)
        by_g2 = (0.5346 + 0.2166 * lorentz / root) * per_g2 / errors
        by_size = size / root / errors
        misfit = (measured - 0.5346 * lorentz - root) / errors
        normal = np.array(
            [np.sum(by_g2 * by_g2), np.sum(by_g2 * by_size), np.sum(by_size * by_size)]
        )
        pull_g2, pull_size = np.sum(by_g2 * misfit), np.sum(by_size * misfit)
        det = normal[0] * normal[2] - normal[1] ** 2
        if not det > 0.0:
            return ABSENT
        g2 = max(g2 + (normal[2] * pull_g2 - normal[1] * pull_size) / det, 1e-10)
        size = max(size + (normal[0] * pull_size - normal[1] * pull_g2) / det, 1e-4)
    if g2 <= 1e-10:
        return ABSENT
    g = math.sqrt(g2)
    return Found(g, 0.5 / g * math.sqrt(normal[2] / (normal[0] * normal[2] - normal[1] ** 2)))
