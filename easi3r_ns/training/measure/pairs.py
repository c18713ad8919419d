"""Geometry of static pairs that were not trained on: a set of wide pairs, and one of neighbouring frames of clips."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import roma
import torch
from torch import Tensor

from ...align.init import pnp, register, weiszfeld_focals
from ...network.model import DUSt3R, PairOutput
from ..data import PairBatch, Views, camera_points, make_pairs, move, pairwise_overlap, render_views
from ..scenes import (
    ClipOptions,
    RenderCameras,
    SceneOptions,
    focal_from_fov,
    make_scene,
    render,
    render_clip,
    training_views,
)
from ..scenes.cameras import HFOV_DEGREES, WIDE_SPREADS
from .numbers import estimate

PairSet = Literal["wide", "clip"]
SHAPE = (96, 128)
FAMILY = "held_out"
MIN_OVERLAP = 0.3
CLIP_FRAMES, CLIP_FPS = 24, 8.0
PAIRS_PER_SCENE = {"wide": 3, "clip": 8}
LONG_BASELINE = 0.15
"""Share of the median depth above which a direction of travel is well defined."""
MEAN_MAP_SCENES = 24

TITLES = {
    "wide": f"Wide pairs: static scenes, cameras up to a radian apart, mutual overlap at least {MIN_OVERLAP:g}",
    "clip": f"Neighbouring frames: 1 to 5 frames apart in hand-held static clips of {CLIP_FRAMES} frames in 3 s",
}


@dataclass(frozen=True)
class PairRow:
    """Errors of one pair, each beside the error of a trivial answer, which does not use the images."""

    scene: int
    baseline: float
    """Distance of the cameras / median depth."""
    rotation: float
    """Degrees; from the registration of view 2's own points onto where view 1's pass puts them."""
    rotation_pnp: float
    """Degrees; mean of PnP in both orders, see :func:`pose_by_pnp`."""
    rotation_trivial: float
    """Error of the answer that nothing rotates."""
    translation: float
    """Degrees between the directions of travel, from the registration."""
    translation_pnp: float
    points_1: float
    """Mean distance of view 1's points from the truth / mean distance of the scene, after one median scale."""
    points_1_trivial: float
    """Error of the mean pointmap of the training scenes."""
    points_2: float
    points_2_trivial: float
    """Error of the mean pointmap, seen from the first camera."""
    depth: float
    """AbsRel of view 1."""
    depth_trivial: float
    focal: float
    """Relative error, from view 1's points."""
    focal_both: float
    """From the first view's points in both orders: both cameras have the same lens."""
    focal_trivial: float
    """Error of the middle of the training focal lengths."""


ROWS = (
    ("rotation", "rotation (deg)", "no rotation"),
    ("rotation_pnp", "... by PnP, mean of both orders", "no rotation"),
    ("translation", "direction of travel (deg)", "any direction"),
    ("translation_pnp", "... by PnP, mean of both orders", "any direction"),
    ("translation_long", f"... where the baseline exceeds {LONG_BASELINE:.0%} of the median depth", "any direction"),
    ("points_1", "points of view 1 / mean distance", "mean map of the training scenes"),
    ("points_2", "points of view 2 / mean distance", "mean map of the training scenes"),
    ("depth", "depth AbsRel, view 1", "mean map of the training scenes"),
    ("focal", "focal length, relative", "middle of the training lenses"),
    ("focal_both", "... mean of both orders", "middle of the training lenses"),
)
"""Name, label and trivial answer of every line of the table."""


@torch.inference_mode()
def measure_pairs(
    model: DUSt3R, kind: PairSet, count: int, device: str, advance: Callable[[int], None]
) -> list[PairRow]:
    """Errors of ``count`` held-out pairs of 128 x 96 pixels; the pairs are the same for every network."""
    trivial = mean_map(device)
    rows = []
    for scene, batch in itertools.islice(_pairs(kind, device), count):
        rows.append(measure_pair(model, batch, trivial, scene))
        advance(1)
    return rows


