"""Lines of a crystal's powder: where, how strong, and how they move with the cell's edges.

Cells, space groups, absences, CIFs and structure factors are gemmi's (Wojdyr, J. Open Source Softw.
7 (2022) 4200), form factors those of the International Tables (1992). f' and f'' are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np

from pipeline.config.phases import CrystalPhase
from pipeline.messages import frozen_array

ELECTRON_RADIUS_NM = 2.8179403e-6
WEAKEST = 1e-5
"""Share of the strongest line below which one is left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Reflections:
    """All lines of one phase up to some q, ascending; n of them.

    ``q_per_nm`` (n,); ``hkl`` (n, 3) of one of the equivalents; ``multiplicity`` (n,);
    ``strength`` (n,): 1e7 r_e^2 2 pi^2 m |F|^2 / v^2 in 1/cm 1/nm^3, so that a volume fraction phi
    scatters phi strength / q^2 times a profile of area 1; ``quadratic`` (n, 6) with q^2 = sum of it
    times (1/a^2, 1/b^2, 1/c^2, 1/ab, 1/ac, 1/bc) of the edges relative to ``edges_nm``; ``ties``
    (3,): the edge that each edge follows by symmetry.
    """

    name: str
    edges_nm: tuple[float, float, float]
    q_per_nm: np.ndarray
    hkl: np.ndarray
    multiplicity: np.ndarray
    strength: np.ndarray
    quadratic: np.ndarray
    ties: tuple[int, int, int]
    has_atoms: bool


def reflections_of(phase: CrystalPhase, q_max_per_nm: float) -> Reflections:
    """Lines of a phase that its space group allows, and that its atoms (if given) do not cancel.

    Raises
    ------
    ValueError
        If the CIF cannot be used, or the space group or an element is not known.
    """
    crystal = _from_cif(phase) if phase.cif is not None else _from_config(phase)
    group, cell = crystal.spacegroup, crystal.cell
    operations = group.operations()
    families: dict[tuple[int, int, int], tuple[float, int, float]] = {}
    calculator = gemmi.StructureFactorCalculatorX(cell)
    has_atoms = len(crystal.sites) > 0
    for hkl in gemmi.make_miller_array(cell, group, 20.0 * math.pi / q_max_per_nm).tolist():
        if operations.is_systematically_absent(hkl):
            continue
        images = {tuple(op.apply_to_hkl(hkl)) for op in operations.sym_ops}
        images |= {tuple(-index for index in image) for image in images}
        squared = 1.0
        if has_atoms:
            squared = abs(calculator.calculate_sf_from_small_structure(crystal, hkl)) ** 2
        q = 20.0 * math.pi / cell.calculate_d(hkl)
        families[(hkl[0], hkl[1], hkl[2])] = (q, len(images), squared)
    scale = 1e7 * 2.0 * math.pi**2 * (ELECTRON_RADIUS_NM / (1e-3 * cell.volume)) ** 2
    strongest = max((m * f / q**2 for q, m, f in families.values()), default=0.0)
    kept = sorted(
        (q, hkl, m, scale * m * f)
        for hkl, (q, m, f) in families.items()
        if m * f / q**2 > WEAKEST * strongest
    )
    if not kept:
        raise ValueError(f"phase {phase.name}: no line below {q_max_per_nm:g} 1/nm")
    hkls = np.array([entry[1] for entry in kept])
    return Reflections(
        name=phase.name,
        edges_nm=(0.1 * cell.a, 0.1 * cell.b, 0.1 * cell.c),
        q_per_nm=frozen_array([entry[0] for entry in kept], float),
        hkl=frozen_array(hkls),
        multiplicity=frozen_array([entry[2] for entry in kept], float),
        strength=frozen_array([entry[3] for entry in kept], float),
        quadratic=frozen_array(_quadratic(cell, hkls)),
        ties=_ties(group),
        has_atoms=has_atoms,
    )


def _from_cif(phase: CrystalPhase) -> gemmi.SmallStructure:
    assert phase.cif is not None
    try:
        text = Path(phase.cif).read_text()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no text"
        raise ValueError(f"phase {phase.name}: cif {phase.cif}: {said}") from None
    try:
        blocks = list(gemmi.cif.read_string(text))
        # Of several blocks the first one with a cell: journals put one without before.
        block = next((b for b in blocks if b.find_value("_cell_length_a")), None)
        if block is None:
            raise ValueError("it has no _cell_length_a")
        crystal = gemmi.make_small_structure_from_block(block)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"phase {phase.name}: {phase.cif} is no CIF of a crystal: {error}"
        ) from None
    if crystal.spacegroup is None or not crystal.cell.is_crystal():
        raise ValueError(f"phase {phase.name}: {phase.cif} has no cell or no known space group")
    crystal.change_occupancies_to_crystallographic()
    return crystal


def _from_config(phase: CrystalPhase) -> gemmi.SmallStructure:
    assert phase.cell_nm is not None
    if isinstance(phase.space_group, int):
        group = gemmi.find_spacegroup_by_number(phase.space_group)
    else:
        group = gemmi.find_spacegroup_by_name(phase.space_group or "")
    if group is None:
        raise ValueError(f"phase {phase.name}: space group {phase.space_group!r} is not known")
    crystal = gemmi.SmallStructure()
    crystal.name = phase.name
    a, b, c = (10.0 * edge for edge in phase.cell_nm)
    crystal.cell = gemmi.UnitCell(a, b, c, *phase.cell_angles_deg)
    if not crystal.cell.is_compatible_with_spacegroup(group):
        raise ValueError(
            f"phase {phase.name}: edges {phase.cell_nm} and angles {phase.cell_angles_deg} are not "
            f"those of {group.xhm()}"
        )
    crystal.spacegroup = group
    crystal.spacegroup_hm = group.xhm()
    for number, site in enumerate(phase.sites):
        element = gemmi.Element(site.element)
        if element.atomic_number == 0:
            raise ValueError(f"phase {phase.name}: element {site.element!r} is not known")
        atom = gemmi.SmallStructure.Site()
        atom.label, atom.type_symbol, atom.element = (
            f"{element.name}{number}",
            element.name,
            element,
        )
        atom.fract = gemmi.Fractional(*site.xyz)
        atom.occ, atom.u_iso = site.occupancy, 100.0 * site.u_iso_nm2
        crystal.add_site(atom)
    crystal.setup_cell_images()
    crystal.change_occupancies_to_crystallographic()
    return crystal


def _quadratic(cell: gemmi.UnitCell, hkl: np.ndarray) -> np.ndarray:
    """4 pi^2 times the terms of 1/d^2 in h^2, k^2, l^2, hk, hl, kl (n, 6), in 1/nm^2."""
    reciprocal = cell.reciprocal()
    edges = 10.0 * np.array([reciprocal.a, reciprocal.b, reciprocal.c])
    alpha, beta, gamma = np.radians([reciprocal.alpha, reciprocal.beta, reciprocal.gamma])
    h, k, l = hkl.T * edges[:, None]  # noqa: E741
    crossed = [h * k * math.cos(gamma), h * l * math.cos(beta), k * l * math.cos(alpha)]
    return 4.0 * math.pi**2 * np.stack([h * h, k * k, l * l, *(2.0 * c for c in crossed)], axis=1)


def _ties(group: gemmi.SpaceGroup) -> tuple[int, int, int]:
    system = group.crystal_system_str()
    if system == "cubic" or (system == "trigonal" and group.ext == "R"):
        return 0, 0, 0
    return (0, 0, 2) if system in ("tetragonal", "hexagonal", "trigonal") else (0, 1, 2)
