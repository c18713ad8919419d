"""Cameras for the frames that were sampled away (``--pose-all-frames``).

Each such frame lies between two frames of the Scene. Dense optical flow leads from static, trusted pixels of these
neighbours, whose place in the world their depth gives, to where the frame sees them: its camera follows from 2D-3D
correspondences. It counts when the points of BOTH neighbours agree on it; else the frames nearer by that have a camera
already are asked; else the camera is interpolated, and marked as such. What moves is carried over from the neighbours'
masks, and what neither of them explains counts as moving. Frames are read one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from .files import read_png
from .flow import CONSISTENCY_PX2, CONSISTENCY_RELATIVE, DISFlow, FlowProvider
from .frames import resize_and_crop
from .frames.cuts import local_correlation
from .geometry import distort, pixel_grid, project, source_to_network, transform
from .runlog import RunLog
from .surface import grow_mask, solid_pixels, world_points
from .types import PosedFrames, Scene, SkippedFrames

PNP, INTERPOLATED = "pnp", "interpolated"

_MAX_POINTS = 1500
"""Points per neighbour."""
_MASK_GROWTH = 3
"""Pixels around what moves that give no point."""
_MIN_CORRELATION = 0.7
"""Of the surroundings of a point in both frames."""
_SAME_COLOUR = 15.0
"""Levels (of 255), in any channel, by which a pixel may differ from its neighbour's and still be explained by it."""
_MIN_MATCHES = 40
_MIN_SHARE = 0.3
_MIN_SHARE_ALONE = 0.6
"""Share of a neighbour's points that must agree on the camera; the second where only one neighbour has enough."""
_TOLERANCE = (0.004, 0.016)
"""Least and most reprojection error of a point that agrees, in image widths: 2 and 8 pixels of 512. In between, the
error with which the neighbours themselves see each other's points decides."""
_SPREAD = 2.5
"""How many times the neighbours' median error that is."""
_MAX_DETOUR = 1.0
"""How far a camera may be from the straight way between its neighbours, in lengths of that way."""
_MAX_DETOUR_DEPTH = 0.1
"""Beside that, in median depths of its points."""


