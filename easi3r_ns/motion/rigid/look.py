"""The second look: what moves is what flow does that the found cameras and depth do not predict."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...core.geometry import interpolate_poses, pixel_grid
from ...core.runlog import RunLog
from ...core.scene import Scene
from ...core.types import DynamicMasks
from ...frames.near import Shot
from ..edges import snap_to_edges
from ..flow.dis import DISFlow
from ..flow.provider import FlowProvider
from ..two_view.appearance import looks_static
from ..two_view.background import DEVIATIONS_PER_MEDIAN, SAMPLE_STEP
from ..two_view.flows import both_ways
from ..two_view.masks import GAPS, WITNESS_GAPS
from ..two_view.plan import PROBES, choose_step, plan_pairs, spread
from ..two_view.residual import Pictures, follow_pairs, graded, static_noise
from ..two_view.threshold import cut_clip
from ..two_view.tokens import token_means
from ..two_view.votes import ClipRegions
from .pose import FEWEST_SAMPLES, adjust_pose
from .prediction import DepthRange, misses, misses_of, nearest_prediction, static_place
from .rays import Rays
from .static_map import StaticMap

METHOD = ("flow against the scene", GAPS, WITNESS_GAPS, "edges", "looks and levels", "clear parts")
"""What decides these masks, beside the scene, the images and the estimator of flow."""
Two = tuple[np.ndarray, np.ndarray]

LEAST_SCORE = 0.2
"""No pixel below this score moves: one deviation of the flow of static surfaces, after the vote. More than in the first
look, whose models are fitted to the very flow that they judge."""
EXPLAINED = 3.0
"""Deviations of static flow up to which a vector counts as explained."""
MEDIAN_MISS = 0.83
"""Median miss per axis, in deviations, of flow with normal errors. Where it is more, the pair's flow is that much less
exact: rolling shutter, blur, depth that is off."""
PAIR_HOLDS = 0.5
"""Share of a pair's static flow that must be explained; else the pair says nothing."""
CLIP_HOLDS = 0.7
"""Least mean share over the pairs of a clip, for its cameras to hold."""
MOST_ASTRAY = 0.5
"""Share of the length of the flow that the cameras may miss before each pair's own adjustment. 0.01 on the example
clip, 0.3 with half of its path, 0.9 with its cameras in reverse and 2.3 in random order, all of which explain 97 % of
its flow once every pair is adjusted."""
USUAL_SIGMA, LEAST_SIGMA, MOST_SIGMA = 0.05, 0.01, 0.5
"""Relative deviation of depth: where flow cannot tell it, and its bounds."""
STEP = 0.1
"""Share of the inverse depth between two predictions, for how flow changes with depth."""
BOUNDS_KEPT = 24
"""Frames whose bounds stay in memory."""
TELLING = 10.0
"""Deviations by which flow changes when depth does by its own size, for flow to tell depth."""


@dataclass(frozen=True)
class SecondLook:
    """What the second look saw."""

    dynamic: DynamicMasks
    followed: np.ndarray
    """(F, H, W) bool: optical flow tells whether this moves."""
    explained: np.ndarray
    """(P,) share of the static flow of each pair that cameras and depth explain."""
    depth_sigma: float
    """Relative deviation of the scene's depth, as flow tells it."""
    astray: float = float("nan")
    """Median share of the length of the static flow that the cameras miss, over the pairs of frames of the scene,
    before each pair's own adjustment; NaN, not judged, where flow follows no pair of them."""

    @property
    def share(self) -> float:
        """Mean of the shares of :attr:`explained`; 0 where no pair could be followed."""
        return float(self.explained.mean()) if len(self.explained) else 0.0

    @property
    def holds(self) -> bool:
        """Whether the cameras explain what stands still, so that the masks may be used."""
        return self.share >= CLIP_HOLDS and not self.astray > MOST_ASTRAY


