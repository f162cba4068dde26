"""How the two clocks are joined and rates are made of them."""

from pydantic import Field

from pipeline.config.base import Section


class ReactionAnalysis(Section):
    """Rates, mass balance and phase of the reaction, from the stored fits."""

    join: bool = True
    """Whether absorbance is joined to SAXS on time; otherwise what is fitted first (SAXS, or
    absorbance where there is no SAXS) stands alone."""
    window_s: float = Field(default=3.0, gt=0, le=36000)
    """Rates are slopes of straight lines through the rows of so many seconds up to now: longer is
    more exact and later. Spectra that are this far apart are not interpolated between."""
    least_rows: int = Field(default=4, ge=4, le=100)
    """Rows that a slope needs: where the window holds fewer it reaches farther back."""
    slow_windows: float = Field(default=5.0, ge=1, le=100)
    """Ripening is told from rest over so many windows."""
