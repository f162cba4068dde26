"""Whether a model describes a curve: order in the signs and waves in the size of its residuals.

Chi-square per point cannot say it: it hangs on sigma, which real data state some per cent to some
hundred per cent wrong, and it weighs a misfit of many neighbours no more than one of a few. Here
sigma matters only up to a factor.

Three tests of residuals that are independent and without order if the model is true:

- The longest run of equal signs (the correlation map of Franke, Jeffries and Svergun, Nat. Methods
  2015, 12, 419), by the exact distribution of Schilling, Coll. Math. J. 1990, 21, 196: heads or
  tails of n tosses run >= L as heads of n - 1 tosses run >= L - 1.
- The number of runs (Wald and Wolfowitz, Ann. Math. Stat. 1940, 11, 147), exact, too few only.
- Smooth: the residuals' power in their slowest cosines over that in all faster ones, an F test
  (Neyman's smooth test with the noise from the residuals themselves) of 8, 16, 32 and 64 degrees
  of freedom. The fit has used up as many as it has parameters, nearly all among the slow ones: for
  d degrees of freedom so many more cosines are taken.

Neighbouring bins of a curve share pixels, so residuals of a true model are correlated: 0.145 with
the next bin, under 0.005 beyond (1024 x 1024 pixels in 500 bins). Tests are therefore made on
every ``stride``-th residual, which are independent, and once for each of the ``stride`` first
points, among which the fit's parameters are shared. P-values of one test from all of these, and in
the end of all tests, are combined by Cauchy's distribution (Liu and Xie, J. Am. Stat. Assoc. 2020,
115, 393), whose small p-values hold whatever the dependence. With every residual at once, 7 % of
frames of a true model would be alarms at a probability of 1e-3, and all at twice as many bins.

False alarms of the whole, 2000 fitted curves of a true model: 7.1, 3.2, 0.6 and 0.05 % at 10, 5, 1
and 0.1 %. On the safe side, since a fit turns signs around more often than chance and runs are
whole numbers.

The size of the misfit is the slow cosines' power less that of noise, over that of the signal: the
relative error of the signal, the same at all points, that would be as far beyond the noise. It does
not grow with the counts, as all the tests do, and weighs points as the fit does.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

DEGREES = (8, 16, 32, 64)
"""Of the smooth test. Form factors of spheres of D nm have q D / pi lobes, 14 at 8 nm up to
5.4 nm^-1, and misfits up to twice as many."""
FEWEST_FAST = 2
"""Faster cosines over degrees of freedom, at least: the noise must be known better than the waves.
"""
TOLERATED_MISFIT = 0.0175
"""Spheres of palladium (144 frames of two experiments) are described within 0.3 to 1.5 %, one of
them 1.8. Beyond lie 74 of 77 frames with a superlattice, hard spheres of 5 % by volume (7.5 %),
a ligand shell of 1.2 nm (3 %), cubes of 6 nm and 10 % width (2.2 %, or 5.3 % without agglomerates
that help to hide it; wider cubes of that size can pass)."""
DESCRIBES_PROBABILITY = 1e-3
"""Below it, order in the residuals is none by chance: one false alarm in 1000 frames at most."""
LARGEST_CHI2 = 1.7
"""Reduced chi-square beyond which a model does not describe a curve whose errors are known, however
its residuals are ordered: waves faster than the tests see look like noise. It lets errors pass
that are stated 30 % too small. None of 1200 simulated frames exceeds 1.6."""
LARGEST_P = 0.99
"""p-values of 1 (of discrete tests) would outweigh all others in the sum of Cauchy's."""


class ResidualVerdict(NamedTuple):
    """What the residuals of one curve say; see the module.

    Attributes
    ----------
    p_longest_run, p_runs, p_smooth
        Probability that residuals of a true model show this much order or more. NaN: too few.
    p_combined
        That of all three together.
    misfit_relative
        Relative misfit of the signal, noise subtracted; 0 = none beyond it, NaN = too few points.
    misfit_limit
        What it may be with the noise two standard deviations the other way.
    chi2_reduced
        Chi-square per degree of freedom.
    excess_relative
        Relative misfit of the signal that chi-square beyond its degrees of freedom stands for.
    """

    p_longest_run: float
    p_runs: float
    p_smooth: float
    p_combined: float
    misfit_relative: float
    misfit_limit: float
    chi2_reduced: float
    excess_relative: float


