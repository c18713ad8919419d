"""INRIA's gaussian-splatting and trainers made from it.

A model in ``sparse/0`` with PINHOLE or SIMPLE_PINHOLE cameras, whose principal point is taken to be in the
middle of the image; images in ``images`` under the last part of their name; ``points3D.ply`` is written into the model
where it is missing; the alpha channel of an image is its mask.
"""

from __future__ import annotations

from .consumer import Consumer, RuleResult, export_remedy, failed, note, passed
from .rules import images_there, pinhole, start_points
from .tree import Tree

_MODEL = "sparse/0"


def _examine(tree: Tree) -> list[RuleResult]:
    if _MODEL not in tree.models:
        return [failed(f"no model in {_MODEL}", export_remedy("splat"))]
    model = tree.model(_MODEL)
    findings = [pinhole(model), *images_there(tree, model, basename=True), start_points(model), _cloud(tree)]
    first = next((file for file in tree.inside("images")), None)
    if first is not None and "A" not in tree.image_mode(first):
        remedy = f"{export_remedy('splat')} --alpha static leaves out what moves"
        findings.append(note("images have no alpha channel, which would be their mask: what moves is trained", remedy))
    return findings


def _cloud(tree: Tree) -> RuleResult:
    if tree.has(f"{_MODEL}/points3D.ply"):
        return passed("points3D.ply is there")
    if tree.writable(_MODEL):
        return passed("points3D.ply will be written into the model")
    return failed(f"{_MODEL} has no points3D.ply and cannot be written", f"{export_remedy('splat')} writes it")


CONSUMER = Consumer(
    title="INRIA gaussian-splatting",
    fits=lambda tree: _MODEL in tree.models,
    examine=_examine,
    formats=("splat",),
)
