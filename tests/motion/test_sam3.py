"""SAM 3 behind --remove and --keep: from a saved folder, its arithmetic, and what is wrong with a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.errors import CheckpointError, InputError, MemoryLimitError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.motion.segment import sam3
from easi3r_ns.motion.segment.grounding import ROLE, find_detector, open_detector
from easi3r_ns.motion.segment.named import Detection, find_named
from easi3r_ns.motion.segment.sam3 import Sam3
from easi3r_ns.network.models import MODELS
from tests.support.small_models import save_sam3

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sam3(tmp_path_factory.mktemp("sam3") / "net")


def opened(folder: Path) -> Sam3:
    torch = pytest.importorskip("torch")
    found = open_detector(find_detector(str(folder), RunLog()), torch.device("cpu"))
    assert isinstance(found, Sam3) and found.side == 56
    return found


@pytest.mark.parametrize("video", [False, True], ids=["as saved", "as published"])
def test_a_saved_model_finds_and_segments(video: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam3, "SURE", 0.0)
    model = opened(save_sam3(tmp_path / "net", video=video))
    found = model.detect(IMAGE, ("person", "dog"))
    assert [one.name for one in found] == ["person"] * 5 + ["dog"] * 5
    assert all(one.mask is not None and np.isfinite(one.mask).all() for one in found)
    assert all(0 <= one.box.min() and one.box.max() <= 1 and 0 <= one.score <= 1 for one in found)
    first, second = (np.stack([one.mask for one in part]) for part in (found[:5], found[5:]))
    assert np.abs(first - second).max() > 0, "another name is another question"
    model.release()
    again = model.detect(IMAGE, ("dog",))
    np.testing.assert_allclose(np.stack([one.mask for one in again]), second, atol=1e-5)
    assert model.facts["architecture"] == ("Sam3VideoModel" if video else "Sam3Model")


def test_padding_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library pads names to 32 tokens and masks them out; here there are none."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(sam3, "SURE", 0.0)
    model = opened(folder)
    ours = model.detect(IMAGE, ("dog",))
    ids = model._words("dog")
    assert ids == [1, 11, 2]
    pixels = torch.from_numpy(sam3.prepared(IMAGE, 56, (np.full(3, 0.5), np.full(3, 0.5))))
    assert -1 <= float(pixels.min()) and float(pixels.max()) <= 1
    padded = torch.tensor([ids + [2] * 29])
    mask = torch.tensor([[1] * 3 + [0] * 29])
    with torch.no_grad():
        out = model._model(pixel_values=pixels, input_ids=padded, attention_mask=mask)
    scores = torch.sigmoid(out.pred_logits[0]) * torch.sigmoid(out.presence_logits[0])
    np.testing.assert_allclose([one.score for one in ours], scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.stack([one.mask for one in ours]), out.pred_masks[0].numpy(), atol=1e-3)


def test_the_score_is_that_of_the_thing_and_of_its_being_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    model = opened(folder)

    class Answer:
        pred_logits = torch.tensor([[4.0, 4.0, -4.0]])
        pred_boxes = torch.tensor([[[0.1, 0.2, 0.3, 1.4]] * 3])
        pred_masks = torch.tensor([[[[1.0, -1.0]], [[-1.0, 1.0]], [[1.0, 1.0]]]])

    class Stub:
        def __call__(self, **given: object) -> type[Answer]:
            Answer.presence_logits = torch.tensor([[4.0 if int(given["input_ids"][0, 1]) == 11 else -4.0]])  # dog
            return Answer

        def get_vision_features(self, pixel_values: object) -> None: ...

    monkeypatch.setattr(sam3, "load_model", lambda role, files, device: Stub())
    found = model.detect(IMAGE, ("person", "dog"))
    assert [one.name for one in found] == ["dog", "dog"]
    np.testing.assert_allclose(found[0].box, [0.1, 0.2, 0.3, 1.0], atol=1e-6)
    masks = find_named(IMAGE, ("person", "dog"), (2, 4), model, None)
    assert set(masks) == {"dog"} and masks["dog"].all(), "the union of both dogs"


def test_masks_of_a_detector_need_no_segmenter() -> None:
    class Own:
        side, facts = 8, {"model": "own", "licence": "MIT"}

        def detect(self, image: np.ndarray, names: tuple[str, ...]) -> list[Detection]:
            left = np.where(np.arange(8) < 4, 1.0, -1.0).astype(np.float32)
            return [Detection("dog", 0.9, np.array([0, 0, 0.5, 1]), np.tile(left, (8, 1)))]

        def release(self) -> None: ...

    found = find_named(IMAGE, ("dog",), (4, 8), Own(), None)
    assert found["dog"][:, :4].all() and not found["dog"][:, 4:].any()


def test_what_cannot_be_used_is_said_in_one_line(folder: Path, tmp_path: Path, monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    assert "sam3" in ROLE.names and "SAM License" in MODELS["sam3"].licence
    with pytest.raises(InputError, match="is 42 tokens, and .* reads 32"):
        opened(folder)._words("dog " * 40)
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in folder.iterdir():
        (cut / file.name).write_bytes(file.read_bytes())
    (cut / "tokenizer.json").unlink()
    with pytest.raises(
        CheckpointError, match="tokenizer.json missing in .* or leave out --remove and --keep"
    ) as caught:
        opened(cut)
    assert "\n" not in str(caught.value)

    def full(**given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = opened(folder)
    model.detect(IMAGE, ("dog",))
    monkeypatch.setattr(model._model, "get_vision_features", full)
    with pytest.raises(MemoryLimitError, match="out of memory: --device cpu, or leave out --remove and --keep"):
        model.detect(IMAGE, ("dog",))
