"""How a recording that is not our own is read."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Section


class ReplayFormat(Section):
    """What a recording's files do not say themselves."""

    format: Literal["auto", "recording", "tiled", "nexus", "images", "curves", "spectra"] = "auto"
    """Kind of recording; ``auto`` looks at the files."""
    stream: Literal["saxs", "absorbance"] | None = None
    """Stream that the recording becomes; from the format if absent."""
    q_unit: Literal["1/A", "1/nm"] | None = None
    """Unit of q in 1-D curves. Must be given: files seldom say."""
    index: str | None = None
    """CSV that gives the order and the times of the files."""
    index_file_column: str = "file"
    """Its column of file names."""
    index_time_column: str = "t_s"
    """Its column of times in seconds."""
    files: str | None = None
    """Glob of the files, sorted by name, when there is no index."""
    period_s: float = Field(default=1.0, gt=0)
    """Time between frames when nothing else tells."""
    shape: tuple[int, int] | None = None
    """Rows and columns of headerless images."""
    dtype: str | None = None
    """numpy type of headerless images, e.g. ``<i4``."""
    poni_file: str | None = None
    """Geometry of the images, relative to the recording."""
    mask_file: str | None = None
    """Mask of the images, non-zero = unusable, relative to the recording."""
    counters: str | None = None
    """CSV of counters per image, or a glob with one CSV an image series."""
    monitor_column: str | None = None
    """Its column of the incident monitor."""
    transmitted_column: str | None = None
    """Its column of the transmitted intensity."""
    exposure_column: str | None = None
    """Its column of exposure times in seconds."""
    wavelength_column: str | None = None
    """Column of a table of spectra that holds the wavelength in nm; the first if absent."""
    values: Literal["absorbance", "counts"] = "absorbance"
    """What a table of spectra holds."""
    reference_column: int | None = None
    """For counts: which spectrum is the reference (0 = first)."""
    time_unit: Literal["s", "min"] = "s"
    """Unit of times in headers."""
