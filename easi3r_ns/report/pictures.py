"""Images for report and preview: frames with what moves tinted, depth and scores in colours; uint8 RGB arrays."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np

from ..core.downscale import downscaled_size
from ..core.objects import nearest_numbers, object_colours
from ..core.scene import Scene
from ..core.surface import trusted_depth
from ..core.types import on_side
from ..storage.files import read_png
from ..view.colors import MOVING, tint
from .contents import ColorRamp

UNKNOWN = np.array([128, 132, 138], dtype=np.uint8)
"""Colour of pixels without depth."""
SOURCE_COLOURS = np.array([UNKNOWN, (59, 110, 196), (70, 150, 90), (235, 150, 50)], dtype=np.uint8)
"""Of :data:`~easi3r_ns.core.scene.DEPTH_SOURCES`: grey, blue, green, orange."""
WHITE = np.array([255, 255, 255], dtype=np.uint8)
SCORE_MAP, DEPTH_MAP, CONFIDENCE_MAP = cv2.COLORMAP_MAGMA, cv2.COLORMAP_VIRIDIS, cv2.COLORMAP_CIVIDIS


def panel_size(scene: Scene, width: int) -> tuple[int, int]:
    """(width, height), both even, of a picture of the network's view that is at most ``width`` wide."""
    left, top, right, bottom = scene.pixel_map.crop_box
    scale_x, scale_y = scene.pixel_map.scale_xy
    source_wh = (right - left) / scale_x, (bottom - top) / scale_y
    shrink = min(1.0, width / source_wh[0])
    return max(2, round(shrink * source_wh[0] / 2) * 2), max(2, round(shrink * source_wh[1] / 2) * 2)


