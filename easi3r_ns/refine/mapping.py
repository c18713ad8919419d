"""Cameras and points from scratch: incremental mapping on static correspondences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config import RefineConfig
from ..core.errors import AlignmentError
from ..core.runlog import RunLog
from ..core.types import DynamicMasks, Frames
from ..storage.files import read_png
from .bundle import MAPPING_MODEL, MIN_ANGLE, ZOOM_MODEL, finish, finish_focals
from .features import MATCH_ERROR, MIN_MATCHES, default_focal, find_correspondences
from .library import load_pycolmap, read_model, write_frames, write_matches
from .model import Correspondences, Lens, SparseModel
from .score import agreement

LITTLE_PARALLAX = 0.5
"""Least degrees of parallax of a point, where COLMAP's 1.5 leave frames without a camera. A camera that follows
something by hand turns more than it moves, and half a degree is still several pixels."""
MIN_AGREEMENT = 0.5
"""Share of a frame's matches that its camera must explain where it was registered on little parallax."""
MEDIAN_DEPTH = 4.0
"""Units of the median point's depth in a model mapped from scratch; see :func:`easi3r_ns.core.scene.choose_scale`."""


def map_static(
    frames: Frames,
    dynamic: DynamicMasks,
    config: RefineConfig,
    log: RunLog,
    *,
    focal: float | None,
    seed: int,
    start: float | None = None,
    shared_focal: bool = True,
) -> SparseModel:
    """Cameras and sparse points of what stands still, from nothing but the images and their motion masks.

    Args:
        frames: their ``source_paths`` are read.
        focal: known focal length in SOURCE pixels, kept fixed; None: found by bundle adjustment.
        seed: of every random draw; the same input and seed give the same cameras.
        start: focal length in SOURCE pixels from which bundle adjustment starts; None: COLMAP's guess.
        shared_focal: one focal length for the clip; otherwise one for every frame, for a lens that zooms.

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
    guess = default_focal(frames.pixel_map.source_wh)
    with log.stage("mapping", len(frames)) as advance:
        options = {"fixed_focal": focal is not None, "seed": seed, "advance": advance}
        for begin in dict.fromkeys([focal or start or guess, focal or guess]):
            lens = Lens.centred(frames.pixel_map.source_wh, begin)
            focals = None if shared_focal else np.full(len(frames), begin)
            if (model := map_incrementally(found, lens, config, focals=focals, **options)) is not None:
                break
    if model is None:
        raise AlignmentError(
            "the frames match, but give no scene with a plausible lens: the camera must move sideways, not only turn "
            "or stand still, and in small steps. Take a clip with more movement or more frames, use a network "
            "(--weights tiny or dust3r), which needs no parallax, or, if the lens zooms, --align.no-shared-focal"
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
    focals: np.ndarray | None = None,
) -> SparseModel | None:
    """The largest model that COLMAP's incremental mapper makes of the correspondences; None when it finds none.

    Where frames are missing in it, it is continued with points of less parallax (:data:`LITTLE_PARALLAX`); what comes
    of that is kept when it has more frames whose matches agree with their cameras (:data:`MIN_AGREEMENT`).

    One thread: the sums of several are added in an order that changes from run to run, which can decide whether a
    point or a frame is kept.

    Args:
        lens: where bundle adjustment starts; its focal length is first estimated with the frames, unless
            ``fixed_focal``: then it stays.
        advance: called after every frame that was registered.
        focals: (F,) source pixels where every frame gets a focal length of its own: where theirs start.
    """
    pycolmap = load_pycolmap()
    with tempfile.TemporaryDirectory(prefix="easi3r-") as folder:
        database = pycolmap.Database.open(Path(folder) / "database.db")
        kind = MAPPING_MODEL if focals is None else ZOOM_MODEL
        write_frames(database, list(found.keypoints), lens, kind, fixed_focal, focals)
        write_matches(database, found)
        database.close()

        def mapped(min_angle: float, start: Any = None) -> tuple[Any, SparseModel] | None:
            options = _mapping_options(fixed_focal, seed, min_angle)
            models = _run_mapper(Path(folder), options, start, lambda: advance(1))
            for model in sorted(models, key=lambda m: (m.num_reg_images(), m.num_points3D()), reverse=True):
                # The last adjustment changes a model, and this one may be continued.
                copy, lens_model = pycolmap.Reconstruction(model), config.camera_model
                if focals is not None:
                    done = finish_focals(read_model(copy, found.num_frames), lens_model)
                else:
                    done = finish(copy, lens_model, found.num_frames, fixed_focal=fixed_focal, min_angle=min_angle)
                if done is not None:
                    return model, done
            return None

        first = mapped(MIN_ANGLE)
        if first is None or first[1].registered.all():
            return first and first[1]
        more = mapped(LITTLE_PARALLAX, first[0])
    grown = more and _agreeing(more[1], found)
    return grown if grown is not None and grown.registered.sum() > first[1].registered.sum() else first[1]


def _run_mapper(folder: Path, options: Any, start: Any, next_image: Callable[[], None]) -> list[Any]:
    """The models of the database in ``folder``; with ``start``, that one with all frames that can be added to it."""
    pycolmap = load_pycolmap()
    begin = ""
    if start is not None:
        begin = folder / "start"
        begin.mkdir()
        _triangulated(start, folder / "database.db", options).write(begin)
        options.multiple_models = False
    models = pycolmap.incremental_mapping(
        folder / "database.db", folder, folder, options, begin, next_image_callback=next_image
    )
    return [models[key] for key in sorted(models)]


def _triangulated(model: Any, database_path: Path, options: Any) -> Any:
    """The model with the points that its own frames give at the parallax of ``options``; mapping adds none to them."""
    pycolmap = load_pycolmap()
    database = pycolmap.Database.open(database_path)
    mapper = pycolmap.IncrementalMapper(pycolmap.DatabaseCache.create(database, pycolmap.DatabaseCacheOptions()))
    database.close()
    mapper.begin_reconstruction(model)
    for image_id in sorted(model.reg_image_ids()):
        mapper.triangulate_image(options.triangulation, image_id)
    mapper.complete_and_merge_tracks(options.triangulation)
    mapper.retriangulate(options.triangulation)
    mapper.end_reconstruction(False)
    return model


def _agreeing(model: SparseModel, found: Correspondences) -> SparseModel:
    """The model without the frames most of whose matches contradict their camera."""
    share = agreement(model.T_world_cam, model.lens, found, model.registered, MATCH_ERROR, model.focals)
    kept = model.registered & (share >= MIN_AGREEMENT)
    return model if kept.sum() == model.registered.sum() else model.restricted(kept)


def _mapping_options(fixed_focal: bool, seed: int, min_angle: float) -> Any:
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
    options.mapper.filter_min_tri_angle = options.triangulation.min_angle = min_angle
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
