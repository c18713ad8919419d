"""Frames of several clips on the grid of one scene: where cameras differ, resampled to one lens without distortion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.runlog import RunLog
from ..core.types import DynamicMasks, Frames, NearFrames, PixelMap
from ..frames import plan_preprocessing, resize_and_crop
from ..frames.clips import SourceClip
from ..frames.store import frame_file, near_file
from ..motion.packing import join_masks
from ..refine import Lens, SparseModel
from ..storage.files import make_folder, read_png, write_png
from .common_lens import CommonLens
from .geometric import GEOMETRY

_SAME_SHAPE = 0.02
"""Relative difference of the shapes of pictures up to which nothing worth mentioning is cut off."""


@dataclass(frozen=True)
class Placed:
    """The frames that have a camera, as one lens shows them."""

    frames: Frames
    dynamic: DynamicMasks
    model: SparseModel
    """Of these frames alone."""
    kept: np.ndarray
    """Their positions among the frames of all clips."""
    common: CommonLens | None = None
    """Where the pictures were resampled: the lens that they have now."""


def through_one_lens(
    clips: Sequence[SourceClip],
    masks: Sequence[DynamicMasks],
    model: SparseModel,
    kept: np.ndarray,
    store: Path,
    log: RunLog,
) -> Placed:
    """The frames of all clips that have a camera, seen through one lens; pictures of other lenses are resampled.

    Args:
        masks: of each clip, on its own grid.
        model: cameras of the frames of all clips, one clip after the other.
        kept: positions, among the frames of all clips, of those that have a camera.
        store: folder for the resampled pictures.
    """
    ends = np.cumsum([len(clip.frames) for clip in clips])
    rows = [own[model.registered[own]] for own in np.split(np.arange(ends[-1]), ends[:-1])]
    position = np.full(len(model.registered), -1)
    position[kept] = np.arange(len(kept))
    sparse = replace(model.sparse, frame_index=position[model.sparse.frame_index])
    changes: dict[str, Any] = {"sparse": sparse}
    common: CommonLens | None = None
    if model.lenses is None:
        parts = [clip.frames.of_frames(own - end + len(clip.frames)) for clip, own, end in zip(clips, rows, ends)]
        moving = [m.of_frames(own - end + len(c.frames)) for m, c, own, end in zip(masks, clips, rows, ends)]
    else:
        lenses = [model.lenses.at(frame) for frame in kept.tolist()]
        common = _common_lens(lenses)
        cut = max(_cut_off((lens.width, lens.height), common.wh) for lens in lenses)
        loss = f"; up to {100 * cut:.0f} % of a picture is cut off" if cut > _SAME_SHAPE else ""
        cameras = len({clip.camera for clip, own in zip(clips, rows) if len(own)})
        log.info(
            f"the clips have {cameras} cameras: their pictures are resampled to {common.wh[0]}x{common.wh[1]} pixels "
            f"without distortion, each with its own focal length{loss}"
        )
        parts, moving = [], []
        with log.stage("one lens for all clips", len(kept)) as advance:
            for number, (clip, dynamic, own, end) in enumerate(zip(clips, masks, rows, ends)):
                own_rows = own - end + len(clip.frames)
                job = _Resampled(common, position[own], store / f"clip_{number + 1}")
                parts.append(job.frames(clip.frames.of_frames(own_rows), advance))
                moving.append(job.masks(dynamic.of_frames(own_rows), clip.frames, parts[-1]))
        focal = float(np.median(common.focals))
        lens = Lens.centred(common.wh, focal)
        changes = {"sparse": common.moved(sparse), "lens": lens, "lenses": None, "focals": common.focals}
    cameras, registered = model.T_world_cam[kept], model.registered[kept]
    model = replace(model, T_world_cam=cameras, registered=registered, **changes)
    known = [k for k, part in enumerate(parts) if len(part)]
    return Placed(_in_a_row(clips, parts, known), join_masks([moving[k] for k in known]), model, kept, common)


def masks_of_clips(
    clips: Sequence[SourceClip], first: Sequence[DynamicMasks], seen: DynamicMasks, placed: Placed
) -> list[DynamicMasks]:
    """Masks of the frames that have a camera, on the grids of their clips; the reverse of :func:`through_one_lens`.

    Args:
        first: masks of each clip, which stay in frames without a camera, and where the common lens shows nothing.
        seen: of the frames with a camera, as the common lens shows them.
    """
    out, begin = [], 0
    for clip, before in zip(clips, first, strict=True):
        rows = placed.kept - begin
        places = np.flatnonzero((rows >= 0) & (rows < len(clip.frames)))
        back = _Back(clip.frames.pixel_map, placed, places, rows[places])
        known = seen.maps or {}
        maps = before.maps and {name: back(own, known[name], GEOMETRY.patch) for name, own in before.maps.items()}
        masks, score = back(before.masks, seen.masks, 1), back(before.score, seen.score, GEOMETRY.patch)
        refined = before.refined
        if refined is not None and seen.refined is not None:
            refined = replace(refined, masks=back(refined.masks, seen.refined.masks, 1), objects=None)
        out.append(replace(before, masks=masks, score=score, maps=maps, first=before.masks, refined=refined))
        begin += len(clip.frames)
    return out


@dataclass(frozen=True)
class _Back:
    """From the frames of the scene to those of one clip."""

    own: PixelMap
    placed: Placed
    places: np.ndarray
    """Of the clip's frames in the scene."""
    rows: np.ndarray
    """The same frames in the clip."""

    def __call__(self, before: np.ndarray, seen: np.ndarray, cell: int) -> np.ndarray:
        """``before`` of the clip with what was ``seen`` in the scene; ``cell``: see :meth:`CommonLens.on_grid`."""
        out, common = before.copy(), self.placed.common
        for place, row in zip(self.places.tolist(), self.rows.tolist()):
            if common is None:
                out[row] = seen[place]
                continue
            found, shown = common.back_on_grid(seen[place], place, self.own, self.placed.frames.pixel_map, cell)
            out[row] = np.where(shown, found, out[row])
        return out


