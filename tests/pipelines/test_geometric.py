"""--weights none: what comes out when cameras are mapped, when some are missing, and when nothing can be mapped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError, InputError, MissingExtraError
from easi3r_ns.core.geometry import project, transform
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene, SparsePoints, choose_scale, rescale_scene, sparse_depths
from easi3r_ns.core.types import DynamicMasks, Frames, SourceCut
from easi3r_ns.dataset.scene_folder import read_scene
from easi3r_ns.export.colmap import colmap_model
from easi3r_ns.export.views import SourceViews
from easi3r_ns.frames.near import Shot
from easi3r_ns.motion.attention.masks import static_masks
from easi3r_ns.motion.flow.choose import ESTIMATORS
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.flow.provider import FlowProvider
from easi3r_ns.motion.two_view import geometric_masks
from easi3r_ns.pipelines import geometric as pipeline_geometric
from easi3r_ns.pipelines.geometric import _cameras, check_geometric, reconstruct_geometric
from easi3r_ns.pipelines.run import WORKSPACE, RunConfig, process
from easi3r_ns.refine import Lens, SparseModel
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.storage.files import write_png
from easi3r_ns.training.measure.paths import frames_of
from easi3r_ns.training.scenes import Clip, render_clip
from tests.support.helpers import align_sim3

EXAMPLE = Path(__file__).parents[2] / "examples" / "clip"
NUM_FRAMES = 6
NONE = Easi3RConfig(weights="none", depth="none", motion="attention")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(11, NUM_FRAMES, 120, 160)


def write_clip(clip: Clip, folder: Path, count: int = NUM_FRAMES) -> Path:
    folder.mkdir()
    for k, image in enumerate(clip.images[:count]):
        write_png(folder / f"shot_{k}.png", image)
    return folder


def true_model(clip: Clip, count: int, missing: tuple[int, ...] = ()) -> SparseModel:
    """What mapping would find: true cameras and points of frame 0 (in its camera's frame), seen by all that do."""
    poses = np.linalg.inv(clip.T_world_cam[0]) @ np.resize(clip.T_world_cam, (count, 4, 4))
    rows, columns = (axis.ravel()[::37] for axis in np.nonzero(~clip.moving[0]))
    points = transform(np.linalg.inv(clip.T_world_cam[0]), clip.points(0)[rows, columns])
    cx, cy = clip.principal_point + 0.5
    seen = []
    for frame in sorted(set(range(count)) - set(missing)):
        local = transform(np.linalg.inv(poses[frame]), points)
        pixels = project(local, clip.focal, clip.focal, cx, cy)
        inside = (local[:, 2] > 0) & (pixels > 0).all(axis=1) & (pixels < [160, 120]).all(axis=1)
        seen.append((np.flatnonzero(inside), np.full(inside.sum(), frame), pixels[inside]))
    index, frames, pixels = (np.concatenate(column) for column in zip(*seen, strict=True))
    sparse = SparsePoints(points, clip.images[0][rows, columns], np.zeros(len(points)), index, frames, pixels)
    registered = np.ones(count, dtype=bool)
    registered[list(missing)] = False
    poses[~registered] = np.eye(4)
    return SparseModel(poses, registered, Lens(160, 120, clip.focal, (cx, cy), (0.01, 0.0, 0.0, 0.0)), sparse)


def quick_masks(images: np.ndarray, patch: int, log: RunLog, *, provider: FlowProvider, shot: Shot) -> DynamicMasks:
    """In the place of real masks, which have their own tests: the lower left corner moves."""
    still = static_masks(len(images), *images.shape[1:3], patch)
    masks = still.masks.copy()
    masks[:, -32:, :32] = True
    return replace(still, masks=masks, threshold=0.5, source="geometry", maps={"mean": still.score})


@pytest.fixture
def mapped(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[DynamicMasks]]:
    """Let mapping find the truth, but for some frames; returns the masks that it was called with."""

    def install(*missing: int) -> list[DynamicMasks]:
        calls: list[DynamicMasks] = []

        def found(frames: Frames, dynamic: DynamicMasks, *args: object, **options: object) -> SparseModel:
            calls.append(dynamic)
            return true_model(clip, len(frames), missing)

        monkeypatch.setattr(pipeline_geometric, "map_static", found)
        monkeypatch.setattr(pipeline_geometric, "geometric_masks", quick_masks)
        monkeypatch.setattr(pipeline_geometric, "load_pycolmap", lambda: None)
        return calls

    return install


def run(tmp_path: Path, data: Path, log: RunLog, eval_data: Path | None = None, **easi3r: object) -> Path:
    config = RunConfig(
        FrameConfig(num_frames_target=0),
        replace(NONE, **easi3r),
        dataset=DatasetConfig(num_downscales=1, report=False),
        eval_data=eval_data,
    )
    out = tmp_path / "out"
    result = process(data, out, config, overwrite=False, log=log)
    assert result.weights is None and result.transforms_path == out / "transforms.json"
    return out


@pytest.mark.slow
def test_dataset_has_cameras_masks_and_points_but_no_depth(tmp_path, clip, mapped, monkeypatch) -> None:
    calls = mapped()
    monkeypatch.setattr(pipeline_geometric, "geometric_masks", geometric_masks)
    out = run(tmp_path, write_clip(clip, tmp_path / "clip"), RunLog())
    assert [dynamic.source for dynamic in calls] == ["geometry"]
    meta = json.loads((out / "transforms.json").read_text())
    assert len(meta["frames"]) == NUM_FRAMES and meta["k1"] == 0.01
    for frame in meta["frames"]:
        assert not {"depth_file_path", "dynamic_ply_path"} & set(frame)
        assert (out / frame["mask_path"]).is_file()
    assert not (out / "depths").exists() and not (out / "dynamic").exists()
    assert f"element vertex {len(true_model(clip, NUM_FRAMES).sparse)}" in (out / meta["ply_file_path"]).read_text(
        encoding="latin-1"
    )
    assert meta["fl_x"] == pytest.approx(clip.focal, rel=1e-9)
    assert (meta["cx"], meta["cy"]) == pytest.approx(tuple(clip.principal_point + 0.5))
    centres = np.array([frame["transform_matrix"] for frame in meta["frames"]])[:, :3, 3]
    assert align_sim3(centres, clip.T_world_cam[:, :3, 3]).rmse < 1e-6
    assert meta["easi3r"]["weights"] == {"name": "none"}


@pytest.mark.slow
def test_dataset_has_depth_of_what_stands_still(tmp_path, clip, mapped) -> None:
    mapped()
    log = RunLog()
    out = run(tmp_path, write_clip(clip, tmp_path / "clip"), log, depth="stereo")
    meta = json.loads((out / "transforms.json").read_text())
    assert {"stereo", "stereo agreement"} <= {stage.name for stage in log.stages}
    assert meta["easi3r"]["depth"] == "stereo"
    scene = read_scene(out / "scene")
    still = ~scene.dynamic.masks
    assert scene.dynamic.masks.any() and (scene.depth[~still] == 0).all() and (scene.depth[still] > 0).mean() > 0.3
    static = scene.depth[scene.depth > 0]
    assert np.median(static) == pytest.approx(4.0, rel=0.01) and choose_scale(scene) == pytest.approx(1.0, rel=0.01)
    truth = np.stack([cv2.resize(d, scene.depth.shape[:0:-1], interpolation=cv2.INTER_NEAREST) for d in clip.depth])
    ratio = (scene.depth / truth)[scene.depth > 0]
    assert (np.abs(ratio / np.median(ratio) - 1) < 0.05).mean() > 0.9
    for frame in meta["frames"]:
        assert ("dynamic_ply_path" in frame) == (frame.get("dynamic_depth") == "assumed"), "none is measured"
        assert cv2.imread(str(out / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED).any()
    header = (out / meta["ply_file_path"]).read_bytes()[:400].decode("latin-1")
    assert int(header.split("element vertex ")[1].split()[0]) > 10 * len(true_model(clip, NUM_FRAMES).sparse)


@pytest.mark.slow
def test_what_moves_is_placed_where_it_stands_for_viewing(tmp_path, clip, mapped, monkeypatch) -> None:
    mapped()

    def standing(images: np.ndarray, patch: int, *args: object, **options: object) -> DynamicMasks:
        still = static_masks(len(images), *images.shape[1:3], patch)
        masks = still.masks.copy()
        masks[:, 150:250, 200:260] = True
        return replace(still, masks=masks, threshold=0.5, source="geometry")

    monkeypatch.setattr(pipeline_geometric, "geometric_masks", standing)
    data = write_clip(clip, tmp_path / "clip")
    out = run(tmp_path, data, RunLog(), depth="stereo")
    scene = read_scene(out / "scene")
    assert scene.assumed_depth is not None and (scene.depth[scene.dynamic.masks] == 0).all()
    below = scene.depth[:, 250:265, 200:260]
    assert below.any() and np.median(scene.assumed_depth[scene.dynamic.masks]) == pytest.approx(
        np.median(below[below > 0]), rel=0.1
    )
    frames = json.loads((out / "transforms.json").read_text())["frames"]
    assert all(frame["dynamic_depth"] == "assumed" and (out / frame["dynamic_ply_path"]).is_file() for frame in frames)
    (tmp_path / "flat").mkdir()
    assert not (run(tmp_path / "flat", data, RunLog(), depth="none") / "dynamic").exists()


@pytest.mark.slow
def test_depth_that_cannot_be_measured_is_said(tmp_path, clip, mapped) -> None:
    mapped()
    log = RunLog()
    grey = replace(clip, images=np.full_like(clip.images, 128))
    run(tmp_path, write_clip(grey, tmp_path / "clip"), log, depth="stereo")
    assert any("no depth could be measured" in warning for warning in log.warnings)


def test_frames_without_a_camera_are_left_out_and_named(tmp_path, clip, mapped) -> None:
    mapped(1, 4)
    log = RunLog()
    out = run(tmp_path, write_clip(clip, tmp_path / "clip"), log)
    meta = json.loads((out / "transforms.json").read_text())
    assert [frame["frame_index"] for frame in meta["frames"]] == [0, 2, 3, 5]
    assert any("2 of 6 frames have no camera" in w and "shot_1.png 1, shot_4.png 4" in w for w in log.warnings)
    centres = np.array([frame["transform_matrix"] for frame in meta["frames"]])[:, :3, 3]
    assert align_sim3(centres, clip.T_world_cam[[0, 2, 3, 5], :3, 3]).rmse < 1e-6


def test_splits_count_what_is_left(tmp_path, clip, mapped) -> None:
    mapped(2, NUM_FRAMES + 1)
    data, held_out = write_clip(clip, tmp_path / "clip"), write_clip(clip, tmp_path / "eval", 3)
    meta = json.loads((run(tmp_path, data, RunLog(), held_out) / "transforms.json").read_text())
    names = [frame["file_path"] for frame in meta["frames"]]
    assert len(names) == 7
    assert meta["train_filenames"] == names[:5] and meta["val_filenames"] == meta["test_filenames"] == names[5:]
    assert [frame["frame_index"] for frame in meta["frames"]] == [0, 1, 3, 4, 5, 0, 2]


@pytest.mark.parametrize(
    ("missing", "num_eval"), [((0, 1, 2, 3), 0), ((4, 5), 2)], ids=["two frames left", "no evaluation view"]
)
def test_too_few_cameras_leave_no_dataset(tmp_path, clip, mapped, missing, num_eval) -> None:
    mapped(*missing)
    data, held_out = write_clip(clip, tmp_path / "clip", NUM_FRAMES - num_eval), None
    if num_eval:
        held_out = write_clip(clip, tmp_path / "eval", num_eval)
    with pytest.raises(AlignmentError, match=f"only {2 if not num_eval else 4} of {NUM_FRAMES - num_eval} frames"):
        run(tmp_path, data, RunLog(), held_out)
    assert not (tmp_path / "out" / "transforms.json").exists()


def test_without_cameras_masks_preview_and_report_stay(tmp_path, clip, mapped) -> None:
    """And the next run, which finds cameras, clears them away."""
    mapped(0, 1, 2, 3)
    data, out = write_clip(clip, tmp_path / "clip"), tmp_path / "out"
    config = RunConfig(FrameConfig(num_frames_target=0), NONE, dataset=DatasetConfig(num_downscales=0))
    with pytest.raises(AlignmentError, match="only 2 of 6 frames .* stays in .*partial: the masks") as caught:
        process(data, out, config, overwrite=False, log=RunLog())
    assert caught.value.exit_code == 4 and not (out / "transforms.json").exists()
    partial = out / "partial"
    masks = sorted((partial / "masks").iterdir())
    assert len(masks) == NUM_FRAMES
    mask = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (120, 160) and mask[-2, 2] == 0 and mask[2, -2] == 255, "black where something moves"
    text = (partial / "report.html").read_text(encoding="utf-8")
    for words in (
        "No cameras",
        "Only 2 of 6 frames could be registered",
        "What moves",
        "ns-process-data easi3r --data",
    ):
        assert words in text
    assert "ns-train" not in text and (partial / "preview.mp4").stat().st_size > 1000
    (partial / "mine.txt").write_text("mine")
    mapped()
    other = replace(config, easi3r=replace(NONE, seed=1))  # the cameras of the first run are kept
    process(data, out, other, overwrite=False, log=RunLog())
    assert (out / "transforms.json").exists()
    assert {path.name for path in partial.iterdir()} == {"mine.txt", ".easi3r_files.json"}


def test_without_a_report_the_masks_stay_alone(tmp_path, clip, mapped) -> None:
    mapped(0, 1, 2, 3)
    with pytest.raises(AlignmentError, match="stays in .*partial"):
        run(tmp_path, write_clip(clip, tmp_path / "clip"), RunLog())
    assert {path.name for path in (tmp_path / "out" / "partial").iterdir()} == {"masks", ".easi3r_files.json"}


def test_masks_in_use_are_not_cleared_away(tmp_path, clip, mapped) -> None:
    mapped(0, 1, 2, 3)
    data = write_clip(clip, tmp_path / "clip")
    with pytest.raises(AlignmentError):
        run(tmp_path, data, RunLog())
    masks = tmp_path / "out" / "partial" / "masks"
    mapped()
    run(tmp_path, data, RunLog(), masks=masks)
    assert len(list(masks.iterdir())) == NUM_FRAMES


def test_finished_stages_are_not_computed_again(tmp_path, clip, mapped, monkeypatch) -> None:
    calls = mapped()
    data = write_clip(clip, tmp_path / "clip")
    config = RunConfig(FrameConfig(num_frames_target=0), NONE, dataset=DatasetConfig(num_downscales=0, report=False))
    with monkeypatch.context() as patch:
        patch.setattr("easi3r_ns.pipelines.run.write_dataset", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            process(data, tmp_path / "out", config, overwrite=False, log=RunLog())
    assert (tmp_path / "out" / WORKSPACE).is_dir()
    monkeypatch.setattr(pipeline_geometric, "geometric_masks", lambda *args: 1 / 0)
    resumed = process(data, tmp_path / "out", config, overwrite=False, log=RunLog()).scene
    assert len(calls) == 1
    model = true_model(clip, NUM_FRAMES)
    np.testing.assert_array_equal(resumed.dynamic.masks, calls[0].masks)
    assert resumed.distortion == model.distortion and resumed.dynamic.maps is not None
    assert align_sim3(resumed.T_world_cam[:, :3, 3], model.T_world_cam[:, :3, 3]).rmse < 1e-6


def test_own_masks_and_none(tmp_path, clip, mapped, monkeypatch) -> None:
    calls = mapped()
    monkeypatch.setattr(pipeline_geometric, "geometric_masks", lambda *args: 1 / 0)
    data = write_clip(clip, tmp_path / "clip")
    (tmp_path / "masks").mkdir()
    for k, moving in enumerate(clip.moving):
        write_png(tmp_path / "masks" / f"{k}.png", moving.astype(np.uint8) * 255)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    run(tmp_path / "a", data, RunLog(), masks=tmp_path / "masks")
    run(tmp_path / "b", data, RunLog(), no_masks=True)
    assert [dynamic.source for dynamic in calls] == ["user", "none"]
    assert calls[0].masks.any() and not calls[1].masks.any()


def test_masks_of_a_dataset_given_back_mean_the_same(tmp_path, clip, mapped) -> None:
    """In the files of a dataset white stands still; the masks given to a run are elsewhere white where it moves."""
    calls = mapped()
    data = write_clip(clip, tmp_path / "clip")
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    out = run(tmp_path / "a", data, RunLog())
    log = RunLog()
    run(tmp_path / "b", data, log, masks=out / "masks")
    first, again = calls
    assert again.source == "user" and not (first.masks & ~again.masks).any()
    assert again.coverage.mean() < 1.5 * first.coverage.mean(), "grown a little, as in every dataset"
    assert not any("polarity" in warning for warning in log.warnings)


def test_masks_in_the_folder_of_the_run_are_refused(tmp_path, clip, mapped) -> None:
    mapped()
    data = write_clip(clip, tmp_path / "clip")
    out = run(tmp_path, data, RunLog())
    config = RunConfig(FrameConfig(num_frames_target=0), replace(NONE, masks=out / "masks"))
    with pytest.raises(InputError, match="masks lies in a folder that this run would write to"):
        process(data, out, config, overwrite=True, log=RunLog())


@pytest.mark.slow
def test_masks_of_some_frames(tmp_path, clip, mapped) -> None:
    calls = mapped()
    data = write_clip(clip, tmp_path / "clip")
    (tmp_path / "masks").mkdir()
    names = sorted(file.stem for file in data.iterdir())
    for k in range(3):
        write_png(tmp_path / "masks" / f"{names[k]}.png", clip.moving[k].astype(np.uint8) * 255)
    for folder in "abc":
        (tmp_path / folder).mkdir()
    with pytest.raises(InputError, match=rf"{names[3]}.*--masks-missing static"):
        run(tmp_path / "a", data, RunLog(), masks=tmp_path / "masks")
    run(tmp_path / "b", data, RunLog(), masks=tmp_path / "masks", masks_missing="static")
    run(tmp_path / "c", data, RunLog(), masks=tmp_path / "masks", masks_missing="auto")
    still, found = calls
    assert not still.masks[3:].any() and (found.masks[3:, -32:, :32]).all()
    np.testing.assert_array_equal(still.masks[:3], found.masks[:3])
    assert still.masks[:3].any(axis=(1, 2)).all()


def test_each_clip_has_its_own_motion(tmp_path, clip, monkeypatch) -> None:
    lengths = []

    def masks(images: np.ndarray, patch: int, log: RunLog, *, provider: FlowProvider, shot: Shot) -> DynamicMasks:
        lengths.append(len(images))
        return quick_masks(images, patch, log, provider=provider, shot=shot)

    monkeypatch.setattr(pipeline_geometric, "geometric_masks", masks)
    monkeypatch.setattr(pipeline_geometric, "load_pycolmap", lambda: None)
    monkeypatch.setattr(pipeline_geometric, "map_static", lambda frames, *args, **kw: true_model(clip, len(frames)))
    run(tmp_path, write_clip(clip, tmp_path / "clip"), RunLog(), write_clip(clip, tmp_path / "eval", 3))
    assert lengths == [NUM_FRAMES, 3]


@pytest.mark.parametrize("name", ["auto", "dis", "raft"])
def test_the_flow_is_dis_unless_raft_is_asked_for(tmp_path, clip, mapped, monkeypatch, name) -> None:
    mapped()
    raft, used = DISFlow(), []

    def masks(images: np.ndarray, patch: int, log: RunLog, *, provider: FlowProvider, shot: Shot) -> DynamicMasks:
        used.append(provider.provider)  # that whose flow is remembered
        return quick_masks(images, patch, log, provider=provider, shot=shot)

    monkeypatch.setattr(pipeline_geometric, "geometric_masks", masks)
    monkeypatch.setitem(ESTIMATORS, "raft", lambda compute, log: raft)
    run(tmp_path, write_clip(clip, tmp_path / "clip"), RunLog(), flow=name)
    assert len(used) == 1 and isinstance(used[0], DISFlow) and (used[0] is raft) == (name == "raft")


def test_options_of_the_network_are_named() -> None:
    log = RunLog()
    check_geometric(replace(NONE, dtype="bf16", graph="complete"), AlignConfig(iterations=5), RefineConfig(), log)
    assert len(log.warnings) == 1
    assert "--graph, --dtype, --align.* has no effect" in log.warnings[0] and "--seed" not in log.warnings[0]
    quiet = RunLog()
    check_geometric(replace(NONE, flow="raft", device="cpu"), AlignConfig(), RefineConfig(), quiet)
    check_geometric(NONE, AlignConfig(), RefineConfig(), quiet)
    stereo = replace(NONE, depth="stereo", device="cpu", min_confidence=3.0)
    check_geometric(stereo, AlignConfig(), RefineConfig(), quiet)
    assert not quiet.warnings
    check_geometric(replace(stereo, depth="none"), AlignConfig(), RefineConfig(), log)
    assert "--min-confidence, --device has no effect" in log.warnings[1]


def test_one_focal_length_per_frame_cannot_be_given_too() -> None:
    pytest.importorskip("pycolmap")
    log = RunLog()
    check_geometric(NONE, AlignConfig(shared_focal=False), RefineConfig(), log)
    assert not log.warnings
    with pytest.raises(InputError, match="no-shared-focal"):
        check_geometric(replace(NONE, focal_length=100.0), AlignConfig(shared_focal=False), RefineConfig(), log)


def test_focal_lengths_of_single_frames_reach_the_dataset(tmp_path, clip, mapped, monkeypatch) -> None:
    mapped()
    asked, focals = [], clip.focal * np.linspace(1, 1.2, NUM_FRAMES)

    def found(frames: Frames, *args: object, **options: object) -> SparseModel:
        asked.append(options)
        return replace(true_model(clip, len(frames)), focals=focals)

    monkeypatch.setattr(pipeline_geometric, "map_static", found)
    frames, data = FrameConfig(num_frames_target=0), write_clip(clip, tmp_path / "clip")
    dataset = DatasetConfig(num_downscales=0, report=False)
    config = RunConfig(frames, NONE, AlignConfig(shared_focal=False), dataset)
    result = process(data, tmp_path / "out", config, overwrite=False, log=RunLog())
    # Cameras are mapped again after the second look, with the same options.
    assert {options["shared_focal"] for options in asked} == {False}
    meta = json.loads(result.transforms_path.read_text())
    assert "fl_x" not in meta and meta["k1"] == 0.01
    np.testing.assert_allclose([frame["fl_x"] for frame in meta["frames"]], focals)
    model = colmap_model(SourceViews(read_scene(tmp_path / "out" / "scene"), False), ("",) * len(focals), 3, 1000)
    np.testing.assert_allclose(model.params[:, 0], focals)
    assert model.camera_of(3) == 3 and model.model == "OPENCV"


@pytest.mark.parametrize("given", [None, 150.0])
def test_focal_length_of_the_files_is_where_mapping_starts(tmp_path, clip, mapped, monkeypatch, given) -> None:
    mapped()
    asked = []

    def found(frames: Frames, *args: object, **options: object) -> SparseModel:
        asked.append((options["focal"], options["start"]))
        return true_model(clip, len(frames))

    monkeypatch.setattr(pipeline_geometric, "map_static", found)
    folder = tmp_path / "clip"
    folder.mkdir()
    for k, image in enumerate(clip.images):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA405] = 30
        Image.fromarray(image).save(folder / f"{k}.jpg", exif=exif)
    out = run(tmp_path, folder, RunLog(), focal_length=given)
    recorded = 30 * np.hypot(160, 120) / np.hypot(36, 24)
    assert asked and all(entry == (given, None if given else pytest.approx(recorded)) for entry in asked)
    noted = json.loads((out / "transforms.json").read_text())["easi3r"].get("start_focal")
    assert noted == (None if given else {"pixels": pytest.approx(recorded), "equivalent_mm": 30.0, "origin": "EXIF"})


def test_missing_pycolmap_is_told_before_any_work(tmp_path, clip, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(MissingExtraError, match=r"--weights none .* pip install 'pycolmap>=4.2'"):
        run(tmp_path, write_clip(clip, tmp_path / "clip"), RunLog())
    assert not (tmp_path / "out").exists()


def test_impossible_focal_length(tmp_path, clip, mapped) -> None:
    calls = mapped()
    with pytest.raises(InputError, match="--focal-length 3"):
        run(tmp_path, write_clip(clip, tmp_path / "clip"), RunLog(), focal_length=3.0)
    assert not calls


def test_scale_comes_from_the_points(tmp_path, clip, mapped) -> None:
    mapped()
    data = write_clip(clip, tmp_path / "clip")
    config = RunConfig(FrameConfig(num_frames_target=0), NONE, dataset=DatasetConfig(num_downscales=0, report=False))
    scene: Scene = process(data, tmp_path / "out", config, overwrite=False, log=RunLog()).scene
    assert not scene.has_depth and scene.pose_sources == ("colmap",) * NUM_FRAMES
    assert np.median(sparse_depths(scene)) == pytest.approx(4.0)
    assert choose_scale(scene) == pytest.approx(1.0)
    assert choose_scale(rescale_scene(scene, 10.0)) == pytest.approx(0.1)
    assert choose_scale(replace(scene, sparse=None)) == 1.0


@pytest.mark.long
def test_example_clip_from_end_to_end(tmp_path) -> None:
    truth = json.loads((EXAMPLE / "truth.json").read_text())
    meta = json.loads((run(tmp_path, EXAMPLE / "clip.mp4", RunLog()) / "transforms.json").read_text())
    assert len(meta["frames"]) == len(truth["frames"])
    centres = np.array([frame["transform_matrix"] for frame in meta["frames"]])[:, :3, 3]
    true_centres = np.array([frame["T_world_cam"] for frame in truth["frames"]])[:, :3, 3]
    length = np.linalg.norm(np.diff(true_centres, axis=0), axis=1).sum()
    assert align_sim3(centres, true_centres).rmse < 0.005 * length
    assert abs(meta["fl_x"] / truth["fx"] - 1) < 0.02


def filmed_with_noise(clip: Clip, picture: np.ndarray | int, folder: Path) -> Path:
    noise = np.random.RandomState(0).normal(0, 1.0, clip.images.shape)
    return write_clip(replace(clip, images=np.clip(picture + noise, 0, 255).astype(np.uint8)), folder)


@pytest.mark.slow
def test_what_cannot_be_mapped_leaves_no_dataset(tmp_path, clip) -> None:
    data = filmed_with_noise(clip, 128, tmp_path / "clip")
    with pytest.raises(AlignmentError):
        run(tmp_path, data, RunLog())
    assert not (tmp_path / "out" / "transforms.json").exists()


@pytest.mark.slow
def test_a_camera_that_stands_still_needs_no_mapping(tmp_path, clip) -> None:
    data = filmed_with_noise(clip, np.repeat(clip.images[:1], NUM_FRAMES, axis=0), tmp_path / "clip")
    meta = json.loads((run(tmp_path, data, RunLog()) / "transforms.json").read_text())
    poses = np.array([frame["transform_matrix"] for frame in meta["frames"]])
    assert len(poses) == NUM_FRAMES and (poses == poses[0]).all()
    assert {frame["pose_source"] for frame in meta["frames"]} == {"fixed"}


def test_library_call_keeps_stages_in_memory_only(clip, mapped, tmp_path) -> None:
    from easi3r_ns.frames import load_frames

    mapped()
    frames = load_frames(
        write_clip(clip, tmp_path / "clip"),
        tmp_path / "store",
        select=FrameConfig(num_frames_target=0),
        geometry=pipeline_geometric.GEOMETRY,
        log=RunLog(),
    )
    scene = reconstruct_geometric(frames, NONE, RefineConfig(), StageCache(None), RunLog())
    assert len(scene) == NUM_FRAMES and scene.sparse is not None and len(scene.sparse) > 100


def test_cameras_of_another_cut_are_not_those_of_an_interrupted_run(clip):
    """The same pixels, cut out of the frames in another way, have their principal point elsewhere."""
    frames, keys = frames_of(clip), []
    width, height = frames.pixel_map.source_wh

    class Recorded(StageCache):
        def stage(self, name, key, compute, log=None):
            keys.append(key)
            raise AlignmentError("recorded")

    for top in (0, 8):
        cut = SourceCut((width, height + 8), (0, top, width, top + height), (0, 0, width, height + 8))
        seen = replace(frames, pixel_map=replace(frames.pixel_map, cut=cut))
        with pytest.raises(AlignmentError, match="recorded"):
            _cameras(
                *(seen, static_masks(len(frames), *frames.images.shape[1:3], 16), Easi3RConfig(), RefineConfig()),
                *(Recorded(None), RunLog(), True),
            )
    assert len(set(keys)) == 2
