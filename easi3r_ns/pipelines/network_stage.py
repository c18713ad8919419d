"""What needs the network: both passes of Easi3R (arXiv:2503.24391) over the pairs of a clip, stage by stage."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Protocol

import numpy as np
import torch

from .. import __version__
from ..align.long.loops import both_orders, describe_frames, loop_candidates
from ..align.long.windows import NO_LOOPS, Loops
from ..core.config import Easi3RConfig
from ..core.errors import OutputError
from ..core.runlog import RunLog
from ..core.score import FLOW_RESIDUAL
from ..core.types import DynamicMasks, Frames, PairGraph, PairPredictions
from ..core.windows import WindowPlan
from ..frames import enlarged, resize_and_crop
from ..frames.user_masks import load_user_masks
from ..motion.attention.masks import cluster_for, segment_dynamic, static_masks, token_masks
from ..motion.attention.statistics import SummaryAccumulator, score_of
from ..motion.flow.dis import DISFlow, FlowProvider
from ..motion.two_view import PAIRS, WORK_SIDE, enlargement, flow_residual
from ..network.compute import Compute
from ..network.inference import FEATURES, PairNetwork, encode_into, feature_shape, map_dtype, map_shapes
from ..network.model import DUSt3R
from ..network.weights import WeightsInfo
from ..storage.cache import StageCache, Tensors, digest
from ..storage.files import read_png
from ..storage.rows import MemoryRows, RowStore

FAR_IN_TIME = 0.2
"""Share of the clip that lies between two frames that may close a loop, at least."""
_MAP = "map_"
"""Begins the names of the maps of the score among a kept stage's tensors."""


class Backbone(Protocol):
    """A network whose halves are loaded when they are needed."""

    info: WeightsInfo

    def encoder(self) -> DUSt3R:
        """The network with its encoder loaded."""

    def decoder(self) -> DUSt3R:
        """The network with decoders and heads loaded (the encoder may be gone)."""

    def release(self) -> None:
        """Free the network's memory."""


