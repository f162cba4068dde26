"""How curves are looked at without a model."""

from pydantic import Field

from pipeline.config.base import Section


class InvariantsAnalysis(Section):
    """Guinier's radius, Porod's constant and the scattering invariant of every curve."""

    q_min_per_nm: float = Field(default=0.0, ge=0)
    """Left edge of what is used; 0 = where the curve begins."""
    q_max_per_nm: float = Field(default=6.0, gt=0)
    """Right edge of what is used."""
    guinier_q_rg_max: float = Field(default=1.3, gt=0.3, le=2)
    """q Rg up to which ln I is taken as a line in q^2."""
    porod_q_rg_min: float = Field(default=6.0, ge=4, le=30)
    """q Rg from which the curve is taken to fall as q^-4 on the average of its waves."""
    flat_background: bool = True
    """Whether a constant is found together with Porod's and subtracted."""
