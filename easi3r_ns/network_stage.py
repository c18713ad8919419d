"""What needs the network: both passes of Easi3R (arXiv:2503.24391) over the pairs of a clip, stage by stage."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Protocol

import numpy as np
import torch

from . import __version__
from .attention import ScoreFormula, dynamic_score, fused_maps
from .backbone.model import DUSt3R
from .backbone.weights import WeightsInfo
from .cache import StageCache, Tensors, digest
from .config import Easi3RConfig
from .dynamic import cluster_tokens, segment_dynamic, static_masks, token_masks
from .inference import Compute, collect_attention, decode_pairs, encode_frames
from .runlog import RunLog
from .types import AttentionStats, DynamicMasks, Frames, PairGraph, PairPredictions
from .user_masks import load_user_masks

_MAP = "map_"
"""Begins the names of the attention maps among a kept stage's tensors."""


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
    ) -> None:
        self.frames, self.graph, self.backbone, self.config = frames, graph, backbone, config
        self.compute, self.cache, self.log = compute, cache, log
        self.patch = backbone.info.config.patch_size
        height, width = frames.images.shape[1:3]
        self.grid = (height // self.patch, width // self.patch)
        self.formula = ScoreFormula(**backbone.info.dynamic_score)
        network = (__version__, backbone.info.sha256, asdict(backbone.info.config), str(compute.dtype))
        self.features_key = digest(frames.images, network)
        self.key = digest(self.features_key, graph.edges, config.seed)
        self._features: torch.Tensor | None = None
        self._labels: np.ndarray | None = None

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
            features, model = self.features(), self.backbone.decoder()
            with self.log.stage("pass 1: attention", len(self.graph)) as advance:
                stats = collect_attention(
                    model, features, self.graph, self.grid, self.compute, advance, centred=self.formula.centred
                )
            return _pack(self._segment(stats, "pass 1: motion"))

        return _unpack(self.cache.stage("pass1", digest(self.key, asdict(self.formula)), compute))

    def decode(self, before: DynamicMasks | None) -> tuple[PairPredictions, DynamicMasks]:
        """Pointmaps of all pairs, and the final masks (from this pass's attention where they come from attention)."""
        silenced = before is not None and before.source != "none" and not self.config.no_adapt
        tokens = token_masks(before.masks, self.patch) if before is not None and silenced else None
        final = before if before is not None and before.source != "attention" else None

        def compute() -> Tensors:
            features, model = self.features(), self.backbone.decoder()
            with self.log.stage("pass 2: pointmaps", len(self.graph)) as advance:
                predictions, stats = decode_pairs(
                    model,
                    features,
                    self.graph,
                    self.grid,
                    tokens,
                    self.compute,
                    advance,
                    centred=self.formula.centred,
                )
            dynamic = final or self._segment(stats, "pass 2: motion")
            maps = {name: getattr(predictions, name) for name in ("points_i", "conf_i", "points_j", "conf_j")}
            return maps | _pack(dynamic)

        parts = (self.key, asdict(self.formula), tokens, None if final is None else final.masks)
        tensors = self.cache.stage("pass2", digest(*parts), compute)
        maps = {name: tensors[name] for name in ("points_i", "conf_i", "points_j", "conf_j")}
        return PairPredictions(self.graph, **maps), final or _unpack(tensors)

    def features(self) -> torch.Tensor:
        """(F, N, D) encoder features: every frame is encoded once, for both passes."""
        if self._features is None:
            tensors = self.cache.stage("features", self.features_key, self._encode)
            self._features = tensors["features"].to(self.compute.device)
        return self._features

    def _encode(self) -> Tensors:
        model = self.backbone.encoder()
        with self.log.stage("encode frames", len(self.frames)) as advance:
            return {"features": encode_frames(model, self.frames.images, self.compute, advance)}

    def _segment(self, stats: AttentionStats, name: str) -> DynamicMasks:
        with self.log.stage(name):
            if self._labels is None:
                features = self.features().unflatten(1, self.grid).cpu().numpy()
                self._labels = cluster_tokens(features, self.config.seed)
            dynamic = segment_dynamic(dynamic_score(stats, self.formula), self._labels, self.patch)
            return replace(dynamic, maps=fused_maps(stats, self.formula.first_channel))


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
