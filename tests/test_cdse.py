"""First exciton of real CdSe growth, aliquots measured by others."""

import csv

import numpy as np
import pytest

from pipeline.config.exciton import ExcitonFit
from pipeline.fit.exciton import FitExciton
from pipeline.messages import Spectrum

# CdSe: exciton between 440 and 560 nm, no agglomerates' band, sizing curve of Yu et al.,
# Chem. Mater. 15, 2854 (2003).
CDSE = ExcitonFit(
    energy_range_ev=(2.2, 2.8),
    agglomerate_band_ev=None,
    sizing="polynomial_nm",
    sizing_coefficients=(41.57, -0.4277, 1.6242e-3, -2.6575e-6, 1.6122e-9),
    presence_sigma=4.0,
)


def spectra(folder, run: int):
    """(time_s, wavelength_nm, absorbance) of each aliquot; trailing notes of the file left out."""
    with (folder / f"Run_{run}_UV-Vis.csv").open() as file:
        header, *lines = csv.reader(file)
    times = [float(name.split()[0]) for name in header[1:] if name.strip()]
    numbers = []
    for line in lines:
        try:
            numbers.append([float(cell) for cell in line[: len(times) + 1]])
        except ValueError:
            continue
    table = np.array([row for row in numbers if len(row) == len(times) + 1])
    return [(time, table[:, 0], table[:, k + 1]) for k, time in enumerate(times)]


@pytest.mark.real_data
@pytest.mark.parametrize("run", [2, 9])
def test_first_exciton_is_where_the_authors_saw_it(data_dir, run):
    folder = data_dir / "cdse_growth_absorbance"
    with (folder / "author_peak_nm_runs_2_5_9.csv").open() as file:
        authors = {float(r["Time (s)"]): float(r[f"Run {run}"]) for r in csv.DictReader(file)}
    stage = FitExciton(CDSE)
    off_nm, diameters = [], []
    for frame, (time_s, wavelength, values) in enumerate(spectra(folder, run)):
        (row,) = stage.process(
            Spectrum(
                frame=frame,
                time_s=time_s,
                energy_ev=1239.84198 / wavelength,
                absorbance=values,
                sigma=np.full(values.size, np.nan),
            )
        )
        off_nm.append(1239.84198 / row.exciton_ev - authors[time_s])
        diameters.append(row.diameter_nm)
    off_nm = np.array(off_nm)
    assert len(off_nm) >= 16
    assert np.mean(np.abs(off_nm) <= 3.0) >= 0.90, off_nm
    assert abs(np.median(off_nm)) < 1.0
    # They grow from about 2.3 to 2.7 nm by the published sizing curve.
    assert diameters[0] < 2.45
    assert 2.5 < diameters[-1] < 2.9
