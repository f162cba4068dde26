"""The analysing process of one stream: frames in, results to the store.

python -m pipeline.cli.analyse --wiring FILE --stream saxs
"""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.supervisor import HOPELESS
from pipeline.config.loader import ConfigError, load_config
from pipeline.config.wiring import Wiring

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.messages import Stage


def stages_for(stream: str, config: RunConfig) -> list[Stage]:
    """The stages of a stream, in order, as the config asks for them."""
    stages: list[Stage] = []
    if stream == "saxs":
        from pipeline.fit.assembly import AnalyseAssembly
        from pipeline.fit.populations import FitPopulations
        from pipeline.reduce.saxs import ReduceSaxs

        saxs = config.saxs
        stages.append(ReduceSaxs(saxs.reduce))
        if saxs.fit is not None:
            stages.append(FitPopulations(saxs.fit, config.sample))
        if saxs.assembly is not None:
            stages.append(AnalyseAssembly(saxs.assembly, config.sample))
        extra = saxs.extra_stages
    elif stream == "absorbance":
        from pipeline.fit.exciton import FitExciton
        from pipeline.reduce.absorbance import ReduceAbsorbance

        stages.append(ReduceAbsorbance(config.absorbance.reduce))
        if config.absorbance.fit is not None:
            stages.append(FitExciton(config.absorbance.fit))
        extra = config.absorbance.extra_stages
    else:
        raise ConfigError(f"there are no stages for a stream {stream!r}: saxs or absorbance")
    return stages + [extra_stage(name) for name in extra]


def extra_stage(name: str) -> Stage:
    """A stage of the user's own, ``package.module:Class``, made without arguments."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"extra stage {name!r} cannot be loaded: {error}") from None


def main() -> int:
    """Analyse one stream of one run; 0 when every frame's results are stored."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.cli.analyse", description=__doc__)
    parser.add_argument("--wiring", type=Path, required=True)
    parser.add_argument("--stream", required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        wiring = Wiring.model_validate_json(arguments.wiring.read_text())
        config = load_config(wiring.config_file)
        stages = stages_for(arguments.stream, config)
        endpoints = wiring.frames[arguments.stream]
    except KeyError:
        print(f"nucleate analyse: no stream {arguments.stream} in this run", file=sys.stderr)
        return HOPELESS
    except (ConfigError, OSError, ValueError) as error:
        print(f"nucleate analyse: {error}", file=sys.stderr)
        return HOPELESS
    from pipeline.bus import LinkRefusedError
    from pipeline.reduce.files import InputError
    from pipeline.runner import Runner

    try:
        return Runner(endpoints, wiring.store, config.bus, stages).run(stop)
    except (InputError, LinkRefusedError) as error:
        print(f"nucleate analyse: {arguments.stream}: {error}", file=sys.stderr)
        return HOPELESS


if __name__ == "__main__":
    sys.exit(main())
