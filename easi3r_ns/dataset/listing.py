"""Which frames a dataset holds, and in which order: those of the Scene and those posed in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.objects import nearest_numbers
from ..core.rig import ViewRig
from ..core.scene import INTERPOLATED, Scene

_EVAL_EVERY = 10
"""Every so many frames one is kept for evaluation where we have to choose: the share of nerfstudio's default."""


@dataclass(frozen=True)
class Listed:
    """One frame of a dataset."""

    position: int | None
    """In the Scene; None for a frame in between."""
    near: int
    """The position itself, or that of a frame of the Scene beside it."""
    row: int | None
    """Among the frames in between; None for one of the Scene."""
    source_path: Path
    name: str
    index: int
    time: float
    T_world_cam: np.ndarray
    """(4, 4) camera-to-world, OpenCV axes."""
    focal: float
    """Horizontal, network pixels."""
    pose_source: str
    clip: int | None = None
    """Of several clips, that of the frame; from 0."""
    turned: bool = False
    """Whether it lies on its side in the Scene, see :attr:`easi3r_ns.core.scene.Scene.turned`."""

    def moving(self, scene: Scene) -> np.ndarray:
        """(H, W) bool mask on the network grid, True where something moves."""
        if self.position is not None:
            return scene.dynamic.masks[self.position]
        return scene.between.moving(self.row, scene.images.shape[2])

    def objects(self, scene: Scene) -> np.ndarray | None:
        """(H, W) uint16 ids on the network grid, see :attr:`~easi3r_ns.core.types.DynamicMasks.objects`.

        What moves in a frame in between has the ids of the nearest places in the frame of the Scene beside it, or 1
        where there are none.
        """
        if scene.dynamic.objects is None:
            return None
        own = scene.dynamic.objects[self.near]
        if self.position is not None:
            return own
        return np.where(self.moving(scene), np.maximum(nearest_numbers(own), 1), 0).astype(np.uint16)


def listed_frames(scene: Scene) -> tuple[Listed, ...]:
    """All frames: those of the Scene in their order, each followed by those between it and the next."""
    rows: dict[int, list[int]] = {}
    if scene.between is not None:
        for row, position in enumerate(scene.between.after.tolist()):
            rows.setdefault(position, []).append(row)
    listed = [_in_between(scene, row) for row in rows.get(-1, [])]
    for position in range(len(scene)):
        listed.append(_of_scene(scene, position))
        listed += [_in_between(scene, row) for row in rows.get(position, [])]
    return tuple(listed)


def listed_splits(listed: Sequence[Listed], splits: Mapping[str, Sequence[int]] | None) -> dict[str, list[int]] | None:
    """``splits``, which name positions in the Scene, as places in the list; None: nerfstudio's own split will do.

    A frame in between is trained on when its camera was found. A frame whose camera was interpolated is in no split,
    so where there is one, splits are needed: every tenth of the others is then held out.
    """
    trusted = [k for k, frame in enumerate(listed) if frame.pose_source != INTERPOLATED]
    if splits is not None:
        places = {frame.position: k for k, frame in enumerate(listed) if frame.position is not None}
        listed_at = {split: [places[position] for position in positions] for split, positions in splits.items()}
        out = {split: [k for k in found if k in set(trusted)] for split, found in listed_at.items()}
        out["train"] = sorted(out["train"] + [k for k in trusted if listed[k].position is None])
        return out
    if len(trusted) == len(listed):
        return None
    held_out = every_tenth(trusted)
    return {"train": [k for k in trusted if k not in set(held_out)], "val": held_out, "test": held_out}


def stems_of(scene: Scene, listed: Sequence[Listed]) -> list[str]:
    """Names of the files of all frames; views of a sphere have the numbers of their frame and their view."""
    return [_stem(k, frame.clip) if scene.rig is None else scene.rig.stem(k) for k, frame in enumerate(listed)]


def possible_stems(num_frames: int, num_clips: int = 1, rig: ViewRig | None = None) -> list[str]:
    """All names that files of so many frames, and clips, can get."""
    clips = range(num_clips) if num_clips > 1 else (None,)
    return [_stem(k, clip) if rig is None else rig.stem(k) for clip in clips for k in range(num_frames)]


def positions_by_stem(scene: Scene) -> dict[str, int | None]:
    """Name of every frame's files: its position in the Scene; None for a frame in between."""
    listed = listed_frames(scene)
    return {stem: frame.position for stem, frame in zip(stems_of(scene, listed), listed, strict=True)}


def _stem(position: int, clip: int | None) -> str:
    """Numbers go through all frames, so that stems are unique; ``clip``: of several clips, that of the frame."""
    return f"frame_{position + 1:05d}" if clip is None else f"clip_{clip + 1}_frame_{position + 1:05d}"


def every_tenth(frames: Sequence[int]) -> list[int]:
    """The frames to keep for evaluation, never none: readers need one."""
    return list(frames[min(_EVAL_EVERY, len(frames)) // 2 :: _EVAL_EVERY])


def moments_held_out(rig: ViewRig) -> list[int]:
    """Positions of the views to keep for evaluation: all views of every tenth moment.

    A single view of a moment is no test: its neighbours, which overlap it, have its very centre.
    """
    moments = every_tenth(np.unique(rig.moment).tolist())
    return np.flatnonzero(np.isin(rig.moment, moments)).tolist()


def splits_by_moment(rig: ViewRig | None) -> dict[str, list[int]] | None:
    """Positions of the views of every split; None where there is no rig, or a single moment."""
    if rig is None or len(np.unique(rig.moment)) < 2:
        return None
    held_out = moments_held_out(rig)
    return {"train": sorted(set(range(len(rig))) - set(held_out)), "val": held_out, "test": held_out}


def _of_scene(scene: Scene, position: int) -> Listed:
    return Listed(
        position=position,
        near=position,
        row=None,
        source_path=scene.source_paths[position],
        name=scene.names[position],
        index=int(scene.indices[position]),
        time=float(scene.times[position]),
        T_world_cam=scene.T_world_cam[position],
        focal=float(scene.focals[position]),
        pose_source=scene.pose_sources[position] if scene.pose_sources else "network",
        clip=None if scene.clip is None else int(scene.clip[position]),
        turned=scene.turned is not None and bool(scene.turned[position]),
    )


def _in_between(scene: Scene, row: int) -> Listed:
    between = scene.between
    return Listed(
        position=None,
        near=max(0, int(between.after[row])),
        row=row,
        source_path=between.source_paths[row],
        name=between.names[row],
        index=int(between.indices[row]),
        time=float(between.times[row]),
        T_world_cam=between.T_world_cam[row],
        focal=float(between.focals[row]),
        pose_source=between.pose_sources[row],
    )
