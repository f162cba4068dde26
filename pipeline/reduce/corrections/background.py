"""A background's curve, subtracted in the units of the reduced one.

    I       = I_sample - s B / T
    sigma^2 = sigma_sample^2 + (s / T)^2 sigma_B^2 + (s B sigma_T / T^2)^2

with s = ``background_scale``, B the background's curve, T and sigma_T =
``background_transmission``. The last term is common to all bins, as a wrong transmission moves the
whole curve, but it enters each bin's sigma as if it were the bin's own: that of one bin is right,
but a sum over bins is less well known than independent sigmas say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from pipeline.config.reduce import AreaReduction
from pipeline.messages import frozen_array
from pipeline.reduce.errors import InputError

_HDF5_SUFFIXES = (".h5", ".hdf", ".hdf5", ".nxs", ".nxcansas")

# Factors to 1/nm, by unit without blanks and carets, in lower case.
_Q_UNITS = {
    **dict.fromkeys(("1/nm", "nm-1", "1/nanometer", "1/nanometre"), 1.0),
    **dict.fromkeys(("1/a", "a-1", "1/å", "å-1", "1/ang", "ang-1"), 10.0),
    **dict.fromkeys(("1/angstrom", "angstrom-1", "1/angstroms"), 10.0),
    **dict.fromkeys(("1/m", "m-1"), 1e-9),
}

# What units of intensity say, spelled as those of q: True = 1/cm.
_SCALES = {
    **dict.fromkeys(("1/cm", "cm-1"), True),
    **dict.fromkeys(("arbitrary", "arb.u.", "arb.", "a.u.", "au", "counts"), False),
    **dict.fromkeys(("arbitraryunits", "arb.units"), False),
}

# Of the header that `pipeline.export` writes: "# columns: q (1/A), I (...), sigma (...)".
_UNIT_IN_HEADER = re.compile(r"^#\s*columns:\s*q\s*\(([^)]*)\),\s*I\s*\(([^)]*)\)", re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class StoredCurve:
    """A curve in a file.

    Attributes
    ----------
    q_per_nm
        (points,), rising.
    intensity, sigma
        (points,), finite.
    absolute
        True if the file says that intensity is in 1/cm, False if it says that the scale is
        arbitrary, None if it says neither.
    """

    q_per_nm: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    absolute: bool | None


def read_curve(path: str | Path, what: str = "a curve") -> StoredCurve:
    """Read a curve.

    Parameters
    ----------
    path
        NXcanSAS with one SASentry (``.h5``, ``.hdf``, ``.hdf5``, ``.nxs``), or text of three
        columns: q, I, sigma; a fourth, the resolution of q, is passed over. So are lines of text
        that begin with #, but for the units of q and I in the line ``# columns: q (1/A), I (...)``
        that ``nucleate export`` writes; without it q is in 1/nm.
    what
        What it is, for an error.

    Raises
    ------
    InputError
        If it has not finite numbers of rising q, or says a unit of q that is not known.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected {what}, got no such file")
    if path.suffix.lower() in _HDF5_SUFFIXES:
        table, unit, intensity_unit = _from_nxcansas(path, what)
    else:
        table, unit, intensity_unit = _from_text(path)
    if not np.isfinite(table).all() or (np.diff(table[0]) <= 0).any() or (table[2] < 0).any():
        raise InputError(f"{path}: expected finite numbers, rising q and sigma >= 0, got others")
    q, intensity, sigma = (frozen_array(row) for row in table)
    q_per_nm = frozen_array(q * _to_per_nm(unit, path))
    return StoredCurve(q_per_nm, intensity, sigma, _SCALES.get(_plain(intensity_unit)))


