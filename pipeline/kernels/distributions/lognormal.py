"""Lognormal sizes.

Density
-------
p(D) = exp(-(ln D - l)^2/(2 w^2))/(D w sqrt(2 pi)), per nm, with w^2 = ln(1 + s^2/m^2) and
l = ln m - w^2/2, so that mean and standard deviation of D itself are m and s. (Median and w are
what sasmodels takes: median m/sqrt(1 + s^2/m^2), ``radius_pd`` w.)

========== ====== ============== =======================================
parameter  unit   bounds         meaning
========== ====== ============== =======================================
mean       nm     > 0            m, number mean of D
sigma      nm     0.002 to 1 m   s, its standard deviation
========== ====== ============== =======================================

Moments: <D^n> = m^n (1 + s^2/m^2)^(n (n - 1)/2).
Source: Kiss, Soderlund, Niklasson, Granqvist, Nanotechnology 1999, 10, 25.

Reference values: m = 8 nm, s = 2 nm: p(8) = 0.201003879784304, p(12) = 0.0281972847165245 1/nm,
<D^3> = 614.125 nm^3.
"""

import math

import numpy as np
from numba import njit

from pipeline.kernels.distributions.card import SUPPORT, DistributionCard
from pipeline.kernels.distributions.codes import LOGNORMAL


@njit(cache=True, nogil=True)
def fill(nodes_nm, steps_nm, mean_nm, sigma_nm, out):
    """Weights of sizes and their derivatives; see ``pipeline.kernels.distributions``."""
    ratio = sigma_nm / mean_nm
    square = math.log1p(ratio * ratio)
    width = math.sqrt(square)
    middle = math.log(mean_nm) - 0.5 * square
    # D^6 p(D) is again lognormal, moved by 6 w^2.
    first = np.searchsorted(nodes_nm, math.exp(middle - SUPPORT * width))
    stop = np.searchsorted(nodes_nm, math.exp(middle + 6.0 * square + SUPPORT * width))
    out[:] = 0.0
    slope = 2.0 * ratio / (mean_nm * (1.0 + ratio * ratio))
    square_by_mean, square_by_sigma = -ratio * slope, slope
    height = 1.0 / (width * math.sqrt(2.0 * math.pi))
    for k in range(first, stop):
        u = (math.log(nodes_nm[k]) - middle) / width
        weight = height * math.exp(-0.5 * u * u) / nodes_nm[k] * steps_nm[k]
        by_middle = u / width
        by_square = 0.5 * (u * u - 1.0) / square - 0.5 * by_middle
        out[0, k] = weight
        out[1, k] = weight * (by_middle / mean_nm + by_square * square_by_mean)
        out[2, k] = weight * by_square * square_by_sigma
    return first, stop


@njit(cache=True, nogil=True)
def moment(order, mean_nm, sigma_nm):
    """<D^order> in nm^order and its derivatives by mean and sigma."""
    ratio = sigma_nm / mean_nm
    power = 0.5 * order * (order - 1)
    value = mean_nm**order * (1.0 + ratio * ratio) ** power
    slope = 2.0 * power * ratio / (1.0 + ratio * ratio)
    return value, value * (order - ratio * slope) / mean_nm, value * slope / mean_nm


CARD = DistributionCard(
    name="lognormal",
    code=LOGNORMAL,
    density="exp(-(ln D - l)^2/(2 w^2))/(D w sqrt(2 pi)), w^2 = ln(1 + s^2/m^2), l = ln m - w^2/2",
    relative_sigma_bounds=(0.002, 1.0),
    source="Kiss, Soderlund, Niklasson, Granqvist, Nanotechnology 1999, 10, 25",
    fill=fill,
    moment=moment,
)
