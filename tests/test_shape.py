"""Shapes of crystals: bodies that are known, from their curves alone and through a stored run."""

import math
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.spatial.transform import Rotation

from detectors.sample import Synthesis
from pipeline.access import TiledHttp
from pipeline.bus.link import LinkSender
from pipeline.cli import main
from pipeline.config import RunConfig
from pipeline.fit.populations import FitPopulations
from pipeline.messages import (
    Curve,
    FrameResults,
    Populations,
    RunDocument,
    RunStart,
    StreamEnd,
    StreamStart,
)
from pipeline.shape import CrystalCurve, Settings, ShapeError, alone, average, find_shape
from pipeline.shape.align import Lookup, best_turn
from pipeline.shape.describe import Describer
from pipeline.shape.envelope import Envelope
from pipeline.shape.maps import make_maps, shell_correlation
from pipeline.shape.retrieve import seen, sphere_intensity
from tests.support import StoreProcess, sasmodels_squared

Q_PER_NM = np.linspace(0.2, 3.8, 180)
COARSE_PER_NM = Q_PER_NM[::4]
EXACT = np.zeros(Q_PER_NM.size)
DIAMETER_NM = 8.1
VOLUME_NM3 = math.pi / 6 * DIAMETER_NM**3


def projected(envelope: Envelope, radii: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Coefficients of a surface given by its radii in directions (3, n)."""
    sphere = envelope.sphere
    return (
        envelope.harmonics(sphere.polar, sphere.azimuth) * sphere.weights @ radii(sphere.directions)
    )


def spheroid(equatorial: float, polar: float) -> Callable[[np.ndarray], np.ndarray]:
    def radii(u: np.ndarray) -> np.ndarray:
        return 1 / np.sqrt((u[0] ** 2 + u[1] ** 2) / equatorial**2 + u[2] ** 2 / polar**2)

    return radii


def cube(edge: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: 0.5 * edge / np.abs(u).max(axis=0)


def cuboctahedron(u: np.ndarray) -> np.ndarray:
    return 1 / np.maximum(np.abs(u).max(axis=0) / 4.0, np.abs(u).sum(axis=0) / 8.0)


def squared(body: str, size: float = 1.0) -> np.ndarray:
    """|F|^2 of a body of the volume of an 8.1 nm sphere, times ``size``: sasmodels, averaged."""
    known = {"sld": 1, "sld_solvent": 0}
    radius = 5 * DIAMETER_NM * size
    if body == "sphere":
        return sasmodels_squared("sphere", Q_PER_NM, radius=radius, **known)
    if body == "rod":  # axes 1 : 1.5
        equatorial = radius * 1.5 ** (-1 / 3)
        return sasmodels_squared(
            "ellipsoid", Q_PER_NM, radius_equatorial=equatorial, radius_polar=1.5 * equatorial,
            **known,
        )  # fmt: skip
    edge = 10 * VOLUME_NM3 ** (1 / 3) * size
    edges = dict.fromkeys(("length_a", "length_b", "length_c"), edge)
    return sasmodels_squared("parallelepiped", Q_PER_NM, **edges, **known)


def measured(body: str, spread: float = 0.0, error: float = 0.003, seed: int = 5) -> CrystalCurve:
    """A curve of bodies of one shape with the noise of counting, ``error`` at the first point."""
    places = np.linspace(-4, 4, 33) if spread else np.zeros(1)
    shares = np.exp(-0.5 * places**2)
    truth = sum(
        share * squared(body, 1 + spread * place)
        for place, share in zip(places, shares / shares.sum(), strict=True)
    )
    sigma = error * np.sqrt((truth + 2e-5 * truth[0]) * truth[0] * Q_PER_NM[0] / Q_PER_NM)
    noise = np.random.default_rng(seed).normal(0, sigma)
    return CrystalCurve(Q_PER_NM, truth + noise, sigma, EXACT)


@pytest.fixture(scope="module")
def envelope() -> Envelope:
    return Envelope(8, COARSE_PER_NM, 8.0)


def test_a_sphere_scatters_as_one(envelope):
    got = envelope.intensity(envelope.sphere_of(DIAMETER_NM / 2))[0]
    expected = squared("sphere")[::4]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6 * expected[0])
    np.testing.assert_allclose(
        sphere_intensity(COARSE_PER_NM, DIAMETER_NM / 2), expected, rtol=1e-6
    )


def test_a_rod_scatters_as_one(envelope):
    """Degree 8 of an ellipsoid of 1 : 1.5 leaves out 1e-3 of its radius."""
    equatorial = DIAMETER_NM / 2 * 1.5 ** (-1 / 3)
    coefficients = projected(envelope, spheroid(equatorial, 1.5 * equatorial))
    got = envelope.intensity(coefficients)[0]
    expected = squared("rod")[::4]
    np.testing.assert_allclose(got, expected, rtol=0.01, atol=1e-5 * expected[0])


def test_slopes_are_those_of_the_intensity(envelope):
    coefficients = envelope.sphere_of(4.0)
    coefficients += np.random.default_rng(1).normal(0, 0.1, coefficients.size)
    slopes = envelope.intensity(coefficients)[1]
    level = COARSE_PER_NM**4
    largest = np.abs(level[:, None] * slopes).max()
    for k in (0, 3, 20, 70):
        step = np.zeros(coefficients.size)
        step[k] = 1e-3
        change = envelope.intensity(coefficients + step)[0]
        change -= envelope.intensity(coefficients - step)[0]
        expected = level * change / 2e-3
        np.testing.assert_allclose(level * slopes[:, k], expected, atol=0.01 * largest)


def test_spread_and_resolution_are_averages():
    """Against quadrature of the sphere's own formula."""
    spread, width = 0.08, 0.02
    at = np.array([0.3, 1.1, 1.9, 3.0])
    curve = CrystalCurve(at, at, at, np.full(at.size, width))
    grid = np.linspace(0.02, 4.5, 200)
    got = seen(curve, grid, spread) @ sphere_intensity(grid, 4.0)

    def gauss(x: float, sigma: float) -> float:
        return math.exp(-0.5 * (x / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))

    for value, q in zip(got, at, strict=True):

        def sizes(p: float, q: float = q) -> float:
            return quad(
                lambda x: gauss(x - 1, spread) * sphere_intensity(np.array([p]), 4.0 * x)[0],
                1 - 5 * spread, 1 + 5 * spread, limit=200,
            )[0]  # fmt: skip

        places = np.linspace(-5, 5, 41)
        weights = np.exp(-0.5 * places**2)
        expected = sum(w * sizes(q + width * p) for w, p in zip(weights, places, strict=True))
        assert value == pytest.approx(expected / weights.sum(), rel=3e-3)


def test_numbers_of_a_spheroid(envelope):
    """Volume, Rg, axes and surface of a prolate one have closed forms."""
    a, c = 3.5, 4.9
    got = Describer(envelope).describe(projected(envelope, spheroid(a, c)))
    volume = 4 / 3 * math.pi * a * a * c
    eccentricity = math.sqrt(1 - (a / c) ** 2)
    area = 2 * math.pi * a * a * (1 + c / (a * eccentricity) * math.asin(eccentricity))
    assert got.volume_nm3 == pytest.approx(volume, rel=1e-3)
    assert got.diameter_nm == pytest.approx((6 * volume / math.pi) ** (1 / 3), rel=1e-3)
    assert got.gyration_radius_nm == pytest.approx(math.sqrt((2 * a * a + c * c) / 5), rel=1e-3)
    assert got.axis_ratio == pytest.approx(c / a, rel=5e-3)
    assert got.largest_nm == pytest.approx(2 * c, rel=0.02)
    sphericity = math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area
    assert got.sphericity == pytest.approx(sphericity, rel=2e-3)
    assert got.kind == "elongated"


@pytest.mark.parametrize(
    ("radii", "kind", "cubic"),
    [
        (cube(6.0), "cube-like", (0.99, 1.0)),
        (lambda u: 4.0 / np.abs(u).sum(axis=0), "angular", (-1.0, -0.75)),
        (cuboctahedron, "angular", (0.7, 0.85)),
        (spheroid(4.0, 4.0), "sphere-like", (-1.0, 1.0)),
        (spheroid(4.5, 3.0), "flattened", (-1.0, 1.0)),
    ],
)
def test_kinds(envelope, radii, kind, cubic):
    """The second is an octahedron."""
    turned = Rotation.from_euler("zyx", [0.3, 1.1, 2.0]).as_matrix()
    got = Describer(envelope).describe(projected(envelope, lambda u: radii(turned @ u)))
    assert got.kind == kind
    assert cubic[0] <= got.cubic <= cubic[1] + 1e-9


def test_turns_and_hands_are_found(envelope):
    rng = np.random.default_rng(3)
    coefficients = envelope.sphere_of(4.0)
    coefficients += np.where(envelope.degrees <= 4, rng.normal(0, 0.2, coefficients.size), 0)
    body = Lookup(envelope, coefficients)
    turn = -Rotation.from_euler("zyx", [2.0, -0.4, 0.9]).as_matrix()
    reference = body.at(turn @ envelope.sphere.directions)
    found, likeness = best_turn(envelope, reference, body)
    assert likeness > 0.999
    np.testing.assert_allclose(found, turn, atol=0.02)


def test_shells_of_equal_and_of_unlike_maps():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 24, 24, 24))
    frequency, same = shell_correlation(one, one, 0.5)
    np.testing.assert_allclose(same, 1.0)
    np.testing.assert_allclose(frequency, np.arange(1, 12) / 12.0)
    assert np.abs(shell_correlation(one, two, 0.5)[1][3:]).max() < 0.2
    # Alike at large scales only: noise of its own is in each.
    smooth = 40 * np.cos(2 * np.pi * np.arange(24) / 12)[:, None, None]
    blurred = shell_correlation(smooth + one, smooth + two, 0.5)[1]
    assert blurred[1] > 0.9 > 0.3 > blurred[4]


