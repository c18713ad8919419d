"""Uncertainty of cameras and focal length: calibrated on noise of known kinds, exact where a slow twin can tell."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from easi3r_ns.align import align as package
from easi3r_ns.align import uncertainty
from easi3r_ns.align.align import align
from easi3r_ns.align.problem import Problem
from easi3r_ns.align.solvers.frontal import NotPositiveDefinite
from easi3r_ns.align.solvers.unknowns import CAMERA, PAIR, Numbering, Unknowns, moved
from easi3r_ns.align.state import Decoded
from easi3r_ns.align.uncertainty import camera_uncertainty, influence, similarity_free
from easi3r_ns.core.config import AlignConfig, DatasetConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import CameraUncertainty, rescale_scene
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.report.measures import measure
from easi3r_ns.report.verdict import Level, judge
from tests.support import dataset_scene
from tests.support.align_scene import AlignScene, make_scene, smooth_field, window_graph
from tests.support.hostile_scenes import garbage, with_points

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = AlignConfig(iterations=60, flow_weight=0.0)


def scene_of(frames: int = 6, **options) -> AlignScene:
    options.setdefault("graph", window_graph(frames, (1, 2, 3)) if frames > 3 else window_graph(frames))
    return make_scene(num_frames=frames, size=(24, 32), focal=34.0, **options)


def solved(scene: AlignScene, monkeypatch, **options) -> tuple[package.AlignResult, Problem, Decoded]:
    """The result, and the optimiser's last state."""
    seen = {}
    diagnose = package.diagnose

    def keep(problem, decoded, *rest):
        seen["state"] = (problem, decoded)
        return diagnose(problem, decoded, *rest)

    monkeypatch.setattr(package, "diagnose", keep)
    result = align(scene.predictions, principal_point=scene.principal_point, config=CONFIG, log=RunLog(), **options)
    return result, *seen["state"]


def errors(scene: AlignScene, result: package.AlignResult) -> np.ndarray:
    """(F, 2) shift and turn (degrees) of every camera against the truth, in the result's units and gauge."""
    truth = np.linalg.inv(scene.T_world_cam[0]) @ scene.T_world_cam
    truth[:, :3, 3] *= np.median(result.depth / scene.depth)
    off = np.zeros((len(truth), 2, 3))
    off[:, 0] = result.T_world_cam[:, :3, 3] - truth[:, :3, 3]
    turned = result.T_world_cam[:, :3, :3] @ np.swapaxes(truth[:, :3, :3], 1, 2)
    off[:, 1] = Rotation.from_matrix(turned).as_rotvec()
    every = torch.arange(len(truth))
    P = similarity_free(torch.from_numpy(truth[:, :3, 3].copy()), float(np.median(result.depth)), every).numpy()
    return np.linalg.norm((P @ off.ravel()).reshape(off.shape), axis=2) * [1, 180 / np.pi]


def with_errors_of_images(scene: AlignScene, size: float, seed: int) -> AlignScene:
    """Every image is bent in one way in all its pairs, besides the noise of the pairs."""
    edges = scene.predictions.graph.edges

    def bend(points_i, conf_i, points_j, conf_j):
        rng = np.random.default_rng([seed, 7])
        fields = [torch.from_numpy(smooth_field(*points_i.shape[1:3], rng)).float() for _ in scene.depth]
        for row, j in enumerate(edges[:, 1].tolist()):
            points_j[row] *= (1 + size * fields[j])[..., None]

    return with_points(scene, bend)


KINDS = {
    "pairs err alone": (dict(noise=0.02), 0.0, 6),
    "on the spot": (dict(noise=0.02, travel=0.0), 0.0, 5),
    "images err in all their pairs": (dict(noise=0.01), 0.02, 6),
    "two frames": (dict(frames=2, noise=0.02), 0.0, 10),
}


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_as_large_as_is_said(kind, monkeypatch):
    """Root mean square of error over sigma, over runs: 1 if perfect. Loose: runs and pairs are few."""
    options, bent, runs = KINDS[kind]
    off, said, focal = [], [], []
    for seed in range(runs):
        scene = scene_of(seed=seed, **options)
        scene = with_errors_of_images(scene, bent, seed) if bent else scene
        result, *_ = solved(scene, monkeypatch)
        found = result.uncertainty
        off.append(errors(scene, result))
        said.append(np.stack([found.centre, found.rotation_deg], axis=1))
        focal.append([result.focals[0] - scene.focal, found.focal[0]])
    ratio = np.sqrt(np.mean(np.square(off), axis=(0, 1)) / np.mean(np.square(said), axis=(0, 1)))
    assert (0.4 < ratio).all() and (ratio < 2.5).all(), ratio
    focal_error, focal_said = np.sqrt(np.mean(np.square(focal), axis=0))
    assert focal_error < 2.5 * focal_said


