"""How well the dynamic score tells what moves: per token, per mask, and beside the frozen twin of every clip.

A map that scores as high on the twin, where the same objects are at rest, shows objects, not motion.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ...align.init import register
from ...core.pairs import make_pairs
from ...core.runlog import RunLog
from ...core.score import FLOW_RESIDUAL, MAPS, ScoreFormula
from ...core.types import DynamicMasks, PixelMap
from ...evaluate.masks import jaccard, pooled
from ...frames import enlarged, enlargement, resize_and_crop
from ...frames.near import Shot
from ...motion.attention.masks import REFERENCE_SEED, cluster_for, cluster_means, segment_dynamic
from ...motion.attention.statistics import AttentionAccumulator, fused_maps, min_max_per_frame
from ...motion.flow.dis import DISFlow
from ...motion.two_view import flow_residual
from ...network.compute import Compute
from ...network.inference import encode_frames
from ...network.model import DUSt3R
from ..scenes import Clip, ClipOptions, render_clip, showing_seeds
from .numbers import area_under_curve, average_precision, estimate, mean_over_clips
from .pairs import SHAPE

PAPER = ScoreFormula()
FLOW_ROW, CARD_ROW = "optical flow that no motion of the camera explains", "this card"
"""Title of one row of the table of scores, and the beginning of that of another."""
FIRST_CLIP = {"selection": 10_000, "held_out": 20_000}
"""First seed of the clips of each family: what is chosen on one is measured on the other."""
CLIP_SECONDS = 2.0
BATCH = 5


def num_movers(seed: int) -> int:
    """1 to 3 movers in turn."""
    return 1 + seed % 3


@functools.lru_cache(maxsize=8)
def clip_seeds(family: str, count: int, frames: int) -> list[int]:
    """The first seeds of a family whose clips show what moves."""
    return showing_seeds(count, frames, num_movers, FIRST_CLIP[family], clip_options(family, frames))


def clip_options(family: str, frames: int) -> ClipOptions:
    """A clip lasts two seconds, however many frames are taken."""
    return ClipOptions(family=family, fps=frames / CLIP_SECONDS)


def make_clip(seed: int, family: str, frames: int, frozen: bool = False) -> Clip:
    """A clip to choose or to measure on, 128 x 96 pixels."""
    return render_clip(seed, frames, *SHAPE, num_movers(seed), frozen, options=clip_options(family, frames))


@dataclass(frozen=True)
class PairMaps:
    """Attention (and pointmap residuals) of all pairs of a clip, from which any formula on any sub-graph follows."""

    edges: np.ndarray
    """(E, 2)."""
    on_j: np.ndarray
    """(E, h, w, C) query-averaged logits of decoder 1."""
    on_i: np.ndarray
    """(E, h, w, C) the same of decoder 2."""
    residual: np.ndarray | None
    """(E, h, w) how far view j's points are from their place after rigid alignment, relative; None: not asked for."""


Variant = tuple[bool, int, bool]
"""``centred``, ``first_channel`` and ``log_std`` of a formula."""


def variant_of(formula: ScoreFormula) -> Variant:
    """The part of a formula that decides how its maps are made; the rest chooses among them and the clusters."""
    return formula.centred, formula.first_channel, formula.log_std


@dataclass(frozen=True)
class Tokens:
    """What is known of a clip's tokens independently of the pairs; clusterings are computed once."""

    features: np.ndarray
    """(F, h, w, D) of the encoder."""
    flow_residual: np.ndarray
    """(F, h, w) in [0, 1]: optical flow that no motion of the camera explains."""
    _known: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def labels(self, formula: ScoreFormula) -> np.ndarray:
        """(N, F, h, w): what :func:`~easi3r_ns.motion.attention.masks.cluster_for` gives."""
        key = formula.num_clusters, formula.clusterings
        if key not in self._known:
            self._known[key] = cluster_for(formula, self.features, REFERENCE_SEED)
        return self._known[key]


@dataclass(frozen=True)
class Observation:
    """Everything about one clip that a score needs."""

    fused: dict[Variant, dict[str, np.ndarray]]
    """The four maps, (F, h, w) in [0, 1]."""
    residual: np.ndarray
    """(F, h, w) pointmap residual, mean over the pairs; zeros where it was not asked for."""
    tokens: Tokens
    truth: np.ndarray
    """(F, h, w) bool: most of the token is on an object that moves (or would move)."""
    pixels: np.ndarray
    """(F, H, W) bool: the same per pixel."""

    def score(self, formula: ScoreFormula) -> np.ndarray:
        """(F, h, w) product of the maps, before clustering."""
        return formula.combine(self.fused[variant_of(formula)] | {FLOW_RESIDUAL: self.tokens.flow_residual})

    def clustered(self, formula: ScoreFormula) -> np.ndarray:
        """(F, h, w) score as masks are cut from it."""
        return ScoreCandidate.of(formula).clustered(self)


