"""`splat`: what five trainers look for, read back by pycolmap and COLMAP; tracks of points that were not matched."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig, ExportConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import source_to_network
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.dataset.pointcloud import static_points
from easi3r_ns.export import tracks
from easi3r_ns.export.formats import export_scene
from easi3r_ns.export.splat import splat_files, write_splat
from easi3r_ns.export.tracks import projected_tracks, visible
from easi3r_ns.storage.files import read_png
from tests.export.test_colmap import LENS, tracked
from tests.support.dataset_scene import Truth, make_scene, source_pixels

pycolmap = pytest.importorskip("pycolmap")
WH = (320, 213)


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> tuple[Scene, Truth]:
    return make_scene(tmp_path_factory.mktemp("store"), WH, 4)


@pytest.fixture(scope="module")
def splat(room, tmp_path_factory) -> Path:
    return write_splat(room[0], tmp_path_factory.mktemp("splat"), max_points=3000)


def test_a_track_names_the_images_that_show_the_point(room):
    scene, truth = room
    points, _ = static_points(scene, 1500)
    found = projected_tracks(scene, points, 3)
    for frame in range(len(scene)):
        rows, xy = found.observed[frame], found.observations[frame]
        np.testing.assert_allclose(xy, truth.project(frame, points[rows].astype(float)), atol=1e-3)
        depth, _, hit = truth.cast(frame, xy)
        local = (points[rows] - scene.T_world_cam[frame, :3, 3]) @ scene.T_world_cam[frame, :3, :3]
        assert not hit.any() and (np.abs(local[:, 2] - depth) < 0.06 * depth).all()
        assert len(rows) > 600


def test_what_stands_behind_is_not_seen(room):
    """Behind a wall, in front of one, behind the camera, outside the image, behind the mover, at its border."""
    scene, truth = room
    wall = truth.cast(1, np.array([[100.0, 60.0]]))[1][0]
    centre = scene.T_world_cam[1, :3, 3]
    at = truth.project(1, np.array([[-0.5, 0.35, 1.6]]))
    mover = truth.cast(1, at)[1][0]
    points = [wall, centre + 1.2 * (wall - centre), centre + 0.8 * (wall - centre), 2 * centre - wall]
    points += [truth.cast(1, np.array([[-30.0, 60.0]]))[1][0], mover, centre + 2.0 * (mover - centre)]
    assert visible(scene, 1, np.array(points), 3).tolist() == [True] + 6 * [False]
    radius = np.flatnonzero(scene.dynamic.masks[1].any(axis=0))[[0, -1]]
    edge = source_to_network(at, scene.pixel_map)[0]
    beside = np.array([[radius[1] + 2.0, edge[1]]]) + 0.5
    xy = beside * np.array(WH) / np.array(scene.pixel_map.resized_wh)
    ring = truth.cast(1, xy)[1]
    assert visible(scene, 1, ring, 0).all() and not visible(scene, 1, ring, 4).any()


def test_a_lens_that_folds_back_shows_nothing_from_outside(room):
    """A point far to the side, which the polynomial of the lens maps into the image again."""
    scene, truth = room
    bent = replace(scene, distortion=(-0.4, 0.0, 0.0, 0.0))
    T = scene.T_world_cam[0]
    x = 1.5  # 1 - 0.4 x^2 is 0.1: shown at 0.15, where the image is
    point = T[:3, 3] + T[:3, :3] @ np.array([x, 0.0, 1.0]) * 3
    flat = np.full_like(scene.depth, 3.0)
    assert not visible(replace(bent, depth=flat), 0, point[None], 0).any()
    inside = T[:3, 3] + T[:3, :3] @ np.array([0.05, 0.1, 1.0]) * 3
    assert visible(replace(bent, depth=flat), 0, inside[None], 0).all()


def test_tracks_are_short_and_images_are_not_left_empty(room, monkeypatch):
    scene = room[0]
    points, _ = static_points(scene, 1500)
    everywhere = np.stack([visible(scene, frame, points, 3) for frame in range(4)])
    monkeypatch.setattr(tracks, "MOST_VIEWS", 2)
    monkeypatch.setattr(tracks, "FEWEST_POINTS", 0)
    found = projected_tracks(scene, points, 3)
    views = np.bincount(np.concatenate(found.observed), minlength=len(points))
    np.testing.assert_array_equal(views, np.minimum(everywhere.sum(axis=0), 2))
    shares = np.array([len(rows) for rows in found.observed])
    assert shares.min() > 0.6 * shares.max()
    monkeypatch.setattr(tracks, "MOST_VIEWS", 1)
    monkeypatch.setattr(tracks, "FEWEST_POINTS", 10_000)
    for rows, seen in zip(projected_tracks(scene, points, 3).observed, everywhere):
        np.testing.assert_array_equal(rows, np.flatnonzero(seen))


def test_an_image_without_matches_gets_points_of_its_depth(room, tmp_path):
    """gsplat's loss on depth asks every image for its points; bundle adjustment may have left an image out."""
    scene, truth = room
    scene = tracked(scene, truth)
    seen = scene.sparse.frame_index != 2
    sparse = replace(
        scene.sparse,
        point_index=scene.sparse.point_index[seen],
        frame_index=scene.sparse.frame_index[seen],
        pixels=scene.sparse.pixels[seen],
    )
    model = pycolmap.Reconstruction(str(write_splat(replace(scene, sparse=sparse), tmp_path / "out") / "sparse" / "0"))
    counts = {k: len(image.points2D) for k, image in model.images.items()}
    assert counts[3] > 10
    for k in (1, 2, 4):  # the measured ones stay
        xy = np.array([point.xy for point in model.images[k].points2D])
        np.testing.assert_array_equal(xy, sparse.pixels[sparse.frame_index == k - 1])
    assert {point.error for point in model.points3D.values()} == set(sparse.errors)


