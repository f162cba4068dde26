"""Ophyd devices, simulated or real, that publish frames to the pipeline's bus."""
