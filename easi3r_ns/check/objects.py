"""``masks_objects``: ids of what moves, beside the masks of a dataset of ours."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ..core.errors import InputError, shortened
from ..dataset.loadback import sampled_frames
from ..storage.files import decode_image
from .consumer import RuleResult, failed, passed, some
from .tree import Tree

KEY = "object_mask_path"
_REMEDY = "write the dataset again (easi3r run --overwrite), or delete object_mask_path and masks_objects"


def objects_fit(tree: Tree, meta: dict[str, Any]) -> list[RuleResult]:
    """Whether the ids of objects that frames name are 16-bit images, 0 exactly where the mask is white.

    Of ``tree.sample`` frames every pixel is read. Nothing is said where no frame names any.
    """
    frames = meta["frames"]
    if not any(KEY in frame for frame in frames):
        return []
    missing = [frame["file_path"] for frame in frames if not there(tree, frame.get(KEY))]
    if missing:
        return [failed(f"{some(missing)} has no {KEY} ({len(missing)} of {len(frames)})", _REMEDY)]
    wrong = [frame[KEY] for frame in frames if not _is_like_its_picture(tree, frame)]
    if wrong:
        return [failed(f"{some(wrong)} is no 16-bit image of the size of its picture", _REMEDY)]
    numbers: set[int] = set()
    for position in sampled_frames(len(frames), tree.sample):
        frame = frames[position]
        ids = pixels(tree, frame[KEY])
        mask = frame.get("mask_path")
        if there(tree, mask) and not np.array_equal(pixels(tree, mask) > 0, ids == 0):
            return [failed(f"{frame[KEY]} is not 0 exactly where {mask} is white", _REMEDY)]
        numbers |= set(np.unique(ids[ids > 0]).tolist())
    return [passed(f"masks_objects: ids of {len(numbers)} objects, 0 where the masks are white")]


def there(tree: Tree, file: Any) -> bool:
    """Whether a frame's entry names a file that is there."""
    return isinstance(file, str) and tree.has(file)


def _is_like_its_picture(tree: Tree, frame: dict[str, Any]) -> bool:
    image = tree.find(frame["file_path"])
    fits = image is None or tree.image_size(frame[KEY]) == tree.image_size(image)
    return fits and tree.image_mode(frame[KEY]).startswith("I")


def pixels(tree: Tree, file: str) -> np.ndarray:
    """The pixels of an image as they are stored. Raises InputError."""
    try:
        return decode_image(tree.root / file, cv2.IMREAD_UNCHANGED)
    except OSError as error:
        raise InputError(f"{file} cannot be read as an image: {shortened(str(error))}") from error
