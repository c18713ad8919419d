"""A clip becomes a nerfstudio dataset: what `ns-process-data easi3r` does, called as a library.

    python examples/01_clip_to_dataset.py [--data clip.mp4] [--output-dir out/example] [--weights tiny]

The other examples read what this one writes.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from easi3r_ns.core.config import Easi3RConfig, FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.pipelines.run import RunConfig, process

CLIP = Path(__file__).parent / "clip" / "clip.mp4"


def main(
    data: Path = CLIP,
    output_dir: Path = Path("out/example"),
    weights: str = "tiny",
    num_frames: int = 50,
    overwrite: bool = False,
) -> None:
    """Reconstruct ``data`` and write the dataset to ``output_dir``."""
    # The options of the command line are the fields of these classes.
    config = RunConfig(frames=FrameConfig(num_frames_target=num_frames), easi3r=Easi3RConfig(weights=weights))
    log = RunLog()
    result = process(data, output_dir, config, overwrite=overwrite, log=log)

    scene = result.scene
    print(f"{result.transforms_path}: {len(scene)} of {result.num_source_frames} frames")
    print(f"moving: {scene.dynamic.coverage.mean():.1%} of the pixels")
    if result.card.verdict is not None:
        print(f"verdict: {result.card.verdict.level.words}, see {result.card.report}")
    print(f"{sum(stage.seconds for stage in log.stages):.1f} s in {len(log.stages)} stages")
    for warning in log.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    tyro.cli(main)
