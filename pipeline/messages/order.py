"""What a curve says of the particles' order."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages.populations import FittedCurve
from pipeline.messages.results import Result, RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Peak(RowResult):
    """The order of the particles in one frame and the first peaks of the best series.

    ``order_p`` is the probability that a frame without order looks as ordered as this one, over
    all kinds, spacings and widths that are tried, and ``order_z`` the same as standard deviations
    of a normal law; ``lattice_z`` is that of peaks beyond a stack's 1:2:3. ``order_kind`` is
    ``stack``, ``fcc``, ``bcc`` or ``hcp``, the best of those tried, and empty where no order is
    reported.

    ``spacing_nm`` is 2 pi / q of the first peak. Heights are of S(q) over 1, at the places and the
    width of the whole series; ``harmonics`` is how many of the three exceed 3 of their errors.
    ``peak_fwhm_per_nm`` is the sample's own full width, the instrument's taken out (NaN = not
    resolved), and ``domain_nm`` 2 pi over it.

    Of a stack only: ``order_parameter`` is the share of the particles that is in stacks, from the
    area of the first peak (0 none, 1 all); ``paracrystal_g`` the standard deviation of the spacing
    over its mean, from the growth of the widths over three orders.
    """

    NODE = "assembly/peaks"

    order_p: float
    order_z: float
    lattice_z: float
    spacing_nm: float
    spacing_nm_err: float
    peak_1_q_per_nm: float
    peak_2_q_per_nm: float
    peak_3_q_per_nm: float
    peak_1_height: float
    peak_1_height_err: float
    peak_2_height: float
    peak_2_height_err: float
    peak_3_height: float
    peak_3_height_err: float
    peak_fwhm_per_nm: float
    peak_fwhm_per_nm_err: float
    domain_nm: float
    domain_nm_err: float
    order_parameter: float
    order_parameter_err: float
    paracrystal_g: float
    paracrystal_g_err: float
    harmonics: int = 0
    order_kind: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JudgedCurve(Result):
    """A fitted curve and what was found of order, for stages that follow; not stored."""

    fitted: FittedCurve
    peak: Peak
