"""Time of one frame to 500 x 360 cells of q and azimuth, beside pyFAI's on one thread.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.cake``. The methods take turns, frame by frame in
one process, and the thread's own time is counted, so that a busy machine slows all of them alike.
The table shows medians. How far cells are from pyFAI's is shown twice, as fractions of sigma: with
pixels split exactly, and with edges taken level as pyFAI does it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.integration import FRAMES, geometry_of
from benchmarks.pyfai_twin import pyfai_twin
from pipeline.config.reduce import AreaReduction, Cake
from pipeline.reduce.cake import CakeIntegrator

CAKE = Cake(q_bins=500, azimuth_bins=360)
# pyFAI ends the range a rounding step above what it is told.
TO_180_DEG = 180.0 / (1.0 + 2.0**-23)


def measure(name: str, rounds: int) -> None:
    """Print one row a method for one size of frame."""
    shape, dtype = FRAMES[name]
    random = np.random.default_rng(0)
    image = random.poisson(20.0, shape).astype(dtype)
    masked = random.random(shape) < 0.05
    geometry = geometry_of(shape)
    CakeIntegrator(geometry, shape, AreaReduction(), Cake(q_bins=2, azimuth_bins=2))
    begin = time.perf_counter()
    ours = CakeIntegrator(geometry, shape, AreaReduction(), CAKE, masked=masked)
    prepared_s = time.perf_counter() - begin
    level = CakeIntegrator(geometry, shape, AreaReduction(), CAKE, masked=masked, level=True)
    pyfai = pyfai_twin(geometry, shape)

    def of_pyfai(algorithm: str) -> Any:
        return pyfai.integrate2d(
            image,
            CAKE.q_bins,
            CAKE.azimuth_bins,
            unit="q_nm^-1",
            mask=masked.astype(np.int8),
            azimuth_range=(-180.0, TO_180_DEG),
            polarization_factor=0.99,
            error_model="poisson",
            method=("full", algorithm, "cython"),
        )

    methods: dict[str, Callable[[], Any]] = {
        "nucleate": lambda: ours(image),
        "pyFAI csr": lambda: of_pyfai("csr"),
        "pyFAI csc": lambda: of_pyfai("csc"),
    }
    theirs = {method: call() for method, call in methods.items()}["pyFAI csr"]
    times: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(rounds):
        for method, call in methods.items():
            begin = time.thread_time()
            call()
            times[method].append(time.thread_time() - begin)
    medians = {method: float(np.median(spent)) for method, spent in times.items()}
    print(f"{name}, {CAKE.q_bins} x {CAKE.azimuth_bins} cells, prepared in {prepared_s:.1f} s")
    for method, spent_s in medians.items():
        times_ours = spent_s / medians["nucleate"]
        print(f"  {method:10} {spent_s * 1e3:8.2f} ms {times_ours:6.1f}")
    for split, integrator in (("exact", ours), ("level", level)):
        intensity, sigma = integrator(image)
        apart = np.abs(intensity - theirs.intensity) / sigma
        shown = ", ".join(f"{np.nanpercentile(apart, p):.1e}" for p in (50, 99, 99.9))
        print(f"  {split}: from pyFAI by {shown} sigma in 50, 99 and 99.9 % of the cells")


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frame", choices=list(FRAMES), action="append")
    options = parser.parse_args(arguments)
    for name in options.frame or FRAMES:
        measure(name, options.rounds)


if __name__ == "__main__":
    main()
