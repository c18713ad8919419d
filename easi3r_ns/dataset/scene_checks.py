"""What the arrays of a scene folder must be, so that whoever uses the Scene later need not ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..core.errors import shown
from ..core.geometry import is_rigid
from ..core.scene import Scene
from ..core.types import require

MOST_SOURCE_PIXELS = 1 << 28
"""Largest source image: masks and depth maps of that size are written for every frame."""
LARGEST_NUMBER = 1e12
"""Larger positions, depths and times overflow in single precision, or are no result of any reconstruction."""
_EXACT = {
    "images": np.uint8,
    "colors": np.uint8,
    "mask_bits": np.uint8,
    "depth_source": np.uint8,
    "objects": np.uint16,
}
_FLAGS = ("masks", "first", "contradicted", "turned")
_COUNTS = ("point_index", "frame_index", "indices", "after", "clip", "view", "moment")
_WITHOUT_BOUND = ("uncertainty.", "dynamic.threshold", "dynamic.maps.", "sparse.errors", "confidence")
"""What may be unknown or infinite; that a confidence is finite is checked by the Scene."""


class CheckedArrays(Mapping[str, np.ndarray]):
    """Arrays by name; one of another type, or with numbers that are none, is a ValueError when it is asked for."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        values = self._arrays[name]
        field = "" if name.startswith("dynamic.maps.") else name.split(".")[-1]
        if field in _EXACT:
            good = values.dtype == _EXACT[field]
        elif field in _FLAGS:
            good = values.dtype == bool
        else:
            good = values.dtype.kind in ("iu" if field in _COUNTS else "fiu")
        require(good, f"{name} holds values of type {values.dtype}")
        if values.dtype.kind == "f" and not name.startswith(_WITHOUT_BOUND):
            require(bool((np.abs(values) <= LARGEST_NUMBER).all()), f"{name} holds NaN, infinity or an absurd number")
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def checked_meta(meta: Mapping[str, Any]) -> None:
    """Raises ValueError where an entry of ``scene.json`` has another type than the one it was written with."""
    for name in ("names", "source_paths", "distortion"):
        require(isinstance(meta[name], list), f"{name} = {shown(meta[name])} is no list")
    between = meta.get("between")
    lists = [("names", meta["names"]), ("source_paths", meta["source_paths"]), ("pose_sources", meta["pose_sources"])]
    if between is not None:
        require(isinstance(between, dict), f"between = {shown(between)} is no object")
        lists += [(f"between.{name}", between[name]) for name in ("names", "source_paths", "pose_sources")]
    for name, values in lists:
        if name == "pose_sources" and values is None:
            continue
        require(isinstance(values, list), f"{name} = {shown(values)} is no list")
        require(all(isinstance(value, str) for value in values), f"{name} = {shown(values)} is no list of text")
    for name in ("pixel_map", "provenance"):
        require(isinstance(meta[name], dict), f"{name} = {shown(meta[name])} is no object")
    for numbers in (meta["distortion"], [meta["min_confidence"]], *meta["pixel_map"].values()):
        require(isinstance(numbers, list), f"{shown(numbers)} stands where numbers belong")
        good = all(type(value) in (int, float) and abs(value) <= LARGEST_NUMBER for value in numbers)
        require(good, f"{shown(numbers)} stands where numbers belong")
    require(isinstance(meta["dynamic_source"], str), f"dynamic_source = {shown(meta['dynamic_source'])} is no text")


def check_scene(scene: Scene) -> None:
    """Raises ValueError for what a :class:`Scene` may hold in passing, and a finished one does not."""
    width, height = scene.pixel_map.source_wh
    require(width * height <= MOST_SOURCE_PIXELS, f"source images of {width}x{height} pixels")
    require(is_rigid(scene.T_world_cam), "T_world_cam: a camera pose is not a rotation and a translation")
    for name in ("depth", "confidence", "assumed_depth"):
        values = getattr(scene, name)
        require(values is None or not (values < 0).any(), f"{name} is negative somewhere")
    for name in ("times", "indices"):
        require(np.ndim(getattr(scene, name)) == 1, f"{name} has shape {getattr(scene, name).shape}")
    require(scene.dynamic.score.ndim == 3, f"dynamic.score has shape {scene.dynamic.score.shape}")
    require(scene.rig is None or is_rigid(scene.rig.T_rig_view), "rig: a view is not turned rigidly")
    between = scene.between
    if between is not None:
        require(is_rigid(between.T_world_cam), "between: a camera pose is not a rotation and a translation")
        for name in ("focals", "after", "times", "indices"):
            require(np.ndim(getattr(between, name)) == 1, f"between: {name} is no list of numbers")
        require(bool((between.after >= -1).all()), "between: a frame follows one that is not there")
    if scene.sparse is not None and len(scene.sparse.frame_index):
        require(int(scene.sparse.frame_index.min()) >= 0, "a sparse observation names a frame that is not there")
