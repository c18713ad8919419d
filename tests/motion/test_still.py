"""Cameras that stand still or turn are told from those that travel: rendered clips with truth, and real ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.config import FrameConfig
from easi3r_ns.core.geometry import FisheyeDistortion, distort
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.types import Frames
from easi3r_ns.frames import ImageGeometry, load_frames
from easi3r_ns.motion.still import CameraMotion, EquidistantLens, PinholeLens, as_turning, detect_camera_motion
from easi3r_ns.motion.still.tracks import NO_MATCHES, CornerMatches, follow_corners, num_pairs, pair_gaps
from easi3r_ns.motion.still.turning import FOCAL_SPREAD, Turning, _Fit, _jacobian, _turned, fit_turning, turn_errors
from easi3r_ns.training.scenes import Clip
from tests.support.helpers import shared_data
from tests.support.still_clip import LARGE_MOVER, still_clip

EXAMPLE = Path(__file__).parents[2] / "examples" / "clip" / "clip.mp4"


def grey_of(images: np.ndarray) -> list[np.ndarray]:
    return [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in images]


def detect(clip: Clip, focal: float | None = None, masks: np.ndarray | None = None) -> CameraMotion:
    lens = PinholeLens(focal or 1.2 * clip.images.shape[2], tuple(clip.principal_point))
    moving = clip.moving if masks is None else masks
    return detect_camera_motion(grey_of(clip.images), moving, lens, RunLog(), fixed_focal=focal is not None)


def degrees_off(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(F,) angle between rotations, both relative to their first."""
    relative = [R[0].T @ R for R in (found, true)]
    return np.degrees(Rotation.from_matrix(relative[0].transpose(0, 2, 1) @ relative[1]).magnitude())


@pytest.mark.parametrize("seed", [1, LARGE_MOVER, 3])
def test_fixed_camera_is_found_whatever_moves_before_it(seed) -> None:
    clip = still_clip("fixed", seed)
    found = detect(clip)
    assert found.kind == "fixed" and found.stays
    assert np.array_equal(found.R, np.tile(np.eye(3), (len(clip), 1, 1)))
    assert found.focal_source == "default" and found.focal_sigma == FOCAL_SPREAD
    assert found.explained > 0.9 and found.error_degrees < 0.02


def test_the_large_mover_is_large() -> None:
    assert still_clip("fixed", LARGE_MOVER).moving.mean() > 0.25


@pytest.mark.parametrize(("seed", "amount"), [(1, 20.0), (3, 20.0), (1, 4.0)])
def test_turning_camera_has_its_angles_and_its_focal_length(seed, amount) -> None:
    clip = still_clip("turn", seed, amount)
    found = detect(clip)
    assert found.kind == "turning" and found.focal_source == "turn"
    assert degrees_off(found.R, clip.T_world_cam[:, :3, :3]).max() < 0.1
    assert abs(found.focal / clip.focal - 1) < 0.03
    assert abs(np.log(found.focal / clip.focal)) < 3 * found.focal_sigma


def test_turn_with_a_large_mover_is_believed_where_mapping_fails() -> None:
    clip = still_clip("turn", LARGE_MOVER, 20.0)
    found = as_turning(detect(clip))
    assert found is not None and found.nearly
    assert degrees_off(found.R, clip.T_world_cam[:, :3, :3]).max() < 0.1


def test_given_focal_length_is_kept() -> None:
    clip = still_clip("turn", 1, 20.0)
    found = detect(clip, focal=clip.focal)
    assert found.kind == "turning" and found.focal_source == "given"
    assert found.focal == clip.focal and found.focal_sigma == 0
    assert degrees_off(found.R, clip.T_world_cam[:, :3, :3]).max() < 0.1


def test_a_turn_under_a_wrong_focal_length_is_not_believed() -> None:
    clip = still_clip("turn", 1, 20.0)
    assert detect(clip, focal=3 * clip.focal).kind == "travelling"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "amount"),
    [("sideways", 1, 0.15), ("sideways", LARGE_MOVER, 0.15), ("sideways", 3, 0.15), ("forward", 1, 0.15)],
)
def test_slow_dolly_travels(kind, seed, amount) -> None:
    """Four to five per cent of the distance, over the whole clip."""
    found = detect(still_clip(kind, seed, amount))
    assert found.kind == "travelling" and not found.stays


