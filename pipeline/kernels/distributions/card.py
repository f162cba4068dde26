"""What a size distribution says about itself."""

from collections.abc import Callable
from dataclasses import dataclass

SUPPORT = 7.5
"""Half-width of the support in standard deviations of a Gaussian: exp(-7.5^2/2) = 6e-13.

Below, the support ends where the number density has fallen to that; above, where D^6 times the
density has, because <F^2> grows as D^6 at small q. Cutting both at the density would leave 1e-9
of <F^2> outside at s/D = 0.3.
"""


@dataclass(frozen=True)
class DistributionCard:
    """One family of number-weighted distributions of sizes.

    ``fill(nodes_nm, steps_nm, mean_nm, sigma_nm, out) -> (first, stop)`` and
    ``moment(order, mean_nm, sigma_nm) -> (value, by_mean, by_sigma)`` are compiled; ``code`` is
    what compiled callers choose the family by.
    """

    name: str
    code: int
    density: str
    relative_sigma_bounds: tuple[float, float]
    source: str
    fill: Callable[..., tuple]
    moment: Callable[..., tuple]