def test_a_map_holds_its_body(envelope):
    body = Lookup(envelope, envelope.sphere_of(4.0))
    maps = make_maps([body, body], [np.eye(3), -np.eye(3)], 4.0)
    voxel = (maps.axis_nm[1] - maps.axis_nm[0]) ** 3
    assert maps.mean.sum() * voxel == pytest.approx(4 / 3 * math.pi * 4.0**3, rel=0.01)
    assert maps.deviation.max() < 1e-12
    assert math.isnan(maps.fsc_resolution_nm)


def fitted(synthesis: Synthesis, time_s: float, frame: int, config: RunConfig, rng):
    """A counted curve of a moment (5e11 photons/s, 0.5 s, 1 mm, 37.5 keV), and its fit."""
    q = np.linspace(0.15, 3.8, 240)
    truth = synthesis.intensity_per_cm(q, time_s) + 0.001
    gain = 1 / (5e11 * 0.5 * 0.1 * 2 * np.pi * q * (q[1] - q[0]) / 190.0**2)
    counts = rng.poisson(truth / gain)
    curve = Curve(
        frame=frame,
        time_s=time_s,
        q_per_nm=q,
        intensity=counts * gain,
        sigma=np.sqrt(np.maximum(counts, 1)) * gain,
        absolute=True,
    )
    assert config.saxs is not None
    assert config.saxs.fit is not None
    row, _ = FitPopulations(config.saxs.fit, config.sample).process(curve)
    return curve, row