@dataclass(frozen=True)
class _Lens:
    """Intrinsics of one frame on the network grid."""

    K: np.ndarray
    distortion: tuple[float, float, float, float]

    def project(self, T_world_cam: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(N, 3) world -> (N, 2) distorted network pixels; NaN behind the camera."""
        local = transform(np.linalg.inv(T_world_cam), points)
        local[local[:, 2] <= 0] = np.nan
        ideal = project(local, 1.0, 1.0, 0.0, 0.0)
        return distort(ideal, self.distortion) * self.K[[0, 1], [0, 1]] + self.K[:2, 2]


@dataclass(frozen=True)
class _View:
    """A frame with a camera: what others can learn from it."""

    image: np.ndarray
    """(H, W, 3) uint8 at network size."""
    time: float
    T_world_cam: np.ndarray
    points: np.ndarray
    """(N, 3) static points in the world."""
    pixels: np.ndarray
    """(N, 2) where this frame sees them."""
    moving: np.ndarray
    """(H, W) bool."""
    surface: np.ndarray | None = None
    """(H, W, 3) world points of its pixels, NaN where they are unknown; None for a frame without depth."""


@dataclass(frozen=True)
class _Matches:
    """What a view tells about another frame."""

    points: np.ndarray
    """(M, 3) points of the view that the frame sees too."""
    pixels: np.ndarray
    """(M, 2) where it sees them."""
    moving: np.ndarray
    """(H, W) bool on the frame's grid: the view's moving pixels."""
    explained: np.ndarray
    """(H, W) bool on the frame's grid: the view shows the same thing."""
    surface: np.ndarray | None = None
    """(H, W, 3) world points that the view shows there, NaN where they are unknown."""


@dataclass(frozen=True)
class _Found:
    """The result for one frame."""

    row: int
    T_world_cam: np.ndarray
    focal: float
    after: int
    moving: np.ndarray
    source: str


def pose_between(
    scene: Scene, skipped: SkippedFrames, log: RunLog, *, clip: Sequence[int], provider: FlowProvider | None = None
) -> Scene:
    """``scene`` with cameras and masks for the ``skipped`` frames of its clip (see :class:`~.types.PosedFrames`).

    ``clip`` names the positions of the clip's frames in the scene (evaluation views have no frames in between). Frames
    before the first and after the last of them have one neighbour; where that is not enough, they are left out with a
    warning. How many frames came from where stands in the provenance as ``between``.

    Raises OSError when a skipped image cannot be read.
    """
    poser = _Poser(scene, skipped, provider or DISFlow())
    found: list[_Found] = []
    packed: list[np.ndarray] = []
    with log.stage("frames in between", len(skipped)) as advance:
        for left, right, rows in _gaps(scene, skipped, clip):
            for result in poser.gap(left, right, rows):
                packed.append(np.packbits(result.moving, axis=-1))
                found.append(replace(result, moving=np.empty((0, 0), dtype=bool)))
            advance(len(rows))
    counts = {source: sum(result.source == source for result in found) for source in (PNP, INTERPOLATED)}
    counts["left_out"] = len(skipped) - len(found)
    _warn(counts, len(skipped), log)
    provenance = scene.provenance | {"between": counts}
    return replace(scene, between=_posed(found, packed, skipped) if found else None, provenance=provenance)


def interpolate_pose(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """(4, 4) camera at ``share`` (0..1) of the way: constant speed along a line, constant turning rate."""
    pose = np.eye(4)
    pose[:3, 3] = (1 - share) * first[:3, 3] + share * second[:3, 3]
    turns = Rotation.from_matrix(np.stack([first[:3, :3], second[:3, :3]]))
    pose[:3, :3] = Slerp([0.0, 1.0], turns)(share).as_matrix()
    return pose


def _gaps(
    scene: Scene, skipped: SkippedFrames, clip: Sequence[int]
) -> Iterator[tuple[int | None, int | None, list[int]]]:
    """(position before, position after, rows of ``skipped``) of every run of skipped frames."""
    keys = np.array(sorted(clip, key=lambda position: scene.indices[position]), dtype=int)
    after = np.searchsorted(scene.indices[keys], skipped.indices)
    for gap in np.unique(after):
        left = int(keys[gap - 1]) if gap > 0 else None
        right = int(keys[gap]) if gap < len(keys) else None
        yield left, right, np.flatnonzero(after == gap).tolist()


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
    """Poses the frames of one gap after the other; keeps the views at the ends of the last one."""

    def __init__(self, scene: Scene, skipped: SkippedFrames, provider: FlowProvider) -> None:
        self.scene, self.skipped, self.provider = scene, skipped, provider
        self._keys: dict[int, _View] = {}

    def gap(self, left: int | None, right: int | None, rows: list[int]) -> list[_Found]:
        """What could be found out about the frames ``rows``, in order."""
        ends = [position for position in (left, right) if position is not None]
        self._keys = {position: self._keys.get(position) or _key_view(self.scene, position) for position in ends}
        keys = [self._keys[position] for position in ends]
        before = -1 if left is None else left
        tolerance = self._tolerance(ends)
        found: dict[int, _Found] = {}
        near = {"left": keys[0] if left is not None else None, "right": keys[-1] if right is not None else None}
        waiting = []
        for row, side in _from_both_ends(rows, left is not None, right is not None):
            image = resize_and_crop(read_png(self.skipped.source_paths[row]), self.scene.pixel_map)
            lens, focal = self._lens(ends, row)
            solved, view, moving = self._solve(row, image, lens, (keys, [v for v in near.values() if v]), tolerance)
            if solved is None or view is None:
                waiting.append((row, focal, np.packbits(moving, axis=-1)))
                continue
            found[row] = _Found(row, solved, focal, before, moving, PNP)
            near[side] = view
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
        self, row: int, image: np.ndarray, lens: _Lens, neighbours: tuple[list[_View], list[_View]], tolerance: float
    ) -> tuple[np.ndarray | None, _View | None, np.ndarray]:
        """Camera (or None), the frame as a view, and what moves in it; the Scene's frames are asked first."""
        time = float(self.skipped.times[row])
        moving = np.ones(image.shape[:2], dtype=bool)
        asked: list[_View] = []
        for views in neighbours:
            if views == asked:
                break
            asked = views
            matches = [_match(view, image, self.provider) for view in views]
            moving = _moving(matches)
            expected = _between([(view.time, view.T_world_cam) for view in views], time)
            pose = _camera(matches, lens, expected, tolerance, _reach(views))
            if pose is not None:
                points = np.concatenate([m.points for m in matches])
                pixels = np.concatenate([m.pixels for m in matches])
                seen = lens.project(pose, points)
                agree = np.linalg.norm(seen - pixels, axis=1) < tolerance
                # Where the points must be, not where the flow took them: nothing adds up along a chain of frames.
                moving = _moving_seen_from(pose, image, views, matches, lens, tolerance)
                return pose, _View(image, time, pose, points[agree], seen[agree], moving), moving
        return None, None, moving

    def _lens(self, ends: list[int], row: int) -> tuple[_Lens, float]:
        scene = self.scene
        focal = float(np.interp(self.skipped.times[row], scene.times[ends], scene.focals[ends]))
        K = np.diag([focal, focal * scene.pixel_map.pixel_aspect, 1.0])
        K[:2, 2] = scene.principal_point
        return _Lens(K, scene.distortion), focal

    def _tolerance(self, ends: list[int]) -> float:
        """Pixels: how well the neighbours' points fit each other, within limits."""
        width = self.scene.images.shape[2]
        low, high = (share * width for share in _TOLERANCE)
        if len(ends) < 2:
            return low
        left, right = (self._keys[position] for position in ends)
        matches = _match(left, right.image, self.provider)
        if len(matches.points) < _MIN_MATCHES:
            return low
        K = np.diag([*self.scene.focals_xy[ends[1]], 1.0])
        K[:2, 2] = self.scene.principal_point
        seen = _Lens(K, self.scene.distortion).project(right.T_world_cam, matches.points)
        errors = np.linalg.norm(seen - matches.pixels, axis=1)
        return float(np.clip(_SPREAD * np.nanmedian(errors), low, high))


def _from_both_ends(rows: list[int], left: bool, right: bool) -> Iterator[tuple[int, str]]:
    """The rows from the outside in, each with the side from which it is reached."""
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


def _reach(views: Sequence[_View]) -> float:
    """How far from the way between its neighbours a camera may be, in scene units."""
    centres = np.stack([view.T_world_cam[:3, 3] for view in views])
    depths = [transform(np.linalg.inv(view.T_world_cam), view.points)[:, 2] for view in views if len(view.points)]
    depth = float(np.median(np.concatenate(depths))) if depths else 0.0
    return _MAX_DETOUR * float(np.linalg.norm(centres[0] - centres[-1])) + _MAX_DETOUR_DEPTH * depth


def _key_view(scene: Scene, position: int) -> _View:
    """A frame of the Scene, with static points of its depth map and of its tracks."""
    moving = scene.dynamic.masks[position]
    static = ~grow_mask(moving, _MASK_GROWTH)
    rows, columns = _well_textured(scene.images[position], solid_pixels(scene, position) & static)
    points = [world_points(scene, position)[rows, columns].astype(float)]
    pixels = [np.stack([columns, rows], axis=-1).astype(float)]
    if scene.sparse is not None:
        seen = scene.sparse.frame_index == position
        at = source_to_network(scene.sparse.pixels[seen], scene.pixel_map)
        height, width = moving.shape
        nearest = np.rint(at).astype(int)
        inside = ((nearest >= 0) & (nearest < (width, height))).all(axis=1)
        inside[inside] = static[nearest[inside, 1], nearest[inside, 0]]
        points.append(scene.sparse.points[scene.sparse.point_index[seen]][inside])
        pixels.append(at[inside])
    return _View(
        scene.images[position],
        float(scene.times[position]),
        scene.T_world_cam[position],
        np.concatenate(points),
        np.concatenate(pixels),
        moving,
        np.where(solid_pixels(scene, position)[..., None], world_points(scene, position), np.nan).astype(np.float32),
    )


def _well_textured(image: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the best corner in every cell of a grid, for flow is blind where nothing is to be seen."""
    score = np.where(allowed, cv2.cornerMinEigenVal(_grey(image).astype(np.uint8), 5), 0)
    height, width = allowed.shape
    cell = max(2, int(np.sqrt(height * width / _MAX_POINTS)))
    rows, columns = height // cell, width // cell
    cells = score[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).swapaxes(1, 2)
    best = cells.reshape(rows, columns, -1)
    inside = best.argmax(axis=-1)
    row = np.arange(rows)[:, None] * cell + inside // cell
    column = np.arange(columns)[None] * cell + inside % cell
    good = best.max(axis=-1) > 1e-6
    return row[good], column[good]


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(H, W) bool of two (H, W, 3) images; False where one is NaN."""
    return np.abs(one.astype(np.float32) - other).max(axis=-1) <= _SAME_COLOUR


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)


def _read(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """``values`` at (..., 2) pixels, bilinear."""
    grid = (at[:, None] if at.ndim == 2 else at).astype(np.float32)
    out = cv2.remap(values, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return out[:, 0] if at.ndim == 2 else out


def _returns(at: np.ndarray, there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Whether ``there``, the flow at the pixels ``at``, stays inside and ``back`` leads to the start again."""
    landing = at + there
    height, width = back.shape[:2]
    inside = ((landing >= 0) & (landing <= (width - 1, height - 1))).all(axis=-1)
    returned = _read(back, landing)
    magnitude = (there**2).sum(-1) + (returned**2).sum(-1)
    return inside & (((there + returned) ** 2).sum(-1) < CONSISTENCY_RELATIVE * magnitude + CONSISTENCY_PX2)


def _match(view: _View, image: np.ndarray, provider: FlowProvider) -> _Matches:
    """Follow the view's points into ``image``, and bring its mask there."""
    there, back = provider.flow(np.stack([view.image, image]), np.stack([image, view.image]))
    old, new = _grey(view.image), _grey(image)
    height, width = new.shape
    grid = pixel_grid(height, width).astype(np.float32)
    alike, _ = local_correlation(old, _read(new, grid + there))
    if len(view.pixels):
        flow = _read(there, view.pixels)
        good = _returns(view.pixels, flow, back) & (_read(alike, view.pixels) > _MIN_CORRELATION)
    else:
        flow, good = np.empty((0, 2)), np.empty(0, dtype=bool)
    carried = _read(old, grid + back)
    alike, textured = local_correlation(new, carried)
    landing = grid + back
    inside = ((landing >= 0) & (landing <= (width - 1, height - 1))).all(axis=-1)
    same = _alike(image, _read(view.image, landing))
    explained = inside & (same | (_returns(grid, back, there) & textured & (alike > _MIN_CORRELATION)))
    moving = _read(view.moving.astype(np.float32), landing) > 0.25
    surface = None
    if view.surface is not None:
        nearest = landing.astype(np.float32)
        surface = cv2.remap(view.surface, nearest[..., 0], nearest[..., 1], cv2.INTER_NEAREST)
    return _Matches(view.points[good], (view.pixels + flow)[good], moving, explained, surface)


def _moving_seen_from(
    pose: np.ndarray,
    image: np.ndarray,
    views: Sequence[_View],
    matches: Sequence[_Matches],
    lens: _Lens,
    tolerance: float,
) -> np.ndarray:
    """:func:`_moving` for a frame whose camera is known: stricter, and fairer to what has no texture.

    A neighbour explains only what it shows where the camera must see it, and the neighbours' static surfaces explain
    what looks like them from there.
    """
    held = [replace(m, explained=m.explained & ~_elsewhere(m, pose, lens, tolerance)) for m in matches]
    for view in views:
        alike = _alike(image, _rendered(view, pose, lens))
        held.append(replace(held[0], moving=np.zeros_like(alike), explained=alike))
    return _moving(held)


def _elsewhere(match: _Matches, pose: np.ndarray, lens: _Lens, tolerance: float) -> np.ndarray:
    """(H, W) bool: the view shows a surface here that the camera must see somewhere else."""
    height, width = match.explained.shape
    if match.surface is None:
        return np.zeros((height, width), dtype=bool)
    seen = lens.project(pose, match.surface.reshape(-1, 3).astype(float)).reshape(height, width, 2)
    return np.linalg.norm(seen - pixel_grid(height, width), axis=-1) > 1.5 * tolerance


def _rendered(view: _View, pose: np.ndarray, lens: _Lens) -> np.ndarray:
    """(H, W, 3) colours of the view's static surfaces as another camera sees them, NaN where it sees none."""
    height, width = view.moving.shape
    out = np.full((height, width, 3), np.nan, dtype=np.float32)
    if view.surface is None:
        return out
    static = ~view.moving & np.isfinite(view.surface).all(axis=-1)
    points = view.surface[static].astype(float)
    pixels = lens.project(pose, points)
    depth = transform(np.linalg.inv(pose), points)[:, 2]
    order = np.argsort(-depth)  # what is nearer is written later
    order = order[np.isfinite(pixels[order]).all(axis=1) & (depth[order] > 0)]
    colours = view.image[static][order]
    corner = np.floor(np.clip(pixels[order], -2, (width + 1, height + 1))).astype(int)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = corner[:, 0] + dx, corner[:, 1] + dy
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        out[row[inside], column[inside]] = colours[inside]
    return out


def _moving(matches: Sequence[_Matches]) -> np.ndarray:
    """(H, W) bool: what moves in any neighbour, and what none of them explains (single pixels apart)."""
    unexplained = ~np.logical_or.reduce([m.explained for m in matches])
    unexplained = cv2.medianBlur(unexplained.astype(np.uint8), 5) > 0
    return np.logical_or.reduce([m.moving for m in matches]) | unexplained


def _camera(
    matches: Sequence[_Matches], lens: _Lens, expected: np.ndarray, tolerance: float, reach: float
) -> np.ndarray | None:
    """(4, 4) camera-to-world on which the matches of every neighbour agree, or None."""
    enough = [m for m in matches if len(m.points) >= _MIN_MATCHES]
    if not enough:
        return None
    points = np.concatenate([m.points for m in enough])
    pixels = np.concatenate([m.pixels for m in enough])
    pose = _pnp(points, pixels, lens, tolerance)
    if pose is None or np.linalg.norm(pose[:3, 3] - expected[:3, 3]) > reach:
        return None
    needed = _MIN_SHARE if len(enough) > 1 else _MIN_SHARE_ALONE
    for m in enough:
        error = np.linalg.norm(lens.project(pose, m.points) - m.pixels, axis=1)
        if (error < tolerance).mean() < needed:
            return None
    return pose


def _pnp(points: np.ndarray, pixels: np.ndarray, lens: _Lens, tolerance: float) -> np.ndarray | None:
    """RANSAC over minimal samples, then Levenberg-Marquardt on what agrees, twice."""
    lens_model = np.array(lens.distortion)
    ok, turn, shift, inliers = cv2.solvePnPRansac(
        points,
        pixels,
        lens.K,
        lens_model,
        iterationsCount=500,
        reprojectionError=tolerance,
        confidence=0.999,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    if not ok or inliers is None:
        return None
    chosen = inliers.ravel()
    for _ in range(2):
        if len(chosen) < _MIN_MATCHES // 2:
            return None
        turn, shift = cv2.solvePnPRefineLM(points[chosen], pixels[chosen], lens.K, lens_model, turn, shift)
        pose = _pose(turn, shift)
        error = np.linalg.norm(lens.project(pose, points) - pixels, axis=1)
        chosen = np.flatnonzero(error < tolerance)
    return pose if np.isfinite(pose).all() else None


def _pose(turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    T_cam_world = np.eye(4)
    T_cam_world[:3, :3] = cv2.Rodrigues(turn)[0]
    T_cam_world[:3, 3] = shift.ravel()
    return np.linalg.inv(T_cam_world)
