"""Time of one azimuthal integration, beside pyFAI's on one thread.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.integration``. The methods take turns, frame by
frame in one process, so that a busy machine slows all of them alike; the table shows medians, and
how far I and sigma are from pyFAI's.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np

from pipeline.reduce.geometry import Geometry
from pipeline.reduce.integrator import Integrator

FRAMES = {
    "1024 x 1024 u16": ((1024, 1024), "<u2"),
    "2070 x 2167 u32": ((2167, 2070), "<u4"),
    "2880 x 2880 u16": ((2880, 2880), "<u2"),
}


def geometry_of(shape: tuple[int, int]) -> Geometry:
    """A tilted detector with the beam near its middle."""
    return Geometry(
        distance_m=1.9,
        poni1_m=0.48 * shape[0] * 75e-6,
        poni2_m=0.53 * shape[1] * 75e-6,
        wavelength_nm=0.033062,
        pixel1_m=75e-6,
        pixel2_m=75e-6,
        rot1_rad=0.02,
        rot2_rad=-0.01,
        rot3_rad=0.1,
        shape=shape,
    )


def measure(name: str, bins: int, rounds: int) -> None:
    """Print one row a method for one size of frame."""
    shape, dtype = FRAMES[name]
    random = np.random.default_rng(0)
    image = random.poisson(20.0, shape).astype(dtype)
    masked = random.random(shape) < 0.05
    geometry = geometry_of(shape)
    begin = time.perf_counter()
    ours = Integrator(geometry, shape, masked=masked, bins=bins, polarization_factor=0.99)
    prepared_s = time.perf_counter() - begin
    methods: dict[str, Callable[[], object]] = {"nucleate": lambda: ours(image)}
    prepared = {"nucleate": prepared_s}
    results = {}
    for algorithm in ("csr", "csc"):
        call = _pyfai(geometry, image, masked, bins, algorithm)
        begin = time.perf_counter()
        results[algorithm] = call()
        prepared[f"pyFAI full {algorithm}"] = time.perf_counter() - begin
        methods[f"pyFAI full {algorithm}"] = call
    methods["read once"] = image.max
    times: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(rounds):
        for method, call in methods.items():
            begin = time.perf_counter()
            call()
            times[method].append(time.perf_counter() - begin)
    intensity, sigma, _ = ours(image)
    expected = results["csr"]
    populated = expected.count > 1e-6
    apart = [
        np.nanmax(np.abs(a[populated] / b[populated] - 1.0))
        for a, b in ((intensity, expected.intensity), (sigma, expected.sigma))
    ]
    own = float(np.median(times["nucleate"]))
    for method, values in times.items():
        median = float(np.median(values))
        ready = f"{prepared[method]:8.2f}" if method in prepared else " " * 8
        print(f"{name:16} {method:15} {median * 1e3:8.2f} {median / own:7.1f} {ready}")
    print(f"{name:16} largest difference from pyFAI: I {apart[0]:.1e}, sigma {apart[1]:.1e}")


def _pyfai(
    geometry: Geometry, image: np.ndarray, masked: np.ndarray, bins: int, algorithm: str
) -> Callable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyFAI.detectors import Detector
        from pyFAI.integrator.azimuthal import AzimuthalIntegrator
    integrator = AzimuthalIntegrator(
        dist=geometry.distance_m,
        poni1=geometry.poni1_m,
        poni2=geometry.poni2_m,
        rot1=geometry.rot1_rad,
        rot2=geometry.rot2_rad,
        rot3=geometry.rot3_rad,
        detector=Detector(geometry.pixel1_m, geometry.pixel2_m, max_shape=image.shape),
        wavelength=geometry.wavelength_nm * 1e-9,
    )
    mask = masked.astype(np.int8)
    return lambda: integrator.integrate1d(
        image,
        bins,
        unit="q_nm^-1",
        mask=mask,
        polarization_factor=0.99,
        error_model="poisson",
        method=("full", algorithm, "cython"),
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frame", choices=FRAMES, action="append", help="sizes (default: all)")
    parser.add_argument("--bins", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    # Compiled before anything is timed.
    small = (64, 64)
    for _, dtype in FRAMES.values():
        Integrator(geometry_of(small), small, bins=10)(np.zeros(small, dtype))
    print(f"{'frame':16} {'method':15} {'ms':>8} {'times':>7} {'ready s':>8}   one thread")
    for name in options.frame or FRAMES:
        measure(name, options.bins, options.rounds)


if __name__ == "__main__":
    main()
