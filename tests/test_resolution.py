"""Resolution of q against photons that are traced one by one."""

import math

import numpy as np
import pytest

from pipeline.config.reduce import AreaReduction
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.resolution import q_resolution

PHOTONS = 400_000

NEAR = Geometry(0.12, 0.05, 0.05, 0.1, 172e-6, 172e-6)
TILTED = Geometry(0.12, 0.05, 0.05, 0.1, 172e-6, 75e-6, 0.35, -0.2, 0.4)


def laboratory(geometry: Geometry) -> np.ndarray:
    """Columns: axes 1, 2 and normal of the detector, from the rotations as the PONI format says."""

    def about(axis: int, angle: float) -> np.ndarray:
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        return turn

    return about(2, geometry.rot3_rad) @ about(1, -geometry.rot2_rad) @ about(0, -geometry.rot1_rad)


def trace(
    geometry, q_per_nm, rng, *, spread=0.0, beam_um=(0.0, 0.0), thickness_cm=0.0, bin_width=0.0
):
    """q that is assigned to photons that were scattered by one q, without it."""
    wavelength = geometry.wavelength_nm * (1.0 + spread * rng.standard_normal(PHOTONS))
    two_theta = 2.0 * np.arcsin(q_per_nm * wavelength / (4.0 * math.pi))
    chi = rng.uniform(-math.pi, math.pi, PHOTONS)
    way = np.stack(
        [np.sin(two_theta) * np.sin(chi), np.sin(two_theta) * np.cos(chi), np.cos(two_theta)]
    )
    start = np.stack(
        [
            beam_um[1] * 1e-6 * rng.standard_normal(PHOTONS),
            beam_um[0] * 1e-6 * rng.standard_normal(PHOTONS),
            rng.uniform(-0.5, 0.5, PHOTONS) * thickness_cm * 1e-2,
        ]
    )
    turn = laboratory(geometry)
    reach = (geometry.distance_m - turn[:, 2] @ start) / (turn[:, 2] @ way)
    place = turn.T @ (start + reach * way)
    # The pixel that counts it, and any place in that pixel, as its area is split over bins. The
    # grid lies anywhere: on one grid, a ring of 20 pixels' radius may differ by 5 %.
    for axis, size in enumerate((geometry.pixel1_m, geometry.pixel2_m)):
        shift = rng.random(PHOTONS)
        pixel = np.floor(place[axis] / size + shift) - shift
        place[axis] = (pixel + rng.random(PHOTONS)) * size
    seen = turn @ place
    seen /= np.linalg.norm(seen, axis=0)
    theta = 0.5 * np.arctan2(np.hypot(seen[0], seen[1]), seen[2])
    q = 4.0 * math.pi / geometry.wavelength_nm * np.sin(theta)
    return q + bin_width * rng.uniform(-0.5, 0.5, PHOTONS)


@pytest.mark.parametrize("geometry", [NEAR, TILTED], ids=["upright", "tilted"])
@pytest.mark.parametrize("q_per_nm", [2.0, 12.0, 30.0])
@pytest.mark.parametrize(
    "causes",
    [
        {},
        {"beam_um": (400.0, 150.0)},
        {"spread": 0.01},
        {"thickness_cm": 0.3},
        {"bin_width": 0.1},
        {"beam_um": (200.0, 100.0), "spread": 3e-3, "thickness_cm": 0.1, "bin_width": 0.03},
    ],
    ids=["pixel", "beam", "wavelength", "thickness", "bin", "all"],
)
def test_agrees_with_traced_photons(geometry, q_per_nm, causes):
    traced = trace(geometry, q_per_nm, np.random.default_rng(1), **causes)
    settings = AreaReduction(
        beam_size_um=causes.get("beam_um", (0.0, 0.0)),
        wavelength_spread=causes.get("spread", 0.0),
    )
    ours = q_resolution(
        geometry,
        np.array([q_per_nm]),
        causes.get("bin_width", 0.0),
        settings,
        causes.get("thickness_cm"),
    )
    # 400,000 photons give a standard deviation to 0.1 %; first order leaves out about a percent.
    assert ours[0] == pytest.approx(float(np.std(traced)), rel=0.02)


def test_small_angles_are_the_textbook_s():
    """dq = 2 pi / (wavelength L) dr of pixel and beam, q t / L of the sample."""
    geometry = Geometry(3.0, 0.1, 0.1, 0.1, 172e-6, 172e-6)
    per_m = 2.0 * math.pi / (0.1 * 3.0)
    q = np.array([0.1, 0.5])
    settings = AreaReduction(beam_size_um=(100.0, 100.0), wavelength_spread=1e-4)
    expected = np.sqrt(
        per_m**2 * (172e-6**2 / 6 + 100e-6**2)
        + np.array([0.01, 0.02]) ** 2 / 12
        + (q * 1e-4) ** 2
        + (q * 1e-3 / 3.0) ** 2 / 12
    )
    ours = q_resolution(geometry, q, np.array([0.01, 0.02]), settings, 0.1)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_only_the_seen_part_of_a_ring_counts():
    """Beam flat along axis 2; a detector beside the beam along axis 2 sees all of its width."""
    beside = Geometry(1.0, 0.01, -0.1, 0.1, 1e-4, 1e-4, shape=(200, 600))
    settings = AreaReduction(beam_size_um=(500.0, 0.0), wavelength_spread=0.0)
    q = np.array([4 * math.pi / 0.1 * math.sin(0.5 * math.atan(0.13))])
    seen = q_resolution(beside, q, 0.0, settings)
    # chi within 0.08 of 0: all of the beam's width, for pixels of 1e-4 / sqrt(6).
    slope = 2 * math.pi / 0.1 * math.cos(0.5 * math.atan(0.13)) * math.cos(math.atan(0.13)) ** 2
    assert seen[0] == pytest.approx(slope * math.hypot(500e-6, 1e-4 / 6**0.5), rel=0.01)
    above = Geometry(1.0, -0.1, 0.01, 0.1, 1e-4, 1e-4, shape=(600, 200))
    assert q_resolution(above, q, 0.0, settings)[0] < 0.15 * seen[0]


def test_impossible_q_has_none():
    dq = q_resolution(NEAR, np.array([10.0, 130.0]), 0.01, AreaReduction())
    assert np.isfinite(dq[0])
    assert np.isnan(dq[1])
