"""How frames become curves and spectra."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Section


class SaxsReduction(Section):
    """Azimuthal integration and normalisation."""

    poni_file: str | None = None
    """PONI file (version 2). Without it, the geometry that comes with the stream is used."""
    mask_file: str | None = None
    """Extra static mask (.npy, .edf or .h5), non-zero = unusable; added to the detector's own."""
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
    absolute_scale: float | None = Field(default=None, gt=0)
    """Factor to 1/cm: 1 / (nominal flux in photons/s x solid angle in sr of the pixel at the point
    of normal incidence). I = factor * counts / (relative solid angle * polarisation * monitor *
    transmission * exposure_s * thickness_cm). The stream's own value if absent; if neither
    gives one, the scale is arbitrary."""
    thickness_cm: float = Field(default=0.1, gt=0)
    """Path through the sample."""
    background_file: str | None = None
    """Text file of q, I, sigma, in the units of the reduced curve, to be subtracted."""


class AbsorbanceReduction(Section):
    """Counts to absorbance."""

    energy_min_ev: float = Field(default=1.8, gt=0)
    """Pixels below are not stored."""
    energy_max_ev: float = Field(default=4.5, gt=0)
    """Pixels above are not stored."""
    wavelength_unit: Literal["nm"] = "nm"
    """Unit of the stream's wavelength axis."""
    reference_frames: int = Field(default=1, ge=1)
    """For a record without a reference: how many first spectra make it."""
    saturation_counts: float | None = Field(default=None, gt=0)
    """Pixels at or above are unusable in that spectrum."""
    read_noise_counts: float = Field(default=5.0, ge=0)
    """Of one pixel in one spectrum, for the error."""
    counts_per_electron: float = Field(default=1.0, gt=0)
    """Gain of the spectrometer, for the error."""
