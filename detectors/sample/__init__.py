"""The simulated synthesis: what is in the vial at a time, and what X-rays and light make of it.

A simulation acts the published runs out so that every part of the pipeline can be tried, and
tested against a known truth. It shares no code with the analysis, on purpose.
"""

from detectors.sample.recipes import RECIPES, Recipe
from detectors.sample.synthesis import SampleState, Synthesis

__all__ = ["RECIPES", "Recipe", "SampleState", "Synthesis"]
