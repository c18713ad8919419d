"""The scene generator must be exact: everything else in these tests is measured against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, map_coordinates

from easi3r_ns.core.geometry import is_rigid, pixel_grid, unproject
from easi3r_ns.training.scenes import (
    ClipOptions,
    Motion,
    RenderCameras,
    SceneOptions,
    SyntheticScene,
    correspondences,
    film,
    flow,
    handheld_path,
    look_at,
    make_scene,
    object_poses,
    render,
    render_clip,
    training_views,
)
from easi3r_ns.training.scenes.cameras import is_clear
from easi3r_ns.training.scenes.scene import BOX, CYLINDER, SPHERE, random_rotation
from easi3r_ns.training.scenes.textures import texture, texture_pyramid

EXACT = ClipOptions(noise=0.0, blur=0.0)


def small_scene(kinds=(), half_size=(), poses=()) -> SyntheticScene:
    """Solids of one's choice in a room of 6 x 6 x 3 metres."""
    count = len(kinds)
    return SyntheticScene(
        seed=0,
        family="train",
        room_half=np.array([3.0, 3.0, 1.5]),
        kinds=np.array(kinds, dtype=int),
        half_size=np.array(half_size, dtype=float).reshape(count, 3),
        T_world_obj=np.array(poses).reshape(count, 4, 4),
        motion=Motion.none(count),
        textures=np.zeros((count + 1, 6), dtype=int),
        tile=np.ones(count + 1),
        offset=np.zeros((count + 1, 2)),
        gain=np.ones((count + 1, 3)),
        light=np.array([0.3, 0.2, 2.5]),
        ambient=0.6,
        casts_shadow=np.zeros(count, dtype=bool),
    )


def pose(R=((1, 0, 0), (0, 1, 0), (0, 0, 1)), t=(0.0, 0.0, 0.0)) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


def shoot(scenes: list[SyntheticScene], T_world_cam: np.ndarray, focal: float, size: tuple[int, int], **options):
    count = len(scenes)
    cameras = RenderCameras(
        np.array(T_world_cam).reshape(count, -1, 4, 4),
        np.full((count, 1), focal),
        np.zeros((count, 1)),
        *size,
        **options,
    )
    return render(scenes, cameras)


def points_of(depth: torch.Tensor, T: np.ndarray, focal: float) -> np.ndarray:
    height, width = depth.shape
    local = unproject(depth.double().numpy(), focal, np.array([(width - 1) / 2, (height - 1) / 2]))
    return local @ T[:3, :3].T + T[:3, 3]


def test_depth_of_a_wall_is_the_distance_to_it():
    T = look_at(np.array([-1.0, 0.2, 1.5]), np.array([3.0, 0.2, 1.5]))
    shot = shoot([small_scene()], T, 200.0, (32, 48))
    np.testing.assert_allclose(shot.depth[0, 0].numpy(), 4.0, rtol=1e-5)
    assert (shot.object_id == 0).all()


def test_depth_of_a_sphere_and_the_principal_point():
    centre, radius = np.array([1.0, 0.0, 1.5]), 0.5
    scene = small_scene([SPHERE], [[radius] * 3], [pose(t=centre)])
    T = look_at(np.array([-1.0, 0.0, 1.5]), centre)
    shot = shoot([scene], T, 50.0, (41, 61))  # odd: the middle pixel lies on the axis
    np.testing.assert_allclose(float(shot.depth[0, 0, 20, 30]), 1.5, rtol=1e-5)
    seen = shot.object_id[0, 0].numpy() == 1
    points = points_of(shot.depth[0, 0], T, 50.0)
    np.testing.assert_allclose(np.linalg.norm(points - centre, axis=-1)[seen], radius, atol=1e-4)
    # The silhouette of a sphere on the axis: tan of the angle of its tangent.
    angle = np.linalg.norm(pixel_grid(41, 61) - [30, 20], axis=-1) / 50.0
    limit = radius / np.sqrt(2.0**2 - radius**2)
    clear = np.abs(angle - limit) > 1e-3
    np.testing.assert_array_equal(seen[clear], (angle < limit)[clear])


