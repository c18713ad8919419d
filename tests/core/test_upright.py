"""Which way is up: on rendered rooms whose gravity is known, on walls, and on cameras alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import PosedFrames, Scene, turn_scene
from easi3r_ns.core.types import T_SIDE_UPRIGHT
from easi3r_ns.core.upright import WORLD_UP, level_scene, rotation_to, said_of, up_by_cameras, up_by_plane
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.training.scenes import Clip, film, handheld_path, make_scene
from tests.support.clip_scene import perfect_scene, true_points

GRAVITY_UP = np.array([0.0, 0.0, 1.0])
"""In the world of a rendered clip."""


@cache
def clip(seed: int = 3, roll: float = 0.0, pitch: float = 0.0) -> Clip:
    """Eight small frames of a room, by a camera that is rolled and pointed down by so many degrees."""
    times = np.arange(8) / 8
    room = make_scene(seed)
    hold = np.eye(4)
    hold[:3, :3] = Rotation.from_euler("xz", [-pitch, roll], degrees=True).as_matrix()
    path = handheld_path(room, times, np.random.RandomState(seed)) @ hold
    return film(room, room.mover_ids, path, 45.0, (48, 64), times)


def as_found(scene: Scene) -> Scene:
    """The scene in the axes of its first camera, as reconstructions are."""
    return turn_scene(scene, scene.T_world_cam[0, :3, :3].T)


def up_of(scene: Scene, truth: Clip) -> np.ndarray:
    """(3,) the true up in the world of a scene of the clip, by their first cameras."""
    return scene.T_world_cam[0, :3, :3] @ truth.T_world_cam[0, :3, :3].T @ GRAVITY_UP


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees."""
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


@pytest.mark.parametrize(("roll", "pitch"), [(0, 0), (20, 0), (-20, 15), (0, 30)])
@pytest.mark.parametrize("seed", [3, 9])
def test_floor_gives_up(seed: int, roll: float, pitch: float, tmp_path: Path) -> None:
    truth = clip(seed, roll, pitch)
    scene = level_scene(as_found(perfect_scene(truth, tmp_path, noise=0.02)), "auto", RunLog())
    facts = scene.provenance["up"]
    assert facts["method"] == "plane" and facts["sigma_deg"] < 1 and facts["share"] > 0.12
    assert apart(up_of(scene, truth), WORLD_UP) < 1
    assert said_of(scene).startswith("z is up by a plane")
    # It is turned by as much as the first camera is tilted, about its own place.
    first = perfect_scene(truth, tmp_path).T_world_cam[0, :3, :3].T @ GRAVITY_UP
    assert facts["turned_deg"] == pytest.approx(apart(first, WORLD_UP), abs=1)


def test_triangulated_points_alone_give_up(tmp_path: Path) -> None:
    truth = clip()
    scene = perfect_scene(truth, tmp_path)
    unknown = np.zeros_like(scene.depth)
    scene = replace(scene, depth=unknown, confidence=unknown, sparse=true_points(truth))
    scene = level_scene(as_found(scene), "auto", RunLog())
    assert scene.provenance["up"]["method"] == "plane" and apart(up_of(scene, truth), WORLD_UP) < 0.5


def test_a_wall_is_no_ground(tmp_path: Path) -> None:
    """A camera walks past a wall, looks up at it a little, and sees nothing else."""
    truth = clip(pitch=-15)
    scene = perfect_scene(truth, tmp_path)
    T = scene.T_world_cam.copy()
    yaw = np.linspace(-0.15, 0.15, len(T))
    turn = Rotation.from_euler("yx", np.stack([yaw, np.full(len(T), 0.26)], axis=1)).as_matrix()
    T[:, :3, :3] = turn
    T[:, :3, 3] = np.stack([np.linspace(-1, 1, len(T)), np.zeros(len(T)), np.zeros(len(T))], axis=1)
    height, width = scene.depth.shape[1:]
    x, y = np.meshgrid(np.arange(width) - 31.5, np.arange(height) - 23.5)
    rays = np.stack([x / 45, y / 45, np.ones_like(x)], axis=-1)
    depth = np.stack([4 / (rays @ R.T)[..., 2] for R in turn]).astype(np.float32)
    still = replace(scene.dynamic, masks=np.zeros_like(scene.dynamic.masks))
    scene = replace(scene, T_world_cam=T, depth=depth, dynamic=still, principal_point=np.array([31.5, 23.5]))
    assert up_by_plane(scene) is None
    log = RunLog()
    level = level_scene(scene, "plane", log)
    facts = level.provenance["up"]
    assert facts["method"] == "cameras" and "no dominant level plane" in log.warnings[0]
    assert apart(np.array([0, -1.0, 0]) @ np.array(facts["rotation"]).T, WORLD_UP) < 3 * facts["sigma_deg"]
    assert "roughly" in said_of(level) or "if the camera was held level" in said_of(level)


def test_cameras_that_turn_show_up_and_its_uncertainty() -> None:
    """Cameras look down by 40 degrees and are held level to within 2 degrees: their mean up is 40 degrees wrong."""
    errors, sigmas = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        yaw = np.linspace(0, 60, 20)
        angles = np.stack([yaw, np.full(20, -40.0), 2 * rng.standard_normal(20)], axis=1)
        T = np.tile(np.eye(4), (20, 1, 1))
        T[:, :3, :3] = Rotation.from_euler("YXZ", angles, degrees=True).as_matrix()
        up = up_by_cameras(T)
        assert up is not None
        errors.append(apart(up.direction, WORLD_UP))
        sigmas.append(up.sigma_deg)
    assert np.median(errors) < 4 and max(errors) < 3 * min(sigmas) and max(sigmas) < 6


