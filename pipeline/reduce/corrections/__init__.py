"""What is corrected between the counts of a frame and its curve, in this order.

A pixel's corrected intensity is::

    I = (dead_time(x) - dark) / (s p e a l f) * absolute_scale
        / (monitor * transmission * exposure_s * thickness_cm)  -  background

====================  ==========================================================  ================
what                  formula                                                     module
====================  ==========================================================  ================
mask                  pixels that are never used                                  `mask`
dead time             counts that came while a pixel was busy                     see below
dark                  counts of a frame without beam                              `dark`
s, solid angle        cos^3 a, a = angle of incidence                             `solid_angle`
p, polarisation       1 - sin^2 2theta (1 + f cos 2chi) / 2                       `polarization`
e, sensor             (1 - exp(-mu t / cos a)) / (1 - exp(-mu t))                 `sensor`
a, air                exp(-mu path (1 / cos a - 1))                               `air`
l, slab               (1 - exp(-y)) / y, y = -ln T (1 / cos 2theta - 1)           `slab`
f, flat field         sensitivity of each pixel                                   `flat`
normalisation         the factors of the formula's second line                    `normalisation`
background            a curve, subtracted in the units of the reduced one         `background`
====================  ==========================================================  ================

s, p, e, a, l and f do not change while a geometry lasts: `static_weights` multiplies them, and the
integration divides sums of counts by sums of weights. The parallax of a thick sensor is no factor
but moves pixels: `sensor.parallax_layer` says by what, and
`pipeline.reduce.geometry.corner_positions` does it. Dead time changes every pixel of every frame:
`pipeline.kernels.pixel_preparation`, on the path of `pipeline.reduce.ring`. Pixels that are invalid
in one frame only leave the sums in the kernels, see `pipeline.kernels.integration`.
"""

from pipeline.reduce.corrections.flat import read_flat
from pipeline.reduce.corrections.images import read_image
from pipeline.reduce.corrections.sensor import parallax_layer
from pipeline.reduce.corrections.weights import static_weights

__all__ = ["parallax_layer", "read_flat", "read_image", "static_weights"]
