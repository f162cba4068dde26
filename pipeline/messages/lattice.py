"""Which lattice the particles are on."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages.results import RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LatticeRow(RowResult):
    """The lattice of one frame, its cell, its physics, and its domains, with standard errors.

    ``lattice`` is what is claimed: the name of a lattice, "cannot tell" where lines are there and
    none reaches the level, empty where order is not three-dimensional. ``candidate`` is the most
    probable one, ``stack`` included, and the cell is its. Probabilities ``p_...`` sum to 1;
    ``p_none``: the lines are of no lattice.

    ``merit`` is de Wolff's M_N = Q_N / (2 <|dQ|> R_N) of the N = ``lines_indexed`` lines, R_N the
    reflections predicted up to Q_N (J. Appl. Cryst. 1 (1968) 108). ``lines_absent`` should be seen
    and are not. ``c_over_a`` is that of hcp and tetragonal cells, ``c_over_a_ideal`` hcp's for
    spheres. ``hcp_share`` is of the particles, in a mixture of both close packings.

    ``nearest_nm`` is the distance of nearest neighbours (of sheets, in a stack), ``gap_nm`` that of
    their surfaces, ``packing`` the share of the volume that cores fill. ``consistent`` says whether
    cores have room, ``consistent_reason`` why or why not.

    ``domain_nm`` is 2 pi / fwhm of the first line that is resolved, ``scherrer_nm`` with the K of
    the config. ``hall_domain_nm`` and ``microstrain`` are Williamson and Hall's (Acta Metall. 1
    (1953) 22): fwhm = 2 pi / domain + 2 microstrain q.
    """

    NODE = "assembly/lattice"

    lattice: str
    candidate: str
    probability: float
    a_nm: float
    a_nm_err: float
    b_nm: float
    b_nm_err: float
    c_nm: float
    c_nm_err: float
    c_over_a: float
    c_over_a_err: float
    c_over_a_ideal: float
    hcp_share: float
    hcp_share_err: float
    merit: float
    lines_indexed: int
    lines_unexplained: int
    lines_absent: int
    p_stack: float
    p_sc: float
    p_bcc: float
    p_fcc: float
    p_hcp: float
    p_fcc_hcp: float
    p_tetragonal_p: float
    p_tetragonal_i: float
    p_orthorhombic_p: float
    p_orthorhombic_c: float
    p_orthorhombic_i: float
    p_orthorhombic_f: float
    p_none: float
    nearest_nm: float
    nearest_nm_err: float
    gap_nm: float
    gap_nm_err: float
    packing: float
    packing_err: float
    consistent: bool
    consistent_reason: str
    domain_nm: float
    domain_nm_err: float
    scherrer_nm: float
    scherrer_nm_err: float
    hall_domain_nm: float
    hall_domain_nm_err: float
    microstrain: float
    microstrain_err: float