def summarise(rows: list[PairRow], kind: PairSet) -> dict[str, Any]:
    """Medians with 95 % intervals over scenes, JSON-serialisable."""
    scenes = sorted({row.scene for row in rows})

    def median(name: str, keep: Callable[[PairRow], bool] = lambda row: True) -> dict[str, Any]:
        groups = [np.array([getattr(r, name) for r in rows if r.scene == s and keep(r)]) for s in scenes]
        return estimate(groups).to_json()

    table: dict[str, Any] = {}
    for name, _, _ in ROWS:
        if name == "translation_long":
            table[name] = median("translation", lambda row: row.baseline > LONG_BASELINE) | {"trivial": 90.0}
        elif name.startswith("translation"):
            table[name] = median(name) | {"trivial": 90.0}
        else:
            table[name] = median(name) | {
                "trivial": median(f"{name.removesuffix('_pnp').removesuffix('_both')}_trivial")["value"]
            }
    return {
        "title": TITLES[kind],
        "pairs": len(rows),
        "scenes": len(scenes),
        "long_baselines": sum(row.baseline > LONG_BASELINE for row in rows),
        "baseline": median("baseline")["value"],
        "rows": table,
    }


def _pairs(kind: PairSet, device: str) -> Iterator[tuple[int, PairBatch]]:
    """(scene, pair of one) without end."""
    for seed in itertools.count():
        views, candidates = (_wide_views if kind == "wide" else _clip_views)(seed, device)
        for i, j in candidates[: PAIRS_PER_SCENE[kind]]:
            index = (torch.tensor([k], device=device) for k in (0, i, j))
            yield seed, make_pairs(views, *index)


def _wide_views(seed: int, device: str) -> tuple[Views, list[list[int]]]:
    """Four views of a scene and its pairs with enough overlap."""
    rs = np.random.RandomState([seed % 2**32, 11])
    scene = make_scene(seed, SceneOptions(FAMILY))
    T = training_views(scene, 4, rs, WIDE_SPREADS)[None]
    cameras = RenderCameras(
        T, np.full((1, 4), focal_from_fov(rs.uniform(*HFOV_DEGREES), *SHAPE)), np.zeros((1, 4)), *SHAPE
    )
    shot = render([scene], cameras, device=device)
    poses, focal = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in (T, cameras.focal))
    overlap = pairwise_overlap(shot.depth, poses, focal)
    views = Views((shot.colour * 255).round().to(torch.uint8), shot.depth, poses, focal, overlap)
    mutual = torch.minimum(overlap, overlap.transpose(1, 2))[0].triu(1)
    return views, torch.nonzero(mutual >= MIN_OVERLAP).tolist()


def _clip_views(seed: int, device: str) -> tuple[Views, list[list[int]]]:
    """The frames of a static clip and pairs that lie 1 to 5 frames apart, either way."""
    options = ClipOptions(fps=CLIP_FPS, family=FAMILY)
    clip = render_clip(seed, CLIP_FRAMES, *SHAPE, num_movers=0, device=device, options=options)
    poses = torch.as_tensor(clip.T_world_cam[None], dtype=torch.float32, device=device)
    images, depth = (torch.as_tensor(x[None], device=device) for x in (clip.images, clip.depth))
    focal = torch.full((1, CLIP_FRAMES), clip.focal, device=device)
    views = Views(images, depth, poses, focal, torch.ones((1, CLIP_FRAMES, CLIP_FRAMES), device=device))
    rs = np.random.RandomState([seed, 5])
    offsets = [1 + k % 5 for k in range(PAIRS_PER_SCENE["clip"])]
    starts = [rs.randint(CLIP_FRAMES - offset) for offset in offsets]
    pairs = [[start, start + offset] for start, offset in zip(starts, offsets, strict=True)]
    return views, [pair[::-1] if rs.rand() < 0.5 else pair for pair in pairs]


def mean_map(device: str, scenes: int = MEAN_MAP_SCENES) -> Tensor:
    """(H, W, 3) mean pointmap of training scenes in units of their mean distance: the best guess without the images."""
    views = [render_views([seed], SHAPE, 2, "train", device) for seed in range(scenes)]
    points = torch.cat([camera_points(v.depth, v.focal).flatten(0, 1) for v in views])
    return (points / points.norm(dim=-1).mean((1, 2))[:, None, None, None]).mean(0)


