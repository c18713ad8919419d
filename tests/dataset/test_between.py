"""Frames in between in a dataset: among the others in time, marked, masked, without a depth that nobody measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD, opencv_to_opengl
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import PosedFrames, Scene
from easi3r_ns.dataset.listing import listed_frames, listed_splits
from easi3r_ns.dataset.nerfstudio import (
    UNCHECKED,
    UNKNOWN_DEPTH,
    check_loads,
    dataset_files,
    with_dataset_images,
    write_dataset,
)
from easi3r_ns.dataset.scene_folder import read_scene, write_scene
from easi3r_ns.storage.owned import owned_files
from tests.examples.test_check_dataset import checker
from tests.support.dataset_scene import make_scene

NUM_FRAMES = 14
OPTIONS = DatasetConfig(num_downscales=1, max_init_points=8000)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Every other frame of the room is the Scene's, the others are in between; the fifth of these was interpolated."""
    whole, _ = make_scene(tmp_path_factory.mktemp("room"), (320, 213), num_frames=NUM_FRAMES)
    return thinned(whole, list(range(0, NUM_FRAMES, 2)))


def thinned(whole: Scene, keys: list[int]) -> Scene:
    others = np.setdiff1d(np.arange(len(whole)), keys)
    between = PosedFrames(
        T_world_cam=whole.T_world_cam[others],
        focals=whole.focals[others],
        after=np.searchsorted(keys, others) - 1,
        mask_bits=np.packbits(whole.dynamic.masks[others], axis=-1),
        times=whole.times[others],
        indices=whole.indices[others],
        names=tuple(whole.names[k] for k in others),
        source_paths=tuple(whole.source_paths[k] for k in others),
        pose_sources=tuple("interpolated" if k == 4 else "pnp" for k in range(len(others))),
    )
    own = ("images", "T_world_cam", "focals", "depth", "confidence", "times", "indices")
    return replace(
        whole,
        **{name: getattr(whole, name)[keys] for name in own},
        names=tuple(whole.names[k] for k in keys),
        source_paths=tuple(whole.source_paths[k] for k in keys),
        dynamic=replace(whole.dynamic, masks=whole.dynamic.masks[keys], score=whole.dynamic.score[keys]),
        between=between,
        provenance={"version": "test"},
    )


