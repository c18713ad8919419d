"""Cameras and points from scratch of several clips at once: one scene, each clip with its own camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ..core.config import RefineConfig
from ..core.runlog import RunLog
from ..core.types import DynamicMasks, Frames
from .features import Features, default_focal, detect_features, match_features, static_features
from .mapping import Task, in_first_camera, map_matches, with_colors
from .matching import choose_pairs
from .model import Correspondences, Lens, Lenses, SparseModel


@dataclass(frozen=True)
class FilmedClip:
    """A clip to be mapped with others."""

    frames: Frames
    dynamic: DynamicMasks
    camera: int
    """Number of its camera, from 0."""
    start: float | None = None
    """Focal length in source pixels from which bundle adjustment starts; None: COLMAP's guess."""


def map_together(
    clips: Sequence[FilmedClip], config: RefineConfig, log: RunLog, *, focal: float | None, seed: int
) -> SparseModel:
    """Cameras and sparse points of what stands still in all clips, as :func:`~.mapping.map_static` of one.

    Frames are numbered through the clips in their order. Every camera has a lens of its own
    (:attr:`~.model.SparseModel.lenses`), where there are several.

    Args:
        focal: known focal length in SOURCE pixels of all clips, kept fixed.

    Raises:
        AlignmentError: too little texture or too little parallax.
        MissingExtraError: pycolmap is not installed.
    """
    detected = [detect_features(clip.frames, log, config.features) for clip in clips]
    clip_of = np.repeat(np.arange(len(clips)), [len(clip.frames) for clip in clips])
    told = _lenses(clips, config, [focal or clip.start for clip in clips])
    guessed = _lenses(clips, config, [focal] * len(clips))

    def matched(masks: Sequence[DynamicMasks]) -> Correspondences:
        parts = [
            static_features(features, own, clip.frames.pixel_map)
            for features, own, clip in zip(detected, masks, clips, strict=True)
        ]
        features = Features.joined(parts)
        pairs = choose_pairs(features.descriptors, seed, clip_of, few=features.learned)
        has_focal = focal is not None or told.fisheye
        return match_features(features, pairs, told if told.fisheye else guessed, log, has_focal=has_focal, seed=seed)

    masks = [clip.dynamic for clip in clips]
    found, moves = matched(masks), any(own.masks.any() for own in masks)

    @cache
    def everything() -> Correspondences:
        return matched([replace(own, masks=np.zeros_like(own.masks)) for own in masks]) if moves else found

    starts = [told] if all(clip.start is None for clip in clips) else [told, guessed]
    coverage = float(np.concatenate([own.coverage for own in masks]).mean())
    tasks = [Task(start, config, focal is not None, seed, log) for start in starts]
    alone = told.focal if isinstance(told, Lens) and (focal or clips[0].start) else None
    model = map_matches(tasks, found, everything, coverage, told_focal=alone)
    paths = sum((clip.frames.source_paths for clip in clips), ())
    return in_first_camera(with_colors(model, paths))


def _lenses(clips: Sequence[FilmedClip], config: RefineConfig, focals: Sequence[float | None]) -> Lens | Lenses:
    """The first lens of every camera, or the one of all clips; a camera begins as the first of its clips says."""
    lenses: dict[int, Lens] = {}
    for clip, focal in zip(clips, focals, strict=True):
        pixel_map = clip.frames.pixel_map
        begin = focal or default_focal(pixel_map.picture_wh, config.camera_model)
        lens = Lens.centred(pixel_map.source_wh, begin, pixel_map.principal_xy).of_kind(config.camera_model)
        lenses.setdefault(clip.camera, lens)
    if len(lenses) == 1:
        return lenses[clips[0].camera]
    counts = [len(clip.frames) for clip in clips]
    index = np.repeat([clip.camera for clip in clips], counts)
    return Lenses(tuple(lenses[camera] for camera in sorted(lenses)), index)
