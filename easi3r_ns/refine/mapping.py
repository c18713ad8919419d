"""Cameras and points from scratch: incremental mapping on static correspondences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import RefineConfig
from ..errors import AlignmentError
from ..files import read_png
from ..runlog import RunLog
from ..types import DynamicMasks, Frames
from .bundle import MAPPING_MODEL, finish
from .features import MIN_MATCHES, default_focal, find_correspondences
from .library import load_pycolmap, write_frames, write_matches
from .model import Correspondences, Lens, SparseModel

MEDIAN_DEPTH = 4.0
"""Units of the median point's depth in a model mapped from scratch; see :func:`easi3r_ns.geometry.choose_scale`."""


def map_static(
    frames: Frames, dynamic: DynamicMasks, config: RefineConfig, log: RunLog, *, focal: float | None, seed: int
) -> SparseModel:
    """Cameras and sparse points of what stands still, from nothing but the images and their motion masks.

    Args:
        frames: their ``source_paths`` are read.
        focal: known focal length in SOURCE pixels, kept fixed; None: found by bundle adjustment.
        seed: of every random draw; the same input and seed give the same cameras.

    Returns:
        The largest model that incremental mapping finds, in the frame of its first camera; the unit of length is such
        that the median depth of the points is 4. Frames may be missing: see ``registered``.

    Raises:
        AlignmentError: too little texture or too little parallax.
        MissingExtraError: pycolmap is not installed.
    """
    found = find_correspondences(frames, dynamic, log, focal=focal, seed=seed)
    if found.num_matches == 0:
        raise AlignmentError(_no_texture(found, dynamic))
    lens = Lens.centred(frames.pixel_map.source_wh, focal or default_focal(frames.pixel_map.source_wh))
    with log.stage("mapping", len(frames)) as advance:
        model = map_incrementally(found, lens, config, fixed_focal=focal is not None, seed=seed, advance=advance)
    if model is None:
        raise AlignmentError(
            "the frames match, but give no scene with a plausible lens: the camera must move sideways, not only turn "
            "or stand still, and in small steps. Take a clip with more movement or more frames, or use a network "
            "(--weights tiny or dust3r), which needs no parallax"
        )
    return in_first_camera(with_colors(model, frames.source_paths))


def map_incrementally(
    found: Correspondences,
    lens: Lens,
    config: RefineConfig,
    *,
    fixed_focal: bool,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> SparseModel | None:
    """The largest model that COLMAP's incremental mapper makes of the correspondences; None when it finds none.

    One thread: the sums of several are added in an order that changes from run to run, which can decide whether a
    point or a frame is kept.

    Args:
        lens: where bundle adjustment starts; its focal length is first estimated with the frames, unless
            ``fixed_focal``: then it stays.
        advance: called after every frame that was registered.
    """
    pycolmap = load_pycolmap()
    with tempfile.TemporaryDirectory(prefix="easi3r-") as folder:
        database = pycolmap.Database.open(Path(folder) / "database.db")
        write_frames(database, list(found.keypoints), lens, MAPPING_MODEL, fixed_focal)
        write_matches(database, found)
        database.close()
        models = pycolmap.incremental_mapping(
            Path(folder) / "database.db",
            folder,
            folder,
            _mapping_options(fixed_focal, seed),
            next_image_callback=lambda: advance(1),
        )
    if not models:
        return None
    best = max(models.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
    return finish(best, config.camera_model, found.num_frames, fixed_focal=fixed_focal)


def _mapping_options(fixed_focal: bool, seed: int) -> Any:
    options = load_pycolmap().IncrementalPipelineOptions(
        num_threads=1,
        random_seed=seed % 2**31,
        min_num_matches=MIN_MATCHES,
        min_model_size=3,
        max_num_models=3,
        extract_colors=False,
        ba_refine_focal_length=not fixed_focal,
    )
    options.mapper.random_seed = options.triangulation.random_seed = seed % 2**31
    options.mapper.num_threads = 1
    options.mapper.abs_pose_refine_focal_length = not fixed_focal
    return options


def in_first_camera(model: SparseModel) -> SparseModel:
    """The model in the frame of its first registered camera, median point depth :data:`MEDIAN_DEPTH`."""
    first = np.linalg.inv(model.T_world_cam[np.flatnonzero(model.registered)[0]])
    scale = MEDIAN_DEPTH / float(np.median(model.observed_depth()))
    return model.moved(scale, first[:3, :3], scale * first[:3, 3])


def with_colors(model: SparseModel, source_paths: Sequence[Path]) -> SparseModel:
    """Every point in the mean colour of the source pixels that observe it."""
    sparse = model.sparse
    total = np.zeros((len(sparse), 3))
    for frame in np.unique(sparse.frame_index).tolist():
        seen = sparse.frame_index == frame
        image = read_png(source_paths[frame])
        column, row = np.floor(sparse.pixels[seen]).astype(int).T
        colors = image[np.clip(row, 0, image.shape[0] - 1), np.clip(column, 0, image.shape[1] - 1)]
        np.add.at(total, sparse.point_index[seen], colors)
    count = np.maximum(np.bincount(sparse.point_index, minlength=len(sparse)), 1)[:, None]
    return replace(model, sparse=replace(sparse, colors=np.rint(total / count).astype(np.uint8)))


def _no_texture(found: Correspondences, dynamic: DynamicMasks) -> str:
    count = np.mean([len(rows) for rows in found.keypoints])
    return (
        f"no two frames share enough texture that stands still: {count:.0f} keypoints a frame on average, with "
        f"{100 * dynamic.coverage.mean():.0f} % of the picture marked as moving. Use a sharper clip or frames closer "
        "in time, look at the masks, or use a network (--weights tiny or dust3r)"
    )