CONFIG = RunConfig.model_validate({"name": "shape", "saxs": {"fit": {"q_max_per_nm": 3.8}}})


def test_what_is_left_is_the_crystals():
    """At 6 s there are agglomerates beside them; truth less theirs and the flat background."""
    assert CONFIG.saxs is not None
    assert CONFIG.saxs.fit is not None
    synthesis = Synthesis("cs_dopa")
    curve, row = fitted(synthesis, 6.0, 0, CONFIG, np.random.default_rng(2))
    assert row.populations == 2
    columns = {name: getattr(row, name) for name in Populations.__dataclass_fields__}
    q = curve.q_per_nm
    rest = alone(q, curve.intensity, columns, CONFIG.saxs.fit, CONFIG.sample, 0 * q, None)
    state = synthesis.state(6.0)
    places = np.linspace(-4, 4, 41)
    shares = np.exp(-0.5 * places**2)
    spheres = sum(
        share * sphere_intensity(q, (state.nc_diameter_nm + place * state.nc_sigma_nm) / 2)
        for place, share in zip(places, shares / shares.sum(), strict=True)
    )
    number = state.nc_concentration_um / (1e24 / 6.02214076e23 * 1e6)
    expected = number * 1e7 * CONFIG.sample.contrast_per_nm2**2 * spheres
    low = q < 1.2
    np.testing.assert_allclose(rest[low].sum(), expected[low].sum(), rtol=0.03)


def test_means_of_frames():
    q = np.linspace(0.1, 3.0, 60)
    line = 1 / q**2
    got = average(q, [line, 3 * line], [0.1 * line, 0.1 * line], 0 * q, q > 0.2)
    assert got.q_per_nm[0] > 0.2
    np.testing.assert_allclose(got.intensity, 2 * line[q > 0.2])
    np.testing.assert_allclose(got.sigma, 0.1 / math.sqrt(2) * line[q > 0.2])
    # Nothing is seen beyond 1.5 1/nm.
    dark = np.where(q < 1.5, line, 0.0)
    assert average(q, [dark], [0.3 * line], 0 * q, q > 0).q_per_nm[-1] < 2.0
    with pytest.raises(ShapeError, match="not seen above the noise"):
        average(q, [0 * line], [line], 0 * q, q > 0)
    with pytest.raises(ShapeError, match="got none"):
        average(q, [np.full(60, np.nan)], [line], 0 * q, q > 0)


