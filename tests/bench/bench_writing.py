"""Seconds from frames to a dataset, by stages: ``python -m tests.bench.bench_writing CLIP OUT [FRAMES] [FORMAT]``.

Frames of a real clip are decoded, kept, and written as a dataset with made-up cameras, depth and masks, which is
checked and gets its report. Wall and CPU seconds of this process; on a machine with other work only the latter compare.
``python -m tests.bench.bench_writing --images CLIP [FRAMES]`` compares encoders of images instead.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from easi3r_ns.core.config import DatasetConfig, FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.core.types import DynamicMasks, Frames
from easi3r_ns.dataset.nerfstudio import check_loads, with_dataset_images, write_dataset
from easi3r_ns.frames import KEPT_BYTES, ImageGeometry, Kept, load_frames
from easi3r_ns.report.card import try_report_card
from easi3r_ns.storage.files import SUFFIXES, encode_jpeg, read_png
from easi3r_ns.storage.png import encode_png

CONFIG = FrameConfig(num_frames_target=50, on_cut="ignore")


def made_up(frames: Frames) -> Scene:
    """A scene of these frames: a wavy wall, a disc that moves, a camera that travels sideways."""
    count, height, width = frames.images.shape[:3]
    y, x = np.mgrid[:height, :width]
    depth = np.stack([3 + np.sin(x / 60 + frame / 9) + y / height for frame in range(count)]).astype(np.float32)
    centres = width / 2 + 2 * np.arange(count)
    moving = np.stack([(x - centre) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2 for centre in centres])
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, 0, 3] = np.linspace(0, 1, count)
    score = np.zeros((count, height // 16, width // 16), np.float32)
    return Scene(
        images=frames.images,
        T_world_cam=T,
        focals=np.full(count, 0.9 * width),
        principal_point=np.array([width / 2 - 0.5, height / 2 - 0.5]),
        depth=depth,
        confidence=np.full(depth.shape, 5, np.float32),
        dynamic=DynamicMasks(moving, score, float("nan"), source="made up"),
        pixel_map=frames.pixel_map,
        names=frames.names,
        times=frames.times,
        indices=frames.indices,
        source_paths=frames.source_paths,
        min_confidence=1.0,
        provenance={"weights": {"name": "none"}},
    )


def stages(clip: Path, out: Path, count: int, image_format: str) -> None:
    """Print wall and CPU seconds of each stage."""
    import nerfstudio.data.dataparsers.nerfstudio_dataparser  # noqa: F401  # a start-up cost of every run

    shutil.rmtree(out, ignore_errors=True)
    config, log = DatasetConfig(image_format=image_format), RunLog()
    spent: dict[str, np.ndarray] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = np.array([time.perf_counter(), time.process_time()])
        result = work()
        spent[name] = np.array([time.perf_counter(), time.process_time()]) - begin
        return result

    select, geometry = replace(CONFIG, num_frames_target=count), ImageGeometry(512, 16)
    options: dict[str, Any] = {"select": select, "geometry": geometry, "log": log}
    options["kept"] = Kept(SUFFIXES[image_format], num_downscales=config.num_downscales, decoded_bytes=KEPT_BYTES)
    store = out / ".easi3r" / "frames"
    frames = timed(
        "frames",
        lambda: load_frames(clip, store, **options),
    )
    scene = made_up(frames)
    verify = partial(check_loads, log=log)
    timed("dataset and check", lambda: write_dataset(scene, out, config, log, verify=verify))
    timed("report and preview", lambda: try_report_card(with_dataset_images(scene, out, config), out, log))
    spent["all"] = sum(spent.values(), np.zeros(2))
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file() and ".easi3r" not in file.parts)
    print(f"{len(frames)} frames of {frames.pixel_map.source_wh}, {image_format}, {size / 1e6:.0f} MB")
    for name, (wall, cpu) in spent.items():
        print(f"{name:20} {wall:7.1f} s wall {cpu:7.1f} s CPU")


def encoders(clip: Path, count: int) -> None:
    """Print milliseconds of one thread, and megabytes, of one frame with several encoders."""
    import tempfile

    def opencv(suffix: str, *options: int) -> Callable[[np.ndarray], bytes]:
        return lambda image: bytes(cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1])

    level = cv2.IMWRITE_PNG_COMPRESSION
    ways = {f"PNG, OpenCV level {k}": opencv(".png", level, k) for k in (1, 3)}
    ways |= {"PNG, OpenCV fast": opencv(".png"), "PNG, difference of rows": encode_png, "JPEG 95, 4:4:4": encode_jpeg}
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        select = replace(CONFIG, num_frames_target=count, sharpest=False)
        frames = load_frames(clip, Path(folder), select=select, geometry=ImageGeometry(512, 16), log=RunLog())
        images = [read_png(path) for path in frames.source_paths]
    for name, encode in ways.items():
        begin = time.thread_time()
        sizes = [len(encode(image)) for image in images]
        print(f"{name:26} {1000 * (time.thread_time() - begin) / len(images):7.1f} ms {np.mean(sizes) / 1e6:7.2f} MB")
    decoded = [cv2.imdecode(np.frombuffer(encode_jpeg(image), np.uint8), cv2.IMREAD_COLOR) for image in images]
    errors = [cv2.PSNR(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), other) for image, other in zip(images, decoded)]
    print(f"JPEG: {np.mean(errors):.1f} dB on average, {min(errors):.1f} dB in the worst frame")


def main() -> None:
    """Run one of the two."""
    words = sys.argv[1:]
    if words[:1] == ["--images"]:
        encoders(Path(words[1]), int((words[2:] or ["8"])[0]))
        return
    clip, out = map(Path, words[:2])
    stages(clip, out, int((words[2:] or ["50"])[0]), (words[3:] or ["png"])[0])


if __name__ == "__main__":
    main()
