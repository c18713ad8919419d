"""``python -m easi3r_ns.training.measure WEIGHTS``: what a checkpoint can do, on scenes that it has never seen.

Static pairs (family ``held_out``) give geometry; dynamic clips give the dynamic score. The signs of the score are
chosen on clips of the family ``selection`` and measured on clips of the family ``held_out``, each beside its frozen
twin: the same clip with its objects at rest. A map that scores as high on the twin shows objects, not motion.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from ..align.init import register, weiszfeld_focals
from ..attention import ScoreFormula, fuse, min_max_per_frame
from ..backbone.model import DUSt3R
from ..backbone.weights import load_backbone
from ..dynamic import cluster_means, cluster_tokens, segment_dynamic
from ..files import write_json
from ..inference import Compute, collect_attention, encode_frames
from ..pairs import make_pairs
from ..synthetic import Clip, ClipOptions, render_clip
from .card import read_card, write_card
from .data import PairBatch, move, render_views
from .data import make_pairs as select_pairs

logger = logging.getLogger(__name__)

SHAPE = (96, 128)
CONSTANT_FOV_DEGREES = 57.5
MAPS = ("mean_src", "std_src", "mean_ref", "std_ref")
PAPER = ScoreFormula()
FIRST_CLIP = 10_000


@dataclass(frozen=True)
class MeasureConfig:
    """Measure a checkpoint on held-out scenes."""

    weights: tyro.conf.Positional[str]
    """Name, folder or file of the weights."""
    pairs: int = 300
    """Held-out static pairs."""
    clips: int = 20
    """Held-out dynamic clips (each is also rendered frozen)."""
    selection_clips: int = 10
    """Clips on which the signs of the score are chosen; 0 keeps those of the card."""
    frames: int = 10
    """Frames per clip."""
    graph: str = "swin-3-noncyclic"
    """Pair graph of the clips."""
    device: str = "cpu"
    """Where to compute."""
    threads: int = 1
    """CPU threads."""
    output: Path | None = None
    """Where to write the measurements as JSON."""
    update_card: bool = False
    """Write measurements, signs and graph into the card beside the weights."""


@torch.inference_mode()
def measure_pairs(model: DUSt3R, count: int, device: str = "cpu", seed: int = 0) -> dict[str, float]:
    """Geometry on ``count`` held-out static pairs of 128 x 96 pixels with mutual overlap of at least 0.3.

    Point errors are relative to the mean distance, after one median scale per pair; poses come from registering view
    2's points in both frames; angles in degrees, medians over pairs unless the name says otherwise.
    """
    rows = []
    for start in itertools.count(seed):
        views = render_views([start], SHAPE, 4, "held_out", device)
        mutual = torch.minimum(views.overlap, views.overlap.transpose(1, 2))[0].triu(1)
        for i, j in torch.nonzero(mutual >= 0.3).tolist()[:3]:
            index = torch.tensor([i], device=device), torch.tensor([j], device=device)
            rows.append(_measure_pair(model, select_pairs(views, torch.zeros(1, dtype=torch.long), *index)))
            if len(rows) == count:
                table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
                return _summary(table)


def _measure_pair(model: DUSt3R, batch: PairBatch) -> dict[str, float]:
    grid = model.token_grid(*SHAPE)
    features = model.encode(batch.images.flatten(0, 1))
    out = model.decode(features, features.flip(0), grid)  # row 0: (i, j), row 1: (j, i)
    truth = batch.points[0], move(batch.T_i_j, batch.points[1])
    predicted = out.points_i[:1], out.points_j[:1]
    lengths = [torch.cat([x.norm(dim=-1).flatten() for x in views]) for views in (predicted, truth)]
    scale = lengths[1].median() / lengths[0].median()
    mean = lengths[1].mean()
    flat = [x.flatten(1, 2).transpose(1, 2).float() for x in (out.points_i[1:], out.points_j[:1], truth[0])]
    s, R, t = register(flat[0], flat[1], out.conf_i[1:].flatten(1).float())
    true_R, true_t = batch.T_i_j[0, :3, :3], batch.T_i_j[0, :3, 3]
    centre = torch.tensor([[(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2]])
    y, x = torch.meshgrid(torch.arange(SHAPE[0]), torch.arange(SHAPE[1]), indexing="ij")
    points = out.points_i[:1].flatten(1, 2).transpose(1, 2).cpu()
    focal = float(weiszfeld_focals(points, torch.stack([x.flatten(), y.flatten()]).float(), centre)[0])
    true_focal = float(batch.focal[0, 0])
    constant = 0.5 * max(SHAPE) / np.tan(np.radians(CONSTANT_FOV_DEGREES) / 2)
    depth = (scale * predicted[0][..., 2], truth[0][..., 2])
    return {
        "points_1": float((scale * predicted[0] - truth[0]).norm(dim=-1).mean() / mean),
        "points_2": float((scale * predicted[1] - truth[1]).norm(dim=-1).mean() / mean),
        "depth_abs_rel": float(((depth[0] - depth[1]).abs() / depth[1]).mean()),
        "rotation": _angle_of(R[0].float() @ true_R.T),
        "rotation_identity": _angle_of(true_R),
        "translation": _angle_between(t[0].float(), true_t),
        "baseline": float(true_t.norm() / mean),
        "focal": abs(focal - true_focal) / true_focal,
        "focal_constant": abs(constant - true_focal) / true_focal,
    }


def _angle_of(R: torch.Tensor) -> float:
    return float(torch.rad2deg(torch.arccos(((R.trace() - 1) / 2).clamp(-1, 1))))


def _angle_between(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.rad2deg(torch.arccos((torch.nn.functional.cosine_similarity(a, b, dim=0)).clamp(-1, 1))))


def _summary(table: dict[str, np.ndarray]) -> dict[str, float]:
    wide = table["baseline"] > 0.15
    result = {name: float(np.median(values)) for name, values in table.items()}
    result |= {
        "points_1_mean": float(table["points_1"].mean()),
        "points_2_mean": float(table["points_2"].mean()),
        "rotation_below_5": float((table["rotation"] < 5).mean()),
        "rotation_below_10": float((table["rotation"] < 10).mean()),
        "translation_wide_baseline": float(np.median(table["translation"][wide])) if wide.any() else float("nan"),
        "pairs": len(wide),
    }
    return {name: round(value, 4) for name, value in result.items()}


@dataclass(frozen=True)
class ClipMaps:
    """Everything about one clip that the score needs."""

    fused: dict[str, np.ndarray]
    """The four maps, (F, h, w) in [0, 1]."""
    labels: np.ndarray
    """(F, h, w) clusters."""
    truth: np.ndarray
    """(F, h, w) bool: most of the token is on an object that moves (or would move)."""
    pixels: np.ndarray
    """(F, H, W) bool: the same per pixel."""


def observe(model: DUSt3R, clip: Clip, graph: str, device: str = "cpu") -> ClipMaps:
    """Run pass 1 on a clip at the network's resolution."""
    compute = Compute(torch.device(device))
    grid = model.token_grid(*clip.images.shape[1:3])
    features = encode_frames(model, clip.images, compute, lambda n: None)
    stats = collect_attention(model, features, make_pairs(graph, len(clip)), grid, compute, lambda n: None)
    labels = cluster_tokens(features.cpu().numpy().reshape(len(clip), *grid, -1), seed=0)
    patch = model.config.patch_size
    share = clip.would_move.reshape(len(clip), grid[0], patch, grid[1], patch).mean(axis=(2, 4))
    return ClipMaps({name: fuse(getattr(stats, name)) for name in MAPS}, labels, share > 0.5, clip.would_move)


