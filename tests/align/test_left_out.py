"""Pairs that are left out together with those in the other order, and frames that are left without a trusted pair."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from easi3r_ns.align.consensus import MOST_WEAK, _neighbours, _weak_frames, _without
from easi3r_ns.align.init import pose_of_points
from easi3r_ns.align.problem import PixelSample, Problem, build_problem, sample_pixels
from easi3r_ns.core.config import AlignConfig
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.runlog import RunLog
from tests.align.test_robust import NUM_FRAMES, run, scene_of
from tests.support.align_scene import AlignScene
from tests.support.hostile_scenes import garbage, with_points

pytestmark = pytest.mark.usefixtures("one_thread")

PIXELS = 4


def random_problem(rng: np.random.Generator) -> Problem:
    """Frames that random ordered pairs connect; every pointmap holds its own row number."""
    count = int(rng.integers(2, 9))
    edges = {(int(rng.integers(0, k)), k)[:: rng.choice([-1, 1])] for k in range(1, count)}
    edges |= {(i, j) for i in range(count) for j in range(count) if i != j and rng.random() < rng.uniform(0, 0.6)}
    edges = torch.tensor(sorted(edges))
    values = torch.arange(2.0 * len(edges))
    sample = PixelSample(torch.arange(PIXELS), torch.zeros(2, PIXELS), (2, PIXELS // 2))
    points = values[:, None, None].expand(-1, 3, PIXELS).clone()
    centre = torch.zeros(count, 2)
    return Problem(edges, torch.arange(len(edges)), count, sample, points, values[:, None].repeat(1, PIXELS), centre)


def test_any_graph_with_any_pairs_left_out():
    """What is left determines every frame: each has a pair, and weak ones are copies of a trusted pointmap."""
    rng, passive = np.random.default_rng(0), 0
    for _ in range(600):
        problem = random_problem(rng)
        edges, frames = problem.edges, problem.num_frames
        bad = torch.from_numpy(rng.random(len(edges)) < rng.uniform(0, 1))
        weak = _weak_frames(edges[~bad].numpy(), frames)
        if not bad.any() or len(weak) > MOST_WEAK * frames or bad.all():
            continue
        near = _neighbours(problem, weak)
        assert set(near) == set(weak) and not set(near.values()) & set(weak)
        reduced, rows = _without(problem, bad, near)
        left = reduced.edges.numpy()
        assert set(left.ravel().tolist()) >= set(weak)
        strong = [row for row in range(len(edges)) if not bad[row] and not set(edges[row].tolist()) & set(weak)]
        assert set(strong) <= set(rows.tolist())
        together = connected_components(coo_array((np.ones(len(left)), left.T), shape=(frames, frames)), directed=False)
        assert together[0] == 1
        for place, row in enumerate(rows.tolist()):
            first, second = (int(reduced.points[at, 0, 0]) for at in (place, place + len(rows)))
            if set(edges[row].tolist()) & set(weak):
                assert first == second and not bad[first % len(edges)]
                assert problem.frame[first] in near.values()
                passive += first >= len(edges)
            else:
                assert (first, second) == (row, row + len(edges)) and not bad[row]
    assert passive > 10  # the case that had no pointmap of its own


def never_first(scene: AlignScene, frame: int) -> AlignScene:
    """The frame is right wherever it is the other view, and its pairs as the reference view are misplaced."""
    edges = scene.predictions.graph.edges

    def change(points_i, conf_i, points_j, conf_j):
        turns = Rotation.random(len(edges), random_state=0).as_matrix()
        for row in np.flatnonzero(edges[:, 0] == frame):
            points_j[row] = points_j[row] @ torch.from_numpy(turns[row]).float().T + points_j[row].norm(dim=-1).mean()

    return with_points(scene, change)


@pytest.mark.slow
@pytest.mark.parametrize("black", [(7,), (6, 7)], ids=str)
def test_black_frames_beside_one_that_is_never_a_trusted_reference(black):
    scene = scene_of()
    beside = black[0] - 1
    spoilt = never_first(garbage(scene, [(k, n) for k in black for n in range(NUM_FRAMES)], 1.1), beside)
    result = run(spoilt, RunLog())
    assert result.diagnostics.weak_frames == black
    strong = [k for k in range(NUM_FRAMES) if k not in black]
    first = strong[0]
    truth = np.linalg.inv(scene.T_world_cam[first]) @ scene.T_world_cam[strong]
    found = np.linalg.inv(result.T_world_cam[first]) @ result.T_world_cam[strong]
    scale = np.median(scene.depth[strong] / result.depth[strong])
    assert np.linalg.norm(scale * found[:, :3, 3] - truth[:, :3, 3], axis=1).max() < 0.12
    assert Rotation.from_matrix(np.swapaxes(truth, 1, 2)[:, :3, :3] @ found[:, :3, :3]).magnitude().max() < 0.02


def test_the_pose_of_the_other_view():
    scene = scene_of(noise=0.0)
    problem = build_problem(scene.predictions, sample_pixels(30, 40, 0), scene.principal_point, RunLog())
    for row, (i, j) in enumerate(problem.edges.tolist()):
        pose = pose_of_points(problem, row, j).numpy()
        truth = np.linalg.inv(scene.T_world_cam[i]) @ scene.T_world_cam[j]
        np.testing.assert_allclose(pose[:3, :3], truth[:3, :3], atol=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_pointmaps_of_noise_are_an_error_or_a_result(seed):
    """What weights with random values predict, whatever it is: no other exception."""

    def change(points_i, conf_i, points_j, conf_j):
        generator = torch.Generator().manual_seed(seed)
        for points in (points_i, points_j):
            points += (0.3 + 0.3 * seed) * torch.randn(points.shape[0], 1, 1, 3, generator=generator)

    few_steps = AlignConfig(iterations=5, flow_weight=0.0)
    with contextlib.suppress(AlignmentError):
        result = run(with_points(scene_of(num_frames=5), change), RunLog(), few_steps)
        assert (result.focals > 0).all() and len(result.T_world_cam) == 5
