"""Flyers: detectors that publish their frames and tell bluesky where they are."""