def _common_lens(lenses: Sequence[Lens]) -> CommonLens:
    sizes = [(lens.width, lens.height) for lens in lenses]
    K = np.tile(np.eye(3), (len(lenses), 1, 1))
    K[:, 0, 0] = K[:, 1, 1] = [lens.focal for lens in lenses]
    K[:, :2, 2] = np.array([lens.principal_point for lens in lenses]) - 0.5
    distortion = np.array([tuple(lens.distortion) for lens in lenses])
    return CommonLens(K, distortion, sizes, max(sizes, key=lambda wh: wh[0] * wh[1]))


def _cut_off(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Share of a picture that does not fit the shape of another."""
    shapes = sorted(wh[0] / wh[1] for wh in (before, after))
    return 1 - shapes[0] / shapes[1]


@dataclass(frozen=True)
class _Resampled:
    """One clip as the common lens shows it."""

    common: CommonLens
    positions: np.ndarray
    """Of its frames, for the common lens."""
    store: Path

    def frames(self, frames: Frames, advance: Any) -> Frames:
        """Pictures, network images and small copies around them."""
        if not len(frames):
            return frames
        pixel_map = plan_preprocessing(self.common.wh, GEOMETRY)
        make_folder(self.store)
        paths, images = [], []
        for k, (path, position) in enumerate(zip(frames.source_paths, self.positions.tolist())):
            image = self.common.resampled(read_png(path), position)
            paths.append(self.store / frame_file(k))
            write_png(paths[-1], image)
            images.append(resize_and_crop(image, pixel_map))
            advance(1)
        near = frames.near and self._near(frames.near)
        return replace(
            frames, images=np.stack(images), pixel_map=pixel_map, source_paths=tuple(paths), near=near, skipped=None
        )

    def masks(self, dynamic: DynamicMasks, before: Frames, after: Frames) -> DynamicMasks:
        """The masks on the grid of the common lens."""
        if not len(self.positions):
            return dynamic

        def moved(values: np.ndarray, cell: int = 1) -> np.ndarray:
            maps = before.pixel_map, after.pixel_map
            return np.stack([self.common.on_grid(v, p, *maps, cell) for v, p in zip(values, self.positions.tolist())])

        cell = GEOMETRY.patch
        return replace(
            dynamic,
            masks=moved(dynamic.masks),
            score=moved(dynamic.score, cell),
            maps=dynamic.maps and {name: moved(values, cell) for name, values in dynamic.maps.items()},
            first=None if dynamic.first is None else moved(dynamic.first),
            refined=dynamic.refined and replace(dynamic.refined, masks=moved(dynamic.refined.masks), objects=None),
        )

    def _near(self, near: NearFrames) -> NearFrames:
        paths = []
        for k, path in enumerate(near.paths):
            paths.append(self.store / near_file(k))
            write_png(paths[-1], self.common.resampled(read_png(path), int(self.positions[0])))
        return replace(near, paths=tuple(paths))


def _in_a_row(clips: Sequence[SourceClip], parts: Sequence[Frames], known: Sequence[int]) -> Frames:
    """Those of the clips ``known``, whose frames have one size, one after the other."""
    out = parts[known[0]]
    for k in known[1:]:
        out = out.followed_by(parts[k])
    clip = np.repeat(known, [len(parts[k]) for k in known]).astype(np.int64)
    turned = np.repeat([clips[k].turned for k in known], [len(parts[k]) for k in known])
    return replace(
        out, clip=clip, turned=turned if turned.any() else None, sharpness=None, recorded_focal=None, skipped=None
    )
