"""Lattices told from lists of lines: how often a claim is right, and what is claimed of noise."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from dataclasses import dataclass, fields

import numpy as np

from pipeline.config.lattice import LatticeAnalysis
from pipeline.fit.lattice import IndexLattice, warm_up
from pipeline.messages import FormFactor, LatticeRow, Line, OrderedCurve, Peak, StructureFactor
from pipeline.messages.order import JudgedCurve

Q_PER_NM = np.linspace(0.15, 2.0, 420)
CORE_NM = 11.0
CENTRINGS = {
    "primitive": [(0, 0, 0)],
    "body-centred": [(0, 0, 0), (0.5, 0.5, 0.5)],
    "base-centred": [(0, 0, 0), (0.5, 0.5, 0)],
    "face-centred": [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
}
KINDS = (
    "stack", "sc", "bcc", "fcc", "hcp", "fcc+hcp", "primitive tetragonal",
    "body-centred tetragonal", "primitive orthorhombic", "base-centred orthorhombic",
    "body-centred orthorhombic", "face-centred orthorhombic",
)  # fmt: skip


@dataclass(frozen=True)
class Crystal:
    """Lattice vectors (3, 3) in nm, particles' places in them, and the edges that are reported."""

    vectors_nm: np.ndarray
    places: np.ndarray
    edges_nm: tuple[float, float, float]


def crystal(kind: str, rng: np.random.Generator) -> Crystal:
    """A random cell of one kind whose nearest neighbours are 12.5 to 16 nm apart."""
    nearest = rng.uniform(12.5, 16.0)
    if kind in ("hcp", "stack"):
        edges = (1.0, 1.0, math.sqrt(8 / 3) * rng.uniform(0.985, 1.015))
        vectors = np.array([[1, 0, 0], [-0.5, math.sqrt(0.75), 0], [0, 0, edges[2]]])
        places = np.array([(0, 0, 0), (1 / 3, 2 / 3, 0.5)])
    else:
        centring = {"sc": "primitive", "bcc": "body-centred", "fcc": "face-centred"}.get(
            kind, kind.split()[0]
        )
        if "tetragonal" in kind:
            # Not so near to a cube, or to fcc, that nobody could tell.
            ratios = [(0.72, 0.93), (1.07, 1.33)] + [(1.5, 1.6)] * (centring == "body-centred")
            low, high = ratios[rng.integers(len(ratios))]
            edges = (1.0, 1.0, rng.uniform(low, high))
        elif "orthorhombic" in kind:
            b = rng.uniform(1.06, 1.3)
            edges = (1.0, b, b * rng.uniform(1.06, 1.25))
            if centring == "base-centred":
                # c anywhere; b / a = sqrt(3) would be hexagonal.
                edges = (1.0, rng.uniform(1.1, 1.55), rng.uniform(0.75, 1.2))
        else:
            edges = (1.0, 1.0, 1.0)
        vectors = np.diag(edges)
        places = np.array(CENTRINGS[centring], dtype=float)
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    between = (steps[:, None] + places[None]).reshape(-1, 3) @ vectors
    length = np.linalg.norm(between, axis=1)
    scale = nearest / float(length[length > 1e-9].min())
    a, b, c = edges
    return Crystal(scale * vectors, places, (scale * a, scale * b, scale * c))


