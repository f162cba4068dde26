"""The process that follows a run's stored fits and says what they tell together of the reaction.

python -m pipeline.reaction --wiring FILE
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from pipeline.access import TiledAddress, UnreachableError
from pipeline.bus import LinkRefusedError
from pipeline.bus.link import LinkSender
from pipeline.cli.supervisor import HOPELESS
from pipeline.config.loader import ConfigError, load_config
from pipeline.config.wiring import Wiring
from pipeline.reaction.host import ReactionHost
from pipeline.reaction.registry import row_streams_for
from pipeline.stopping import stop_on_signals

log = logging.getLogger(__name__)


def main() -> int:
    """Follow one run; 0 when it is complete and all that was made of it is stored."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.reaction", description=__doc__)
    parser.add_argument("--wiring", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = stop_on_signals()
    try:
        wiring = Wiring.model_validate_json(arguments.wiring.read_text())
        config = load_config(wiring.config_file)
        streams = row_streams_for(config, tuple(wiring.frames))
        address = TiledAddress.from_url(wiring.tiled_url)
        if not streams:
            log.info("nothing is asked of this run's tables")
            return 0
        with LinkSender(wiring.store, config.bus) as sender:
            ReactionHost(address, sender, wiring.run, streams).run(stop)
    except (ConfigError, UnreachableError, OSError) as error:
        print(f"nucleate reaction: {error}", file=sys.stderr)
        return 1
    except LinkRefusedError as error:
        print(f"nucleate reaction: {error}", file=sys.stderr)
        return HOPELESS
    return 0


if __name__ == "__main__":
    sys.exit(main())