@torch.inference_mode()
def watch(
    model: DUSt3R, clip: Clip, graphs: Sequence[str], device: str = "cpu", residual: bool = False
) -> tuple[PairMaps, Tokens]:
    """Run the network on the pairs of all ``graphs``: maps per pair, and what is known of the tokens."""
    grid = model.token_grid(*clip.images.shape[1:3])
    features = encode_frames(model, clip.images, Compute(torch.device(device)), lambda n: None)
    pairs = {(i, j) for graph in graphs for i, j in make_pairs(graph, len(clip)).edges.tolist() if i < j}
    # Both orders of a pair next to each other: the residual needs both.
    edges = np.array([edge for i, j in sorted(pairs) for edge in ((i, j), (j, i))])
    on_j, on_i, residuals = [], [], []
    for start in range(0, len(edges), 2 * BATCH):
        i, j = torch.as_tensor(edges[start : start + 2 * BATCH]).T
        if residual:
            out = model.decode(features[i], features[j], grid)
            residuals.append(_residual(out, model.config.patch_size))
            attention = out.attention
        else:
            attention = model.attention(features[i], features[j], grid)
        on_j.append(attention.on_j.cpu().numpy())
        on_i.append(attention.on_i.cpu().numpy())
    joined = [np.concatenate(maps) if maps else None for maps in (on_j, on_i, residuals)]
    tokens = Tokens(features.cpu().numpy().reshape(len(clip), *grid, -1), _flow(clip, model.config.patch_size))
    return PairMaps(edges, *joined), tokens


def _flow(clip: Clip, patch: int) -> np.ndarray:
    """(F, h, w): the map that a run on the clip's own images would compute (``pipelines.stages``)."""
    height, width = clip.images.shape[1:3]
    times = enlargement(height, width)
    larger = enlarged(PixelMap((width, height), (width, height), (0, 0, width, height)), times)

    images = np.stack([resize_and_crop(image, larger) for image in clip.images])
    return flow_residual(Shot.of(images), times * patch, DISFlow(), RunLog())


def _residual(out: Any, patch: int) -> np.ndarray:
    """(B, h, w): rows (i, j) and (j, i) alternate, so that view j's own pointmap is the neighbour's first."""
    partner = torch.arange(len(out.points_i)) ^ 1
    own, moved = out.points_i[partner], out.points_j
    flat = [x.flatten(1, 2).transpose(1, 2).float() for x in (own, moved)]
    s, R, t = register(*flat, out.conf_i[partner].flatten(1).float())
    aligned = s[:, None, None] * R @ flat[0] + t[:, :, None]
    distance = (aligned - flat[1]).norm(dim=1) / flat[1].norm(dim=1).clamp_min(1e-6)
    per_pixel = distance.unflatten(1, own.shape[1:3])[:, None]
    return torch.nn.functional.avg_pool2d(per_pixel, patch)[:, 0].cpu().numpy()


def observe(maps: PairMaps, tokens: Tokens, clip: Clip, graph: str) -> Observation:
    """Statistics of the pairs of ``graph``, which must be among those of ``maps``."""
    wanted = {tuple(edge) for edge in make_pairs(graph, len(clip)).edges.tolist()}
    rows = [k for k, edge in enumerate(maps.edges.tolist()) if tuple(edge) in wanted]
    edges = maps.edges[rows]

    fused = {}
    variants = variants_for(maps.on_j.shape[-1])
    for centred in (False, True):
        accumulator = AttentionAccumulator(len(clip), centred)
        for edge, row in zip(edges.tolist(), rows, strict=True):
            accumulator.add(tuple(edge), torch.from_numpy(maps.on_j[row]), torch.from_numpy(maps.on_i[row]))
        stats = accumulator.finish()
        formulas = (ScoreFormula(*PAPER.signs.values(), *variant) for variant in variants if variant[0] == centred)
        fused |= {variant_of(formula): fused_maps(stats, formula) for formula in formulas}
    grid = tokens.features.shape[1:3]
    residual = np.zeros((len(clip), *grid), dtype=np.float32)
    if maps.residual is not None:
        residual = np.stack([maps.residual[rows][edges[:, 1] == f].mean(0) for f in range(len(clip))])
    patch = clip.images.shape[1] // grid[0]
    share = clip.would_move.reshape(len(clip), grid[0], patch, grid[1], patch).mean(axis=(2, 4))
    return Observation(fused, residual, tokens, share > 0.5, clip.would_move)


