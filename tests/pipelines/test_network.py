"""The whole pipeline on a rendered clip with known truth: pins every convention from pixels to the written dataset."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import open3d
import pytest
import torch

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import InputError, OutputError
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD, is_rigid, opencv_to_opengl, project, transform
from easi3r_ns.core.runlog import RunLog, stage_words
from easi3r_ns.frames import ImageGeometry, plan_preprocessing
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import WORKSPACE, process
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.scenes import Clip, render_clip
from tests.support.helpers import align_sim3
from tests.support.standin import StandIn

NUM_FRAMES = 6
SIZES = {
    "landscape, uncropped": (240, 320, 128, 16, False),
    "portrait, uncropped": (320, 240, 128, 16, False),
    "wide, resize rounds": (181, 320, 128, 8, False),
    "landscape, cropped": (214, 320, 128, 16, False),
    "portrait, cropped": (320, 206, 128, 16, False),
    "square, cropped to 4:3": (280, 280, 128, 16, False),
    "square network": (240, 320, 96, 16, True),
    "patch 8": (240, 320, 112, 8, False),
}


def write_images(clip: Clip, folder: Path) -> Path:
    folder.mkdir()
    for k, image in enumerate(clip.images):
        cv2.imwrite(str(folder / f"shot_{k}.png"), image[..., ::-1])
    return folder


NEVER = NetworkPipeline(RunConfig(), StandIn)
"""For runs that must end before they use their network."""


def run_stand_in(
    tmp_path: Path,
    clip: Clip,
    network: DUSt3RConfig,
    eval_data: Path | None = None,
    dataset: DatasetConfig = DatasetConfig(num_downscales=1, report=False),
    motion: Literal["auto", "attention"] = "attention",
    **easi3r,
) -> tuple[StandIn, RunLog, Path]:
    """The pipeline with the true pointmaps plus noise; returns the stand-in, its log and the dataset.

    Most tests here do without the second look, which is half of the time.
    """
    height, width = clip.depth.shape[1:]
    geometry = ImageGeometry(network.image_size, network.patch_size, network.square)
    stand_in = StandIn(clip, plan_preprocessing((width, height), geometry), network)
    data, log, out = tmp_path / "clip", RunLog(), tmp_path / "out"
    if not data.exists():
        write_images(clip, data)
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(weights="stand-in", device="cpu", motion=motion, **easi3r),
        AlignConfig(iterations=100),
        dataset,
        RefineConfig("none"),
        eval_data=eval_data,
    )
    process(data, out, config, overwrite=False, log=log, pipeline=NetworkPipeline(config, stand_in))
    return stand_in, log, out


def dataset_cameras(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """OpenCV camera-to-world (F, 4, 4) in the dataset's world, and (fx, fy, cx, cy)."""
    meta = json.loads((out / "transforms.json").read_text())
    poses = np.array([frame["transform_matrix"] for frame in meta["frames"]])
    return opencv_to_opengl(poses), np.array([meta[key] for key in ("fl_x", "fl_y", "cx", "cy")])