def test_parallel_cameras_leave_the_tilt_open() -> None:
    T = np.tile(np.eye(4), (10, 1, 1))
    T[:, 0, 3] = np.arange(10)
    up = up_by_cameras(T)
    assert up is not None and apart(up.direction, WORLD_UP) < 0.1 and up.sigma_deg == pytest.approx(30, abs=1)


def test_cameras_that_contradict_one_another_give_no_up(tmp_path: Path) -> None:
    scene = as_found(perfect_scene(clip(), tmp_path))
    T = scene.T_world_cam.copy()
    T[:, :3, :3] = Rotation.from_euler("z", np.arange(8)[:, None] * 45, degrees=True).as_matrix()
    log = RunLog()
    found = level_scene(replace(scene, T_world_cam=T), "auto", log)
    np.testing.assert_array_equal(found.T_world_cam, T)
    assert found.provenance["up"]["method"] == "none" and "not level" in log.warnings[0]
    assert said_of(found) == "z is not known to point up"


def test_frames_on_their_side_do_not_tilt_the_world(tmp_path: Path) -> None:
    scene = as_found(perfect_scene(clip(), tmp_path))
    level = level_scene(scene, "cameras", RunLog())
    turned = np.arange(len(scene)) % 3 == 1
    T = np.where(turned[:, None, None], scene.T_world_cam @ np.linalg.inv(T_SIDE_UPRIGHT), scene.T_world_cam)
    again = level_scene(replace(scene, T_world_cam=T, turned=turned), "cameras", RunLog())
    assert np.allclose(again.provenance["up"]["rotation"], level.provenance["up"]["rotation"])
    assert np.allclose(again.T_world_upright, level.T_world_cam)


def test_none_leaves_the_world_alone(tmp_path: Path) -> None:
    scene = as_found(perfect_scene(clip(), tmp_path))
    same = level_scene(scene, "none", RunLog())
    np.testing.assert_array_equal(same.T_world_cam, scene.T_world_cam)
    assert said_of(same) == "z is not known to point up"


def test_turned_scene_shows_the_same_pictures(tmp_path: Path) -> None:
    truth = clip()
    scene = replace(perfect_scene(truth, tmp_path), sparse=true_points(truth))
    bits = np.zeros((1, 48, 8), np.uint8)
    between = PosedFrames(
        scene.T_world_cam[1:2],
        scene.focals[:1],
        np.zeros(1, int),
        bits,
        *(np.ones(1),) * 2,
        ("a",),
        (Path("a"),),
        ("pnp",),
    )
    scene = replace(scene, between=between)
    R = Rotation.from_rotvec([0.3, -1.2, 0.4]).as_matrix()
    turned = turn_scene(scene, R)
    assert turned.sparse is not None and turned.between is not None and scene.sparse is not None
    for before, after in (
        (scene.T_world_cam[2], turned.T_world_cam[2]),
        (between.T_world_cam[0], turned.between.T_world_cam[0]),
    ):
        local = [(p - T[:3, 3]) @ T[:3, :3] for p, T in ((scene.sparse.points, before), (turned.sparse.points, after))]
        np.testing.assert_allclose(*local, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 40.0, 180.0])
def test_smallest_rotation(angle: float) -> None:
    a = np.array([0.6, 0.0, 0.8])
    b = Rotation.from_rotvec(np.radians(angle) * np.array([0, 1.0, 0])).apply(a)
    R = rotation_to(a, b)
    np.testing.assert_allclose(R @ a, b, atol=1e-9)
    assert np.degrees(np.linalg.norm(Rotation.from_matrix(R).as_rotvec())) == pytest.approx(angle, abs=1e-6)
    assert np.linalg.det(R) == pytest.approx(1)


@pytest.mark.parametrize("level", [True, False])
def test_nerfstudio_keeps_the_level(level: bool, tmp_path: Path) -> None:
    """nerfstudio turns the cameras' mean up to z unless a dataset says otherwise, and this camera looks down."""
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    truth = clip(pitch=30)
    scene = level_scene(as_found(perfect_scene(truth, tmp_path / "store")), "auto" if level else "none", RunLog())
    out = tmp_path / "out"
    write_dataset(scene, out, DatasetConfig(num_downscales=0), RunLog())
    parsed = NerfstudioDataParserConfig(data=out, downscale_factor=1).setup().get_dataparser_outputs("train")
    first = parsed.cameras.camera_to_worlds[0].numpy()[:3, :3] * [1, -1, -1]
    up = first @ truth.T_world_cam[0, :3, :3].T @ GRAVITY_UP
    assert (apart(up, GRAVITY_UP) < 1) if level else (apart(up, GRAVITY_UP) > 20)
    in_files = Z_UP_FROM_OPENCV_WORLD[:3, :3] @ up_of(scene, truth)
    assert (apart(in_files, GRAVITY_UP) < 1) if level else (apart(in_files, GRAVITY_UP) > 20)
