"""Clips of cameras that stay in their place go through both pipelines: poses are pinned and a dataset is written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError, InputError
from easi3r_ns.core.geometry import FisheyeDistortion, pixel_grid, undistort
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
from tests.support.still_clip import NUM_FRAMES, still_clip
from tests.support.zoom_clip import zoom_course

CHECKER = Path(__file__).parents[2] / "examples" / "check_dataset.py"


def run(
    folder: Path,
    clip: Clip,
    log: RunLog,
    *,
    refine: RefineConfig = RefineConfig(),
    equivalent_mm: int | None = None,
    shared_focal: bool = True,
    report: bool = True,
    **easi3r,
) -> ProcessResult:
    """Run on the clip as PNG files, or as JPEG files that name a focal length."""
    (folder / "clip").mkdir()
    for k, image in enumerate(clip.images):
        if equivalent_mm is None:
            write_png(folder / "clip" / f"{k:03d}.png", image)
            continue
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = equivalent_mm
        Image.fromarray(image).save(folder / "clip" / f"{k:03d}.jpg", exif=exif, quality=98)
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        Easi3RConfig(device="cpu", **easi3r),
        AlignConfig(max_pixels=512, shared_focal=shared_focal),
        DatasetConfig(num_downscales=1, report=report),
        refine,
    )
    return process(folder / "clip", folder / "out", config, overwrite=False, log=log)


def checked(out: Path) -> None:
    done = subprocess.run([sys.executable, CHECKER, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def turn_error(found: np.ndarray, clip: Clip) -> float:
    relative = [R[0].T @ R for R in (found[:, :3, :3], clip.T_world_cam[:, :3, :3])]
    return float(np.degrees(Rotation.from_matrix(relative[0].transpose(0, 2, 1) @ relative[1]).magnitude()).max())


def through_fisheye(clip: Clip) -> Clip:
    """The clip as an equidistant lens of the same focal length shows it, cut to what the pinhole holds."""
    height, width = clip.images.shape[1:3]
    focal = 0.99 * width / 2 / np.arctan(width / 2 / clip.focal)
    ideal = undistort((pixel_grid(height, width) - clip.principal_point) / focal, FisheyeDistortion((0.0,) * 4))
    x, y = np.moveaxis(ideal * clip.focal + clip.principal_point, -1, 0).astype(np.float32)
    images = np.stack([cv2.remap(i, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT) for i in clip.images])
    rows = slice(int((y[:, width // 2] < 0).sum()) + 8, height - int((y[:, width // 2] > height - 1).sum()) - 8)
    return replace(clip, images=images[:, rows], focal=focal)


@pytest.fixture
def no_mapping(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The options of each attempt."""
    tried = []

    def fails(*args: object, **options: object) -> None:
        tried.append(options)
        raise AlignmentError("no parallax")

    monkeypatch.setattr(geometric, "map_static", fails)
    return tried


@pytest.mark.slow
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


@pytest.mark.long
def test_fixed_camera_takes_the_focal_length_of_its_files(tmp_path, no_mapping) -> None:
    clip, log = still_clip("fixed"), RunLog()
    result = run(tmp_path, clip, log, equivalent_mm=35, weights="none")
    height, width = clip.images.shape[1:3]
    meta = json.loads(result.transforms_path.read_text())
    assert meta["fl_x"] == pytest.approx(35 * np.hypot(width, height) / np.hypot(36, 24))
    assert meta["fl_x_sigma"] == pytest.approx(0.05 * meta["fl_x"])
    assert meta["easi3r"]["camera_motion"]["focal"] == "metadata"
    assert any("is what the file says" in text for text in log.warnings)
    assert "what the clip" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    # What the user says wins.
    (tmp_path / "given").mkdir()
    given = run(tmp_path / "given", clip, RunLog(), equivalent_mm=35, weights="none", focal_length=300.0)
    assert given.scene.provenance["camera_motion"]["focal"] == "given"
    assert given.scene.focals[0] / given.scene.pixel_map.scale_xy[0] == pytest.approx(300)


@pytest.mark.long
def test_turning_camera_shows_its_focal_length_whatever_the_files_say(tmp_path, no_mapping) -> None:
    clip = still_clip("turn", 1, 20.0)
    result = run(tmp_path, clip, RunLog(), equivalent_mm=50, weights="none")
    meta = json.loads(result.transforms_path.read_text())
    assert meta["easi3r"]["camera_motion"]["focal"] == "turn" and abs(meta["fl_x"] / clip.focal - 1) < 0.02


