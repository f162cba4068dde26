"""Codes of the distributions: compiled code chooses by number."""

GAUSSIAN, LOGNORMAL, SCHULZ = 0, 1, 2