@njit(cache=True, nogil=True)
def longest_run_p(length, n):
    """P(the longest run of heads or tails in n fair tosses is ``length`` or longer)."""
    if length <= 1 or n < 1:
        return 1.0
    if length > n:
        return 0.0
    # Heads of m tosses run >= k: P(m) = P(m - 1) + (1 - P(m - k - 1)) / 2^(k + 1).
    m, k = n - 1, length - 1
    first = 0.5**k
    p = np.zeros(m + 1)
    p[k] = first
    for i in range(k + 1, m + 1):
        p[i] = p[i - 1] + 0.5 * first * (1.0 - p[i - k - 1])
    return p[m]


@njit(cache=True, nogil=True)
def _log_choose(n, k):
    return math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)


@njit(cache=True, nogil=True)
def few_runs_p(runs, positive, negative):
    """P(so few runs or fewer) of ``positive`` and ``negative`` signs in random order, exact.

    1 if there is only one sign: the test is conditional on their numbers.
    """
    if positive < 1 or negative < 1:
        return 1.0
    total = 0.0
    norm = _log_choose(positive + negative, positive)
    # Downwards from the observed number; below the mode terms fall, and soon count no more.
    mode = 1 + 2 * positive * negative // (positive + negative)
    for r in range(runs, 1, -1):
        k = r // 2
        if r % 2 == 0:
            if k > positive or k > negative:
                continue
            log_term = math.log(2.0) + _log_choose(positive - 1, k - 1)
            log_term += _log_choose(negative - 1, k - 1)
            term = math.exp(log_term - norm)
        else:
            term = 0.0
            if k < positive and k <= negative:
                log_term = _log_choose(positive - 1, k) + _log_choose(negative - 1, k - 1)
                term += math.exp(log_term - norm)
            if k < negative and k <= positive:
                log_term = _log_choose(positive - 1, k - 1) + _log_choose(negative - 1, k)
                term += math.exp(log_term - norm)
        total += term
        if r < mode and term < 1e-17 * total:
            break
    return min(total, 1.0)


