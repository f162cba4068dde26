"""The analysing process of one stream: frames in, results to the store.

python -m pipeline.cli.analyse --wiring FILE --stream saxs [--stages reduce|fit]

With ``--stages`` a stream is shared by two processes: one reduces and sends to the other, which
fits and sends all results to the store. Where they meet stands in the wiring, under ``links``.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.supervisor import HOPELESS
from pipeline.config.loader import ConfigError, load_config
from pipeline.config.wiring import Wiring
from pipeline.messages import MapResult, Result
from pipeline.stopping import stop_on_signals

if TYPE_CHECKING:
    import numpy as np

    from pipeline.config import RunConfig
    from pipeline.config.plumbing import Bus
    from pipeline.config.populations import PopulationsFit
    from pipeline.messages import Stage
    from pipeline.runner import Relay, Runner


def stages_for(stream: str, config: RunConfig) -> list[Stage]:
    """The stages of a stream, in order, as the config asks for them."""
    stages: list[Stage] = []
    if stream == "saxs":
        from pipeline.fit.assembly import AnalyseAssembly
        from pipeline.fit.populations import FitPopulations
        from pipeline.reduce.saxs import ReduceSaxs

        saxs = config.saxs
        stages.append(ReduceSaxs(saxs.reduce))
        if saxs.reduce.cake is not None:
            from pipeline.reduce.cake import ReduceCake

            stages.append(ReduceCake(saxs.reduce))
        if saxs.fit is not None:
            stages.append(FitPopulations(saxs.fit, config.sample, instrument_curve(saxs.fit)))
        if saxs.invariants is not None:
            from pipeline.fit.invariants import FitInvariants

            stages.append(FitInvariants(saxs.invariants, config.sample))
        if saxs.assembly is not None:
            stages.append(AnalyseAssembly(saxs.assembly, config.sample))
            if saxs.structure is not None and saxs.fit is not None:
                from pipeline.fit.structure import FitStructure

                stages.append(FitStructure(saxs.structure, saxs.assembly, saxs.fit, config.sample))
                if saxs.lattice is not None:
                    from pipeline.fit.lattice import IndexLattice

                    stages.append(IndexLattice(saxs.lattice))
        # Behind all that does not need it: a curve that it refuses has gone through them.
        if saxs.size_distribution is not None:
            from pipeline.fit.size_distribution import InvertSizes

            stages.append(InvertSizes(saxs.size_distribution, config.sample))
        extra = saxs.extra_stages
    elif stream == "waxs":
        from pipeline.reduce.waxs import ReduceWaxs

        stages.append(ReduceWaxs(config.waxs.reduce))
        if config.waxs.reduce.cake is not None:
            from pipeline.reduce.cake import ReduceWaxsCake

            stages.append(ReduceWaxsCake(config.waxs.reduce))
        if (phases := config.waxs.phases) is not None:
            from pipeline.fit.phases import FitPhases

            background = _curve(phases.background_file, "a background curve")
            stages.append(FitPhases(phases, background))
        extra = config.waxs.extra_stages
    elif stream == "absorbance":
        from pipeline.fit.exciton import FitExciton
        from pipeline.reduce.absorbance import ReduceAbsorbance

        stages.append(ReduceAbsorbance(config.absorbance.reduce))
        if config.absorbance.fit is not None:
            stages.append(FitExciton(config.absorbance.fit, config.sample))
        if config.absorbance.magic is not None:
            from pipeline.fit.curvature import FindMinima

            stages.append(FindMinima(config.absorbance.magic))
        extra = config.absorbance.extra_stages
    else:
        raise ConfigError(
            [f"there are no stages for a stream {stream!r}: saxs, waxs or absorbance"]
        )
    return stages + [extra_stage(name) for name in extra]


def instrument_curve(fit: PopulationsFit) -> tuple[np.ndarray, np.ndarray] | None:
    """q and intensity of the curve whose height is fitted."""
    return _curve(fit.instrument_file, "an instrument's curve")


def _curve(path: str | None, what: str) -> tuple[np.ndarray, np.ndarray] | None:
    """q and intensity of a curve in a file that a config may name."""
    if path is None:
        return None
    from pipeline.reduce.corrections.background import read_curve

    curve = read_curve(path, what)
    return curve.q_per_nm, curve.intensity


def extra_stage(name: str) -> Stage:
    """A stage of the user's own, ``package.module:Class``, made without arguments."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise ConfigError([f"extra stage {name!r} cannot be loaded: {error}"]) from None


def split(stages: Sequence[Stage]) -> tuple[list[Stage], list[Stage]]:
    """The stages that reduce frames, and those that take results and can run elsewhere.

    Raises
    ------
    ConfigError
        If a later stage wants frames, which stay where they are reduced.
    """
    frames = 1
    # The cake is made of frames as the curve is, and stands behind it.
    while frames < len(stages) and issubclass(stages[frames].produces[0], MapResult):
        frames += 1
    reducing, fitting = list(stages[:frames]), list(stages[frames:])
    for stage in fitting:
        if wanted := [kind.__name__ for kind in stage.consumes if not issubclass(kind, Result)]:
            raise ConfigError(
                [
                    f"stage {stage.name} wants {', '.join(wanted)}, which the process of "
                    "--stages fit does not see: run this stream without --stages"
                ]
            )
    return reducing, fitting


def host_for(
    part: str, stream: str, stages: Sequence[Stage], wiring: Wiring, bus: Bus
) -> Runner | Relay:
    """What runs a stream's stages, or a part of them, in this process.

    Raises
    ------
    ConfigError
        If the wiring does not say what this part needs.
    """
    from pipeline.runner import Relay, Runner

    if stream not in wiring.frames:
        known = ", ".join(wiring.frames)
        raise ConfigError([f"expected a stream of this run ({known}), got {stream}"])
    if part == "all":
        return Runner(wiring.frames[stream], wiring.store, bus, stages)
    if stream not in wiring.links:
        raise ConfigError(
            [f"--stages {part}: the wiring has no links.{stream}, say where they meet"]
        )
    reducing, fitting = split(stages)
    if not fitting:
        raise ConfigError(
            [f"--stages {part}: {stream} has one stage only: run it without --stages"]
        )
    if part == "reduce":
        return Runner(wiring.frames[stream], wiring.links[stream], bus, reducing)
    return Relay(wiring.links[stream], wiring.store, bus, fitting)


def make_parser() -> argparse.ArgumentParser:
    """Arguments of this process."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.cli.analyse", description=__doc__)
    parser.add_argument("--wiring", type=Path, required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--stages", choices=("all", "reduce", "fit"), default="all")
    return parser


def main() -> int:
    """Analyse one stream of one run; 0 when every frame's results are stored."""
    arguments = make_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = stop_on_signals()
    try:
        wiring = Wiring.model_validate_json(arguments.wiring.read_text())
        config = load_config(wiring.config_file)
        stages = stages_for(arguments.stream, config)
        host = host_for(arguments.stages, arguments.stream, stages, wiring, config.bus)
    except (ConfigError, OSError, ValueError) as error:
        print(f"nucleate analyse: {error}", file=sys.stderr)
        return HOPELESS
    from pipeline.bus import LinkRefusedError
    from pipeline.reduce.errors import InputError

    try:
        return host.run(stop)
    except (InputError, LinkRefusedError) as error:
        print(f"nucleate analyse: {arguments.stream}: {error}", file=sys.stderr)
        return HOPELESS


if __name__ == "__main__":
    sys.exit(main())
