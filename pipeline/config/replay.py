"""How a recording that is not our own is read."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.acquisition import Stream
from pipeline.config.base import Section


class StreamFormat(Section):
    """What the files of one stream do not say themselves."""

    format: Literal["auto", "recording", "tiled", "nexus", "images", "curves", "spectra"] = "auto"
    """Kind of recording; ``auto`` looks at the files."""
    stream: Stream | None = None
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


_OF_ONE_DETECTOR = {"stream", "index", "files", "dataset", "shape", "poni_file", "mask_file"}


class FurtherStream(StreamFormat):
    """A further stream of the same recording, e.g. of a second area detector.

    What is absent here is as in ``replay`` itself, so that detectors that are exposed together
    share counters and times, except for what belongs to one detector: index, files, dataset, shape,
    geometry and mask. An entry of another format shares nothing.
    """

    path: str | None = None
    """Folder or file of this stream, relative to the recording; the recording itself if absent."""


class ReplayFormat(StreamFormat):
    """What a recording's files do not say themselves."""

    also: tuple[FurtherStream, ...] = ()
    """Further streams of the recording, played in the same run."""

    @model_validator(mode="before")
    @classmethod
    def _share(cls, data: Any) -> Any:
        """Complete further streams, so that a config that is written out says all of them."""
        if not isinstance(data, dict) or not isinstance(data.get("also"), list | tuple):
            return data
        shared = {
            name: value
            for name, value in data.items()
            if name in StreamFormat.model_fields.keys() - _OF_ONE_DETECTOR
        }
        own = data.get("format", "auto")
        return data | {
            "also": [
                shared | further
                if isinstance(further, dict) and further.get("format", own) == own
                else further
                for further in data["also"]
            ]
        }

    @model_validator(mode="after")
    def _streams_differ(self) -> Self:
        named = [self.stream, *(further.stream for further in self.also)]
        if self.also and (None in named or len(set(named)) < len(named)):
            raise ValueError(
                "expected a stream of its own in replay.stream and in each of replay.also, got "
                + ", ".join(name or "none" for name in named)
            )
        return self

    def of(self, stream: str) -> StreamFormat:
        """What is said of one stream; of the first if it is none of ``also``."""
        return next((further for further in self.also if further.stream == stream), self)
