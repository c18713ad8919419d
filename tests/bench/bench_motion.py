"""What masks and flow do for the cameras of clips in which things move: none, masks, flow, both.

``python -m tests.bench.bench_motion --results examples/results`` renders held-out clips with known truth, reconstructs
each through the pipeline in every variant with three networks, and writes ``motion.md`` and ``motion.json``. The
networks: ``tiny``; a stand-in that answers with the truth plus errors, where movers drag the relative pose of a pair
unless their tokens are silenced (tests/dragged_standin.py); and the same stand-in without the drag.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from easi3r_ns.core.config import AlignConfig, Easi3RConfig
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.motion.flow.dis import DISFlow
from easi3r_ns.motion.flow.provider import pair_flow
from easi3r_ns.network.backbone import LoadedBackbone
from easi3r_ns.network.weights import load_backbone
from easi3r_ns.pipelines.network import Backbone, reconstruct
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.storage.files import make_folder, write_bytes, write_json
from easi3r_ns.training.measure import choose
from easi3r_ns.training.measure.motion import clip_seeds, make_clip
from easi3r_ns.training.measure.numbers import mean_over_clips
from easi3r_ns.training.measure.paths import PathRow, compare, frames_of, still_camera
from easi3r_ns.training.scenes import Clip
from easi3r_ns.training.scenes import flow as true_flow
from tests.support.dragged_standin import DraggedStandIn, Errors

GRAPH = "swin-3-noncyclic"
"""That of tiny's card, for all networks."""
ALIGN = AlignConfig(max_pixels=512)
"""Every 24th pixel, for the sake of time; depths are solved for all of them in the end."""
METRICS = {
    "ate": ("ATE / path", 100.0, "%"),
    "rpe_translation": ("RPE / step", 100.0, "%"),
    "rpe_rotation": ("RPE (deg)", 1.0, ""),
    "focal": ("focal", 100.0, "%"),
}


@dataclass(frozen=True)
class Variant:
    """One way to reconstruct a clip."""

    title: str
    masks: str = "none"
    """none, own (two passes), true."""
    flow: bool = False
    check: bool = True
    """Whether pixels whose forward and backward flow disagree are left out of the flow term."""


VARIANTS = {
    "none": Variant("none"),
    "masks": Variant("masks", "own"),
    "flow": Variant("flow", flow=True),
    "both": Variant("both", "own", flow=True),
    "true_both": Variant("true masks and flow", "true", flow=True),
    "flow_unchecked": Variant("flow, not checked", flow=True, check=False),
    "both_unchecked": Variant("both, not checked", "own", flow=True, check=False),
    "true_unchecked": Variant("true masks and flow, not checked", "true", flow=True, check=False),
}
GAINS = (
    ("masks alone", "none", "masks"),
    ("flow alone", "none", "flow"),
    ("both together", "none", "both"),
    ("flow, where there are masks", "masks", "both"),
    ("masks, where there is flow", "flow", "both"),
)
CHECKS = (
    ("no masks", "flow_unchecked", "flow"),
    ("own masks", "both_unchecked", "both"),
    ("true masks", "true_unchecked", "true_both"),
)
OF_NETWORK = {"truth": [name for name, variant in VARIANTS.items() if variant.flow]}
"""Variants that tell something, where not all do."""
Network = Callable[[Clip], Backbone]
Rows = dict[str, list[PathRow | None]]


def networks(names: list[str]) -> dict[str, Network]:
    """A network per clip: a stand-in knows its clip."""
    made: dict[str, Network] = {}
    if "tiny" in names:
        model, info = load_backbone("tiny", device="cpu")
        tiny = LoadedBackbone(model, info)
        made["tiny"] = lambda clip: tiny
    if "dragged" in names:
        made["dragged"] = DraggedStandIn
    if "truth" in names:
        made["truth"] = lambda clip: DraggedStandIn(clip, Errors(dragged=False))
    return made


