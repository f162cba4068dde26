"""How the lattice of ordered particles is told."""

from pydantic import Field

from pipeline.config.base import Section


class LatticeAnalysis(Section):
    """Indexing of the structure factor's lines, size and strain of the domains."""

    level: float = Field(default=0.9, gt=0.5, lt=1)
    """Probability from which a lattice is named; below it the verdict is "cannot tell"."""
    position_floor: float = Field(default=0.0015, ge=0, le=0.05)
    """Share of q that a line may be off beyond its own error: calibration, slopes under a line."""
    width_share: float = Field(default=0.04, ge=0, le=0.5)
    """Likewise, share of a line's width: its profile is not that of the fit."""
    area_scatter: float = Field(default=0.6, gt=0, le=3)
    """Standard deviation of ln(area) of a lattice's lines about multiplicity, 1/q^2 and damping:
    texture, faults and the form factor's minima. Large values leave the places alone to decide."""
    line_sigma: float = Field(default=5.0, gt=0)
    """Height over its error from which a line is found; a reflection that should be higher and is
    not there speaks against a lattice."""
    least_height: float = Field(default=0.05, ge=0)
    """Height of S(q) - 1 below which no line is missed: so far a form factor may be wrong."""
    unexplained_ratio: float = Field(default=0.15, gt=0, lt=1)
    """Of the geometric law of the number of lines that are of no lattice, beside one."""
    overlap_tolerance: float = Field(default=0.1, ge=0, lt=0.5)
    """Share of the core's diameter by which neighbours may be nearer than it: facets, shape."""
    overlap_prior: float = Field(default=1e-3, gt=0, le=1)
    """Weight of a lattice whose cores overlap by more than this and the errors. 1 = regardless."""
    largest_gap_nm: float = Field(default=6.0, gt=0)
    """Surfaces of neighbouring cores are not further apart: two ligands of 18 carbons are 5 nm."""
    scherrer_k: float = Field(default=0.9, gt=0, le=2)
    """K of Scherrer's size, 2 pi K / fwhm. 0.89: cubes along an edge, or the cube root of the
    volume of spheres; 1.11: the diameter of spheres (Langford and Wilson, J. Appl. Cryst. 11 (1978)
    102). 1 = ``domain_nm``."""
