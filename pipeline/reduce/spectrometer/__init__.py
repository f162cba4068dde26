"""From counts of a spectrometer to absorbance: one module a correction.

In the order in which they are applied: `saturation` (what is unusable), `covered` (the dark's
drift), `linearity`, `stray_light`; these four, in `light`, turn counts into light. `ratio` takes
the absorbance of two lights, with the lamp's drift; `wavelength` says at which energies, and
`energy_grid` averages onto even ones.
"""
