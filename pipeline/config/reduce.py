"""How frames become curves and spectra."""

from typing import Self

from pydantic import Field, model_validator

from pipeline.config.base import Section


class SaxsReduction(Section):
    """Azimuthal integration and normalisation."""

    poni_file: str | None = None
    """PONI file, or a NeXus file (.h5, .hdf, .hdf5, .nxs) that holds a geometry. Without it, the
    geometry that comes with the stream is used."""
    mask_file: str | None = None
    """Extra static mask (.npy, .h5, or what fabio reads), non-zero = unusable; added to the
    detector's own."""
    bins: int = Field(default=500, ge=10, le=20000)
    """Number of q bins, evenly spaced."""
    q_min_per_nm: float | None = Field(default=None, ge=0)
    """Lower edge of the first bin; from the geometry if absent."""
    q_max_per_nm: float | None = Field(default=None, gt=0)
    """Upper edge of the last bin; from the geometry if absent."""
    solid_angle: bool = True
    """Divide by the relative solid angle of each pixel."""
    polarization_factor: float | None = Field(default=0.99, ge=-1, le=1)
    """Of the beam, +1 = horizontal; absent = no correction."""
    saturation_counts: int | None = Field(default=None, gt=0)
    """Pixels at or above are masked in that frame; the stream's own value if absent."""
    monitor_min: float = Field(default=0.01, gt=0)
    """Frames whose monitor (1 = nominal flux) is below are rejected: no beam."""
    absolute_scale: float | None = Field(default=None, gt=0)
    """Factor to 1/cm: 1 / (nominal flux in photons/s x solid angle in sr of the pixel at the point
    of normal incidence). I = factor * counts / (relative solid angle * polarisation * monitor *
    transmission * exposure_s * thickness_cm). The stream's own value if absent; if neither
    gives one, the scale is arbitrary."""
    thickness_cm: float | None = Field(default=None, gt=0)
    """Path through the sample; the stream's own value if absent. If neither gives one, the scale
    is arbitrary."""
    background_file: str | None = None
    """Text file of q in 1/nm, I and sigma in the units of the reduced curve, to be subtracted."""

    @model_validator(mode="after")
    def _q_range(self) -> Self:
        low, high = self.q_min_per_nm, self.q_max_per_nm
        if low is not None and high is not None and low >= high:
            raise ValueError(f"expected q_min_per_nm below q_max_per_nm, got {low:g} and {high:g}")
        return self


class AbsorbanceReduction(Section):
    """Counts to absorbance."""

    energy_min_ev: float = Field(default=1.8, gt=0)
    """Pixels below are not stored."""
    energy_max_ev: float = Field(default=4.5, gt=0)
    """Pixels above are not stored."""
    reference_frames: int = Field(default=1, ge=1)
    """How many spectra the reference (and the dark) is the mean of, for its error; the stream's
    own ``reference_frames`` counts before this."""
    saturation_counts: float | None = Field(default=None, gt=0)
    """Pixels at or above are unusable in that spectrum; the stream's own value if absent."""
    read_noise_counts: float = Field(default=5.0, ge=0)
    """Of one pixel in one spectrum, for the error."""
    counts_per_electron: float = Field(default=1.0, gt=0)
    """Gain of the spectrometer, for the error."""

    @model_validator(mode="after")
    def _energy_range(self) -> Self:
        low, high = self.energy_min_ev, self.energy_max_ev
        if low >= high:
            raise ValueError(
                f"expected energy_min_ev below energy_max_ev, got {low:g} and {high:g}"
            )
        return self
