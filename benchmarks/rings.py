"""Time of one frame where each pixel of a ring is looked at, beside pyFAI's on one thread.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.rings``. Both work on the same table of shares
(full splitting). The methods take turns, frame by frame in one process, so that a busy machine
slows all of them alike; the table shows medians, and how far I and sigma are from pyFAI's in the
median ring.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.kernels.pixel_splitting import SplitTable
from pipeline.reduce.ring import RingIntegrator, narrowing

SHAPE = (2167, 2070)
BINS = 1000

# Name, pyFAI's function and options, ours, and what our sigma is multiplied by to mean the same.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], float]] = {
    "counting": ("integrate1d", {"error_model": "poisson"}, {}, 1.0),
    "scatter": (
        "integrate1d",
        {"error_model": "azimuthal"},
        {"error_model": "azimuthal"},
        1.0,
    ),
    "clip, counting": (
        "sigma_clip",
        {"error_model": "poisson", "thres": 5.0, "max_iter": 5},
        {"rejection": "sigma_clip"},
        1.0,
    ),
    "clip, scatter": (
        "sigma_clip",
        {"error_model": "azimuthal", "thres": 5.0, "max_iter": 5},
        {"error_model": "azimuthal", "rejection": "sigma_clip"},
        1.0,
    ),
    "clip, hybrid": (
        "sigma_clip",
        {"error_model": "hybrid", "thres": 5.0, "max_iter": 5},
        {"error_model": "hybrid", "rejection": "sigma_clip"},
        1.0,
    ),
    "median 0.4-0.6": (
        "medfilt1d_ng",
        {"error_model": "poisson", "percentile": (40, 60)},
        {"rejection": "median"},
        1.0 / narrowing(0.4, 0.6),
    ),
}


def table_of(lut: tuple[np.ndarray, np.ndarray, np.ndarray]) -> SplitTable:
    """pyFAI's table (shares, pixels, start of each bin) as one of ours."""
    share, pixel, start = (np.asarray(part) for part in lut)
    whole = share == 1.0
    bins = len(start) - 1
    ring = np.repeat(np.arange(bins), np.diff(start))
    starts = [
        np.concatenate(([0], np.cumsum(np.bincount(ring[kind], minlength=bins))))
        for kind in (whole, ~whole)
    ]
    return SplitTable(
        starts[0],
        pixel[whole].astype(np.uint32),
        starts[1],
        pixel[~whole].astype(np.uint32),
        share[~whole].astype(np.float32),
    )


def _scene() -> tuple[Any, np.ndarray, np.ndarray]:
    """pyFAI's integrator of a tilted detector, a frame with zingers, and a mask."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyFAI.detectors import Detector
        from pyFAI.integrator.azimuthal import AzimuthalIntegrator
    integrator = AzimuthalIntegrator(
        dist=1.9,
        poni1=0.48 * SHAPE[0] * 75e-6,
        poni2=0.53 * SHAPE[1] * 75e-6,
        rot1=0.02,
        rot2=-0.01,
        rot3=0.1,
        detector=Detector(75e-6, 75e-6, max_shape=SHAPE),
        wavelength=3.3062e-11,
    )
    random = np.random.default_rng(0)
    image = random.poisson(20.0, SHAPE).astype(np.uint32)
    image[random.random(SHAPE) < 1e-4] += np.uint32(5000)
    masked = (random.random(SHAPE) < 0.05).astype(np.int8)
    return integrator, image, masked


def main(rounds: int = 9) -> None:
    """Print the table."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # It says with every frame that pixels should not be split for clipping.
    logging.getLogger("pyFAI").setLevel(logging.ERROR)
    integrator, image, masked = _scene()
    engine = integrator.setup_sparse_integrator(
        SHAPE, BINS, mask=masked, unit="q_nm^-1", split="full", algo="CSR", scale=False
    )
    table = table_of(engine.lut)
    polarization = integrator.polarization(SHAPE, 0.99)
    weights = integrator.solidAngleArray(SHAPE) * polarization
    flat = image.reshape(-1)
    calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    for name, (function, theirs, ours, _) in CASES.items():
        rings = RingIntegrator(table, weights, **ours)
        calls[name] = (
            lambda rings=rings: rings.curve(flat, 2.0**31),
            lambda function=function, theirs=theirs: getattr(integrator, function)(
                image,
                BINS,
                unit="q_nm^-1",
                mask=masked,
                polarization_factor=0.99,
                method=("full", "csr", "cython"),
                **theirs,
            ),
        )
    results = {name: (ours(), theirs()) for name, (ours, theirs) in calls.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (ours, theirs) in calls.items():
            begin = time.perf_counter()
            ours()
            middle = time.perf_counter()
            theirs()
            times[name].append((middle - begin, time.perf_counter() - middle))
    print(f"{SHAPE[1]} x {SHAPE[0]} u32, {BINS} bins, one thread, ms")
    print(f"{'statistics':15} {'nucleate':>9} {'pyFAI':>8} {'times':>6} {'I':>8} {'sigma':>8}")
    for name, (ours, theirs) in results.items():
        own, other = np.median(times[name], axis=0)
        apart = [
            np.nanmedian(np.abs(a / b - 1.0))
            for a, b in (
                (ours.intensity, theirs.intensity),
                (ours.sigma * CASES[name][3], theirs.sigma),
            )
        ]
        print(
            f"{name:15} {own * 1e3:9.1f} {other * 1e3:8.1f} {other / own:6.1f} "
            f"{apart[0]:8.1e} {apart[1]:8.1e}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    main(parser.parse_args().rounds)
