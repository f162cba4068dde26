"""Nucleation and growth: a population balance, solved along its characteristics.

With P precursor, A agglomerates (both mM of Cs), w_i (uM) particles of diameter d_i (nm):

- dP/dt = -P / tau, which feeds A;
- nuclei J = k (A - A_c)^n, with diameters drawn from a cut normal distribution, take their mass
  from A;
- A releases monomer, k A / (A + K);
- size-selective loss: dw/dt = -h w, h = [h0 A / (A + K) + h1] exp(-g (d / mean d - 1)), and the
  lost mass is monomer again. Ripening by growth alone (Lifshitz, Slyozov, Wagner) cannot let the
  number fall threefold while the distribution narrows;
- growth dd/dt = B / d^p (u - 1/d), where u follows from the monomer supply R, since whatever is
  supplied is built in: u = [R / (kappa B) + sum w d^(1-p)] / sum w d^(2-p).

So Cs is conserved by construction; what is left is the integrator's error: 3e-5 to 600 s, below
1e-3 to the end.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from detectors.sample.recipes import FORMULA_VOLUME_NM3, UNIT_CELL_NM, Kinetics, MagicSteps

LAST_S = 3600.0
"""Syntheses are solved up to here."""

MM_PER_UM_NM3 = 1e-3 * math.pi / 6.0 / FORMULA_VOLUME_NM3
"""Cs in mM of 1 uM of spheres of 1 nm."""

NUCLEUS_NODES = 21
"""Sizes per cohort of nuclei, +-3.5 sigma: a third of sigma apart, like a continuum at q sigma < 9.
"""

COHORT_S = 0.1
"""Nuclei of so long form one cohort. They grow by 0.02 nm meanwhile, which is neglected."""

DISSOLVED_NM = 0.8
"""What shrinks below is monomer: little more than one unit cell."""

STEPS_S = ((0.5, 0.005), (16.0, 0.02), (60.0, 0.1), (600.0, 0.5), (LAST_S, 2.0))
"""Until when which step. Halving all of them moves no published number by 0.2 %."""


class Growth(NamedTuple):
    """What grew until one moment. Amounts in mM of Cs, particles in uM, diameters in nm."""

    precursor_mm: float
    pool_mm: float
    crystal_mm: float
    number_um: float
    diameter_nm: float
    sigma_nm: float


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """The solved population balance: columns of :class:`Growth` against time."""

    time_s: np.ndarray
    columns: np.ndarray
    """(6, n): in the order of :class:`Growth`."""

    def at(self, time_s: float) -> Growth:
        """Linear between the solver's steps; before the injection there is precursor only."""
        if time_s > LAST_S:
            raise ValueError(
                f"simulated synthesis: solved to {LAST_S:g} s, asked for {time_s:g} s; "
                "shorten the run"
            )
        return Growth(*(float(np.interp(time_s, self.time_s, c)) for c in self.columns))

    def time_of_most_particles(self) -> float:
        """When nucleation no longer outweighs loss."""
        return float(self.time_s[np.argmax(self.columns[3])])

    def time_of_least_sigma(self) -> float:
        """When focusing ends, after the most particles."""
        first = int(np.argmax(self.columns[3]))
        return float(self.time_s[first + np.argmin(self.columns[5][first:])])

    def time_of_empty_pool(self, share: float = 0.005) -> float:
        """When less than ``share`` of the injected Cs is still in the pool."""
        left = self.columns[0] + self.columns[1]
        return float(self.time_s[np.argmax(left < share * left[0])])


@functools.lru_cache(maxsize=8)
def solve(kinetics: Kinetics) -> Trajectory:
    """Integrate the population balance (midpoint rule); once per process and recipe."""
    return _Balance(kinetics).run()


