"""What makes frames: simulated devices here, real ones at a beamline."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from pipeline.config.base import Section

Stream = Literal["saxs", "waxs", "absorbance"]

STREAMS: tuple[Stream, ...] = get_args(Stream)
"""Every stream there is, in the order in which they are listed."""


class Artefact(Section):
    """Something that goes wrong at a given time, as it does at a beamline."""

    kind: Literal["beam_dump", "closed_shutter", "bubble", "gain_step", "dropped_frames"]
    """What happens."""
    at_s: float = Field(ge=0)
    """When it begins, in seconds after the injection."""
    duration_s: float = Field(default=2.0, gt=0)
    """How long it lasts."""
    size: float = Field(default=1.0, gt=0)
    """How strong: factor of the gain step, share of the path lost to a bubble (at most 1);
    unused by the others."""
    stream: Stream | None = None
    """Detector concerned; absent = every one that can be."""

    @model_validator(mode="after")
    def _bubble_is_a_share(self) -> "Artefact":
        if self.kind == "bubble" and self.size > 1.0:
            raise ValueError(
                f"bubble: size is the share of the path that is lost, expected at most 1, "
                f"got {self.size:g}"
            )
        return self


Edge = Annotated[int, Field(ge=16, le=2880)]


class SimulatedSaxs(Section):
    """Area detector that renders counts of the simulated sample."""

    rate_hz: float = Field(default=2.0, ge=1, le=1000)
    """Frames a second."""
    shape: tuple[Edge, Edge] = (1024, 1024)
    """Rows and columns, up to 2880 x 2880."""
    dtype: Literal["uint16", "uint32"] = "uint32"
    """Of the counts. The largest value marks pixels that do not exist, the one below saturation."""
    pixel_size_um: float = Field(default=75.0, gt=0)
    """Edge of a pixel."""
    distance_m: float = Field(default=1.9, gt=0)
    """From the sample to the point of normal incidence."""
    energy_kev: float = Field(default=37.5, gt=0)
    """Of the photons."""
    tilt_deg: tuple[float, float] = (0.3, -0.2)
    """Rotations of the detector about the vertical and the horizontal axis."""
    beam_at: tuple[float, float] = (0.53, 0.45)
    """Where the direct beam hits, in shares of rows and columns; below 0 or above 1: beside the
    detector."""
    flux_per_s: float = Field(default=5e11, gt=0)
    """Photons on the sample a second."""
    monitor_noise: float = Field(default=0.01, ge=0)
    """Relative standard deviation of the flux from frame to frame."""
    transmission: float = Field(default=0.8, gt=0, le=1)
    """Of sample and capillary."""
    thickness_cm: float = Field(default=0.1, gt=0)
    """Path through the sample."""
    beamstop_radius_mm: float = Field(default=1.5, ge=0)
    """Of the round beamstop; it hangs on an arm of 0.6 mm. 0 = none."""
    background_flat_per_cm: float = Field(default=0.008, ge=0)
    """Flat scattering of capillary and air, in the units of the sample's."""
    background_porod: float = Field(default=1e-4, ge=0)
    """Parasitic scattering A q^-4: A in 1/cm nm^-4."""


class SimulatedWaxs(SimulatedSaxs):
    """Second area detector, beside the beam and close to the sample: the crystals' reflections."""

    shape: tuple[Edge, Edge] = (619, 487)
    """Rows and columns, up to 2880 x 2880."""
    pixel_size_um: float = Field(default=172.0, gt=0)
    """Edge of a pixel."""
    distance_m: float = Field(default=0.45, gt=0)
    """From the sample to the point of normal incidence; at 37.5 keV: q from 4 to 44 1/nm."""
    beam_at: tuple[float, float] = (0.5, -0.12)
    """Where the direct beam passes, in shares of rows and columns; below 0 or above 1: beside the
    detector."""
    beamstop_radius_mm: float = Field(default=0.0, ge=0)
    """Of a round beamstop on an arm of 0.6 mm; 0 = none, since the beam passes beside."""


class SimulatedSpectrometer(Section):
    """Fibre spectrometer that renders counts of the simulated sample."""

    rate_hz: float = Field(default=1 / 0.15, ge=1, le=1000)
    """Spectra a second."""
    pixels: int = Field(default=1024, ge=16, le=8192)
    """Number of pixels, evenly spaced in wavelength."""
    wavelength_range_nm: tuple[float, float] = (280.0, 680.0)
    """First and last pixel."""
    full_scale_counts: float = Field(default=50000.0, gt=0)
    """Of the lamp at its brightest, in one exposure (of any length: the lamp is set for it)."""
    saturation_counts: int = Field(default=65535, gt=0)
    """Largest count that the spectrometer can give."""
    read_noise_counts: float = Field(default=5.0, ge=0)
    """Of one pixel in one spectrum."""


class SimulatedDevices(Section):
    """Detectors that look on one simulated synthesis."""

    type: Literal["simulated"] = "simulated"
    recipe: Literal["cs_dopa", "cs_oleate", "cs_oleate_dilute", "assembly_100c"] = "cs_dopa"
    """Synthesis that is played."""
    seed: int = Field(default=1, ge=0)
    """Of the noise."""
    start_s: float = Field(default=0.0, ge=0)
    """Where in the synthesis the run begins."""
    saxs: SimulatedSaxs | None = SimulatedSaxs()
    """Absent = no small-angle detector."""
    waxs: SimulatedWaxs | None = None
    """Absent = no wide-angle detector."""
    absorbance: SimulatedSpectrometer | None = SimulatedSpectrometer()
    """Absent = no spectrometer."""
    artefacts: tuple[Artefact, ...] = ()
    """What goes wrong, and when."""


class OphydDevices(Section):
    """Real detectors: ophyd flyers of the beamline, named by import path."""

    type: Literal["ophyd"] = "ophyd"
    saxs: str | None = None
    """``package.module:Class`` of a flyer that publishes images."""
    saxs_options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Keyword arguments of its constructor."""
    waxs: str | None = None
    """``package.module:Class`` of a flyer that publishes images, of a second area detector."""
    waxs_options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Keyword arguments of its constructor."""
    absorbance: str | None = None
    """``package.module:Class`` of a flyer that publishes spectra."""
    absorbance_options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Keyword arguments of its constructor."""


class Acquisition(Section):
    """A run of the RunEngine."""

    duration_s: float = Field(default=300.0, gt=0)
    """How long frames are taken."""
    wait_for_store_s: float = Field(default=60.0, ge=0)
    """How long the first frame waits until results can be stored. After that frames are taken all
    the same, and analysed from the recording once the store is there."""
    devices: Annotated[SimulatedDevices | OphydDevices, Field(discriminator="type")] = (
        SimulatedDevices()
    )
    """What takes them."""
