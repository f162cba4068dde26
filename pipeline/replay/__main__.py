"""The replay process.

    python -m pipeline.replay --wiring FILE [--speed N|max] RECORDING

Exit code 0: every frame has been published and its results are stored. SIGINT or SIGTERM ends the
replay where it is (exit code 1 if results were still missing). Anything else is said in one line.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pipeline.stopping import stop_on_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.replay", description="Play a recording."
    )
    parser.add_argument("recording", help="folder, file, or address of a run in Tiled")
    parser.add_argument("--wiring", type=Path, required=True, help="addresses of the run, JSON")
    parser.add_argument("--speed", default="1", help="factor, or max (default 1)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    log = logging.getLogger("pipeline.replay")

    stop = stop_on_signals()

    import zmq

    from pipeline.bus import LinkRefusedError, SpoolError
    from pipeline.config.loader import ConfigError, load_config
    from pipeline.replay.open import open_recording
    from pipeline.replay.player import Player, load_wiring, parse_speed
    from pipeline.replay.recording import ReplayError

    try:
        speed = parse_speed(options.speed)
        wiring = load_wiring(options.wiring)
        config = load_config(wiring.config_file)
        recording = open_recording(options.recording, config.replay)
        with closing(recording):
            Player(recording, wiring, config, speed, stop).run()
    except (ReplayError, ConfigError, SpoolError, LinkRefusedError) as error:
        log.error("%s", error)
        return 1
    except (OSError, zmq.ZMQError) as error:  # full disk, address in use
        log.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
