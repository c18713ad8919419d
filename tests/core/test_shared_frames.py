"""Frames that scenes of one clip have in common, their worlds and their pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.scene import Scene, move_scene
from easi3r_ns.core.shared_frames import on_grid, rows_by_frame, shared_rows
from easi3r_ns.core.similarity import Similarity
from easi3r_ns.core.surface import world_points
from easi3r_ns.core.types import PixelMap
from easi3r_ns.training.scenes import render_clip
from tests.support.clip_scene import perfect_scene, true_points


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    clip = render_clip(5, 5, 48, 64)
    return replace(perfect_scene(clip, tmp_path_factory.mktemp("images")), sparse=true_points(clip, 20))


def test_frames_are_told_by_source_and_index(scene: Scene) -> None:
    other = replace(scene, indices=np.array([4, 9, 2, 0, 8]))
    rows = shared_rows([scene, other])
    assert [own.tolist() for own in rows] == [[0, 2, 4], [3, 2, 0]]
    assert not len(shared_rows([scene, replace(scene, names=("another.mp4",) * 5)])[0])
    assert len(rows_by_frame(replace(scene, clip=np.array([0, 0, 1, 1, 1]), indices=np.zeros(5, int)))) == 2


def test_a_moved_scene_shows_the_same_from_elsewhere(scene: Scene) -> None:
    there = Similarity(2.5, Rotation.from_rotvec([0.3, -0.2, 0.9]).as_matrix(), np.array([1.0, -2.0, 3.0]))
    moved = move_scene(scene, there)
    np.testing.assert_allclose(world_points(moved, 3), there.points(world_points(scene, 3)), atol=1e-5)
    np.testing.assert_allclose(moved.sparse.points, there.points(scene.sparse.points), atol=1e-9)
    np.testing.assert_allclose(moved.T_world_cam, there.cameras(scene.T_world_cam), atol=1e-12)
    assert (scene.T_world_cam == perfect_scene_poses(scene)).all(), "the argument stays"


def perfect_scene_poses(scene: Scene) -> np.ndarray:
    return render_clip(5, 5, 48, 64).T_world_cam


def test_pixels_of_another_size_and_crop_lie_where_the_source_has_them() -> None:
    rows, columns = np.mgrid[:60, :80]
    whole = (100 * rows + columns).astype(np.float32)[None]
    own = PixelMap((160, 120), (80, 60), (0, 0, 80, 60))
    cropped = PixelMap((320, 240), (80, 60), (8, 4, 72, 60))
    np.testing.assert_array_equal(on_grid(whole, own, cropped)[0], whole[0, 4:60, 8:72])
    back = on_grid(whole[:, 4:60, 8:72], cropped, own)[0]
    np.testing.assert_array_equal(back[4:60, 8:72], whole[0, 4:60, 8:72])
    assert (back[:4] == 0).all() and (back[:, :8] == 0).all() and (back[:, 72:] == 0).all()
    half = on_grid(whole > 3000, own, PixelMap((160, 120), (40, 30), (0, 0, 40, 30)))
    assert half.dtype == bool and half.shape == (1, 30, 40) and half[0, 16:].all() and not half[0, :14].any()


def test_the_same_grid_changes_nothing() -> None:
    values = np.random.default_rng(0).random((2, 13, 17)).astype(np.float32)
    grid = PixelMap((34, 26), (17, 13), (0, 0, 17, 13))
    np.testing.assert_array_equal(on_grid(values, grid, grid), values)


def test_images_stay_where_they_are(scene: Scene) -> None:
    assert all(isinstance(path, Path) for path in move_scene(scene, Similarity.identity()).source_paths)
