"""Things by their names: what is found, how it joins with what moves, and the models behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import Easi3RConfig, names_in
from easi3r_ns.core.errors import CheckpointError, InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import DynamicMasks, RefinedMasks
from easi3r_ns.motion.packing import join_masks
from easi3r_ns.motion.segment import grounding
from easi3r_ns.motion.segment.grounding import ROLE, GroundingDino, TrackerAsSegmenter, find_detector
from easi3r_ns.motion.segment.named import Detection, NamedMasks, find_named
from easi3r_ns.motion.segment.sam2 import TransformersTracker, find_tracker
from easi3r_ns.network.models import MODELS
from tests.support.small_models import save_detector, save_tracker

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)


def test_names_are_read() -> None:
    assert names_in(" Person,  parked   Car,person", "--remove") == ("person", "parked car")
    assert names_in(None, "--remove") == ()
    for text in ("", "person,,dog", "dog.", "x" * 61, ",".join(map(str, range(21)))):
        with pytest.raises(InputError, match="--keep '"):
            names_in(text, "--keep")
    with pytest.raises(InputError, match="--remove and --keep both name dog"):
        Easi3RConfig(remove="dog, cat", keep="a dog, Dog")
    assert Easi3RConfig(remove="dog", keep="car").all_names == ("dog", "car")


class Boxes:
    """Finds a dog on the left and a car on the right."""

    side = 48
    facts = {"model": "boxes", "licence": "MIT"}

    def detect(self, image: np.ndarray, names: tuple[str, ...]) -> list[Detection]:
        places = {"dog": [0, 0, 0.25, 1], "car": [0.5, 0, 1, 0.5]}
        return [Detection(name, 0.9, np.array(places[name])) for name in names if name in places]

    def release(self) -> None: ...


class Fills:
    """Takes the whole box, and counts what it is shown."""

    facts = {"model": "fills", "licence": "MIT"}

    def __init__(self) -> None:
        self.looks = 0

    def look(self, image: np.ndarray) -> np.ndarray:
        self.looks += 1
        return image

    def segment(self, seen: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        y, x = (np.arange(n) / n for n in size)
        inside = (y[:, None] >= box[1]) & (y[:, None] < box[3]) & (x >= box[0]) & (x < box[2])
        return np.where(inside, 1.0, -1.0).astype(np.float32)

    def release(self) -> None: ...


def test_boxes_become_masks_of_their_names() -> None:
    fills = Fills()
    found = find_named(IMAGE, ("dog", "car", "cat"), (4, 8), Boxes(), fills)
    assert set(found) == {"dog", "car"} and fills.looks == 1
    assert found["dog"][:, :2].all() and found["dog"].sum() == 8
    assert found["car"][:2, 4:].all() and found["car"].sum() == 8
    assert find_named(IMAGE, ("cat",), (4, 8), Boxes(), fills) == {} and fills.looks == 1, "nothing to segment"


def named(remove: np.ndarray, keep: np.ndarray) -> NamedMasks:
    facts = {"names": [{"name": "dog", "option": "remove", "frames": 1, "share": 0.5}], "model": "m", "licence": "l"}
    return NamedMasks(remove[None, None], keep[None, None], facts)


def test_names_win_over_what_moves() -> None:
    moves, removed, kept = (np.array(bits, bool) for bits in ([1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]))
    ids = np.array([[[1, 1, 0, 0]]], np.uint16)
    refined = RefinedMasks(ids > 0, {}, ids)
    dynamic = DynamicMasks(moves[None, None], np.zeros((1, 1, 1)), 0.5, "geometry", refined=refined)
    found = named(removed, kept).applied(dynamic)
    assert found.masks[0, 0].tolist() == found.final.masks[0, 0].tolist() == [False, True, True, False]
    assert found.named is not None and (found.named["added"], found.named["taken"]) == (0.25, 0.25)
    assert found.refined is not None and found.refined.objects is None, "ids are not those of the masks any more"
    both = named(removed, removed).applied(dynamic)
    assert both.masks[0, 0].tolist() == [True, False, False, False], "--keep wins over --remove"
    nothing = DynamicMasks(np.zeros((1, 1, 4), bool), np.zeros((1, 1, 1)), float("nan"), "none")
    assert named(removed, kept).applied(nothing).source == "user", "with --no-masks the names are the masks"
    alone = replace(found, refined=None)
    facts = join_masks([alone, alone]).named
    assert facts is not None and facts["names"][0]["frames"] == 2 and facts["added"] == 0.25


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("named")
    return {"detector": save_detector(root / "detector"), "sam2": save_tracker("sam2", root / "sam2")}


def opened(folder: Path) -> GroundingDino:
    torch = pytest.importorskip("torch")
    return GroundingDino(find_detector(str(folder), RunLog()), torch.device("cpu"), shorter=64)


def test_a_saved_detector_and_segmenter_work(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    assert set(ROLE.names) <= set(MODELS)
    monkeypatch.setattr(grounding, "SURE", 0.0)
    detector = opened(folders["detector"])
    found = detector.detect(IMAGE, ("person", "dog"))
    assert len(found) == 6 and {one.name for one in found} <= {"person", "dog"}
    assert all(0 <= one.box.min() and one.box.max() <= 1 for one in found)
    assert all((one.box[2:] >= one.box[:2]).all() for one in found)
    tracker = TransformersTracker(find_tracker(str(folders["sam2"]), RunLog()), torch.device("cpu"))
    segmenter = TrackerAsSegmenter(tracker)
    mask = segmenter.segment(segmenter.look(IMAGE), found[0].box, (48, 64))
    assert mask.shape == (48, 64) and np.isfinite(mask).all()


def test_a_box_has_the_name_whose_words_speak_for_it(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 'person. car dog.' the tokens are [CLS] person . car dog . [SEP]."""
    torch = pytest.importorskip("torch")
    detector = opened(folders["detector"])
    with pytest.raises(InputError, match="300 names of --remove and --keep are .* tokens"):
        detector._words(("person",) * 300)
    assert detector._words(("person", "car dog")) == ([101, 200, 1012, 202, 201, 1012, 102], [[1], [3, 4]])
    logits = torch.full((1, 3, 32), -9.0)
    logits[0, 0, 1], logits[0, 1, 4], logits[0, 2, 2] = 2.0, 1.0, 5.0  # person, dog, a full stop

    class Answer:
        pred_boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4]] * 3])

    Answer.logits = logits
    monkeypatch.setattr(grounding, "load_model", lambda role, files, device: lambda **given: Answer)
    found = detector.detect(IMAGE, ("person", "car dog"))
    assert [one.name for one in found] == ["person", "car dog"]
    np.testing.assert_allclose(found[0].box, [0.4, 0.3, 0.6, 0.7], atol=1e-6)


def test_what_cannot_be_used_is_said_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    def told(call) -> str:
        with pytest.raises(CheckpointError) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message and "leave out --remove and --keep" in message
        return message

    assert "no such folder" in told(lambda: find_detector(str(tmp_path / "no"), RunLog()))
    assert "tokenizer.json missing" in told(lambda: find_detector(str(folders["sam2"]), RunLog()))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in folders["detector"].iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
    (wrong / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "is no tokenizer" in told(lambda: opened(wrong))
    config = (folders["sam2"] / "config.json").read_bytes()
    (wrong / "config.json").write_bytes(config)
    assert "names Sam2VideoModel, not GroundingDino" in told(lambda: find_detector(str(wrong), RunLog()))
