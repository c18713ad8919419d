"""Results of other methods, scored with the same code: what their programs wrote, by a convention of folders.

``PEERS/METHOD/SET/SEQUENCE/`` (or ``PEERS/METHOD/SEQUENCE/``) is the output folder of another program for the frames
of that sequence under the protocol, in any layout that ``easi3r import`` reads; or a folder of masks alone, an image a
frame (in it or in its ``masks/``), white where something moves. ``METHOD`` is one of :data:`METHODS`, or another name.

Nothing is found anew: what a folder lacks is not scored, and said. Maps that are smaller than the frames are taken as
resized to cover the frame and cropped in the middle, as the networks of this family do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from .. import __version__
from ..core.code_state import code_state
from ..core.errors import InputError, MissingExtraError
from ..core.runlog import RunLog
from ..core.scene import Scene
from ..core.types import DynamicMasks, PixelMap
from ..importers.folder import importer_of
from ..importers.recording import (
    Film,
    ImportOptions,
    Recording,
    check_parts,
    files_of,
    picture_size,
    read_mask,
    stacked,
)
from ..storage.files import make_folder, natural_key, write_json
from .datasets import IMAGES, Capture
from .runs import kinds_of_truth
from .scoring import SequenceScores, score_scene
from .tables import Result

METHODS = {
    "easi3r-dust3r": "Easi3R on DUSt3R",
    "easi3r-monst3r": "Easi3R on MonST3R",
    "easi3r": "Easi3R",
    "dust3r": "DUSt3R (flow)",
    "monst3r": "MonST3R (flow)",
    "das3r": "DAS3R",
    "cut3r": "CUT3R",
    "vggt4d": "VGGT4D",
    "megasam": "MegaSaM",
    "vipe": "ViPE",
    "da3": "Depth Anything 3",
}
"""Name of a folder -> the method; ``-sam2`` may follow, for masks that SAM2 refined."""
WITH_SAM2 = "-sam2"
PREFIX = "imported-"
"""Of the names of rows, which tells them from those of our runs."""
_MOST_CROPPED = 0.3
"""Share of a side that a crop in the middle may have taken away; beyond, the pictures are others."""
_MASKS = r"[^.].*\.(png|jpg|jpeg|bmp|webp)"


def method_of(row: str) -> tuple[str, bool]:
    """The method of a row of imported results, and whether its masks are SAM2's."""
    name = row.removeprefix(PREFIX)
    with_sam2 = name.endswith(WITH_SAM2)
    name = name.removesuffix(WITH_SAM2)
    return METHODS.get(name, name), with_sam2


def score_peers(
    peers: Path, captures: Sequence[Capture], output_dir: Path, log: RunLog, *, set_name: str = ""
) -> list[Result]:
    """Score what lies in ``peers`` for the captures, and write a row for each method that has any of them.

    A sequence that is missing or cannot be read is a result with its error.

    Raises:
        InputError: ``peers`` is no folder or holds none.
        MissingExtraError: cameras are to be scored and evo is missing.
    """
    if not peers.is_dir():
        raise InputError(f"--peers {peers} is no folder: give the one that holds METHOD/SET/SEQUENCE")
    methods = sorted(path for path in peers.iterdir() if path.is_dir() and not path.name.startswith("."))
    make_folder(output_dir)
    if not methods:
        raise InputError(f"--peers {peers} holds no folder METHOD/SET/SEQUENCE, such as cut3r/sintel/alley_2")
    found = []
    for method in methods:
        places = [_place(method, set_name, capture.name) for capture in captures]
        if not any(places):
            continue
        row = f"{PREFIX}{method.name}"
        results = [_result(place, capture, row) for place, capture in zip(places, captures, strict=True)]
        for result in results:
            log.info(f"{method_of(row)[0]}, {result.sequence}: {result.error or 'scored'}")
        entry = {"row": row, "version": __version__, "code": [code_state()], "options": f"imported from {method.name}/"}
        write_json(output_dir / f"{row}.json", entry | {"results": [asdict(result) for result in results]})
        found += results
    if not found:
        log.warn(f"--peers {peers}: no method has a folder for {captures[0].name} or another sequence of these")
    return found


