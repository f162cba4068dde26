"""What is in the vial."""

from pydantic import Field

from pipeline.config.base import Section


class Sample(Section):
    """Constants of the material that turn an intensity into a concentration."""

    system: str = "CsPbBr3"
    """Name of the material, for people."""
    contrast_per_nm2: float = Field(default=27.44e-4, gt=0)
    """Scattering-length density of the particles less that of the solvent, 1/nm^2."""
    formula_volume_nm3: float = Field(default=0.19916, gt=0)
    """Volume of one formula unit in the crystal."""
    limiting_species: str = "Cs"
    """Name of the species that the yield is counted on, for people."""
    limiting_concentration_mm: float | None = Field(default=None, gt=0)
    """Its concentration in the vial, mM. Without it there is no yield."""
