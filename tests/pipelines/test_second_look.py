"""The second look within a run: it replaces the masks where the cameras hold, and says so where they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from easi3r_ns.core.config import Easi3RConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import FIXED, Scene, SparsePoints
from easi3r_ns.core.types import ByHand, DynamicMasks, Frames, RefinedMasks
from easi3r_ns.dataset.scene_folder import read_scene, write_scene
from easi3r_ns.motion.rigid import SecondLook
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.pipelines import network
from easi3r_ns.pipelines import second_look as look_stage
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.second_look import explains_as_much, larger_scene, look_again, masks_of_all
from easi3r_ns.report.measures import measure
from easi3r_ns.report.sections.motion import motion_section
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.storage.files import write_png
from tests.support.drive_clip import as_scene, drive

CONFIG = Easi3RConfig(weights="none")


def first_look(source: str) -> Scene:
    """The drive behind a car, whose first look marked the lower left corner."""
    scene = as_scene(drive("ahead"), drive("ahead").depth)
    masks = scene.dynamic.masks.copy()
    masks[:, -48:, :48] = True
    return replace(scene, dynamic=replace(scene.dynamic, masks=masks, source=source, threshold=0.5))


def frames_of(scene: Scene) -> Frames:
    common = {n: getattr(scene, n) for n in ("images", "pixel_map", "times", "indices", "names", "source_paths")}
    return Frames(**common, num_source_frames=len(scene))


def again(scene: Scene, cache: StageCache, log: RunLog, **options: object) -> look_stage.Looks:
    return look_again(scene, frames_of(scene), replace(CONFIG, **options), 16, cache, log)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch):
    """In the place of the look itself: the upper right corner moves, flow tells nothing in the lower half."""

    def install(explained: float, astray: float = 0.0) -> list[int]:
        calls: list[int] = []

        def look(scene: Scene, shot, patch: int, log: RunLog, *, provider, first_row: int) -> SecondLook:
            calls.append(first_row)
            rows = slice(first_row, first_row + len(shot.places))
            masks = np.zeros_like(scene.dynamic.masks[rows])
            masks[:, :48, -48:] = True
            followed = np.ones_like(masks)
            followed[:, masks.shape[1] // 2 :] = False
            score = scene.dynamic.score[rows]
            maps = {"mean": score, "deviation": score}
            dynamic = DynamicMasks(masks, score, 0.3, "scene", maps, first=scene.dynamic.masks[rows])
            return SecondLook(dynamic, followed, np.full(4, explained), 0.02, astray)

        monkeypatch.setattr(look_stage, "second_look", look)
        return calls

    return install


def test_masks_from_flow_are_replaced_and_kept_on_disk(tmp_path: Path, stand_in) -> None:
    calls, scene, cache = stand_in(0.9), first_look("geometry"), StageCache(tmp_path / "stages")
    looks = again(scene, cache, RunLog())
    masks = looks.scene.dynamic.masks
    assert masks[:, :48, -48:].all() and masks.sum() == len(scene) * 48 * 48
    np.testing.assert_array_equal(looks.scene.dynamic.first, scene.dynamic.masks)
    assert looks.scene.provenance["motion"]["kept"] == "second" and looks.changed_much
    assert looks.changed == pytest.approx(2 * 48 * 48 / (192 * 320))

    resumed = again(scene, StageCache(tmp_path / "stages"), RunLog())
    assert len(calls) == 1
    np.testing.assert_array_equal(resumed.scene.dynamic.masks, masks)

    back = read_scene(write_scene(looks.scene, tmp_path / "scene"))
    np.testing.assert_array_equal(back.dynamic.first, scene.dynamic.masks)
    assert back.dynamic.source == "scene"


def test_attention_stays_where_flow_tells_nothing(stand_in) -> None:
    stand_in(0.9)
    scene = first_look("attention")
    masks = again(scene, StageCache(None), RunLog()).scene.dynamic.masks
    assert masks[:, :48, -48:].all() and masks[:, -48:, :48].all()
    assert masks.sum() == 2 * len(scene) * 48 * 48


def test_cameras_that_do_not_hold_leave_the_first_look_with_a_warning(stand_in) -> None:
    stand_in(0.3)
    scene, log = first_look("geometry"), RunLog()
    looks = again(scene, StageCache(None), log)
    assert looks.scene.dynamic is scene.dynamic and not looks.changed_much
    assert looks.scene.provenance["motion"]["kept"] == "first"
    assert any("explain 30 %" in warning for warning in log.warnings)


def test_a_path_that_misses_the_flow_leaves_the_first_look_with_a_warning(stand_in) -> None:
    stand_in(0.95, astray=0.9)
    scene, log = first_look("geometry"), RunLog()
    looks = again(scene, StageCache(None), log)
    assert looks.scene.dynamic is scene.dynamic and looks.scene.provenance["motion"]["kept"] == "first"
    assert any("misses 90 % of the flow" in warning for warning in log.warnings)


def test_a_path_that_no_pair_judges_is_not_called_right(stand_in, caplog: pytest.LogCaptureFixture) -> None:
    stand_in(0.95, astray=float("nan"))
    with caplog.at_level("INFO"):
        looks = again(first_look("geometry"), StageCache(None), RunLog())
    facts = looks.scene.provenance["motion"]
    assert facts["kept"] == "second" and facts["astray"] is None and "the path is not judged" in caplog.text


def test_who_is_not_looked_at_again(stand_in) -> None:
    calls = stand_in(0.9)
    scene = first_look("geometry")
    still = replace(scene, pose_sources=(FIXED,) * len(scene))
    empty = replace(scene, depth=np.zeros_like(scene.depth), confidence=np.zeros_like(scene.confidence))
    for other, options in (
        (scene, {"motion": "attention"}),
        (first_look("user"), {}),
        (first_look("none"), {}),
        (still, {}),
        (empty, {}),
    ):
        log = RunLog()
        assert again(other, StageCache(None), log, **options).scene.dynamic is other.dynamic
        assert not log.warnings
    assert not calls


def test_evaluation_views_are_looked_at_as_a_clip_of_their_own(stand_in) -> None:
    calls, scene = stand_in(0.9), first_look("geometry")
    frames = replace(frames_of(scene), offsets=np.repeat([0, 100], [10, len(scene) - 10]))
    look_again(scene, frames, CONFIG, 16, StageCache(None), RunLog())
    assert calls == [0, 10]


def test_frames_without_a_camera_keep_the_first_look(stand_in) -> None:
    stand_in(0.9)
    scene = first_look("geometry")
    scene = replace(scene, dynamic=replace(scene.dynamic, maps={"mean": scene.dynamic.score}))
    frames, kept = frames_of(scene), np.array([0, 1, 2, 4, 5])
    part = replace(
        scene,
        dynamic=scene.dynamic.of_frames(kept),
        names=tuple(scene.names[k] for k in kept),
        source_paths=tuple(scene.source_paths[k] for k in kept),
        **{n: getattr(scene, n)[kept] for n in ("images", "T_world_cam", "focals", "depth", "confidence")},
        **{n: getattr(scene, n)[kept] for n in ("times", "indices")},
    )
    seen = look_again(part, frames, CONFIG, 16, StageCache(None), RunLog()).scene
    every = masks_of_all(frames, scene.dynamic, seen)
    assert every.masks[3, -48:, :48].all() and not every.masks[2, -48:, :48].any()
    np.testing.assert_array_equal(every.of_frames(kept).masks, seen.dynamic.masks)
    by_model = RefinedMasks(~seen.dynamic.masks, {"model": "m"})
    seen = replace(seen, dynamic=replace(seen.dynamic, refined=by_model))
    refined = masks_of_all(frames, scene.dynamic, seen).refined
    assert refined is not None and (refined.masks[kept] == by_model.masks).all()
    assert (refined.masks[3] == scene.dynamic.masks[3]).all(), "the model was not shown what the first look found"


def test_what_a_person_says_wins_over_the_second_look(stand_in) -> None:
    stand_in(0.9)
    scene = first_look("geometry")
    marks = np.zeros((1, *scene.depth.shape[1:]), dtype=np.int8)
    marks[:, :48, -48:], marks[:, -48:, :48] = -1, 1
    row = np.full(len(scene), -1)
    row[4] = 0
    frames, kept = replace(frames_of(scene), by_hand=ByHand(marks, row)), np.array([0, 1, 2, 4, 5])
    part = replace(
        scene,
        dynamic=scene.dynamic.of_frames(kept),
        names=tuple(scene.names[k] for k in kept),
        source_paths=tuple(scene.source_paths[k] for k in kept),
        **{n: getattr(scene, n)[kept] for n in ("images", "T_world_cam", "focals", "depth", "confidence")},
        **{n: getattr(scene, n)[kept] for n in ("times", "indices")},
    )
    masks = look_again(part, frames, CONFIG, 16, StageCache(None), RunLog()).scene.dynamic.masks
    assert masks[3, -48:, :48].all() and not masks[3, :48, -48:].any()
    assert masks[2, :48, -48:].all() and not masks[2, -48:, :48].any()


def test_the_report_shows_both_looks(stand_in) -> None:
    stand_in(0.9)
    seen = again(first_look("geometry"), StageCache(None), RunLog()).scene
    section = motion_section(seen, measure(seen))
    assert "90 % of the flow" in section.lead and "first look 3.8 %" in section.frames[0].caption
    plain = motion_section(first_look("geometry"), measure(first_look("geometry")))
    assert "first look" not in plain.frames[0].caption


def test_small_networks_are_looked_at_in_larger_images(tmp_path: Path) -> None:
    """Exact: a point that a pixel shows is shown by the pixels of the larger grid that lie in it."""
    scene = first_look("attention")
    paths = tuple(write_png(tmp_path / f"{k}.png", image) for k, image in enumerate(scene.images))
    scene = replace(scene, source_paths=tuple(tmp_path / f"{k}.png" for k in range(len(paths))))
    larger = larger_scene(scene, 3)
    assert larger.images.shape == (len(scene), 576, 960, 3) and larger.pixel_map.network_wh == (960, 576)
    row, column = 70, 200
    own = (np.array([column, row]) - scene.principal_point) / scene.focals_xy[0]
    middle = (np.array([3 * column + 1, 3 * row + 1]) - larger.principal_point) / larger.focals_xy[0]
    np.testing.assert_allclose(own, middle, atol=1e-12)
    assert larger.depth[4, 3 * row, 3 * column + 2] == scene.depth[4, row, column]
    assert larger.dynamic.masks[4, -96:, :96].all() and larger.dynamic.masks.mean() == scene.dynamic.masks.mean()


def test_a_scene_without_static_depth_keeps_the_first_look() -> None:
    scene = first_look("geometry")
    everything = replace(scene.dynamic, masks=np.ones_like(scene.dynamic.masks))
    for other in (replace(scene, dynamic=everything), replace(scene, min_confidence=50.0)):
        looks = again(other, StageCache(None), RunLog())
        assert looks.scene.dynamic is other.dynamic and "nothing static" in looks.scene.provenance["motion"]["why"]


def test_a_camera_that_hardly_travels_keeps_the_first_look(stand_in) -> None:
    calls, scene = stand_in(0.9), first_look("geometry")
    looks = look_again(scene, frames_of(scene), CONFIG, 16, StageCache(None), RunLog(), hardly_travels=True)
    assert looks.scene.dynamic is scene.dynamic and not calls
    assert "hardly travels" in looks.scene.provenance["motion"]["why"]


def test_points_on_what_moves_are_left_out(stand_in) -> None:
    """Points 0 and 1 are seen on the new mask in one of three frames and in two, point 2 never."""
    stand_in(0.9)
    scene = first_look("geometry")
    moving, still = [300.0, 10.0], [150.0, 100.0]
    pixels = np.array([moving, still, still, moving, moving, still, still, still, still])
    sparse = SparsePoints(
        points=np.arange(9.0).reshape(3, 3),
        colors=np.zeros((3, 3), np.uint8),
        errors=np.arange(3.0),
        point_index=np.repeat(np.arange(3), 3),
        frame_index=np.tile(np.arange(3), 3),
        pixels=pixels,
    )
    kept = again(replace(scene, sparse=sparse), StageCache(None), RunLog()).scene.sparse
    assert kept is not None
    np.testing.assert_array_equal(kept.points, sparse.points[[0, 2]])
    assert kept.point_index.tolist() == [0, 0, 1, 1, 1] and kept.frame_index.tolist() == [1, 2, 0, 1, 2]
    assert (kept.pixels == still).all()


def test_cameras_found_again_must_explain_the_flow_as_well(stand_in) -> None:
    stand_in(0.9)
    scene = again(first_look("geometry"), StageCache(None), RunLog()).scene
    kept = (frames_of(scene), CONFIG, 16, StageCache(None), RunLog())
    found = explains_as_much(scene, *kept)
    assert found is not None and found.provenance["motion"]["found_again"]
    stand_in(0.8)
    assert explains_as_much(scene, *kept) is None


def refinements(monkeypatch: pytest.MonkeyPatch, *kept: str, changed: float = 0.2) -> tuple[Scene, RunLog, list[str]]:
    """A run with a network whose refinements keep these cameras; the second look marks nearly everything."""
    scene, log, stages, names = first_look("attention"), RunLog(), [], iter(kept)

    def refined(scene: Scene, *args: object, stage: str, **options: object) -> Scene:
        stages.append(stage)
        cameras = scene.T_world_cam.copy()
        cameras[:, 0, 3] += len(stages)
        return replace(scene, T_world_cam=cameras, provenance=scene.provenance | {"refine": {"kept": next(names)}})

    def looked(scene: Scene, *args: object) -> look_stage.Looks:
        dynamic = replace(scene.dynamic, masks=np.ones_like(scene.dynamic.masks), source="scene")
        facts = {"motion": {"kept": "second", "explained": 0.9}}
        return look_stage.Looks(replace(scene, dynamic=dynamic, provenance=scene.provenance | facts), changed)

    monkeypatch.setattr(network, "reconstruct", lambda *args, **options: scene)
    monkeypatch.setattr(network, "refine_kept", refined)
    monkeypatch.setattr(network, "look_again", looked)
    backbone = SimpleNamespace(info=SimpleNamespace(config=DUSt3RConfig()))
    pipeline = NetworkPipeline(RunConfig(easi3r=Easi3RConfig(weights="tiny")), backbone)
    return pipeline.reconstruct(frames_of(scene), StageCache(None), log), log, stages


@pytest.mark.parametrize(
    "kept, changed, moved_by, stages",
    [
        (("bundle adjustment", "mapping"), 0.2, 2, ["refine", "again-refine"]),
        (("bundle adjustment", "network"), 0.2, 1, ["refine", "again-refine"]),
        (("network", "network"), 0.2, 2, ["refine", "again-refine"]),
        (("bundle adjustment",), 0.01, 1, ["refine"]),
    ],
)
def test_cameras_of_a_network_are_refined_again_unless_that_finds_none(
    monkeypatch, kept: tuple[str, ...], changed: float, moved_by: int, stages: list[str]
) -> None:
    scene, _, done = refinements(monkeypatch, *kept, changed=changed)
    assert done == stages and scene.dynamic.masks.all()
    np.testing.assert_allclose(scene.T_world_cam[:, 0, 3] - first_look("attention").T_world_cam[:, 0, 3], moved_by)
    assert scene.provenance["motion"].get("found_again", False) == (moved_by == 2)


def test_much_motion_is_judged_by_the_second_look(monkeypatch) -> None:
    scene, log, _ = refinements(monkeypatch, "bundle adjustment", changed=0.01)
    assert first_look("attention").dynamic.coverage.mean() < 0.1 and scene.dynamic.coverage.mean() == 1
    assert any("100 % of the pixels are dynamic" in warning for warning in log.warnings)
