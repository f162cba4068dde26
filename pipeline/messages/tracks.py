"""Lines followed from frame to frame, and how spacings and cells shrink."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages.results import RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LineTracks(RowResult):
    """The tracks that the lines of one frame are on.

    ``line_k_track`` is the number of the track of line k of this frame's lines (from 1; 0 = none:
    it was seen too few times yet). ``tracks`` are those that live; ``births`` and ``deaths`` are
    told in this frame. ``birth_...`` are those of the newest track so far: where and when it was
    first seen; ``death_...`` those of the one that died last: where and when it was last seen.
    NaN and track 0 before there was one.
    """

    tracks: int
    births: int
    deaths: int
    birth_track: int
    birth_q_per_nm: float
    birth_s: float
    death_track: int
    death_q_per_nm: float
    death_s: float
    line_1_track: int
    line_2_track: int
    line_3_track: int
    line_4_track: int
    line_5_track: int
    line_6_track: int
    line_7_track: int
    line_8_track: int
    line_9_track: int
    line_10_track: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OrderTracks(LineTracks):
    """Tracks of the lines of the structure factor."""

    NODE = "order/tracks"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CrystalTracks(LineTracks):
    """Tracks of the lines of the wide-angle detector."""

    NODE = "crystal/tracks"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SpacingContraction(RowResult):
    """How fast the spacing of ordered particles changes, and by how much it did; with errors.

    Negative = it shrinks. The rate is the slope over the window that ends with the frame, shortened
    where a straight line does not describe it; it belongs to ``rate_time_s``, about the middle of
    the window. Percents per minute are of the spacing of the moment. ``strain_percent`` is the
    change against ``reference_nm``, the mean of the first reliable spacings, at ``reference_s``.
    NaN until there is enough.
    """

    NODE = "spacing/contraction"

    spacing_nm: float
    spacing_nm_err: float
    rate_nm_per_s: float
    rate_nm_per_s_err: float
    rate_percent_per_min: float
    rate_percent_per_min_err: float
    rate_time_s: float
    rate_window_s: float
    rate_rows: int
    strain_percent: float
    strain_percent_err: float
    reference_nm: float
    reference_nm_err: float
    reference_s: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CellContraction(RowResult):
    """How the edges of the particles' lattice change; as `SpacingContraction`, for each edge.

    Edges are compared within one ``lattice`` only, the one that is claimed; where none is, or
    another, rates and strains are NaN, or its own. ``rate_time_s`` is of edge a.
    """

    NODE = "cell/contraction"

    lattice: str
    rate_time_s: float
    rate_window_s: float
    rate_rows: int
    reference_s: float
    a_nm: float
    a_nm_err: float
    a_rate_nm_per_s: float
    a_rate_nm_per_s_err: float
    a_rate_percent_per_min: float
    a_rate_percent_per_min_err: float
    a_strain_percent: float
    a_strain_percent_err: float
    b_nm: float
    b_nm_err: float
    b_rate_nm_per_s: float
    b_rate_nm_per_s_err: float
    b_rate_percent_per_min: float
    b_rate_percent_per_min_err: float
    b_strain_percent: float
    b_strain_percent_err: float
    c_nm: float
    c_nm_err: float
    c_rate_nm_per_s: float
    c_rate_nm_per_s_err: float
    c_rate_percent_per_min: float
    c_rate_percent_per_min_err: float
    c_strain_percent: float
    c_strain_percent_err: float
