"""How lines are followed over time, and spacings and cells with them."""

from pydantic import Field

from pipeline.config.base import Section


class TrackAnalysis(Section):
    """Tracks of lines, and rates of contraction, from the stored tables of order and crystals."""

    confirm_frames: int = Field(default=3, ge=2, le=1000)
    """A line's track is born when it was seen in so many frames running."""
    lost_frames: int = Field(default=3, ge=2, le=1000)
    """It dies when it was missed in so many running. Frames that gave nothing do not count."""
    contraction_window_s: float = Field(default=30.0, gt=0, le=36000)
    """Rates are slopes of straight lines through the spacings of so many seconds up to now."""
    contraction_rows: int = Field(default=8, ge=4, le=1000)
    """Rows that a slope needs: where the window holds fewer it reaches farther back. The mean of
    so many, running, is the spacing that strain is measured against."""
