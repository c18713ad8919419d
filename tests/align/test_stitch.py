"""Windows that were aligned one by one become one scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.align.align import AlignDiagnostics, AlignResult
from easi3r_ns.align.long.overlap import PointMatches, robust_similarity
from easi3r_ns.align.long.packing import pack_result, unpack_result
from easi3r_ns.align.long.posegraph import Link, chain_overlaps, residuals, solve_pose_graph
from easi3r_ns.align.long.stitch import AlignedWindows, link_of, overlap_links, stitch
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.geometry import is_rigid
from easi3r_ns.core.pairs import attach_frames, make_pairs
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import CameraUncertainty
from easi3r_ns.core.similarity import Similarity
from easi3r_ns.core.types import PairGraph
from easi3r_ns.core.windows import cut_windows
from tests.core.test_similarity import assert_same, random_similarity
from tests.support.align_scene import smooth_field, trajectory_errors
from tests.support.helpers import align_sim3
from tests.support.long_clip import drifting

SIZE = (18, 24)
FOCAL = 22.0
GRAPH = "swinstride-3-noncyclic"
CAMERA = {"principal_point": np.array([11.5, 8.5]), "pixel_aspect": 1.0}


def ring(num_frames: int, radius: float = 3.0) -> np.ndarray:
    """(F, 4, 4) a closed path around a point that the cameras look at; the last frame stands where the first does."""
    angle = np.linspace(0, 2 * np.pi, num_frames)
    T = np.tile(np.eye(4), (num_frames, 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec(np.outer(-angle, [0, 1, 0])).as_matrix()
    T[:, :3, 3] = radius * np.stack([np.sin(angle), 0.1 * np.sin(2 * angle), -np.cos(angle)], axis=1)
    return T


def make_windows(
    T: np.ndarray,
    scales: np.ndarray,
    graph: PairGraph,
    size: int,
    *,
    num_views: int = 0,
    noise: float = 0.0,
    seed: int = 0,
) -> AlignedWindows:
    """Every window sees the path and the depths (about 4 units times ``scales``) in its own world and unit."""
    rng = np.random.default_rng(seed)
    depth = np.stack([4 + smooth_field(*SIZE, rng) for _ in T]).clip(1) * scales[:, None, None]
    plan = cut_windows(graph, size, num_views)
    results = []
    for window in plan.windows:
        unit = rng.uniform(0.3, 3.0)
        cameras = np.linalg.inv(T[window.frames[0]]) @ T[window.frames]
        cameras[:, :3, 3] *= unit
        seen = depth[window.frames] * (1 + noise * rng.standard_normal((len(window.frames), *SIZE)))
        results.append(
            AlignResult(
                T_world_cam=cameras,
                focals=np.full(len(cameras), FOCAL),
                depth=(unit * seen).astype(np.float32),
                confidence=rng.uniform(1.5, 5, seen.shape).astype(np.float32),
                contradicted=np.zeros(seen.shape, bool),
                pair_scales=np.full(len(window.rows), unit),
                loss_curve=np.array([1.0, 0.5]),
                diagnostics=AlignDiagnostics(("tree",) * len(cameras), (), 0.5, 100, None, (FOCAL,) * len(cameras)),
            )
        )
    masks = np.zeros((len(T), *SIZE), bool)
    return AlignedWindows(plan.windows, results.__getitem__, masks=masks, num_pairs=len(graph), seed=seed, **CAMERA)


def join(aligned: AlignedWindows, loops: list[Link] | None = None, log: RunLog | None = None) -> AlignResult:
    log = log or RunLog()
    return stitch(aligned, overlap_links(aligned, log), loops or [], log).result


def true_loop(aligned: AlignedWindows, T: np.ndarray, p: int, q: int) -> Link:
    """What a pair of frames far apart would say about their windows: where q stands, seen from p, and how large.

    Both see their depths in the unit of the truth (about 4), whatever their windows made of it.
    """
    (a, at_a), (b, at_b) = aligned.main_window(p), aligned.main_window(q)
    to_truth = []
    for k, position, frame in ((a, at_a, p), (b, at_b, q)):
        result = aligned.load(k)
        scale = 4.0 / float(np.median(result.depth[position]))
        R = T[frame, :3, :3] @ result.T_world_cam[position, :3, :3].T
        t = T[frame, :3, 3] - scale * R @ result.T_world_cam[position, :3, 3]
        to_truth.append(Similarity(scale, R, t))
    between_windows = to_truth[0].inverse().after(to_truth[1])
    return link_of(a, b, between_windows, 0.01, (aligned.load(b), at_b), (p, q))


def ate(result: AlignResult, T: np.ndarray) -> float:
    return trajectory_errors(result.T_world_cam, T)["ate"]


def test_windows_of_one_world_come_back_as_they_were():
    T = ring(40)
    aligned = make_windows(T, np.ones(40), make_pairs(GRAPH, 40), 16)
    assert len(aligned.windows) > 2
    result = join(aligned)
    assert ate(result, T) < 1e-5 and is_rigid(result.T_world_cam, 1e-9)
    np.testing.assert_array_equal(result.T_world_cam[0], np.eye(4))
    unit = aligned.load(0).depth[0, 0, 0] / result.depth[0, 0, 0]
    assert unit == pytest.approx(1, abs=1e-5), "the unit is that of the first window"
    first_scale = aligned.load(0).pair_scales[0]
    np.testing.assert_allclose(result.pair_scales, first_scale, rtol=1e-4)
    np.testing.assert_allclose(result.focals, FOCAL)
    assert result.diagnostics.registered_by == ("tree",) * 40 and len(result.diagnostics.focal_estimates) == 40
    assert result.diagnostics.turn > 170, "half the way around the whole path, not within a window"


def test_depths_belong_to_their_cameras():
    T = ring(30)
    aligned = make_windows(T, np.ones(30), make_pairs(GRAPH, 30), 12)
    result = join(aligned)
    scale = align_sim3(result.T_world_cam[:, :3, 3], T[:, :3, 3]).scale
    rng = np.random.default_rng(0)
    truth = np.stack([4 + smooth_field(*SIZE, rng) for _ in T]).clip(1)
    np.testing.assert_allclose(result.depth * scale, truth, rtol=1e-4)


def test_movers_and_outliers_do_not_tear_the_seams():
    T = ring(30)
    aligned = make_windows(T, np.ones(30), make_pairs(GRAPH, 30), 12, noise=0.01)
    aligned.masks[:, :, :15] = True
    rng, clean = np.random.default_rng(1), aligned.load

    def load(k: int) -> AlignResult:
        depth = clean(k).depth.copy()
        depth[:, :, :15] *= 1 + 0.5 * k  # what moves is seen elsewhere by every window
        outliers = rng.random(depth.shape) < 0.2
        depth[outliers] *= rng.uniform(0.3, 3, outliers.sum()).astype(np.float32)
        return replace(clean(k), depth=depth)

    spoilt = replace(aligned, load=load)
    assert ate(join(spoilt), T) < 0.02
    everything_counts = replace(spoilt, masks=np.zeros_like(aligned.masks))
    assert ate(join(everything_counts), T) > 0.1


def test_a_path_that_drifts_is_joined_without_more_drift():
    T, scales = drifting(ring(60), turn=0.004, growth=0.004)
    aligned = make_windows(T, scales, make_pairs(GRAPH, 60), 18, noise=0.003)
    result = join(aligned)
    assert ate(result, T) < 0.02
    steps = np.linalg.norm(np.diff(result.T_world_cam[:, :3, 3], axis=0), axis=1)
    true_steps = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    ratio = steps / true_steps
    assert ratio.max() / ratio.min() < 1.1, "no step jumps at a seam"


def test_a_loop_closes_the_drift():
    truth = ring(60)
    T, scales = drifting(truth, turn=0.004, growth=0.004)
    aligned = make_windows(T, scales, make_pairs(GRAPH, 60), 18, noise=0.003)
    before = ate(join(aligned), truth)
    loops = [true_loop(aligned, truth, p, q) for p, q in ((0, 59), (2, 57))]
    after = join(aligned, loops)
    assert before > 0.2
    assert ate(after, truth) < 0.25 * before
    gap = [np.linalg.norm(r.T_world_cam[59, :3, 3] - r.T_world_cam[0, :3, 3]) for r in (join(aligned), after)]
    assert gap[1] < 0.2 * gap[0]
    growth = [np.median(r.depth[59]) / np.median(r.depth[0]) for r in (join(aligned), after)]
    assert abs(np.log(growth[1])) < 0.3 * abs(np.log(growth[0])), "the scale drift goes too"


def test_what_is_said_in_scene_units_follows_the_loops():
    truth = ring(60)
    T, scales = drifting(truth, turn=0.004, growth=0.004)
    aligned = make_windows(T, scales, make_pairs(GRAPH, 60), 18)
    ones = [np.ones(18)] * 3

    def load(k: int) -> AlignResult:
        depth = np.median(aligned.load(k).depth, axis=(1, 2)).astype(float)
        return replace(aligned.load(k), uncertainty=CameraUncertainty(ones[0], 0.01 * depth, *ones[1:]))

    loops = [true_loop(aligned, truth, p, q) for p, q in ((0, 59), (2, 57))]
    result = join(replace(aligned, load=load), loops)
    share = result.uncertainty.centre / np.median(result.depth, axis=(1, 2))
    np.testing.assert_allclose(share, 0.01, rtol=0.05)
    last, window = aligned.load(len(aligned.windows) - 1), aligned.windows[-1]
    unit = np.median(result.depth[59] / last.depth[-1])
    np.testing.assert_allclose(result.pair_scales[window.own] / last.pair_scales[0], unit, rtol=1e-3)


def test_a_wrong_loop_is_outvoted():
    truth = ring(60)
    T, scales = drifting(truth, turn=0.004, growth=0.004)
    aligned = make_windows(T, scales, make_pairs(GRAPH, 60), 18, noise=0.003)
    good = [true_loop(aligned, truth, p, q) for p, q in ((0, 59), (1, 58), (2, 57))]
    odd = true_loop(aligned, truth, 4, 55)
    turned = Similarity(1.5, Rotation.from_euler("x", 40, degrees=True).as_matrix(), np.array([1.0, 2, 0]))
    wrong = replace(odd, similarity=turned.after(odd.similarity))
    log = RunLog()
    stitched = stitch(aligned, overlap_links(aligned, log), [*good, wrong], log)
    assert stitched.facts["loops_refused"] == [[4, 55]] and len(stitched.facts["loops"]) == 3
    assert ate(stitched.result, truth) == pytest.approx(ate(join(aligned, good), truth), rel=1e-3)


def test_windows_without_a_common_point_are_named():
    aligned = make_windows(ring(40), np.ones(40), make_pairs(GRAPH, 40), 16)
    empty = replace(aligned.load(2), depth=np.zeros_like(aligned.load(2).depth))
    broken = replace(aligned, load=lambda k: empty if k == 2 else aligned.load(k))
    with pytest.raises(AlignmentError, match=f"{aligned.windows[2]} cannot be joined .* --window"):
        join(broken)


def test_windows_that_disagree_are_said():
    T = ring(30)
    aligned = make_windows(T, np.ones(30), make_pairs(GRAPH, 30), 12, noise=0.3)
    log = RunLog()
    join(aligned, log=log)
    assert any("disagree" in warning and "frames" in warning for warning in log.warnings)


def test_evaluation_views_are_placed_by_the_frames_they_are_paired_with():
    T = np.concatenate([ring(40), ring(46)[3:9]])
    graph = attach_frames(make_pairs(GRAPH, 40), 6)
    aligned = make_windows(T, np.ones(46), graph, 16, num_views=6, noise=0.003)
    result = join(aligned)
    assert ate(result, T) < 0.02 and len(result.depth) == 46
    assert result.diagnostics.registered_by == ("tree",) * 46
    loops = [true_loop(aligned, T, 0, 39)]
    assert ate(join(aligned, loops), T) < 0.05


# The fits and the graph below


def test_robust_similarity_survives_outliers_and_agrees_without(rng):
    truth, x = random_similarity(rng), rng.normal(size=(400, 3)) + [0, 0, 6]
    y = truth.points(x)
    data = PointMatches(x, y.copy(), np.full(400, 6 * truth.scale), np.ones(400))
    assert_same(robust_similarity(data).similarity, truth, atol=1e-6)
    data.target[:160] += rng.normal(size=(160, 3)) * 5
    fit = robust_similarity(data)
    assert_same(fit.similarity, truth, atol=1e-5)
    assert fit.inliers == pytest.approx(0.6, abs=0.05) and fit.residual < 1e-3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_too_little_to_fit_gives_none(rng):
    x = rng.normal(size=(10, 3))
    assert robust_similarity(PointMatches(x, x, np.ones(10), np.ones(10))) is None
    point = np.ones((100, 3))
    assert robust_similarity(PointMatches(point, point, np.ones(100), np.ones(100))) is None
    lost = np.full((100, 3), np.nan)
    assert robust_similarity(PointMatches(lost, lost, np.ones(100), np.ones(100))) is None


def links_of(worlds: list[Similarity], pairs: list[tuple[int, int]]) -> list[Link]:
    return [Link(a, b, worlds[a].inverse().after(worlds[b]), 0.01, np.array([0.1, 0.2, 3.0]), 3.0) for a, b in pairs]


def test_chain_and_pose_graph_find_the_worlds(rng):
    worlds = [Similarity.identity(), *(random_similarity(rng) for _ in range(4))]
    links = links_of(worlds, [(0, 1), (1, 2), (2, 3), (3, 4), (1, 3)])
    found = chain_overlaps(5, links)
    for a, b in zip(found, worlds):
        assert_same(a, b, atol=1e-8)
    np.testing.assert_allclose(
        residuals(
            (np.array([s.scale for s in worlds]), np.stack([s.R for s in worlds]), np.stack([s.t for s in worlds])),
            links,
        ),
        0,
        atol=1e-8,
    )
    off = [s if k == 0 else Similarity(1.1 * s.scale, s.R, s.t + 0.1) for k, s in enumerate(worlds)]
    solved, refused = solve_pose_graph(off, links)
    assert not refused
    for a, b in zip(solved, worlds):
        assert_same(a, b, atol=1e-4)


def test_a_window_without_links_is_not_placed(rng):
    worlds = [Similarity.identity(), *(random_similarity(rng) for _ in range(2))]
    assert chain_overlaps(3, links_of(worlds, [(0, 1)]))[2] is None


def test_an_alignment_survives_the_disk():
    result = make_windows(ring(20), np.ones(20), make_pairs(GRAPH, 20), 12).load(0)
    diagnostics = replace(result.diagnostics, dropped_pairs=((1, 2), (2, 1)), final_flow=0.25)
    result = replace(result, diagnostics=diagnostics)
    back = unpack_result(pack_result(result) | {"something else": pack_result(result)["depth"]})
    assert back.diagnostics == diagnostics
    for name in ("T_world_cam", "focals", "depth", "confidence", "contradicted", "pair_scales", "loss_curve"):
        np.testing.assert_array_equal(getattr(back, name), getattr(result, name))