def test_a_sphere_is_found():
    got = find_shape(measured("sphere"), Settings(degree=4, repeats=1, spreads=(0.0, 0.1)))
    assert got.verdict.kind == "sphere-like"
    assert got.spreads == (0.0, 0.0)
    assert got.scatter("volume_nm3")[0] == pytest.approx(VOLUME_NM3, rel=0.01)
    assert got.resolution_nm >= 2 * math.pi / 3.8


def test_the_same_seed_gives_the_same_body():
    settings = Settings(degree=2, repeats=2, spreads=(0.0,))
    one, two = (find_shape(measured("sphere"), settings) for _ in range(2))
    np.testing.assert_array_equal(one.maps.mean, two.maps.mean)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (slice(0, 12), "expected at least 20 points"),
        (slice(0, 40), r"spans at least 5 pi / D"),
    ],
)
def test_a_curve_that_says_too_little(points, message):
    whole = measured("sphere")
    part = CrystalCurve(whole.q_per_nm[points], whole.intensity[points], whole.sigma[points],
                        EXACT[points])  # fmt: skip
    with pytest.raises(ShapeError, match=message):
        find_shape(part, Settings())


def test_a_curve_that_rises():
    with pytest.raises(ShapeError, match="does not fall with q"):
        find_shape(CrystalCurve(Q_PER_NM, Q_PER_NM, 0.01 * Q_PER_NM, EXACT), Settings())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("body", "spread", "kinds", "gyration_nm"),
    [
        ("sphere", 0.0, {"sphere-like"}, 4.05 * math.sqrt(0.6)),
        ("cube", 0.0, {"cube-like"}, 0.5 * VOLUME_NM3 ** (1 / 3)),
        ("rod", 0.0, {"elongated"}, 4.05 * 1.5 ** (-1 / 3) * math.sqrt((2 + 1.5**2) / 5)),
        ("sphere", 0.05, {"sphere-like"}, 4.05 * math.sqrt(0.6)),
    ],
)
def test_bodies_are_told_apart(body, spread, kinds, gyration_nm):
    """Volume within 5 % and Rg within 3 %: a spread taken for unequal axes costs so much."""
    got = find_shape(measured(body, spread), Settings(repeats=2, spreads=(0.0, 0.05, 0.1)))
    assert got.verdict.kind in kinds, got.verdict
    assert got.scatter("volume_nm3")[0] == pytest.approx(VOLUME_NM3, rel=0.05)
    assert got.scatter("gyration_radius_nm")[0] == pytest.approx(gyration_nm, rel=0.03)
    low, high = got.spreads
    assert low <= spread + 1e-9
    assert high >= spread - 0.01


NO_BEAM = "no beam"
MOMENTS_S = (0.1, 280.0, 290.0, 295.0)
"""Frame 0 has agglomerates alone; frame 3 is rejected."""
REJECTED = 3


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Stored:
    """A run of the simulated synthesis in a served store."""

    store: StoreProcess
    run: str
    http: TiledHttp

    def shape(self, capsys: pytest.CaptureFixture[str], *arguments: str, run: str = "") -> Done:
        """The command."""
        capsys.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        data = ["--data-dir", str(self.store.folder)]
        try:
            with pytest.raises(SystemExit) as ended:
                main(["shape", run or self.run, *arguments, *data])
        finally:
            signal.signal(signal.SIGTERM, before)
        told = capsys.readouterr()
        return Done(int(ended.value.code or 0), told.out, told.err)


def frame_results(run: str, frame: int, synthesis: Synthesis) -> FrameResults:
    rng = np.random.default_rng(frame)
    curve, row = fitted(synthesis, MOMENTS_S[frame], frame, CONFIG, rng)
    return FrameResults(
        stream="saxs",
        run=run,
        frame=frame,
        time_s=MOMENTS_S[frame],
        results=() if frame == REJECTED else (curve, row),
        rejected=NO_BEAM if frame == REJECTED else None,
        newest=frame,
    )


