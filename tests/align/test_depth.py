"""Depths for known cameras: the minimum along a ray, sampled against full maps, blocks."""

from __future__ import annotations

import numpy as np
import torch

from easi3r_ns.align import init
from easi3r_ns.align.depth import full_depths, ray_depths, sampled_depths
from easi3r_ns.align.problem import build_problem, sample_pixels
from easi3r_ns.align.state import decode
from easi3r_ns.core.runlog import RunLog
from tests.support.align_scene import make_scene, window_graph


def test_ray_depths_minimise_the_weighted_distance():
    rng = np.random.default_rng(0)
    n, pixels = 7, 11
    points = torch.from_numpy(rng.normal(size=(n, pixels, 3)) * 0.3 + [0.2, -0.1, 3])
    ray = torch.from_numpy(np.concatenate([rng.normal(size=(pixels, 2)) * 0.3, np.ones((pixels, 1))], axis=1))
    weight = torch.from_numpy(rng.uniform(0.1, 2, (n, pixels)))
    square = ray.square().sum(-1)
    along = (points * ray).sum(-1) / square
    across = (points - along[..., None] * ray).square().sum(-1)
    depth = ray_depths(along, across, weight, square)
    candidates = torch.linspace(1, 5, 4001, dtype=torch.float64)[:, None]
    cost = (weight[:, None] * (candidates[..., None] * ray - points[:, None]).norm(dim=-1)).sum(dim=0)
    best = candidates[cost.argmin(dim=0), 0]
    torch.testing.assert_close(depth, best, atol=5e-3, rtol=0)


def test_sampled_and_full_depths_agree():
    scene = make_scene(num_frames=3, graph=window_graph(3))
    problem = build_problem(scene.predictions, sample_pixels(36, 48, 300), scene.principal_point, RunLog())
    state = init.initialise(problem, None, True, RunLog()).state
    now = decode(state, problem.sample.xy, problem.principal_point)
    whole = full_depths(problem, scene.predictions, now).flatten(1)
    torch.testing.assert_close(sampled_depths(problem, now), whole[:, problem.sample.index], rtol=1e-4, atol=0)


def test_depth_blocks_do_not_matter(monkeypatch):
    scene = make_scene(num_frames=3, graph=window_graph(3))
    problem = build_problem(scene.predictions, sample_pixels(36, 48, 300), scene.principal_point, RunLog())
    state = init.initialise(problem, None, True, RunLog()).state
    now = decode(state, problem.sample.xy, problem.principal_point)
    whole = full_depths(problem, scene.predictions, now)
    monkeypatch.setattr("easi3r_ns.align.depth.BLOCK_NUMBERS", 500)
    torch.testing.assert_close(full_depths(problem, scene.predictions, now), whole, rtol=1e-5, atol=0)