def measure_pair(model: DUSt3R, batch: PairBatch, trivial: Tensor, scene: int = 0) -> PairRow:
    """Errors of the network on a batch of one pair."""
    features = model.encode(batch.images.flatten(0, 1))
    out = model.decode(features, features.flip(0), model.token_grid(*SHAPE))  # row 0: (i, j), row 1: (j, i)
    truth = batch.points[0], move(batch.T_i_j, batch.points[1])
    points_1, points_2, depth = _point_errors((out.points_i[:1], out.points_j[:1]), truth)
    rivals = _point_errors((trivial[None], trivial[None]), truth)
    own, moved = (x.flatten(1, 2).transpose(1, 2).float() for x in (out.points_i[1:], out.points_j[:1]))
    _, R, t = register(own, moved, out.conf_i[1:].flatten(1).float())
    true_R, true_t = batch.T_i_j[0, :3, :3], batch.T_i_j[0, :3, 3]
    T_pnp = pose_by_pnp(out).to(true_R)
    true_focal = float(batch.focal[0, 0])
    middle = focal_from_fov(sum(HFOV_DEGREES) / 2, *SHAPE)
    return PairRow(
        scene=scene,
        baseline=float(true_t.norm() / batch.points[:, 0, ..., 2].median()),
        rotation=_angle_of(R[0].float() @ true_R.T),
        rotation_pnp=_angle_of(T_pnp[:3, :3] @ true_R.T),
        rotation_trivial=_angle_of(true_R),
        translation=_angle_between(t[0].float(), true_t),
        translation_pnp=_angle_between(T_pnp[:3, 3], true_t),
        points_1=points_1,
        points_1_trivial=rivals[0],
        points_2=points_2,
        points_2_trivial=rivals[1],
        depth=depth,
        depth_trivial=rivals[2],
        focal=abs(_focal(out.points_i[:1]) / true_focal - 1),
        focal_both=abs(_focal_of_both(out) / true_focal - 1),
        focal_trivial=abs(middle / true_focal - 1),
    )


def pose_by_pnp(out: PairOutput) -> Tensor:
    """(4, 4) camera j to camera i of one pair in both orders, translation without length.

    DUSt3R's relative pose (section 3.3): PnP of view j's pixels with their points in the frame of view i, under the
    focal length of the pointmaps; here the mean over both orders. Where PnP finds no camera in either order, the
    identity.
    """
    height, width = out.points_i.shape[1:3]
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x, y], axis=-1).reshape(-1, 2)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    focal = _focal_of_both(out)
    poses = [pnp(points.flatten(0, 1).cpu().numpy(), pixels, focal, centre) for points in out.points_j]
    found = [T if k == 0 else torch.linalg.inv(T) for k, T in enumerate(poses) if T is not None]
    mean = torch.eye(4)
    if found:
        mean[:3, :3] = roma.special_procrustes(sum(T[:3, :3] for T in found))
        mean[:3, 3] = sum(torch.nn.functional.normalize(T[:3, 3], dim=0) for T in found)
    return mean


def _point_errors(predicted: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
    """Errors of both views' points over the mean distance, and AbsRel of view 1, after one median scale."""
    ours, true = (torch.cat([x.norm(dim=-1).flatten() for x in views]) for views in (predicted, truth))
    scale, mean = true.median() / ours.median(), true.mean()
    errors = [float((scale * p - q).norm(dim=-1).mean() / mean) for p, q in zip(predicted, truth, strict=True)]
    depth, true_depth = scale * predicted[0][..., 2], truth[0][..., 2]
    return errors[0], errors[1], float(((depth - true_depth).abs() / true_depth).mean())


def _focal_of_both(out: PairOutput) -> float:
    """Geometric mean over both orders of a pair, in pixels."""
    return (_focal(out.points_i[:1]) * _focal(out.points_i[1:])) ** 0.5


def _focal(points: Tensor) -> float:
    """Focal length in pixels of a (1, H, W, 3) pointmap."""
    height, width = points.shape[1:3]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = torch.tensor([[(width - 1) / 2, (height - 1) / 2]])
    flat = points.flatten(1, 2).transpose(1, 2).float().cpu()
    return float(weiszfeld_focals(flat, torch.stack([x.flatten(), y.flatten()]).float(), centre)[0])


def _angle_of(R: Tensor) -> float:
    # |R - I| = 2 sqrt(2) sin(angle / 2): exact for small angles too, which the arc cosine of the trace is not.
    return float(2 * torch.rad2deg(torch.arcsin(((R - torch.eye(3).to(R)).norm() / 8**0.5).clamp(max=1))))


def _angle_between(a: Tensor, b: Tensor) -> float:
    return float(torch.rad2deg(torch.arccos((torch.nn.functional.cosine_similarity(a, b, dim=0)).clamp(-1, 1))))
