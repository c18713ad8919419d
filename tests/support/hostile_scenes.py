"""Pointmaps that a network gets wrong in one way each, made from true geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from easi3r_ns.core.types import PairPredictions
from tests.support.align_scene import AlignScene

Change = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]


def with_points(scene: AlignScene, change: Change) -> AlignScene:
    """A copy of the scene whose predictions ``change(points_i, conf_i, points_j, conf_j)`` edited in place."""
    p = scene.predictions
    tensors = [x.clone() for x in (p.points_i, p.conf_i, p.points_j, p.conf_j)]
    change(*tensors)
    return replace(scene, predictions=PairPredictions(p.graph, *tensors))


def rows_of(scene: AlignScene, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Rows of the ordered pairs; both orders of each."""
    edges = scene.predictions.graph.edges.tolist()
    return [row for row, (i, j) in enumerate(edges) if (i, j) in pairs or (j, i) in pairs]


def misplaced(scene: AlignScene, pairs: Iterable[tuple[int, int]], seed: int = 0) -> AlignScene:
    """In both orders of ``pairs`` the second view is turned, shifted and scaled at random; by itself each is right."""

    def change(points_i, conf_i, points_j, conf_j):
        rng = np.random.default_rng(seed)
        for row in rows_of(scene, pairs):
            R = torch.from_numpy(Rotation.from_rotvec(rng.normal(size=3)).as_matrix()).float()
            size = points_j[row].norm(dim=-1).mean()
            shift = torch.from_numpy(rng.normal(size=3)).float() * size
            points_j[row] = float(rng.uniform(0.5, 2)) * points_j[row] @ R.T + shift

    return with_points(scene, change)


def garbage(scene: AlignScene, pairs: Iterable[tuple[int, int]], confidence: float | None = None) -> AlignScene:
    """In both orders of ``pairs`` the points are noise in front of the camera; ``confidence``: what they admit to."""

    def change(points_i, conf_i, points_j, conf_j):
        generator = torch.Generator().manual_seed(0)
        for row in rows_of(scene, pairs):
            for points, conf in ((points_i, conf_i), (points_j, conf_j)):
                noise = torch.randn(points[row].shape, generator=generator)
                points[row] = noise + torch.tensor([0.0, 0.0, 4.0])
                if confidence is not None:
                    conf[row] = confidence

    return with_points(scene, change)


def wrong_pixels(scene: AlignScene, share: float) -> AlignScene:
    """A share of the pixels of every pointmap lies at a random depth, with the confidence of the rest."""

    def change(points_i, conf_i, points_j, conf_j):
        generator = torch.Generator().manual_seed(0)
        for points in (points_i, points_j):
            wrong = torch.rand(points.shape[:3], generator=generator) < share
            factor = 0.2 + 3 * torch.rand(points.shape[:3], generator=generator)
            points[wrong] *= factor[wrong][:, None]

    return with_points(scene, change)


def without_confidence(scene: AlignScene, frame: int, value: float) -> AlignScene:
    """All confidences of a frame are ``value``."""
    edges = scene.predictions.graph.edges

    def change(points_i, conf_i, points_j, conf_j):
        conf_i[edges[:, 0] == frame] = value
        conf_j[edges[:, 1] == frame] = value

    return with_points(scene, change)


def follows_a_mover(scene: AlignScene, frame: int, share: float, shift: float = 0.5) -> tuple[AlignScene, np.ndarray]:
    """What moves fills ``share`` of a frame, and the network takes it for standing still; returns the masks too.

    Points of those pixels lie where the mover stood in the frame of the other view: shifted against the rest.
    """
    edges = scene.predictions.graph.edges
    height, width = scene.depth.shape[1:]
    masks = np.zeros(scene.depth.shape, dtype=bool)
    masks[frame, : round(share * height)] = True
    moving = torch.from_numpy(masks[frame])

    def change(points_i, conf_i, points_j, conf_j):
        for row, j in enumerate(edges[:, 1].tolist()):
            if j == frame:
                unit = points_i[row, ..., 2].mean() / 4
                points_j[row][moving] += torch.tensor([shift, 0.0, 0.0]) * unit

    return with_points(scene, change), masks