def second_look(
    scene: Scene,
    shot: Shot,
    patch_size: int,
    log: RunLog,
    *,
    provider: FlowProvider | None = None,
    first_row: int = 0,
) -> SecondLook:
    """What moves, from flow that cameras and depth of the static scene do not predict.

    Pairs, statistics over the pairs, vote and threshold are those of
    :func:`easi3r_ns.motion.two_view.masks.geometric_masks`; only the prediction differs: it is the flow of a static
    point at any depth within bounds (:class:`.static_map.StaticMap`), narrow where depth was measured. So it finds what
    moves along the epipolar lines, and takes no parallax for motion.

    Args:
        scene: cameras, depth where it is known, and the masks of the first look, whose pixels do not guide the cameras.
        shot: where the frames of the scene, or some in a row, stand in their source, and the source frames around them.
        first_row: position in the scene of the first frame of ``shot``.

    Returns:
        Masks of the frames of ``shot``, with the first look's beside them.

    Raises:
        ValueError: the scene has no static depth, see :func:`.static_map.has_static_depth`.
    """
    flow = provider or DISFlow()
    plan = plan_pairs(shot, GAPS, choose_step(shot, flow), WITNESS_GAPS)
    with log.stage("motion against the scene", len(plan.pairs)) as advance:
        pictures = Pictures(shot)
        rigid = RigidFlow(scene, shot, pictures, first_row)
        rigid.measure_depth(plan.pairs, flow)
        regions = ClipRegions((len(shot.places), *scene.depth.shape[1:]), shot, plan, pictures, patch_size, len(GAPS))
        for motion in follow_pairs(plan, pictures, rigid.explain, flow, advance):
            regions.add(motion)
        score = regions.score()
    threshold, above, kept = cut_clip(score, LEAST_SCORE)
    dynamic = DynamicMasks(
        masks=snap_to_edges(scene.images[first_row : first_row + len(shot.places)], above),
        score=token_means(score, patch_size),
        threshold=threshold,
        source="scene",
        maps=regions.maps,
        first=scene.dynamic.masks[first_row : first_row + len(shot.places)],
        over_cut=kept,
    )
    astray = float(np.median(rigid.astray)) if rigid.astray else float("nan")
    return SecondLook(dynamic, regions.followed, np.array(rigid.explained), rigid.sigma, astray)


