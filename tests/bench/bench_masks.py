"""Motion masks from optical flow alone, without mapping: what is marked where nothing moves, and J where a truth is.

``python -m tests.bench.bench_masks DATA`` prints two markdown tables. DATA is a folder with ``hololens/images``,
``hololens2/images``, ``rgbd5/color`` and ``davis/`` (the layout of DAVIS); what is not there is left out. The example
clip is rendered at rest. Of every source each frame is used, and every 2nd and every 4th (DAVIS: every 6th): ``frames``
takes them out of the whole source, ``source`` has nothing between them, like a clip of a lower rate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.evaluate.masks import jaccard, pooled, truth_on_network
from easi3r_ns.frames import plan_preprocessing, resize_and_crop
from easi3r_ns.frames.images import ImageFolder
from easi3r_ns.frames.near import Shot, near_indices
from easi3r_ns.motion.two_view import geometric_masks
from easi3r_ns.pipelines.geometric import GEOMETRY
from easi3r_ns.training.scenes import ClipOptions, film, handheld_path
from examples import render_clip as example

STATIC = {"hololens": "images", "hololens2": "images", "rgbd5": "color"}
SEQUENCES = ("car-shadow", "blackswan", "horsejump-high", "drift-chicane")
STATIC_STRIDES, MOVING_STRIDE = (2, 4), 6
WHERE = ("frames", "source")
FEWEST_FRAMES = 3


@dataclass(frozen=True)
class Source:
    """All frames of a source at network size, and the truth where something moves."""

    name: str
    images: np.ndarray
    moving: np.ndarray | None = None


def read_source(name: str, folder: Path, masks: Path | None = None) -> Source:
    """A folder of images, and of masks with the same stems."""
    source = ImageFolder(folder)
    indices = range(len(source.times(FrameConfig(), RunLog())))
    images, truth = [], []
    for index, image in source.read(indices, RunLog()):
        pixel_map = plan_preprocessing(image.shape[1::-1], GEOMETRY)
        images.append(resize_and_crop(image, pixel_map))
        if masks is not None:
            mask = np.asarray(Image.open(masks / f"{Path(source.name(index)).stem}.png").convert("L")) > 0
            truth.append(truth_on_network(mask, pixel_map))
    return Source(name, np.stack(images), np.stack(truth) if truth else None)


def example_at_rest() -> Source:
    """The example clip in which nothing moves, as it would be decoded."""
    times = np.arange(example.NUM_FRAMES) / example.FPS
    scene = example.living_room(times[-1])
    path = handheld_path(scene, times, np.random.RandomState(example.PATH_SEED))
    size, options = (example.HEIGHT, example.WIDTH), ClipOptions(fps=example.FPS, noise=1.0)
    clip = film(scene.at_rest(), scene.mover_ids, path, example.FOCAL, size, times, options)
    pixel_map = plan_preprocessing(size[::-1], GEOMETRY)
    return Source("example clip at rest", np.stack([resize_and_crop(image, pixel_map) for image in clip.images]))


def masks_of(source: Source, stride: int, within: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Places, masks and CPU seconds of every ``stride``-th frame, ``within`` its source or on its own."""
    places = np.arange(0, len(source.images), stride)
    near = near_indices(places, np.arange(len(source.images)))
    shot = Shot(places, near, source.images.__getitem__) if within else None
    begin = time.process_time()
    found = geometric_masks(source.images[places], GEOMETRY.patch, RunLog(), shot=shot).masks
    return places, found, time.process_time() - begin


def static_rows(sources: list[Source]) -> Iterator[str]:
    """Share of the picture that is marked, in per cent: mean over the frames, and the worst frame."""
    yield "| nothing moves | " + " | ".join(["all", *(f"{s}: {w}" for s in STATIC_STRIDES for w in WHERE)]) + " |"
    yield "| --- |" + " --- |" * (1 + 2 * len(STATIC_STRIDES))
    for source in sources:
        cells = []
        for stride, within in [(1, True), *((s, w) for s in STATIC_STRIDES for w in (True, False))]:
            if len(source.images) < FEWEST_FRAMES * stride - stride + 1:
                cells.append("-")
                continue
            marked = 100 * masks_of(source, stride, within)[1].mean(axis=(1, 2))
            cells.append(f"{marked.mean():.1f} ({marked.max():.1f})")
        yield f"| {source.name} | " + " | ".join(cells) + " |"


def moving_rows(sources: list[Source]) -> Iterator[str]:
    """JM / JR at network resolution."""
    yield f"| something moves | all | CPU s a frame | {MOVING_STRIDE}: frames | {MOVING_STRIDE}: source |"
    yield "| --- | --- | --- | --- | --- |"
    totals: list[list[np.ndarray]] = [[], [], []]
    for source in sources:
        assert source.moving is not None
        cells = []
        for total, (stride, within) in zip(totals, ((1, True), (MOVING_STRIDE, True), (MOVING_STRIDE, False))):
            places, found, seconds = masks_of(source, stride, within)
            total.append(jaccard(found, source.moving[places]))
            score = pooled(total[-1:])
            cells.append(f"{score.jm:.3f} / {score.jr:.3f}")
            if stride == 1:
                cells.append(f"{seconds / len(places):.2f}")
        yield f"| {source.name} | " + " | ".join(cells) + " |"
    scores = [pooled(total) for total in totals]
    cells = [f"{score.jm:.3f} / {score.jr:.3f}" for score in scores]
    yield f"| all frames pooled | {cells[0]} | | {cells[1]} | {cells[2]} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    cv2.setNumThreads(1)
    static = [read_source(n, data / n / sub) for n, sub in STATIC.items() if (data / n / sub).is_dir()]
    for line in static_rows([*static, example_at_rest()]):
        print(line, flush=True)
    print()
    images, masks = (data / "davis" / part / "480p" for part in ("JPEGImages", "Annotations"))
    moving = [read_source(n, images / n, masks / n) for n in SEQUENCES if (images / n).is_dir()]
    for line in moving_rows(moving) if moving else ():
        print(line, flush=True)


if __name__ == "__main__":
    main()
