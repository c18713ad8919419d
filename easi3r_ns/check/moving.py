"""4DGaussians and other trainers of moving scenes.

A folder with ``sparse`` is read as COLMAP (PINHOLE; the time is the number of the image among all); else
``transforms_train.json`` and ``transforms_test.json`` of D-NeRF: ``file_path`` without extension, ``time``, one
``camera_angle_x``. The principal point is taken to be in the middle of the image. Deformable-3DGS takes a time from the
name of an image, which has to be a whole number. Training starts from ``fused.ply`` (4DGaussians) or ``points3d.ply``,
which have normals.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from ..core.geometry import off_centre
from .consumer import Consumer, RuleResult, export_remedy, failed, note, passed, some
from .model import MOST_PIXELS
from .rules import beside_the_middle, distorted, images_there, pinhole, start_points
from .tree import Tree

_SPLITS = ("transforms_train.json", "transforms_test.json")
_CLOUDS = ("fused.ply", "points3d.ply")


def _examine(tree: Tree) -> list[RuleResult]:
    if "sparse/0" in tree.models:
        model = tree.model("sparse/0")
        return [pinhole(model), *images_there(tree, model, basename=True), start_points(model), *_numbers(model.names)]
    missing = [file for file in _SPLITS if not tree.has(file)]
    if missing:
        return [failed(f"there is no {' and no '.join(missing)}", export_remedy("dnerf"))]
    findings = [finding for file in _SPLITS for finding in _split(tree, file)]
    names = [frame["file_path"] for file in _SPLITS for frame in tree.json(file)["frames"]]
    return [*findings, *_numbers(names), *_shape(tree), _start(tree)]


def _split(tree: Tree, file: str) -> list[RuleResult]:
    meta = tree.json(file)
    frames = meta["frames"]
    lost = [f["file_path"] for f in frames if tree.find(f"{f['file_path']}.png") is None]
    if lost:
        return [failed(f"{file}: there is no {some(lost)} with .png appended", export_remedy("dnerf"))]
    if not all(isinstance(frame.get("time"), (int, float)) for frame in frames):
        return [failed(f"{file}: a frame has no time", export_remedy("dnerf"))]
    if "camera_angle_x" not in meta:
        what = f"{file} has no camera_angle_x: 4DGaussians and Deformable-3DGS stop (fudan's 4DGS reads fl_x of frames)"
        return [failed(what, f"{export_remedy('splat')}: a COLMAP model has a lens for each image")]
    if distorted(meta):
        return [failed(f"{file} has distortion, which is not read", export_remedy("dnerf"))]
    lens = [meta.get(key) for key in ("cx", "cy", "w", "h")]
    known = [float(value) for value in lens if isinstance(value, (int, float)) and 0 < value < MOST_PIXELS]
    if len(known) == len(lens) and off_centre(known[0], known[1], known[2], known[3]):
        return [beside_the_middle(known[0], known[1])]
    return [passed(f"{file}: {len(frames)} images with times")]


def _numbers(names: list[str]) -> list[RuleResult]:
    wrong = [name for name in names if not PurePosixPath(name).stem.isdecimal()]
    if wrong:
        stem = PurePosixPath(wrong[0]).stem
        what = f"{stem} is no whole number: Deformable-3DGS takes the time from the name (4DGaussians does not)"
        return [note(what, export_remedy("dnerf"))]
    return [passed("names of images are whole numbers")]


def _shape(tree: Tree) -> list[RuleResult]:
    first = f"{PurePosixPath(tree.json(_SPLITS[0])['frames'][0]['file_path'])}.png"
    if not tree.has(first):
        return []
    width, height = tree.image_size(first)
    if width == height:
        return []
    what = f"images are {width}x{height}: some readers of D-NeRF files (4DGaussians) were written for square ones"
    return [note(what, f"{export_remedy('splat')}, which 4DGaussians reads as COLMAP")]


def _start(tree: Tree) -> RuleResult:
    missing = [name for name in _CLOUDS if not tree.has(name)]
    if missing:
        return note(f"no {' nor '.join(missing)}: training starts from random points", export_remedy("dnerf"))
    return passed(f"training starts from {' or '.join(_CLOUDS)}")


CONSUMER = Consumer(
    title="4DGaussians and others",
    fits=lambda tree: "sparse/0" in tree.models or tree.has(_SPLITS[0]),
    examine=_examine,
    formats=("dnerf",),
)
