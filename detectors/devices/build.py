"""From a config to detectors."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from detectors.devices.flyer import FrameFlyer
from pipeline.config.acquisition import STREAMS, OphydDevices, SimulatedDevices


class DeviceError(ValueError):
    """A detector that cannot be made; the text says which key of the config, and why."""


def make_devices(devices: SimulatedDevices | OphydDevices) -> list[FrameFlyer]:
    """The detectors that a config names, one a stream.

    Raises
    ------
    DeviceError
        If none is named, or one cannot be imported or made.
    """
    if isinstance(devices, SimulatedDevices):
        made = _simulated(devices)
    else:
        made = [
            _imported(stream, path, getattr(devices, f"{stream}_options"))
            for stream in STREAMS
            if (path := getattr(devices, stream)) is not None
        ]
    if not made:
        raise DeviceError(
            "acquisition.devices: expected a detector in 'saxs', 'waxs' or 'absorbance', got none"
        )
    return made


def _simulated(devices: SimulatedDevices) -> list[FrameFlyer]:
    # Imported here: a beamline with real detectors need not load the simulated sample.
    from detectors.devices.simulated import SimulatedAreaDetector, SimulatedFibreSpectrometer
    from detectors.sample import Synthesis
    from detectors.simulation import AreaRenderer, SpectrometerRenderer

    synthesis = Synthesis(devices.recipe)
    made: list[FrameFlyer] = []
    for stream in ("saxs", "waxs"):
        area = getattr(devices, stream)
        if area is not None:
            renderer = AreaRenderer(area, synthesis, devices.artefacts, devices.seed, stream)
            made.append(
                SimulatedAreaDetector(
                    name=stream,
                    stream=stream,
                    renderer=renderer,
                    rate_hz=area.rate_hz,
                    thickness_cm=area.thickness_cm,
                    start_s=devices.start_s,
                )
            )
    if devices.absorbance is not None:
        made.append(
            SimulatedFibreSpectrometer(
                renderer=SpectrometerRenderer(
                    devices.absorbance, synthesis, devices.artefacts, devices.seed
                ),
                rate_hz=devices.absorbance.rate_hz,
                start_s=devices.start_s,
            )
        )
    return made


def _imported(stream: str, path: str, options: Mapping[str, Any]) -> FrameFlyer:
    key = f"acquisition.devices.{stream}"
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise DeviceError(f"{key}: expected 'package.module:Class', got {path!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DeviceError(f"{key}: cannot import {module_name!r}: {error}") from error
    device_class = getattr(module, class_name, None)
    if not (isinstance(device_class, type) and issubclass(device_class, FrameFlyer)):
        raise DeviceError(
            f"{key}: expected a subclass of detectors.devices.flyer.FrameFlyer named "
            f"{class_name!r} in {module_name}, got {device_class!r}"
        )
    try:
        return device_class(name=stream, stream=stream, **options)
    except (TypeError, ValueError, OSError, ImportError) as error:
        raise DeviceError(f"{key}_options: {path} cannot be made: {error}") from error
