"""The command line: the only place that wires the parts together."""

from pipeline.cli.app import main

__all__ = ["main"]
