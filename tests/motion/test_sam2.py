"""Trackers of transformers: prompts and pictures as the library makes them, bounded memory, errors in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.errors import CheckpointError, Easi3RError, MemoryLimitError, MissingExtraError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.motion.segment.propagate import follow_objects
from easi3r_ns.motion.segment.sam2 import PREDICTED, ROLE, TOLD, TransformersTracker, find_tracker, prepared
from easi3r_ns.network.models import MODELS
from tests.support.small_models import SIDE, save_tracker

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
KINDS = ("sam2", "edgetam")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trackers")
    return {kind: save_tracker(kind, root / kind) for kind in KINDS}


def opened(folder: Path) -> TransformersTracker:
    return TransformersTracker(find_tracker(str(folder), RunLog()), torch.device("cpu"))


def clip(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(F, 24, 32, 3) uint8 and (F, 24, 32) uint16: a square that goes to the right."""
    images = np.random.default_rng(0).integers(0, 255, (count, 24, 32, 3)).astype(np.uint8)
    objects = np.zeros((count, 24, 32), dtype=np.uint16)
    for row in range(count):
        objects[row, 6:16, 4 + row % 12 : 16 + row % 12] = 1
    return images, objects


def test_names_are_known_with_their_licences() -> None:
    assert set(ROLE.names) <= set(MODELS)
    assert {MODELS[name].licence for name in ROLE.names} == {"Apache-2.0"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_follows_a_clip(folders: dict[str, Path], kind: str) -> None:
    tracker = opened(folders[kind])
    assert tracker.side == SIDE and tracker.facts["architecture"].endswith("VideoModel")
    tracker.try_out()
    images, objects = clip(5)
    found = follow_objects(lambda row: images[row], objects, tracker, lambda _: None)
    again = follow_objects(lambda row: images[row], objects, tracker, lambda _: None)
    assert found.objects.shape == objects.shape and (found.objects == again.objects).all()
    tracker.release()


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_clip(folders: dict[str, Path], kind: str) -> None:
    """What a session holds after 12 and after 24 frames, counted in numbers of its tensors."""
    tracker, (images, objects) = opened(folders[kind]), clip(25)
    memory, held = tracker.memory(), []
    for row in range(0, 24, 2):
        memory.prompt(row, tracker.look(images[row]), objects[row] > 0)
        if row:
            memory.predict(row - 1, tracker.look(images[row - 1]), (24, 32))
        held.append(numbers(vars(memory._session)))
    assert held[-1] == held[6] <= held[0] * (TOLD + PREDICTED)
    assert not memory._session.processed_frames


def numbers(value: object) -> int:
    """Of all tensors in nested containers and objects."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    more = numbers(vars(value)) if type(value).__module__.startswith("transformers") else 0
    return more + sum(numbers(one) for one in inner)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_library_s_own_inference(folders: dict[str, Path], kind: str) -> None:
    """Masks are told, and predicted from, as by the library's processor and session that forget nothing."""
    tracker, (images, objects) = opened(folders[kind]), clip(4)
    memory = tracker.memory()
    for row in (0, 2):
        memory.prompt(row, tracker.look(images[row]), objects[row] > 0)
    ours = memory._run(1, tracker.look(images[1]))
    name = "Sam2Video" if kind == "sam2" else "EdgeTamVideo"
    network = getattr(transformers, f"{name}Model").from_pretrained(folders[kind]).eval()
    processor = transformers.Sam2VideoProcessor(
        transformers.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}),
        transformers.Sam2VideoVideoProcessor(size={"height": SIDE, "width": SIDE}),
        target_size=SIDE,
    )
    session = getattr(transformers, f"{name}InferenceSession")(video_height=24, video_width=32, dtype=torch.float32)
    for row in (0, 2, 1):
        pixels = processor(images=images[row], return_tensors="pt").pixel_values
        assert np.abs(pixels.numpy() - prepared(images[row], SIDE)).max() < 0.05
        if row != 1:
            processor.add_inputs_to_inference_session(session, row, 1, input_masks=objects[row] > 0)
        theirs = network(session, frame_idx=row, frame=pixels).pred_masks[0, 0].numpy()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(ours, theirs, atol=0.02 * np.abs(theirs).max())


def test_points_and_a_box_stand_in_for_masks_that_are_not_taken(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, objects = opened(folders["sam2"]), clip(1)[1]
    memory, told = tracker.memory(), []
    monkeypatch.setattr(memory._session, "add_point_inputs", lambda own, frame, inputs: told.append(inputs))
    monkeypatch.setattr(memory._session, "add_mask_inputs", lambda *_: pytest.fail("a mask was told"))
    monkeypatch.setattr(memory, "_run", lambda frame, seen: None)
    thin = np.zeros((480, 640), dtype=bool)
    thin[100:400, 320] = True  # vanishes at the model's size
    memory.prompt(0, None, thin)
    del tracker.model.mask_downsample
    memory.prompt(0, None, objects[0] > 0)
    assert [one["point_labels"].flatten().tolist()[:3] for one in told] == [[2, 3, 1], [2, 3, 1]]
    corners = told[1]["point_coords"][0, 0, :2].numpy()
    np.testing.assert_allclose(corners, [[4 * 2, 6 * 64 / 24], [16 * 2, 16 * 64 / 24]])


def one_line(kind: type[Easi3RError], call) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.startswith("--refine-masks") and "leave out --refine-masks" in message
    return message


def test_what_cannot_be_used_is_said_in_one_line(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog()
    assert "no such folder" in one_line(CheckpointError, lambda: find_tracker(str(tmp_path / "nowhere"), log))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in folders["sam2"].iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
    config = json.loads((wrong / "config.json").read_text(encoding="utf-8"))
    (wrong / "config.json").write_text(json.dumps(config | {"architectures": ["Sam2Model"]}), encoding="utf-8")
    assert "names Sam2Model, not Sam2VideoModel" in one_line(CheckpointError, lambda: find_tracker(str(wrong), log))
    config["mask_decoder_config"]["mlp_dim"] = 48
    (wrong / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "in another shape" in one_line(CheckpointError, lambda: opened(wrong).try_out())

    def full(*args: object, **kwargs: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("transformers.Sam2VideoModel.get_image_features", full)
    assert "sam2-tiny" in one_line(MemoryLimitError, lambda: opened(folders["sam2"]).try_out())


def test_published_edgetam_needs_a_newer_timm(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    config = folders["edgetam"] / "config.json"
    before = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"sam2_hiera_det_model", "timm_wrapper", before), encoding="utf-8")
    try:
        monkeypatch.setattr("easi3r_ns.network.models.version", lambda name: "0.6.7")
        told = one_line(MissingExtraError, lambda: find_tracker(str(folders["edgetam"]), RunLog()))
        assert "timm>=1.0 (0.6.7 is here)" in told
        monkeypatch.setattr("easi3r_ns.network.models.version", lambda name: "1.0.31")
        find_tracker(str(folders["edgetam"]), RunLog())
    finally:
        config.write_text(before, encoding="utf-8")