class NetworkStage:
    """What needs the network; each finished stage is kept under a digest of all that decides it."""

    def __init__(
        self,
        frames: Frames,
        graph: PairGraph,
        backbone: Backbone,
        config: Easi3RConfig,
        compute: Compute,
        cache: StageCache,
        log: RunLog,
        *,
        num_eval: int = 0,
        mask_flow: FlowProvider | None = None,
        spill: bool = False,
    ) -> None:
        """
        Args:
            mask_flow: estimates flow where the score of the weights has it; default: OpenCV's DIS.
            num_eval: this many frames at the end are evaluation views, taken apart from the clip.
            spill: encoder features and pair predictions are written to files as they come, and mapped from there.
        """
        self.frames, self.graph, self.backbone, self.config = frames, graph, backbone, config
        self.compute, self.cache, self.log = compute, cache, log
        self.num_eval, self.spill = num_eval, spill
        self.mask_flow: FlowProvider = mask_flow or DISFlow()
        self.patch = backbone.info.config.patch_size
        height, width = frames.images.shape[1:3]
        self.grid = (height // self.patch, width // self.patch)
        self.formula = backbone.info.score
        network = (__version__, backbone.info.sha256, asdict(backbone.info.config), str(compute.dtype))
        self.features_key = digest(frames.images, network)
        self.key = digest(self.features_key, graph.edges, config.seed)
        self.decoded_key = ""
        """Of the last :meth:`decode`."""
        self.tokens: np.ndarray | None = None
        """(F, h, w) bool: what it silenced; None: nothing."""
        self._features: torch.Tensor | None = None
        self._labels: np.ndarray | None = None
        self._residual: np.ndarray | None = None

    def run(self) -> tuple[PairPredictions, DynamicMasks]:
        """Both passes."""
        return self.decode(self.masks_before_decoding())

    def masks_before_decoding(self) -> DynamicMasks | None:
        """Masks that silence tokens in the decoders: the user's, none, or those that pass 1 finds."""
        config, frames = self.config, self.frames
        if config.masks is not None:
            return load_user_masks(config.masks, frames, self.patch)
        if config.no_masks:
            return static_masks(len(frames), *frames.images.shape[1:3], self.patch)
        if config.no_adapt:
            return None

        def compute() -> Tensors:
            network, sink = self._network(), SummaryAccumulator(self.graph, self.formula)
            with self.log.stage("pass 1: attention", len(self.graph)) as advance:
                network.attend(self.graph.edges, sink, advance)
            return _pack(self._segment(sink, "pass 1: motion"))

        return _unpack(self.cache.stage("pass1", digest(self.key, self._score_key()), compute))

    def decode(self, before: DynamicMasks | None) -> tuple[PairPredictions, DynamicMasks]:
        """Pointmaps of all pairs, and the final masks (from this pass's attention where they come from attention)."""
        silenced = before is not None and before.source != "none" and not self.config.no_adapt
        tokens = token_masks(before.masks, self.patch) if before is not None and silenced else None
        final = before if before is not None and before.source != "attention" else None
        key = digest(self.key, tokens, self._score_key() if final is None else final.masks)
        self.decoded_key, self.tokens = key, tokens
        # The pointmaps come first: where the masks are there, so are they.
        kept: Tensors | None = {} if final else self.cache.get("pass2", key)
        maps = None if kept is None else self.cache.get("pointmaps", key)
        if kept is None or maps is None:
            maps, computed = self._decode_pairs(key, tokens, with_attention=final is None)
            kept = {} if computed is None else _pack(computed)
            if kept:
                self.cache.put("pass2", key, kept)
        return PairPredictions(self.graph, **maps), final or _unpack(kept)

    def _decode_pairs(
        self, key: str, tokens: np.ndarray | None, *, with_attention: bool
    ) -> tuple[Tensors, DynamicMasks | None]:
        """Pass 2: the pointmaps, and the masks that its attention gives."""
        network = self._network()
        sink = SummaryAccumulator(self.graph, self.formula) if with_attention else None
        size = (len(self.graph), *self.frames.images.shape[1:3])

        def work(store: RowStore) -> None:
            with self.log.stage("pass 2: pointmaps", len(self.graph)) as advance:
                network.decode(self.graph.edges, tokens, store, sink, advance)

        maps = self.cache.fill("pointmaps", key, map_shapes(*size), map_dtype(*size), work, spill=self.spill)
        return maps, None if sink is None else self._segment(sink, "pass 2: motion")

    def reopen(self) -> PairPredictions:
        """What :meth:`decode` gave, mapped anew from its file: no page is in memory yet.

        Raises:
            OutputError: the file is gone or damaged, or the cache has no folder.
        """
        maps = self.cache.get("pointmaps", self.decoded_key)
        if maps is None:
            raise OutputError(f"the pointmaps in {self.cache.folder} cannot be read again: check the disk")
        return PairPredictions(self.graph, **maps)

    def decode_more(self, graph: PairGraph, stage: str) -> PairPredictions:
        """Pointmaps of other pairs of the same frames, with the tokens silenced that :meth:`decode` silenced."""

        def compute() -> Tensors:
            network, size = self._network(), (len(graph), *self.frames.images.shape[1:3])
            store = MemoryRows(map_shapes(*size), map_dtype(*size))
            with self.log.stage(stage, len(graph)) as advance:
                network.decode(graph.edges, self.tokens, store, None, advance)
            return store.tensors

        return PairPredictions(graph, **self.cache.stage(stage, digest(self.decoded_key, graph.edges), compute))

    def release(self) -> None:
        """Free the features and the network's memory; what is still needed comes from the cache again."""
        self._features = self._labels = None
        self.backbone.release()

    def features(self) -> torch.Tensor:
        """(F, N, D) encoder features: every frame is encoded once, for both passes.

        In half precision where the decoders compute in it; on the device unless they are spilled.
        """
        if self._features is None:
            kept = self.cache.get("features", self.features_key) or self._encode()
            self._features = kept[FEATURES] if self.spill else kept[FEATURES].to(self.compute.device)
        return self._features

    def _encode(self) -> Tensors:
        model = self.backbone.encoder()
        dtype = torch.float32 if self.compute.dtype == torch.float32 else torch.float16
        shape = feature_shape(model, self.frames.images)

        def work(store: RowStore) -> None:
            with self.log.stage("encode frames", len(self.frames)) as advance:
                encode_into(model, self.frames.images, self.compute, store, advance)

        return self.cache.fill("features", self.features_key, shape, dtype, work, spill=self.spill)

    def _network(self) -> PairNetwork:
        features = self.features()  # before the decoders are loaded: it may need the encoder
        return PairNetwork(self.backbone.decoder(), features, self.grid, self.compute)

    def _segment(self, sink: SummaryAccumulator, name: str) -> DynamicMasks:
        extra_maps = {FLOW_RESIDUAL: self._flow_residual()} if self.formula.flow_residual else {}
        with self.log.stage(name):
            if self._labels is None:
                features = self.features().unflatten(1, self.grid)
                self._labels = cluster_for(self.formula, features, self.config.seed, self.compute.device)
            fused = {name: summary.fused() for name, summary in sink.finish().items()} | extra_maps
            score = score_of(fused, self.formula)
            dynamic = segment_dynamic(score, self._labels, self.patch, extra_maps.get(FLOW_RESIDUAL))
            return replace(dynamic, maps=fused)

    def _score_key(self) -> tuple:
        """What decides the score, beside the network and its pairs."""
        return asdict(self.formula), self._residual_key() if self.formula.flow_residual else None

    def _residual_key(self) -> str:
        frames = self.frames
        return digest(
            *(frames.images, frames.pixel_map, self.num_eval, self.mask_flow.name, PAIRS, WORK_SIDE, __version__)
        )

    def _flow_residual(self) -> np.ndarray:
        """(F, h, w): the same in both passes."""
        if self._residual is None:
            kept = self.cache.stage(FLOW_RESIDUAL, self._residual_key(), self._compute_flow_residual)
            self._residual = kept[FLOW_RESIDUAL].numpy()
        return self._residual

    def _compute_flow_residual(self) -> Tensors:
        frames, times = self.frames, enlargement(*self.frames.images.shape[1:3])
        larger = enlarged(frames.pixel_map, times)

        def image(frame: int) -> np.ndarray:
            return frames.images[frame] if times == 1 else resize_and_crop(read_png(frames.source_paths[frame]), larger)

        def of(clip: range) -> np.ndarray:
            return flow_residual(lambda k: image(clip[k]), len(clip), times * self.patch, self.mask_flow, self.log)

        cut = len(frames) - self.num_eval
        clips = [clip for clip in (range(cut), range(cut, len(frames))) if clip]
        return {FLOW_RESIDUAL: torch.from_numpy(np.concatenate([of(clip) for clip in clips]))}


def _pack(dynamic: DynamicMasks) -> Tensors:
    return {
        "masks": torch.from_numpy(dynamic.masks),
        "score": torch.from_numpy(dynamic.score),
        "threshold": torch.tensor(dynamic.threshold, dtype=torch.float64),
        **{_MAP + name: torch.from_numpy(values) for name, values in (dynamic.maps or {}).items()},
    }


def _unpack(tensors: Tensors) -> DynamicMasks:
    maps = {name[len(_MAP) :]: values.numpy() for name, values in tensors.items() if name.startswith(_MAP)}
    return DynamicMasks(
        tensors["masks"].numpy(), tensors["score"].numpy(), float(tensors["threshold"]), maps=maps or None
    )


def find_loops(stage: NetworkStage, plan: WindowPlan, log: RunLog) -> Loops:
    """Candidates for loops, decoded, while the network is still there and after it has decoded the clip."""
    count, features = len(plan.clip_frames), stage.features()
    with log.stage("find loops"):
        moving = None if stage.tokens is None else stage.tokens[:count].reshape(count, -1)
        gap = max(plan.size, int(FAR_IN_TIME * count))
        candidates = loop_candidates(describe_frames(features[:count], moving), stage.graph, gap)
    if len(candidates) == 0:
        return NO_LOOPS
    graph = both_orders(candidates, stage.graph.num_frames)
    return Loops(candidates, stage.decode_more(graph, "decode loops"))