def powder(cell: Crystal, q_max_per_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """q and area of Z's lines, every reciprocal vector on its own; no table, no extinction rule."""
    reciprocal = 2 * math.pi * np.linalg.inv(cell.vectors_nm).T
    reach = [math.ceil(q_max_per_nm * np.linalg.norm(v) / (2 * math.pi)) for v in cell.vectors_nm]
    index = np.array(list(itertools.product(*(range(-n, n + 1) for n in reach))))
    q = np.linalg.norm(index @ reciprocal, axis=1)
    amplitude = np.abs(np.exp(2j * math.pi * index @ cell.places.T).sum(axis=1)) ** 2
    seen = (q > 1e-9) & (q <= q_max_per_nm) & (amplitude > 1e-6)
    volume = abs(np.linalg.det(cell.vectors_nm))
    area = 2 * math.pi**2 * amplitude / (len(cell.places) * volume * q.clip(1e-9) ** 2)
    order = np.argsort(q[seen], kind="stable")
    return q[seen][order], area[seen][order]


def lines_of_kind(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Crystal]:
    """True places and areas of one random lattice (or stack, or mixture), undamped."""
    if kind == "stack":
        spacing = rng.uniform(13.0, 18.0)
        q = 2 * math.pi * np.arange(1, 6) / spacing
        return q, 0.05 / q**2, Crystal(np.eye(3), np.zeros((1, 3)), (spacing, 0.0, 0.0))
    if kind == "fcc+hcp":
        cell = crystal("fcc", rng)
        a = cell.edges_nm[0] / math.sqrt(2)
        hcp = crystal("hcp", rng)
        vectors = a * np.array([[1, 0, 0], [-0.5, math.sqrt(0.75), 0], [0, 0, math.sqrt(8 / 3)]])
        share = rng.uniform(0.3, 0.7)
        q_1, area_1 = powder(cell, Q_PER_NM[-1])
        q_2, area_2 = powder(Crystal(vectors, hcp.places, (a, a, a)), Q_PER_NM[-1])
        q = np.concatenate([q_1, q_2])
        order = np.argsort(q, kind="stable")
        area = np.concatenate([(1 - share) * area_1, share * area_2])
        return q[order], area[order], cell
    cell = crystal(kind, rng)
    return *powder(cell, Q_PER_NM[-1]), cell


def ordered_curve(
    kind: str, rng: np.random.Generator, noise: float = 0.02
) -> tuple[OrderedCurve, Crystal | None]:
    """A frame with the lines that a finder would find of one random lattice, with its errors.

    Places have errors of their signal-to-noise and a common one of 0.1 %; areas scatter by 30 %;
    what lies nearer than 0.9 widths is one line; what is lower than 5 errors is not found; one
    frame in five has a line that is of nothing.
    """
    width = rng.uniform(0.018, 0.04)
    step = Q_PER_NM[1] - Q_PER_NM[0]
    cell = None
    sigma = noise * (1 + (Q_PER_NM / 1.0) ** 4)
    if kind == "noise":
        q = np.sort(rng.uniform(0.3, 1.8, rng.integers(3, 9)))
        area = np.exp(rng.normal(-4, 0.7, q.size))
    elif kind == "few":
        q = np.sort(rng.uniform(0.3, 1.2, rng.integers(1, 3)))
        area = np.exp(rng.normal(-3, 0.5, q.size))
    else:
        q, area, cell = lines_of_kind(kind, rng)
        # Coincident reflections are one before they scatter.
        q, area = merged(q, area, 1e-6)
        damping = rng.uniform(0.3, 1.0)
        area = area * rng.uniform(0.3, 0.9) * np.exp(-damping * q**2)
        area *= np.exp(rng.normal(0, 0.3, q.size))
    q, area = merged(q, area, 0.9 * width)
    if rng.random() < 0.2:
        q = np.append(q, rng.uniform(0.3, 1.8))
        area = np.append(area, 0.02 * rng.uniform(0.5, 2))
    q_scale = 1 + 0.001 * rng.normal()
    lines = []
    for place, strength in sorted(zip(q.tolist(), area.tolist(), strict=True)):
        height = strength / (1.0645 * width)
        error = 1.3 * float(np.interp(place, Q_PER_NM, sigma)) / math.sqrt(0.753 * width / step)
        height += error * rng.normal()
        if height < 5 * error or height < 0.05:
            continue
        off = 0.6 * width * error / height
        lines.append(
            Line(
                q_per_nm=place * q_scale + off * rng.normal(),
                q_per_nm_err=off,
                height=height,
                height_err=error,
                fwhm_per_nm=width * (1 + 1.5 * error / height * rng.normal()),
                fwhm_per_nm_err=1.5 * width * error / height,
                area=height * 1.0645 * width,
                area_err=1.5 * error * 1.0645 * width,
                sigmas=height / error,
            )
        )
    return frame_of(lines, sigma), cell


def merged(q: np.ndarray, area: np.ndarray, nearer: float) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours nearer than this as one, at their centre of weight."""
    places, areas = [], []
    for place, strength in zip(q, area, strict=True):
        if places and place - places[-1] < nearer:
            total = areas[-1] + strength
            places[-1] = (places[-1] * areas[-1] + place * strength) / total
            areas[-1] = total
        else:
            places.append(float(place))
            areas.append(float(strength))
    return np.array(places), np.array(areas)


def frame_of(
    lines: list[Line], sigma: np.ndarray, core_nm: float = CORE_NM, q: np.ndarray = Q_PER_NM
) -> OrderedCurve:
    """The message that the stage takes, with nothing in it that it does not use."""
    unknown = dict.fromkeys((each.name for each in fields(Peak)), math.nan)
    known = {"frame": 0, "time_s": 0.0, "order_z": 20.0, "lattice_z": 20.0, "order_kind": "fcc"}
    peak = Peak(**unknown | known)  # pyright: ignore
    structure = StructureFactor(
        frame=0, time_s=0.0, q_per_nm=q, structure_factor=np.ones_like(q), sigma=sigma,
        form_factor=np.ones_like(q),
    )  # fmt: skip
    core = FormFactor(
        frame=0, time_s=0.0, diameter_nm=core_nm, diameter_nm_err=0.05, sigma_nm=0.8,
        sigma_nm_err=0.05, reduced_chi2=1.0, choice="modelled", reason="",
    )  # fmt: skip
    judged = JudgedCurve(frame=0, time_s=0.0, fitted=None, peak=peak)  # pyright: ignore
    return OrderedCurve(
        frame=0, time_s=0.0, judged=judged, structure=structure, form_factor=core,
        lines=tuple(lines),
    )  # fmt: skip


def judged(stage: IndexLattice, frame: OrderedCurve) -> LatticeRow:
    """The stage's row."""
    (row,) = stage.process(frame)
    return row  # pyright: ignore[reportReturnType]


def main(rounds: int = 100) -> None:
    """Print the confusion of all kinds, how often claims are right, and the time."""
    warm_up()
    stage = IndexLattice(LatticeAnalysis())
    rng = np.random.default_rng(11)
    claims: dict[str, Counter[str]] = {}
    seconds, right, claimed, off = [], 0, 0, []
    probable: list[tuple[float, bool]] = []
    lines_found: dict[str, list[int]] = {}
    for kind in (*KINDS, "noise", "few"):
        claims[kind] = Counter()
        lines_found[kind] = []
        for _ in range(rounds):
            frame, cell = ordered_curve(kind, rng)
            lines_found[kind].append(len(frame.lines))
            begin = time.perf_counter()
            row = judged(stage, frame)
            seconds.append(time.perf_counter() - begin)
            verdict = row.lattice or (row.candidate if row.p_stack >= 0.9 else "(none)")
            claims[kind][verdict] += 1
            probable.append((row.probability, row.candidate == (kind if kind in KINDS else "")))
            if verdict not in ("cannot tell", "(none)"):
                claimed += 1
                right += verdict == kind
                if verdict == kind and cell is not None and kind != "stack":
                    off.append(abs(math.log(row.a_nm / cell.edges_nm[0])))
    for kind, verdicts in claims.items():
        told = ", ".join(f"{name} {count}" for name, count in verdicts.most_common())
        print(f"{kind:28} lines {np.median(lines_found[kind]):4.0f}   {told}")
    print(f"claims {claimed}, right {right} ({100 * right / max(claimed, 1):.1f} %)")
    for low, high in ((0.3, 0.6), (0.6, 0.9), (0.9, 0.99), (0.99, 1.01)):
        # Of noise the candidate is "", and that is right where p_none is the highest.
        among = [hit for p, hit in probable if low <= p < high]
        if among:
            share = 100 * np.mean(among)
            print(f"probability {low} to {min(high, 1)}: {share:.0f} % right of {len(among)}")
    print(f"a off by {100 * np.median(off):.2f} % in the middle, {100 * max(off):.2f} % at worst")
    p50, p90, worst = 1e3 * np.percentile(seconds, [50, 90, 100])
    print(f"time a frame {p50:.2f} ms, p90 {p90:.2f} ms, worst {worst:.2f} ms")
