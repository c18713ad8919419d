"""--data a b: two cameras become one dataset, what cannot be joined is named, and what means one clip is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.cli.summary import summary
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, ExportConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError, InputError
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD, project, transform
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, upright_again
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.export.dnerf import write_dnerf
from easi3r_ns.export.formats import export_scene
from easi3r_ns.export.tum import write_tum
from easi3r_ns.frames import clips as clips_of_frames
from easi3r_ns.frames.near import Shot
from easi3r_ns.motion.flow.provider import FlowProvider
from easi3r_ns.pipelines import geometric, several
from easi3r_ns.pipelines.parts import Part, process_parts
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.second_look import Looks
from easi3r_ns.plugin.dataparser import Easi3RDataParserConfig
from easi3r_ns.refine.model import Lenses, SparseModel
from easi3r_ns.refine.together import FilmedClip
from easi3r_ns.report.command import command_text
from easi3r_ns.report.rules import Level
from easi3r_ns.storage.files import read_png, write_png
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_geometric import quick_masks, true_model
from tests.support.helpers import Lines, align_sim3

HALF, SMALLER = 5, 0.8
OPTIONS = RunConfig(
    FrameConfig(num_frames_target=0, on_cut="ignore"),
    Easi3RConfig(weights="none", depth="none", motion="attention"),
    dataset=DatasetConfig(num_downscales=1),
)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(11, 2 * HALF, 120, 160)


def write(folder: Path, images: Sequence[np.ndarray]) -> Path:
    for k, image in enumerate(images):
        folder.mkdir(exist_ok=True)
        write_png(folder / f"{k}.png", image)
    return folder


def smaller(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=SMALLER, fy=SMALLER, interpolation=cv2.INTER_AREA)


@pytest.fixture
def halves(tmp_path: Path, clip: Clip) -> tuple[Path, Path]:
    """The first half as it is, the second with other pixels: another size, another focal length."""
    return write(tmp_path / "a", clip.images[:HALF]), write(tmp_path / "b", [smaller(x) for x in clip.images[HALF:]])


@pytest.fixture
def mapped(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Mapping finds the truth, but for the frames ``missing``; ``clips``: what it was called with."""
    state: dict[str, object] = {"missing": ()}

    def found(clips: Sequence[FilmedClip], *args: object, **options: object) -> SparseModel:
        state["clips"] = clips
        model = true_model(clip, 2 * HALF, state["missing"])
        first = replace(model.lens, distortion=(0.0, 0.0, 0.0, 0.0))
        second = replace(*(first,), width=128, height=96, focal=SMALLER * first.focal, principal_point=(64.0, 48.0))
        sparse, late = model.sparse, model.sparse.frame_index >= HALF
        pixels = np.where(late[:, None], SMALLER, 1.0) * sparse.pixels
        index = np.repeat([0, 1], HALF)
        return replace(model, lens=first, lenses=Lenses((first, second), index), sparse=replace(sparse, pixels=pixels))

    monkeypatch.setattr(several, "map_together", found)
    monkeypatch.setattr(geometric, "geometric_masks", quick_masks)
    monkeypatch.setattr(geometric, "load_pycolmap", lambda: None)
    return state


def run(tmp_path: Path, paths: Sequence[Path], log: RunLog, config: RunConfig = OPTIONS) -> Part:
    config = replace(config, more_data=tuple(paths[1:]))
    (part,) = process_parts(paths[0], tmp_path / "out", config, overwrite=True, log=log)
    return part


