"""Brush 1.0.

It prefers a COLMAP model anywhere below the folder to any JSON; it finds the images of a model by the end of their path
in everything outside folders called ``masks``, and takes the smallest path; a mask lies in a folder called exactly
``masks``; training starts from ``init.ply``, else from the last PLY by path.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from .consumer import Consumer, RuleResult, export_remedy, failed, note, passed, some
from .rules import distorted, frames_there, masks_fit, other_sizes, start_points
from .tree import Tree

_KINDS = (None, "OPENCV", "OPENCV_FISHEYE", "PERSPECTIVE")


def images_by_suffix(tree: Tree, names: list[str]) -> dict[str, str | None]:
    """Where Brush finds the images of a model: name -> file."""
    outside = sorted(file for file in tree.files if "masks" not in PurePosixPath(file).parts)
    by_last: dict[str, list[str]] = {}
    for file in outside:
        by_last.setdefault(file[-5:].lower(), []).append(file)
    # The end of the text, not of the path's parts: the stricter reading of its rule.
    return {
        name: next((f for f in by_last.get(name[-5:].lower(), []) if f.lower().endswith(name.lower())), None)
        for name in names
    }


def mask_of(masks: dict[str, str], image: str) -> str | None:
    """The mask of an image, among masks by their name without folder."""
    stem, full = PurePosixPath(image).stem, PurePosixPath(image).name
    return next((masks[name] for name in (f"{stem}.png", f"{full}.png", f"{stem}.mask.png") if name in masks), None)


def _examine(tree: Tree) -> list[RuleResult]:
    masks = {PurePosixPath(file).name: file for file in sorted(tree.files, reverse=True) if _in_masks(file)}
    findings, images = _of_models(tree) if tree.models else _of_json(tree)
    wanted = "in a folder called masks: x.png, x.png.png or x.mask.png"
    if images:
        findings.append(masks_fit(tree, {image: mask_of(masks, image) for image in images}, wanted, any_size=True))
    return [*findings, _start(tree)]


def _of_models(tree: Tree) -> tuple[list[RuleResult], list[str]]:
    findings: list[RuleResult] = []
    images: list[str] = []
    for folder in tree.models:
        model = tree.model(folder)
        found = images_by_suffix(tree, model.names)
        base = PurePosixPath(folder).parent if PurePosixPath(folder).name != "sparse" else PurePosixPath(folder)
        base = base.parent if base.name == "sparse" else base
        missing = [name for name, file in found.items() if file is None]
        if missing:
            findings.append(failed(f"{folder}: {some(missing)} is nowhere", "put the images of the model beside it"))
            continue
        strange = [
            f"{file} for {name}"
            for name, file in found.items()
            if tree.has((base / "images" / name).as_posix()) and file != (base / "images" / name).as_posix()
        ]
        if strange:
            what = f"{folder}: the smallest path that ends with the name is another file: it trains on {some(strange)}"
            findings.append(failed(what, "give Brush a folder that holds this model and its images alone"))
            continue
        files = {name: file for name, file in found.items() if file is not None}
        findings += other_sizes(tree, model, files)
        findings.append(passed(f"{folder}: {len(found)} images, each found by the end of its path"))
        findings.append(start_points(model))
        images += files.values()
    if len(tree.models) > 1:
        text = ", ".join(tree.models)
        findings.append(note(f"several COLMAP models ({text}): one of them is taken", "give Brush the folder of one"))
    return findings, images


def _of_json(tree: Tree) -> tuple[list[RuleResult], list[str]]:
    file = _json(tree)
    if file is None:
        return [failed("neither a COLMAP model nor transforms.json", export_remedy("splat"))], []
    meta, (finding, frames) = tree.json(file), frames_there(tree, file)
    findings, kind = [finding], meta.get("camera_model")
    if kind in _KINDS:
        findings.append(passed(f"camera_model is {kind or 'not named'}"))
    else:
        findings.append(failed(f"{file}: camera_model {kind} is refused", "name it OPENCV, or leave it out"))
    if distorted(meta) and kind is None:
        findings.append(note(f"{file} has distortion and no camera_model", "name it OPENCV"))
    return findings, list(frames)


def _start(tree: Tree) -> RuleResult:
    clouds = sorted(file for file in tree.files if file.lower().endswith(".ply"))
    named = [file for file in clouds if PurePosixPath(file).name == "init.ply"]
    taken = next(iter(named or clouds[-1:]), None)
    if taken is None:
        return note("no PLY: training starts from the points of the model, or from random ones", export_remedy("splat"))
    if "dynamic" in PurePosixPath(taken).parts:
        what = f"training starts from {taken}, the last PLY by path, which holds what moves in one frame"
        return failed(what, export_remedy("splat"))
    return passed(f"training starts from {taken}")


def _json(tree: Tree) -> str | None:
    for name in ("transforms_train.json", "transforms.json"):
        found = sorted(file for file in tree.files if PurePosixPath(file).name == name)
        if found:
            return found[0]
    return None


def _in_masks(file: str) -> bool:
    return "masks" in PurePosixPath(file).parent.parts


CONSUMER = Consumer(
    title="Brush 1.0",
    fits=lambda tree: bool(tree.models) or _json(tree) is not None,
    examine=_examine,
    formats=("splat",),
)
