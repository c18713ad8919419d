"""COLMAP project and TUM trajectory, read back by pycolmap, by COLMAP's own Python reader and by evo."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD, distort, opencv_to_opengl, transform
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene, SparsePoints
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.export.colmap import colmap_files, write_colmap
from easi3r_ns.export.tum import write_tum
from easi3r_ns.storage.files import read_png, write_png
from tests.support.dataset_scene import Truth, make_scene, source_pixels

LENS = (0.08, -0.03, 0.002, -0.001)


def tracked(scene: Scene, truth: Truth, distortion: tuple[float, ...] = (0.0,) * 4) -> Scene:
    """The scene with points of its walls, each seen where the lens shows it."""
    rng = np.random.default_rng(1)
    points = truth.cast(0, rng.uniform(20, 180, (40, 2)))[1]
    centre = np.array(truth.source_wh) / 2
    point_index, frame_index, pixels = [], [], []
    for frame in range(len(scene)):
        xy = centre + truth.focal * distort((truth.project(frame, points) - centre) / truth.focal, distortion)
        seen = np.flatnonzero((xy > 0).all(1) & (xy < np.array(truth.source_wh)).all(1) & (rng.random(40) < 0.8))
        point_index.append(seen)
        frame_index.append(np.full(len(seen), frame))
        pixels.append(xy[seen])
    order = rng.permutation(sum(map(len, point_index)))
    sparse = SparsePoints(
        points=points,
        colors=rng.integers(0, 256, (40, 3), dtype=np.uint8),
        errors=rng.random(40),
        point_index=np.concatenate(point_index)[order],
        frame_index=np.concatenate(frame_index)[order],
        pixels=np.concatenate(pixels)[order],
    )
    return replace(scene, sparse=sparse, distortion=distortion)


@pytest.mark.parametrize("folder", ["sparse/0", "text"])
@pytest.mark.parametrize("distortion", [(0.0,) * 4, LENS], ids=["pinhole", "lens"])
def test_pycolmap_reads_cameras_points_and_tracks(tmp_path, folder, distortion):
    import pycolmap

    scene, truth = make_scene(tmp_path / "store", (320, 213), 4)
    scene = tracked(scene, truth, distortion)
    write_colmap(scene, tmp_path / "out")
    model = pycolmap.Reconstruction(str(tmp_path / "out" / folder))
    assert (model.num_images(), model.num_cameras(), model.num_points3D()) == (4, 1, 40)
    camera = model.cameras[1]
    assert camera.model.name == ("OPENCV" if any(distortion) else "PINHOLE")
    np.testing.assert_allclose(camera.params[:4], [truth.focal, truth.focal, 160, 106.5], rtol=1e-12)
    count = 0
    for image_id, image in model.images.items():
        assert image.name == f"colmap_{image_id:05d}.png"
        for observation in image.points2D:
            point = model.points3D[observation.point3D_id]
            np.testing.assert_allclose(image.project_point(point.xyz), observation.xy, atol=1e-4)
            count += 1
    assert count == len(scene.sparse.frame_index)
    assert sum(point.track.length() for point in model.points3D.values()) == count
    for point_id, point in model.points3D.items():
        for element in point.track.elements:
            assert model.images[element.image_id].points2D[element.point2D_idx].point3D_id == point_id
        assert (point.color == scene.sparse.colors[point_id - 1]).all()
        assert point.error == scene.sparse.errors[point_id - 1]


def test_undistorted_project_is_that_of_a_pinhole(tmp_path):
    import pycolmap

    scene, truth = make_scene(tmp_path / "store", (320, 213), 4)
    scene = tracked(scene, truth, LENS)
    # Images that show their own coordinates: what lies where can be read off.
    y, x = np.mgrid[:213, :320]
    ramp = np.stack([x * 0.75, y, np.full_like(x, 200)], axis=-1).astype(np.uint8)
    sources = tuple(tmp_path / f"ramp_{k}.png" for k in range(4))
    for source in sources:
        write_png(source, ramp)
    write_colmap(replace(scene, source_paths=sources), tmp_path / "out", undistort=True)
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse/0"))
    assert model.cameras[1].model.name == "PINHOLE"
    for image in model.images.values():
        for observation in image.points2D:
            shown = image.project_point(model.points3D[observation.point3D_id].xyz)
            np.testing.assert_allclose(shown, observation.xy, atol=1e-4)
    image = read_png(tmp_path / "out/images/colmap_00001.png").astype(float)
    static = read_png(tmp_path / "out/masks/colmap_00001.png.png") > 0
    centre = np.array([160, 106.5])
    for column, row in ((60, 40), (250, 170), (160, 106), (30, 180)):
        source = truth.focal * distort((np.array([column, row]) + 0.5 - centre) / truth.focal, LENS) + centre - 0.5
        np.testing.assert_allclose(image[row, column, :2], source * [0.75, 1], atol=1.0)
    unseen = image[..., 2] < 199
    assert unseen.any() and not static[unseen].any()
    assert static.any()


def test_colmap_and_nerfstudio_have_the_same_world(tmp_path):
    """Cameras and points of the project are those of transforms.json and sparse_pc.ply."""
    import pycolmap

    open3d = pytest.importorskip("open3d")
    scene, _ = make_scene(tmp_path / "store", (320, 240), 3)
    write_dataset(scene, tmp_path / "set", DatasetConfig(num_downscales=0, max_init_points=3000), RunLog())
    write_colmap(scene, tmp_path / "out", max_points=3000)
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    meta = json.loads((tmp_path / "set" / "transforms.json").read_text())
    for position, frame in enumerate(meta["frames"]):
        pose = np.eye(4)
        pose[:3] = model.images[position + 1].cam_from_world().inverse().matrix()
        np.testing.assert_allclose(opencv_to_opengl(pose), frame["transform_matrix"], atol=1e-12)
    cloud = np.asarray(open3d.io.read_point_cloud(str(tmp_path / "set" / "sparse_pc.ply")).points)
    points = np.array([point.xyz for point in model.points3D.values()])
    away, _ = cKDTree(cloud).query(points)
    assert away.max() < 1e-6 and 0.97 * len(cloud) < len(points) <= len(cloud)


def test_points_from_depth_are_read_by_every_loader(tmp_path):
    """COLMAP's own Python reader (nerfstudio holds it; gsplat's and INRIA's loaders descend from it) and pycolmap."""
    import pycolmap
    from nerfstudio.data.utils import colmap_parsing_utils as reader

    scene, truth = make_scene(tmp_path / "store", (320, 240), 3)
    scene = replace(scene, focals=scene.focals * [1.0, 1.01, 1.02])
    out = write_colmap(scene, tmp_path / "out", max_points=2000)
    binary, text = out / "sparse" / "0", out / "text"
    for cameras in (reader.read_cameras_binary(binary / "cameras.bin"), reader.read_cameras_text(text / "cameras.txt")):
        assert [cameras[k].params[0] / truth.focal for k in (1, 2, 3)] == pytest.approx([1, 1.01, 1.02])
        assert {(c.model, c.width, c.height) for c in cameras.values()} == {("PINHOLE", 320, 240)}
    for images in (reader.read_images_binary(binary / "images.bin"), reader.read_images_text(text / "images.txt")):
        assert sorted(images) == [1, 2, 3]
        for k, image in images.items():
            assert image.camera_id == k and len(image.xys) == len(image.point3D_ids) > 500
            R = image.qvec2rotmat()
            world_cam = Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam[k - 1]
            np.testing.assert_allclose(-R.T @ image.tvec, world_cam[:3, 3], atol=1e-12)
            np.testing.assert_allclose(R.T, world_cam[:3, :3], atol=1e-12)
    both = [
        reader.read_points3D_binary(binary / "points3D.bin"),
        reader.read_points3D_text(text / "points3D.txt"),
    ]
    assert 1000 < len(both[0]) == len(both[1]) <= 2000
    for k, point in both[0].items():
        assert 1 <= len(point.image_ids) <= 3 and point.error == 0
        assert (point.xyz == both[1][k].xyz).all() and (point.rgb == both[1][k].rgb).all()
    assert pycolmap.Reconstruction(str(binary)).num_points3D() == len(both[0])


