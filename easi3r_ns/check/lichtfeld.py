"""LichtFeld Studio.

COLMAP in ``sparse/0`` or ``sparse`` with ``images``, else ``transforms_train.json`` before ``transforms.json``. A JSON
has ONE lens, at its top; without one there the clip counts as a panorama. Masks lie in ``masks`` and have the size of
their images. Training starts from ``pointcloud.ply``, the model, or random points.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from .consumer import Consumer, RuleResult, export_remedy, failed, note, passed
from .rules import first_of, frames_there, images_there, masks_fit, start_points
from .tree import Tree

_JSONS = ("transforms_train.json", "transforms.json")
_ANGLES = ("fl_x", "camera_angle_x")
_LENS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2")


def _examine(tree: Tree) -> list[RuleResult]:
    folder = tree.first_model("sparse/0", "sparse")
    if folder is not None:
        model = tree.model(folder)
        images = [f"images/{name}" for name in model.names]
        return [*images_there(tree, model), start_points(model), *_masks(tree, images)]
    file = first_of(tree, _JSONS)
    if file is None:
        return [failed("neither sparse/0 nor transforms.json", export_remedy("splat"))]
    finding, frames = frames_there(tree, file)
    return [finding, _one_lens(tree, file), *_distortion(tree, file), *_masks(tree, list(frames)), _start(tree)]


def _one_lens(tree: Tree, file: str) -> RuleResult:
    meta = tree.json(file)
    frames = [[frame.get(key) for key in _LENS] for frame in meta["frames"]]
    varies = any(lens != frames[0] for lens in frames)
    if not any(key in meta for key in _ANGLES):
        what = f"{file} has no focal length at its top: the clip counts as a panorama (equirectangular)"
        return failed(what, f"{export_remedy('splat')}: a COLMAP model has a lens for each image")
    if varies:
        what = f"{file} has different lenses in its frames; the one at the top is taken for all"
        return failed(what, f"{export_remedy('splat')}: a COLMAP model has a lens for each image")
    return passed(f"one lens, at the top of {file}")


def _distortion(tree: Tree, file: str) -> list[RuleResult]:
    k1 = tree.json(file).get("k1")
    if isinstance(k1, (int, float)) and k1 > 0:
        return [note(f"k1 is {k1:.4g}: releases before 2026 refuse a k1 above 0", export_remedy("splat"))]
    return []


def _masks(tree: Tree, images: list[str]) -> list[RuleResult]:
    there = [image for image in images if tree.has(image)]
    if not there:
        return []
    paths = [PurePosixPath(image) for image in there]
    pairs = {str(path): first_of(tree, (f"masks/{path.name}", f"masks/{path.stem}.png")) for path in paths}
    return [masks_fit(tree, pairs, "masks/x.png for x.png")]


def _start(tree: Tree) -> RuleResult:
    if tree.has("pointcloud.ply"):
        return passed("training starts from pointcloud.ply")
    return note("no pointcloud.ply: training starts from random points", export_remedy("splat"))


CONSUMER = Consumer(
    title="LichtFeld Studio",
    fits=lambda tree: bool(tree.first_model("sparse/0", "sparse") or first_of(tree, _JSONS)),
    examine=_examine,
    formats=("splat",),
)