def _place(method: Path, set_name: str, sequence: str) -> Path | None:
    places = ([method / set_name / sequence] if set_name else []) + [method / sequence]
    return next((place for place in places if place.is_dir()), None)


def _result(place: Path | None, capture: Capture, row: str) -> Result:
    result = Result(row, capture.name, kinds_of_truth(capture))
    if place is None:
        return replace(result, error="there is no folder of this sequence")
    try:
        scores = score_folder(place, capture)
    except MissingExtraError:
        raise
    except InputError as error:
        return replace(result, error=str(error))
    return replace(result, requested=len(frames_of(capture)), scores=scores)


def score_folder(folder: Path, capture: Capture, numbers: Sequence[int] | None = None) -> SequenceScores:
    """Scores of what another program wrote for a capture of images.

    Args:
        numbers: which of the capture's frames the folder's are, in their order; None: by their count and names.

    Raises:
        InputError: the folder is of no known layout, damaged, or does not belong to these frames.
        MissingExtraError: cameras are to be scored and evo is missing.
    """
    names = frames_of(capture)
    found = read_peer(folder)
    count = len(found)
    which = _which(found, names, folder) if numbers is None else list(numbers)
    if len(which) != count or not all(0 <= k < len(names) for k in which):
        raise InputError(f"{folder}: {count} frames, and the numbers of {len(which)}: they are not those of the clip")
    with Image.open(capture.data / names[0]) as image:
        scene = _scene(found, image.size, [names[k] for k in which], which, folder)
    missing = {
        "cameras": found.T_world_cam is None and bool(capture.T_world_cam),
        "masks": found.masks is None and bool(capture.masks),
        "depth": found.depth is None and bool(capture.depth),
    }
    known = replace(
        capture,
        T_world_cam={} if missing["cameras"] else capture.T_world_cam,
        intrinsics=capture.intrinsics if found.K is not None else None,
        masks={} if missing["masks"] else capture.masks,
        depth={} if missing["depth"] else capture.depth,
    )
    scores = score_scene(scene, known, [Path(name).stem for name in names])
    lacks = tuple(f"{kind}: the folder has none" for kind, lacking in missing.items() if lacking)
    return replace(scores, problems=(*scores.problems, *lacks))


@dataclass(frozen=True)
class Peer:
    """What a folder holds, as far as it is scored."""

    grid: tuple[int, int]
    """(H, W) of its maps."""
    T_world_cam: np.ndarray | None
    K: np.ndarray | None
    """(F, 3, 3) in pixels of the grid."""
    depth: np.ndarray | None
    masks: np.ndarray | None
    names: tuple[str, ...] = ()
    """Of its pictures, where they are files."""
    indices: np.ndarray | None = None
    num_source: int | None = None

    def __len__(self) -> int:
        counted = self.masks if self.T_world_cam is None else self.T_world_cam
        assert counted is not None, "a folder has cameras or masks"
        return len(counted)


def read_peer(folder: Path) -> Peer:
    """What another program wrote, or a folder of masks alone. Raises InputError."""
    importer = importer_of(folder)
    if importer is None:
        files = files_of(folder / "masks", _MASKS) or files_of(folder, _MASKS)
        if not files:
            raise InputError(f"{folder} is of no layout that `easi3r import` reads, and holds no masks (images)")
        masks = stacked(tuple(files), read_mask)
        return Peer((masks.shape[1], masks.shape[2]), None, None, None, masks, tuple(file.name for file in files))
    recording = importer.read(folder, ImportOptions())
    grid = _grid(recording)
    check_parts(recording, len(recording), grid, folder)
    pictures = recording.images if isinstance(recording.images, tuple) else ()
    return Peer(
        grid=grid,
        T_world_cam=recording.T_world_cam,
        K=recording.K,
        depth=recording.depth,
        masks=recording.masks,
        names=recording.names or tuple(path.name for path in pictures),
        indices=recording.indices,
        num_source=recording.num_source,
    )


