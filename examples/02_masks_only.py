"""Motion masks of a clip, without cameras: the frames, and for each a picture of what moves.

    python examples/02_masks_only.py [--data clip.mp4] [--output-dir out/masks_only] [--weights tiny]

White moves, which is what `--masks` of a run expects.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from easi3r_ns.core.config import Easi3RConfig, FrameConfig
from easi3r_ns.core.pairs import make_pairs
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.resample import static_at_source
from easi3r_ns.frames import ImageGeometry, load_frames
from easi3r_ns.network.compute import choose_compute
from easi3r_ns.network.lazy import LazyBackbone
from easi3r_ns.pipelines.network_stage import NetworkStage
from easi3r_ns.storage.cache import StageCache
from easi3r_ns.storage.files import make_folder, write_png

CLIP = Path(__file__).parent / "clip" / "clip.mp4"


def main(data: Path = CLIP, output_dir: Path = Path("out/masks_only"), weights: str = "tiny") -> None:
    """Write ``output_dir/frames`` and ``output_dir/masks``."""
    log, compute = RunLog(), choose_compute("auto", "auto", batch_size=0)
    backbone = LazyBackbone.open(weights, device=compute.device, log=log, dtype=compute.dtype)
    network = backbone.info.config
    geometry = ImageGeometry(network.image_size, network.patch_size, network.square)
    frames = load_frames(data, output_dir / "frames", select=FrameConfig(), geometry=geometry, log=log)

    # The first pass of Easi3R: every frame is encoded once, pairs of frames are decoded only for their attention.
    pairs = make_pairs(backbone.info.graph or "swinstride-5-noncyclic", len(frames))
    stage = NetworkStage(frames, pairs, backbone, Easi3RConfig(weights=weights), compute, StageCache(None), log)
    dynamic = stage.masks_before_decoding()
    masks = output_dir / "masks"
    make_folder(masks)
    for moving, source in zip(dynamic.masks, frames.source_paths):
        static = static_at_source(moving, frames.pixel_map, growth=0)
        write_png(masks / source.name, 255 * (~static).astype("uint8"))
    print(f"{masks}: {len(frames)} masks, {dynamic.coverage.mean():.1%} of the pixels move")


if __name__ == "__main__":
    tyro.cli(main)
