"""A synthetic scene with known cameras and depth for the tests of the alignment, and the scores of a trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from easi3r_ns.core.types import PairFlow, PairGraph, PairPredictions
from tests.support.helpers import align_sim3


@dataclass(frozen=True)
class AlignScene:
    """Ground truth and what a network with some noise would predict of it."""

    T_world_cam: np.ndarray
    depth: np.ndarray
    focal: float
    principal_point: np.ndarray
    predictions: PairPredictions
    flow: PairFlow


def window_graph(num_frames: int, offsets: tuple[int, ...] = (1, 3)) -> PairGraph:
    """Neighbours at the given distances, both directions."""
    pairs = {(i, i + o) for i in range(num_frames) for o in offsets if i + o < num_frames}
    edges = np.array(sorted(pairs | {(j, i) for i, j in pairs}), dtype=np.int64)
    return PairGraph(edges, num_frames)


def camera_path(num_frames: int, travel: float, rng: np.random.Generator) -> np.ndarray:
    """(F, 4, 4) hand-held path: sideways and forward motion with small turns; ``travel`` in scene units."""
    t = np.linspace(0, 1, num_frames)
    angles = np.stack([0.05 * np.sin(3 * t), -0.25 * t, 0.03 * np.cos(5 * t)], axis=-1)
    T = np.tile(np.eye(4), (num_frames, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("xyz", angles + 0.003 * rng.normal(size=angles.shape)).as_matrix()
    T[:, :3, 3] = travel * np.stack([t, 0.25 * np.sin(4 * t), 0.4 * t**2], axis=-1)
    return T


def smooth_field(height: int, width: int, rng: np.random.Generator, waves: int = 6) -> np.ndarray:
    """(H, W) smooth random field of about unit variance."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    k, phase = rng.uniform(1, 9, (waves, 2)), rng.uniform(0, 6.3, waves)
    return sum(np.sin(a * x + b * y + p) for (a, b), p in zip(k, phase)) / np.sqrt(waves / 2)


def make_scene(
    *,
    num_frames: int = 6,
    size: tuple[int, int] = (36, 48),
    focal: float = 50.0,
    aspect: float = 1.0,
    principal_point: tuple[float, float] | None = None,
    travel: float = 1.0,
    noise: float = 0.01,
    seed: int = 0,
    graph: PairGraph | None = None,
    dtype: torch.dtype = torch.float32,
    T_world_cam: np.ndarray | None = None,
) -> AlignScene:
    """Every frame sees its own smooth depth map; pairs see it through the true cameras, at a random scale, with noise.

    The depth maps of different frames are independent surfaces: no consistency between views is needed for the
    pairwise terms, only that both pointmaps of a pair share the pair's frame.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    pp = np.array(principal_point if principal_point is not None else (width / 2, height / 2))
    graph = graph if graph is not None else window_graph(num_frames)
    path = camera_path(num_frames, travel, rng)
    T = path if T_world_cam is None else T_world_cam
    depth = np.stack([4 + 0.8 * smooth_field(height, width, rng) for _ in range(num_frames)])
    xy = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    focals = focal * np.array([1.0, aspect])
    rays = np.concatenate([(xy - pp) / focals, np.ones((height, width, 1))], axis=-1)
    local = rays * depth[..., None]
    world = np.einsum("fab,fhwb->fhwa", T[:, :3, :3], local) + T[:, None, None, :3, 3]
    views, confidences, flows = ([], []), ([], []), []
    for i, j in graph.edges:
        scale = rng.uniform(0.5, 2.0)
        inverse = np.linalg.inv(T[i])
        for k, frame in enumerate((i, j)):
            points = world[frame] @ inverse[:3, :3].T + inverse[:3, 3]
            radial = 1 + noise * smooth_field(height, width, rng)[..., None]
            grain = 0.2 * noise * rng.normal(size=points.shape) * points[..., 2:]
            views[k].append(scale * (points * radial + grain))
            confidences[k].append(1 + 3 * rng.uniform(0.2, 1, (height, width)))
        back = np.linalg.inv(T[j])
        seen = world[i] @ back[:3, :3].T + back[:3, 3]
        landing = focals * seen[..., :2] / seen[..., 2:] + pp
        flows.append(np.moveaxis(landing - xy + 0.1 * rng.normal(size=landing.shape), -1, 0))
    tensor = lambda x: torch.from_numpy(np.stack(x)).to(dtype)  # noqa: E731
    predictions = PairPredictions(
        graph, tensor(views[0]), tensor(confidences[0]), tensor(views[1]), tensor(confidences[1])
    )
    flow = PairFlow(graph, tensor(flows).float(), torch.ones(len(graph), height, width, dtype=torch.bool), "truth")
    return AlignScene(T, depth, focal, pp, predictions, flow)


def trajectory_errors(estimate: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """ATE, RPE translation and RPE rotation (degrees) as RMSE over (F, 4, 4) paths after Sim(3) alignment, step 1."""
    aligned = align_sim3(estimate[:, :3, 3], truth[:, :3, 3])
    s, R, t = aligned.scale, aligned.R, aligned.t
    moved = estimate.copy()
    moved[:, :3, :3] = R @ estimate[:, :3, :3]
    moved[:, :3, 3] = s * estimate[:, :3, 3] @ R.T + t
    steps = [np.linalg.inv(T[:-1]) @ T[1:] for T in (truth, moved)]
    error = np.linalg.inv(steps[0]) @ steps[1]
    # Exact for small angles too, where the arc cosine of a float32 rotation's trace is not.
    angle = Rotation.from_matrix(error[:, :3, :3]).magnitude()

    def rmse(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(x))))

    return {
        "ate": rmse(np.linalg.norm(moved[:, :3, 3] - truth[:, :3, 3], axis=1)),
        "rpe_trans": rmse(np.linalg.norm(error[:, :3, 3], axis=1)),
        "rpe_rot_deg": rmse(np.degrees(angle)),
    }


def depth_error(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Mean relative depth error after one common scale (median ratio)."""
    ratio = estimate / truth
    return float(np.abs(ratio / np.median(ratio) - 1).mean())
