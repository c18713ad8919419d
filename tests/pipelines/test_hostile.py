"""The whole road with a network that goes wrong: the dataset is right, or says what in it is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry, plan_preprocessing
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.model import PairOutput
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import process
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_network import NUM_FRAMES, dataset_cameras, write_images
from tests.support.helpers import align_sim3
from tests.support.standin import StandIn

SMALL = DUSt3RConfig(image_size=96, patch_size=8, head_type="linear")
FIELDS = ("images", "depth", "object_id", "moving", "would_move", "T_world_cam", "T_world_object", "times")


class Confused(StandIn):
    """Answers with noise about some frames, and about some pairs (in both orders)."""

    frames: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()

    def decode(self, features_i, features_j, grid, silence=None) -> PairOutput:
        output = super().decode(features_i, features_j, grid, silence)
        for row, pair in enumerate(zip(self._frames(features_i), self._frames(features_j))):
            if set(pair) & set(self.frames) or pair in self.pairs or pair[::-1] in self.pairs:
                generator = torch.Generator().manual_seed(100 * pair[0] + pair[1])
                for points in (output.points_i, output.points_j):
                    noise = torch.randn(points[row].shape, generator=generator)
                    points[row] = noise + torch.tensor([0.0, 0.0, 4.0])
        return output


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(5, NUM_FRAMES, 180, 240)


def run(tmp_path: Path, clip: Clip, **confusion) -> tuple[Path, RunLog]:
    plan = plan_preprocessing(clip.depth.shape[:0:-1], ImageGeometry(SMALL.image_size, SMALL.patch_size, SMALL.square))
    network, log = Confused(clip, plan, SMALL), RunLog()
    for name, value in confusion.items():
        setattr(network, name, value)
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(weights="stand-in", device="cpu"),
        AlignConfig(iterations=100),
        DatasetConfig(num_downscales=0, report=True),
        RefineConfig("none"),
    )
    data, pipeline = write_images(clip, tmp_path / "clip"), NetworkPipeline(config, network)
    process(data, tmp_path / "out", config, overwrite=False, log=log, pipeline=pipeline)
    return tmp_path / "out", log


def frames_of(clip: Clip, index: list[int]) -> Clip:
    return dataclasses.replace(clip, **{name: getattr(clip, name)[index] for name in FIELDS})


def path_error(out: Path, clip: Clip, frames: list[int]) -> float:
    """RMS distance of these cameras from the truth, in units of the typical depth, after a similarity."""
    poses = dataset_cameras(out)[0]
    return align_sim3(poses[frames, :3, 3], clip.T_world_cam[frames, :3, 3]).rmse / float(np.median(clip.depth))


@pytest.mark.slow
def test_black_frames_are_named_and_give_nothing(tmp_path, clip):
    images = clip.images.copy()
    images[3] = 0
    out, log = run(tmp_path, dataclasses.replace(clip, images=images), frames=(3,))
    assert any("no pair of frame 3 fits" in warning for warning in log.warnings)
    assert path_error(out, clip, [0, 1, 2, 4, 5]) < 0.01
    meta = json.loads((out / "transforms.json").read_text())
    sigma = [frame["uncertainty"]["position"] for frame in meta["frames"]]
    assert sigma[3] is None and all(value is not None and value > 0 for k, value in enumerate(sigma) if k != 3)
    depth = [cv2.imread(str(out / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED) for frame in meta["frames"]]
    assert not depth[3].any() and depth[2].any()
    assert meta["easi3r"]["alignment"]["weak_frames"] == [3]
    sources = [frame["pose_source"] for frame in meta["frames"]]
    assert sources == ["interpolated" if k == 3 else "network" for k in range(NUM_FRAMES)]
    splits = [meta[name + "_filenames"] for name in ("train", "val")]
    assert all(splits), "nerfstudio needs frames in both"
    assert not any(meta["frames"][3]["file_path"] in split for split in splits), "nothing is trained on a guess"
    assert "no pair of frames constrains the camera" in (out / "report.html").read_text()


@pytest.mark.slow
def test_confused_pairs_do_not_reach_the_dataset(tmp_path, clip):
    out, log = run(tmp_path, clip, pairs=((1, 2), (3, 4)))
    assert any("4 of" in warning and "1-2" in warning for warning in log.warnings)
    assert path_error(out, clip, list(range(NUM_FRAMES))) < 0.01


def test_a_confused_network_is_an_error_and_leaves_no_dataset(tmp_path, clip):
    with pytest.raises(AlignmentError):
        run(tmp_path, clip, frames=tuple(range(NUM_FRAMES)))
    assert not (tmp_path / "out" / "transforms.json").exists()


def test_the_same_frame_again_and_again(tmp_path, clip):
    out, log = run(tmp_path, frames_of(clip, [0] * NUM_FRAMES))
    poses = dataset_cameras(out)[0]
    assert np.linalg.norm(np.ptp(poses[:, :3, 3], axis=0)) < 0.05, "of a scene some 4 units deep"
    assert any("stands still" in warning for warning in log.warnings)
    assert 'id="verdict" class="stop"' in (out / "report.html").read_text()


def test_three_frames(tmp_path, clip):
    out, _ = run(tmp_path, frames_of(clip, [0, 2, 5]))
    poses, index = dataset_cameras(out)[0], [0, 2, 5]
    for k in (1, 2):
        true = np.linalg.inv(clip.T_world_cam[0]) @ clip.T_world_cam[index[k]]
        ours = np.linalg.inv(poses[0]) @ poses[k]
        np.testing.assert_allclose(ours[:3, :3], true[:3, :3], atol=0.01)
        directions = [T[:3, 3] / np.linalg.norm(T[:3, 3]) for T in (ours, true)]
        assert directions[0] @ directions[1] > 0.99