@pytest.fixture(scope="module")
def stored(store: StoreProcess) -> Iterator[Stored]:
    run, synthesis = f"shape-{uuid.uuid4().hex[:8]}", Synthesis("cs_dopa")
    facts = {"streams": ["saxs"], "config": CONFIG.model_dump(mode="json")}
    with LinkSender(store.link) as sender:
        sender.document(RunDocument(run, "start", facts))
        start = StreamStart(stream="saxs", run=run, kind="curve", shape=(240,), dtype="<f8")
        sender.open(RunStart(run=run, stream=start), (Curve, Populations), timeout_s=30)
        for frame in range(len(MOMENTS_S)):
            sender.send(frame_results(run, frame, synthesis))
        sender.end(StreamEnd("saxs", run, len(MOMENTS_S)))
        sender.document(RunDocument(run, "stop", {"exit_status": "success"}))
        assert sender.flush(30)
    with store.http() as http:
        yield Stored(store, run, http)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_late_frame_through_the_store(stored, capsys):
    """The simulated crystals are spheres of 8.1 +- 0.9 nm: one curve cannot say so by itself.

    Where the spread is given, as microscopy would, it can.
    """
    http = stored.http
    done = stored.shape(capsys, "--frames", "1:3", "--repeats", "2", "--degree", "6")
    assert done.code == 0, done.err
    assert "cannot tell" in done.out
    assert "blurs a shape" in done.out
    path = f"{stored.run}/shape/frames_1_2"
    facts = http.metadata(path)
    assert facts is not None
    assert facts["complete"] is True
    assert facts["frames"] == [1, 2]
    assert facts["spread_max"] >= 0.08

    state = Synthesis("cs_dopa").state(285.0)
    relative = f"{state.nc_sigma_nm / state.nc_diameter_nm:.3f}"
    done = stored.shape(
        capsys, "--frame", "2", "--spread", relative, "--repeats", "3", "--degree", "6"
    )
    assert done.code == 0, done.err
    assert done.out.startswith("frame 2: sphere-like")
    facts = http.metadata(f"{stored.run}/shape/frame_2")
    assert facts is not None
    volume = math.pi / 6 * Synthesis("cs_dopa").state(290.0).nc_diameter_nm ** 3
    assert facts["volume_nm3"] == pytest.approx(volume, rel=0.04)
    assert facts["settings"]["spreads"] == [float(relative)]
    assert facts["settings"]["degree"] == 6

    axis = http.array(f"{stored.run}/shape/frame_2/axis_nm", "", np.float64)
    density = http.array(f"{stored.run}/shape/frame_2/density_mean", "", np.float64)
    assert axis is not None
    assert density is not None
    assert density.size == axis.size**3
    # 27.44e-4 1/nm^2 over the classical electron radius; all of it is in the body.
    assert density.max() == pytest.approx(27.44e-4 / 2.8179403e-6, rel=1e-6)
    electrons = density.sum() * (axis[1] - axis[0]) ** 3
    assert electrons == pytest.approx(facts["volume_nm3"] * density.max(), rel=0.02)
    for name in ("density_std", "q", "intensity", "sigma", "fitted", "coefficients", "spread"):
        assert http.exists(f"{stored.run}/shape/frame_2/{name}"), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_shape_is_replaced_only_when_asked(stored, capsys, monkeypatch):
    quick = ("--frame", "1", "--repeats", "2", "--degree", "2", "--spread", "0.1")
    path = f"{stored.run}/shape/frame_1"
    http = stored.http

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tiled.client.container.Container.write_array", dies)
        assert stored.shape(capsys, *quick).code == 130
    assert not http.exists(path), "half a shape is left"
    assert stored.shape(capsys, *quick).code == 0
    done = stored.shape(capsys, *quick)
    assert done.code == 1
    assert done.err == f"nucleate: {path} is there already: --replace makes it anew\n"
    assert stored.shape(capsys, *quick, "--seed", "7", "--replace").code == 0
    facts = http.metadata(path)
    assert facts is not None
    assert facts["settings"]["seed"] == 7


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected --frame N, or --frames A:B"),
        (("--frame", "1", "--frames", "1:2"), "expected frame or frames, got both"),
        (("--frame", "9"), "has frames 0 to 3, got 9"),
        (("--frame", str(REJECTED)), f"frame {REJECTED} has no curve: {NO_BEAM}"),
        (("--frame", "0"), "saxs frame 0: the fit found no crystals in it"),
    ],
)
def test_what_cannot_be_asked(stored, capsys, arguments, message):
    done = stored.shape(capsys, *arguments)
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert message in line


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_is_not_there(stored, capsys):
    done = stored.shape(capsys, "--frame", "1", run="nowhere")
    assert done.code == 1
    assert "there is no run nowhere" in done.err
