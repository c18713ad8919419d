"""Clips of cameras that stay in their place go through both pipelines: poses are pinned and a dataset is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError, InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import FIXED, TURNING
from easi3r_ns.dataset.scene_folder import read_scene
from easi3r_ns.export.cloud import write_clouds
from easi3r_ns.pipelines import geometric
from easi3r_ns.pipelines.run import ProcessResult, RunConfig, process
from easi3r_ns.report.rules import Level
from easi3r_ns.storage.files import write_png
from easi3r_ns.training.scenes import Clip
from tests.support.helpers import Lines
from tests.support.still_clip import still_clip

CHECKER = Path(__file__).parents[2] / "examples" / "check_dataset.py"


def run(folder: Path, clip: Clip, log: RunLog, *, refine: RefineConfig = RefineConfig(), **easi3r) -> ProcessResult:
    (folder / "clip").mkdir()
    for k, image in enumerate(clip.images):
        write_png(folder / "clip" / f"{k:03d}.png", image)
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(device="cpu", **easi3r),
        AlignConfig(max_pixels=512),
        DatasetConfig(num_downscales=1),
        refine,
    )
    return process(folder / "clip", folder / "out", config, overwrite=False, log=log)


def checked(out: Path) -> None:
    done = subprocess.run([sys.executable, CHECKER, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def turn_error(found: np.ndarray, clip: Clip) -> float:
    relative = [R[0].T @ R for R in (found[:, :3, :3], clip.T_world_cam[:, :3, :3])]
    return float(np.degrees(Rotation.from_matrix(relative[0].transpose(0, 2, 1) @ relative[1]).magnitude()).max())


@pytest.fixture
def no_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise AlignmentError("no parallax")

    monkeypatch.setattr(geometric, "map_static", fails)


def test_fixed_camera_without_a_network(tmp_path, no_mapping) -> None:
    clip, log = still_clip("fixed"), RunLog()
    result = run(tmp_path, clip, log, weights="none")
    scene = result.scene
    assert scene.stays and scene.pose_sources == (FIXED,) * len(clip) and not scene.has_depth and scene.sparse is None
    np.testing.assert_array_equal(scene.T_world_cam, np.tile(np.eye(4), (len(clip), 1, 1)))
    meta = json.loads(result.transforms_path.read_text())
    assert "ply_file_path" not in meta and not (tmp_path / "out" / "sparse_pc.ply").exists()
    assert meta["easi3r"]["camera_motion"]["kind"] == "fixed" and meta["fl_x_sigma"] == pytest.approx(
        0.35 * meta["fl_x"]
    )
    assert any("stands still" in text and "masks" in text for text in log.warnings)
    verdict = result.card.verdict
    assert verdict is not None and verdict.level == Level.STOP and verdict.against[0].rule.key == "stays"
    checked(tmp_path / "out")
    kept = read_scene(tmp_path / "out" / "scene")
    assert kept.stays
    with pytest.raises(InputError, match="neither depth nor points"):
        write_clouds(kept, tmp_path / "clouds")


def test_turning_camera_without_a_network(tmp_path, no_mapping) -> None:
    clip = still_clip("turn", 1, 20.0)
    result = run(tmp_path, clip, RunLog(), weights="none")
    scene = result.scene
    assert scene.pose_sources == (TURNING,) * len(clip) and not scene.T_world_cam[:, :3, 3].any()
    assert turn_error(scene.T_world_cam, clip) < 0.1
    meta = json.loads(result.transforms_path.read_text())
    assert abs(meta["fl_x"] / clip.focal - 1) < 0.02


def test_creeping_camera_is_pinned_only_where_mapping_fails(tmp_path, no_mapping) -> None:
    clip, log = still_clip("sideways", 1, 0.03), RunLog()
    scene = run(tmp_path, clip, log, weights="none").scene
    assert scene.stays and scene.provenance["camera_motion"]["hardly_travels"]
    assert any("hardly travels" in text for text in log.warnings)


def test_a_camera_that_travels_keeps_the_error_of_mapping(tmp_path, no_mapping) -> None:
    with pytest.raises(AlignmentError, match="no parallax"):
        run(tmp_path, still_clip("forward", 3, 0.6), RunLog(), weights="none")


def test_fixed_camera_with_a_network(tmp_path) -> None:
    clip, log = still_clip("fixed"), RunLog()
    result = run(tmp_path, clip, log, weights="tiny", refine=RefineConfig(refine="colmap"))
    scene = result.scene
    assert scene.stays and np.ptp(scene.T_world_cam, axis=0).max() == 0
    assert any("--refine has no effect" in text for text in log.warnings)
    static = ~scene.dynamic.masks.any(axis=0) & (scene.depth > 0).all(axis=0)
    assert static.mean() > 0.5
    assert np.median(np.ptp(np.log(scene.depth[:, static]), axis=0)) < 1e-4
    checked(tmp_path / "out")


def test_turning_camera_with_a_network(tmp_path) -> None:
    clip = still_clip("turn", 1, 20.0)
    log = Lines()
    scene = run(tmp_path, clip, log, weights="tiny").scene
    assert scene.pose_sources == (TURNING,) * len(clip) and not scene.T_world_cam[:, :3, 3].any()
    # Refinement that nobody asked for has no effect here, which is no warning.
    assert any("--refine has no effect: bundle adjustment needs a camera that travels" in text for text in log.said)
    assert not any("--refine" in text for text in log.warnings)
    assert scene.provenance["refine"]["kept"] == "network"
    assert turn_error(scene.T_world_cam, clip) < 0.1
    focal = scene.focals[0] / scene.pixel_map.scale_xy[0]
    assert abs(focal / clip.focal - 1) < 0.02