@pytest.fixture(scope="module")
def dataset(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "out"
    write_dataset(scene, out, OPTIONS, RunLog(), verify=lambda file: check_loads(file, RunLog()))
    return out


def entries(dataset: Path) -> list[dict]:
    return json.loads((dataset / "transforms.json").read_text())["frames"]


def test_they_stand_among_the_others(scene, dataset):
    frames = entries(dataset)
    assert [frame["frame_index"] for frame in frames] == [3 * k for k in range(NUM_FRAMES)]
    assert [frame["file_path"] for frame in frames] == [f"images/frame_{k + 1:05d}.png" for k in range(NUM_FRAMES)]
    sources = [frame["pose_source"] for frame in frames]
    assert sources[::2] == ["network"] * 7 and sources[1::2] == ["pnp"] * 4 + ["interpolated"] + ["pnp"] * 2
    poses = np.array([frame["transform_matrix"] for frame in frames])[1::2]
    np.testing.assert_allclose(poses, Z_UP_FROM_OPENCV_WORLD @ opencv_to_opengl(scene.between.T_world_cam), atol=1e-12)
    for row, frame in enumerate(frames[1::2]):
        image = cv2.imread(str(dataset / frame["file_path"]))
        np.testing.assert_array_equal(image, cv2.imread(str(scene.between.source_paths[row])))


def test_each_has_a_mask_of_its_own(scene, dataset):
    for row, frame in enumerate(entries(dataset)[1::2]):
        moving = cv2.imread(str(dataset / frame["mask_path"]), 0) == 0
        assert moving.mean() >= scene.between.moving(row, scene.images.shape[2]).mean() > 0
        assert (dataset / frame["mask_path"].replace("masks/", "masks_2/")).is_file()


def test_none_has_a_depth(dataset):
    frames = entries(dataset)
    assert {frame["depth_file_path"] for frame in frames[1::2]} == {UNKNOWN_DEPTH}
    assert not any("dynamic_ply_path" in frame for frame in frames[1::2])
    for file, size in ((UNKNOWN_DEPTH, (213, 320)), (UNKNOWN_DEPTH.replace("depths", "depths_2"), (106, 160))):
        depth = cv2.imread(str(dataset / file), cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16 and depth.shape == size and not depth.any()
    assert all(cv2.imread(str(dataset / frame["depth_file_path"]), -1).any() for frame in frames[::2])


def test_interpolated_cameras_are_in_no_split(dataset):
    meta = json.loads((dataset / "transforms.json").read_text())
    train, held_out = meta["train_filenames"], meta["val_filenames"]
    assert meta["test_filenames"] == held_out == ["images/frame_00006.png"]
    every = {f"images/frame_{k + 1:05d}.png" for k in range(NUM_FRAMES)}
    assert every - set(train) - set(held_out) == {"images/frame_00010.png"} and not set(train) & set(held_out)


def test_the_independent_checker_agrees(dataset):
    report = checker.check_dataset(dataset)
    assert report.ok(), str(report)


def test_without_interpolated_ones_nerfstudio_splits_by_itself(scene):
    sure = replace(scene, between=replace(scene.between, pose_sources=("pnp",) * 7))
    assert listed_splits(listed_frames(sure), None) is None


def test_evaluation_views_stay_last_and_held_out(scene):
    splits = {"train": [0, 1, 2, 3, 4], "val": [5, 6], "test": [5, 6]}
    after = np.array([-1, 0, 0, 3, 3, 4, 4])
    listed = listed_frames(replace(scene, between=replace(scene.between, after=after)))
    assert [frame.position for frame in listed] == [None, 0, None, None, 1, 2, 3, None, None, 4, None, None, 5, 6]
    assert [frame.row for frame in listed if frame.position is None] == list(range(7))
    found = listed_splits(listed, splits)
    assert found["val"] == found["test"] == [12, 13]
    assert found["train"] == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11], "all but the interpolated one"


def test_all_files_are_ours_and_known_beforehand(scene, dataset):
    files = {str(path.relative_to(dataset)) for path in dataset.rglob("*") if path.is_file()} - {".easi3r_files.json"}
    assert files == owned_files(dataset) - {UNCHECKED}
    assert files <= dataset_files(NUM_FRAMES, (320, 213), OPTIONS)


def test_the_scene_comes_back_with_them(scene, dataset, tmp_path):
    back = read_scene(write_scene(scene, tmp_path / "scene")).between
    for name in ("T_world_cam", "focals", "after", "mask_bits", "times", "indices"):
        np.testing.assert_array_equal(getattr(back, name), getattr(scene.between, name))
    assert (back.names, back.source_paths, back.pose_sources) == (
        scene.between.names,
        scene.between.source_paths,
        scene.between.pose_sources,
    )
    kept = read_scene(dataset / "scene")
    assert kept.source_paths == with_dataset_images(scene, dataset, OPTIONS).source_paths
    assert [path.name for path in kept.between.source_paths] == [f"frame_{k + 1:05d}.png" for k in range(1, 14, 2)]


def test_a_scene_without_depth_gets_none_at_all(scene, tmp_path):
    nothing = np.zeros_like(scene.depth)
    bare = replace(scene, depth=nothing, confidence=nothing)
    write_dataset(bare, tmp_path / "out", DatasetConfig(num_downscales=0), RunLog())
    assert not any("depth_file_path" in frame for frame in entries(tmp_path / "out"))
    assert not (tmp_path / "out" / "depths").exists()


def test_a_later_run_without_them_leaves_none(scene, tmp_path):
    write_dataset(scene, tmp_path / "out", OPTIONS, RunLog())
    write_dataset(replace(scene, between=None), tmp_path / "out", OPTIONS, RunLog(), overwrite=True)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 7 == len(list((tmp_path / "out" / "masks").iterdir()))
    assert not (tmp_path / "out" / UNKNOWN_DEPTH).exists()
    assert not any("pose_source" in frame for frame in entries(tmp_path / "out"))


@pytest.mark.parametrize(
    "change",
    [
        {"T_world_cam": np.full((7, 4, 4), np.nan)},
        {"focals": np.zeros(7)},
        {"names": ("a",)},
        {"mask_bits": np.zeros((7, 3), np.uint8)},
    ],
)
def test_impossible_frames_in_between_are_refused(scene, change):
    with pytest.raises(ValueError):
        replace(scene.between, **change)


@pytest.mark.parametrize(
    "change", [{"after": np.array([0, 1, 2, 3, 4, 5, 7])}, {"mask_bits": np.zeros((7, 8, 2), np.uint8)}]
)
def test_they_must_fit_their_scene(scene, change):
    with pytest.raises(ValueError):
        replace(scene, between=replace(scene.between, **change))
