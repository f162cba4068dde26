"""Streaming analysis of nanocrystal growth: frames in, sizes, phases and alerts out."""