def reprojection_errors(clip: Clip, out: Path) -> np.ndarray:
    """Distance in source pixels between where dataset and truth send static pixels of one frame in the next one."""
    poses, intrinsics = dataset_cameras(out)
    errors = []
    for a, b in ((0, 2), (2, 4), (5, 3)):
        depth = cv2.imread(str(out / f"depths/frame_{a + 1:05d}.png"), cv2.IMREAD_UNCHANGED) * 1e-3
        static = cv2.imread(str(out / f"masks/frame_{a + 1:05d}.png"), cv2.IMREAD_UNCHANGED) > 0
        rows, cols = np.nonzero((depth > 0) & static & ~clip.moving[a])
        rows, cols = rows[::17], cols[::17]
        xy = np.stack([cols + 0.5, rows + 0.5], axis=-1)
        rays = (xy - intrinsics[2:]) / intrinsics[:2]
        local = np.concatenate([rays, np.ones((len(rays), 1))], axis=-1) * depth[rows, cols, None]
        ours = project(transform(np.linalg.inv(poses[b]) @ poses[a], local), *intrinsics)
        truth_local = transform(np.linalg.inv(clip.T_world_cam[b]), clip.points(a)[rows, cols])
        truth = project(truth_local, clip.focal, clip.focal, *(clip.principal_point + 0.5))
        errors.append(np.linalg.norm(ours - truth, axis=-1))
    return np.concatenate(errors)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_truth_plus_noise_gives_the_true_dataset(tmp_path, name):
    height, width, size, patch, square = SIZES[name]
    clip = render_clip(11, NUM_FRAMES, height, width)
    network = DUSt3RConfig(image_size=size, patch_size=patch, square=square, head_type="linear")
    stand_in, log, out = run_stand_in(tmp_path, clip, network, motion="auto")
    assert stand_in.encoded == NUM_FRAMES, "every frame is encoded exactly once, for both passes"
    assert stand_in.silenced, "pass 2 silences the moving tokens"
    poses, (fx, fy, cx, cy) = dataset_cameras(out)
    assert is_rigid(poses)
    scene_size = np.linalg.norm(np.ptp(clip.points(0).reshape(-1, 3), axis=0))
    assert align_sim3(poses[:, :3, 3], clip.T_world_cam[:, :3, 3]).rmse < 0.01 * scene_size
    assert abs(fx / clip.focal - 1) < 0.002 and fx == fy
    assert (cx, cy) == pytest.approx((width / 2, height / 2), abs=1e-6)
    errors = reprojection_errors(clip, out)
    assert np.median(errors) < 0.5 and np.quantile(errors, 0.9) < 1.0
    masks = np.stack([cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in sorted((out / "masks").iterdir())])
    seen = ~(masks > 0)
    assert (seen & clip.moving).sum() > 0.8 * clip.moving.sum(), "the movers are masked"
    assert (seen & ~clip.moving).mean() < 0.15, "and little else"


@pytest.fixture(scope="module")
def small_clip() -> Clip:
    return render_clip(5, NUM_FRAMES, 240, 320)


SMALL = DUSt3RConfig(image_size=128, patch_size=8, head_type="linear")


