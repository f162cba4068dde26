"""How frames become curves and spectra."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Section

Interval = tuple[float, float]
Size = Annotated[float, Field(ge=0)]


class Sensor(Section):
    """The layer of the detector that stops the photons."""

    material: str = "Si"
    """Chemical formula, e.g. ``Si``, ``CdTe``, ``GaAs``."""
    density_g_per_cm3: float | None = Field(default=None, gt=0)
    """Of the material; from a table if absent."""
    thickness_um: float = Field(gt=0)
    """Of the layer."""
    efficiency: bool = True
    """Divide by the share of photons that the layer stops, which grows with the angle of incidence
    (relative to normal incidence)."""
    parallax: bool = False
    """Take each pixel where its photons come from, not where they are stopped: photons that come in
    at a slant are stopped in a pixel farther out. Not together with a PONI file that says so."""


class Air(Section):
    """Gas between sample and detector: a longer way to the rim of the detector absorbs more."""

    attenuation_per_m: float = Field(gt=0)
    """Linear attenuation coefficient; dry air at 12 keV: 0.36."""
    path_m: float | None = Field(default=None, gt=0)
    """Length of the gas on the way to the point of normal incidence; the whole distance if
    absent."""


class Cake(Section):
    """Two-dimensional map of intensity over q and azimuth, the cake."""

    q_bins: int = Field(default=500, ge=2, le=5000)
    """Along q, over the same range and with the same spacing as the curve."""
    azimuth_bins: int = Field(default=360, ge=2, le=3600)
    """Around the beam, from -180 to 180 degrees."""
    every: int = Field(default=10, ge=1)
    """One frame in so many is mapped; 1 = all."""


class DeadTime(Section):
    """Photons that come while a pixel still counts the one before."""

    dead_time_ns: float = Field(gt=0)
    """Of one pixel."""
    paralyzable: bool = False
    """Whether a photon that is not counted makes the pixel busy anew."""


class AreaReduction(Section):
    """Azimuthal integration and normalisation of an area detector's frames."""

    poni_file: str | None = None
    """PONI file, or a NeXus file (.h5, .hdf, .hdf5, .nxs), or Nika (.dat) or Fit2D (.fit2d)
    parameters. Without it, the geometry that comes with the stream is used."""
    mask_file: str | None = None
    """Extra static mask (.npy, .h5, or what fabio reads), non-zero = unusable; added to the
    detector's own."""
    sectors_deg: tuple[Interval, ...] = ()
    """Azimuths that are used, each from, to, in degrees; 0 is along the rows' direction (axis 2),
    90 along the columns' (axis 1). An interval may pass 180: [170, 190]. Absent = all."""
    bins: int = Field(default=500, ge=10, le=20000)
    """Number of bins."""
    bin_axis: Literal["q", "two_theta"] = "q"
    """What the bins are even in."""
    bin_spacing: Literal["linear", "logarithmic"] = "linear"
    """Whether bins have the same width, or the same ratio of their edges."""
    q_min_per_nm: float | None = Field(default=None, ge=0)
    """Lower edge of the first bin; from the geometry if absent."""
    q_max_per_nm: float | None = Field(default=None, gt=0)
    """Upper edge of the last bin; from the geometry if absent."""
    cake: Cake | None = None
    """Absent = no map over azimuth."""

    solid_angle: bool = True
    """Divide by the relative solid angle of each pixel."""
    polarization_factor: float | None = Field(default=0.99, ge=-1, le=1)
    """Of the beam, +1 = horizontal; absent = no correction."""
    dark_file: str | None = None
    """Counts of a frame without beam, in the frames' exposure; subtracted."""
    flat_file: str | None = None
    """Relative sensitivity of each pixel; divided by. 0 or not finite = unusable."""
    dead_time: DeadTime | None = None
    """Absent = counts are taken as they are."""
    sensor: Sensor | None = None
    """Absent = a pixel stops all photons at its face."""
    air: Air | None = None
    """Absent = vacuum."""
    slab_transmission: float | None = Field(default=None, gt=0, lt=1)
    """Transmission of a flat sample that stands across the beam: photons that are scattered have a
    longer way out of it. Absent = not corrected (a capillary, or hardly absorbing)."""
    wavelength_spread: float = Field(default=2e-4, ge=0, lt=1)
    """Standard deviation of the wavelength over the wavelength, for the resolution of q; of a
    Si(111) monochromator if absent."""
    beam_size_um: tuple[Size, Size] = (0.0, 0.0)
    """Standard deviations of the beam's profile on the detector (sample's size and divergence
    together), along the rows' direction (axis 2) and the columns' (axis 1), for the resolution of
    q."""

    error_model: Literal["poisson", "azimuthal", "hybrid"] = "poisson"
    """Where sigma comes from: counting statistics, the scatter of the pixels along the ring, or
    hybrid: the scatter decides what is rejected, counting statistics give sigma."""
    rejection: Literal["none", "sigma_clip", "median"] = "none"
    """What is done against zingers and Bragg spots: nothing, pixels far from their ring's mean are
    left out, or the middle of the ring's pixels counts. How many are left out is not stored."""
    clip_sigma: float = Field(default=5.0, ge=2, le=20)
    """How many standard deviations are far, for sigma_clip."""
    clip_rounds: int = Field(default=5, ge=1, le=20)
    """How often it is repeated at most."""
    median_quantiles: Interval = (0.4, 0.6)
    """Part of the ring's pixels, by rank, that is averaged, for median."""
    saturation_counts: int | None = Field(default=None, gt=0)
    """Pixels at or above are masked in that frame; the stream's own value if absent."""

    monitor_min: float = Field(default=0.01, gt=0)
    """Frames whose monitor (1 = nominal flux) is below are rejected: no beam."""
    absolute_scale: float | None = Field(default=None, gt=0)
    """Factor to 1/cm: 1 / (nominal flux in photons/s x solid angle in sr of the pixel at the point
    of normal incidence). I = factor * counts / (relative solid angle * polarisation * monitor *
    transmission * exposure_s * thickness_cm). ``nucleate calibrate absolute`` finds it, to 2.6 % at
    best with glassy carbon. The stream's own value if absent; if neither gives one, the scale is
    arbitrary."""
    thickness_cm: float | None = Field(default=None, gt=0)
    """Path through the sample; the stream's own value if absent. If neither gives one, the scale
    is arbitrary."""
    background_file: str | None = None
    """Curve to be subtracted, in the units of the reduced curve: text of q, I and sigma (q in 1/nm,
    unless the header of ``nucleate export`` says 1/A), or NXcanSAS with one entry. Outside of its
    range of q the curve is NaN."""
    background_scale: float = Field(default=1.0, gt=0)
    """Factor of the background, e.g. the solvent's volume fraction."""
    background_transmission: Interval | None = None
    """Transmission that the background's curve is yet to be divided by, and its standard error
    (common to all bins, but counted in sigma of each); absent = that was done before."""

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        needs = {
            "clip_sigma": self.rejection == "sigma_clip",
            "clip_rounds": self.rejection == "sigma_clip",
            "median_quantiles": self.rejection == "median",
            "background_scale": self.background_file is not None,
            "background_transmission": self.background_file is not None,
        }
        missing = {"clip": "rejection: sigma_clip", "median": "rejection: median"}
        for name, has_effect in needs.items():
            default = type(self).model_fields[name].default
            if getattr(self, name) != default and not has_effect:
                what = missing.get(name.partition("_")[0], "background_file")
                raise ValueError(f"{name} has no effect without {what}")
        return self

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.q_min_per_nm, self.q_max_per_nm
        if low is not None and high is not None and low >= high:
            raise ValueError(f"expected q_min_per_nm below q_max_per_nm, got {low:g} and {high:g}")
        low, high = self.median_quantiles
        if not 0 <= low < high <= 1:
            raise ValueError(f"expected median_quantiles rising in 0 to 1, got {low:g}, {high:g}")
        for start, stop in self.sectors_deg:
            if not (start < stop <= start + 360 and abs(start) <= 360):
                raise ValueError(
                    "expected sectors_deg as rising pairs with at most 360 between, e.g. "
                    f"[[170, 190]], got [{start:g}, {stop:g}]"
                )
        if self.background_transmission is not None:
            value, error = self.background_transmission
            if not (0 < value <= 1 and error >= 0):
                raise ValueError(
                    "expected background_transmission in 0 to 1 and an error from 0, got "
                    f"{value:g}, {error:g}"
                )
        return self


