"""Phases that a config may call by name. Facts only: cell, space group, and atoms that are certain.

Atoms on special places (no free coordinate) are certain; PbI2 has one free coordinate, which is
quoted. CsPbBr3 in Pbnm has its atoms where the perovskite without tilts has them: lines that only
the tilts of the octahedra allow are missing (they are weak; a CIF brings them). Where atoms are not
given here, heights of lines are free.

Cells are those that are usually quoted after the papers named. Preparations and temperatures differ
by some 0.1 %, which ``cell_tolerance`` allows for.
"""

from pipeline.config.phases import CrystalPhase, Site

SOFT_NM2 = 3.8e-4
"""Mean square displacement in lead halides, B = 3 square angstroms."""


def _site(element: str, x: float, y: float, z: float) -> Site:
    return Site(element=element, xyz=(x, y, z), u_iso_nm2=SOFT_NM2)


_PHASES = (
    # Rodova et al., J. Therm. Anal. Calorim. 71 (2003) 667 (ICSD 97851), room temperature.
    CrystalPhase(
        name="CsPbBr3_Pbnm",
        cell_nm=(0.8207, 0.8255, 1.1759),
        space_group="P b n m",
        sites=(
            _site("Pb", 0.5, 0.0, 0.0),
            _site("Cs", 0.0, 0.0, 0.25),
            _site("Br", 0.5, 0.0, 0.25),
            _site("Br", 0.75, 0.25, 0.0),
        ),
    ),
    # Above 403 K; Moller, K. Dan. Vidensk. Selsk. Mat. Fys. Medd. 32 (1959) no. 2.
    CrystalPhase(
        name="CsPbBr3_Pm-3m",
        cell_nm=(0.5874, 0.5874, 0.5874),
        space_group="P m -3 m",
        sites=(
            _site("Pb", 0.0, 0.0, 0.0),
            _site("Cs", 0.5, 0.5, 0.5),
            _site("Br", 0.5, 0.0, 0.0),
        ),
    ),
    # Moller, K. Dan. Vidensk. Selsk. Mat. Fys. Medd. 32 (1960) no. 3; hexagonal axes.
    CrystalPhase(
        name="Cs4PbBr6",
        cell_nm=(1.373, 1.373, 1.732),
        cell_angles_deg=(90.0, 90.0, 120.0),
        space_group="R -3 c",
    ),
    # Cotunnite type; Lumbreras et al., Solid State Ionics 20 (1986) 295.
    CrystalPhase(name="PbBr2", cell_nm=(0.8062, 0.4735, 0.9540), space_group="P n m a"),
    # 2H; z of iodine 0.2675: Palosz et al., J. Phys. Condens. Matter 2 (1990) 5285.
    CrystalPhase(
        name="PbI2",
        cell_nm=(0.4557, 0.4557, 0.6979),
        cell_angles_deg=(90.0, 90.0, 120.0),
        space_group="P -3 m 1",
        sites=(_site("Pb", 0.0, 0.0, 0.0), _site("I", 1 / 3, 2 / 3, 0.2675)),
        cell="axes",
    ),
    # Weller et al., J. Phys. Chem. Lett. 6 (2015) 3209. The cation turns, so no atoms.
    CrystalPhase(name="FAPbI3_alpha", cell_nm=(0.6362, 0.6362, 0.6362), space_group="P m -3 m"),
    # Stoumpos et al., Inorg. Chem. 52 (2013) 9019, in P 63 m c; P 63/m m c has the same absences.
    CrystalPhase(
        name="FAPbI3_delta",
        cell_nm=(0.8660, 0.8660, 0.7902),
        cell_angles_deg=(90.0, 90.0, 120.0),
        space_group="P 63/m m c",
        cell="axes",
    ),
)

KNOWN = {phase.name: phase for phase in _PHASES}


def known_phase(name: str) -> CrystalPhase:
    """A phase by its name.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in KNOWN:
        raise ValueError(f"expected one of {', '.join(KNOWN)}, or a cell; got {name!r}")
    return KNOWN[name]