class _Balance:
    """State of the integration."""

    def __init__(self, kinetics: Kinetics) -> None:
        self.k = kinetics
        reach = 3.5 * kinetics.nucleus_sigma_nm
        self.nuclei_nm = np.linspace(
            max(kinetics.nucleus_smallest_nm, kinetics.nucleus_diameter_nm - reach),
            kinetics.nucleus_diameter_nm + reach,
            NUCLEUS_NODES,
        )
        z = (self.nuclei_nm - kinetics.nucleus_diameter_nm) / kinetics.nucleus_sigma_nm
        share = np.exp(-0.5 * z**2)
        self.nuclei_share = share / share.sum()
        self.nucleus_mm_per_um = MM_PER_UM_NM3 * float(self.nuclei_share @ self.nuclei_nm**3)
        self.pool = 0.0
        self.newborn = 0.0
        self.diameter = np.zeros(0)
        self.number = np.zeros(0)

    def run(self) -> Trajectory:
        time, cohort = 0.0, 1
        times = [time]
        rows = [self._row(time)]
        for until, step in STEPS_S:
            first = time
            for n in range(1, round((until - first) / step) + 1):
                now = first + n * step
                self._advance(time, now - time)
                time = now
                if time >= cohort * COHORT_S - 1e-9:
                    cohort += 1
                    self._release_cohort()
                times.append(time)
                rows.append(self._row(time))
        columns = np.array(rows).T
        columns.flags.writeable = False
        return Trajectory(np.array(times), columns)

    def _advance(self, time: float, step: float) -> None:
        half = 0.5 * step
        pool, _, growth, loss = self._rates(time, self.pool, self.diameter, self.number)
        pool, born, growth, loss = self._rates(
            time + half,
            self.pool + half * pool,
            np.maximum(self.diameter + half * growth, 0.5 * DISSOLVED_NM),
            self.number + half * loss,
        )
        # The precursor's decay is known in closed form and faster than a step.
        fed = self._precursor(time) - self._precursor(time + step)
        self.pool = max(self.pool + step * pool + fed, 0.0)
        self.newborn += step * born
        self.diameter = self.diameter + step * growth
        self.number = self.number + step * loss
        gone = self.diameter < DISSOLVED_NM
        if gone.any():
            left = np.maximum(self.diameter[gone], 0.0) ** 3
            self.pool += MM_PER_UM_NM3 * float(self.number[gone] @ left)
            self.diameter, self.number = self.diameter[~gone], self.number[~gone]

    def _rates(
        self, time: float, pool: float, d: np.ndarray, w: np.ndarray
    ) -> tuple[float, float, np.ndarray, np.ndarray]:
        """Change per second of pool, newborn, diameters and numbers."""
        k = self.k
        born = 0.0
        if k.nucleation_begin_s <= time < k.nucleation_end_s:
            excess = max(pool - k.nucleation_threshold_mm, 0.0)
            born = k.nucleation_rate * excess**k.nucleation_order
        taken = born * self.nucleus_mm_per_um
        if d.size == 0:
            return -taken, born, d, w
        filled = max(pool, 0.0) / (max(pool, 0.0) + k.release_half_mm)
        relative = d * (w.sum() / (w @ d)) - 1.0
        loss = w * np.exp(-k.loss_selectivity * relative)
        loss *= k.loss_per_s * filled + k.loss_after_per_s
        released = k.release_mm_per_s * filled
        supply = released + MM_PER_UM_NM3 * float(loss @ (d * d * d))
        b = k.growth_nm2_per_s
        built = supply / (3.0 * MM_PER_UM_NM3 * b)
        # Powers spelt out: ``**`` on arrays costs ten times a product.
        if k.growth_exponent == 0:
            growth = b * ((built + w @ d) / (w @ (d * d)) - 1.0 / d)
        else:
            growth = (b / d) * ((built + w.sum()) / (w @ d) - 1.0 / d)
        return -released - taken, born, growth, -loss

    def _release_cohort(self) -> None:
        if self.newborn > 0.0:
            self.diameter = np.concatenate((self.diameter, self.nuclei_nm))
            self.number = np.concatenate((self.number, self.newborn * self.nuclei_share))
            self.newborn = 0.0

    def _precursor(self, time: float) -> float:
        return self.k.precursor_mm * math.exp(-time / self.k.precursor_life_s)

    def _row(self, time: float) -> Growth:
        d = np.concatenate((self.diameter, self.nuclei_nm))
        w = np.concatenate((self.number, self.newborn * self.nuclei_share))
        total = float(w.sum())
        # Before the first nucleus: the size that it will have.
        weight = w / total if total > 0 else np.concatenate((0 * self.number, self.nuclei_share))
        mean = float(weight @ d)
        return Growth(
            precursor_mm=self._precursor(time),
            pool_mm=self.pool,
            crystal_mm=MM_PER_UM_NM3 * float(w @ (d * d * d)),
            number_um=total,
            diameter_nm=mean,
            sigma_nm=math.sqrt(float(weight @ np.square(d - mean))),
        )


def magic_growth(steps: MagicSteps, time_s: float) -> tuple[Growth, np.ndarray, np.ndarray]:
    """Growth in whole unit cells: the moment's sum, and diameters (n,) with numbers in uM (n,).

    The share that has made jump k by time t is logistic in ln t. The mass in crystals follows the
    supply, so the number of crystals falls at every jump.
    """
    cells = steps.first_cells + np.arange(len(steps.jumps_s) + 1)
    diameters = UNIT_CELL_NM * cells
    time = max(time_s, 1e-3)
    phase = (math.log(time) - np.log(steps.jumps_s)) / steps.jump_width
    jumped = 1.0 / (1.0 + np.exp(-np.clip(phase, -60.0, 60.0)))
    share = np.concatenate(([1.0], jumped)) - np.concatenate((jumped, [0.0]))
    share = np.maximum(share, 0.0)
    share /= share.sum()
    burst = 1.0 - math.exp(-max(time_s, 0.0) / steps.burst_life_s)
    supplied = 1.0 - (1.0 - steps.first_share) * math.exp(-max(time_s, 0.0) / steps.supply_life_s)
    crystal = steps.precursor_mm * burst * supplied
    number = crystal / (MM_PER_UM_NM3 * float(share @ diameters**3))
    mean = float(share @ diameters)
    growth = Growth(
        precursor_mm=steps.precursor_mm * (1.0 - burst),
        pool_mm=steps.precursor_mm * burst * (1.0 - supplied),
        crystal_mm=crystal,
        number_um=number,
        diameter_nm=mean,
        sigma_nm=math.sqrt(max(float(share @ (diameters - mean) ** 2), 0.0)),
    )
    return growth, diameters, number * share
