"""The price of low precision: the same clips in float32 and in the half precisions that the device has.

    python -m tests.bench.bench_precision --clips 6 --frames 12
    python -m tests.bench.bench_precision --device cuda --weights monst3r

Clips with moving things come from the package's generator. Each runs through both passes and the alignment in every
precision; low precision is compared with float32 (masks, pointmaps, cameras), and every precision with the truth. On a
CPU the low precision is bfloat16 by autocast, on a GPU bfloat16 and float16.

The masks rest on clusters of features, and k-means ends in another local minimum after the smallest change. So low
precision also runs with the clusters of float32, which shows its own price, and float32 runs with another seed, which
shows what clusters alone do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from easi3r_ns.align.align import align
from easi3r_ns.core.config import AlignConfig, Easi3RConfig
from easi3r_ns.core.geometry import image_centre_in_network
from easi3r_ns.core.pairs import DEFAULT_GRAPH, make_pairs
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import DynamicMasks, PairPredictions
from easi3r_ns.evaluate.masks import jaccard
from easi3r_ns.evaluate.trajectory import compare_paths
from easi3r_ns.network.backbone import LoadedBackbone
from easi3r_ns.network.compute import choose_compute
from easi3r_ns.network.weights import load_backbone
from easi3r_ns.pipelines.stages import Once, Shared, StageInputs, run_passes
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.training.measure.motion import clip_seeds, make_clip
from easi3r_ns.training.measure.paths import frames_of
from easi3r_ns.training.scenes import Clip

ALIGN = AlignConfig(flow_weight=0.0)
LOW = {"cpu": ("bf16",), "cuda": ("bf16", "fp16")}
CONTROL = "fp32, other seed"
SAME_CLUSTERS = ", clusters of fp32"


@dataclass(frozen=True)
class Outcome:
    """One clip in one precision."""

    predictions: PairPredictions
    dynamic: DynamicMasks
    T_world_cam: np.ndarray
    focal: float
    seconds: float
    """Of the network stage; CPU time on a CPU."""
    labels: np.ndarray
    """(F, h, w) clusters of the tokens."""


@dataclass(frozen=True)
class Price:
    """One precision on one clip."""

    overlap: float
    """Intersection over union of its masks with those of float32, mean over the frames."""
    true_overlap: float
    """And with the true masks."""
    points: float
    """Median distance of its points from those of float32, relative to the distance of the point from the camera."""
    points_most: float
    """The 95th percentile of that."""
    path: float
    """RMSE of its camera centres against those of float32, relative to the length of the path."""
    rotation: float
    """RMSE of its motion from frame to frame against that of float32, in degrees."""
    focal: float
    """Relative difference of the focal length."""
    true_path: float
    """RMSE of the camera centres against the truth, relative to the length of the path."""
    seconds: float
    """Of the network stage."""


def reconstruct(
    weights: str, clip: Clip, device: str, dtype: str, *, seed: int = 0, labels: np.ndarray | None = None
) -> Outcome:
    """Both passes and the alignment of a clip in one precision; with given clusters, if any."""
    compute, log = choose_compute(device, dtype, 0), RunLog()
    model, info = load_backbone(weights, device=compute.device, dtype=compute.dtype)
    config = Easi3RConfig(weights=weights, device=device, dtype=dtype, seed=seed)
    graph = make_pairs(info.graph or DEFAULT_GRAPH, len(clip))
    backbone = LoadedBackbone(model, info)
    with tempfile.TemporaryDirectory() as folder:
        frames = frames_of(clip, Path(folder))
        inputs = StageInputs(frames, graph, backbone, config, compute, StageCache(None), log)
        shared = Shared.of(inputs)
        if labels is not None:
            shared = replace(shared, labels=Once(lambda: labels))
        decoded = run_passes(inputs, shared)
    seconds = sum(stage.cpu_seconds if compute.device.type == "cpu" else stage.seconds for stage in log.stages)
    aligned = align(
        decoded.predictions,
        principal_point=image_centre_in_network(frames.pixel_map),
        config=ALIGN,
        dynamic_masks=decoded.dynamic.masks,
        device=compute.device,
    )
    focal = float(np.median(aligned.focals))
    return Outcome(decoded.predictions, decoded.dynamic, aligned.T_world_cam, focal, seconds, shared.labels())


def price(outcome: Outcome, full: Outcome, clip: Clip) -> Price:
    """Compare one precision with float32 and with the truth."""
    points = [
        relative_distance(getattr(outcome.predictions, name), getattr(full.predictions, name))
        for name in ("points_i", "points_j")
    ]
    distances = torch.cat(points)
    if outcome is full:
        path = rotation = 0.0
    else:
        errors = compare_paths(outcome.T_world_cam, full.T_world_cam)
        path, rotation = errors.ate / errors.path_length, errors.rpe_rotation_deg
    truth = compare_paths(outcome.T_world_cam, clip.T_world_cam)
    return Price(
        overlap=float(np.mean(jaccard(list(outcome.dynamic.masks), list(full.dynamic.masks)))),
        true_overlap=float(np.mean(jaccard(list(outcome.dynamic.masks), list(clip.moving)))),
        points=float(distances.median()),
        points_most=float(np.quantile(distances.numpy(), 0.95)),
        path=path,
        rotation=rotation,
        focal=abs(outcome.focal / full.focal - 1),
        true_path=truth.ate / truth.path_length,
        seconds=outcome.seconds,
    )


def relative_distance(points: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(E, H, W, 3) twice -> (E * H * W,) distances, relative to that of the reference from the origin."""
    points, reference = points.float().flatten(0, 2), reference.float().flatten(0, 2)
    return (points - reference).norm(dim=1) / reference.norm(dim=1).clamp_min(1e-6)


