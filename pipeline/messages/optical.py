"""What a spectrum says of the particles."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.messages.results import RowResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Exciton(RowResult):
    """First exciton of one spectrum, and the size and amount that follow from it.

    ``..._err`` is a standard error by the noise of this spectrum; ``..._systematic`` one that is
    the same in all spectra (of the model, the sizing curve, the absorption coefficient), NaN where
    one of its parts is not stated in the config. Absent numbers are NaN.

    Attributes
    ----------
    exciton_ev, fwhm_mev
        Energy and full width at half maximum of the first exciton. Their systematic errors are
        those of the continuum's model, measured on simulated syntheses of another one.
    amplitude
        Its optical density: absorbance at the peak, continuum and scattering apart.
    transition_2_ev, transition_3_ev
        Energies of the next two transitions, in the order in which they resolve.
    diameter_nm
        By the sizing curve ``size_curve``, NaN outside its range.
    size_flag
        Empty, or why there is no diameter, e.g. ``outside 2.362 to 3.4 eV``.
    agglomerate_band
        Height of the agglomerates' band, absorbance.
    agglomerate_share
        Of the absorbance at the band's energy, scattering apart, how much is the band's: 0 to 1,
        beyond by noise. A share of absorbance, not of matter.
    crystal_absorbance
        Decadic absorbance of the crystals at the energy of the absorption coefficient: scattering
        and band apart.
    volume_fraction
        Of the crystals in the sample.
    concentration_um
        Crystals of this diameter that the volume fraction makes, micromolar. With a spread of
        sizes this is less than their number by the mean cube over the cube of the mean.
    formula_units_mm
        Formula units in crystals, millimolar; needs no size.
    reduced_chi2
        Of the fit of the first exciton; NaN if sigma was estimated.
    sigma_estimated
        The spectrum came without errors: they are from its own scatter.
    """

    NODE = "absorbance/exciton"

    exciton_ev: float
    exciton_ev_err: float
    exciton_ev_systematic: float
    fwhm_mev: float
    fwhm_mev_err: float
    fwhm_mev_systematic: float
    amplitude: float
    amplitude_err: float
    transition_2_ev: float
    transition_2_ev_err: float
    transition_3_ev: float
    transition_3_ev_err: float
    diameter_nm: float
    diameter_nm_err: float
    diameter_nm_systematic: float
    size_curve: str
    size_flag: str
    agglomerate_band: float
    agglomerate_band_err: float
    agglomerate_share: float
    agglomerate_share_err: float
    crystal_absorbance: float
    crystal_absorbance_err: float
    volume_fraction: float
    volume_fraction_err: float
    volume_fraction_systematic: float
    concentration_um: float
    concentration_um_err: float
    concentration_um_systematic: float
    formula_units_mm: float
    formula_units_mm_err: float
    formula_units_mm_systematic: float
    reduced_chi2: float
    sigma_estimated: bool