TITLES = {
    "tiny": "`tiny`, the network that ships with the package",
    "dragged": "Stand-in for a strong network that takes the world for rigid",
    "truth": "Stand-in whose pointmaps movers do not disturb",
}
WHAT = {
    "tiny": "A preview network (see tiny/README.md for its masks).",
    "dragged": "Not a network: true pointmaps with errors (about a quarter of a pixel, 2 % in depth and focal length). "
    "The relative pose of a pair is a least-squares fit over the static AND the moving surfaces that both views show, "
    "unless their tokens are silenced. Its masks come from made-up attention that tells moving tokens well. "
    "This shows the mechanism, not what any published network gains.",
    "truth": "Not a network: as above, but movers do not disturb the relative pose of a pair. Masks can only matter to "
    "the flow term here.",
}


def run(backbone: Backbone, clip: Clip, variant: Variant, flow_weight: float, folder: Path) -> PathRow | None:
    """Reconstruct a clip; None where its pairs cannot be aligned. Variants share what the network did in ``folder``."""
    options: dict[str, Any] = {"graph": GRAPH, "device": "cpu", "flow": "dis"}
    if variant.masks == "none":
        options["no_masks"] = True
    elif variant.masks == "true":
        options["masks"] = write_masks(clip, folder / "masks")
    config = replace(ALIGN, flow_weight=flow_weight if variant.flow else 0.0, flow_check=variant.check)
    begin = time.process_time()
    try:
        cache = StageCache(folder / variant.masks)
        scene = reconstruct(frames_of(clip, folder), backbone, Easi3RConfig(**options), config, cache, RunLog())
    except AlignmentError:
        return None
    return compare(scene, clip, time.process_time() - begin)


def write_masks(clip: Clip, folder: Path) -> Path:
    """The true masks, as a user would give them."""
    if not folder.exists():
        folder.mkdir()
        for k, mask in enumerate(clip.moving):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{k:05d}.png")
    return folder


def choose_weight(network: Network, clips: list[Clip]) -> float:
    """Weight of the flow term with the smallest mean ATE (own masks) on clips of their own, as for tiny's card."""

    def path_error(weight: float) -> float:
        rows = [run_once(network, clip, VARIANTS["both"], weight) for clip in clips]
        pairs = zip(rows, clips, strict=True)
        return float(np.mean([row.ate if row else still_camera(clip)["ate"] for row, clip in pairs]))

    weight, errors = choose.choose_flow_weight(path_error)
    print("flow weight", weight, errors, flush=True)
    return weight


def run_once(network: Network, clip: Clip, variant: Variant, weight: float) -> PathRow | None:
    """:func:`run` with a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return run(network(clip), clip, variant, weight, Path(folder))


def clip_rows(network: Network, clip: Clip, weight: float, variants: Iterable[str]) -> dict[str, PathRow | None]:
    """A clip in every variant."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: run(network(clip), clip, VARIANTS[name], weight, Path(folder)) for name in variants}


def flow_errors(clips: list[Clip]) -> dict[str, Any]:
    """Error of the flow in pixels on what stands still, by the gap between the frames: mean of all, of those kept."""
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for clip in clips:
        flows = pair_flow(clip.images, make_pairs(GRAPH, len(clip)), DISFlow(), RunLog(), dtype=torch.float32)
        for edge, field, kept in zip(flows.graph.edges.tolist(), flows.flow.numpy(), flows.consistent.numpy()):
            off = np.linalg.norm(np.moveaxis(field, 0, -1) - true_flow(clip, *edge), axis=-1)
            there = ~clip.moving[edge[0]] & np.isfinite(off)
            found.setdefault(abs(edge[0] - edge[1]), []).append((off[there], kept[there]))
    table = {}
    for gap, pairs in sorted(found.items()):
        off, kept = (np.concatenate(column) for column in zip(*pairs, strict=True))
        numbers = {"all": off.mean(), "kept": off[kept].mean(), "share_kept": kept.mean()}
        table[str(gap)] = {name: round(float(value), 3) for name, value in numbers.items()}
    return table


