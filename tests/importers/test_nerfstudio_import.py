"""Other people's transforms.json: cameras, lens, depth and masks come back; damage is told; nothing leads outside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.importers.folder import read_recording
from easi3r_ns.importers.recording import ImportOptions, to_scene
from easi3r_ns.pipelines.footage import prepare
from tests.support.clip_scene import perfect_scene, sharp_clip
from tests.support.colmap_folder import write_colmap_folder

FRAMES, HEIGHT, WIDTH = 4, 64, 96


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    made = perfect_scene(sharp_clip(3, FRAMES, HEIGHT, WIDTH), tmp_path_factory.mktemp("clip"))
    return replace(made, min_confidence=0.0, distortion=(0.01, -0.002, 0.0, 0.001))


def theirs(scene: Scene, folder: Path, **changes: Any) -> Path:
    """A dataset without our record; ``changes`` at the top of transforms.json, None deletes."""
    write_dataset(scene, folder, DatasetConfig(num_downscales=0, mask_growth=0, report=False), RunLog())
    changed(folder, easi3r=None, **changes)
    return folder


def changed(folder: Path, **changes: Any) -> None:
    meta = json.loads((folder / "transforms.json").read_text()) | changes
    meta = {key: value for key, value in meta.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps(meta))


def imported(folder: Path, store: Path) -> Scene:
    recording = read_recording(folder)
    return to_scene(*prepare(recording, folder, store, RunLog()), folder, ImportOptions())


def test_what_we_write_comes_back(scene, tmp_path):
    got = imported(theirs(scene, tmp_path / "theirs"), tmp_path / "store")
    relative = np.linalg.inv(scene.T_world_cam[0]) @ scene.T_world_cam
    factor = float(np.median(got.depth[scene.depth > 0] / scene.depth[scene.depth > 0]))
    np.testing.assert_allclose(got.T_world_cam[:, :3, :3], relative[:, :3, :3], atol=1e-9)
    np.testing.assert_allclose(got.T_world_cam[:, :3, 3], factor * relative[:, :3, 3], atol=1e-6)
    np.testing.assert_allclose(got.focals, scene.focals, rtol=1e-9)
    np.testing.assert_allclose(got.principal_point, scene.principal_point, atol=1e-9)
    np.testing.assert_allclose(got.distortion, scene.distortion, atol=1e-12)
    both = (got.depth > 0) & (scene.depth > 0)
    assert both.mean() > 0.9
    np.testing.assert_allclose(got.depth[both] / factor, scene.depth[both], atol=6e-4)
    np.testing.assert_array_equal(got.dynamic.masks, scene.dynamic.masks)
    assert got.dynamic.source == "user" and got.names[0] == "images/frame_00001.png"


def test_lens_per_frame_or_as_an_angle(scene, tmp_path):
    flat = replace(scene, distortion=(0.0, 0.0, 0.0, 0.0))
    folder = theirs(flat, tmp_path / "theirs")
    meta = json.loads((folder / "transforms.json").read_text())
    lens = {key: meta[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
    frames = [frame | lens for frame in meta["frames"]]
    changed(folder, frames=frames, **dict.fromkeys(lens))
    np.testing.assert_allclose(imported(folder, tmp_path / "store").focals, scene.focals, rtol=1e-9)
    angle = 2 * np.arctan(0.5 * WIDTH / scene.focals[0])
    bare = [{key: f[key] for key in ("file_path", "transform_matrix")} for f in meta["frames"]]
    bare = [frame | {"file_path": frame["file_path"].removesuffix(".png")} for frame in bare]
    changed(folder, frames=bare, camera_angle_x=float(angle))
    recording = read_recording(folder)
    assert recording.depth is None and recording.masks is None and "no depth" in recording.remarks[0]
    np.testing.assert_allclose(recording.K[:, 0, 0], scene.focals, rtol=1e-9)


def test_frames_are_ordered_by_their_time(scene, tmp_path):
    folder = theirs(scene, tmp_path / "theirs")
    meta = json.loads((folder / "transforms.json").read_text())
    changed(folder, frames=meta["frames"][::-1])
    assert [path.name for path in read_recording(folder).images] == [f"frame_{k:05d}.png" for k in range(1, FRAMES + 1)]


def test_depth_of_pictures_of_several_sizes_is_left_out_and_told(scene, tmp_path):
    folder = theirs(scene, tmp_path / "theirs")
    path = folder / "images" / "frame_00002.png"
    small = cv2.resize(cv2.imread(str(path)), (WIDTH // 2, HEIGHT // 2))
    path.unlink()  # a link to the image of the scene
    cv2.imwrite(str(path), small)
    recording = read_recording(folder)
    assert recording.depth is None and "of several sizes are not read" in recording.remarks[0]


def test_our_own_datasets_are_told(scene, tmp_path):
    with pytest.raises(InputError, match="dataset of easi3r already"):
        read_recording(theirs(scene, tmp_path / "theirs") and _own(tmp_path / "theirs"))


def _own(folder: Path) -> Path:
    changed(folder, easi3r={})
    return folder


FRAME = {"file_path": "images/frame_00001.png", "transform_matrix": np.eye(4).tolist()}
DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "a panorama": ({"camera_model": "EQUIRECTANGULAR"}, "camera_model 'EQUIRECTANGULAR' is not read"),
    "some fisheyes": (
        {"frames": [FRAME, FRAME | {"camera_model": "OPENCV_FISHEYE"}], "p1": 0, "p2": 0},
        "some pictures were taken through a fisheye lens",
    ),
    "no frames": ({"frames": []}, "holds no list of frames"),
    "frames of text": ({"frames": ["x"]}, "holds no list of frames"),
    "no pose": ({"frames": [{"file_path": "images/frame_00001.png"}]}, "'transform_matrix' is missing"),
    "a short pose": ({"frames": [FRAME | {"transform_matrix": [[1, 2], [3, 4]]}]}, "is not 4x4 finite numbers"),
    "a ragged pose": ({"frames": [FRAME | {"transform_matrix": [[1], [3, 4]]}]}, "cannot be read"),
    "no number": ({"frames": [FRAME | {"transform_matrix": "x"}]}, "cannot be read"),
    "a sheared pose": ({"frames": [FRAME | {"transform_matrix": (2 * np.eye(4)).tolist()}]}, "not a rotation"),
    "outside": ({"frames": [FRAME | {"file_path": "../x.png"}]}, "leads out of the folder"),
    "absolute": ({"frames": [FRAME | {"file_path": "/etc/passwd"}]}, "leads out of the folder"),
    "gone": ({"frames": [FRAME | {"file_path": "images/x.png"}]}, "is not there"),
    "a number as a name": ({"frames": [FRAME | {"file_path": 3}]}, "3 is no name of a file"),
    "no focal": ({"fl_x": None}, "'camera_angle_x' is missing"),
    "negative focal": ({"fl_x": -3}, "focal length is not positive"),
    "text as focal": ({"fl_x": "wide"}, "cannot be read"),
    "endless focal": ({"fl_x": 10**400}, "cannot be read"),
    "another shape": ({"w": 10, "h": 99}, "its camera 10x99"),
    "k3": ({"k3": 0.1}, "k3 and k4 are not read"),
    "depth outside": ({"frames": [FRAME | {"depth_file_path": "../d.png"}]}, "leads out of the folder"),
    "depth of 8 bits": ({"frames": [FRAME | {"depth_file_path": "images/frame_00001.png"}]}, "no depth map of 16 bits"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told(kind, scene, tmp_path):
    changes, message = DAMAGE[kind]
    folder = theirs(scene, tmp_path / "theirs", **changes)
    with pytest.raises(InputError, match=message) as caught:
        imported(folder, tmp_path / "store")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 and "theirs" in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "", "[]", "null", "\ufeff{}"])
def test_json_that_is_none(text, tmp_path):
    (tmp_path / "transforms.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="transforms.json cannot be read"):
        read_recording(tmp_path)


def test_a_model_of_colmap_beside_it_brings_more(tmp_path):
    """`ns-process-data` leaves both; the model has points with tracks, from which depth can be measured."""
    folder = write_colmap_folder(sharp_clip(3, FRAMES, HEIGHT, WIDTH), tmp_path / "theirs", place="colmap/sparse/0")
    (folder / "transforms.json").write_text("{}")
    assert read_recording(folder).layout == "COLMAP"
