"""Motion masks of a clip, without cameras: the frames, and for each a picture of what moves.

    python examples/02_masks_only.py [--data clip.mp4] [--output-dir out/masks_only] [--weights tiny]

White moves, which is what `--masks` of a run expects.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from easi3r_ns.core.config import Easi3RConfig, FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.resample import static_at_source
from easi3r_ns.frames import load_frames
from easi3r_ns.pipelines.network import NetworkPipeline
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.storage.files import make_folder, write_png

CLIP = Path(__file__).parent / "clip" / "clip.mp4"


def main(data: Path = CLIP, output_dir: Path = Path("out/masks_only"), weights: str = "tiny") -> None:
    """Write ``output_dir/frames`` and ``output_dir/masks``."""
    log, pipeline = RunLog(), NetworkPipeline(RunConfig(easi3r=Easi3RConfig(weights=weights)))
    pipeline.prepare(log)
    frames = load_frames(data, output_dir / "frames", select=FrameConfig(), geometry=pipeline.geometry, log=log)
    dynamic = pipeline.masks(frames, StageCache(None), log)
    masks = output_dir / "masks"
    make_folder(masks)
    for moving, source in zip(dynamic.masks, frames.source_paths):
        static = static_at_source(moving, frames.pixel_map, growth=0)
        write_png(masks / source.name, 255 * (~static).astype("uint8"))
    print(f"{masks}: {len(frames)} masks, {dynamic.coverage.mean():.1%} of the pixels move")


if __name__ == "__main__":
    tyro.cli(main)