def test_world_of_the_dataset_stands_upright(tmp_path, small_clip):
    """With --up none camera 0 looks along +y and its up is +z; applied_transform says how we got there."""
    dataset = DatasetConfig(num_downscales=1, report=False, up="none")
    _, _, out = run_stand_in(tmp_path, small_clip, SMALL, dataset=dataset)
    meta = json.loads((out / "transforms.json").read_text())
    first = np.array(meta["frames"][0]["transform_matrix"])
    np.testing.assert_allclose(first[:3, :3] @ [0, 0, -1], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(first[:3, :3] @ [0, 1, 0], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(meta["applied_transform"], Z_UP_FROM_OPENCV_WORLD[:3])
    assert meta["easi3r"]["weights"]["licence"] == "Apache-2.0"
    assert not (out / WORKSPACE).exists()


def test_every_frame_is_encoded_once_without_a_cache_too(tmp_path, small_clip, monkeypatch):
    monkeypatch.setattr("easi3r_ns.pipelines.run.StageCache", lambda folder: StageCache(None))
    stand_in, _, _ = run_stand_in(tmp_path, small_clip, SMALL)
    assert stand_in.encoded == NUM_FRAMES


def test_known_focal_is_kept(tmp_path, small_clip):
    _, _, out = run_stand_in(tmp_path, small_clip, SMALL, focal_length=small_clip.focal)
    assert dataset_cameras(out)[1][0] == pytest.approx(small_clip.focal, rel=1e-5)


def test_no_masks_and_no_adapt(tmp_path, small_clip):
    plain, _, out = run_stand_in(tmp_path, small_clip, SMALL, no_masks=True)
    assert not plain.silenced
    assert all(cv2.imread(str(p), 0).min() == 255 for p in (out / "masks").iterdir())
    second = tmp_path / "second"
    second.mkdir()
    unadapted, _, out = run_stand_in(second, small_clip, SMALL, no_adapt=True)
    assert not unadapted.silenced
    assert any(cv2.imread(str(p), 0).min() == 0 for p in (out / "masks").iterdir()), "masks are still found"


def test_user_masks_silence_and_are_written(tmp_path, small_clip):
    masks = tmp_path / "mine"
    masks.mkdir()
    for k, moving in enumerate(small_clip.moving):
        cv2.imwrite(str(masks / f"m_{k}.png"), moving.astype(np.uint8) * 255)
    stand_in, _, out = run_stand_in(tmp_path, small_clip, SMALL, masks=masks)
    assert stand_in.silenced
    for k, moving in enumerate(small_clip.moving):
        static = cv2.imread(str(out / f"masks/frame_{k + 1:05d}.png"), 0) > 0
        assert not (static & cv2.erode(moving.astype(np.uint8), np.ones((5, 5))).astype(bool)).any()
        assert (~static).mean() < moving.mean() + 0.1


def test_two_frames_work(tmp_path, small_clip):
    fields = ("images", "depth", "object_id", "moving", "would_move", "T_world_cam", "T_world_object", "times")
    two = dataclasses.replace(small_clip, **{name: getattr(small_clip, name)[[0, 5]] for name in fields})
    _, log, out = run_stand_in(tmp_path, two, SMALL)
    poses, _ = dataset_cameras(out)
    true = np.linalg.inv(two.T_world_cam[0]) @ two.T_world_cam[1]
    ours = np.linalg.inv(poses[0]) @ poses[1]
    np.testing.assert_allclose(ours[:3, :3], true[:3, :3], atol=0.01)
    directions = [T[:3, 3] / np.linalg.norm(T[:3, 3]) for T in (ours, true)]
    assert directions[0] @ directions[1] > 0.99
    assert any("two frames" in warning for warning in log.warnings)


def hold_out(clip: Clip, tmp_path: Path) -> Path:
    """Write the clip's images, the last two into a folder of their own, which is returned."""
    data, held_out = write_images(clip, tmp_path / "clip"), tmp_path / "held_out"
    held_out.mkdir()
    for k in (4, 5):
        (data / f"shot_{k}.png").rename(held_out / f"shot_{k}.png")
    return held_out


def test_eval_data_becomes_the_val_and_test_splits(tmp_path, small_clip):
    held_out = hold_out(small_clip, tmp_path)
    _, _, out = run_stand_in(tmp_path, small_clip, SMALL, eval_data=held_out)
    meta = json.loads((out / "transforms.json").read_text())
    assert [len(meta[f"{split}_filenames"]) for split in ("train", "val", "test")] == [4, 2, 2]
    poses, _ = dataset_cameras(out)
    assert align_sim3(poses[:, :3, 3], small_clip.T_world_cam[:, :3, 3]).rmse < 0.02


def test_every_run_leaves_a_report_card(tmp_path, small_clip):
    """Good cameras give a good verdict; the report holds every stage but itself; held-out frames stay out of it."""
    held_out, dataset = hold_out(small_clip, tmp_path), DatasetConfig(num_downscales=1)
    _, log, out = run_stand_in(tmp_path, small_clip, SMALL, eval_data=held_out, dataset=dataset, motion="auto")
    text = (out / "report.html").read_text()
    for stage in log.stages[:-1]:
        assert f"<td>{stage_words(stage.name)}</td>" in text
    assert {"check", "preview", "report"} <= {stage.name for stage in log.stages}
    assert "2 more frames are held out" in text
    assert "A: mean, as second" in text and "spread between frames" in text and "--weights stand-in" in text
    assert 'id="verdict" class="care"' in text and "only 4 frames" in text
    assert (out / "preview.mp4").stat().st_size > 1000


def test_eval_data_of_another_size_is_refused(tmp_path, small_clip):
    other = write_images(render_clip(5, 2, 120, 160), tmp_path / "other")
    with pytest.raises(InputError, match="160x120, those of --data 320x240"):
        run_stand_in(tmp_path, small_clip, SMALL, eval_data=other)


def test_held_out_views_give_no_points(tmp_path, small_clip):
    held_out = hold_out(small_clip, tmp_path)
    for path in held_out.iterdir():
        cv2.imwrite(str(path), np.full((240, 320, 3), (0, 255, 0), np.uint8))
    _, _, out = run_stand_in(tmp_path, small_clip, SMALL, eval_data=held_out)
    colours = np.asarray(open3d.io.read_point_cloud(str(out / "sparse_pc.ply")).colors)
    assert len(colours) > 1000 and not (colours == [0, 1, 0]).all(axis=1).any()


def test_two_runs_do_not_share_a_folder(tmp_path, small_clip, monkeypatch):
    second = []

    def meanwhile(*args, **kwargs):
        with pytest.raises(OutputError, match="another run is writing"):
            run_stand_in(tmp_path, small_clip, SMALL)
        second.append(1)

    monkeypatch.setattr("easi3r_ns.pipelines.run.check_loads", meanwhile)
    run_stand_in(tmp_path, small_clip, SMALL)
    assert second


def test_a_folder_that_the_run_writes_to_is_no_source(tmp_path, small_clip):
    _, _, out = run_stand_in(tmp_path, small_clip, SMALL)
    before = sorted(p.name for p in (out / "images").iterdir())
    with pytest.raises(InputError, match="would write to"):
        process(out / "images", out, RunConfig(), overwrite=True, log=RunLog(), pipeline=NEVER)
    assert sorted(p.name for p in (out / "images").iterdir()) == before


def test_an_unknown_graph_is_refused_before_any_work(tmp_path, small_clip):
    with pytest.raises(InputError, match="--graph star-3"):
        run_stand_in(tmp_path, small_clip, SMALL, graph="star-3")
    assert not (tmp_path / "out").exists()


def test_a_missing_source_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        process(tmp_path / "none.mp4", tmp_path / "out", RunConfig(), overwrite=False, log=RunLog(), pipeline=NEVER)
    assert not (tmp_path / "out").exists()


class Killed(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("stage", ["encode", "attention", "decode", "check"])
def test_a_killed_run_leaves_no_dataset_and_resumes(tmp_path, small_clip, stage, monkeypatch):
    def killed(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*(("easi3r_ns.pipelines.run.check_loads",) if stage == "check" else (StandIn, stage)), killed)
        with pytest.raises(Killed):
            run_stand_in(tmp_path, small_clip, SMALL)
    assert not (tmp_path / "out" / "transforms.json").exists()
    resumed, _, out = run_stand_in(tmp_path, small_clip, SMALL)
    assert resumed.encoded == (NUM_FRAMES if stage == "encode" else 0), "finished stages are not computed again"
    assert (out / "transforms.json").exists()


@pytest.mark.slow
def test_a_resumed_run_writes_the_same_dataset(tmp_path, small_clip, monkeypatch):
    def killed(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("easi3r_ns.pipelines.network.align", killed)
        with pytest.raises(Killed):
            run_stand_in(tmp_path, small_clip, SMALL)
    _, _, resumed = run_stand_in(tmp_path, small_clip, SMALL)
    fresh_folder = tmp_path / "fresh"
    fresh_folder.mkdir()
    _, _, fresh = run_stand_in(fresh_folder, small_clip, SMALL)
    np.testing.assert_allclose(dataset_cameras(resumed)[0], dataset_cameras(fresh)[0], atol=1e-9)


def test_an_existing_dataset_is_refused(tmp_path, small_clip):
    _, _, out = run_stand_in(tmp_path, small_clip, SMALL)
    before = (out / "transforms.json").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        run_stand_in(tmp_path, small_clip, SMALL)
    assert (out / "transforms.json").read_bytes() == before


def test_a_dataset_that_does_not_load_back_is_taken_away(tmp_path, small_clip, monkeypatch):
    def refuse(*args, **kwargs):
        raise OutputError("broken")

    monkeypatch.setattr("easi3r_ns.pipelines.run.check_loads", refuse)
    with pytest.raises(OutputError, match="broken"):
        run_stand_in(tmp_path, small_clip, SMALL)
    assert not (tmp_path / "out" / "transforms.json").exists()


@pytest.mark.slow
def test_the_seed_decides_everything(tmp_path, small_clip):
    poses = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        torch.manual_seed(hash(name) % 1000)
        poses.append(dataset_cameras(run_stand_in(tmp_path / name, small_clip, SMALL, motion="auto", seed=3)[2])[0])
    np.testing.assert_array_equal(*poses)
