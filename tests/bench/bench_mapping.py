"""Frames placed, camera error, focal length and CPU seconds of mapping (``--weights none``), beside plain COLMAP.

``python -m tests.bench.bench_mapping DATA [NAME ...] --keep FOLDER`` prints one row a clip and method. DATA holds
``hololens``, ``hololens2`` and ``davis``; ``example`` is the clip of this project; ``NAME/3`` takes every third frame.
Frames and masks of a clip are kept in FOLDER and are not part of the time; features and matching are.

Plain COLMAP: pycolmap with its defaults (8192 features, exhaustive matching, incremental mapping with one lens), no
masks, one thread, its largest model; mapping stops after ``--limit`` seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from easi3r_ns.core.config import FrameConfig, RefineConfig
from easi3r_ns.core.errors import AlignmentError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import DynamicMasks, Frames
from easi3r_ns.evaluate.trajectory import DegeneratePath, compare_paths
from easi3r_ns.frames import load_frames
from easi3r_ns.frames.near import shot
from easi3r_ns.motion.packing import pack_masks, unpack_masks
from easi3r_ns.motion.two_view import geometric_masks
from easi3r_ns.motion.two_view.masks import METHOD
from easi3r_ns.pipelines.geometric import GEOMETRY
from easi3r_ns.refine import SparseModel, map_static
from easi3r_ns.refine.library import load_pycolmap
from easi3r_ns.storage.cache import StageCache, digest

EXAMPLE = Path(__file__).parents[2] / "examples/clip"
DAVIS = ("car-shadow", "horsejump-high", "blackswan", "drift-chicane")
HEAD = (
    "| clip | method | cameras of | frames placed | ATE, cm | focal, px | CPU s |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)
DEFAULT = ["example", "hololens", "hololens2", *DAVIS[:3], *(f"{name}/3" for name in DAVIS[:3])]
Found = tuple[np.ndarray, np.ndarray, float, str]
"""(F, 4, 4) camera-to-world, (F,) bool registered, focal length, name of the mapping."""


def load(title: str, root: Path, keep: Path) -> tuple[Frames, DynamicMasks, np.ndarray | None]:
    """Frames, masks and, where they are known, true cameras (F, 4, 4) of a clip, ``NAME`` or ``NAME/EVERY``."""
    name, _, every = title.partition("/")
    source, truth = root / name / "images", None
    if name == "example":
        source, truth = EXAMPLE / "clip.mp4", EXAMPLE / "truth.json"
    elif name in DAVIS:
        source = root / "davis/JPEGImages/480p" / name
    elif (root / name / "gt_cameras.json").exists():
        truth = root / name / "gt_cameras.json"
    count = 0
    if every:
        if truth is not None or not source.is_dir():
            raise SystemExit(f"{title}: only the clips of davis are thinned")
        count = -(-len(list(source.iterdir())) // int(every))
    select = FrameConfig(num_frames_target=count, on_cut="ignore")
    folder = keep / title.replace("/", "_")
    frames = load_frames(source, folder / "frames", select=select, geometry=GEOMETRY, log=RunLog())
    near = shot(frames, range(len(frames)), frames.images.__getitem__, frames.pixel_map)
    masks = unpack_masks(
        StageCache(folder / "stages").stage(
            "masks",
            digest(frames.images, METHOD),
            lambda: pack_masks(geometric_masks(frames.images, GEOMETRY.patch, RunLog(), shot=near)),
        )
    )
    if truth is None:
        return frames, masks, None
    key = "T_world_cam" if name == "example" else "c2w"
    return frames, masks, np.array([frame[key] for frame in json.loads(truth.read_text())["frames"]])


def ours(frames: Frames, masks: DynamicMasks, log: RunLog) -> Found:
    """Mapping as ``--weights none`` does it."""
    model: SparseModel = map_static(frames, masks, RefineConfig(), log, focal=None, seed=0)
    return model.T_world_cam, model.registered, model.focal, model.record["kept"]


def plain(frames: Frames, limit: int) -> Found:
    """pycolmap's own pipeline; as few options as a first user would give, and one thread."""
    pycolmap = load_pycolmap()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, database = folder / "images", folder / "database.db"
        images.mkdir()
        for position, path in enumerate(frames.source_paths):
            os.symlink(path.resolve(), images / f"frame_{position:05d}.png")
        pycolmap.extract_features(
            database,
            images,
            camera_mode=pycolmap.CameraMode.SINGLE,
            extraction_options=pycolmap.FeatureExtractionOptions(num_threads=1, use_gpu=False),
            device=pycolmap.Device.cpu,
        )
        matching = pycolmap.FeatureMatchingOptions(num_threads=1, use_gpu=False)
        pycolmap.match_exhaustive(database, matching, device=pycolmap.Device.cpu)
        options = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=0, max_runtime_seconds=limit)
        options.mapper.num_threads = 1
        models = pycolmap.incremental_mapping(database, images, folder, options)
        if not models:
            raise AlignmentError("no model")
        model = max(models.values(), key=lambda m: m.num_reg_images())
        T, registered = np.tile(np.eye(4), (len(frames), 1, 1)), np.zeros(len(frames), dtype=bool)
        for image_id in model.reg_image_ids():
            image = model.image(image_id)
            position = int(image.name[6:11])
            T[position, :3], registered[position] = image.cam_from_world().inverse().matrix(), True
        return T, registered, float(next(iter(model.cameras.values())).params[0]), "-"


def row(name: str, method: str, run: Callable[[], Found], truth: np.ndarray | None) -> str:
    """One line of the table."""
    begin = time.process_time()
    try:
        T, registered, focal, kept = run()
    except AlignmentError as error:
        return f"| {name} | {method} | none: {str(error).split(':')[0]} | | | | {time.process_time() - begin:.0f} |"
    seconds, known = time.process_time() - begin, np.flatnonzero(registered)
    ate = "-"
    if truth is not None:
        try:
            ate = f"{100 * compare_paths(T[known], truth[known]).ate:.2f}"
        except DegeneratePath:
            ate = "degenerate"
    return f"| {name} | {method} | {kept} | {len(known)} of {len(T)} | {ate} | {focal:.1f} | {seconds:.0f} |"


def main() -> None:
    """Print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", default=DEFAULT)
    parser.add_argument("--keep", type=Path, required=True, help="folder for frames and masks")
    parser.add_argument("--methods", nargs="*", default=["ours", "plain"])
    parser.add_argument("--limit", type=int, default=300, help="wall seconds after which plain mapping stops")
    parser.add_argument("--verbose", action="store_true", help="print the CPU seconds of every stage")
    args = parser.parse_args()
    print(HEAD)
    for name in args.names:
        frames, masks, truth = load(name, args.data, args.keep)
        log = RunLog()
        runs = {"ours": lambda: ours(frames, masks, log), "plain": lambda: plain(frames, args.limit)}  # noqa: B023
        for method in args.methods:
            title = "plain COLMAP" if method == "plain" else "this project"
            print(row(name, title, runs[method], truth), flush=True)
        if args.verbose:
            print("\n".join(f"  {stage.name}: {stage.cpu_seconds:.1f} CPU s" for stage in log.stages), flush=True)


if __name__ == "__main__":
    main()
