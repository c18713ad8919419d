"""An assumed depth of what moves is shown as points, marked, and is in nothing that is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open3d
import pytest

from easi3r_ns.core.config import DatasetConfig, ExportConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD, transform
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import ASSUMED, Scene, choose_scale
from easi3r_ns.core.surface import shown_depth, solid_pixels, trusted_depth
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.dataset.pointcloud import dynamic_points, static_points
from easi3r_ns.export.formats import export_scene
from easi3r_ns.report.measures import measure
from tests.support.dataset_scene import make_scene

FAR = np.float32(1.75)
EMPTY_FRAME = 1


@pytest.fixture
def plain(tmp_path: Path) -> Scene:
    """What moves has no depth."""
    scene, _ = make_scene(tmp_path / "store", (320, 213), 3)
    still = ~scene.dynamic.masks
    return replace(scene, depth=scene.depth * still, confidence=scene.confidence * still)


@pytest.fixture
def assumed(plain: Scene) -> Scene:
    """It is assumed, but for one frame."""
    depth = np.where(plain.dynamic.masks, FAR, 0)
    depth[EMPTY_FRAME] = 0
    return replace(plain, assumed_depth=depth)


def files(folder: Path, scene: Scene) -> tuple[dict, dict[str, bytes]]:
    write_dataset(scene, folder, DatasetConfig(num_downscales=1), RunLog())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return json.loads(found["transforms.json"]), found


def test_only_the_moving_points_of_a_dataset_differ(tmp_path: Path, plain: Scene, assumed: Scene) -> None:
    (before, without), (meta, found) = (files(tmp_path / n, s) for n, s in (("a", plain), ("b", assumed)))
    clouds = {"dynamic/frame_00001.ply", "dynamic/frame_00003.ply"}
    assert set(found) - set(without) == clouds
    same = {n for n in without if n.split("/")[0] in ("depths", "depths_2", "masks", "masks_2") or n == "sparse_pc.ply"}
    assert len(same) == 13 and all(found[name] == without[name] for name in same)
    marks = [(frame.get("dynamic_ply_path"), frame.get("dynamic_depth")) for frame in meta["frames"]]
    assert marks == [("dynamic/frame_00001.ply", "assumed"), (None, None), ("dynamic/frame_00003.ply", "assumed")]
    assert not any("dynamic_depth" in frame for frame in before["frames"])
    for name in clouds:
        assert f"\ncomment {ASSUMED}\n".encode() in found[name]
    points = np.asarray(open3d.io.read_point_cloud(str(tmp_path / "b/dynamic/frame_00003.ply")).points)
    local = transform(np.linalg.inv(Z_UP_FROM_OPENCV_WORLD @ assumed.T_world_cam[2]), points)
    assert len(points) == assumed.dynamic.masks[2].sum()
    np.testing.assert_allclose(local[:, 2], FAR, rtol=1e-5)


def test_nothing_measured_sees_it(plain: Scene, assumed: Scene) -> None:
    for frame in range(3):
        np.testing.assert_array_equal(trusted_depth(plain, frame), trusted_depth(assumed, frame))
        np.testing.assert_array_equal(solid_pixels(plain, frame), solid_pixels(assumed, frame))
    for a, b in zip(static_points(plain, 5000), static_points(assumed, 5000), strict=True):
        np.testing.assert_array_equal(a, b)
    assert choose_scale(plain) == choose_scale(assumed)
    assert measure(plain).measures == measure(assumed).measures
    shown = shown_depth(assumed, 0)
    assert (shown[assumed.dynamic.masks[0]] == FAR).all()
    np.testing.assert_array_equal(shown[~assumed.dynamic.masks[0]], plain.depth[0][~assumed.dynamic.masks[0]])
    assert len(dynamic_points(assumed, 0)[0]) > 50 and not len(dynamic_points(plain, 0)[0])


def test_exports(tmp_path: Path, plain: Scene, assumed: Scene) -> None:
    done = export_scene(assumed, tmp_path, ["cloud"], ExportConfig(max_points=5000), RunLog())
    assert done["cloud"] == ["cloud.ply", "dynamic/frame_00001.ply", "dynamic/frame_00003.ply"]
    assert f"comment {ASSUMED}".encode() in (tmp_path / "dynamic/frame_00001.ply").read_bytes()
    assert ASSUMED.encode() not in (tmp_path / "cloud.ply").read_bytes()
    with pytest.raises(InputError, match="assumed for viewing makes no mesh"):
        export_scene(assumed, tmp_path, ["dynamic-mesh"], ExportConfig(), RunLog())
    meshes = []
    for name, scene in (("a", plain), ("b", assumed)):
        export_scene(scene, tmp_path / name, ["mesh", "glb"], ExportConfig(max_points=5000), RunLog())
        meshes.append([(tmp_path / name / file).read_bytes() for file in ("mesh.ply", "scene.glb")])
    assert meshes[0] == meshes[1]


@pytest.mark.parametrize("place", ["static", "known", "infinite", "shape"])
def test_a_scene_refuses_it_elsewhere(plain: Scene, place: str) -> None:
    depth, known = np.where(plain.dynamic.masks, FAR, 0), plain.depth.copy()
    if place == "static":
        depth[0, 0, 0] = FAR
    elif place == "known":
        known[plain.dynamic.masks] = 2
    elif place == "infinite":
        depth[plain.dynamic.masks] = np.inf
    else:
        depth = depth[:, :-1]
    with pytest.raises(ValueError, match="assumed_depth"):
        replace(plain, depth=known, assumed_depth=depth)
