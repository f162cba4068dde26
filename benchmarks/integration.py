"""Time of one azimuthal integration, beside pyFAI's exact methods, and out of compressed frames.

Run with ``python -m benchmarks.integration``. All methods take turns, frame by frame in one
process, so that a busy machine slows all of them alike; the tables show medians, and how far I and
sigma are from pyFAI's. One process for each number of threads, since OpenMP reads it once.

With two threads, ours takes two frames at a time, pyFAI's csr splits one frame (its csc cannot);
time is per frame.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from benchmarks.pyfai_twin import pyfai_twin
from pipeline.bus import bslz4
from pipeline.config.reduce import AreaReduction
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.integrator import Integrator

FRAMES = {
    "1024 x 1024 u16": ((1024, 1024), "<u2"),
    "2070 x 2167 u32": ((2167, 2070), "<u4"),
    "2880 x 2880 u16": ((2880, 2880), "<u2"),
}
_POLARIZATION = 0.99

# What is asked for: times faster than pyFAI's fastest exact method, at most so many times the time
# of reading the frame once, and times faster than decompressing and integrating in turn.
GOALS = {
    "1024 x 1024 u16": (9.0, 12.0, 2.0),
    "2070 x 2167 u32": (18.0, 4.0, 2.0),
    "2880 x 2880 u16": (18.0, 5.5, 2.0),
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


def measure(name: str, bins: int, rounds: int, threads: int) -> None:
    """Print one row a method for one size of frame."""
    shape, dtype = FRAMES[name]
    random = np.random.default_rng(0)
    image = random.poisson(20.0, shape).astype(dtype)
    masked = random.random(shape) < 0.05
    geometry = geometry_of(shape)
    settings = AreaReduction(bins=bins, polarization_factor=_POLARIZATION)
    ours, ready = _prepare(geometry, shape, settings, masked)
    payload = bslz4.compress(image)
    methods: dict[str, Callable[[], object]] = {"nucleate": lambda: ours(image)}
    results = {}
    for algorithm in ("csr", "csc"):
        call = _pyfai(geometry, image, masked, bins, algorithm)
        begin = time.perf_counter()
        results[algorithm] = call()
        ready[f"pyFAI full {algorithm}"] = time.perf_counter() - begin
        methods[f"pyFAI full {algorithm}"] = call
    methods["read once"] = image.max
    methods["nucleate, bslz4"] = lambda: ours.packed(payload, image.dtype)
    methods["decode, bitshuffle"] = lambda: bslz4.decompress(payload, shape, image.dtype)
    with _hdf5_frame(image) as (file, dataset):
        target = np.empty_like(image)
        methods["decode, hdf5plugin"] = lambda: dataset.read_direct(target)
        medians = _take_turns(methods, rounds, threads)
        file.close()
    _print(name, medians, ready, threads)
    _print_agreement(name, ours(image), ours.packed(payload, image.dtype), results["csr"])


def _prepare(
    geometry: Geometry, shape: tuple[int, int], settings: AreaReduction, masked: np.ndarray
) -> tuple[Integrator, dict[str, float]]:
    """An integrator; and the seconds that it takes to be ready, anew and out of the cache."""
    ready: dict[str, float] = {}
    kept = os.environ.get("NUCLEATE_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUCLEATE_CACHE"] = folder
        for label in ("nucleate", "from the cache"):
            begin = time.perf_counter()
            ours = Integrator(geometry, shape, settings, masked=masked, cached=True)
            ready[label] = time.perf_counter() - begin
    if kept is None:
        del os.environ["NUCLEATE_CACHE"]
    else:
        os.environ["NUCLEATE_CACHE"] = kept
    return ours, ready


class _hdf5_frame:  # noqa: N801
    """A file in memory with the frame in bslz4 form, as a detector writes it."""

    def __init__(self, image: np.ndarray) -> None:
        # Without its cache of chunks, which would give a small frame again as it is.
        self._file = h5py.File(io.BytesIO(), "w", rdcc_nbytes=0)
        self._dataset = self._file.create_dataset(
            "data", data=image, chunks=image.shape, **hdf5plugin.Bitshuffle(cname="lz4")
        )

    def __enter__(self) -> tuple[h5py.File, h5py.Dataset]:
        return self._file, self._dataset

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _take_turns(
    methods: dict[str, Callable[[], object]], rounds: int, threads: int
) -> dict[str, float]:
    """Median seconds a frame of each method."""
    times: dict[str, list[float]] = {method: [] for method in methods}
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            for method, call in methods.items():
                # h5py lets one thread in at a time, and pyFAI splits a frame itself.
                together = threads if method.startswith(("nucleate", "read")) else 1
                begin = time.perf_counter()
                if together == 1:
                    call()
                else:
                    for waiting in [pool.submit(call) for _ in range(together)]:
                        waiting.result()
                times[method].append((time.perf_counter() - begin) / together)
    return {method: float(np.median(values)) for method, values in times.items()}


def _print(name: str, medians: dict[str, float], ready: dict[str, float], threads: int) -> None:
    own = medians["nucleate"]
    for method, median in medians.items():
        seconds = f"{ready[method]:8.2f}" if method in ready else " " * 8
        print(f"{name:16} {method:19} {median * 1e3:8.2f} {median / own:7.1f} {seconds}")
    fastest = min(medians["pyFAI full csr"], medians["pyFAI full csc"])
    in_turn = own + min(medians["decode, hdf5plugin"], medians["decode, bitshuffle"])
    faster, reads, packed = GOALS[name]
    goals = (faster, reads, packed) if threads == 1 else ("-", "-", "-")
    print(
        f"{name:16} faster than pyFAI {fastest / own:.1f} (goal {goals[0]}); times a read "
        f"{own / medians['read once']:.1f} (goal {goals[1]}); bslz4 faster than decode and "
        f"nucleate in turn {in_turn / medians['nucleate, bslz4']:.2f} (goal {goals[2]}); ready "
        f"from the cache in {ready['from the cache']:.2f} s"
    )


def _print_agreement(name: str, plain: tuple, packed: tuple, expected) -> None:
    populated = expected.count > 1e-6
    apart = [
        np.nanmax(np.abs(a[populated] / b[populated] - 1.0))
        for a, b in zip(plain, (expected.intensity, expected.sigma), strict=True)
    ]
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(plain, packed, strict=True))
    print(
        f"{name:16} largest difference from pyFAI: I {apart[0]:.1e}, sigma {apart[1]:.1e}; "
        f"compressed the same bits: {same}"
    )


def _pyfai(
    geometry: Geometry, image: np.ndarray, masked: np.ndarray, bins: int, algorithm: str
) -> Callable:
    integrator = pyfai_twin(geometry, image.shape)
    mask = masked.astype(np.int8)
    return lambda: integrator.integrate1d(
        image,
        bins,
        unit="q_nm^-1",
        mask=mask,
        polarization_factor=_POLARIZATION,
        error_model="poisson",
        method=("full", algorithm, "cython"),
    )


def run(options: argparse.Namespace) -> None:
    """Measure in this process, whose number of OpenMP threads is what was asked for."""
    small = (64, 64)
    for _, dtype in FRAMES.values():
        # Compiled before anything is timed.
        warm = Integrator(geometry_of(small), small, AreaReduction(bins=10))
        warm(np.zeros(small, dtype))
        warm.packed(bslz4.compress(np.zeros(small, dtype)), np.dtype(dtype))
    threads = options.threads
    print(f"{'frame':16} {'method':19} {'ms':>8} {'times':>7} {'ready s':>8}   threads: {threads}")
    for name in options.frame or FRAMES:
        measure(name, options.bins, options.rounds, threads)


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frame", choices=FRAMES, action="append", help="sizes (default: all)")
    parser.add_argument("--bins", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, help="default: a table each for 1 and 2")
    options = parser.parse_args(arguments)
    if options.threads is not None and os.environ.get("OMP_NUM_THREADS") == str(options.threads):
        run(options)
        return
    given = sys.argv[1:] if arguments is None else arguments
    for threads in (1, 2) if options.threads is None else (options.threads,):
        command = [sys.executable, "-m", "benchmarks.integration", *given]
        if options.threads is None:
            command += ["--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        root = Path(__file__).resolve().parent.parent
        subprocess.run(command, env=environment, check=True, cwd=root)


if __name__ == "__main__":
    main()
