"""Frames -> Scene: the two-pass story of Easi3R (arXiv:2503.24391).

Encode every frame once; pass 1 decodes pairs only for their attention, which shows what moves; pass 2 decodes them with
the moving tokens silenced; global alignment makes one scene of the pairs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import Protocol

import numpy as np
import torch

from . import __version__
from .align import AlignDiagnostics, AlignResult, align
from .align.init import FOCAL_RANGE
from .attention import ScoreFormula, dynamic_score, fused_maps
from .backbone.model import DUSt3R
from .backbone.weights import WeightsInfo
from .budget import UNBOUNDED, Budget
from .cache import StageCache, Tensors, digest
from .config import AlignConfig, Easi3RConfig
from .dynamic import cluster_tokens, segment_dynamic, static_masks, token_masks
from .errors import InputError
from .flow import DISFlow, pair_flow
from .geometry import choose_scale, focal_from_source, image_centre_in_network, rescale_scene
from .inference import Compute, choose_compute, collect_attention, decode_pairs, encode_frames
from .pairs import attach_frames, make_pairs
from .runlog import RunLog
from .types import AttentionStats, DynamicMasks, Frames, PairGraph, PairPredictions, Scene
from .user_masks import load_user_masks

DEFAULT_GRAPH = "swinstride-5-noncyclic"
MUCH_MOTION = 0.5
"""Share of moving pixels above which the user is warned."""
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


def reconstruct(
    frames: Frames,
    backbone: Backbone,
    config: Easi3RConfig,
    align_config: AlignConfig,
    cache: StageCache,
    log: RunLog,
    *,
    num_eval: int = 0,
    budget: Budget = UNBOUNDED,
) -> Scene:
    """Cameras, depth and motion masks of a clip.

    Args:
        frames: at network size for ``backbone``.
        num_eval: this many frames at the end are evaluation views, taken apart from the clip.
        cache: where finished stages are kept and found.
        budget: how much of the work is in memory at once; does not change the result beyond rounding, except by its
            window.

    Returns:
        The scene in the frame of the first camera, in units that suit 16-bit depth maps.

    Raises:
        InputError, CheckpointError, AlignmentError: with the remedy in the message.
    """
    info = backbone.info
    compute = choose_compute(config.device, config.dtype, budget.batch_size or config.batch_size)
    strategy = (info.graph or DEFAULT_GRAPH) if config.graph == "auto" else config.graph
    graph = make_pairs(strategy, len(frames) - num_eval)
    if num_eval:
        graph = attach_frames(graph, num_eval)
    if align_config.flow_weight is None and info.flow_weight is not None:
        align_config = replace(align_config, flow_weight=info.flow_weight)
    check_focal(config, frames)
    predictions, dynamic = _NetworkStage(frames, graph, backbone, config, compute, cache, log).run()
    backbone.release()
    _warn_about_motion(dynamic, len(frames), log)
    aligned = _align(frames, predictions, dynamic, config, align_config, compute, log)
    return _scene(frames, aligned, dynamic, config, _provenance(info, graph, config, align_config))


class _NetworkStage:
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


def _align(
    frames: Frames,
    predictions: PairPredictions,
    dynamic: DynamicMasks,
    config: Easi3RConfig,
    align_config: AlignConfig,
    compute: Compute,
    log: RunLog,
) -> AlignResult:
    flow = None
    if align_config.flow_strength > 0:
        flow = pair_flow(frames.images, predictions.graph, DISFlow(), log)
    focal = None if config.focal_length is None else focal_from_source(config.focal_length, frames.pixel_map)
    return align(
        predictions,
        principal_point=image_centre_in_network(frames.pixel_map),
        config=align_config,
        focal=focal,
        pixel_aspect=frames.pixel_map.pixel_aspect,
        dynamic_masks=dynamic.masks,
        flow=flow,
        device=compute.device,
        seed=config.seed,
        log=log,
    )


def check_focal(config: Easi3RConfig, frames: Frames) -> None:
    """Raises InputError for a ``--focal-length`` that no lens has at the size of the source."""
    longer = max(frames.pixel_map.source_wh)
    low, high = (share * longer for share in FOCAL_RANGE)
    if config.focal_length is not None and not low <= config.focal_length <= high:
        raise InputError(
            f"--focal-length {config.focal_length:g}: no lens has it at {longer} pixels a side; give a number between "
            f"{low:.0f} and {high:.0f} pixels of the source image"
        )


def _warn_about_motion(dynamic: DynamicMasks, num_frames: int, log: RunLog) -> None:
    share = float(dynamic.coverage.mean())
    if share > MUCH_MOTION:
        log.warn(f"{100 * share:.0f} % of the frame is dynamic: cameras rest on the little that is static")
    if dynamic.source == "attention" and num_frames == 2:
        log.warn("two frames: motion shows as a deviation over several pairs, so nothing is marked as moving")


def _provenance(info: WeightsInfo, graph: PairGraph, config: Easi3RConfig, align_config: AlignConfig) -> dict:
    return {
        "version": __version__,
        "weights": info.provenance(),
        "graph": graph.strategy,
        "num_pairs": len(graph),
        "seed": config.seed,
        "config": {"easi3r": asdict(config), "align": asdict(align_config)},
    }


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


def _alignment_facts(diagnostics: AlignDiagnostics) -> dict:
    facts = asdict(diagnostics)
    counts = Counter(facts.pop("registered_by"))
    return facts | {"dropped_pairs": len(facts["dropped_pairs"]), "registered_by": dict(sorted(counts.items()))}


def _scene(
    frames: Frames, aligned: AlignResult, dynamic: DynamicMasks, config: Easi3RConfig, provenance: dict
) -> Scene:
    scene = Scene(
        images=frames.images,
        T_world_cam=aligned.T_world_cam,
        focals=aligned.focals,
        principal_point=image_centre_in_network(frames.pixel_map),
        depth=aligned.depth,
        confidence=aligned.confidence,
        contradicted=aligned.contradicted,
        dynamic=dynamic,
        pixel_map=frames.pixel_map,
        times=frames.times,
        indices=frames.indices,
        names=frames.names,
        source_paths=frames.source_paths,
        min_confidence=config.min_confidence,
        provenance=provenance | {"alignment": _alignment_facts(aligned.diagnostics)},
    )
    return rescale_scene(scene, choose_scale(scene))
