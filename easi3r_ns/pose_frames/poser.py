"""Cameras for the frames that were not selected for the reconstruction (``--pose-all-frames``).

Each such frame lies between two frames of the Scene, its neighbours. Static, trusted pixels of the neighbours have a
known place in the world, and dense optical flow tells where the frame sees them: these 2D-3D correspondences give its
camera (PnP). The camera is accepted when the points of both neighbours agree on it. Otherwise the same is tried with
the nearest frames whose camera has been found already, and then the camera is interpolated and marked as such. The
masks of the neighbours are warped into the frame; what none of them explains counts as moving. Frames are read one at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..core.geometry import interpolate_poses, transform
from ..core.runlog import RunLog
from ..core.scene import FIXED, INTERPOLATED, PNP, PosedFrames, Scene
from ..core.types import Frames, SkippedFrames
from ..frames import resize_and_crop
from ..motion.flow.dis import DISFlow
from ..motion.flow.provider import FlowProvider
from ..storage.files import read_png
from .camera import MIN_MATCHES, Intrinsics, find_camera
from .neighbours import Neighbour, match, moving_or_unexplained, moving_seen_from, neighbour_in_scene

_TOLERANCE = (0.004, 0.016)
_TOLERANCE_PX = (1.0, 4.0)
"""Lower and upper limit of the reprojection error up to which a point agrees with a camera: shares of the image width
(2 and 8 pixels of 512), but at least so many pixels, because flow has an error of its own."""
_SPREAD = 2.5
"""Between these limits, the tolerance is this many medians of the error with which the neighbours see each other's
points."""
_MAX_DETOUR = 1.0
_MAX_DETOUR_DEPTH = 0.1
"""A camera may be this far from where interpolation puts it: a multiple of the distance between its neighbours, plus a
share of the median depth of their points."""


@dataclass(frozen=True)
class _Found:
    """The result for one frame."""

    row: int
    """Of the skipped frames."""
    T_world_cam: np.ndarray
    focal: float
    after: int
    """Position in the Scene of the frame before it; -1: none."""
    moving: np.ndarray
    """(H, W) bool."""
    source: str
    """:data:`~easi3r_ns.core.scene.PNP` or :data:`~easi3r_ns.core.scene.INTERPOLATED`."""


def pose_between(
    scene: Scene,
    skipped: SkippedFrames,
    log: RunLog,
    *,
    clip: Sequence[int],
    masks: Callable[[int], np.ndarray] | None = None,
    provider: FlowProvider | None = None,
) -> Scene:
    """``scene`` with cameras and masks for its ``skipped`` frames (:class:`~easi3r_ns.core.scene.PosedFrames`).

    ``clip`` names the positions of the clip's frames in the scene (evaluation views have no frames in between). Frames
    before the first and after the last of them have one neighbour; where that is not enough, they are left out with a
    warning. The provenance gets the number of frames by the source of their camera as ``between``. In a scene without
    motion masks (``--no-masks``) nothing moves in between either. ``masks`` gives the (H, W) bool mask of a row of
    ``skipped`` where the user knows it.

    Raises OSError when a skipped image cannot be read.
    """
    poser = _Poser(scene, skipped, provider or DISFlow())
    found: list[_Found] = []
    packed: list[np.ndarray] = []
    with log.stage("frames in between", len(skipped)) as advance:
        for left, right, rows in _gaps(scene, skipped, clip):
            for result in (_in_place(r, scene) for r in poser.gap(left, right, rows)):
                moving = result.moving & (scene.dynamic.source != "none") if masks is None else masks(result.row)
                packed.append(np.packbits(moving, axis=-1))
                found.append(replace(result, moving=np.empty((0, 0), dtype=bool)))
            advance(len(rows))
    counts = {source: sum(result.source == source for result in found) for source in _counted(scene)}
    counts["left_out"] = len(skipped) - len(found)
    _warn(counts, len(skipped), log)
    provenance = scene.provenance | {"between": counts}
    return replace(scene, between=_posed(found, packed, skipped) if found else None, provenance=provenance)


def without_camera(frames: Frames, scene: Scene, num_clip: int) -> SkippedFrames | None:
    """What :func:`pose_between` has to do: the skipped frames, and those of the clip that the scene left out.

    ``num_clip``: so many of ``frames`` are the clip's, the rest evaluation views. None: nothing.
    """
    present = set(scene.source_paths)
    lost = [k for k in range(num_clip) if frames.source_paths[k] not in present]
    own = SkippedFrames(
        frames.times[lost],
        frames.indices[lost],
        tuple(frames.names[k] for k in lost),
        tuple(frames.source_paths[k] for k in lost),
    )
    if frames.skipped is None:
        return own if lost else None
    every = (frames.skipped, own)
    indices = np.concatenate([part.indices for part in every])
    order = np.argsort(indices, kind="stable")
    names, paths = (sum((getattr(part, name) for part in every), ()) for name in ("names", "source_paths"))
    return SkippedFrames(
        np.concatenate([part.times for part in every])[order],
        indices[order],
        tuple(names[k] for k in order),
        tuple(paths[k] for k in order),
    )


def interpolate_pose(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """(4, 4) camera at ``share`` (0..1) of the way, see :func:`~easi3r_ns.core.geometry.interpolate_poses`."""
    return interpolate_poses(np.array([0.0, 1.0]), np.stack([first, second]), np.array([share]))[0]


def _gaps(
    scene: Scene, skipped: SkippedFrames, clip: Sequence[int]
) -> Iterator[tuple[int | None, int | None, list[int]]]:
    """(position before, position after, rows of ``skipped``) of every run of skipped frames."""
    keys = np.array(sorted(clip), dtype=int)
    after = np.searchsorted(scene.indices[keys], skipped.indices)
    for gap in np.unique(after):
        left = int(keys[gap - 1]) if gap > 0 else None
        right = int(keys[gap]) if gap < len(keys) else None
        yield left, right, np.flatnonzero(after == gap).tolist()


def _counted(scene: Scene) -> tuple[str, ...]:
    """Sources of cameras that can occur; the provenance counts them."""
    return (PNP, INTERPOLATED, FIXED) if scene.stays else (PNP, INTERPOLATED)


def _in_place(result: _Found, scene: Scene) -> _Found:
    """The same for a camera that does not leave its place: there; and what it sees is known when it stands still."""
    if not scene.stays:
        return result
    if set(scene.pose_sources or ()) == {FIXED}:
        return replace(result, T_world_cam=scene.T_world_cam[0], source=FIXED)
    pose = result.T_world_cam.copy()
    pose[:3, 3] = scene.T_world_cam[0, :3, 3]
    return replace(result, T_world_cam=pose)


def _warn(counts: dict[str, int], total: int, log: RunLog) -> None:
    if counts[INTERPOLATED]:
        log.warn(
            f"{counts[INTERPOLATED]} of {total} frames in between share too little with their neighbours: their "
            'cameras are interpolated (pose_source "interpolated" in transforms.json) and they are not trained on'
        )
    if counts["left_out"]:
        log.warn(f"{counts['left_out']} frames before the first or after the last posed one have no camera: left out")


def _posed(found: list[_Found], packed: list[np.ndarray], skipped: SkippedFrames) -> PosedFrames:
    rows = [result.row for result in found]
    return PosedFrames(
        T_world_cam=np.stack([result.T_world_cam for result in found]),
        focals=np.array([result.focal for result in found]),
        after=np.array([result.after for result in found], dtype=np.int64),
        mask_bits=np.stack(packed),
        times=skipped.times[rows],
        indices=skipped.indices[rows],
        names=tuple(skipped.names[row] for row in rows),
        source_paths=tuple(skipped.source_paths[row] for row in rows),
        pose_sources=tuple(result.source for result in found),
    )


class _Poser:
    """Finds the cameras gap by gap; keeps the neighbours of the last gap, as the next gap shares one of them."""

    def __init__(self, scene: Scene, skipped: SkippedFrames, provider: FlowProvider) -> None:
        self.scene, self.skipped, self.provider = scene, skipped, provider
        self._keys: dict[int, Neighbour] = {}

    def gap(self, left: int | None, right: int | None, rows: list[int]) -> list[_Found]:
        """Results for the frames ``rows`` between two frames of the Scene (None: there is no such frame), in order."""
        ends = [position for position in (left, right) if position is not None]
        self._keys = {
            position: self._keys.get(position) or neighbour_in_scene(self.scene, position) for position in ends
        }
        keys = [self._keys[position] for position in ends]
        before = -1 if left is None else left
        tolerance = self._tolerance(ends)
        found: dict[int, _Found] = {}
        near = {"left": keys[0] if left is not None else None, "right": keys[-1] if right is not None else None}
        waiting = []
        for row, side in _from_both_ends(rows, left is not None, right is not None):
            image = resize_and_crop(read_png(self.skipped.source_paths[row]), self.scene.pixel_map)
            intrinsics, focal = self._intrinsics(ends, row)
            solved, neighbour, moving = self._solve(
                row, image, intrinsics, (keys, [v for v in near.values() if v]), tolerance
            )
            if solved is None or neighbour is None:
                waiting.append((row, focal, np.packbits(moving, axis=-1)))
                continue
            found[row] = _Found(row, solved, focal, before, moving, PNP)
            near[side] = neighbour
        if len(keys) == 2:
            known = [(v.time, v.T_world_cam) for v in keys]
            known += [(float(self.skipped.times[row]), result.T_world_cam) for row, result in found.items()]
            width = self.scene.images.shape[2]
            for row, focal, bits in waiting:
                pose = _between(known, float(self.skipped.times[row]))
                moving = np.unpackbits(bits, axis=-1, count=width).astype(bool)
                found[row] = _Found(row, pose, focal, before, moving, INTERPOLATED)
        return [found[row] for row in sorted(found)]

    def _solve(
        self,
        row: int,
        image: np.ndarray,
        intrinsics: Intrinsics,
        candidates: tuple[list[Neighbour], list[Neighbour]],
        tolerance: float,
    ) -> tuple[np.ndarray | None, Neighbour | None, np.ndarray]:
        """The camera, the frame as a neighbour of others (both None where no camera is found), and its moving pixels.

        ``candidates``: the frames of the Scene, which are tried first, and the nearest frames with a camera.
        """
        time = float(self.skipped.times[row])
        moving = np.ones(image.shape[:2], dtype=bool)
        asked: list[Neighbour] = []
        for neighbours in candidates:
            if neighbours == asked:
                break
            asked = neighbours
            matches = [match(neighbour, image, self.provider) for neighbour in neighbours]
            moving = moving_or_unexplained(matches)
            expected = _between([(neighbour.time, neighbour.T_world_cam) for neighbour in neighbours], time)
            pose = find_camera(matches, intrinsics, expected, tolerance, _reach(neighbours))
            if pose is not None:
                points = np.concatenate([m.points for m in matches])
                pixels = np.concatenate([m.pixels for m in matches])
                seen = intrinsics.project(pose, points)
                agree = np.linalg.norm(seen - pixels, axis=1) < tolerance
                # Pixels by projection, not by flow: so errors do not accumulate along a chain of frames.
                moving = moving_seen_from(pose, image, neighbours, matches, intrinsics, tolerance)
                return pose, Neighbour(image, time, pose, points[agree], seen[agree], moving), moving
        return None, None, moving

    def _intrinsics(self, ends: list[int], row: int) -> tuple[Intrinsics, float]:
        scene = self.scene
        focal = float(np.interp(self.skipped.times[row], scene.times[ends], scene.focals[ends]))
        K = np.diag([focal, focal * scene.pixel_map.pixel_aspect, 1.0])
        K[:2, 2] = scene.principal_point
        return Intrinsics(K, scene.distortion), focal

    def _tolerance(self, ends: list[int]) -> float:
        """Pixels of reprojection error up to which a point agrees with a camera in this gap."""
        width = self.scene.images.shape[2]
        low, high = (max(share * width, least) for share, least in zip(_TOLERANCE, _TOLERANCE_PX))
        if len(ends) < 2:
            return low
        left, right = (self._keys[position] for position in ends)
        matches = match(left, right.image, self.provider)
        if len(matches.points) < MIN_MATCHES:
            return float(np.sqrt(low * high))  # too far apart to tell
        K = np.diag([*self.scene.focals_xy[ends[1]], 1.0])
        K[:2, 2] = self.scene.principal_point
        seen = Intrinsics(K, self.scene.distortion).project(right.T_world_cam, matches.points)
        errors = np.linalg.norm(seen - matches.pixels, axis=1)
        return float(np.clip(_SPREAD * np.nanmedian(errors), low, high))


def _from_both_ends(rows: list[int], left: bool, right: bool) -> Iterator[tuple[int, str]]:
    """The rows from both ends to the middle, each with the end from which it is reached."""
    rows = list(rows)
    while rows:
        if left:
            yield rows.pop(0), "left"
        if right and rows:
            yield rows.pop(), "right"


def _between(known: Iterable[tuple[float, np.ndarray]], time: float) -> np.ndarray:
    """The camera at ``time`` between the nearest of the (time, camera) that are known; the nearest alone outside."""
    ordered = sorted(known, key=lambda entry: entry[0])
    after = int(np.searchsorted([stamp for stamp, _ in ordered], time))
    if after in (0, len(ordered)):
        return ordered[min(after, len(ordered) - 1)][1]
    (start, first), (end, second) = ordered[after - 1], ordered[after]
    return interpolate_pose(first, second, (time - start) / (end - start))


def _reach(neighbours: Sequence[Neighbour]) -> float:
    """How far a camera may be from where interpolation puts it, in scene units."""
    centres = np.stack([neighbour.T_world_cam[:3, 3] for neighbour in neighbours])
    depths = [
        transform(np.linalg.inv(neighbour.T_world_cam), neighbour.points)[:, 2]
        for neighbour in neighbours
        if len(neighbour.points)
    ]
    depth = float(np.median(np.concatenate(depths))) if depths else 0.0
    return _MAX_DETOUR * float(np.linalg.norm(centres[0] - centres[-1])) + _MAX_DETOUR_DEPTH * depth