class RigidFlow:
    """The flow of a static scene between frames of a shot, and by how much flow misses it."""

    def __init__(self, scene: Scene, shot: Shot, pictures: Pictures, first_row: int = 0) -> None:
        self._scene, self._rays, self._pictures = scene, Rays(scene), pictures
        self._places, rows = shot.places, range(first_row, first_row + len(shot.places))
        self._row = dict(zip(shot.places.tolist(), rows, strict=True))
        self._cameras, self._focals = (x[rows.start : rows.stop] for x in (scene.T_world_cam, scene.focals))
        self._grid = pixel_grid(*scene.depth.shape[1:]).astype(np.float32)
        self._still = ~scene.dynamic.masks
        self._bounds: dict[int, DepthRange] = {}
        self.sigma = USUAL_SIGMA
        self.map = StaticMap(scene, self._rays, self.sigma)
        self.explained: list[float] = []
        self.astray: list[float] = []

    def measure_depth(self, pairs: tuple[tuple[int, int], ...], provider: FlowProvider) -> None:
        """Find the deviation of the scene's depth from what flow tells, in some of the pairs."""
        probes = [self._depth_told(pair, provider) for pair in spread(pairs, PROBES)]
        told = [probe for probe in probes if probe is not None]
        errors, noise = (np.concatenate([np.empty(0), *(probe[k] for probe in told)]) for k in (0, 1))
        if len(errors) >= FEWEST_SAMPLES:
            variance = (DEVIATIONS_PER_MEDIAN * np.median(np.abs(errors))) ** 2 - np.median(noise**2)
            self.sigma = float(np.clip(np.sqrt(max(variance, 0)), LEAST_SIGMA, MOST_SIGMA))
        self.map = StaticMap(self._scene, self._rays, self.sigma)
        self._bounds.clear()

    def _depth_told(self, pair: tuple[int, int], provider: FlowProvider) -> Two | None:
        """Relative errors of the depth of a pair's samples against what flow tells, and the deviations of that."""
        flows, agree = both_ways(np.stack([self._pictures.image(place) for place in pair]), provider)
        side = self._reference(pair)
        samples = self._samples(pair, side, flows[side], agree[side], self._pictures.texture_noise(pair[side]))
        if samples is None:
            return None
        T, row = self._adjusted(self._between(pair, side), samples), self._row[pair[side]]
        known = self.map.known[row][samples.rows, samples.columns]
        w = (1 / self._scene.depth[row][samples.rows, samples.columns][known]).astype(np.float32)
        rays, ends = samples.rays[known], samples.ends[known]

        def seen(inverse: np.ndarray) -> np.ndarray:
            point, _ = nearest_prediction(rays, ends, DepthRange(inverse, inverse), T)
            return point[:, :2] / point[:, 2:]

        nearer, farther = (seen(w * np.float32(1 + side * STEP / 2)) for side in (1, -1))
        change = np.linalg.norm((nearer - farther) * samples.focal, axis=1) / STEP
        _, told = nearest_prediction(rays, ends, DepthRange(np.zeros_like(w), np.full_like(w, self.map.largest)), T)
        telling = (change / samples.deviation[known] > TELLING) & (told > 0)
        return np.log(told[telling] / w[telling]), samples.deviation[known][telling] / change[telling]

    def explain(self, pair: tuple[int, int], flows: Two, agree: Two, textures: Two) -> Two | None:
        """Residuals of both frames, see :data:`~easi3r_ns.motion.two_view.residual.Explain`."""
        side = self._reference(pair)
        samples = self._samples(pair, side, flows[side], agree[side], textures[side])
        if samples is None:
            return None
        start = self._between(pair, side)
        T = self._adjusted(start, samples)
        if all(place in self._row for place in pair):
            missed = misses(samples.rays, samples.ends, samples.bounds, start, samples.focal)
            self.astray.append(float(np.median(missed)) / max(samples.median_flow, 1.0))
        off = misses(samples.rays, samples.ends, samples.bounds, T, samples.focal) / samples.deviation
        share = float((off <= EXPLAINED).mean())
        self.explained.append(share)
        rougher = max(1.0, float(np.median(off)) / MEDIAN_MISS)
        if share < PAIR_HOLDS:
            return None
        maps: dict[int, np.ndarray] = {}
        for k, own in ((side, T), (1 - side, np.linalg.inv(T))):
            place = pair[k]
            if place in self._row:
                ends = self._rays.at(self._grid + flows[k], self._focal(pair[1 - k]))
                bounds, other = self._bounds_of(self._row[place]), self._rays.focal_xy(self._focal(pair[1 - k]))
                place_xy = static_place(self._rays.of(self._focal(place)), ends, bounds, own)
                off = misses_of(place_xy, ends, other)
                graded_off = graded(off / (rougher * static_noise(samples.median_flow, textures[k])))
                maps[k] = np.where(self._looks_static(pair, k, flows[k], place_xy), np.float32(0), graded_off)
            else:
                # A source frame without depth sees what the other one sees: its residuals are where flow leads back to.
                x, y = np.moveaxis(self._grid + flows[k], -1, 0)
                maps[k] = cv2.remap(maps[side], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return maps[0], maps[1]

    def _looks_static(self, pair: tuple[int, int], k: int, flow: np.ndarray, place: np.ndarray) -> np.ndarray:
        """See :func:`looks_static`; ``place``: (H, W, 2) ideal coordinates in the other frame, infinite if behind."""
        seen = np.isfinite(place[..., 0])
        static = self._rays.pixels(np.where(seen[..., None], place, 0), self._focal(pair[1 - k]))
        own, other = (self._pictures.image(pair[i]) for i in (k, 1 - k))
        return seen & looks_static(own, other, self._grid + flow, static)

    def _reference(self, pair: tuple[int, int]) -> int:
        return 0 if pair[0] in self._row else 1

    def _bounds_of(self, row: int) -> DepthRange:
        if row not in self._bounds:
            while len(self._bounds) >= BOUNDS_KEPT:
                self._bounds.pop(next(iter(self._bounds)))
            self._bounds[row] = self.map.bounds(row)
        return self._bounds[row]

    def _focal(self, place: int) -> float:
        if place in self._row:
            return float(self._scene.focals[self._row[place]])
        return float(np.interp(place, self._places, self._focals))

    def _between(self, pair: tuple[int, int], side: int) -> np.ndarray:
        """(4, 4) from the camera of one frame of a pair to that of the other, as the scene has them."""
        own, other = interpolate_poses(self._places, self._cameras, np.array([pair[side], pair[1 - side]]))
        return np.linalg.inv(other) @ own

    def _adjusted(self, start: np.ndarray, samples: StaticFlow) -> np.ndarray:
        return adjust_pose(
            start, samples.rays, samples.ends, samples.bounds, samples.focal, samples.deviation, self.map.typical
        )

    def _samples(
        self, pair: tuple[int, int], side: int, flow: np.ndarray, agree: np.ndarray, texture: np.ndarray
    ) -> StaticFlow | None:
        row = self._row[pair[side]]
        lattice = np.zeros_like(agree)
        lattice[SAMPLE_STEP // 2 :: SAMPLE_STEP, SAMPLE_STEP // 2 :: SAMPLE_STEP] = True
        rows, columns = np.nonzero(lattice & agree & self._still[row])
        if len(rows) < FEWEST_SAMPLES:
            return None
        other = self._focal(pair[1 - side])
        moved = flow[rows, columns]
        median = float(np.median(np.linalg.norm(moved, axis=-1)))
        end = np.stack([columns, rows], axis=-1).astype(np.float32) + moved
        return StaticFlow(
            rows,
            columns,
            self._rays.of(self._focal(pair[side]))[rows, columns],
            self._rays.at(end[None], other)[0],
            self._bounds_of(row).at(rows, columns),
            self._rays.focal_xy(other),
            static_noise(median, texture[rows, columns]),
            median,
        )


@dataclass(frozen=True)
class StaticFlow:
    """N flow vectors of what stands still, from one frame of a pair to the other."""

    rows: np.ndarray
    columns: np.ndarray
    """(N,) pixels where they start."""
    rays: np.ndarray
    ends: np.ndarray
    """(N, 2) ideal normalised coordinates of start and end, each in its own frame."""
    bounds: DepthRange
    """(N,) of the start."""
    focal: np.ndarray
    """(2,) pixels, of the frame where they end."""
    deviation: np.ndarray
    """(N,) pixels by which the flow of something static may be off."""
    median_flow: float
    """Pixels."""