def test_more_noise_less_sure(monkeypatch):
    small, large = (solved(scene_of(noise=noise), monkeypatch)[0].uncertainty for noise in (0.01, 0.04))
    for name in ("rotation_deg", "centre", "focal", "residual"):
        ratio = np.median(getattr(large, name) / getattr(small, name))
        assert 2.5 < ratio < 6, name


def test_known_focal_and_focal_per_frame(monkeypatch):
    scene = scene_of(noise=0.01)
    known = solved(scene, monkeypatch, focal=scene.focal)[0].uncertainty
    assert not known.focal.any() and (known.centre > 0).all()
    single = replace(CONFIG, shared_focal=False)
    each = align(scene.predictions, principal_point=scene.principal_point, config=single, log=RunLog()).uncertainty
    assert np.ptp(each.focal) > 0 and (each.focal > 0).all()


def test_a_frame_that_nothing_holds_is_infinitely_uncertain(monkeypatch):
    scene = garbage(scene_of(), [(4, k) for k in range(6)], 1.1)
    found = solved(scene, monkeypatch)[0].uncertainty
    for values in (found.centre, found.rotation_deg):
        np.testing.assert_array_equal(np.isinf(values), np.arange(6) == 4)
    assert np.isnan(found.residual[4]) and np.isfinite(np.delete(found.residual, 4)).all()


def test_the_world_does_not_matter(monkeypatch):
    """Seen from elsewhere, in other units: the same degrees and pixels, centres in the other unit."""
    _, problem, decoded = solved(scene_of(noise=0.02), monkeypatch)
    R, t, s = torch.from_numpy(Rotation.from_rotvec([0.4, -1.0, 0.3]).as_matrix()).float(), torch.tensor([1.0, 2, 3]), 3
    other = replace(
        decoded,
        R=R @ decoded.R,
        centre=s * decoded.centre @ R.T + t,
        depth=s * decoded.depth,
        pair_A=s * R @ decoded.pair_A,
        pair_b=s * decoded.pair_b @ R.T + t,
    )
    here, there = (camera_uncertainty(problem, d, 1, (), RunLog()) for d in (decoded, other))
    np.testing.assert_allclose(there.rotation_deg, here.rotation_deg, rtol=1e-2)
    np.testing.assert_allclose(there.centre, s * here.centre, rtol=1e-2)
    np.testing.assert_allclose(there.focal, here.focal, rtol=1e-2)
    np.testing.assert_allclose(there.residual, here.residual, rtol=1e-3)


def test_too_long_a_clip_is_not_judged(monkeypatch):
    monkeypatch.setattr(uncertainty, "LARGEST", 100)
    assert solved(scene_of(), monkeypatch)[0].uncertainty is None


