"""Palladium crystals measured at SSRL, against the experts' own fits of the same curves."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.populations import PopulationsFit
from pipeline.config.sample import Sample
from pipeline.fit.assembly import AnalyseAssembly
from pipeline.fit.populations import FitPopulations
from pipeline.kernels.noise import local_scatter
from pipeline.messages import Curve, Peak, Populations

pytestmark = pytest.mark.real_data

# Beamstop's shadow below 0.5, edge of the detector above 5.2 1/nm; a background was subtracted.
FIT = PopulationsFit(
    q_min_per_nm=0.5,
    q_max_per_nm=5.2,
    nc_diameter_range_nm=(1.5, 12.0),
    nc_relative_sigma_range=(0.02, 0.5),
    agglomerates=False,
    weights="measured",
)
ORDER = AssemblyAnalysis(spacing_range_nm=(5.0, 9.0), q_max_per_nm=3.0, least_height=0.1)


def measured(folder: Path, line: dict[str, str], frame: int) -> Curve:
    """The curve of one line of a series' index."""
    q_per_angstrom, intensity = np.loadtxt(folder / line["file"], unpack=True)
    return Curve(
        frame=frame,
        time_s=float(line["t_s"]),
        q_per_nm=10 * q_per_angstrom,
        intensity=intensity,
        sigma=local_scatter(intensity),
        absolute=False,
    )


def analyse(folder: Path) -> list[tuple[dict[str, str], Populations, Peak]]:
    with open(folder / "frames_index.csv", newline="") as file:
        index = list(csv.DictReader(file))
    fit, order = FitPopulations(FIT, Sample()), AnalyseAssembly(ORDER, Sample())
    out = []
    for frame, line in enumerate(index):
        row, fitted = fit.process(measured(folder, line, frame))
        peak, _ = order.process(fitted)
        out.append((line, row, peak))
    return out


@pytest.fixture(scope="module")
def growth(data_dir):
    return analyse(data_dir / "pd_growth_R13_201607")


@pytest.fixture(scope="module")
def superlattice(data_dir):
    return analyse(data_dir / "pd_superlattice_R5_201611")


def test_radii_are_the_experts(growth):
    ratios = np.array(
        [
            row.nc_diameter_nm / 2 / (float(line["expert_diffuse_sphere_r_A"]) / 10)
            for line, row, _ in growth
            if line["expert_diffuse_sphere_r_A"]
        ]
    )
    assert ratios.size == 77
    assert np.mean(np.abs(ratios - 1) < 0.03) >= 0.9


def test_crystals_appear_between_270_and_320_s(growth):
    present = np.array([row.populations >= 1 for _, row, _ in growth])
    # From here on every frame has crystals.
    stable = len(present) - int(np.argmin(present[::-1])) if not present.all() else 0
    assert 270 <= growth[stable][1].time_s <= 320
    # Before, now and then a curve bends at the beamstop; never three times in a row.
    early = present[:stable].astype(int)
    assert np.max(np.convolve(early, np.ones(3, int))) < 3


def test_crystals_gain_volume_monotonically_while_they_grow(growth):
    volumes = [row.nc_volume_fraction for _, row, _ in growth if 297 <= row.time_s <= 510]
    assert np.all(np.diff(volumes) > 0)


def test_no_order_where_experts_saw_none(growth):
    assert not [peak.time_s for _, _, peak in growth if peak.order_z >= ORDER.report_sigma]


def test_order_begins_at_427_s(superlattice):
    ordered = [peak.time_s for _, _, peak in superlattice if peak.order_z >= ORDER.report_sigma]
    assert ordered[0] == 427
    during = [peak for _, _, peak in superlattice if 427 <= peak.time_s <= 790]
    assert min(peak.order_z for peak in during) > 8


def test_lattice_melts_at_277_c_and_returns_on_cooling(superlattice):
    molten = [peak.order_z for _, _, peak in superlattice if 900 <= peak.time_s <= 1650]
    assert max(molten) < ORDER.report_sigma
    again = [peak for _, _, peak in superlattice if 1900 <= peak.time_s <= 2100]
    assert np.mean([peak.order_z > ORDER.report_sigma for peak in again]) > 0.8


def test_spacing_is_the_experts_lattice(superlattice):
    """d(111) = a/sqrt(3) of their face-centred cell while the first lattice grows."""
    ratios = [
        peak.spacing_nm * np.sqrt(3) / (float(line["expert_lattice_a_A"]) / 10)
        for line, _, peak in superlattice
        if 427 <= peak.time_s <= 790 and line["expert_lattice_a_A"]
    ]
    assert len(ratios) > 20
    np.testing.assert_allclose(ratios, 1.0, atol=0.02)
