"""Measurements of others through the command line, against what their authors found in them."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.access import TiledHttp
from tests.support import REPOSITORY, StoreProcess, alerts_of, replayed

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def replay(recording: Path, config: str, store: StoreProcess) -> str:
    path = REPOSITORY / "configs" / config
    return replayed(recording, store, "--config", path, "--speed", "max")


def table_of(http: TiledHttp, path: str) -> pa.Table:
    table = http.table(path)
    assert table is not None, path
    return table


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_palladium_growth(data_dir: Path, store: StoreProcess) -> None:
    """Its experts saw noise until 286 s, spheres from 297 s, and never a superlattice."""
    folder = data_dir / "pd_growth_R13_201607"
    run = replay(folder, "pd_growth.yaml", store)
    index = rows_of(folder / "frames_index.csv")
    with store.http() as http:
        alerts = alerts_of(http, run)
        table = table_of(http, f"{run}/saxs/populations")
    assert [alert["kind"] for alert in alerts] == ["nucleation"]
    for key in ("time_s", "onset_s"):
        assert 270 <= alerts[0][key] <= 320
    assert table["time_s"].to_pylist() == [float(row["t_s"]) for row in index]
    radii_angstrom = 5 * table["nc_diameter_nm"].to_numpy()
    ratios = [
        radius / float(row["expert_diffuse_sphere_r_A"])
        for radius, row in zip(radii_angstrom, index, strict=True)
        if row["expert_diffuse_sphere_r_A"]
    ]
    assert len(ratios) == 77
    assert np.mean(np.abs(np.array(ratios) - 1) < 0.03) >= 0.9


def test_palladium_superlattice(data_dir: Path, store: StoreProcess) -> None:
    """Its experts saw a superlattice from 427 to 842 s, and again from 1690 s; every 11 s a frame.

    The first is fcc, the second mostly hcp.
    """
    folder = data_dir / "pd_superlattice_R5_201611"
    run = replay(folder, "pd_superlattice.yaml", store)
    times = [float(row["t_s"]) for row in rows_of(folder / "frames_index.csv")]
    with store.http() as http:
        alerts = alerts_of(http, run)
        frames = table_of(http, f"{run}/saxs/frames")
    assert frames["status"].to_pylist() == ["stored"] * len(times)
    alerts.sort(key=lambda alert: alert["frame"])
    assert [alert["kind"] for alert in alerts] == [
        "nucleation",
        "superlattice_1d",
        "lattice",
        "order_lost",
        "superlattice_1d",
        "lattice",
    ]
    assert [alert["about"] for alert in alerts if alert["kind"] == "lattice"] == ["fcc", "hcp"]
    _, onset, _, lost, again, _ = alerts
    for alert, told_s in ((onset, 427), (again, 1690)):
        first = times.index(told_s)
        assert abs(alert["frame"] - first) <= 3
        assert times[first - 3] <= alert["onset_s"] <= times[first + 3]
    assert abs(lost["frame"] - times.index(853)) <= 3
    assert abs(lost["onset_s"] - 847) <= 33


@pytest.mark.parametrize("number", [2, 9])
def test_first_exciton_of_cadmium_selenide(
    data_dir: Path, store: StoreProcess, number: int
) -> None:
    folder = data_dir / "cdse_growth_absorbance"
    run = replay(folder / f"Run_{number}_UV-Vis.csv", "cdse_absorbance.yaml", store)
    authors = {
        float(row["Time (s)"]): float(row[f"Run {number}"])
        for row in rows_of(folder / "author_peak_nm_runs_2_5_9.csv")
        if row[f"Run {number}"]
    }
    with store.http() as http:
        table = table_of(http, f"{run}/absorbance/exciton")
    wavelengths_nm = 1239.84198 / table["exciton_ev"].to_numpy()
    authors_nm = np.array([authors[time_s] for time_s in table["time_s"].to_pylist()])
    assert len(authors_nm) >= 16
    assert np.mean(np.abs(wavelengths_nm - authors_nm) <= 3) >= 0.9


def test_scattering_images_of_a_polymer(data_dir: Path, store: StoreProcess) -> None:
    """Runs 5 and 8 are semicrystalline, with a long period of 2 pi/0.037 A; run 10 is not."""
    run = replay(data_dir / "ssrl_bl1-5_swaxs_2d", "ssrl_swaxs.yaml", store)
    with store.http() as http:
        frames = table_of(http, f"{run}/saxs/frames")
        q_per_nm = http.array(f"{run}/saxs/q", "", float)
        curves = http.array(f"{run}/saxs/curves", "", float)
        start = (http.metadata(run) or {})["start"]
    assert frames["status"].to_pylist() == ["stored"] * 3
    assert q_per_nm is not None
    assert curves is not None
    intensity = curves.reshape(3, 2, -1)[:, 0]
    # The hump stands far above what comes after it.
    hump, beyond = (
        np.nanmean(intensity[:, (low < q_per_nm) & (q_per_nm < high)], axis=1)
        for low, high in ((0.30, 0.44), (0.8, 1.0))
    )
    contrast = hump / beyond
    assert min(contrast[:2]) > 5
    assert contrast[2] < 1.5
    assert "Distance: 2.9096968" in start["geometry"]["saxs"]