def test_what_nothing_determines_has_no_estimate(monkeypatch):
    """Neither an exception nor NaN."""

    def fail(*args):
        raise NotPositiveDefinite("no pivot")

    for broken in (
        fail,
        lambda cliques, last, damping, right: right.new_full((len(last), 1 + right.shape[1]), torch.nan),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(uncertainty, "solve_frontal", broken)
            assert solved(scene_of(), patch)[0].uncertainty is None


@pytest.mark.parametrize("frames", [2, 3, 6])
def test_exact_pointmaps_are_nearly_certain(frames, monkeypatch):
    found = solved(scene_of(frames, noise=0.0), monkeypatch)[0].uncertainty
    assert found.rotation_deg.max() < 0.05 and found.centre.max() < 0.01 and found.focal.max() < 0.1


def test_the_gauge_is_taken_out():
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    P = similarity_free(centre, 2.0, torch.tensor([0, 1, 3, 4]))
    torch.testing.assert_close(P @ P, P)
    turn, shift = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0])
    off = torch.zeros(5, 2, 3, dtype=torch.float64)
    off[:, 0] = torch.linalg.cross(turn.expand(5, 3), centre) + shift + 0.05 * centre
    off[:, 1] = turn
    assert (P @ off.flatten()).abs().max() < 1e-9
    alone = torch.zeros(5, 2, 3, dtype=torch.float64)
    alone[1, 0, 0] = 1.0
    assert (P @ alone.flatten()).view(5, 2, 3)[1, 0, 0] > 0.4
    same = similarity_free(torch.zeros(5, 3, dtype=torch.float64), 2.0, torch.arange(5))
    assert torch.linalg.matrix_rank(same) == 30 - 6, "without travel the path has no scale"


def _influence_naive(problem: Problem, u: Unknowns, numbering: Numbering) -> torch.Tensor:
    """All unknowns and depths in one dense system, derivatives by autograd."""
    frames, pixels, pairs = numbering.frames, u.depth.shape[1], numbering.pairs
    count = numbering.size + frames * pixels

    def residuals(step: torch.Tensor) -> torch.Tensor:
        v = moved(u, step[: numbering.size], problem.edges, numbering)
        depth = u.depth * (1 + step[numbering.size :].view(frames, pixels))
        planar = (problem.sample.xy - problem.principal_point[:, :, None]) / v.log_focal.exp()[:, None, None]
        local = torch.cat([planar, torch.ones_like(planar[:, :1])], dim=1) * depth[:, None]
        seen = v.pair_A[problem.pair] @ problem.points.double() + v.pair_b[problem.pair][:, :, None]
        return v.R[problem.frame].transpose(1, 2) @ (seen - v.centre[problem.frame][:, :, None]) - local[problem.frame]

    zero = torch.zeros(count, dtype=torch.float64)
    r = residuals(zero)
    J = torch.autograd.functional.jacobian(residuals, zero)
    distance = r.norm(dim=1)
    usual = torch.stack([distance[problem.frame == f].median() for f in range(frames)])[problem.frame, None]
    weight = torch.where(problem.confidence > 0, problem.weight.double() + 1e-6, 0.0)
    curvature = weight / distance.maximum(uncertainty.CURVATURE_FLOOR * usual)
    slope = (weight / distance.maximum(uncertainty.GRADIENT_FLOOR * usual))[:, None] * r
    H = torch.einsum("oapn,op,oapm->nm", J, curvature, J)
    pulls = torch.einsum("oapn,oap->on", J, slope)
    _, cluster = torch.unique(problem.edges.sort(dim=1).values, dim=0, return_inverse=True)
    g = torch.zeros(int(cluster.max()) + 1, count, dtype=torch.float64).index_add_(0, cluster.repeat(2), pulls)
    free = torch.arange(CAMERA, count)
    gauge = torch.zeros(count, dtype=torch.float64)
    gauge[numbering.scales] = 1
    size = len(free)
    K = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    K[:size, :size], K[:size, size], K[size, :size] = H[free][:, free], gauge[free], gauge[free]
    X = torch.linalg.solve(K, torch.cat([g[:, free].T, torch.zeros(1, len(g))]))[:size]
    out = torch.zeros(CAMERA * frames + numbering.focals, len(g), dtype=torch.float64)
    out[CAMERA : CAMERA * frames] = X[: CAMERA * (frames - 1)]
    focals = numbering.size - CAMERA - numbering.focals
    out[CAMERA * frames :] = X[focals : focals + numbering.focals]
    assert pairs * PAIR + CAMERA * (frames - 1) == focals
    return out * (len(g) / (len(g) - 1)) ** 0.5


