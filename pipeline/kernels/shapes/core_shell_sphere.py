"""Sphere in a shell of constant thickness, as of ligands; the size is the core's diameter D.

Model
-----
With f(R) the amplitude of a sphere of radius R (``shapes.sphere``), r = D/2 and the shell's
thickness d, relative to the contrast of the core::

    F = (1 - k) f(r) + k f(r + d),    k = (sld_shell - sld_solvent)/(sld_core - sld_solvent)

The same in all orientations. Multiply <F^2> by the square of the core's contrast.

============== ====== ======== ==========================================================
parameter      unit   bounds   meaning
============== ====== ======== ==========================================================
size           nm     > 0      diameter of the core
shell          nm     0 to 10  thickness of the shell, the same at all sizes; default 1.2
shell_contrast 1      -2 to 2  k; default 0.075
============== ====== ======== ==========================================================

The default contrast is that of oleic acid (0.895 g/cm3: 8.50e-6 1/A^2) around CsPbBr3 (33.88e-6)
in hexane (6.445e-6) at 37.5 keV; ligands that solvent fills have less.

Range of validity: uniform core and shell, no multiple scattering. The volume, hence the yield,
is of the core.
Source: Guinier and Fournet, Small-Angle Scattering of X-Rays, Wiley 1955.

Reference values: D = 8 nm, defaults, at q = 0.5, 1.5, 4.0 1/nm: <F^2> = 33356.4149031,
426.118877271, 8.16722182367 nm^6.
"""

from collections.abc import Mapping

import numpy as np

from pipeline.kernels.shapes import sphere
from pipeline.kernels.shapes.card import Parameter, ShapeCard


def averages(
    q_per_nm: np.ndarray, size_nm: np.ndarray, parameters: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """<F^2> in nm^6 and <F> in nm^3, both (k, n), relative to the core's contrast."""
    contrast = parameters["shell_contrast"]
    _, core = sphere.averages(q_per_nm, size_nm, {})
    _, whole = sphere.averages(q_per_nm, size_nm + 2.0 * parameters["shell"], {})
    mean = (1.0 - contrast) * core + contrast * whole
    return mean * mean, mean


CARD = ShapeCard(
    name="core_shell_sphere",
    size="diameter of the core",
    source="Guinier and Fournet, Small-Angle Scattering of X-Rays, Wiley 1955",
    averages=averages,
    unit_volume=sphere.unit_volume,
    parameters=(
        Parameter("shell", "nm", 1.2, (0.0, 10.0), "thickness of the shell"),
        Parameter("shell_contrast", "1", 0.075, (-2.0, 2.0), "(shell - solvent)/(core - solvent)"),
    ),
)