def test_principal_point_shifts_the_picture():
    scene = make_scene(3)
    T = training_views(scene, 1, np.random.RandomState(0))
    full = shoot([scene], T, 40.0, (40, 50))
    crop = shoot([scene], T, 40.0, (30, 36), principal_point=(24.5 - 8, 19.5 - 6))
    torch.testing.assert_close(crop.depth[0, 0], full.depth[0, 0, 6:36, 8:44], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(crop.object_id[0, 0], full.object_id[0, 0, 6:36, 8:44])


@pytest.mark.parametrize("kind", [BOX, SPHERE, CYLINDER])
def test_hits_agree_with_marching_along_the_ray(kind):
    rs = np.random.RandomState(kind)
    half = rs.uniform(0.2, 0.6, 3)
    T_obj = pose(random_rotation(rs), [0.5, 0.1, 1.4])
    T = look_at(np.array([-1.5, 0.3, 1.7]), T_obj[:3, 3])
    shot = shoot([small_scene([kind], [half], [T_obj])], T, 30.0, (24, 32))
    steps = np.linspace(0, 4, 8001)
    rays = np.concatenate([(pixel_grid(24, 32) - [15.5, 11.5]) / 30.0, np.ones((24, 32, 1))], -1) @ T[:3, :3].T
    to_unit = np.linalg.inv(T_obj @ np.diag([*half, 1.0]))
    hits = 0
    for y, x in np.ndindex(24, 32):
        along = (T[:3, 3] + steps[:, None] * rays[y, x]) @ to_unit[:3, :3].T + to_unit[:3, 3]
        inside = {
            BOX: np.abs(along).max(1) < 1,
            SPHERE: (along**2).sum(1) < 1,
            CYLINDER: ((along[:, :2] ** 2).sum(1) < 1) & (np.abs(along[:, 2]) < 1),
        }[kind]
        if inside.sum() > 2:
            hits += 1
            assert shot.object_id[0, 0, y, x] == 1
            assert abs(float(shot.depth[0, 0, y, x]) - steps[inside.argmax()]) < 1.5e-3
        elif not inside.any():
            assert shot.object_id[0, 0, y, x] == 0 or inside.sum() < 3
    assert hits > 20


def test_several_scenes_at_once_equal_one_at_a_time():
    scenes = [make_scene(seed) for seed in (1, 2, 5)]
    rs = np.random.RandomState(0)
    poses = np.stack([training_views(scene, 2, rs) for scene in scenes])
    focal = np.array([[30.0, 35.0], [25.0, 40.0], [50.0, 45.0]])
    together = render(scenes, RenderCameras(poses, focal, np.zeros((3, 2)), 24, 32))
    for s, scene in enumerate(scenes):
        alone = render([scene], RenderCameras(poses[s : s + 1], focal[s : s + 1], np.zeros((1, 2)), 24, 32))
        torch.testing.assert_close(together.depth[s], alone.depth[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(together.object_id[s], alone.object_id[0])
        assert (together.colour[s] - alone.colour[0]).abs().max() < 1e-3


def test_supersampling_leaves_the_geometry_alone():
    scene = make_scene(4)
    cameras = RenderCameras(
        training_views(scene, 1, np.random.RandomState(1))[None], np.array([[40.0]]), np.zeros((1, 1)), 30, 40
    )
    plain, fine = render([scene], cameras), render([scene], cameras, supersample=2)
    assert torch.equal(plain.depth, fine.depth) and torch.equal(plain.object_id, fine.object_id)
    difference = (plain.colour - fine.colour).abs()
    assert 0 < difference.mean() < 0.1


def test_points_and_colours_agree_between_frames():
    clip = render_clip(11, 3, 120, 160, num_movers=2, options=EXACT)
    xy, visible = correspondences(clip, 0, 2)
    assert visible.mean() > 0.3
    at = [xy[..., 1][visible], xy[..., 0][visible]]
    colour = np.stack([map_coordinates(clip.images[2, ..., c].astype(float), at, order=1) for c in range(3)], -1)
    difference = np.abs(colour - clip.images[0][visible]).mean(-1)
    shuffled = np.abs(np.random.RandomState(0).permutation(colour) - clip.images[0][visible]).mean(-1)
    assert np.median(difference) < 5 < 0.3 * np.median(shuffled)
    moved = clip.T_world_object[2] @ np.linalg.inv(clip.T_world_object[0])
    points = np.einsum("hwij,hwj->hwi", moved[clip.object_id[0]][..., :3, :3], clip.points(0))
    points += moved[clip.object_id[0]][..., :3, 3]
    local = (points - clip.T_world_cam[2, :3, 3]) @ clip.T_world_cam[2, :3, :3]
    inverse_depth = map_coordinates(1 / clip.depth[2].astype(float), at, order=1)  # 1/z of a plane is linear in pixels
    assert np.quantile(np.abs(inverse_depth * local[visible][:, 2] - 1), 0.9) < 1e-3


def test_flow_is_the_motion_of_the_points():
    clip = render_clip(12, 4, 48, 64, num_movers=2, options=EXACT)
    result = flow(clip, 1, 3)
    rs = np.random.RandomState(0)
    pixels = np.concatenate([rs.randint(0, (48, 64), (20, 2)), np.argwhere(clip.moving[1])[::40]])
    for y, x in pixels:
        k = clip.object_id[1, y, x]
        ray = np.array([(x - 31.5) / clip.focal, (y - 23.5) / clip.focal, 1.0])
        world = clip.T_world_cam[1] @ np.append(ray * clip.depth[1, y, x], 1.0)
        on_object = np.linalg.inv(clip.T_world_object[1, k]) @ world
        local = np.linalg.inv(clip.T_world_cam[3]) @ clip.T_world_object[3, k] @ on_object
        target = clip.focal * local[:2] / local[2] + [31.5, 23.5]
        np.testing.assert_allclose(result[y, x], target - [x, y], atol=1e-6)
    static = ~clip.moving[1]
    frozen_flow = flow(replace(clip, T_world_object=clip.T_world_object[[1, 1, 1, 1]]), 1, 3)
    np.testing.assert_allclose(result[static], frozen_flow[static], atol=1e-9)
    assert np.nanmax(np.abs(result - frozen_flow)[clip.moving[1]]) > 1


def test_the_frozen_twin_differs_only_at_the_movers():
    moving = render_clip(21, 5, 60, 80, num_movers=2)
    frozen = render_clip(21, 5, 60, 80, num_movers=2, frozen=True)
    assert moving.moving.any() and not frozen.moving.any() and frozen.would_move.any()
    assert moving.mover_ids == frozen.mover_ids == (1, 2)
    np.testing.assert_array_equal(moving.T_world_cam, frozen.T_world_cam)
    reach = np.ones((1, 7, 7), dtype=bool)  # the lens blur carries colour over a few pixels
    outside = ~binary_dilation(moving.would_move | frozen.would_move, reach)
    np.testing.assert_array_equal(moving.images[outside], frozen.images[outside])
    clear = ~(moving.would_move | frozen.would_move)
    np.testing.assert_array_equal(moving.depth[clear], frozen.depth[clear])
    assert (moving.images != frozen.images).any()
    np.testing.assert_array_equal(moving.T_world_object[0, 3:], moving.T_world_object[4, 3:])
    assert np.abs(moving.T_world_object[4, 1:3] - moving.T_world_object[0, 1:3]).max() > 0.05


def test_a_seed_names_a_clip():
    first, second = (render_clip(5, 2, 32, 48) for _ in range(2))
    for name in ("images", "depth", "object_id", "T_world_cam"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.images, render_clip(6, 2, 32, 48).images)
    large = render_clip(5, 2, 64, 96)
    np.testing.assert_array_equal(large.T_world_cam, first.T_world_cam)
    assert large.focal == pytest.approx(2 * first.focal)


def test_seeds_keep_their_meaning():
    """These numbers were written down once: a change of the generator that moves them makes every old seed lie."""
    scene = make_scene(7, SceneOptions("held_out", num_movers=1))
    assert scene.num_solids == GOLDEN["num_solids"]
    np.testing.assert_allclose(scene.T_world_obj[:, :3, 3].sum(0), GOLDEN["centres"], atol=1e-6)
    np.testing.assert_allclose(scene.motion.velocity.sum(0), GOLDEN["velocity"], atol=1e-6)
    means = [texture("train", 3).mean(), texture("held_out", 3).mean()]
    np.testing.assert_allclose(means, GOLDEN["textures"], atol=0.05)


GOLDEN = {
    "num_solids": 11,
    "centres": [-16.90022245, 12.24987021, 8.5812892],
    "velocity": [-0.39631122, 0.1244262, 0.0],
    "textures": [85.81, 189.028],
}


def test_does_not_touch_global_random_state():
    np.random.seed(3)
    torch.manual_seed(3)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(3)
    torch.manual_seed(3)
    render_clip(1, 2, 16, 24)
    assert (np.random.rand(), torch.rand(1)) == expected


def test_texture_families_are_disjoint_and_periodic():
    assert not np.array_equal(texture("train", 0), texture("held_out", 0))
    for index in range(12):
        picture = texture("train", index).astype(float)
        inner = np.abs(np.diff(picture, axis=1)).mean()
        seam = np.abs(picture[:, 0] - picture[:, -1]).mean()
        assert seam < 4 * inner + 12, f"texture {index} has a seam"
    pyramid = texture_pyramid("train", 1)
    assert len(pyramid) == sum((256 >> level) ** 2 for level in range(7))
    assert abs(pyramid[-16:].mean() - texture("train", 1).mean()) < 1


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (36, 64), (50, 50)])
def test_any_size(height, width):
    clip = render_clip(3, 2, height, width, num_movers=1)
    assert clip.images.shape == (2, height, width, 3) and clip.images.dtype == np.uint8
    assert clip.depth.shape == clip.moving.shape == (2, height, width)
    np.testing.assert_array_equal(clip.principal_point, [(width - 1) / 2, (height - 1) / 2])
    assert np.isfinite(clip.depth).all() and clip.depth.min() > 0.1
    fov = 2 * np.degrees(np.arctan(0.5 * max(height, width) / clip.focal))
    assert 40 <= fov <= 75


def test_cameras_are_rigid_upright_and_clear_of_everything():
    for seed in range(6):
        scene = make_scene(seed, SceneOptions(num_movers=seed % 3))
        times = np.linspace(0, 2, 12)
        path = handheld_path(scene, times, np.random.RandomState(seed))
        views = training_views(scene, 5, np.random.RandomState(seed))
        assert is_rigid(path) and is_rigid(views)
        assert (path[:, 2, 1] < -0.5).all(), "the camera's y axis points down"
        assert all(is_clear(scene, T[:3, 3], times, margin=0.0) for T in path)
        assert np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1).max() < 0.5


def test_rest_poses_are_passed_at_rest_time():
    scene = make_scene(8, SceneOptions(num_movers=2, duration=2.0))
    np.testing.assert_allclose(object_poses(scene, np.array([1.0]))[0, 1:], scene.T_world_obj, atol=1e-12)
    assert scene.mover_ids == (1, 2) and scene.at_rest().mover_ids == ()
    assert is_rigid(object_poses(scene, np.linspace(0, 2, 7)))


def test_film_takes_any_scene():
    scene = small_scene([SPHERE], [[0.3] * 3], [pose(t=[0.5, 0, 1.2])])
    T = look_at(np.array([-2.0, 0, 1.5]), np.array([0.5, 0, 1.2]))
    clip = film(scene, (), T[None], 50.0, (40, 60), np.zeros(1), EXACT)
    assert (clip.object_id == 1).any() and not clip.moving.any()


def test_unknown_family_is_refused():
    with pytest.raises(ValueError, match="texture family"):
        SceneOptions("mystery")