def _grid(recording: Recording) -> tuple[int, int]:
    """(H, W) of the pixels that the intrinsics are in."""
    for maps in (recording.depth, recording.masks):
        if maps is not None:
            return (maps.shape[1], maps.shape[2])
    images = recording.images
    if isinstance(images, Film):  # of which no pixel is needed: the lens looks through its middle
        cx, cy = np.median(recording.K[:, :2, 2], axis=0)
        return (round(2 * cy) + 1, round(2 * cx) + 1)
    width, height = images.shape[2:0:-1] if isinstance(images, np.ndarray) else picture_size(images[0])
    return (height, width)


def frames_of(capture: Capture) -> list[str]:
    """Names of the images of a capture, in order. Raises InputError for a video, whose frames have no names."""
    if capture.is_video:
        raise InputError(f"{capture.data} is a video: results of others are scored for clips whose frames are images")
    found = [path.name for path in capture.data.iterdir() if path.suffix.lower() in IMAGES and path.name[0] != "."]
    return sorted(found, key=natural_key)


def _which(found: Peer, names: Sequence[str], folder: Path) -> list[int]:
    """Positions of the folder's frames among ``names``: all in their order, or by the names or numbers that it has."""
    if len(found) == len(names):
        return list(range(len(names)))
    position = {Path(name).stem: k for k, name in enumerate(names)}
    stems = [Path(name).stem for name in found.names]
    if stems and len(set(stems)) == len(stems) and all(stem in position for stem in stems):
        return [position[stem] for stem in stems]
    if found.indices is not None and found.num_source == len(names):
        return [int(k) for k in found.indices]
    raise InputError(
        f"{folder} holds {len(found)} frames, and the protocol takes {len(names)}: run the method on those frames "
        f"({names[0]} to {names[-1]})"
    )


def _scene(found: Peer, source_wh: tuple[int, int], names: Sequence[str], which: Sequence[int], folder: Path) -> Scene:
    count, (height, width) = len(found), found.grid
    depth = np.zeros((count, height, width), np.float32) if found.depth is None else found.depth
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)
    masks = np.zeros(depth.shape, bool) if found.masks is None else found.masks
    K = np.tile(np.eye(3), (count, 1, 1)) if found.K is None else found.K
    return Scene(
        images=np.zeros((*depth.shape, 3), np.uint8),
        T_world_cam=np.tile(np.eye(4), (count, 1, 1)) if found.T_world_cam is None else found.T_world_cam,
        focals=K[:, 0, 0].astype(float),
        principal_point=np.median(K[:, :2, 2], axis=0).astype(float),
        depth=depth,
        confidence=(depth > 0).astype(np.float32),
        dynamic=DynamicMasks(masks, np.zeros((count, 1, 1), np.float32), float("nan"), source="user"),
        pixel_map=covering(source_wh, (width, height), folder),
        times=np.asarray(which, dtype=float),
        indices=np.asarray(which, dtype=np.int64),
        names=tuple(names),
        source_paths=(folder,) * count,
        min_confidence=0.0,
    )


def covering(source_wh: tuple[int, int], grid_wh: tuple[int, int], folder: Path) -> PixelMap:
    """How maps lie in the frames: resized to cover the grid, and cropped in the middle.

    Raises InputError where the shapes are too different for that.
    """
    scale = max(grid / source for grid, source in zip(grid_wh, source_wh, strict=True))
    resized = tuple(max(grid, round(scale * source)) for grid, source in zip(grid_wh, source_wh, strict=True))
    if max(1 - grid / size for grid, size in zip(grid_wh, resized, strict=True)) > _MOST_CROPPED:
        raise InputError(
            f"{folder}: maps of {grid_wh[0]}x{grid_wh[1]} for frames of {source_wh[0]}x{source_wh[1]}: their shape is "
            "another, so they are of other pictures"
        )
    left, top = ((size - grid) // 2 for grid, size in zip(grid_wh, resized, strict=True))
    box = (left, top, left + grid_wh[0], top + grid_wh[1])
    return PixelMap(source_wh, (resized[0], resized[1]), box)
