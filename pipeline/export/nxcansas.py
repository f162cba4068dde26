"""Curves as an NXcanSAS file, https://manual.nexusformat.org/classes/applications/NXcanSAS.html.

One SASentry a frame. The standard also has I[frame, Q] in one SASdata, but readers rarely follow:
sasdata 0.11 gives the last frame's values for every frame of it. What the frames share (q, its
resolution, instrument, sample, process) is stored once and linked inside the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from pipeline.export.curves import Q_UNITS, CurveSet, FrameCurve
from pipeline.export.facts import Facts

# Spelling of the units of q in the standard.
_NEXUS_Q_UNITS = {"1/A": "1/angstrom", "1/nm": "1/nm"}
_VERSION = "1.1"
_DATA = "sasdata"


def write_nxcansas(
    target: Path | BinaryIO, curves: CurveSet, frames: Iterable[FrameCurve], unit: str = "1/A"
) -> int:
    """Write one SASentry a frame, named ``frame_000012``; bins without a value are left out.

    Parameters
    ----------
    target
        File to make, or a binary file to write to.
    curves, frames
        What they share, and the curves themselves, at least one.
    unit
        Of q: ``1/A`` or ``1/nm``.

    Returns
    -------
    int
        Number of entries.

    Raises
    ------
    ExportError
        If a frame has no finite point.
    """
    with h5py.File(target, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        file.attrs["creator"] = f"nucleate {metadata.version('nucleate')}"
        writer = _Writer(file, curves, unit)
        for curve in frames:
            writer.add(curve)
        return len(file)


class _Writer:
    """Adds entries to a file."""

    def __init__(self, file: h5py.File, curves: CurveSet, unit: str) -> None:
        self._file = file
        self._curves = curves
        self._facts = Facts.of(curves)
        self._factor, self._q_unit = Q_UNITS[unit], _NEXUS_Q_UNITS[unit]
        self._shared: dict[str, h5py.Group] = {}
        self._axes: dict[bytes, dict[str, h5py.Dataset]] = {}

    def add(self, curve: FrameCurve) -> None:
        """Add the entry of one frame."""
        usable = self._curves.usable(curve)
        name = f"frame_{curve.frame:06d}"
        entry = _group(self._file, name, "NXentry", "SASentry")
        self._file.attrs.setdefault("default", name)
        entry.attrs["version"] = _VERSION
        entry.attrs["default"] = _DATA
        entry["definition"] = "NXcanSAS"
        entry["title"] = (
            f"{self._facts.name}, {self._curves.stream} frame {curve.frame}, {curve.time_s:.4g} s"
        )
        entry["run"] = self._curves.run
        entry["run"].attrs["name"] = f"frame {curve.frame}"
        note = _group(entry, "sasnote", "NXcollection", "SASnote")
        _number(note, "frame", curve.frame, "1")
        _number(note, "time", curve.time_s, "s")
        self._add_data(entry, curve, usable)
        self._share(entry)

    def _add_data(self, entry: h5py.Group, curve: FrameCurve, usable: np.ndarray) -> None:
        data = _group(entry, _DATA, "NXdata", "SASdata")
        data.attrs["signal"] = "I"
        data.attrs["I_axes"] = data.attrs["axes"] = "Q"
        data.attrs["Q_indices"] = data.attrs["Mask_indices"] = 0
        data.attrs["mask"] = "Mask"
        unit = self._curves.intensity_unit
        _number(data, "I", curve.intensity[usable], unit).attrs["uncertainties"] = "Idev"
        _number(data, "Idev", curve.sigma[usable], unit)
        shared = self._axes.get(usable.tobytes())
        if shared is None:
            self._axes[usable.tobytes()] = self._make_axes(data, usable)
        else:
            for name, dataset in shared.items():
                data[name] = dataset

    def _make_axes(self, data: h5py.Group, usable: np.ndarray) -> dict[str, h5py.Dataset]:
        curves = self._curves
        q = _number(data, "Q", curves.q_per_nm[usable] * self._factor, self._q_unit)
        # The standard wants a mask; what would be masked is left out.
        mask = data.create_dataset("Mask", data=np.zeros(int(usable.sum()), np.int8))
        axes = {"Q": q, "Mask": mask}
        if curves.q_resolution_per_nm is not None:
            deviation = curves.q_resolution_per_nm[usable] * self._factor
            axes["Qdev"] = _number(data, "Qdev", deviation, self._q_unit)
            q.attrs["resolutions"] = "Qdev"
            q.attrs["resolutions_description"] = "Gaussian"
        return axes

    def _share(self, entry: h5py.Group) -> None:
        """Instrument, sample and process: made in the first entry, linked from the others."""
        if not self._shared:
            self._shared = {
                "sasinstrument": self._make_instrument(entry),
                "sassample": self._make_sample(entry),
                "sasprocess": self._make_process(entry),
            }
            return
        for name, group in self._shared.items():
            entry[name] = group

    def _make_instrument(self, entry: h5py.Group) -> h5py.Group:
        facts = self._facts
        instrument = _group(entry, "sasinstrument", "NXinstrument", "SASinstrument")
        source = _group(instrument, "sassource", "NXsource", "SASsource")
        source["probe"] = "x-ray"
        if facts.wavelength_m:
            _number(source, "incident_wavelength", facts.wavelength_m * 1e10, "angstrom")
        detector = _group(instrument, "sasdetector", "NXdetector", "SASdetector")
        detector["name"] = self._curves.stream
        if facts.distance_m:
            _number(detector, "SDD", facts.distance_m, "m")
        if facts.pixel_m:
            _number(detector, "y_pixel_size", facts.pixel_m[0], "m")
            _number(detector, "x_pixel_size", facts.pixel_m[1], "m")
        return instrument

    def _make_sample(self, entry: h5py.Group) -> h5py.Group:
        sample = _group(entry, "sassample", "NXsample", "SASsample")
        sample["name"] = self._facts.sample or self._facts.name
        if self._facts.thickness_cm:
            # sasdata takes it for mm, whatever the unit says.
            _number(sample, "thickness", self._facts.thickness_cm * 10, "mm")
        if self._facts.description:
            sample["details"] = self._facts.description
        return sample

    def _make_process(self, entry: h5py.Group) -> h5py.Group:
        facts = self._facts
        process = _group(entry, "sasprocess", "NXprocess", "SASprocess")
        process["name"] = "nucleate"
        process["description"] = "azimuthal integration and normalisation"
        if facts.reduced_at:
            process["date"] = facts.reduced_at
        note = _group(process, "sasprocessnote", "NXcollection", "SASprocessnote")
        texts = {
            "software": facts.software,
            "config_sha256": facts.config_sha256,
            "config": facts.config_text,
            "geometry": facts.geometry,
        }
        for name, text in texts.items():
            if text:
                note[name] = text
        return process


def _group(parent: h5py.Group, name: str, nexus: str, cansas: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus
    group.attrs["canSAS_class"] = cansas
    return group


def _number(group: h5py.Group, name: str, value: Any, unit: str) -> h5py.Dataset:
    dataset = group.create_dataset(name, data=value)
    dataset.attrs["units"] = unit
    return dataset
