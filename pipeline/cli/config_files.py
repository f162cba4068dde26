"""Whether the files that a config names are there and can be used, before a run needs them."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import RunConfig
from pipeline.config.loader import ConfigError
from pipeline.config.phases import PhasesAnalysis
from pipeline.config.populations import PopulationsFit
from pipeline.config.reduce import AreaReduction

_FILES = ("poni_file", "mask_file", "dark_file", "flat_file", "background_file")


def problems(config: RunConfig) -> list[str]:
    """One line for each file, or material, that a run would stumble over; it begins with its key.

    A detector file that a PONI file names is read with it. Images are compared with the shape that
    the geometry tells; where it tells none, they are only looked for.

    Parameters
    ----------
    config
        Its paths are absolute, as `pipeline.config.loader.load_config` leaves them.
    """
    found = []
    for stream, settings in (("saxs", config.saxs.reduce), ("waxs", config.waxs.reduce)):
        if settings.sensor is not None or any(getattr(settings, name) for name in _FILES):
            found += [f"{stream}.reduce.{line}" for line in _of_stream(settings)]
    if config.saxs.fit is not None:
        found += [f"saxs.fit.{line}" for line in _of_fit(config.saxs.fit)]
    if config.waxs.phases is not None:
        found += [f"waxs.phases.{line}" for line in _of_phases(config.waxs.phases)]
    return found


def require(config_file: Path, config: RunConfig) -> None:
    """Raise `ConfigError` with all `problems` of a config, before any process is started."""
    if lines := problems(config):
        raise ConfigError([f"{config_file}: {line}" for line in lines])


def _of_fit(fit: PopulationsFit) -> list[str]:
    found = []
    if fit.shape != "sphere" or fit.shape_parameters:
        from pipeline.kernels import shapes

        try:
            shapes.load(fit.shape).complete(fit.shape_parameters)
        except ValueError as error:
            found.append(f"shape: {error}")
    return found + _of_curve("instrument_file", fit.instrument_file, "an instrument's curve")


def _of_curve(key: str, path: str | None, what: str) -> list[str]:
    """What is wrong with a curve's file, if one is named."""
    if path is None:
        return []
    from pipeline.reduce.corrections.background import read_curve
    from pipeline.reduce.errors import InputError

    try:
        read_curve(path, what)
    except InputError as error:
        return [f"{key}: {error}"]
    return []


def _of_phases(settings: PhasesAnalysis) -> list[str]:
    from pipeline.fit.phases import FitPhases

    found = []
    try:
        FitPhases(settings)
    except ValueError as error:
        found.append(f"phases: {error}")
    found += _of_curve("background_file", settings.background_file, "a background curve")
    return found


def _of_stream(settings: AreaReduction) -> list[str]:
    # Loaded late: most configs name no file, and these load numba.
    from pipeline.reduce.corrections.dark import read_dark
    from pipeline.reduce.corrections.flat import read_flat
    from pipeline.reduce.corrections.mask import read_mask
    from pipeline.reduce.corrections.sensor import attenuation_per_m, parallax_layer
    from pipeline.reduce.errors import InputError
    from pipeline.reduce.geometry import check_on_detector, read_geometry

    found, geometry = [], None
    try:
        if settings.poni_file is not None:
            geometry = read_geometry(settings.poni_file)
            if geometry.shape is not None:
                check_on_detector(geometry, geometry.shape)
    except InputError as error:
        found.append(f"poni_file: {error}")
    shape = None if geometry is None else geometry.shape
    for name, read in (("mask", read_mask), ("dark", read_dark), ("flat", read_flat)):
        path = getattr(settings, f"{name}_file")
        try:
            if path is not None and not Path(path).is_file():
                found.append(f"{name}_file: {path}: expected an image, got no such file")
            elif path is not None and shape is not None:
                read(path, shape)
        except InputError as error:
            found.append(f"{name}_file: {error}")
    found += _of_curve("background_file", settings.background_file, "a background curve")
    try:
        if geometry is not None:
            parallax_layer(geometry, settings.sensor)
        if settings.sensor is not None:
            # Whether a material is known does not depend on the energy, where none is told.
            wavelength_nm = 0.1 if geometry is None else geometry.wavelength_nm
            attenuation_per_m(
                settings.sensor.material, wavelength_nm, settings.sensor.density_g_per_cm3
            )
    except InputError as error:
        found.append(f"sensor: {str(error).removeprefix('sensor: ')}")
    return found
