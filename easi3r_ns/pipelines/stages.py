"""The stages that need a network: both passes of Easi3R (arXiv:2503.24391) over the pairs of a clip.

The stages are the functions encode -> attend -> segment -> decode -> segment. Their results are cached under a digest
of all inputs that influence them, so that a finished stage is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from .. import __version__
from ..align.long.loops import both_orders, describe_frames, loop_candidates
from ..align.long.windows import NO_LOOPS, Loops
from ..core.config import Easi3RConfig
from ..core.errors import OutputError
from ..core.runlog import RunLog
from ..core.score import FLOW_RESIDUAL, ScoreFormula
from ..core.types import DynamicMasks, Frames, PairGraph, PairPredictions
from ..core.windows import WindowPlan
from ..frames import enlarged, enlargement, resize_and_crop
from ..frames.near import near_places, shot
from ..motion.attention.masks import REFERENCE_SEED, cluster_for, segment_dynamic, token_masks
from ..motion.attention.statistics import SummaryAccumulator, score_of
from ..motion.corrections import corrected
from ..motion.cut import KEPT, cut_at
from ..motion.flow.dis import DISFlow
from ..motion.flow.provider import FlowProvider
from ..motion.given import FirstLook, given_masks
from ..motion.packing import pack_masks, unpack_masks
from ..motion.two_view import flow_residual
from ..motion.two_view.tokens import METHOD
from ..network.backbone import Backbone, PairDecoder
from ..network.compute import Compute
from ..network.inference import FEATURES, map_dtype, map_shapes
from ..storage.cache import StageCache, Tensors, digest
from ..storage.files import read_png
from ..storage.rows import MemoryRows, RowStore
from .refined import refined_masks

FAR_IN_TIME = 0.2
"""Least distance in time of two frames that may close a loop, as a share of the clip."""
T = TypeVar("T")


@dataclass(frozen=True)
class StageInputs:
    """Inputs that all stages share."""

    frames: Frames
    graph: PairGraph
    backbone: Backbone
    config: Easi3RConfig
    compute: Compute
    cache: StageCache
    log: RunLog
    num_eval: int = 0
    """Number of frames at the end that are evaluation views, which were recorded separately from the clip."""
    mask_flow: FlowProvider = field(default_factory=DISFlow)
    """Optical flow estimator for score formulas with a flow residual."""
    spill: bool = False
    """Write encoder features and pair predictions to memory-mapped files instead of keeping them in memory."""

    @property
    def formula(self) -> ScoreFormula:
        """Formula of the dynamic score."""
        return self.backbone.info.score

    @property
    def patch(self) -> int:
        """Side of a token's patch in pixels."""
        return self.backbone.info.config.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """Token grid (h, w) of a frame."""
        height, width = self.frames.images.shape[1:3]
        return height // self.patch, width // self.patch

    @cached_property
    def features_key(self) -> str:
        """Digest of the inputs that determine the encoder features."""
        info = self.backbone.info
        return digest(
            self.frames.images,
            (__version__, info.sha256, asdict(info.config), str(self.compute.dtype), self.compute.tf32),
        )

    @cached_property
    def key(self) -> str:
        """Digest of the inputs that determine the attention of pass 1."""
        return digest(self.features_key, self.graph.edges, self.config.seed)

    @cached_property
    def flow_key(self) -> str:
        """Digest of the inputs that determine the residual of optical flow."""
        frames, flow = self.frames, self.mask_flow.name
        size = enlargement(*frames.images.shape[1:3])
        return digest(
            frames.images, frames.pixel_map, near_places(frames), size, self.num_eval, flow, METHOD, __version__
        )

    def score_key(self) -> tuple:
        """The inputs that determine the score, beside the network and its pairs."""
        return asdict(self.formula), self.flow_key if self.formula.flow_residual else None, KEPT

    def cut(self, found: DynamicMasks) -> DynamicMasks:
        """Masks that were found, cut where ``--mask-threshold`` wants it."""
        return cut_at(found, self.frames.images, self.config.mask_threshold)