class AbsorbanceReduction(Section):
    """Counts to absorbance."""

    energy_min_ev: float = Field(default=1.8, gt=0)
    """Pixels below are not stored."""
    energy_max_ev: float = Field(default=4.5, gt=0)
    """Pixels above are not stored."""
    energy_step_ev: float | None = Field(default=None, gt=0)
    """Spacing of an even grid of energies that spectra are averaged onto, not below the widest
    pixel's width; absent = the pixels' own energies. A twelfth of the narrowest fwhm or less leaves
    the fit of the exciton as it is."""
    wavelengths_in_air: bool = False
    """Whether wavelengths are those in air, as most spectrometers are calibrated with lamp lines.
    Taken as in vacuum otherwise, energies come out 0.03 % too high: 0.7 meV at 2.5 eV."""
    reference_frames: int = Field(default=1, ge=1)
    """How many spectra the reference (and the dark) is the mean of, for its error; the stream's
    own ``reference_frames`` counts before this."""
    saturation_counts: float | None = Field(default=None, gt=0)
    """Pixels at or above are unusable in that spectrum; the stream's own value if absent."""
    saturation_spread_pixels: int = Field(default=0, ge=0, le=200)
    """So many pixels on either side of a saturated one are unusable too: charge spills over."""
    read_noise_counts: float = Field(default=5.0, ge=0)
    """Of one pixel in one spectrum, for the error."""
    counts_per_electron: float = Field(default=1.0, gt=0)
    """Gain of the spectrometer, for the error."""
    covered_pixels: tuple[tuple[int, int], ...] = ()
    """Pixels without light, each range first, last, from 0 in the stream's order: their mean above
    the dark is how far the dark has drifted, and is taken out of each spectrum. Absent = the dark
    does not drift."""
    transparent_ev: Interval | None = None
    """Energies where the sample does not absorb: absorbance is zero there on average, whatever the
    lamp does. What scatters or drifts evenly goes with it. Absent = the lamp does not drift."""
    nonlinearity_coefficients: tuple[float, ...] = ()
    """Of the polynomial, lowest power first, that counts above dark are divided by, as vendors give
    it. Absent = the detector is linear."""
    stray_light_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Stray light on each pixel over the mean light of all pixels; 0 = none."""
    stray_light_fraction_err: float = Field(default=0.0, ge=0, lt=1)
    """Standard error of that, for the error; the same for all spectra."""
    low_light_sigma: float = Field(default=0.0, ge=0, le=100)
    """Pixels with less light than so many standard errors are unusable; 0 = all that have light
    count."""
    max_absorbance: float | None = Field(default=None, gt=0)
    """Pixels that absorb more are unusable; absent = no limit."""

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        low, high = self.energy_min_ev, self.energy_max_ev
        if low >= high:
            raise ValueError(
                f"expected energy_min_ev below energy_max_ev, got {low:g} and {high:g}"
            )
        if self.transparent_ev is not None:
            low, high = self.transparent_ev
            if not 0 < low < high:
                raise ValueError(
                    f"expected transparent_ev as from, to in eV, rising, got {low:g}, {high:g}"
                )
        for first, last in self.covered_pixels:
            if not 0 <= first <= last:
                raise ValueError(
                    f"expected covered_pixels as first, last from 0, got {first}, {last}"
                )
        return self