@njit(cache=True, nogil=True)
def f_survival(ratio, degrees, below):
    """P(F > ratio) for an even number of ``degrees`` over ``below`` degrees of freedom.

    The incomplete beta function is a finite sum there (Abramowitz and Stegun 26.6.4).
    """
    y = below / (below + degrees * ratio)
    term = 1.0
    total = 1.0
    for j in range(1, degrees // 2):
        term *= (0.5 * below + j - 1.0) / j * (1.0 - y)
        total += term
    return min(total * y ** (0.5 * below), 1.0)


@njit(cache=True, nogil=True)
def _cauchy(p):
    """Cauchy variate of a p-value, by its limit for small ones."""
    if p < 1e-8:
        return 1.0 / (math.pi * max(p, 1e-300))
    return math.tan((0.5 - min(p, LARGEST_P)) * math.pi)


@njit(cache=True, nogil=True)
def _from_cauchy(total, count):
    if count == 0:
        return math.nan
    mean = total / count
    if mean > 1e7:
        return 1.0 / (math.pi * mean)
    return 0.5 - math.atan(mean) / math.pi


@njit(cache=True, nogil=True)
def _sign_tests(residual, first, stride):
    """p-values of the longest run and of the number of runs."""
    positive = negative = runs = run = longest = 0
    before = False
    for i in range(first, residual.size, stride):
        sign = residual[i] > 0.0
        if runs > 0 and sign == before:
            run += 1
        else:
            runs += 1
            run = 1
        before = sign
        longest = max(longest, run)
        positive += sign
        negative += not sign
    n = positive + negative
    return longest_run_p(longest, n), few_runs_p(runs, positive, negative)


@njit(cache=True, nogil=True)
def _cosine_power(residual, first, stride, power):
    """Squared components along the slowest orthonormal cosines (DCT-II); returns sum r^2 and n."""
    n = (residual.size - first + stride - 1) // stride
    # cos(pi k (m + 1/2)/n) by its recurrence in m; error below 1e-12 for n < 10^4. All k side by
    # side, because one alone waits for its own last step: 29 us a curve of 500 points, not 100.
    orders = min(power.size, n)
    now, last = np.empty(orders), np.empty(orders)
    twice, component = np.empty(orders), np.zeros(orders)
    for k in range(orders):
        now[k] = last[k] = math.cos(0.5 * math.pi * k / n)
        twice[k] = 2.0 * math.cos(math.pi * k / n)
    total = 0.0
    for m in range(n):
        value = residual[first + m * stride]
        total += value**2
        for k in range(orders):
            component[k] += value * now[k]
            following = twice[k] * now[k] - last[k]
            last[k] = now[k]
            now[k] = following
    power[:] = 0.0
    for k in range(orders):
        power[k] = component[k] ** 2 * (1.0 if k == 0 else 2.0) / n
    return total, n


@njit(cache=True, nogil=True)
def residual_verdict(residual, signal_over_sigma, parameters, stride):
    """Tests and size of a misfit.

    Parameters
    ----------
    residual
        (n,) of (data - model)/sigma in the order of q, points not used left out.
    signal_over_sigma
        (n,) of what the misfit is relative to (the model, or it less its background) over sigma.
    parameters
        How many the fit has had.
    stride
        1 if residuals of a true model are independent, 2 if neighbours share pixels, 3 if pixels
        are larger than bins.

    Returns
    -------
    ResidualVerdict
    """
    chi2 = signal = 0.0
    for i in range(residual.size):
        chi2 += residual[i] ** 2
        signal += signal_over_sigma[i] ** 2
    run_sum = runs_sum = smooth_sum = 0.0
    smooth_count = 0
    excess = noise = 0.0
    # One fit has been made to all sets together.
    used = parameters // max(stride, 1)
    power = np.empty(DEGREES[-1] + used)
    for first in range(min(stride, residual.size)):
        longest_p, runs_p = _sign_tests(residual, first, stride)
        run_sum += _cauchy(longest_p)
        runs_sum += _cauchy(runs_p)
        total, n = _cosine_power(residual, first, stride, power)
        beyond, scatter = math.nan, math.nan
        slow, k = 0.0, 0
        for degrees in DEGREES:
            while k < min(degrees + used, n):
                slow += power[k]
                k += 1
            fast = n - degrees - used
            if fast < FEWEST_FAST * degrees or not total - slow > 1e-12 * total:
                break
            variance = (total - slow) / fast
            smooth_sum += _cauchy(f_survival(slow / degrees / variance, degrees, fast))
            smooth_count += 1
            beyond = slow - degrees * variance
            own = 2.0 * degrees * (1.0 + degrees / fast) * variance
            scatter = math.sqrt(variance * (own + 4.0 * max(beyond, 0.0)))
        excess += beyond
        # Waves in neighbouring points' noise are no better than those in one set of them.
        noise += scatter
    sets = min(stride, residual.size)
    relative = limit = math.nan
    if signal > 0.0 and math.isfinite(excess):
        relative = math.sqrt(max(excess, 0.0) / signal)
        limit = math.sqrt((max(excess, 0.0) + 2.0 * noise) / signal)
    freedom = max(residual.size - parameters, 1)
    p_run, p_runs = _from_cauchy(run_sum, sets), _from_cauchy(runs_sum, sets)
    p_smooth = _from_cauchy(smooth_sum, smooth_count)
    together, count = 0.0, 0
    for p in (p_run, p_runs, p_smooth):
        if math.isfinite(p):
            together += _cauchy(p)
            count += 1
    return ResidualVerdict(
        p_run,
        p_runs,
        p_smooth,
        _from_cauchy(together, count),
        relative,
        limit,
        chi2 / freedom,
        math.sqrt(max(chi2 - freedom, 0.0) / signal) if signal > 0.0 else math.nan,
    )


@njit(cache=True, nogil=True)
def describes(
    verdict,
    probability=DESCRIBES_PROBABILITY,
    tolerated_misfit=TOLERATED_MISFIT,
    sigma_known=False,
):
    """Whether a model describes its curve: no misfit beyond chance, or one that is tolerated.

    Parameters
    ----------
    verdict
        A `ResidualVerdict`.
    probability
        Of calling a true model wrong.
    tolerated_misfit
        Relative, of the signal.
    sigma_known
        Whether errors are not from the curve's own scatter, so that chi-square means something.
    """
    if verdict.p_combined < probability and not verdict.misfit_relative <= tolerated_misfit:
        return False
    large = verdict.chi2_reduced > LARGEST_CHI2 and verdict.excess_relative > tolerated_misfit
    return not (sigma_known and large)
