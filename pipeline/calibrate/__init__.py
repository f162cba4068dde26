"""What a beamline calibrates before a run: the geometry, by pyFAI, and the absolute scale.

`exposures`   one frame out of whatever file, with what the file knows of its exposure
`rings`       where a frame's rings are, by this package's own integration
`refinement`  the geometry of a frame of a calibrant, refined by pyFAI
`standards`   what standards scatter, in 1/cm
`scale`       the factor from a measured curve of a standard to 1/cm
"""
