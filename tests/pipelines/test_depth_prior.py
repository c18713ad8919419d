"""--depth-prior in a run: a stand-in that knows the truth, small random networks, what is refused before the work."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.core.config import DatasetConfig, Easi3RConfig, FrameConfig
from easi3r_ns.core.errors import CheckpointError, InputError, MemoryLimitError, MissingExtraError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import FIXED, FROM_PRIOR, Scene
from easi3r_ns.core.types import Frames
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.depth import monocular
from easi3r_ns.depth.monocular import ROLE, TransformersDepth, predict
from easi3r_ns.network.models import MODELS
from easi3r_ns.pipelines import run
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.prior import with_prior
from easi3r_ns.pipelines.run import ProcessResult, process
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.scenes import Clip, render_clip
from tests.pipelines.test_network import write_images
from tests.pipelines.test_seams import Oracle
from tests.support.clip_scene import perfect_scene


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(5, 4, 96, 128)


class Holes(Oracle):
    """A pipeline that knows nothing of the left third and of what moves."""

    def reconstruct(self, frames: Frames, cache, log: RunLog, *, num_eval: int = 0, budget=None) -> Scene:
        scene = super().reconstruct(frames, cache, log, num_eval=num_eval, budget=budget)
        kept = ~self.clip.moving
        kept[:, :, :43] = False
        return replace(scene, depth=scene.depth * kept, confidence=scene.confidence * kept)


class StandIn:
    """A network that recognises each picture and knows its depth."""

    side = 96

    def __init__(self, clip: Clip, *, metric: bool = False) -> None:
        self.clip, self.metric, self.calls, self.released = clip, metric, 0, 0

    @property
    def facts(self) -> dict[str, str]:
        return {"model": "stand-in", "licence": "Apache-2.0"}

    def __call__(self, image: np.ndarray, focal: float) -> np.ndarray:
        self.calls += 1
        frame = int(np.argmin([np.abs(image.astype(float) - other).mean() for other in self.clip.images]))
        inverse = (1 / self.clip.depth[frame]).astype(np.float32)
        assert focal == pytest.approx(self.clip.focal, rel=1e-6)
        return inverse if self.metric else 7 * inverse + 1

    def release(self) -> None:
        self.released += 1


def made(tmp_path: Path, clip: Clip, log: RunLog | None = None, **options: object) -> ProcessResult:
    dataset = DatasetConfig(num_downscales=0, report=False, metric_reference=options.pop("reference", None))
    easi3r = Easi3RConfig(**{"depth_prior": "depth-anything"} | options)  # type: ignore[arg-type]
    config = RunConfig(FrameConfig(num_frames_target=0), easi3r, dataset=dataset)
    data = tmp_path / "clip"
    return process(
        *(data if data.exists() else write_images(clip, data), tmp_path / "out", config),
        overwrite=True,
        log=log or RunLog(),
        pipeline=Holes(clip, tmp_path / "truth"),
    )


def test_what_is_unknown_is_filled(tmp_path, clip, monkeypatch) -> None:
    network = StandIn(clip)
    monkeypatch.setattr(run, "open_prior", lambda config, log: network)
    result = made(tmp_path, clip, log := RunLog())
    assert network.calls == len(clip) and network.released
    scene = find_scene(tmp_path / "out")
    ratio = scene.depth / clip.depth
    assert scene.depth_source is not None and (scene.depth > 0).mean() > 0.95
    assert np.abs(ratio[scene.depth > 0] / np.median(ratio) - 1).max() < 0.02
    assert (scene.depth_source[clip.moving] == FROM_PRIOR).mean() > 0.95
    meta = json.loads(result.transforms_path.read_text())
    assert meta["easi3r"]["depth_prior"]["licence"] == "Apache-2.0" and meta["easi3r"]["scale"]["unit"] == "arbitrary"
    assert "depth prior" in {stage.name for stage in log.stages}


def test_metric_networks_give_metres_unless_a_length_was_measured(tmp_path, clip, monkeypatch) -> None:
    monkeypatch.setattr(run, "open_prior", lambda config, log: StandIn(clip, metric=True))
    result = made(tmp_path, clip, metric=True)
    facts = result.scene.provenance["scale"]
    assert facts["source"] == "prior" and facts["factor"] == pytest.approx(1, rel=0.01) and facts["sigma"] < 0.02
    still = np.argwhere(~clip.moving[1, :, 50:])
    (r1, c1), (r2, c2) = still[0] + [0, 50], still[-1] + [0, 50]
    truth = float(np.linalg.norm(clip.points(1)[r1, c1] - clip.points(1)[r2, c2]))
    reference = f"2 {c1 + 0.5} {r1 + 0.5} {c2 + 0.5} {r2 + 0.5} {2 * truth}"
    facts = made(tmp_path, clip, metric=True, reference=reference).scene.provenance["scale"]
    assert facts["source"] == "reference" and facts["factor"] == pytest.approx(2, rel=0.02)


def test_a_camera_on_a_tripod_takes_over_metres(tmp_path, clip) -> None:
    scene = perfect_scene(clip, tmp_path / "truth")
    unknown = np.zeros_like(scene.depth)
    still = replace(scene, depth=unknown, confidence=unknown, pose_sources=(FIXED,) * len(clip))
    config = Easi3RConfig(depth_prior="depth-pro", metric=True)
    done = with_prior(still, StandIn(clip, metric=True), config, DatasetConfig(), StageCache(None), RunLog())
    np.testing.assert_allclose(done.depth, clip.depth, rtol=1e-4)
    assert done.provenance["scale"]["unit"] == "metre" and done.provenance["scale"]["sigma"] is None


def test_predictions_are_kept_and_belong_to_their_model(tmp_path, clip) -> None:
    scene, cache, network = perfect_scene(clip, tmp_path / "truth"), StageCache(tmp_path / "kept"), StandIn(clip)
    first = predict(scene, network, cache, RunLog())
    again = predict(scene, network, cache, RunLog())
    assert network.calls == len(clip)
    np.testing.assert_array_equal(first.inverse, again.inverse)
    other = StandIn(clip)
    other.__class__ = type("Other", (StandIn,), {"facts": {"model": "other", "licence": "x"}})
    predict(scene, other, cache, RunLog())
    assert other.calls == len(clip)


def test_pictures_on_their_side_are_shown_upright(tmp_path, clip) -> None:
    scene = perfect_scene(clip, tmp_path / "truth")
    turned = replace(
        scene,
        images=np.ascontiguousarray(np.rot90(scene.images, axes=(1, 2))),
        depth=np.rot90(scene.depth, axes=(1, 2)),
        confidence=np.rot90(scene.confidence, axes=(1, 2)),
        dynamic=replace(scene.dynamic, masks=np.rot90(scene.dynamic.masks, axes=(1, 2))),
        pixel_map=scene.pixel_map.upright(),
        turned=np.ones(len(clip), bool),
    )
    said = predict(turned, StandIn(clip, metric=True), StageCache(None), RunLog())
    np.testing.assert_allclose(said.inverse, np.rot90(1 / clip.depth, axes=(1, 2)), rtol=1e-5)


def test_metric_asks_for_a_network() -> None:
    with pytest.raises(InputError, match="--metric needs a network"):
        Easi3RConfig(metric=True)


def test_names_are_known_with_their_licences() -> None:
    assert set(ROLE.names) <= set(MODELS)
    assert "NC" in MODELS["depth-anything-large"].licence and MODELS["depth-anything"].licence == "Apache-2.0"


def test_a_missing_library_is_said_before_any_work(tmp_path, clip, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match="--depth-prior depth-anything needs the library transformers"):
        made(tmp_path, clip)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Path]:
    """Random networks of the real classes, a few thousand weights each, as save_pretrained writes them."""
    transformers = pytest.importorskip("transformers")
    dino = dict(hidden_size=8, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14)
    stages = dict(out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False)
    sizes = dict(neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=4, head_hidden_size=4, reassemble_hidden_size=8)
    folders = {}
    for kind, more in (("relative", {}), ("metric", {"depth_estimation_type": "metric", "max_depth": 20})):
        backbone = transformers.Dinov2Config(**dino, **stages)
        config = transformers.DepthAnythingConfig(backbone_config=backbone, **sizes, **more)
        network = transformers.DepthAnythingForDepthEstimation(config)
        network.save_pretrained(folders.setdefault(kind, tmp_path / kind))
    part = dict(model_type="dinov2", **(dino | {"image_size": 28, "patch_size": 7}))
    pro = transformers.DepthProConfig(
        patch_size=28,
        fusion_hidden_size=8,
        intermediate_hook_ids=[2, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.25],
        scaled_images_feature_dims=[8, 8],
        image_model_config=part,
        patch_model_config=part,
        fov_model_config=part,
    )
    transformers.DepthProForDepthEstimation(pro).save_pretrained(folders.setdefault("pro", tmp_path / "pro"))
    other = transformers.Dinov2Model(transformers.Dinov2Config(**dino))
    other.save_pretrained(folders.setdefault("other", tmp_path / "other"))
    return folders


@pytest.mark.parametrize("kind", ["relative", "metric", "pro"])
def test_saved_networks_run_from_end_to_end(tmp_path, clip, small, kind: str) -> None:
    result = made(tmp_path, clip, depth_prior=str(small[kind]))
    facts = result.scene.provenance["depth_prior"]
    assert facts["kind"] == ("relative" if kind == "relative" else "metric")
    assert facts["licence"] == "unknown" and facts["model"] == str(small[kind])


def test_the_wrong_network_is_refused_in_one_line(tmp_path, clip, small, monkeypatch) -> None:
    with pytest.raises(CheckpointError, match=r"names Dinov2Model, not DepthAnything\S+ or DepthPro") as error:
        made(tmp_path, clip, depth_prior=str(small["other"]))
    assert "\n" not in str(error.value) and "leave out --depth-prior" in str(error.value)
    with pytest.raises(CheckpointError, match="no such folder"):
        made(tmp_path, clip, depth_prior=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="predicts depth without a unit"):
        made(tmp_path, clip, depth_prior=str(small["relative"]), metric=True)

    def full(*args: object, **kwargs: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(TransformersDepth, "_prepared", lambda self, image: np.zeros((1, 3, 28, 28), np.float32))
    monkeypatch.setattr("transformers.DepthAnythingForDepthEstimation.forward", full)
    with pytest.raises(MemoryLimitError, match="choose a smaller model"):
        made(tmp_path, clip, depth_prior=str(small["relative"]))
    assert not (tmp_path / "out").exists()


def test_pictures_are_prepared_as_the_library_does(small) -> None:
    """Ours need no file for it; the library's own preprocessing is the judge."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    files = monocular.find_prior(str(small["relative"]), RunLog())
    network = TransformersDepth(files, torch.device("cpu"))
    image = render_clip(5, 1, 24, 36).images[0]
    theirs = transformers.DPTImageProcessor(
        size={"height": 28, "width": 42}, ensure_multiple_of=14, image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225], do_resize=True, keep_aspect_ratio=False,
    )  # fmt: skip
    wanted = np.asarray(theirs(image, return_tensors="pt")["pixel_values"])
    ours = network._prepared(image)
    assert ours.shape == wanted.shape == (1, 3, 28, 42)
    assert np.abs(ours - wanted).max() < 0.1 and np.abs(ours - wanted).mean() < 0.02
