"""Hosts stages: owns the sockets, the order of frames and the counts. Knows no science."""

from pipeline.runner.chain import StageChain
from pipeline.runner.relay import Relay
from pipeline.runner.runner import Runner

__all__ = ["Relay", "Runner", "StageChain"]
