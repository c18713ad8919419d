"""Both passes as stages: what is kept, what is spilled, what is not done twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from easi3r_ns.core.config import Easi3RConfig
from easi3r_ns.core.errors import OutputError
from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.score import ScoreFormula
from easi3r_ns.core.types import POINTMAP_NAMES, DynamicMasks, PairPredictions
from easi3r_ns.motion.attention.masks import REFERENCE_SEED, segment_dynamic
from easi3r_ns.motion.attention.statistics import score_of
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.flow.provider import FlowProvider
from easi3r_ns.network.compute import Compute
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.pipelines import stages
from easi3r_ns.pipelines.network import _mask_flow
from easi3r_ns.pipelines.stages import DecodedPairs, Shared, StageInputs, explain_flow, reopen, run_passes
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.measure.motion import watch
from easi3r_ns.training.measure.paths import frames_of
from easi3r_ns.training.scenes import Clip, render_clip
from tests.support.standin import StandIn

SMALL = DUSt3RConfig(image_size=128, patch_size=8, head_type="linear")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(5, 6, 96, 128)


def run(
    clip: Clip, cache: StageCache, *, spill: bool = False, compute: Compute | None = None, **options
) -> tuple[PairPredictions, DynamicMasks, StandIn]:
    """Both passes with a network that knows the truth."""
    inputs = inputs_of(clip, cache, spill=spill, compute=compute, **options)
    decoded = both_passes(inputs)
    return decoded.predictions, decoded.dynamic, inputs.backbone


def both_passes(inputs: StageInputs) -> DecodedPairs:
    return run_passes(inputs, Shared.of(inputs))


def inputs_of(
    clip: Clip, cache: StageCache, *, spill: bool = False, compute: Compute | None = None, **options
) -> StageInputs:
    frames = frames_of(clip)
    network, graph = StandIn(clip, frames.pixel_map, SMALL), make_pairs("swinstride-2-noncyclic", len(clip))
    config, compute = Easi3RConfig(**options), compute or Compute(torch.device("cpu"), batch_size=3)
    return StageInputs(frames, graph, network, config, compute, cache, RunLog(), spill=spill)


def test_what_is_spilled_is_the_same(tmp_path, clip):
    memory, masks, _ = run(clip, StageCache(None))
    for spill in (False, True):
        ours, dynamic, _ = run(clip, StageCache(tmp_path / str(spill)), spill=spill)
        for name in POINTMAP_NAMES:
            assert torch.equal(getattr(ours, name), getattr(memory, name))
        np.testing.assert_array_equal(dynamic.masks, masks.masks)
        np.testing.assert_array_equal(dynamic.score, masks.score)
    names = [sorted(p.name for p in (tmp_path / folder).iterdir()) for folder in ("False", "True")]
    assert names[0] == names[1] and [name.split("-")[0] for name in names[0]] == [
        "features",
        "pass1",
        "pass2",
        "pointmaps",
    ]


def test_spilled_maps_are_not_copied_by_the_cache(tmp_path, clip, monkeypatch):
    saved, save = set(), np.save

    def recorded(path, *args, **options):
        saved.add(path.stem)
        save(path, *args, **options)

    monkeypatch.setattr("easi3r_ns.storage.cache.np.save", recorded)
    run(clip, StageCache(tmp_path), spill=True)
    assert "masks" in saved and not saved & {*POINTMAP_NAMES, "features"}


@pytest.mark.parametrize("spill", [False, True])
def test_finished_stages_are_found_again(tmp_path, clip, spill, monkeypatch):
    cache = StageCache(tmp_path)
    first, masks, _ = run(clip, cache, spill=spill)
    with monkeypatch.context() as patch:
        for name in ("encode", "attention", "decode"):
            patch.setattr(StandIn, name, None)  # an error when called
        again, same, _ = run(clip, cache, spill=not spill)
    assert torch.equal(again.points_j, first.points_j)
    np.testing.assert_array_equal(same.masks, masks.masks)
    path = next(tmp_path.glob("pointmaps-*"))
    for file in path.glob("*.npy"):
        file.unlink()  # what maps the file keeps it
        file.write_bytes(b"damaged")
    repaired, same, network = run(clip, cache, spill=spill)
    assert torch.equal(repaired.points_j, first.points_j) and network.encoded == 0
    np.testing.assert_array_equal(same.masks, masks.masks)


def test_pointmaps_are_opened_again_or_missed(tmp_path, clip):
    inputs = inputs_of(clip, StageCache(tmp_path), no_masks=True)
    decoded = both_passes(inputs)
    again = reopen(inputs.cache.folder, decoded.key, inputs.graph)
    assert again is not decoded.predictions and torch.equal(again.points_j, decoded.predictions.points_j)
    next(tmp_path.glob("pointmaps-*/*.npy")).unlink()
    with pytest.raises(OutputError, match="cannot be read again"):
        reopen(inputs.cache.folder, decoded.key, inputs.graph)


def test_masks_of_the_user_spare_pass_1_and_the_attention_of_pass_2(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("easi3r_ns.pipelines.stages.SummaryAccumulator", None)  # an error when called
    monkeypatch.setattr("easi3r_ns.pipelines.stages.cluster_for", None)
    plain, static, network = run(clip, StageCache(tmp_path / "a"), no_masks=True)
    assert not static.masks.any() and not network.silenced
    folder = tmp_path / "masks"
    folder.mkdir()
    for k in range(len(clip)):
        cv2.imwrite(str(folder / f"{k}.png"), np.zeros((96, 128), np.uint8))
    none_moves, _, network = run(clip, StageCache(tmp_path / "b"), masks=folder)
    assert not network.silenced, "a plain decode where nothing moves"
    assert torch.equal(none_moves.points_i, plain.points_i)


def test_the_default_seed_is_that_of_the_reference(tmp_path, clip, monkeypatch):
    seeds, cluster = [], stages.cluster_for

    def watched(formula, features, seed):
        seeds.append(seed)
        return cluster(formula, features, seed)

    monkeypatch.setattr(stages, "cluster_for", watched)
    for options in ({}, {"seed": 5}):
        run(clip, StageCache(tmp_path), **options)
    assert seeds == [42, 47]


def test_features_are_kept_in_the_precision_of_the_network(tmp_path, clip):
    cache = StageCache(tmp_path)
    run(clip, cache, compute=Compute(torch.device("cpu"), torch.bfloat16, 3))
    key = next(tmp_path.glob("features-*")).name.split("-")[1]
    assert cache.get("features", key)["features"].dtype == torch.float16


FLOW_SCORE = ScoreFormula(0, 1, 0, 0, flow_residual=True)


def with_flow(
    clip: Clip,
    folder: Path,
    cache: StageCache,
    num_eval: int = 0,
    mask_flow: FlowProvider | None = None,
    **options,
) -> StageInputs:
    """Of weights whose card asks for the residual of flow; the files of the frames are in ``folder``."""
    folder.mkdir(exist_ok=True)
    frames, graph = frames_of(clip, folder), make_pairs("swinstride-2-noncyclic", len(clip))
    network = StandIn(clip, frames.pixel_map, SMALL)
    network.info = replace(network.info, score=FLOW_SCORE)
    config, compute = Easi3RConfig(**options), Compute(torch.device("cpu"))
    return StageInputs(
        frames, graph, network, config, compute, cache, RunLog(), num_eval=num_eval, mask_flow=mask_flow or DISFlow()
    )


@pytest.mark.parametrize("kept", [False, True])
def test_the_residual_of_flow_is_computed_once_for_both_passes(tmp_path, clip, kept, monkeypatch):
    calls, compute = [], stages.flow_residual

    def counted(shot, *args):
        calls.append(shot.image(0).shape)
        return compute(shot, *args)

    monkeypatch.setattr(stages, "flow_residual", counted)
    cache = StageCache(tmp_path / "cache" if kept else None)
    inputs = with_flow(clip, tmp_path / "a", cache)
    shared = Shared.of(inputs)
    dynamic = run_passes(inputs, shared).dynamic
    assert calls == [(288, 384, 3)], "three times the size of the network, where flow finds more"
    residual = dynamic.maps["flow_residual"]
    expected = score_of(dynamic.maps, FLOW_SCORE)
    assert residual.shape == expected.shape == (6, 12, 16) and not np.array_equal(residual, residual[::-1])
    np.testing.assert_array_equal(dynamic.score, segment_dynamic(expected, shared.labels(), 8).score)
    both_passes(with_flow(clip, tmp_path / "a", cache))
    assert len(calls) == (1 if kept else 2)
    both_passes(with_flow(clip, tmp_path / "a", StageCache(None), no_masks=True))
    assert len(calls) == (1 if kept else 2), "not where masks are given"


def test_the_residual_of_evaluation_views_is_that_of_a_clip_of_their_own(tmp_path, clip):
    whole, apart = (with_flow(clip, tmp_path / "a", StageCache(None), n) for n in (0, 2))
    whole, apart = explain_flow(whole), explain_flow(apart)
    views = replace(clip, images=clip.images[4:], depth=clip.depth[4:], times=clip.times[4:])
    alone = explain_flow(with_flow(views, tmp_path / "b", StageCache(None)))
    np.testing.assert_array_equal(apart[4:], alone)
    assert not np.array_equal(apart[3], whole[3])


class Still:
    """An estimator that sees no motion; like a network it takes arrays that torch can take."""

    name = "still"

    def flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        assert torch.from_numpy(source).shape == torch.from_numpy(target).shape == (2, 288, 384, 3)
        return np.zeros((*source.shape[:3], 2), np.float32)


def test_another_estimator_of_flow_makes_other_masks(tmp_path, clip):
    cache = StageCache(tmp_path / "cache")
    usual, same, other = (
        both_passes(with_flow(clip, tmp_path / "a", cache, mask_flow=flow)).dynamic
        for flow in (None, DISFlow(), Still())
    )
    np.testing.assert_array_equal(same.score, usual.score)
    assert not np.array_equal(other.score, usual.score)


@pytest.mark.parametrize(
    ("options", "score", "expected"),
    [
        ({}, FLOW_SCORE, DISFlow),
        ({"flow": "dis"}, FLOW_SCORE, DISFlow),
        ({"flow": "raft"}, FLOW_SCORE, Still),
        ({"no_masks": True}, FLOW_SCORE, None),
        ({}, ScoreFormula(), None),
    ],
)
def test_masks_take_raft_only_if_it_is_asked_for(clip, options, score, expected):
    info = replace(StandIn(clip, frames_of(clip).pixel_map, SMALL).info, score=score)
    found = _mask_flow(info, Easi3RConfig(**options), Still(), Compute(torch.device("cpu")), RunLog())
    assert found is None if expected is None else isinstance(found, expected)


def test_formulas_are_chosen_on_the_map_that_a_run_computes(tmp_path, clip):
    inputs = with_flow(clip, tmp_path / "a", StageCache(None))
    _, tokens = watch(inputs.backbone, clip, ["swin-1-noncyclic"])
    np.testing.assert_array_equal(explain_flow(inputs), tokens.flow_residual)


def test_where_flow_cannot_follow_attention_decides(tmp_path, clip):
    class Torn(Still):
        def flow(self, source, target):
            return np.full((*source.shape[:3], 2), 9.0, np.float32)

    inputs = with_flow(clip, tmp_path / "a", StageCache(None), mask_flow=Torn())
    shared = Shared.of(inputs)
    dynamic = run_passes(inputs, shared).dynamic
    assert (dynamic.maps["flow_residual"] == 1).all()
    alone = score_of(dynamic.maps, replace(inputs.formula, flow_residual=False))
    np.testing.assert_array_equal(dynamic.score, segment_dynamic(alone, shared.labels(), 8).score)
    assert "follows only 0 of 6 frames" in inputs.log.warnings[0]


def test_where_flow_cannot_follow_and_there_is_no_attention_nothing_moves(tmp_path, clip):
    class Torn(Still):
        def flow(self, source, target):
            return np.full((*source.shape[:3], 2), 9.0, np.float32)

    def of(flow: FlowProvider) -> DynamicMasks:
        inputs = with_flow(clip, tmp_path / "a", StageCache(None), mask_flow=flow)
        alone = replace(inputs.formula, std_src=0)
        inputs.backbone.info = replace(inputs.backbone.info, score=alone)
        return run_passes(inputs, Shared.of(inputs)).dynamic

    assert of(DISFlow()).masks.any() and not of(Torn()).masks.any()


def test_at_full_size_the_images_are_those_of_the_network(tmp_path, clip, monkeypatch):
    inputs = with_flow(clip, tmp_path / "a", StageCache(None))
    monkeypatch.setattr(stages, "enlargement", lambda *size: 1)
    for path in inputs.frames.source_paths:
        path.unlink()
    assert explain_flow(inputs).shape == (6, 12, 16)


def test_little_moves_in_a_clip_at_rest(tmp_path):
    at_rest = render_clip(5, 6, 96, 128, frozen=True)
    config = {"seed": 2**32 - REFERENCE_SEED}  # the clusterings of seed 0, for which the bound was set
    dynamic = both_passes(with_flow(at_rest, tmp_path / "a", StageCache(None), **config)).dynamic
    stretched = segment_dynamic(dynamic.score, np.arange(dynamic.score.size).reshape(1, *dynamic.score.shape), 8)
    assert dynamic.coverage.mean() < 0.01 < 0.04 < stretched.coverage.mean()
