"""Simulated detectors: counts of the simulated synthesis, with what real ones do to it."""

from detectors.simulation.area import AreaRenderer, Exposure
from detectors.simulation.artefacts import Disturbance, disturbance
from detectors.simulation.spectrometer import SpectrometerRenderer

__all__ = ["AreaRenderer", "Disturbance", "Exposure", "SpectrometerRenderer", "disturbance"]