def test_one_dataset_of_two_cameras(tmp_path: Path, clip: Clip, halves, mapped) -> None:
    log = RunLog()
    result = run(tmp_path, halves, log).result
    meta = json.loads((tmp_path / "out" / "transforms.json").read_text(encoding="utf-8"))
    frames = meta["frames"]
    assert [f["clip"] for f in frames] == [1] * HALF + [2] * HALF
    assert [f["time"] for f in frames] == [*range(HALF), *range(HALF)]
    assert [Path(f["file_path"]).stem for f in frames][HALF - 1 : HALF + 1] == [
        "clip_1_frame_00005",
        "clip_2_frame_00006",
    ]
    assert frames[0]["source"] == "a/0.png" and frames[-1]["source"] == f"b/{HALF - 1}.png"
    # Both show the same field of view, so that at one size they have one focal length.
    assert (meta["w"], meta["h"]) == (160, 120)
    assert np.allclose([f.get("fl_x", meta.get("fl_x")) for f in frames], clip.focal, rtol=1e-6)
    shown = read_png(tmp_path / "out" / frames[-1]["file_path"])
    assert shown.shape == (120, 160, 3)
    assert np.abs(shown.astype(float) - clip.images[-1]).mean() < 12
    centres = result.scene.T_world_cam[:, :3, 3]
    truth = clip.T_world_cam[:, :3, 3]
    assert align_sim3(centres, truth).rmse < 1e-6
    # Tracks are where the resampled pictures show them.
    sparse, own = result.scene.sparse, result.scene.sparse.frame_index == HALF
    expected = true_model(clip, 2 * HALF).sparse
    assert np.allclose(sparse.pixels[own], expected.pixels[expected.frame_index == HALF], atol=1e-6)
    facts = result.scene.provenance["clips"]
    assert [(c["name"], c["camera"], c["joined"], c["size"]) for c in facts] == [
        ("a", 1, HALF, [160, 120]),
        ("b", 2, HALF, [128, 96]),
    ]
    assert dict(summary(result))["clips"] == f"{HALF} of {HALF} frames of a, {HALF} of {HALF} frames of b"
    assert "clips_left_out" not in [f.rule.key for f in result.card.verdict.against]
    command = command_text(result.scene.provenance, "OUT")
    assert f"--data {halves[0]} {halves[1]} --output-dir OUT" in command


def test_images_as_jpeg(tmp_path: Path, halves, mapped) -> None:
    written = replace(OPTIONS.dataset, image_format="jpeg", report=False)
    run(tmp_path, halves, RunLog(), replace(OPTIONS, dataset=written))
    meta = json.loads((tmp_path / "out" / "transforms.json").read_text(encoding="utf-8"))
    for frame in meta["frames"]:
        for folder in ("images", "images_2"):
            with Image.open(tmp_path / "out" / folder / Path(frame["file_path"]).name) as image:
                assert image.format == "JPEG" and Path(frame["file_path"]).suffix == ".jpg"


def test_clips_of_one_camera_keep_their_pictures_and_its_distortion(tmp_path: Path, clip: Clip, monkeypatch) -> None:
    monkeypatch.setattr(clips_of_frames, "_one_camera", lambda *others: True)
    monkeypatch.setattr(several, "map_together", lambda *clips, **options: true_model(clip, 2 * HALF, (0, HALF)))
    monkeypatch.setattr(geometric, "geometric_masks", quick_masks)
    monkeypatch.setattr(geometric, "load_pycolmap", lambda: None)
    paths = write(tmp_path / "a", clip.images[:HALF]), write(tmp_path / "b", clip.images[HALF:])
    config = replace(OPTIONS, dataset=DatasetConfig(num_downscales=0, report=False))
    scene = run(tmp_path, paths, RunLog(), config).result.scene
    kept = [*range(1, HALF), *range(HALF + 1, 2 * HALF)]
    assert [c["camera"] for c in scene.provenance["clips"]] == [1, 1] and scene.distortion == (0.01, 0.0, 0.0, 0.0)
    assert all((read_png(path) == clip.images[k]).all() for path, k in zip(scene.source_paths, kept, strict=True))
    assert align_sim3(scene.T_world_cam[:, :3, 3], clip.T_world_cam[kept, :3, 3]).rmse < 1e-6
    assert scene.clip.tolist() == [0] * (HALF - 1) + [1] * (HALF - 1)
    assert set(np.unique(scene.sparse.frame_index)) == set(range(2 * HALF - 2))


def test_masks_and_flow_are_those_of_each_clip(tmp_path: Path, halves, mapped, monkeypatch) -> None:
    calls: list[Shot] = []

    def masks(images: np.ndarray, patch: int, log: RunLog, *, provider: FlowProvider, shot: Shot) -> DynamicMasks:
        calls.append(shot)
        return quick_masks(images, patch, log, provider=provider, shot=shot)

    monkeypatch.setattr(geometric, "geometric_masks", masks)
    scene = run(tmp_path, halves, RunLog()).result.scene
    assert [shot.places.tolist() for shot in calls] == [list(range(HALF))] * 2
    moving = scene.dynamic.masks
    assert moving[:, -16:, :16].all() and not moving[:, :64].any()  # the lower left corner, in both