@pytest.mark.parametrize("focals", [0, 1, 4])
def test_influence_equals_its_slow_twin(focals, monkeypatch):
    scene = make_scene(num_frames=4, size=(16, 16), focal=20.0, noise=0.02, graph=window_graph(4, (1, 2, 3)))
    _, problem, decoded = solved(scene, monkeypatch)
    monkeypatch.setattr(uncertainty, "PIXELS", 12)
    thin, u = uncertainty._thinned(problem, decoded)
    numbering = Numbering(4, len(problem.edges), focals)
    fast, related = influence((thin, u), numbering)
    slow = _influence_naive(thin, u, numbering)
    assert fast.shape == (24 + focals, 6) and related.sum() == 36 - 6, "each of 6 pairs shares no image with one other"
    torch.testing.assert_close(fast, slow, rtol=0, atol=3e-5 * float(slow.abs().max()))


# What becomes of it


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    scene = dataset_scene.make_scene(tmp_path_factory.mktemp("room"), (160, 120), 12)[0]
    sigma = np.linspace(0.01, 0.02, 12)
    return replace(scene, uncertainty=CameraUncertainty(10 * sigma, sigma, np.full(12, 1.5), 100 * sigma))


def test_units(room):
    scaled = rescale_scene(room, 2.5).uncertainty
    np.testing.assert_allclose(scaled.centre, 2.5 * room.uncertainty.centre)
    for name in ("rotation_deg", "focal", "residual"):
        np.testing.assert_array_equal(getattr(scaled, name), getattr(room.uncertainty, name))
    assert rescale_scene(replace(room, uncertainty=None), 2.0).uncertainty is None


def test_it_is_written_and_read(room, tmp_path):
    endless = room.uncertainty.centre.copy()
    endless[3] = np.inf
    scene = replace(room, uncertainty=replace(room.uncertainty, centre=endless))
    write_dataset(scene, tmp_path / "out", DatasetConfig(num_downscales=0), RunLog())
    meta = json.loads((tmp_path / "out" / "transforms.json").read_text())
    assert meta["fl_x_sigma"] == pytest.approx(1.5 / scene.pixel_map.scale_xy[0])
    first, third = meta["frames"][0]["uncertainty"], meta["frames"][3]["uncertainty"]
    assert first == {"rotation_deg": 0.1, "position": 0.01, "residual_percent": 1.0}
    assert third["position"] is None and third["rotation_deg"] > 0
    back = find_scene(tmp_path / "out").uncertainty
    for name in ("rotation_deg", "centre", "focal", "residual"):
        np.testing.assert_array_equal(getattr(back, name), getattr(scene.uncertainty, name))
    write_dataset(replace(room, uncertainty=None), tmp_path / "bare", DatasetConfig(num_downscales=0), RunLog())
    bare = json.loads((tmp_path / "bare" / "transforms.json").read_text())
    assert "fl_x_sigma" not in bare and not any("uncertainty" in frame for frame in bare["frames"])


def sigma_of(centre: float, degrees: float, lost: int = 0) -> CameraUncertainty:
    values = np.full(12, centre), np.full(12, degrees)
    for v in values:
        v[:lost] = np.inf
    return CameraUncertainty(values[1], values[0], np.ones(12), np.ones(12))


@pytest.mark.parametrize(
    ("centre", "degrees", "lost", "reasons"),
    [
        (0.001, 0.1, 0, set()),
        (0.1, 0.1, 0, {"position_sigma"}),
        (0.001, 4.0, 0, {"rotation_sigma"}),
        (0.001, 0.1, 2, {"unconstrained"}),
    ],
)
def test_the_verdict_says_what_is_uncertain(room, centre, degrees, lost, reasons):
    unit = measure(room).unit
    verdict = judge(measure(replace(room, uncertainty=sigma_of(centre * unit, degrees, lost))).measures)
    assert {check.rule.key for check in verdict.against} == reasons
    assert verdict.level is (Level.CARE if reasons else Level.TRAIN)


def test_background_without_parallax_is_measured(room):
    T = room.T_world_cam.copy()
    T[:, :3, 3] = T[0, :3, 3]
    turning = measure(replace(room, T_world_cam=T)).measures
    assert turning.no_parallax == 1.0 and measure(room).measures.no_parallax < 0.1
    assert "no_parallax" in {check.rule.key for check in judge(turning).against}


def test_a_scene_without_estimate_is_not_judged(room):
    m = measure(replace(room, uncertainty=None)).measures
    assert m.position_sigma is None and m.rotation_sigma is None and m.unconstrained == 0
    assert judge(m).level is Level.TRAIN
