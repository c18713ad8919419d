"""Rendered walks with and without a zoom: what one focal length makes of them, what is told, and one per frame.

``python -m tests.bench.bench_zoom`` prints the table of examples/results/zoom.md.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easi3r_ns.core.config import FrameConfig, RefineConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.frames import ImageGeometry, load_frames
from easi3r_ns.motion.attention.masks import static_masks
from easi3r_ns.refine.features import default_focal, find_correspondences
from easi3r_ns.refine.mapping import map_incrementally
from easi3r_ns.refine.model import Lens, SparseModel
from easi3r_ns.refine.zoom import measure_zoom
from easi3r_ns.storage.files import write_png
from tests.support.helpers import align_sim3
from tests.support.zoom_clip import zoom_clip

CLIPS = [(ratio, seed) for ratio in (1.0, 1.1, 1.2, 1.5) for seed in (3, 5)]


@dataclass(frozen=True)
class Truth:
    """Of one clip."""

    focals: np.ndarray
    centres: np.ndarray

    def row(self, model: SparseModel) -> str:
        """Frames, focal length error (mean and of the ratios, percent), camera error (percent of the path)."""
        known = model.registered
        error = np.log(model.frame_focals / self.focals)[known]
        path = np.linalg.norm(np.diff(self.centres, axis=0), axis=1).sum()
        ate = align_sim3(model.T_world_cam[known, :3, 3], self.centres[known]).rmse / path
        return f"{known.sum()} | {100 * np.abs(error).mean():.1f} | {100 * np.ptp(error):.1f} | {100 * ate:.2f}"


def main() -> None:
    """Print the table."""
    print(
        "| zoom | seed | one: frames | focal, % | ratios, % | cameras, % | change found, % | error left out, px |",
        end="",
    )
    print(" told | each: frames | focal, % | ratios, % | cameras, % |")
    for ratio, seed in CLIPS:
        clip, focals = zoom_clip(ratio, seed)
        truth = Truth(focals, clip.T_world_cam[:, :3, 3])
        with tempfile.TemporaryDirectory() as folder:
            for k, image in enumerate(clip.images):
                write_png(Path(folder) / f"{k:03d}.png", image)
            select, log = FrameConfig(num_frames_target=0), RunLog()
            store = Path(folder) / "store"
            frames = load_frames(Path(folder), store, select=select, geometry=ImageGeometry(), log=log)
            still = static_masks(len(frames), *frames.images.shape[1:3], 16)
            found = find_correspondences(frames, still, log, focal=None, seed=0)
        guess = default_focal(frames.pixel_map.source_wh)
        options = (found, Lens.centred(frames.pixel_map.source_wh, guess), RefineConfig())
        one = map_incrementally(*options, fixed_focal=False, seed=0)
        each = map_incrementally(*options, fixed_focal=False, seed=0, focals=np.full(len(frames), guess))
        zoom = one and measure_zoom(one, "radial")
        told = "- | - | -"
        if zoom is not None:
            left_out = " -> ".join(f"{error:.2f}" for error in zoom.errors)
            told = f"{100 * zoom.change:.1f} | {left_out} | {'yes' if zoom.found else 'no'}"
        rows = ["- | - | - | -" if model is None else truth.row(model) for model in (one, each)]
        print(f"| {ratio} | {seed} | {rows[0]} | {told} | {rows[1]} |", flush=True)


if __name__ == "__main__":
    main()