def difference(rows: Rows, before: str, after: str, metric: str) -> Any:
    """Mean over clips of after - before with a 95 % interval that resamples clips; clips that failed are left out."""
    both = [pair for pair in zip(rows[before], rows[after], strict=True) if None not in pair]
    return mean_over_clips([getattr(b, metric) - getattr(a, metric) for a, b in both])


def summarise(rows: Rows) -> dict[str, Any]:
    """Means per variant and paired differences, JSON-serialisable."""
    means = {}
    for name, found in rows.items():
        good = [row for row in found if row is not None]
        means[name] = {m: mean_over_clips([getattr(row, m) for row in good]).to_json() for m in METRICS}
        means[name] |= {"failed": len(found) - len(good)}
        means[name] |= {"mask_overlap": round(float(np.mean([row.overlap.mean() for row in good])), 3)}
    compared = [(b, a) for _, b, a in (*GAINS, *CHECKS) if b in rows and a in rows]
    paired = {f"{b} -> {a}": {m: difference(rows, b, a, m).to_json() for m in METRICS} for b, a in compared}
    clips = {name: [None if row is None else round(row.ate, 5) for row in found] for name, found in rows.items()}
    return {"means": means, "differences": paired, "ate_per_clip": clips}


def cell(value: dict[str, Any], metric: str, signed: bool = False) -> str:
    """`value [low, high]` in the metric's unit; in bold when the interval of a difference leaves zero out."""
    _, factor, unit = METRICS[metric]
    numbers = [value["value"], *value["interval"]]
    if None in numbers:
        return "-"
    digits = 3 if factor == 1 else 2
    sign = "+" if signed else ""
    shown = [f"{factor * x:{sign}.{digits}f}" for x in numbers]
    text = f"{shown[0]}{' ' + unit if unit else ''} [{shown[1]}, {shown[2]}]"
    return f"**{text}**" if signed and numbers[1] * numbers[2] > 0 else text


