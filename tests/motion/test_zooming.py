"""Cameras that stay in their place while the lens zooms: truth comes back; travel and fixed lenses are no zoom."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from easi3r_ns.core.runlog import RunLog
from easi3r_ns.motion.still import CameraMotion, PinholeLens, detect_camera_motion
from easi3r_ns.motion.still.tracks import CornerMatches
from easi3r_ns.motion.still.zooming import ZoomingTurn, fit_zooming, jacobian
from easi3r_ns.training.scenes import Clip
from tests.support.still_clip import NUM_FRAMES, still_clip
from tests.support.zoom_clip import zoom_course

LENS = PinholeLens(400.0, (191.5, 143.5), 1.02)


def found_in(clip: Clip) -> CameraMotion:
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in clip.images]
    lens = PinholeLens(1.2 * clip.images.shape[2], tuple(clip.principal_point))
    return detect_camera_motion(grey, clip.moving, lens, RunLog(), fixed_focal=False)


def exact(count: int = 5, noise: float = 0.0) -> tuple[CornerMatches, ZoomingTurn]:
    """Corners that turning cameras with a zoom see in all other frames, and the truth."""
    rng = np.random.default_rng(0)
    R = Rotation.from_euler("y", np.linspace(0, 15, count)[:, None], degrees=True).as_matrix()
    truth = ZoomingTurn(R, 400 * zoom_course(1.4, count), LENS, 0.0)
    first, second = (axis.repeat(60) for axis in np.triu_indices(count, 1))
    start = rng.uniform([0, 0], [383, 287], (len(first), 2))
    empty = CornerMatches(first, second, start, start, np.ones(len(first), bool))
    end = truth.pixels(second, truth.seen(empty)) + noise * rng.standard_normal(start.shape)
    return replace(empty, end=end), truth


def test_jacobian_is_the_derivative() -> None:
    matches, truth = exact(3)
    seen, step = truth.seen(matches), 1e-6
    J = jacobian(truth, matches, seen)

    def shown(turning: ZoomingTurn) -> np.ndarray:
        return turning.pixels(matches.second, turning.seen(matches))

    for side, which in enumerate((matches.first, matches.second)):
        for frame in range(3):
            rows = which == frame
            for axis in range(3):
                R = truth.R.copy()
                R[frame] = R[frame] @ Rotation.from_rotvec(step * np.eye(3)[axis]).as_matrix()
                change = (shown(replace(truth, R=R)) - shown(truth)) / step
                np.testing.assert_allclose(change[rows], J[rows][..., 4 * side + axis], atol=1e-2, rtol=1e-4)
            focals = truth.focals * np.exp(step * (np.arange(3) == frame))
            change = (shown(replace(truth, focals=focals)) - shown(truth)) / step
            np.testing.assert_allclose(change[rows], J[rows][..., 4 * side + 3], atol=1e-2, rtol=1e-4)


def test_exact_corners_give_the_truth() -> None:
    matches, truth = exact(noise=0.05)
    found = fit_zooming(matches, 5, replace(LENS, focal=460.0))
    assert found is not None and found.focal_sigma < 0.02
    np.testing.assert_allclose(found.focals, truth.focals, rtol=0.01)
    np.testing.assert_allclose(found.R, truth.R, atol=2e-3)


def test_frames_that_share_nothing_are_not_joined() -> None:
    matches, _ = exact()
    assert fit_zooming(matches.chosen(matches.second != 3), 5, LENS) is None


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "amount"), [("fixed", 0.0), ("turn", 15.0)])
def test_a_zoom_without_travel_is_found(kind, amount) -> None:
    motion = found_in(still_clip(kind, 1, amount, zoom=1.5))
    assert motion.kind == "travelling" and motion.if_zooming is not None
    zooming = motion.if_zooming
    assert zooming.stays and zooming.focals is not None
    np.testing.assert_allclose(zooming.focals / zooming.focals[0], zoom_course(1.5, NUM_FRAMES), rtol=0.01)
    if kind == "fixed":
        assert zooming.focal_source == "default" and Rotation.from_matrix(zooming.R).magnitude().max() < 2e-3
    else:
        clip = still_clip(kind, 1, amount)
        assert zooming.focal_source == "turn"
        np.testing.assert_allclose(zooming.focals, clip.focal * zoom_course(1.5, NUM_FRAMES), rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "amount"), [("fixed", 0.0), ("turn", 20.0), ("sideways", 0.5), ("forward", 0.6)])
def test_no_zoom_where_the_lens_stays(kind, amount) -> None:
    assert found_in(still_clip(kind, 3, amount)).if_zooming is None
