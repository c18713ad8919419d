"""Both looks at what moves, `--weights none` from the source to the scene: what is marked, and J where a truth is.

``python -m tests.bench.bench_second_look DATA [NAME ...]`` prints a markdown table. DATA is a folder as for
:mod:`tests.bench.bench_masks`; the example clip comes with the project. ``--stride N`` uses every N-th frame.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from easi3r_ns.core.config import Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import Easi3RError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.evaluate.masks import jaccard, pooled, truth_on_network
from easi3r_ns.frames import load_frames, open_source
from easi3r_ns.pipelines.geometric import GEOMETRY, reconstruct_geometric
from easi3r_ns.storage.cache import StageCache
from tests.bench.bench_masks import SEQUENCES, STATIC

EXAMPLE = Path(__file__).parents[2] / "examples" / "clip"


def sources(data: Path) -> dict[str, tuple[Path, Path | None]]:
    """Name -> the source and the folder of its true masks; None where nothing moves."""
    images, masks = (data / "davis" / part / "480p" for part in ("JPEGImages", "Annotations"))
    known = {name: (data / name / sub, None) for name, sub in STATIC.items()}
    known |= {name: (images / name, masks / name) for name in SEQUENCES}
    return {"example clip": (EXAMPLE / "clip.mp4", EXAMPLE / "masks")} | {
        name: pair for name, pair in known.items() if pair[0].is_dir()
    }


def truth_of(scene: Scene, folder: Path) -> np.ndarray:
    """(F, H, W) bool: what moves, of the frames that the scene has."""
    files = sorted(folder.glob("*.png"))
    masks = (np.asarray(Image.open(files[index]).convert("L")) > 0 for index in scene.indices)
    return np.stack([truth_on_network(mask, scene.pixel_map) for mask in masks])


def row(name: str, source: Path, masks: Path | None, stride: int) -> str:
    """Frames placed, flow explained, both looks, and CPU seconds."""
    count = len(open_source(source).times(FrameConfig(), RunLog()))
    select = FrameConfig(num_frames_target=-(-count // stride))
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        frames = load_frames(source, Path(folder) / "frames", select=select, geometry=GEOMETRY, log=RunLog())
        cache = StageCache(Path(folder) / "stages")
        try:
            scene = reconstruct_geometric(frames, Easi3RConfig(weights="none"), RefineConfig(), cache, RunLog())
        except Easi3RError as error:
            return f"| {name} | {len(frames)} | {error} | | | |"
    seconds = time.process_time() - begin
    facts, dynamic = scene.provenance.get("motion") or {}, scene.dynamic
    looks = [dynamic.masks if dynamic.first is None else dynamic.first, dynamic.masks]
    marked = [f"{100 * look.mean():.1f} ({100 * look.mean(axis=(1, 2)).max():.1f})" for look in looks]
    if masks is not None:
        scores = [pooled([jaccard(look, truth_of(scene, masks))]) for look in looks]
        marked = [f"{score.jm:.3f} / {score.jr:.3f}" for score in scores]
    told = f"{100 * facts['explained']:.0f} %" if "explained" in facts else facts.get("why", "-")
    return f"| {name} | {len(scene)} of {len(frames)} | {told} | {marked[0]} | {marked[1]} | {seconds:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--stride", type=int, default=1)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    print("| | frames placed | flow explained | first look | second look | CPU s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (source, masks) in sources(asked.data).items():
        if not asked.names or name in asked.names:
            print(row(name, source, masks, asked.stride), flush=True)


if __name__ == "__main__":
    main()