def test_the_scene_comes_back_and_one_clock_serves_readers_of_one(tmp_path: Path, halves, mapped) -> None:
    out = tmp_path / "out"
    run(tmp_path, halves, RunLog(), replace(OPTIONS, dataset=DatasetConfig(num_downscales=0, report=False)))
    scene = find_scene(out)
    assert scene.clip.tolist() == [0] * HALF + [1] * HALF
    assert scene.clock.tolist() == list(range(2 * HALF))
    rows = np.loadtxt(write_tum(scene, tmp_path / "t.txt"))
    assert (np.diff(rows[:, 0]) > 0).all()
    write_dnerf(scene, tmp_path / "dnerf")
    entries = [json.loads((tmp_path / f"dnerf/transforms_{s}.json").read_text())["frames"] for s in ("train", "test")]
    assert sorted(e["time"] for part in entries for e in part) == pytest.approx(np.linspace(0, 1, 2 * HALF))
    parsed = Easi3RDataParserConfig(data=out, eval_mode="all").setup().get_dataparser_outputs("train")
    assert parsed.cameras.times[:, 0].tolist() == pytest.approx(np.linspace(0, 1, 2 * HALF))


def test_a_clip_that_cannot_be_joined_is_named(tmp_path: Path, halves, mapped) -> None:
    mapped["missing"] = tuple(range(HALF, 2 * HALF))
    log = RunLog()
    result = run(tmp_path, halves, log).result
    (told,) = [message for message in log.warnings if "could not be joined" in message]
    assert "(b)" in told and f"{HALF} of {HALF} frames of a, 0 of {HALF} frames of b" in told
    assert len(result.scene) == HALF and set(result.scene.clip.tolist()) == {0}
    (finding,) = [f for f in result.card.verdict.against if f.rule.key == "clips_left_out"]
    assert finding.level is Level.CARE and finding.value == 1


def test_single_frames_are_counted_and_too_few_are_an_error(tmp_path: Path, halves, mapped) -> None:
    mapped["missing"] = (1, HALF)
    log = RunLog()
    result = run(tmp_path, halves, log, replace(OPTIONS, dataset=DatasetConfig(report=False))).result
    assert result.scene.indices.tolist() == [0, 2, 3, 4, 1, 2, 3, 4]
    assert any("2 frames have no camera" in message for message in log.warnings)
    mapped["missing"] = tuple(range(2, 2 * HALF))
    other, quiet = tmp_path / "other", replace(OPTIONS, dataset=DatasetConfig(report=False))
    with pytest.raises(AlignmentError, match=r"only 2 of 5 frames of a, 0 of 5 .* stays in .*partial: .* of each clip"):
        run(other, halves, RunLog(), quiet)
    for name, size in (("clip_1", (120, 160)), ("clip_2", (96, 128))):
        masks = [read_png(path) for path in sorted((other / "out" / "partial" / name / "masks").iterdir())]
        assert len(masks) == HALF and {mask.shape[:2] for mask in masks} == {size}
        assert not masks[0][-4, 4].any() and masks[0][4, -4].all(), "black where something moves"
    mapped["missing"] = ()
    shutil.rmtree(other / "out" / ".easi3r")  # it holds what mapping found
    run(other, halves, RunLog(), quiet)
    assert not (other / "out" / "partial" / "clip_1").exists()