def variants_for(channels: int) -> list[Variant]:
    """Of formulas of a network with so many channels: all layers, or the later half of them."""
    return list(itertools.product((False, True), (0, channels // 2), (False, True)))


@dataclass(frozen=True)
class ScoreCandidate:
    """A score, and the formula whose clusters it is averaged over."""

    score: Callable[[Observation], np.ndarray]
    """(F, h, w) before clustering."""
    clusters: ScoreFormula
    with_flow: bool = False
    """Whether optical flow is part of it, and nothing moves where flow is explained."""

    @staticmethod
    def of(formula: ScoreFormula) -> ScoreCandidate:
        """The score of a formula."""
        return ScoreCandidate(lambda seen: seen.score(formula), formula, formula.flow_residual)

    def clustered(self, seen: Observation) -> np.ndarray:
        """(F, h, w) score as masks are cut from it."""
        return cluster_means(self.score(seen), seen.tokens.labels(self.clusters))

    def masks(self, seen: Observation, patch: int) -> np.ndarray:
        """(F, H, W) bool."""
        return self.segment(seen, patch).masks

    def segment(self, seen: Observation, patch: int) -> DynamicMasks:
        """As a run does it."""
        residual = seen.tokens.flow_residual if self.with_flow else None
        return segment_dynamic(min_max_per_frame(self.score(seen)), seen.tokens.labels(self.clusters), patch, residual)


def candidates(formula: ScoreFormula) -> dict[str, ScoreCandidate]:
    """The formula and what it is compared with.

    These are trivial answers, single maps with each sign, residuals of geometry, and the formula of the paper.

    All have the clusters of the formula, but for the paper, which has its own.
    """

    def random(seen: Observation) -> np.ndarray:
        return np.random.RandomState(seen.truth.sum()).uniform(size=seen.truth.shape).astype(np.float32)

    plain = replace(PAPER, num_clusters=formula.num_clusters, clusterings=formula.clusterings)

    scores = {
        "random": ScoreCandidate(random, formula),
        "everything static": ScoreCandidate(lambda seen: np.zeros(seen.truth.shape, dtype=np.float32), formula),
    }
    for name in MAPS:
        for sign in (1, -1):
            alone = dict.fromkeys(MAPS, 0) | {name: sign}
            log_std = formula.log_std and name.startswith("std")
            as_chosen = replace(formula, **alone, log_std=log_std, flow_residual=False)
            scores |= {str(f): ScoreCandidate.of(f) for f in (replace(plain, **alone), as_chosen)}
    scores |= {
        "pointmap residual after rigid alignment": ScoreCandidate(lambda s: min_max_per_frame(s.residual), formula),
        FLOW_ROW: ScoreCandidate(lambda s: s.tokens.flow_residual, formula, True),
    }
    rivals = {"Easi3R paper's signs": replace(formula, **PAPER.signs, flow_residual=False), "Easi3R paper": PAPER}
    if formula.flow_residual and formula.has_attention:
        rivals["this card without optical flow"] = replace(formula, flow_residual=False)
    rivals[CARD_ROW] = formula
    return scores | {f"{title}: {rival}": ScoreCandidate.of(rival) for title, rival in rivals.items()}


def score_table(
    clips: list[Observation], twins: list[Observation], formula: ScoreFormula, patch: int
) -> dict[str, Any]:
    """Every candidate, clustered, on the clips and on their twins; masks after the whole segmentation."""
    return {title: _row(clips, twins, candidate, patch) for title, candidate in candidates(formula).items()} | {
        "ceiling: the true tokens": _ceiling(clips, patch)
    }


def _row(clips: list[Observation], twins: list[Observation], candidate: ScoreCandidate, patch: int) -> dict[str, Any]:
    def per_clip(group: list[Observation], measure: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
        return np.array([measure(candidate.clustered(seen), seen.truth) for seen in group])

    auc, twin = (per_clip(group, area_under_curve) for group in (clips, twins))
    precision, twin_precision = (per_clip(group, average_precision) for group in (clips, twins))
    masks = [candidate.masks(seen, patch) for seen in clips]
    return {
        "auc": mean_over_clips(auc).to_json(3),
        "auc_twin": mean_over_clips(twin).to_json(3),
        "gap": mean_over_clips(auc - twin).to_json(3),
        "ap": mean_over_clips(precision).to_json(3),
        "ap_twin": mean_over_clips(twin_precision).to_json(3),
        **mask_figures([jaccard(list(m), list(seen.pixels)) for m, seen in zip(masks, clips, strict=True)]),
    }


def _ceiling(clips: list[Observation], patch: int) -> dict[str, Any]:
    return mask_figures([jaccard(list(c.truth.repeat(patch, 1).repeat(patch, 2)), list(c.pixels)) for c in clips])


def mask_figures(per_clip: list[np.ndarray]) -> dict[str, Any]:
    """JM with its interval and JR, pooled over the frames of all clips (the paper's protocol)."""
    if not per_clip:
        return {}
    return {"jm": estimate(per_clip, np.mean).to_json(3), "jr": round(pooled(per_clip).jr, 3)}
