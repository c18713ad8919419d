"""Cameras and points from scratch: incremental and global mapping on given correspondences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config import RefineConfig
from ..core.errors import AlignmentError
from ..core.runlog import RunLog
from ..core.types import DynamicMasks, Frames
from ..storage.files import read_png
from .begin import begin_at_own_pair
from .bundle import MAPPING_MODEL, MIN_ANGLE, MIN_POINTS, ZOOM_MODEL, finish, finish_focals
from .elect import MASKED, MUCH_MASKED, Rival, elect_model
from .features import MATCH_ERROR, MIN_MATCHES, default_focal, detect_features, find_correspondences
from .library import load_pycolmap, read_model, write_frames, write_matches
from .mirror import turned_right
from .model import Correspondences, Lens, Lenses, SparseModel, frame_focals
from .score import agreement

LITTLE_PARALLAX = 0.5
"""Least degrees of parallax of a point, where COLMAP's 1.5 leave frames without a camera. A camera that follows
something by hand turns more than it moves, and half a degree is still several pixels."""
MIN_AGREEMENT = 0.5
"""Share of a frame's matches that its camera must explain where it was registered on little parallax."""
COLLAPSED = 10, MIN_POINTS
"""A model of at least so many frames with fewer points than this has collapsed: with too little parallax, a bundle
adjustment changes the lens until hardly a point is left. The frames that follow take most of the time and come to
nothing (examples/results/mapping.md)."""
MODELS, MORE_MODELS = 3, 10
"""Starts of incremental mapping, and how many where the largest model has less than :data:`SMALL` of the frames: a poor
first pair with a wrong focal length ends in a few frames, another pair often in all of them."""
SMALL = 0.5
_ROUGH = {"ba_global_frames_ratio": 1.3, "ba_global_points_ratio": 1.3, "ba_global_max_refinements": 2}
"""Bundle adjustment while frames are added on little parallax: after 30 % more frames or points and not to the end,
where COLMAP does it after 10 % and up to five times, which takes more than twice as long for the same cameras. The last
adjustment goes to the end."""
MEDIAN_DEPTH = 4.0
"""Units of the median point's depth in a model mapped from scratch; see :func:`easi3r_ns.core.scene.choose_scale`."""


LITTLE, AGAIN, PLAIN, GLOBAL = (
    "mapping with little parallax",
    "mapping from other pairs",
    "mapping without masks",
    "global mapping",
)
"""Names of the mappings that stand for election beside that of what the masks leave."""
DATABASE = "database.db"


class CollapsedError(Exception):
    """A model lost nearly all its points (:data:`COLLAPSED`)."""


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
    hardly_travels: bool = False,
) -> SparseModel:
    """Cameras and sparse points of what stands still, from nothing but the images and their motion masks.

    Incremental mapping on what the masks leave comes first. Where it lacks frames, other mappings stand for election
    (:func:`~easi3r_ns.refine.elect.elect_model`): with little parallax, without masks, and the global mapper, each only
    while frames are missing; without masks also where the masks cover much
    (:data:`~easi3r_ns.refine.elect.MUCH_MASKED`).

    Args:
        frames: their ``source_paths`` are read.
        focal: known focal length in SOURCE pixels, kept fixed; None: found by bundle adjustment.
        seed: of every random draw; the same input and seed give the same cameras.
        start: focal length in SOURCE pixels from which bundle adjustment starts; None: COLMAP's guess.
        shared_focal: one focal length for the clip; otherwise one for every frame, for a lens that zooms.
        hardly_travels: a camera that only turns is known to explain the pictures as well. Only mapping with little
            parallax is tried then, from few starts: hardly a point has COLMAP's 1.5 degrees, without which mapping
            takes many times as long and comes to nothing.

    Returns:
        The elected model, in the frame of its first camera; the unit of length is such that the median depth of the
        points is 4. Frames may be missing: see ``registered``; ``record`` says which mapping was elected and why.

    Raises:
        AlignmentError: too little texture or too little parallax.
        MissingExtraError: pycolmap is not installed.
    """
    detected = detect_features(frames, log, config.features)
    told, pixel_map = focal or start, frames.pixel_map
    guess = default_focal(pixel_map.picture_wh, config.camera_model)
    first = Lens.centred(pixel_map.source_wh, told or guess, pixel_map.principal_xy).of_kind(config.camera_model)
    fisheye = first if first.fisheye else None

    def matched(masks: DynamicMasks) -> Correspondences:
        return find_correspondences(frames, masks, log, focal=focal, seed=seed, detected=detected, fisheye=fisheye)

    found = matched(dynamic)

    @cache
    def everything() -> Correspondences:
        still = replace(dynamic, masks=np.zeros_like(dynamic.masks))
        return matched(still) if dynamic.masks.any() else found

    tasks = [
        Task(
            *(replace(first, focal=begin), config, focal is not None, seed, log, shared_focal),
            # With a focal length for every frame only the first mapping exists.
            hardly_travels=hardly_travels and shared_focal,
        )
        for begin in dict.fromkeys([told or guess, focal or guess])
    ]
    coverage = float(dynamic.coverage.mean())
    model = map_matches(tasks, found, everything, coverage, told_focal=told)
    return in_first_camera(with_colors(model, frames.source_paths))