@pytest.mark.slow
def test_turning_camera_without_a_network(tmp_path, no_mapping) -> None:
    clip = still_clip("turn", 1, 20.0)
    result = run(tmp_path, clip, RunLog(), weights="none")
    scene = result.scene
    assert scene.pose_sources == (TURNING,) * len(clip) and not scene.T_world_cam[:, :3, 3].any()
    assert turn_error(scene.T_world_cam, clip) < 0.1
    meta = json.loads(result.transforms_path.read_text())
    assert abs(meta["fl_x"] / clip.focal - 1) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "turn"])
def test_a_fisheye_lens_stays_one(tmp_path, no_mapping, kind: str) -> None:
    clip, log = through_fisheye(still_clip(kind, 1, 20.0 * (kind == "turn"))), RunLog()
    lens = RefineConfig(camera_model="opencv-fisheye")
    result = run(tmp_path, clip, log, refine=lens, weights="none", no_masks=kind == "fixed", report=False)
    meta = json.loads(result.transforms_path.read_text())
    assert meta["easi3r"]["camera_motion"]["kind"] == {"turn": "turning"}.get(kind, kind)
    assert meta["camera_model"] == "OPENCV_FISHEYE" and [meta[f"k{n}"] for n in (1, 2, 3, 4)] == [0, 0, 0, 0]
    assert any("equidistant fisheye" in text for text in log.warnings)
    assert isinstance(read_scene(tmp_path / "out" / "scene").distortion, FisheyeDistortion)
    if kind == "turn":
        assert abs(meta["fl_x"] / clip.focal - 1) < 0.02 and turn_error(result.scene.T_world_cam, clip) < 0.1


@pytest.mark.long
def test_a_zoom_on_a_tripod(tmp_path, no_mapping) -> None:
    clip, course = still_clip("fixed", zoom=1.5), zoom_course(1.5, NUM_FRAMES)
    told = RunLog()
    with pytest.raises(AlignmentError, match="no parallax"):
        run(tmp_path, clip, told, weights="none")
    assert any("the lens zooms" in text and "--align.no-shared-focal" in text for text in told.warnings)
    log = RunLog()
    (tmp_path / "each").mkdir()
    result = run(tmp_path / "each", clip, log, weights="none", shared_focal=False)
    scene = result.scene
    assert scene.stays and not scene.T_world_cam[:, :3, 3].any()
    np.testing.assert_allclose(scene.focals / scene.focals[0], course, rtol=0.01)
    assert any("while the lens zooms" in text for text in log.warnings)
    assert all("fl_x" in frame for frame in json.loads(result.transforms_path.read_text())["frames"])
    checked(tmp_path / "each" / "out")
    (tmp_path / "recorded").mkdir()
    recorded = run(tmp_path / "recorded", clip, RunLog(), equivalent_mm=35, weights="none", shared_focal=False)
    assert recorded.scene.provenance["camera_motion"]["focal"] == "metadata"


@pytest.mark.long
def test_creeping_camera_is_pinned_only_where_mapping_fails(tmp_path, no_mapping) -> None:
    clip, log = still_clip("sideways", 1, 0.03), RunLog()
    scene = run(tmp_path, clip, log, weights="none").scene
    assert scene.stays and scene.provenance["camera_motion"]["hardly_travels"]
    assert any("hardly travels" in text for text in log.warnings)
    assert [options["hardly_travels"] for options in no_mapping] == [True]


@pytest.mark.long
def test_a_camera_that_travels_keeps_the_error_of_mapping(tmp_path, no_mapping) -> None:
    with pytest.raises(AlignmentError, match="no parallax"):
        run(tmp_path, still_clip("forward", 3, 0.6), RunLog(), weights="none")
    assert [options["hardly_travels"] for options in no_mapping] == [False]


@pytest.mark.long
def test_fixed_camera_with_a_network(tmp_path) -> None:
    clip, log = still_clip("fixed"), RunLog()
    refine = RefineConfig(refine="colmap", camera_model="opencv-fisheye")
    result = run(tmp_path, clip, log, weights="tiny", refine=refine)
    scene = result.scene
    assert any("--camera-model opencv-fisheye has no effect" in text for text in log.warnings)
    assert scene.stays and np.ptp(scene.T_world_cam, axis=0).max() == 0
    assert any("--refine has no effect" in text for text in log.warnings)
    static = ~scene.dynamic.masks.any(axis=0) & (scene.depth > 0).all(axis=0)
    assert static.mean() > 0.5
    assert np.median(np.ptp(np.log(scene.depth[:, static]), axis=0)) < 1e-4
    checked(tmp_path / "out")


@pytest.mark.long
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
