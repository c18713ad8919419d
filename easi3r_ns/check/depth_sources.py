"""``depth_sources``: where the depth of each pixel came from, beside the depths of a dataset of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.scene import DEPTH_SOURCES
from ..dataset.loadback import sampled_frames
from .consumer import RuleResult, failed, passed, some
from .objects import pixels, there
from .tree import Tree

KEY = "depth_source_path"
_REMEDY = "write the dataset again (easi3r run --overwrite), or delete depth_source_path and depth_sources"


def sources_fit(tree: Tree, meta: dict[str, Any]) -> list[RuleResult]:
    """Whether the sources of depth that frames name are 8-bit images, 0 exactly where no depth is known.

    Of ``tree.sample`` frames every pixel is read. Nothing is said where no frame names any.
    """
    named = [frame for frame in meta["frames"] if KEY in frame]
    if not named:
        return []
    missing = [str(frame[KEY]) for frame in named if not there(tree, frame[KEY])]
    if missing:
        return [failed(f"{some(missing)} is missing ({len(missing)} of {len(named)})", _REMEDY)]
    wrong = [frame[KEY] for frame in named if not _is_like_its_depth(tree, frame)]
    if wrong:
        return [failed(f"{some(wrong)} is no 8-bit image of the size of its depth map", _REMEDY)]
    for position in sampled_frames(len(named), tree.sample):
        frame = named[position]
        sources, depth = pixels(tree, frame[KEY]), pixels(tree, frame["depth_file_path"])
        if sources.max(initial=0) >= len(DEPTH_SOURCES) or not np.array_equal(sources == 0, depth == 0):
            return [failed(f"{frame[KEY]} is not 0 exactly where {frame['depth_file_path']} is unknown", _REMEDY)]
    return [passed("depth_sources: where each depth came from, 0 where it is unknown")]


def _is_like_its_depth(tree: Tree, frame: dict[str, Any]) -> bool:
    if not there(tree, frame.get("depth_file_path")):
        return False
    depth: str = frame["depth_file_path"]
    return tree.image_size(frame[KEY]) == tree.image_size(depth) and tree.image_mode(frame[KEY]) == "L"