def measure(weights: str, device: str, clips: Sequence[Clip]) -> dict[str, list[Price]]:
    """Prices by precision, one for each clip."""
    prices: dict[str, list[Price]] = {}
    for clip in clips:
        full = reconstruct(weights, clip, device, "fp32")
        outcomes = {"fp32": full, CONTROL: reconstruct(weights, clip, device, "fp32", seed=1)}
        for name in LOW.get(torch.device(device).type, ()):
            outcomes[name] = reconstruct(weights, clip, device, name)
            outcomes[name + SAME_CLUSTERS] = reconstruct(weights, clip, device, name, labels=full.labels)
        for name, outcome in outcomes.items():
            prices.setdefault(name, []).append(price(outcome, full, clip))
    return prices


COLUMNS = {
    "overlap": ("mask IoU with fp32", 1, ""),
    "true_overlap": ("with the truth", 1, ""),
    "points": ("points from fp32", 100, " %"),
    "points_most": ("95th percentile", 100, " %"),
    "path": ("path from fp32", 100, " %"),
    "rotation": ("rotation from fp32", 1, " deg"),
    "focal": ("focal from fp32", 100, " %"),
    "true_path": ("path from the truth", 100, " %"),
    "seconds": ("network stage", 1, " s"),
}


def show(prices: dict[str, list[Price]], console: Console) -> None:
    """A column per precision: medians over the clips, and the worst in brackets."""
    table = Table("median over the clips (worst)", *prices)
    for field, (title, factor, unit) in COLUMNS.items():
        cells = []
        for rows in prices.values():
            values = np.array([getattr(row, field) for row in rows]) * factor
            worst = values.min() if "overlap" in field else values.max()
            cells.append(f"{np.median(values):.3g}{unit} ({worst:.3g})")
        table.add_row(title, *cells)
    console.print(table)


def main() -> None:
    """Render, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clips = [make_clip(seed, "held_out", args.frames) for seed in clip_seeds("held_out", args.clips, args.frames)]
    show(measure(args.weights, args.device, clips), Console(width=110))


if __name__ == "__main__":
    main()