@pytest.mark.parametrize("lost", [(), (3,)])
def test_cameras_are_found_again_with_much_changed_masks(
    tmp_path: Path, halves, mapped, monkeypatch: pytest.MonkeyPatch, lost: tuple[int, ...]
) -> None:
    """Not where they lose a frame. Masks are those of each clip, on its own grid."""

    def looks(scene: Scene, *others: object) -> Looks:
        masks = scene.dynamic.masks.copy()
        height, width = masks.shape[1:]
        masks[:, : height // 3, -width // 3 :] = True
        mapped["missing"] = lost
        seen = replace(scene, dynamic=replace(scene.dynamic, masks=masks))
        return Looks(replace(seen, provenance=seen.provenance | {"motion": {"explained": 1.0}}), 0.2)

    monkeypatch.setattr(several, "look_again", looks)
    monkeypatch.setattr(several, "explains_as_much", lambda scene, *others: scene)
    log = Lines()
    scene = run(tmp_path, halves, log, replace(OPTIONS, dataset=DatasetConfig(report=False))).result.scene
    one, two = (clip.dynamic for clip in mapped["clips"])
    for dynamic in (one, two):
        height, width = dynamic.masks.shape[1:]
        corner = dynamic.masks[:, : int(0.2 * height), int(-0.2 * width) :]
        assert corner.all() and not dynamic.first[:, : height // 2].any() and dynamic.masks[:, -16:, :16].all()
        assert dynamic.masks[:, : height // 2].mean() < 0.25
    assert len(scene) == 2 * HALF and scene.dynamic.masks[:, :20, -20:].all()
    assert any("the cameras of the first look stay" in line for line in log.said) == bool(lost)


def test_auto_takes_no_network_and_a_finished_run_is_known(tmp_path: Path, halves, mapped) -> None:
    config = replace(OPTIONS, easi3r=replace(OPTIONS.easi3r, weights="auto"), dataset=DatasetConfig(report=False))
    config = replace(config, more_data=halves[1:])
    (part,) = process_parts(halves[0], tmp_path / "out", config, overwrite=False, log=RunLog())
    assert part.result.weights is None and "several clips" in part.result.scene.provenance["weights_choice"]["line"]
    assert process_parts(halves[0], tmp_path / "out", config, overwrite=False, log=RunLog()) == ()
    write_png(halves[1] / "0.png", np.zeros((96, 128, 3), dtype=np.uint8))
    with pytest.raises(Exception, match="already holds a dataset"):
        process_parts(halves[0], tmp_path / "out", config, overwrite=False, log=RunLog())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"easi3r": Easi3RConfig(weights="tiny")}, "--weights tiny"),
        ({"easi3r": replace(OPTIONS.easi3r, masks=Path("a"))}, "--masks"),
        ({"frames": FrameConfig(start=1.0)}, "--start and --end"),
        ({"frames": FrameConfig(on_cut="split")}, "--on-cut split"),
        ({"frames": FrameConfig(pose_all_frames=True)}, "--pose-all-frames"),
        ({"align": AlignConfig(shared_focal=False)}, "--align.no-shared-focal"),
        ({"refine": RefineConfig(camera_model="opencv-fisheye")}, "fisheye"),
        ({"easi3r": replace(OPTIONS.easi3r, focal_length=150.0)}, "--focal-length 150"),
    ],
)
def test_what_means_one_clip_is_refused(tmp_path: Path, halves, mapped, change: dict[str, object], reason: str) -> None:
    if change.get("easi3r") and change["easi3r"].masks:
        change = {"easi3r": replace(OPTIONS.easi3r, masks=halves[0])}
    with pytest.raises(InputError, match=reason):
        run(tmp_path, halves, RunLog(), replace(OPTIONS, **change))
    assert not (tmp_path / "out" / "transforms.json").exists()


def test_evaluation_views_are_refused(tmp_path: Path, clip: Clip, halves, mapped) -> None:
    with pytest.raises(InputError, match="--eval-data"):
        run(tmp_path, halves, RunLog(), replace(OPTIONS, eval_data=write(tmp_path / "e", clip.images[:2])))