def map_matches(
    tasks: Sequence[Task],
    found: Correspondences,
    everything: Callable[[], Correspondences],
    coverage: float,
    *,
    told_focal: float | None = None,
) -> SparseModel:
    """The elected model of some matches; its world is any, and its points are black.

    Args:
        tasks: ways to begin, of which the first that gives cameras is taken.
        found: matches on what stands still, of which ``everything`` has those on all of the picture.
        coverage: mean share of the picture that moves.
        told_focal: in source pixels, where the user or the camera's metadata give one for all frames.

    Raises:
        AlignmentError: too little texture or too little parallax.
    """
    task, model, collapsed = (tasks[0], None, True) if tasks[0].hardly_travels else _first(tasks, found)
    log, seed = task.log, task.seed
    if task.shared_focal:
        rivals = _rivals(found, everything, task, masked=coverage > 0, collapsed=collapsed)
        doubted = coverage > MUCH_MASKED
        model = elect_model(model, found, rivals, log, doubted=doubted, seed=seed, told_focal=told_focal)
    if model is None:
        no_match = everything().num_matches == 0
        raise AlignmentError(_no_texture(found, coverage) if no_match else _no_lens(task.shared_focal))
    anew = partial(task.globally, found)
    return turned_right(model, found, task.config, log, fixed_focal=task.fixed_focal, seed=seed, anew=anew)


@dataclass(frozen=True)
class Task:
    """What all mappings of a clip have in common."""

    lens: Lens | Lenses
    config: RefineConfig
    fixed_focal: bool
    seed: int
    log: RunLog
    shared_focal: bool = True
    """One focal length for the clip; otherwise one for every frame, which starts at that of the lens."""
    hardly_travels: bool = False
    """See :func:`map_static`."""

    def first(self, found: Correspondences) -> tuple[SparseModel | None, bool]:
        """Incremental mapping until a model collapses: the model, and whether one did."""
        if found.num_matches == 0:
            return None, False
        with self.log.stage(MASKED, found.num_frames) as advance:
            try:
                return self._mapped(found, advance, give_up=self.shared_focal), False
            except CollapsedError:
                self.log.detail(f"{MASKED} ends early: too little parallax")
                return None, True

    def incrementally(self, name: str, found: Correspondences, **options: bool) -> SparseModel | None:
        """None too where nothing matches; ``options`` are those of :func:`map_incrementally`."""
        if found.num_matches == 0:
            return None
        with self.log.stage(name, found.num_frames) as advance:
            return self._mapped(found, advance, **options)

    def _mapped(self, found: Correspondences, advance: Callable[[int], None], **options: bool) -> SparseModel | None:
        focals = None if self.shared_focal else frame_focals(self.lens, found.num_frames)
        given = {"fixed_focal": self.fixed_focal, "seed": self.seed, "focals": focals}
        given["most"] = MODELS if self.hardly_travels else MORE_MODELS
        return map_incrementally(found, self.lens, self.config, advance=advance, **given, **options)

    def globally(self, found: Correspondences) -> SparseModel | None:
        """None too where nothing matches."""
        if found.num_matches == 0:
            return None
        with self.log.stage(GLOBAL):
            return map_globally(found, self.lens, self.config, fixed_focal=self.fixed_focal, seed=self.seed)


def _first(tasks: Sequence[Task], found: Correspondences) -> tuple[Task, SparseModel | None, bool]:
    """The first task that gives a model, or else the first, with its model and whether one collapsed at last."""
    collapsed = False
    for task in tasks:
        model, collapsed = task.first(found)
        if model is not None:
            return task, model, collapsed
    return tasks[0], None, collapsed


def _rivals(
    found: Correspondences, everything: Callable[[], Correspondences], task: Task, *, masked: bool, collapsed: bool
) -> list[Rival]:
    """The other mappings of a clip, in the order in which they are made."""
    rivals = [Rival(LITTLE, lambda: found, partial(task.incrementally, LITTLE, little_parallax=True))]
    if task.hardly_travels:
        return rivals
    if collapsed:
        # Where a model collapsed, the first mapping ended early; it goes on here.
        rivals.append(Rival(AGAIN, lambda: found, partial(task.incrementally, AGAIN)))
    if masked:
        plain = partial(task.incrementally, PLAIN, little_parallax=collapsed)
        rivals.append(Rival(PLAIN, everything, plain, doubts_masks=True))
    return rivals if collapsed else [*rivals, Rival(GLOBAL, everything, task.globally, needs_cameras=True)]


