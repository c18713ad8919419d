"""Motion masks from optical flow alone against the truth, whether or not cameras can be found for the clip.

    python examples/results/masks_from_flow.py DATA [SEQUENCE ...]

DATA as for `easi3r evaluate folder`. Prints JM and JR at network resolution for every capture with true masks, all
frames, and pooled over all of them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.evaluate.datasets import Capture, find_captures, read_mask
from easi3r_ns.evaluate.masks import jaccard, pooled, truth_on_network
from easi3r_ns.frames import load_frames
from easi3r_ns.motion.two_view import geometric_masks
from easi3r_ns.pipelines.geometric import GEOMETRY


def score(capture: Capture) -> np.ndarray:
    """(F,) J of the frames with a true mask."""
    with tempfile.TemporaryDirectory() as folder:
        select = FrameConfig(num_frames_target=0)
        frames = load_frames(capture.data, Path(folder), select=select, geometry=GEOMETRY, log=RunLog())
        found = geometric_masks(frames.images, GEOMETRY.patch, RunLog()).masks
        keys = capture.keys(frames.names, frames.indices.tolist())
        known = [k for k, key in enumerate(keys) if key in capture.masks]
        truth = [truth_on_network(read_mask(capture.masks[keys[k]]), frames.pixel_map) for k in known]
        return jaccard(found[known], truth)


def main() -> None:
    """Print a markdown table."""
    root, *names = sys.argv[1:]
    print("| sequence | frames | JM | JR |\n| --- | --- | --- | --- |")
    scores = []
    for capture in find_captures([Path(root)], names):
        if capture.masks:
            scores.append(score(capture))
            print(_line(capture.name, scores[-1:]), flush=True)
    print(_line("all frames pooled", scores))


def _line(name: str, scores: list[np.ndarray]) -> str:
    result = pooled(scores)
    return f"| {name} | {result.num_frames} | {result.jm:.3f} | {result.jr:.3f} |"


if __name__ == "__main__":
    main()
