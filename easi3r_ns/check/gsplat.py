"""The examples of gsplat 1.6 (``simple_trainer.py``; its loader is not in the wheel).

A model in ``sparse/0`` or ``sparse``; images in ``images_4`` with the default ``--data_factor 4``, which are matched
with ``images`` by their order; the loss on depth wants points that every image observes; masks of perspective cameras
are not read.
"""

from __future__ import annotations

from .consumer import Consumer, RuleResult, export_remedy, failed, note, passed, some
from .rules import every_image_observes, images_there, start_points
from .tree import Tree

_KINDS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
_FACTOR = 4


def _examine(tree: Tree) -> list[RuleResult]:
    folder = tree.first_model("sparse/0", "sparse")
    if folder is None:
        return [failed("no model in sparse/0", export_remedy("splat"))]
    model = tree.model(folder)
    others = [kind for kind in model.kinds if kind not in _KINDS]
    lens = failed(f"camera model {some(others)} is not read", "colmap image_undistorter") if others else None
    return [
        lens or passed(f"the camera model is {', '.join(model.kinds)}"),
        *images_there(tree, model),
        _downscaled(tree),
        start_points(model),
        every_image_observes(model),
        *([note("masks are not read: what moves is trained")] if tree.inside("masks") else []),
    ]


def _downscaled(tree: Tree) -> RuleResult:
    small, full = (
        [file.split("/", 1)[1] for file in tree.inside(folder)] for folder in (f"images_{_FACTOR}", "images")
    )
    if not small:
        return failed(f"there is no images_{_FACTOR}", f"--data_factor 1, or {export_remedy('splat')}")
    stems = [[name.rsplit(".", 1)[0] for name in names] for names in (small, full)]
    if stems[0] != stems[1]:
        what = f"images_{_FACTOR} has {len(small)} files, images {len(full)}, or other names: they are matched by order"
        return failed(what, f"make images_{_FACTOR} again, with one file for each of images")
    return passed(f"images_{_FACTOR} matches images")


CONSUMER = Consumer(
    title="gsplat examples 1.6",
    fits=lambda tree: tree.first_model("sparse/0", "sparse") is not None,
    examine=_examine,
    formats=("splat",),
)
