"""Which questions are asked of the stored results."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Section


class Detection(Section):
    """Alerts that are raised and how often they may be false."""

    recipe: Literal["cs_dopa", "cs_oleate", "growth", "none"] = "growth"
    """Phases to tell apart: I to IV (cs_dopa), burst and ripening (cs_oleate), or nucleation
    only (growth)."""
    superlattice: bool = True
    """Whether order is watched for, in one and in three dimensions."""
    smallest_peak: float = Field(default=0.0, ge=0)
    """Structure whose first peak is lower than this, relative to the particles' own scattering, is
    no order. Real particles are no perfect spheres: 0.2 is a safe value for recorded curves, 0
    trusts the model and sees order earliest."""
    crystals: bool = True
    """Whether lines, crystals and phases of a wide-angle detector are watched, in runs with one."""
    false_alarm_hours: float = Field(default=24.0, gt=0)
    """Mean time between false alarms that is accepted, on stationary data."""
    interval_coverage: float = Field(default=0.9, gt=0.5, lt=1)
    """How often an onset's interval holds the true onset."""
