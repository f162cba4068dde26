"""Which crystals are looked for on the wide-angle detector, and what else scatters there."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.base import Section
from pipeline.messages.waxs import MOST_PHASES


class Site(Section):
    """One atom of the asymmetric unit."""

    element: str
    """Symbol, e.g. ``Pb``; its form factor is that of the neutral atom."""
    xyz: tuple[float, float, float]
    """Place in shares of the cell's edges."""
    occupancy: float = Field(default=1.0, gt=0, le=1)
    """Share of such places that hold the atom."""
    u_iso_nm2: float = Field(default=2.5e-4, ge=0)
    """Mean square displacement along one direction; 2.5e-4 is B = 2 square angstroms."""


class CrystalPhase(Section):
    """A phase: cell, space group and, where they are known, atoms; or a CIF."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.+-]+$")
    """For columns and alerts."""
    cif: str | None = None
    """File that gives cell, space group and atoms, instead of the next four."""
    cell_nm: tuple[float, float, float] | None = None
    """Edges a, b, c."""
    cell_angles_deg: tuple[float, float, float] = (90.0, 90.0, 90.0)
    """Angles alpha, beta, gamma; they are not fitted."""
    space_group: str | int | None = None
    """Hermann-Mauguin symbol in the setting of the cell, or number (standard setting)."""
    sites: tuple[Site, ...] = ()
    """Atoms of the asymmetric unit. Without any only the places of lines are known."""
    intensities: Literal["atoms", "free"] = "atoms"
    """``atoms``: lines relative to each other as the atoms have them, where atoms are given.
    ``free``: each line has a height of its own, as for grains that are not randomly oriented."""
    cell: Literal["isotropic", "axes"] = "isotropic"
    """``isotropic``: the cell is stretched as a whole. ``axes``: each edge that symmetry leaves
    free on its own, for lines that are resolved."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        own = self.cell_nm is not None and self.space_group is not None
        if (self.cif is not None) == own or (self.cif is not None and self.sites):
            raise ValueError(
                f"phase {self.name}: expected either cif, or cell_nm and space_group (and sites)"
            )
        if self.cell_nm is not None and not min(self.cell_nm) > 0:
            raise ValueError(f"phase {self.name}: cell_nm: expected edges above 0")
        return self


def _known(value: Any) -> Any:
    """A name stands for a phase that is known."""
    # Late, since those are made of what is here.
    from pipeline.config.known_phases import known_phase

    return known_phase(value) if isinstance(value, str) else value


class Halo(Section):
    """A broad Gaussian of fixed place and width; its height is fitted and never negative."""

    q_per_nm: float = Field(gt=0)
    """Its middle."""
    fwhm_per_nm: float = Field(gt=0)
    """Full width at half maximum."""


NamedPhase = Annotated[
    CrystalPhase, BeforeValidator(_known, json_schema_input_type=str | CrystalPhase)
]


class PhasesAnalysis(Section):
    """Fit of each curve: phases, what is amorphous, and a background."""

    phases: tuple[NamedPhase, ...] = Field(default=(), max_length=MOST_PHASES)
    """Phases that may be there: names out of ``pipeline/config/known_phases.py``, or cells. None =
    only lines are sought."""
    q_min_per_nm: float = Field(default=8.0, gt=0)
    """Left edge of what is fitted; small-angle scattering ends below."""
    q_max_per_nm: float = Field(default=40.0, gt=0)
    """Right edge of what is fitted."""
    free_q_max_per_nm: float = Field(default=25.0, gt=0)
    """Phases without atoms (or with ``intensities: free``) are followed up to here: beyond, lines
    stand so close that free heights would explain anything."""

    background_degree: int = Field(default=3, ge=0, le=24)
    """Of a polynomial in q. 3 is less curved than the halo of agglomerates; crystals large enough
    for narrow lines bear more."""
    background_file: str | None = None
    """Curve of solvent and cell, whose height is fitted with the rest: NXcanSAS, or text of q, I,
    sigma as ``nucleate export`` writes it (q in 1/nm if it does not say)."""
    halos: tuple[Halo, ...] = ()
    """Halos of solvent and glass, which are not amorphous sample."""
    amorphous_halos: tuple[Halo, ...] = ()
    """Halos of what is amorphous in the sample."""
    amorphous_of: str | None = None
    """Name of a phase with atoms: what is amorphous is those atoms, in order over
    ``amorphous_order_nm`` only. Absent = none but ``amorphous_halos``."""
    amorphous_order_nm: float = Field(default=0.8, gt=0)
    """Hardly more than a cell."""

    cell_tolerance: float = Field(default=0.01, gt=0, le=0.05)
    """Relative standard deviation of what is known of a cell's edges; three of it bound them."""
    size_range_nm: tuple[float, float] = (2.0, 60.0)
    """Bounds of the crystallites' size."""
    scherrer_k: float = Field(default=0.9, gt=0)
    """Size = K 2 pi / fwhm: 0.89 for the cube root of the volume, 1.107 for a sphere's diameter
    (volume-weighted), 1 as 2 pi / fwhm."""
    strain: bool = False
    """Whether widths that grow with q are fitted too."""
    lorentz_share: float = Field(default=0.0, ge=0, le=1)
    """Of a line's profile, the rest being Gaussian: small spheres are nearly Gaussian, wide
    distributions of size nearly Lorentzian."""
    instrument_fwhm_per_nm: float = Field(default=0.0, ge=0)
    """Width of the instrument for curves that come without resolution."""

    report_sigma: float = Field(default=4.5, gt=0)
    """Crystals are reported where they are this significant after look-elsewhere: 3.4e-6 of
    frames without, one in 41 h at 2 Hz."""
    line_false_alarm: float = Field(default=1e-4, gt=0, lt=0.5)
    """Probability that noise alone gives a line of ``waxs/lines`` in a frame."""
    least_line_height: float = Field(default=0.0, ge=0)
    """A line must be significantly higher, in the curve's unit."""
    most_lines: int = Field(default=16, ge=1, le=40)
    """Most lines that are sought; a row keeps the 10 most significant."""
    weights: Literal["model", "measured"] = "model"
    """As for the populations: errors from the smoothed curve's counts, or as they come."""
    model_error: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the intensity that is added to its error, in quadrature, for what the model does not
    have: texture, tails of lines, a halo's shape. Without it, in a recording with very many counts,
    misfits of strong lines count as further phases."""
    describes_probability: float = Field(default=1e-3, gt=0, lt=0.5)
    """Order in the residuals that a true model shows less often says that the model does not
    describe the curve."""
    tolerated_misfit: float = Field(default=0.02, ge=0, lt=1)
    """... unless the misfit is smaller than this share of the signal."""
    residual_stride: int = Field(default=2, ge=1, le=10)
    """One residual in so many is tested: neighbouring bins share pixels."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phases: expected names that differ, got {', '.join(names)}")
        if self.amorphous_of is not None and self.amorphous_of not in names:
            raise ValueError(
                f"amorphous_of: expected one of phases ({', '.join(names) or 'none'}), got "
                f"{self.amorphous_of}"
            )
        if self.q_min_per_nm >= self.q_max_per_nm:
            raise ValueError(
                f"q_min_per_nm: expected less than q_max_per_nm, got {self.q_min_per_nm} and "
                f"{self.q_max_per_nm}"
            )
        if not 0 < self.size_range_nm[0] < self.size_range_nm[1]:
            raise ValueError(
                f"size_range_nm: expected 0 < first < second, got {self.size_range_nm}"
            )
        return self