def map_incrementally(
    found: Correspondences,
    lens: Lens | Lenses,
    config: RefineConfig,
    *,
    fixed_focal: bool,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
    little_parallax: bool = False,
    give_up: bool = False,
    focals: np.ndarray | None = None,
    most: int = MORE_MODELS,
) -> SparseModel | None:
    """The largest model that COLMAP's incremental mapper makes of the correspondences; None when it finds none.

    Where frames are missing in it, it is continued with points of less parallax (:data:`LITTLE_PARALLAX`); what comes
    of that is kept when it has more frames whose matches agree with their cameras (:data:`MIN_AGREEMENT`).

    One thread: the order in which several add their sums changes and can decide whether a point or a frame is kept.

    Args:
        lens: where bundle adjustment starts; its focal length is first estimated with the frames, unless
            ``fixed_focal``: then it stays.
        advance: called after every frame that was registered.
        little_parallax: points count from :data:`LITTLE_PARALLAX` on, already at the first pair.
        give_up: make no more than :data:`MODELS` models, and raise where one collapses (:data:`COLLAPSED`).
        focals: (F,) source pixels where every frame gets a focal length of its own: where theirs start.
        most: starts where the largest model has less than :data:`SMALL` of the frames.

    Raises:
        CollapsedError: see ``give_up``.
    """
    pycolmap = load_pycolmap()
    with tempfile.TemporaryDirectory(prefix="easi3r-") as folder:
        _write_database(Path(folder) / DATABASE, found, lens, fixed_focal, focals)

        def mapped(
            min_angle: float, start: Any = None, most: int = MODELS, own_pair: bool = False
        ) -> tuple[Any, SparseModel] | None:
            options = mapping_options(fixed_focal, seed, min_angle, rough=little_parallax)
            options.max_num_models = most
            if own_pair and not begin_at_own_pair(found, Path(folder) / DATABASE, options):
                return None
            models = _run_mapper(Path(folder), options, start, lambda: advance(1), give_up=give_up)
            for model in sorted(models, key=lambda m: (m.num_reg_images(), m.num_points3D()), reverse=True):
                # The last adjustment changes a model, and this one may be continued.
                copy, lens_model = pycolmap.Reconstruction(model), config.camera_model
                how = {"fixed_focal": fixed_focal, "start": _several(lens)}
                if focals is not None:
                    done = finish_focals(read_model(copy, found.num_frames), lens_model)
                else:
                    done = finish(copy, lens_model, found.num_frames, min_angle=min_angle, **how)
                if done is not None:
                    return model, done
            return None

        angle = LITTLE_PARALLAX if little_parallax else MIN_ANGLE
        first = None
        with suppress(CollapsedError):
            first = mapped(angle, own_pair=True)
        if first is None or not first[1].registered.all():
            first = max(mapped(angle), first, key=_frames_placed)
        if not give_up and most > MODELS and (first is None or first[1].registered.mean() < SMALL):
            first = mapped(angle, most=most) or first
        if little_parallax:
            return first and _agreeing(first[1], found)
        if first is None or first[1].registered.all():
            return first and first[1]
        more = mapped(LITTLE_PARALLAX, first[0])
    grown = more and _agreeing(more[1], found)
    return grown if grown is not None and grown.registered.sum() > first[1].registered.sum() else first[1]


def _frames_placed(model: tuple[Any, SparseModel] | None) -> int:
    return int(model[1].registered.sum()) if model is not None else 0


def _run_mapper(
    folder: Path, options: Any, start: Any, next_image: Callable[[], None], *, give_up: bool = False
) -> list[Any]:
    """The models of the database in ``folder``; with ``start``, that one with all frames that can be added to it."""
    pycolmap = load_pycolmap()
    if start is not None:
        begin = folder / "start"
        begin.mkdir()
        _triangulated(start, folder / DATABASE, options).write(begin)
        options.multiple_models = False
        models = pycolmap.incremental_mapping(
            folder / DATABASE, folder, folder, options, begin, next_image_callback=next_image
        )
        return [models[key] for key in sorted(models)]
    manager = pycolmap.ReconstructionManager()
    database = pycolmap.Database.open(folder / DATABASE)
    pipeline = pycolmap.IncrementalPipeline(options, database, manager)

    def watch() -> None:
        next_image()
        model = manager.get(manager.size() - 1)
        if give_up and model.num_reg_images() >= COLLAPSED[0] and model.num_points3D() < COLLAPSED[1]:
            raise CollapsedError

    pipeline.add_callback(int(pycolmap.IncrementalPipelineCallback.NEXT_IMAGE_REG_CALLBACK), watch)
    pipeline.run()
    database.close()
    return [manager.get(k) for k in range(manager.size())]


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