def test_every_loader_finds_its_files(room, splat):
    written = {file.relative_to(splat).as_posix() for file in splat.rglob("*") if file.is_file()}
    assert written == splat_files(room[0])
    model = pycolmap.Reconstruction(str(splat / "sparse/0"))
    assert model.cameras[1].model.name == "PINHOLE" and model.num_points3D() > 1000
    names = sorted(image.name for image in model.images.values())
    for folder, factor in (("images", 1), ("images_2", 2), ("images_4", 4), ("images_8", 8)):
        assert sorted(path.name for path in (splat / folder).iterdir()) == names
        assert read_png(splat / folder / names[0]).shape == (213 // factor, 320 // factor, 3)
    for image in model.images.values():
        assert len(image.points2D) > 300 and all(point.has_point3D() for point in image.points2D)
    for position, name in enumerate(names):
        mask = cv2.imread(str(splat / "masks" / name), cv2.IMREAD_UNCHANGED)
        hit = room[1].cast(position, source_pixels(WH))[2]
        assert mask.shape == (213, 320) and (mask[hit] == 0).all() and (mask == 255).mean() > 0.5


def test_the_clouds_are_the_points_of_the_model(splat):
    open3d = pytest.importorskip("open3d")
    model = pycolmap.Reconstruction(str(splat / "sparse/0"))
    points = np.array([model.points3D[k].xyz for k in sorted(model.points3D)])
    for name in ("init.ply", "pointcloud.ply", "sparse/0/points3D.ply"):
        cloud = open3d.io.read_point_cloud(str(splat / name))
        np.testing.assert_allclose(np.asarray(cloud.points), points, atol=1e-6)
        assert cloud.has_colors() and cloud.has_normals() == name.startswith("sparse")


def test_colmap_itself_reads_binary_and_text(room, tmp_path, splat):
    if shutil.which("colmap") is None:
        pytest.skip("colmap is not installed")
    export_scene(room[0], tmp_path, ["colmap"], ExportConfig(max_init_points=2000), RunLog())
    for folder in (splat / "sparse/0", tmp_path / "colmap/sparse/0", tmp_path / "colmap/text"):
        done = subprocess.run(
            ["colmap", "model_analyzer", "--path", str(folder)],
            capture_output=True,
            text=True,
            env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
        )
        assert done.returncode == 0, done.stderr
        assert "Images: 4" in done.stdout + done.stderr and "Observations: 0" not in done.stdout + done.stderr


def test_a_distorted_lens_is_taken_out_and_told(room, tmp_path):
    scene = replace(room[0], distortion=LENS)
    log = RunLog()
    said = []
    log.info = said.append
    export_scene(scene, tmp_path, ["splat", "colmap"], ExportConfig(max_init_points=1000), log)
    for folder, kind in (("splat", "PINHOLE"), ("colmap", "OPENCV")):
        assert pycolmap.Reconstruction(str(tmp_path / folder / "sparse/0")).cameras[1].model.name == kind
    assert any(line.startswith("splat: images are undistorted") for line in said)
    assert any("OPENCV" in line and "--undistort" in line for line in said)
    assert any("--data_factor 1" in line for line in said)
    said.clear()
    export_scene(scene, tmp_path / "u", ["colmap"], ExportConfig(max_init_points=1000, undistort=True), log)
    assert not any("OPENCV" in line for line in said)


@pytest.mark.parametrize("names", ["colmap", "same"])
@pytest.mark.parametrize("white", ["static", "moving"])
def test_masks_have_the_name_and_the_colour_that_were_asked_for(room, tmp_path, names, white):
    config = ExportConfig(max_init_points=1000, mask_names=names, mask_white=white)
    export_scene(room[0], tmp_path, ["colmap"], config, RunLog())
    assert len(list((tmp_path / "colmap/masks").iterdir())) == 4
    suffix = ".png" if names == "colmap" else ""
    mask = cv2.imread(str(tmp_path / f"colmap/masks/colmap_00002.png{suffix}"), cv2.IMREAD_UNCHANGED)
    hit = room[1].cast(1, source_pixels(WH))[2]
    assert (mask[hit] == (0 if white == "static" else 255)).all()


@pytest.mark.parametrize("alpha", ["static", "moving"])
def test_alpha_cuts_out(room, tmp_path, alpha):
    scene, truth = room
    write_splat(scene, tmp_path, max_points=1000, alpha=alpha)
    image = cv2.imread(str(tmp_path / "images/splat_00002.png"), cv2.IMREAD_UNCHANGED)
    hit = truth.cast(1, source_pixels(WH))[2]
    assert image.shape == (213, 320, 4)
    np.testing.assert_array_equal(image[..., 2::-1], read_png(scene.source_paths[1]))
    assert (image[hit][:, 3] == (255 if alpha == "moving" else 0)).all()
    assert (image[..., 3] == 255).mean() == pytest.approx(hit.mean() if alpha == "moving" else 1 - hit.mean(), abs=0.1)
    small = cv2.imread(str(tmp_path / "images_4/splat_00002.png"), cv2.IMREAD_UNCHANGED)
    assert small.shape == (53, 80, 4)


def suffix_rule(root: Path, name: str) -> Path:
    """Where Brush looks for the image of a model: by the end of the path, outside `masks`, the smallest path."""
    files = [file.relative_to(root) for file in root.rglob("*") if file.is_file()]
    return min(file for file in files if "masks" not in file.parts and file.as_posix().endswith(name))


@pytest.mark.parametrize("lens", [(0.0,) * 4, LENS], ids=["pinhole", "lens"])
def test_images_are_found_by_the_end_of_their_path_in_the_whole_dataset(room, tmp_path, lens):
    """All exports that hold images lie in one dataset: whichever model a reader takes, its images are its own."""
    scene, out = replace(room[0], distortion=lens), tmp_path / "out"
    write_dataset(scene, out, DatasetConfig(num_downscales=1, max_init_points=1000), RunLog())
    export_scene(scene, out / "export", ["colmap", "splat"], ExportConfig(max_init_points=1000), RunLog())
    for format_ in ("colmap", "splat"):
        model = pycolmap.Reconstruction(str(out / "export" / format_ / "sparse/0"))
        for root in (out, out / "export"):
            for image in model.images.values():
                found = suffix_rule(root, image.name)
                assert root / found == out / "export" / format_ / "images" / image.name


def test_without_anything_to_start_from_there_is_no_export(room, tmp_path):
    nothing = np.zeros_like(room[0].depth)
    scene = replace(room[0], depth=nothing, confidence=nothing)
    with pytest.raises(InputError, match="--format splat: the scene has neither depth nor points"):
        export_scene(scene, tmp_path / "out", ["splat"], ExportConfig(), RunLog())
    assert not (tmp_path / "out").exists()
