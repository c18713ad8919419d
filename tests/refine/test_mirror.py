"""Scenes that are inside out, where the pictures show hardly any perspective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from easi3r_ns.core.config import RefineConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import SparsePoints
from easi3r_ns.refine import mirror
from easi3r_ns.refine.mirror import depth_order, mirrored, turned_right
from easi3r_ns.refine.model import Correspondences, Lens, SparseModel

SIZE = (640, 360)
FRAMES = 8
NOISE_PX = 0.3


def street(distance: float, noise: float = NOISE_PX, seed: int = 0) -> tuple[SparseModel, Correspondences]:
    """A road and the front of a house behind it, filmed in passing by a camera that turns to it; y is down.

    The picture shows the same part from every ``distance``, so a large one means a long lens and little perspective.
    ``noise``: deviation of the keypoints in pixels.
    """
    rng = np.random.RandomState(seed)
    road = np.column_stack([rng.uniform(-5, 5, 300), np.full(300, 1.5), rng.uniform(-3, 3, 300)])
    house = np.column_stack([rng.uniform(-5, 5, 300), rng.uniform(-3, 1.5, 300), 3 + 0.2 * rng.randn(300)])
    points = np.concatenate([road, house])
    lens = Lens.centred(SIZE, 55.0 * distance)
    T = np.tile(np.eye(4), (FRAMES, 1, 1))
    for k, angle in enumerate(np.radians(np.linspace(-12, 12, FRAMES))):
        c, s = np.cos(angle), np.sin(angle)
        tilt = np.radians(12)
        turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        nod = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
        R = turn @ nod
        T[k, :3, :3], T[k, :3, 3] = R, -distance * R[:, 2]
    frame, point = (index.ravel() for index in np.meshgrid(np.arange(FRAMES), np.arange(len(points)), indexing="ij"))
    sparse = SparsePoints(
        points, np.zeros((len(points), 3), np.uint8), np.zeros(len(points)), point, frame, np.zeros((len(point), 2))
    )
    model = SparseModel(T, np.ones(FRAMES, bool), lens, sparse)
    shown = model.reprojected()[0] + rng.normal(0, noise, (len(point), 2))
    model = SparseModel(
        T,
        model.registered,
        lens,
        SparsePoints(points, sparse.colors, sparse.errors, point, frame, shown),
    )
    pairs = np.array([(i, j) for i in range(FRAMES) for j in range(i + 1, FRAMES)])
    same = np.repeat(np.arange(len(points))[:, None], 2, axis=1)
    keypoints = tuple(shown.reshape(FRAMES, len(points), 2))
    return model, Correspondences(keypoints, pairs, (same,) * len(pairs))


FAR, NEAR = 55.0, 12.0
FAR_AND_ROUGH = (FAR, 1.2)
"""So rough that the little perspective is lost in it."""


def judged(
    model: SparseModel,
    found: Correspondences,
    log: RunLog | None = None,
    anew: Callable[[], SparseModel | None] = lambda: None,
) -> SparseModel:
    config = RefineConfig(camera_model="pinhole")
    return turned_right(model, found, config, log or RunLog(), fixed_focal=True, seed=0, anew=anew)


def test_from_far_away_the_mirror_image_looks_the_same() -> None:
    model, _ = street(FAR)
    other = mirrored(model)
    np.testing.assert_allclose(np.linalg.det(other.T_world_cam[:, :3, :3]), 1, atol=1e-9)
    off = np.linalg.norm(other.reprojected()[0] - model.reprojected()[0], axis=1)
    assert np.median(off) == pytest.approx(10 * np.median(_off(10 * FAR)), rel=0.1)
    assert depth_order(model) > 0.3 and depth_order(other) < -0.3


def _off(distance: float) -> np.ndarray:
    model, _ = street(distance)
    return np.linalg.norm(mirrored(model).reprojected()[0] - model.reprojected()[0], axis=1)


def test_a_scene_that_is_inside_out_is_turned_right_with_a_warning() -> None:
    model, found = street(*FAR_AND_ROUGH)
    log = RunLog()
    turned = judged(mirrored(model), found, log)
    assert depth_order(turned) > 0.3
    assert turned.record is not None and turned.record["turned_right"]["error_ratio"] < 1.25
    assert any("hardly any perspective" in warning for warning in log.warnings)


def test_a_scene_that_is_right_stays_as_it_is() -> None:
    model, found = street(*FAR_AND_ROUGH)
    assert judged(model, found) is model


def test_perspective_decides_against_the_order_of_depths() -> None:
    """Upside down, lower is farther; the pictures show that this is how it is."""
    model, found = street(FAR)
    flip = np.diag([-1.0, -1.0, 1.0])
    T = model.T_world_cam.copy()
    T[:, :3, :3] = T[:, :3, :3] @ flip
    size = np.array(SIZE)
    sparse = SparsePoints(
        *(model.sparse.points, model.sparse.colors, model.sparse.errors),
        *(model.sparse.point_index, model.sparse.frame_index, size - model.sparse.pixels),
    )
    upside_down = SparseModel(T, model.registered, model.lens, sparse)
    turned = Correspondences(tuple(size - xy for xy in found.keypoints), found.pairs, found.matches)
    assert depth_order(upside_down) < -0.3
    log = RunLog()
    assert judged(upside_down, turned, log) is upside_down and not log.warnings


@pytest.mark.parametrize("points", (0, 10))
def test_too_few_points_have_no_order(points: int) -> None:
    model, _ = street(NEAR)
    few = model.with_points(np.arange(len(model.sparse)) < points)
    assert np.isnan(depth_order(few))


def test_a_scene_that_perspective_proves_inside_out_gives_way_to_one_mapped_anew() -> None:
    """The mirror image of a bent model lacks a frame or bends the other way; what is mapped anew does not."""
    model, found = street(FAR)
    wrong, log = mirrored(model), RunLog()
    short = replace(model, registered=np.arange(FRAMES) > 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror, "bundle_from", lambda *args, **options: short)
        turned = judged(wrong, found, log, anew=lambda: model)
    np.testing.assert_array_equal(turned.T_world_cam, model.T_world_cam)
    assert turned.record is not None and turned.record["turned_right"]["error_ratio"] < 0.5
    assert not log.warnings, "perspective decides"


def test_of_two_that_are_not_inside_out_the_one_with_the_smaller_error_stays() -> None:
    model, found = street(FAR)
    T = model.T_world_cam.copy()
    T[0, :3, 3] += 0.3  # one frame out of place
    rough = replace(model, T_world_cam=T)
    for mirror_image, anew in ((rough, model), (model, rough)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mirror, "bundle_from", lambda *args, found=mirror_image, **options: found)
            turned = judged(mirrored(model), found, anew=lambda rival=anew: rival)
        np.testing.assert_array_equal(turned.T_world_cam, model.T_world_cam)


def test_a_doubt_that_nothing_settles_is_recorded_for_the_verdict() -> None:
    model, found = street(*FAR_AND_ROUGH)
    wrong = mirrored(model)
    short = replace(model, registered=np.arange(FRAMES) > 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror, "bundle_from", lambda *args, **options: short)
        kept = judged(wrong, found)
    np.testing.assert_array_equal(kept.T_world_cam, wrong.T_world_cam)
    assert kept.record is not None and kept.record["depth_order"] == pytest.approx(depth_order(wrong))


def test_the_clip_is_mapped_anew_only_in_doubt() -> None:
    model, found = street(*FAR_AND_ROUGH)

    def anew() -> SparseModel:
        raise AssertionError("mapped anew")

    assert judged(model, found, anew=anew) is model


def test_frames_without_a_camera_have_no_say_in_which_scene_is_right() -> None:
    """Their poses are placeholders: matches with them are far off in the one scene and in the other."""
    model, found = street(FAR)
    placed = np.arange(FRAMES) < 2
    wrong, given = mirrored(model).restricted(placed), []
    right = model.restricted(placed)

    def adjusted(known: Correspondences, *args: object, **options: object) -> SparseModel:
        given.append(known)
        return right

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror, "bundle_from", adjusted)
        turned = judged(wrong, found)
    assert given[0].pairs.tolist() == [[0, 1]]
    expected = mirror._ratio(right, wrong, Correspondences(found.keypoints, found.pairs[:1], found.matches[:1]))
    assert turned.record is not None and turned.record["turned_right"]["error_ratio"] == pytest.approx(expected)
    np.testing.assert_array_equal(turned.registered, placed)


def test_a_scene_of_other_frames_does_not_take_the_place_of_one() -> None:
    model, found = street(*FAR_AND_ROUGH)
    early, late = (model.restricted(kept) for kept in (np.arange(FRAMES) < 4, np.arange(FRAMES) >= 4))
    wrong = mirrored(model).restricted(early.registered)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror, "bundle_from", lambda *args, **options: late)
        assert judged(wrong, found) is wrong, "nothing compares them"
        patch.setattr(mirror, "bundle_from", lambda *args, **options: early)
        turned = judged(wrong, found, anew=lambda: late)
    np.testing.assert_array_equal(turned.T_world_cam, early.T_world_cam)