class Once(Generic[T]):
    """A value that is computed on the first call, and kept until it is released."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._held: list[T] = []

    def __call__(self) -> T:
        """The value, computed if it is not kept."""
        if not self._held:
            self._held.append(self._compute())
        return self._held[0]

    def release(self) -> None:
        """Drop the value; the next call computes it again."""
        self._held.clear()


@dataclass(frozen=True)
class Shared:
    """Intermediate results that both passes use, each computed once."""

    features: Once[torch.Tensor]
    """Encoder features, the result of :func:`encode`."""
    labels: Once[np.ndarray]
    """Clusters of the tokens, the result of :func:`cluster`."""
    flow_residual: Once[np.ndarray]
    """Residual of optical flow, the result of :func:`explain_flow`."""

    @classmethod
    def of(cls, inputs: StageInputs) -> Shared:
        """The results for ``inputs``; each is computed when it is first needed."""
        features = Once(partial(encode, inputs))
        return cls(features, Once(lambda: cluster(inputs, features())), Once(partial(explain_flow, inputs)))

    def release(self) -> None:
        """Drop all results to free their memory."""
        for value in (self.features, self.labels, self.flow_residual):
            value.release()


@dataclass(frozen=True)
class DecodedPairs:
    """The result of both passes."""

    predictions: PairPredictions
    dynamic: DynamicMasks
    silenced: np.ndarray | None
    """(F, h, w) bool, tokens to which the attention was masked in pass 2; None: no attention was masked."""
    key: str
    """Digest of the inputs that determine the pointmaps."""


def run_passes(inputs: StageInputs, shared: Shared) -> DecodedPairs:
    """Both passes: masks from pass 1 or from the user, then pointmaps and final masks from pass 2."""
    return decode(inputs, shared, find_masks(inputs, shared))


def find_masks(inputs: StageInputs, shared: Shared) -> DynamicMasks | None:
    """Motion masks for the attention masking of pass 2: those of the user, else those of pass 1, with corrections.

    None with --no-adapt, if the user gives no masks.
    """

    def compute() -> Tensors:
        return pack_masks(segment(inputs, shared, attend(inputs, shared), "pass 1: motion"))

    def own() -> DynamicMasks:
        key = digest(inputs.key, inputs.score_key())
        return inputs.cut(unpack_masks(inputs.cache.stage("pass1", key, compute, inputs.log)))

    given = given_masks(inputs.config, inputs.frames, inputs.patch, FirstLook(inputs.log, own))
    found = given if given is not None or inputs.config.no_adapt else own()
    return found and _complete(inputs, found, "refined-pass1")


def encode(inputs: StageInputs) -> torch.Tensor:
    """(F, N, D) encoder features; every frame is encoded once for both passes.

    They are in half precision if the decoders compute in it, and on the device unless they are spilled to a file.
    """
    kept = inputs.cache.get("features", inputs.features_key)
    if kept is None:
        shape = inputs.backbone.feature_shape(inputs.frames.images)
        dtype = torch.float32 if inputs.compute.dtype == torch.float32 else torch.float16

        def work(store: RowStore) -> None:
            with inputs.log.stage("encode frames", len(inputs.frames)) as advance:
                inputs.backbone.encode_frames(inputs.frames.images, inputs.compute, store, advance)

        kept = inputs.cache.fill("features", inputs.features_key, shape, dtype, work, spill=inputs.spill)
    return kept[FEATURES] if inputs.spill else kept[FEATURES].to(inputs.compute.device)


def attend(inputs: StageInputs, shared: Shared) -> Mapping[str, np.ndarray]:
    """Pass 1: statistics over all pairs as maps (F, h, w), named as in :data:`~easi3r_ns.core.score.MAPS`."""
    decoder, sink = _decoder(inputs, shared), SummaryAccumulator(inputs.graph, inputs.formula)
    with inputs.log.stage("pass 1: attention", len(inputs.graph)) as advance:
        decoder.attend(inputs.graph.edges, sink, advance)
    return _fused(sink)


def segment(inputs: StageInputs, shared: Shared, fused: Mapping[str, np.ndarray], stage: str) -> DynamicMasks:
    """Motion masks from attention maps (F, h, w), and from optical flow if the score formula uses it.

    Args:
        stage: name of the stage in the log.
    """
    residual = shared.flow_residual() if inputs.formula.flow_residual else None
    with inputs.log.stage(stage):
        maps = dict(fused) if residual is None else {**fused, FLOW_RESIDUAL: residual}
        dynamic = segment_dynamic(score_of(maps, inputs.formula), shared.labels(), inputs.patch, residual)
        return replace(dynamic, maps=maps)


def cluster(inputs: StageInputs, features: torch.Tensor) -> np.ndarray:
    """(N, F, h, w) cluster labels of the tokens for the N clusterings that the score formula asks for."""
    return cluster_for(inputs.formula, features.unflatten(1, inputs.grid), REFERENCE_SEED + inputs.config.seed)


def explain_flow(inputs: StageInputs) -> np.ndarray:
    """(F, h, w) residual of optical flow per token; evaluation views are treated as a clip of their own."""
    frames, times = inputs.frames, enlargement(*inputs.frames.images.shape[1:3])
    larger = enlarged(frames.pixel_map, times)

    def image(frame: int) -> np.ndarray:
        return frames.images[frame] if times == 1 else resize_and_crop(read_png(frames.source_paths[frame]), larger)

    def of(clip: range) -> np.ndarray:
        return flow_residual(shot(frames, clip, image, larger), times * inputs.patch, inputs.mask_flow, inputs.log)

    def compute() -> Tensors:
        cut = len(frames) - inputs.num_eval
        clips = [clip for clip in (range(cut), range(cut, len(frames))) if clip]
        return {FLOW_RESIDUAL: torch.from_numpy(np.concatenate([of(clip) for clip in clips]))}

    return inputs.cache.stage(FLOW_RESIDUAL, inputs.flow_key, compute, inputs.log)[FLOW_RESIDUAL].numpy()


def decode(inputs: StageInputs, shared: Shared, before: DynamicMasks | None) -> DecodedPairs:
    """Pass 2: pointmaps of all pairs, and the final masks.

    Args:
        before: masks of :func:`find_masks`. Masks from attention are replaced by those from the attention of this pass;
            masks from the user are final.
    """
    silences = before is not None and before.source != "none" and not inputs.config.no_adapt
    tokens = token_masks(before.masks, inputs.patch) if before is not None and silences else None
    final = before if before is not None and before.source != "attention" else None
    key = digest(inputs.key, tokens, inputs.score_key() if final is None else final.masks)
    # The pointmaps are written to the cache before the masks: cached masks imply cached pointmaps.
    kept: Tensors | None = {} if final else inputs.cache.get("pass2", key)
    maps = None if kept is None else inputs.cache.get("pointmaps", key)
    if kept is None or maps is None:
        sink = None if final else SummaryAccumulator(inputs.graph, inputs.formula)
        maps = _decode_pairs(inputs, _decoder(inputs, shared), tokens, sink, key)
        kept = {} if sink is None else pack_masks(segment(inputs, shared, _fused(sink), "pass 2: motion"))
        if kept:
            inputs.cache.put("pass2", key, kept)
    final = final or _complete(inputs, inputs.cut(unpack_masks(kept)), "refined-pass2")
    return DecodedPairs(PairPredictions(inputs.graph, **maps), final, tokens, key)


def _complete(inputs: StageInputs, found: DynamicMasks, stage: str) -> DynamicMasks:
    """Masks that were found with what a person says of them, and refined."""
    masks = corrected(found, inputs.frames.by_hand)
    return refined_masks(masks, inputs.frames, inputs.config, inputs.cache, inputs.log, stage=stage)


def _decode_pairs(
    inputs: StageInputs, decoder: PairDecoder, tokens: np.ndarray | None, sink: SummaryAccumulator | None, key: str
) -> Tensors:
    size = (len(inputs.graph), *inputs.frames.images.shape[1:3])

    def work(store: RowStore) -> None:
        with inputs.log.stage("pass 2: pointmaps", len(inputs.graph)) as advance:
            decoder.decode(inputs.graph.edges, tokens, store, sink, advance)

    return inputs.cache.fill("pointmaps", key, map_shapes(*size), map_dtype(*size), work, spill=inputs.spill)


def reopen(folder: Path, key: str, graph: PairGraph) -> PairPredictions:
    """The pointmaps of a :class:`DecodedPairs` with this key, memory-mapped again from the cache in ``folder``.

    The new mapping occupies no memory until its pages are read.

    Raises:
        OutputError: the file is missing or damaged.
    """
    maps = StageCache(folder).get("pointmaps", key)
    if maps is None:
        raise OutputError(f"the pointmaps in {folder} cannot be read again: check the disk and run again")
    return PairPredictions(graph, **maps)


def find_loops(inputs: StageInputs, shared: Shared, decoded: DecodedPairs, plan: WindowPlan) -> Loops:
    """Decoded pairs of frames that are far apart in time and may show the same place (candidates for loop closure)."""
    count, features = len(plan.clip_frames), shared.features()
    with inputs.log.stage("find loops"):
        moving = None if decoded.silenced is None else decoded.silenced[:count].reshape(count, -1)
        gap = max(plan.size, int(FAR_IN_TIME * count))
        candidates = loop_candidates(describe_frames(features[:count], moving), inputs.graph, gap)
    if len(candidates) == 0:
        return NO_LOOPS
    graph, stage = both_orders(candidates, inputs.graph.num_frames), "decode loops"

    def compute() -> Tensors:
        decoder, size = _decoder(inputs, shared), (len(graph), *inputs.frames.images.shape[1:3])
        store = MemoryRows(map_shapes(*size), map_dtype(*size))
        with inputs.log.stage(stage, len(graph)) as advance:
            decoder.decode(graph.edges, decoded.silenced, store, None, advance)
        return store.tensors

    maps = inputs.cache.stage(stage, digest(decoded.key, graph.edges), compute)
    return Loops(candidates, PairPredictions(graph, **maps))


def _decoder(inputs: StageInputs, shared: Shared) -> PairDecoder:
    features = shared.features()  # first: it may load the encoder, which would free the decoders
    return inputs.backbone.pair_decoder(features, inputs.grid, inputs.compute)


def _fused(sink: SummaryAccumulator) -> dict[str, np.ndarray]:
    return {name: summary.fused() for name, summary in sink.finish().items()}