def test_photos_of_several_sizes_and_orientations(tmp_path: Path, clip: Clip, mapped) -> None:
    """Some lie, the others, which are smaller, stand: upright in the dataset, with cameras that see the truth."""
    folder = tmp_path / "photos"
    write(folder, clip.images[:HALF])
    for k, image in enumerate(clip.images[HALF:]):
        write_png(folder / f"{HALF + k}.png", upright_again(smaller(image)))
    write_png(folder / "99.png", clip.images[0][:60, :60])  # alone in its size
    log = RunLog()
    auto = replace(OPTIONS, easi3r=replace(OPTIONS.easi3r, weights="auto"))
    result = run(tmp_path, [folder], log, auto).result
    assert any("60x60" in message for message in log.warnings)
    out = tmp_path / "out"
    meta = json.loads((out / "transforms.json").read_text(encoding="utf-8"))
    frames = [{**meta, **entry} for entry in meta["frames"]]
    assert {"w", "h", "cx", "cy"} <= set(meta["frames"][0]) and not {"w", "h", "cx", "cy"} & set(meta)
    assert [(f["w"], f["h"]) for f in frames] == [(160, 120)] * HALF + [(120, 160)] * HALF
    assert [f["source"] for f in frames] == [f"{k}.png" for k in range(2 * HALF)]
    assert [(c["camera"], c["size"]) for c in result.scene.provenance["clips"]] == [(1, [160, 120]), (2, [96, 128])]
    points = result.scene.sparse
    for frame, listed in enumerate(frames):
        assert read_png(out / listed["file_path"]).shape == (listed["h"], listed["w"], 3)
        assert read_png(out / listed["mask_path"]).shape == (listed["h"], listed["w"], 3)
        assert read_png(out / listed["file_path"].replace("images", "images_2")).shape[:2] == (
            listed["h"] // 2,
            listed["w"] // 2,
        )
        # What nerfstudio projects is what the picture shows: the colour of a track where it is seen.
        T = np.array(listed["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0])
        own = points.frame_index == frame
        local = transform(np.linalg.inv(T), transform(Z_UP_FROM_OPENCV_WORLD, points.points[points.point_index[own]]))
        shown = project(local, listed["fl_x"], listed["fl_y"], listed["cx"], listed["cy"])
        pixels = points.pixels[own]
        expected = pixels if frame < HALF else np.column_stack([120 - pixels[:, 1], pixels[:, 0]])
        assert np.allclose(shown, expected, atol=1e-6)
    assert np.abs(read_png(out / frames[-1]["file_path"]).astype(float) - upright_again(clip.images[-1])).mean() < 12
    lower_left = [read_png(out / f["mask_path"]).max(axis=2) == 0 for f in (frames[0], frames[-1])]
    assert lower_left[0][-8:, :8].all() and lower_left[1][:8, :8].all() and lower_left[1].sum() < 400
    assert find_scene(out).turned.tolist() == [False] * HALF + [True] * HALF


def test_exports_take_turned_photos_as_the_scene_has_them(tmp_path: Path, clip: Clip, mapped) -> None:
    folder = write(tmp_path / "photos", clip.images[:HALF])
    for k, image in enumerate(clip.images[HALF:]):
        write_png(folder / f"{HALF + k}.png", upright_again(smaller(image)))
    run(tmp_path, [folder], RunLog(), replace(OPTIONS, dataset=DatasetConfig(num_downscales=0, report=False)))
    scene = find_scene(tmp_path / "out")
    log = Lines()
    export_scene(scene, tmp_path, ["colmap"], ExportConfig(), log)
    assert f"{HALF} of {2 * HALF} pictures lie on their side" in " ".join(log.said)
    images = sorted((tmp_path / "colmap" / "images").iterdir())
    assert {read_png(path).shape for path in images} == {(120, 160, 3)}
    assert np.abs(read_png(images[-1]).astype(float) - clip.images[-1]).mean() < 12
    # These portraits were made by turning landscape pictures, so that their upright cameras are not level.
    assert np.abs(scene.T_world_cam[:, 1, 0]).max() < 0.2 < np.abs(scene.T_world_upright[HALF:, 1, 0]).min()


def test_a_network_still_wants_one_size(tmp_path: Path, clip: Clip) -> None:
    folder = write(tmp_path / "photos", clip.images[:HALF])
    write_png(folder / "p0.png", smaller(clip.images[0]))
    write_png(folder / "p1.png", smaller(clip.images[1]))
    with pytest.raises(InputError, match="5 of 160x120, 2 of 128x96.*--weights none uses all.*--image-size 160x120"):
        run(tmp_path, [folder], RunLog(), replace(OPTIONS, easi3r=Easi3RConfig(weights="tiny")))


@pytest.mark.slow
def test_halves_of_a_clip_lie_in_one_world(tmp_path: Path) -> None:
    """Real mapping: a crop and a resized half of a rendered clip, of which the truth is known."""
    whole = render_clip(11, 12, 240, 320, frozen=True)
    first = [np.ascontiguousarray(x[24:-24, 32:-32]) for x in whole.images[:6]]
    paths = write(tmp_path / "a", first), write(tmp_path / "b", [smaller(x) for x in whole.images[6:]])
    options = replace(OPTIONS.easi3r, no_masks=True)
    config = replace(OPTIONS, easi3r=options, dataset=DatasetConfig(num_downscales=0, report=False))
    scene = run(tmp_path, paths, RunLog(), config).result.scene
    truth = whole.T_world_cam[:, :3, 3]
    assert len(scene) == 12
    path = np.linalg.norm(np.diff(truth, axis=0), axis=1).sum()
    assert align_sim3(scene.T_world_cam[:, :3, 3], truth).rmse < 0.02 * path
    focals = scene.focals / scene.pixel_map.scale_xy[0] * (256 / scene.pixel_map.source_wh[0])
    assert focals[:6] == pytest.approx(whole.focal, rel=0.05)
    assert focals[6:] == pytest.approx(SMALLER * whole.focal, rel=0.05)