def map_globally(
    found: Correspondences, lens: Lens | Lenses, config: RefineConfig, *, fixed_focal: bool, seed: int
) -> SparseModel | None:
    """The largest model of COLMAP's global mapper (GLOMAP: Pan et al., ECCV 2024); None when it finds none.

    It places all frames at once, where incremental mapping stops at the first gap; it also places what it should not,
    so frames whose matches contradict their camera (:data:`MIN_AGREEMENT`) are left out. With one thread and fixed
    seeds the same input gives the same cameras.

    Args: as for :func:`map_incrementally`.
    """
    pycolmap = load_pycolmap()
    pycolmap.set_random_seed(seed % 2**31)
    with tempfile.TemporaryDirectory(prefix="easi3r-") as name:
        folder = Path(name)
        _write_database(folder / DATABASE, found, lens, fixed_focal)
        models = pycolmap.global_mapping(folder / DATABASE, folder, folder, _global_options(fixed_focal, seed))
    if not models:
        return None
    largest = max(models.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()))
    how = {"fixed_focal": fixed_focal, "start": _several(lens)}
    model = finish(largest, config.camera_model, found.num_frames, **how)
    return model and _agreeing(model, found)


def _global_options(fixed_focal: bool, seed: int) -> Any:
    options = load_pycolmap().GlobalPipelineOptions(
        num_threads=1, random_seed=seed % 2**31, min_num_matches=MIN_MATCHES, min_model_size=3
    )
    mapper = options.mapper
    for part in (mapper, mapper.rotation_averaging, mapper.global_positioning, mapper.retriangulation):
        part.random_seed = seed % 2**31
    mapper.num_threads = 1
    mapper.global_positioning.use_gpu = False
    adjustment = mapper.bundle_adjustment
    adjustment.refine_focal_length = not fixed_focal
    adjustment.ceres.use_gpu = False
    adjustment.ceres.solver_options.num_threads = 1
    return options


def _write_database(
    path: Path, found: Correspondences, lens: Lens | Lenses, fixed_focal: bool, focals: np.ndarray | None = None
) -> None:
    database = load_pycolmap().Database.open(path)
    kind = MAPPING_MODEL if focals is None else ZOOM_MODEL
    write_frames(database, list(found.keypoints), lens, kind, fixed_focal, focals)
    write_matches(database, found)
    database.close()


def _several(lens: Lens | Lenses) -> Lenses | None:
    return lens if isinstance(lens, Lenses) else None


def _agreeing(model: SparseModel, found: Correspondences) -> SparseModel:
    """The model without the frames most of whose matches contradict their camera."""
    share = agreement(model.T_world_cam, model.optics, found, model.registered, MATCH_ERROR, model.focals)
    kept = model.registered & (share >= MIN_AGREEMENT)
    return model if kept.sum() == model.registered.sum() else model.restricted(kept)


def mapping_options(fixed_focal: bool, seed: int, min_angle: float, *, rough: bool = False) -> Any:
    """Options of COLMAP's incremental mapper for one thread and points of ``min_angle`` degrees of parallax."""
    options = load_pycolmap().IncrementalPipelineOptions(
        num_threads=1,
        random_seed=seed % 2**31,
        min_num_matches=MIN_MATCHES,
        min_model_size=3,
        extract_colors=False,
        ba_refine_focal_length=not fixed_focal,
        **(_ROUGH if rough else {}),
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


def _no_lens(shared_focal: bool) -> str:
    zooms = ", or, if the lens zooms, --align.no-shared-focal" if shared_focal else ""
    return (
        "the frames match, but give no scene with a plausible lens: the camera must move sideways, not only turn or "
        "stand still, and in small steps. Take a clip with more movement or more frames, or use a network (--weights "
        f"tiny or dust3r), which needs no parallax{zooms}"
    )


def _no_texture(found: Correspondences, coverage: float) -> str:
    count = np.mean([len(rows) for rows in found.keypoints])
    return (
        f"no two frames share enough texture that stands still: {count:.0f} keypoints a frame on average, with "
        f"{100 * coverage:.0f} % of the picture marked as moving. Use a sharper clip or frames closer "
        "in time, look at the masks, or use a network (--weights tiny or dust3r)"
    )
