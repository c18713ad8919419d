"""Rules that several programs share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from ..core.geometry import off_centre
from .consumer import RuleResult, export_remedy, failed, note, passed, some
from .model import ColmapFiles
from .tree import Tree

PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")
LENS_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")


def images_there(tree: Tree, model: ColmapFiles, *, basename: bool = False) -> list[RuleResult]:
    """Every image of a model lies in ``images``, with the size of its camera."""
    paths = [f"images/{PurePosixPath(name).name if basename else name}" for name in model.names]
    missing = [path for path in paths if not tree.has(path)]
    if missing:
        remedy = "put the images of the model into the folder images, under its names"
        return [failed(f"{some(missing)} is missing ({len(missing)} of {len(paths)})", remedy)]
    wrong = other_sizes(tree, model, dict(zip(model.names, paths)))
    return wrong or [passed(f"{len(paths)} images in images/, with the sizes of their cameras")]


def other_sizes(tree: Tree, model: ColmapFiles, files: dict[str, str]) -> list[RuleResult]:
    """Images that have not the size of their camera. ``files``: name in the model -> file."""
    wrong = []
    for image in model.images:
        camera, size = model.cameras[image.camera], tree.image_size(files[image.name])
        if size != (camera.width, camera.height):
            wrong.append(f"{files[image.name]} is {size[0]}x{size[1]}, its camera {camera.width}x{camera.height}")
    return [failed(some(wrong), "use the images from which the model was made, in their size")] if wrong else []


def pinhole(model: ColmapFiles) -> RuleResult:
    """Only lenses without distortion, by their fields of view: the principal point lies in the middle of the image."""
    others = [kind for kind in model.kinds if kind not in PINHOLES]
    if others:
        remedy = f"{export_remedy('splat')} undistorts; for a model of others, colmap image_undistorter"
        return failed(f"the camera model is {', '.join(others)}; only {' and '.join(PINHOLES)} are read", remedy)
    for camera in model.cameras.values():
        cx, cy = camera.params[-2], camera.params[-1]
        if off_centre(cx, cy, camera.width, camera.height):
            return beside_the_middle(cx, cy)
    return passed(f"the camera model is {', '.join(model.kinds)}")


def beside_the_middle(cx: float, cy: float) -> RuleResult:
    """A principal point that a reader of fields of view takes to be in the middle."""
    what = f"the principal point ({cx:.4g}, {cy:.4g}) is not in the middle of the image, where it is taken to be"
    return failed(what, "crop both sides alike (--crop-factor), or use a program that reads it: Brush, gsplat")


def start_points(model: ColmapFiles) -> RuleResult:
    """The model has points."""
    if not model.num_points:
        return failed("the model has no points to start from", export_remedy("splat"))
    return passed(f"{model.num_points} points to start from")


def every_image_observes(model: ColmapFiles) -> RuleResult:
    """Every image has observations of points."""
    empty = [image.name for image in model.images if not image.observed]
    if empty:
        what = f"{some(empty)} observes no point ({len(empty)} of {len(model.images)}): losses on depth stop there"
        return failed(what, export_remedy("splat"))
    return passed(f"every image observes points ({min(image.observed for image in model.images)} at least)")


def masks_fit(tree: Tree, pairs: dict[str, str | None], wanted: str, *, any_size: bool = False) -> RuleResult:
    """Masks for all images, of their size. ``pairs``: image -> mask, both relative to the folder."""
    missing = [image for image, mask in pairs.items() if mask is None]
    if len(missing) == len(pairs):
        return note(f"there are no masks ({wanted}): what moves is trained too", export_remedy("splat"))
    if missing:
        what = f"{some(missing)} has no mask ({len(missing)} of {len(pairs)}; wanted: {wanted})"
        return failed(what, "give every image a mask; white everywhere where nothing is to be ignored")
    wrong = [
        f"{mask} is {size_text(tree, mask)}, its image {size_text(tree, image)}"
        for image, mask in pairs.items()
        if mask is not None and tree.image_size(mask) != tree.image_size(image)
    ]
    if wrong and not any_size:
        return failed(some(wrong), "masks have to have the size of their images")
    return passed(f"{len(pairs)} masks, black ignored")


def size_text(tree: Tree, file: str) -> str:
    """WIDTHxHEIGHT."""
    return "x".join(map(str, tree.image_size(file)))


def frame_file(tree: Tree, json_file: str, path: str) -> str | None:
    """The file that a ``file_path`` names: relative to the JSON, with ``.png`` appended where it has no extension."""
    name = (PurePosixPath(json_file).parent / path).as_posix()
    return tree.find(name) or tree.find(f"{name}.png")


def frames_there(tree: Tree, json_file: str) -> tuple[RuleResult, dict[str, dict]]:
    """Whether every frame of a JSON has its image, and the frames by the images that are there."""
    frames = tree.json(json_file)["frames"]
    found = {frame_file(tree, json_file, frame["file_path"]): frame for frame in frames}
    missing = [frame["file_path"] for frame in frames if frame_file(tree, json_file, frame["file_path"]) is None]
    there = {image: frame for image, frame in found.items() if image is not None}
    if missing:
        what = f"{json_file}: {some(missing)} is missing ({len(missing)} of {len(frames)})"
        return failed(what, "keep the images where the JSON names them"), there
    return passed(f"{json_file} names {len(frames)} images, and they are there"), there


def distorted(meta: dict) -> bool:
    """Whether a JSON has a lens with distortion at its top."""
    return any(meta.get(key) for key in LENS_KEYS)


def first_of(tree: Tree, candidates: Iterable[str]) -> str | None:
    """The first of some files that is there."""
    return next((file for file in candidates if tree.has(file)), None)
