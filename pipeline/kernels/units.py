"""Constants that turn what a fit counts in into what people read."""

AVOGADRO_PER_MOL = 6.02214076e23
UM_PER_NM3 = 1e24 / AVOGADRO_PER_MOL * 1e6
"""Micromolar in one particle per nm^3."""
PER_CM_IN_PER_NM = 1e7
"""1/nm is this many 1/cm."""