def photo(scene: Scene, frame: int, size: tuple[int, int]) -> np.ndarray:
    """The network's view of a frame at (width, height), from the source image where it is still there."""
    image = _source_crop(scene, frame, size[0])
    if image is None:
        image = scene.images[frame]
    shrinks = image.shape[1] > size[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def outlined(picture: np.ndarray, moving: np.ndarray, objects: np.ndarray | None = None) -> np.ndarray:
    """(h, w, 3) RGB with what moves tinted and outlined; ``moving`` (H, W) bool is scaled to the picture.

    ``objects`` (H, W): ids of several objects, each of which gets its own colour; None: everything is red.
    """
    size = (picture.shape[1], picture.shape[0])
    mask = cv2.resize(moving.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    if objects is None:
        return contoured(np.where(mask[..., None], tint(picture), picture), moving, MOVING)
    ids = cv2.resize(nearest_numbers(objects), size, interpolation=cv2.INTER_NEAREST)
    shown = np.where(mask[..., None], tint(picture, object_colours(ids)), picture)
    for number in np.unique(objects[objects > 0]):
        shown = contoured(shown, objects == number, object_colours(number))
    return shown


def contoured(picture: np.ndarray, mask: np.ndarray, color: np.ndarray = WHITE) -> np.ndarray:
    """(h, w, 3) RGB with a line around a mask (H, W) bool, which is scaled to the picture."""
    size = (picture.shape[1], picture.shape[0])
    scaled = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    contours, _ = cv2.findContours(scaled.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    result, thickness = picture.copy(), max(1, round(size[0] / 320))
    cv2.drawContours(result, contours, -1, color.tolist(), thickness, cv2.LINE_AA)
    return result


def colored(values: np.ndarray, low: float, high: float, colormap: int) -> np.ndarray:
    """(H, W) -> (H, W, 3) RGB: ``low`` is the colour map's dark end; NaN becomes grey."""
    known = np.isfinite(values)
    share = (np.where(known, values, low) - low) / max(high - low, 1e-12)
    image = cv2.applyColorMap(np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8), colormap)[..., ::-1]
    return np.where(known[..., None], image, UNKNOWN)


def depth_range(scene: Scene) -> tuple[float, float]:
    """Nearest and farthest trusted depth of the whole clip without the outermost 2 %; (1, 2) without depth."""
    samples = [trusted_depth(scene, f)[::4, ::4] for f in range(len(scene))]
    known = np.concatenate([depth[depth > 0] for depth in samples])
    if not len(known):
        return 1.0, 2.0
    near, far = np.quantile(known, [0.02, 0.98])
    return float(near), float(max(far, near * 1.001))


def depth_picture(scene: Scene, frame: int, limits: tuple[float, float]) -> np.ndarray:
    """(H, W, 3) RGB: near is bright, far is dark, on a logarithmic scale over ``limits``; grey where not trusted."""
    depth = trusted_depth(scene, frame)
    with np.errstate(divide="ignore"):
        nearness = np.where(depth > 0, -np.log(depth), np.nan)
    return colored(nearness, -np.log(limits[1]), -np.log(limits[0]), DEPTH_MAP)


def confidence_picture(scene: Scene, frame: int, high: float) -> np.ndarray:
    """(H, W, 3) RGB from the lowest trusted confidence (dark) to ``high``; grey where the depth is not trusted."""
    values = np.where(trusted_depth(scene, frame) > 0, scene.confidence[frame], np.nan)
    return colored(values, scene.min_confidence, max(high, scene.min_confidence + 1e-6), CONFIDENCE_MAP)


def source_picture(scene: Scene, frame: int) -> np.ndarray:
    """(H, W, 3) RGB: where the depth of each pixel came from, in :data:`SOURCE_COLOURS`."""
    assert scene.depth_source is not None, "asked of a scene that says it"
    return SOURCE_COLOURS[scene.depth_source[frame]]


def color_ramp(colormap: int, low: str, high: str) -> ColorRamp:
    """The legend of a colour map; ``low`` and ``high`` name its dark and its bright end."""
    return ColorRamp(png_uri(colored(np.linspace(0, 1, 64)[None].repeat(2, axis=0), 0, 1, colormap)), low, high)


def jpeg_uri(image: np.ndarray, quality: int = 80) -> str:
    """A data URI of (H, W, 3) RGB, lossy."""
    return _uri(image, ".jpg", "jpeg", [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])


def png_uri(image: np.ndarray) -> str:
    """A data URI of (H, W, 3) RGB or (H, W, 4) RGBA, lossless: for small maps."""
    return _uri(image, ".png", "png", [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _uri(image: np.ndarray, suffix: str, kind: str, options: list[int]) -> str:
    order = [2, 1, 0, 3][: image.shape[2]]
    ok, encoded = cv2.imencode(suffix, np.ascontiguousarray(image[..., order]), options)
    if not ok:
        raise ValueError(f"cannot encode an image of {image.dtype} {image.shape}")
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _source_crop(scene: Scene, frame: int, width: int) -> np.ndarray | None:
    """What the network saw, in source pixels or in those of the smallest copy in the dataset in which it is at least
    ``width`` wide; None when the source image is gone or has another size.
    """
    left, top, right, bottom = scene.pixel_map.crop_box
    for factor in (8, 4, 2, 1):
        scale_x, scale_y = (factor * scale for scale in scene.pixel_map.scale_xy)
        path = _copy(scene.source_paths[frame], factor)
        if factor > 1 and ((right - left) / scale_x < width or not path.is_file()):
            continue
        try:
            image = read_png(path)
        except OSError:
            continue
        if scene.turned is not None and scene.turned[frame]:
            image = on_side(image)
        if (image.shape[1], image.shape[0]) == downscaled_size(scene.pixel_map.source_wh, factor):
            return image[round(top / scale_y) : round(bottom / scale_y), round(left / scale_x) : round(right / scale_x)]
    return None


def _copy(path: Path, factor: int) -> Path:
    """Where nerfstudio looks for the downscaled copy of an image."""
    return path if factor == 1 else path.parent.parent / f"{path.parent.name}_{factor}" / path.name
