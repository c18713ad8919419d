"""Postshot.

Images and a COLMAP model are dropped onto it together; a mask has the same base name as its image, and its size. Its
two guides disagree on which colour is left out.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from .consumer import Consumer, RuleResult, export_remedy, failed, note
from .rules import first_of, images_there, masks_fit, start_points
from .tree import Tree


def _examine(tree: Tree) -> list[RuleResult]:
    folder = tree.first_model("sparse/0", "sparse", ".")
    if folder is None:
        return [failed("no COLMAP model in sparse/0", export_remedy("splat"))]
    model = tree.model(folder)
    findings = [*images_there(tree, model), start_points(model)]
    images = [f"images/{name}" for name in model.names if tree.has(f"images/{name}")]
    doubled = [image for image in images if tree.has(f"masks/{PurePosixPath(image).name}.png")]
    pairs = {image: first_of(tree, (f"masks/{PurePosixPath(image).stem}.png",)) for image in images}
    if doubled and not any(pairs.values()):
        what = f"masks/{PurePosixPath(doubled[0]).name}.png has not the base name of its image: it is not its mask"
        findings.append(failed(what, "easi3r export DATASET --format splat, or --format colmap --mask-names same"))
    elif pairs:
        findings.append(masks_fit(tree, pairs, "masks/x.png for x.png"))
        remedy = "look at a first result; --mask-white moving exports the other colour"
        findings.append(note("Postshot's guides disagree on which colour of a mask is left out", remedy))
    return findings


CONSUMER = Consumer(
    title="Postshot",
    fits=lambda tree: tree.first_model("sparse/0", "sparse", ".") is not None,
    examine=_examine,
    formats=("splat",),
)
