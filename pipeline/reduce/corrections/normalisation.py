"""Monitor, transmission, exposure, thickness and absolute scale: one factor for a frame.

    factor = absolute_scale / (monitor * transmission * exposure_s * thickness_cm)

with 1 in place of a scale or a thickness that nobody knows; then the scale is arbitrary. The errors
of these numbers are common to all bins of a frame, and are not in its sigma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.config.reduce import AreaReduction
from pipeline.messages import BadFrameError, ImageFrame, PackedImageFrame
from pipeline.reduce.errors import InputError

# A transmission is the ratio of two counters, each good to a percent or two: an empty beam may well
# come out at 1.01. More than this is a wrong counter.
_HIGHEST_TRANSMISSION = 1.05


def setting_or(setting: float | None, metadata: Mapping[str, Any], name: str) -> float | None:
    """A setting counts before what the stream says of ``name``; 0 there means not known.

    Raises
    ------
    InputError
        If the stream says something that is no number above 0.
    """
    if setting is not None:
        return float(setting)
    own = metadata.get(name)
    if own is None or own == 0:
        return None
    if isinstance(own, bool) or not isinstance(own, int | float) or not 0 < own < math.inf:
        raise InputError(
            f"the stream's own {name}: expected a number above 0, got {str(own)[:40]!r}: set it in "
            "the config"
        )
    return float(own)


class Normalisation:
    """The factor of each frame of a stream.

    Parameters
    ----------
    settings
        Of the reduction.
    metadata
        Of the stream: its own ``absolute_scale`` and ``thickness_cm`` count where the settings have
        none.

    Attributes
    ----------
    absolute
        Whether the factor leads to 1/cm.
    thickness_cm
        Of the sample; None = not known.

    Raises
    ------
    InputError
        If the stream says something that is no number above 0.
    """

    def __init__(self, settings: AreaReduction, metadata: Mapping[str, Any]) -> None:
        scale = setting_or(settings.absolute_scale, metadata, "absolute_scale")
        self.thickness_cm = setting_or(settings.thickness_cm, metadata, "thickness_cm")
        self.absolute = scale is not None and self.thickness_cm is not None
        self._monitor_min = settings.monitor_min
        self._scale = 1.0
        if scale is not None and self.thickness_cm is not None:
            self._scale = scale / self.thickness_cm

    def factor(self, frame: ImageFrame | PackedImageFrame) -> float:
        """What counts per unit weight are multiplied by.

        Raises
        ------
        BadFrameError
            If there was no beam, or a number cannot be.
        """
        where = f"{frame.stream} frame {frame.frame}"
        if not frame.monitor >= self._monitor_min:
            raise BadFrameError(
                f"{where}: no beam: expected a monitor of at least {self._monitor_min:g}, got "
                f"{frame.monitor:g}"
            )
        if not 0.0 < frame.transmission <= _HIGHEST_TRANSMISSION:
            raise BadFrameError(
                f"{where}: expected a transmission above 0, up to {_HIGHEST_TRANSMISSION:g}, got "
                f"{frame.transmission:g}"
            )
        if not (math.isfinite(frame.exposure_s) and frame.exposure_s > 0.0):
            raise BadFrameError(
                f"{where}: expected an exposure above 0 s, got {frame.exposure_s:g}"
            )
        if not math.isfinite(frame.monitor):
            raise BadFrameError(f"{where}: expected a finite monitor, got {frame.monitor:g}")
        return self._scale / (frame.monitor * frame.transmission * frame.exposure_s)