@pytest.mark.long
def test_creeping_camera_may_be_taken_for_one_that_turns_where_mapping_fails() -> None:
    found = detect(still_clip("sideways", 1, 0.03))
    assert found.kind == "travelling" and found.nearly
    fallback = as_turning(found)
    assert fallback is not None and fallback.kind == "turning" and fallback.nearly
    assert as_turning(detect(still_clip("forward", 3, 0.6))) is None


def test_masks_over_what_is_near_do_not_hide_the_travel() -> None:
    """Two-view masks may take parallax for motion: what is left may look as if it only turned."""
    clip = still_clip("sideways", 1, 0.15)
    near = clip.depth < np.quantile(clip.depth, 0.6)
    assert detect(clip, masks=near | clip.moving).kind == "travelling"


@pytest.mark.long
def test_a_part_that_travels_is_enough() -> None:
    still, moved = still_clip("fixed"), still_clip("forward", 1, 0.6)
    images = np.concatenate([np.repeat(still.images[:1], 3 * len(still), axis=0), moved.images[-4:]])
    lens = PinholeLens(1.2 * images.shape[2], tuple(still.principal_point))
    found = detect_camera_motion(grey_of(images), np.zeros(images.shape[:3], bool), lens, RunLog(), fixed_focal=False)
    assert found.kind == "travelling"


@pytest.mark.parametrize("image", [np.zeros, np.ones])
def test_nothing_to_follow_means_travelling(image) -> None:
    grey = [image((48, 64), np.uint8)] * 5
    lens = PinholeLens(80.0, (31.5, 23.5))
    found = detect_camera_motion(grey, np.zeros((5, 48, 64), bool), lens, RunLog(), fixed_focal=False)
    assert found.kind == "travelling" and as_turning(found) is None
    assert detect_camera_motion(grey[:1], np.zeros((1, 48, 64), bool), lens, RunLog(), fixed_focal=False).R.shape == (
        *(1, 3, 3),
    )


def noisy_matches(
    focal: float, noise: float = 0.05, outliers: float = 0.2, kind: type[PinholeLens] = PinholeLens
) -> tuple[CornerMatches, np.ndarray, PinholeLens]:
    """Corners of a camera with known rotations; some of them go astray."""
    rng, lens = np.random.default_rng(0), kind(focal, (150.0, 100.0), 1.02)
    R = Rotation.from_euler("YXZ", np.linspace(0, 1, 6)[:, None] * [12, 3, -2], degrees=True).as_matrix()
    parts = []
    for gap, starts in pair_gaps(6):
        for i in starts:
            start = rng.uniform([0, 0], [300, 200], (120, 2))
            turned = lens.rays(start) @ (R[i + gap].T @ R[i]).T
            end = lens.pixels(turned) + noise * rng.standard_normal((120, 2))
            end[rng.uniform(size=120) < outliers] += rng.uniform(5, 30, 2)
            parts.append(CornerMatches(np.full(120, i), np.full(120, i + gap), start, end, np.ones(120, bool)))
    names = ("first", "second", "start", "end", "static")
    return CornerMatches(*(np.concatenate([getattr(p, n) for p in parts]) for n in names)), R, lens


@pytest.mark.parametrize(("kind", "focal"), [(PinholeLens, 400.0), (EquidistantLens, 130.0)])
def test_fit_finds_rotations_and_focal_length_among_outliers(kind: type[PinholeLens], focal: float) -> None:
    matches, R, lens = noisy_matches(focal, kind=kind)
    found = fit_turning(matches, 6, kind(0.75 * focal, lens.principal_point, lens.aspect), fixed_focal=False)
    assert found is not None and type(found.lens) is kind
    assert degrees_off(found.R, R).max() < 0.01
    assert abs(found.lens.focal / focal - 1) < 0.003 and found.focal_sigma < 0.02
    assert np.median(turn_errors(matches, found)) < 0.1


def test_frames_that_share_nothing_have_no_fit() -> None:
    matches, _, lens = noisy_matches(400.0)
    assert fit_turning(matches.chosen(matches.second != 3), 6, lens, fixed_focal=True) is None
    assert fit_turning(NO_MATCHES, 2, lens, fixed_focal=True) is None


