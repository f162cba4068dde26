"""Hosts stages: owns the sockets, the order of frames and the counts. Knows no science."""

from pipeline.runner.chain import StageChain
from pipeline.runner.runner import Runner

__all__ = ["Runner", "StageChain"]
