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
    """CSV that gives the order and the times of the files, relative to the recording."""
    index_file_column: str = "file"
    """Its column of file names."""
    index_time_column: str = "t_s"
    """Its column of times in seconds."""
    files: str | None = None
    """Glob of the files relative to the recording, when there is no index. They are taken in the
    order of their names, in which numbers count by value (``run_9`` before ``run_10``)."""
    period_s: float = Field(default=1.0, gt=0)
    """Time between frames when nothing else tells."""
    exposure_s: float | None = Field(default=None, gt=0)
    """Exposure of a frame when the files do not say. If neither says, images count as exposed for
    1 s (their scale is arbitrary then) and curves and spectra for 0 s, which is: not known."""
    dataset: str | None = None
    """Path of the images inside an HDF5 file that holds several sets of them."""
    shape: tuple[int, int] | None = None
    """Rows and columns of headerless images."""
    dtype: str | None = None
    """numpy type of headerless images, e.g. ``<i4``."""
    poni_file: str | None = None
    """Geometry of the images, relative to the recording."""
    mask_file: str | None = None
    """Mask of the images, non-zero = unusable, relative to the recording."""
    counters: str | None = None
    """CSV of counters per image, or a glob with one CSV an image series; relative to the
    recording. Of several, the one whose name is contained in the image's name is taken; its row is
    the number that ends the image's name."""
    monitor_column: str | None = None
    """Its column of the incident monitor, summed over the exposure."""
    transmitted_column: str | None = None
    """Its column of the transmitted intensity, summed over the exposure."""
    empty_beam_ratio: float | None = Field(default=None, gt=0)
    """Transmitted intensity over monitor with nothing in the beam. The sample's transmission is
    the measured ratio over this one; without it the transmission is unknown and taken as 1."""
    exposure_column: str | None = None
    """Its column, or the index's, of exposure times in seconds."""
    wavelength_column: str | None = None
    """Column of a table of spectra that holds the wavelength in nm; the first if absent."""
    values: Literal["absorbance", "counts"] = "absorbance"
    """What a table of spectra holds."""
    reference_column: int | None = Field(default=None, ge=0)
    """For counts: which spectrum is the reference (0 = first). It is not replayed as a frame."""
    time_unit: Literal["s", "min"] = "s"
    """Unit of times in headers that are bare numbers."""