def test_rays_of_a_fisheye_lens_are_those_of_the_dataset() -> None:
    lens = EquidistantLens(100.0, (150.0, 100.0), 1.02)
    xy = np.array([[150.0, 100.0], [40.0, 60.0], [250.0, 160.0]])
    rays = lens.rays(xy)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1)
    ideal = rays[:, :2] / rays[:, 2:]
    np.testing.assert_allclose(distort(ideal, FisheyeDistortion((0.0,) * 4)), lens.plane(xy), atol=1e-12)
    np.testing.assert_allclose(lens.pixels(3 * rays), xy, atol=1e-9)
    assert np.isfinite(lens.slopes(rays)).all()


@pytest.mark.parametrize("kind", [PinholeLens, EquidistantLens])
def test_jacobian_is_the_slope(kind: type[PinholeLens]) -> None:
    matches, R, lens = noisy_matches(200.0, kind=kind)
    matches, step = matches.chosen((matches.first == 1) & (matches.second == 3)), 1e-6
    turning = Turning(R, lens, 0.0)
    found = _jacobian(turning, matches, _turned(matches, turning))

    def pixels(moved: Turning) -> np.ndarray:
        return moved.lens.pixels(_turned(matches, moved))

    columns = []
    for frame in (1, 3):
        for axis in range(3):
            turned = R.copy()
            turned[frame] = R[frame] @ Rotation.from_rotvec(step * np.eye(3)[axis]).as_matrix()
            columns.append((pixels(Turning(turned, lens, 0.0)) - pixels(turning)) / step)
    longer = kind(lens.focal * np.exp(step), lens.principal_point, lens.aspect)
    columns.append((pixels(Turning(R, longer, 0.0)) - pixels(turning)) / step)
    np.testing.assert_allclose(found, np.stack(columns, axis=2), rtol=1e-3, atol=1e-2)


def test_fit_holds_the_first_camera() -> None:
    matches, R, lens = noisy_matches(400.0)
    improved, _ = _Fit(matches, 400.0, False).improve(Turning(R, lens, 0.0), 1.0)
    np.testing.assert_allclose(improved.R[0], R[0], atol=1e-12)


@pytest.mark.parametrize("num_frames", [2, 3, 16, 50, 300])
def test_pairs_join_all_frames_at_all_gaps(num_frames) -> None:
    gaps = pair_gaps(num_frames)
    assert gaps[0] == (1, range(num_frames - 1)) and gaps[-1][0] >= (num_frames - 1) / 2
    assert all(i + gap < num_frames for gap, starts in gaps for i in starts)
    assert num_pairs(num_frames) < 9 * num_frames


def test_progress_counts_every_pair() -> None:
    clip, done = still_clip("fixed"), []
    follow_corners(grey_of(clip.images[:5]), clip.moving[:5], done.append)
    assert sum(done) == num_pairs(5)


REAL: dict[str, str] = {
    "hololens/images": "travelling",
    "hololens2/images": "travelling",
    "davis/JPEGImages/480p/car-shadow": "travelling",
    "davis/JPEGImages/480p/horsejump-high": "travelling",
    "davis/JPEGImages/480p/drift-chicane": "fixed",
    "clips/blocks.mp4": "fixed",
    "clips/dog.mp4": "travelling",
}

MARKS = {clip: pytest.mark.long for clip in REAL if clip not in ("hololens/images", "clips/blocks.mp4")}


def real_motion(data: Path, folder: Path, geometry: ImageGeometry = ImageGeometry()) -> CameraMotion:
    """Of a clip in which nothing is masked: harder than with masks."""
    frames: Frames = load_frames(data, folder, select=FrameConfig(), geometry=geometry, log=RunLog())
    height, width = frames.images.shape[1:3]
    lens = PinholeLens(1.2 * width, ((width - 1) / 2, (height - 1) / 2))
    still = np.zeros(frames.images.shape[:3], bool)
    return detect_camera_motion(grey_of(frames.images), still, lens, RunLog(), fixed_focal=False)


@pytest.mark.slow
def test_example_clip_travels(tmp_path) -> None:
    assert real_motion(EXAMPLE, tmp_path).kind == "travelling"


@pytest.mark.slow
@pytest.mark.parametrize(("clip", "kind"), [pytest.param(*item, marks=MARKS.get(item[0], ())) for item in REAL.items()])
def test_real_clips(tmp_path, clip, kind) -> None:
    assert real_motion(shared_data() / clip, tmp_path).kind == kind
