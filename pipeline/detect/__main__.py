"""The detecting process: reads a run's stored results from Tiled, writes alerts back.

python -m pipeline.detect --wiring FILE
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from pipeline.access import TiledAddress, UnreachableError
from pipeline.config.loader import ConfigError, load_config
from pipeline.config.wiring import Wiring
from pipeline.detect.registry import detectors_for
from pipeline.detect.watch import Watch
from pipeline.stopping import stop_on_signals


def main() -> int:
    """Watch one run; 0 when it is complete and every alert is stored."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.detect", description=__doc__)
    parser.add_argument("--wiring", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = stop_on_signals()
    try:
        wiring = Wiring.model_validate_json(arguments.wiring.read_text())
        config = load_config(wiring.config_file)
        address = TiledAddress.from_url(wiring.tiled_url)
        wide_angle = "waxs" in wiring.frames and config.waxs.phases is not None
        detectors = detectors_for(config.detect, wide_angle=wide_angle)
        Watch(address, wiring.run, detectors).watch(stop)
    except (ConfigError, UnreachableError, OSError) as error:
        print(f"nucleate detect: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
