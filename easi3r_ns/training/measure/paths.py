"""Dynamic clips from end to end: images in, cameras, depth and masks out, through the pipeline that a run uses."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...core.config import PAPER_FLOW_WEIGHT, AlignConfig, Easi3RConfig
from ...core.errors import AlignmentError
from ...core.runlog import RunLog
from ...core.scene import Scene
from ...core.types import Frames, PixelMap
from ...evaluate.depth import compare_depths
from ...evaluate.masks import jaccard
from ...evaluate.trajectory import compare_paths
from ...network.backbone import LoadedBackbone
from ...pipelines.network import reconstruct
from ...storage.cache import StageCache
from ...storage.files import write_png
from ..scenes import Clip
from .motion import mask_figures
from .numbers import mean_over_clips

ALIGN = AlignConfig(max_pixels=1536)
"""An eighth of the pixels of a frame, for the sake of time; depths are solved for all of them in the end."""

VARIANTS: dict[str, dict[str, Any]] = {
    "card": {},
    "paper_flow": {},
    "one_pass": {"no_adapt": True},
    "true_masks": {},
    "no_masks": {"no_masks": True},
    "complete": {"graph": "complete"},
}
TITLES = {
    "card": "as the card says (two passes)",
    "paper_flow": f"the paper's flow weight (`--align.flow-weight {PAPER_FLOW_WEIGHT:g}`)",
    "one_pass": "one pass (`--no-adapt`)",
    "true_masks": "true masks (`--masks`)",
    "no_masks": "nothing masked (`--no-masks`)",
    "complete": "all pairs (`--graph complete`)",
}
OWN_MASKS = ("card", "paper_flow", "one_pass", "complete")
"""Variants whose masks come from the network."""


@dataclass(frozen=True)
class PathRow:
    """One clip, one variant."""

    ate: float
    """RMSE of the camera centres after Sim(3) / length of the true path."""
    rpe_translation: float
    """RMSE of the motion from frame to frame / mean length of a step."""
    rpe_rotation: float
    """RMSE in degrees."""
    focal: float
    """Relative error."""
    depth: float
    """AbsRel after one scale per clip, on what does not move."""
    overlap: np.ndarray
    """(F,) intersection over union of the masks at the network's resolution."""
    seconds: float
    """CPU time."""


def frames_of(clip: Clip, store: Path | None = None) -> Frames:
    """A rendered clip as the pipeline takes it, at the network's own size; its files are written into ``store``."""
    count, height, width = clip.depth.shape
    pixel_map = PixelMap((width, height), (width, height), (0, 0, width, height))
    paths = tuple((store or Path()) / f"frame_{k:05d}.png" for k in range(count))
    if store:
        for path, image in zip(paths, clip.images, strict=True):
            write_png(path, image)
    return Frames(clip.images, pixel_map, clip.times, np.arange(count), ("clip",) * count, paths, count)


def run(backbone: LoadedBackbone, clip: Clip, variant: str, device: str, graph: str = "auto") -> PathRow:
    """Reconstruct a clip and compare it with the truth.

    Raises:
        AlignmentError: the pairs cannot be aligned, or no similarity follows from the cameras.
    """
    options = {"graph": graph, "device": device} | VARIANTS[variant]
    align = replace(ALIGN, flow_weight=PAPER_FLOW_WEIGHT) if variant == "paper_flow" else ALIGN
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if variant == "true_masks":
            options["masks"] = Path(folder) / "masks"
            options["masks"].mkdir()
            for k, mask in enumerate(clip.moving):
                Image.fromarray(mask.astype(np.uint8) * 255).save(options["masks"] / f"{k:05d}.png")
        scene = reconstruct(
            frames_of(clip, Path(folder)), backbone, Easi3RConfig(**options), align, StageCache(None), RunLog()
        )
    return compare(scene, clip, time.process_time() - begin)


def compare(scene: Scene, clip: Clip, seconds: float = 0.0) -> PathRow:
    """Errors of a scene against the clip that it was made of."""
    errors = compare_paths(scene.T_world_cam, clip.T_world_cam)
    depths = compare_depths(scene.depth, np.where(clip.moving, 0, clip.depth))
    step = errors.path_length / (errors.num_frames - 1)
    return PathRow(
        ate=errors.ate / errors.path_length,
        rpe_translation=errors.rpe_translation / step,
        rpe_rotation=errors.rpe_rotation_deg,
        focal=float(abs(np.median(scene.focals) / clip.focal - 1)),
        depth=depths.by_scale.abs_rel if depths else float("nan"),
        overlap=jaccard(list(scene.dynamic.masks), list(clip.moving)),
        seconds=seconds,
    )


def still_camera(clip: Clip) -> dict[str, float]:
    """What a camera that never moves would score, in the units of :class:`PathRow`."""
    T = clip.T_world_cam
    centres, steps = T[:, :3, 3], np.linalg.inv(T[:-1]) @ T[1:]
    length = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    angles = 2 * np.arcsin(np.clip(np.linalg.norm(steps[:, :3, :3] - np.eye(3), axis=(1, 2)) / 8**0.5, 0, 1))
    return {
        "ate": float(np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean()) / length.sum()),
        "rpe_translation": float(np.sqrt((length**2).mean()) / length.mean()),
        "rpe_rotation": float(np.degrees(np.sqrt((angles**2).mean()))),
    }


def try_run(backbone: LoadedBackbone, clip: Clip, variant: str, device: str, graph: str = "auto") -> PathRow | None:
    """:func:`run`; None where the clip cannot be aligned (the table counts such clips)."""
    try:
        return run(backbone, clip, variant, device, graph)
    except AlignmentError:
        return None


def mean_path_error(backbone: LoadedBackbone, clips: list[Clip], graph: str, device: str) -> float:
    """Mean ATE as a share of the path; a clip that cannot be aligned counts as a camera that stands still."""
    rows = [(try_run(backbone, clip, "card", device, graph), clip) for clip in clips]
    return float(np.mean([row.ate if row else still_camera(clip)["ate"] for row, clip in rows]))


def summarise(rows: Mapping[str, list[PathRow | None]], clips: list[Clip]) -> dict[str, Any]:
    """Means over clips with 95 % intervals, JSON-serialisable."""
    names = ("ate", "rpe_translation", "rpe_rotation", "focal", "depth")
    table: dict[str, Any] = {}
    for variant, all_rows in rows.items():
        good = [row for row in all_rows if row is not None]
        table[variant] = {name: mean_over_clips([getattr(row, name) for row in good]).to_json() for name in names}
        table[variant]["failed"] = len(all_rows) - len(good)
        table[variant]["cpu_seconds"] = round(float(np.mean([row.seconds for row in good])), 1) if good else None
        if variant in OWN_MASKS:
            table[variant] |= mask_figures([row.overlap for row in good])
    still = [still_camera(clip) for clip in clips]
    trivial = {name: {"value": round(float(np.mean([s[name] for s in still])), 4)} for name in still[0]}
    return {"variants": table | {"still_camera": trivial}}