def read_background(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q in 1/nm, intensity and sigma of a background curve, see `read_curve`."""
    return _points(read_curve(path, "a background curve"))


def interpolate_background(
    q_per_nm: np.ndarray, background: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Background and its variance at other q, linearly; NaN outside its range.

    Neighbouring points are taken as independent, so the variance at a fraction f between two is
    (1 - f)^2 s0^2 + f^2 s1^2. What is interpolated onto a finer grid has errors in common with its
    neighbours, which is not kept.
    """
    q, intensity, sigma = background
    right = np.clip(np.searchsorted(q, q_per_nm, side="right"), 1, len(q) - 1)
    f = (q_per_nm - q[right - 1]) / (q[right] - q[right - 1])
    outside = (q_per_nm < q[0]) | (q_per_nm > q[-1])
    value = (1.0 - f) * intensity[right - 1] + f * intensity[right]
    variance = ((1.0 - f) * sigma[right - 1]) ** 2 + (f * sigma[right]) ** 2
    value[outside] = np.nan
    variance[outside] = np.nan
    return value, variance


class Background:
    """A background that is subtracted from curves of one grid of q.

    Parameters
    ----------
    settings
        ``background_file``, ``background_scale`` and ``background_transmission`` are used.
    q_per_nm
        (bins,) of the curves.
    absolute
        Whether the curves are in 1/cm; None = not known.

    Attributes
    ----------
    value, sigma
        (bins,) what is subtracted and its standard error, the transmission's included; NaN outside
        the range of the file.

    Raises
    ------
    InputError
        If no file is named, or it cannot be used, or has no q in common with the curves, or says
        that its scale is another than theirs.
    """

    def __init__(
        self, settings: AreaReduction, q_per_nm: np.ndarray, absolute: bool | None = None
    ) -> None:
        path = settings.background_file
        if path is None:
            raise InputError("background_file: expected a file, got none")
        stored = read_curve(path, "a background curve")
        _require_same_scale(path, stored.absolute, absolute)
        curve = _points(stored)
        value, variance = interpolate_background(q_per_nm, curve)
        if np.isnan(value).all():
            raise InputError(
                f"{path}: expected q between {q_per_nm[0]:g} and {q_per_nm[-1]:g} 1/nm, got "
                f"{curve[0][0]:g} to {curve[0][-1]:g}"
            )
        transmission, error = settings.background_transmission or (1.0, 0.0)
        factor = settings.background_scale / transmission
        value = factor * value
        self.value = frozen_array(value)
        self._variance = factor**2 * variance + (value * error / transmission) ** 2
        self.sigma = frozen_array(np.sqrt(self._variance))

    def subtract(self, intensity: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intensity without background and its standard error; NaN outside the file's range."""
        return intensity - self.value, np.sqrt(sigma**2 + self._variance)


def _points(curve: StoredCurve) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return curve.q_per_nm, curve.intensity, curve.sigma


def _require_same_scale(path: str, of_file: bool | None, of_curves: bool | None) -> None:
    if of_file is None or of_curves is None or of_file == of_curves:
        return
    if of_curves:
        raise InputError(
            f"{path}: expected a background in 1/cm, as the reduced curves are, got one of "
            "arbitrary scale: reduce it with the same absolute_scale and its own thickness_cm"
        )
    raise InputError(
        f"{path}: expected a background of arbitrary scale, as the reduced curves are, got one in "
        "1/cm: set absolute_scale and thickness_cm, or reduce the background without them"
    )


def _plain(unit: str) -> str:
    return re.sub(r"[\s^{}*]", "", unit).lower()


def _to_per_nm(unit: str, path: Path) -> float:
    factor = _Q_UNITS.get(_plain(unit))
    if factor is None:
        raise InputError(f"{path}: expected q in 1/nm or 1/A, got the unit {unit!r}")
    return factor


def _from_text(path: Path) -> tuple[np.ndarray, str, str]:
    try:
        text = path.read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.partition("#")[0].strip()]
        # numpy warns of no rows.
        table = np.loadtxt(rows, ndmin=2) if rows else np.empty((0, 0))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected columns q, I, sigma, got {error}") from None
    if table.ndim != 2 or table.shape[1] not in (3, 4) or len(table) < 2:
        raise InputError(
            f"{path}: expected rows of q, I, sigma (and dQ), got a table of {table.shape}"
        )
    told = _UNIT_IN_HEADER.search(text)
    return table[:, :3].T, told[1] if told else "1/nm", told[2] if told else ""


def _from_nxcansas(path: Path, what: str) -> tuple[np.ndarray, str, str]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: expected {what} as NXcanSAS, got {error}") from None
    with file:
        entries = [node for node in file.values() if _is(node, "SASentry")]
        if len(entries) != 1:
            raise InputError(
                f"{path}: expected one SASentry, {what}, got {len(entries)}: export one frame"
            )
        data = [node for node in entries[0].values() if _is(node, "SASdata")]
        if len(data) != 1:
            raise InputError(f"{path}: expected one SASdata, {what}, got {len(data)}")
        return _sasdata(data[0], path)


def _is(node: object, kind: str) -> bool:
    if not isinstance(node, h5py.Group):
        return False
    told = node.attrs.get("canSAS_class", "")
    return (told.decode() if isinstance(told, bytes) else told) == kind


def _sasdata(data: h5py.Group, path: Path) -> tuple[np.ndarray, str, str]:
    columns, units = [], []
    for name in ("Q", "I", None):
        if name is None:
            name = _text(data["I"].attrs.get("uncertainties", "Idev"))
        node = data.get(name)
        if not isinstance(node, h5py.Dataset) or node.ndim != 1:
            raise InputError(f"{path}:{data.name}: expected {name} of one axis, got none")
        if node.dtype.kind not in "iuf":
            raise InputError(f"{path}:{node.name}: expected real numbers, got {_type(node)}")
        columns.append(_values(node, path).astype(np.float64))
        units.append(_text(node.attrs.get("units", "")))
    if len({column.size for column in columns}) != 1 or columns[0].size < 2:
        sizes = ", ".join(str(column.size) for column in columns)
        raise InputError(f"{path}:{data.name}: expected Q, I, Idev of one length, got {sizes}")
    table = np.stack(columns)
    usable = np.isfinite(table).all(axis=0)
    mask = data.get("Mask")
    if isinstance(mask, h5py.Dataset) and mask.shape == usable.shape:
        if mask.dtype.kind not in "biu":
            raise InputError(f"{path}:{mask.name}: expected whole numbers, got {_type(mask)}")
        usable &= _values(mask, path) == 0
    if usable.sum() < 2:
        raise InputError(f"{path}:{data.name}: expected finite points, got {usable.sum()}")
    return table[:, usable], units[0], units[1]


def _type(node: h5py.Dataset) -> str:
    return "text" if h5py.check_string_dtype(node.dtype) else str(node.dtype)


def _values(node: h5py.Dataset, path: Path) -> np.ndarray:
    try:
        return np.asarray(node[()])
    except OSError as error:
        raise InputError(f"{path}:{node.name}: expected values, got {error}") from None


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