def table(result: dict[str, Any]) -> list[str]:
    """Markdown of one network."""
    heads = [title for title, _, _ in METRICS.values()]
    lines = ["| | " + " | ".join(heads) + " | mask overlap |", "|---" * (len(heads) + 2) + "|"]
    for name, means in result["means"].items():
        overlap = f"{means['mask_overlap']:.2f}" if VARIANTS[name].masks == "own" else "-"
        lines.append(
            f"| {VARIANTS[name].title} | " + " | ".join(cell(means[m], m) for m in METRICS) + f" | {overlap} |"
        )
    for title, rows in (("What each adds", GAINS), ("The forward-backward check in the flow term", CHECKS)):
        present = [row for row in rows if f"{row[1]} -> {row[2]}" in result["differences"]]
        if present:
            lines += ["", f"| {title} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for name, before, after in present:
            paired = result["differences"][f"{before} -> {after}"]
            lines.append(f"| {name} | " + " | ".join(cell(paired[m], m, signed=True) for m in METRICS) + " |")
    return lines


def report(result: dict[str, Any]) -> str:
    """The page."""
    setup = result["setup"]
    lines = [
        "# Masks and flow on clips with things that move",
        "",
        f"    {result['command']}",
        "",
        f"{setup['clips']} rendered clips of {setup['frames']} frames in two seconds, 128 x 96 pixels, 1 to 3 movers, "
        f"seeds and textures that nothing was trained or chosen on; {100 * setup['moving']:.0f} % of the pixels move. "
        f"Pair graph `{GRAPH}`, solver `{ALIGN.solver}`, {ALIGN.max_pixels} pixels a frame, OpenCV DIS flow.",
        "",
        "ATE: camera centres after Sim(3), RMSE over the length of the path; RPE: motion from frame to frame; focal: "
        "relative error; mask overlap: intersection over union of all frames, mean. Means over clips with 95 % "
        "intervals; differences are paired clip by clip, negative is better, bold where the interval leaves zero out. "
        "'Masks' are the tool's own (two passes): they silence tokens in pass 2 and leave pixels out of the flow term, "
        "which uses pixels whose forward and backward flow agree, except in the rows 'not checked'. A camera that "
        f"stands still: {100 * setup['still_ate']:.1f} % ATE.",
    ]
    lines += [
        "",
        "Mean error of the flow on what stands still, by frames between: "
        + "; ".join(
            f"{gap}: {e['all']:.1f} pixels, {e['kept']:.1f} after the check, which keeps {100 * e['share_kept']:.0f} %"
            for gap, e in result["flow_errors"].items()
        )
        + ".",
    ]
    for name, part in result["networks"].items():
        lines += ["", f"## {TITLES[name]}", "", WHAT[name]]
        weight = f"Weight of the flow term: {part['flow_weight']:g} ({part['weight_from']})."
        lines += ["", f"{part['clips']} clips. {weight}", "", *table(part)]
    return "\n".join([*lines, ""])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All networks on all clips."""
    clips = [
        make_clip(seed, "held_out", args.frames) for seed in clip_seeds("held_out", args.skip + args.clips, args.frames)
    ][args.skip :]
    moving = float(np.mean([clip.moving.mean() for clip in clips]))
    still = float(np.mean([still_camera(clip)["ate"] for clip in clips]))
    setup = {"clips": len(clips), "frames": args.frames, "moving": round(moving, 4), "still_ate": round(still, 4)}
    result: dict[str, Any] = {"command": args.command, "setup": setup}
    result |= {"flow_errors": flow_errors(clips), "networks": {}}
    for name, network in networks(args.networks).items():
        begin = time.process_time()
        weight, source = flow_weight(name, network, args)
        rows: Rows = {variant: [] for variant in args.variants if variant in OF_NETWORK.get(name, VARIANTS)}
        for count, clip in enumerate(clips, 1):
            for variant, row in clip_rows(network, clip, weight, rows).items():
                rows[variant].append(row)
            part = {"clips": count, "flow_weight": weight, "weight_from": source} | summarise(rows)
            result["networks"][name] = part | {"cpu_seconds": round(time.process_time() - begin)}
            print(f"{name}: {count} of {len(clips)} clips", flush=True)
            if args.results:
                write(result, args.results)
        print("\n".join(table(result["networks"][name])), flush=True)
    return result


def write(result: dict[str, Any], folder: Path) -> None:
    """``motion.json`` and ``motion.md``; networks of an earlier run on the same clips stay."""
    make_folder(folder)
    path = folder / "motion.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("setup") == result["setup"]:
        known = before["networks"] | result["networks"]
        result = result | {"networks": {name: known[name] for name in TITLES if name in known}}
    write_json(path, result)
    write_bytes(folder / "motion.md", report(result).encode())


def flow_weight(name: str, network: Network, args: argparse.Namespace) -> tuple[float, str]:
    """The weight of the flow term and where it comes from."""
    if args.flow_weight is not None:
        return args.flow_weight, "as given"
    if name == "tiny":
        return network(None).info.flow_weight, "of its card, chosen on other clips"
    seeds = clip_seeds("selection", args.selection, args.frames)
    clips = [make_clip(seed, "selection", args.frames) for seed in seeds]
    return choose_weight(network, clips), f"chosen by ATE on {args.selection} other clips as for a card"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--skip", type=int, default=0, help="held-out clips to pass over first")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--selection", type=int, default=4, help="clips on which the weight of the flow is chosen")
    parser.add_argument("--networks", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--flow-weight", type=float)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, help="folder for motion.md and motion.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.command = "python -m tests.bench.bench_motion --results examples/results"
    measure(args)


if __name__ == "__main__":
    main()
