"""instant-ngp.

``transforms.json``; positions are multiplied by 0.33 and moved to the middle of a box of the size ``aabb_scale`` (1
where it is missing); the mask of an image lies beside it as ``dynamic_mask_<stem>.png``, not 0 where it is ignored;
``depth_path`` with ``integer_depth_scale`` gives depth.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..dataset.nerfstudio import LARGEST_NGP_BOX, NGP_SCALE, TRANSFORMS
from .consumer import Consumer, RuleResult, export_remedy, failed, note, passed, some
from .rules import frame_file, frames_there
from .tree import Tree


def _examine(tree: Tree) -> list[RuleResult]:
    if not tree.has(TRANSFORMS):
        return [failed(f"no {TRANSFORMS}", export_remedy("ngp"))]
    finding, frames = frames_there(tree, TRANSFORMS)
    return [finding, _lens(tree), _box(tree), _masks(tree, list(frames)), *_depth(tree)]


def _lens(tree: Tree) -> RuleResult:
    meta = tree.json(TRANSFORMS)
    if all(any(key in where for key in ("fl_x", "camera_angle_x")) for where in (meta | f for f in meta["frames"])):
        return passed("every frame has a focal length")
    return failed("a frame has neither fl_x nor camera_angle_x", export_remedy("ngp"))


def _box(tree: Tree) -> RuleResult:
    meta = tree.json(TRANSFORMS)
    box = meta.get("aabb_scale", 1)
    if not isinstance(box, int) or box < 1 or box > LARGEST_NGP_BOX or box & (box - 1):
        return failed(f"aabb_scale is {box!r}, not a power of two up to {LARGEST_NGP_BOX}", export_remedy("ngp"))
    scale = meta.get("scale", NGP_SCALE)
    reach = float(np.abs(_places(meta)).max()) * (scale if isinstance(scale, (int, float)) else NGP_SCALE)
    if reach > box / 2:
        what = f"cameras lie outside the box that is trained (aabb_scale {box}, and {2 * reach:.3g} would be needed)"
        return failed(what, f"set aabb_scale in {TRANSFORMS}, or {export_remedy('ngp')}")
    if "aabb_scale" not in meta:
        return failed("no aabb_scale: only the unit cube is trained", f"set it, or {export_remedy('ngp')}")
    return passed(f"aabb_scale {box} holds the cameras")


def _places(meta: dict[str, Any]) -> np.ndarray:
    try:
        poses = np.array([frame["transform_matrix"] for frame in meta["frames"]], dtype=float)
        places = poses[:, :3, 3]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{TRANSFORMS}: a frame has no transform_matrix of 4x4 numbers") from error
    if not np.isfinite(places).all():
        raise InputError(f"{TRANSFORMS}: a transform_matrix is not finite")
    return places


def _masks(tree: Tree, images: list[str]) -> RuleResult:
    def mask(image: str) -> str:
        path = PurePosixPath(image)
        return (path.parent / f"dynamic_mask_{path.stem}.png").as_posix()

    missing = [mask(image) for image in images if not tree.has(mask(image))]
    if len(missing) == len(images):
        return note("no dynamic_mask_<stem>.png beside the images: what moves is trained", export_remedy("ngp"))
    if missing:
        return failed(f"{some(missing)} is missing ({len(missing)} of {len(images)})", export_remedy("ngp"))
    wrong = [image for image in images if tree.image_size(mask(image)) != tree.image_size(image)]
    if wrong:
        return failed(f"the mask of {some(wrong)} has another size", export_remedy("ngp"))
    return passed(f"{len(images)} masks beside their images")


def _depth(tree: Tree) -> list[RuleResult]:
    meta = tree.json(TRANSFORMS)
    paths = [frame["depth_path"] for frame in meta["frames"] if isinstance(frame.get("depth_path"), str)]
    if not paths:
        return [note("no depth_path: trained without depth")]
    missing = [path for path in paths if frame_file(tree, TRANSFORMS, path) is None]
    if missing:
        return [failed(f"{some(missing)} is missing", export_remedy("ngp"))]
    if "integer_depth_scale" not in meta:
        return [failed("depth_path without integer_depth_scale: depth is not read", export_remedy("ngp"))]
    return [passed(f"{len(paths)} depth maps in steps of {meta['integer_depth_scale']}")]


CONSUMER = Consumer(title="instant-ngp", fits=lambda tree: tree.has(TRANSFORMS), examine=_examine, formats=("ngp",))
