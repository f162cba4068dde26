"""What a shape says about itself: the fields of a model's card."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

Averages = Callable[
    [np.ndarray, np.ndarray, Mapping[str, float]],
    tuple[np.ndarray, np.ndarray],
]
NONE_GIVEN: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Parameter:
    """A number that a shape has beside its size."""

    name: str
    unit: str
    default: float
    bounds: tuple[float, float]
    meaning: str


@dataclass(frozen=True)
class ShapeCard:
    """One shape of particles.

    ``averages(q_per_nm, size_nm, parameters)`` is what ``amplitudes`` calls, and
    ``unit_volume(parameters)`` the volume at a size of 1 nm; both get all parameters.
    """

    name: str
    size: str
    source: str
    averages: Averages = field(repr=False)
    unit_volume: Callable[[Mapping[str, float]], float] = field(repr=False)
    parameters: tuple[Parameter, ...] = ()

    def amplitudes(
        self,
        q_per_nm: np.ndarray,
        size_nm: np.ndarray,
        parameters: Mapping[str, float] = NONE_GIVEN,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Averages over orientations of the amplitude F, volume in it, contrast divided out.

        Parameters
        ----------
        q_per_nm
            Scattering vectors (n,), positive.
        size_nm
            Sizes (k,), positive; what is meant is told by ``size``.
        parameters
            What differs from the defaults of the card.

        Returns
        -------
        squared, mean
            <F^2> in nm^6 and <F> in nm^3, both (k, n).
        """
        return self.averages(q_per_nm, size_nm, self.complete(parameters))

    def volume_nm3(
        self, size_nm: np.ndarray, parameters: Mapping[str, float] = NONE_GIVEN
    ) -> np.ndarray:
        """Volume (k,) of what crystallised, which the yield counts: of a core, not its shell."""
        return self.unit_volume(self.complete(parameters)) * size_nm**3

    def complete(self, parameters: Mapping[str, float]) -> dict[str, float]:
        """All parameters, defaults where none is given.

        Raises
        ------
        ValueError
            At a name that the shape has not, or a value out of its bounds.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name, value in parameters.items():
            if name not in known:
                has = ", ".join(known) or "none"
                raise ValueError(f"{self.name} has no parameter {name!r}; it has: {has}")
            lowest, highest = known[name].bounds
            if not lowest <= value <= highest:
                raise ValueError(
                    f"{self.name}: {name} from {lowest} to {highest} {known[name].unit} "
                    f"expected, got {value}"
                )
        return {name: parameter.default for name, parameter in known.items()} | dict(parameters)
