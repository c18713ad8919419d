"""What the runs of the bench are worth: camera error, masks and depth against the truth, and what is worse than before.

The example clip and clips that the generator renders from fixed seeds; the truth of both is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easi3r_ns.core.errors import InputError
from easi3r_ns.evaluate.datasets import Capture, find_captures
from easi3r_ns.evaluate.masks import pooled
from easi3r_ns.evaluate.runs import score_dataset
from easi3r_ns.storage.files import write_png
from easi3r_ns.training.scenes import render_clip

SEEDS = (10_003, 10_011)
"""Of the clips that are rendered; none is among those of the training or of its tables."""
FRAMES, SIZE = 12, (192, 256)


@dataclass(frozen=True)
class Measure:
    """One number, and from which difference on it is worse and not just another."""

    title: str
    more_is_better: bool
    relative: float
    """Share of the value before by which it may differ."""
    absolute: float
    """Difference that is always possible."""


MEASURES = {
    "ate": Measure("ATE, % of the path", False, 0.25, 0.02),
    "jm": Measure("JM", True, 0.02, 0.01),
    "abs_rel": Measure("depth AbsRel", False, 0.1, 0.002),
}
"""The same code may differ by that much on other processors and with other releases of libraries: a judgement."""


def write_capture(folder: Path, seed: int) -> Path:
    """Render a clip with its truth as a capture of ``easi3r evaluate folder``; the folder of its images."""
    clip = render_clip(seed, FRAMES, *SIZE, 2)
    for name in ("images", "masks", "depth"):
        (folder / name).mkdir(parents=True)
    cameras = []
    for k, image in enumerate(clip.images):
        write_png(folder / "images" / f"{k:03d}.png", image)
        write_png(folder / "masks" / f"{k:03d}.png", clip.moving[k].astype(np.uint8) * 255)
        np.save(folder / "depth" / f"{k:03d}.npy", clip.depth[k].astype(np.float32))
        cameras.append({"file": f"{k:03d}.png", "c2w": clip.T_world_cam[k].tolist()})
    lens = {"w": SIZE[1], "h": SIZE[0], "fl_x": clip.focal, "fl_y": clip.focal}
    (folder / "gt_cameras.json").write_text(json.dumps({"intrinsics": lens, "frames": cameras}), encoding="utf-8")
    return folder / "images"


def capture_of(data: Path) -> Capture | None:
    """The truth of a clip that lies in a capture, or None."""
    root = data.parent if data.is_file() or data.name == "images" else data
    try:
        found = [capture for capture in find_captures([root]) if capture.data == data]
    except InputError:  # no capture at all
        return None
    known = [capture for capture in found if capture.T_world_cam or capture.masks or capture.depth]
    return known[0] if known else None


def accuracy_of(dataset: Path, capture: Capture) -> dict[str, float]:
    """The numbers of :data:`MEASURES` that the truth allows; one that cannot be computed is infinitely bad."""
    scores = score_dataset(dataset, capture, "bench").scores
    assert scores is not None
    found: dict[str, float] = {}
    if capture.T_world_cam:
        path = scores.trajectory
        found["ate"] = float("inf") if path is None else 100 * path.ate / path.path_length
    if capture.masks:
        found["jm"] = 0.0 if scores.masks is None else pooled([scores.masks.network]).jm
    if capture.depth:
        found["abs_rel"] = float("inf") if scores.depth is None else scores.depth.by_scale.abs_rel
    return found


def compare_accuracy(
    before: Mapping[str, Sequence[Mapping[str, float]]], after: Mapping[str, Sequence[Mapping[str, float]]]
) -> tuple[list[str], int]:
    """Lines of a Markdown table of what both have (run -> repeats -> numbers), and how many are worse beyond noise.

    The mean of equal runs counts. Noise is what is always possible, or how far the repeats of either side lie apart.
    """
    lines, worse = [["run", "measure", "before", "after", "noise", ""], ["---"] * 6], 0
    for name in (name for name in before if name in after):
        for key, measure in MEASURES.items():
            sides = [[run[key] for run in runs if key in run] for runs in (before[name], after[name])]
            if not all(sides):
                continue
            old, new = (float(np.mean(side)) for side in sides)
            spread = max(max(side) - min(side) if np.isfinite(side).all() else 0.0 for side in sides)
            noise = max(measure.absolute, measure.relative * abs(old) if np.isfinite(old) else 0.0, spread)
            gain = 0.0 if new == old else (new - old if measure.more_is_better else old - new)
            said = "worse" if gain < -noise else "better" if gain > noise else ""
            worse += said == "worse"
            lines.append([name, measure.title, f"{old:.4f}", f"{new:.4f}", f"{noise:.4f}", said])
    return ["| " + " | ".join(line) + " |" for line in lines], worse
