"""From the crystals' absorbance to volume fraction, particles and formula units."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.config.exciton import IntrinsicAbsorption
from pipeline.kernels.absorption import particle_volume_nm3, particles_um, volume_fraction
from pipeline.sizing_curve import Size


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, its error by noise and the error that is the same in all spectra."""

    value: float = math.nan
    err: float = math.nan
    systematic: float = math.nan

    def scaled(self, factor: float) -> Quantity:
        return Quantity(self.value * factor, self.err * factor, self.systematic * factor)


@dataclass(frozen=True, slots=True)
class Amount:
    """Of crystals."""

    volume_fraction: Quantity = Quantity()
    concentration_um: Quantity = Quantity()
    formula_units_mm: Quantity = Quantity()


class AmountOfCrystals:
    """Beer and Lambert with the config's coefficient; see `pipeline.kernels.absorption`.

    Parameters
    ----------
    absorption
        The coefficient; None = no amounts.
    formula_volume_nm3
        Of one formula unit; None = no formula units.
    """

    def __init__(
        self, absorption: IntrinsicAbsorption | None, formula_volume_nm3: float | None
    ) -> None:
        self._absorption = absorption
        self._formula_volume_nm3 = formula_volume_nm3

    @property
    def energy_ev(self) -> float:
        """Where the absorbance is wanted; NaN = nowhere."""
        return math.nan if self._absorption is None else self._absorption.energy_ev

    def of(self, absorbance: float, variance: float, size: Size) -> Amount:
        """Amounts of a decadic absorbance; particles are NaN without a size."""
        absorption = self._absorption
        if absorption is None or not math.isfinite(absorbance):
            return Amount()
        per_absorbance = volume_fraction(1.0, absorption.coefficient_per_cm, absorption.path_cm)
        relative = absorption.relative_uncertainty
        fraction = Quantity(
            absorbance * per_absorbance,
            math.sqrt(variance) * per_absorbance,
            abs(absorbance) * per_absorbance * relative,
        )
        formula = Quantity()
        if self._formula_volume_nm3 is not None:
            formula = fraction.scaled(1e-3 * particles_um(1.0, self._formula_volume_nm3))
        volume = particle_volume_nm3(size.diameter_nm, absorption.shape)
        number = fraction.value * particles_um(1.0, volume)
        particles = Quantity(
            number,
            # Relative errors add in quadrature, the size's three times over: a volume is a cube.
            math.hypot(
                fraction.err * particles_um(1.0, volume),
                3.0 * number * size.err_nm / size.diameter_nm,
            ),
            abs(number) * math.hypot(relative, 3.0 * size.systematic_nm / size.diameter_nm),
        )
        return Amount(fraction, particles, formula)