def combine(fused: dict[str, np.ndarray], formula: ScoreFormula) -> np.ndarray:
    """The product of maps that a formula names, (F, h, w), not yet stretched per frame."""
    factors = [fused[name] if sign > 0 else 1 - fused[name] for name, sign in asdict(formula).items() if sign]
    return np.prod(factors, axis=0)


def area_under_curve(score: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a random positive scores above a random negative (ties count half); NaN without both."""
    from scipy.stats import rankdata

    score, truth = np.ravel(score), np.ravel(truth)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return float("nan")
    return float((rankdata(score)[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def clips_of(family: str, count: int, frames: int, frozen: bool) -> list[Clip]:
    """The first ``count`` clips of a family whose movers cover 2 to 40 % of the pixels; 1 to 3 movers in turn."""
    clips, seed = [], FIRST_CLIP
    options = ClipOptions(family=family, fps=6.0)
    while len(clips) < count:
        movers = 1 + seed % 3
        preview = render_clip(seed, frames, SHAPE[0] // 4, SHAPE[1] // 4, movers, options=options)
        if 0.02 < preview.would_move.mean() < 0.4 and preview.would_move.mean(axis=(1, 2)).min() > 0.005:
            clips.append(render_clip(seed, frames, *SHAPE, movers, frozen, options=options))
        seed += 1
    return clips


def choose_formula(clips: list[ClipMaps], twins: list[ClipMaps]) -> ScoreFormula:
    """The signs with the best AUC after clustering, mean over clips, plus half the lead over the frozen twins."""
    best, best_value = PAPER, -np.inf
    for signs in itertools.product((0, 1, -1), repeat=len(MAPS)):
        if not any(signs):
            continue
        formula = ScoreFormula(**dict(zip(MAPS, signs, strict=True)))
        moving, frozen = (
            np.nanmean([area_under_curve(cluster_means(combine(c.fused, formula), c.labels), c.truth) for c in group])
            for group in (clips, twins)
        )
        value = moving + 0.5 * (moving - frozen)
        if value > best_value:
            best, best_value = formula, value
    return best


def measure_scores(clips: list[ClipMaps], twins: list[ClipMaps], formula: ScoreFormula, patch: int) -> dict[str, Any]:
    """AUC of every map alone, of the paper's signs and of ``formula`` (all clustered), each with its frozen twin."""
    candidates = {f"{name} alone": ScoreFormula(**{**dict.fromkeys(MAPS, 0), name: 1}) for name in MAPS}
    candidates |= {"paper": PAPER, "chosen": formula}
    table: dict[str, Any] = {}
    for title, candidate in candidates.items():
        row = {}
        for kind, group in (("auc", clips), ("auc_frozen_twin", twins)):
            scores = [cluster_means(combine(c.fused, candidate), c.labels) for c in group]
            row[kind] = round(
                float(np.nanmean([area_under_curve(s, c.truth) for s, c in zip(scores, group, strict=True)])), 3
            )
        row["jaccard"] = round(float(np.mean([_jaccard(c, candidate, patch) for c in clips])), 3)
        table[title] = row
    table["every pixel moves"] = {"jaccard": round(float(np.mean([c.pixels.mean() for c in clips])), 3)}
    ceiling = [_overlap(c.truth.repeat(patch, 1).repeat(patch, 2), c.pixels) for c in clips]
    table["token grid's ceiling"] = {"jaccard": round(float(np.mean(ceiling)), 3)}
    return table


def _jaccard(clip: ClipMaps, formula: ScoreFormula, patch: int) -> float:
    return _overlap(
        segment_dynamic(min_max_per_frame(combine(clip.fused, formula)), clip.labels, patch).masks, clip.pixels
    )


def _overlap(masks: np.ndarray, truth: np.ndarray) -> float:
    union = (masks | truth).sum(axis=(1, 2))
    return float(((masks & truth).sum(axis=(1, 2)) / np.maximum(union, 1)).mean())


def measure(config: MeasureConfig) -> dict[str, Any]:
    """All measurements of a checkpoint."""
    model, info = load_backbone(config.weights, device=config.device)
    result: dict[str, Any] = {"geometry": measure_pairs(model, config.pairs, config.device)}
    logger.info("geometry: %s", result["geometry"])

    def watch(family: str, count: int, frozen: bool) -> list[ClipMaps]:
        clips = clips_of(family, count, config.frames, frozen)
        return [observe(model, clip, config.graph, config.device) for clip in clips]

    formula = ScoreFormula(**info.dynamic_score)
    if config.selection_clips:
        formula = choose_formula(*(watch("selection", config.selection_clips, frozen) for frozen in (False, True)))
    if config.clips:
        groups = [watch("held_out", config.clips, frozen) for frozen in (False, True)]
        result["score"] = measure_scores(*groups, formula, model.config.patch_size)
    result |= {"dynamic_score": asdict(formula), "graph": config.graph, "clips": config.clips, "frames": config.frames}
    logger.info("%s", result)
    if config.output:
        write_json(config.output, result)
    if config.update_card:
        update_card(info.source.card_path.parent, result)
    return result


def update_card(folder: Path, result: dict[str, Any]) -> None:
    """Put measurements, signs and graph into the card of a folder of weights."""
    card = read_card(folder) | {"dynamic_score": result["dynamic_score"], "graph": result["graph"]}
    card["measured"] = {key: value for key, value in result.items() if key not in ("dynamic_score", "graph")}
    write_card(folder, card)


def main() -> None:
    """Entry of the module."""
    config = tyro.cli(MeasureConfig, prog="python -m easi3r_ns.training.measure")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(config.threads)
    measure(config)


if __name__ == "__main__":
    main()
