"""--refine-masks in a run: where the union of both masks is used and where the model's, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from easi3r_ns.cli.summary import refined_lines
from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.errors import CheckpointError, InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import ByHand, DynamicMasks, Frames, RefinedMasks
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.motion.packing import join_masks
from easi3r_ns.motion.segment import sam3
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.pipelines import named, refined
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.refined import refined_masks
from easi3r_ns.pipelines.run import ProcessResult, process
from easi3r_ns.report.measures import measure
from easi3r_ns.report.sections.motion import motion_section
from easi3r_ns.report.sections.run import run_section
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.measure.paths import frames_of
from easi3r_ns.training.scenes import Clip, render_clip
from tests.motion.test_named import Boxes, Fills
from tests.pipelines.test_network import run_stand_in, write_images
from tests.support.helpers import Lines
from tests.support.small_models import save_detector, save_sam3, save_tracker
from tests.support.still_clip import still_clip


class Knows:
    """A model that recognises each picture, and says what moves in it, a part of it or nothing.

    Its answer has nothing to do with what it is told, so that a result tells which masks it is made of.
    """

    side = 96

    def __init__(self, clip: Clip, *, blind: bool = False) -> None:
        self.clip, self.blind, self.looks, self.released = clip, blind, 0, 0

    @property
    def facts(self) -> dict[str, str]:
        return {"model": "stand-in", "licence": "Apache-2.0"}

    def look(self, image: np.ndarray) -> int:
        self.looks += 1
        wh = (image.shape[1], image.shape[0])
        small = [cv2.resize(one, wh, interpolation=cv2.INTER_AREA) for one in self.clip.images]
        return int(np.argmin([np.abs(image.astype(float) - one).mean() for one in small]))

    def memory(self) -> Knows:
        return self

    def prompt(self, frame: int, seen: int, mask: np.ndarray) -> None:
        assert seen == frame

    def predict(self, frame: int, seen: int, size: tuple[int, int]) -> np.ndarray:
        moving = cv2.resize(self.clip.moving[seen].astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        return moving - (2 if self.blind else 0.5)

    def try_out(self) -> None: ...

    def release(self) -> None:
        self.released += 1


def tripod() -> Clip:
    clip = still_clip("fixed")
    rows = slice(0, 4)
    arrays = {n: v[rows] for n, v in vars(clip).items() if isinstance(v, np.ndarray) and len(v) == len(clip)}
    return replace(clip, **arrays)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easi3r_ns.pipelines.geometric.geometric_masks", found_before)


def found_before(images: np.ndarray, patch: int, log: RunLog, **_: object) -> DynamicMasks:
    """In the place of masks from optical flow: the true ones, grown by some pixels."""
    count, height, width = images.shape[:3]
    moving = [cv2.resize(m.astype(np.uint8), (width, height)) for m in tripod().moving]
    grown = np.stack([cv2.dilate(m, np.ones((9, 9), np.uint8)) > 0 for m in moving])
    return DynamicMasks(grown, np.zeros((count, height // patch, width // patch), np.float32), 0.5, "geometry")


def run_none(tmp_path: Path, log: RunLog, **options: object) -> ProcessResult:
    easi3r = Easi3RConfig(**{"weights": "none", "device": "cpu"} | options)  # type: ignore[arg-type]
    config = RunConfig(FrameConfig(num_frames_target=0), easi3r, dataset=DatasetConfig(num_downscales=0, report=False))
    data = tmp_path / "clip"
    data = data if data.exists() else write_images(tripod(), data)
    return process(data, tmp_path / "out", config, overwrite=True, log=log)


def test_the_dataset_has_the_masks_of_the_model(tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tripod()
    monkeypatch.setattr(refined, "open_tracker", lambda config, log: Knows(clip))
    result = run_none(tmp_path, log := Lines(), refine_masks="sam2")
    scene = result.scene
    expected = np.stack([Knows(clip).predict(0, k, scene.dynamic.masks.shape[1:]) > 0 for k in range(len(clip))])
    assert (scene.dynamic.masks == expected).all() and scene.dynamic.refined is None
    facts = scene.provenance["refined_masks"]
    assert facts["licence"] == "Apache-2.0" and facts["share"] == pytest.approx(expected.mean())
    assert facts["objects"] >= 1 and not facts["lost"] and "refined masks" in {stage.name for stage in log.stages}
    assert any("--refine-masks stand-in" in line for line in log.said)
    assert find_scene(tmp_path / "out").dynamic.objects.max() == len(scene.provenance["objects"])
    meta = json.loads(result.transforms_path.read_text())
    assert meta["easi3r"]["refined_masks"]["model"] == "stand-in"
    assert "told what moves" in motion_section(scene, measure(scene)).lead
    assert [fact.value for fact in run_section(scene.provenance).weights] == ["stand-in", "Apache-2.0"]


def test_what_the_model_loses_is_named_and_stays(tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refined, "open_tracker", lambda config, log: Knows(tripod(), blind=True))
    result = run_none(tmp_path, log := RunLog(), refine_masks="sam2")
    assert (result.scene.dynamic.masks == found_before(result.scene.images, 16, RunLog()).masks).all()
    assert any("loses object 1 in 4 of 4 frames" in warning for warning in log.warnings)


def test_a_saved_model_goes_through_a_whole_run(tmp_path: Path, fast: None) -> None:
    folder = save_tracker("sam2", tmp_path / "net")
    scene = run_none(tmp_path, RunLog(), refine_masks=str(folder)).scene
    assert scene.provenance["refined_masks"]["architecture"] == "Sam2VideoModel"
    assert scene.provenance["refined_masks"]["licence"] == "unknown"


def test_the_network_silences_and_aligns_with_the_union(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = render_clip(5, 4, 96, 128)
    network = DUSt3RConfig(image_size=128, patch_size=8, head_type="linear")
    knows, seen = Knows(clip), []
    monkeypatch.setattr(refined, "open_tracker", lambda config, log: knows)
    monkeypatch.setattr(
        "easi3r_ns.pipelines.network.align", lambda *args, dynamic_masks, **more: seen.append(dynamic_masks) or stop()
    )

    class Stop(Exception): ...

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        run_stand_in(tmp_path, clip, network, motion="attention", refine_masks="sam2")
    model = np.stack([knows.predict(0, k, seen[0].shape[1:]) > 0 for k in range(len(clip))])
    assert (seen[0] >= model).all() and (seen[0] > model).any(), "the union of both"
    assert knows.looks == 2 * len(clip), "once for the re-weighting, once for the final masks"


def test_masks_of_a_user_are_not_touched(tmp_path: Path) -> None:
    for options in ({"masks": Path("m")}, {"no_masks": True}):
        with pytest.raises(InputError, match="--refine-masks sam2 refines masks that the run finds"):
            Easi3RConfig(refine_masks="sam2", **options)  # type: ignore[arg-type]
    clip = tripod()
    config = Easi3RConfig(refine_masks="sam2")
    for source in ("user", "none"):
        masks = DynamicMasks(clip.moving, np.zeros((len(clip), 4, 4), np.float32), 0.5, source)
        frames = SimpleNamespace(by_hand=None)
        assert refined_masks(masks, frames, config, StageCache(None), RunLog(), stage="s") is masks  # type: ignore[arg-type]


def test_names_join_with_what_moves(tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dog on the left is masked though it rests, a car on the right never, a cat is nowhere."""
    boxes, fills = Boxes(), Fills()
    monkeypatch.setattr(named, "open_named", lambda config, log: (boxes, fills))
    result = run_none(tmp_path, log := RunLog(), remove="dog, cat", keep="car")
    scene = result.scene
    masks, (height, width) = scene.dynamic.masks, scene.dynamic.masks.shape[1:]
    assert masks[:, :, : width // 4].all() and not masks[:, : height // 2, width // 2 :].any()
    facts = scene.provenance["named_masks"]
    assert {one["name"]: one["frames"] for one in facts["names"]} == {"dog": 4, "cat": 0, "car": 4}
    assert facts["added"] > 0.1 and fills.looks == 1 + len(scene), (
        "tried, then found once, however many looks there are"
    )
    assert any("--remove cat: boxes finds it in no frame" in warning for warning in log.warnings)
    assert "masked by its name alone" in motion_section(scene, measure(scene)).lead
    assert dict(refined_lines(scene))["by name"].startswith("dog in 4 frames")


def test_saved_models_find_names_in_a_whole_run(tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASI3R_NS_WEIGHTS", str(tmp_path / "by-hand"))
    save_tracker("sam2", tmp_path / "by-hand" / "sam2-tiny")
    detector = save_detector(tmp_path / "detector")
    scene = run_none(tmp_path, RunLog(), remove="person, dog", names_model=str(detector)).scene
    facts = scene.provenance["named_masks"]
    assert [one["model"] for one in facts["models"]] == [str(detector), "sam2-tiny"]
    assert facts["licence"] == "unknown and Apache-2.0"


def test_a_saved_sam3_finds_names_in_a_whole_run(tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam3, "SURE", 0.0)
    folder = save_sam3(tmp_path / "net", video=True)
    scene = run_none(tmp_path, log := RunLog(), remove="person, dog", names_model=str(folder)).scene
    facts = scene.provenance["named_masks"]
    assert [one["model"] for one in facts["models"]] == [str(folder)], "it needs no second model"
    assert facts["licence"] == "unknown" and sum(one["frames"] for one in facts["names"]) > 0
    assert dict(refined_lines(scene))["by name"].endswith("(licence: unknown)")
    assert [stage.name for stage in log.stages].count("things by name") == 1


def test_a_wrong_folder_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--refine-masks ./nowhere: no such folder"):
        run_none(tmp_path, RunLog(), refine_masks="./nowhere")
    assert not (tmp_path / "out").exists()


def two_clips(clip: Clip, folder: Path) -> tuple[DynamicMasks, Frames]:
    folder.mkdir()
    frames = frames_of(clip, folder)
    offsets = np.repeat([0, 100], [len(clip) - 2, 2])
    return (
        DynamicMasks(clip.moving, np.zeros((len(clip), 4, 4), np.float32), 0.5, "geometry"),
        replace(frames, offsets=offsets),
    )


def test_clips_are_followed_apart_and_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tripod()
    told: list[list[int]] = []

    class Apart(Knows):
        def memory(self) -> Knows:
            told.append([])
            return self

        def prompt(self, frame: int, seen: int, mask: np.ndarray) -> None:
            told[-1].append(seen)

    knows = Apart(clip)
    monkeypatch.setattr(refined, "open_tracker", lambda config, log: knows)
    dynamic, frames = two_clips(clip, tmp_path / "frames")
    config, cache = Easi3RConfig(refine_masks="sam2"), StageCache(tmp_path / "stages")
    found = refined_masks(dynamic, frames, config, cache, RunLog(), stage="s")
    assert found.refined is not None and found.refined.objects is not None
    first, second = (set(np.unique(part)) - {0} for part in np.split(found.refined.objects, [len(clip) - 2]))
    assert first and second and not first & second, "no object is in both clips"
    assert all(max(rows) < len(clip) - 2 or min(rows) >= len(clip) - 2 for rows in told if rows)
    looks = knows.looks
    again = refined_masks(dynamic, frames, config, cache, RunLog(), stage="s")
    assert knows.looks == looks and (again.masks == found.masks).all(), "a kept result is not computed again"


def test_corrections_by_hand_win_over_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tripod()
    monkeypatch.setattr(refined, "open_tracker", lambda config, log: Knows(clip))
    dynamic, frames = two_clips(clip, tmp_path / "frames")
    marks = np.full((1, *clip.moving.shape[1:]), -1, dtype=np.int8)
    frames = replace(frames, offsets=None, by_hand=ByHand(marks, np.array([-1, 0, -1, -1])))
    found = refined_masks(dynamic, frames, Easi3RConfig(refine_masks="sam2"), StageCache(None), RunLog(), stage="s")
    assert found.refined is not None and found.refined.objects is None, "ids are not those of the masks any more"
    for masks in (found.masks, found.refined.masks):
        assert not masks[1].any() and masks[0].any()


def test_refined_masks_of_clips_in_a_row() -> None:
    objects = np.array([[[0, 1]], [[2, 0]]], dtype=np.uint16)
    facts = {"model": "m", "objects": 2, "left": 1, "lost": [{"id": 1}], "own_share": 0.25, "share": 0.5}
    one = DynamicMasks(objects > 0, np.zeros((2, 1, 1)), 0.5, refined=RefinedMasks(objects > 0, facts, objects))
    joined = join_masks([one, one]).refined
    assert joined is not None and joined.objects is not None
    assert joined.objects[2:].max() == 4 and joined.facts["objects"] == 4 and joined.facts["share"] == 0.5
    kept = replace(one, refined=joined.of_frames(np.array([0, 3]))).refined
    assert kept is not None and (kept.objects > 0).tolist() == kept.masks.tolist()
    still = replace(one, masks=np.zeros_like(one.masks), refined=None)
    both = join_masks([one, still]).refined
    assert both is not None and both.masks.tolist() == [*one.masks.tolist(), *still.masks.tolist()]
    assert both.facts["share"] == 0.25 and both.facts["model"] == "m" and both.objects is not None
    assert join_masks([still, still]).refined is None
