"""Up by vertical edges: rendered streets with a known up, and rooms whose edges show none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.core.upright import WORLD_UP, level_scene, said_of, up_by_lines
from easi3r_ns.core.verticals import Lines, lines_of, residual_deg, vertical
from tests.core.test_upright import apart, clip
from tests.support.clip_scene import perfect_scene

SIZE, FOCAL = (240, 320), 260.0


def houses(rng: np.random.Generator) -> list[np.ndarray]:
    """Fourteen boxes that stand on y = 1.5 before the cameras, the farthest first: (8, 3) corners, below first."""
    boxes = []
    for _ in range(14):
        x, z, side, height, yaw = rng.uniform((-6, 6, 1, 2, 0), (6, 16, 3, 6, 1.5))
        base = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        corners = base @ turn.T + [x, z]
        boxes.append(np.array([[a, 1.5 - up, b] for up in (0, height) for a, b in corners]))
    return sorted(boxes, key=lambda box: -box[:, 2].mean())


def drawn(boxes: list[np.ndarray], T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture of a camera: flat faces and noise."""
    height, width = SIZE
    picture = np.full((height, width, 3), 100, np.uint8)
    for number, box in enumerate(boxes):
        local = (box - T[:3, 3]) @ T[:3, :3]
        if (local[:, 2] < 0.5).any():
            continue
        at = local[:, :2] / local[:, 2:] * FOCAL + [(width - 1) / 2, (height - 1) / 2]
        for side, (i, j) in enumerate(((0, 1), (1, 2), (2, 3), (3, 0))):
            face = [i, j, 4 + j, 4 + i]
            if np.cross(local[j] - local[i], local[4 + i] - local[i]) @ local[face].mean(axis=0) < 0:
                colour = np.random.default_rng([number, side]).integers(30, 230, 3).tolist()
                cv2.fillConvexPoly(picture, np.rint(at[face] * 16).astype(np.int32), colour, cv2.LINE_AA, 4)
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def street(pitch: float, roll: float, seed: int = 0) -> Scene:
    """Eight pictures of houses without depth, by a camera that is pointed down and rolled by so many degrees."""
    rng = np.random.default_rng(seed)
    hold = Rotation.from_euler("xz", [-pitch, roll], degrees=True).as_matrix()
    T = np.tile(np.eye(4), (8, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("y", 6 * rng.standard_normal(8)[:, None], degrees=True).as_matrix() @ hold
    T[:, 0, 3] = np.linspace(-1, 1, 8)
    boxes = houses(rng)
    images = np.stack([drawn(boxes, pose, rng) for pose in T])
    unknown, (height, width) = np.zeros((8, *SIZE), np.float32), SIZE
    return Scene(
        images=images,
        T_world_cam=T,
        focals=np.full(8, FOCAL),
        principal_point=np.array([(width - 1) / 2, (height - 1) / 2]),
        depth=unknown,
        confidence=unknown,
        dynamic=DynamicMasks(np.zeros((8, *SIZE), bool), np.zeros((8, 4, 4), np.float32), 0.5),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)),
        times=np.arange(8) / 8,
        indices=np.arange(8),
        names=("clip.mp4",) * 8,
        source_paths=tuple(Path(f"{k}.png") for k in range(8)),
    )


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (0, 15), (-20, 0), (30, -10)])
@pytest.mark.parametrize("seed", [0, 3])
def test_walls_give_up(seed: int, pitch: float, roll: float) -> None:
    level = level_scene(street(pitch, roll, seed), "gravity", log := RunLog())
    facts = level.provenance["up"]
    assert facts["method"] == "lines" and facts["sigma_deg"] < 1 and not log.warnings
    true = level.T_world_cam[0, :3, :3] @ street(pitch, roll, seed).T_world_cam[0, :3, :3].T @ WORLD_UP
    assert apart(true, WORLD_UP) < 1
    assert said_of(level).startswith("z is up by vertical edges")


def test_a_camera_that_stands_still_confirms_nothing() -> None:
    scene = street(0, 0)
    assert up_by_lines(scene) is not None
    still = replace(scene, pose_sources=("fixed",) * len(scene))
    assert up_by_lines(still) is None


def test_lines_on_what_moves_do_not_count() -> None:
    scene = street(0, 0)
    moving = replace(scene, dynamic=replace(scene.dynamic, masks=np.ones_like(scene.dynamic.masks)))
    assert len(lines_of(scene).lengths) > 50 and not len(lines_of(moving).lengths)


@pytest.mark.parametrize("seed", [3, 9])
def test_clutter_shows_no_verticals(seed: int, tmp_path: Path) -> None:
    """Textures of a rendered room have many edges, and hardly any that stand upright."""
    scene = perfect_scene(clip(seed), tmp_path)
    assert up_by_lines(scene) is None
    unknown = np.zeros_like(scene.depth)
    log = RunLog()
    level = level_scene(replace(scene, depth=unknown, confidence=unknown), "gravity", log)
    assert level.provenance["up"]["method"] == "cameras" and "--up gravity" in log.warnings[0]


def lines_along(directions: np.ndarray, rng: np.random.Generator) -> Lines:
    """Lines before a level camera at the origin, in the directions (N, 3)."""
    starts = rng.uniform((-4, -2, 6), (4, 2, 9), (len(directions), 3))
    ends = starts + 2 * directions
    crossed, middles = np.cross(starts, ends), starts + ends
    across, towards = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (crossed, middles))
    return Lines(across, towards, np.full(len(starts), 0.2), np.arange(len(starts)) % 8)


def test_roofs_are_not_taken_for_walls() -> None:
    """More slanted edges than vertical ones: the camera, which is held about level, decides."""
    slant = np.array([np.sin(0.6), -np.cos(0.6), 0])
    found = vertical(lines_along(np.repeat([slant, WORLD_UP], (60, 45), axis=0), np.random.default_rng(0)), WORLD_UP, 9)
    assert found is not None and apart(found[0], WORLD_UP) < 0.1


def test_horizontal_edges_are_not_taken_for_verticals() -> None:
    """Rails on the ground that lead away from a level camera agree on one direction, which is not up."""
    rng = np.random.default_rng(0)
    ends = rng.uniform((-4, 1.4, 4), (4, 1.6, 6), (60, 3))
    far = ends + [0, 0, 10.0]
    normals, middles = np.cross(ends, far), ends / np.linalg.norm(ends, axis=1)[:, None] + far / np.linalg.norm(far)
    lengths = np.linalg.norm(normals, axis=1) / 100
    across, towards = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (normals, middles))
    lines = Lines(across, towards, lengths, np.arange(60) % 8)
    assert residual_deg(lines, np.array([0, 0, 1.0])).max() < 1e-3
    assert vertical(lines, WORLD_UP, 30.0) is None
