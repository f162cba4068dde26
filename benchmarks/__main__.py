"""All measurements, or those that are named.

python -m benchmarks [NAME]... [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks.report import print_machine


def _integration(quick: bool) -> None:
    from benchmarks import integration

    integration.main(["--frame", "1024 x 1024 u16", "--rounds", "5"] if quick else [])


def _rings(quick: bool) -> None:
    from benchmarks import rings

    rings.main(rounds=3 if quick else 9)


def _cake(quick: bool) -> None:
    from benchmarks import cake

    cake.main(["--rounds", "3"] if quick else [])


def _fit(quick: bool) -> None:
    from benchmarks import fit

    if quick:
        fit.main(frames=5, run=100, rounds=5)
    else:
        fit.main(with_dream=True)


def _coverage(quick: bool) -> None:
    from benchmarks import coverage

    if quick:
        coverage.main(repeats=10, frames=100, seconds=10.0, fluxes=(5e11,))
    else:
        coverage.main()


def _paper(_: bool) -> None:
    from benchmarks import paper, paper_order

    paper.main()
    paper_order.main()


def _recordings(_: bool) -> None:
    from benchmarks import ordered_recordings, recordings

    recordings.main()
    ordered_recordings.main()


def _misfits(quick: bool) -> None:
    from benchmarks import misfits

    misfits.main(frames=10 if quick else 50)


def _exciton(quick: bool) -> None:
    from benchmarks import exciton

    exciton.main(rounds=5 if quick else 25)


def _reaction(quick: bool) -> None:
    from benchmarks import reaction

    for recipe in ("cs_dopa", "cs_oleate"):
        reaction.main(recipe, runs=2 if quick else 12)


def _lattices(quick: bool) -> None:
    from benchmarks import lattices

    lattices.main(rounds=20 if quick else 100)


def _magic(quick: bool) -> None:
    from benchmarks import magic

    magic.main(rounds=20 if quick else 200)


def _phases(_: bool) -> None:
    from benchmarks import phases

    phases.main()


def _size_distribution(quick: bool) -> None:
    from benchmarks import size_distribution

    size_distribution.main(10, 2) if quick else size_distribution.main()


def _order(quick: bool) -> None:
    from benchmarks import order

    order.main(200, 20, 200, 1, 20) if quick else order.main()


def _bus(quick: bool) -> None:
    from benchmarks import bus

    bus.main(count=50 if quick else 200)


def _latency(quick: bool) -> None:
    from benchmarks import latency

    latency.main(measured_s=15.0 if quick else 60.0)


def _rate(quick: bool) -> None:
    from benchmarks import rate

    rate.main(large_frames=60 if quick else 240, small_frames=300 if quick else 1500)


BENCHMARKS: dict[str, Callable[[bool], None]] = {
    "integration": _integration,
    "rings": _rings,
    "cake": _cake,
    "fit": _fit,
    "misfits": _misfits,
    "coverage": _coverage,
    "paper": _paper,
    "recordings": _recordings,
    "reaction": _reaction,
    "exciton": _exciton,
    "lattices": _lattices,
    "magic": _magic,
    "phases": _phases,
    "size_distribution": _size_distribution,
    "order": _order,
    "bus": _bus,
    "latency": _latency,
    "rate": _rate,
}


def main() -> int:
    """Print a table for each benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in options.names or BENCHMARKS:
        print_machine(name)
        BENCHMARKS[name](options.quick)
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