def test_masks_and_images_lie_where_colmap_looks(tmp_path):
    scene, truth = make_scene(tmp_path / "store", (320, 240), 3)
    out = write_colmap(scene, tmp_path / "out")
    written = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert written == colmap_files(scene)
    for position in range(3):
        name = f"colmap_{position + 1:05d}.png"
        assert (out / "images" / name).read_bytes() == scene.source_paths[position].read_bytes()
        mask = cv2.imread(str(out / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        hit = truth.cast(position, source_pixels((320, 240)))[2]
        assert mask.shape == (240, 320) and (mask[hit] == 0).all() and (mask == 255).mean() > 0.5


def test_nerfstudios_own_colmap_parser_takes_the_folder(tmp_path):
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

    scene, _ = make_scene(tmp_path / "store", (320, 240), 4)
    out = write_colmap(scene, tmp_path / "out", max_points=2000)
    config = ColmapDataParserConfig(data=out, colmap_path=Path("sparse/0"), downscale_factor=1, eval_mode="all")
    outputs = config.setup().get_dataparser_outputs("train")
    assert len(outputs.image_filenames) == 4 and len(outputs.metadata["points3D_xyz"]) > 1000


def test_twice_gives_identical_bytes(tmp_path):
    scene, truth = make_scene(tmp_path / "store", (320, 240), 3)
    for scene_ in (scene, tracked(scene, truth, LENS)):
        write_colmap(scene_, tmp_path / "a")
        write_colmap(scene_, tmp_path / "b")
        for file in sorted(colmap_files(scene_)):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_without_its_images_there_is_no_project(tmp_path):
    scene, _ = make_scene(tmp_path / "store", (320, 240), 2)
    scene.source_paths[1].unlink()
    with pytest.raises(InputError, match="frame_00002.png is missing"):
        write_colmap(scene, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scene_without_depth_needs_only_its_tracks(tmp_path):
    import pycolmap

    scene, truth = make_scene(tmp_path / "store", (320, 240), 3)
    nothing = np.zeros_like(scene.depth)
    write_colmap(replace(tracked(scene, truth), depth=nothing, confidence=nothing), tmp_path / "out")
    assert pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0")).num_points3D() == 40


def test_tum_trajectory(tmp_path):
    """By hand, and by evo: real part last, seconds first, the dataset's world."""
    scene, _ = make_scene(tmp_path / "store", (320, 240), 4)
    path = write_tum(scene, tmp_path / "sub" / "trajectory.txt")
    rows = np.loadtxt(path)
    np.testing.assert_array_equal(rows[:, 0], scene.times)
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_quat(rows[:, 4:]).as_matrix(), rows[:, 1:4]
    np.testing.assert_allclose(poses, Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam, atol=1e-12)
    assert (rows[:, 7] >= 0).all()
    forward = transform(Z_UP_FROM_OPENCV_WORLD, scene.T_world_cam[:, :3, 2])
    np.testing.assert_allclose(poses[:, :3, 2], forward, atol=1e-12)
    first = path.read_bytes()
    assert write_tum(scene, path).read_bytes() == first
    evo = pytest.importorskip("evo.tools.file_interface")
    trajectory = evo.read_tum_trajectory_file(str(path))
    np.testing.assert_allclose(trajectory.poses_se3, poses, atol=1e-9)
    np.testing.assert_array_equal(trajectory.timestamps, scene.times)
