"""Schulz (gamma) sizes.

Density
-------
p(D) = D^(z-1) exp(-D/b)/(b^z Gamma(z)), per nm, z = (m/s)^2, b = s^2/m. Written with
y = ln(D/m)::

    ln p = z (1 + y - e^y) - ln D + ln(z/(2 pi))/2 - S(z)

where S(z) = ln Gamma(z) - (z - 1/2) ln z + z - ln(2 pi)/2 is Stirling's remainder: the plain
form subtracts numbers of order z ln z, which is 1e6 at s/m = 0.003.

========== ====== ============== =======================================
parameter  unit   bounds         meaning
========== ====== ============== =======================================
mean       nm     > 0            m, number mean of D
sigma      nm     0.002 to 1 m   s, its standard deviation
========== ====== ============== =======================================

Moments: <D^n> = m^n product over j < n of (1 + j s^2/m^2). Characteristic function
E[exp(i k D)] = (1 - i k b)^(-z), which makes averages over spheres closed.
Source: Schulz, Z. Phys. Chem. B 1939, 43, 25; Kotlarchyk and Chen, J. Chem. Phys. 1983, 79, 2461.
(Their Z is z - 1.)

Reference values: m = 8 nm, s = 2 nm: p(8) = 0.198435063244311, p(12) = 0.0291495224722222 1/nm,
<D^3> = 612 nm^3.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.distributions.card import SUPPORT, DistributionCard
from pipeline.kernels.distributions.codes import SCHULZ

STIRLING_FROM = 10.0
"""The series of Stirling's remainder is used from here, the recurrence z -> z + 1 below.

Its first term left out, 691/360360 z^-11, is 2e-14 at 10; of the derivative's, z^-12/12, 8e-14.
"""


@njit(cache=True, nogil=True)
def stirling_remainder(z):
    """S(z) and dS/dz."""
    value = slope = 0.0
    while z < STIRLING_FROM:
        # S(z) - S(z + 1) = (z + 1/2) ln(1 + 1/z) - 1
        step = math.log1p(1.0 / z)
        value += (z + 0.5) * step - 1.0
        slope += step - (z + 0.5) / (z * (z + 1.0))
        z += 1.0
    r = 1.0 / z
    r2 = r * r
    value += r * (1 / 12 - r2 * (1 / 360 - r2 * (1 / 1260 - r2 * (1 / 1680 - r2 / 1188))))
    slope -= r2 * (1 / 12 - r2 * (1 / 120 - r2 * (1 / 252 - r2 * (1 / 240 - r2 / 132))))
    return value, slope


@njit(cache=True, nogil=True)
def fill(nodes_nm, steps_nm, mean_nm, sigma_nm, out):
    """Weights of sizes and their derivatives; see ``pipeline.kernels.distributions``."""
    z = (mean_nm / sigma_nm) ** 2
    # e^y - 1 - y, which z multiplies, is at least c at y = -(sqrt(2 c) + c), and at least y^2/2
    # at y > 0. D^6 p(D) is again Schulz, with z + 6 and the same b.
    c = 0.5 * SUPPORT * SUPPORT / z
    first = np.searchsorted(nodes_nm, mean_nm * math.exp(-math.sqrt(2.0 * c) - c))
    sixth = 1.0 + 6.0 / z
    last = mean_nm * sixth * math.exp(SUPPORT / math.sqrt(z + 6.0))
    stop = np.searchsorted(nodes_nm, last)
    out[:] = 0.0
    remainder, remainder_slope = stirling_remainder(z)
    height = math.sqrt(0.5 * z / math.pi) * math.exp(-remainder)
    z_by_mean, z_by_sigma = 2.0 * z / mean_nm, -2.0 * z / sigma_nm
    for k in range(first, stop):
        relative = nodes_nm[k] / mean_nm - 1.0
        deficit = math.log1p(relative) - relative
        weight = height * math.exp(z * deficit) / nodes_nm[k] * steps_nm[k]
        by_z = deficit + 0.5 / z - remainder_slope
        out[0, k] = weight
        out[1, k] = weight * (z * relative / mean_nm + by_z * z_by_mean)
        out[2, k] = weight * by_z * z_by_sigma
    return first, stop


@njit(cache=True, nogil=True)
def moment(order, mean_nm, sigma_nm):
    """<D^order> in nm^order and its derivatives by mean and sigma."""
    ratio = sigma_nm / mean_nm
    value, slope = mean_nm**order, 0.0
    for j in range(1, order):
        factor = 1.0 + j * ratio * ratio
        value *= factor
        slope += 2.0 * j * ratio / factor
    return value, value * (order - ratio * slope) / mean_nm, value * slope / mean_nm


CARD = DistributionCard(
    name="schulz",
    code=SCHULZ,
    density="D^(z-1) exp(-D/b)/(b^z Gamma(z)), z = (m/s)^2, b = s^2/m",
    relative_sigma_bounds=(0.002, 1.0),
    source="Schulz, Z. Phys. Chem. B 1939, 43, 25",
    fill=fill,
    moment=moment,
)
